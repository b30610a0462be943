//! `cargo xtask run`: builds podlens, starts it, tells where to look and shows a first table.
//!
//! The daemon runs in a process group of its own, so that a Ctrl-C of the terminal reaches it once, through
//! this process, and its exit code is this process' exit code.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::agent::{self, Form};

/// Where podlens listens unless told otherwise.
const DEFAULT_LISTEN: &str = "[::]:9464";
/// How long podlens may take until it is ready, before a hint is printed.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A capability's name and its bit in the kernel's masks.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Builds and runs podlens with the given arguments, until it ends.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let binary = agent::build(Form { release: true, static_binary: false })?;
    if !may_load(&fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?) {
        println!(
            "run: loading kernel programs needs CAP_BPF and CAP_PERFMON, which this user does not have.\n\
             run: podlens is built; start it as root:\n\n    sudo {} run {}\n",
            binary.display(),
            arguments.join(" ")
        );
        return Ok(ExitCode::FAILURE);
    }
    let address = reachable(&listen_address(arguments, env::var("PODLENS_LISTEN").ok()))?;
    // A configuration file may name another address; then the daemon's own error has to do.
    let configured = flag(arguments, "--config").is_some() || env::var_os("PODLENS_CONFIG").is_some();
    if !configured && TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
        bail!(
            "something listens on {address} already, perhaps another podlens: stop it, or choose another \
             address by `cargo xtask run -- --listen ADDRESS:PORT`"
        );
    }
    supervise(&binary, arguments, address)
}

fn supervise(binary: &Path, arguments: &[String], address: SocketAddr) -> Result<ExitCode> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    let mut child = Command::new(binary)
        .arg("run")
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let child_id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the child has no process id")?;
    thread::spawn(move || {
        for _ in signals.forever() {
            // Fails only if the child has just ended, and then this process ends too.
            let _ = kill_process(child_id, Signal::TERM);
        }
    });
    let (announced, configuration) = (binary.to_path_buf(), flag(arguments, "--config"));
    thread::spawn(move || announce(&announced, configuration.as_deref(), address));
    let status = child.wait().context("cannot wait for podlens")?;
    println!("run: podlens ended with {status}");
    Ok(exit_code(status))
}

/// Waits until podlens is ready; then says where to look and shows the first table.
fn announce(binary: &Path, configuration: Option<&str>, address: SocketAddr) {
    let start = Instant::now();
    let mut hinted = false;
    loop {
        let answer = match testkit::http::get(address, "/readyz") {
            Ok((200, _)) => break,
            Ok((code, body)) => format!("{code} {body}"),
            Err(error) => error,
        };
        if !hinted && start.elapsed() > READY_WITHIN {
            println!("run: http://{address}/readyz is not content after {} s: {answer}", READY_WITHIN.as_secs());
            hinted = true;
        }
        thread::sleep(Duration::from_millis(100));
    }
    println!(
        "\nrun: podlens is ready after {:.1} s.\n\
         \x20 http://{address}/          what it serves\n\
         \x20 http://{address}/metrics   for Prometheus\n\
         \x20 http://{address}/readyz    the state of each collector\n\
         \x20 Ctrl-C stops it.\n\n\
         run: the busiest of the next seconds, by `podlens snapshot --output table`:\n",
        start.elapsed().as_secs_f64()
    );
    match snapshot(binary, configuration).status() {
        Ok(status) if status.success() => {}
        Ok(status) => println!("run: the snapshot ended with {status}"),
        Err(error) => println!("run: cannot start the snapshot: {error}"),
    }
}

fn snapshot(binary: &Path, configuration: Option<&str>) -> Command {
    let mut command = Command::new(binary);
    command.args(["snapshot", "--output", "table"]).stdin(Stdio::null());
    if let Some(file) = configuration {
        command.args(["--config", file]);
    }
    command
}

/// Where podlens will listen: by its flag, else by its variable, else by default.
fn listen_address(arguments: &[String], variable: Option<String>) -> String {
    flag(arguments, "--listen").or(variable).unwrap_or_else(|| DEFAULT_LISTEN.to_owned())
}

