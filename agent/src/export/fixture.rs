//! What the tests of export share: metrics of every shape, snapshots of them, a source, and a reader of text pages
//! that is independent of the writer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proptest::prelude::*;

use super::SnapshotSource;
use crate::{
    registry::{
        EntityState, Info, Section, Snapshot,
        snapshot::{Caused, Culprit},
    },
    signal::{
        Container, Entity, EntityKey, Histogram, InfoMetric, Kind, Label, LabelValues, Layout, Metric, Since, Split,
        Unit, Workload,
    },
};

const METRIC: Metric = Metric { help: "Help with a \\ and a \"quote\"", ..Metric::BASE };

pub(crate) static CPU: Metric = Metric { name: "podlens_cpu_seconds_total", otlp_name: "container.cpu.time", ..METRIC };
pub(crate) static SWITCHES: Metric = Metric {
    name: "podlens_context_switches_total",
    otlp_name: "podlens.context.switches",
    unit: Unit::Count("switch"),
    labels: &[Label { name: "kind", values: LabelValues::Fixed(&["voluntary", "involuntary"]) }],
    sparse: true,
    ..METRIC
};
pub(crate) static LATENCY: Metric = Metric {
    name: "podlens_runqueue_latency_seconds",
    otlp_name: "podlens.runqueue.latency",
    kind: Kind::Histogram,
    ..METRIC
};
/// The whole of what is split by culprit.
pub(crate) static WAIT: Metric = Metric { name: "podlens_wait_seconds_total", otlp_name: "podlens.wait", ..METRIC };
pub(crate) static CAUSED: Metric = Metric {
    name: "podlens_cpu_wait_caused_seconds_total",
    otlp_name: "podlens.cpu.wait.caused",
    split: Some(Split { of: &WAIT, combinations: &[0] }),
    ..METRIC
};
pub(crate) static MEMORY: Metric = Metric {
    name: "podlens_memory_bytes",
    otlp_name: "podlens.memory",
    kind: Kind::Gauge,
    unit: Unit::Bytes,
    labels: &[Label { name: "type", values: LabelValues::Fixed(&["anon", "file"]) }],
    sparse: true,
    ..METRIC
};
pub(crate) static LIMIT: Metric = Metric {
    name: "podlens_cpu_limit_cores",
    otlp_name: "podlens.cpu.limit",
    kind: Kind::Gauge,
    unit: Unit::Cpus,
    ..METRIC
};
/// A distribution with two labels.
pub(crate) static DISK: Metric = Metric {
    name: "podlens_disk_latency_seconds",
    otlp_name: "podlens.disk.latency",
    kind: Kind::Histogram,
    labels: &[
        Label { name: "operation", values: LabelValues::Fixed(&["read", "write"]) },
        Label { name: "part", values: LabelValues::Fixed(&["queue", "device"]) },
    ],
    ..METRIC
};

pub(crate) static ALL: [&Metric; 7] = [&CPU, &SWITCHES, &LATENCY, &CAUSED, &MEMORY, &LIMIT, &DISK];

pub(crate) static POD_INFO: InfoMetric =
    InfoMetric { name: "podlens_pod_info", help: "Facts about a pod", of_pod: true, source: "" };
pub(crate) static CONTAINER_INFO: InfoMetric =
    InfoMetric { name: "podlens_container_info", help: "Facts about a container", of_pod: false, source: "" };

pub(crate) fn container(namespace: &str, pod: &str, name: &str) -> Entity {
    Entity::Container(Container {
        namespace: namespace.into(),
        pod: pod.into(),
        container: name.into(),
        pod_uid: format!("uid-of-{namespace}-{pod}").into(),
        container_id: format!("{:0<64}", format!("c0ffee{}", hex(&format!("{namespace}/{pod}/{name}")))).into(),
    })
}

fn hex(text: &str) -> String {
    text.bytes().take(24).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

pub(crate) fn state(entity: Entity) -> EntityState {
    let since = Since::Born(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let entity = EntityKey::from(entity);
    EntityState { id: entity.clone(), entity, since, gone: false, carried: false }
}

/// One metric's cells by the position of the entity, or what the split metric tells.
#[derive(Clone)]
pub(crate) struct Values {
    metric: &'static Metric,
    cells: Vec<(u32, Vec<u64>)>,
    caused: Vec<(u32, Culprit, u64)>,
}

/// Cells of a metric, in the order of its combinations.
pub(crate) fn values(metric: &'static Metric, cells: &[(u32, &[u64])]) -> Values {
    let cells = cells.iter().map(|(entity, cells)| (*entity, cells.to_vec())).collect();
    Values { metric, cells, caused: Vec::new() }
}

/// Values of the split metric.
pub(crate) fn caused(caused: &[(u32, Culprit, u64)]) -> Values {
    Values { metric: &CAUSED, cells: Vec::new(), caused: caused.to_vec() }
}

/// A snapshot of these values, one section per metric.
pub(crate) fn snapshot_of(entities: Vec<EntityState>, values: &[Values]) -> Snapshot {
    let section = |Values { metric, cells, caused }: &Values| {
        let layout = Arc::new(Layout::new(&[metric]));
        let rows = cells.iter().map(|(entity, cells)| {
            let mut row = layout.row();
            row.add_all(&layout, metric, cells);
            (*entity, row)
        });
        let rows: Vec<_> = rows.collect();
        let of = |(entity, culprit, amount): &(u32, Culprit, u64)| Caused {
            entity: *entity,
            column: 0,
            culprit: *culprit,
            amount: *amount,
        };
        Section::of_rows(layout, entities.len(), rows, caused.iter().map(of).collect())
    };
    let sections = values.iter().map(section).collect();
    Snapshot {
        sequence: 1,
        taken: taken(),
        node: "node-1".into(),
        entities: Arc::new(entities),
        sections,
        infos: Arc::new([]),
    }
}

/// Cells of a distribution.
pub(crate) fn distribution(buckets: &[(usize, u64)], sum_ns: u64) -> [u64; Histogram::CELLS] {
    let mut cells = [0; Histogram::CELLS];
    for (bucket, count) in buckets {
        cells[*bucket] = *count;
    }
    cells[Histogram::BUCKETS] = sum_ns;
    cells
}

pub(crate) fn taken() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_123)
}

