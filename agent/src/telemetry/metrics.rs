//! The agent's own metrics, each defined once: registration, the page, OTLP and docs/metrics.md derive from here.
//!
//! Those of the agent's process come from the `prometheus` crate.

use super::{
    definition::{OwnLabel, OwnMetric, OwnValues},
    fleet,
    server::Refusal,
};
use crate::signal::{Kind, State, Unit};

/// All of them, in the order of their names.
pub static ALL: &[&OwnMetric] = &[
    &BUILD_INFO,
    &COLLECTOR_STATE,
    &CPU_UNSEEN,
    &EVENTS,
    &FOLDED_CONTAINERS,
    &GONE_ENTITIES,
    &LOST,
    &NAMES_PODS,
    &NAMES_REQUESTS,
    &NAMES_SYNCED,
    &OTLP_FAILED_ATTEMPTS,
    &OTLP_LOG_RECORDS,
    &OTLP_POINTS_MADE,
    &OTLP_POINTS,
    &SCRAPE,
    &SERIES,
    &SERVER_REFUSALS,
    &SLOTS,
    &SWEEP,
    &WEB_CONFIG_RELOADS,
];

/// The definition of this name, of an agent's or the fleet's.
#[must_use]
pub fn find(name: &str) -> Option<&'static OwnMetric> {
    ALL.iter().chain(fleet::ALL).copied().find(|metric| metric.name == name)
}

const WITH_OTLP: Option<&str> = Some("with an OTLP endpoint");
const WITH_EVENTS: Option<&str> = Some("with an OTLP endpoint and `events.enabled`");
const WITH_LIMIT: Option<&str> = Some("with `series.limit`");
const WITH_NAMES: Option<&str> = Some("with a source of names");

/// What became of what the OTLP clients were to deliver.
const RESULT: OwnLabel = OwnLabel { name: "result", values: OwnValues::Fixed(&["sent", "dropped", "rejected"]) };

/// The version.
pub static BUILD_INFO: OwnMetric = OwnMetric {
    name: "podlens_build_info",
    unit: Unit::Count("build"),
    help: "Always 1; the label names the version",
    labels: &[OwnLabel { name: "version", values: OwnValues::Open }],
    ..OwnMetric::BASE
};

/// What became of each collector.
pub static COLLECTOR_STATE: OwnMetric = OwnMetric {
    name: "podlens_collector_state",
    unit: Unit::Count("collector"),
    help: "1 for the state that the collector is in, 0 for the others",
    labels: &[
        OwnLabel { name: "collector", values: OwnValues::Collectors },
        OwnLabel { name: "state", values: OwnValues::Fixed(&State::NAMES) },
    ],
    ..OwnMetric::BASE
};

/// CPU time that nobody is known to have had.
pub static CPU_UNSEEN: OwnMetric = OwnMetric {
    name: "podlens_cpu_unseen_seconds_total",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "CPU time that no task is charged with, since the kernel did not report the switches",
    ..OwnMetric::BASE
};

/// Events.
pub static EVENTS: OwnMetric = OwnMetric {
    name: "podlens_events_total",
    kind: Kind::Counter,
    unit: Unit::Count("event"),
    help: "Events that podlens noticed, by the event's name",
    labels: &[OwnLabel { name: "event", values: OwnValues::Events }],
    only: WITH_EVENTS,
};

/// Containers without series of their own.
pub static FOLDED_CONTAINERS: OwnMetric = OwnMetric {
    name: "podlens_folded_containers",
    unit: Unit::Count("container"),
    help: "Containers that podlens folded into their workloads, since the node would have more series than `series.limit`",
    only: WITH_LIMIT,
    ..OwnMetric::BASE
};

/// What waits for its last export.
pub static GONE_ENTITIES: OwnMetric = OwnMetric {
    name: "podlens_gone_entities",
    unit: Unit::Count("entity"),
    help: "Removed containers of pods and removed units that wait for their last export",
    ..OwnMetric::BASE
};

/// Losses.
pub static LOST: OwnMetric = OwnMetric {
    name: "podlens_lost_total",
    kind: Kind::Counter,
    unit: Unit::Count("loss"),
    help: "Cases in which podlens could not count, name or report something, by the part that noticed it and the reason",
    labels: &[
        OwnLabel { name: "collector", values: OwnValues::LossParts },
        OwnLabel { name: "reason", values: OwnValues::LossReasons },
    ],
    ..OwnMetric::BASE
};

/// Pods that the source of names knows.
pub static NAMES_PODS: OwnMetric = OwnMetric {
    name: "podlens_names_pods",
    unit: Unit::Count("pod"),
    help: "Pods on this node according to the latest list or watch event",
    only: Some("once the API server or the kubelet has listed them"),
    ..OwnMetric::BASE
};

