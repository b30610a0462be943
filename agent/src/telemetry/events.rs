//! Events about the agent itself: what its collectors and its source of names are doing.
//!
//! Pure: from states to events. `pipeline` notes them.

use std::time::{Duration, Instant, SystemTime};

use crate::signal::{Attribute, AttributeValue, Event, EventKind, Severity, State};

static COLLECTOR: Attribute = Attribute { name: "podlens.collector", about: "The collector's name" };
static STATE: Attribute = Attribute { name: "podlens.state", about: "The collector's state" };
static REASON: Attribute = Attribute { name: "podlens.reason", about: "The reason, as `/readyz` gives it" };

const AGENT: &str = "the agent";
const STATES: &[&Attribute] = &[&COLLECTOR, &STATE, &REASON];

/// All of them.
pub static ALL: &[&EventKind] = &[&COLLECTOR_DEGRADED, &COLLECTOR_FAILED, &NAMES_LOST, &NAMES_RESTORED];

/// A collector measures less than it could.
pub static COLLECTOR_DEGRADED: EventKind = EventKind {
    name: "podlens.collector.degraded",
    severity: Severity::Warn,
    about: "A collector measures, but something is missing",
    entity: AGENT,
    attributes: STATES,
    source: "the collector's state at the start",
};

/// A collector measures nothing.
pub static COLLECTOR_FAILED: EventKind = EventKind {
    name: "podlens.collector.failed",
    severity: Severity::Error,
    about: "A collector does not measure: it failed, or this node lacks what it needs",
    entity: AGENT,
    attributes: STATES,
    source: "the collector's state at the start",
};

/// New containers have no names.
pub static NAMES_LOST: EventKind = EventKind {
    name: "podlens.names.lost",
    severity: Severity::Warn,
    about: "The source of names does not answer: new pods keep their uids",
    entity: AGENT,
    attributes: &[],
    source: "`podlens_names_synced`, checked once a second; at the start after 30 s",
};

/// The source of names answers again.
pub static NAMES_RESTORED: EventKind = EventKind {
    name: "podlens.names.restored",
    severity: Severity::Info,
    about: "The source of names answers again",
    entity: AGENT,
    attributes: &[],
    source: "`podlens_names_synced`, checked once a second",
};

/// A source of names may take so long for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// The event of a collector that begins in `state`; none where nobody needs to know.
#[must_use]
pub fn collector(name: &str, state: &State, at: SystemTime) -> Option<Event> {
    let kind = match state {
        State::Running | State::Disabled => return None,
        State::Degraded(_) => &COLLECTOR_DEGRADED,
        State::Unsupported(_) | State::Failed(_) => &COLLECTOR_FAILED,
    };
    let mut attributes: Vec<(&Attribute, AttributeValue)> =
        vec![(&COLLECTOR, name.into()), (&STATE, state.name().into())];
    attributes.extend(state.reason().map(|reason| (&REASON, reason.into())));
    Some(Event { kind, at, entity: None, attributes })
}

/// Notices when the source of names is lost and when it is back.
#[derive(Debug)]
pub struct NamesWatch {
    began: Instant,
    /// As it was at the last look; none before its first answer.
    synced: Option<bool>,
}

impl NamesWatch {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(began: Instant) -> Self {
        Self { began, synced: None }
    }

    /// The source answers now, or does not; none where there is no source.
    pub fn look(&mut self, synced: Option<bool>, at: SystemTime, now: Instant) -> Option<Event> {
        let synced = synced?;
        let is_over = now.duration_since(self.began) >= FIRST_ANSWER;
        let kind = match (self.synced, synced) {
            (Some(true), false) => &NAMES_LOST,
            (None, false) if is_over => &NAMES_LOST,
            (Some(false), true) => &NAMES_RESTORED,
            (None, true) => {
                self.synced = Some(true);
                return None;
            }
            _ => return None,
        };
        self.synced = Some(synced);
        Some(Event { kind, at, entity: None, attributes: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SystemTime = SystemTime::UNIX_EPOCH;

    fn check(state: &State, expected: Option<&EventKind>) {
        let event = collector("cpu", state, AT);
        assert_eq!(event.as_ref().map(|event| event.kind), expected, "{state:?}");
    }

    #[test]
    fn a_collector_tells_what_it_lacks() {
        let degraded = State::Degraded("no legs".to_owned());
        check(&State::Running, None);
        check(&State::Disabled, None);
        check(&degraded, Some(&COLLECTOR_DEGRADED));
        check(&State::Failed("refused".to_owned()), Some(&COLLECTOR_FAILED));
        check(&State::Unsupported("no BTF".to_owned()), Some(&COLLECTOR_FAILED));
        let event = collector("cpu", &degraded, AT).map(|event| event.attributes);
        let expected: Vec<(&Attribute, AttributeValue)> =
            vec![(&COLLECTOR, "cpu".into()), (&STATE, "degraded".into()), (&REASON, "no legs".into())];
        assert_eq!(event, Some(expected));
    }

    #[track_caller]
    fn check_names(looks: &[(u64, Option<bool>)], expected: &[&EventKind]) {
        let began = Instant::now();
        let mut watch = NamesWatch::new(began);
        let looks = looks.iter().filter_map(|(second, synced)| {
            watch.look(*synced, AT, began + Duration::from_secs(*second)).map(|event| event.kind)
        });
        assert_eq!(looks.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_source_of_names_is_told_once_when_it_is_lost_and_once_when_it_is_back() {
        check_names(&[(0, None), (99, None)], &[]);
        check_names(&[(1, Some(true)), (2, Some(true))], &[]);
        let both = [&NAMES_LOST, &NAMES_RESTORED];
        check_names(&[(1, Some(true)), (2, Some(false)), (3, Some(false)), (4, Some(true))], &both);
    }

    #[test]
    fn a_source_of_names_has_half_a_minute_for_its_first_answer() {
        check_names(&[(0, Some(false)), (29, Some(false)), (30, Some(true))], &[]);
        check_names(&[(0, Some(false)), (30, Some(false)), (31, Some(false))], &[&NAMES_LOST]);
    }
}
