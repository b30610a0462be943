//! OTLP metrics as a pure function of a snapshot; log records in [`logs`].
//!
//! Not a client: [`crate::export::otlp_client`] sends what this builds. One `ResourceMetrics` an entity, because
//! identity belongs to the resource: a container has `k8s.node.name`, `k8s.namespace.name`, `k8s.pod.name`,
//! `k8s.pod.uid`, `k8s.container.name` and `container.id`, as far as they are known; a unit has `k8s.node.name`
//! and [`UNIT_KEY`]. `host.name` is left to the collector's resource detection, since a node's name need not be
//! its host's. Only what varies within an entity is an attribute of a point: the metric's own label under its
//! own name, and the culprit under [`CULPRIT_NAMESPACE_KEY`], [`CULPRIT_POD_KEY`], [`CULPRIT_WORKLOAD_KEY`] or [`CULPRIT_UNIT_KEY`].
//!
//! Counters and distributions are cumulative, or differences to the last export ([`Options::delta`]). A counter's start is its
//! entity's, a difference's the moment of the export that it begins at. The kernel's own totals of an entity that was there before
//! podlens have no known start: as totals they tell none, and differences begin at their first reading.

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
pub use self::{
    point::{CULPRIT_NAMESPACE_KEY, CULPRIT_POD_KEY, CULPRIT_UNIT_KEY, CULPRIT_WORKLOAD_KEY},
    resource::{SCHEMA_URL, UNIT_KEY, is_of_entity},
};
use self::{
    point::{Frame, Moment},
    resource::PointIdentity,
};
use crate::{
    config::Identity,
    export::proto,
    registry::{EntityState, Family, Sample, Snapshot, Value, snapshot::Culprit},
    signal::{Entity, EntityKey, Histogram, Kind, Since},
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
    /// Entities in it, which cannot be divided any more.
    pub entities: usize,
}

/// What is written beyond, or other than, what a snapshot says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Distributions have the buckets of the Prometheus page, in place of powers of two.
    pub explicit_histograms: bool,
    /// Each resource is a service too: `service.name`, `service.namespace` and `service.instance.id`.
    pub service_attributes: bool,
    /// Counters and distributions are what was added since the last export, in place of totals.
    pub delta: bool,
    /// Where an entity's names stand.
    pub identity: Identity,
    /// Attributes of each resource, unless it has one of that name. Those for which [`is_of_entity`] holds do not belong
    /// here: they would name the agent where somebody else is measured.
    pub attributes: Vec<(String, String)>,
}

static NO_OPTIONS: Options = Options {
    explicit_histograms: false,
    service_attributes: false,
    delta: false,
    identity: Identity::Resource,
    attributes: Vec::new(),
};

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
    /// Entities still to be passed over.
    skip: usize,
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
    /// The snapshot to compare with: for last points the one that tells what is still there and is left out, for values the
    /// one that was exported before.
    against: Option<&'a Snapshot>,
    /// The same once something is written, if it is to be compared.
    other: Option<Other<'a>>,
    /// When the series ended; none where the samples are current.
    ended: Option<SystemTime>,
}

/// One collector's part of a metric.
struct Framed<'a> {
    family: Family<'a>,
    frame: Frame,
    /// The same in the snapshot to compare with.
    other: Option<Family<'a>>,
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

/// The same with requests of at most so many bytes, as far as entities allow.
pub(super) fn requests_of<'a>(
    snapshot: &'a Snapshot,
    previous: Option<&'a Snapshot>,
    limit_bytes: usize,
) -> Requests<'a> {
    let mut parts = vec![Part::new(snapshot, previous, None)];
    if let Some(previous) = previous {
        parts.push(Part::new(previous, Some(snapshot), Some(snapshot.taken)));
    }
    // Taken from the end.
    parts.reverse();
    Requests { parts, held: None, room: Vec::new(), limit_bytes, options: &NO_OPTIONS, skip: 0 }
}

