//! A full record of switches and wakeups, taken by `perf`, and who delayed whom on one CPU by it: the slow and
//! complete answer that the agent's bounded one is held against.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use tempfile::TempDir;

use super::{PATIENCE, modules::run};

/// Nanoseconds that a thread waited while another ran: by waiting, then by running thread.
pub type Waits = HashMap<u32, HashMap<u32, u64>>;

/// Nanoseconds of each wait of a thread.
pub type Lengths = HashMap<u32, Vec<u64>>;

/// A running record.
#[derive(Debug)]
pub struct Record {
    perf: Child,
    file: PathBuf,
    _directory: TempDir,
}

/// One line of the record.
enum Event {
    Switch { previous: u32, still_runnable: bool, next: u32 },
    Wakeup { thread: u32 },
}

/// What has run so far, by thread.
#[derive(Default)]
struct Progress {
    ran_ns: HashMap<u32, u64>,
    running: Option<(u32, u64)>,
    /// When the wait began, as what everybody had run by then.
    waiting: HashMap<u32, HashMap<u32, u64>>,
    waits: Waits,
    since: HashMap<u32, u64>,
    lengths: Lengths,
}

impl Record {
    /// Begins to record: perf has switched its events on, as it says itself.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary files can be written");
        let [file, commands, answers] = ["record.data", "commands", "answers"].map(|name| directory.path().join(name));
        for pipe in [&commands, &answers] {
            run(Command::new("mkfifo").arg(pipe));
        }
        let perf = Command::new("perf")
            .args(["record", "--quiet", "--mmap-pages", "2048", "--all-cpus", "--delay=-1"])
            .args(["--event", "sched:sched_switch,sched:sched_wakeup,sched:sched_wakeup_new"])
            .arg(format!("--control=fifo:{},{}", commands.display(), answers.display()))
            .arg("--output")
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .expect("perf is installed");
        let mut record = Self { perf, file, _directory: directory };
        // For reading and writing, so that opening waits for nobody and the end of perf is no end of the pipe.
        let open = |pipe| OpenOptions::new().read(true).write(true).open(pipe).expect("it was made");
        let (mut commands, answers) = (open(&commands), open(&answers));
        writeln!(commands, "enable").expect("perf reads it");
        let (answered, answer) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            // Where perf has ended, the test ends before this thread.
            let _ = BufReader::new(answers).read_line(&mut line);
            let _ = answered.send(line);
        });
        match answer.recv_timeout(PATIENCE) {
            Ok(line) if line.starts_with("ack") => record,
            other => panic!("perf does not begin: {other:?}, {:?}", record.perf.try_wait()),
        }
    }

    /// Ends it: who waited on that CPU while who ran there.
    pub fn finish(self, cpu: usize) -> Waits {
        self.end(cpu).waits
    }

    /// Ends it: how long each wait on that CPU was.
    pub fn lengths(self, cpu: usize) -> Lengths {
        self.end(cpu).lengths
    }

    fn end(mut self, cpu: usize) -> Progress {
        let status = Command::new("kill").args(["-INT", &self.perf.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "perf still runs");
        // It tells the signal that ended it.
        let _ = self.perf.wait();
        let output = Command::new("perf")
            .args(["script", "--ns", "--fields", "cpu,time,event,trace", "--input"])
            .arg(&self.file)
            .output()
            .expect("perf reads its own file");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut progress = Progress::default();
        for line in text.lines() {
            if let Some((time_ns, event)) = event(line, cpu) {
                progress.step(time_ns, &event);
            }
        }
        progress
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

impl Progress {
    fn step(&mut self, time_ns: u64, event: &Event) {
        if let Some((running, since_ns)) = &mut self.running {
            *self.ran_ns.entry(*running).or_default() += time_ns.saturating_sub(*since_ns);
            *since_ns = time_ns;
        }
        match event {
            Event::Wakeup { thread } => {
                let runs = self.running.is_some_and(|(running, _)| running == *thread);
                if !runs && !self.waiting.contains_key(thread) {
                    self.since.insert(*thread, time_ns);
                    self.waiting.insert(*thread, self.ran_ns.clone());
                }
            }
            Event::Switch { previous, still_runnable, next } => {
                if *still_runnable && *previous != 0 {
                    self.since.insert(*previous, time_ns);
                    self.waiting.insert(*previous, self.ran_ns.clone());
                }
                if let Some(since_ns) = self.since.remove(next) {
                    self.lengths.entry(*next).or_default().push(time_ns.saturating_sub(since_ns));
                }
                if let Some(before) = self.waiting.remove(next) {
                    let waits = self.waits.entry(*next).or_default();
                    for (thread, ran_ns) in &self.ran_ns {
                        let meanwhile_ns = ran_ns - before.get(thread).copied().unwrap_or(0);
                        if meanwhile_ns > 0 {
                            *waits.entry(*thread).or_default() += meanwhile_ns;
                        }
                    }
                }
                self.running = Some((*next, time_ns));
            }
        }
    }
}

/// Reads `[CPU] SECONDS.FRACTION: EVENT: KEY=VALUE ...`; none for what is not of the CPU that is looked at.
fn event(line: &str, cpu: usize) -> Option<(u64, Event)> {
    let (at_cpu, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let (time, rest) = rest.trim_start().split_once(": ")?;
    let (seconds, fraction) = time.split_once('.')?;
    let time_ns = seconds.parse::<u64>().ok()? * 1_000_000_000 + format!("{fraction:0<9}").parse::<u64>().ok()?;
    let number = |key: &str| {
        let (_, after) = rest.rsplit_once(&format!(" {key}="))?;
        after.split(' ').next()?.parse::<u32>().ok()
    };
    if rest.contains("sched_switch: ") {
        let (_, state) = rest.rsplit_once(" prev_state=")?;
        if at_cpu.parse::<usize>().ok()? != cpu {
            return None;
        }
        let still_runnable = state.starts_with('R');
        let switch = Event::Switch { previous: number("prev_pid")?, still_runnable, next: number("next_pid")? };
        return Some((time_ns, switch));
    }
    if number("target_cpu")? as usize != cpu {
        return None;
    }
    Some((time_ns, Event::Wakeup { thread: number("pid")? }))
}
