//! One `DaemonSet` in numbers, for metrics. Pure.

use k8s_openapi::jiff::Timestamp;

use super::{
    Slot,
    watched::{Counts, Watched},
};
use crate::fleet::{causes::Reason, placement::Exclusion, rollout::Rollout};

/// The states of nodes.
pub const STATES: [&str; 7] = ["wanted", "present", "ready", "current", "lacking", "misplaced", "just_missed"];

/// One `DaemonSet` in numbers.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    pub(super) watched: &'a Watched,
    pub(super) slots: &'a [Slot],
}

impl<'a> Figures<'a> {
    /// Its namespace and name.
    #[must_use]
    pub fn name(&self) -> (&'a str, &'a str) {
        let meta = &self.watched.object.metadata;
        (&meta.namespace, &meta.name)
    }

    /// How many nodes are in which state: one of [`STATES`], in their order.
    #[must_use]
    pub fn nodes(&self) -> [usize; STATES.len()] {
        let Counts { wanted, present, ready, current, misplaced, just_missed, .. } = self.watched.counts;
        [wanted, present, ready, current, self.watched.lacking.len(), misplaced, just_missed]
    }

    /// How many should have none, by reason.
    pub fn excluded(&self) -> impl Iterator<Item = (&'static str, usize)> + use<'a> {
        Exclusion::NAMES.iter().copied().zip(self.watched.counts.excluded)
    }

    /// Nodes without a pod that works: their names, why, and since when it is known.
    pub fn lacking(&self) -> impl Iterator<Item = (&'a str, Reason, Timestamp)> + use<'a> {
        let Self { watched, slots } = *self;
        watched.lacking.iter().filter_map(|(number, lacking)| {
            let since = lacking.lack.since.unwrap_or(lacking.noticed);
            Some((&*slots.get(*number as usize)?.name, lacking.lack.reason, since))
        })
    }

    /// The state of its roll-out, and since when, if that is known.
    #[must_use]
    pub fn rollout(&self) -> (&'a Rollout, Option<Timestamp>) {
        (&self.watched.rollout, self.watched.rollout_since)
    }

    /// Its newest revision is an older template.
    #[must_use]
    pub fn is_rolled_back(&self) -> bool {
        self.watched.newest.as_ref().is_some_and(|newest| newest.rolled_back)
    }
}
