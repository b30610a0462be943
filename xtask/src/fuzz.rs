//! `cargo xtask fuzz`: runs the fuzz targets of agent/fuzz on their kept inputs and on what they find.
//!
//! What must hold stands in agent/fuzz/src/lib.rs; agent/tests/corpora.rs checks the kept inputs without a fuzzer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    places, process, setup,
    step::{self, Purpose},
    toolchain,
};

/// Longer inputs are slow and add nothing; a kept one is to be read by a person.
const LONGEST_INPUT_BYTES: u32 = 4096;
/// An input that takes longer hangs.
const TIMEOUT_SECONDS: u32 = 10;

/// So many inputs are kept of one run at most: the tests run all of them, and git has them for ever.
const KEPT_A_RUN: usize = 48;

#[derive(Args)]
pub(crate) struct Choice {
    /// Which one; all without it
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Add to the kept inputs those found that reach most of what none of them reaches
    #[arg(long)]
    keep: bool,
}

/// Runs the chosen targets one after another; an input that fails is named by the fuzzer, and ends the run.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    setup::run(Purpose::Build.with_its_base())?;
    step::ensure(&toolchain::FUZZER)?;
    let fuzz = places::workspace()?.join("agent/fuzz");
    let known = targets(&fuzz)?;
    let chosen: Vec<&String> =
        known.iter().filter(|name| choice.target.as_ref().is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no target `{}`; the targets are {}", choice.target.as_deref().unwrap_or(""), known.join(", "));
    }
    for target in chosen {
        let (kept, found) = (fuzz.join("corpus").join(target), places::target()?.join("fuzz/corpus").join(target));
        let failed = places::target()?.join("fuzz/failures").join(target);
        for directory in [&kept, &found, &failed] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        println!("\nfuzz: target {target}, {} s", choice.seconds);
        let mut command = fuzzer(&fuzz, target, &[&found, &kept])?;
        command.arg(format!("-max_total_time={}", choice.seconds));
        command.arg(format!("-artifact_prefix={}/", failed.display()));
        let dictionary = fuzz.join("dictionaries").join(format!("{target}.txt"));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        process::loud(&mut command).with_context(|| {
            format!("target {target} failed: correct the cause and put the input into {}", kept.display())
        })?;
        if choice.keep {
            keep(&fuzz, target, &kept, &found)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies into the kept inputs those found ones that reach most of what no kept one reaches.
fn keep(fuzz: &Path, target: &str, kept: &PathBuf, found: &PathBuf) -> Result<()> {
    let chosen = places::target()?.join("fuzz/chosen").join(target);
    if chosen.exists() {
        fs::remove_dir_all(&chosen).with_context(|| format!("cannot remove {}", chosen.display()))?;
    }
    fs::create_dir_all(&chosen).with_context(|| format!("cannot make {}", chosen.display()))?;
    // It writes what reaches most first.
    process::loud(fuzzer(fuzz, target, &[&chosen, kept, found])?.args(["-set_cover_merge=1", "-use_counters=0"]))?;
    let mut files = Vec::new();
    for entry in fs::read_dir(&chosen).with_context(|| format!("cannot read {}", chosen.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", chosen.display()))?.path();
        let written = fs::metadata(&path).and_then(|file| file.modified());
        files.push((written.with_context(|| format!("cannot read {}", path.display()))?, path));
    }
    files.sort();
    for (_, path) in files.into_iter().take(KEPT_A_RUN) {
        let name = path.file_name().context("a file has a name")?;
        fs::copy(&path, kept.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

/// Names of all targets.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let folder = fuzz.join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// The fuzzer of a target with its directories of inputs; it writes into the first. libFuzzer's options may follow.
fn fuzzer(fuzz: &Path, target: &str, corpora: &[&PathBuf]) -> Result<Command> {
    let mut command = Command::new("cargo");
    command
        .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"])
        .arg(fuzz)
        .arg("--target-dir")
        .arg(places::target()?.join("fuzz"))
        .arg(target)
        .args(corpora)
        .args(["--", "-print_final_stats=1", "-verbosity=1"])
        .arg(format!("-max_len={LONGEST_INPUT_BYTES}"))
        .arg(format!("-timeout={TIMEOUT_SECONDS}"))
        // The fuzzer's instrumentation is an unstable flag of the compiler; the code itself uses none.
        .env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}
