//! OTLP metrics as a pure function of a snapshot; log records in [`logs`].
//!
//! Not a client: [`crate::export::otlp_client`] sends what this builds. One `ResourceMetrics` an entity, because
//! identity belongs to the resource: a container has `k8s.node.name`, `k8s.namespace.name`, `k8s.pod.name`,
//! `k8s.pod.uid`, `k8s.container.name` and `container.id`, as far as they are known; a unit has `k8s.node.name`
//! and [`UNIT_KEY`]. `host.name` is left to the collector's resource detection, since a node's name need not be
//! its host's. Only what varies within an entity is an attribute of a point: the metric's own label under its
//! own name, and the culprit under [`CULPRIT_NAMESPACE_KEY`], [`CULPRIT_POD_KEY`], [`CULPRIT_WORKLOAD_KEY`] or [`CULPRIT_UNIT_KEY`].
//!
//! Everything is cumulative. A counter's start is its entity's.

mod field;
pub mod logs;
mod point;
mod resource;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use foldhash::fast::RandomState;

pub(super) use self::point::unit;
use self::point::{Frame, Moment};
pub use self::{
    point::{CULPRIT_NAMESPACE_KEY, CULPRIT_POD_KEY, CULPRIT_UNIT_KEY, CULPRIT_WORKLOAD_KEY},
    resource::{SCHEMA_URL, UNIT_KEY, is_of_entity},
};
use crate::{
    export::proto,
    registry::{Family, Sample, Snapshot, snapshot::Culprit},
    signal::{Entity, EntityKey, Kind},
};

/// A request is closed before it grows beyond this, as long as it can be split: receivers refuse 4 MiB.
pub const REQUEST_BYTES: usize = 1000 * 1000;

/// A request and how many points it carries.
#[derive(Clone, Debug, PartialEq)]
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

/// The requests of one export, built one at a time: all of them take far more memory than the snapshot.
pub struct Requests<'a> {
    /// What is still to be sent: the values, then the last points of entities that are gone.
    parts: Vec<Part<'a>>,
    /// An encoded entity that did not fit into the previous request, and its points.
    held: Option<(Vec<u8>, u64)>,
    /// Memory for the next request.
    room: Vec<u8>,
    limit_bytes: usize,
    options: &'a Options,
}

/// Entities of one snapshot, whose samples are to be sent as values or as marks that there is no value any more.
struct Part<'a> {
    snapshot: &'a Snapshot,
    /// Positions of those that are still to be sent.
    entities: std::vec::IntoIter<u32>,
    /// What is known of entities, once something is written.
    facts: Option<Facts>,
    /// The snapshot's metrics, once something is written.
    metrics: Vec<Vec<Framed<'a>>>,
    /// What is still there is left out.
    still: Option<Still<'a>>,
    /// When the series ended; none where the samples are current.
    ended: Option<SystemTime>,
}

/// One collector's part of a metric.
struct Framed<'a> {
    family: Family<'a>,
    frame: Frame,
    /// The same in the snapshot that tells what is still there.
    now: Option<Family<'a>>,
}

/// The requests of `snapshot`; a series that only `previous` has gets one last point with the flag
/// "no recorded value", be it that its entity is gone or that the series alone ended. The same arguments always give the same requests.
#[must_use]
pub fn requests<'a>(snapshot: &'a Snapshot, previous: Option<&'a Snapshot>) -> Requests<'a> {
    requests_of(snapshot, previous, REQUEST_BYTES)
}

/// How many points [`requests`] gives for a snapshot, last points aside.
#[must_use]
pub fn points(snapshot: &Snapshot) -> u64 {
    let samples = snapshot.families().flat_map(Family::samples);
    samples.filter(|sample| !snapshot.entity(sample.entity).is_some_and(|state| state.carried)).count() as u64
}

/// Nanoseconds since 1970, as OTLP wants them; 0 ("unknown") for what does not fit.
pub(crate) fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or_default()
}

fn requests_of<'a>(snapshot: &'a Snapshot, previous: Option<&'a Snapshot>, limit_bytes: usize) -> Requests<'a> {
    let mut parts = vec![Part::new(snapshot, None)];
    if let Some(previous) = previous {
        let still = Still::of(previous, snapshot);
        parts.push(Part { still: Some(still), ..Part::new(previous, Some(snapshot.taken)) });
    }
    // Taken from the end.
    parts.reverse();
    Requests { parts, held: None, room: Vec::new(), limit_bytes, options: &NO_OPTIONS }
}

