//! A real OpenTelemetry collector takes events as log records, under the resource of whom they are about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Agent, Fate, TestCgroup, Told, Trees, container_id, doomed, kill_fifty, pod_uid, skip};
use serde_json::{Value, json};
use testkit::{
    components::Collector,
    free_address,
    kubernetes::{ApiServer, Store},
};

const LIMIT: Duration = Duration::from_secs(30);

/// A shell in the cgroups that becomes this command once it is told to.
fn start_in(cgroups: &[&TestCgroup], command: &str) -> Child {
    let script = format!("read go; exec {command}");
    // `unshare` complains where its child is killed.
    let mut child =
        Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    for cgroup in cgroups {
        cgroup.add(child.id());
    }
    writeln!(child.stdin.take().unwrap(), "go").unwrap();
    child
}

/// Runs it to its end.
fn run_in(cgroup: &TestCgroup, command: &str) {
    start_in(&[cgroup], command).wait().unwrap();
}

/// Kills the first process of the PID namespace that this `unshare` has made.
fn kill_first_process(unshare: &mut Child) {
    let id = unshare.id();
    let first = common::wait_until("the namespace's first process", LIMIT, || {
        let children =
            fs::read_to_string(format!("/proc/{id}/task/{id}/children")).map_err(|error| error.to_string())?;
        children.split_whitespace().next().map(str::to_owned).ok_or_else(|| "none yet".to_owned())
    });
    assert!(Command::new("kill").args(["-KILL", &first]).status().unwrap().success());
    unshare.wait().unwrap();
}

