//! A real Prometheus scrapes the agent through the chart's monitors, as the operator translates them: what it adds up over
//! all pods is what the pods have used.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds become nanoseconds")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{Agent, Load, TestCgroup, Trees, Work, container_id, pod_uid};
use serde_json::json;
use testkit::{
    components::Prometheus,
    kubernetes::{ApiServer, Described, State, Status, Store},
    monitor::{endpoint, scrape_config},
};

const LIMIT: Duration = Duration::from_secs(30);
const CPU: &str = "podlens_cpu_seconds_total";
/// The labels that the operator gives to the target: those of the agent's own pod.
const AGENT: [(&str, &str); 3] = [("namespace", "podlens"), ("pod", "podlens-x"), ("container", "podlens")];
/// What the chart renders with its monitors on; `cargo xtask chart --check` compares it with the chart.
const POD_MONITOR: &str = include_str!("../../deploy/chart/ci/golden/monitors.yaml");
const SERVICE_MONITOR: &str = include_str!("../../deploy/chart/ci/golden/service-monitor.yaml");
/// A container's figure against the kernel's, and how much longer a query takes than nothing.
const NS: u64 = 2_000_000;

/// Namespace, pod and container of each cgroup.
const NAMES: [(&str, &str, &str); 4] = [
    ("shop", "web-1", "nginx"),
    ("shop", "web-1", "sidecar"),
    ("shop", "db-0", "postgres"),
    ("podlens", "podlens-x", "podlens"),
];

/// The number of the pod that the container of that number is in.
fn pod_of(number: usize) -> usize {
    NAMES.iter().position(|name| name.1 == NAMES[number].1).unwrap()
}

fn cgroups() -> [TestCgroup; 4] {
    [0, 1, 2, 3].map(|number| TestCgroup::container(&pod_uid(pod_of(number) as u32), number as u32))
}

/// The pods as an API server tells of them.
fn describe(store: &Store) {
    for first in (0..NAMES.len()).filter(|number| pod_of(*number) == *number) {
        let containers = (0..NAMES.len()).filter(|number| pod_of(*number) == first).map(|number| Status {
            name: NAMES[number].2.to_owned(),
            state: State::Running(container_id(number as u32)),
            ..Status::default()
        });
        let (namespace, pod, _) = NAMES[first];
        let pod = Described {
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
            uid: pod_uid(first as u32),
            node: "test-node".to_owned(),
            controller: ("ReplicaSet", pod.to_owned()),
            containers: containers.collect(),
            ballast_bytes: 0,
        };
        store.put(&pod.to_json());
    }
}

fn sum_ns(prometheus: &Prometheus, selector: &str) -> u64 {
    // Of the last scrape that was answered in time.
    let points = prometheus.query(&format!("sum(last_over_time({selector}[10s]))")).unwrap();
    points.first().map_or(0, |point| (point.value * 1e9).round() as u64)
}

#[test]
fn the_sum_over_all_pods_is_what_the_pods_used_and_nothing_of_the_nodes_units_is_in_it() {
    let store = Arc::new(Store::default());
    let server = ApiServer::start(&store);
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(directory.path(), &json!({}));
    let cgroups = cgroups();
    describe(&store);
    let agent =
        Agent::start(&[("PODLENS_MAX_AGE", "0s"), ("PODLENS_KUBERNETES_KUBECONFIG", kubeconfig.to_str().unwrap())]);
    cgroups[3].add(agent.id());

    // The node's units use much more than the pods.
    let name = format!("podlens-test-{}.service", std::process::id());
    let unit = TestCgroup::at(format!("/system.slice/{name}"), vec![("unit".to_owned(), name.clone())], Trees::All);
    let spin = |ms| Work::Spin(Duration::from_millis(ms));
    let mut loads = [(&cgroups[0], 300), (&cgroups[1], 200), (&cgroups[2], 100), (&unit, 2000)]
        .map(|(cgroup, ms)| Load::start(Some(cgroup), spin(ms), None));
    loads.iter_mut().for_each(Load::go);
    loads.iter_mut().for_each(Load::done);
    for load in &loads {
        load.figures();
    }

    let jobs = [("pods", POD_MONITOR, "PodMonitor"), ("services", SERVICE_MONITOR, "ServiceMonitor")]
        .map(|(job, manifests, kind)| scrape_config(job, &endpoint(manifests, kind), true, agent.address(), &AGENT));
    let global = json!({ "scrape_interval": "1s", "scrape_timeout": "1s" });
    let prometheus = Prometheus::start_configured(&json!({ "global": global, "scrape_configs": jobs }).to_string());
    let named = format!("count({CPU}{{namespace=\"shop\"}})");
    prometheus.wait_for(&named, LIMIT, |points| points.first().is_some_and(|point| point.value > 5.5));

    for job in ["pods", "services"] {
        let used = |cgroups: &[TestCgroup]| cgroups.iter().map(TestCgroup::cpu_usage_ns).sum::<u64>();
        let of_job = |matchers: &str| format!("{CPU}{{job=\"{job}\",{matchers}}}");
        // The agent goes on meanwhile: its figure lies between the kernel's before and after.
        let before_ns = used(&cgroups);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        prometheus.wait_for(&format!("min(timestamp({}))", of_job("namespace!=\"\",pod!=\"\"")), LIMIT, |points| {
            points.first().is_some_and(|point| point.value > now)
        });
        // Pods of other tests have no names here.
        let said_ns = sum_ns(&prometheus, &of_job("namespace!=\"\",pod!=\"\""));
        let after_ns = used(&cgroups);
        assert!((before_ns - NS..=after_ns + NS).contains(&said_ns), "{said_ns} of {before_ns} to {after_ns} ns");
        assert!(said_ns >= 600_000_000);
        for (cgroup, (namespace, pod, container)) in cgroups.iter().zip(NAMES).take(3) {
            let matchers = format!("namespace=\"{namespace}\",pod=\"{pod}\",container=\"{container}\"");
            let said_ns = sum_ns(&prometheus, &of_job(&matchers));
            common::assert_near(container, said_ns, cgroup.cpu_usage_ns(), 0.0, NS);
        }
        // The agent's own pod has what the agent has used, and no more.
        let own_ns = sum_ns(&prometheus, &of_job("namespace=\"podlens\""));
        assert!(own_ns <= cgroups[3].cpu_usage_ns() + NS, "{own_ns} ns are the agent's own pod's");
        let unit_ns = sum_ns(&prometheus, &of_job(&format!("unit={name:?}")));
        common::assert_near("the unit's", unit_ns, unit.cpu_usage_ns(), 0.0, NS);
        for label in ["namespace", "pod", "container"] {
            let wrong = prometheus.query(&of_job(&format!("unit!=\"\",{label}!=\"\""))).unwrap();
            assert!(wrong.is_empty(), "units with a {label}: {wrong:?}");
        }
        let all_ns = sum_ns(&prometheus, &of_job("node=\"test-node\""));
        assert!(all_ns >= said_ns + unit_ns, "{all_ns} ns are all");
    }
    assert_eq!(prometheus.complaints(), Vec::<String>::new());
}
