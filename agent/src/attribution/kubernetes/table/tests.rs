//! Tests of the table of names: what changes of pods make of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use super::{CONTAINERS_PER_POD, ContainerFacts, DESCRIBED, Table, UNLISTED_PODS, sandbox::CERTAIN_AFTER};
use crate::{
    attribution::kubernetes::{
        pod::{Container, Ended, Phase, Pod, Resources, Restart},
        workload::Workload,
    },
    signal::{self, Entity},
};

const KEEP: Duration = Duration::from_mins(6);

fn pod(uid: &str, name: &str, containers: &[(&str, &str)]) -> Pod {
    Pod {
        uid: uid.into(),
        cgroup_uid: None,
        namespace: "shop".into(),
        name: name.into(),
        workload: Workload::of(None, None, name),
        qos: "Burstable".into(),
        host_network: false,
        resources: Resources::default(),
        containers: containers.iter().map(|(name, id)| running(name, id)).collect(),
        has_sandbox: true,
    }
}

fn running(name: &str, id: &str) -> Container {
    Container {
        name: name.into(),
        image: format!("{name}:1").into(),
        resources: Resources::default(),
        id: (!id.is_empty()).then(|| id.into()),
        previous_id: None,
        phase: if id.is_empty() { Phase::Waiting } else { Phase::Running },
        restart: Restart::Always,
        ended: Vec::new(),
    }
}

fn ended(id: &str, second: u64) -> Ended {
    Ended {
        id: id.into(),
        exit_code: 1,
        signal: None,
        reason: "Error".into(),
        started: "".into(),
        finished: UNIX_EPOCH + Duration::from_secs(second),
    }
}

/// The entity as its cgroup's path tells it.
fn entity(uid: &str, id: &str) -> Entity {
    Entity::Container(signal::Container {
        namespace: "".into(),
        pod: uid.into(),
        container: id.into(),
        pod_uid: uid.into(),
        container_id: id.into(),
    })
}

#[track_caller]
fn check(table: &Table, uid: &str, id: &str, expected: (&str, &str, &str)) {
    let Entity::Container(named) = table.name(&entity(uid, id)) else { panic!("a pod became a unit") };
    assert_eq!((&*named.namespace, &*named.pod, &*named.container), expected, "{uid} {id}");
    assert_eq!((&*named.pod_uid, &*named.container_id), (uid, id), "identity stays");
}

/// The uid under which an entity is told to everybody.
fn told_uid(table: &Table, uid: &str, id: &str) -> String {
    let Entity::Container(named) = table.name(&entity(uid, id)) else { panic!("a pod became a unit") };
    format!("{} {} {}", named.pod_uid, named.pod, named.container)
}

#[test]
fn a_pod_is_named_by_its_uid_and_a_container_by_its_id() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1"), ("proxy", "2")]), now);
    check(&table, "u1", "1", ("shop", "web", "app"));
    check(&table, "u1", "2", ("shop", "web", "proxy"));
    check(&table, "u1", "", ("shop", "web", ""));
    check(&table, "u1", "3", ("shop", "web", "3"));
    check(&table, "u2", "1", ("", "u2", "1"));
    assert_eq!(table.name(&Entity::unit("cron.service")), Entity::unit("cron.service"));
}

#[test]
fn every_instance_of_a_container_keeps_its_name() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1")]), now);
    let mut restarted = pod("u1", "web", &[("app", "3")]);
    restarted.containers[0].previous_id = Some("2".into());
    table.apply(restarted, now);
    for id in ["1", "2", "3"] {
        check(&table, "u1", id, ("shop", "web", "app"));
    }
}

#[test]
fn a_static_pod_is_found_by_the_hash_in_its_cgroup_and_by_its_own_uid() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    let mirror = |uid: &str| Pod { cgroup_uid: Some("hash".into()), ..pod(uid, "etcd-node", &[("etcd", "1")]) };
    table.apply(mirror("u1"), now);
    // A mirror that somebody deletes is made again under another uid; the cgroup stays.
    table.apply(mirror("u2"), now);
    table.delete("u1", now);
    table.refresh([], now + KEEP);
    check(&table, "u2", "1", ("shop", "etcd-node", "etcd"));
    // One uid everywhere: that of the API server, which others know.
    assert_eq!(told_uid(&table, "hash", "1"), "u2 etcd-node etcd");
    assert_eq!(told_uid(&table, "hash", ""), "u2 etcd-node ");
}

