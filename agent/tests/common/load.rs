//! Loads: processes of the test's own that use a CPU in a known way and rest before and after.
//!
//! A load is a [`HelperProcess`] at the one "test" in this file. It rests; each [`Load::go`] makes it
//! work once and rest again. While it rests, the kernel's figures and the agent's stand still and can be
//! compared to the nanosecond. It is moved into its cgroup while it rests, so that nothing of it is counted in
//! one hierarchy and not in another.

use std::{
    fs,
    hint::black_box,
    ops::Sub,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use super::{
    PATIENCE, TestCgroup,
    helper_process::{HelperProcess, follow, orders},
    wait_until,
};

/// What each task of a load does at each go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Uses this much CPU time.
    Spin(Duration),
    /// Uses the CPU for this much wall time.
    SpinFor(Duration),
    /// Sleeps and wakes again and again, with so much CPU time between.
    Wake {
        /// How many times.
        times: u32,
        /// Each sleep.
        sleep: Duration,
        /// CPU time after each.
        spin: Duration,
    },
    /// Waits without interruption, each time until a child has slept for so long, as `vfork` does.
    Disk {
        /// How many times.
        times: u32,
        /// Each sleep.
        sleep: Duration,
    },
    /// Gives the CPU away again and again.
    Yield {
        /// How many times.
        times: u32,
    },
    /// Starts threads that end at once, one after another.
    Threads {
        /// How many.
        times: u32,
    },
}

/// How the kernel schedules a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_FIFO` at the lowest priority. Not for a cgroup of the version 1 CPU hierarchy, which gives its
    /// groups no real-time budget by itself.
    Fifo,
    /// `SCHED_RR` at the lowest priority; the same holds.
    RoundRobin,
}

/// A load's process. Ends with the value.
#[derive(Debug)]
pub struct Load {
    process: HelperProcess,
    cpu: Option<usize>,
}

/// The kernel's own figures of a process: the sum over its living threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Time on a CPU, from schedstat.
    pub cpu_ns: u64,
    /// `run_delay`, from schedstat.
    pub wait_ns: u64,
    /// Times that a thread was dispatched, from schedstat.
    pub dispatches: u64,
    /// Voluntary switches, from status.
    pub voluntary: u64,
    /// Involuntary switches, from status.
    pub involuntary: u64,
}

impl Load {
    /// Starts one task in `cgroup` (or where the test is), on one CPU or on all, and waits until it rests there.
    pub fn start(cgroup: Option<&TestCgroup>, work: Work, cpu: Option<usize>) -> Self {
        Self::start_tasks(cgroup, work, cpu, 1)
    }

    /// The same with `tasks` threads that each do the work at the same time.
    pub fn start_tasks(cgroup: Option<&TestCgroup>, work: Work, cpu: Option<usize>, tasks: u32) -> Self {
        let orders = format!("{tasks} {}", work.to_text());
        let number = cpu.unwrap_or_default().to_string();
        let under = ["taskset", "-c", &number];
        let under = if cpu.is_some() { under.as_slice() } else { &[] };
        let process = HelperProcess::start(under, concat!(module_path!(), "::load_process"), &orders);
        let load = Self { process, cpu };
        if let Some(cgroup) = cgroup {
            load.join(cgroup);
        }
        load
    }

    /// Makes it work once; returns at once.
    pub fn go(&mut self) {
        self.process.tell("go");
    }

    /// Waits until it has done its work and rests.
    pub fn done(&mut self) {
        self.done_at();
    }

    /// The same; gives the moment, by the monotonic clock and as the load itself saw it, however late this is heard of.
    pub fn done_at(&mut self) -> Duration {
        let nanoseconds = self.process.answer().unwrap_or_else(|said| panic!("the load has ended and said:\n{said}"));
        Duration::from_nanos(nanoseconds.parse().expect("a number"))
    }

    /// Makes it work once and waits until it rests.
    pub fn run(&mut self) {
        self.run_to();
    }

