//! Tests of the ledger through the snapshots that it hands out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod heavy;
mod lives;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Definition, Entity, Layout, Ledger, Naming, Row, carried::MADE_AGAIN_SERIES};
use crate::{
    attribution::entity::folded,
    config::Units,
    export::prometheus::{Format, encode},
    registry::{Snapshot, Value, snapshot::Culprit},
    signal::{Aggregation, Container, Kind, Metric, Since, Split, Unit},
};

static CPU: Metric = Metric { name: "cpu_seconds_total", otlp_name: "cpu", ..Metric::BASE };

static TASKS: Metric =
    Metric { name: "tasks", otlp_name: "tasks", kind: Kind::Gauge, unit: Unit::Count("task"), ..Metric::BASE };

/// By how much time one entity delayed another, of the CPU time.
static CAUSED: Metric = Metric {
    name: "caused_seconds_total",
    otlp_name: "caused",
    split: Some(Split { of: &CPU, combinations: &[0] }),
    ..Metric::BASE
};

/// Names as a test sets them; what is in `pending` waits for its name.
#[derive(Default)]
struct Names {
    known: HashMap<Entity, Entity>,
    pending: Vec<Entity>,
}

impl Naming for Names {
    fn version(&self) -> u64 {
        let hash = |known: (&Entity, &Entity)| {
            let mut hasher = DefaultHasher::new();
            known.hash(&mut hasher);
            hasher.finish()
        };
        self.known.iter().map(hash).fold(0, u64::wrapping_add)
    }

    fn name(&self, entity: &Entity) -> Entity {
        self.known.get(entity).unwrap_or(entity).clone()
    }

    fn is_pending(&self, entity: &Entity) -> bool {
        self.pending.contains(entity)
    }
}

fn entity(pod_uid: &str, id: &str) -> Entity {
    named("", pod_uid, id, pod_uid, id)
}

fn named(namespace: &str, pod: &str, container: &str, pod_uid: &str, id: &str) -> Entity {
    Entity::Container(Container {
        namespace: namespace.into(),
        pod: pod.into(),
        container: container.into(),
        pod_uid: pod_uid.into(),
        container_id: id.into(),
    })
}

/// A ledger with one exporter that takes every snapshot, and its clock.
struct Bench {
    ledger: Ledger,
    names: Names,
    now: Instant,
    row: Layout,
}

impl Bench {
    fn new() -> Self {
        let row = Layout::new(&[&CPU]);
        let definition = Definition { layout: Arc::new(row.clone()), active: true };
        let ledger = Ledger::new(vec![definition], Duration::from_mins(5));
        Self { ledger, names: Names::default(), now: Instant::now(), row }
    }

    fn know(&mut self, entity: &Entity, pod: &str, container: &str) {
        let Entity::Container(base) = entity else { panic!("no container") };
        let known = named("ns", pod, container, &base.pod_uid, &base.container_id);
        self.names.known.insert(entity.clone(), known);
    }

    fn row(&self, ns: u64) -> Row {
        let mut row = self.row.row();
        row.add(&self.row, &CPU, 0, ns);
        row
    }

    /// One sweep 10 s after the last: `living` have used so much, and everyone takes the snapshot.
    fn sweep(&mut self, living: &[(&Entity, u64)]) -> Snapshot {
        self.now += Duration::from_secs(10);
        let living: Vec<(Entity, u64, SystemTime)> =
            living.iter().map(|(entity, ns)| ((*entity).clone(), *ns, SystemTime::UNIX_EPOCH)).collect();
        let snapshot = self.sweep_now(&living);
        self.ledger.exported("test", snapshot.sequence, self.now);
        snapshot
    }

    /// One sweep: `living` have used so much since then.
    fn sweep_now(&mut self, living: &[(Entity, u64, SystemTime)]) -> Snapshot {
        self.ledger.begin(self.now, &self.names);
        for (entity, ns, since) in living {
            let row = self.row(*ns);
            let id = self.ledger.entity(&entity.clone().into(), Since::Born(*since));
            self.ledger.observe(0, id, &row);
        }
        self.ledger.finish(self.now, &self.names);
        self.ledger.snapshot(SystemTime::UNIX_EPOCH, "n".into(), &self.names)
    }

