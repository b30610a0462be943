#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use serde_json::json;

use super::{Names, pod::PodList};
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
    let list = json!({ "kind": "PodList", "items": [{
        "metadata": { "name": "web-0", "namespace": "shop", "uid": "u",
            "ownerReferences": [{ "kind": "StatefulSet", "name": "web", "controller": true }] },
        "spec": { "containers": [{ "name": "app", "image": "app:1",
            "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "1Ki" } } }] },
        "status": { "qosClass": "Burstable", "containerStatuses": [
            { "name": "app", "containerID": format!("containerd://{ID}"), "state": { "running": {} } }] },
    }]});
    PodList::decode(list.to_string().as_bytes()).unwrap()
}

#[test]
fn a_name_is_pending_only_while_there_is_a_source() {
    let names = Names::new(std::time::Duration::from_mins(5));
    assert!(!names.is_pending(&entity(ID)));
    names.set_synced(false);
    assert!(names.is_pending(&entity(ID)));
    assert!(!names.is_pending(&Entity::unit("x")));
    names.replace_all(list().pods);
    assert!(!names.is_pending(&entity(ID)));
}

#[tokio::test]
async fn what_is_wanted_is_handed_out_once_and_only_to_those_who_ask() {
    let names = Arc::new(Names::new(std::time::Duration::from_mins(5)));
    names.born(&entity(ID), true);
    let seeker = tokio::spawn({
        let names = Arc::clone(&names);
        async move { names.next_wanted().await }
    });
    tokio::task::yield_now().await;
    assert!(!seeker.is_finished(), "nobody listened when it was born");
    names.born(&entity(ID), true);
    names.born(&entity(ID), true);
    names.born(&Entity::unit("x"), true);
    names.born(&entity(""), true);
    let wanted = seeker.await.unwrap();
    assert_eq!(wanted.len(), 1);
    assert_eq!(&*wanted[0].container_id, ID);
    assert!(names.wanted().is_empty());
}
