//! What the pipeline tells about itself. `pipeline::own` serves it.

use std::time::Duration;

use podlens_common::cgroup::{Losses, Slot};

use super::{Inner, events::ENTITY_UNKNOWN, losses};
use crate::{
    collectors::lifecycle,
    kernel::events::Events,
    registry::{Spent, journal::OVERFLOW, ledger::EXPIRED_UNEXPORTED},
    signal::Loss,
};

/// Counts that the agent tells about itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Slots that are held, by living cgroups and by removed ones, and free ones.
    pub slots: [(&'static str, u64); 3],
    /// What was lost: by which part, why, how often.
    pub lost: Vec<(&'static str, &'static Loss, u64)>,
    /// CPU time of which it is not known who had it.
    pub unseen_ns: u64,
    /// How long the last sweep took.
    pub sweep: Duration,
    /// Entities that are gone and wait for their last export.
    pub gone_entities: u64,
    /// Events by kind; empty where nobody is told.
    pub events: Vec<(&'static str, u64)>,
    /// What leaves the node; none without a limit.
    pub spent: Option<Spent>,
}

impl Inner {
    pub(super) fn health(&self) -> Health {
        let mut health = Health { sweep: self.sweep, gone_entities: self.ledger.gone() as u64, ..Health::default() };
        let mut lost = |part, counts: &[(&'static Loss, u64)]| {
            health.lost.extend(counts.iter().map(|(loss, count)| (part, *loss, *count)));
        };
        lost(losses::REGISTRY, &[(&EXPIRED_UNEXPORTED, self.ledger.expired())]);
        if let Some(reporting) = &self.reporting {
            health.events = reporting.log.noted();
            lost(
                losses::JOURNAL,
                &[(&OVERFLOW, reporting.log.overflowed()), (&ENTITY_UNKNOWN, reporting.without_entity)],
            );
        }
        let lifecycle = Lifecycle {
            programs: self.kernel.as_ref().map(|kernel| (kernel.slots.losses(), kernel.stuck.len() as u64)),
            malformed: self.kernel.as_ref().and_then(|kernel| kernel.events.as_ref()).map(Events::malformed),
            ends: self.reporting.as_ref().map(|reporting| reporting.ends.lost()),
        };
        lost(lifecycle::SPEC.name, &lifecycle.lost());
        for attached in &self.collectors {
            lost(attached.collector.spec().name, &attached.collector.lost());
            health.unseen_ns += attached.collector.unseen_ns();
        }
        if let Some(kernel) = &self.kernel {
            let in_use = kernel.in_use();
            let is_removed = |slot: &Slot| self.cgroups.is_removed(slot.key);
            let removed = in_use.iter().filter(|(_, slot)| is_removed(slot)).count() as u64;
            let (all, left) = (in_use.iter().len() as u64, kernel.left.len() as u64);
            let free = u64::from(kernel.slots.count()).saturating_sub(all + left);
            health.slots = [("live", all - removed), ("removed", removed + left), ("free", free)];
        }
        health
    }
}

/// What the collector `lifecycle` has lost; none of what is not at work.
struct Lifecycle {
    /// As the programs count it, and slots that the daemon could not give back.
    programs: Option<(Losses, u64)>,
    malformed: Option<u64>,
    ends: Option<u64>,
}

impl Lifecycle {
    fn lost(self) -> Vec<(&'static Loss, u64)> {
        let mut lost = Vec::new();
        if let Some((losses, stuck)) = self.programs {
            lost.extend(lifecycle::losses::counted(losses, stuck));
        }
        lost.extend(self.malformed.map(|count| (&lifecycle::losses::MALFORMED_EVENT, count)));
        lost.extend(self.ends.map(|count| (&lifecycle::losses::END_UNKNOWN, count)));
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lifecycle_counts_is_what_its_specification_declares() {
        let at_work = Lifecycle { programs: Some((Losses::default(), 0)), malformed: Some(0), ends: Some(0) };
        let mut told: Vec<&Loss> = at_work.lost().into_iter().map(|(loss, _)| loss).collect();
        // The collector's own.
        told.push(&lifecycle::losses::MISSED_END);
        assert_eq!(told, lifecycle::SPEC.losses);
        assert_eq!(Lifecycle { programs: None, malformed: None, ends: None }.lost(), []);
    }
}
