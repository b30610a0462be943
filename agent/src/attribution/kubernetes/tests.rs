//! Tests of the names that a snapshot gets, and of what is told about pods.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use testkit::http::{Reply, Server};

use super::{
    Names,
    client::{Client, Limits},
    kubelet::KubeletSource,
    pod::PodList,
};
use crate::signal::{Container, Entity, Naming as _};

const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";

fn entity(id: &str) -> Entity {
    Entity::Container(Container {
        namespace: "".into(),
        pod: "u".into(),
        container: id.into(),
        pod_uid: "u".into(),
        container_id: id.into(),
    })
}

fn list() -> PodList {
    PodList::decode(pod_list(&json!({ "running": {} })).to_string().as_bytes()).unwrap()
}

/// One pod, whose container is in this state.
fn pod_list(state: &Value) -> Value {
    json!({ "kind": "PodList", "items": [{
        "metadata": { "name": "web-0", "namespace": "shop", "uid": "u",
            "ownerReferences": [{ "kind": "StatefulSet", "name": "web", "controller": true }] },
        "spec": { "containers": [{ "name": "app", "image": "app:1",
            "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "1Ki" } } }] },
        "status": { "qosClass": "Burstable", "containerStatuses": [
            { "name": "app", "containerID": format!("containerd://{ID}"), "state": state }] },
    }]})
}

#[test]
fn a_name_is_pending_only_while_there_is_a_source() {
    let names = Names::new(Duration::from_mins(5));
    assert!(!names.is_pending(&entity(ID)));
    names.set_synced(false);
    assert!(names.is_pending(&entity(ID)));
    assert!(!names.is_pending(&Entity::unit("x")));
    names.replace_all(list().pods);
    assert!(!names.is_pending(&entity(ID)));
}

#[tokio::test]
async fn the_birth_of_a_container_without_a_name_is_a_wish_for_it() {
    let names = Arc::new(Names::new(Duration::from_mins(5)));
    let seeker = tokio::spawn({
        let names = Arc::clone(&names);
        async move { names.unnamed.next().await }
    });
    tokio::task::yield_now().await;
    names.born(&Entity::unit("x"), true);
    names.born(&entity(""), true);
    names.born(&entity(ID), true);
    let wanted = seeker.await.unwrap();
    assert_eq!(wanted.len(), 1);
    assert_eq!(&*wanted[0].container_id, ID);
}

/// A kubelet with one pod, whose container is in this state, and how often it was asked.
fn kubelet(state: &Arc<Mutex<Value>>) -> (Server, Arc<AtomicU32>) {
    let (state, asked) = (Arc::clone(state), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&asked);
    let server = Server::start(move |request| {
        assert_eq!(request.path, "/pods");
        count.fetch_add(1, Ordering::Relaxed);
        let body = pod_list(&state.lock().unwrap()).to_string();
        Reply { content_type: "application/json", body }
    });
    (server, asked)
}

async fn eventually<T>(what: &str, found: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match found() {
            Some(found) => return found,
            None if start.elapsed() > Duration::from_secs(20) => panic!("{what}: not within 20 s"),
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn a_containers_end_is_a_reason_to_ask_the_kubelet_until_the_status_tells_it() {
    let state = Arc::new(Mutex::new(json!({ "running": {} })));
    let (server, asked) = kubelet(&state);
    let config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
    let names = Arc::new(Names::new(Duration::from_mins(5)));
    names.tell_ends(SystemTime::UNIX_EPOCH);
    let source = KubeletSource::new(Client::new(&config, Limits::default()).unwrap(), "n", Arc::clone(&names));
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let task = tokio::spawn(source.run(shutdown));
    eventually("a source", || names.tells_statuses().then_some(())).await;
    eventually("a name", || {
        names.born(&entity(ID), true);
        (!names.is_pending(&entity(ID))).then_some(())
    })
    .await;
    assert_eq!(names.take_ends(), []);
    let asked_before = asked.load(Ordering::Relaxed);
    // The status is late: the kubelet has not looked at its runtime yet.
    names.want_end(&entity(ID));
    eventually("a look at the status", || (asked.load(Ordering::Relaxed) > asked_before).then_some(())).await;
    *state.lock().unwrap() = json!({ "terminated": { "containerID": format!("containerd://{ID}"), "exitCode": 137,
        "reason": "OOMKilled", "finishedAt": "2026-01-02T03:04:05Z" } });
    let ends = eventually("the end", || Some(names.take_ends()).filter(|ends| !ends.is_empty())).await;
    assert_eq!(ends.iter().map(|end| &*end.ended.reason).collect::<Vec<_>>(), ["OOMKilled"]);
    task.abort();
}

#[tokio::test]
async fn how_many_pods_there_are_is_told_by_a_source_that_lists_them_alone() {
    let names = Names::new(Duration::from_mins(5));
    names.set_synced(true);
    assert_eq!(names.health().pods, None, "annotations tell of containers");
    names.set_lists_pods();
    assert_eq!(names.health().pods, None, "it has not answered yet");
    names.replace_all(list().pods);
    assert_eq!(names.health().pods, Some(1));
}
