//! One series for all instances of a container.
//!
//! Prometheus' labels do not tell a container from the one that it was before its restart, nor a pod from the one of
//! the same name before it. Their counters are added up, so that the series goes on. Pure; the encoder calls it.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map},
    hash::Hash,
    sync::Arc,
};

use foldhash::fast::RandomState;

use crate::{
    registry::{Family, Sample, Snapshot, Value, snapshot::Culprit},
    signal::{Entity, Histogram, Kind},
};

/// The snapshot with no two samples under the same labels. It is the same one if there were none.
pub(super) fn by_labels(snapshot: &Snapshot) -> Cow<'_, Snapshot> {
    let entities = firsts(snapshot, |entity| match entity {
        Entity::Container(container) => (&*container.namespace, &*container.pod, Some(&*container.container)),
        Entity::Unit(unit) => (&**unit, "", None),
    });
    let culprits = firsts(snapshot, |entity| match entity {
        Entity::Container(container) => (&*container.namespace, Some(&*container.pod)),
        Entity::Unit(unit) => (&**unit, None),
    });
    let has_culprits = || snapshot.families.iter().flat_map(|family| &family.samples).any(|one| one.culprit.is_some());
    if is_each_its_own(&entities) && (is_each_its_own(&culprits) || !has_culprits()) {
        return Cow::Borrowed(snapshot);
    }
    let living = living(snapshot, &entities);
    let families =
        snapshot.families.iter().map(|family| merged(family, snapshot, &entities, &culprits, &living)).collect();
    Cow::Owned(Snapshot {
        families,
        entities: snapshot.entities.clone(),
        infos: snapshot.infos.clone(),
        node: Arc::clone(&snapshot.node),
        ..*snapshot
    })
}

/// For each entity the position of the first one with the same key.
fn firsts<'a, K: Eq + Hash>(snapshot: &'a Snapshot, key: impl Fn(&'a Entity) -> K) -> Vec<u32> {
    let mut first = HashMap::with_capacity_and_hasher(snapshot.entities.len(), RandomState::default());
    (0u32..).zip(&snapshot.entities).map(|(at, state)| *first.entry(key(&state.entity)).or_insert(at)).collect()
}

fn is_each_its_own(firsts: &[u32]) -> bool {
    (0u32..).zip(firsts).all(|(at, first)| at == *first)
}

/// For each entity whether one with its labels lives.
fn living(snapshot: &Snapshot, entities: &[u32]) -> Vec<bool> {
    let mut living = vec![false; entities.len()];
    for (state, first) in snapshot.entities.iter().zip(entities) {
        if let Some(lives) = usize::try_from(*first).ok().and_then(|first| living.get_mut(first)) {
            *lives |= !state.gone && !state.carried;
        }
    }
    living
}

fn merged(family: &Family, snapshot: &Snapshot, entities: &[u32], culprits: &[u32], living: &[bool]) -> Family {
    let mut places: HashMap<(u32, u8, Option<Culprit>), usize, RandomState> = HashMap::default();
    let mut samples: Vec<Sample> = Vec::with_capacity(family.samples.len());
    for sample in &family.samples {
        let Some(entity) = at(entities, sample.entity) else { continue };
        let culprit = match sample.culprit {
            Some(Culprit::Entity(position)) => match at(culprits, position) {
                Some(first) => Some(Culprit::Entity(first)),
                None => continue,
            },
            other => other,
        };
        // What is gone has no present value beside one that lives.
        let is_past = || snapshot.entity(sample).is_none_or(|state| state.gone || state.carried);
        if family.metric.kind == Kind::Gauge && at(living, entity) == Some(true) && is_past() {
            continue;
        }
        match places.entry((entity, sample.label_value, culprit)) {
            hash_map::Entry::Vacant(place) => {
                place.insert(samples.len());
                samples.push(Sample { entity, culprit, ..sample.clone() });
            }
            hash_map::Entry::Occupied(place) => {
                if let Some(sum) = samples.get_mut(*place.get()) {
                    add(&mut sum.value, &sample.value);
                }
            }
        }
    }
    Family { metric: family.metric, samples }
}

fn at<T: Copy>(list: &[T], position: u32) -> Option<T> {
    list.get(usize::try_from(position).ok()?).copied()
}

