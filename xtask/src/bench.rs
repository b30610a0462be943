//! `cargo xtask bench`: runs the benchmarks that hold podlens to its budgets.
//!
//! They are built as tests are, so that nothing is compiled for them that the tests do not need as well: what is measured is
//! the kernel programs, which are always optimized, and the static release binary.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use crate::{
    agent::{self, Form},
    places, process, setup,
    step::Purpose,
};

/// Below cargo's output: builds of other revisions.
const REVISIONS: &str = "revisions";

#[derive(Args)]
pub(crate) struct Choice {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Clone, Debug, Subcommand)]
enum Benchmark {
    /// What a context switch costs with podlens, against an empty program on the same tracepoint
    Scheduler {
        /// Exactly so many generations of programs and processes, in place of as many as precision needs
        #[arg(long)]
        rounds: Option<u32>,
        /// The build whose program takes turns with this one's: a binary, or a revision, which is built first
        #[arg(long, value_name = "BINARY|REVISION")]
        against: Option<OsString>,
    },
    /// What the network's collectors cost nginx, wrk and iperf3 over a wire between two network namespaces; 3 minutes
    Tcp {
        /// How often an agent with and one without the collectors have a turn
        #[arg(long, default_value_t = 16)]
        rounds: u32,
        /// The collectors, such as `tcp,udp,drops`; those that are on unless the configuration says otherwise
        #[arg(long)]
        collectors: Option<String>,
    },
    /// What page faults, reclaim for a limit, reads from a disk, datagrams, a stream and DNS queries cost with podlens' programs,
    /// against without
    Storms {
        /// Turns with and without the programs
        #[arg(long)]
        rounds: Option<u32>,
        /// Only these loads, such as `datagrams,queries`
        #[arg(long)]
        loads: Option<String>,
        /// The programs of these collectors alone, such as `udp,dns`
        #[arg(long)]
        collectors: Option<String>,
    },
    /// What the daemon itself costs with 250 pods: CPU, memory, sweep and scrape; 100 s for each build and round
    Daemon {
        /// The build to compare with: a static release binary, or a revision, which is built first
        #[arg(long, value_name = "BINARY|REVISION")]
        against: Option<OsString>,
        /// How often each build is started and measured
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Seconds between two scrapes and between two pushes; any but a node's 15 decide nothing
        #[arg(long, default_value_t = 15)]
        interval: u64,
    },
    /// What `podlens fleet` costs in a cluster of 5,000 nodes; 12 minutes
    Fleet {
        /// Seconds of rest that are measured
        #[arg(long, default_value_t = 60)]
        rest: u64,
        /// Seconds in which one pod on each node is updated
        #[arg(long, default_value_t = 300)]
        update: u64,
        /// Seconds for which the API server is away
        #[arg(long, default_value_t = 300)]
        away: u64,
    },
}

/// Runs the benchmark; its exit code says whether the budget holds.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    let is_loaded_by_others = matches!(choice.benchmark, Benchmark::Tcp { .. } | Benchmark::Storms { .. });
    let purpose = if is_loaded_by_others { Purpose::Bench } else { Purpose::Test };
    setup::run(purpose.with_its_base())?;
    let (name, arguments) = match &choice.benchmark {
        Benchmark::Scheduler { rounds, against } => {
            let against = against.as_ref().map(other_build).transpose()?;
            let mut arguments = rounds_argument(*rounds);
            arguments.extend(against.into_iter().flat_map(|binary| ["--against".into(), binary.into_os_string()]));
            ("scheduler", arguments)
        }
        Benchmark::Tcp { rounds, collectors } => {
            let mut arguments = rounds_argument(Some(*rounds));
            arguments.extend(list_argument("--collectors", collectors.as_deref()));
            ("tcp", arguments)
        }
        Benchmark::Storms { rounds, loads, collectors } => {
            let mut arguments = rounds_argument(*rounds);
            arguments.extend(list_argument("--loads", loads.as_deref()));
            arguments.extend(list_argument("--collectors", collectors.as_deref()));
            ("storms", arguments)
        }
        Benchmark::Daemon { against, rounds, interval } => {
            // The other build first: both are made in one place.
            let against = against.as_ref().map(other_build).transpose()?;
            // As it is shipped: the C library decides what becomes of freed memory.
            let binary = agent::build(Form { release: true, static_binary: true })?;
            ("daemon", daemon_arguments(&binary, against.as_deref(), *rounds, *interval))
        }
        Benchmark::Fleet { rest, update, away } => {
            let binary = agent::build(Form { release: true, static_binary: true })?;
            let mut arguments = vec!["--binary".into(), binary.into_os_string()];
            for (flag, seconds) in [("--rest", rest), ("--update", update), ("--away", away)] {
                arguments.extend([OsString::from(flag), seconds.to_string().into()]);
            }
            ("fleet", arguments)
        }
    };
    let mut command = Command::new("cargo");
    command.current_dir(places::workspace()?).args(["test", "--quiet", "--package", "podlens", "--bench", name, "--"]);
    // A missed budget is no defect of the benchmark, whose place in the code would tell nothing.
    command.args(arguments).env("RUST_BACKTRACE", "0");
    let status = command.status().context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rounds_argument(rounds: Option<u32>) -> Vec<OsString> {
    rounds.map(|rounds| ["--rounds".into(), rounds.to_string().into()]).into_iter().flatten().collect()
}

