//! What `--record` keeps of a machine's output: the results of each file of tests, in docs/kernels.json.
//!
//! `Reader` is pure: it reads what the guest's script (`tests`) and Rust's test programs print. What a table makes of the
//! results is testkit's `kernels`.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, anyhow};
use testkit::kernels::{self, Machine, Results, Run};

use crate::{
    libtest::{SKIPPED, Tally},
    places, process,
};

/// The guest's script prints these before and after a test program, with the file's name and the program's exit code.
pub(super) const BEGIN_MARK: &str = "PODLENS_VM_FILE=";
pub(super) const END_MARK: &str = "PODLENS_VM_FILE_END=";
/// The exit code of a program that was ended at its limit of time.
const KILLED: &str = "137";
/// Where the results lie, in the repository.
const FILE: &str = "docs/kernels.json";
/// Tests of what all files share, which say nothing of a kernel.
const SHARED: &str = "common::";
/// What does not make the sources other than those that were built: what a record itself changes.
const NOT_SOURCES: &[&str] = &[":!docs"];

/// Reads the output of one machine.
#[derive(Debug, Default)]
pub(super) struct Reader {
    running: Option<Program>,
}

/// What a test program has told so far.
#[derive(Debug, Default)]
struct Program {
    file: String,
    /// How many tests it is to run.
    tests: u64,
    /// The test that it runs, and all that it has begun.
    test: Option<String>,
    begun: BTreeSet<String>,
    passed: u64,
    passed_of_shared: u64,
    failed: BTreeSet<String>,
    skipped: Vec<(String, String)>,
    /// Its own count, once all tests are through.
    closing: Option<Tally>,
    filtered_out: u64,
    lists_failures: bool,
}

impl Reader {
    /// Takes a line; gives a file's results with the line that ends it.
    pub(super) fn line(&mut self, line: &str) -> Option<(String, Results)> {
        if let Some(file) = line.strip_prefix(BEGIN_MARK) {
            self.running = Some(Program { file: file.to_owned(), ..Program::default() });
        } else if let Some((last_line, code)) = line.split_once(END_MARK) {
            let mut program = self.running.take()?;
            program.line(last_line);
            let end = if code == KILLED { "no time was left".to_owned() } else { format!("exit code {code}") };
            return Some(program.results(&end));
        } else if let Some(program) = &mut self.running {
            program.line(line);
        }
        None
    }

    /// The results of a file in whose middle the machine ended.
    pub(super) fn end(&mut self) -> Option<(String, Results)> {
        Some(self.running.take()?.results("end of the machine"))
    }
}

impl Program {
    fn line(&mut self, line: &str) {
        let mut rest = line;
        if let Some(tests) = line.strip_prefix("running ").and_then(|rest| rest.split(' ').next()?.parse().ok()) {
            self.tests = tests;
        } else if let Some(tally) = Tally::from_closing_line(line) {
            self.closing = Some(tally);
            let filtered = line.split("; ").find_map(|part| part.strip_suffix(" filtered out")?.parse().ok());
            self.filtered_out = filtered.unwrap_or(0);
        } else if line == "failures:" {
            self.lists_failures = true;
        } else if let Some(name) =
            line.strip_prefix("    ").filter(|name| self.lists_failures && self.begun.contains(*name))
        {
            self.failed.insert(name.to_owned());
        } else if let Some((name, end)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            self.test = Some(name.to_owned());
            self.begun.insert(name.to_owned());
            rest = end;
        }
        let Some(name) = self.test.clone() else { return };
        if let Some(reason) = rest.strip_prefix(SKIPPED) {
            if self.skipped.last().is_none_or(|(last, _)| *last != name) {
                self.skipped.push((name, reason.to_owned()));
            }
        } else if rest == "ok" {
            self.test = None;
            let has_skipped = self.skipped.last().is_some_and(|(last, _)| *last == name);
            let is_shared = name.starts_with(SHARED);
            self.passed += u64::from(!has_skipped && !is_shared);
            self.passed_of_shared += u64::from(is_shared);
        } else if rest == "FAILED" {
            self.test = None;
            self.skipped.retain(|(skipped, _)| *skipped != name);
            self.failed.insert(name);
        } else if rest.starts_with("ignored") {
            // A process that tests start, and no test.
            self.test = None;
            self.tests = self.tests.saturating_sub(1);
        }
    }