/// What the source of names was asked.
pub static NAMES_REQUESTS: OwnMetric = OwnMetric {
    name: "podlens_names_requests_total",
    kind: Kind::Counter,
    unit: Unit::Count("request"),
    help: "Requests and reads for the names of pods and containers",
    labels: &[
        OwnLabel { name: "source", values: OwnValues::NameSources },
        OwnLabel { name: "verb", values: OwnValues::NameVerbs },
        OwnLabel { name: "result", values: OwnValues::NameResults },
    ],
    only: WITH_NAMES,
};

/// The source of names answers.
pub static NAMES_SYNCED: OwnMetric = OwnMetric {
    name: "podlens_names_synced",
    unit: Unit::Count("source"),
    help: "1 while the source of names answers, otherwise 0; no sample without a source",
    only: WITH_NAMES,
    ..OwnMetric::BASE
};

/// Failed pushes.
pub static OTLP_FAILED_ATTEMPTS: OwnMetric = OwnMetric {
    name: "podlens_otlp_failed_attempts_total",
    kind: Kind::Counter,
    unit: Unit::Count("attempt"),
    help: "Failed OTLP requests with metrics, of pods and units or of the agent itself; each repetition counts",
    only: WITH_OTLP,
    ..OwnMetric::BASE
};

/// What became of events.
pub static OTLP_LOG_RECORDS: OwnMetric = OwnMetric {
    name: "podlens_otlp_log_records_total",
    kind: Kind::Counter,
    unit: Unit::Count("record"),
    help: "OTLP log records by result",
    labels: &[RESULT],
    only: WITH_EVENTS,
};

/// Points of the snapshots that were to be pushed.
pub static OTLP_POINTS_MADE: OwnMetric = OwnMetric {
    name: "podlens_otlp_points_made_total",
    kind: Kind::Counter,
    unit: Unit::Count("point"),
    help: "OTLP points that were to be sent: those of podlens_otlp_points_total, and those that still wait",
    labels: &[],
    only: WITH_OTLP,
};

/// What became of points.
pub static OTLP_POINTS: OwnMetric = OwnMetric {
    name: "podlens_otlp_points_total",
    kind: Kind::Counter,
    unit: Unit::Count("point"),
    help: "OTLP points by result",
    labels: &[RESULT],
    only: WITH_OTLP,
};

/// Scrapes.
pub static SCRAPE: OwnMetric = OwnMetric {
    name: "podlens_scrape_seconds",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "Time from the request for a metrics page until its answer is ready",
    ..OwnMetric::BASE
};

/// Series of the last snapshot.
pub static SERIES: OwnMetric = OwnMetric {
    name: "podlens_series",
    unit: Unit::Count("series"),
    help: "Series of pods and units as of the last snapshot, each distribution counted as one",
    only: WITH_LIMIT,
    ..OwnMetric::BASE
};

/// What the server refused.
pub static SERVER_REFUSALS: OwnMetric = OwnMetric {
    name: "podlens_server_refusals_total",
    kind: Kind::Counter,
    unit: Unit::Count("refusal"),
    help: "Connections and requests that the HTTP server refused or broke off, by reason",
    labels: &[OwnLabel { name: "reason", values: OwnValues::Fixed(&Refusal::NAMES) }],
    ..OwnMetric::BASE
};

/// Slots.
pub static SLOTS: OwnMetric = OwnMetric {
    name: "podlens_slots",
    unit: Unit::Count("slot"),
    help: "Slots for cgroups in the kernel programs, by the state of their cgroup: live, removed, or none (free)",
    labels: &[OwnLabel { name: "state", values: OwnValues::Fixed(&["live", "removed", "free"]) }],
    ..OwnMetric::BASE
};

/// Sweeps.
pub static SWEEP: OwnMetric = OwnMetric {
    name: "podlens_sweep_seconds",
    unit: Unit::Seconds,
    help: "Time that the last reading of all slots took",
    ..OwnMetric::BASE
};

/// Changes of the web configuration.
pub static WEB_CONFIG_RELOADS: OwnMetric = OwnMetric {
    name: "podlens_web_config_reloads_total",
    kind: Kind::Counter,
    unit: Unit::Count("reload"),
    help: "Changes of the web configuration and its files; podlens applies no part of a failed one",
    labels: &[OwnLabel { name: "result", values: OwnValues::Fixed(&["applied", "failed"]) }],
    ..OwnMetric::BASE
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_valid_and_stand_in_the_order_of_their_names() {
        assert!(ALL.is_sorted_by_key(|metric| metric.name));
        assert!(fleet::ALL.is_sorted_by_key(|metric| metric.name));
        for metric in ALL.iter().chain(fleet::ALL) {
            assert!(metric.description().is_ok(), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            let has_unit = metric.name.contains("_seconds");
            assert_eq!(has_unit, metric.unit == Unit::Seconds, "{}", metric.name);
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