impl<'a> Part<'a> {
    fn new(snapshot: &'a Snapshot, ended: Option<SystemTime>) -> Self {
        // Resources are told apart by the instance: each has only what it used itself.
        let entities = (0_u32..).zip(&*snapshot.entities).filter(|(_, state)| !state.carried);
        let entities: Vec<u32> = entities.map(|(position, _)| position).collect();
        Self { snapshot, entities: entities.into_iter(), facts: None, metrics: Vec::new(), still: None, ended }
    }

    /// Writes the metrics of the next entity that has any; their number of points.
    fn write_next(&mut self, out: &mut Vec<u8>, options: &Options) -> Option<u64> {
        let snapshot = self.snapshot;
        if self.metrics.is_empty() {
            let now: Vec<Family<'a>> = self.still.iter().flat_map(|still| still.now.families()).collect();
            let framed = |family: Family<'a>| Framed {
                family,
                frame: Frame::of(family, options.explicit_histograms),
                now: now.iter().find(|now| now.metric() == family.metric()).copied(),
            };
            let groups = snapshot.grouped_families().into_iter();
            self.metrics = groups.map(|parts| parts.into_iter().map(framed).collect()).collect();
        }
        let (metrics, still) = (&self.metrics, self.still.as_ref());
        let has_samples =
            |entity: &u32| metrics.iter().flatten().any(|framed| framed.samples(*entity, still).next().is_some());
        let entity = self.entities.find(has_samples)?;
        let state = snapshot.entity(entity)?;
        let facts = self.facts.get_or_insert_with(|| Facts::of(snapshot));
        let moment = Moment {
            start_unix_ns: unix_ns(state.since),
            time_unix_ns: unix_ns(self.ended.unwrap_or(self.snapshot.taken)),
            ended: self.ended.is_some(),
        };
        let mut points = 0;
        proto::nested_long(out, field::REQUEST_RESOURCE_METRICS, |out| {
            let fact = |label: &str| facts.get(snapshot, entity, label);
            proto::nested_long(out, field::RESOURCE_METRICS_RESOURCE, |out| {
                resource::write(out, &state.entity, &self.snapshot.node, fact, options);
            });
            proto::nested_long(out, field::RESOURCE_METRICS_SCOPE_METRICS, |out| {
                proto::nested(out, field::SCOPE_METRICS_SCOPE, |out| {
                    proto::string(out, field::SCOPE_NAME, "podlens");
                    proto::string(out, field::SCOPE_VERSION, env!("CARGO_PKG_VERSION"));
                });
                for parts in &self.metrics {
                    points += write_metric(out, parts, still, entity, snapshot, moment);
                }
                proto::string(out, field::SCOPE_METRICS_SCHEMA_URL, SCHEMA_URL);
            });
            proto::string(out, field::RESOURCE_METRICS_SCHEMA_URL, SCHEMA_URL);
        });
        Some(points)
    }
}

/// Writes an entity's samples of one metric, of all collectors that have some, if there are any; the number of its points.
fn write_metric(
    out: &mut Vec<u8>,
    parts: &[Framed<'_>],
    still: Option<&Still<'_>>,
    entity: u32,
    snapshot: &Snapshot,
    moment: Moment,
) -> u64 {
    let with_samples = |part| {
        let mut samples = Framed::samples(part, entity, still).peekable();
        samples.peek().is_some().then_some((part, samples))
    };
    let mut parts = parts.iter().filter_map(with_samples).peekable();
    let Some((Framed { family, frame, .. }, _)) = parts.peek() else { return 0 };
    let mut points = 0;
    proto::nested_long(out, field::SCOPE_METRICS_METRICS, |out| {
        point::metric(out, frame, family.metric(), |out| {
            for (part, samples) in parts {
                for sample in samples {
                    points += u64::from(point::point(out, &part.frame, part.family, sample, snapshot, moment));
                }
            }
        });
    });
    points
}

impl<'a> Framed<'a> {
    /// The entity's samples, but for those whose series are still there.
    fn samples<'s>(&self, entity: u32, still: Option<&'s Still<'a>>) -> impl Iterator<Item = Sample<'a>> + use<'a, 's> {
        let now = self.now;
        let most = if still.is_some_and(|still| self.stays(entity, still)) { 0 } else { usize::MAX };
        let samples = self.family.samples_of(entity).take(most);
        samples.filter(move |sample| still.is_none_or(|still| !still.has(now, sample)))
    }

    /// None of the entity's series can have ended: it is still there, and totals only grow, but for those by a culprit's name.
    fn stays(&self, entity: u32, still: &Still<'_>) -> bool {
        let metric = self.family.metric();
        let can_end = metric.kind == Kind::Gauge || metric.split.is_some();
        !can_end && self.now.is_some() && still.position(entity).is_some()
    }
}

/// Which series of an earlier snapshot are still there.
struct Still<'a> {
    now: &'a Snapshot,
    /// By the position of an entity in the earlier snapshot that in this one; none where both list the same.
    positions: Option<Vec<Option<u32>>>,
}

