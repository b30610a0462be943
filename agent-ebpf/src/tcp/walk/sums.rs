//! What the walk adds up of a connection that it meets.

use podlens_common::{
    histogram::hashed_bucket,
    tcp::{Counts, received, transmitted},
};

use super::{AliveCells, TCP_ACCOUNTS, WalkCells, offsets};
use crate::{
    atomic,
    kernel::offsets::{half, word},
};

/// Adds what a connection has done. One that has closed meanwhile counts too: its closing has seen that it was passed.
#[inline(always)]
pub(super) fn add(alive: AliveCells, socket: u64) {
    let bytes = transmitted(
        word(socket + offsets::sent()),
        word(socket + offsets::sent_again()),
        word(socket + offsets::acknowledged()),
        half(socket + offsets::next()),
        half(socket + offsets::unacknowledged()),
    );
    // In this order: the kernel sets the flag after it has counted the other side's end.
    let came = word(socket + offsets::received_bytes());
    let came = received(came, word(socket + offsets::flags()));
    let segments = [half(socket + offsets::segments_out()), half(socket + offsets::segments_in())];
    let retransmits = half(socket + offsets::total_retransmits());
    let limited = limited_at(socket);
    let Counts {
        bytes: [all_bytes, all_came],
        segments: [out, into],
        retransmits: again,
        overflows,
        limited: [by_window, by_buffer],
    } = alive.counts().get();
    alive.counts().set(Counts {
        bytes: [all_bytes + bytes, all_came + came],
        segments: [out + u64::from(segments[0]), into + u64::from(segments[1])],
        retransmits: again + u64::from(retransmits),
        overflows,
        limited: [by_window + (limited >> 32), by_buffer + (limited & 0xffff_ffff)],
    });
}

/// How long a connection could not send more: ticks by the receive window in the upper half, by the send buffer in the lower.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn limited_at(socket: u64) -> u64 {
    let [by_window, by_buffer] = offsets::limited(socket);
    u64::from(by_window) << 32 | u64::from(by_buffer)
}

/// Enters a living connection's round-trip time, where its cgroup holds a slot.
#[inline(always)]
pub(super) fn observe(walk: WalkCells, alive: AliveCells, socket: u64) {
    if walk.observes().get() == 0 || alive.is_online().get() == 0 {
        return;
    }
    let Some(account) = TCP_ACCOUNTS.get_ptr_mut(alive.slot().get()) else { return };
    let Some(time_ns) = offsets::round_trip_ns(half(socket + offsets::srtt())) else { return };
    // SAFETY: entries of a map outlive the program, the numbers are whole, and the bucket is less than the length.
    unsafe {
        atomic::add_u32((&raw mut (*account).round_trips).cast::<u32>().add(hashed_bucket(time_ns)), 1);
        atomic::add(&raw mut (*account).round_trips_ns, time_ns);
    }
}
