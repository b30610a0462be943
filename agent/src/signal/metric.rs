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

/// How the values of an entity's several cgroups become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// They are added up.
    Sum,
    /// The largest counts, as for a peak.
    Max,
    /// The one that was read last counts, as for a setting.
    Last,
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
    pub values: LabelValues,
}

/// Where a label's values are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelValues {
    /// Here.
    Fixed(&'static [&'static str]),
    /// By the running kernel: a value's position is the value of the enumeration's constant, and `other` is behind the
    /// last one. A kernel without the enumeration has no value of the metric, and the collector is degraded.
    Kernel(KernelEnum),
}

/// An enumeration of the kernel whose constants name a label's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelEnum {
    /// Its name, for example `skb_drop_reason`.
    pub name: &'static str,
    /// What each constant begins with and the value does not, for example `SKB_DROP_REASON_`. The rest is told in
    /// lower case.
    pub prefix: &'static str,
    /// Values from this one on count as `other`. Each value has a cell in each row, 33 in a histogram's, whether it ever
    /// occurs or not.
    pub most: usize,
}

/// What a split metric tells by name: who caused a part of another metric's value. The names are open and bounded; what
/// no name accounts for is `(other)`.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// The metric whose value it splits.
    pub of: &'static Metric,
    /// Which of that metric's label combinations are split.
    pub combinations: &'static [usize],
}

/// What of a metric makes a series by default. Whoever names the metric in the configuration (`series.allow`) gets all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByDefault {
    /// Each combination of its labels' values, from the start: rare events among them, of which `increase()` sees the first one
    /// only behind a 0.
    All,
    /// Combinations whose value is not 0.
    Nonzero,
    /// A combination once its own value is not 0, or that of the other metric, of the same collector: a rare event that begins
    /// at 0 where it can happen. Of another metric with other labels any combination counts.
    With(&'static Metric),
    /// Of these combinations those whose value is not 0.
    Only(&'static [usize]),
    /// These combinations from the start, and others whose value is not 0.
    AtLeast(&'static [usize]),
    /// Of a split metric: culprits that lately caused a good part of it; all others are `(other)`.
    Heavy,
    /// None.
    Nothing,
}

/// What of a metric is shown on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// All of it.
    #[default]
    All,
    /// What its definition says.
    ByDefault,
    /// Nothing.
    Nothing,
}

/// One metric of one collector.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Prometheus family name, with unit and `_total`, for example `podlens_cpu_seconds_total`.
    pub name: &'static str,
    /// OTLP name, for example `container.cpu.time`.
    pub otlp_name: &'static str,
    /// What the value means over time.
    pub kind: Kind,
    /// How the values of several cgroups become one.
    pub aggregation: Aggregation,
    /// The exported unit.
    pub unit: Unit,
    /// One line of help, without a final stop.
    pub help: &'static str,
    /// The metric's own labels. It has a value for each combination of theirs.
    pub labels: &'static [Label],
    /// A total of the kernel's own since the cgroup or the socket was made, whenever podlens began. Others count from podlens'
    /// beginning.
    pub lifetime: bool,
    /// A gauge that a cgroup leaves behind: of one that is gone the last value stays until it was exported. It is none that is
    /// added up.
    pub kept_after_removal: bool,
    /// A combination whose value is 0 makes no series: for labels with many values of which an entity meets few.
    pub sparse: bool,
    /// What of it leaves the node unless the configuration names it.
    pub by_default: ByDefault,
    /// The metric that it splits by who caused it.
    pub split: Option<Split>,
    /// Where the value comes from, for the documentation.
    pub source: &'static str,
    /// What the value is compared with in the tests, for the documentation.
    pub must_equal: &'static str,
}

impl Metric {
    /// What most metrics have in common; definitions take the rest from here.
    pub const BASE: Self = Self {
        name: "",
        otlp_name: "",
        kind: Kind::Counter,
        aggregation: Aggregation::Sum,
        unit: Unit::Seconds,
        help: "",
        labels: &[],
        lifetime: false,
        kept_after_removal: false,
        sparse: false,
        by_default: ByDefault::All,
        split: None,
        source: "",
        must_equal: "",
    };
}

/// A metric is one definition: its address tells it from all others.
impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Metric {}

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