fn list_argument(flag: &str, names: Option<&str>) -> Vec<OsString> {
    names.map(|names| [flag.into(), names.into()]).into_iter().flatten().collect()
}

fn daemon_arguments(binary: &Path, against: Option<&Path>, rounds: u32, interval: u64) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--binary".into(), binary.into()];
    if let Some(against) = against {
        arguments.extend(["--against".into(), against.into()]);
    }
    arguments.extend(["--rounds".into(), rounds.to_string().into(), "--interval".into(), interval.to_string().into()]);
    arguments
}

/// The binary that is named, or that of the revision that is named.
fn other_build(named: &OsString) -> Result<PathBuf> {
    if Path::new(named).is_file() {
        return Path::new(named).canonicalize().with_context(|| format!("cannot find {}", named.display()));
    }
    let mut parse = Command::new("git");
    parse.current_dir(places::workspace()?).args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
    let mut commit = named.clone();
    commit.push("^{commit}");
    let commit = process::output(parse.arg(commit))
        .with_context(|| format!("`{}` is neither a binary nor a revision of this repository", named.display()))?;
    revision(commit.trim())
}

/// Builds a commit in a work tree of its own, with what is built already of its dependencies, and keeps only the binary.
fn revision(commit: &str) -> Result<PathBuf> {
    let place = places::target()?.join(REVISIONS);
    let binary = place.join(format!("podlens-{commit}"));
    if binary.is_file() {
        return Ok(binary);
    }
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let tree = place.join(commit);
    let git = || -> Result<Command> {
        let mut git = Command::new("git");
        git.current_dir(places::workspace()?).args(["worktree"]);
        Ok(git)
    };
    if tree.exists() {
        // One that was left by a build that was broken off.
        process::output(git()?.args(["remove", "--force"]).arg(&tree))?;
    }
    process::output(git()?.args(["add", "--detach"]).arg(&tree).arg(commit))?;
    let built = agent::build_in(&tree, Form { release: true, static_binary: true });
    let kept = built.and_then(|built| {
        let partial = binary.with_extension("partial");
        fs::copy(&built, &partial).with_context(|| format!("cannot copy {}", built.display()))?;
        fs::rename(&partial, &binary).with_context(|| format!("cannot write {}", binary.display()))
    });
    process::output(git()?.args(["remove", "--force"]).arg(&tree))?;
    kept.with_context(|| format!("cannot build {commit}"))?;
    Ok(binary)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{ffi::OsString, path::Path};

    use super::{daemon_arguments, other_build};

    #[test]
    fn the_benchmark_is_told_the_other_build_only_where_there_is_one() {
        let table = [
            (None, "--binary a --rounds 2 --interval 15"),
            (Some(Path::new("b")), "--binary a --against b --rounds 2 --interval 15"),
        ];
        for (against, expected) in table {
            let arguments = daemon_arguments(Path::new("a"), against, 2, 15);
            assert_eq!(arguments.join(&OsString::from(" ")), expected);
        }
    }

    #[test]
    fn what_is_neither_a_binary_nor_a_revision_is_named() {
        let error = other_build(&OsString::from("no-such-revision")).unwrap_err().to_string();
        assert_eq!(error, "`no-such-revision` is neither a binary nor a revision of this repository");
    }
}