fn attributes(of: &Value) -> BTreeMap<String, String> {
    let list = of["attributes"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| {
        let single = value["stringValue"].as_str().or_else(|| value["intValue"].as_str());
        single.map_or_else(|| value.to_string(), str::to_owned)
    };
    list.iter().map(|one| (one["key"].as_str().unwrap().to_owned(), text(&one["value"]))).collect()
}

/// All records under a resource with this attribute, and that resource's attributes.
fn records(bodies: &[Value], key: &str, value: &str) -> Vec<(BTreeMap<String, String>, Value)> {
    let mut found = Vec::new();
    for resource in bodies.iter().flat_map(|body| body["resourceLogs"].as_array().cloned().unwrap_or_default()) {
        let of = attributes(&resource["resource"]);
        if of.get(key).is_none_or(|known| known != value) {
            continue;
        }
        for scope in resource["scopeLogs"].as_array().unwrap() {
            found.extend(scope["logRecords"].as_array().unwrap().iter().map(|record| (of.clone(), record.clone())));
        }
    }
    found
}

/// The one record about a container; fails if there are more.
#[track_caller]
fn wait_for_end(collector: &Collector, number: u32) -> (BTreeMap<String, String>, Value) {
    let id = container_id(number);
    collector.wait_for_logs(LIMIT, |bodies| {
        let mut found = records(bodies, "container.id", &id);
        assert!(found.len() < 2, "{found:?}");
        found.pop()
    })
}

fn text(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Every event that was noted is among the records that were sent, dropped or rejected.
fn wait_until_settled(agent: &Agent) -> [u64; 3] {
    agent.wait_for_metrics("each event is settled", |page| {
        let made: u64 = page.all("podlens_events_total", &[]).iter().map(|sample| sample.count()).sum();
        let result = |result| page.count("podlens_otlp_log_records_total", &[("result", result)]).unwrap();
        let results = ["sent", "dropped", "rejected"].map(result);
        if results.iter().sum::<u64>() == made { Ok(results) } else { Err(format!("{made} noted, {results:?}")) }
    })
}

#[test]
fn the_end_of_a_container_comes_once_with_its_resource_its_exit_code_and_its_signal() {
    let collector = Collector::start();
    let agent =
        Agent::start(&[("PODLENS_OTLP_ENDPOINT", &collector.grpc_endpoint()), ("PODLENS_KUBERNETES_SOURCE", "none")]);
    let uid = pod_uid(91);
    let cgroup = TestCgroup::container(&uid, 91);
    // Neither of these is the container's end.
    run_in(&cgroup, "true");
    run_in(&cgroup, "sh -c 'exit 7'");
    run_in(&cgroup, "unshare --pid --fork sh -c 'exit 3'");
    cgroup.remove();
    let (resource, record) = wait_for_end(&collector, 91);
    let id = container_id(91);
    assert_eq!(resource, text(&[("k8s.node.name", "test-node"), ("k8s.pod.uid", &uid), ("container.id", &id)]));
    assert_eq!(record["eventName"], "podlens.container.failed");
    assert_eq!((&record["severityText"], &record["severityNumber"]), (&"WARN".into(), &13.into()));
    assert_eq!(attributes(&record), text(&[("process.exit.code", "3"), ("podlens.source", "kernel")]));

    let killed = TestCgroup::container(&pod_uid(92), 92);
    kill_first_process(&mut start_in(&[&killed], "unshare --pid --fork sleep 1000"));
    killed.remove();
    let (_, record) = wait_for_end(&collector, 92);
    let expected = [("process.exit.code", "137"), ("podlens.exit.signal", "9"), ("podlens.source", "kernel")];
    assert_eq!(attributes(&record), text(&expected));

    let well = TestCgroup::container(&pod_uid(93), 93);
    run_in(&well, "unshare --pid --fork sh -c 'sleep 0.1 & exec true'");
    well.remove();
    let (_, record) = wait_for_end(&collector, 93);
    assert_eq!((&record["eventName"], &record["severityText"]), (&"podlens.container.exited".into(), &"INFO".into()));

    let [sent, dropped, rejected] = wait_until_settled(&agent);
    assert!(sent >= 3);
    assert_eq!((dropped, rejected), (0, 0));
}

#[test]
fn the_end_of_a_container_that_version_2_takes_for_its_runtime_is_the_containers() {
    if !TestCgroup::machine_is_hybrid() {
        return skip("this machine does not mount a version 2 tree beside a version 1 CPU hierarchy");
    }
    let collector = Collector::start();
    let _agent =
        Agent::start(&[("PODLENS_OTLP_ENDPOINT", &collector.grpc_endpoint()), ("PODLENS_KUBERNETES_SOURCE", "none")]);
    let unit = format!("podlens-test-{}.service", std::process::id());
    let runtime = TestCgroup::at(format!("/system.slice/{unit}"), Vec::new(), Trees::ForRealTime);
    let cgroup = TestCgroup::container_in(&pod_uid(96), 96, Trees::Version1);
    start_in(&[&runtime, &cgroup], "unshare --pid --fork sh -c 'exit 5'").wait().unwrap();
    cgroup.remove();
    let (_, record) = wait_for_end(&collector, 96);
    assert_eq!(attributes(&record)["process.exit.code"], "5");
}

fn pod(uid: &str, id: &str, state: &Value) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": "web-0", "namespace": "shop", "uid": uid, "resourceVersion": "6" },
        "spec": { "nodeName": "test-node", "restartPolicy": "Always", "containers": [{ "name": "app", "image": "shop/web:3" }] },
        "status": { "containerStatuses": [
            { "name": "app", "containerID": format!("containerd://{id}"), "state": state }
        ] },
    })
}

