//! One immutable view of all values, and its parts.

use std::{sync::Arc, time::SystemTime};

use crate::signal::{Entity, Histogram, InfoMetric, Metric};

/// Everything podlens knows about the node's entities at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows by one with every snapshot; exporters acknowledge it.
    pub sequence: u64,
    /// The moment of the sweep.
    pub taken: SystemTime,
    /// Label `node` and resource attribute `k8s.node.name`.
    pub node: Arc<str>,
    /// All entities; a sample refers to its entity by position.
    pub entities: Vec<EntityState>,
    /// One family a metric that has samples, in the collectors' order.
    pub families: Vec<Family>,
    /// Facts about entities.
    pub infos: Vec<Info>,
}

/// Facts about an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The definition.
    pub metric: &'static InfoMetric,
    /// Position in [`Snapshot::entities`].
    pub entity: u32,
    /// Label names and values, the same names in the same order for each of one metric. An empty value is not known.
    pub labels: Vec<(&'static str, Arc<str>)>,
}

/// An entity in a snapshot.
#[derive(Clone, Debug)]
pub struct EntityState {
    /// Who it is.
    pub entity: Entity,
    /// When its first cgroup was made, or when podlens started if that is later: the start of its counters.
    pub since: SystemTime,
    /// Its last cgroup is gone: these are its final values.
    pub gone: bool,
    /// What instances that are gone and delivered have used under the same namespace, pod and container as one
    /// that lives. Series that are not told apart by the instance go on from there; others leave it out.
    pub carried: bool,
}

/// All samples of one metric.
#[derive(Clone, Debug)]
pub struct Family {
    /// The definition.
    pub metric: &'static Metric,
    /// The samples, ordered by entity.
    pub samples: Vec<Sample>,
}

/// One value of one entity.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Position in [`Snapshot::entities`].
    pub entity: u32,
    /// Position in the values of the metric's own label; 0 where it has none.
    pub label_value: u8,
    /// For values split by who caused them.
    pub culprit: Option<Culprit>,
    /// The value.
    pub value: Value,
}

/// Who caused a part of somebody else's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// Position in [`Snapshot::entities`].
    Entity(u32),
    /// All those that have no sample of their own.
    Other,
}

/// A value, exact as the kernel counted it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number of things or bytes.
    Integer(u64),
    /// A duration, exported in seconds.
    Nanoseconds(u64),
    /// A ratio or a fraction.
    Float(f64),
    /// A distribution.
    Histogram(Arc<Histogram>),
}

impl Snapshot {
    /// The entity of a sample.
    #[must_use]
    pub fn entity(&self, sample: &Sample) -> Option<&EntityState> {
        self.entities.get(usize::try_from(sample.entity).ok()?)
    }
}
