//! The journal: events in the order in which they were noticed, kept until each reader has taken them.
//!
//! Pure and bounded. An event waits a while for its entity's name, as final values do, and those behind it wait with it,
//! so that a reader gets them in order. What leaves the journal before a reader has taken it is counted for that reader.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::Snapshot;
use crate::signal::{AttributeValue, Attributes, Entity, Event, EventKind, Loss, Naming};

/// How many events are kept; at some 300 bytes each a little more than a megabyte.
const EVENTS: usize = 4096;
/// How long an event waits for a name that may come.
const NAME_WAIT: Duration = Duration::from_secs(30);

/// The journal was full.
pub static OVERFLOW: Loss = Loss {
    reason: "overflow",
    means: "more than 4,096 events waited for the OTLP receiver, and the oldest were dropped. Counted where events are sent",
};

/// The events that some reader has not taken yet.
#[derive(Debug)]
pub struct Journal {
    entries: VecDeque<Entry>,
    limit: usize,
    /// The sequence number of the next event.
    next: u64,
    readers: Vec<Reader>,
    overflowed: u64,
    noted: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    event: Event,
    noticed: SystemTime,
    since: Instant,
}

#[derive(Debug)]
struct Reader {
    name: &'static str,
    /// The sequence number that it takes next.
    next: u64,
    /// What it will never see.
    dropped: Arc<AtomicU64>,
}

/// Events for one reader, and what is known about whom they are about.
#[derive(Clone, Debug)]
pub struct EventBatch {
    /// The events, oldest first.
    pub events: Vec<Noted>,
    /// Their entities and facts about those; it has no values.
    pub described: Snapshot,
}

/// An event as a reader gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Noted {
    /// Grows by one with each event of the agent.
    pub sequence: u64,
    /// The definition.
    pub kind: &'static EventKind,
    /// When it happened.
    pub at: SystemTime,
    /// When podlens noticed it.
    pub noticed: SystemTime,
    /// Whom it is about, by its name as far as that is known; none for the agent itself.
    pub entity: Option<Entity>,
    /// What else is known.
    pub attributes: Attributes,
}

impl Default for Journal {
    fn default() -> Self {
        Self::with_limit(EVENTS)
    }
}

impl Journal {
    /// A journal that keeps so many events.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { entries: VecDeque::new(), limit, next: 0, readers: Vec::new(), overflowed: 0, noted: BTreeMap::new() }
    }

    /// Keeps events for this reader, those that are there already included. Adds to `dropped` what it will never see.
    pub fn subscribe(&mut self, reader: &'static str, dropped: Arc<AtomicU64>) {
        let next = self.entries.front().map_or(self.next, |oldest| oldest.sequence);
        self.readers.push(Reader { name: reader, next, dropped });
    }

    /// Something has happened.
    pub fn note(&mut self, event: Event, noticed: SystemTime, now: Instant) {
        *self.noted.entry(event.kind.name).or_default() += 1;
        let sequence = self.next;
        self.next += 1;
        self.entries.push_back(Entry { sequence, event, noticed, since: now });
        while self.entries.len() > self.limit {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.overflowed += 1;
            for reader in self.readers.iter_mut().filter(|reader| reader.next <= oldest.sequence) {
                reader.next = oldest.sequence + 1;
                reader.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The next events for this reader, oldest first: at most so many, and up to the first that still waits for a name.
    pub fn take(&mut self, reader: &str, most: usize, now: Instant, names: &impl Naming) -> Vec<Noted> {
        let waits = |entry: &Entry| {
            let others = entry.event.attributes.iter().filter_map(|(_, value)| match value {
                AttributeValue::Entity(entity) => Some(entity),
                AttributeValue::Text(_) | AttributeValue::Integer(_) => None,
            });
            let pending = entry.event.entity.iter().chain(others).any(|entity| names.is_pending(entity));
            pending && now.saturating_duration_since(entry.since) < NAME_WAIT
        };
        self.take_while(reader, most, names, |entry| !waits(entry))
    }

    /// The same, whether or not a name may still come.
    pub fn take_at_once(&mut self, reader: &str, most: usize, names: &impl Naming) -> Vec<Noted> {
        self.take_while(reader, most, names, |_| true)
    }

    /// Each reader has taken everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many events each kind had.
    pub fn noted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.noted.iter().map(|(name, count)| (*name, *count))
    }

    /// How many events left before each reader had taken them.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    fn take_while(
        &mut self,
        reader: &str,
        most: usize,
        names: &impl Naming,
        is_ready: impl Fn(&Entry) -> bool,
    ) -> Vec<Noted> {
        let Some(reader) = self.readers.iter_mut().find(|known| known.name == reader) else { return Vec::new() };
        let open = self.entries.iter().skip_while(|entry| entry.sequence < reader.next);
        let taken: Vec<Noted> =
            open.take_while(|entry| is_ready(entry)).take(most).map(|entry| noted(entry, names)).collect();
        if let Some(last) = taken.last() {
            reader.next = last.sequence + 1;
        }
        let done = self.readers.iter().map(|reader| reader.next).min().unwrap_or(self.next);
        while self.entries.front().is_some_and(|entry| entry.sequence < done) {
            self.entries.pop_front();
        }
        taken
    }
}

