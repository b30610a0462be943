//! Tests of the budget: sums are whole, counters grow, and what is folded is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Budget, Detail, Rules, Spent};
use crate::{
    export::fixture::{
        CONTAINER_INFO, CPU, LATENCY, LIMIT, POD_INFO, SWITCHES, caused, container, distribution, snapshot_of, state,
        taken, values,
    },
    registry::{EntityState, Info, Snapshot, Value, snapshot::Culprit},
    signal::{Container, Entity, Metric, Since},
};

fn rules(detail: Detail) -> Rules {
    Rules { detail, details: Vec::new(), most_series: None, activity: &CPU }
}

/// The pods of two deployments, `pods` of each, with two containers each.
fn pods(pods: u32) -> Vec<EntityState> {
    let of = |workload: &str, pod: u32, name: &str| state(container("shop", &format!("{workload}-{pod}"), name));
    let both = ["api", "web"].into_iter();
    both.flat_map(|workload| (0..pods).flat_map(move |pod| ["app", "proxy"].map(|name| of(workload, pod, name))))
        .collect()
}

/// Each pod's workload is what its name begins with; of pods that are gone there are no facts.
fn described(snapshot: Snapshot) -> Arc<Snapshot> {
    let infos = (0_u32..).zip(&*snapshot.entities).filter_map(|(entity, state)| {
        let Entity::Container(container) = &*state.entity else { return None };
        if state.gone || state.carried {
            return None;
        }
        let (workload, _) = container.pod.split_once('-')?;
        let labels = vec![("workload", workload.into()), ("workload_type", "deployment".into())];
        Some(Info { metric: &POD_INFO, entity, labels })
    });
    let mut infos: Vec<Info> = infos.collect();
    infos.push(Info { metric: &CONTAINER_INFO, entity: 0, labels: vec![("image", "nginx".into())] });
    Arc::new(Snapshot { infos: infos.into(), ..snapshot })
}

/// Containers with so much CPU time each.
fn using(entities: Vec<EntityState>, used: &[u64]) -> Arc<Snapshot> {
    let cells: Vec<[u64; 1]> = used.iter().map(|used| [*used]).collect();
    let cells: Vec<(u32, &[u64])> = (0..).zip(cells.iter().map(|cells| &cells[..])).collect();
    described(snapshot_of(entities, &[values(&CPU, &cells)]))
}

/// Each entity's value of a metric without labels, by what a person calls it.
fn of(snapshot: &Snapshot, metric: &'static Metric) -> BTreeMap<String, u64> {
    let family = snapshot.families().find(|family| family.metric() == metric);
    let number = |value| match value {
        Value::Nanoseconds(number) | Value::Integer(number) => number,
        Value::Float(number) => Duration::from_secs_f64(number).as_nanos().try_into().unwrap(),
        Value::Histogram(histogram) => histogram.count(),
    };
    let mut found = BTreeMap::new();
    for sample in family.into_iter().flat_map(crate::registry::Family::samples) {
        *found.entry(snapshot.entity(sample.entity).unwrap().entity.to_string()).or_default() += number(sample.value);
    }
    found
}

