//! What the pipeline counts about itself, as metrics of the agent: read anew whenever they are gathered.

use std::sync::Arc;

use prometheus::{
    CounterVec, GaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    pipeline::Pipeline,
    signal::State,
    telemetry::{SelfTelemetry, SelfTelemetryError},
};

/// The metrics, tied to their pipeline.
#[derive(Clone)]
pub struct OwnMetrics {
    pipeline: Arc<Pipeline>,
    state: GaugeVec,
    slots: GaugeVec,
    sweep: GaugeVec,
    gone: GaugeVec,
    lost: CounterVec,
    events: CounterVec,
    unseen: CounterVec,
    names_requests: CounterVec,
    names_pods: GaugeVec,
    names_synced: GaugeVec,
}

impl OwnMetrics {
    /// Adds them to the agent's own metrics.
    ///
    /// # Errors
    /// A definition is wrong or exists twice.
    pub fn register(telemetry: &SelfTelemetry, pipeline: &Arc<Pipeline>) -> Result<(), SelfTelemetryError> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            GaugeVec::new(Opts::new(name, help), labels)
                .map_err(|source| SelfTelemetryError::Register { name: name.to_owned(), source })
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            CounterVec::new(Opts::new(name, help), labels)
                .map_err(|source| SelfTelemetryError::Register { name: name.to_owned(), source })
        };
        telemetry.register(Self {
            pipeline: Arc::clone(pipeline),
            state: gauge(
                "podlens_collector_state",
                "1 for the state that the collector is in",
                &["collector", "state"],
            )?,
            slots: gauge("podlens_slots", "Slots for cgroups in the kernel programs", &["state"])?,
            sweep: gauge("podlens_sweep_seconds", "Time that the last reading of all slots took", &[])?,
            gone: gauge(
                "podlens_gone_entities",
                "Pods' containers and units that are gone and wait for their last export",
                &[],
            )?,
            lost: counter("podlens_lost_total", "What could not be counted or named", &["collector", "reason"])?,
            events: counter("podlens_events_total", "Events that were noted, by the event's name", &["event"])?,
            unseen: counter(
                "podlens_cpu_unseen_seconds_total",
                "CPU time of which it is not known who had it, since switches went unreported",
                &[],
            )?,
            names_requests: counter(
                "podlens_names_requests_total",
                "Requests and reads for the names of pods and containers",
                &["source", "verb", "result"],
            )?,
            names_pods: gauge("podlens_names_pods", "Pods of this node by the last word of the source of names", &[])?,
            names_synced: gauge(
                "podlens_names_synced",
                "1 while the source of names answers; no sample without a source",
                &[],
            )?,
        })
    }
}

impl Collector for OwnMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [
            self.state.desc(),
            self.slots.desc(),
            self.sweep.desc(),
            self.gone.desc(),
            self.lost.desc(),
            self.events.desc(),
            self.unseen.desc(),
            self.names_requests.desc(),
            self.names_pods.desc(),
            self.names_synced.desc(),
        ]
        .concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let health = self.pipeline.health();
        for (collector, state) in self.pipeline.states() {
            for name in State::NAMES {
                self.state.with_label_values(&[*collector, name]).set(f64::from(u8::from(state.name() == name)));
            }
        }
        for (state, count) in health.slots {
            if !state.is_empty() {
                self.slots.with_label_values(&[state]).set(count as f64);
            }
        }
        self.sweep.with_label_values::<&str>(&[]).set(health.sweep.as_secs_f64());
        self.gone.with_label_values::<&str>(&[]).set(health.gone_entities as f64);
        let names = self.pipeline.names().health();
        let of_names = [("names", "no_room", names.dropped), ("names", "contradiction", names.conflicts)];
        for (collector, reason, count) in health.lost.iter().chain(&of_names) {
            raise(&self.lost, &[*collector, *reason], *count as f64);
        }
        for (event, count) in &health.events {
            raise(&self.events, &[*event], *count as f64);
        }
        for (source, verb, result, count) in &names.requests {
            raise(&self.names_requests, &[*source, *verb, *result], *count as f64);
        }
        raise(&self.unseen, &[], health.unseen_ns as f64 / 1e9);
        if let Some(synced) = names.synced {
            self.names_synced.with_label_values::<&str>(&[]).set(f64::from(u8::from(synced)));
            self.names_pods.with_label_values::<&str>(&[]).set(names.pods as f64);
        }
        [
            self.state.collect(),
            self.slots.collect(),
            self.sweep.collect(),
            self.gone.collect(),
            self.lost.collect(),
            self.events.collect(),
            self.unseen.collect(),
            self.names_requests.collect(),
            self.names_pods.collect(),
            self.names_synced.collect(),
        ]
        .concat()
    }
}

/// Brings a counter up to a total that somebody else keeps.
fn raise(counters: &CounterVec, labels: &[&str], total: f64) {
    let counter = counters.with_label_values(labels);
    counter.inc_by((total - counter.get()).max(0.0));
}
