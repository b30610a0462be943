//! The allocator of a build with musl: what grows and goes with each sweep, page and push comes from memory that is kept.
//!
//! musl takes blocks of more than some hundred bytes from the system in groups of a few, and gives a group back as soon as nothing in
//! it is used: tables and lists that grow to some ten kilobytes at each sweep were faulted in anew each time, which was a
//! fifth of the daemon's CPU time. Those of medium size so lie in one range of addresses, the arena, in which dlmalloc keeps order.
//! Small ones stay with musl, and large ones too, which would lie there between two pages. So does all that the start takes,
//! which lets go of most of it: between what is kept it would leave holes that nobody gives back.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ops::Range,
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
};

use dlmalloc::Dlmalloc;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::signal::lock;

/// Bytes of what is neither small nor large.
const MEDIUM: Range<usize> = 1 << 10..128 << 10;
/// Addresses that are reserved. Beyond that everything comes from musl.
const ARENA_BYTES: usize = 64 << 20;
/// As much as is kept when there is more to be given back.
const KEPT_BYTES: usize = 256 << 10;

/// All allocations of the program.
#[derive(Debug)]
pub struct Allocator;

/// The start is over.
static IS_STEADY: AtomicBool = AtomicBool::new(false);
/// Where the arena begins; null before its first use.
static ARENA: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// Bytes of it that dlmalloc has.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static BLOCKS: Mutex<Dlmalloc<Arena>> = Mutex::new(Dlmalloc::new_with_allocator(Arena));

/// From where dlmalloc takes memory: the beginning of the arena, which grows and shrinks. Called under the lock of [`BLOCKS`].
struct Arena;

/// What is allocated from now on is there to stay or comes again and again; and what is free in the arena's end goes back.
pub fn settle() {
    IS_STEADY.store(true, Ordering::Relaxed);
    // SAFETY: no block is touched.
    unsafe { lock(&BLOCKS).trim(KEPT_BYTES) };
}

