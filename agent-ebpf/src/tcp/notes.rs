//! Collector `tcp`: how the two programs at changes of state agree on who takes which.
//!
//! The kernel leaves out a program that the CPU is in the middle of: an interrupt brings packets to other sockets while a process
//! opens or closes one, or, from kernel 7.0 on, the scheduler puts the program off and runs another task. The second takes what
//! the first is left out for; podlens_common::tcp::notes has the logic, and its proof.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use podlens_common::{
    claim::Users,
    tcp::notes::{BUCKETS, Bucket, NOTES, Notes, Shares, bucket_of, leave, note, take_off},
};

use super::sockets::{self as offsets, Socket};
use crate::{
    atomic,
    kernel::{number, offsets::half},
};

/// Notes of changes that the first program has taken, by the sockets' addresses.
#[map]
static TCP_NOTES: Array<Notes> = Array::with_max_entries(BUCKETS, 0);
/// The address of `TCP_NOTES`, as a number.
#[map]
static TCP_NOTES_AT: Array<u64> = Array::with_max_entries(1, 0);
/// Changes that the first program has not taken.
#[map]
static TCP_SHARES: Array<Shares> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What one CPU does with a bucket.
struct Reached(*mut Notes);

impl Users for Reached {
    #[inline(always)]
    fn add(&self, amount: u64) {
        // SAFETY: entries of a map outlive the program, and the count is a whole word.
        unsafe { atomic::add_in_order(&raw mut (*self.0).users, amount) };
    }

    #[inline(always)]
    fn count(&self) -> u64 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).users).read_volatile() }
    }
}

impl Bucket for Reached {
    #[inline(always)]
    fn read(&self, place: usize) -> u64 {
        if place >= NOTES {
            return 0;
        }
        // SAFETY: as above, and the place is one of the array's.
        unsafe { (&raw const (*self.0).notes).cast::<u64>().add(place).read_volatile() }
    }

    #[inline(always)]
    fn write(&self, place: usize, note: u64) {
        if place < NOTES {
            // SAFETY: as above.
            unsafe { (&raw mut (*self.0).notes).cast::<u64>().add(place).write_volatile(note) };
        }
    }

    #[inline(always)]
    fn state_of(&self, socket: u64) -> u32 {
        half(socket + offsets::state()) & 0xff
    }
}

/// Whether the first program is to take a change.
#[inline(always)]
pub(super) fn is_firsts(socket: Socket, new: u32) -> bool {
    let is_left = found(socket).is_some_and(|(bucket, socket)| leave(&bucket, note(socket, new)));
    if !is_left && let Some(shares) = TCP_SHARES.get_ptr_mut(0) {
        // SAFETY: entries of a map outlive the program, and the count is a whole word.
        unsafe { atomic::add(&raw mut (*shares).left, 1) };
    }
    is_left
}

/// Whether the second is.
#[inline(always)]
pub(super) fn is_seconds(socket: Socket, new: u32) -> bool {
    let is_taken = found(socket).is_some_and(|(bucket, socket)| take_off(&bucket, note(socket, new)));
    if !is_taken && let Some(shares) = TCP_SHARES.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*shares).stood_in, 1) };
    }
    !is_taken
}

/// Says that the program has additions that give what was there, which kernels take since 5.12; nothing in their types tells that,
/// but a function of 5.13.
#[inline(always)]
fn needs_ordered_additions() {
    number!("enum bpf_func_id.BPF_FUNC_for_each_map_elem");
}

/// The bucket of a socket, and its address as a number.
#[inline(always)]
fn found(socket: Socket) -> Option<(Reached, u64)> {
    needs_ordered_additions();
    let number = address_of(socket)?;
    Some((Reached(TCP_NOTES.get_ptr_mut(bucket_of(number))?), number))
}

/// A socket's address as a number.
///
/// What is written into a map comes back as a number.
#[inline(always)]
pub(super) fn address_of(socket: Socket) -> Option<u64> {
    let from = TCP_NOTES.get_ptr_mut(0)?;
    let at = TCP_NOTES_AT.get_ptr_mut(0)?;
    // SAFETY: the word outlives the program, and whoever writes it writes the same.
    unsafe {
        at.write_volatile(from as u64);
        Some(socket.distance_from(from).wrapping_add(at.read_volatile()))
    }
}
