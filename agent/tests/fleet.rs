//! `podlens fleet` as a process beside an API server of the test's own: what it tells, who tells, and what becomes of that
//! when the server is away, hangs, refuses, or tells nonsense. Needs neither root nor a kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod fleet_parts;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use fleet_parts::{
    DAEMON_SETS, EVENTS, NODES, PODS, REVISIONS, Replica, bad_image, cluster, fleet_command, lacking, node, nodes_in,
    pod, pod_uid, ready, refusal, revision, rollout, uid,
};
use serde_json::{Value, json};
use testkit::{
    components::Collector,
    free_address,
    kubernetes::{Faults, FleetServer, Objects, kubeconfig},
    wait_for,
};

/// Everything that is to happen soon, on an emulated machine too.
const SOON: Duration = Duration::from_secs(30);
/// The end of a reason is noticed within it.
const NOTICED: Duration = Duration::from_secs(5);

fn image_on(node: &str) -> Vec<(String, String)> {
    vec![(node.to_owned(), "image".to_owned())]
}

#[test]
fn what_a_node_lacks_is_told_with_its_reason_and_gone_when_it_ends() {
    let objects = cluster(5, 2);
    let server = FleetServer::start(&objects);
    let replica = Replica::start(&server, "one", &[]);
    replica.wait("all nodes", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(5));
    let page = replica.page();
    assert_eq!((nodes_in(&page, "ds-00", "wanted"), nodes_in(&page, "ds-00", "lacking")), (Some(5), Some(0)));
    assert_eq!((rollout(&page, "ds-00"), lacking(&page, "ds-00")), ("settled".to_owned(), Vec::new()));
    assert_eq!(replica.get("/readyz").unwrap().0, 200);

    // A roll-out that rolls, and one that is stuck.
    objects.put(REVISIONS, revision(0, 2));
    replica.wait("a roll-out", NOTICED, |page| rollout(page, "ds-00") == "rolling");
    objects.delete(PODS, &pod_uid(0, 3, 1));
    objects.put(PODS, pod(0, 3, 2, &bad_image()));
    replica.wait("the reason", NOTICED, |page| lacking(page, "ds-00") == image_on("node-0003"));
    let page = replica.page();
    assert_eq!(rollout(&page, "ds-00"), "stuck");
    assert_eq!(rollout(&page, "ds-01"), "settled", "another's is its own matter");
    assert_eq!(page.all("podlens_fleet_lacking_since_timestamp_seconds", &[])[0].count(), 1_767_225_600);

    // The end.
    objects.put(PODS, pod(0, 3, 2, &ready()));
    replica.wait("the end", NOTICED, |page| lacking(page, "ds-00").is_empty());
    let page = replica.page();
    assert_eq!((rollout(&page, "ds-00"), nodes_in(&page, "ds-00", "current")), ("rolling".to_owned(), Some(1)));
    objects.delete(NODES, &uid(1, 4));
    replica.wait("a node less", NOTICED, |page| nodes_in(page, "ds-01", "wanted") == Some(4));
    assert!(replica.stop().success());
}

#[test]
fn one_odd_object_costs_nobody_elses_and_what_is_forbidden_is_named_once() {
    let objects = cluster(3, 1);
    objects.put_odd(PODS, "odd", &json!({ "metadata": { "name": "odd", "uid": "odd" }, "spec": 5 }));
    objects.put_odd(NODES, "odd", &json!("no object"));
    objects.set_faults(Faults { forbidden: [EVENTS.to_owned()].into(), ..Faults::default() });
    let server = FleetServer::start(&objects);
    let replica = Replica::start(&server, "one", &[]);
    replica.wait("all nodes", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(3));
    let page = replica.page();
    for kind in ["pods", "nodes"] {
        assert_eq!(page.count("podlens_fleet_odd_objects_total", &[("kind", kind)]), Some(1), "{kind}");
    }
    assert_eq!(page.count("podlens_fleet_synced", &[("kind", "pod_events")]), Some(0));
    let (code, text) = replica.get("/readyz").unwrap();
    assert_eq!(code, 200, "{text}");
    assert!(text.contains("pod_events: may not list events in all namespaces"), "{text}");
    // An odd change, and then one that makes sense.
    objects.put_odd(PODS, &pod_uid(0, 1, 1), &json!({ "metadata": { "uid": pod_uid(0, 1, 1) }, "status": 5 }));
    objects.put(PODS, pod(0, 2, 1, &bad_image()));
    replica.wait("the reason", NOTICED, |page| lacking(page, "ds-00") == image_on("node-0002"));
    assert_eq!(nodes_in(&replica.page(), "ds-00", "ready"), Some(2), "the odd one is what it was last");
    let log = replica.log();
    assert_eq!(log.matches("may not list events").count(), 2, "once for each kind of events:\n{log}");
    // With the right it goes on by itself.
    objects.set_faults(Faults::default());
    replica.wait("events", SOON, |page| page.count("podlens_fleet_synced", &[("kind", "pod_events")]) == Some(1));
}

