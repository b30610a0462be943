//! The node as far as the kernel is concerned: one holder process that is pid 1 of a PID namespace and owns a
//! mount and a network namespace, and the programs started inside. It knows nothing of Kubernetes. Called by
//! [`super`].
//!
//! The node has a /run, a /var/lib and a /var/log of its own (folders of the state directory), so every part
//! keeps its usual paths and the machine's stay untouched. When the holder dies, the kernel ends every
//! process of the PID namespace, and with them go all mounts and network devices: nothing can be left over
//! but cgroups and files, which [`Node::destroy`] removes.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, DirBuilder, File},
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    addresses::{Addresses, Range},
    cgroups,
    wait::wait_until,
};
use crate::process;

/// The bridge's hardware address, a locally administered one.
const BRIDGE_ADDRESS: &str = "0a:58:0a:58:00:01";

const HOLDER: &str = "holder";
const START_LIMIT: Duration = Duration::from_secs(10);
const END_LIMIT: Duration = Duration::from_secs(30);

/// Kernel settings that kubelet insists on writing and that hold for the whole machine: inside the node
/// plain files lie over them.
const SHIELDED_SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The state directory and what runs from it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    state: PathBuf,
}

/// A process by number and start time, since numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pid: u32,
    /// Clock ticks since boot, field 22 of /proc/PID/stat.
    start_ticks: u64,
}

impl Node {
    pub(crate) fn new(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into() }
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.state.join("log").join(format!("{program}.log"))
    }

    /// The holder, if it lives.
    pub(crate) fn holder(&self) -> Option<Process> {
        self.recorded(HOLDER)
    }

    /// Makes the namespaces and the node's network. `busybox` is the node's shell and its `ip`.
    pub(crate) fn create(&self, busybox: &Path, addresses: &Addresses) -> Result<()> {
        // It holds the cluster's keys.
        DirBuilder::new()
            .mode(0o700)
            .create(&self.state)
            .with_context(|| format!("cannot make {}", self.state.display()))?;
        for folder in ["log", "process", "run", "var-lib", "var-log", "settings", "manifests"] {
            let folder = self.state.join(folder);
            fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        cgroups::make()?;
        let script = self.state.join("holder.sh");
        fs::write(&script, self.holder_script(busybox, addresses)?).context("cannot write the holder's script")?;
        let log = self.log(HOLDER);
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--mount", "--propagation", "private", "--net", "--pid", "--fork", "--mount-proc"])
            .arg(busybox)
            .arg("sh")
            .arg(&script);
        let parent = self.spawn(&mut unshare, &log)?;
        wait_until("the node's namespaces", START_LIMIT, &log, || {
            if !self.state.join("run/ready").exists() {
                bail!("the holder has not finished its script")
            }
            let holder = child_of(parent).context("the holder's process is not there")?;
            self.record(HOLDER, holder)
        })
    }

    /// A command inside the node: its processes, mounts and network.
    pub(crate) fn enter(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.nsenter(&["--mount", "--net", "--pid"], program.as_ref())
    }

    /// A command of this machine that shares only the node's network.
    pub(crate) fn enter_network(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.nsenter(&["--net"], program.as_ref())
    }

    /// Starts `program` inside, unless it runs, with its output in its log.
    pub(crate) fn start(&self, name: &str, program: &mut Command) -> Result<()> {
        if self.running(name).is_some() {
            return Ok(());
        }
        let log = self.log(name);
        let parent = self.spawn(program, &log)?;
        wait_until(&format!("the start of {name}"), START_LIMIT, &log, || {
            self.record(name, child_of(parent).context("its process is not there")?)
        })
    }

    pub(crate) fn running(&self, name: &str) -> Option<Process> {
        self.recorded(name)
    }

    /// Ends one program at once, as a crash would.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        let Some(process) = self.recorded(name) else { return Ok(()) };
        process.kill()?;
        wait_until(&format!("the end of {name}"), END_LIMIT, &self.log(name), || process.has_ended())
    }

    /// Ends everything inside and removes the cgroups and the state directory.
    pub(crate) fn destroy(&self) -> Result<()> {
        if let Some(holder) = self.holder() {
            holder.kill()?;
            // The kernel ends all of the namespace's processes before the holder itself is gone.
            wait_until("the end of the node's processes", END_LIMIT, &self.log(HOLDER), || holder.has_ended())?;
        }
        // Also where somebody has removed the directory: the next node could not make its own.
        wait_until("the end of the containers' cgroups", END_LIMIT, &self.log(HOLDER), cgroups::remove)?;
        if !self.state.exists() {
            return Ok(());
        }
        fs::remove_dir_all(&self.state).with_context(|| format!("cannot remove {}", self.state.display()))
    }

    fn nsenter(&self, namespaces: &[&str], program: &OsStr) -> Result<Command> {
        let Some(holder) = self.holder() else {
            bail!("cannot enter the cluster's node: it does not run; start it with `cargo xtask cluster up`")
        };
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(holder.pid.to_string()).args(namespaces).arg("--").arg(program);
        Ok(command)
    }

    fn spawn(&self, program: &mut Command, log: &Path) -> Result<u32> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let child = program
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .current_dir(&self.state)
            // A process group of its own: an interrupt at the terminal does not reach the cluster.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program:?}"))?;
        Ok(child.id())
    }

    fn record(&self, name: &str, process: Process) -> Result<()> {
        let path = self.state.join("process").join(name);
        fs::write(&path, format!("{} {}\n", process.pid, process.start_ticks))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn recorded(&self, name: &str) -> Option<Process> {
        let text = fs::read_to_string(self.state.join("process").join(name)).ok()?;
        let (pid, start_ticks) = text.trim().split_once(' ')?;
        let process = Process { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? };
        process.lives().then_some(process)
    }

    fn holder_script(&self, busybox: &Path, addresses: &Addresses) -> Result<String> {
        let state = self.state.display();
        let shell = busybox.display();
        let mut script = String::from("set -eu\n");
        for setting in SHIELDED_SETTINGS {
            let machine = Path::new("/proc/sys").join(setting);
            let Ok(value) = fs::read_to_string(&machine) else { continue };
            let shield = self.state.join("settings").join(setting.replace('/', "."));
            fs::write(&shield, value).with_context(|| format!("cannot write {}", shield.display()))?;
            writeln!(script, "{shell} mount --bind {} {}", shield.display(), machine.display())?;
        }
        for (own, usual) in [("run", "/run"), ("var-lib", "/var/lib"), ("var-log", "/var/log")] {
            writeln!(script, "{shell} mount --bind {state}/{own} {usual}")?;
        }
        let Addresses { node, service, pods: Range { bits, .. }, .. } = addresses;
        let (option, settings) = if node.is_ipv6() {
            // Addresses are good at once, since nobody else is there to have them: kubelet refuses one that is not.
            let settings = "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding\n\
                            echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad\n";
            ("-6", settings)
        } else {
            ("-4", "echo 1 >/proc/sys/net/ipv4/ip_forward\n")
        };
        write!(
            script,
            "{settings}\
             {shell} ip link set lo up\n\
             {shell} ip link add cni0 type bridge\n\
             # Else the bridge takes the lowest address of its ports, and each new pod may change it: the others then\n\
             # talk to an address that nobody has until their tables of neighbours find out.\n\
             {shell} ip link set cni0 address {BRIDGE_ADDRESS}\n\
             {shell} ip addr add {node}/{bits} dev cni0\n\
             {shell} ip addr add {service} dev lo\n\
             {shell} ip link set cni0 up\n\
             {shell} ip {option} route add default dev cni0\n\
             : >/run/ready\n\
             # Ended orphans are reaped by the kernel while their parent ignores this signal.\n\
             trap '' CHLD\n\
             exec {shell} sleep 2147483647\n"
        )?;
        Ok(script)
    }
}

