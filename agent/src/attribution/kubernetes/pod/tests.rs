//! Tests of the decoder of pods: examples, and that no input makes it panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;

use super::{Phase, PodError, PodList, Restart, bare_id};

const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
const OLD: &str = "aaaa0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";

/// A pod as the API server shows it, with much that podlens does not need.
fn object() -> serde_json::Value {
    json!({
        "metadata": {
            "name": "web-7d4b9c6f5-x2x4z", "namespace": "shop", "uid": "u-1", "resourceVersion": "12",
            "generateName": "web-7d4b9c6f5-", "creationTimestamp": "2026-11-24T08:00:00Z",
            "labels": { "app": "web", "pod-template-hash": "7d4b9c6f5" },
            "annotations": { "note": "text" },
            "ownerReferences": [
                { "kind": "Other", "name": "x", "uid": "1" },
                { "kind": "ReplicaSet", "name": "web-7d4b9c6f5", "uid": "2", "controller": true }
            ],
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:status": {} } }],
        },
        "spec": {
            "nodeName": "n", "hostNetwork": true,
            "initContainers": [{ "name": "setup", "image": "setup:1", "resources": {} }],
            "containers": [{
                "name": "app", "image": "registry:5000/app:2", "env": [{ "name": "SECRET", "value": "s3cret" }],
                "resources": { "requests": { "cpu": "250m", "memory": "64Mi", "x/gpu": "1" }, "limits": { "cpu": 2 } },
            }],
            "ephemeralContainers": [{ "name": "debug", "image": "busybox" }],
        },
        "status": {
            "phase": "Running", "qosClass": "Burstable",
            "initContainerStatuses": [{
                "name": "setup", "containerID": format!("containerd://{OLD}"),
                "state": { "terminated": { "exitCode": 0, "containerID": format!("containerd://{OLD}") } },
            }],
            "containerStatuses": [{
                "name": "app", "containerID": format!("containerd://{ID}"), "restartCount": 1,
                "state": { "running": { "startedAt": "2026-11-24T08:00:01Z" } },
                "lastState": { "terminated": { "exitCode": 137, "containerID": format!("containerd://{OLD}") } },
            }],
            "ephemeralContainerStatuses": null,
        },
    })
}

fn decode(items: &serde_json::Value) -> Result<PodList, PodError> {
    let list =
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "77" }, "items": items });
    PodList::decode(list.to_string().as_bytes())
}

#[test]
fn a_pod_is_reduced_to_what_names_need() {
    let list = decode(&json!([object()])).unwrap();
    assert_eq!(list.version, "77");
    let pod = &list.pods[0];
    assert_eq!((&*pod.uid, &*pod.namespace, &*pod.name), ("u-1", "shop", "web-7d4b9c6f5-x2x4z"));
    assert_eq!((&*pod.workload.kind, &*pod.workload.name), ("deployment", "web"));
    assert_eq!((&*pod.qos, pod.host_network, &pod.cgroup_uid), ("Burstable", true, &None));
    let seen: Vec<_> = pod
        .containers
        .iter()
        .map(|one| (&*one.name, one.restart, one.phase, one.id.as_deref(), one.previous_id.as_deref()))
        .collect();
    assert_eq!(
        seen,
        [
            ("setup", Restart::OnFailure, Phase::Ended { well: true }, Some(OLD), None),
            ("app", Restart::Always, Phase::Running, Some(ID), Some(OLD)),
            ("debug", Restart::Never, Phase::Waiting, None, None),
        ]
    );
    let app = &pod.containers[1];
    assert_eq!(&*app.image, "registry:5000/app:2");
    let amounts = app.resources;
    assert_eq!((amounts.cpu_request_cores, amounts.cpu_limit_cores), (Some(0.25), Some(2.0)));
    assert_eq!((amounts.memory_request_bytes, amounts.memory_limit_bytes), (Some(67_108_864.0), None));
    assert!(!format!("{list:?}").contains("s3cret"), "values of the environment are not held");
}

