//! An array map of the kernel programs, mapped into this process: reading it costs no system call.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
};

/// A type that any bytes of its size are a value of, so that it may be copied out of a mapped array.
///
/// # Safety
/// The type consists of integers and arrays of integers without implicit padding.
pub unsafe trait Plain: Copy + 'static {}

/// The records that arrays and events hold, one name per record.
macro_rules! plain {
    ($($record:ty),* $(,)?) => {
        // SAFETY: `podlens_common` declares each of integers and arrays alone, padding written out.
        $(unsafe impl Plain for $record {})*
    };
}

plain!(
    podlens_common::cgroup::Losses,
    podlens_common::cgroup::Slot,
    podlens_common::cpu::Bandwidth,
    podlens_common::event::EventHeader,
    podlens_common::lifecycle::InitEnd,
    podlens_common::scheduler::Account,
    podlens_common::scheduler::Now,
    podlens_common::scheduler::SlotTotals,
    podlens_common::scheduler::culprits::Culprits,
    podlens_common::tasks::Processes,
    podlens_common::tasks::TaskRecord,
    podlens_common::tasks::TaskWalk,
);

/// The value that these bytes are; none if they are not as many as it has.
pub(super) fn plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: there are as many bytes as the type has, and any of them are a value of it.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

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
unsafe impl<T: Plain> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for MappedArray<T> {}

impl<T: Plain> MappedArray<T> {
    /// Maps `entries` values of `entry_bytes` each of the array map behind `descriptor`, which was made with
    /// `BPF_F_MMAPABLE` and whose values begin with a `T`.
    ///
    /// # Errors
    /// What the kernel says, or a value is shorter than a `T`.
    pub fn new(descriptor: BorrowedFd<'_>, entries: usize, entry_bytes: usize) -> io::Result<Self> {
        if entry_bytes < size_of::<T>() || !entry_bytes.is_multiple_of(align_of::<T>()) {
            return Err(io::Error::other(format!("a value of {entry_bytes} bytes does not begin with what is wanted")));
        }
        let page_bytes = page_bytes();
        // The kernel places values at multiples of 8 bytes; every `Plain` type here has such a size.
        let mapped_bytes = (entries * entry_bytes).next_multiple_of(page_bytes);
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                descriptor.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
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

    /// The first 64-bit word of an entry, in whose low half the programs keep its sequence number.
    #[must_use]
    pub fn first_word(&self, index: usize) -> Option<u64> {
        let entry = self.entry(index)?;
        // SAFETY: `entry` lies within the mapping, and each `Plain` type is at least one aligned word.
        Some(unsafe { entry.as_ptr().cast::<u64>().read_volatile() })
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
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}

fn page_bytes() -> usize {
    // SAFETY: the call has no precondition.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(answer).unwrap_or(4096)
}
