//! `cargo xtask bench`: runs the benchmarks that hold podlens to its budgets.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{
    agent::{self, Form},
    setup,
    step::Purpose,
};

#[derive(Args)]
pub(crate) struct Choice {
    /// Which one
    benchmark: Benchmark,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// What a context switch costs with podlens, against an empty program on the same tracepoint
    Scheduler,
    /// What the daemon itself costs with 250 pods: CPU, memory, sweep and scrape; 4 minutes
    Daemon,
}

impl Benchmark {
    fn target(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Daemon => "daemon",
        }
    }
}

/// Runs the benchmark; its exit code says whether the budget holds.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    setup::run(Purpose::Test.with_its_base())?;
    let mut command = Command::new("cargo");
    command.args(["bench", "--package", "podlens", "--bench", choice.benchmark.target()]);
    if choice.benchmark == Benchmark::Daemon {
        // As it is shipped: the C library decides what becomes of freed memory.
        command.env("PODLENS_TEST_BINARY", agent::build(Form { release: true, static_binary: true })?);
    }
    let status = command.status().context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