/// An API server that knows this pod, whose container runs, and an agent that watches it.
fn watching(collector: &Collector, number: u32) -> (Arc<Store>, ApiServer, Agent) {
    let store = Arc::new(Store::default());
    store.put(&pod(&pod_uid(number), &container_id(number), &json!({ "running": {} })));
    let server = ApiServer::start(&store);
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[
        ("PODLENS_OTLP_ENDPOINT", &collector.grpc_endpoint()),
        ("PODLENS_KUBERNETES_KUBECONFIG", server.kubeconfig(directory.path(), &json!({})).to_str().unwrap()),
    ]);
    agent.wait_for_metrics("a watch", |page| match page.count("podlens_names_synced", &[]) {
        Some(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    (store, server, agent)
}

#[test]
fn the_pod_status_tells_an_end_with_its_reason_under_the_pods_name_and_the_kernel_adds_the_signal() {
    let (uid, id) = (pod_uid(95), container_id(95));
    let collector = Collector::start();
    let (store, _server, agent) = watching(&collector, 95);
    let cgroup = TestCgroup::container(&uid, 95);
    kill_first_process(&mut start_in(&[&cgroup], "unshare --pid --fork sleep 1000"));
    cgroup.remove();
    let now = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap().stdout;
    let now = String::from_utf8(now).unwrap().trim().to_owned();
    let terminated = json!({ "terminated": {
        "containerID": format!("containerd://{id}"), "exitCode": 137, "reason": "OOMKilled",
        "startedAt": now, "finishedAt": now,
    } });
    store.put(&pod(&uid, &id, &terminated));

    let (resource, record) = wait_for_end(&collector, 95);
    for (key, value) in [
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "web-0"),
        ("k8s.pod.uid", &uid),
        ("k8s.container.name", "app"),
        ("container.image.name", "shop/web"),
    ] {
        assert_eq!(resource.get(key).map(String::as_str), Some(value), "{key} in {resource:?}");
    }
    let expected = [
        ("process.exit.code", "137"),
        ("podlens.exit.signal", "9"),
        ("k8s.container.status.reason", "OOMKilled"),
        ("podlens.container.started", &now),
        ("podlens.source", "pod_status"),
    ];
    assert_eq!(attributes(&record), text(&expected));
    wait_until_settled(&agent);
    assert_eq!(records(&collector.logs(), "container.id", &id).len(), 1);
}

#[test]
fn an_end_that_waits_for_its_pods_status_is_told_by_the_kernels_word_at_a_stop() {
    let collector = Collector::start();
    let (_store, _server, agent) = watching(&collector, 96);
    let cgroup = TestCgroup::container(&pod_uid(96), 96);
    kill_first_process(&mut start_in(&[&cgroup], "unshare --pid --fork sleep 1000"));
    cgroup.remove();
    let (status, _) = agent.stop();
    assert!(status.success());
    let (resource, record) = wait_for_end(&collector, 96);
    assert_eq!(resource["k8s.pod.name"], "web-0");
    let expected = [("process.exit.code", "137"), ("podlens.exit.signal", "9"), ("podlens.source", "kernel")];
    assert_eq!(attributes(&record), text(&expected));
}

#[test]
fn where_annotations_tell_the_names_no_end_waits_for_a_status() {
    let collector = Collector::start();
    let run = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[
        ("PODLENS_OTLP_ENDPOINT", &collector.grpc_endpoint()),
        ("PODLENS_KUBERNETES_SOURCE", "bundle"),
        ("PODLENS_KUBERNETES_BUNDLE_ROOT", run.path().to_str().unwrap()),
    ]);
    let id = container_id(97);
    let bundle = run.path().join("containerd/io.containerd.runtime.v2.task/k8s.io").join(&id);
    fs::create_dir_all(&bundle).unwrap();
    let annotations = json!({
        "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-name": "web-0",
    });
    fs::write(bundle.join("config.json"), json!({ "annotations": annotations }).to_string()).unwrap();
    let cgroup = TestCgroup::container(&pod_uid(97), 97);
    run_in(&cgroup, "unshare --pid --fork sh -c 'exit 3'");
    cgroup.remove();
    let (resource, record) = wait_for_end(&collector, 97);
    assert_eq!(resource["k8s.container.name"], "app");
    let moment = |name: &str| record[name].as_str().unwrap().parse::<u64>().unwrap();
    let waited = Duration::from_nanos(moment("observedTimeUnixNano") - moment("timeUnixNano"));
    // It was noted with the next look at what there is to tell, once a second.
    assert!(waited < Duration::from_secs(8), "it waited {waited:?}");
    wait_until_settled(&agent);
}