impl<'a> Still<'a> {
    fn of(earlier: &Snapshot, now: &'a Snapshot) -> Self {
        if Arc::ptr_eq(&earlier.entities, &now.entities) {
            return Self { now, positions: None };
        }
        let listed = (0_u32..).zip(&*now.entities).filter(|(_, state)| !state.carried);
        let listed: HashMap<&EntityKey, u32, RandomState> = listed.map(|(at, state)| (&state.entity, at)).collect();
        let positions = earlier.entities.iter().map(|state| listed.get(&state.entity).copied());
        Self { now, positions: Some(positions.collect()) }
    }

    fn position(&self, earlier: u32) -> Option<u32> {
        match &self.positions {
            Some(positions) => positions.get(usize::try_from(earlier).ok()?).copied().flatten(),
            None => Some(earlier),
        }
    }

    /// The series of an earlier sample is still there, in this family.
    fn has(&self, family: Option<Family<'_>>, sample: &Sample<'_>) -> bool {
        let culprit = match sample.culprit {
            Some(Culprit::Entity(culprit)) => match self.position(culprit) {
                Some(culprit) => Some(Culprit::Entity(culprit)),
                None => return false,
            },
            other => other,
        };
        let (Some(family), Some(entity)) = (family, self.position(sample.entity)) else { return false };
        match culprit {
            None => family.sample(entity, sample.combination).is_some(),
            Some(_) => family.samples_of(entity).any(|one| one.culprit == culprit),
        }
    }
}

/// For each entity, where in the snapshot's facts those about it and its pod are.
struct Facts(Vec<Vec<usize>>);

impl Facts {
    /// A pod's facts are about each of its containers.
    fn of(snapshot: &Snapshot) -> Self {
        Self(facts(snapshot))
    }

    /// What is known of the entity at this position, by the label in Prometheus.
    fn get<'a>(&self, snapshot: &'a Snapshot, entity: u32, label: &str) -> Option<&'a str> {
        let infos = self.0.get(usize::try_from(entity).ok()?)?.iter().filter_map(|at| snapshot.infos.get(*at));
        let mut labels = infos.flat_map(|info| &info.labels);
        labels.find(|(name, _)| *name == label).map(|(_, value)| &**value)
    }
}

fn facts(snapshot: &Snapshot) -> Vec<Vec<usize>> {
    let mut facts = vec![Vec::new(); snapshot.entities.len()];
    let mut of_pod: HashMap<&str, usize, RandomState> = HashMap::default();
    for (at, info) in snapshot.infos.iter().enumerate() {
        if info.metric.of_pod {
            if let Some(pod) = snapshot.entity(info.entity).and_then(|state| pod_of(&state.entity)) {
                of_pod.insert(pod, at);
            }
        } else if let Some(of_entity) = usize::try_from(info.entity).ok().and_then(|entity| facts.get_mut(entity)) {
            of_entity.push(at);
        }
    }
    if !of_pod.is_empty() {
        for (state, of_entity) in snapshot.entities.iter().zip(&mut facts) {
            of_entity.extend(pod_of(&state.entity).and_then(|pod| of_pod.get(pod)));
        }
    }
    facts
}

fn pod_of(entity: &Entity) -> Option<&str> {
    match entity {
        Entity::Container(container) => Some(&container.pod_uid),
        Entity::Unit(_) | Entity::Workload(_) => None,
    }
}

impl<'a> Requests<'a> {
    /// The same requests with options. To be called before the first one is taken.
    #[must_use]
    pub fn with(self, options: &'a Options) -> Self {
        Self { options, ..self }
    }

    /// Takes the memory of a request, or of an earlier one, for the next: it need not be taken from the system anew.
    pub fn reuse(&mut self, room: Vec<u8>) {
        self.room = room;
    }

    /// The memory that was given and not used.
    #[must_use]
    pub fn into_room(self) -> Vec<u8> {
        self.room
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
        let (held, mut points) = self.held.take().unwrap_or_default();
        let mut bytes = std::mem::take(&mut self.room);
        bytes.clear();
        bytes.extend_from_slice(&held);
        loop {
            let end = bytes.len();
            let Some(more_points) = self.write_next(&mut bytes) else { break };
            if end > 0 && bytes.len() > self.limit_bytes {
                self.held = Some((bytes.split_off(end), more_points));
                break;
            }
            points += more_points;
        }
        if bytes.is_empty() {
            self.room = bytes;
            return None;
        }
        Some(Request { bytes: bytes.into(), points })
    }
}

#[cfg(test)]
pub(crate) mod tests;