#[test]
fn whether_a_container_is_started_again_is_its_own_policy_or_the_pods() {
    use Restart::{Always, Never, OnFailure};
    let check = |pod: serde_json::Value, own: serde_json::Value, expected: [Restart; 3]| {
        let mut object = object();
        object["spec"]["restartPolicy"] = pod;
        for list in ["initContainers", "containers"] {
            object["spec"][list][0].as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        }
        let containers = &decode(&json!([object])).unwrap().pods[0].containers;
        let found: Vec<Restart> = containers.iter().map(|one| one.restart).collect();
        assert_eq!(found, expected, "{} {own}", object["spec"]["restartPolicy"]);
    };
    check(json!("Always"), json!({}), [OnFailure, Always, Never]);
    check(json!("OnFailure"), json!({}), [OnFailure, OnFailure, Never]);
    check(json!("Never"), json!({}), [Never, Never, Never]);
    check(json!("Never"), json!({ "restartPolicy": "Always" }), [Always, Always, Never]);
    check(json!("Always"), json!({ "restartPolicy": "Never" }), [Never, Never, Never]);
    let rules = json!([{ "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } }]);
    check(json!("Never"), json!({ "restartPolicy": "Never", "restartPolicyRules": rules }), [Always, Always, Never]);
    check(json!("Never"), json!({ "restartPolicyRules": null }), [Never, Never, Never]);
}

#[test]
fn only_a_mirror_is_looked_for_under_the_hash_in_its_annotations() {
    let check = |annotations: serde_json::Value, expected: Option<&str>| {
        let mut pod = object();
        pod["metadata"]["annotations"] = annotations.clone();
        assert_eq!(decode(&json!([pod])).unwrap().pods[0].cgroup_uid.as_deref(), expected, "{annotations}");
    };
    let hash = "kubernetes.io/config.hash";
    check(json!({ hash: "0011", "kubernetes.io/config.mirror": "0011" }), Some("0011"));
    check(json!({ hash: "0011" }), None);
    check(json!({ hash: "u-1", "kubernetes.io/config.mirror": "u-1" }), None);
    check(json!({ hash: 7, "kubernetes.io/config.mirror": "" }), None);
    check(json!(null), None);
}

/// A list with something odd between two good pods.
fn beside(odd: &serde_json::Value) -> PodList {
    let good = |uid: &str| {
        let mut pod = object();
        pod["metadata"]["uid"] = uid.into();
        pod
    };
    decode(&json!([good("u-1"), odd, good("u-2")])).unwrap()
}

#[test]
fn an_object_that_is_no_pod_costs_no_other_ones_name() {
    let check = |change: &dyn Fn(&mut serde_json::Value), part: &str| {
        let mut odd = object();
        change(&mut odd);
        let list = beside(&odd);
        let uids: Vec<&str> = list.pods.iter().map(|pod| &*pod.uid).collect();
        assert_eq!(uids, ["u-1", "u-2"], "{odd}");
        assert_eq!(list.odd.len(), 1, "{odd}");
        assert!(list.odd[0].contains(part), "{part} is not in {:?}", list.odd);
        assert!(!list.odd[0].contains("s3cret"), "{:?}", list.odd);
    };
    for name in ["name", "namespace", "uid"] {
        for value in [json!(""), json!("x".repeat(254)), json!(null)] {
            check(&|pod| pod["metadata"][name] = value.clone(), &format!("no usable {name}"));
        }
        check(&|pod| drop(pod["metadata"].as_object_mut().unwrap().remove(name)), &format!("no usable {name}"));
        check(&|pod| pod["metadata"][name] = json!(7), "cannot decode");
    }
    check(&|pod| pod["metadata"]["uid"] = json!(""), "shop/web-7d4b9c6f5-x2x4z");
    check(&|pod| pod["metadata"] = json!(null), "?/?");
    check(&|pod| pod["spec"]["containers"] = json!("none"), "shop/web-7d4b9c6f5-x2x4z: cannot decode");
    check(&|pod| pod["status"]["containerStatuses"][0]["containerID"] = json!(["x"]), "cannot decode");
    for odd in [json!(null), json!("text"), json!([]), json!(1)] {
        check(&|pod| *pod = odd.clone(), "?/?");
    }
}

#[test]
fn null_is_the_same_as_a_missing_field() {
    let without = |pointer: &str, field: &str| {
        let (mut null, mut missing) = (object(), object());
        null.pointer_mut(pointer).unwrap()[field] = json!(null);
        missing.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(field);
        let [null, missing] = [null, missing].map(|pod| decode(&json!([pod])).unwrap());
        assert_eq!(null.odd, missing.odd, "{pointer} {field}");
        assert_eq!(null.pods, missing.pods, "{pointer} {field}");
        null
    };
    for (pointer, field) in [
        ("/metadata", "labels"),
        ("/metadata", "annotations"),
        ("/metadata", "ownerReferences"),
        ("/metadata/ownerReferences/1", "controller"),
        ("/metadata/labels", "pod-template-hash"),
        ("", "spec"),
        ("/spec", "hostNetwork"),
        ("/spec", "restartPolicy"),
        ("/spec", "containers"),
        ("/spec", "initContainers"),
        ("/spec/containers/0", "image"),
        ("/spec/containers/0", "resources"),
        ("/spec/containers/0", "restartPolicy"),
        ("/spec/containers/0/resources", "requests"),
        ("/spec/containers/0/resources/requests", "cpu"),
        ("", "status"),
        ("/status", "qosClass"),
        ("/status", "containerStatuses"),
        ("/status/containerStatuses/0", "containerID"),
        ("/status/containerStatuses/0", "state"),
        ("/status/containerStatuses/0", "lastState"),
        ("/status/containerStatuses/0/state", "running"),
        ("/status/initContainerStatuses/0/state/terminated", "exitCode"),
    ] {
        assert_eq!(without(pointer, field).pods.len(), 1, "{pointer} {field}");
    }
    let mut pod = object();
    for list in ["/spec/containers", "/status/containerStatuses", "/metadata/ownerReferences"] {
        pod.pointer_mut(list).unwrap().as_array_mut().unwrap().insert(0, json!(null));
    }
    assert_eq!(decode(&json!([pod])).unwrap(), decode(&json!([object()])).unwrap());
}

#[test]
fn what_runs_counts_while_a_container_is_resized_in_place() {
    let check = |status: serde_json::Value, expected: [Option<f64>; 4]| {
        let mut pod = object();
        pod["spec"]["containers"][0]["resources"] =
            json!({ "requests": { "cpu": "2", "memory": "1Ki" }, "limits": { "cpu": "4" } });
        pod["status"]["containerStatuses"][0].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        let resources = decode(&json!([pod])).unwrap().pods[0].containers[1].resources;
        let found = [
            resources.cpu_request_cores,
            resources.memory_request_bytes,
            resources.cpu_limit_cores,
            resources.memory_limit_bytes,
        ];
        assert_eq!(found, expected, "{status}");
    };
    let asked = [Some(2.0), Some(1024.0), Some(4.0), None];
    check(json!({}), asked);
    check(json!({ "resources": null, "allocatedResources": null }), asked);
    check(json!({ "resources": {}, "allocatedResources": {} }), asked);
    let requests = json!({ "cpu": "500m", "memory": "2Ki" });
    check(json!({ "allocatedResources": requests }), [Some(0.5), Some(2048.0), Some(4.0), None]);
    check(
        json!({ "resources": { "requests": requests, "limits": { "cpu": "1", "memory": "4Ki" } },
            "allocatedResources": { "cpu": "750m", "memory": "3Ki" } }),
        [Some(0.5), Some(2048.0), Some(1.0), Some(4096.0)],
    );
    check(json!({ "resources": { "requests": { "cpu": "500m" } } }), [Some(0.5), None, Some(4.0), None]);
}

#[test]
fn a_pod_has_requests_and_limits_of_its_own() {
    let mut pod = object();
    assert_eq!(decode(&json!([pod])).unwrap().pods[0].resources, super::Resources::default());
    pod["spec"]["resources"] = json!({ "requests": { "cpu": "1500m", "memory": "1.5Gi" }, "limits": null });
    let resources = decode(&json!([pod])).unwrap().pods[0].resources;
    assert_eq!((resources.cpu_request_cores, resources.memory_request_bytes), (Some(1.5), Some(1_610_612_736.0)));
    assert_eq!((resources.cpu_limit_cores, resources.memory_limit_bytes), (None, None));
}

#[test]
fn what_lacks_all_but_its_identity_is_a_pod() {
    let least = json!([{ "metadata": { "name": "a", "namespace": "b", "uid": "c" } }]);
    assert_eq!(decode(&least).unwrap().pods[0].containers, []);
    assert_eq!(decode(&json!(null)).unwrap().pods, []);
    for text in ["", "{}", "[]", "null", "{\"kind\":\"Status\"}", "{\"kind\":\"PodList\",\"items\":[", "\u{0}"] {
        assert!(PodList::decode(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn an_id_is_64_digits_behind_any_scheme() {
    for (text, expected) in [
        (format!("containerd://{ID}"), Some(ID)),
        (format!("cri-o://{ID}"), Some(ID)),
        (ID.to_owned(), Some(ID)),
        (String::new(), None),
        ("containerd://".to_owned(), None),
        (format!("containerd://{}", &ID[1..]), None),
        (format!("containerd://{}/", &ID[1..]), None),
        (ID.to_uppercase(), None),
        ("é".repeat(32), None),
    ] {
        assert_eq!(bare_id(&text).as_deref(), expected, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = PodList::decode(&bytes);
    }

    /// A list that was cut is no list; one that was changed is refused or still a list.
    #[test]
    fn damage_to_a_real_list_is_no_panic(at in 0_usize..4000, byte in any::<u8>(), cut in any::<bool>()) {
        let list = json!({ "kind": "PodList", "metadata": {}, "items": [object()] }).to_string();
        let mut bytes = list.into_bytes();
        let at = at % bytes.len();
        if cut {
            bytes.truncate(at);
            prop_assert!(PodList::decode(&bytes).is_err());
        } else {
            bytes[at] = byte;
            let _ = PodList::decode(&bytes);
        }
    }
}
