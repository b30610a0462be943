//! Since when totals count: the kernel's own, of entities that were there before podlens and of others.

use super::*;
use crate::{registry::EntityState, signal::Since};

/// A total of the kernel's own.
static THROTTLED: Metric = Metric {
    name: "podlens_cpu_throttled_seconds_total",
    otlp_name: "podlens.cpu.throttled",
    lifetime: true,
    ..Metric::BASE
};
/// Another, of which a value of 0 makes no series.
static FAULTS: Metric =
    Metric { name: "podlens_page_faults_total", otlp_name: "podlens.page_faults", sparse: true, ..THROTTLED };

const SECOND: u64 = 1_000_000_000;

fn of(pod: &str, since: fn(std::time::SystemTime) -> Since) -> EntityState {
    let state = state(container("shop", pod, "nginx"));
    EntityState { since: since(state.since.moment()), ..state }
}

/// A snapshot of a found and a born entity, so long after the first.
fn both(seconds: u64, values: &[Values]) -> Snapshot {
    let entities = vec![of("found", Since::Found), of("born", Since::Born)];
    Snapshot { taken: taken() + Duration::from_secs(seconds), ..snapshot_of(entities, values) }
}

/// The value, start and time of totals, by pod and metric.
type Sums = BTreeMap<(String, String), (f64, u64, u64)>;

/// The value, start and time of each total, by pod and metric, and how many points there are in all.
fn sums(snapshot: &Snapshot, previous: Option<&Snapshot>, options: &Options) -> (Sums, u64) {
    let requests: Vec<Request> = requests(snapshot, previous).with(options).collect();
    let mut found = BTreeMap::new();
    for of_entity in requests.iter().flat_map(|request| message(request).resource_metrics) {
        let pod = strings(&of_entity.resource.as_ref().unwrap().attributes)["k8s.pod.name"].clone();
        for metric in of_entity.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            let Data::Sum(sum) = metric.data.unwrap() else { panic!("no sum") };
            let point = &sum.data_points[0];
            let value = point.value.map_or(f64::NAN, number);
            let before =
                found.insert((pod.clone(), metric.name), (value, point.start_time_unix_nano, point.time_unix_nano));
            assert_eq!(before, None);
        }
    }
    (found, requests.iter().map(|request| request.points).sum())
}

fn since() -> u64 {
    unix_ns(state(Entity::unit("")).since.moment())
}

fn at(seconds: u64) -> u64 {
    unix_ns(taken() + Duration::from_secs(seconds))
}

fn expected(of: &[(&str, &Metric, f64, u64, u64)]) -> Sums {
    let key = |pod: &str, metric: &Metric| (pod.to_owned(), metric.otlp_name.to_owned());
    of.iter().map(|(pod, metric, value, start, time)| (key(pod, metric), (*value, *start, *time))).collect()
}

#[test]
fn a_total_of_the_kernel_tells_no_start_where_nobody_has_seen_the_beginning() {
    let totals = [0, 1].map(|at| (at, [500 * SECOND]));
    let totals = totals.each_ref().map(|(at, cells)| (*at, cells.as_slice()));
    let now = both(0, &[values(&CPU, &totals), values(&THROTTLED, &totals)]);
    let of = |value| {
        expected(&[
            ("found", &CPU, value, since(), at(0)),
            ("found", &THROTTLED, value, 0, at(0)),
            ("born", &CPU, value, since(), at(0)),
            ("born", &THROTTLED, value, since(), at(0)),
        ])
    };
    let options = Options::default();
    assert_eq!(sums(&now, None, &options), (of(500.0), 4));
    // The last point of a series that ends is one of the same series.
    let none = Snapshot { taken: taken(), ..snapshot_of(Vec::new(), &[]) };
    let (ended, _) = sums(&none, Some(&now), &options);
    let starts = |sums: &Sums| sums.values().map(|(_, start, _)| *start).collect::<Vec<_>>();
    assert_eq!(starts(&ended), starts(&of(f64::NAN)));
}