    fn retire(&mut self, entity: &Entity, ns: u64) {
        self.retire_since(entity, ns, SystemTime::UNIX_EPOCH);
    }

    fn retire_since(&mut self, entity: &Entity, ns: u64, since: SystemTime) {
        let row = self.row(ns);
        let id = self.ledger.entity(&entity.clone().into(), Since::Born(since));
        self.ledger.retire(0, id, &row);
    }
}

/// Every CPU sample by the identity labels of its line, as Prometheus sees it.
fn series(snapshot: &Snapshot) -> HashMap<String, String> {
    let page = String::from_utf8(encode(snapshot, None, Format::Text)).unwrap();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let mut series = HashMap::new();
    for line in lines {
        let (labels, value) = line.rsplit_once(' ').unwrap();
        let labels = labels.replace("cpu_seconds_total", "").replace("namespace=", "").replace(",node=\"n\"", "");
        assert!(series.insert(labels, value.to_owned()).is_none(), "twice: {line}");
    }
    series
}

#[track_caller]
fn check(snapshot: &Snapshot, expected: &[(&str, &str)]) {
    let expected: HashMap<String, String> =
        expected.iter().map(|(labels, value)| ((*labels).to_owned(), (*value).to_owned())).collect();
    assert_eq!(series(snapshot), expected);
}

const WEB: &str = "{\"ns\",pod=\"web\",container=\"app\"}";

#[test]
fn a_restarted_containers_series_goes_on_while_and_after_its_predecessor_lingers() {
    let mut bench = Bench::new();
    let (one, two, three) = (entity("u", "1"), entity("u", "2"), entity("u", "3"));
    for entity in [&one, &two, &three] {
        bench.know(entity, "web", "app");
    }
    check(&bench.sweep(&[(&one, 5_000_000_000)]), &[(WEB, "5")]);
    bench.retire(&one, 6_000_000_000);
    let both = bench.sweep(&[(&two, 1_000_000_000)]);
    check(&both, &[(WEB, "7")]);
    assert_eq!(both.entities.len(), 2, "two instances");
    let after = bench.sweep(&[(&two, 2_000_000_000)]);
    check(&after, &[(WEB, "8")]);
    assert_eq!(after.entities.iter().filter(|state| state.carried).count(), 1);
    bench.retire(&two, 3_000_000_000);
    check(&bench.sweep(&[(&three, 0)]), &[(WEB, "9")]);
    check(&bench.sweep(&[(&three, 1)]), &[(WEB, "9.000000001")]);
    bench.retire(&three, 2);
    check(&bench.sweep(&[]), &[(WEB, "9.000000002")]);
    // A minute long it may be made again.
    for _ in 0..7 {
        check(&bench.sweep(&[]), &[]);
    }
    assert!(bench.ledger.carried.is_empty());
}

#[test]
fn a_pod_that_is_made_again_under_its_name_goes_on_too() {
    let mut bench = Bench::new();
    let (one, two) = (entity("u1", "1"), entity("u2", "2"));
    for entity in [&one, &two] {
        bench.know(entity, "web", "app");
    }
    check(&bench.sweep(&[(&one, 5_000_000_000)]), &[(WEB, "5")]);
    bench.retire(&one, 5_000_000_000);
    for _ in 0..3 {
        check(&bench.sweep(&[(&two, 1_000_000_000)]), &[(WEB, "6")]);
    }
}

#[test]
fn a_pod_that_is_made_again_after_a_pause_goes_on_and_after_a_long_one_begins_anew() {
    for (pauses, expected) in [(1, "6"), (4, "6"), (10, "1")] {
        let mut bench = Bench::new();
        let (one, two) = (entity("u1", "1"), entity("u2", "2"));
        for entity in [&one, &two] {
            bench.know(entity, "web", "app");
        }
        bench.retire(&one, 5_000_000_000);
        check(&bench.sweep(&[]), &[(WEB, "5")]);
        for _ in 0..pauses {
            check(&bench.sweep(&[]), &[]);
        }
        check(&bench.sweep(&[(&two, 1_000_000_000)]), &[(WEB, expected)]);
    }
}