fn expected(values: &[(&str, u64)]) -> BTreeMap<String, u64> {
    values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

const API: &str = "shop/deployment/api";
const WEB: &str = "shop/deployment/web";

#[test]
fn where_nothing_is_asked_for_the_snapshot_is_the_very_same() {
    let snapshot = using(pods(1), &[1, 2, 3, 4]);
    assert!(Arc::ptr_eq(&Budget::new(rules(Detail::Container)).apply(&snapshot), &snapshot));
}

#[test]
fn sums_per_pod_and_workload_are_those_of_the_containers() {
    let snapshot = using(pods(2), &[1, 2, 4, 8, 16, 32, 64, 128]);
    let by_pod = Budget::new(rules(Detail::Pod)).apply(&snapshot);
    let expected_pods = [("shop/api-0", 3), ("shop/api-1", 12), ("shop/web-0", 48), ("shop/web-1", 192)];
    assert_eq!(of(&by_pod, &CPU), expected(&expected_pods));
    let by_workload = Budget::new(rules(Detail::Workload)).apply(&snapshot);
    assert_eq!(of(&by_workload, &CPU), expected(&[(API, 15), (WEB, 240)]));
    let facts = |snapshot: &Snapshot| snapshot.infos.iter().map(|info| info.metric.name).collect::<Vec<_>>();
    assert!(facts(&by_pod).iter().all(|name| *name == "podlens_pod_info") && !facts(&by_pod).is_empty());
    assert_eq!(facts(&by_workload), [""; 0], "facts about who has no series are left out");
}

/// 500 containers of 40 workloads, some of which a node has many pods of and most few.
#[test]
fn five_hundred_containers_of_forty_workloads_keep_their_sums_to_the_bit() {
    let workload = |pod: u32| format!("w{}", if pod < 100 { pod % 10 } else { 10 + pod % 30 });
    let pods = (0..250).map(|pod| format!("{}-{pod}", workload(pod)));
    let entities: Vec<EntityState> =
        pods.flat_map(|pod| ["app", "proxy"].map(|name| state(container("shop", &pod, name)))).collect();
    assert_eq!(entities.len(), 500);
    let number = |entity: u32, salt: u64| (u64::from(entity) * 2 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16 | 1;
    let numbers: Vec<[u64; 2]> = (0..500).map(|entity| [number(entity, 0), number(entity, 1)]).collect();
    let histograms: Vec<_> =
        (0..500_u32).map(|entity| distribution(&[(3, number(entity, 2)), (9, 1)], number(entity, 3))).collect();
    let cells = |width: usize| -> Vec<(u32, &[u64])> { (0..).zip(numbers.iter().map(|of| &of[..width])).collect() };
    let of_histograms: Vec<(u32, &[u64])> = (0..).zip(histograms.iter().map(|of| &of[..])).collect();
    let all = [values(&CPU, &cells(1)), values(&SWITCHES, &cells(2)), values(&LATENCY, &of_histograms)];
    let raw = described(snapshot_of(entities, &all));
    let folded = Budget::new(rules(Detail::Workload)).apply(&raw);
    // Per workload, metric and combination every cell, added up.
    let sums = |snapshot: &Snapshot| {
        let mut sums: BTreeMap<(String, &str, usize), Vec<u64>> = BTreeMap::new();
        let mut series = 0;
        for family in snapshot.families() {
            for sample in family.samples() {
                let of = match &*snapshot.entity(sample.entity).unwrap().entity {
                    Entity::Container(container) => container.pod.split_once('-').unwrap().0.to_owned(),
                    Entity::Workload(workload) => workload.name.to_string(),
                    Entity::Unit(unit) => unit.to_string(),
                };
                let cells = match sample.value {
                    Value::Nanoseconds(number) | Value::Integer(number) => vec![number],
                    Value::Histogram(histogram) => histogram.cells().to_vec(),
                    Value::Float(number) => vec![number.to_bits()],
                };
                let sum = sums.entry((of, family.metric().name, sample.combination)).or_default();
                sum.resize(cells.len(), 0);
                sum.iter_mut().zip(cells).for_each(|(sum, cell)| *sum += cell);
                series += 1;
            }
        }
        (sums, series)
    };
    let ((sums_before, before), (sums_after, after)) = (sums(&raw), sums(&folded));
    assert_eq!(sums_after, sums_before);
    assert_eq!((before, after), (500 * 4, 40 * 4), "as many as there are workloads");
}

#[test]
fn distributions_are_added_up_and_gauges_are_those_of_the_living() {
    let histogram = distribution(&[(2, 3), (31, 1)], 7);
    let of_all: Vec<(u32, &[u64])> = (0..4).map(|entity| (entity, &histogram[..])).collect();
    let limits: Vec<(u32, &[u64])> = (0..4).map(|entity| (entity, &[500_000_000][..])).collect();
    let mut entities = pods(1);
    entities[3].gone = true;
    let snapshot = described(snapshot_of(entities, &[values(&LATENCY, &of_all), values(&LIMIT, &limits)]));
    let folded = Budget::new(rules(Detail::Workload)).apply(&snapshot);
    assert_eq!(of(&folded, &LATENCY), expected(&[(API, 8), (WEB, 8)]));
    assert_eq!(of(&folded, &LIMIT), expected(&[(API, 1_000_000_000), (WEB, 500_000_000)]));
}

#[test]
fn a_collector_may_have_a_detail_of_its_own() {
    let switches: Vec<(u32, &[u64])> = (0..4).map(|entity| (entity, &[1, 2][..])).collect();
    let cpu: Vec<(u32, &[u64])> = (0..4).map(|entity| (entity, &[5][..])).collect();
    let snapshot = described(snapshot_of(pods(1), &[values(&CPU, &cpu), values(&SWITCHES, &switches)]));
    let mut of_one = rules(Detail::Container);
    of_one.details = vec![(&SWITCHES, Detail::Workload)];
    let folded = Budget::new(of_one).apply(&snapshot);
    assert_eq!(of(&folded, &SWITCHES), expected(&[(API, 6), (WEB, 6)]));
    assert_eq!(of(&folded, &CPU).len(), 4);
    assert_eq!(folded.infos.len(), snapshot.infos.len());
}

#[test]
fn who_delayed_whom_is_told_by_workload() {
    let mut entities = pods(2);
    entities.extend(["api-0", "api-1", "web-0"].map(|pod| {
        let Entity::Container(of) = container("shop", pod, "") else { unreachable!() };
        state(Entity::Container(Container { container_id: "".into(), ..of }))
    }));
    let by = |entity, culprit, amount| (entity, Culprit::Entity(culprit), amount);
    let lost = [by(0, 10, 1), by(1, 9, 2), by(2, 10, 4), by(4, 8, 8), by(5, 9, 16), (5, Culprit::Other, 32)];
    let snapshot = described(snapshot_of(entities, &[caused(&lost)]));
    let folded = Budget::new(rules(Detail::Workload)).apply(&snapshot);
    let name = |position| folded.entity(position).unwrap().entity.to_string();
    let found: Vec<(String, String, Value<'_>)> = folded
        .families()
        .flat_map(crate::registry::Family::samples)
        .map(|sample| {
            let culprit = match sample.culprit {
                Some(Culprit::Entity(position)) => name(position),
                _ => "(other)".to_owned(),
            };
            (name(sample.entity), culprit, sample.value)
        })
        .collect();
    let row = |entity: &str, culprit: &str, ns| (entity.to_owned(), culprit.to_owned(), Value::Nanoseconds(ns));
    let expected = [row(API, API, 2), row(API, WEB, 5), row(WEB, API, 24), row(WEB, "(other)", 32)];
    assert_eq!(found, expected);
}

#[test]
fn counters_of_a_workload_go_on_when_a_pod_is_gone_and_end_with_the_last_one() {
    let mut budget = Budget::new(rules(Detail::Workload));
    let all = pods(2);
    budget.apply(&using(all.clone(), &[1, 2, 4, 8, 16, 32, 64, 128]));
    // The second pod of each has left.
    let fewer: Vec<EntityState> = [0, 1, 4, 5].map(|at: usize| all[at].clone()).to_vec();
    let folded = budget.apply(&using(fewer.clone(), &[2, 2, 17, 32]));
    assert_eq!(of(&folded, &CPU), expected(&[(API, 16), (WEB, 241)]));
    // Much later, and again: nothing is counted twice.
    for minutes in [1, 5, 9] {
        let mut later = (*using(fewer.clone(), &[3, 2, 17, 33])).clone();
        later.taken = taken() + Duration::from_secs(60 * minutes);
        let entities = (*later.entities).clone();
        later.entities = Arc::new(entities);
        let folded = budget.apply(&Arc::new(later));
        assert_eq!(of(&folded, &CPU), expected(&[(API, 17), (WEB, 242)]));
    }
    budget.apply(&using(vec![all[0].clone()], &[3]));
    let again = budget.apply(&using(vec![all[0].clone(), all[4].clone()], &[3, 5]));
    assert_eq!(of(&again, &CPU), expected(&[(API, 17), (WEB, 5)]));
}

/// The same under other names: `name` changes a container.
fn renamed(state: &EntityState, name: impl Fn(&mut Container)) -> EntityState {
    let Entity::Container(mut container) = (*state.entity).clone() else { unreachable!() };
    name(&mut container);
    EntityState { entity: Entity::Container(container).into(), ..state.clone() }
}

/// As it is called without names.
fn nameless(state: &EntityState) -> EntityState {
    renamed(state, |of| (of.namespace, of.pod, of.container) = ("".into(), of.pod_uid.clone(), "c0ffee".into()))
}

#[test]
fn what_was_counted_in_a_workload_stays_there_when_its_facts_its_names_and_its_values_go() {
    let mut budget = Budget::new(rules(Detail::Workload));
    let all = pods(2);
    let mut api = |entities: Vec<EntityState>, used: &[u64]| of(&budget.apply(&using(entities, used)), &CPU);
    let whole = api(all[..4].to_vec(), &[1, 2, 4, 8]);
    assert_eq!(whole, expected(&[(API, 15)]));
    let gone: Vec<EntityState> = all[2..4].iter().map(|state| EntityState { gone: true, ..state.clone() }).collect();
    let without_facts = api([&all[..2], &gone].concat(), &[1, 2, 5, 8]);
    assert_eq!(without_facts, expected(&[(API, 16)]));
    let without_names = [all[0].clone(), all[1].clone(), nameless(&gone[0]), nameless(&gone[1])];
    assert_eq!(api(without_names.to_vec(), &[1, 2, 6, 8]), expected(&[(API, 17)]));
    assert_eq!(api(all[..2].to_vec(), &[1, 2]), expected(&[(API, 17)]));
    assert_eq!(api(all[..2].to_vec(), &[1, 3]), expected(&[(API, 18)]));
}

#[test]
fn what_is_carried_on_stays_in_its_workload_though_the_pod_made_again_has_no_facts_yet() {
    let mut budget = Budget::new(rules(Detail::Workload));
    let all = pods(2);
    budget.apply(&using(all[..4].to_vec(), &[1, 2, 4, 8]));
    budget.apply(&using(all[..2].to_vec(), &[1, 2]));
    let made_again =
        renamed(&all[2], |of| (of.pod_uid, of.container_id) = ("another".into(), format!("{:064}", 1).into()));
    let carried = EntityState { carried: true, ..state(all[2].entity.series()) };
    let mut raw = (*using([&all[..2], &[made_again, carried]].concat(), &[1, 2, 100, 4])).clone();
    let is_known = |info: &&Info| info.entity < 2;
    raw.infos = raw.infos.iter().filter(is_known).cloned().collect();
    let raw = Arc::new(raw);
    assert_eq!(of(&budget.apply(&raw), &CPU), expected(&[(API, 15), ("shop/api-1", 100)]));
}

#[test]
fn a_pod_goes_on_from_its_containers_when_only_its_own_cgroup_is_left_or_it_is_made_again() {
    let mut budget = Budget::new(rules(Detail::Pod));
    let app = pods(1)[0].clone();
    let own = renamed(&app, |of| (of.container, of.container_id) = ("".into(), "".into()));
    let mut of_pod = |entities: Vec<EntityState>, used: &[u64]| of(&budget.apply(&using(entities, used)), &CPU);
    assert_eq!(of_pod(vec![own.clone(), app], &[1, 2]), expected(&[("shop/api-0", 3)]));
    assert_eq!(of_pod(vec![own.clone()], &[1]), expected(&[("shop/api-0", 3)]));
    let gone = EntityState { gone: true, ..own.clone() };
    let again = renamed(&own, |of| of.pod_uid = "another".into());
    assert_eq!(of_pod(vec![gone, again.clone()], &[1, 4]), expected(&[("shop/api-0", 7)]));
    let carried = EntityState { carried: true, ..state(own.entity.series()) };
    assert_eq!(of_pod(vec![again, carried], &[4, 1]), expected(&[("shop/api-0", 7)]));
}

#[test]
fn the_own_cgroup_of_a_pod_may_go_before_its_containers() {
    let mut budget = Budget::new(rules(Detail::Pod));
    let app = pods(1)[0].clone();
    let own = renamed(&app, |of| (of.container, of.container_id) = ("".into(), "".into()));
    budget.apply(&using(vec![own, app.clone()], &[1, 2]));
    assert_eq!(of(&budget.apply(&using(vec![app], &[2])), &CPU), expected(&[("shop/api-0", 3)]));
}

#[test]
fn what_is_kept_of_a_pod_is_counted_once_beside_its_sandbox_and_a_predecessor() {
    let by_pod = Rules { details: vec![(&SWITCHES, Detail::Pod)], ..rules(Detail::Container) };
    let mut budget = Budget::new(by_pod);
    let [app, proxy] = [0, 1].map(|at: usize| pods(1)[at].clone());
    let own = renamed(&app, |of| (of.container, of.container_id) = ("".into(), "".into()));
    let sandbox = renamed(&app, |of| of.container = "".into());
    let before = EntityState { gone: true, ..renamed(&own, |of| of.pod_uid = "another".into()) };
    let carried = EntityState { carried: true, ..state(own.entity.series()) };
    let mut switches = |entities: &[EntityState]| {
        let of_each: Vec<(u32, &[u64])> = (0_u32..).zip(entities).map(|(at, _)| (at, &[1, 0][..])).collect();
        let cpu: Vec<(u32, &[u64])> = of_each.iter().map(|(at, cells)| (*at, &cells[..1])).collect();
        let values = [values(&CPU, &cpu), values(&SWITCHES, &of_each)];
        of(&budget.apply(&described(snapshot_of(entities.to_vec(), &values))), &SWITCHES)
    };
    assert_eq!(
        switches(&[carried.clone(), before.clone(), own.clone(), sandbox.clone(), proxy, app.clone()])["shop/api-0"],
        6
    );
    assert_eq!(switches(&[carried, before, own, sandbox, app])["shop/api-0"], 6);
}

#[test]
fn who_is_only_named_as_a_culprit_begins_no_fold() {
    let mut budget = Budget::new(rules(Detail::Workload));
    let mut entities = pods(1);
    let named = renamed(&entities[2], |of| (of.container, of.container_id) = ("".into(), "".into()));
    let culprit = EntityState { since: Since::NEVER, gone: true, ..named };
    let since = |snapshot: &Snapshot| {
        let states = snapshot.entities.iter();
        states.filter(|state| state.entity.to_string() == WEB).map(|state| state.since).collect::<Vec<_>>()
    };
    budget.apply(&using(entities.clone(), &[1; 4]));
    let web = entities.split_off(2);
    entities.push(culprit.clone());
    budget.apply(&using(entities.clone(), &[1; 2]));
    entities.pop();
    entities.extend([web, vec![culprit]].concat());
    assert_eq!(since(&budget.apply(&using(entities.clone(), &[1; 4]))), [entities[2].since]);
}

#[test]
fn a_container_folded_for_the_limit_stays_so_under_another_name_and_when_it_is_made_again() {
    let mut budget = Budget::new(Rules { most_series: Some(3), ..rules(Detail::Container) });
    let of_api = |snapshot: &Snapshot| of(snapshot, &CPU).get(API).copied();
    let all = pods(1);
    let first = renamed(&all[0], |of| of.container = "c0ffee".into());
    let entities = |first: &EntityState| [std::slice::from_ref(first), &all[1..]].concat();
    assert_eq!(of_api(&budget.apply(&using(entities(&first), &[1, 2, 400, 800]))), Some(3));
    // Busier than the others from now on: it would not be chosen again.
    assert_eq!(of_api(&budget.apply(&using(entities(&all[0]), &[1000, 2, 400, 800]))), Some(1002));
    assert_eq!(of_api(&budget.apply(&using(all[1..].to_vec(), &[2, 400, 800]))), Some(1002));
    let again = renamed(&all[0], |of| of.container_id = format!("{:064}", 1).into());
    let carried = EntityState { carried: true, ..state(all[0].entity.series()) };
    // There would be room for it now.
    let raw = using(vec![again, carried, all[1].clone()], &[2000, 1000, 2]);
    assert_eq!(of_api(&budget.apply(&raw)), Some(3002));
}

#[test]
fn what_the_ledger_carries_on_again_is_counted_once() {
    let mut budget = Budget::new(rules(Detail::Workload));
    let all = pods(1);
    budget.apply(&using(all.clone(), &[1, 2, 4, 8]));
    assert_eq!(of(&budget.apply(&using(all[1..].to_vec(), &[2, 4, 8])), &CPU), expected(&[(API, 3), (WEB, 12)]));
    let Entity::Container(app) = &*all[0].entity else { unreachable!() };
    let made_again = Container { container_id: "other".into(), ..app.clone() };
    let carried = EntityState { carried: true, ..state(all[0].entity.series()) };
    let entities = [vec![state(Entity::Container(made_again)), carried], all[1..].to_vec()].concat();
    let folded = budget.apply(&using(entities, &[10, 1, 2, 4, 8]));
    assert_eq!(of(&folded, &CPU), expected(&[(API, 13), (WEB, 12)]));
}

#[test]
fn a_container_that_gets_its_name_is_counted_once() {
    let mut budget = Budget::new(rules(Detail::Workload));
    let mut entities = pods(1);
    let named = entities[0].clone();
    let Entity::Container(app) = &*named.entity else { unreachable!() };
    entities[0] = state(Entity::Container(Container { container: "c0ffee".into(), ..app.clone() }));
    budget.apply(&using(entities.clone(), &[1, 2, 4, 8]));
    entities[0] = named;
    assert_eq!(of(&budget.apply(&using(entities, &[1, 2, 4, 8])), &CPU), expected(&[(API, 3), (WEB, 12)]));
}

#[test]
fn beyond_the_limit_the_least_active_are_folded_sums_unchanged_and_stay_so() {
    let limited = |most| Rules { most_series: Some(most), ..rules(Detail::Container) };
    let used = [10, 1, 40, 30, 2, 60, 70, 80];
    let mut budget = Budget::new(limited(8));
    budget.apply(&using(pods(2), &used));
    assert_eq!(budget.spent(), Some(Spent { series: 8, folded: 0 }));
    let mut budget = Budget::new(limited(6));
    let folded = budget.apply(&using(pods(2), &used));
    let series = of(&folded, &CPU);
    assert_eq!(series.values().sum::<u64>(), used.iter().sum::<u64>());
    assert_eq!(budget.spent().unwrap().series, series.len());
    assert!(series.len() <= 6, "{series:?}");
    assert_eq!((series.get(API), series.get(WEB)), (Some(&41), Some(&2)), "{series:?}");
    // One of those that are folded becomes busy, and another pod is new: nobody is taken out again.
    let busy = [10, 1000, 40, 30, 2, 60, 70, 80];
    let later = of(&budget.apply(&using(pods(2), &busy)), &CPU);
    assert_eq!(later.get(API), Some(&1040), "{later:?}");
    assert_eq!(later.len(), series.len());
}

#[test]
fn a_limit_that_no_fold_can_keep_folds_everyone_and_says_so() {
    let mut budget = Budget::new(Rules { most_series: Some(1), ..rules(Detail::Container) });
    let folded = budget.apply(&using(pods(2), &[1; 8]));
    assert_eq!(of(&folded, &CPU), expected(&[(API, 4), (WEB, 4)]));
    assert_eq!(budget.spent(), Some(Spent { series: 2, folded: 8 }));
}

#[test]
fn a_fold_begins_with_its_first_member_and_goes_on_from_there() {
    let since = |entity: &Snapshot| {
        entity.entities.iter().find(|state| state.entity.to_string() == API).map(|state| state.since)
    };
    let mut budget = Budget::new(rules(Detail::Workload));
    let mut entities = pods(2);
    // It was there before podlens, whatever the others' clock says.
    let first = Since::Found(taken() + Duration::from_secs(1000));
    entities[0].since = first;
    let folded = budget.apply(&using(entities.clone(), &[1; 8]));
    assert_eq!(since(&folded), Some(first));
    let folded = budget.apply(&using(entities[2..].to_vec(), &[1; 6]));
    assert_eq!(since(&folded), Some(first), "its oldest member is gone, and its values are not");
}

#[test]
fn a_pods_fold_is_the_same_under_each_name() {
    let mut budget = Budget::new(rules(Detail::Pod));
    let all = pods(1);
    let mut ids = |entities: Vec<EntityState>| {
        let folded = budget.apply(&using(entities, &[1; 4]));
        let used =
            folded.families().filter(|family| *family.metric() == CPU).flat_map(crate::registry::Family::samples);
        used.map(|sample| folded.entities[sample.entity as usize].id.clone()).collect::<Vec<_>>()
    };
    let unnamed = ids(all.iter().map(nameless).collect());
    assert_eq!((unnamed.len(), unnamed), (2, ids(all)));
}
