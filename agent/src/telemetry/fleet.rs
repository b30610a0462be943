//! The metrics of `podlens fleet`, each defined once. An agent has none of them.

use super::definition::{OwnLabel, OwnMetric, OwnValues};
use crate::signal::{Kind, Unit};

/// All of them, in the order of their names.
pub static ALL: &[&OwnMetric] = &[
    &EVENTS_LOST,
    &EXCLUDED_NODES,
    &HEARD,
    &LACKING_FOLDED,
    &LACKING_NODES,
    &LACKING_SINCE,
    &LEADER,
    &LEASE_REQUESTS,
    &NODES,
    &OBJECTS,
    &ODD_OBJECTS,
    &REQUESTS,
    &ROLLED_BACK,
    &ROLLOUT_SINCE,
    &ROLLOUT_STATE,
    &SYNCED,
];

const OF_LEADER: Option<&str> = Some("on the replica that leads, once it knows all nodes, pods and DaemonSets");
const WITH_REVISIONS: Option<&str> = Some("likewise, and while the revisions are known");

const NAMESPACE: OwnLabel = OwnLabel { name: "namespace", values: OwnValues::Open };
const DAEMON_SET: OwnLabel = OwnLabel { name: "daemonset", values: OwnValues::Open };
const NODE: OwnLabel = OwnLabel { name: "node", values: OwnValues::Open };
const REASON: OwnLabel = OwnLabel { name: "reason", values: OwnValues::FleetReasons };
const KIND: OwnLabel = OwnLabel { name: "kind", values: OwnValues::FleetKinds };
const RESULT: OwnLabel = OwnLabel { name: "result", values: OwnValues::NameResults };

/// Why an event was lost, for the label `reason`.
pub const EVENT_LOSSES: [&str; 2] = ["untold", "unsure"];

/// What was not told.
pub static EVENTS_LOST: OwnMetric = OwnMetric {
    name: "podlens_fleet_events_lost_total",
    kind: Kind::Counter,
    unit: Unit::Count("event"),
    help: "Events that no replica sent, since more than 4,096 waited or no replica led for 10 minutes (untold), and events that a leader was sending when it vanished, or may have sent before, which may have arrived (unsure)",
    labels: &[OwnLabel { name: "reason", values: OwnValues::Fixed(&EVENT_LOSSES) }],
    only: None,
};

/// Nodes that should have no pod.
pub static EXCLUDED_NODES: OwnMetric = OwnMetric {
    name: "podlens_fleet_excluded_nodes",
    unit: Unit::Count("node"),
    help: "Nodes that should not have a pod of the DaemonSet, by the first rule that says so",
    labels: &[NAMESPACE, DAEMON_SET, OwnLabel { name: "reason", values: OwnValues::FleetExclusions }],
    only: OF_LEADER,
    ..OwnMetric::BASE
};

/// The last word of a watch.
pub static HEARD: OwnMetric = OwnMetric {
    name: "podlens_fleet_heard_timestamp_seconds",
    unit: Unit::Seconds,
    help: "Unix time of the API server's last message about this kind; while nothing changes, one comes about once a minute",
    labels: &[KIND],
    only: Some("once there was such a message"),
    ..OwnMetric::BASE
};

/// Lacking nodes without a series of their own.
pub static LACKING_FOLDED: OwnMetric = OwnMetric {
    name: "podlens_fleet_lacking_folded",
    unit: Unit::Count("series"),
    help: "Lacking pods that have no series of their own since there would be more than `fleet.lacking_series`; they count in podlens_fleet_lacking_nodes all the same",
    only: OF_LEADER,
    ..OwnMetric::BASE
};

/// Lacking nodes by reason.
pub static LACKING_NODES: OwnMetric = OwnMetric {
    name: "podlens_fleet_lacking_nodes",
    unit: Unit::Count("node"),
    help: "Nodes that should have a pod of the DaemonSet and have none that works, by reason; a reason without nodes has no sample",
    labels: &[NAMESPACE, DAEMON_SET, REASON],
    only: OF_LEADER,
    ..OwnMetric::BASE
};

