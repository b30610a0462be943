//! OTLP metrics as a pure function of a snapshot.
//!
//! Not a client: [`crate::export::otlp_client`] sends what this builds. One `ResourceMetrics` an entity, because
//! identity belongs to the resource: a container has `k8s.node.name`, `k8s.namespace.name`, `k8s.pod.name`,
//! `k8s.pod.uid`, `k8s.container.name` and `container.id`, as far as they are known; a unit has `k8s.node.name`
//! and [`UNIT_KEY`]. `host.name` is left to the collector's resource detection, since a node's name need not be
//! its host's. Only what varies within an entity is an attribute of a point: the metric's own label under its
//! own name, and the culprit under [`CULPRIT_NAMESPACE_KEY`], [`CULPRIT_POD_KEY`] or [`CULPRIT_UNIT_KEY`].
//!
//! Everything is cumulative. A counter's start is its entity's.

mod point;
mod proto;
mod resource;

use std::{
    collections::{HashMap, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use self::{point::Moment, proto::field};
pub use self::{
    point::{CULPRIT_NAMESPACE_KEY, CULPRIT_POD_KEY, CULPRIT_UNIT_KEY},
    resource::{SCHEMA_URL, UNIT_KEY, is_of_entity},
};
use crate::{
    registry::{Sample, Snapshot},
    signal::Entity,
};

/// A request is closed before it grows beyond this, as long as it can be split: receivers refuse 4 MiB.
pub const REQUEST_BYTES: usize = 2 * 1000 * 1000;

/// A request and how many points it carries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// An `ExportMetricsServiceRequest` as it goes over the wire.
    pub bytes: Bytes,
    /// Data points in it.
    pub points: u64,
}

/// What is written beyond, or other than, what a snapshot says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Distributions have the buckets of the Prometheus page, in place of powers of two.
    pub explicit_histograms: bool,
    /// Each resource is a service too: `service.name`, `service.namespace` and `service.instance.id`.
    pub service_attributes: bool,
    /// Attributes of each resource, unless it has one of that name. Those for which [`is_of_entity`] holds do not belong
    /// here: they would name the agent where somebody else is measured.
    pub attributes: Vec<(String, String)>,
}

static NO_OPTIONS: Options = Options { explicit_histograms: false, service_attributes: false, attributes: Vec::new() };

/// One sample of a snapshot by its positions, for walking the samples entity by entity.
#[derive(Clone, Copy)]
struct Position {
    entity: u32,
    family: u32,
    sample: u32,
}

/// The requests of one export, built one at a time: all of them take far more memory than the snapshot.
pub struct Requests<'a> {
    /// What is still to be sent: the values, then the last points of entities that are gone.
    parts: Vec<Part<'a>>,
    /// An encoded entity that did not fit into the previous request, and its points.
    held: Option<(Vec<u8>, u64)>,
    limit_bytes: usize,
    options: &'a Options,
}

/// Samples of one snapshot, to be sent as values or as marks that there is no value any more.
struct Part<'a> {
    snapshot: &'a Snapshot,
    positions: std::vec::IntoIter<Position>,
    next: Option<Position>,
    /// For each entity, where in the snapshot's facts those about it and its pod are.
    facts: Vec<Vec<usize>>,
    /// When the series ended; none where the samples are current.
    ended: Option<SystemTime>,
}

/// The requests of `snapshot`; entities that only `previous` has get one last point a series with the flag
/// "no recorded value". The same arguments always give the same requests.
#[must_use]
pub fn requests<'a>(snapshot: &'a Snapshot, previous: Option<&'a Snapshot>) -> Requests<'a> {
    requests_of(snapshot, previous, REQUEST_BYTES)
}

/// How many points [`requests`] gives for a snapshot, last points aside.
#[must_use]
pub fn points(snapshot: &Snapshot) -> u64 {
    let samples = snapshot.families.iter().flat_map(|family| &family.samples);
    samples.filter(|sample| !snapshot.entity(sample).is_some_and(|state| state.carried)).count() as u64
}

/// Nanoseconds since 1970, as OTLP wants them; 0 ("unknown") for what does not fit.
pub(crate) fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or_default()
}

fn requests_of<'a>(snapshot: &'a Snapshot, previous: Option<&'a Snapshot>, limit_bytes: usize) -> Requests<'a> {
    let mut parts = vec![Part::new(snapshot, None, |_| true)];
    if let Some(previous) = previous {
        let present: HashSet<&Entity> = snapshot.entities.iter().map(|state| &state.entity).collect();
        let left = |entity: &Entity| !present.contains(entity);
        parts.push(Part::new(previous, Some(snapshot.taken), left));
    }
    // Taken from the end.
    parts.reverse();
    Requests { parts, held: None, limit_bytes, options: &NO_OPTIONS }
}

impl<'a> Part<'a> {
    fn new(snapshot: &'a Snapshot, ended: Option<SystemTime>, wanted: impl Fn(&Entity) -> bool) -> Self {
        // Resources are told apart by the instance: each has only what it used itself.
        let wanted: Vec<bool> = snapshot.entities.iter().map(|state| !state.carried && wanted(&state.entity)).collect();
        let is_wanted = |sample: &Sample| {
            usize::try_from(sample.entity).ok().and_then(|entity| wanted.get(entity)).is_some_and(|wanted| *wanted)
        };
        let mut positions = Vec::new();
        for (family, of_metric) in (0_u32..).zip(&snapshot.families) {
            for (sample, found) in (0_u32..).zip(&of_metric.samples) {
                if is_wanted(found) {
                    positions.push(Position { entity: found.entity, family, sample });
                }
            }
        }
        // Stable, and families are already in the entities' order, so this merges sorted runs.
        positions.sort_by_key(|position| position.entity);
        let mut positions = positions.into_iter();
        let next = positions.next();
        Self { snapshot, positions, next, facts: facts(snapshot), ended }
    }