#[test]
fn while_the_collector_is_away_events_wait_and_then_come_once() {
    let address = free_address();
    let agent =
        Agent::start(&[("PODLENS_OTLP_ENDPOINT", &format!("http://{address}")), ("PODLENS_KUBERNETES_SOURCE", "none")]);
    let cgroup = TestCgroup::container(&pod_uid(94), 94);
    run_in(&cgroup, "unshare --pid --fork sh -c 'exit 4'");
    cgroup.remove();
    let failed = [("event", "podlens.container.failed")];
    agent.wait_for_metrics("the event is noted", |page| match page.count("podlens_events_total", &failed) {
        Some(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(agent.metrics().count("podlens_otlp_log_records_total", &[("result", "sent")]), Some(0));
    let collector = Collector::start_at(address);
    let (_, record) = wait_for_end(&collector, 94);
    assert_eq!(attributes(&record)["process.exit.code"], "4");
    let [_, dropped, rejected] = wait_until_settled(&agent);
    assert_eq!((dropped, rejected), (0, 0));
    assert_eq!(records(&collector.logs(), "container.id", &container_id(94)).len(), 1);
}

#[test]
fn what_a_collector_lacks_is_told_under_the_agents_own_resource() {
    let collector = Collector::start();
    // It may load nothing.
    let agent = Agent::start_under(
        &["setpriv", "--no-new-privs", "--bounding-set=-all"],
        &[("PODLENS_OTLP_ENDPOINT", &collector.grpc_endpoint()), ("PODLENS_KUBERNETES_SOURCE", "none")],
    );
    let (resource, record) = collector.wait_for_logs(LIMIT, |bodies| {
        let own = records(bodies, "service.name", "podlens");
        own.into_iter().find(|(_, record)| attributes(record)["podlens.collector"] == "scheduler")
    });
    assert_eq!(resource["k8s.node.name"], "test-node");
    assert_eq!(record["eventName"], "podlens.collector.failed");
    assert!(attributes(&record)["podlens.reason"].contains("BPF"), "{record}");
    wait_until_settled(&agent);
}

#[test]
fn nothing_is_noted_where_events_are_switched_off_or_nobody_takes_them() {
    let collector = Collector::start();
    let endpoint = collector.grpc_endpoint();
    for environment in [
        vec![("PODLENS_OTLP_ENDPOINT", endpoint.as_str()), ("PODLENS_EVENTS_ENABLED", "false")],
        vec![("PODLENS_KUBERNETES_SOURCE", "none")],
    ] {
        let agent = Agent::start(&environment);
        let page = agent.metrics();
        assert_eq!(page.all("podlens_events_total", &[]).len(), 0);
        assert_eq!(page.all("podlens_otlp_log_records_total", &[]).len(), 0);
    }
}

#[test]
fn fifty_kills_for_want_of_memory_within_seconds_are_fifty_records_and_the_kernels_own_count() {
    let collector = Collector::start();
    // The records may be there before a page that was made for a push is too old to be handed out.
    let agent = Agent::start(&[
        ("PODLENS_OTLP_ENDPOINT", &collector.grpc_endpoint()),
        ("PODLENS_KUBERNETES_SOURCE", "none"),
        ("PODLENS_MAX_AGE", "0s"),
    ]);
    let Some(containers) = doomed() else { return skip("this machine does not count memory by cgroup") };
    let began = Instant::now();
    kill_fifty(&containers);
    println!("the last kill was after {:?}", began.elapsed());
    for container in &containers {
        let found = collector.wait_for_logs(LIMIT, |bodies| {
            let found = records(bodies, "container.id", &container.fate.id());
            assert!(found.len() <= Fate::RECORDS, "{found:?}");
            (found.len() == Fate::RECORDS).then_some(found)
        });
        for (_, record) in &found {
            let named = (&record["eventName"], &record["severityText"]);
            assert_eq!(named, (&"podlens.process.oom_killed".into(), &"WARN".into()));
        }
        let told: Vec<Told> = found.into_iter().map(|(of, record)| Told { of, says: attributes(&record) }).collect();
        container.fate.assert_told(&told);
        container.assert_counts(&agent.metrics());
    }
    let [_, dropped, rejected] = wait_until_settled(&agent);
    assert_eq!((dropped, rejected), (0, 0));
}
