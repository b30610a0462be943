//! The one ring through which programs report what happened, in the order in which it happened on each CPU. Rare events
//! only: what happens often is counted in arrays.

use aya_ebpf::{macros::map, maps::RingBuf};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(512 * 1024, 0);

/// Sends one event; gives whether there was room for it.
#[inline(always)]
pub(crate) fn send(bytes: &[u8]) -> bool {
    EVENTS.output::<[u8]>(bytes, 0).is_ok()
}
