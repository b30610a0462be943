//! Sets a machine up and builds, runs and tests podlens: `cargo xtask --help`.
//!
//! No part of what is shipped. A person, README's two commands and .ci/run call it.

mod agent;
mod bench;
mod chart;
mod ci;
mod cluster;
mod components;
mod debian;
mod docs;
mod e2e;
mod fuzz;
mod image;
mod kernels;
mod libtest;
mod monitoring;
mod packages;
mod places;
mod process;
mod run;
mod setup;
mod step;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{agent::Form, step::Purpose};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets a machine up and builds, runs and tests podlens")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring what a fresh machine lacks; fast when nothing is lacking
    Setup {
        /// Only what this purpose needs; without it, everything
        #[arg(long = "for", value_name = "PURPOSE")]
        purpose: Option<Purpose>,
    },
    /// Build podlens
    Build {
        /// With optimization
        #[arg(long)]
        release: bool,
        /// Linked with musl: one file that runs on any distribution
        #[arg(long = "static")]
        static_binary: bool,
    },
    /// Build podlens, run it on this machine, say where to look and show a first table
    Run {
        /// Arguments for `podlens run`, after `--`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run all checks and tests
    Test(test::Choice),
    /// Measure what podlens costs; on a quiet machine, as root
    Bench(bench::Choice),
    /// Feed what reads others' data with whatever breaks it; not part of `test`
    Fuzz(fuzz::Choice),
    /// Run a static program on other kernels, in virtual machines
    Vm(vm::Choice),
    /// A real one-node Kubernetes cluster on this machine, in a network namespace of its own
    Cluster(cluster::Choice),
    /// Install podlens on such a cluster and check it there from end to end; as root
    E2e(e2e::Choice),
    /// Write the container image as an OCI archive
    Image(image::Choice),
    /// Write the rules, the dashboards and their documentation, and render the manifests from the chart
    Chart(chart::Choice),
    /// Draw the dashboards with the answers of a Prometheus
    Dashboards(monitoring::Choice),
    /// Write docs/metrics.md, docs/events.md, docs/config.md and the tables in other documents from the definitions
    Docs(docs::Choice),
    /// Check what no compiler knows: layers, `aya` and `unsafe`, what files and documents say
    Tidy,
    /// Run what continuous integration runs
    Ci,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(code) => code,
        // Without the backtrace that `Debug` would add: the chain of causes names every act.
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { purpose } => {
            setup::run(purpose.map_or(Purpose::ALL, Purpose::with_its_base))?;
        }
        Task::Build { release, static_binary } => {
            agent::build(Form { release, static_binary })?;
        }
        Task::Run { arguments } => return run::run(&arguments),
        Task::Test(choice) => return test::run(&choice),
        Task::Bench(choice) => return bench::run(&choice),
        Task::Fuzz(choice) => return fuzz::run(&choice),
        Task::Vm(choice) => return vm::run(&choice),
        Task::Cluster(choice) => return cluster::run(&choice),
        Task::E2e(choice) => return e2e::run(&choice),
        Task::Image(choice) => return image::run(&choice),
        Task::Chart(choice) => return chart::run(&choice),
        Task::Dashboards(choice) => return monitoring::run(&choice),
        Task::Docs(choice) => return docs::run(&choice),
        Task::Tidy => return tidy::run(&Arguments::command()),
        Task::Ci => return ci::run(),
    }
    Ok(ExitCode::SUCCESS)
}
