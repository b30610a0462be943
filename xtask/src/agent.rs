//! Building the agent's binary.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{places, process, setup, step::Purpose, toolchain};

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// With optimization.
    pub(crate) release: bool,
    /// Linked with musl, so that it runs on any distribution.
    pub(crate) static_binary: bool,
}

/// Completes the toolchain, builds `podlens` and returns the path of the binary.
pub(crate) fn build(form: Form) -> Result<PathBuf> {
    build_in(&places::workspace()?, form)
}

/// The same of another work tree of this repository, into the same place.
pub(crate) fn build_in(tree: &Path, form: Form) -> Result<PathBuf> {
    let purpose = if form.static_binary { Purpose::Static } else { Purpose::Build };
    setup::run(purpose.with_its_base())?;
    let target = places::target()?;
    process::loud(
        Command::new("cargo")
            .current_dir(tree)
            .env("CARGO_TARGET_DIR", &target)
            .args(arguments(form, &toolchain::musl_target())),
    )?;
    let binary = place(form)?;
    println!("build: {}", binary.display());
    Ok(binary)
}

/// Where the binary of this form stands once it is built.
pub(crate) fn place(form: Form) -> Result<PathBuf> {
    let mut binary = places::target()?;
    if form.static_binary {
        binary.push(toolchain::musl_target());
    }
    binary.push(if form.release { "release" } else { "debug" });
    binary.push("podlens");
    Ok(binary)
}

fn arguments(form: Form, musl_target: &str) -> Vec<&str> {
    let mut arguments = vec!["build", "--package", "podlens", "--bin", "podlens"];
    if form.release {
        arguments.push("--release");
    }
    if form.static_binary {
        arguments.extend(["--target", musl_target]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::{Form, arguments};

    #[test]
    fn the_form_decides_profile_and_target() {
        let table = [
            (Form { release: false, static_binary: false }, ""),
            (Form { release: true, static_binary: false }, " --release"),
            (Form { release: false, static_binary: true }, " --target m"),
            (Form { release: true, static_binary: true }, " --release --target m"),
        ];
        for (form, expected) in table {
            assert_eq!(arguments(form, "m").join(" "), format!("build --package podlens --bin podlens{expected}"));
        }
    }
}
