//! What the walk adds up of a connection that it meets.

use podlens_common::{
    histogram::hashed_bucket,
    tcp::{Counts, received, transmitted, wide::Narrow},
};

use super::{AliveCells, TCP_ACCOUNTS, TCP_ALIVE, WalkCells, living, offsets};
use crate::{
    atomic,
    kernel::offsets::{half, word},
};

/// Adds a connection's payload. One that has closed meanwhile counts too: its closing has seen that it was passed.
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
    alive.bytes().update(|[all, all_came]| [all + bytes, all_came + came]);
}

/// Adds what else a socket has done to a record; of one that listens that is what it had no room for.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn add_narrow(record: u32, socket: u64, listens: u32) -> u32 {
    let Some(walk) = WalkCells::get() else { return 0 };
    let Some(alive) = AliveCells::at(TCP_ALIVE.get_ptr_mut(record)) else { return 0 };
    let narrow = if listens == 1 {
        Narrow { overflows: half(socket + offsets::drops()), ..Narrow::NONE }
    } else {
        Narrow {
            segments: [half(socket + offsets::segments_out()), half(socket + offsets::segments_in())],
            retransmits: half(socket + offsets::total_retransmits()),
            overflows: 0,
            limited: offsets::limited(socket),
        }
    };
    let (wide, is_noted) = living(socket, half(socket + offsets::hash()), narrow);
    if !is_noted {
        walk.unnoted().update(|unnoted| unnoted + 1);
    }
    let Counts { segments: [sent, came], retransmits, overflows, limited: [by_window, by_buffer], .. } =
        wide.counts([0; 2]);
    alive.segments().update(|[all_sent, all_came]| [all_sent + sent, all_came + came]);
    alive.retransmits().update(|all| all + retransmits);
    alive.overflows().update(|all| all + overflows);
    alive.limited().update(|[all_window, all_buffer]| [all_window + by_window, all_buffer + by_buffer]);
    1
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
