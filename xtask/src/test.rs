//! `cargo xtask test`: the list of stages and their runner.
//!
//! All stages run, whatever fails. The last line is `N passed, N failed`, with `, N skipped` where tests were
//! left out; a stage that runs no tests of its own counts as one.

use std::{
    env::consts::ARCH,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Result, bail};

use crate::{
    libtest::Tally,
    packages, places, process,
    setup::{self, Purpose},
};

/// What a stage's command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A check of the source: it succeeds or not.
    Check,
    /// Test programs of Rust, run as this user.
    Tests,
    /// Test programs of Rust that load kernel programs: as root, one after another.
    KernelTests,
    /// Checks of this tool with a closing line of their own.
    Checks,
}

/// One stage.
struct Stage {
    name: &'static str,
    about: &'static str,
    kind: Kind,
    /// Arguments for cargo.
    arguments: &'static [&'static str],
    /// Variables for cargo.
    variables: &'static [(&'static str, &'static str)],
}

const STAGES: &[Stage] = &[
    Stage {
        name: "format",
        about: "the layout of the source",
        kind: Kind::Check,
        arguments: &["fmt", "--all", "--check"],
        variables: &[],
    },
    Stage {
        name: "lint",
        about: "clippy on the daemon, the tests and this tool, warnings denied",
        kind: Kind::Check,
        arguments: &["clippy", "--all-targets", "--", "--deny", "warnings"],
        variables: &[],
    },
    Stage {
        name: "lint-kernel",
        about: "clippy on the kernel programs, warnings denied",
        kind: Kind::Check,
        arguments: &[
            "clippy",
            "--package",
            "podlens-ebpf",
            "--release",
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
            "--",
            "--deny",
            "warnings",
        ],
        // Compiling `core` asks for an unstable option; the kernel programs themselves use none.
        variables: &[("RUSTC_BOOTSTRAP", "1")],
    },
    Stage {
        name: "chart",
        about: "the chart, and the manifests made from it",
        kind: Kind::Check,
        arguments: &["xtask", "chart", "--check"],
        variables: &[],
    },
    Stage {
        name: "unit",
        about: "tests of pure logic",
        kind: Kind::Tests,
        arguments: &["test", "--no-fail-fast", "--lib", "--bins"],
        variables: &[],
    },
    Stage {
        name: "kernel",
        about: "agent/tests: this machine's kernel, a real Prometheus and a real collector",
        kind: Kind::KernelTests,
        arguments: &["test", "--no-fail-fast", "--package", "podlens", "--test", "*"],
        variables: &[],
    },
    Stage {
        name: "e2e",
        about: "the installed chart on a real Kubernetes node",
        kind: Kind::Checks,
        arguments: &["xtask", "e2e"],
        variables: &[],
    },
];

/// Which stages and tests run.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Choice {
    /// Run only the tests whose names contain this, and no checks
    filter: Option<String>,
    /// Run only this stage; may be given several times
    #[arg(long)]
    stage: Vec<String>,
    /// Print the stages and run none
    #[arg(long)]
    list: bool,
}

/// What came of a stage.
struct Outcome {
    name: &'static str,
    tally: Tally,
    seconds: f64,
}

/// Sets the machine up and runs the chosen stages.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    if choice.list {
        for stage in STAGES {
            println!("{:<12} {}", stage.name, stage.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let stages = chosen(choice)?;
    setup::run(Purpose::ALL)?;
    let mut outcomes = Vec::new();
    for stage in stages {
        println!("\ntest: stage {}: {}", stage.name, stage.about);
        let start = Instant::now();
        let tally = match run_stage(stage, choice.filter.as_deref()) {
            Ok(tally) => tally,
            Err(error) => {
                println!("test: {error:#}");
                Tally { failed: 1, ..Tally::default() }
            }
        };
        outcomes.push(Outcome { name: stage.name, tally, seconds: start.elapsed().as_secs_f64() });
    }
    Ok(conclude(&outcomes))
}

fn chosen(choice: &Choice) -> Result<Vec<&'static Stage>> {
    if let Some(unknown) = choice.stage.iter().find(|name| STAGES.iter().all(|stage| stage.name != name.as_str())) {
        let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        bail!("there is no stage `{unknown}`; the stages are {}", names.join(", "));
    }
    let stages = STAGES.iter().filter(|stage| {
        let named = choice.stage.is_empty() || choice.stage.iter().any(|name| name == stage.name);
        named && (choice.filter.is_none() || matches!(stage.kind, Kind::Tests | Kind::KernelTests))
    });
    Ok(stages.collect())
}

