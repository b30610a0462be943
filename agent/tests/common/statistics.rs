//! How long kernel programs run, according to the kernel's own statistics, which are on while the value lives.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use aya::programs::{ProgramInfo, loaded_programs};

/// What the kernel keeps of a program's name.
const NAME_BYTES: usize = 15;

/// Has them switched on while it lives.
#[derive(Debug)]
pub struct RunStatistics(#[expect(dead_code, reason = "it is only kept")] OwnedFd);

impl RunStatistics {
    /// Switches them on.
    pub fn start() -> Self {
        Self(aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("root may switch them on"))
    }

    /// Time and runs of the newest program of that name; to be asked while they are on.
    pub fn of(name: &str) -> (Duration, u64) {
        Self::of_loaded(name).expect("it is loaded")
    }

    /// The same; none if there is no such program.
    pub fn of_loaded(name: &str) -> Option<(Duration, u64)> {
        let newest = newest(name)?;
        Some((newest.run_time(), newest.run_count()))
    }

    /// The newest program of that name, by the kernel's number of it: that of an agent that has just been started, whoever starts
    /// others later.
    pub fn newest(name: &str) -> u32 {
        newest(name).expect("it is loaded").id()
    }

    /// Waits for a series of runs of a program, and gives how long each took of those that were seen
    /// alone. A series is over when none has come for a moment. It looks all the time, so it takes a CPU.
    pub fn each_run_of(id: u32, patience: Duration) -> Vec<Duration> {
        /// No pause between two runs of one series is so long.
        const PAUSE: Duration = Duration::from_millis(100);
        let _on = Self::start();
        let wanted = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
        let program = wanted.expect("it is loaded").fd().expect("a descriptor is left");
        let (began, mut last_at) = (Instant::now(), Instant::now());
        let (mut time, mut runs) = run_time(program.as_fd().as_raw_fd());
        let mut found = Vec::new();
        loop {
            let (time_now, runs_now) = run_time(program.as_fd().as_raw_fd());
            if runs_now != runs {
                if runs_now == runs + 1 {
                    found.push(Duration::from_nanos(time_now - time));
                }
                (time, runs, last_at) = (time_now, runs_now, Instant::now());
            } else if !found.is_empty() && last_at.elapsed() > PAUSE {
                return found;
            }
            assert!(began.elapsed() < patience, "program {id} has not run");
        }
    }
}

fn newest(name: &str) -> Option<ProgramInfo> {
    let kept = name.get(..NAME_BYTES).unwrap_or(name);
    let programs = loaded_programs().filter_map(Result::ok);
    programs.filter(|program| program.name_as_str() == Some(kept)).max_by_key(ProgramInfo::id)
}

/// Nanoseconds and runs of a program: `run_time_ns` and `run_cnt` of `struct bpf_prog_info`, its 25th and 26th word.
fn run_time(program: libc::c_int) -> (u64, u64) {
    /// `BPF_OBJ_GET_INFO_BY_FD` of linux/bpf.h.
    const OBJECT_INFO: libc::c_int = 15;
    let mut info = [0_u64; 26];
    let length = u64::try_from(size_of_val(&info)).expect("a small number");
    let attributes = [length << 32 | u64::from(program.cast_unsigned()), info.as_mut_ptr() as u64];
    // SAFETY: the kernel reads the attributes and writes into `info` no more than the length that they tell.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, OBJECT_INFO, attributes.as_ptr(), size_of_val(&attributes)) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    let [.., time, runs] = info;
    (time, runs)
}