    /// The same; gives the moment at which it was done, as [`Self::done_at`] does.
    pub fn run_to(&mut self) -> Duration {
        self.go();
        self.done_at()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The kernel's figures while it rests.
    pub fn figures(&self) -> Figures {
        let mut last = None;
        wait_until("a resting load", PATIENCE, || {
            let now = Figures::of(self.id());
            if now.is_some() && now == last {
                return Ok(now.unwrap_or_default());
            }
            last = now;
            Err(format!("its figures are {now:?}"))
        })
    }

    /// Moves it, while it rests, into a cgroup.
    pub fn join(&self, cgroup: &TestCgroup) {
        self.figures();
        cgroup.add(self.id());
        // Before kernel 6.2 a task that comes into another set of CPUs forgets those that it was bound to.
        if let Some(cpu) = self.cpu {
            self.threads().into_iter().for_each(|thread| bind(thread, cpu));
        }
    }

    /// Gives all its tasks a scheduling policy.
    pub fn set_policy(&self, policy: Policy) {
        let (option, priority) = match policy {
            Policy::Batch => ("--batch", "0"),
            Policy::Fifo => ("--fifo", "1"),
            Policy::RoundRobin => ("--rr", "1"),
        };
        let mut command = Command::new("chrt");
        command.args(["--all-tasks", option, "--pid", priority, &self.id().to_string()]);
        let status = command.status();
        assert!(status.as_ref().is_ok_and(ExitStatus::success), "{command:?}: {status:?}");
    }

    /// Gives all its tasks nine times the usual weight: more would starve the kernel's own threads of that CPU.
    pub fn favour(&self) {
        let threads = self.threads().into_iter().map(|thread| thread.to_string());
        let mut command = Command::new("renice");
        let status = command.args(["-n", "-10", "-p"]).args(threads).stdout(Stdio::null()).status();
        assert!(status.as_ref().is_ok_and(ExitStatus::success), "{command:?}: {status:?}");
    }

    /// CPU time of its threads, which may run: the kernel's last note, which is a tick old, and older where the hypervisor
    /// has taken the CPU.
    pub fn cpu_ns_now(&self) -> u64 {
        let first = |text: String| text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
        self.of_threads("schedstat").into_iter().filter_map(first).sum()
    }

    /// The same, as the kernel notes it next: no less than it is now.
    pub fn cpu_ns_by_next_tick(&self) -> u64 {
        let noted_ns = self.cpu_ns_now();
        while self.is_runnable() && self.cpu_ns_now() == noted_ns {
            thread::sleep(Duration::from_micros(200));
        }
        self.cpu_ns_now()
    }

    /// Whether one of its threads runs or waits for a CPU.
    pub fn is_runnable(&self) -> bool {
        let runs = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'));
        self.of_threads("stat").into_iter().any(runs)
    }

    /// Ids of its threads.
    pub fn threads(&self) -> Vec<u32> {
        let id = |stat: String| stat.split(' ').next().and_then(|id| id.parse().ok());
        self.of_threads("stat").into_iter().filter_map(id).collect()
    }

    /// A file of each thread.
    fn of_threads(&self, file: &str) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id())).expect("the load lives");
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join(file)).ok()).collect()
    }

    /// Lets it end by itself and waits for that.
    pub fn end(self) {
        self.process.end();
    }
}

impl Figures {
    /// None while a thread of the process is not asleep, or when it is gone.
    fn of(process: u32) -> Option<Self> {
        let mut sum = Self::default();
        for task in fs::read_dir(format!("/proc/{process}/task")).ok()? {
            let task = task.ok()?.path();
            let status = fs::read_to_string(task.join("status")).ok()?;
            let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if !line("State:")?.starts_with('S') {
                return None;
            }
            let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
            let mut numbers = schedstat.split_whitespace().map_while(|word| word.parse::<u64>().ok());
            sum.cpu_ns += numbers.next()?;
            sum.wait_ns += numbers.next()?;
            sum.dispatches += numbers.next()?;
            sum.voluntary += line("voluntary_ctxt_switches:")?.parse::<u64>().ok()?;
            sum.involuntary += line("nonvoluntary_ctxt_switches:")?.parse::<u64>().ok()?;
        }
        Some(sum)
    }
}

impl Sub for Figures {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns - earlier.cpu_ns,
            wait_ns: self.wait_ns - earlier.wait_ns,
            dispatches: self.dispatches - earlier.dispatches,
            voluntary: self.voluntary - earlier.voluntary,
            involuntary: self.involuntary - earlier.involuntary,
        }
    }
}

