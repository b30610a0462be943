//! What the pipeline tells about itself. `telemetry::pipeline` serves it.

use std::time::Duration;

use podlens_common::cgroup::Slot;

use super::Inner;
use crate::kernel::slots::SlotMaps;

/// Counts that the agent tells about itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Slots that are held, by living cgroups and by removed ones, and free ones.
    pub slots: [(&'static str, u64); 3],
    /// What was lost: collector, reason, how often.
    pub lost: Vec<(&'static str, &'static str, u64)>,
    /// CPU time of which it is not known who had it.
    pub unseen_ns: u64,
    /// How long the last sweep took.
    pub sweep: Duration,
    /// Entities that are gone and wait for their last export.
    pub gone_entities: u64,
    /// Events by kind; empty where nobody is told.
    pub events: Vec<(&'static str, u64)>,
}

impl Inner {
    pub(super) fn health(&self) -> Health {
        let mut health = Health { sweep: self.sweep, gone_entities: self.ledger.gone() as u64, ..Health::default() };
        health.lost.push(("registry", "expired_unexported", self.ledger.expired()));
        if let Some(telling) = &self.telling {
            health.events = telling.log.noted();
            health.lost.push(("journal", "overflow", telling.log.overflowed()));
            health.lost.push(("journal", "entity_unknown", telling.without_entity));
            health.lost.push(("lifecycle", "end_unknown", telling.ends.lost()));
        }
        if let Some(kernel) = &self.kernel {
            let in_use = kernel.in_use();
            let is_removed = |slot: &Slot| self.cgroups.get(slot.key).is_some_and(|cgroup| cgroup.removed.is_some());
            let removed = in_use.iter().filter(|(_, slot)| is_removed(slot)).count() as u64;
            let all = in_use.iter().len() as u64;
            let free = u64::from(kernel.slots.count()).saturating_sub(all).saturating_sub(kernel.stuck);
            health.slots = [("live", all - removed), ("tombstone", removed), ("free", free)];
            health.lost.extend(of_slots(&kernel.slots));
            health.lost.push(("lifecycle", "slot_stuck", kernel.stuck));
            if let Some(events) = &kernel.events {
                health.lost.push(("lifecycle", "malformed_event", events.malformed()));
            }
        }
        for attached in &self.collectors {
            let name = attached.collector.spec().name;
            health.lost.extend(attached.collector.lost().into_iter().map(|(reason, count)| (name, reason, count)));
            health.unseen_ns += attached.collector.unseen_ns();
        }
        health
    }
}

fn of_slots(slots: &SlotMaps) -> [(&'static str, &'static str, u64); 6] {
    let losses = slots.losses();
    [
        ("lifecycle", "no_free_slot", losses.no_free_slot),
        ("lifecycle", "table_full", losses.table_full),
        ("lifecycle", "event_lost", losses.event_lost),
        ("lifecycle", "path_unreadable", losses.path_unreadable),
        ("lifecycle", "no_cgroup", losses.no_cgroup),
        ("lifecycle", "late_cpu", losses.late_cpu),
    ]
}
