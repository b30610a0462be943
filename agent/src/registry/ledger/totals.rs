//! One entity's part of one section. The ledger keeps it.

use super::{
    CulpritId,
    candidates::{Candidates, Named},
};
use crate::signal::{Layout, Row};

/// Culprits that are told by name for one entity and metric; the lightest beyond them become "(other)".
const CULPRITS_PER_ENTITY: usize = 16;
/// The same of what several forgotten instances had together. A culprit that is dropped there may be one that the present instance names as
/// well, whose value would then fall; so there are more.
const CULPRITS_OF_FORGOTTEN: usize = 64;

/// What an entity has used, but for what its living cgroups tell at each sweep. Most have nothing here, and there is one for
/// each entity and collector.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals(Option<Box<Kept>>);

#[derive(Clone, Debug, Default)]
struct Kept {
    /// Values of cgroups that are gone; none as a rule.
    retired: Option<Row>,
    /// What it lost to others by name: a handful, which are found faster one by one than by a table.
    caused: Vec<Caused>,
    /// Culprits without a name, by metric.
    candidates: Vec<Candidates>,
}

/// What an entity lost to one culprit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caused {
    /// Position of the split metric among the section's columns.
    pub(super) column: u32,
    pub(super) culprit: CulpritId,
    pub(super) amount: u64,
}

impl Kept {
    fn cause(&mut self, column: u32, culprit: CulpritId, amount: u64, most: usize) {
        let mut of_column = self.caused.iter_mut().filter(|caused| caused.column == column);
        if let Some(known) = of_column.find(|caused| caused.culprit == culprit) {
            known.amount += amount;
            return;
        }
        let new = Caused { column, culprit, amount };
        if self.caused.iter().filter(|caused| caused.column == column).count() < most {
            self.caused.push(new);
            return;
        }
        let of_column = self.caused.iter_mut().filter(|caused| caused.column == column);
        if let Some(lightest) = of_column.min_by_key(|caused| caused.amount).filter(|lightest| lightest.amount < amount)
        {
            *lightest = new;
        }
    }

    fn cause_a_part(&mut self, column: u32, culprit: CulpritId, amount: u64) {
        let at = self.candidates.iter().position(|candidates| candidates.column() == column);
        let at = at.unwrap_or_else(|| {
            self.candidates.push(Candidates::new(column));
            self.candidates.len() - 1
        });
        let Some(candidates) = self.candidates.get_mut(at) else { return };
        let known = self.caused.iter_mut().find(|caused| caused.column == column && caused.culprit == culprit);
        if let Some(known) = known {
            known.amount += amount;
            candidates.add_named(amount);
        } else {
            candidates.add(culprit, amount);
        }
    }
}

impl Totals {
    fn kept(&mut self) -> &mut Kept {
        self.0.get_or_insert_default()
    }

    /// Values of cgroups that are gone; none as a rule.
    pub(super) fn retired(&self) -> Option<&Row> {
        self.0.as_ref()?.retired.as_ref()
    }

    /// What it lost to others by name.
    pub(super) fn caused(&self) -> &[Caused] {
        self.0.as_ref().map(|kept| &*kept.caused).unwrap_or_default()
    }

    /// A culprit caused so much, who is told by name from the first time on.
    pub(super) fn cause(&mut self, column: u32, culprit: CulpritId, amount: u64) {
        self.kept().cause(column, culprit, amount, CULPRITS_PER_ENTITY);
    }

    /// A culprit caused so much, who is told by name if that is a good part of what is lost lately.
    pub(super) fn cause_a_part(&mut self, column: u32, culprit: CulpritId, amount: u64) {
        self.kept().cause_a_part(column, culprit, amount);
    }

    /// Ends a sweep, so many half-lives after the ledger's beginning.
    pub(super) fn name_culprits(&mut self, age: u32, named: &mut Vec<Named>) {
        let Some(kept) = &mut self.0 else { return };
        for candidates in &mut kept.candidates {
            candidates.end_sweep(age, named);
        }
        for Named { column, culprit, amount } in named.drain(..) {
            kept.cause(column, culprit, amount, CULPRITS_PER_ENTITY);
        }
    }

    /// All who caused anything that is remembered.
    pub(super) fn culprits(&self) -> impl Iterator<Item = CulpritId> {
        let named = self.caused().iter().map(|caused| caused.culprit);
        let candidates = self.0.iter().flat_map(|kept| &kept.candidates);
        named.chain(candidates.flat_map(Candidates::culprits))
    }

    /// Takes in what a cgroup had used when it went.
    pub(super) fn retire(&mut self, layout: &Layout, row: &Row) {
        let retired = self.kept().retired.get_or_insert_with(|| layout.row());
        let mut row = row.clone();
        row.remove_gauges_at_removal(layout);
        retired.add_row(layout, &row);
    }

    /// Drops what is kept only until it was exported.
    pub(super) fn forget_kept_after_removal(&mut self, layout: &Layout) {
        if let Some(retired) = self.0.as_mut().and_then(|kept| kept.retired.as_mut()) {
            retired.remove_gauges(layout);
        }
    }

    /// Takes in what another instance has used, of which nothing lives.
    pub(super) fn add(&mut self, layout: &Layout, other: &Self) {
        if let Some(retired) = other.retired() {
            self.retire(layout, retired);
        }
        for &Caused { column, culprit, amount } in other.caused() {
            self.kept().cause(column, culprit, amount, CULPRITS_OF_FORGOTTEN);
        }
    }

    /// Culprits have got other numbers.
    pub(super) fn renumber(&mut self, number: impl Fn(CulpritId) -> CulpritId) {
        let Some(kept) = &mut self.0 else { return };
        for caused in &mut kept.caused {
            caused.culprit = number(caused.culprit);
        }
        for candidates in &mut kept.candidates {
            candidates.renumber(&number);
        }
    }
}