impl Work {
    fn to_text(self) -> String {
        match self {
            Self::Spin(time) => format!("spin {}", time.as_nanos()),
            Self::SpinFor(time) => format!("spin-for {}", time.as_nanos()),
            Self::Wake { times, sleep, spin } => format!("wake {times} {} {}", sleep.as_nanos(), spin.as_nanos()),
            Self::Disk { times, sleep } => format!("disk {times} {}", sleep.as_nanos()),
            Self::Yield { times } => format!("yield {times}"),
            Self::Threads { times } => format!("threads {times}"),
        }
    }

    fn from_text(text: &str) -> Self {
        let mut words = text.split(' ');
        let kind = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number follows");
        match kind {
            "spin" => Self::Spin(Duration::from_nanos(number())),
            "spin-for" => Self::SpinFor(Duration::from_nanos(number())),
            "wake" => Self::Wake {
                times: u32::try_from(number()).expect("times are few"),
                sleep: Duration::from_nanos(number()),
                spin: Duration::from_nanos(number()),
            },
            "disk" => Self::Disk {
                times: u32::try_from(number()).expect("times are few"),
                sleep: Duration::from_nanos(number()),
            },
            "yield" => Self::Yield { times: u32::try_from(number()).expect("times are few") },
            "threads" => Self::Threads { times: u32::try_from(number()).expect("times are few") },
            other => panic!("no work is called {other:?}"),
        }
    }

    fn act(self) {
        match self {
            Self::Spin(time) => spin(time),
            Self::SpinFor(time) => {
                let start = Instant::now();
                while start.elapsed() < time {
                    black_box(0);
                }
            }
            Self::Wake { times, sleep, spin: time } => {
                for _ in 0..times {
                    thread::sleep(sleep);
                    spin(time);
                }
            }
            Self::Disk { times, sleep } => (0..times).for_each(|_| wait_for_child(sleep)),
            Self::Yield { times } => (0..times).for_each(|_| thread::yield_now()),
            Self::Threads { times } => (0..times).for_each(|_| thread::spawn(|| ()).join().expect("a thread ends")),
        }
    }
}

#[test]
#[ignore = "no test, but the process that other tests start as a load"]
fn load_process() {
    let Some(orders) = orders() else { return };
    let (tasks, work) = orders.split_once(' ').expect("how many, and what");
    let (tasks, work): (u32, _) = (tasks.parse().expect("a number"), Work::from_text(work));
    let barrier = Arc::new(Barrier::new(tasks as usize + 1));
    if tasks > 1 {
        for _ in 0..tasks {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                loop {
                    barrier.wait();
                    work.act();
                    barrier.wait();
                }
            });
        }
    }
    follow(|_go| {
        if tasks > 1 {
            barrier.wait();
            barrier.wait();
        } else {
            work.act();
        }
        clock(libc::CLOCK_MONOTONIC).as_nanos().to_string()
    })
}

/// Binds the calling thread, and what it starts from now on, to one CPU.
pub fn stay_on(cpu: usize) {
    // SAFETY: the call has no precondition.
    bind(unsafe { libc::gettid() }.cast_unsigned(), cpu);
}

/// Binds a thread to one CPU.
fn bind(thread: u32, cpu: usize) {
    let thread = i32::try_from(thread).expect("it is a thread's id");
    // SAFETY: all bits 0 is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid, and a CPU that is too large for it is not added.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is valid and has the size that is told.
    let answer = unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set) };
    assert_eq!(answer, 0, "thread {thread} to CPU {cpu}: {}", std::io::Error::last_os_error());
}

fn spin(time: Duration) {
    let start = thread_cpu_time();
    while thread_cpu_time().saturating_sub(start) < time {
        for number in 0..200_u32 {
            black_box(number);
        }
    }
}

/// Sleeps, in state D, until a child has slept.
fn wait_for_child(sleep: Duration) {
    // SAFETY: the child goes on with memory of its own.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: it ends with its parent, which the test may end. The call has no other precondition.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        thread::sleep(sleep);
        // SAFETY: the child ends without what the parent would do at its end.
        unsafe { libc::_exit(0) };
    }
    let child = i32::try_from(child).expect("it is a process id");
    assert!(child > 0, "clone: {}", std::io::Error::last_os_error());
    // SAFETY: it is a child of this process.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

/// CPU time of the calling thread.
fn thread_cpu_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock(which: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(which, &raw mut time) };
    let part = |part: i64| u64::try_from(part).expect("clocks do not run backwards");
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
