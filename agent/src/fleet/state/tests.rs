//! Reports over a cluster of a few nodes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::fleet::objects::Story;
use crate::fleet::{causes::Reason, json as document, table};

const AT: &str = "2026-01-01T00:00:00Z";

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node(name: &str, pool: &str) -> Node {
    of(json!({
        "metadata": { "name": name, "uid": name, "labels": { "pool": pool } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }], "allocatable": { "pods": "10" } },
    }))
}

/// The log shipper, wanted on nodes of pool a.
fn shipper() -> DaemonSet {
    of(json!({
        "metadata": { "name": "shipper", "namespace": "logs", "uid": "ds" },
        "spec": { "selector": {}, "template": { "spec": { "containers": [], "nodeSelector": { "pool": "a" } } } },
    }))
}

fn pod(node: &str, hash: &str, status: &Value) -> Pod {
    let owner = json!([{ "kind": "DaemonSet", "uid": "ds", "controller": true }]);
    let labels = json!({ "controller-revision-hash": hash });
    let metadata = json!({ "name": format!("shipper-{node}-{hash}"), "namespace": "logs", "uid": format!("{node}-{hash}"),
        "ownerReferences": owner, "labels": labels, "creationTimestamp": AT });
    of(json!({ "metadata": metadata, "spec": { "nodeName": node }, "status": status }))
}

fn ready() -> Value {
    json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] })
}

fn bad_image() -> Value {
    let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "not found" } });
    json!({ "phase": "Pending", "containerStatuses": [{ "name": "app", "image": "app:2", "state": waiting }] })
}

fn revision(number: i64, hash: &str) -> Revision {
    let owners = json!([{ "kind": "DaemonSet", "uid": "ds", "controller": true }]);
    let metadata = json!({ "uid": format!("revision {number}"), "ownerReferences": owners,
        "labels": { "controller-revision-hash": hash }, "creationTimestamp": AT });
    of(json!({ "metadata": metadata, "revision": number }))
}