impl<'a> Part<'a> {
    fn new(snapshot: &'a Snapshot, against: Option<&'a Snapshot>, ended: Option<SystemTime>) -> Self {
        // Resources are told apart by the instance: each has only what it used itself.
        let entities = (0_u32..).zip(&*snapshot.entities).filter(|(_, state)| !state.carried);
        let entities: Vec<u32> = entities.map(|(position, _)| position).collect();
        let (entities, metrics) = (entities.into_iter(), Vec::new());
        Self { snapshot, entities, facts: None, metrics, against, other: None, ended }
    }

    fn prepare(&mut self, options: &Options) {
        if !self.metrics.is_empty() {
            return;
        }
        let against = self.against.filter(|_| options.delta || self.ended.is_some());
        // A series that is called differently now has ended; what is added to a total is added under whatever name.
        let by: fn(&EntityState) -> &EntityKey =
            if self.ended.is_some() { |state| &state.entity } else { |state| &state.id };
        self.other = against.map(|other| Other::of(self.snapshot, other, by));
        let other: Vec<Family<'a>> = against.iter().flat_map(|other| other.families()).collect();
        let framed = |family: Family<'a>| Framed {
            family,
            frame: Frame::of(family, options),
            other: other.iter().find(|other| other.metric() == family.metric()).copied(),
        };
        let groups = self.snapshot.grouped_families().into_iter();
        self.metrics = groups.map(|parts| parts.into_iter().map(framed).collect()).collect();
    }

    /// What is still there is left out.
    fn still(&self) -> Option<&Other<'a>> {
        self.other.as_ref().filter(|_| self.ended.is_some())
    }

    /// The next entity that has something to be written.
    fn next_entity(&mut self, options: &Options) -> Option<u32> {
        self.prepare(options);
        // Not by the function above: the list of entities is changed meanwhile.
        let still = self.other.as_ref().filter(|_| self.ended.is_some());
        let metrics = &self.metrics;
        let has_samples =
            |entity: &u32| metrics.iter().flatten().any(|framed| framed.samples(*entity, still).next().is_some());
        self.entities.find(has_samples)
    }

    /// Writes the metrics of the next entity that has any; their number of points.
    fn write_next(&mut self, out: &mut Vec<u8>, options: &Options) -> Option<u64> {
        let entity = self.next_entity(options)?;
        let snapshot = self.snapshot;
        let state = snapshot.entity(entity)?;
        let facts = self.facts.take().unwrap_or_else(|| Facts::of(snapshot));
        let fact = |label: &str| facts.get(snapshot, entity, label);
        let identity = PointIdentity::of(&state.entity, &snapshot.node, fact, options);
        let moment = Moment {
            start_unix_ns: unix_ns(state.since.moment()),
            found: matches!(state.since, Since::Found(_)),
            time_unix_ns: unix_ns(self.ended.unwrap_or(snapshot.taken)),
            ended: self.ended.is_some(),
        };
        let part = &*self;
        let mut points = 0;
        proto::nested_long(out, field::REQUEST_RESOURCE_METRICS, |out| {
            proto::nested_long(out, field::RESOURCE_METRICS_RESOURCE, |out| {
                resource::write(out, &state.entity, &snapshot.node, fact, options);
            });
            proto::nested_long(out, field::RESOURCE_METRICS_SCOPE_METRICS, |out| {
                proto::nested(out, field::SCOPE_METRICS_SCOPE, |out| {
                    proto::string(out, field::SCOPE_NAME, "podlens");
                    proto::string(out, field::SCOPE_VERSION, env!("CARGO_PKG_VERSION"));
                });
                for metric in &part.metrics {
                    points += part.write_metric(out, metric, entity, moment, &identity);
                }
                proto::string(out, field::SCOPE_METRICS_SCHEMA_URL, SCHEMA_URL);
            });
            proto::string(out, field::RESOURCE_METRICS_SCHEMA_URL, SCHEMA_URL);
        });
        self.facts = Some(facts);
        Some(points)
    }

    /// Writes an entity's samples of one metric, of all collectors that have some, if there are any; the number of its points.
    fn write_metric(
        &self,
        out: &mut Vec<u8>,
        metric: &[Framed<'_>],
        entity: u32,
        moment: Moment,
        identity: &PointIdentity,
    ) -> u64 {
        let with_samples = |framed| {
            let mut samples = Framed::samples(framed, entity, self.still()).peekable();
            samples.peek().is_some().then_some((framed, samples))
        };
        let mut framed = metric.iter().filter_map(with_samples).peekable();
        let Some((Framed { family, frame, .. }, _)) = framed.peek() else { return 0 };
        let mut points = 0;
        proto::nested_long(out, field::SCOPE_METRICS_METRICS, |out| {
            point::metric(out, frame, family.metric(), |out| {
                for (Framed { family, frame, other }, samples) in framed {
                    let moment = moment.of(family.metric());
                    for sample in samples {
                        // A distribution's difference, where there is one.
                        let mut cells;
                        let (sample, moment) = if frame.delta && !moment.ended {
                            cells = [0; Histogram::CELLS];
                            difference(self.other.as_ref(), *other, sample, moment, &mut cells)
                        } else {
                            (sample, moment)
                        };
                        let snapshot = self.snapshot;
                        points += u64::from(point::point(out, frame, *family, sample, snapshot, moment, identity));
                    }
                }
            });
        });
        points
    }
}

