//! `cargo xtask e2e`: podlens under helm on a real Kubernetes node, seen by a real Prometheus and a real collector.
//! Called by the command line and as a stage of `cargo xtask test`.
//!
//! | file | what |
//! | --- | --- |
//! | checks/ | the checks, in the order in which they run: each goes on from what the ones before have left |
//! | world.rs | the cluster, the installed chart, the agent's pod |
//! | workloads.rs, burn.c | pods whose use of CPU is known |
//! | talk.c | a program whose traffic is known |
//! | truth.rs | what the kernel and kubelet say was used, and by whom |
//! | names.rs | whether what was observed agrees with that |
//! | prometheus.rs, collector.rs | the observers |
//! | fleet.rs | what the replicas of `podlens fleet` tell |
//!
//! The cluster is brought up for the run and removed after it, whatever happens, unless it is to be kept.

mod checks;
mod collector;
mod fleet;
mod names;
mod prometheus;
mod truth;
mod wait;
mod workloads;
mod world;

use std::{
    env,
    path::{Path, PathBuf},
    process::{self, Command, ExitCode},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use self::world::World;
use crate::{
    cluster::{self, Cluster, Family},
    image, packages, places, setup,
    step::Purpose,
};

/// What is run, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Choice {
    /// The long forms: the API server is dead for 5 minutes
    #[arg(long)]
    long: bool,
    #[command(flatten)]
    family: Family,
    /// Leave the cluster up, to look around
    #[arg(long)]
    keep: bool,
    /// An image's archive; without it, the one of this source is built
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Only the checks whose names contain one of these, and those that they cannot do without
    filters: Vec<String>,
    /// Print the checks and run none
    #[arg(long)]
    list: bool,
}

/// Removes the cluster at the end of the run, however that comes about.
struct Removal {
    keep: bool,
}

impl Drop for Removal {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("e2e: the cluster is left up; end it with `cargo xtask cluster down`");
        } else if let Err(failure) = cluster::down() {
            eprintln!("e2e: cannot remove the cluster: {failure:#}");
        }
    }
}

/// Runs the checks; the last line tells how many held.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    if choice.list {
        for check in checks::ALL {
            println!("{:<28} {}", check.name, check.claim);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if Cluster::running()?.is_some() {
        bail!("a cluster runs already; end it with `cargo xtask cluster down`, since the checks need a fresh one");
    }
    setup::run(Purpose::Test.with_its_base())?;
    let archive = match &choice.image {
        Some(archive) => archive.clone(),
        None => image::podlens(None)?,
    };
    if !packages::is_root() {
        return as_root(choice, &archive);
    }
    let _removal = Removal { keep: choice.keep };
    remove_when_interrupted(choice.keep)?;
    let cluster = cluster::up(choice.family.addresses())?;
    let mut world = World::new(cluster, &archive, choice.long)?;
    let (mut passed, mut failed) = (0, 0);
    for check in checks::ALL {
        let wanted =
            choice.filters.is_empty() || choice.filters.iter().any(|filter| check.name.contains(filter.as_str()));
        if !wanted && !check.needed {
            continue;
        }
        let started = Instant::now();
        let outcome = (check.run)(&mut world);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(told) => {
                passed += 1;
                println!("e2e: {:<28} ok      {seconds:>6.1} s  {told}", check.name);
            }
            Err(failure) => {
                failed += 1;
                println!("e2e: {:<28} FAILED  {seconds:>6.1} s  {}: {failure:#}", check.name, check.claim);
                println!("{}", world.report());
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Namespaces, mounts and cgroups are root's; what was built stays the user's.
fn as_root(choice: &Choice, archive: &Path) -> Result<ExitCode> {
    let mut sudo = Command::new("sudo");
    sudo.arg("env").arg(format!("XDG_CACHE_HOME={}", places::user_cache()?.display()));
    sudo.arg(env::current_exe().context("cannot tell where this program is")?).arg("e2e").arg("--image").arg(archive);
    sudo.args(choice.long.then_some("--long"))
        .args(choice.family.ipv6.then_some("--ipv6"))
        .args(choice.keep.then_some("--keep"));
    sudo.args(&choice.filters);
    let status = sudo.status().context("cannot start sudo; run it as root")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn remove_when_interrupted(keep: bool) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            drop(Removal { keep });
            process::exit(128 + signal);
        }
    });
    Ok(())
}