/// One value of every shape.
pub(crate) fn snapshot(sequence: u64) -> Snapshot {
    let histogram = distribution(&[(0, 1), (4, 2), (5, 3), (30, 4), (31, 5)], 700_000_000_001);
    let entities = vec![
        state(container("shop", "web-1", "nginx")),
        state(container("team \"a\"\\b\n", "db-0", "postgres")),
        state(Entity::unit("containerd.service")),
    ];
    let values = [
        values(&CPU, &[(0, &[1_500_000_000]), (1, &[1]), (2, &[0])]),
        values(&SWITCHES, &[(0, &[7, 9_007_199_254_740_993])]),
        values(&LATENCY, &[(0, &histogram)]),
        caused(&[(0, Culprit::Entity(1), 2_000_000_000), (0, Culprit::Entity(2), 30_000_000), (0, Culprit::Other, 4)]),
        values(&MEMORY, &[(1, &[4096])]),
        values(&LIMIT, &[(0, &[250_000_000])]),
    ];
    Snapshot { sequence, ..snapshot_of(entities, &values) }
}

/// The same with facts about the first entity.
pub(crate) fn with_facts() -> Snapshot {
    let pod = vec![("uid", "u-1".into()), ("workload", "web".into()), ("workload_type", "deployment".into())];
    let infos = Arc::new([
        Info { metric: &POD_INFO, entity: 0, labels: pod },
        Info { metric: &CONTAINER_INFO, entity: 0, labels: vec![("image", "registry:5000/nginx:1".into())] },
    ]);
    Snapshot { infos, ..snapshot(1) }
}

/// A large snapshot: `entities` containers with `per_entity` counters each.
pub(crate) fn large(entities: u32, per_entity: usize) -> Snapshot {
    let of_metric = |number: usize| {
        let value = |entity: u32| {
            // Digits without a pattern, as real totals have, since compression is measured with them.
            let seed = (u64::from(entity) + 1) * (number as u64 + 1);
            (entity, vec![seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 14])
        };
        let metric = if number.is_multiple_of(2) { &CPU } else { &WAIT };
        Values { metric, cells: (0..entities).map(value).collect(), caused: Vec::new() }
    };
    let of_number = |entity: u32| {
        let (namespace, pod) = (format!("namespace-{}", entity % 20), format!("deployment-7d4b9c6f5-{entity:05}"));
        state(container(&namespace, &pod, "application"))
    };
    let values: Vec<Values> = (0..per_entity).map(of_metric).collect();
    Snapshot { node: "node-1.example.org".into(), ..snapshot_of((0..entities).map(of_number).collect(), &values) }
}

/// The numbers of one metric: those of one value or two, or of its distributions.
type OfMetric = (u64, u64, Vec<u64>);

/// The numbers of a snapshot, by metric.
type Numbers = Vec<OfMetric>;

/// Any snapshot with distinct, known entities, whose numbers a `f64` holds exactly.
pub(crate) fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    (any_entities(), any_numbers(53)).prop_map(|(entities, numbers)| snapshot_with(&entities, &numbers))
}

/// Two snapshots of the same entities, of which the later has totals that are not smaller, and what was added.
pub(crate) fn any_two_snapshots() -> impl Strategy<Value = [Snapshot; 3]> {
    (any_entities(), any_numbers(52), any_numbers(52)).prop_map(|(entities, before, added)| {
        let sum = |(one, other): (&OfMetric, &OfMetric)| {
            (one.0 + other.0, one.1 + other.1, one.2.iter().zip(&other.2).map(|(one, other)| one + other).collect())
        };
        let after: Numbers = before.iter().zip(&added).map(sum).collect();
        [before, after, added].map(|numbers| snapshot_with(&entities, &numbers))
    })
}

