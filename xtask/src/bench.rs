//! `cargo xtask bench`: runs the benchmarks that hold podlens to its budgets.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::setup::{self, Purpose};

#[derive(Args)]
pub(crate) struct Choice {
    /// Which one
    benchmark: Benchmark,
}

#[derive(Clone, Copy, ValueEnum)]
enum Benchmark {
    /// What a context switch costs with podlens, against an empty program on the same tracepoint
    Scheduler,
}

impl Benchmark {
    fn target(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
        }
    }
}

/// Runs the benchmark; its exit code says whether the budget holds.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    setup::run(Purpose::Test.with_its_base())?;
    let status = Command::new("cargo")
        .args(["bench", "--package", "podlens", "--bench", choice.benchmark.target()])
        .status()
        .context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
