//! The steps that install Debian's packages.
//!
//! A check looks for the programs, not for the packages, so that a machine of another distribution that has
//! the programs is content.

use std::{process::Command, sync::OnceLock};

use anyhow::{Result, bail};

use crate::{
    places, process,
    step::{Purpose, Step},
};

/// A program and the Debian package that has it.
struct Program {
    name: &'static str,
    package: &'static str,
}

const STATIC_PROGRAMS: &[Program] = &[Program { name: "musl-gcc", package: "musl-tools" }];

const TEST_PROGRAMS: &[Program] = &[
    Program { name: "bpftool", package: "bpftool" },
    Program { name: "stress-ng", package: "stress-ng" },
    Program { name: "fio", package: "fio" },
    Program { name: "hackbench", package: "rt-tests" },
    Program { name: "perf", package: "linux-perf" },
    Program { name: "ip", package: "iproute2" },
    Program { name: "nft", package: "nftables" },
];

const BENCH_PROGRAMS: &[Program] = &[
    Program { name: "fio", package: "fio" },
    Program { name: "iperf3", package: "iperf3" },
    Program { name: "nginx", package: "nginx-light" },
    Program { name: "wrk", package: "wrk" },
];

const VM_PROGRAMS: &[Program] = &[
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86" },
    Program { name: "mke2fs", package: "e2fsprogs" },
];

const REMEDY: &str = "become root or get sudo, or install the programs yourself by your distribution's package manager";

/// The C compiler for the static binary: a dependency of the OTLP client has parts in C.
pub(crate) const STATIC: Step = Step {
    name: "packages for static",
    why: "to compile a dependency's C code for the static binary",
    purpose: Purpose::Static,
    check: || check(STATIC_PROGRAMS),
    act: || act(STATIC_PROGRAMS),
    remedy: REMEDY,
};

/// Loads and the programs that tests compare with.
pub(crate) const TEST: Step = Step {
    name: "packages for tests",
    why: "to make load, to inspect the kernel and to shape the network",
    purpose: Purpose::Test,
    check: || check(TEST_PROGRAMS),
    act: || act(TEST_PROGRAMS),
    remedy: REMEDY,
};

/// What benchmarks load the network and disks with.
pub(crate) const BENCH: Step = Step {
    name: "packages for bench",
    why: "to load the network as peers do, and disks; the web server's package may start it as a service",
    purpose: Purpose::Bench,
    check: || check(BENCH_PROGRAMS),
    act: || act(BENCH_PROGRAMS),
    remedy: REMEDY,
};

/// The virtual machine.
pub(crate) const VM: Step = Step {
    name: "packages for vm",
    why: "to boot other kernels",
    purpose: Purpose::Vm,
    check: || check(VM_PROGRAMS),
    act: || act(VM_PROGRAMS),
    remedy: REMEDY,
};

fn check(programs: &[Program]) -> Result<String> {
    let missing: Vec<&str> = missing(programs).map(|program| program.name).collect();
    if !missing.is_empty() {
        bail!("there is no {}", missing.join(", "));
    }
    let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
    Ok(names.join(", "))
}

fn missing(programs: &[Program]) -> impl Iterator<Item = &Program> {
    programs.iter().filter(|program| places::program(program.name).is_none())
}

fn act(programs: &[Program]) -> Result<()> {
    let packages: Vec<&str> = missing(programs).map(|program| program.package).collect();
    if places::program("apt-get").is_none() {
        bail!("this is no Debian (no apt-get); there the packages are {}", packages.join(", "));
    }
    update_lists()?;
    let what = format!("installing {}", packages.join(", "));
    process::watched(&what, as_root("apt-get").args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

/// Refreshes apt's lists, once in a run.
fn update_lists() -> Result<()> {
    static UPDATED: OnceLock<()> = OnceLock::new();
    if UPDATED.get().is_none() {
        process::watched("refreshing the lists of packages", as_root("apt-get").arg("update"))?;
        UPDATED.get_or_init(|| ());
    }
    Ok(())
}

/// A command as root: as it is, or by sudo, which asks on the terminal.
fn as_root(program: &str) -> Command {
    let mut command = if is_root() { Command::new("env") } else { Command::new("sudo") };
    if !is_root() {
        command.arg("env");
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", program]);
    command
}

/// Whether this process' effective user is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Program, check};

    #[test]
    fn only_the_missing_programs_are_named() {
        let sh = Program { name: "sh", package: "dash" };
        let none = Program { name: "no-such-program-anywhere", package: "none" };
        assert_eq!(check(&[sh]).unwrap(), "sh");
        assert_eq!(check(&[none]).unwrap_err().to_string(), "there is no no-such-program-anywhere");
    }
}
