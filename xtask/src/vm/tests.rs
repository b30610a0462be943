//! `cargo xtask vm --tests`: the tests of agent/tests that need nothing but a kernel, on other kernels.
//!
//! The guest gets the very test programs that run on this machine, the agent that they start and the programs that
//! they call, each at its own path and with its shared libraries: nothing is built for the guest alone, and a test
//! finds there what it finds here. Called by `vm`, and by `test` for its stage `other-kernels`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use testkit::kernels::Machine;

use super::{
    Cgroup, Hardware, boot_each,
    guest::{Guest, words},
    record::{self, BEGIN_MARK, END_MARK, Record},
};
use crate::{
    kernels::Kernel,
    libtest::{Reader, Tally},
    places, process,
};

/// Files of agent/tests that do not run here unless they are asked for. All others do.
const ELSEWHERE: &[&str] = &[
    // They load no kernel program.
    "corpora",
    "docs",
    "fleet",
    "real_components",
    // They need a real Prometheus,
    "alerts",
    "monitoring",
    "monitors",
    "native_histograms",
    "prometheus",
    "prometheus_otlp",
    "web",
    // or a real collector.
    "collector",
    "events",
    "receivers",
    // Their matter is an API server, or a receiver, of their own.
    "names",
    "names_away",
    "names_certificate",
    "names_churn",
    "names_log",
    "names_proxy",
    "names_token",
    "own",
    "push_cost",
    "series",
    // It compares with what one machine's kernel has said.
    "programs",
    // They need nothing but a kernel, and were not shown to hold on an emulated machine.
    "names_paths",
    "part",
    "templates",
];
/// What they call and the guest's busybox does not have, or not with the options that they use.
const CALLED: &[&str] = &[
    "bpftool",
    "chrt",
    "fio",
    "ip",
    "losetup",
    "nft",
    "nsenter",
    "perf",
    "prlimit",
    "setpriv",
    "setsid",
    "stress-ng",
    "taskset",
    "unshare",
];
/// Where the loader looks up libraries that are not in its usual places.
const LIBRARY_CACHE: &str = "/etc/ld.so.cache";
/// Tells tests that no one else uses the machine, so that they may take a CPU from it, and that it is slow.
const VARIABLES: &str = "PODLENS_TEST_OWN_MACHINE=1 PODLENS_TEST_SLOW_MACHINE=1";

/// Which tests run where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tests<'a> {
    pub(crate) kernels: &'a [&'a str],
    pub(crate) cgroup: Cgroup,
    pub(crate) hardware: &'a Hardware,
    /// How long one machine may take.
    pub(crate) limit: Duration,
    /// How long the tests of one file may take.
    pub(crate) file_limit: Duration,
    /// The files of agent/tests; all that need nothing but a kernel if there are none.
    pub(crate) from: &'a [String],
    /// Parts of names, one of which a test's name must contain; all run if there are none.
    pub(crate) filters: &'a [String],
    /// Parts of names that no test's name may contain.
    pub(crate) skip: &'a [String],
    /// Other files, as `HOST_PATH:GUEST_PATH`.
    pub(crate) files: &'a [String],
    /// Whether docs/kernels.json keeps what comes of each file.
    pub(crate) record: bool,
}

impl Tests<'_> {
    /// How long the tests of one file may take unless something else is asked for.
    pub(crate) const FILE_LIMIT: Duration = Duration::from_mins(15);
}