fn run_stage(stage: &Stage, filter: Option<&str>) -> Result<Tally> {
    let mut command = Command::new("cargo");
    command.current_dir(places::workspace()?).args(stage.arguments).envs(stage.variables.iter().copied());
    if stage.kind == Kind::Check {
        let held = process::echoed(&mut command, |_| ())?.success();
        return Ok(Tally { passed: u64::from(held), failed: u64::from(!held), skipped: 0 });
    }
    command.args(filter);
    if stage.kind == Kind::KernelTests {
        command.args(["--", "--test-threads=1"]);
        run_as_root(&mut command, &[])?;
    }
    let mut tally = Tally::default();
    let held = process::echoed(&mut command, |line| {
        let counts = match stage.kind {
            Kind::Checks => Tally::from_checks_closing_line(line),
            _ => Tally::from_closing_line(line),
        };
        if let Some(counts) = counts {
            tally += counts;
        }
    })?
    .success();
    Ok(judged(tally, held, filter.is_some()))
}

/// Makes cargo run test programs as root, with this user's cache and the variables of these names.
pub(crate) fn run_as_root(cargo: &mut Command, kept: &[&str]) -> Result<()> {
    if !packages::is_root() {
        let keep = if kept.is_empty() { String::new() } else { format!(" --preserve-env={}", kept.join(",")) };
        let runner = format!("sudo{keep} env XDG_CACHE_HOME={}", places::user_cache()?.display());
        cargo.env(format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", ARCH.to_uppercase()), runner);
    }
    Ok(())
}

/// Adds a failure where no test tells of it: a test program that did not build or crashed, or no test at all.
fn judged(mut tally: Tally, held: bool, filtered: bool) -> Tally {
    let ran_nothing = tally.passed + tally.failed == 0 && !filtered;
    if ran_nothing || (!held && tally.failed == 0) {
        tally.failed += 1;
    }
    tally
}

/// Prints the summary and the closing line.
fn conclude(outcomes: &[Outcome]) -> ExitCode {
    println!("\ntest: {:<12} {:>7} {:>7} {:>7} {:>8}", "stage", "passed", "failed", "skipped", "seconds");
    let mut total = Tally::default();
    for Outcome { name, tally, seconds } in outcomes {
        println!("test: {name:<12} {:>7} {:>7} {:>7} {seconds:>8.1}", tally.passed, tally.failed, tally.skipped);
        total += *tally;
    }
    println!("{}", closing_line(total));
    if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn closing_line(total: Tally) -> String {
    let skipped = if total.skipped > 0 { format!(", {} skipped", total.skipped) } else { String::new() };
    format!("{} passed, {} failed{skipped}", total.passed, total.failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Choice, Kind, STAGES, chosen, closing_line, judged};
    use crate::libtest::Tally;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped }
    }

    #[test]
    fn a_failure_that_no_test_tells_of_is_counted() {
        let table = [
            (tally(3, 0, 1), true, false, tally(3, 0, 1)),
            (tally(3, 2, 0), false, false, tally(3, 2, 0)),
            (tally(3, 0, 0), false, false, tally(3, 1, 0)),
            (tally(0, 0, 4), true, false, tally(0, 1, 4)),
            (tally(0, 0, 0), true, true, tally(0, 0, 0)),
            (tally(0, 0, 0), false, true, tally(0, 1, 0)),
        ];
        for (counted, held, filtered, expected) in table {
            assert_eq!(judged(counted, held, filtered), expected, "{counted:?} {held} {filtered}");
        }
    }

    #[test]
    fn the_closing_line_names_skipped_tests_only_if_there_are_any() {
        assert_eq!(closing_line(tally(5, 1, 0)), "5 passed, 1 failed");
        assert_eq!(closing_line(tally(5, 0, 2)), "5 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_filter_leaves_out_the_checks_and_a_stage_leaves_out_the_others() {
        let all = chosen(&Choice::default()).unwrap();
        assert_eq!(all.len(), STAGES.len());
        let filtered = chosen(&Choice { filter: Some("x".to_owned()), ..Choice::default() }).unwrap();
        assert!(!filtered.is_empty() && filtered.iter().all(|stage| !matches!(stage.kind, Kind::Check | Kind::Checks)));
        let one = chosen(&Choice { stage: vec!["lint".to_owned()], ..Choice::default() }).unwrap();
        assert_eq!(one.iter().map(|stage| stage.name).collect::<Vec<_>>(), ["lint"]);
        let unknown = chosen(&Choice { stage: vec!["lnt".to_owned()], ..Choice::default() });
        assert!(unknown.is_err_and(|error| error.to_string().contains("`lnt`")));
    }
}
