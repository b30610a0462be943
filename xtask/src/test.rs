//! `cargo xtask test`: the list of stages and their runner.
//!
//! All stages run, whatever fails. The last line is `N passed, N failed`, with `, N skipped` where tests were
//! left out; a stage that runs no tests of its own counts as one. `vm` boots the machines of the last stage.

use std::{
    env::consts::ARCH,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    libtest::{Reader, Tally},
    packages, places, process, setup,
    step::Purpose,
    vm,
};

/// What a stage's command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A check of the source: it succeeds or not.
    Check,
    /// Test programs of Rust, run as this user.
    Tests,
    /// The files of agent/tests that no other stage names, which load kernel programs: as root, one after another.
    KernelTests,
    /// The same in virtual machines with other kernels and, where there is one, another parameter of their command line; the
    /// arguments are the tests.
    OtherKernels(&'static [&'static str], &'static str),
    /// Checks of this tool with a closing line of their own.
    Checks,
}

/// One stage.
struct Stage {
    name: &'static str,
    about: &'static str,
    kind: Kind,
    /// Arguments for cargo, or the names of tests.
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
        // Compiling `core` asks for an unstable option, and the programs' assembly for another and for the processor that
        // agent/build.rs names.
        variables: &[("RUSTC_BOOTSTRAP", "1"), ("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", "-Ctarget-cpu=v3")],
    },
    Stage {
        name: "tidy",
        about: "rules that no compiler knows: layers, `aya` and `unsafe`, what files and documents say",
        kind: Kind::Check,
        arguments: &["xtask", "tidy"],
        variables: &[],
    },
    Stage {
        name: "dependencies",
        about: "licences, duplicate versions and sources of what podlens depends on, by deny.toml",
        kind: Kind::Check,
        arguments: &["deny", "--locked", "--workspace", "check", "--deny", "warnings", "bans", "licenses", "sources"],
        variables: &[],
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
        about: "tests of pure logic, the documents made from definitions, and podlens where it loads no kernel program",
        kind: Kind::Tests,
        arguments: &[
            "test",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--test",
            "corpora",
            "--test",
            "docs",
            "--test",
            "fleet",
            "--test",
            "real_components",
        ],
        variables: &[],
    },
    Stage {
        name: "kernel",
        about: "agent/tests: this machine's kernel, a real Prometheus and a real collector",
        kind: Kind::KernelTests,
        arguments: &["test", "--no-fail-fast", "--package", "podlens"],
        variables: &[],
    },
    Stage {
        name: "other-kernels",
        about: "some of these tests on the oldest and the newest kernel, in pure cgroup v2, in virtual machines",
        kind: Kind::OtherKernels(&["5.10", "7.2"], ""),
        arguments: &[
            "check_says_what_this_kernel_lacks",
            "a_pod_stopped_by_its_own_quota_is_nobodys_victim",
            "a_task_that_is_moved_while_it_runs_is_split_at_the_move",
            "a_wait_is_charged_to_the_busy_pod_and_ends_with_it",
            "every_kind_of_request_is_counted_as_the_kernel_counts_it",
            "migrations_are_those_that_the_kernel_counts",
        ],
        variables: &[],
    },
    Stage {
        name: "lockdown",
        about: "what podlens says of a kernel that is locked down for confidentiality, in a virtual machine",
        kind: Kind::OtherKernels(&["6.12"], "lockdown=confidentiality"),
        arguments: &["a_lockdown_for_confidentiality_is_named_with_the_way_out"],
        variables: &[],
    },
    Stage {
        name: "e2e",
        about: "the installed chart on a real Kubernetes node",
        kind: Kind::Checks,
        arguments: &["xtask", "e2e"],
        variables: &[],
    },
    Stage {
        name: "e2e-ipv6",
        about: "the same where all addresses are of IPv6: what its family has to do with",
        kind: Kind::Checks,
        arguments: &["xtask", "e2e", "--ipv6", "network", "node-address", "helm-test", "uninstall"],
        variables: &[],
    },
];