/// Four nodes, two revisions and these pods, not looked at yet.
fn fleet(pods: Vec<Pod>) -> Fleet {
    let mut fleet = Fleet::default();
    fleet.put(Object::DaemonSet(Box::new(shipper()))).unwrap();
    for (name, pool) in [("n1", "a"), ("n2", "a"), ("n3", "a"), ("n4", "b")] {
        fleet.put(Object::Node(Box::new(node(name, pool)))).unwrap();
    }
    for one in [revision(1, "old"), revision(2, "new")] {
        fleet.put(Object::Revision(one)).unwrap();
    }
    for pod in pods {
        fleet.put(Object::Pod(pod)).unwrap();
    }
    fleet
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn report(fleet: &mut Fleet) -> Report {
    fleet.settle(at(AT));
    let mut reports = fleet.reports(at(AT));
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

#[test]
fn nodes_and_pods_are_counted_by_what_they_should_have_have_and_lack() {
    let mut fleet = fleet(vec![
        pod("n1", "new", &ready()),
        pod("n2", "old", &ready()),
        pod("n4", "new", &ready()),
        pod("n3", "new", &json!({ "phase": "Failed" })),
    ]);
    let report = report(&mut fleet);
    assert_eq!((report.wanted, report.present, report.ready, report.current, report.misplaced), (3, 2, 2, 1, 1));
    assert_eq!(
        report.lacking.iter().map(|(node, lack)| (&**node, lack.reason)).collect::<Vec<_>>(),
        [("n3", Reason::Failed)]
    );
    assert_eq!(report.excluded, [("node_selector", 1)].into());
    assert_eq!(report.just_missed["n4"].to_string(), "label pool is b, not a");
}

#[test]
fn a_bad_image_holds_a_roll_out_up_and_one_that_starts_does_not() {
    let half =
        |status: &Value| fleet(vec![pod("n1", "new", status), pod("n2", "old", &ready()), pod("n3", "old", &ready())]);
    let Rollout::Stuck { node, lack } = report(&mut half(&bad_image())).rollout else { panic!("it is not stuck") };
    assert_eq!((&*node, lack.reason), ("n1", Reason::Image));
    assert_eq!(report(&mut half(&json!({ "phase": "Pending" }))).rollout, Rollout::Rolling);
    // The old pod is gone and the new one not made yet.
    assert_eq!(
        report(&mut fleet(vec![pod("n2", "old", &ready()), pod("n3", "old", &ready())])).rollout,
        Rollout::Rolling
    );
}

#[test]
fn a_surge_that_does_not_come_to_work_holds_a_roll_out_up_and_no_node_lacks_its_pod() {
    let pods = ["n1", "n2", "n3"].map(|node| pod(node, "old", &ready()));
    let mut fleet = fleet(pods.into_iter().chain([pod("n1", "new", &bad_image())]).collect());
    let mut surging = shipper();
    surging.spec.update_strategy = of(json!({ "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } }));
    fleet.put(Object::DaemonSet(Box::new(surging))).unwrap();
    let told = report(&mut fleet);
    assert_eq!((told.ready, told.current, told.lacking.len()), (3, 0, 0));
    let Rollout::Stuck { node, lack } = told.rollout else { panic!("it is not stuck") };
    assert_eq!((&*node, lack.reason), ("n1", Reason::Image));
    fleet.put(Object::Pod(pod("n1", "new", &ready()))).unwrap();
    let told = report(&mut fleet);
    assert_eq!((told.ready, told.current, told.rollout), (3, 1, Rollout::Rolling));
}

#[test]
fn a_pod_that_is_replaced_or_doubled_for_a_moment_is_no_mystery() {
    let mut leaving = pod("n1", "old", &ready());
    leaving.works = false;
    leaving.story = Some(Box::new(Story { deleted: Some(at(AT)), ..Story::default() }));
    let replaced = report(&mut fleet(vec![leaving.clone()]));
    assert_eq!(replaced.lacking["n1"].detail, "shipper-n1-old is being replaced");
    let doubled = report(&mut fleet(vec![leaving, pod("n1", "new", &ready())]));
    assert!(!doubled.lacking.contains_key("n1") && doubled.current == 1, "{doubled:?}");
}

#[test]
fn a_taint_that_came_later_keeps_the_pod_that_is_there() {
    let mut fleet = fleet(vec![pod("n1", "new", &ready())]);
    for (name, pool) in [("n1", "a"), ("n2", "a"), ("n3", "a"), ("n4", "b")] {
        let taints = of(json!([{ "key": "k", "effect": "NoSchedule" }]));
        fleet.put(Object::Node(Box::new(Node { taints, ..node(name, pool) }))).unwrap();
    }
    let report = report(&mut fleet);
    assert_eq!((report.wanted, report.ready, report.misplaced), (1, 1, 0));
    assert_eq!(report.excluded, [("node_selector", 1), ("taint", 2)].into());
    assert_eq!(report.taints, [("k:NoSchedule".to_owned(), 2)].into());
}

#[test]
fn the_table_reads_as_the_golden_file() {
    let mut fleet = fleet(vec![pod("n1", "new", &bad_image()), pod("n2", "old", &ready())]);
    let taints = of(json!([{ "key": "gpu", "value": "a", "effect": "NoExecute" }]));
    fleet.put(Object::Node(Box::new(Node { taints, ..node("n5", "a") }))).unwrap();
    let message = "Error creating: pods \"shipper-x\" is forbidden: exceeded quota: few, requested: pods=1";
    fleet
        .put(Object::Event(of(json!({ "metadata": { "uid": "e" }, "involvedObject": { "uid": "ds" },
        "reason": "FailedCreate", "message": message, "lastTimestamp": AT }))))
        .unwrap();
    let now = at("2026-01-01T00:05:00Z");
    fleet.settle(now);
    let table = table::render(&fleet.reports(now), now);
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fleet.txt");
    if std::env::var_os("PODLENS_TEST_UPDATE").is_some() {
        std::fs::write(&golden, &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(&golden).unwrap_or_default());
    let document: Value = serde_json::from_str(&document::encode(&fleet.reports(now))).unwrap();
    let lacking = document.pointer("/daemonsets/0/lacking").unwrap();
    assert_eq!(
        (&lacking[0]["node"], &lacking[0]["reason"], &lacking[1]["reason"]),
        (&json!("n1"), &json!("image"), &json!("quota"))
    );
    assert_eq!(document.pointer("/daemonsets/0/rollout/stuck/since"), Some(&json!(AT)));
    for kind in [Kind::Pods, Kind::Nodes] {
        fleet.retain(kind, &HashSet::new());
    }
    fleet.settle(now);
    assert!(
        table::render(&fleet.reports(now), now).ends_with("Every node that should have a pod has one that works.\n")
    );
}

/// What a fleet told after the first look, one change a line.
fn told(changes: &[Change]) -> Vec<String> {
    let text = |change: &Change| match change {
        Change::Lacks { node, lack, .. } => format!("{node} lacks: {}", lack.reason.name()),
        Change::Ends { node, reason, .. } => format!("{node} ends: {}", reason.name()),
        Change::RollsOut { before, now, .. } => format!("{before} to {}", now.name()),
    };
    changes.iter().map(text).collect()
}

#[test]
fn what_begins_and_ends_is_told_once_and_what_passes_only_after_a_minute() {
    let mut fleet = fleet(["n1", "n2", "n3"].map(|node| pod(node, "new", &ready())).into());
    let settle = |fleet: &mut Fleet, second: i64| told(&fleet.settle(at(AT) + SignedDuration::from_secs(second)));
    assert_eq!(settle(&mut fleet, 0), [""; 0]);
    fleet.put(Object::Pod(pod("n1", "new", &bad_image()))).unwrap();
    assert_eq!(settle(&mut fleet, 1), ["n1 lacks: image"]);
    fleet.put(Object::Pod(pod("n1", "new", &bad_image()))).unwrap();
    assert_eq!(settle(&mut fleet, 2), [""; 0]);
    fleet.put(Object::Pod(pod("n2", "new", &json!({ "phase": "Pending" })))).unwrap();
    assert_eq!(settle(&mut fleet, 3), [""; 0]);
    assert_eq!(fleet.next(at(AT) + SignedDuration::from_secs(3)), Some(at(AT) + SignedDuration::from_secs(63)));
    fleet.put(Object::Pod(pod("n1", "new", &ready()))).unwrap();
    assert_eq!(settle(&mut fleet, 4), ["n1 ends: image"]);
    assert_eq!(settle(&mut fleet, 63), ["n2 lacks: starting"]);
    fleet.remove(Kind::Nodes, Uid::of("n2"));
    assert_eq!(settle(&mut fleet, 64), ["n2 ends: starting"]);
    assert_eq!(fleet.next(at(AT)), None);
}

#[test]
fn a_daemon_set_whose_pods_come_to_work_tells_nothing_of_its_beginning() {
    let mut fleet = fleet(Vec::new());
    fleet.remove(Kind::DaemonSets, Uid::of("ds"));
    fleet.settle(at(AT));
    fleet.put(Object::DaemonSet(Box::new(shipper()))).unwrap();
    assert_eq!(told(&fleet.settle(at(AT))), [""; 0]);
    for node in ["n1", "n2"] {
        fleet.put(Object::Pod(pod(node, "new", &ready()))).unwrap();
    }
    assert_eq!(told(&fleet.settle(at(AT) + SignedDuration::from_secs(5))), [""; 0]);
    assert_eq!(told(&fleet.settle(at(AT) + SignedDuration::from_secs(60))), ["n3 lacks: not_made"]);
}

#[test]
fn a_roll_out_is_told_as_it_goes_and_since_when() {
    let mut fleet = fleet(["n1", "n2"].map(|node| pod(node, "old", &ready())).into());
    fleet.remove(Kind::Revisions, Uid::of("revision 2"));
    fleet.settle(at(AT));
    fleet.put(Object::Revision(revision(2, "new"))).unwrap();
    let now = at(AT) + SignedDuration::from_secs(5);
    assert_eq!(told(&fleet.settle(now)), ["settled to rolling"]);
    fleet.remove(Kind::Pods, Uid::of("n1-old"));
    fleet.put(Object::Pod(pod("n1", "new", &bad_image()))).unwrap();
    assert_eq!(told(&fleet.settle(now)), ["n1 lacks: image", "rolling to stuck"]);
    let figures = fleet.figures();
    assert_eq!(figures[0].rollout().1, Some(at(AT)), "since the pod does not work");
    fleet.put(Object::Pod(pod("n1", "new", &ready()))).unwrap();
    fleet.put(Object::Pod(pod("n2", "new", &ready()))).unwrap();
    fleet.remove(Kind::Pods, Uid::of("n2-old"));
    assert_eq!(told(&fleet.settle(now)), ["n1 ends: image", "stuck to settled"]);
}

fn one_of(many: &[&'static str], number: u64) -> &'static str {
    many[usize::try_from(number).unwrap()]
}

/// The same objects in any order, with changes and removals between, and looked at often or once: the same view.
#[test]
fn a_fleet_that_was_kept_up_to_date_is_the_one_that_would_be_listed_now() {
    let mut number = 7_u64;
    let mut below = |bound: u64| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) % bound
    };
    let (mut kept, mut objects) = (Fleet::default(), HashMap::<(Kind, Uid), Value>::new());
    let decode = |kind: Kind, object: &Value| kind.decode(&serde_json::value::to_raw_value(object).unwrap()).unwrap();
    for step in 0..3000 {
        let node = format!("n{}", below(6));
        let set = format!("ds{}", below(3));
        let owners = json!([{ "kind": "DaemonSet", "uid": set, "controller": below(8) > 0 }]);
        let hash = format!("h{}", below(2));
        let (kind, object) = match below(6) {
            0 => {
                let taints = if below(2) == 0 {
                    json!([{ "key": "k", "effect": one_of(&["NoSchedule", "NoExecute"], below(2)) }])
                } else {
                    json!([])
                };
                let allocatable = json!({ "pods": "4", "cpu": format!("{}", below(3)) });
                (
                    Kind::Nodes,
                    json!({ "metadata": { "name": node, "uid": format!("{node}-{}", below(2)), "labels": { "pool": format!("{}", below(2)) } },
                    "spec": { "taints": taints }, "status": { "allocatable": allocatable } }),
                )
            }
            1 => {
                let selector = if below(2) == 0 { json!({}) } else { json!({ "pool": "1" }) };
                let kind = one_of(&["RollingUpdate", "OnDelete"], below(2));
                (
                    Kind::DaemonSets,
                    json!({ "metadata": { "name": set, "namespace": "ns", "uid": set },
                    "spec": { "updateStrategy": { "type": kind }, "template": { "spec": { "nodeSelector": selector } } } }),
                )
            }
            2 => (
                Kind::Revisions,
                json!({ "metadata": { "name": "r", "uid": format!("r{}", below(4)), "ownerReferences": owners,
                "labels": { "controller-revision-hash": hash } }, "revision": step }),
            ),
            3 => (
                Kind::PodEvents,
                json!({ "metadata": { "uid": format!("e{}", below(9)) }, "involvedObject": { "uid": format!("p{}", below(20)) },
                "reason": one_of(&["FailedMount", "Unhealthy", "Other"], below(3)), "message": format!("{step}") }),
            ),
            _ => {
                let spec = if below(3) == 0 {
                    let terms =
                        json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] }]);
                    json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } } })
                } else {
                    json!({ "nodeName": node })
                };
                let mut spec = spec;
                spec["containers"] = json!([{ "resources": { "requests": { "cpu": "1" } } }]);
                let status = match below(4) {
                    0 => bad_image(),
                    1 => json!({ "phase": "Failed", "reason": "Evicted" }),
                    _ => ready(),
                };
                (
                    Kind::Pods,
                    json!({ "metadata": { "name": "p", "namespace": "ns", "uid": format!("p{}", below(20)), "ownerReferences": owners,
                    "labels": { "controller-revision-hash": hash } }, "spec": spec, "status": status }),
                )
            }
        };
        let uid = decode(kind, &object).uid();
        if below(4) == 0 {
            kept.remove(kind, uid);
            objects.remove(&(kind, uid));
        } else {
            // A name is one node's at a time.
            if kind == Kind::Nodes {
                objects.retain(|(other, _), known| {
                    *other != kind || known["metadata"]["name"] != object["metadata"]["name"]
                });
            }
            kept.put(decode(kind, &object)).unwrap();
            objects.insert((kind, uid), object);
        }
        if below(3) == 0 {
            kept.settle(at(AT));
        }
        if step % 50 == 0 {
            kept.settle(at(AT));
            let mut listed = Fleet::default();
            // Which of two events or pods of one moment counts depends on their order.
            let mut all: Vec<_> = objects.iter().collect();
            all.sort_by_key(|((kind, uid), _)| (kind.position(), *uid));
            for ((kind, _), object) in all {
                listed.put(decode(*kind, object)).unwrap();
            }
            listed.settle(at(AT));
            assert_eq!(blurred(&kept), blurred(&listed), "step {step}");
        }
    }
}

