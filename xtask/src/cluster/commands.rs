//! The command line of `cargo xtask cluster`. It only hands on to [`super`]. Called by `main`.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use super::{Cluster, Family, down, status, up};
use crate::process;

/// What to do with the cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    #[command(subcommand)]
    act: Act,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Act {
    /// Start it, or what of it does not run
    Up(Family),
    /// End it and remove all that it made
    Down,
    /// Tell what runs; exit code 0 only if all does
    Status,
    /// Give an OCI archive's images to the node
    Import {
        /// The archive, for example of `cargo xtask image`
        archive: PathBuf,
    },
    /// Run kubectl as administrator
    Kubectl {
        /// Arguments for kubectl
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm as administrator
    Helm {
        /// Arguments for helm
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// End one of its programs as a crash would; `up` starts it again
    Kill {
        /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd or kubelet
        program: String,
    },
    /// Run a program of this machine in the node's network
    Exec {
        /// In the node's mounts and among its processes, too
        #[arg(long)]
        inside: bool,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

/// `cargo xtask cluster`.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    match &choice.act {
        Act::Up(family) => {
            up(family.addresses())?;
            Ok(ExitCode::SUCCESS)
        }
        Act::Down => down().map(|()| ExitCode::SUCCESS),
        Act::Status => status().map(|whole| if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Act::Import { archive } => needed()?.import_image(archive).map(|()| ExitCode::SUCCESS),
        Act::Kubectl { arguments } => handed_on(needed()?.kubectl()?.args(arguments)),
        Act::Helm { arguments } => handed_on(needed()?.helm()?.args(arguments)),
        Act::Kill { program } => needed()?.kill_program(program).map(|()| ExitCode::SUCCESS),
        Act::Exec { inside, command } => {
            let (program, arguments) = command.split_first().context("there is no program to run")?;
            let cluster = needed()?;
            let mut started = if *inside { cluster.on_node(program)? } else { cluster.in_network(program)? };
            handed_on(started.args(arguments))
        }
    }
}

fn needed() -> Result<Cluster> {
    Cluster::running()?.context("the cluster does not run; start it with `cargo xtask cluster up`")
}

/// Runs a command on this terminal and ends as it ended.
fn handed_on(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start `{}`", process::describe(command)))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
