//! Which changes of sockets' states the first of two programs has taken, so that the second takes the others: each change
//! counts once at most, and where it does not count at all that is a number.
//!
//! The kernel calls both programs for each change, one after the other, and leaves out one that the CPU is in the middle of. The
//! first leaves a note of what it takes, and the second takes what has no note. Between both calls anything may come: interrupts,
//! other tasks, another CPU to go on. Why no change counts twice:
//!
//! - A socket changes under its lock, so one change of it is under way at a time, and its notes are touched by that one alone.
//! - The first takes a change only if it has left the note. Where there is no room, or somebody else is at work in the
//!   bucket, the second is to take it.
//! - A note gives way to nothing but its own change in the second program, the next change of the same socket, and, if it is
//!   over, another note. It is over where the socket has the state that it tells: the kernel writes that after both calls.
//! - Whoever changes a bucket has claimed it, so that what was found there is still there.
//!
//! What is not taken is what the first was left out for and what it has left, less what the second has taken. A note stays behind
//! where the second is left out, until the socket changes again or the place is wanted.

use crate::claim::{Users, claim, release};

/// Notes that a bucket has room for.
pub const NOTES: usize = 7;

/// Buckets; a power of two. A bucket is a line of a processor's cache.
pub const BUCKETS: u32 = 512;

/// Notes of sockets whose addresses have one hash, and the count of those who are at work in them.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Notes {
    /// Programs that are at work here at this moment.
    pub users: u64,
    /// [`note`], or 0.
    pub notes: [u64; NOTES],
}

/// What became of changes, other than that the first program has taken them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Shares {
    /// The first program has left it to the second.
    pub left: u64,
    /// The second has taken it.
    pub stood_in: u64,
}

/// A bucket as a program reaches it.
pub trait Bucket: Users {
    /// What stands in a place, below [`NOTES`].
    fn read(&self, place: usize) -> u64;

    /// Writes there.
    fn write(&self, place: usize, note: u64);

    /// The state that the socket at an address has at this moment.
    fn state_of(&self, socket: u64) -> u32;
}

/// The note of a change: the socket's address, whose first bits are all 1, and its new state, which is below 16.
#[inline(always)]
#[must_use]
pub const fn note(socket: u64, new: u32) -> u64 {
    socket << STATE_BITS | new as u64
}

/// The socket of a note.
#[inline(always)]
#[must_use]
pub const fn socket_of(note: u64) -> u64 {
    note >> STATE_BITS | !(u64::MAX >> STATE_BITS)
}

/// Which bucket a socket's notes are in.
#[inline(always)]
#[must_use]
pub const fn bucket_of(socket: u64) -> u32 {
    place_of(socket, BUCKETS)
}

/// Which of so many places, a power of two, is that of a socket, by its address.
#[inline(always)]
#[must_use]
pub const fn place_of(socket: u64, places: u32) -> u32 {
    // Sockets lie at equal distances, which one multiplication does not spread.
    let mut hash = (socket >> LINE_BITS & 0xffff_ffff) as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash >> (u32::BITS - places.ilog2())
}

/// Leaves a note in the first program; `false` if the change is the second one's.
#[inline(always)]
#[must_use]
pub fn leave<B: Bucket>(bucket: &B, note: u64) -> bool {
    if !claim(bucket) {
        return false;
    }
    let place = place_for(bucket, note);
    if let Some(place) = place {
        bucket.write(place, note);
    }
    release(bucket);
    place.is_some()
}

/// Takes the note off in the second program; `false` if there is none, so that the change is to be taken now.
#[inline(always)]
#[must_use]
pub fn take_off<B: Bucket>(bucket: &B, note: u64) -> bool {
    let mut place = 0;
    while place < NOTES {
        if bucket.read(place) == note {
            // Left behind by an earlier change, it may just be giving way. Otherwise nobody else touches it, and it may stay.
            if claim(bucket) {
                if bucket.read(place) == note {
                    bucket.write(place, 0);
                }
                release(bucket);
            }
            return true;
        }
        place += 1;
    }
    false
}

/// Where a note may stand; the bucket is claimed.
#[inline(always)]
fn place_for<B: Bucket>(bucket: &B, note: u64) -> Option<usize> {
    let mut free = None;
    let mut place = 0;
    while place < NOTES {
        let found = bucket.read(place);
        if found >> STATE_BITS == note >> STATE_BITS {
            return Some(place);
        }
        if found == 0 && free.is_none() {
            free = Some(place);
        }
        place += 1;
    }
    if free.is_some() {
        return free;
    }
    place = 0;
    while place < NOTES {
        let found = bucket.read(place);
        if bucket.state_of(socket_of(found)) == (found & STATES) as u32 {
            return Some(place);
        }
        place += 1;
    }
    None
}

/// Bits of a state, and a mask of them.
const STATE_BITS: u32 = 4;
const STATES: u64 = (1 << STATE_BITS) - 1;
/// Bits of an address within a line of the cache.
const LINE_BITS: u32 = 6;

const _: () = assert!(size_of::<Notes>() == 64);

#[cfg(test)]
mod tests;