#[test]
fn a_mirror_that_is_made_again_knows_what_the_former_one_told() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.tell_ends(UNIX_EPOCH);
    let mirror = |of: Pod| Pod { cgroup_uid: Some("hash".into()), ..of };
    table.apply(mirror(crashed(&[ended("2", 10)])), now);
    assert_eq!(table.take_ends().len(), 1);
    // At first the kubelet has not written its status.
    let anew = Pod { uid: "u2".into(), containers: Vec::new(), ..crashed(&[]) };
    table.apply(mirror(anew), now);
    table.delete("u1", now);
    assert_eq!(told_uid(&table, "hash", "2"), "u2 web app", "it goes on running");
    table.apply(mirror(Pod { uid: "u2".into(), ..crashed(&[ended("2", 10)]) }), now);
    assert!(table.take_ends().is_empty(), "that end was told");
    // Another pod that says the same hash is no mirror of that one.
    table.apply(mirror(pod("u3", "other", &[])), now);
    assert_eq!(told_uid(&table, "hash", "2"), "u3 other 2");
}

#[test]
fn what_annotations_told_of_a_static_pod_before_its_mirror_was_known_is_the_mirrors() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    let facts = |id: &str, container: Option<&str>| ContainerFacts {
        pod_uid: "hash".into(),
        container_id: id.into(),
        namespace: "shop".into(),
        pod: "etcd-node".into(),
        container: container.map(Into::into),
        image: "etcd:1".into(),
    };
    table.learn(&facts("s", None), now);
    table.learn(&facts("1", Some("etcd")), now);
    assert_eq!(told_uid(&table, "hash", "1"), "hash etcd-node etcd");
    let mirror = Pod { cgroup_uid: Some("hash".into()), ..pod("u1", "etcd-node", &[("etcd", "1")]) };
    table.apply(mirror, now);
    assert_eq!(told_uid(&table, "hash", "1"), "u1 etcd-node etcd");
    assert_eq!(told_uid(&table, "hash", "s"), "u1 etcd-node ", "the sandbox is known by its annotations alone");
    let Entity::Container(container) = entity("hash", "1") else { unreachable!() };
    assert!(table.pod(&container).is_some_and(|pod| *pod.uid == *"u1"), "the mirror's object describes it");
    assert_eq!(table.conflicts(), 0);
}

#[test]
fn more_may_be_learnt_of_a_pod_until_all_its_ids_are_listed() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    assert!(table.may_learn("u1"), "nobody has told of it");
    table.apply(pod("u1", "web", &[("app", ""), ("proxy", "2")]), now);
    assert!(table.may_learn("u1"));
    table.apply(pod("u1", "web", &[("app", "1"), ("proxy", "2")]), now);
    assert!(!table.may_learn("u1"));
    table.apply(pod("u2", "empty", &[]), now);
    assert!(table.may_learn("u2"));
}

#[test]
fn a_deleted_pod_keeps_its_names_as_long_as_somebody_holds_values_of_it() {
    let (mut table, start) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1")]), start);
    table.apply(pod("u2", "job", &[("main", "2")]), start);
    table.replace_all(Vec::new(), start);
    assert_eq!(table.listed(), 0);
    let held = entity("u1", "1");
    let later = start + KEEP / 2;
    assert!(table.refresh([(&held, false)], later).is_empty());
    check(&table, "u2", "2", ("shop", "job", "main"));
    assert!(table.refresh([(&held, false)], start + KEEP).is_empty());
    check(&table, "u2", "2", ("", "u2", "2"));
    check(&table, "u1", "1", ("shop", "web", "app"));
    table.refresh([], start + 2 * KEEP);
    check(&table, "u1", "1", ("", "u1", "1"));
}

#[test]
fn a_deleted_pods_object_is_kept_as_long_as_a_cgroup_of_it_lives_and_its_names_longer() {
    let (mut table, start) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u", "web-0", &[("app", "a")]), start);
    table.delete("u", start);
    let asked = entity("u", "a");
    let Entity::Container(container) = &asked else { unreachable!() };
    let later = start + 2 * DESCRIBED;
    table.refresh([(&asked, true)], later);
    table.refresh([(&asked, false)], later + DESCRIBED / 2);
    assert!(table.pod(container).is_some(), "it lived a moment ago");
    table.refresh([(&asked, false)], later + DESCRIBED);
    assert!(table.pod(container).is_none());
    check(&table, "u", "a", ("shop", "web-0", "app"));
}

