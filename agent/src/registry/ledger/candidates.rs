//! Culprits that have no name yet: who is to be told by name of all those who make an entity wait. One entity's part of one
//! section; its totals keep it.
//!
//! On a full node everybody waits for everybody now and then. A name for each would make as many series as there may be names,
//! and none would be left for whoever really delays. So a culprit gets its name when it lately caused a good part of what the
//! entity lost; until then it is among the others, and stays there with what it had caused before, since their counter would
//! decrease otherwise.

use std::time::Duration;

use super::CulpritId;

/// What lies so far back counts half.
pub(super) const HALF_LIFE: Duration = Duration::from_mins(1);
/// Less than this is not worth a series.
const LEAST_NS: u64 = 1_000_000;
/// A culprit is told by name if it lately caused at least this part of what the entity lost.
const PART: u64 = 10;
/// So many are followed; of those beyond it the lightest are forgotten.
const FOLLOWED: usize = 16;

/// What an entity lately lost by one metric, and to whom.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    /// Position of the split metric among the section's columns.
    column: u32,
    /// To all culprits together, those with a name among them.
    lost: u64,
    /// Half-lives since the ledger's beginning that `lost` and the candidates are as of.
    age: u32,
    of: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    culprit: CulpritId,
    lately: u64,
    /// In the sweep that is under way.
    now: u64,
}

/// One who is to be told by name from now on, and what it caused in the sweep that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) column: u32,
    pub(super) culprit: CulpritId,
    pub(super) amount: u64,
}

impl Candidates {
    pub(super) fn new(column: u32) -> Self {
        Self { column, lost: 0, age: 0, of: Vec::new() }
    }

    pub(super) fn column(&self) -> u32 {
        self.column
    }

    /// Somebody who has a name caused so much.
    pub(super) fn add_named(&mut self, amount: u64) {
        self.lost = self.lost.saturating_add(amount);
    }

    /// Somebody who has none caused so much.
    pub(super) fn add(&mut self, culprit: CulpritId, amount: u64) {
        self.lost = self.lost.saturating_add(amount);
        let new = Candidate { culprit, lately: amount, now: amount };
        if let Some(known) = self.of.iter_mut().find(|known| known.culprit == culprit) {
            known.lately = known.lately.saturating_add(amount);
            known.now = known.now.saturating_add(amount);
        } else if self.of.len() < FOLLOWED {
            self.of.push(new);
        } else if let Some(lightest) = self.of.iter_mut().min_by_key(|known| known.lately)
            && lightest.lately < amount
        {
            *lightest = new;
        }
    }

    /// Ends a sweep; those who get a name are candidates no more.
    pub(super) fn end_sweep(&mut self, age: u32, named: &mut Vec<Named>) {
        let Self { column, lost, age: as_of, of } = self;
        let passed = age.saturating_sub(std::mem::replace(as_of, age));
        let halve = |amount: &mut u64| *amount = amount.checked_shr(passed).unwrap_or(0);
        of.retain_mut(|candidate| {
            let Candidate { culprit, lately, now } = *candidate;
            if lately >= LEAST_NS && lately.saturating_mul(PART) >= *lost {
                named.push(Named { column: *column, culprit, amount: now });
                return false;
            }
            candidate.now = 0;
            halve(&mut candidate.lately);
            candidate.lately > 0
        });
        halve(lost);
    }

    /// All candidates.
    pub(super) fn culprits(&self) -> impl Iterator<Item = CulpritId> {
        self.of.iter().map(|candidate| candidate.culprit)
    }

    /// Culprits have got other numbers.
    pub(super) fn renumber(&mut self, number: impl Fn(CulpritId) -> CulpritId) {
        for candidate in &mut self.of {
            candidate.culprit = number(candidate.culprit);
        }
    }
}
