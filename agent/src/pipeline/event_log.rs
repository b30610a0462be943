//! The journal as the agent shares it: the pipeline notes events, exporters take them under the names of that moment.
//!
//! It has a lock of its own, so that neither side waits for a sweep.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU64},
    time::{Instant, SystemTime},
};

use super::facts;
use crate::{
    attribution::kubernetes::Names,
    collectors,
    export::EventSource,
    registry::{EntityState, EventBatch, Journal, Snapshot},
    signal::{Entity, EntityKey, Event, EventKind, Since, lock},
    telemetry,
};

/// Every event that the agent can tell of, in the order of the documentation.
pub fn kinds() -> impl Iterator<Item = &'static EventKind> {
    let of_collectors = collectors::ALL.iter().flat_map(|spec| spec.events);
    of_collectors.chain(telemetry::events::ALL).copied()
}

/// The agent's events.
pub struct EventLog {
    node: Arc<str>,
    names: Arc<Names>,
    journal: Mutex<Journal>,
}

impl EventLog {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(node: &str, names: Arc<Names>) -> Self {
        Self { node: node.into(), names, journal: Mutex::default() }
    }

    /// Something has happened.
    pub fn note(&self, event: Event) {
        self.journal().note(event, SystemTime::now(), Instant::now());
    }

    /// How many events of each kind were noted, kinds without any included.
    #[must_use]
    pub fn noted(&self) -> Vec<(&'static str, u64)> {
        let journal = self.journal();
        let count = |name| journal.noted().find(|(noted, _)| *noted == name).map_or(0, |(_, count)| count);
        kinds().map(|kind| (kind.name, count(kind.name))).collect()
    }

    /// How many left before each exporter had taken them.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.journal().overflowed()
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }
}

impl EventSource for EventLog {
    fn subscribe(&self, exporter: &'static str, dropped: Arc<AtomicU64>) {
        self.journal().subscribe(exporter, dropped);
    }

    fn take(&self, exporter: &str, most: usize, at_once: bool) -> EventBatch {
        let names = &*self.names;
        let events = if at_once {
            self.journal().take_at_once(exporter, most, names)
        } else {
            self.journal().take(exporter, most, Instant::now(), names)
        };
        let entities: HashSet<&Entity> = events.iter().filter_map(|event| event.entity.as_ref()).collect();
        let now = SystemTime::now();
        // Facts are told of the living alone, and an event may well be about an end.
        let state = |entity: &Entity| {
            let entity = EntityKey::from(entity.clone());
            EntityState { id: entity.clone(), entity, since: Since::Born(now), gone: false, carried: false }
        };
        let entities: Vec<EntityState> = entities.into_iter().map(state).collect();
        let infos = facts::infos_of(&entities, names);
        let described = Snapshot {
            sequence: 0,
            taken: now,
            node: Arc::clone(&self.node),
            entities: Arc::new(entities),
            sections: Vec::new(),
            infos,
        };
        EventBatch { events, described }
    }
}