/// Without what may differ between two ways to one state: words of events and pods that are as good as each other.
fn blurred(fleet: &Fleet) -> Vec<(Report, Vec<String>)> {
    let reports = fleet.reports(at(AT)).into_iter().map(|mut report| {
        let lacking = std::mem::take(&mut report.lacking).into_keys().collect();
        report.rollout = Rollout::Settled;
        (report, lacking)
    });
    reports.collect()
}

#[test]
fn an_agent_that_is_not_ready_is_asked_now_and_then_and_its_words_stand_until_it_works() {
    let unready = || {
        let mut agent = pod("n1", "new", &json!({ "phase": "Running" }));
        let address = "10.0.0.5:9465".parse().unwrap();
        agent.story = Some(Box::new(Story { agent: Some(address), ..*agent.story.unwrap() }));
        agent
    };
    let mut fleet = fleet(vec![unready(), pod("n2", "new", &json!({ "phase": "Running" }))]);
    let asked = |fleet: &mut Fleet, second: i64| {
        fleet.settle(at(AT) + SignedDuration::from_secs(second));
        fleet.questions().len()
    };
    assert_eq!(asked(&mut fleet, 0), 1, "and nobody else's pods");
    let detail = |fleet: &Fleet| fleet.reports(at(AT))[0].lacking["n1"].detail.clone();
    assert!(!detail(&fleet).contains("BPF"));
    let uid = Uid::of("n1-new");
    fleet.answer(uid, "cpu: unsupported: the process lacks the capabilities BPF");
    assert_eq!(asked(&mut fleet, 1), 0);
    assert!(detail(&fleet).contains("BPF"), "{}", detail(&fleet));
    // A probe fails again.
    for (second, expected) in [(14, 0), (15, 1)] {
        let probe = json!({ "metadata": { "uid": "e" }, "involvedObject": { "uid": "n1-new" }, "reason": "Unhealthy",
            "message": "statuscode: 503", "lastTimestamp": AT });
        fleet.put(Object::Event(of(probe))).unwrap();
        assert_eq!(asked(&mut fleet, second), expected, "{second}");
    }
    fleet.put(Object::Pod(pod("n1", "new", &ready()))).unwrap();
    fleet.answer(uid, "an answer that comes late");
    fleet.put(Object::Pod(unready())).unwrap();
    assert_eq!(asked(&mut fleet, 16), 1, "it is another failure");
    assert!(!detail(&fleet).contains("BPF") && !detail(&fleet).contains("late"), "{}", detail(&fleet));
}

#[test]
fn where_somebody_has_to_delete_pods_their_nodes_and_revisions_are_told() {
    let mut fleet = fleet(vec![pod("n2", "old", &ready()), pod("n1", "old", &ready()), pod("n3", "new", &ready())]);
    let mut on_delete = shipper();
    on_delete.spec.update_strategy = of(json!({ "type": "OnDelete" }));
    fleet.put(Object::DaemonSet(Box::new(on_delete))).unwrap();
    let report = report(&mut fleet);
    assert_eq!(report.old, [("old".to_owned(), vec!["n1".to_owned(), "n2".to_owned()])].into());
    let table = table::render(std::slice::from_ref(&report), at(AT));
    assert!(table.contains("logs/shipper: of revision old until it is deleted on n1, n2\n"), "{table}");
}
