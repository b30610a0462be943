//! `cargo xtask vm`: runs a static program on other kernels, in virtual machines without KVM.
//!
//! The guest is a cached kernel and one archive of files in memory: Debian's static busybox, a short script as the
//! first process, the program. Nothing is a module there: initial files, serial console, control groups, BPF and
//! loopback are built into the kernels; disks and other network devices are not.

mod archive;
mod machine;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use object::{Object as _, ObjectKind};

use crate::{
    debian,
    kernels::{self, Kernel},
    places,
};
use archive::Archive;
use machine::Machine;

const INIT: &str = include_str!("vm/init.sh");
/// The guest's shell and commands: suite and package.
const BUSYBOX: (&str, &str) = ("trixie", "busybox-static");
const CONSOLE: (u32, u32) = (5, 1);
/// Mount points that the first process expects.
const DIRECTORIES: &[&str] = &["bin", "dev", "proc", "run", "sys", "test", "test/bin", "tmp"];

/// Which kernels, how they are set up and what runs on them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// Series of the kernel, or all; may be given several times
    #[arg(long = "kernel", value_name = "SERIES", default_value = "all")]
    kernels: Vec<String>,
    /// How control groups are mounted
    #[arg(long, value_enum, default_value_t = Cgroup::V2)]
    cgroup: Cgroup,
    /// Seconds that one machine may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    limit: u64,
    /// Another file for the guest, as `HOST_PATH:GUEST_PATH`
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<String>,
    /// A static program and its arguments, after `--`
    #[arg(last = true, required = true)]
    command: Vec<String>,
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

/// Runs the command on each kernel, one after the other; succeeds if it succeeded on all.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    let kernels = kernels::ensure(&chosen(&choice.kernels))?;
    let files = initial_files(choice)?;
    let initial_files = places::target()?.join(format!("vm/{}.cpio", process::id()));
    machine::write_initial_files(&initial_files, &files)?;
    let outcomes: Vec<(&Kernel, Result<machine::Outcome>)> =
        kernels.iter().map(|kernel| (kernel, run_on(kernel, &initial_files, choice))).collect();
    fs::remove_file(&initial_files).with_context(|| format!("cannot remove {}", initial_files.display()))?;
    let mut all_held = true;
    for (Kernel { series, .. }, outcome) in outcomes {
        match outcome {
            Ok(outcome) => {
                all_held &= outcome.code == 0;
                println!(
                    "vm: {series:<5} {:<28} exit {:<3} boot {:>4.1} s, command {:>5.1} s",
                    outcome.release,
                    outcome.code,
                    outcome.boot.as_secs_f64(),
                    outcome.command.as_secs_f64()
                );
            }
            Err(error) => {
                all_held = false;
                println!("vm: {series:<5} {error:#}");
            }
        }
    }
    Ok(if all_held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_on(kernel: &Kernel, initial_files: &Path, choice: &Choice) -> Result<machine::Outcome> {
    let cgroup = match choice.cgroup {
        Cgroup::V2 => "v2",
        Cgroup::Hybrid => "hybrid",
        Cgroup::V1 => "v1",
    };
    println!("vm: {:<5} booting {}", kernel.series, kernel.version);
    Machine {
        vmlinuz: &kernel.vmlinuz,
        initial_files,
        parameters: &format!("VM_CGROUP={cgroup}"),
        limit: Duration::from_secs(choice.limit),
    }
    .run(|line| println!("{:>5} | {line}", kernel.series))
}

fn chosen(named: &[String]) -> Vec<&str> {
    if named.iter().any(|series| series == "all") { kernels::all() } else { named.iter().map(String::as_str).collect() }
}

/// The static busybox, fetched once.
pub(crate) fn busybox() -> Result<PathBuf> {
    let (suite, package) = BUSYBOX;
    let tree = debian::debian_package(suite, package, &places::cache()?)?;
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| tree.join(path))
        .find(|path| path.exists())
        .with_context(|| format!("the package {package} has no busybox below {}", tree.display()))
}

fn initial_files(choice: &Choice) -> Result<Vec<u8>> {
    let (program, arguments) = choice.command.split_first().context("name the program that the guest runs")?;
    let bytes = read(Path::new(program))?;
    require_static(&bytes).with_context(|| format!("{program} cannot run in the virtual machine"))?;
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    archive.device("dev/console", CONSOLE);
    archive.program("init", INIT.as_bytes());
    archive.program("bin/busybox", &read(&busybox()?)?);
    // Some programs act by the name that they are called by, so it stays.
    let name = Path::new(program).file_name().and_then(|name| name.to_str());
    let guest_program = format!("test/bin/{}", name.unwrap_or("program"));
    archive.program(&guest_program, &bytes);
    archive.program("test/run", script(&guest_program, arguments).as_bytes());
    for file in &choice.files {
        let (host, guest) =
            file.split_once(':').with_context(|| format!("`{file}` is not of the form HOST_PATH:GUEST_PATH"))?;
        let guest = guest.trim_start_matches('/');
        for directory in directories_above(guest) {
            archive.directory(directory);
        }
        archive.program(guest, &read(Path::new(host))?);
    }
    Ok(archive.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Each directory that a path in the guest lies in, the outermost first.
fn directories_above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(end, _)| path.get(..end))
}

fn script(program: &str, arguments: &[String]) -> String {
    let words = arguments.iter().map(|argument| format!(" {}", quoted(argument)));
    format!("exec {}{}\n", quoted(&format!("/{program}")), words.collect::<String>())
}

/// One word of the shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The guest has no libraries and no loader.
fn require_static(bytes: &[u8]) -> Result<()> {
    let file = object::File::parse(bytes).context("it is not an ELF program")?;
    ensure!(file.architecture() == object::Architecture::X86_64, "it is for {:?}, not for x86_64", file.architecture());
    ensure!(matches!(file.kind(), ObjectKind::Executable | ObjectKind::Dynamic), "it is not linked");
    if file.section_by_name(".interp").is_some() {
        bail!("it needs shared libraries: build it with `--target x86_64-unknown-linux-musl`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::env;

    use super::{chosen, directories_above, read, require_static, script};
    use crate::kernels;

    #[test]
    fn arguments_reach_the_guest_as_they_are() {
        let arguments = ["a b", "it's", "$HOME", ""].map(str::to_owned);
        assert_eq!(script("test/bin/a", &arguments), "exec '/test/bin/a' 'a b' 'it'\\''s' '$HOME' ''\n");
        assert_eq!(script("test/bin/it's", &[]), "exec '/test/bin/it'\\''s'\n");
    }

    #[test]
    fn a_program_with_shared_libraries_is_refused_before_it_boots() {
        let dynamic = read(&env::current_exe().unwrap()).unwrap();
        for (bytes, part) in [(dynamic.as_slice(), "shared libraries"), (b"#!/bin/sh\n", "not an ELF program")] {
            let error = format!("{:#}", require_static(bytes).unwrap_err());
            assert!(error.contains(part), "no `{part}` in {error}");
        }
    }

    #[test]
    fn the_directories_of_an_extra_file_are_made_from_the_outside() {
        let directories: Vec<&str> = directories_above("etc/podlens/config.yaml").collect();
        assert_eq!(directories, ["etc", "etc/podlens"]);
    }

    #[test]
    fn all_means_every_series_and_names_stand_for_themselves() {
        assert_eq!(chosen(&["all".to_owned()]), kernels::all());
        assert_eq!(chosen(&["6.1".to_owned()]), ["6.1"]);
    }
}
