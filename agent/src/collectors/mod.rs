//! Collectors: each reads one subject's records out of the kernel and speaks in cgroups.
//!
//! A collector knows nothing of pods or exporters. [`ALL`] lists them; the command line, the configuration,
//! `podlens check`, the documentation and the ledger's sections derive from it.

mod apart;
pub mod cpu;
pub mod disk;
mod distribution;
pub mod dns;
pub mod drops;
pub mod lifecycle;
mod losses;
pub mod map_memory;
pub mod memory;
pub mod oom;
pub mod pressure;
pub mod scheduler;
pub mod spec;
pub mod stalls;
mod subtrees;
pub mod tasks;
pub mod tcp;
mod totals;
mod tree;
pub mod udp;

use std::time::Instant;

use podlens_common::cgroup::{CgroupKey, Slot};

pub use self::{
    distribution::{distribution, extend},
    spec::Spec,
    totals::Totals,
};
pub use crate::signal::State;
use crate::{
    kernel::events::{Malformed, Record},
    signal::{Attribute, Attributes, EventKind, Loss, Metric, Row, Subtree},
};

/// All collectors, in the order in which their metrics are exported.
pub static ALL: &[&Spec] = &[
    &lifecycle::SPEC,
    &scheduler::SPEC,
    &cpu::SPEC,
    &tasks::SPEC,
    &memory::SPEC,
    &pressure::SPEC,
    &stalls::SPEC,
    &oom::SPEC,
    &disk::SPEC,
    &tcp::SPEC,
    &udp::SPEC,
    &dns::SPEC,
    &drops::SPEC,
];

/// Those that run only where the configuration asks for them, since what they measure costs more than 2 % by that
/// (docs/overhead.md).
pub static ON_DEMAND: &[&Spec] = &[&udp::SPEC, &dns::SPEC];

/// The names of the collectors that are off unless the configuration switches them on.
#[must_use]
pub fn on_demand() -> Vec<&'static str> {
    ON_DEMAND.iter().map(|spec| spec.name).collect()
}

/// The names of the collectors that can be switched off.
#[must_use]
pub fn switchable() -> Vec<&'static str> {
    ALL.iter().filter(|spec| spec.is_optional).map(|spec| spec.name).collect()
}

/// The switches of kernel programs that serve several collectors, by their names in the object: on for those that run.
pub fn switches(runs: impl Fn(&Spec) -> bool) -> impl Iterator<Item = (&'static str, bool)> {
    ALL.iter().filter_map(move |spec| Some((spec.switch?, runs(spec))))
}

/// What the programs are told of a node with one tree of version 2 on which all collectors run.
#[cfg(test)]
pub(crate) fn node_of_tests() -> Vec<(&'static str, u32)> {
    crate::kernel::object::unified_node(switches(|_| true))
}

/// A collector at work. The pipeline calls it.
pub trait Collector: Send {
    /// What it is.
    fn spec(&self) -> &'static Spec;

    /// A whole sweep begins or is about to, of which this collector's part comes later: a walk of a thread of its own, for which it
    /// waits there, is to begin. Gives whether one is under way; otherwise the sweep that was about to come asks again.
    fn start_walk(&mut self) -> bool {
        true
    }

    /// Its values of this moment want a walk through what the kernel has, which takes long: a whole sweep has it made before it
    /// reads, and where it is known when that comes, it is made a moment before.
    fn walk_is_due(&self, _now: Instant) -> bool {
        false
    }

    /// Walks, for the [`Self::read`] that follows, be that a moment later or, where the sweep that was expected does not come, a
    /// minute. `in_use`: the slots that were in use just before.
    fn walk(&mut self, _now: Instant, _in_use: &SlotsInUse) {}