#[test]
fn not_more_series_than_so_many_wait_to_be_made_again() {
    let mut bench = Bench::new();
    for number in 0..MADE_AGAIN_SERIES + 50 {
        let one = entity(&format!("u{number}"), "1");
        bench.know(&one, &format!("web-{number}"), "app");
        bench.retire(&one, 1);
    }
    bench.sweep(&[]);
    bench.sweep(&[]);
    assert_eq!(bench.ledger.carried.len(), MADE_AGAIN_SERIES);
}

#[test]
fn a_series_goes_on_after_a_pause_in_which_only_its_pod_lived() {
    let mut bench = Bench::new();
    let (pod, one, two) = (entity("u", ""), entity("u", "1"), entity("u", "2"));
    bench.know(&pod, "web", "");
    bench.know(&one, "web", "app");
    let pause = "{\"ns\",pod=\"web\",container=\"\"}";
    check(&bench.sweep(&[(&pod, 0), (&one, 5_000_000_000)]), &[(pause, "0"), (WEB, "5")]);
    bench.retire(&one, 5_000_000_000);
    check(&bench.sweep(&[(&pod, 0)]), &[(pause, "0"), (WEB, "5")]);
    check(&bench.sweep(&[(&pod, 0)]), &[(pause, "0")]);
    // Its successor is there before its name is.
    bench.names.known.insert(two.clone(), named("ns", "web", "2", "u", "2"));
    let nameless = "{\"ns\",pod=\"web\",container=\"2\"}";
    check(&bench.sweep(&[(&pod, 0), (&two, 1_000_000_000)]), &[(pause, "0"), (nameless, "1")]);
    bench.know(&two, "web", "app");
    check(&bench.sweep(&[(&pod, 0), (&two, 1_000_000_000)]), &[(pause, "0"), (WEB, "6")]);
}

#[test]
fn a_short_life_is_kept_until_it_was_delivered_under_its_name() {
    let mut bench = Bench::new();
    let one = entity("u", "1");
    bench.names.pending.push(one.clone());
    bench.retire(&one, 100_000_000);
    let nameless = "{\"\",pod=\"u\",container=\"1\"}";
    check(&bench.sweep(&[]), &[(nameless, "0.1")]);
    check(&bench.sweep(&[]), &[(nameless, "0.1")]);
    bench.names.pending.clear();
    bench.know(&one, "job", "main");
    let named = "{\"ns\",pod=\"job\",container=\"main\"}";
    // It is delivered once more, then forgotten.
    check(&bench.sweep(&[]), &[(named, "0.1")]);
    check(&bench.sweep(&[]), &[]);
}

#[test]
fn names_are_not_awaited_for_ever() {
    let mut bench = Bench::new();
    let one = entity("u", "1");
    bench.names.pending.push(one.clone());
    bench.retire(&one, 100_000_000);
    let seen = (0..10).filter(|_| !series(&bench.sweep(&[])).is_empty()).count();
    assert_eq!(seen, 3);
    assert_eq!(bench.ledger.expired(), 0);
}

#[test]
fn instances_stay_apart_for_those_who_tell_them_apart() {
    let mut bench = Bench::new();
    let (one, two) = (entity("u", "1"), entity("u", "2"));
    for entity in [&one, &two] {
        bench.know(entity, "web", "app");
    }
    bench.sweep(&[(&one, 5)]);
    bench.retire(&one, 5);
    bench.sweep(&[(&two, 1)]);
    let snapshot = bench.sweep(&[(&two, 2)]);
    let points: Vec<u64> = snapshot
        .families()
        .flat_map(crate::registry::Family::samples)
        .filter(|sample| !snapshot.entity(sample.entity).unwrap().carried)
        .map(|sample| match sample.value {
            Value::Nanoseconds(ns) => ns,
            _ => panic!("no duration"),
        })
        .collect();
    assert_eq!(points, [2]);
    assert_eq!(crate::export::otlp::points(&snapshot), 1, "what was carried is not pushed");
}

