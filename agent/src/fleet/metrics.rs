//! The fleet as metrics, read anew whenever they are gathered. Of the `DaemonSets` only the replica tells that leads.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use k8s_openapi::jiff::Timestamp;
use prometheus::{
    CounterVec, GaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    causes::Reason,
    rollout::Rollout,
    state::{Figures, STATES},
    watch::{
        Watch,
        handover::{Losses, Telling},
        lease::Claim,
    },
};
use crate::{
    signal::lock,
    telemetry::{SelfTelemetry, SelfTelemetryError, fleet as metrics},
};

/// Results of requests about the Lease.
pub type LeaseCounts = Mutex<HashMap<&'static str, u64>>;

/// What the metrics tell of.
pub struct Sources {
    /// The fleet.
    pub watch: Arc<Watch>,
    /// Whether this replica leads.
    pub claim: Arc<Claim>,
    /// What came of requests about the Lease.
    pub lease: Arc<LeaseCounts>,
    /// Events that are told or lost.
    pub telling: Arc<Telling>,
}

/// The metrics, tied to that.
pub struct FleetMetrics {
    sources: Sources,
    /// Most series of lacking nodes.
    most: usize,
    descriptions: Vec<Desc>,
}

impl FleetMetrics {
    /// Adds them to the process's own metrics.
    ///
    /// # Errors
    /// A definition is wrong or exists twice.
    pub fn register(telemetry: &SelfTelemetry, sources: Sources, most: usize) -> Result<(), SelfTelemetryError> {
        let descriptions = metrics::ALL.iter().map(|metric| metric.description()).collect::<Result<_, _>>()?;
        telemetry.register(Self { sources, most, descriptions })
    }
}

impl Collector for FleetMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Sources { watch, claim, lease, telling } = &self.sources;
        let lease = lock(lease).clone();
        // The definitions were tried when they were registered.
        let Ok(families) = Families::new() else { return Vec::new() };
        let leads = claim.holds();
        families.of_replica(watch, leads, &lease);
        families.of_events(telling.losses());
        if leads && watch.is_current() {
            let fleet = watch.fleet();
            if fleet.is_settled() {
                families.of_daemon_sets(&fleet.figures(), watch.knows_revisions(), self.most);
            }
        }
        families.all().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Made anew each time: what has ended has no sample.
struct Families {
    leader: GaugeVec,
    lease_requests: CounterVec,
    events_lost: CounterVec,
    synced: GaugeVec,
    objects: GaugeVec,
    heard: GaugeVec,
    odd: CounterVec,
    requests: CounterVec,
    nodes: GaugeVec,
    excluded: GaugeVec,
    lacking_nodes: GaugeVec,
    lacking_since: GaugeVec,
    lacking_folded: GaugeVec,
    rollout_state: GaugeVec,
    rollout_since: GaugeVec,
    rolled_back: GaugeVec,
}

impl Families {
    fn new() -> Result<Self, SelfTelemetryError> {
        Ok(Self {
            leader: metrics::LEADER.gauges()?,
            lease_requests: metrics::LEASE_REQUESTS.counters()?,
            events_lost: metrics::EVENTS_LOST.counters()?,
            synced: metrics::SYNCED.gauges()?,
            objects: metrics::OBJECTS.gauges()?,
            heard: metrics::HEARD.gauges()?,
            odd: metrics::ODD_OBJECTS.counters()?,
            requests: metrics::REQUESTS.counters()?,
            nodes: metrics::NODES.gauges()?,
            excluded: metrics::EXCLUDED_NODES.gauges()?,
            lacking_nodes: metrics::LACKING_NODES.gauges()?,
            lacking_since: metrics::LACKING_SINCE.gauges()?,
            lacking_folded: metrics::LACKING_FOLDED.gauges()?,
            rollout_state: metrics::ROLLOUT_STATE.gauges()?,
            rollout_since: metrics::ROLLOUT_SINCE.gauges()?,
            rolled_back: metrics::ROLLED_BACK.gauges()?,
        })
    }

    fn all(&self) -> [&dyn Collector; 16] {
        let Self {
            leader, lease_requests, events_lost, synced, objects, heard, odd, requests, nodes, excluded, ..
        } = self;
        let Self { lacking_nodes, lacking_since, lacking_folded, rollout_state, rollout_since, rolled_back, .. } = self;
        [
            leader,
            lease_requests,
            events_lost,
            synced,
            objects,
            heard,
            odd,
            requests,
            nodes,
            excluded,
            lacking_nodes,
            lacking_since,
            lacking_folded,
            rollout_state,
            rollout_since,
            rolled_back,
        ]
    }

    fn of_replica(&self, watch: &Watch, leads: bool, lease: &HashMap<&'static str, u64>) {
        self.leader.with_label_values::<&str>(&[]).set(one_if(leads));
        for (result, count) in lease {
            self.lease_requests.with_label_values(&[*result]).inc_by(*count as f64);
        }
        for health in watch.health() {
            let kind = health.kind().name();
            self.synced.with_label_values(&[kind]).set(one_if(health.is_synced()));
            self.objects.with_label_values(&[kind]).set(watch.fleet().held(health.kind()) as f64);
            self.odd.with_label_values(&[kind]).inc_by(health.odd() as f64);
            if let Some(heard) = health.heard() {
                self.heard.with_label_values(&[kind]).set(heard);
            }
            for (verb, result, count) in health.requests() {
                self.requests.with_label_values(&[kind, verb, result]).inc_by(count as f64);
            }
        }
    }

