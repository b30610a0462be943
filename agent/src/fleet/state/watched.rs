//! One `DaemonSet` and what follows for it, kept up to date node by node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::{
    Change, Slot,
    cell::{Cell, Found, Wants},
};
use crate::fleet::{
    causes::{Lack, Reason},
    objects::{DaemonSet, Uid},
    placement::Exclusion,
    rollout::{self, Rollout},
};

/// A `DaemonSet` and what follows for it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) object: DaemonSet,
    pub(super) newest: Option<Newest>,
    /// By slot.
    pub(super) cells: Vec<Cell>,
    pub(super) counts: Counts,
    pub(super) lacking: BTreeMap<u32, Lacking>,
    /// New pods that do not work beside old ones that do.
    pub(super) surging: BTreeMap<u32, Lack>,
    pub(super) just_missed: BTreeMap<u32, Exclusion>,
    pub(super) rollout: Rollout,
    /// Since when, as far as that is known.
    pub(super) rollout_since: Option<Timestamp>,
    pub(super) is_new: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Newest {
    pub(super) hash: Option<Box<str>>,
    pub(super) made: Option<Timestamp>,
    pub(super) rolled_back: bool,
}

/// A node without a pod that works.
#[derive(Debug)]
pub(super) struct Lacking {
    pub(super) lack: Lack,
    /// Its pod is, or would be, of the newest revision.
    pub(super) is_new: bool,
    pub(super) noticed: Timestamp,
    /// As which it was told.
    pub(super) told: Option<Reason>,
}

/// Sums over all nodes.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) wanted: usize,
    pub(super) present: usize,
    pub(super) ready: usize,
    pub(super) current: usize,
    pub(super) misplaced: usize,
    pub(super) just_missed: usize,
    pub(super) excluded: [usize; Exclusion::NAMES.len()],
}

impl Counts {
    fn change(&mut self, before: Cell, now: Cell) {
        let count = |sum: &mut usize, before: bool, now: bool| *sum = *sum + usize::from(now) - usize::from(before);
        count(&mut self.wanted, before.wanted, now.wanted);
        count(&mut self.present, before.present, now.present);
        count(&mut self.ready, before.ready, now.ready);
        count(&mut self.current, before.current, now.current);
        count(&mut self.just_missed, before.just_missed, now.just_missed);
        self.misplaced = self.misplaced + usize::from(now.misplaced) - usize::from(before.misplaced);
        for (position, sum) in (0_u8..).zip(&mut self.excluded) {
            count(sum, before.excluded == Some(position), now.excluded == Some(position));
        }
    }
}

impl Watched {
    /// Nothing is known of its pods yet.
    pub(super) fn new(object: DaemonSet) -> Self {
        Self {
            object,
            newest: None,
            cells: Vec::new(),
            counts: Counts::default(),
            lacking: BTreeMap::new(),
            surging: BTreeMap::new(),
            just_missed: BTreeMap::new(),
            rollout: Rollout::Settled,
            rollout_since: None,
            is_new: true,
        }
    }

    pub(super) fn name(&self) -> (String, String) {
        (self.object.metadata.namespace.clone(), self.object.metadata.name.clone())
    }

    pub(super) fn wants(&self, daemon_set: Uid) -> Wants<'_> {
        let newest = self.newest.as_ref().and_then(|newest| newest.hash.as_deref());
        Wants { daemon_set, template: self.object.template(), newest }
    }

    pub(super) fn is_rolling(&self) -> bool {
        matches!(self.rollout, Rollout::Rolling | Rollout::Stuck { .. })
    }

    /// Enters what was found of a node; gives since when something waits to be told.
    pub(super) fn enter(
        &mut self,
        number: u32,
        found: Found,
        slot: &Slot,
        now: Timestamp,
        is_quiet: bool,
        changes: &mut Vec<Change>,
    ) -> Option<Timestamp> {
        if let Some(cell) = self.cells.get_mut(number as usize) {
            self.counts.change(std::mem::replace(cell, found.cell), found.cell);
        }
        match found.just_missed {
            Some(why) => drop(self.just_missed.insert(number, why)),
            None => drop(self.just_missed.remove(&number)),
        }
        match found.surge {
            Some(lack) => drop(self.surging.insert(number, lack)),
            None => drop(self.surging.remove(&number)),
        }
        let before = self.lacking.remove(&number);
        let told = before.as_ref().and_then(|before| before.told);
        let Some((mut lack, is_new)) = found.lack else {
            changes.extend(told.map(|reason| Change::Ends {
                daemon_set: self.name(),
                node: slot.name.to_string(),
                reason,
            }));
            return None;
        };
        let reason = lack.reason;
        let before = before.filter(|before| before.lack.reason == reason);
        if lack.since.is_none() && !is_quiet {
            lack.since = before.as_ref().map_or(Some(now), |before| before.lack.since);
        }
        let noticed = before.as_ref().map_or(now, |before| before.noticed);
        let is_to_tell = !is_quiet && !reason.passes() && told != Some(reason);
        if is_to_tell {
            let node = slot.name.to_string();
            changes.push(Change::Lacks { daemon_set: self.name(), node, lack: lack.clone() });
        }
        let told = if is_to_tell || (is_quiet && !reason.passes()) { Some(reason) } else { told };
        let waits = (told.is_none() && before.is_none()).then_some(noticed);
        self.lacking.insert(number, Lacking { lack, is_new, noticed, told });
        waits
    }

    pub(super) fn roll_out(&mut self, slots: &[Slot], now: Timestamp, is_first: bool, changes: &mut Vec<Change>) {
        let lacking = self.lacking.iter().map(|(number, lacking)| (number, &lacking.lack, lacking.is_new));
        let surging = self.surging.iter().map(|(number, lack)| (number, lack, true));
        let named = lacking
            .chain(surging)
            .filter_map(|(number, lack, is_new)| Some((&*slots.get(*number as usize)?.name, lack, is_new)));
        let counts = &self.counts;
        let pods =
            rollout::Pods { wanted: counts.wanted, old: counts.present.saturating_sub(counts.current), lacking: named };
        let rollout = rollout::rollout(&self.object, &pods, now);
        let before = self.rollout.name();
        let has_begun = before == "settled" && !self.newest.as_ref().is_some_and(|newest| newest.rolled_back);
        if rollout.name() != before || self.is_new {
            let made = self.newest.as_ref().and_then(|newest| newest.made);
            self.rollout_since = match &rollout {
                Rollout::Stuck { lack, .. } => lack.since.or(Some(now)),
                Rollout::Rolling | Rollout::Paused if has_begun => made.or(Some(now)),
                _ if is_first || self.is_new => None,
                _ => Some(now),
            };
            if !is_first && !self.is_new {
                changes.push(Change::RollsOut { daemon_set: self.name(), before, now: rollout.clone() });
            }
        }
        self.rollout = rollout;
    }
}