/// A lacking node.
pub static LACKING_SINCE: OwnMetric = OwnMetric {
    name: "podlens_fleet_lacking_since_timestamp_seconds",
    unit: Unit::Seconds,
    help: "Unix time since which the node has no working pod of the DaemonSet, by reason",
    labels: &[NAMESPACE, DAEMON_SET, NODE, REASON],
    only: OF_LEADER,
    ..OwnMetric::BASE
};

/// Who tells.
pub static LEADER: OwnMetric = OwnMetric {
    name: "podlens_fleet_leader",
    unit: Unit::Count("replica"),
    help: "1 on the replica that holds the Lease and reports on the DaemonSets, otherwise 0",
    ..OwnMetric::BASE
};

/// What was asked about the Lease.
pub static LEASE_REQUESTS: OwnMetric = OwnMetric {
    name: "podlens_fleet_lease_requests_total",
    kind: Kind::Counter,
    unit: Unit::Count("request"),
    help: "Attempts to take, renew or look at the Lease",
    labels: &[RESULT],
    only: Some("with a Lease"),
};

/// Nodes by state.
pub static NODES: OwnMetric = OwnMetric {
    name: "podlens_fleet_nodes",
    unit: Unit::Count("node"),
    help: "Nodes that should have a pod of the DaemonSet (wanted), have one, have one that works, have one of the newest revision, and lack one that works; pods on nodes that should have none (misplaced); nodes that would have one but for a single requirement (just_missed)",
    labels: &[NAMESPACE, DAEMON_SET, OwnLabel { name: "state", values: OwnValues::FleetStates }],
    only: OF_LEADER,
    ..OwnMetric::BASE
};

/// What is held.
pub static OBJECTS: OwnMetric = OwnMetric {
    name: "podlens_fleet_objects",
    unit: Unit::Count("object"),
    help: "Objects of this kind that podlens holds in memory",
    labels: &[KIND],
    ..OwnMetric::BASE
};

/// What makes no sense.
pub static ODD_OBJECTS: OwnMetric = OwnMetric {
    name: "podlens_fleet_odd_objects_total",
    kind: Kind::Counter,
    unit: Unit::Count("object"),
    help: "Objects that podlens left out, counted each time that they came: they make no sense, or are events beyond the 50,000 that it keeps",
    labels: &[KIND],
    only: None,
};

/// What was asked.
pub static REQUESTS: OwnMetric = OwnMetric {
    name: "podlens_fleet_requests_total",
    kind: Kind::Counter,
    unit: Unit::Count("request"),
    help: "Lists and watches; a watch that was granted and breaks off counts as stream",
    labels: &[KIND, OwnLabel { name: "verb", values: OwnValues::Fixed(&["list", "watch", "stream"]) }, RESULT],
    only: Some("once there was one"),
};

/// The template went back.
pub static ROLLED_BACK: OwnMetric = OwnMetric {
    name: "podlens_fleet_rolled_back",
    unit: Unit::Count("daemonset"),
    help: "1 if the newest revision is a template that existed before, otherwise 0",
    labels: &[NAMESPACE, DAEMON_SET],
    only: WITH_REVISIONS,
    ..OwnMetric::BASE
};

/// Since when.
pub static ROLLOUT_SINCE: OwnMetric = OwnMetric {
    name: "podlens_fleet_rollout_since_timestamp_seconds",
    unit: Unit::Seconds,
    help: "Unix time since which the roll-out is in its state; no sample if no replica saw the state begin",
    labels: &[NAMESPACE, DAEMON_SET],
    only: WITH_REVISIONS,
    ..OwnMetric::BASE
};

/// The state of a roll-out.
pub static ROLLOUT_STATE: OwnMetric = OwnMetric {
    name: "podlens_fleet_rollout_state",
    unit: Unit::Count("daemonset"),
    help: "1 for the state that the roll-out of the DaemonSet is in, 0 for the others",
    labels: &[NAMESPACE, DAEMON_SET, OwnLabel { name: "state", values: OwnValues::FleetRollouts }],
    only: WITH_REVISIONS,
    ..OwnMetric::BASE
};

/// A watch is at work.
pub static SYNCED: OwnMetric = OwnMetric {
    name: "podlens_fleet_synced",
    unit: Unit::Count("watch"),
    help: "1 while the watch of this kind is at work, otherwise 0",
    labels: &[KIND],
    ..OwnMetric::BASE
};
