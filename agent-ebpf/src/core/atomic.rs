//! Additions that several CPUs may make to one word at once.

use core::arch::asm;

/// Adds to the word.
///
/// # Safety
/// `word` is aligned and lies in a value of a map.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, amount: u64) {
    // SAFETY: the caller vouches for the word; the instruction touches nothing else. The compiler's own atomic
    // types have no such addition on this target.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount) };
}

/// The same for half a word.
///
/// # Safety
/// As above.
#[inline(always)]
pub(crate) unsafe fn add_half(half: *mut u32, amount: u32) {
    // SAFETY: as above.
    unsafe { asm!("lock *(u32 *)({half} + 0) += {amount}", half = in(reg) half, amount = in(reg) u64::from(amount)) };
}
