//! Collectors: each reads one subject's records out of the kernel and speaks in cgroups.
//!
//! A collector knows nothing of pods or exporters. [`ALL`] lists them; the command line, the configuration,
//! `podlens check` and the documentation derive from it.

pub mod lifecycle;
pub mod scheduler;

use crate::registry::{Metric, Row};

/// What is the same for a collector on every node.
#[derive(Debug)]
pub struct CollectorSpec {
    /// The one name: folder, module of the records, configuration key, anchor in the documentation.
    pub name: &'static str,
    /// What it tells, in one line.
    pub about: &'static str,
    /// Every metric that it can have.
    pub metrics: &'static [&'static Metric],
    /// The metric that is split by who caused it, if there is one.
    pub split: Option<Split>,
}

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
pub static ALL: &[&CollectorSpec] = &[&lifecycle::SPEC, &scheduler::SPEC];

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

/// What one slot's cgroup has used up to now.
#[derive(Debug)]
pub struct Reading {
    /// The slot.
    pub slot: u32,
    /// Its values, by the collector's layout.
    pub row: Row,
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
