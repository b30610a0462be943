//! The definition of a metric: everything that is the same for each of its samples.
//!
//! Collectors declare theirs as statics; exporters, documentation and `podlens check` derive from them.

/// What a metric's value means over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A total that only grows while its entity lives.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution in powers of two (see [`crate::signal::Histogram`]).
    Histogram,
}

/// The unit in which a metric is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds; values are held as whole nanoseconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A pure number of things; the word names them in OpenTelemetry's braces, for example `switch`.
    Count(&'static str),
    /// CPUs, whole ones and parts; collectors hold them as billionths.
    Cpus,
}

/// A label with a closed list of values. A sample refers to a value by its position in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Label name in Prometheus, attribute key in OTLP.
    pub name: &'static str,
    /// Every value that the label can take.
    pub values: &'static [&'static str],
}

/// One metric of one collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Prometheus family name, with unit and `_total`, for example `podlens_cpu_seconds_total`.
    pub name: &'static str,
    /// OTLP name, for example `container.cpu.time`.
    pub otlp_name: &'static str,
    /// What the value means over time.
    pub kind: Kind,
    /// The exported unit.
    pub unit: Unit,
    /// One line of help, without a final stop.
    pub help: &'static str,
    /// The metric's own label, if it has one.
    pub label: Option<Label>,
    /// Where the value comes from, for the documentation.
    pub source: &'static str,
    /// What the value is compared with in the tests, for the documentation.
    pub must_equal: &'static str,
}

/// A metric that is always 1 and tells facts by its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoMetric {
    /// Prometheus name, ending in `_info`.
    pub name: &'static str,
    /// One line of help, without a final stop.
    pub help: &'static str,
    /// About a pod as a whole: the label `container` is left out.
    pub of_pod: bool,
    /// Where the facts come from, for the documentation.
    pub source: &'static str,
}
