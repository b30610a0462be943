//! One entity's part of one section. The ledger keeps it.

use std::borrow::Cow;

use crate::signal::{EntityKey, Row};

/// Culprits that are told by name for one waiting entity; the lightest beyond them become "(other)".
const CULPRITS_PER_OWNER: usize = 16;

/// Rows are empty until the first values come.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// Values of cgroups that are gone.
    pub(super) retired: Row,
    /// Values of living cgroups as of the present sweep.
    pub(super) living: Row,
    /// Time lost to others by name: a handful, which are found faster one by one than by a table.
    caused_ns: Vec<(EntityKey, u64)>,
}

impl Totals {
    pub(super) fn cause(&mut self, culprit: &EntityKey, ns: u64) {
        if let Some((_, sum_ns)) = self.caused_ns.iter_mut().find(|(known, _)| known == culprit) {
            *sum_ns += ns;
            return;
        }
        if self.caused_ns.len() < CULPRITS_PER_OWNER {
            self.caused_ns.push((culprit.clone(), ns));
            return;
        }
        let lightest = self.caused_ns.iter_mut().min_by_key(|(_, ns)| *ns);
        if let Some(lightest) = lightest.filter(|(_, least_ns)| *least_ns < ns) {
            *lightest = (culprit.clone(), ns);
        }
    }

    /// Takes in what another instance has used.
    pub(super) fn add(&mut self, other: &Self) {
        self.retired.add_row(&other.total());
        for (culprit, ns) in &other.caused_ns {
            self.cause(culprit, *ns);
        }
    }

    pub(super) fn total(&self) -> Cow<'_, Row> {
        if self.retired.is_empty() {
            return Cow::Borrowed(&self.living);
        }
        let mut total = self.retired.clone();
        total.add_row(&self.living);
        Cow::Owned(total)
    }

    pub(super) fn caused_ns(&self) -> &[(EntityKey, u64)] {
        &self.caused_ns
    }

    pub(super) fn culprits(&self) -> impl Iterator<Item = &EntityKey> {
        self.caused_ns.iter().map(|(culprit, _)| culprit)
    }
}
