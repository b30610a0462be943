//! What one of the agent's own metrics is: everything that is the same for each of its samples. `telemetry::metrics`
//! lists them.

use std::collections::HashMap;

use prometheus::{CounterVec, GaugeVec, Histogram, HistogramOpts, Opts, core::Desc};

use super::SelfTelemetryError;
use crate::signal::{Kind, Unit};

/// Bounds for durations within the agent, in seconds: from 0.1 ms to 1 s in steps of about three.
const DURATION_BOUNDS: [f64; 9] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0];

/// One of the agent's own metrics.
#[derive(Clone, Copy, Debug)]
pub struct OwnMetric {
    /// Prometheus family name, with unit and `_total`.
    pub name: &'static str,
    /// What the value means over time; a histogram is one of durations.
    pub kind: Kind,
    /// The exported unit.
    pub unit: Unit,
    /// One line of help, without a final stop.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [OwnLabel],
    /// Where it exists, if not everywhere, in words.
    pub only: Option<&'static str>,
}

/// A label and what it can say.
#[derive(Clone, Copy, Debug)]
pub struct OwnLabel {
    /// Label name in Prometheus, attribute key in OTLP.
    pub name: &'static str,
    /// Every value that it can take.
    pub values: OwnValues,
}

/// Where a label's values stand.
#[derive(Clone, Copy, Debug)]
pub enum OwnValues {
    /// Here.
    Fixed(&'static [&'static str]),
    /// They are the collectors' names.
    Collectors,
    /// They are the names of the parts that can lose something.
    LossParts,
    /// They are the reasons of losses.
    LossReasons,
    /// They are the events' names.
    Events,
    /// They are the sources of names.
    NameSources,
    /// They are what sources of names do.
    NameVerbs,
    /// They are what comes of that.
    NameResults,
    /// They are the kinds of objects of a fleet.
    FleetKinds,
    /// They are the states of nodes of a fleet.
    FleetStates,
    /// They are why a node lacks its pod.
    FleetReasons,
    /// They are why a node should have no pod.
    FleetExclusions,
    /// They are the states of a roll-out.
    FleetRollouts,
    /// Nowhere: any value.
    Open,
}

impl OwnMetric {
    /// What most of them have in common; definitions take the rest from here.
    pub const BASE: Self = Self { name: "", kind: Kind::Gauge, unit: Unit::Seconds, help: "", labels: &[], only: None };

    /// Its name in OTLP: dots, and neither unit nor `_total`.
    #[must_use]
    pub fn otlp_name(&self) -> String {
        let stem = self.name.strip_suffix("_total").unwrap_or(self.name);
        let unit = match self.unit {
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
            Unit::Count(_) | Unit::Cpus => "",
        };
        stem.strip_suffix(unit).unwrap_or(stem).replace('_', ".")
    }

    /// Gauges, one for each combination of labels' values that is asked for.
    ///
    /// # Errors
    /// The definition is not valid.
    pub fn gauges(&self) -> Result<GaugeVec, SelfTelemetryError> {
        GaugeVec::new(Opts::new(self.name, self.help), &self.label_names()).map_err(self.refused())
    }

    /// Counters, likewise.
    ///
    /// # Errors
    /// The definition is not valid.
    pub fn counters(&self) -> Result<CounterVec, SelfTelemetryError> {
        CounterVec::new(Opts::new(self.name, self.help), &self.label_names()).map_err(self.refused())
    }

    /// A distribution of durations.
    pub(super) fn durations(&self) -> Result<Histogram, SelfTelemetryError> {
        let options = HistogramOpts::new(self.name, self.help).buckets(DURATION_BOUNDS.to_vec());
        Histogram::with_opts(options).map_err(self.refused())
    }

    /// What the library knows it by.
    ///
    /// # Errors
    /// The definition is not valid.
    pub fn description(&self) -> Result<Desc, SelfTelemetryError> {
        let labels = self.label_names().into_iter().map(str::to_owned).collect();
        Desc::new(self.name.into(), self.help.into(), labels, HashMap::new()).map_err(self.refused())
    }

    fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    fn refused(&self) -> impl FnOnce(prometheus::Error) -> SelfTelemetryError {
        let name = self.name.to_owned();
        move |source| SelfTelemetryError::Register { name, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_otlp_have_neither_unit_nor_total() {
        for (name, unit, expected) in [
            ("podlens_otlp_points_total", Unit::Count("point"), "podlens.otlp.points"),
            ("podlens_bpf_run_seconds_total", Unit::Seconds, "podlens.bpf.run"),
            ("podlens_bpf_memory_bytes", Unit::Bytes, "podlens.bpf.memory"),
            ("podlens_slots", Unit::Count("slot"), "podlens.slots"),
        ] {
            assert_eq!(OwnMetric { name, unit, ..OwnMetric::BASE }.otlp_name(), expected, "{name}");
        }
    }
}
