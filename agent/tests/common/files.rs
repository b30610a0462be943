//! Files on a device: what is in memory of them, and what their users do.

use std::{
    env, fs,
    io::{Seek as _, SeekFrom, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::PathBuf,
    ptr::NonNull,
};

use super::skip;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A file on a device, of which nothing is in memory.
#[derive(Debug)]
pub struct ColdFile {
    file: fs::File,
    path: PathBuf,
}

impl ColdFile {
    /// None where the directory for such files is in memory.
    pub fn new(mebibytes: u64) -> Option<Self> {
        let path = env::temp_dir().join(format!("podlens-cold-{}-{mebibytes}", std::process::id()));
        let mut file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let cold = Self { path, file: file.try_clone().unwrap() };
        // What is on no device has such a number: tmpfs, and the first file system of all.
        if cold.device().0 == 0 {
            skip("files for temporary use are in memory here");
            return None;
        }
        let block = vec![0x5a; 1 << 20];
        for _ in 0..mebibytes {
            file.write_all(&block).unwrap();
        }
        file.sync_all().unwrap();
        cold.cool();
        Some(cold)
    }

    /// One whose pages the device need not be asked for.
    pub fn hole(mebibytes: u64) -> Option<Self> {
        let cold = Self::new(0)?;
        cold.file.set_len(mebibytes << 20).unwrap();
        Some(cold)
    }

    /// Takes it out of memory.
    pub fn cool(&self) {
        // SAFETY: the call has no precondition.
        let answer = unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(answer, 0, "posix_fadvise");
    }

    /// Its device's number.
    pub fn device(&self) -> (u32, u32) {
        let device = self.file.metadata().unwrap().dev();
        (libc::major(device), libc::minor(device))
    }

    /// Where it is.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }
}

impl Drop for ColdFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// An open file and its mapping, both without any reading ahead.
#[derive(Debug)]
pub struct MappedFile {
    file: fs::File,
    base: NonNull<u8>,
    pages: usize,
}

impl MappedFile {
    /// Opens and maps it.
    pub fn open(path: &str) -> Self {
        let mut file = fs::File::open(path).unwrap();
        // Of a disk the metadata has no length.
        let bytes = usize::try_from(file.seek(SeekFrom::End(0)).unwrap()).unwrap();
        let (none, descriptor) = (std::ptr::null_mut(), file.as_raw_fd());
        // SAFETY: a new mapping of a file, read only.
        let base = unsafe { libc::mmap(none, bytes, libc::PROT_READ, libc::MAP_SHARED, descriptor, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        // SAFETY: the range is the mapping.
        assert_eq!(unsafe { libc::madvise(base, bytes, libc::MADV_RANDOM) }, 0);
        // SAFETY: the call has no precondition.
        assert_eq!(unsafe { libc::posix_fadvise(descriptor, 0, 0, libc::POSIX_FADV_RANDOM) }, 0);
        Self { file, base: NonNull::new(base.cast()).unwrap(), pages: bytes / PAGE }
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Looks at a page of the mapping.
    pub fn touch(&self, page: usize) {
        assert!(page < self.pages);
        // SAFETY: the page lies in the mapping, which lasts as long as the process.
        let at = unsafe { self.base.add(page * PAGE) };
        // SAFETY: as above.
        std::hint::black_box(unsafe { at.read_volatile() });
    }

    /// Reads a page of the file.
    pub fn read(&self, page: usize) {
        self.file.read_exact_at(&mut [0; PAGE], u64::try_from(page * PAGE).unwrap()).unwrap();
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping, which nobody uses any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.pages * PAGE) };
    }
}

/// Major page faults of this process.
pub fn major_faults() -> i64 {
    usage().ru_majflt
}

/// Its minor ones.
pub fn minor_faults() -> i64 {
    usage().ru_minflt
}

fn usage() -> libc::rusage {
    // SAFETY: all bits 0 is a valid answer.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the place is valid.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) }, 0);
    usage
}

/// Keeps this memory from being reclaimed.
pub fn lock_in_memory(memory: &[u8]) {
    // SAFETY: the range is that of the slice.
    assert_eq!(unsafe { libc::mlock(memory.as_ptr().cast(), memory.len()) }, 0, "mlock");
}
