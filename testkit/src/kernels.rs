//! docs/kernels.json: what came of each file of agent/tests on each kernel on which it ran, a line per machine and file.
//!
//! Pure. `cargo xtask vm --record` replaces lines, agent/tests/docs.rs makes the tables of docs/kernels.md from all of them.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

/// How control groups are mounted, in the order of the tables.
const CGROUPS: &[&str] = &["v2", "hybrid", "v1"];

/// A virtual machine, as far as a test can tell it from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The kernel's version with its last number, such as 6.12.118.
    pub kernel: String,
    /// How control groups are mounted: v2, hybrid or v1.
    pub cgroup: String,
    /// The options of `cargo xtask vm` that make it an unusual one; empty for the usual.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hardware: String,
}

/// What came of the tests of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// How many tests held.
    pub passed: u64,
    /// Names of tests that did not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Names of tests that found nothing to test, by the reason that they gave.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, Vec<String>>,
    /// Tests that were left out, or that had no time left.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_run: u64,
}

/// One run of one file of agent/tests on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where it ran.
    #[serde(flatten)]
    pub machine: Machine,
    /// The file's name without `.rs`.
    pub file: String,
    /// The day, as 2026-11-29.
    pub date: String,
    /// The commit that was built, with a `+` behind it where something was changed since.
    pub commit: String,
    /// What came of it.
    #[serde(flatten)]
    pub results: Results,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Machine {
    /// The kernel's series, such as 6.12: a newer kernel of it takes the place of an older one.
    fn series(&self) -> &str {
        let end = self.kernel.match_indices('.').nth(1).map_or(self.kernel.len(), |(end, _)| end);
        &self.kernel[..end]
    }

    /// What a column of the tables is about.
    fn column(&self) -> (&str, &str) {
        (self.series(), &self.cgroup)
    }
}

/// The runs in the text of the file.
pub fn parse(text: &str) -> Result<Vec<Run>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The text of the file: a line per run, so that two changes meet only where they are about the same.
pub fn text(runs: &[Run]) -> String {
    let lines: Vec<String> =
        runs.iter().map(|run| serde_json::to_string(run).expect("a run has only texts as keys")).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// Puts a run in the place of an older one of the same file on such a machine, and all in order.
pub fn replace(runs: &mut Vec<Run>, run: Run) {
    let place = |run: &Run| {
        let (series, cgroup) = run.machine.column();
        [series, cgroup, &run.machine.hardware, &run.file].map(str::to_owned)
    };
    let own = place(&run);
    runs.retain(|other| place(other) != own);
    runs.push(run);
    runs.sort_by(|one, other| order(&one.machine).cmp(&order(&other.machine)).then_with(|| one.file.cmp(&other.file)));
}

fn order(machine: &Machine) -> (Vec<u32>, usize, &str) {
    let numbers = machine.series().split('.').map(|number| number.parse().unwrap_or(u32::MAX)).collect();
    let place = CGROUPS.iter().position(|cgroup| *cgroup == machine.cgroup);
    (numbers, place.unwrap_or(CGROUPS.len()), &machine.hardware)
}

/// The tables: machines by files, unusual machines, why tests were skipped, and what failed.
pub fn tables(runs: &[Run]) -> String {
    let (usual, unusual): (Vec<&Run>, Vec<&Run>) = runs.iter().partition(|run| run.machine.hardware.is_empty());
    let mut text = matrix(&usual);
    if !unusual.is_empty() {
        text.push_str(
            "\nOn machines of other hardware:\n\n| machine | options | file | result |\n| --- | --- | --- | --- |\n",
        );
        for run in unusual {
            let Machine { kernel, cgroup, hardware } = &run.machine;
            writeln!(text, "| {kernel} {cgroup} | `{hardware}` | {} | {} |", run.file, cell(run)).expect("memory");
        }
    }
    let skips =
        by_cause(runs, |results| results.skipped.iter().map(|(reason, tests)| (reason.clone(), tests.len())).collect());
    if !skips.is_empty() {
        text.push_str("\nWhat the tests said that they found nothing to test for:\n\n| file | reason | machines (tests) |\n| --- | --- | --- |\n");
        for ((file, reason), machines) in skips {
            let machines: Vec<String> = machines.iter().map(|(name, tests)| format!("{name} ({tests})")).collect();
            writeln!(text, "| {file} | {reason} | {} |", machines.join(", ")).expect("memory");
        }
    }
    let failures = by_cause(runs, |results| results.failed.iter().map(|test| (format!("`{test}`"), 1)).collect());
    if !failures.is_empty() {
        text.push_str("\nWhat failed:\n\n| file | test | machines |\n| --- | --- | --- |\n");
        for ((file, test), machines) in failures {
            let machines: Vec<&str> = machines.iter().map(|(name, _)| name.as_str()).collect();
            writeln!(text, "| {file} | {test} | {} |", machines.join(", ")).expect("memory");
        }
    }
    text
}

/// Files by machines.
fn matrix(runs: &[&Run]) -> String {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    let mut files: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let column = run.machine.column();
        if !columns.contains(&column) {
            columns.push(column);
        }
        files.entry(&run.file).or_default().push(run);
    }
    let heads: Vec<String> = columns.iter().map(|(series, cgroup)| format!("{series} {cgroup}")).collect();
    let mut text = format!("| file | {} |\n| --- |{}\n", heads.join(" | "), " --- |".repeat(columns.len()));
    for (file, runs) in files {
        let cell_of = |column: &(&str, &str)| {
            runs.iter().find(|run| run.machine.column() == *column).map_or("-".to_owned(), |run| cell(run))
        };
        let cells: Vec<String> = columns.iter().map(cell_of).collect();
        writeln!(text, "| {file} | {} |", cells.join(" | ")).expect("memory");
    }
    text
}

