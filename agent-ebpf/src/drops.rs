//! Collector `drops`: packets that the kernel dropped, by slot and reason.
//!
//! The hook comes where a packet is dropped, in whichever context the kernel is then. What counts is the cgroup of the socket
//! that the packet was for or from; most of those that are dropped before a socket is found have none.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap},
    programs::BtfTracePointContext,
};
use podlens_common::{cgroup::SLOT_UNATTRIBUTED, drops::DropKey};

use crate::{
    atomic,
    kernel::{Cgroup, number, offsets::word, structure},
    socket_slot,
};

/// `ETH_P_IP` and `ETH_P_IPV6` of linux/if_ether.h, as they stand in a packet.
const IP: [u16; 2] = [0x0800_u16.to_be(), 0x86dd_u16.to_be()];
/// `TCP_TIME_WAIT` and `TCP_NEW_SYN_RECV` of net/tcp_states.h: small sockets, of which the second has a listening one.
const TIME_WAIT: u8 = 6;
const REQUEST: u8 = 12;

/// How many packets.
#[map]
static DROPS: HashMap<DropKey, u64> = HashMap::with_max_entries(1, 0);
/// Packets for which there was no room.
#[map]
static DROPS_LOST: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

structure! {
    /// `struct sk_buff`
    Packet {
        protocol: u16 = "sk_buff.protocol";
        socket: Socket = "sk_buff.sk";
    }
}
structure! {
    /// `struct sock`, whole or small
    Socket {
        state: u8 = "sock.__sk_common.skc_state";
        cgroup: Cgroup = "sock.sk_cgrp_data.cgroup";
        // Numbers share its place, so to the verifier it is one.
        listener: u64 = "sock.__sk_common.skc_listener";
    }
}

/// `kfree_skb(packet, location, reason[, receiver])`: the last one, which may be null, came in 6.11.
#[btf_tracepoint(function = "kfree_skb")]
pub fn packet_dropped(context: BtfTracePointContext) -> i32 {
    let packet = Packet::from_raw(context.arg(0));
    let reason = context.arg::<u64>(2) as u32;
    if is_no_drop(reason) || !IP.contains(&packet.protocol()) {
        return 0;
    }
    let mut slot = SLOT_UNATTRIBUTED;
    if number!("kfree_skb(4) ? 1 : 0") != 0 {
        slot = slot_of(Socket::from_raw(context.arg(3)));
    }
    if slot == SLOT_UNATTRIBUTED {
        slot = slot_of(packet.socket());
    }
    count_drop(slot, reason);
    0
}

/// The packet is used up, or not dropped yet.
#[inline(always)]
fn is_no_drop(reason: u32) -> bool {
    let reason = u64::from(reason);
    reason == number!("enum skb_drop_reason.SKB_NOT_DROPPED_YET")
        || number!("enum skb_drop_reason.SKB_CONSUMED ? 1 : 0") != 0
            && reason == number!("enum skb_drop_reason.SKB_CONSUMED?")
}

/// The slot of a socket that may be missing or small.
#[inline(always)]
fn slot_of(socket: Socket) -> u32 {
    if socket.is_null() {
        return SLOT_UNATTRIBUTED;
    }
    match socket.state() {
        TIME_WAIT => SLOT_UNATTRIBUTED,
        REQUEST => socket_slot::slot_held_by(word(socket.listener() + number!("u64 sock.sk_cgrp_data.cgroup"))),
        _ => socket_slot::slot_of(socket.cgroup()),
    }
}

/// Counts a packet.
///
/// A function of its own with plain numbers only, which the verifier proves once and not for each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_drop(slot: u32, reason: u32) -> u32 {
    let key = DropKey::new(slot, reason);
    if let Some(count) = DROPS.get_ptr_mut(key) {
        // SAFETY: the value outlives the program, and is a whole word.
        unsafe { atomic::add(count, 1) };
        return 1;
    }
    if DROPS.insert(key, 1, u64::from(BPF_NOEXIST)).is_ok() {
        return 1;
    }
    // Another CPU was first, or there is no room.
    let count = DROPS.get_ptr_mut(key).or_else(|| DROPS_LOST.get_ptr_mut(0));
    if let Some(count) = count {
        // SAFETY: as above.
        unsafe { atomic::add(count, 1) };
    }
    0
}