/// How long each virtual machine of a stage may take.
const MACHINE_LIMIT: Duration = Duration::from_mins(10);

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
    if let Kind::OtherKernels(kernels, parameters) = stage.kind {
        return run_on_other_kernels(kernels, parameters, stage.arguments, filter);
    }
    let mut command = Command::new("cargo");
    command.current_dir(places::workspace()?).args(stage.arguments).envs(stage.variables.iter().copied());
    if stage.kind == Kind::Check {
        let held = process::echoed(&mut command, |_| ())?.success();
        return Ok(Tally { passed: u64::from(held), failed: u64::from(!held), skipped: 0 });
    }
    if stage.kind == Kind::Checks {
        let mut tally = Tally::default();
        let held = process::echoed(&mut command, |line| {
            tally += Tally::from_checks_closing_line(line).unwrap_or_default();
        })?
        .success();
        return Ok(tally.judged(held, false));
    }
    if stage.kind == Kind::KernelTests {
        command.args(kernel_test_files()?.iter().flat_map(|name| ["--test", name]));
    }
    command.args(filter);
    if stage.kind == Kind::KernelTests {
        command.args(["--", "--test-threads=1"]);
        run_as_root(&mut command)?;
    }
    let mut reader = Reader::default();
    let held = process::echoed(&mut command, |line| reader.line(line))?.success();
    Ok(reader.tally.judged(held, filter.is_some()))
}

/// The files of agent/tests that no other stage names.
fn kernel_test_files() -> Result<Vec<String>> {
    Ok(places::test_files()?.into_iter().filter(|name| !named_files().any(|named| named == name)).collect())
}

/// The files of agent/tests that a stage names.
fn named_files() -> impl Iterator<Item = &'static str> {
    let pairs = STAGES.iter().flat_map(|stage| stage.arguments.windows(2));
    pairs.filter_map(|pair| if let ["--test", file] = *pair { Some(file) } else { None })
}

/// Runs those of the named tests that the filter lets through, none of which is none to run.
fn run_on_other_kernels(kernels: &[&str], parameters: &str, tests: &[&str], filter: Option<&str>) -> Result<Tally> {
    let chosen = tests.iter().filter(|test| filter.is_none_or(|filter| test.contains(filter)));
    let filters: Vec<String> = chosen.map(|test| (*test).to_owned()).collect();
    if filters.is_empty() {
        return Ok(Tally::default());
    }
    vm::run_tests(&vm::Tests {
        kernels,
        cgroup: vm::Cgroup::V2,
        hardware: &vm::Hardware::with_parameters(parameters),
        from: &[],
        limit: MACHINE_LIMIT,
        file_limit: MACHINE_LIMIT,
        filters: &filters,
        skip: &[],
        files: &[],
        record: false,
    })
}

/// Makes cargo run test programs as root, with this user's cache.
fn run_as_root(cargo: &mut Command) -> Result<()> {
    if !packages::is_root() {
        let runner = format!("sudo env XDG_CACHE_HOME={}", places::user_cache()?.display());
        cargo.env(format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", ARCH.to_uppercase()), runner);
    }
    Ok(())
}

/// Prints the summary and the closing line.
fn conclude(outcomes: &[Outcome]) -> ExitCode {
    println!("\ntest: {:<12} {:>7} {:>7} {:>7} {:>8}", "stage", "passed", "failed", "skipped", "seconds");
    let mut total = Tally::default();
    for Outcome { name, tally, seconds } in outcomes {
        println!("test: {name:<12} {:>7} {:>7} {:>7} {seconds:>8.1}", tally.passed, tally.failed, tally.skipped);
        total += *tally;
    }
    println!("{total}");
    if total.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Choice, Kind, STAGES, chosen, kernel_test_files, named_files};

    #[test]
    fn each_file_of_tests_runs_in_one_stage() {
        let kernel = kernel_test_files().unwrap();
        assert!(kernel.iter().any(|file| file == "scheduler"), "{kernel:?}");
        let directory = crate::places::workspace().unwrap().join("agent/tests");
        let mut named = 0;
        for file in named_files() {
            assert!(directory.join(file).with_extension("rs").is_file(), "there is no test file {file}");
            assert!(!kernel.iter().any(|other| other == file), "{file} runs twice");
            named += 1;
        }
        assert!(named > 0);
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