    /// Writes the next entity's metrics; their number of points.
    fn write_next(&mut self, out: &mut Vec<u8>, options: &Options) -> Option<u64> {
        let entity = self.next?.entity;
        let at = usize::try_from(entity).ok()?;
        let state = self.snapshot.entities.get(at)?;
        let moment = Moment {
            start_unix_ns: unix_ns(state.since),
            time_unix_ns: unix_ns(self.ended.unwrap_or(self.snapshot.taken)),
            ended: self.ended.is_some(),
        };
        let mut points = 0;
        proto::nested_long(out, field::REQUEST_RESOURCE_METRICS, |out| {
            let facts = self.facts.get(at);
            let fact = |label: &str| {
                let known = facts?.iter().filter_map(|at| self.snapshot.infos.get(*at)).flat_map(|info| &info.labels);
                known.into_iter().find(|(name, _)| *name == label).map(|(_, value)| &**value)
            };
            proto::nested_long(out, field::RESOURCE_METRICS_RESOURCE, |out| {
                resource::write(out, &state.entity, &self.snapshot.node, fact, options);
            });
            proto::nested_long(out, field::RESOURCE_METRICS_SCOPE_METRICS, |out| {
                proto::nested(out, field::SCOPE_METRICS_SCOPE, |out| {
                    proto::string(out, field::SCOPE_NAME, "podlens");
                    proto::string(out, field::SCOPE_VERSION, env!("CARGO_PKG_VERSION"));
                });
                while let Some(first) = self.next.filter(|position| position.entity == entity) {
                    points += self.write_metric(out, first, moment, options.explicit_histograms);
                }
                proto::string(out, field::SCOPE_METRICS_SCHEMA_URL, SCHEMA_URL);
            });
            proto::string(out, field::RESOURCE_METRICS_SCHEMA_URL, SCHEMA_URL);
        });
        Some(points)
    }

    /// Writes an entity's samples of one metric, beginning with the next one; the number of its points.
    fn write_metric(&mut self, out: &mut Vec<u8>, first: Position, moment: Moment, explicit: bool) -> u64 {
        let Some((metric, _)) = self.sample(first) else {
            self.next = self.positions.next();
            return 0;
        };
        let mut points = 0;
        proto::nested_long(out, field::SCOPE_METRICS_METRICS, |out| {
            point::metric(out, metric, explicit, |out| {
                while let Some(position) =
                    self.next.filter(|next| (next.entity, next.family) == (first.entity, first.family))
                {
                    if let Some((_, sample)) = self.sample(position) {
                        points += u64::from(point::point(out, metric, explicit, sample, self.snapshot, moment));
                    }
                    self.next = self.positions.next();
                }
            });
        });
        points
    }

    fn sample(&self, position: Position) -> Option<(&'static crate::signal::Metric, &'a Sample)> {
        let family = self.snapshot.families.get(usize::try_from(position.family).ok()?)?;
        Some((family.metric, family.samples.get(usize::try_from(position.sample).ok()?)?))
    }
}

/// A pod's facts are about each of its containers.
fn facts(snapshot: &Snapshot) -> Vec<Vec<usize>> {
    let mut facts = vec![Vec::new(); snapshot.entities.len()];
    let pod_of = |entity: &Entity| match entity {
        Entity::Container(container) => Some(std::sync::Arc::clone(&container.pod_uid)),
        Entity::Unit(_) => None,
    };
    let mut of_pod: HashMap<_, usize> = HashMap::new();
    for (at, info) in snapshot.infos.iter().enumerate() {
        let Some(entity) = usize::try_from(info.entity).ok() else { continue };
        if info.metric.of_pod {
            if let Some(pod) = snapshot.entities.get(entity).and_then(|state| pod_of(&state.entity)) {
                of_pod.insert(pod, at);
            }
        } else if let Some(of_entity) = facts.get_mut(entity) {
            of_entity.push(at);
        }
    }
    if !of_pod.is_empty() {
        for (state, of_entity) in snapshot.entities.iter().zip(&mut facts) {
            of_entity.extend(pod_of(&state.entity).and_then(|pod| of_pod.get(&pod)));
        }
    }
    facts
}

impl<'a> Requests<'a> {
    /// The same requests with options. To be called before the first one is taken.
    #[must_use]
    pub fn with(self, options: &'a Options) -> Self {
        Self { options, ..self }
    }

    /// Writes the next entity's metrics; their number of points.
    fn write_next(&mut self, out: &mut Vec<u8>) -> Option<u64> {
        while let Some(part) = self.parts.last_mut() {
            if let Some(points) = part.write_next(out, self.options) {
                return Some(points);
            }
            self.parts.pop();
        }
        None
    }
}

impl Iterator for Requests<'_> {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        let (mut bytes, mut points) = self.held.take().unwrap_or_default();
        loop {
            let end = bytes.len();
            let Some(more_points) = self.write_next(&mut bytes) else { break };
            if end > 0 && bytes.len() > self.limit_bytes {
                self.held = Some((bytes.split_off(end), more_points));
                break;
            }
            points += more_points;
        }
        (!bytes.is_empty()).then(|| Request { bytes: bytes.into(), points })
    }
}

#[cfg(test)]
pub(crate) mod tests;
