//! `cargo xtask vm`: runs a static program, or the tests of agent/tests, on other kernels, in virtual machines
//! without KVM.
//!
//! The guest is a cached kernel, an empty disk at /disk, and one archive of files in memory: Debian's static busybox, a short
//! script as the first process, the program. Initial files, serial console, control groups, file systems, BPF and loopback are
//! built into the kernels; drivers of disks and network devices need not be. Those lie in /lib/modules: what the machine's own disk
//! needs its first process loads, and what tests need the test.

mod archive;
mod guest;
mod machine;
mod record;
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    kernels::{self, DISK_MODULES, Kernel},
    places, process,
};
use guest::Guest;
use machine::{Machine, Outcome};

pub(crate) use guest::busybox;
pub(crate) use tests::{Tests, run_tests};

/// Seconds that a machine may take by default, for one program and for tests.
const PROGRAM_LIMIT_S: u64 = 120;
const TESTS_LIMIT_S: u64 = 1800;
/// As mke2fs takes it.
const DISK_SIZE: &str = "4G";

/// Which kernels, how they are set up and what runs on them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// Series of the kernel, or all; may be given several times
    #[arg(long = "kernel", value_name = "SERIES", default_value = "all")]
    kernels: Vec<String>,
    /// How control groups are mounted
    #[arg(long, value_enum, default_value_t = Cgroup::V2)]
    cgroup: Cgroup,
    #[command(flatten)]
    hardware: Hardware,
    /// Seconds that one machine may take; 120 for a program and 1800 for tests unless given
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Another file for the guest, as `HOST_PATH:GUEST_PATH`
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<String>,
    /// Run the tests that need nothing but a kernel: all, or those whose names contain one of the filters
    #[arg(long, num_args = 0.., value_name = "FILTER", conflicts_with = "command")]
    tests: Option<Vec<String>>,
    /// Only the tests of this file of agent/tests; one that needs more than a kernel gets it by `--file`; may be given several
    /// times
    #[arg(long, value_name = "NAME", requires = "tests")]
    from: Vec<String>,
    /// Leave out the tests whose names contain this; may be given several times
    #[arg(long, value_name = "FILTER", requires = "tests")]
    skip: Vec<String>,
    /// Seconds that the tests of one file may take
    #[arg(long, value_name = "SECONDS", requires = "tests", default_value_t = Tests::FILE_LIMIT.as_secs())]
    file_limit: u64,
    /// Keep what came of each file in docs/kernels.json, of which `cargo xtask docs` makes the table in docs/kernels.md
    #[arg(long, requires = "tests")]
    record: bool,
    /// A static program and its arguments, after `--`
    #[arg(last = true, required_unless_present = "tests")]
    command: Vec<String>,
}

/// The machine beneath the kernel, and what the kernel is told of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Hardware {
    /// CPUs as QEMU's `-smp` takes them: `2,maxcpus=128` has two and room for 126 more
    #[arg(long, value_name = "CPUS", default_value = Hardware::CPUS)]
    cpus: String,
    /// More of the kernel's command line, such as `maxcpus=2`, with which only two CPUs are online at first
    #[arg(long = "parameters", value_name = "TEXT", default_value = "")]
    parameters: String,
    /// Megabytes of a second memory node, which has no CPU; without it there is one node
    #[arg(long, value_name = "MEGABYTES")]
    second_node: Option<u32>,
}

impl Hardware {
    /// CPUs, unless others are asked for.
    const CPUS: &str = "2";

    /// The usual machine, with more on the kernel's command line.
    pub(crate) fn with_parameters(parameters: &str) -> Self {
        Self { cpus: Self::CPUS.to_owned(), parameters: parameters.to_owned(), second_node: None }
    }

    /// The options that make it another than the usual machine, as they are given.
    fn options(&self) -> String {
        let Self { cpus, parameters, second_node } = self;
        let options = [
            (cpus != Self::CPUS).then(|| format!("--cpus {cpus}")),
            (!parameters.is_empty()).then(|| format!("--parameters {parameters}")),
            second_node.map(|megabytes| format!("--second-node {megabytes}")),
        ];
        options.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// How control groups are mounted in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cgroup {
    /// All controllers in the one tree at /sys/fs/cgroup
    V2,
    /// A tree per controller, and one without controllers at /sys/fs/cgroup/unified
    Hybrid,
    /// A tree per controller
    V1,
}

impl Cgroup {
    /// As the first process is told.
    fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::V1 => "v1",
        }
    }
}