impl<'a> Framed<'a> {
    /// The entity's samples, but for those whose series are still there.
    fn samples<'s>(&self, entity: u32, still: Option<&'s Other<'a>>) -> impl Iterator<Item = Sample<'a>> + use<'a, 's> {
        let now = self.other;
        let most = if still.is_some_and(|still| self.stays(entity, still)) { 0 } else { usize::MAX };
        let samples = self.family.samples_of(entity).take(most);
        samples.filter(move |sample| still.is_none_or(|still| still.find(now, sample).is_none()))
    }

    /// None of the entity's series can have ended: it is still there, and totals only grow, but for those by a culprit's name.
    /// And a series of differences has no end to tell: there is just no more.
    fn stays(&self, entity: u32, still: &Other<'_>) -> bool {
        let metric = self.family.metric();
        let can_end = metric.kind == Kind::Gauge || metric.split.is_some();
        self.frame.delta || (!can_end && self.other.is_some() && still.position(entity).is_some())
    }
}

/// Another snapshot, in which series of the one that is written are looked up.
struct Other<'a> {
    snapshot: &'a Snapshot,
    /// By the position of an entity in the snapshot that is written that in this one; none where both list the same.
    positions: Option<Vec<Option<u32>>>,
}

impl<'a> Other<'a> {
    /// `by` tells who an entity is.
    fn of(written: &Snapshot, snapshot: &'a Snapshot, by: fn(&EntityState) -> &EntityKey) -> Self {
        if Arc::ptr_eq(&written.entities, &snapshot.entities) {
            return Self { snapshot, positions: None };
        }
        let listed = (0_u32..).zip(&*snapshot.entities).filter(|(_, state)| !state.carried);
        let listed: HashMap<&EntityKey, u32, RandomState> = listed.map(|(at, state)| (by(state), at)).collect();
        let positions = written.entities.iter().map(|state| listed.get(by(state)).copied());
        Self { snapshot, positions: Some(positions.collect()) }
    }

    fn position(&self, written: u32) -> Option<u32> {
        match &self.positions {
            Some(positions) => positions.get(usize::try_from(written).ok()?).copied().flatten(),
            None => Some(written),
        }
    }