impl Process {
    fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in field 2 may hold spaces and parentheses; field 3 follows its last parenthesis.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        Some(Self { pid, start_ticks: fields.nth(18)?.parse().ok()? })
    }

    fn lives(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    fn has_ended(self) -> Result<()> {
        if self.lives() {
            bail!("process {} still runs", self.pid)
        }
        Ok(())
    }

    pub(crate) fn pid(self) -> u32 {
        self.pid
    }

    fn kill(self) -> Result<()> {
        if self.lives() {
            process::output(Command::new("kill").args(["-KILL", &self.pid.to_string()]))?;
        }
        Ok(())
    }
}

/// The one child of nsenter or unshare, which fork to enter the PID namespace.
fn child_of(parent: u32) -> Option<Process> {
    for entry in fs::read_dir("/proc").ok()? {
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent_field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1));
        if parent_field.and_then(|field| field.parse().ok()) == Some(parent) {
            return Process::find(pid);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::{Process, child_of};

    #[test]
    fn a_process_is_known_by_its_start_and_not_by_its_number_alone() {
        let own = Process::find(std::process::id()).unwrap();
        assert!(own.lives());
        assert!(!Process { start_ticks: own.start_ticks + 1, ..own }.lives());
    }

    #[test]
    fn a_child_is_found_and_is_gone_after_its_end() {
        // Children of this process come and go, other tests' among them; those of the shell are its own.
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let sleeping = loop {
            if let Some(sleeping) = child_of(shell.id()) {
                break sleeping;
            }
            std::thread::yield_now();
        };
        assert!(sleeping.lives());
        sleeping.kill().unwrap();
        shell.wait().unwrap();
        assert!(!sleeping.lives());
    }
}