#[test]
fn differences_of_the_kernels_totals_begin_at_the_first_reading_where_nobody_has_seen_the_beginning() {
    let delta = Options { delta: true, ..Options::default() };
    let of = |seconds, used: u64, faults: &[(u32, &[u64])]| {
        let totals = [0, 1].map(|at| (at, [used * SECOND]));
        let totals = totals.each_ref().map(|(at, cells)| (*at, cells.as_slice()));
        both(seconds, &[values(&CPU, &totals), values(&THROTTLED, &totals), values(&FAULTS, faults)])
    };
    let first = of(0, 500, &[(1, &[0])]);
    let (sent, count) = sums(&first, None, &delta);
    let whole = expected(&[
        ("found", &CPU, 500.0, since(), at(0)),
        ("found", &THROTTLED, 0.0, at(0), at(0)),
        ("born", &CPU, 500.0, since(), at(0)),
        ("born", &THROTTLED, 500.0, since(), at(0)),
    ]);
    assert_eq!(sent, whole);
    assert_eq!(count, points(&first), "each point is counted as made");
    // What is read for the first time only now has no difference either.
    let second = of(10, 503, &[(0, &[70 * SECOND]), (1, &[2 * SECOND])]);
    let (sent, _) = sums(&second, Some(&first), &delta);
    let added = expected(&[
        ("found", &CPU, 3.0, at(0), at(10)),
        ("found", &THROTTLED, 3.0, at(0), at(10)),
        ("found", &FAULTS, 0.0, at(10), at(10)),
        ("born", &CPU, 3.0, at(0), at(10)),
        ("born", &THROTTLED, 3.0, at(0), at(10)),
        ("born", &FAULTS, 2.0, at(0), at(10)),
    ]);
    assert_eq!(sent, added);
    let third = of(20, 503, &[(0, &[75 * SECOND]), (1, &[2 * SECOND])]);
    let (sent, _) = sums(&third, Some(&second), &delta);
    assert_eq!(sent[&("found".to_owned(), FAULTS.otlp_name.to_owned())], (5.0, at(10), at(20)));
    // Less than before: nobody knows what of it is new.
    let fourth = of(30, 502, &[]);
    let (sent, _) = sums(&fourth, Some(&third), &delta);
    let anew = expected(&[
        ("found", &CPU, 502.0, since(), at(30)),
        ("found", &THROTTLED, 0.0, at(30), at(30)),
        ("born", &CPU, 502.0, since(), at(30)),
        ("born", &THROTTLED, 502.0, since(), at(30)),
    ]);
    assert_eq!(sent, anew);
}

#[test]
fn a_first_increase_counts_where_the_first_reading_was_0_and_made_no_series() {
    let delta = Options { delta: true, ..Options::default() };
    let of = |seconds, faults: u64| both(seconds, &[values(&FAULTS, &[(0, &[faults * SECOND])])]);
    let (first, second) = (of(0, 0), of(10, 4));
    assert_eq!(sums(&first, None, &delta).1, 0);
    let (sent, _) = sums(&second, Some(&first), &delta);
    assert_eq!(sent, expected(&[("found", &FAULTS, 4.0, at(0), at(10))]));
    // Of one who was not there then nothing was read.
    let empty = snapshot_of(vec![of_unit()], &[values(&FAULTS, &[])]);
    let (sent, _) = sums(&second, Some(&empty), &delta);
    assert_eq!(sent, expected(&[("found", &FAULTS, 0.0, at(10), at(10))]));
}

fn of_unit() -> EntityState {
    state(Entity::unit("containerd.service"))
}

/// The same entity under another name.
fn renamed(state: &EntityState, pod: &str) -> EntityState {
    EntityState { id: state.id.clone(), ..self::state(container("shop", pod, "nginx")) }
}

#[test]
fn a_difference_goes_on_under_another_name() {
    let delta = Options { delta: true, ..Options::default() };
    let unnamed = [state(container("", "u-1", "")), state(container("", "u-2", ""))];
    let named = [renamed(&unnamed[0], "web-1"), renamed(&unnamed[1], "web-2")];
    let of = |entities: &[EntityState], seconds, used: u64, caused_ns| {
        let values = [values(&CPU, &[(0, &[used * SECOND])]), caused(&[(0, Culprit::Entity(1), caused_ns)])];
        Snapshot { taken: taken() + Duration::from_secs(seconds), ..snapshot_of(entities.to_vec(), &values) }
    };
    let (first, second) = (of(&unnamed, 0, 500, 7 * SECOND), of(&named, 10, 503, 9 * SECOND));
    let (sent, count) = sums(&second, Some(&first), &delta);
    let added = [("web-1", &CPU, 3.0, at(0), at(10)), ("web-1", &CAUSED, 2.0, at(0), at(10))];
    assert_eq!((sent, count), (expected(&added), 2));
    // Totals are of other series now, and the old ones end.
    let (sent, count) = sums(&second, Some(&first), &Options::default());
    let ends = |pod: &str| sent[&(pod.to_owned(), CPU.otlp_name.to_owned())].0;
    assert_eq!((ends("web-1"), ends("u-1").is_nan(), count), (503.0, true, 4));
}
