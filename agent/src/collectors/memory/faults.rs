//! Which of a reading's page faults may be told. Pure.
//!
//! Minor faults are all faults less the major ones, and a counter that was told too high stays so. The kernel counts a fault when it begins
//! and that it is a major one somewhat later, on another CPU where the task had to sleep between, and hands each CPU's counts on by
//! itself. So a reading can have a fault without knowing that it is a major one. By the next reading that is known: while major
//! faults come, those of the reading before are told.

use std::time::Instant;

use super::figures::Figures;

/// The last reading of one cgroup's faults.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    at: Option<Instant>,
    all: u64,
    major: u64,
}

impl Faults {
    /// Leaves in the figures of a moment what of their faults may be told. Figures of the same moment tell no faults again.
    pub(super) fn settle(&mut self, at: Option<Instant>, figures: &mut Figures) {
        let [told, told_major, ..] = &mut figures.words;
        let (Some(all), Some(major)) = (*told, *told_major) else { return };
        if at == self.at {
            (*told, *told_major) = (None, None);
            return;
        }
        if major != self.major {
            *told = Some(self.all.max(major));
        }
        *self = Self { at, all, major };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Faults, Figures, Instant};

    #[test]
    fn a_fault_that_turns_out_to_be_a_major_one_was_never_a_minor_one() {
        let mut faults = Faults::default();
        let began = Instant::now();
        for (second, read, told) in [
            (1, (100, 0), Some((100, 0))),
            // Four of the first ten major ones are not known as such yet.
            (2, (120, 6), Some((100, 6))),
            (2, (120, 6), None),
            (3, (120, 10), Some((120, 10))),
            (4, (130, 10), Some((130, 10))),
        ] {
            let mut figures = Figures::default();
            (figures.words[0], figures.words[1]) = (Some(read.0), Some(read.1));
            faults.settle(Some(began + Duration::from_secs(second)), &mut figures);
            let found = figures.words[0].zip(figures.words[1]);
            assert_eq!(found, told, "{second}: {read:?}");
        }
        let mut figures = Figures::default();
        figures.words[0] = Some(5);
        faults.settle(None, &mut figures);
        assert_eq!(figures.words[0], Some(5), "what is known alone is not told anyway");
    }
}