fn noted(entry: &Entry, names: &impl Naming) -> Noted {
    let Entry { sequence, event, noticed, .. } = entry;
    Noted {
        sequence: *sequence,
        kind: event.kind,
        at: event.at,
        noticed: *noticed,
        entity: event.entity.as_ref().map(|entity| names.name(entity)),
        attributes: event.attributes.iter().map(|(attribute, value)| (*attribute, named(value, names))).collect(),
    }
}

fn named(value: &AttributeValue, names: &impl Naming) -> AttributeValue {
    match value {
        AttributeValue::Entity(entity) => AttributeValue::Text(names.name(entity).to_string().into()),
        AttributeValue::Text(_) | AttributeValue::Integer(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{Attribute, Severity};

    static KIND: EventKind = EventKind {
        name: "test.happened",
        severity: Severity::Info,
        about: "Something happened",
        entity: "any",
        attributes: &[],
        source: "a test",
    };

    /// Knows the names of units that begin with "known".
    struct Half;

    impl Naming for Half {
        fn version(&self) -> u64 {
            0
        }

        fn name(&self, entity: &Entity) -> Entity {
            match entity {
                Entity::Unit(name) if name.starts_with("known") => Entity::unit(&format!("{name}, by name")),
                other => other.clone(),
            }
        }

        fn is_pending(&self, entity: &Entity) -> bool {
            matches!(entity, Entity::Unit(name) if !name.starts_with("known"))
        }
    }

    fn event(unit: &str) -> Event {
        Event { kind: &KIND, at: SystemTime::UNIX_EPOCH, entity: Some(Entity::unit(unit).into()), attributes: vec![] }
    }

    struct Fixture {
        journal: Journal,
        began: Instant,
        dropped: Arc<AtomicU64>,
    }

    impl Fixture {
        fn new(limit: usize) -> Self {
            let mut journal = Journal::with_limit(limit);
            let dropped = Arc::new(AtomicU64::new(0));
            journal.subscribe("one", Arc::clone(&dropped));
            Self { journal, began: Instant::now(), dropped }
        }

        fn note(&mut self, unit: &str) {
            self.journal.note(event(unit), SystemTime::UNIX_EPOCH, self.began);
        }

        /// The units of the events that a reader takes so many seconds after they happened.
        #[track_caller]
        fn check(&mut self, reader: &str, seconds: u64, most: usize, expected: &[&str]) {
            let now = self.began + Duration::from_secs(seconds);
            let taken = self.journal.take(reader, most, now, &Half);
            let units: Vec<Entity> = taken.into_iter().filter_map(|noted| noted.entity).collect();
            let expected: Vec<Entity> = expected.iter().map(|unit| Entity::unit(unit)).collect();
            assert_eq!(units, expected);
        }

        fn dropped(&self) -> u64 {
            self.dropped.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_reader_gets_each_event_once_and_in_order_and_by_its_name() {
        let mut fixture = Fixture::new(10);
        for unit in ["known a", "known b", "known c"] {
            fixture.note(unit);
        }
        fixture.check("one", 0, 2, &["known a, by name", "known b, by name"]);
        fixture.check("one", 0, 2, &["known c, by name"]);
        fixture.check("one", 0, 2, &[]);
        assert_eq!(fixture.journal.noted().collect::<Vec<_>>(), [("test.happened", 3)]);
    }

    #[test]
    fn an_event_waits_for_its_name_for_half_a_minute_and_those_behind_it_wait_too() {
        let mut fixture = Fixture::new(10);
        for unit in ["known a", "b", "known c"] {
            fixture.note(unit);
        }
        fixture.check("one", 0, 9, &["known a, by name"]);
        fixture.check("one", 29, 9, &[]);
        fixture.check("one", 30, 9, &["b", "known c, by name"]);
    }

    #[test]
    fn whom_else_an_event_names_is_told_by_name_and_that_name_is_waited_for_too() {
        static OTHER: Attribute = Attribute { name: "test.other", about: "" };
        let mut fixture = Fixture::new(10);
        for other in ["known b", "c"] {
            let named = AttributeValue::Entity(Entity::unit(other).into());
            let event = Event { attributes: vec![(&OTHER, named)], ..event("known a") };
            fixture.journal.note(event, SystemTime::UNIX_EPOCH, fixture.began);
        }
        let mut take = |seconds| {
            let taken = fixture.journal.take("one", 9, fixture.began + Duration::from_secs(seconds), &Half);
            taken.into_iter().flat_map(|noted| noted.attributes).map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(take(0), ["known b, by name".into()]);
        assert_eq!(take(29), []);
        assert_eq!(take(30), ["c".into()]);
    }

    #[test]
    fn at_the_end_no_name_is_waited_for() {
        let mut fixture = Fixture::new(10);
        fixture.note("b");
        fixture.check("one", 0, 9, &[]);
        assert_eq!(fixture.journal.take_at_once("one", 9, &Half).len(), 1);
    }

    #[test]
    fn of_a_full_journal_the_oldest_event_is_dropped_and_counted_for_each_reader_that_lacks_it() {
        let mut fixture = Fixture::new(2);
        let of_two = Arc::new(AtomicU64::new(0));
        fixture.journal.subscribe("two", Arc::clone(&of_two));
        fixture.note("known a");
        fixture.check("two", 0, 9, &["known a, by name"]);
        for unit in ["known b", "known c", "known d"] {
            fixture.note(unit);
        }
        assert_eq!((fixture.dropped(), of_two.load(Ordering::Relaxed), fixture.journal.overflowed()), (2, 1, 2));
        fixture.check("one", 0, 9, &["known c, by name", "known d, by name"]);
        fixture.check("two", 0, 9, &["known c, by name", "known d, by name"]);
        assert!(fixture.journal.entries.is_empty(), "what everybody has taken is not kept");
    }

    #[test]
    fn the_first_reader_gets_what_happened_before_it_came() {
        let mut journal = Journal::with_limit(2);
        for _ in 0..5 {
            journal.note(event("known a"), SystemTime::UNIX_EPOCH, Instant::now());
        }
        assert_eq!((journal.noted().collect::<Vec<_>>(), journal.overflowed()), (vec![("test.happened", 5)], 3));
        journal.subscribe("late", Arc::default());
        let taken = journal.take("late", 9, Instant::now(), &Half);
        assert_eq!(taken.iter().map(|noted| noted.sequence).collect::<Vec<_>>(), [3, 4]);
    }
}