/// Builds the tests, runs them on each kernel, and gives what came of all.
pub(crate) fn run_tests(tests: &Tests<'_>) -> Result<Tally> {
    let record = tests.record.then(Record::begin).transpose()?;
    let files = if tests.from.is_empty() { kernel_only_files()? } else { tests.from.to_vec() };
    let executables = build(&files)?;
    let (mut programs, agents): (Vec<_>, Vec<_>) = executables.iter().partition(|built| built.is_test);
    programs.sort_by_key(|built| files.iter().position(|file| file == test_file(&built.path)));
    let mut guest = Guest::new(&script(&programs, tests))?;
    let called = CALLED.iter().map(|name| {
        places::program(name).with_context(|| format!("there is no {name}; `cargo xtask setup --for test` installs it"))
    });
    let mut mirrored: BTreeSet<PathBuf> = called.collect::<Result<_>>()?;
    let built: BTreeSet<PathBuf> = programs.iter().chain(&agents).map(|built| built.path.clone()).collect();
    mirrored.extend(libraries(&mirrored.union(&built).cloned().collect())?);
    mirrored.extend(Some(PathBuf::from(LIBRARY_CACHE)).filter(|cache| cache.exists()));
    mirrored.iter().try_for_each(|path| guest.mirror(path))?;
    built.iter().try_for_each(|path| guest.mirror_stripped(path))?;
    tests.files.iter().try_for_each(|file| guest.add(file))?;

    let mut readers: BTreeMap<String, Reader> = BTreeMap::new();
    let mut recorders: BTreeMap<String, record::Reader> = BTreeMap::new();
    let machine = |kernel: &Kernel| Machine {
        kernel: kernel.upstream_version().to_owned(),
        cgroup: tests.cgroup.name().to_owned(),
        hardware: tests.hardware.options(),
    };
    let keep = |kernel: &Kernel, results| match (&record, results) {
        (Some(record), Some(results)) => record.keep(machine(kernel), results),
        _ => Ok(()),
    };
    let outcomes = boot_each(tests.kernels, &guest, (tests.cgroup, tests.hardware), tests.limit, |kernel, line| {
        readers.entry(kernel.series.clone()).or_default().line(line);
        keep(kernel, recorders.entry(kernel.series.clone()).or_default().line(line))
    })?;
    let mut sum = Tally::default();
    for (kernel, outcome) in outcomes {
        keep(&kernel, recorders.remove(&kernel.series).and_then(|mut recorder| recorder.end()))?;
        let held = outcome.is_ok_and(|outcome| outcome.code == 0);
        let reader = readers.remove(&kernel.series).unwrap_or_default();
        let tally = reader.tally.judged(held, !tests.filters.is_empty());
        println!("vm: {:<5} cgroup {:<6} {tally}", kernel.series, tests.cgroup.name());
        sum += tally;
    }
    Ok(sum)
}

/// The files of agent/tests that need nothing but a kernel: no Prometheus, no collector, no API server.
fn kernel_only_files() -> Result<Vec<String>> {
    Ok(places::test_files()?.into_iter().filter(|file| !ELSEWHERE.contains(&file.as_str())).collect())
}

/// An executable that cargo has built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Built {
    path: PathBuf,
    is_test: bool,
}

