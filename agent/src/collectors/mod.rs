//! Collectors: each reads one subject's records out of the kernel and speaks in cgroups.
//!
//! A collector knows nothing of pods or exporters. [`ALL`] lists them; the command line, the configuration,
//! `podlens check`, the documentation and the ledger's sections derive from it.

pub mod cpu;
pub mod lifecycle;
pub mod memory;
pub mod scheduler;
pub mod spec;
pub mod tasks;

use std::collections::BTreeMap;

use podlens_common::cgroup::{Bandwidth, CgroupKey, Slot};

pub use self::spec::Spec;
use crate::signal::{Metric, Row};

/// A metric that tells by name what another one tells by label.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// The metric with a culprit.
    pub metric: &'static Metric,
    /// The metric whose values it splits.
    pub of: &'static Metric,
    /// Which label values of that.
    pub label_values: &'static [usize],
}

/// All collectors, in the order in which their metrics are exported.
pub static ALL: &[&Spec] = &[&lifecycle::SPEC, &scheduler::SPEC, &cpu::SPEC, &tasks::SPEC];

/// The names of the collectors that can be switched off.
#[must_use]
pub fn switchable() -> Vec<&'static str> {
    ALL.iter().filter(|spec| spec.is_optional).map(|spec| spec.name).collect()
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

/// A collector at work. The pipeline calls it; a collector implements what its source is made for: slots of the
/// kernel programs, cgroups by their key, or both.
pub trait Collector: Send {
    /// What it is.
    fn spec(&self) -> &'static Spec;

    /// A sweep of everything is about to begin.
    fn prepare(&mut self) {}

    /// Hands to `enter` what the cgroup of each of these slots has used up to now, by the collector's layout, and
    /// gives who delayed whom. A slot that is about to be given back is read as well, for the last time.
    /// `generation` tells who has a slot at present.
    fn read_slots(
        &mut self,
        _held: &SlotsInUse,
        _generation: &dyn Fn(u32) -> Option<u32>,
        _enter: &mut dyn FnMut(u32, &Row),
    ) -> Vec<Caused> {
        Vec::new()
    }

    /// Empties a slot whose cgroup is gone.
    fn clear(&mut self, _slot: u32) {}

    /// A cgroup exists that is the topmost one of its entity.
    fn born(&mut self, _place: EntityCgroup<'_>) {}

    /// Hands to `enter` what living cgroups have now, by key; what [`Self::read_slots`] told of those that hold a
    /// slot is not here.
    fn read_cgroups(&mut self, _held: &SlotsInUse, _enter: &mut dyn FnMut(CgroupKey, &Row)) {}

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

/// Slots in use and their holders, the reserved slots among them.
pub type SlotsInUse = BTreeMap<u32, Slot>;

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

/// What lies below an entity's topmost cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subtree {
    /// Nothing that is not the entity's: totals over the subtree are the entity's.
    Own,
    /// Other entities, as containers in a pod: only what belongs to the very directory, as its quota, is the entity's.
    Shared,
}

/// Time that one slot's tasks lost to another's since the last sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caused {
    /// Who waited.
    pub slot: u32,
    /// Slot of who held the CPU meanwhile.
    pub culprit: u32,
    /// For how long.
    pub ns: u64,
}
