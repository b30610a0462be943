//! Reading what Rust's test programs print, pure. `test` and `vm` add it up.

use std::{fmt, ops::AddAssign};

/// How a test says, on a line of its own or behind its name, that it does not test anything here, and why.
pub(crate) const SKIPPED: &str = "skipped: ";

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that held.
    pub(crate) passed: u64,
    /// Tests that did not.
    pub(crate) failed: u64,
    /// Tests that were not run, by their own attribute, or that found nothing to test.
    pub(crate) skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Adds up the lines of test programs as they come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reader {
    /// What the programs that have ended tell.
    pub(crate) tally: Tally,
    /// Tests of the running program that said that they skip.
    skips: u64,
}

impl Reader {
    /// Counts what a line tells. A test that skips ends like one that holds, so it is taken from those.
    pub(crate) fn line(&mut self, line: &str) {
        if line.starts_with(SKIPPED) || line.contains(&format!(" ... {SKIPPED}")) {
            self.skips += 1;
        } else if let Some(mut counts) = Tally::from_closing_line(line) {
            let skips = std::mem::take(&mut self.skips).min(counts.passed);
            counts.passed -= skips;
            counts.skipped += skips;
            self.tally += counts;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(formatter, ", {} skipped", self.skipped) } else { Ok(()) }
    }
}

impl Tally {
    /// Something was tested, and all of it held.
    pub(crate) fn held(self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// Adds a failure where no test tells of it: a test program that did not build or crashed, or no test at all.
    pub(crate) fn judged(mut self, held: bool, filtered: bool) -> Self {
        let ran_nothing = self.passed + self.failed == 0 && !filtered;
        if ran_nothing || (!held && self.failed == 0) {
            self.failed += 1;
        }
        self
    }

    /// The tally in a test program's closing line,
    /// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
    pub(crate) fn from_closing_line(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |name: &str| counts.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse().ok());
        Some(Self { passed: count(" passed")?, failed: count(" failed")?, skipped: count(" ignored")? })
    }

    /// The tally in the closing line of this tool's own checks, `12 passed, 1 failed`.
    pub(crate) fn from_checks_closing_line(line: &str) -> Option<Self> {
        let (passed, failed) = line.split_once(" passed, ")?;
        Some(Self { passed: passed.parse().ok()?, failed: failed.strip_suffix(" failed")?.parse().ok()?, skipped: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Tally};

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
            assert_eq!(counted.judged(held, filtered), expected, "{counted:?} {held} {filtered}");
        }
    }

    #[test]
    fn a_tally_names_skipped_tests_only_if_there_are_any() {
        assert_eq!(tally(5, 1, 0).to_string(), "5 passed, 1 failed");
        assert_eq!(tally(5, 0, 2).to_string(), "5 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_test_that_says_that_it_skips_has_not_passed() {
        let mut reader = Reader::default();
        for line in [
            "test one ... skipped: this kernel has none of it",
            "ok",
            "test two ... ok",
            "skipped: this one neither",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            reader.line(line);
        }
        assert_eq!(reader.tally, tally(5, 0, 3));
    }

    #[test]
    fn the_closing_line_of_own_checks_is_read() {
        let table = [
            ("12 passed, 1 failed", Some(Tally { passed: 12, failed: 1, skipped: 0 })),
            ("e2e: install   ok   6.5 s  3 passed, 2 failed", None),
            ("12 passed", None),
        ];
        for (line, expected) in table {
            assert_eq!(Tally::from_checks_closing_line(line), expected, "{line}");
        }
    }

    #[test]
    fn closing_lines_are_read_and_others_are_not() {
        let table = [
            (
                "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
                Some(Tally { passed: 5, failed: 0, skipped: 1 }),
            ),
            (
                "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.10s",
                Some(Tally { passed: 12, failed: 3, skipped: 0 }),
            ),
            ("test tests::a_name ... ok", None),
            ("running 5 tests", None),
            ("test result: ok. many passed; 0 failed; 0 ignored", None),
        ];
        for (line, expected) in table {
            assert_eq!(Tally::from_closing_line(line), expected, "{line}");
        }
    }
}
