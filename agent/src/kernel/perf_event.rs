//! The kernel's software events, one CPU at a time: `perf_event_open` and what is done with its descriptor.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

/// `PERF_TYPE_SOFTWARE`, and the size of the first version of `struct perf_event_attr`.
const TYPE_AND_SIZE: u64 = 1 | 64 << 32;
/// The bit `disabled`.
const DISABLED: u64 = 1;
const PERF_FLAG_FD_CLOEXEC: u64 = 8;
/// `PERF_EVENT_IOC_ENABLE` and `PERF_EVENT_IOC_SET_BPF` of linux/perf_event.h.
const ENABLE: libc::c_ulong = 0x2400;
const SET_PROGRAM: libc::c_ulong = 0x4004_2408;

/// Which event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    /// `PERF_COUNT_SW_PAGE_FAULTS_MAJ`.
    MajorFaults = 6,
    /// `PERF_COUNT_SW_DUMMY`: it counts nothing.
    Nothing = 9,
}

/// An event of all tasks on one CPU, for as long as the value lives.
#[derive(Debug)]
pub struct PerfEvent(File);

impl PerfEvent {
    /// Opens an event that does not count yet. Needs `CAP_PERFMON`, as the programs do.
    ///
    /// # Errors
    /// What the kernel says: `ENODEV` of a CPU that is offline.
    pub fn open(event: Software, cpu: u32) -> io::Result<Self> {
        // Each occurrence is one that a program is told of.
        let period = 1;
        let attributes: [u64; 8] = [TYPE_AND_SIZE, event as u64, period, 0, 0, DISABLED, 0, 0];
        let (all_tasks, no_group) = (-1_i32, -1_i32);
        // SAFETY: the attributes are as long as they say, and the kernel only reads them.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                attributes.as_ptr(),
                all_tasks,
                libc::c_long::from(cpu),
                no_group,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        let descriptor = RawFd::try_from(answer).ok().filter(|descriptor| *descriptor >= 0);
        let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just made it, for nobody else.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) })))
    }

    /// Lets it count, and run the program at each occurrence.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.control(SET_PROGRAM, program.as_raw_fd())?;
        self.control(ENABLE, 0)
    }

    /// How often it has occurred.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn count(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    fn control(&self, request: libc::c_ulong, argument: RawFd) -> io::Result<()> {
        // SAFETY: both requests take a plain number.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, argument) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
