//! Collector `tcp`: sockets that have come half as far as the kernel counts in 32 bits, and what they have in 64.
//!
//! The walk notes them and goes on with each at the next walk, the closing takes the note off; podlens_common::tcp::wide has the
//! arithmetic. A note that is left behind, as by a closing that no program was called for, is another connection's by its hash.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use podlens_common::tcp::{
    Counts, Direction,
    wide::{Narrow, SOCKETS, Wide},
};

use super::{notes::address_of, sockets::Socket};

/// What large sockets have, by their addresses.
#[map]
static TCP_WIDE: HashMap<u64, Wide> = HashMap::with_max_entries(SOCKETS, 0);
/// 1: there was one. On most nodes there is none, and nobody looks for one.
#[map]
static TCP_WIDE_USED: Array<u64> = Array::with_max_entries(1, 0);

/// Whether there may be notes.
#[inline(always)]
fn is_used() -> bool {
    // SAFETY: entries of a map outlive the program, and it is a whole word.
    TCP_WIDE_USED.get_ptr(0).is_some_and(|used| unsafe { used.read_volatile() } != 0)
}

#[inline(always)]
fn begin_to_use() {
    if let Some(used) = TCP_WIDE_USED.get_ptr_mut(0) {
        // SAFETY: as above, and whoever writes it writes the same.
        unsafe { used.write_volatile(1) };
    }
}

/// What a living socket has, and whether there was room for its note. Only one reader walks.
#[inline(always)]
pub(super) fn living(socket: u64, hash: u32, narrow: Narrow) -> (Wide, bool) {
    let fresh = Wide::new(hash, narrow);
    if !narrow.is_large() && !is_used() {
        return (fresh, true);
    }
    if let Some(noted) = TCP_WIDE.get_ptr_mut(socket) {
        // SAFETY: entries of a map outlive the program. A closing on another CPU reads each word as it was or as it is, and takes
        // either for the same.
        unsafe {
            let before = noted.read_volatile();
            let now = if before.hash == fresh.hash { before.now(narrow) } else { fresh };
            noted.write_volatile(now);
            return (now, true);
        }
    }
    if !narrow.is_large() {
        return (fresh, true);
    }
    begin_to_use();
    (fresh, TCP_WIDE.insert(socket, fresh, 0).is_ok())
}

/// What a socket has that has closed. Takes its note off.
#[inline(always)]
pub(super) fn closed(socket: Socket, bytes: [u64; Direction::COUNT], narrow: Narrow) -> Counts {
    let fresh = Wide::new(socket.hash(), narrow);
    noted(socket).filter(|noted| noted.hash == fresh.hash).map_or(fresh, |noted| noted.now(narrow)).counts(bytes)
}

#[inline(always)]
fn noted(socket: Socket) -> Option<Wide> {
    if !is_used() {
        return None;
    }
    let address = address_of(socket)?;
    // SAFETY: entries of a map outlive the program.
    let noted = unsafe { TCP_WIDE.get_ptr(address)?.read_volatile() };
    // Fails only where another program has this bucket on this CPU: then the next holder of the address finds a note that is not its own.
    let _ = TCP_WIDE.remove(address);
    Some(noted)
}
