//! Collectors: each reads one subject's records out of the kernel and speaks in cgroups.
//!
//! A collector knows nothing of pods or exporters. [`ALL`] lists them; the command line, the configuration,
//! `podlens check`, the documentation and the ledger's sections derive from it.

pub mod cpu;
pub mod lifecycle;
pub mod scheduler;
pub mod tasks;

use podlens_common::cgroup::{Bandwidth, CgroupKey, Slot};

use crate::signal::{Metric, Row, Subtree};

/// What is the same for a collector on every node.
#[derive(Debug)]
pub struct CollectorSpec {
    /// The one name: folder, module of the records, configuration key, anchor in the documentation.
    pub name: &'static str,
    /// What it tells, in one line.
    pub about: &'static str,
    /// Every metric that it can have.
    pub metrics: &'static [&'static Metric],
}

/// All collectors, in the order in which their metrics are exported.
pub static ALL: &[&CollectorSpec] = &[&lifecycle::SPEC, &scheduler::SPEC, &cpu::SPEC, &tasks::SPEC];

/// The names of the collectors that can be switched off. Without `lifecycle` nothing has a name.
#[must_use]
pub fn switchable() -> Vec<&'static str> {
    ALL.iter().map(|spec| spec.name).filter(|name| *name != lifecycle::SPEC.name).collect()
}

/// What became of a collector on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It measures everything.
    Running,
    /// It measures, but something is missing.
    Degraded(String),
    /// The kernel or the process lacks something that it needs.
    Unsupported(String),
    /// It should work here and does not.
    Failed(String),
    /// The configuration switches it off.
    Disabled,
}

impl State {
    /// The states' names, as in the label `state`.
    pub const NAMES: [&'static str; 5] = ["running", "degraded", "unsupported", "failed", "disabled"];

    /// Its own name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Degraded(_) => "degraded",
            Self::Unsupported(_) => "unsupported",
            Self::Failed(_) => "failed",
            Self::Disabled => "disabled",
        }
    }

    /// Why, where there is something to say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Degraded(reason) | Self::Unsupported(reason) | Self::Failed(reason) => Some(reason),
            Self::Running | Self::Disabled => None,
        }
    }

    /// It delivers values.
    #[must_use]
    pub fn delivers(&self) -> bool {
        matches!(self, Self::Running | Self::Degraded(_))
    }
}

/// A collector at work. The pipeline calls it.
pub trait Collector: Send {
    /// What it is.
    fn spec(&self) -> &'static CollectorSpec;

    /// Tells what there is at this moment, by the layout of the collector's metrics: of slots of the kernel programs, of
    /// cgroups by their key, or both.
    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings);

    /// Empties a slot whose cgroup is gone and whose last values were told.
    fn clear(&mut self, _slot: u32) {}

    /// A cgroup exists that is the topmost one of its entity.
    fn born(&mut self, _cgroup: EntityCgroup<'_>) {}

    /// A cgroup is gone: its final values, if it has any here. `last` is what the kernel told of it at its removal.
    fn removed(&mut self, _key: CgroupKey, _last: Option<Bandwidth>) -> Option<Row> {
        None
    }

    /// What it could not tell, by reason.
    fn lost(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// CPU time of which it is not known who had it.
    fn unseen_ns(&self) -> u64 {
        0
    }
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
