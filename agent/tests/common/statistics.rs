//! How long kernel programs run, according to the kernel's own statistics, which are on while the value lives.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use aya::programs::{ProgramInfo, loaded_programs};
use testkit::bpf;

use super::{Agent, machine_is_slow};

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

    /// Time and runs of a process' program of that name; to be asked while they are on.
    pub fn of(process: u32, name: &str) -> (Duration, u64) {
        Self::of_loaded(process, name).expect("it is loaded")
    }

    /// The same; none if the process holds no such program.
    pub fn of_loaded(process: u32, name: &str) -> Option<(Duration, u64)> {
        let program = program(process, name)?;
        Some((program.run_time(), program.run_count()))
    }

    /// Waits for a series of runs of a process' program of that name, and gives how long each took of those that were seen
    /// alone. A series is over when none has come for a moment. It looks all the time, so it takes a CPU.
    pub fn each_run_of(process: u32, name: &str, patience: Duration) -> Vec<Duration> {
        /// No pause between two runs of one series is so long.
        const PAUSE: Duration = Duration::from_millis(100);
        let _on = Self::start();
        let program = program(process, name).expect("it is loaded").fd().expect("a descriptor is left");
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
            assert!(began.elapsed() < patience, "{name} has not run");
        }
    }
}

/// A program of the agent's holds no CPU for longer than its budget: a run takes so long on average, of one of three agents at most, since
/// something else may take the CPU in the middle of a run. `at_work` starts one and waits until what the runs are for has come, and gives
/// how many there are at least; none where there is nothing to test.
pub fn assert_runs_are_short(name: &str, mut at_work: impl FnMut() -> Option<(Agent, u64)>) {
    let _on = RunStatistics::start();
    let mut means = Vec::new();
    while means.len() < 3 && means.last().is_none_or(|mean| *mean > longest_run()) {
        let Some((agent, least)) = at_work() else { return };
        let (time, runs) = RunStatistics::of(agent.id(), name);
        assert!(runs >= least.max(1), "{runs} runs of {name}");
        means.push(time / u32::try_from(runs).unwrap());
        println!("{runs} runs of {name}, of {:?} each", means.last());
    }
    assert!(means.last().is_some_and(|mean| *mean <= longest_run()), "{means:?} a run of {name}");
}

/// The budget of a run of any kernel program; on an emulated machine, which may be so much slower, what it comes to there.
pub fn longest_run() -> Duration {
    const LONGEST: Duration = Duration::from_micros(500);
    const SLOWER: u32 = 20;
    LONGEST * if machine_is_slow() { SLOWER } else { 1 }
}

/// A process' program of that name: another podlens may have one of the same.
fn program(process: u32, name: &str) -> Option<ProgramInfo> {
    let kept = name.get(..NAME_BYTES).unwrap_or(name);
    programs_of(process).find(|program| program.name_as_str() == Some(kept))
}

/// The programs of a process that have names: the loader's probes of the kernel have none.
pub fn programs_of(process: u32) -> impl Iterator<Item = ProgramInfo> {
    let held = bpf::programs_of(process);
    let is_its = move |program: &ProgramInfo| held.contains(&program.id()) && !program.name().is_empty();
    loaded_programs().filter_map(Result::ok).filter(is_its)
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
