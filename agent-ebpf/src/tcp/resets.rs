//! Collector `tcp`: resets that sockets send and receive, each in the account of the socket's cgroup.
//!
//! The kernel tells a reset where it sends one, whichever socket stands for it, and where a socket gives way to one.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use podlens_common::{
    cgroup::SLOT_UNATTRIBUTED,
    tcp::{Direction, state},
};

use super::{
    TCP_ACCOUNTS,
    sockets::{self as offsets, Socket},
};
use crate::{atomic, kernel::offsets::word_inline, socket_slot};

/// `tcp_send_reset(socket, segment)`: the socket may be none, a small one, or one that listens.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_reset_sent(context: BtfTracePointContext) -> i32 {
    let socket = Socket::from_raw(context.arg(0));
    let slot = if socket.is_null() {
        SLOT_UNATTRIBUTED
    } else {
        match u32::from(socket.state()) {
            state::TIME_WAIT => SLOT_UNATTRIBUTED,
            state::REQUEST => slot_of_listener(socket),
            _ => socket_slot::slot_of(socket.cgroup()),
        }
    };
    count(slot, Direction::Transmit);
    0
}

/// `tcp_receive_reset(socket)`: a whole socket, which is about to close.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_reset_came(context: BtfTracePointContext) -> i32 {
    count(socket_slot::slot_of(Socket::from_raw(context.arg(0)).cgroup()), Direction::Receive);
    0
}

#[inline(always)]
fn count(slot: u32, direction: Direction) {
    let Some(account) = TCP_ACCOUNTS.get_ptr_mut(slot) else { return };
    // SAFETY: entries of a map outlive the program, each number is a whole word, and there is one for each direction.
    unsafe { atomic::add((&raw mut (*account).resets).cast::<u64>().add(direction.index()), 1) };
}

/// The slot that the cgroup of a request's listening socket holds. By address, since the pointer to it shares its place with a
/// number, and then none is given.
#[inline(always)]
fn slot_of_listener(request: Socket) -> u32 {
    let listener = word_inline(request.address() + offsets::listener());
    let cgroup = word_inline(listener + offsets::cgroup());
    if cgroup == 0 { SLOT_UNATTRIBUTED } else { socket_slot::slot_held_by(cgroup) }
}
