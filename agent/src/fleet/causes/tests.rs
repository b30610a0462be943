//! Causes by what the API server tells of pods, nodes and events.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

const AT: &str = "2026-01-01T00:00:00Z";

fn node(spec: &Value) -> Node {
    let mut node = json!({ "metadata": { "name": "n1" } });
    node.as_object_mut().unwrap().insert("status".to_owned(), spec.clone());
    serde_json::from_value(node).unwrap()
}

fn good_node() -> Node {
    node(&json!({
        "conditions": [{ "type": "Ready", "status": "True" }],
        "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "10" },
    }))
}

fn pod(name: &str, spec: &Value, status: &Value) -> Pod {
    let metadata = json!({ "name": name, "namespace": "ns", "uid": name, "creationTimestamp": AT,
        "ownerReferences": [{ "kind": "DaemonSet", "uid": "ds", "controller": true }] });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec, "status": status })).unwrap()
}

fn event(object: &str, reason: &str, message: &str, at: &str) -> Event {
    let object = json!({ "uid": object });
    let metadata = json!({ "uid": format!("{reason} {at}") });
    serde_json::from_value(
        json!({ "metadata": metadata, "involvedObject": object, "reason": reason, "message": message, "lastTimestamp": at }),
    )
    .unwrap()
}

fn noted(events: &[Event]) -> Events {
    let mut noted = Events::default();
    for event in events {
        noted.put(event.clone()).unwrap();
    }
    noted
}

#[track_caller]
fn check(pod: &Pod, node: &Node, beside: &[&Pod], events: &[Event], reason: Reason, words: &str) {
    let lack = of_pod(pod, node, beside, &noted(events));
    assert_eq!((lack.reason, lack.detail.contains(words)), (reason, true), "{lack:?} without {words:?}");
    assert!(lack.since.is_some());
}

/// A pod on its node whose first container has this status.
fn with_container(state: &Value) -> Pod {
    let mut status = json!({ "name": "app", "image": "app:1", "restartCount": 7 });
    status.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
    pod("p", &json!({ "nodeName": "n1" }), &json!({ "phase": "Pending", "containerStatuses": [status] }))
}

#[test]
fn who_refuses_a_pod_is_told_in_the_words_of_the_api_server() {
    let refused = "Error creating: pods \"p-1\" is forbidden: ";
    for (message, reason) in [
        ("exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1", Reason::Quota),
        ("violates PodSecurity \"restricted:latest\": hostNetwork", Reason::PodSecurity),
        ("admission webhook \"w\" denied the request: no", Reason::Admission),
        ("error looking up service account ns/none: serviceaccount \"none\" not found", Reason::Admission),
    ] {
        let old = event("ds", "FailedCreate", "Error creating: something of before", "2025-12-31T00:00:00Z");
        let lack =
            without_pod(Uid::of("ds"), &noted(&[event("ds", "FailedCreate", &format!("{refused}{message}"), AT), old]));
        assert_eq!(lack.reason, reason);
        assert!(lack.detail.starts_with("pods \"p-1\" is forbidden: ") && lack.detail.ends_with(message), "{lack:?}");
    }
    let nothing = without_pod(Uid::of("ds"), &noted(&[event("other", "FailedCreate", "x", AT)]));
    assert_eq!((nothing.reason, nothing.since), (Reason::NotMade, None));
}