/// Runs the command or the tests on each kernel, one after the other; succeeds if that succeeded on all.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    let kernels = chosen(&choice.kernels);
    let held = if let Some(filters) = &choice.tests {
        let limit = Duration::from_secs(choice.limit.unwrap_or(TESTS_LIMIT_S));
        // What a filter leaves of a file would take the place of all of it.
        ensure!(
            !choice.record || filters.is_empty(),
            "`--record` keeps whole files: choose them by `--from`, not by filters"
        );
        let Choice { cgroup, hardware, from, skip, files, record, .. } = choice;
        let tally = run_tests(&Tests {
            kernels: &kernels,
            cgroup: *cgroup,
            hardware,
            limit,
            file_limit: Duration::from_secs(choice.file_limit),
            from,
            filters,
            skip,
            files,
            record: *record,
        })?;
        println!("{tally}");
        tally.held()
    } else {
        let (program, arguments) = choice.command.split_first().context("name the program that the guest runs")?;
        let mut guest = Guest::with_program(program, arguments)?;
        choice.files.iter().try_for_each(|file| guest.add(file))?;
        let limit = Duration::from_secs(choice.limit.unwrap_or(PROGRAM_LIMIT_S));
        let outcomes = boot_each(&kernels, &guest, (choice.cgroup, &choice.hardware), limit, |_, _| Ok(()))?;
        outcomes.iter().all(|(_, outcome)| outcome.as_ref().is_ok_and(|outcome| outcome.code == 0))
    };
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots the guest on each kernel, shows what it prints, hands each line to `line`, and says how each ended.
fn boot_each(
    kernels: &[&str],
    guest: &Guest,
    (cgroup, hardware): (Cgroup, &Hardware),
    limit: Duration,
    mut line: impl FnMut(&Kernel, &str) -> Result<()>,
) -> Result<Vec<(Kernel, Result<Outcome>)>> {
    let kernels = kernels::ensure(kernels)?;
    let mut outcomes = Vec::new();
    for kernel in kernels {
        let mut guest = guest.clone();
        guest.mirror_to(&kernel.modules, &format!("lib/modules/{}", file_name(&kernel.modules)?))?;
        let initial_files = initial_files(&guest)?;
        let disk = disk()?;
        println!("vm: {:<5} booting {}, cgroup {}", kernel.series, kernel.version, cgroup.name());
        let machine = Machine {
            vmlinuz: &kernel.vmlinuz,
            initial_files: &initial_files.0,
            disk: &disk.0,
            cpus: &hardware.cpus,
            second_node: hardware.second_node,
            parameters: &format!(
                "VM_CGROUP={} VM_DISK_MODULES={} {}",
                cgroup.name(),
                DISK_MODULES.join(","),
                hardware.parameters
            ),
            limit,
        };
        let outcome = machine.run(|text| {
            println!("{:>5} | {text}", kernel.series);
            line(&kernel, text)
        });
        outcomes.push((kernel, outcome));
    }
    for (Kernel { series, .. }, outcome) in &outcomes {
        match outcome {
            Ok(outcome) => println!(
                "vm: {series:<5} {:<28} exit {:<3} boot {:>4.1} s, command {:>5.1} s",
                outcome.release,
                outcome.code,
                outcome.boot.as_secs_f64(),
                outcome.command.as_secs_f64()
            ),
            Err(error) => println!("vm: {series:<5} {error:#}"),
        }
    }
    Ok(outcomes)
}

fn file_name(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.with_context(|| format!("{} has no name in UTF-8", path.display()))
}

/// The guest's archive as a file.
fn initial_files(guest: &Guest) -> Result<OwnFile> {
    let file = OwnFile::named("cpio")?;
    fs::write(&file.0, guest.archive()?).with_context(|| format!("cannot write {}", file.0.display()))?;
    Ok(file)
}

/// An empty file system as a file, which takes no more room than is written to it. The oldest layout of its kind is one that
/// every kernel knows.
fn disk() -> Result<OwnFile> {
    let program = places::program("mke2fs").context("there is no mke2fs; `cargo xtask setup --for vm` installs it")?;
    let file = OwnFile::named("disk")?;
    process::output(Command::new(program).args(["-q", "-F", "-t", "ext2"]).arg(&file.0).arg(DISK_SIZE))?;
    Ok(file)
}

/// A file of this process, which is removed with the value.
struct OwnFile(PathBuf);

impl OwnFile {
    /// Where it is to be; whoever asks writes it.
    fn named(ending: &str) -> Result<Self> {
        let directory = places::target()?.join("vm");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self(directory.join(format!("{}.{ending}", std::process::id()))))
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("vm: {} stays behind: {error}", self.0.display());
        }
    }
}

fn chosen(named: &[String]) -> Vec<&str> {
    if named.iter().any(|series| series == "all") { kernels::all() } else { named.iter().map(String::as_str).collect() }
}

#[cfg(test)]
mod unit_tests {
    use super::{Hardware, chosen};
    use crate::kernels;

    #[test]
    fn a_machine_is_told_by_what_makes_it_unusual() {
        assert_eq!(Hardware::with_parameters("").options(), "");
        let hardware = Hardware { cpus: "12".to_owned(), parameters: "maxcpus=2".to_owned(), second_node: Some(256) };
        assert_eq!(hardware.options(), "--cpus 12 --parameters maxcpus=2 --second-node 256");
    }

    #[test]
    fn all_means_every_series_and_names_stand_for_themselves() {
        assert_eq!(chosen(&["all".to_owned()]), kernels::all());
        assert_eq!(chosen(&["6.1".to_owned()]), ["6.1"]);
    }
}
