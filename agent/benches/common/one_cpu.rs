//! One CPU, and two processes on it that hand a byte to and fro through pipes: two context switches an operation, and nothing else.
//! What a bare switch takes says how fast a machine is.

use std::{
    env,
    fs::File,
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::AsFd as _,
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::statistics::median;

/// Set for the process that hands a byte back, and for one that tells what a switch takes.
const PIPE: &str = "PODLENS_BENCH_PIPE";
const BARE: &str = "PODLENS_BENCH_BARE";
/// How often a bare switch is measured for its median, how many operations that is each time, and the pause before: others on the same
/// host disturb this machine for tenths of a second.
const SAMPLES: usize = 40;
const OPERATIONS: u32 = 4000;
const PAUSE: Duration = Duration::from_millis(50);

/// This process and one that hands back each byte that it is handed.
pub(crate) struct Pair {
    child: Child,
    to_child: PipeWriter,
    from_child: PipeReader,
}

impl Pair {
    /// The other process is this program again, in this one's cgroup and on its CPUs.
    pub(crate) fn start() -> Result<Self> {
        let (from_here, to_child) = io::pipe().context("cannot make a pipe")?;
        let (from_child, to_here) = io::pipe().context("cannot make a pipe")?;
        let itself = env::current_exe().context("cannot tell where this program is")?;
        let mut child = Command::new(itself);
        child.env_remove(BARE).env(PIPE, "1").stdin(from_here).stdout(to_here);
        let child = child.spawn().context("cannot start a process")?;
        let mut pair = Self { child, to_child, from_child };
        // It has begun once it answers.
        pair.operations(1)?;
        Ok(pair)
    }

    /// The process that hands back.
    pub(crate) fn other_id(&self) -> u32 {
        self.child.id()
    }

    /// Hands the byte over and takes it back so many times; nanoseconds a switch.
    pub(crate) fn operations(&mut self, count: u32) -> Result<f64> {
        let mut byte = [0];
        let began = Instant::now();
        for _ in 0..count {
            self.to_child.write_all(&byte)?;
            self.from_child.read_exact(&mut byte)?;
        }
        Ok(began.elapsed().as_nanos() as f64 / f64::from(2 * count))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // One that is gone already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a bare switch takes here, in nanoseconds: a process of its own measures it, and this one stays as it is.
pub(crate) fn bare_switch_ns() -> Result<f64> {
    let itself = env::current_exe().context("cannot tell where this program is")?;
    let output = Command::new(itself).env(BARE, "1").stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "cannot measure a bare switch: {}", output.status);
    let told = String::from_utf8(output.stdout)?;
    told.trim().parse().with_context(|| format!("`{}` is no time of a switch", told.trim()))
}

/// Does what this process was started for by another one of its kind; whether there was anything.
pub(crate) fn has_served() -> Result<bool> {
    if env::var_os(PIPE).is_some() {
        hand_back()?;
    } else if env::var_os(BARE).is_some() {
        println!("{}", measure_bare_switch()?);
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn measure_bare_switch() -> Result<f64> {
    pin_first_in_first_out()?;
    let mut pair = Pair::start()?;
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        thread::sleep(PAUSE);
        samples.push(pair.operations(OPERATIONS)?);
    }
    Ok(median(samples))
}

/// The other process of a pair.
fn hand_back() -> Result<()> {
    // Not buffered, and nothing but the two calls.
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut to = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut byte = [0];
    while from.read(&mut byte)? == 1 {
        to.write_all(&byte)?;
    }
    Ok(())
}

/// Puts this process on the first CPU. Processes that it starts inherit that.
pub(crate) fn pin() -> Result<()> {
    on_itself("taskset", &["--cpu-list", "--pid", "0"])
}

/// The same first in, first out: no other task comes between there, and a switch is accounted alike in each class.
pub(crate) fn pin_first_in_first_out() -> Result<()> {
    on_itself("chrt", &["--fifo", "--pid", "1"])?;
    pin()
}

/// Runs a command for this process: the command's arguments end with its id.
fn on_itself(command: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(command).args(arguments).arg(process::id().to_string()).output();
    let output = output.with_context(|| format!("cannot run {command}: `cargo xtask setup` installs it"))?;
    if !output.status.success() {
        bail!("{command} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