// SAFETY: no two answers overlap, since only what lies at the end is taken back, and its pages are empty when they come again.
unsafe impl dlmalloc::Allocator for Arena {
    fn alloc(&self, bytes: usize) -> (*mut u8, usize, u32) {
        let taken = TAKEN.load(Ordering::Relaxed);
        match arena() {
            Some(arena) if bytes <= ARENA_BYTES - taken => {
                TAKEN.store(taken + bytes, Ordering::Relaxed);
                (arena.wrapping_add(taken), bytes, 0)
            }
            _ => (ptr::null_mut(), 0, 0),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, piece: *mut u8, bytes: usize, keeps: usize) -> bool {
        self.free(piece.wrapping_add(keeps), bytes - keeps)
    }

    fn free(&self, piece: *mut u8, bytes: usize) -> bool {
        let taken = TAKEN.load(Ordering::Relaxed);
        let is_last = piece.addr() + bytes == ARENA.load(Ordering::Relaxed).addr() + taken;
        // SAFETY: dlmalloc has nothing there any more.
        let is_back = is_last && unsafe { madvise(piece.cast(), bytes, Advice::LinuxDontNeed) }.is_ok();
        if is_back {
            TAKEN.store(taken - bytes, Ordering::Relaxed);
        }
        is_back
    }

    fn can_release_part(&self, _: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4096
    }
}

/// The arena, reserved if need be; none if the system refuses.
fn arena() -> Option<*mut u8> {
    let known = ARENA.load(Ordering::Relaxed);
    if !known.is_null() {
        return Some(known);
    }
    let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: the system chooses where it is.
    let new = unsafe { mmap_anonymous(ptr::null_mut(), ARENA_BYTES, rights, flags) }.ok()?.cast();
    ARENA.store(new, Ordering::Relaxed);
    Some(new)
}

/// The block lies in the arena.
fn holds(block: *mut u8) -> bool {
    let arena = ARENA.load(Ordering::Relaxed).addr();
    arena != 0 && block.addr().wrapping_sub(arena) < ARENA_BYTES
}

fn is_for_arena(bytes: usize) -> bool {
    MEDIUM.contains(&bytes) && IS_STEADY.load(Ordering::Relaxed)
}

/// A block of the arena where it is for that and finds room there, else one of musl; each by its own call.
///
/// # Safety
/// The layout has a size, as both calls ask for.
#[inline]
unsafe fn new_block(
    layout: Layout,
    of_arena: unsafe fn(&mut Dlmalloc<Arena>, usize, usize) -> *mut u8,
    of_musl: unsafe fn(&System, Layout) -> *mut u8,
) -> *mut u8 {
    if is_for_arena(layout.size()) {
        // SAFETY: the caller's, here and below.
        let block = unsafe { of_arena(&mut lock(&BLOCKS), layout.size(), layout.align()) };
        if !block.is_null() {
            return block;
        }
    }
    // SAFETY: as above.
    unsafe { of_musl(&System, layout) }
}

// SAFETY: a block is given back to the allocator that it came from, which its address tells; both keep the contract.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's, here and below.
        unsafe { new_block(layout, Dlmalloc::malloc, System::alloc) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { new_block(layout, Dlmalloc::calloc, System::alloc_zeroed) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if holds(block) {
            // SAFETY: as above.
            unsafe { lock(&BLOCKS).free(block, layout.size(), layout.align()) };
        } else {
            // SAFETY: as above.
            unsafe { System.dealloc(block, layout) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let (is_here, stays_here) = (holds(block), is_for_arena(bytes));
        if !is_here && !stays_here {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, bytes) };
        }
        if is_here && stays_here {
            // SAFETY: as above.
            let grown = unsafe { lock(&BLOCKS).realloc(block, layout.size(), layout.align(), bytes) };
            if !grown.is_null() {
                return grown;
            }
        }
        // SAFETY: the caller says that there is such a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        // SAFETY: as above.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both have the shorter of both lengths at least, and one is new.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(bytes)) };
            // SAFETY: as above.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::multiple_unsafe_ops_per_block)]

    use super::*;

    /// Of two tests at once each would see the other's blocks.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_block_keeps_what_is_in_it_however_it_grows_and_shrinks() {
        let _alone = lock(&ALONE);
        settle();
        let sizes = [1, 100, MEDIUM.start - 1, MEDIUM.start, 5000, MEDIUM.end - 1, MEDIUM.end, 1 << 20];
        for align in [1, 8, 64, 4096] {
            for (from, to) in sizes.into_iter().flat_map(|from| sizes.map(|to| (from, to))) {
                let layout = Layout::from_size_align(from, align).unwrap();
                let pattern: Vec<u8> = (0..from.min(to)).map(|at| (at % 251).to_le_bytes()[0]).collect();
                // SAFETY: the blocks are as long as their layouts say, and nobody else has them.
                unsafe {
                    let block = Allocator.alloc_zeroed(layout);
                    assert!(!block.is_null() && std::slice::from_raw_parts(block, from).iter().all(|byte| *byte == 0));
                    ptr::copy_nonoverlapping(pattern.as_ptr(), block, pattern.len());
                    let moved = Allocator.realloc(block, layout, to);
                    assert!(!moved.is_null() && moved.addr().is_multiple_of(align));
                    assert!(std::slice::from_raw_parts(moved, pattern.len()) == pattern, "{from} to {to}");
                    assert_eq!(holds(moved), MEDIUM.contains(&to), "{from} to {to}");
                    Allocator.dealloc(moved, Layout::from_size_align(to, align).unwrap());
                }
            }
        }
    }

    #[test]
    fn what_is_free_at_the_end_goes_back_and_beyond_the_arena_there_is_more() {
        let _alone = lock(&ALONE);
        settle();
        let layout = Layout::from_size_align(MEDIUM.end - 1, 8).unwrap();
        // SAFETY: each block is given back once.
        unsafe {
            let blocks: Vec<*mut u8> = (0..ARENA_BYTES / layout.size() + 9).map(|_| Allocator.alloc(layout)).collect();
            assert!(blocks.iter().all(|block| !block.is_null()) && !blocks.iter().all(|block| holds(*block)));
            for block in blocks {
                Allocator.dealloc(block, layout);
            }
        }
        settle();
        assert!(TAKEN.load(Ordering::Relaxed) < 1 << 20, "{TAKEN:?} bytes");
    }
}
