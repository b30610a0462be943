//! `cargo xtask docs`: docs/metrics.md, docs/events.md, docs/config.md and the tables in other documents, written or compared
//! by the test agent/tests/docs.rs, which sees the definitions themselves. `cargo xtask test` compares them among the
//! tests of pure logic.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{places, process, setup, step::Purpose};

/// Makes the test write what it would compare with.
const UPDATE: &str = "PODLENS_TEST_UPDATE";

/// Whether to write or to compare.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// Write nothing; fail where a file is not as it would be written
    #[arg(long)]
    check: bool,
}

/// `cargo xtask docs [--check]`, as any user.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    setup::run(Purpose::Build.with_its_base())?;
    let mut command = Command::new("cargo");
    command
        .current_dir(places::workspace()?)
        .args(["test", "--quiet", "--package", "podlens", "--test", "docs"])
        .env_remove(UPDATE);
    if !choice.check {
        command.env(UPDATE, "1");
    }
    let held = process::echoed(&mut command, |_| ())?.success();
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