#[test]
fn a_listed_pod_forgets_only_instances_that_nobody_lists_or_holds() {
    let (mut table, start) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1")]), start);
    table.apply(pod("u1", "web", &[("app", "2")]), start);
    table.refresh([], start + KEEP);
    check(&table, "u1", "1", ("shop", "web", "1"));
    check(&table, "u1", "2", ("shop", "web", "app"));
}

#[test]
fn memory_is_bounded_and_what_is_dropped_is_the_oldest_and_counted() {
    let (mut table, start) = (Table::new(KEEP), Instant::now());
    for number in 0..UNLISTED_PODS + 10 {
        let now = start + Duration::from_millis(number as u64);
        table.apply(pod(&format!("u{number}"), "job", &[("main", &number.to_string())]), now);
        table.delete(&format!("u{number}"), now);
    }
    table.refresh([], start + Duration::from_mins(1));
    assert_eq!((table.pods.len(), table.dropped()), (UNLISTED_PODS, 10));
    check(&table, "u9", "9", ("", "u9", "9"));
    check(&table, "u10", "10", ("shop", "job", "main"));

    let mut table = Table::new(KEEP);
    for number in 0..=CONTAINERS_PER_POD {
        table.apply(pod("u", "web", &[("app", &number.to_string())]), start + Duration::from_millis(number as u64));
    }
    table.refresh([], start);
    assert_eq!((table.pods["u"].containers.len(), table.dropped()), (CONTAINERS_PER_POD, 1));
    check(&table, "u", "0", ("shop", "web", "0"));
}

#[test]
fn an_answer_that_gives_a_known_pod_another_name_is_not_believed() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1")]), now);
    table.apply(pod("u1", "other", &[("evil", "1"), ("evil", "2")]), now);
    check(&table, "u1", "1", ("shop", "web", "app"));
    check(&table, "u1", "2", ("shop", "web", "2"));
    table.apply(pod("u1", "web", &[("renamed", "1")]), now);
    check(&table, "u1", "1", ("shop", "web", "app"));
    assert_eq!(table.conflicts(), 1);
}

#[test]
fn annotations_name_a_container_before_and_without_any_pod_object() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    let facts = |id: &str, container: Option<&str>| ContainerFacts {
        pod_uid: "u1".into(),
        container_id: id.into(),
        namespace: "shop".into(),
        pod: "web".into(),
        container: container.map(Into::into),
        image: "".into(),
    };
    table.learn(&facts("1", Some("app")), now);
    table.learn(&facts("2", None), now);
    check(&table, "u1", "1", ("shop", "web", "app"));
    check(&table, "u1", "2", ("shop", "web", ""));
    check(&table, "u1", "", ("shop", "web", ""));
    assert_eq!(table.listed(), 0);
    table.refresh([], now + KEEP);
    check(&table, "u1", "1", ("", "u1", "1"));
}

#[test]
fn what_has_no_name_is_told_and_what_has_one_is_not() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1")]), now);
    let entities = [entity("u1", "1"), entity("u1", ""), entity("u1", "2"), entity("u2", ""), Entity::unit("x")];
    let unknown = table.refresh(entities.iter().map(|entity| (entity, true)), now);
    let told: Vec<(&str, &str)> = unknown.iter().map(|one| (&*one.pod_uid, &*one.container_id)).collect();
    assert_eq!(told, [("u1", "2"), ("u2", "")]);
    for one in &entities {
        assert_eq!(table.knows(one), !["2", "u2"].iter().any(|part| format!("{one:?}").contains(&format!("{part}\""))));
    }
}

/// Meets the pod `u1` with these living containers, once a second for as long as it takes to be certain.
fn settle(table: &mut Table, living: &[&str], start: Instant) -> Instant {
    let entities: Vec<Entity> = living.iter().map(|id| entity("u1", id)).collect();
    let mut now = start;
    while now <= start + CERTAIN_AFTER {
        table.refresh(entities.iter().map(|entity| (entity, true)), now);
        now += Duration::from_secs(1);
    }
    now
}