fn add(sum: &mut Value, more: &Value) {
    match (sum, more) {
        (Value::Integer(sum), Value::Integer(more)) | (Value::Nanoseconds(sum), Value::Nanoseconds(more)) => {
            *sum = sum.saturating_add(*more);
        }
        (Value::Float(sum), Value::Float(more)) => *sum += more,
        (Value::Histogram(sum), Value::Histogram(more)) => {
            let sum: &mut Histogram = Arc::make_mut(sum);
            for (bucket, count) in sum.buckets.iter_mut().zip(&more.buckets) {
                *bucket = bucket.saturating_add(*count);
            }
            sum.sum_ns = sum.sum_ns.saturating_add(more.sum_ns);
        }
        // One metric has values of one kind.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::{borrow::Cow, sync::Arc};

    use super::by_labels;
    use crate::{
        export::fixture::{CAUSED, CPU, LATENCY, LIMIT, container, sample, snapshot, state},
        registry::{EntityState, Family, Sample, Snapshot, Value, snapshot::Culprit},
        signal::{Entity, Histogram},
    };

    fn instance(pod: &str, name: &str, id: &str) -> Entity {
        let Entity::Container(one) = container("shop", pod, name) else { unreachable!() };
        Entity::Container(crate::signal::Container { container_id: id.into(), pod_uid: id.into(), ..one })
    }

    fn of(entities: Vec<EntityState>, families: Vec<Family>) -> Snapshot {
        Snapshot { entities, families, ..snapshot(1) }
    }

    #[test]
    fn a_snapshot_without_equal_labels_is_left_as_it_is() {
        assert!(matches!(by_labels(&snapshot(1)), Cow::Borrowed(_)));
    }

    #[test]
    fn counters_and_histograms_of_all_instances_are_added_up() {
        let mut histogram = Histogram { sum_ns: 3, ..Histogram::default() };
        histogram.buckets[2] = 1;
        let histogram = Value::Histogram(Arc::new(histogram));
        let entities = ["1", "2"].map(|id| state(instance("web", "app", id))).to_vec();
        let twice = |value: &Value| vec![sample(0, value.clone()), sample(1, value.clone())];
        let families = vec![
            Family { metric: &CPU, samples: twice(&Value::Nanoseconds(5)) },
            Family { metric: &LATENCY, samples: twice(&histogram) },
        ];
        let merged = by_labels(&of(entities, families)).into_owned();
        let values: Vec<&[Sample]> = merged.families.iter().map(|family| family.samples.as_slice()).collect();
        assert_eq!((values[0].len(), values[1].len()), (1, 1));
        assert_eq!(values[0][0].value, Value::Nanoseconds(10));
        let Value::Histogram(sum) = &values[1][0].value else { panic!("no histogram") };
        assert_eq!((sum.buckets[2], sum.sum_ns), (2, 6));
    }

    #[test]
    fn a_gauge_is_that_of_the_living() {
        let mut entities = ["1", "2"].map(|id| state(instance("web", "app", id))).to_vec();
        entities[0].gone = true;
        let samples = vec![sample(0, Value::Float(1.0)), sample(1, Value::Float(0.5))];
        let families = vec![Family { metric: &LIMIT, samples }];
        let merged = by_labels(&of(entities, families)).into_owned();
        let values: Vec<&Value> = merged.families[0].samples.iter().map(|sample| &sample.value).collect();
        assert_eq!(values, [&Value::Float(0.5)]);
    }

    #[test]
    fn culprits_of_one_name_are_one_and_the_rest_stays_the_rest() {
        let entities = vec![
            state(instance("web", "app", "1")),
            state(instance("noisy", "", "2")),
            state(instance("noisy", "", "3")),
            state(Entity::unit("web")),
        ];
        let caused = |culprit, ns| Sample { culprit: Some(culprit), ..sample(0, Value::Nanoseconds(ns)) };
        let samples = vec![
            caused(Culprit::Entity(1), 1),
            caused(Culprit::Entity(2), 2),
            caused(Culprit::Entity(3), 4),
            caused(Culprit::Other, 8),
        ];
        let merged = by_labels(&of(entities, vec![Family { metric: &CAUSED, samples }])).into_owned();
        let values: Vec<(Option<Culprit>, &Value)> =
            merged.families[0].samples.iter().map(|sample| (sample.culprit, &sample.value)).collect();
        assert_eq!(
            values,
            [
                (Some(Culprit::Entity(1)), &Value::Nanoseconds(3)),
                (Some(Culprit::Entity(3)), &Value::Nanoseconds(4)),
                (Some(Culprit::Other), &Value::Nanoseconds(8)),
            ]
        );
    }
}
