//! What the pipeline tells about itself, as metrics of the agent: read anew whenever they are gathered.

use std::sync::{Arc, Mutex};

use prometheus::{
    CounterVec, GaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{Health, Pipeline, losses};
use crate::{
    attribution::kubernetes::NamesHealth,
    collectors::State,
    signal::lock,
    telemetry::{SelfTelemetry, SelfTelemetryError, metrics},
};

/// The metrics, tied to their pipeline.
pub struct OwnMetrics {
    pipeline: Arc<Pipeline>,
    families: Families,
    /// A page and a push may ask at once, and two that raise a counter together would raise it twice.
    filling: Mutex<()>,
}

impl OwnMetrics {
    /// Adds them to the agent's own metrics.
    ///
    /// # Errors
    /// A definition is wrong or exists twice.
    pub fn register(telemetry: &SelfTelemetry, pipeline: &Arc<Pipeline>) -> Result<(), SelfTelemetryError> {
        telemetry.register(Self {
            pipeline: Arc::clone(pipeline),
            families: Families::new()?,
            filling: Mutex::default(),
        })
    }
}

impl Collector for OwnMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.families.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _filling = lock(&self.filling);
        self.families.fill(self.pipeline.states(), &self.pipeline.health(), &self.pipeline.names().health());
        self.families.all().into_iter().flat_map(Collector::collect).collect()
    }
}

/// The metrics themselves. They keep their values, since a counter here only grows.
struct Families {
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
    series: GaugeVec,
    folded: GaugeVec,
}

impl Families {
    fn new() -> Result<Self, SelfTelemetryError> {
        Ok(Self {
            state: metrics::COLLECTOR_STATE.gauges()?,
            slots: metrics::SLOTS.gauges()?,
            sweep: metrics::SWEEP.gauges()?,
            gone: metrics::GONE_ENTITIES.gauges()?,
            lost: metrics::LOST.counters()?,
            events: metrics::EVENTS.counters()?,
            unseen: metrics::CPU_UNSEEN.counters()?,
            names_requests: metrics::NAMES_REQUESTS.counters()?,
            names_pods: metrics::NAMES_PODS.gauges()?,
            names_synced: metrics::NAMES_SYNCED.gauges()?,
            series: metrics::SERIES.gauges()?,
            folded: metrics::FOLDED_CONTAINERS.gauges()?,
        })
    }

    fn all(&self) -> [&dyn Collector; 12] {
        let Self { state, slots, sweep, gone, lost, events, unseen, names_requests, names_pods, names_synced, .. } =
            self;
        let Self { series, folded, .. } = self;
        [state, slots, sweep, gone, lost, events, unseen, names_requests, names_pods, names_synced, series, folded]
    }

    fn fill(&self, states: &[(&'static str, State)], health: &Health, names: &NamesHealth) {
        for (collector, state) in states {
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
        let of_names = names.lost().map(|(loss, count)| (losses::NAMES, loss, count));
        for (part, loss, count) in health.lost.iter().chain(&of_names) {
            raise(&self.lost, &[*part, loss.reason], *count as f64);
        }
        for (event, count) in &health.events {
            raise(&self.events, &[*event], *count as f64);
        }
        for (source, verb, result, count) in &names.requests {
            raise(&self.names_requests, &[*source, *verb, *result], *count as f64);
        }
        raise(&self.unseen, &[], health.unseen_ns as f64 / 1e9);
        if let Some(spent) = health.spent {
            self.series.with_label_values::<&str>(&[]).set(spent.series as f64);
            self.folded.with_label_values::<&str>(&[]).set(spent.folded as f64);
        }
        if let Some(synced) = names.synced {
            self.names_synced.with_label_values::<&str>(&[]).set(f64::from(u8::from(synced)));
        }
        if let Some(pods) = names.pods {
            self.names_pods.with_label_values::<&str>(&[]).set(pods as f64);
        }
    }
}

/// Brings a counter up to a total that somebody else keeps.
fn raise(counters: &CounterVec, labels: &[&str], total: f64) {
    let counter = counters.with_label_values(labels);
    counter.inc_by((total - counter.get()).max(0.0));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn what_never_happened_is_0_and_what_does_not_exist_is_absent() {
        let families = Families::new().unwrap();
        let (_, loss) = losses().next().unwrap();
        let health = Health { lost: vec![("part", loss, 0)], events: vec![("event", 0)], ..Health::default() };
        let names = NamesHealth { requests: vec![("api", "list", "forbidden", 0)], ..NamesHealth::default() };
        families.fill(&[], &health, &names);
        for counters in [&families.lost, &families.events, &families.names_requests, &families.unseen] {
            let [family] = &counters.collect()[..] else { panic!("no family") };
            let values: Vec<f64> = family.get_metric().iter().map(|metric| metric.get_counter().get_value()).collect();
            let expected = if family.name() == metrics::LOST.name { 1 + names.lost().len() } else { 1 };
            assert_eq!(values, vec![0.0; expected], "{}", family.name());
        }
        let absent = |gauges: &GaugeVec| gauges.collect().iter().all(|family| family.get_metric().is_empty());
        assert!(absent(&families.names_synced) && absent(&families.names_pods), "no source");
        let names = NamesHealth { synced: Some(true), pods: None, ..NamesHealth::default() };
        families.fill(&[], &health, &names);
        assert!(!absent(&families.names_synced) && absent(&families.names_pods), "a source that lists no pods");
    }
}
