//! `cargo xtask docs`: docs/metrics.md, docs/events.md and docs/config.md, written or compared by the test agent/tests/docs.rs, which
//! sees the definitions themselves. `cargo xtask test` compares them among the other tests.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{places, process, setup, step::Purpose, test};

/// Makes the test write what it would compare with.
const UPDATE: &str = "PODLENS_TEST_UPDATE";

/// Whether to write or to compare.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// Write nothing; fail where a file is not as it would be written
    #[arg(long)]
    check: bool,
}

/// `cargo xtask docs [--check]`. As root, since the agent's own metrics are read from an agent at work.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    setup::run(Purpose::Build.with_its_base())?;
    let mut command = Command::new("cargo");
    command
        .current_dir(places::workspace()?)
        .args(["test", "--quiet", "--package", "podlens", "--test", "docs"])
        .env_remove(UPDATE);
    let kept: &[&str] = if choice.check {
        &[]
    } else {
        command.env(UPDATE, "1");
        &[UPDATE]
    };
    test::run_as_root(&mut command, kept)?;
    let held = process::echoed(&mut command, |_| ())?.success();
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
