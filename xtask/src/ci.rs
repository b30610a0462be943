//! `cargo xtask ci`: what continuous integration runs, and nothing that a developer cannot run by hand.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    process,
    test::{self, Choice},
};

/// Says what it runs on, then runs all tests.
pub(crate) fn run() -> Result<ExitCode> {
    for (program, argument) in [("uname", "-srm"), ("rustc", "--version"), ("nproc", "--all")] {
        println!("ci: {program}: {}", process::output(Command::new(program).arg(argument))?.trim());
    }
    test::run(&Choice::default())
}