#[track_caller]
fn check_sandbox(pod: Pod, living: &[&str], is_sandbox: bool) {
    let mut table = Table::new(KEEP);
    let now = Instant::now();
    let text = format!("{:?}", pod.containers);
    table.apply(pod, now);
    settle(&mut table, living, now);
    check(&table, "u1", "s", ("shop", "web", if is_sandbox { "" } else { "s" }));
    assert!(table.knows(&entity("u1", "s")) == is_sandbox, "{text}");
}

#[test]
fn the_only_container_that_no_status_lists_is_the_sandbox_once_nothing_else_is_possible() {
    let with = |restart, phase, id: &str| {
        let mut one = pod("u1", "web", &[("app", "1"), ("other", id)]);
        one.containers[1].restart = restart;
        one.containers[1].phase = phase;
        one
    };
    let good = Phase::Ended { well: true };
    let bad = Phase::Ended { well: false };
    check_sandbox(pod("u1", "web", &[("app", "1")]), &["1", "s"], true);
    check_sandbox(with(Restart::OnFailure, good, "2"), &["1", "s"], true);
    check_sandbox(with(Restart::OnFailure, Phase::Running, "2"), &["1", "2", "s"], true);
    check_sandbox(with(Restart::Never, bad, "2"), &["1", "s"], true);

    // The status does not tell of a container that has just been started.
    check_sandbox(with(Restart::Always, Phase::Waiting, ""), &["1", "s"], false);
    check_sandbox(with(Restart::Never, Phase::Waiting, ""), &["1", "s"], false);
    check_sandbox(with(Restart::Always, good, "2"), &["1", "s"], false);
    check_sandbox(with(Restart::OnFailure, bad, "2"), &["1", "s"], false);
    // The status tells of one that has gone: the other may be its successor.
    check_sandbox(pod("u1", "web", &[("app", "1")]), &["s"], false);
    // Two that are not listed.
    check_sandbox(pod("u1", "web", &[("app", "1")]), &["1", "s", "t"], false);
    check_sandbox(pod("u1", "web", &[]), &["s"], false);
}

#[test]
fn what_is_not_listed_beside_containers_that_all_have_had_their_only_life_is_the_sandbox_gone_or_not() {
    let check = |change: fn(&mut Pod), lives: bool, is_sandbox: bool| {
        let (mut table, now) = (Table::new(KEEP), Instant::now());
        let mut job = pod("u1", "job", &[("init", "1"), ("main", "2")]);
        for container in &mut job.containers {
            container.restart = Restart::Never;
            container.phase = Phase::Ended { well: false };
        }
        change(&mut job);
        table.apply(job, now);
        let one = entity("u1", "s");
        assert_eq!(table.refresh([(&one, lives)], now).is_empty(), is_sandbox);
        check(&table, "u1", "s", ("shop", "job", if is_sandbox { "" } else { "s" }));
    };
    check(|_| {}, true, true);
    check(|_| {}, false, true);
    check(|job| job.containers[1].phase = Phase::Running, true, true);
    check(|job| job.containers[1].id = None, true, false);
    check(|job| job.containers[1].restart = Restart::OnFailure, false, false);
    check(|job| job.has_sandbox = false, true, false);
    check(|job| job.containers.clear(), true, false);
}

#[test]
fn a_sandbox_is_not_guessed_in_a_hurry_nor_twice() {
    let (mut table, start) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1")]), start);
    let entities = [entity("u1", "1"), entity("u1", "s")];
    table.refresh(entities.iter().map(|entity| (entity, true)), start);
    table.refresh(entities.iter().map(|entity| (entity, true)), start + CERTAIN_AFTER / 2);
    check(&table, "u1", "s", ("shop", "web", "s"));
    let now = settle(&mut table, &["1", "s"], start);
    check(&table, "u1", "s", ("shop", "web", ""));
    // The container restarts, and the status has not heard of it yet.
    let now = settle(&mut table, &["2", "s"], now);
    let now = settle(&mut table, &["1", "2", "s"], now);
    check(&table, "u1", "2", ("shop", "web", "2"));
    table.apply(pod("u1", "web", &[("app", "2")]), now);
    check(&table, "u1", "2", ("shop", "web", "app"));
}

#[test]
fn a_status_corrects_a_guess() {
    let (mut table, start) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1")]), start);
    let now = settle(&mut table, &["1", "s"], start);
    table.apply(pod("u1", "web", &[("app", "1"), ("late", "s")]), now);
    check(&table, "u1", "s", ("shop", "web", "late"));
}