/// Builds the test programs and the agent; nothing is done where `cargo test` has built them before.
fn build(programs: &[String]) -> Result<Vec<Built>> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(places::workspace()?);
    cargo.args(["test", "--no-run", "--package", "podlens", "--message-format", "json-render-diagnostics"]);
    for program in programs {
        cargo.args(["--test", program]);
    }
    // What it compiles it tells on its standard error.
    let shown = process::describe(&cargo);
    let output = cargo.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{shown}`"))?;
    ensure!(output.status.success(), "`{shown}` ended with {}", output.status);
    let executables: Vec<Built> = String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect();
    let built = executables.iter().filter(|built| built.is_test).count();
    ensure!(built == programs.len(), "`{shown}` told of {built} test programs, not of {}", programs.len());
    Ok(executables)
}

/// The executable of which a message of cargo tells, if it does.
fn executable(message: &str) -> Option<Built> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = PathBuf::from(message.get("executable")?.as_str()?);
    let is_test = message.get("profile")?.get("test")?.as_bool()?;
    Some(Built { path, is_test })
}

/// The shared libraries of these programs and the loader itself.
fn libraries(programs: &BTreeSet<PathBuf>) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for program in programs {
        let printed = process::output(Command::new("ldd").arg(program))
            .with_context(|| format!("cannot tell the libraries of {}", program.display()))?;
        for line in printed.lines() {
            ensure!(!line.contains("not found"), "{} lacks a library: {}", program.display(), line.trim());
            found.extend(library(line));
        }
    }
    Ok(found)
}

/// The file in a line of `ldd`: `NAME => FILE (ADDRESS)`, or `FILE (ADDRESS)` for the loader; none for what is no file.
fn library(line: &str) -> Option<PathBuf> {
    let (file, _) = line.trim().rsplit_once(" (")?;
    let file = file.rsplit_once(" => ").map_or(file, |(_, file)| file);
    file.starts_with('/').then(|| Path::new(file).to_owned())
}

/// Runs each test program in the order of the files, whatever comes of the one before. One that takes too long leaves nothing
/// running for the next: signal 9 to all ends all but the first process and this script.
fn script(programs: &[&Built], tests: &Tests<'_>) -> String {
    let mut arguments = vec!["--test-threads=1".to_owned()];
    arguments.extend(tests.skip.iter().map(|name| format!("--skip={name}")));
    arguments.extend_from_slice(tests.filters);
    let limit = tests.file_limit.as_secs();
    let runs = programs.iter().map(|Built { path, .. }| {
        let name = words(test_file(path), &[]);
        let program = words(&path.display().to_string(), &arguments);
        format!(
            "echo {BEGIN_MARK}{name}\ntimeout -s KILL {limit} {program} 2>&1\ncode=$?\n\
             [ $code = 0 ] || status=1\n[ $code = 137 ] && kill -KILL -1\necho {END_MARK}$code\n"
        )
    });
    format!("export {VARIABLES}\nstatus=0\n{}exit $status\n", runs.collect::<Vec<_>>().concat())
}

/// The file of agent/tests that became this program: cargo puts a hash behind its name.
fn test_file(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('-').map_or(name, |(file, _)| file)
}

#[cfg(test)]
mod unit_tests {
    #![allow(clippy::unwrap_used)]

    use std::{path::PathBuf, time::Duration};

    use super::{
        Built, Cgroup, ELSEWHERE, Hardware, Tests, VARIABLES, executable, kernel_only_files, library, places, script,
    };

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let artifact = |executable: &str, test: bool| {
            format!(r#"{{"reason":"compiler-artifact","profile":{{"test":{test}}},"executable":{executable}}}"#)
        };
        let built = |is_test| Some(Built { path: PathBuf::from("/a/b"), is_test });
        for (message, expected) in [
            (artifact(r#""/a/b""#, true), built(true)),
            (artifact(r#""/a/b""#, false), built(false)),
            (artifact("null", false), None),
            (r#"{"reason":"build-finished","success":true}"#.to_owned(), None),
            ("running 3 tests".to_owned(), None),
        ] {
            assert_eq!(executable(&message), expected, "{message}");
        }
    }

    #[test]
    fn files_that_run_elsewhere_are_there() {
        let (all, here) = (places::test_files().unwrap(), kernel_only_files().unwrap());
        let missing: Vec<_> = ELSEWHERE.iter().filter(|file| !all.iter().any(|other| other == *file)).collect();
        assert!(missing.is_empty(), "there is no such file of tests: {missing:?}");
        assert_eq!(here.len() + ELSEWHERE.len(), all.len(), "one is named twice");
    }

    #[test]
    fn libraries_are_found_in_lines_of_ldd() {
        for (line, expected) in [
            ("\tlinux-vdso.so.1 (0x00007ffd)", None),
            ("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)", Some("/lib/x86_64-linux-gnu/libc.so.6")),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)", Some("/lib64/ld-linux-x86-64.so.2")),
            ("\tstatically linked", None),
        ] {
            assert_eq!(library(line), expected.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn the_guest_runs_every_program_for_a_limited_time_and_fails_if_one_does() {
        let built = Built { path: PathBuf::from("/t/tcp_many-1a"), is_test: true };
        let tests = Tests {
            kernels: &[],
            cgroup: Cgroup::V2,
            hardware: &Hardware::with_parameters(""),
            limit: Duration::MAX,
            file_limit: Duration::from_secs(9),
            from: &[],
            filters: &["a b".to_owned()],
            skip: &["c".to_owned()],
            files: &[],
            record: false,
        };
        let one = "echo PODLENS_VM_FILE='tcp_many'\n\
                   timeout -s KILL 9 '/t/tcp_many-1a' '--test-threads=1' '--skip=c' 'a b' 2>&1\ncode=$?\n\
                   [ $code = 0 ] || status=1\n[ $code = 137 ] && kill -KILL -1\necho PODLENS_VM_FILE_END=$code\n";
        let expected = format!("export {VARIABLES}\nstatus=0\n{one}{one}exit $status\n");
        assert_eq!(script(&[&built, &built], &tests), expected);
    }
}
