//! Additions that several CPUs may make to one word at once.

use core::arch::asm;

use podlens_common::histogram::{Lengths, hashed_bucket};

/// Adds to a word of 64 bits.
///
/// # Safety
/// `word` is aligned and lies in a value of a map.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, amount: u64) {
    // SAFETY: the caller vouches for the word; the instruction touches nothing else. The compiler's own atomic
    // types have no such addition on this target.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount) };
}

/// The same, with nothing before or after it moved to its other side, as the addition alone is on some processors. Kernels before
/// 5.12 refuse a program that has it.
///
/// # Safety
/// As above.
#[inline(always)]
pub(crate) unsafe fn add_in_order(word: *mut u64, amount: u64) {
    // SAFETY: as above. It gives what was there, which is what keeps the order.
    unsafe {
        asm!(
            "{amount} = atomic_fetch_add((u64 *)({word} + 0), {amount})",
            word = in(reg) word,
            amount = inout(reg) amount => _,
        );
    }
}

/// Adds to a word of 32 bits.
///
/// # Safety
/// As above.
#[inline(always)]
pub(crate) unsafe fn add_u32(word: *mut u32, amount: u32) {
    // SAFETY: as above.
    unsafe { asm!("lock *(u32 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(wreg) amount) };
}

/// Enters a duration.
///
/// # Safety
/// `lengths` lies in a value of a map.
#[inline(always)]
pub(crate) unsafe fn enter(lengths: *mut Lengths, length_ns: u64) {
    // SAFETY: the caller vouches for the lengths, whose words are whole and aligned; the mask keeps the bucket inside.
    unsafe {
        add_u32((&raw mut (*lengths).counts).cast::<u32>().add(hashed_bucket(length_ns) & 31), 1);
        add(&raw mut (*lengths).sum_ns, length_ns);
    }
}