#[test]
fn who_cannot_look_says_each_cause_once() {
    let directory = tempfile::tempdir().unwrap();
    let check = |kubeconfig: &Path, cause: &str| {
        let text = refusal(kubeconfig);
        assert!(text.lines().count() == 1 && text.matches(cause).count() == 1, "{cause}: {text}");
        let mut parts: Vec<&str> = text.trim().split(": ").collect();
        parts.sort_unstable();
        assert!(parts.windows(2).all(|pair| pair[0] != pair[1]), "{text}");
    };
    check(&directory.path().join("missing"), "No such file or directory");
    check(directory.path(), "Is a directory");
    let user = |user: Value| kubeconfig(free_address(), directory.path(), &user);
    check(&user(json!({ "tokenFile": "/missing" })), "No such file or directory");
    check(&user(json!({ "client-certificate": "/missing", "client-key": "/missing" })), "No such file or directory");
    check(&user(json!({})), "Connection refused");
    check(Path::new("/dev/zero"), "it is a device and no regular file");
    check(&user(json!({ "tokenFile": "/dev/zero" })), "it is a device and no regular file");
    check(&user(json!({ "client-certificate": "/dev/zero", "client-key": "/dev/zero" })), "no regular file");
}

#[test]
fn what_is_no_list_of_nodes_is_no_clean_bill_and_takes_nothing_away() {
    let objects = cluster(3, 1);
    let server = FleetServer::start(&objects);
    let (address, directory) = (server.address(), tempfile::tempdir().unwrap());
    let kubeconfig = kubeconfig(address, directory.path(), &json!({}));
    let with = |list: &str| objects.set_faults(Faults { list: Some(list.to_owned()), ..Faults::default() });
    let replica = Replica::start(&server, "one", &[]);
    replica.wait("all nodes", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(3));
    let answers = [
        ("{}", "an object of no kind"),
        (r#"{"kind":"Table","metadata":{"resourceVersion":"1"},"items":[]}"#, "a `Table`"),
        (r#"{"kind":"DaemonSetList","metadata":{"resourceVersion":"a b"},"items":[]}"#, "the version `a b`"),
        (r#"{"kind":"DaemonSetList"}"#, "the version ``"),
    ];
    for (answer, found) in answers {
        with(answer);
        let text = refusal(&kubeconfig);
        let expected =
            format!("the list of daemonsets, a DaemonSetList, was asked for, and http://{address}/ answered");
        assert!(text.contains(&expected) && text.contains(found) && text.lines().count() == 1, "{text}");
    }
    // The watches have to list anew.
    with("{}");
    let listed = objects.requests(NODES, "list", 200);
    drop(server);
    objects.put(NODES, node(2));
    objects.forget_history();
    let _server = FleetServer::start_at(address, &objects);
    replica.wait("lists", SOON, |_| objects.requests(NODES, "list", 200) >= listed + 2);
    assert_eq!(nodes_in(&replica.page(), "ds-00", "wanted"), Some(3), "{}", replica.log());
    assert!(replica.log().contains("the list of nodes, a NodeList, was asked for"), "{}", replica.log());
    objects.delete(NODES, &uid(1, 2));
    objects.set_faults(Faults::default());
    replica.wait("the node that went", SOON, |page| nodes_in(page, "ds-00", "wanted") == Some(2));

    // A cluster without nodes.
    let empty = FleetServer::start(&cluster(0, 0));
    let kubeconfig = testkit::kubernetes::kubeconfig(empty.address(), directory.path(), &json!({}));
    let output = fleet_command(&kubeconfig, &["--once"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let is_told = told.contains("the API server knows no node") && !told.contains("works");
    assert!(is_told && output.status.code() == Some(1), "{told}");
}

#[test]
fn a_plugin_that_does_not_end_holds_up_neither_the_start_nor_a_stop_and_a_hang_up_is_told() {
    let server = FleetServer::start(&cluster(1, 1));
    let exec =
        json!({ "exec": { "apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["300"] } });
    let replica = Replica::start_as(&server, "one", &exec);
    let begun = Instant::now();
    while replica.get("/healthz").map_or(0, |(code, _)| code) != 200 {
        assert!(begun.elapsed() < SOON, "{}", replica.log());
    }
    replica.signal("HUP");
    replica.wait("a word", SOON, |_| replica.log().contains("reads its configuration at its start alone"));
    let stopped = Instant::now();
    assert!(replica.stop().success());
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
}

#[test]
fn a_plugin_gives_credentials_and_what_a_broken_one_prints_is_not_told() {
    let server = FleetServer::start(&cluster(2, 1));
    let exec = |script: &str| json!({ "exec": { "command": "sh", "args": ["-c", script] } });
    let replica = Replica::start_as(&server, "one", &exec(r#"echo '{"status": {"token": "a"}}'"#));
    replica.wait("all nodes", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(2));
    let directory = tempfile::tempdir().unwrap();
    let broken = kubeconfig(server.address(), directory.path(), &exec("echo SECRET >&2; echo SECRET; exit 3"));
    let text = refusal(&broken);
    let is_told = text.contains("credential plugin sh failed (exit status: 3)") && !text.contains("SECRET");
    assert!(is_told && !text.contains("verb list") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_full_disk_behind_standard_error_ends_nothing() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let server = FleetServer::start(&cluster(1, 1));
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig(server.address(), directory.path(), &json!({}));
    let mut once = fleet_command(&kubeconfig, &["--once"]);
    // One that is passed over with a warning.
    once.env("OTEL_EXPORTER_OTLP_TIMEOUT", "never");
    let warned = once.output().unwrap();
    assert!(warned.status.success() && !warned.stderr.is_empty(), "{warned:?}");
    let output = once.stderr(full()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(0), false), "{output:?}");
    let missing = fleet_command(&directory.path().join("missing"), &["--once"]).stderr(full()).output().unwrap();
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");

    let address = free_address().to_string();
    let mut watching = fleet_command(&kubeconfig, &["--listen", &address]).stderr(full()).spawn().unwrap();
    let begun = Instant::now();
    while testkit::http::get(address.parse().unwrap(), "/readyz").map_or(0, |(code, _)| code) != 200 {
        assert!(begun.elapsed() < SOON && watching.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn without_what_is_needed_nothing_is_claimed_and_the_lack_is_named() {
    let objects = cluster(2, 1);
    objects.set_faults(Faults { forbidden: [NODES.to_owned()].into(), ..Faults::default() });
    let server = FleetServer::start(&objects);
    let replica = Replica::start(&server, "one", &[]);
    replica.wait("the Lease", SOON, |_| replica.leads());
    replica.wait("pods", SOON, |page| page.count("podlens_fleet_objects", &[("kind", "pods")]) == Some(2));
    let (code, text) = replica.get("/readyz").unwrap();
    assert_eq!((code, text.contains("nodes: may not list nodes in all namespaces")), (503, true), "{text}");
    assert_eq!(nodes_in(&replica.page(), "ds-00", "wanted"), None);
    assert_eq!(replica.get("/healthz").unwrap().0, 200);
}

#[test]
fn of_two_replicas_one_tells_and_the_other_takes_over() {
    let objects = cluster(2, 1);
    let server = FleetServer::start(&objects);
    let first = Replica::start(&server, "first", &[]);
    first.wait("its lead", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(2));
    let second = Replica::start(&server, "second", &[]);
    second.wait("its watch", SOON, |page| page.count("podlens_fleet_synced", &[("kind", "pods")]) == Some(1));
    second.wait("its first look", SOON, |_| second.get("/readyz").is_ok_and(|(code, _)| code == 200));
    assert!(!second.leads() && nodes_in(&second.page(), "ds-00", "wanted").is_none());
    assert_eq!(objects.holder("podlens").as_deref(), Some("first"));

    // A stop hands it over.
    let stopped = Instant::now();
    assert!(first.stop().success());
    second.wait("its lead", NOTICED, |page| nodes_in(page, "ds-00", "ready") == Some(2));
    assert!(stopped.elapsed() < NOTICED + Duration::from_secs(2), "{:?}", stopped.elapsed());
    assert_eq!(objects.holder("podlens").as_deref(), Some("second"));

    // Who cannot renew stops by itself, before anybody else may begin.
    objects.set_faults(Faults { no_leases: true, ..Faults::default() });
    second.wait("the end of its claim", Duration::from_secs(14), |page| nodes_in(page, "ds-00", "wanted").is_none());
    assert_eq!(second.get("/healthz").unwrap().0, 200);
    objects.set_faults(Faults::default());
    second.wait("its lead", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(2));

    // A holder that vanishes without a word is waited for.
    drop(second);
    let third = Replica::start(&server, "third", &[]);
    third.wait("its lead", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(2));
    assert_eq!(objects.holder("podlens").as_deref(), Some("third"));
}

#[test]
fn a_server_that_was_away_is_caught_up_with_whether_or_not_it_remembers() {
    let objects = cluster(4, 1);
    let server = FleetServer::start(&objects);
    let address = server.address();
    let replica = Replica::start(&server, "one", &[]);
    replica.wait("all nodes", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(4));
    drop(server);
    replica.wait("the loss", SOON, |page| page.count("podlens_fleet_synced", &[("kind", "pods")]) == Some(0));
    objects.put(PODS, pod(0, 2, 1, &bad_image()));
    objects.delete(NODES, &uid(1, 3));
    let server = FleetServer::start_at(address, &objects);
    let caught_up =
        |page: &_| lacking(page, "ds-00") == image_on("node-0002") && nodes_in(page, "ds-00", "wanted") == Some(3);
    replica.wait("what changed meanwhile", SOON, caught_up);
    let lists = objects.requests(PODS, "list", 200);
    assert_eq!(lists, 1, "the watch goes on where it was");

    drop(server);
    objects.put(PODS, pod(0, 2, 1, &ready()));
    objects.delete(PODS, &pod_uid(0, 0, 1));
    objects.delete(DAEMON_SETS, &uid(2, 7));
    objects.forget_history();
    let _server = FleetServer::start_at(address, &objects);
    let gone = vec![("node-0000".to_owned(), "not_made".to_owned())];
    replica.wait("what changed meanwhile", SOON, |page| lacking(page, "ds-00") == gone);
    assert_eq!(objects.requests(PODS, "list", 200), lists + 1, "one list is enough");
    assert_eq!(objects.requests(PODS, "watch", 410), 1);
}

#[test]
fn a_server_that_hangs_ends_the_claim_and_no_health() {
    let objects = cluster(2, 1);
    let server = FleetServer::start(&objects);
    let replica = Replica::start(&server, "one", &[]);
    replica.wait("all nodes", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(2));
    objects.set_faults(Faults { silent: true, ..Faults::default() });
    replica.wait("the end of its claim", Duration::from_secs(16), |page| nodes_in(page, "ds-00", "wanted").is_none());
    assert!(!replica.leads());
    assert_eq!(replica.get("/healthz").unwrap().0, 200);
    objects.put(PODS, pod(0, 1, 1, &bad_image()));
    objects.set_faults(Faults::default());
    replica.wait("what changed meanwhile", SOON, |page| lacking(page, "ds-00") == image_on("node-0001"));
}

fn attributes(of: &Value) -> BTreeMap<String, String> {
    let list = of["attributes"].as_array().cloned().unwrap_or_default();
    let text = |one: &Value| one["value"]["stringValue"].as_str().unwrap_or_default().to_owned();
    list.iter().map(|one| (one["key"].as_str().unwrap().to_owned(), text(one))).collect()
}

/// All members of this name, wherever they are.
fn members<'a>(bodies: &'a [Value], path: &[&str]) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = bodies.iter().collect();
    for name in path {
        found = found.into_iter().flat_map(|value| value[*name].as_array().into_iter().flatten()).collect();
    }
    found
}

/// The events that a collector got, with their attributes.
fn told(bodies: &[Value]) -> Vec<(String, BTreeMap<String, String>)> {
    let records = members(bodies, &["resourceLogs", "scopeLogs", "logRecords"]);
    let told = |record: &Value| (record["eventName"].as_str().unwrap_or_default().to_owned(), attributes(record));
    records.into_iter().map(told).collect()
}

#[test]
fn a_real_collector_gets_what_is_and_what_happened_and_nothing_that_was() {
    let objects = cluster(3, 1);
    let server = FleetServer::start(&objects);
    let collector = Collector::start();
    let settings = [("PODLENS_OTLP_ENDPOINT", &*collector.grpc_endpoint()), ("PODLENS_OTLP_INTERVAL", "200ms")];
    let replica = Replica::start(&server, "one", &settings);
    replica.wait("all nodes", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(3));
    objects.put(PODS, pod(0, 1, 1, &bad_image()));
    replica.wait("the reason", NOTICED, |page| lacking(page, "ds-00") == image_on("node-0001"));
    let since = |bodies: &[Value]| {
        let body = bodies.last()?;
        let metrics = members(std::slice::from_ref(body), &["resourceMetrics", "scopeMetrics", "metrics"]);
        let metric = metrics.into_iter().find(|one| one["name"] == "podlens.fleet.lacking.since.timestamp");
        Some(metric.map_or(0, |one| one["gauge"]["dataPoints"].as_array().map_or(0, Vec::len)))
    };
    collector.wait_for_metrics(SOON, |bodies| since(bodies).filter(|points| *points == 1));
    objects.put(PODS, pod(0, 1, 1, &ready()));
    replica.wait("the end", NOTICED, |page| lacking(page, "ds-00").is_empty());
    collector.wait_for_metrics(SOON, |bodies| since(bodies).filter(|points| *points == 0));

    let told = collector.wait_for_logs(SOON, |bodies| Some(told(bodies)).filter(|told| told.len() == 2));
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["podlens.daemonset.lacking", "podlens.daemonset.restored"]);
    let attribute = |key: &str| told[0].1.get(key).map(String::as_str);
    assert_eq!(
        (attribute("k8s.daemonset.name"), attribute("k8s.node.name"), attribute("podlens.reason")),
        (Some("ds-00"), Some("node-0001"), Some("image"))
    );
    let page = replica.page();
    assert_eq!(page.count("podlens_events_total", &[("event", "podlens.daemonset.lacking")]), Some(1));
    assert_eq!(page.count("podlens_otlp_log_records_total", &[("result", "sent")]), Some(2));
}

#[test]
fn what_may_pass_by_itself_is_told_after_a_minute_once_with_its_end() {
    let objects = cluster(5, 1);
    let server = FleetServer::start(&objects);
    let collector = Collector::start();
    let settings = [("PODLENS_OTLP_ENDPOINT", &*collector.grpc_endpoint())];
    let replica = Replica::start(&server, "one", &settings);
    replica.wait("all nodes", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(5));
    let began = Instant::now();
    let unready = || {
        let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status });
        let conditions =
            [condition("PodScheduled", "True"), condition("Initialized", "True"), condition("Ready", "False")];
        let running = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
        let containers =
            [json!({ "name": "app", "image": "app:1", "ready": false, "started": true, "state": running })];
        json!({ "phase": "Running", "conditions": conditions, "containerStatuses": containers })
    };
    let leaving = || {
        let mut leaving = pod(0, 2, 1, &ready());
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        leaving
    };
    objects.put(PODS, pod(0, 1, 1, &unready()));
    objects.put(PODS, leaving());
    // It passes within the minute.
    objects.put(PODS, pod(0, 3, 1, &unready()));
    let lacks = |node: &str, reason: &str| (node.to_owned(), reason.to_owned());
    let (unready_1, leaving_2) = (lacks("node-0001", "not_ready"), lacks("node-0002", "terminating"));
    replica.wait("the reasons", NOTICED, |page| {
        lacking(page, "ds-00") == [unready_1.clone(), leaving_2.clone(), lacks("node-0003", "not_ready")]
    });
    objects.put(PODS, pod(0, 3, 1, &ready()));
    replica.wait("an end", NOTICED, |page| lacking(page, "ds-00") == [unready_1.clone(), leaving_2.clone()]);

    let of = |bodies: &[Value]| -> Vec<(String, String, String)> {
        let attribute = |more: &BTreeMap<String, String>, key: &str| more.get(key).cloned().unwrap_or_default();
        let told = told(bodies).into_iter();
        let mut told: Vec<_> = told
            .map(|(name, more)| (name, attribute(&more, "k8s.node.name"), attribute(&more, "podlens.reason")))
            .collect();
        told.sort();
        told
    };
    let event = |name: &str, (node, reason): &(String, String)| {
        (format!("podlens.daemonset.{name}"), node.clone(), reason.clone())
    };
    let after = Duration::from_mins(1);
    collector.wait_for_logs(after + SOON, |bodies| Some(()).filter(|()| of(bodies).len() >= 2));
    assert!(began.elapsed() >= after, "told after {:?}", began.elapsed());
    assert_eq!(of(&collector.logs()), [event("lacking", &unready_1), event("lacking", &leaving_2)]);

    objects.put(PODS, pod(0, 1, 1, &ready()));
    objects.delete(PODS, &pod_uid(0, 2, 1));
    objects.put(PODS, pod(0, 2, 1, &ready()));
    replica.wait("the ends", NOTICED, |page| lacking(page, "ds-00").is_empty());
    collector.wait_for_logs(SOON, |bodies| Some(()).filter(|()| of(bodies).len() >= 4));
    // One that is told twice comes soon.
    std::thread::sleep(NOTICED);
    let told = of(&collector.logs());
    let wanted = [("lacking", &unready_1), ("lacking", &leaving_2), ("restored", &unready_1), ("restored", &leaving_2)];
    assert_eq!(told, wanted.map(|(name, lack)| event(name, lack)));
}

/// How many events of the leader may not have got through, as it tells in the Lease.
fn unsure(objects: &Objects) -> Option<u64> {
    let lease = objects.lease("podlens")?;
    lease["metadata"]["annotations"]["podlens.io/told"].as_str()?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn what_happens_between_two_leaders_is_told_once_by_the_second() {
    let objects = cluster(5, 1);
    let server = FleetServer::start(&objects);
    let collector = Collector::start();
    let settings = [("PODLENS_OTLP_ENDPOINT", &*collector.grpc_endpoint())];
    let fails = |node| objects.put(PODS, pod(0, node, 1, &bad_image()));
    let works = |node| objects.put(PODS, pod(0, node, 1, &ready()));
    let start = |name| {
        let replica = Replica::start(&server, name, &settings);
        replica.wait("its first look", SOON, |_| replica.get("/readyz").is_ok_and(|(code, _)| code == 200));
        replica
    };
    // What is to have been told so far, each event once.
    let expect = |expected: &[(&str, usize)]| {
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(event, node)| (format!("podlens.daemonset.{event}"), format!("node-{node:04}")))
            .collect();
        let of_node = |bodies: &[Value]| -> Vec<(String, String)> {
            let told = told(bodies).into_iter();
            let mut told: Vec<_> =
                told.map(|(name, more)| (name, more.get("k8s.node.name").cloned().unwrap_or_default())).collect();
            // What is noticed at once has no order among nodes.
            told.sort_by(|(_, one), (_, other)| one.cmp(other));
            told
        };
        collector.wait_for_logs(SOON, |bodies| Some(()).filter(|()| of_node(bodies).len() >= expected.len()));
        // One that is told twice comes within the next renewals.
        std::thread::sleep(NOTICED);
        assert_eq!(of_node(&collector.logs()), expected);
    };
    let first = start("first");
    first.wait("its lead", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(5));
    let second = start("second");
    fails(1);
    expect(&[("lacking", 1)]);

    // It vanishes without a word, once it knows that all it has told got through.
    let unsure = |expected: u64| {
        wait_for("the Lease", SOON, || match unsure(&objects) {
            Some(unsure) if unsure == expected => Ok(()),
            other => Err(format!("{other:?} may not have got through")),
        });
    };
    unsure(0);
    drop(first);
    fails(2);
    works(1);
    second.wait("its lead", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(4));
    expect(&[("lacking", 1), ("restored", 1), ("lacking", 2)]);
    let lost =
        |replica: &Replica, reason| replica.page().count("podlens_fleet_events_lost_total", &[("reason", reason)]);
    assert_eq!((lost(&second, "untold"), lost(&second, "unsure")), (Some(0), Some(0)));

    // It is stopped while something happens.
    let third = start("third");
    fails(3);
    second.stop();
    fails(4);
    third.wait("its lead", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(2));
    expect(&[("lacking", 1), ("restored", 1), ("lacking", 2), ("lacking", 3), ("lacking", 4)]);

    // It vanishes while it tells.
    let fourth = start("fourth");
    unsure(0);
    collector.signal("STOP");
    works(3);
    unsure(1);
    drop(third);
    collector.signal("CONT");
    fourth.wait("its lead", SOON, |page| nodes_in(page, "ds-00", "ready") == Some(3));
    assert_eq!((lost(&fourth, "untold"), lost(&fourth, "unsure")), (Some(0), Some(1)));
}
