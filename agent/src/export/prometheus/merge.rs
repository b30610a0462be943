//! One series for all instances of a container.
//!
//! Prometheus' labels do not tell a container from the one that it was before its restart, nor a pod from the one of
//! the same name before it. Their counters are added up, so that the series goes on. Pure; the encoder calls it.

use std::{borrow::Cow, collections::HashMap, hash::Hash, sync::Arc};

use foldhash::fast::RandomState;

use crate::{
    registry::{Section, Snapshot, snapshot::Culprit},
    signal::Entity,
};

/// The snapshot with no two samples under the same labels. It is the same one if there were none.
pub(super) fn by_labels(snapshot: &Snapshot) -> Cow<'_, Snapshot> {
    let everyone = || 0..u32::try_from(snapshot.entities.len()).unwrap_or(u32::MAX);
    let entities = firsts(snapshot, everyone(), |entity| match entity {
        Entity::Container(of) => (0, &*of.namespace, &*of.pod, &*of.container),
        Entity::Unit(unit) => (1, &**unit, "", ""),
        Entity::Workload(of) => (2, &*of.namespace, &*of.kind, &*of.name),
    });
    // Most are nobody's culprits, and the containers of one pod would all be one.
    let culprits = firsts(snapshot, culprits(snapshot), |entity| match entity {
        Entity::Container(of) => (0, &*of.namespace, &*of.pod),
        Entity::Unit(unit) => (1, &**unit, ""),
        Entity::Workload(of) => (2, &*of.namespace, &*of.name),
    });
    if is_each_its_own(&entities) && is_each_its_own(&culprits) {
        return Cow::Borrowed(snapshot);
    }
    let living = living(snapshot, &entities);
    // What is gone has no present value beside one that lives.
    let is_past = |entity| {
        let lives = at(&entities, entity).and_then(|first| at(&living, first)) == Some(true);
        lives && snapshot.entity(entity).is_none_or(|state| state.gone || state.carried)
    };
    let sections =
        snapshot.sections.iter().map(|section| section.merged(&entities, is_past, |culprit| at(&culprits, culprit)));
    Cow::Owned(Snapshot {
        sections: sections.collect(),
        entities: Arc::clone(&snapshot.entities),
        infos: Arc::clone(&snapshot.infos),
        node: Arc::clone(&snapshot.node),
        ..*snapshot
    })
}

/// The positions of all who are named as culprits, in the order of the entities.
fn culprits(snapshot: &Snapshot) -> impl Iterator<Item = u32> {
    let mut is_culprit = vec![false; snapshot.entities.len()];
    for caused in snapshot.sections.iter().flat_map(Section::caused) {
        if let Culprit::Entity(position) = caused.culprit
            && let Some(is_culprit) = usize::try_from(position).ok().and_then(|at| is_culprit.get_mut(at))
        {
            *is_culprit = true;
        }
    }
    (0u32..).zip(is_culprit).filter_map(|(at, is_culprit)| is_culprit.then_some(at))
}

/// For each entity its own position; for each of those at `positions` that of the first of them with the same key.
fn firsts<'a, K: Eq + Hash>(
    snapshot: &'a Snapshot,
    positions: impl Iterator<Item = u32>,
    key: impl Fn(&'a Entity) -> K,
) -> Vec<u32> {
    let count = snapshot.entities.len();
    let mut first = HashMap::with_capacity_and_hasher(count, RandomState::default());
    let mut firsts: Vec<u32> = (0u32..).take(count).collect();
    for at in positions {
        let place = usize::try_from(at).ok().and_then(|at| firsts.get_mut(at));
        if let (Some(place), Some(state)) = (place, snapshot.entity(at)) {
            *place = *first.entry(key(&state.entity)).or_insert(at);
        }
    }
    firsts
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

fn at<T: Copy>(list: &[T], position: u32) -> Option<T> {
    list.get(usize::try_from(position).ok()?).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::borrow::Cow;

    use super::by_labels;
    use crate::{
        export::fixture::{CPU, LATENCY, LIMIT, caused, container, distribution, snapshot, snapshot_of, state, values},
        registry::{Sample, Snapshot, Value, snapshot::Culprit},
        signal::Entity,
    };

    fn instance(pod: &str, name: &str, id: &str) -> Entity {
        let Entity::Container(one) = container("shop", pod, name) else { unreachable!() };
        Entity::Container(crate::signal::Container { container_id: id.into(), pod_uid: id.into(), ..one })
    }

    fn samples(snapshot: &Snapshot) -> Vec<Sample<'_>> {
        snapshot.families().flat_map(crate::registry::Family::samples).collect()
    }

    #[test]
    fn a_snapshot_without_equal_labels_is_left_as_it_is() {
        assert!(matches!(by_labels(&snapshot(1)), Cow::Borrowed(_)));
    }

    #[test]
    fn counters_and_histograms_of_all_instances_are_added_up() {
        let histogram = distribution(&[(2, 1)], 3);
        let entities = ["1", "2"].map(|id| state(instance("web", "app", id))).to_vec();
        let of_both = [values(&CPU, &[(0, &[5]), (1, &[5])]), values(&LATENCY, &[(0, &histogram), (1, &histogram)])];
        let snapshot = snapshot_of(entities, &of_both);
        let merged = by_labels(&snapshot).into_owned();
        let [cpu, latency] = samples(&merged)[..] else { panic!("{:?}", samples(&merged)) };
        assert_eq!(cpu.value, Value::Nanoseconds(10));
        let Value::Histogram(sum) = latency.value else { panic!("no histogram") };
        assert_eq!((sum.buckets()[2], sum.sum_ns()), (2, 6));
    }

    #[test]
    fn a_gauge_is_that_of_the_living() {
        let mut entities = ["1", "2"].map(|id| state(instance("web", "app", id))).to_vec();
        entities[0].gone = true;
        let snapshot = snapshot_of(entities, &[values(&LIMIT, &[(0, &[1_000_000_000]), (1, &[500_000_000])])]);
        let merged = by_labels(&snapshot).into_owned();
        let found: Vec<Value<'_>> = samples(&merged).iter().map(|sample| sample.value).collect();
        assert_eq!(found, [Value::Float(0.5)]);
    }

    #[test]
    fn culprits_of_one_name_are_one_and_the_rest_stays_the_rest() {
        let entities = vec![
            state(instance("web", "app", "1")),
            state(instance("noisy", "", "2")),
            state(instance("noisy", "", "3")),
            state(Entity::unit("web")),
        ];
        let by_culprit = [
            (0, Culprit::Entity(1), 1),
            (0, Culprit::Entity(2), 2),
            (0, Culprit::Entity(3), 4),
            (0, Culprit::Other, 8),
        ];
        let snapshot = snapshot_of(entities, &[caused(&by_culprit)]);
        let merged = by_labels(&snapshot).into_owned();
        let found: Vec<(Option<Culprit>, Value<'_>)> =
            samples(&merged).iter().map(|sample| (sample.culprit, sample.value)).collect();
        assert_eq!(
            found,
            [
                (Some(Culprit::Entity(1)), Value::Nanoseconds(3)),
                (Some(Culprit::Entity(3)), Value::Nanoseconds(4)),
                (Some(Culprit::Other), Value::Nanoseconds(8)),
            ]
        );
    }
}
