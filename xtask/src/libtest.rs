//! Reading the closing lines of Rust's test programs, pure. `test` adds them up.

use std::ops::AddAssign;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that held.
    pub(crate) passed: u64,
    /// Tests that did not.
    pub(crate) failed: u64,
    /// Tests that were not run, by their own attribute.
    pub(crate) skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Tally {
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
    use super::Tally;

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