/// Machines, each with a number of tests, by file and cause.
type ByCause = BTreeMap<(String, String), Vec<(String, usize)>>;

/// What the runs say of themselves: each cause with the number of its tests.
fn by_cause(runs: &[Run], causes: impl Fn(&Results) -> Vec<(String, usize)>) -> ByCause {
    let mut found = ByCause::new();
    for run in runs {
        for (cause, tests) in causes(&run.results) {
            found.entry((run.file.clone(), cause)).or_default().push((name(&run.machine), tests));
        }
    }
    found
}

fn name(machine: &Machine) -> String {
    let Machine { kernel, cgroup, hardware } = machine;
    if hardware.is_empty() { format!("{kernel} {cgroup}") } else { format!("{kernel} {cgroup} `{hardware}`") }
}

fn cell(run: &Run) -> String {
    let Results { passed, failed, skipped, not_run } = &run.results;
    let skipped: usize = skipped.values().map(Vec::len).sum();
    let mut parts = Vec::new();
    if !failed.is_empty() {
        parts.push(format!("**{} failed**", failed.len()));
    }
    if *passed > 0 {
        parts.push(format!("{passed} passed"));
    }
    if skipped > 0 {
        parts.push(format!("{skipped} skipped"));
    }
    if *not_run > 0 {
        parts.push(format!("{not_run} not run"));
    }
    format!("{} ({}, {})", parts.join(", "), run.machine.kernel, run.date)
}

#[cfg(test)]
mod tests {
    use super::{Machine, Results, Run, parse, replace, tables, text};

    fn run(kernel: &str, cgroup: &str, file: &str, passed: u64) -> Run {
        let machine = Machine { kernel: kernel.to_owned(), cgroup: cgroup.to_owned(), hardware: String::new() };
        let results = Results { passed, ..Results::default() };
        Run { machine, file: file.to_owned(), date: "2026-01-02".to_owned(), commit: "abc".to_owned(), results }
    }

    #[test]
    fn a_newer_run_takes_the_place_of_the_same_file_on_such_a_machine_alone() {
        let mut runs = Vec::new();
        for (kernel, cgroup, file, passed) in [
            ("6.12.1", "v1", "tcp", 1),
            ("6.12.9", "v2", "tcp", 2),
            ("6.1.9", "v2", "udp", 3),
            ("6.1.9", "v2", "tcp", 4),
            ("6.12.10", "v2", "tcp", 5),
        ] {
            replace(&mut runs, run(kernel, cgroup, file, passed));
        }
        replace(&mut runs, {
            let mut unusual = run("6.12.1", "v2", "tcp", 6);
            unusual.machine.hardware = "--cpus 4".to_owned();
            unusual
        });
        let passed: Vec<u64> = runs.iter().map(|run| run.results.passed).collect();
        assert_eq!(passed, [4, 3, 5, 6, 1], "versions by their numbers, v2 before v1");
        assert_eq!(parse(&text(&runs)).unwrap(), runs);
        assert_eq!(text(&runs).lines().count(), runs.len() + 2);
    }

    #[test]
    fn the_tables_tell_every_cell_every_reason_and_every_failure() {
        let mut one = run("6.1.9", "v2", "tcp", 7);
        one.results.skipped.insert("no veth here".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let mut two = run("7.2.1", "v2", "udp", 0);
        two.results = Results { failed: vec!["it_holds".to_owned()], not_run: 3, ..Results::default() };
        let mut three = run("7.2.1", "v2", "cpus", 1);
        three.machine.hardware = "--cpus 4".to_owned();
        three.results.failed.push("it_fits".to_owned());
        let expected = "\
| file | 6.1 v2 | 7.2 v2 |
| --- | --- | --- |
| tcp | 7 passed, 2 skipped (6.1.9, 2026-01-02) | - |
| udp | - | **1 failed**, 3 not run (7.2.1, 2026-01-02) |

On machines of other hardware:

| machine | options | file | result |
| --- | --- | --- | --- |
| 7.2.1 v2 | `--cpus 4` | cpus | **1 failed**, 1 passed (7.2.1, 2026-01-02) |

What the tests said that they found nothing to test for:

| file | reason | machines (tests) |
| --- | --- | --- |
| tcp | no veth here | 6.1.9 v2 (2) |

What failed:

| file | test | machines |
| --- | --- | --- |
| cpus | `it_fits` | 7.2.1 v2 `--cpus 4` |
| udp | `it_holds` | 7.2.1 v2 |
";
        assert_eq!(tables(&[one, two, three]), expected);
    }
}