#[test]
fn what_is_lacking_on_the_node_is_told_with_who_holds_it() {
    let requests = |cpu: &str, memory: &str| json!({ "resources": { "requests": { "cpu": cpu, "memory": memory } } });
    let big = pod("big", &json!({ "nodeName": "n1", "containers": [requests("1500m", "1Gi")] }), &json!({}));
    let small = pod("small", &json!({ "nodeName": "n1", "containers": [requests("100m", "1Gi")] }), &json!({}));
    let wants = |cpu: &str| pod("p", &json!({ "containers": [requests(cpu, "1Gi")] }), &json!({ "phase": "Pending" }));
    let words = "cpu: asks for 500m, free are 400m of 2000m; most is held by ns/big 1500m, ns/small 100m";
    check(&wants("500m"), &good_node(), &[&small, &big], &[], Reason::Resources, words);
    // Exactly what is free is enough, and then the scheduler's own words count.
    let unscheduled =
        |reason: &str| json!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": "why" });
    let fits = pod(
        "p",
        &json!({ "containers": [requests("400m", "2Gi")] }),
        &json!({ "conditions": [unscheduled("Unschedulable")] }),
    );
    check(&fits, &good_node(), &[&small, &big], &[], Reason::NotScheduled, "Unschedulable: why");
    check(&wants("400m"), &good_node(), &[&small, &big], &[], Reason::NotScheduled, "has not looked");
    let full = node(&json!({ "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "1" } }));
    check(&wants("1m"), &full, &[&small], &[], Reason::Resources, "takes 1 pods and has 1");
    let gpu = pod("p", &json!({ "containers": [{ "resources": { "requests": { "gpu": "1" } } }] }), &json!({}));
    check(&gpu, &good_node(), &[], &[], Reason::Resources, "gpu: asks for 1, free are 0 of 0; most is held by nobody");
}

#[test]
fn a_taken_port_of_the_node_is_told_with_its_holder() {
    let port = |protocol: &str| json!({ "containers": [{ "ports": [{ "hostPort": 9100, "protocol": protocol }] }] });
    let holder = pod("old", &port("TCP"), &json!({}));
    check(
        &pod("p", &port("TCP"), &json!({})),
        &good_node(),
        &[&holder],
        &[],
        Reason::HostPort,
        "9100/TCP of the node is held by ns/old",
    );
    let other = pod("p", &port("UDP"), &json!({}));
    check(&other, &good_node(), &[&holder], &[], Reason::NotScheduled, "");
}

#[test]
fn a_container_that_does_not_start_says_why() {
    let waiting = |reason: &str, message: &str| {
        with_container(&json!({ "state": { "waiting": { "reason": reason, "message": message } } }))
    };
    let check = |pod: &Pod, reason, words: &str| check(pod, &good_node(), &[], &[], reason, words);
    check(&waiting("ImagePullBackOff", "not found"), Reason::Image, "app:1: not found");
    check(&waiting("ErrImagePull", "unauthorized"), Reason::Image, "unauthorized");
    check(
        &waiting("ErrImagePull", "x509: certificate has expired or is not yet valid: current time 1970-01-01"),
        Reason::Clock,
        "1970-01-01",
    );
    check(&waiting("CreateContainerConfigError", "secret \"s\" not found"), Reason::Configuration, "secret \"s\"");
    check(&waiting("ContainerCreating", ""), Reason::Starting, "");
}

#[test]
fn a_container_that_ends_again_and_again_has_its_last_words() {
    let ended = |reason: &str, code: i64| json!({ "terminated": { "reason": reason, "exitCode": code, "message": "no BTF\n" } });
    let looping = |last: &Value| {
        with_container(&json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": last }))
    };
    let check = |pod: &Pod, reason, words: &str| check(pod, &good_node(), &[], &[], reason, words);
    check(&looping(&ended("Error", 1)), Reason::CrashLoop, "7 times, last with exit code 1 (Error): no BTF");
    check(&looping(&ended("OOMKilled", 137)), Reason::OutOfMemory, "exit code 137 (OOMKilled)");
    check(&with_container(&json!({ "state": ended("Error", 2) })), Reason::CrashLoop, "exit code 2");
    // An init container that has done its work is no fault.
    let mut done = with_container(&json!({ "state": {} }));
    let init = with_container(&json!({ "state": ended("Completed", 0) })).story.unwrap();
    done.story.as_mut().unwrap().init_containers = init.containers;
    check(&done, Reason::Starting, "");
}

#[test]
fn volumes_network_and_probes_are_told_by_events_of_the_pod_itself() {
    let at = |phase: &str| pod("p", &json!({ "nodeName": "n1" }), &json!({ "phase": phase }));
    let containerd = "failed to setup network for sandbox \"1f\": plugin type=\"bridge\" failed (add): no room";
    let crio = "error adding pod ns_p to CNI network \"k8s-pod-network\"";
    let no_class = "unable to get OCI runtime for sandbox \"1f\": no runtime for \"kata\" is configured";
    for (phase, event_reason, words, reason) in [
        ("Pending", "FailedMount", "its words", Reason::Volume),
        ("Pending", "FailedAttachVolume", "its words", Reason::Volume),
        ("Pending", "FailedCreatePodSandBox", containerd, Reason::Network),
        ("Pending", "FailedCreatePodSandBox", crio, Reason::Network),
        ("Pending", "NetworkNotReady", "network is not ready: cni plugin not initialized", Reason::Network),
        ("Pending", "FailedCreatePodSandBox", no_class, Reason::Configuration),
        ("Running", "Unhealthy", "its words", Reason::NotReady),
    ] {
        check(&at(phase), &good_node(), &[], &[event("p", event_reason, words, AT)], reason, words);
        let others = [event("q", event_reason, words, AT)];
        let expected = if phase == "Running" { Reason::NotReady } else { Reason::Starting };
        let lack = of_pod(&at(phase), &good_node(), &[], &noted(&others));
        assert_eq!(
            (lack.reason, lack.detail.contains("its words")),
            (expected, false),
            "{event_reason} of another pod"
        );
    }
}

#[test]
fn a_kubelet_that_has_not_heard_of_a_secret_is_at_the_start_until_it_says_what_is_wrong() {
    let early =
        "MountVolume.SetUp failed for volume \"v\" : failed to sync secret cache: timed out waiting for the condition";
    let later = "MountVolume.SetUp failed for volume \"v\" : secret \"none\" not found";
    let pending = pod("p", &json!({ "nodeName": "n1" }), &json!({ "phase": "Pending" }));
    let first = event("p", "FailedMount", early, AT);
    check(&pending, &good_node(), &[], std::slice::from_ref(&first), Reason::Starting, "failed to sync");
    let mut second = event("p", "FailedMount", later, "2026-01-01T00:00:01Z");
    second.uid = Uid::of("second");
    check(&pending, &good_node(), &[], &[first, second], Reason::Volume, "secret \"none\" not found");
    let early = "failed to sync configmap cache: timed out waiting for the condition";
    let state = json!({ "waiting": { "reason": "CreateContainerConfigError", "message": early } });
    check(&with_container(&json!({ "state": state })), &good_node(), &[], &[], Reason::Starting, "failed to sync");
}

#[test]
fn the_nodes_and_the_pods_own_state_come_first() {
    let down = node(&json!({ "conditions": [{ "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.", "lastTransitionTime": AT }] }));
    let crash = with_container(&json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } } }));
    check(&crash, &down, &[], &[], Reason::NodeNotReady, "Ready is Unknown (NodeStatusUnknown): Kubelet stopped");
    let failed = json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory." });
    check(
        &pod("p", &json!({ "nodeName": "n1" }), &failed),
        &good_node(),
        &[],
        &[],
        Reason::Failed,
        "Evicted: The node",
    );
    let refused =
        json!({ "phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu" });
    check(&pod("p", &json!({}), &refused), &good_node(), &[], &[], Reason::Resources, "OutOfcpu");
    let mut leaving = crash;
    leaving.story.as_mut().unwrap().deleted = Some(AT.parse().unwrap());
    check(&leaving, &down, &[], &[], Reason::Terminating, "should be gone since 2026-01-01T00:00:00Z");
}

#[test]
fn words_of_others_are_one_line_of_bounded_length() {
    let long = format!("a\nb{}", "c".repeat(1000));
    let lack = without_pod(Uid::of("ds"), &noted(&[event("ds", "FailedCreate", &long, AT)]));
    assert!(lack.detail.starts_with("a bc") && lack.detail.chars().count() == TEXT + 3, "{lack:?}");
}
