//! How often the kernel has left programs out.
//!
//! A program that is met again on a CPU where it runs already does not run then: by an interrupt, or on kernels from 7.0 on by
//! another task. The kernel counts that.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

/// `BPF_OBJ_GET_INFO_BY_FD` of linux/bpf.h.
const OBJECT_INFO: libc::c_int = 15;
/// `struct bpf_prog_info` up to `recursion_misses`, which is its last word here.
const INFO_WORDS: usize = 27;

/// Loaded programs, for as long as the value lives.
#[derive(Debug, Default)]
pub struct MissedRuns {
    programs: Vec<OwnedFd>,
}

impl MissedRuns {
    /// Adds the program behind this descriptor.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn add(&mut self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.programs.push(program.try_clone_to_owned()?);
        Ok(())
    }

    /// How often they were left out so far, all together. Kernels before 5.12 do not count it, which is 0 here; their programs on
    /// tracepoints are never left out.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.programs.iter().map(Self::of).sum()
    }

    fn of(program: &OwnedFd) -> u64 {
        let mut info = [0_u64; INFO_WORDS];
        // The program and the length of the answer share a word, then the address of the answer.
        let length = u64::try_from(size_of_val(&info)).unwrap_or_default();
        let descriptor = u64::from(program.as_raw_fd().cast_unsigned());
        let attributes = [length << 32 | descriptor, info.as_mut_ptr() as u64];
        // SAFETY: the kernel reads the attributes and writes into `info` no more than the length that they tell.
        let answer =
            unsafe { libc::syscall(libc::SYS_bpf, OBJECT_INFO, attributes.as_ptr(), size_of_val(&attributes)) };
        let [.., missed] = info;
        if answer == 0 { missed } else { 0 }
    }
}