/// The value of a flag, written `--flag value` or `--flag=value`; empty where it is missing.
fn flag(arguments: &[String], name: &str) -> Option<String> {
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == name {
            return Some(words.next().cloned().unwrap_or_default());
        }
        if let Some(value) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value.to_owned());
        }
    }
    None
}

/// The address at which a listener is reached from this machine. One on every address takes IPv4 in any case, and IPv6 only where
/// the kernel has it.
fn reachable(listen: &str) -> Result<SocketAddr> {
    let mut address: SocketAddr =
        listen.parse().with_context(|| format!("`{listen}` is no address to listen on; write it as 127.0.0.1:9464"))?;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    Ok(address)
}

/// Whether a process with this `/proc/PID/status` may load and attach the kernel programs.
fn may_load(status: &str) -> bool {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let holds = |capability: u32| mask.is_some_and(|mask| mask & (1 << capability) != 0);
    holds(CAP_SYS_ADMIN) || (holds(CAP_BPF) && holds(CAP_PERFMON))
}

/// As a shell reports it: the code, or 128 and the signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        os::unix::process::ExitStatusExt as _,
        process::{ExitCode, ExitStatus},
    };

    use super::{DEFAULT_LISTEN, exit_code, flag, listen_address, may_load, reachable};

    #[test]
    fn the_flag_wins_over_the_variable_and_the_variable_over_the_default() {
        let table: [(&[&str], Option<&str>, &str); 5] = [
            (&[], None, "[::]:9464"),
            (&[], Some("127.0.0.1:1"), "127.0.0.1:1"),
            (&["--listen", "127.0.0.1:2"], Some("127.0.0.1:1"), "127.0.0.1:2"),
            (&["--node", "a", "--listen=127.0.0.1:3"], None, "127.0.0.1:3"),
            (&["--listen"], None, ""),
        ];
        for (arguments, variable, expected) in table {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            assert_eq!(listen_address(&arguments, variable.map(str::to_owned)), expected, "{arguments:?}");
        }
    }

    #[test]
    fn the_default_is_podlens_own() {
        let table = include_str!("../../docs/config.md");
        let line = table.lines().find(|line| line.starts_with("| `listen` |")).unwrap();
        assert_eq!(line.split(" | ").nth(3), Some(&*format!("`{DEFAULT_LISTEN}`")), "{line}");
    }

    #[test]
    fn a_listener_on_every_address_is_reached_by_loopback() {
        let table = [
            ("0.0.0.0:9464", Some("127.0.0.1:9464")),
            ("[::]:80", Some("127.0.0.1:80")),
            ("10.1.2.3:80", Some("10.1.2.3:80")),
            ("9464", None),
        ];
        for (listen, expected) in table {
            assert_eq!(reachable(listen).ok().map(|address| address.to_string()).as_deref(), expected, "{listen}");
        }
    }

    #[test]
    fn loading_takes_both_capabilities_or_the_administrators_one() {
        let table = [
            ("CapEff:\t000000c000000000\n", true),
            ("CapEff:\t0000008000000000\n", false),
            ("CapEff:\t0000004000000000\n", false),
            ("CapEff:\t0000000000200000\n", true),
            ("CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n", false),
            ("", false),
        ];
        for (status, expected) in table {
            assert_eq!(may_load(status), expected, "{status:?}");
        }
    }

    #[test]
    fn a_flag_is_found_by_its_whole_name() {
        let arguments: Vec<String> = ["--configuration=x", "--config=a.yaml"].map(str::to_owned).into();
        assert_eq!(flag(&arguments, "--config").as_deref(), Some("a.yaml"));
        assert_eq!(flag(&arguments, "--listen"), None);
    }

    #[test]
    fn the_daemons_end_is_told_as_a_shell_does() {
        // As wait(2) has them: the code in the second byte, the signal in the first.
        for (wait_status, expected) in [(0, 0), (3 << 8, 3), (9, 137)] {
            assert_eq!(exit_code(ExitStatus::from_raw(wait_status)), ExitCode::from(expected), "{wait_status}");
        }
    }
}