    fn results(mut self, end: &str) -> (String, Results) {
        let mut results = Results::default();
        for (test, reason) in &self.skipped {
            results.skipped.entry(reason.clone()).or_default().push(test.clone());
        }
        let skipped = self.skipped.len() as u64;
        if let Some(closing) = self.closing {
            results.passed = closing.passed.saturating_sub(skipped + self.passed_of_shared);
            results.not_run = self.filtered_out;
        } else {
            // What it ran when it ended did not hold, and the others had no time.
            self.failed.insert(self.test.map_or_else(|| end.to_owned(), |test| format!("{test}: {end}")));
            results.passed = self.passed;
            let over = self.passed + self.passed_of_shared + skipped + self.failed.len() as u64;
            results.not_run = self.tests.saturating_sub(over);
        }
        results.failed = self.failed.into_iter().collect();
        (self.file, results)
    }
}

/// The file of results, and what stands with each run.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    date: String,
    commit: String,
}

impl Record {
    /// To be called before anything is built: what runs is what the worktree holds then.
    pub(super) fn begin() -> Result<Self> {
        let workspace = places::workspace()?;
        let git = |arguments: &[&str]| process::output(Command::new("git").current_dir(&workspace).args(arguments));
        let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
        let changed = git(&[&["status", "--porcelain", "--", "."], NOT_SOURCES].concat())?;
        let date = process::output(Command::new("date").args(["--utc", "+%F"]))?;
        Ok(Self {
            path: workspace.join(FILE),
            date: date.trim().to_owned(),
            commit: format!("{}{}", commit.trim(), if changed.is_empty() { "" } else { "+" }),
        })
    }

    /// Keeps a file's results in the place of older ones.
    pub(super) fn keep(&self, machine: Machine, (file, results): (String, Results)) -> Result<()> {
        let shown = self.path.display();
        let text = fs::read_to_string(&self.path).with_context(|| format!("cannot read {shown}"))?;
        let mut runs =
            kernels::parse(&text).map_err(|error| anyhow!("{shown} is not as `--record` writes it: {error}"))?;
        let Self { date, commit, .. } = self;
        kernels::replace(&mut runs, Run { machine, file, date: date.clone(), commit: commit.clone(), results });
        fs::write(&self.path, kernels::text(&runs)).with_context(|| format!("cannot write {shown}"))
    }
}

#[cfg(test)]
mod tests {
    use testkit::kernels::Results;

    use super::Reader;

    fn read(lines: &[&str]) -> Vec<(String, Results)> {
        let mut reader = Reader::default();
        let mut found: Vec<_> = lines.iter().filter_map(|line| reader.line(line)).collect();
        found.extend(reader.end());
        found
    }

    fn results(passed: u64, failed: &[&str], skipped: &[(&str, &str)], not_run: u64) -> Results {
        let mut results = Results { passed, not_run, ..Results::default() };
        results.failed = failed.iter().map(|name| (*name).to_owned()).collect();
        for (reason, test) in skipped {
            results.skipped.entry((*reason).to_owned()).or_default().push((*test).to_owned());
        }
        results
    }

    #[test]
    fn each_file_has_its_own_results_whatever_stands_between_the_verdicts() {
        let found = read(&[
            "PODLENS_VM_FILE=tcp",
            "running 7 tests",
            "test common::a ... ok",
            "test a ... ok",
            "test b ... skipped: no veth here",
            "skipped: and nothing else",
            "ok",
            "test c ... what a program printed",
            "[   12.5] what the kernel printed",
            "ok",
            "test d ... FAILED",
            "test e ... skipped: half of it",
            "FAILED",
            "test f ... ignored, no test, but a process",
            "failures:",
            "---- d stdout ----",
            "    aLineOfIt",
            "failures:",
            "    d",
            "    e",
            "test result: FAILED. 4 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s",
            "PODLENS_VM_FILE_END=101",
            "PODLENS_VM_FILE=udp",
            "running 1 test",
            "test a ... ok",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "PODLENS_VM_FILE_END=0",
        ]);
        let tcp = results(2, &["d", "e"], &[("no veth here", "b")], 4);
        assert_eq!(found, [("tcp".to_owned(), tcp), ("udp".to_owned(), results(1, &[], &[], 0))]);
    }

    #[test]
    fn a_file_that_was_stopped_has_failed_in_the_test_that_it_ran() {
        let begin = [
            "PODLENS_VM_FILE=oom",
            "running 6 tests",
            "test common::a ... ok",
            "test a ... ok",
            "test b ... skipped: none",
            "ok",
        ];
        let expected = |failed: &str| vec![("oom".to_owned(), results(1, &[failed], &[("none", "b")], 2))];
        let stopped = read(&[&begin[..], &["test c ... PODLENS_VM_FILE_END=137"]].concat());
        assert_eq!(stopped, expected("c: no time was left"));
        assert_eq!(read(&[&begin[..], &["test c ... "]].concat()), expected("c: end of the machine"));
        let unable = read(&["PODLENS_VM_FILE=oom", "PODLENS_VM_FILE_END=127"]);
        assert_eq!(unable, [("oom".to_owned(), results(0, &["exit code 127"], &[], 0))]);
    }
}