#[test]
fn what_was_never_measured_of_an_entity_has_no_sample_and_a_gauge_ends_with_its_cgroup() {
    let layouts = [Layout::new(&[&CPU]), Layout::new(&[&TASKS]), Layout::new(&[&TASKS])];
    let sections = layouts.iter().zip([true, true, false]);
    let sections = sections.map(|(layout, active)| Definition { layout: Arc::new(layout.clone()), active }).collect();
    let mut ledger = Ledger::new(sections, Duration::from_mins(5));
    let (names, now) = (Names::default(), Instant::now());
    let (ran, slept) = (entity("u", "1"), entity("u", "2"));
    let mut tasks = layouts[1].row();
    tasks.add(&layouts[1], &TASKS, 0, 3);
    let mut cpu = layouts[0].row();
    cpu.add(&layouts[0], &CPU, 0, 5_000_000_000);
    let look = |ledger: &mut Ledger, living: &[(usize, &Entity, &Row)]| {
        ledger.begin(now, &names);
        for (section, entity, row) in living {
            let id = ledger.entity(&(*entity).clone().into(), Since::NEVER);
            ledger.observe(*section, id, row);
        }
        ledger.finish(now, &names);
        let snapshot = ledger.snapshot(SystemTime::UNIX_EPOCH, "n".into(), &names);
        let seconds = |value| match value {
            Value::Nanoseconds(number) | Value::Integer(number) => number,
            other => panic!("{other:?}"),
        };
        let values = snapshot.families().map(|family| family.samples().map(|one| seconds(one.value)).collect());
        values.collect::<Vec<Vec<u64>>>()
    };
    let seconds = vec![5_000_000_000];
    let both = look(&mut ledger, &[(0, &ran, &cpu), (1, &ran, &tasks), (1, &slept, &tasks)]);
    assert_eq!(both, [seconds.clone(), vec![3; 2]], "two families, the third collector is not at work");
    let id = ledger.entity(&ran.clone().into(), Since::NEVER);
    ledger.retire(1, id, &tasks);
    ledger.retire(0, id, &cpu);
    assert_eq!(look(&mut ledger, &[]), [seconds, vec![]], "what is gone leaves its counters");
}

#[test]
fn a_final_value_that_comes_after_its_entity_is_gone_is_delivered_once_more() {
    let mut bench = Bench::new();
    let one = entity("u", "1");
    bench.know(&one, "web", "app");
    bench.sweep(&[(&one, 1_000_000_000)]);
    bench.retire(&one, 1_000_000_000);
    check(&bench.sweep(&[]), &[(WEB, "1")]);
    bench.retire(&one, 500_000_000);
    check(&bench.sweep(&[]), &[(WEB, "1.5")]);
    check(&bench.sweep(&[]), &[]);
}