    /// The sample of the same series, in this family.
    fn find<'o>(&self, family: Option<Family<'o>>, sample: &Sample<'_>) -> Option<Sample<'o>> {
        let culprit = match sample.culprit {
            Some(Culprit::Entity(culprit)) => Some(Culprit::Entity(self.position(culprit)?)),
            other => other,
        };
        let (family, entity) = (family?, self.position(sample.entity)?);
        match culprit {
            None => family.sample(entity, sample.combination),
            Some(_) => family.samples_of(entity).find(|one| one.culprit == culprit),
        }
    }

    /// The entity was there, and if it must be its values of the family.
    fn has(&self, family: Option<Family<'_>>, entity: u32, values: bool) -> bool {
        let position = self.position(entity);
        position.is_some_and(|entity| !values || family.is_some_and(|family| family.is_of(entity)))
    }
}

/// What was added to a total since the snapshot before, and since when: all of it, if the entity was not there, or the total was
/// made smaller and so began anew. Of a total whose start is not known only what is added to its first reading counts: that itself
/// is a difference of 0 over no time. `cells` hold a distribution.
fn difference<'c>(
    before: Option<&Other<'_>>,
    family: Option<Family<'_>>,
    sample: Sample<'c>,
    moment: Moment,
    cells: &'c mut [u64; Histogram::CELLS],
) -> (Sample<'c>, Moment) {
    let has_start = moment.start_unix_ns != 0;
    if let Some(before) = before.filter(|before| before.has(family, sample.entity, !has_start)) {
        let was = before.find(family, &sample).map(|was| was.value);
        if let Some(value) = added(sample.value, was, cells) {
            return (Sample { value, ..sample }, Moment { start_unix_ns: unix_ns(before.snapshot.taken), ..moment });
        }
    }
    if has_start {
        return (sample, moment);
    }
    (Sample { value: sample.value.none(), ..sample }, Moment { start_unix_ns: moment.time_unix_ns, ..moment })
}

/// What was added to a total; none if it became smaller.
fn added<'c>(now: Value<'c>, before: Option<Value<'_>>, cells: &'c mut [u64; Histogram::CELLS]) -> Option<Value<'c>> {
    match (now, before) {
        (now, None) => Some(now),
        (Value::Integer(now), Some(Value::Integer(before))) => now.checked_sub(before).map(Value::Integer),
        (Value::Nanoseconds(now), Some(Value::Nanoseconds(before))) => now.checked_sub(before).map(Value::Nanoseconds),
        (Value::Float(now), Some(Value::Float(before))) => (now >= before).then_some(Value::Float(now - before)),
        (Value::Histogram(now), Some(Value::Histogram(before))) => {
            for ((cell, now), before) in cells.iter_mut().zip(now.cells()).zip(before.cells()) {
                *cell = now.checked_sub(*before)?;
            }
            Some(Value::Histogram(Histogram::new(cells)))
        }
        _ => None,
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

    /// Requests of at most this size, as far as entities allow. To be called before the first one is taken.
    #[must_use]
    pub fn limited(self, limit_bytes: usize) -> Self {
        Self { limit_bytes, ..self }
    }

    /// The same without the first `entities`, which were sent already. To be called before the first one is taken.
    #[must_use]
    pub fn skip_entities(self, entities: usize) -> Self {
        Self { skip: entities, ..self }
    }

    /// Takes the memory of a request, or of an earlier one, for the next: it need not be taken from the system anew.
    pub fn reuse(&mut self, room: Vec<u8>) {
        self.room = room;
    }

    /// Writes the next entity's metrics; their number of points.
    fn write_next(&mut self, out: &mut Vec<u8>) -> Option<u64> {
        while let Some(part) = self.parts.last_mut() {
            while self.skip > 0 && part.next_entity(self.options).is_some() {
                self.skip -= 1;
            }
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
        let mut entities = usize::from(!held.is_empty());
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
            entities += 1;
        }
        if bytes.is_empty() {
            self.room = bytes;
            return None;
        }
        Some(Request { bytes: bytes.into(), points, entities })
    }
}

#[cfg(test)]
pub(crate) mod tests;
