//! What happens to a fleet, as events. Pure: from changes to events.

use std::time::SystemTime;

use super::{causes::Lack, rollout::Rollout, state::Change};
use crate::signal::{Attribute, AttributeValue, Attributes, Event, EventKind, Severity};

static NAMESPACE: Attribute = Attribute { name: "k8s.namespace.name", about: "The namespace of the `DaemonSet`" };
static DAEMON_SET: Attribute = Attribute { name: "k8s.daemonset.name", about: "Its name" };
static NODE: Attribute = Attribute { name: "k8s.node.name", about: "The node" };
static REASON: Attribute = Attribute {
    name: "podlens.reason",
    about: "The reason, as in `podlens_fleet_lacking_nodes` and [fleet.md](fleet.md)",
};
static DETAIL: Attribute = Attribute {
    name: "podlens.detail",
    about: "The message of the component that refuses, as `podlens fleet --once` shows it",
};
static SINCE: Attribute = Attribute { name: "podlens.since", about: "The time since which this is so, if known" };
static STATE: Attribute = Attribute { name: "podlens.state", about: "The state of the roll-out" };
static BEFORE: Attribute = Attribute { name: "podlens.state.before", about: "The state before" };

const DAEMON_SETS: &str = "a `DaemonSet`, which the attributes name; the resource is that of podlens itself";
const SOURCE: &str = "the objects of the API server, watched by the replica of `podlens fleet` that leads";

/// All of them.
pub static ALL: &[&EventKind] = &[&LACKING, &RESTORED, &ROLLOUT_CHANGED, &ROLLOUT_STUCK];

/// A node lacks its pod.
pub static LACKING: EventKind = EventKind {
    name: "podlens.daemonset.lacking",
    severity: Severity::Warn,
    about: "A node has begun to lack its pod of a DaemonSet, or lacks it for another reason; podlens reports a reason that may pass by itself once it has lasted a minute",
    entity: DAEMON_SETS,
    attributes: &[&NAMESPACE, &DAEMON_SET, &NODE, &REASON, &DETAIL, &SINCE],
    source: SOURCE,
};

/// It does not any more.
pub static RESTORED: EventKind = EventKind {
    name: "podlens.daemonset.restored",
    severity: Severity::Info,
    about: "A node whose lack was reported has its pod again, or should not have one any more",
    entity: DAEMON_SETS,
    attributes: &[&NAMESPACE, &DAEMON_SET, &NODE, &REASON],
    source: SOURCE,
};

/// A roll-out goes on.
pub static ROLLOUT_CHANGED: EventKind = EventKind {
    name: "podlens.daemonset.rollout.changed",
    severity: Severity::Info,
    about: "A roll-out has begun, is done, or continues",
    entity: DAEMON_SETS,
    attributes: &[&NAMESPACE, &DAEMON_SET, &STATE, &BEFORE],
    source: SOURCE,
};

/// A roll-out does not go on.
pub static ROLLOUT_STUCK: EventKind = EventKind {
    name: "podlens.daemonset.rollout.stuck",
    severity: Severity::Warn,
    about: "A roll-out does not continue: as many new pods as may be unavailable at once do not work",
    entity: DAEMON_SETS,
    attributes: &[&NAMESPACE, &DAEMON_SET, &STATE, &BEFORE, &NODE, &REASON, &DETAIL, &SINCE],
    source: SOURCE,
};

/// The event of a change.
#[must_use]
pub fn event(change: &Change, at: SystemTime) -> Event {
    let (kind, (namespace, name), more) = match change {
        Change::Lacks { daemon_set, node, lack } => (&LACKING, daemon_set, of_lack(node, lack)),
        Change::Ends { daemon_set, node, reason } => {
            (&RESTORED, daemon_set, vec![(&NODE, node.as_str().into()), (&REASON, reason.name().into())])
        }
        Change::RollsOut { daemon_set, before, now } => {
            let mut attributes: Attributes = vec![(&STATE, now.name().into()), (&BEFORE, (*before).into())];
            match now {
                Rollout::Stuck { node, lack } => {
                    attributes.extend(of_lack(node, lack));
                    (&ROLLOUT_STUCK, daemon_set, attributes)
                }
                Rollout::Settled | Rollout::Rolling | Rollout::Paused => (&ROLLOUT_CHANGED, daemon_set, attributes),
            }
        }
    };
    let mut attributes: Attributes = vec![(&NAMESPACE, namespace.as_str().into()), (&DAEMON_SET, name.as_str().into())];
    attributes.extend(more);
    Event { kind, at, entity: None, attributes }
}

fn of_lack(node: &str, lack: &Lack) -> Attributes {
    let mut attributes: Attributes =
        vec![(&NODE, node.into()), (&REASON, lack.reason.name().into()), (&DETAIL, lack.detail.as_str().into())];
    attributes.extend(lack.since.map(|since| (&SINCE, AttributeValue::from(&*since.to_string()))));
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::causes::Reason;

    #[track_caller]
    fn check(change: &Change, kind: &EventKind, expected: &[(&str, &str)]) {
        let event = event(change, SystemTime::UNIX_EPOCH);
        assert_eq!(event.kind, kind);
        let told: Vec<&str> = event.attributes.iter().map(|(attribute, _)| attribute.name).collect();
        assert!(event.attributes.iter().all(|(one, _)| kind.attributes.contains(one)), "{told:?}");
        for (name, value) in expected {
            let found = event.attributes.iter().find(|(attribute, _)| attribute.name == *name);
            assert_eq!(found.map(|(_, value)| value), Some(&AttributeValue::from(*value)), "{name}");
        }
    }

    #[test]
    fn each_change_is_an_event_that_tells_what_it_declares() {
        let daemon_set = ("logs".to_owned(), "shipper".to_owned());
        let lack = Lack { reason: Reason::Image, detail: "no such image".to_owned(), since: None };
        let node = "n1".to_owned();
        let name = [("k8s.namespace.name", "logs"), ("k8s.daemonset.name", "shipper")];
        let of_node = [("k8s.node.name", "n1"), ("podlens.reason", "image"), ("podlens.detail", "no such image")];
        let lacks = Change::Lacks { daemon_set: daemon_set.clone(), node: node.clone(), lack: lack.clone() };
        check(&lacks, &LACKING, &[&name[..], &of_node].concat());
        let ends = Change::Ends { daemon_set: daemon_set.clone(), node: node.clone(), reason: Reason::Image };
        check(&ends, &RESTORED, &[&name[..], &[("podlens.reason", "image")]].concat());
        let stuck =
            Change::RollsOut { daemon_set: daemon_set.clone(), before: "rolling", now: Rollout::Stuck { node, lack } };
        check(
            &stuck,
            &ROLLOUT_STUCK,
            &[&of_node[..], &[("podlens.state", "stuck"), ("podlens.state.before", "rolling")]].concat(),
        );
        let done = Change::RollsOut { daemon_set, before: "stuck", now: Rollout::Settled };
        check(&done, &ROLLOUT_CHANGED, &[("podlens.state", "settled"), ("podlens.state.before", "stuck")]);
    }
}