    fn of_events(&self, Losses { untold, unsure }: Losses) {
        for (reason, count) in metrics::EVENT_LOSSES.iter().zip([untold, unsure]) {
            self.events_lost.with_label_values(&[*reason]).inc_by(count as f64);
        }
    }

    fn of_daemon_sets(&self, all: &[Figures<'_>], with_revisions: bool, most: usize) {
        for figures in all {
            let (namespace, name) = figures.name();
            for (state, count) in STATES.iter().zip(figures.nodes()) {
                if with_revisions || *state != "current" {
                    self.nodes.with_label_values(&[namespace, name, state]).set(count as f64);
                }
            }
            for (reason, count) in figures.excluded() {
                self.excluded.with_label_values(&[namespace, name, reason]).set(count as f64);
            }
            let mut by_reason = BTreeMap::<Reason, usize>::new();
            for (_, reason, _) in figures.lacking() {
                *by_reason.entry(reason).or_default() += 1;
            }
            for (reason, count) in by_reason {
                self.lacking_nodes.with_label_values(&[namespace, name, reason.name()]).set(count as f64);
            }
            if with_revisions {
                self.of_rollout(figures);
            }
        }
        self.of_lacking(all, most);
    }

    fn of_rollout(&self, figures: &Figures<'_>) {
        let (namespace, name) = figures.name();
        let (rollout, since) = figures.rollout();
        for state in Rollout::NAMES {
            let is_in = one_if(*state == rollout.name());
            self.rollout_state.with_label_values(&[namespace, name, state]).set(is_in);
        }
        if let Some(since) = since {
            self.rollout_since.with_label_values(&[namespace, name]).set(seconds(since));
        }
        self.rolled_back.with_label_values(&[namespace, name]).set(one_if(figures.is_rolled_back()));
    }

    /// Series of lacking nodes, fairly shared: a `DaemonSet` that lacks everywhere takes no other's.
    fn of_lacking(&self, all: &[Figures<'_>], most: usize) {
        let lacking = all.iter().map(|figures| (figures, figures.lacking().collect::<Vec<_>>()));
        let mut lacking: Vec<_> = lacking.collect();
        lacking.sort_by_key(|(_, nodes)| nodes.len());
        let (mut left, mut folded, count) = (most, 0, lacking.len());
        for (position, (figures, mut nodes)) in lacking.into_iter().enumerate() {
            let share = (left / (count - position)).min(nodes.len());
            left -= share;
            folded += nodes.len() - share;
            // What does not pass by itself first.
            nodes.sort_by_key(|(node, reason, _)| (reason.passes(), *node));
            let (namespace, name) = figures.name();
            for (node, reason, since) in nodes.into_iter().take(share) {
                let labels = [namespace, name, node, reason.name()];
                self.lacking_since.with_label_values(&labels).set(seconds(since));
            }
        }
        self.lacking_folded.with_label_values::<&str>(&[]).set(folded as f64);
    }
}

fn one_if(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use serde_json::json;

    use super::*;
    use crate::fleet::{kinds::Object, state::Fleet};

    /// So many nodes, and `DaemonSets` of which each lacks its pod on all of those of its pool.
    fn fleet(pools: &[(&str, usize)]) -> Fleet {
        let mut fleet = Fleet::default();
        for (pool, nodes) in pools {
            for number in 0..*nodes {
                let name = format!("{pool}-{number}");
                let node = json!({ "metadata": { "name": name, "uid": name, "labels": { "pool": pool } } });
                fleet.put(Object::Node(Box::new(serde_json::from_value(node).unwrap()))).unwrap();
            }
            let template = json!({ "spec": { "nodeSelector": { "pool": pool } } });
            let object = json!({ "metadata": { "name": pool, "namespace": "ns", "uid": pool }, "spec": { "template": template } });
            fleet.put(Object::DaemonSet(Box::new(serde_json::from_value(object).unwrap()))).unwrap();
        }
        fleet.settle(Timestamp::UNIX_EPOCH);
        fleet
    }

    fn count(gauges: &GaugeVec, pool: &str) -> usize {
        let families = gauges.collect();
        let metrics = families[0].get_metric().iter();
        metrics.filter(|metric| metric.get_label().iter().any(|label| label.value() == pool)).count()
    }

    #[test]
    fn series_of_lacking_nodes_are_bounded_shared_fairly_and_the_rest_is_told() {
        let fleet = fleet(&[("many", 50), ("few", 3), ("some", 20)]);
        for (most, expected, folded) in
            [(100, [50, 3, 20], 0), (30, [14, 3, 13], 43), (3, [1, 1, 1], 70), (0, [0, 0, 0], 73)]
        {
            let families = Families::new().unwrap();
            families.of_daemon_sets(&fleet.figures(), true, most);
            let found = ["many", "few", "some"].map(|pool| count(&families.lacking_since, pool));
            assert_eq!(found, expected, "{most}");
            let told = families.lacking_folded.with_label_values::<&str>(&[]).get();
            let all = families.lacking_nodes.with_label_values(&["ns", "many", "not_made"]).get();
            assert_eq!((told.to_string(), all.to_string()), (folded.to_string(), "50".to_owned()), "{most}");
        }
    }

    #[test]
    fn what_needs_revisions_is_absent_without_them() {
        let fleet = fleet(&[("a", 1)]);
        let families = Families::new().unwrap();
        families.of_daemon_sets(&fleet.figures(), false, 1);
        assert_eq!(count(&families.rollout_state, "a") + count(&families.nodes, "current"), 0);
        assert_eq!(count(&families.nodes, "wanted"), 1);
        families.of_daemon_sets(&fleet.figures(), true, 1);
        assert_eq!(count(&families.rollout_state, "a"), Rollout::NAMES.len());
    }
}
