//! An array map of the kernel programs, mapped into this process: reading it costs no system call.

use std::{io, marker::PhantomData, os::fd::BorrowedFd, ptr::NonNull};

use bytemuck::Pod;
use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// The array, shared with the kernel programs.
///
/// A value is copied while a program may be writing it: each 64-bit word is whole, words may be of two
/// moments. Whoever needs words that fit together reads twice or compares a counter.
#[derive(Debug)]
pub struct MappedArray<T> {
    base: NonNull<u8>,
    entries: usize,
    /// From one entry to the next: an entry may be longer than what is read of it.
    entry_bytes: usize,
    mapped_bytes: usize,
    // The kernel's own reference to the map lives as long as the mapping.
    of: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel in any case; all access is by volatile copies.
unsafe impl<T: Pod> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Sync for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// Maps `entries` values of `entry_bytes` each of the array map behind `descriptor`, which was made with
    /// `BPF_F_MMAPABLE` and whose values begin with a `T`.
    ///
    /// # Errors
    /// What the kernel says, or a value is shorter than a `T`.
    pub fn new(descriptor: BorrowedFd<'_>, entries: usize, entry_bytes: usize) -> io::Result<Self> {
        if entry_bytes < size_of::<T>() || !entry_bytes.is_multiple_of(align_of::<T>()) {
            return Err(io::Error::other(format!("a value of {entry_bytes} bytes does not begin with what is wanted")));
        }
        // The kernel places values at multiples of 8 bytes; every record here has such a size.
        let mapped_bytes = (entries * entry_bytes).next_multiple_of(page_size());
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                descriptor,
                0,
            )
        }?;
        let base = NonNull::new(address.cast::<u8>()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Self { base, entries, entry_bytes, mapped_bytes, of: PhantomData })
    }

    /// How many entries there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no map of the kernel is empty")]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Copies an entry out.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<T> {
        let entry = self.entry(index)?;
        // SAFETY: `entry` lies within the mapping and any bytes are a `T`.
        Some(unsafe { entry.as_ptr().read_volatile() })
    }

    /// Copies out what an entry begins with; none where it is shorter.
    #[must_use]
    pub fn beginning<P: Pod>(&self, index: usize) -> Option<P> {
        let is_within = size_of::<P>() <= size_of::<T>() && align_of::<P>() <= align_of::<T>();
        let entry = self.entry(index).filter(|_| is_within)?;
        // SAFETY: `entry` lies within the mapping, is as long and as aligned as a `P` is, and any bytes are one.
        Some(unsafe { entry.as_ptr().cast::<P>().read_volatile() })
    }

    /// The first 64-bit word of an entry, in whose low half the programs keep its sequence number.
    #[must_use]
    pub fn first_word(&self, index: usize) -> Option<u64> {
        let entry = self.entry(index)?;
        // SAFETY: `entry` lies within the mapping, and each record is at least one aligned word.
        Some(unsafe { entry.as_ptr().cast::<u64>().read_volatile() })
    }

    /// Copies an entry out; none where all of it is 0. It is looked at in place first, since most are.
    #[must_use]
    pub fn get_used(&self, index: usize) -> Option<T> {
        const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>()) && align_of::<T>() >= align_of::<u64>()) };
        let first = self.entry(index)?.as_ptr().cast::<u64>();
        let mut words = 0..size_of::<T>() / size_of::<u64>();
        // SAFETY: all words lie within the entry, which is aligned for them.
        let is_used = words.any(|word| unsafe { first.wrapping_add(word).read_volatile() } != 0);
        is_used.then(|| self.get(index)).flatten()
    }

    /// Overwrites an entry that no program writes at the moment.
    pub fn set(&self, index: usize, value: T) {
        if let Some(entry) = self.entry(index) {
            // SAFETY: `entry` lies within the mapping.
            unsafe { entry.as_ptr().write_volatile(value) };
        }
    }

    fn entry(&self, index: usize) -> Option<NonNull<T>> {
        // SAFETY: `index` is below the number of entries that were mapped, and each is aligned for a `T`.
        (index < self.entries).then(|| unsafe { self.base.add(index * self.entry_bytes).cast::<T>() })
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping, and no reference into it exists.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}