    /// Tells what there is at this moment, by the layout of the collector's metrics: of slots of the kernel programs, of
    /// cgroups by their key, or both.
    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings);

    /// Empties a slot whose cgroup is gone and whose last values were told: then, and once more just before another cgroup may get
    /// it, since a program may have found it before.
    fn clear(&mut self, _slot: u32) {}

    /// Empties all of these.
    fn clear_all(&mut self, slots: &[u32]) {
        for slot in slots {
            self.clear(*slot);
        }
    }

    /// A cgroup exists that is the topmost one of its entity.
    fn born(&mut self, _cgroup: EntityCgroup<'_>) {}

    /// A record of one of its own kinds, and what users are to know of it. What a program on [`lifecycle::REMOVAL`] sends
    /// comes before [`Self::removed`] of that cgroup.
    ///
    /// # Errors
    /// The record is not what its kind has.
    fn event(&mut self, _record: &Record) -> Result<Option<Noticed>, Malformed> {
        Ok(None)
    }

    /// Events that it has held back, since more could belong to them, and that are whole at this moment, nanoseconds of
    /// `CLOCK_BOOTTIME`. Asked for once a second and after each record.
    fn held_back(&mut self, _now_ns: u64) -> Vec<HeldBack> {
        Vec::new()
    }

    /// A cgroup is gone: its final values, if it has any here.
    fn removed(&mut self, _key: CgroupKey) -> Option<Row> {
        None
    }

    /// Final values of cgroups of which [`Self::removed`] had to wait for the last words, since those of another hierarchy may
    /// come after the removal.
    fn removed_later(&mut self) -> Vec<(CgroupKey, Row)> {
        Vec::new()
    }

    /// A second has passed: what it keeps up with beside sweeps.
    fn tick(&mut self) {}

    /// What it could not tell: how often, for each loss of its specification, in that order.
    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        Vec::new()
    }

    /// CPU time of which it is not known who had it.
    fn unseen_ns(&self) -> u64 {
        0
    }
}

/// An event of the record's cgroup, at the record's moment: one of the collector's own kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noticed {
    /// What has happened.
    pub kind: &'static EventKind,
    /// What is known beside.
    pub attributes: Attributes,
    /// Attributes that name whose cgroup it is.
    pub others: Vec<(&'static Attribute, CgroupKey)>,
}

/// An event of another moment than the present record's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The cgroup that it is of.
    pub key: CgroupKey,
    /// When it happened: nanoseconds of `CLOCK_BOOTTIME`.
    pub at_ns: u64,
    /// The event.
    pub noticed: Noticed,
}

/// What is read at once.
#[derive(Clone, Copy)]
pub struct Sweep<'a> {
    /// Whose slots are to be told: all that are in use, or those that are about to be given back, for the last time.
    pub wanted: &'a SlotsInUse,
    /// All slots in use.
    pub in_use: &'a SlotsInUse,
    /// How often a slot was given before its present holder, as of now.
    pub generation: &'a dyn Fn(u32) -> Option<u32>,
    /// Slots that are given back after this: what is told of them is final.
    pub expired: &'a SlotsInUse,
    /// Everything is told, so cgroups too that hold no slot.
    pub whole: bool,
}

/// Where a collector puts what it reads. Whose slots and cgroups they are is not its business.
pub trait Readings {
    /// What the cgroup that holds this slot has used up to now.
    fn slot(&mut self, slot: u32, row: &Row);

    /// What a living cgroup has now that [`Readings::slot`] has not told.
    fn cgroup(&mut self, key: CgroupKey, row: &Row);

    /// What one slot's tasks lost to another's since the last sweep, by the metric that tells it.
    fn caused(&mut self, metric: &'static Metric, slot: u32, culprit: u32, amount: u64);
}

/// Slots in use and their holders, the reserved slots among them.
#[derive(Clone, Debug, Default)]
pub struct SlotsInUse(Vec<(u32, Slot)>);

impl SlotsInUse {
    /// The slot's holder; none if it is free.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Slot> {
        let at = self.0.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.0.get(at).map(|(_, slot)| slot)
    }

    /// All of them, in the order of their numbers.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, &Slot)> {
        self.0.iter().map(|(number, slot)| (*number, slot))
    }

    /// None is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// From slots in the order of their numbers.
impl FromIterator<(u32, Slot)> for SlotsInUse {
    fn from_iter<T: IntoIterator<Item = (u32, Slot)>>(slots: T) -> Self {
        Self(slots.into_iter().collect())
    }
}

/// The topmost cgroup of an entity.
#[derive(Clone, Copy, Debug)]
pub struct EntityCgroup<'a> {
    /// Its identity.
    pub key: CgroupKey,
    /// Its path in its hierarchy.
    pub path: &'a str,
    /// Whose figures the kernel counts together there.
    pub subtree: Subtree,
}