#[test]
fn the_objects_of_pod_and_container_are_found_by_entity() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.apply(pod("u1", "web", &[("app", "1"), ("proxy", "2")]), now);
    let base = |id: &str| match entity("u1", id) {
        Entity::Container(container) => container,
        other => panic!("no container: {other}"),
    };
    assert_eq!(&*table.pod(&base("")).unwrap().name, "web");
    assert_eq!(&*table.container(&base("2")).unwrap().image, "proxy:1");
    assert_eq!(table.image(&base("1")).map(Arc::as_ref), Some("app:1"));
    assert!(table.container(&base("3")).is_none() && table.image(&base("3")).is_none());
}

/// The pod `u1` and these containers were born in this order; the status lists `listed`.
fn witnessed(born: &[&str], listed: &[(&str, &str)], change: impl FnOnce(&mut Table, &mut Pod)) -> Table {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    for id in born {
        let Entity::Container(container) = entity("u1", id) else { panic!("a unit") };
        table.born(&container, now);
    }
    let mut pod = pod("u1", "web", listed);
    change(&mut table, &mut pod);
    table.apply(pod, now);
    table
}

#[test]
fn the_first_that_was_born_is_the_sandbox_once_the_status_lists_others() {
    let sandbox = ("shop", "web", "");
    let itself = ("shop", "web", "s");
    check(&witnessed(&["", "s", "1"], &[("app", "1")], |_, _| {}), "u1", "s", sandbox);
    // Nobody is listed yet, or it is listed itself.
    check(&witnessed(&["", "s", "1"], &[("app", "")], |_, _| {}), "u1", "s", itself);
    check(&witnessed(&["", "s", "1"], &[("late", "s"), ("app", "1")], |_, _| {}), "u1", "s", ("shop", "web", "late"));
    // It was not the first, or others may have been before it.
    check(&witnessed(&["", "1", "s"], &[("app", "1")], |_, _| {}), "u1", "s", itself);
    check(&witnessed(&["s", "1"], &[("app", "1")], |_, _| {}), "u1", "s", itself);
    check(&witnessed(&["", "s", "1"], &[("app", "1")], |table, _| table.births_lost()), "u1", "s", itself);
    // A runtime without sandboxes.
    check(&witnessed(&["", "s", "1"], &[("app", "1")], |_, pod| pod.has_sandbox = false), "u1", "s", itself);
}

#[test]
fn births_are_forgotten() {
    let mut table = witnessed(&["", "s", "1"], &[], |_, _| {});
    table.refresh([], Instant::now() + KEEP);
    assert!(table.births.is_empty());
}

/// A pod whose one container has ended like this, and ran as instance 2 before.
fn crashed(ends: &[Ended]) -> Pod {
    let mut pod = pod("u1", "web", &[("app", "3")]);
    pod.containers[0].previous_id = Some("2".into());
    pod.containers[0].ended = ends.to_vec();
    pod
}

#[track_caller]
fn check_ends(table: &mut Table, expected: &[&str]) {
    let ends = table.take_ends();
    assert!(ends.iter().all(|end| &*end.pod_uid == "u1"));
    assert_eq!(ends.iter().map(|end| &*end.ended.id).collect::<Vec<_>>(), expected);
}

#[test]
fn the_end_of_each_instance_is_told_once_however_often_it_is_listed() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.tell_ends(UNIX_EPOCH);
    for _ in 0..2 {
        table.apply(crashed(&[ended("2", 10)]), now);
    }
    check_ends(&mut table, &["2"]);
    table.replace_all(vec![crashed(&[ended("3", 20), ended("2", 10)])], now);
    check_ends(&mut table, &["3"]);
    table.delete("u1", now);
    table.replace_all(vec![crashed(&[ended("3", 20), ended("2", 10)])], now);
    check_ends(&mut table, &[]);
}

#[test]
fn what_ended_before_the_agent_began_is_not_told() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.tell_ends(UNIX_EPOCH + Duration::from_millis(15_500));
    table.apply(crashed(&[ended("3", 15), ended("2", 14)]), now);
    // It may have been in the second half of that second.
    check_ends(&mut table, &["3"]);
}

#[test]
fn nothing_is_kept_of_ends_that_nobody_asks_for() {
    let (mut table, now) = (Table::new(KEEP), Instant::now());
    table.apply(crashed(&[ended("2", 10)]), now);
    check_ends(&mut table, &[]);
}
