//! A hash map of the kernel programs, read as a whole: one system call for all of its entries.
//!
//! For counts by a key of which few values occur. What each slot has is an array, which [`super::mapped`] reads without any call.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::MapData;
use bytemuck::Pod;

/// `BPF_MAP_DELETE_ELEM` of linux/bpf.h.
const DELETE: libc::c_int = 3;
/// `BPF_MAP_LOOKUP_BATCH`, which came in 5.6.
const LOOKUP_BATCH: libc::c_int = 24;

/// The map, which the kernel programs fill.
///
/// An entry is copied while a program may be writing it: each 64-bit word is whole.
#[derive(Debug)]
pub struct Table<K, V> {
    map: MapData,
    entries: u32,
    of: PhantomData<(K, V)>,
}

/// What `BPF_MAP_LOOKUP_BATCH` takes.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    flags: [u64; 2],
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Over a hash with these keys and values.
    ///
    /// # Errors
    /// It has others, or the kernel does not tell.
    pub fn new(map: MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let sizes = [info.key_size(), info.value_size()].map(usize::try_from);
        if sizes != [Ok(size_of::<K>()), Ok(size_of::<V>())] {
            return Err(io::Error::other("its keys or values have another size than is wanted"));
        }
        Ok(Self { entries: info.max_entries(), map, of: PhantomData })
    }

    /// All entries, in no order.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self) -> io::Result<Vec<(K, V)>> {
        let room = usize::try_from(self.entries).unwrap_or_default();
        let mut all = Vec::new();
        let (mut keys, mut values) = (vec![K::zeroed(); room], vec![V::zeroed(); room]);
        // Where the kernel goes on; its own number.
        let mut place = 0_u64;
        let mut is_first = true;
        loop {
            let at = &raw mut place as u64;
            let mut batch = Batch {
                from: if is_first { 0 } else { at },
                to: at,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: self.entries,
                map: self.descriptor(),
                flags: [0; 2],
            };
            // SAFETY: the kernel writes as many keys and values as `count` says, for which there is room, and a word to `to`.
            let answer = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
            let error = io::Error::last_os_error();
            let is_last = answer != 0 && error.raw_os_error() == Some(libc::ENOENT);
            if answer != 0 && !is_last {
                return Err(error);
            }
            let count = usize::try_from(batch.count).unwrap_or_default();
            all.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
            if is_last || count == 0 {
                return Ok(all);
            }
            is_first = false;
        }
    }

    /// Takes an entry out; gives whether it was there.
    pub fn remove(&self, key: &K) -> bool {
        let element = [u64::from(self.descriptor()), std::ptr::from_ref(key) as u64, 0, 0];
        // SAFETY: the kernel reads the attributes and a key.
        unsafe { libc::syscall(libc::SYS_bpf, DELETE, element.as_ptr(), size_of_val(&element)) == 0 }
    }

    fn descriptor(&self) -> u32 {
        self.map.fd().as_fd().as_raw_fd().cast_unsigned()
    }
}