fn any_numbers(bits: u32) -> impl Strategy<Value = Numbers> {
    let number = move || 0_u64..1 << bits;
    let distributions = prop::collection::vec(0_u64..1 << 40, 4 * Histogram::CELLS);
    prop::collection::vec((number(), number(), distributions), ALL.len())
}

fn any_entities() -> impl Strategy<Value = Vec<Entity>> {
    let name = "[a-z\"\\\\\n\u{e4}]{1,6}";
    let entity = prop_oneof![
        (name, name, name).prop_map(|(namespace, pod, name)| container(&namespace, &pod, &name)),
        name.prop_map(|unit| Entity::unit(&unit)),
        // A name has one kind, which a culprit's labels lack; of the two kinds the conventions know the first alone.
        (name, name).prop_map(|(namespace, name)| {
            let kind = if name.len() % 2 == 0 { "deployment" } else { "rollout" };
            Entity::Workload(Workload { namespace: namespace.into(), kind: kind.into(), name: name.into() })
        }),
    ];
    prop::collection::hash_set(entity, 1..6).prop_map(|entities| entities.into_iter().collect())
}

fn snapshot_with(entities: &[Entity], numbers: &Numbers) -> Snapshot {
    let count = u32::try_from(entities.len()).unwrap();
    let of_metric = |(metric, (first, second, distributions)): (&&'static Metric, &(u64, u64, Vec<u64>))| {
        let metric: &'static Metric = metric;
        if *metric == CAUSED {
            let of =
                |entity| [(entity, Culprit::Entity((entity + 1) % count), *first), (entity, Culprit::Other, *second)];
            return caused(&(0..count).flat_map(of).collect::<Vec<_>>());
        }
        let cells = match metric.kind {
            Kind::Histogram if metric.labels.is_empty() => &distributions[..Histogram::CELLS],
            Kind::Histogram => distributions,
            _ if metric.labels.is_empty() => &[*first],
            _ => &[*first, *second],
        };
        values(metric, &(0..count).map(|entity| (entity, cells)).collect::<Vec<_>>())
    };
    let values: Vec<Values> = ALL.iter().zip(numbers).map(of_metric).collect();
    snapshot_of(entities.iter().cloned().map(state).collect(), &values)
}

/// A series: its name and its labels.
pub(crate) type Series = (String, BTreeMap<String, String>);

/// Reads the samples of a text page. An empty label is an absent one, as Prometheus has it. Panics at anything that is not
/// well formed.
pub(crate) fn parse(page: &str) -> BTreeMap<Series, f64> {
    let mut found = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, mut rest) = match line.find(['{', ' ']) {
            Some(end) => line.split_at(end),
            None => panic!("no value: {line}"),
        };
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, value) = rest.split_once("=\"").expect(line);
                let mut text = String::new();
                let mut characters = value.char_indices();
                let end = loop {
                    match characters.next().expect(line) {
                        (at, '"') => break at,
                        (_, '\\') => text.push(match characters.next().expect(line).1 {
                            'n' => '\n',
                            escaped @ ('\\' | '"') => escaped,
                            other => panic!("escape {other:?}: {line}"),
                        }),
                        (_, character) => text.push(character),
                    }
                };
                let before = labels.insert(label.to_owned(), text);
                assert_eq!(before, None, "label twice: {line}");
                rest = &value[end + 1..];
                rest = rest.strip_prefix(',').unwrap_or(rest);
            }
            labels.retain(|_, text| !text.is_empty());
            rest = &rest[1..];
        }
        let value = rest.strip_prefix(' ').expect(line).parse().expect(line);
        let before = found.insert((name.to_owned(), labels), value);
        assert_eq!(before, None, "series twice: {line}");
    }
    found
}

/// A source that counts what it is asked and notes what it is told.
pub(crate) struct FakeSource {
    pub(crate) snapshot: Mutex<Snapshot>,
    /// Whether each call makes a new sequence number.
    pub(crate) moving: bool,
    pub(crate) asked: AtomicU64,
    pub(crate) exported: Mutex<Vec<(String, u64)>>,
}

impl FakeSource {
    pub(crate) fn new(snapshot: Snapshot, moving: bool) -> Arc<Self> {
        let exported = Mutex::new(Vec::new());
        let asked = AtomicU64::new(0);
        Arc::new(Self { snapshot: Mutex::new(snapshot), moving, asked, exported })
    }

    pub(crate) fn exported(&self) -> Vec<(String, u64)> {
        self.exported.lock().unwrap().clone()
    }
}

impl SnapshotSource for FakeSource {
    async fn snapshot(&self) -> Arc<Snapshot> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut snapshot = self.snapshot.lock().unwrap();
        snapshot.sequence += u64::from(self.moving);
        Arc::new(snapshot.clone())
    }

    fn exported(&self, exporter: &str, sequence: u64) {
        self.exported.lock().unwrap().push((exporter.to_owned(), sequence));
    }
}

/// Waits for something that another task brings about, at most five seconds.
pub(crate) async fn eventually(what: &str, met: impl Fn() -> bool) {
    for _ in 0..1000 {
        if met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within five seconds: {what}");
}