#[test]
fn what_others_caused_is_told_by_name_and_the_rest_as_others_up_to_the_whole() {
    let layout = Layout::new(&[&CPU, &CAUSED]);
    let definition = Definition { layout: Arc::new(layout.clone()), active: true };
    let mut ledger = Ledger::new(vec![definition], Duration::from_mins(5));
    let (names, now) = (Names::default(), Instant::now());
    let victim: crate::signal::EntityKey = entity("u", "1").into();
    let culprits: Vec<crate::signal::EntityKey> =
        (0..20).map(|number| Entity::unit(&format!("unit-{number:02}")).into()).collect();
    let mut row = layout.row();
    row.add(&layout, &CPU, 0, 1_000);
    ledger.begin(now, &names);
    let id = ledger.entity(&victim, Since::NEVER);
    ledger.observe(0, id, &row);
    // The first comes again, under the same name; the last four are too light for a place.
    for (culprit, amount) in culprits.iter().zip((1..=20).rev()).chain([(&culprits[0], 5)]) {
        let culprit = ledger.culprit(culprit);
        ledger.caused(0, &CAUSED, id, culprit, amount);
    }
    ledger.finish(now, &names);
    let snapshot = ledger.snapshot(SystemTime::UNIX_EPOCH, "n".into(), &names);
    let caused: Vec<(Option<String>, u64)> = snapshot
        .families()
        .filter(|family| *family.metric() == CAUSED)
        .flat_map(crate::registry::Family::samples)
        .map(|sample| match (sample.culprit, sample.value) {
            (Some(Culprit::Entity(position)), Value::Nanoseconds(ns)) => {
                let Entity::Unit(unit) = &*snapshot.entity(position).unwrap().entity else { panic!("no unit") };
                (Some(unit.to_string()), ns)
            }
            (Some(Culprit::Other), Value::Nanoseconds(ns)) => (None, ns),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(caused.len(), 17, "16 names and the rest: {caused:?}");
    assert_eq!(caused[0], (Some("unit-00".to_owned()), 25));
    assert_eq!(caused.iter().map(|(_, ns)| ns).sum::<u64>(), 1_000, "the whole, exactly");
    assert!(snapshot.entities[1..].iter().all(|state| state.gone), "culprits without values of their own stand behind");
}

/// Whom each sample of [`CAUSED`] names, as Prometheus sees it.
fn named_culprits(snapshot: &Snapshot) -> Vec<String> {
    let caused =
        snapshot.families().filter(|family| *family.metric() == CAUSED).flat_map(crate::registry::Family::samples);
    let named = caused.filter_map(|sample| match sample.culprit? {
        Culprit::Entity(position) => match &*snapshot.entity(position)?.entity {
            Entity::Container(container) => Some(container.pod.to_string()),
            other => Some(other.to_string()),
        },
        Culprit::Other => None,
    });
    named.collect()
}

#[test]
fn culprits_whom_nothing_names_any_more_are_dropped_and_the_others_keep_their_names() {
    let layout = Layout::new(&[&CPU, &CAUSED]);
    let definition = Definition { layout: Arc::new(layout.clone()), active: true };
    let mut ledger = Ledger::new(vec![definition], Duration::from_secs(5));
    let (names, mut now) = (Names::default(), Instant::now());
    let mut row = layout.row();
    row.add(&layout, &CPU, 0, 1_000_000);
    let lasting: crate::signal::EntityKey = entity("u", "1").into();
    let epoch = ledger.epoch();
    for round in 0..1_000_u32 {
        now += Duration::from_secs(10);
        ledger.begin(now, &names);
        let short: crate::signal::EntityKey = Entity::unit(&format!("short-{round}")).into();
        for victim in [&lasting, &short] {
            let id = ledger.entity(victim, Since::NEVER);
            ledger.observe(0, id, &row);
            let of_short = Entity::unit(&format!("of-{round}")).into();
            let culprit = if victim == &lasting { Entity::unit("neighbor").into() } else { of_short };
            let culprit = ledger.culprit(&culprit);
            ledger.caused(0, &CAUSED, id, culprit, 1);
        }
        ledger.finish(now, &names);
        let snapshot = ledger.snapshot(SystemTime::UNIX_EPOCH, "n".into(), &names);
        let expected = ["neighbor".to_owned(), format!("of-{round}")];
        let found = named_culprits(&snapshot);
        assert!(expected.iter().all(|name| found.contains(name)), "{found:?}");
        assert_eq!(found.iter().filter(|name| *name == "neighbor").count(), 1);
        ledger.exported("test", snapshot.sequence, now);
    }
    assert!(ledger.epoch() > epoch);
    let known = ledger.culprits.len();
    assert!(known < 600, "{known} are still known");
    let asked: Vec<_> =
        ledger.entities().filter(|entity| matches!(&***entity, Entity::Unit(unit) if **unit == *"of-5")).collect();
    assert_eq!(asked, Vec::<&crate::signal::EntityKey>::new());
}

#[test]
fn a_culprit_is_told_under_the_name_that_is_known_by_then() {
    let layout = Layout::new(&[&CPU, &CAUSED]);
    let definition = Definition { layout: Arc::new(layout.clone()), active: true };
    let mut ledger = Ledger::new(vec![definition], Duration::from_mins(5));
    let (mut names, now) = (Names::default(), Instant::now());
    let (victim, culprit) = (entity("u", "1"), entity("v", ""));
    let mut row = layout.row();
    row.add(&layout, &CPU, 0, 1_000);
    let mut look = |names: &Names| {
        ledger.begin(now, names);
        let id = ledger.entity(&victim.clone().into(), Since::NEVER);
        ledger.observe(0, id, &row);
        let culprit = ledger.culprit(&culprit.clone().into());
        ledger.caused(0, &CAUSED, id, culprit, 1);
        ledger.finish(now, names);
        named_culprits(&ledger.snapshot(SystemTime::UNIX_EPOCH, "n".into(), names))
    };
    assert_eq!(look(&names), ["v"]);
    assert_eq!(look(&names), ["v"], "as it was found before");
    names.known.insert(culprit.clone(), named("ns", "noisy", "", "v", ""));
    assert_eq!(look(&names), ["noisy"]);
}

#[test]
fn the_memory_of_a_snapshot_that_nobody_needs_is_used_again_and_empty_by_then() {
    let mut bench = Bench::new();
    let (one, two) = (entity("u", "1"), entity("v", "2"));
    let old = bench.sweep(&[(&one, 5), (&two, 7_000_000_000)]);
    let before = series(&old);
    bench.ledger.recycle(old);
    let mut expected = before.clone();
    expected.retain(|labels, _| labels.contains("\"v\""));
    assert_eq!(expected.len(), 1, "{before:?}");
    let after = bench.sweep(&[(&two, 7_000_000_000)]);
    let mut found = series(&after);
    found.retain(|labels, _| labels.contains("\"v\""));
    assert_eq!(found, expected);
}

/// A thousand units of one kind that live one after the other, ten at a time.
#[track_caller]
fn check_units(unit: &str, path: impl Fn(u64) -> String) {
    let mut bench = Bench::new();
    let cpu = |snapshot: &Snapshot| {
        let series = series(snapshot);
        let values: Vec<(&String, f64)> =
            series.iter().map(|(labels, value)| (labels, value.parse().unwrap())).collect();
        let [(labels, seconds)] = values[..] else { panic!("{series:?}") };
        assert!(labels.contains(&format!("unit=\"{unit}\"")), "{labels}");
        Duration::from_secs_f64(seconds)
    };
    for round in 0..100_u32 {
        let units: Vec<Entity> = (0..10).map(|one| folded(&path(u64::from(10 * round + one)), Units::Each)).collect();
        let living: Vec<(&Entity, u64)> = units.iter().map(|unit| (unit, 2_000_000)).collect();
        assert_eq!(cpu(&bench.sweep(&living)), Duration::from_millis(u64::from(30 * round + 20)), "{round}");
        for unit in &units {
            bench.retire(unit, 3_000_000);
        }
    }
    assert_eq!(cpu(&bench.sweep(&[])), Duration::from_secs(3), "what all have used, to the end");
    assert_eq!(bench.ledger.expired(), 0);
}

#[test]
fn a_thousand_connections_and_a_thousand_monitors_make_one_series_each_and_the_sum_of_all() {
    check_units("sshd@.service", |number| {
        let port = 40_000 + number;
        format!("/system.slice/system-sshd.slice/sshd@{number}-192.0.2.10:22-198.51.100.7:{port}.service")
    });
    check_units("crio-conmon-*.scope", |number| format!("/system.slice/crio-conmon-{number:064x}.scope"));
    check_units("libpod-conmon-*.scope", |number| format!("/machine.slice/libpod-conmon-{number:064x}.scope"));
}

static PEAK: Metric = Metric {
    name: "peak_bytes",
    otlp_name: "peak",
    kind: Kind::Gauge,
    aggregation: Aggregation::Max,
    unit: Unit::Bytes,
    kept_after_removal: true,
    ..Metric::BASE
};

#[test]
fn the_last_word_of_who_is_gone_is_kept_until_it_was_exported_and_never_beside_a_living_one() {
    let layout = Layout::new(&[&CPU, &PEAK]);
    let definition = Definition { layout: Arc::new(layout.clone()), active: true };
    let mut ledger = Ledger::new(vec![definition], Duration::from_mins(5));
    let (names, now, since) = (Names::default(), Instant::now(), SystemTime::UNIX_EPOCH);
    let unit = Entity::unit("/batch.service");
    let row = |ns, peak| {
        let mut row = layout.row();
        row.add(&layout, &CPU, 0, ns);
        row.add(&layout, &PEAK, 0, peak);
        row
    };
    // One cgroup after another: what is gone, and what is there.
    let mut sweep = |gone: Option<Row>, living: Option<Row>, seconds, is_exported| {
        let now = now + Duration::from_secs(seconds);
        ledger.begin(now, &names);
        if let Some(row) = gone {
            let id = ledger.entity(&unit.clone().into(), Since::Found(since));
            ledger.retire(0, id, &row);
        }
        if let Some(row) = living {
            let id = ledger.entity(&unit.clone().into(), Since::Found(since));
            ledger.observe(0, id, &row);
        }
        ledger.finish(now, &names);
        let snapshot = ledger.snapshot(since, "node".into(), &names);
        if is_exported {
            ledger.exported("test", snapshot.sequence, now);
        }
        let value = |metric: &'static Metric| {
            let family = snapshot.families().find(|family| *family.metric() == *metric).unwrap();
            let values: Vec<Value<'_>> = family.samples().map(|sample| sample.value).collect();
            match values[..] {
                [] => None,
                [Value::Integer(number) | Value::Nanoseconds(number)] => Some(number),
                _ => panic!("{values:?}"),
            }
        };
        (value(&CPU), value(&PEAK))
    };
    assert_eq!(sweep(None, Some(row(5, 70)), 1, true), (Some(5), Some(70)));
    assert_eq!(sweep(Some(row(6, 80)), None, 2, false), (Some(6), Some(80)), "its last word");
    assert_eq!(sweep(Some(row(1, 30)), Some(row(2, 20)), 3, true), (Some(9), Some(20)), "the living one's alone");
    assert_eq!(sweep(Some(row(3, 40)), None, 4, true), (Some(10), Some(80)), "the highest of those that are gone");
    assert_eq!(sweep(None, None, 5, true), (None, None), "it was exported");
}

#[test]
fn an_entity_is_the_same_under_each_name_and_there_before_podlens_if_any_of_its_cgroups_was() {
    let mut bench = Bench::new();
    let one = entity("u", "1");
    let born = Since::Born(SystemTime::UNIX_EPOCH);
    let sweep = |bench: &mut Bench, since: Since| {
        bench.ledger.begin(bench.now, &bench.names);
        let (id, row) = (bench.ledger.entity(&one.clone().into(), since), bench.row(1));
        bench.ledger.observe(0, id, &row);
        bench.ledger.finish(bench.now, &bench.names);
        let snapshot = bench.ledger.snapshot(SystemTime::UNIX_EPOCH, "n".into(), &bench.names);
        snapshot.entities[0].clone()
    };
    let unnamed = sweep(&mut bench, born);
    assert_eq!((&*unnamed.entity, &*unnamed.id, unnamed.since), (&one, &one, born));
    // A static pod's cgroup has another uid than the API server tells.
    let known = named("ns", "api", "server", "another", "1");
    bench.names.known.insert(one.clone(), known.clone());
    let found = Since::Found(SystemTime::UNIX_EPOCH + Duration::from_secs(9));
    for since in [found, born] {
        let state = sweep(&mut bench, since);
        assert_eq!((&*state.entity, &*state.id, state.since), (&known, &one, found));
    }
}
