//! One run of one virtual machine: QEMU started, its serial console read, its time bounded.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::places;

/// The program that emulates the machine.
const QEMU: &str = "qemu-system-x86_64";
/// The guest prints these alone on a line, each with a value.
const BOOT_MARK: &str = "PODLENS_VM_BOOT=";
const EXIT_MARK: &str = "PODLENS_VM_EXIT=";
/// How long QEMU may take to end after the guest has said its result.
const END: Duration = Duration::from_secs(10);
/// Megabytes.
const MEMORY_MB: u32 = 2048;
/// How many of the console's last lines a failure shows.
const LAST_LINES: usize = 20;

/// What is started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine<'a> {
    pub(super) vmlinuz: &'a Path,
    pub(super) initial_files: &'a Path,
    /// A file system as a file, which becomes a disk.
    pub(super) disk: &'a Path,
    /// As QEMU's `-smp` takes them.
    pub(super) cpus: &'a str,
    /// Megabytes of its memory that are a node of their own.
    pub(super) second_node: Option<u32>,
    /// More of the kernel's command line; `NAME=value` becomes a variable of the first process.
    pub(super) parameters: &'a str,
    pub(super) limit: Duration,
}

/// How the guest's command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The kernel's release, as it names itself.
    pub(crate) release: String,
    /// The command's exit code.
    pub(crate) code: u8,
    /// From QEMU's start to the command's.
    pub(crate) boot: Duration,
    /// From the command's start to its end.
    pub(crate) command: Duration,
}

impl Machine<'_> {
    /// Boots, hands each line of the command's output to `line` and waits for its end.
    pub(super) fn run(&self, mut line: impl FnMut(&str) -> Result<()>) -> Result<Outcome> {
        let start = Instant::now();
        let mut qemu = Qemu(self.command()?.spawn().context("cannot start QEMU")?);
        let lines = qemu.lines()?;
        let mut seen: Vec<String> = Vec::new();
        let mut boot = None;
        let lost = loop {
            let left = self.limit.saturating_sub(start.elapsed());
            let text = match lines.recv_timeout(left) {
                Ok(text) => text,
                Err(RecvTimeoutError::Timeout) => {
                    break format!("was not done after {} s", self.limit.as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => break "ended without a result".to_owned(),
            };
            if let Some(release) = text.strip_prefix(BOOT_MARK) {
                boot = Some((release.to_owned(), Instant::now()));
            } else if let Some((last_line, code)) = text.split_once(EXIT_MARK) {
                let end = Instant::now();
                if !last_line.is_empty() {
                    line(last_line)?;
                }
                qemu.end()?;
                let code = code.parse().with_context(|| format!("the exit code `{code}` is none"))?;
                let (release, booted) = boot.context("the guest gave a result before it booted")?;
                return Ok(Outcome {
                    release,
                    code,
                    boot: booted.duration_since(start),
                    command: end.duration_since(booted),
                });
            } else if boot.is_some() {
                line(&text)?;
            }
            seen.push(text);
        };
        if seen.is_empty() {
            bail!("the virtual machine {lost}; it printed nothing");
        }
        let last_lines = seen.split_off(seen.len().saturating_sub(LAST_LINES));
        bail!(
            "the virtual machine {lost}; the last lines of its console and of QEMU:\n    {}",
            last_lines.join("\n    ")
        )
    }

    fn command(&self) -> Result<Command> {
        let program: PathBuf = places::program(QEMU)
            .with_context(|| format!("there is no {QEMU}; `cargo xtask setup --for vm` installs it"))?;
        let mut command = Command::new(program);
        // Emulation, not KVM: it works everywhere, and alike. One thread for all CPUs: with two, QEMU 7.2 runs stale
        // code while a CPU patches the kernel's text (static keys, tracepoints), and some runs panic at an int3.
        // A panicking kernel reboots at once, and a reboot ends QEMU.
        command
            .args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", self.cpus])
            .args(["-m", &format!("{MEMORY_MB}M")])
            .args(nodes(self.second_node))
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(self.vmlinuz)
            .arg("-initrd")
            .arg(self.initial_files)
            // What is in the file when the machine ends nobody reads.
            .arg("-drive")
            .arg(format!("file={},if=virtio,format=raw,cache=unsafe", self.disk.display()))
            .arg("-append")
            // One thread for all CPUs means one counter for all: older kernels do not see that it can be trusted, and without it their
            // scheduler's clock, and so pressure, is wrong by a few percent, as on no node.
            .arg(format!("console=ttyS0 quiet panic=-1 tsc=reliable {}", self.parameters))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// What makes two nodes of the memory: the first has the rest, and all CPUs.
fn nodes(second_mb: Option<u32>) -> Vec<String> {
    let Some(second_mb) = second_mb else { return Vec::new() };
    let sizes = [("first", 0, MEMORY_MB.saturating_sub(second_mb)), ("second", 1, second_mb)];
    let mut arguments = Vec::new();
    for (name, number, megabytes) in sizes {
        let backend = format!("memory-backend-ram,id={name},size={megabytes}M");
        arguments.extend(["-object".to_owned(), backend]);
        arguments.extend(["-numa".to_owned(), format!("node,nodeid={number},memdev={name}")]);
    }
    arguments.extend(["-numa".to_owned(), "cpu,node-id=0,socket-id=0".to_owned()]);
    arguments
}

/// A running QEMU, which never outlives its owner.
struct Qemu(Child);

impl Qemu {
    /// The lines of the console and of QEMU's own complaints.
    fn lines(&mut self) -> Result<Receiver<String>> {
        let (sender, receiver) = mpsc::channel();
        let console = self.0.stdout.take().context("QEMU's output is not a pipe")?;
        let complaints = self.0.stderr.take().context("QEMU's errors are not a pipe")?;
        let outputs: [Box<dyn Read + Send>; 2] = [Box::new(console), Box::new(complaints)];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(receiver)
    }

    /// Waits until QEMU has ended by itself, for a bounded time.
    fn end(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < END {
            if self.0.try_wait().context("cannot wait for QEMU")?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("the guest did not reboot within {} s after its result", END.as_secs())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only where QEMU has ended already, which is what they are for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
