//! The kernel's software events, one CPU at a time: `perf_event_open` and what is done with its descriptor.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

/// `PERF_TYPE_SOFTWARE`, and the size of the first version of `struct perf_event_attr`.
const TYPE_AND_SIZE: u64 = 1 | 64 << 32;
/// The bit `disabled`.
const DISABLED: u64 = 1;
/// `PERF_FORMAT_TOTAL_TIME_ENABLED`.
const WITH_TIME: u64 = 1;
const PERF_FLAG_FD_CLOEXEC: u64 = 8;
/// `PERF_EVENT_IOC_ENABLE` and `PERF_EVENT_IOC_SET_BPF`.
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

/// What an event has counted, and in how much time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How often it has occurred.
    pub count: u64,
    /// For how long it was there to be counted: a CPU that goes offline ends that for good, though it may come back.
    pub watched: Duration,
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
        let attributes: [u64; 8] = [TYPE_AND_SIZE, event as u64, period, 0, WITH_TIME, DISABLED, 0, 0];
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

    /// How often it has occurred, and in how much time.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counted(&self) -> io::Result<Counted> {
        let mut words = [[0; 8]; 2];
        (&self.0).read_exact(words.as_flattened_mut())?;
        let [count, watched_ns] = words.map(u64::from_ne_bytes);
        Ok(Counted { count, watched: Duration::from_nanos(watched_ns) })
    }

    fn control(&self, request: libc::c_ulong, argument: RawFd) -> io::Result<()> {
        // SAFETY: both requests take a plain number.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, argument) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use super::*;

    #[test]
    fn an_event_is_watched_for_as_long_as_it_is_on() {
        let event = PerfEvent::open(Software::Nothing, 0).unwrap();
        assert_eq!(event.counted().unwrap(), Counted::default());
        event.control(ENABLE, 0).unwrap();
        let nap = Duration::from_millis(50);
        thread::sleep(nap);
        let on = event.counted().unwrap();
        assert!(on.count == 0 && on.watched >= nap, "{on:?}");
        // As one whose CPU has gone.
        event.control(DISABLE, 0).unwrap();
        let off = event.counted().unwrap();
        thread::sleep(nap);
        assert_eq!(event.counted().unwrap(), off);
    }

    /// `PERF_EVENT_IOC_DISABLE`.
    const DISABLE: libc::c_ulong = 0x2401;
}
