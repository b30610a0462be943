//! Alerts fired by their causes: a real Prometheus with the rules, in which only times are shorter, scrapes real agents while pods
//! stand in each other's way, agents go away, and `DaemonSets` lack their pods. Before its cause each alert is silent.
//!
//! It takes three minutes, and more where others use the machine, so only `PODLENS_TEST_FULL=1` runs it.
//! promtool tries the same rules with series of its own, at their own times (xtask/src/monitoring/tests).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod fleet_parts;
mod monitoring_parts;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use common::{Agent, Load, TestCgroup, Work, skip};
use fleet_parts::{EVENTS, NODES, PODS, REVISIONS, Replica, bad_image, cluster, pod, pod_uid, revision};
use monitoring_parts::{LACKS, Node, RULES, file, kill_by_a_limit_above, prometheus, target};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    components::Prometheus,
    dashboards::{list, text},
    free_address,
    kubernetes::{Faults, FleetServer, kubeconfig},
    rules,
};

/// In place of windows from 5 minutes to an hour. Longer than from one walk through memory and sockets to the next.
const WINDOW_SECONDS: u32 = 12;
const WINDOW: &str = "12s";
/// In place of the time for which it must have been so.
const HOLD: &str = "1s";
/// How long one kind of causes may take until all of its alerts fire.
const WITHIN: Duration = Duration::from_secs(45);
/// Fires only while next to nobody waits for a CPU.
const WHILE_IDLE: &str = "PodThrottledWhileNodeIdles";
/// What others, the agents and Prometheus among them, may use of the CPUs while that is sure.
const OTHERS_CPUS: f64 = 0.12;
/// So often it is tried, each time for so long.
const TRIES: u32 = 12;
const TRY: Duration = Duration::from_secs(25);
/// So long nothing may fire at rest: longer than the window.
const REST: Duration = Duration::from_secs(16);

/// The rules with shorter times, in a directory of its own.
fn shortened() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.yaml");
    let rules = fs::read_to_string(file(RULES)).unwrap();
    fs::write(&path, rules::shortened(&rules, WINDOW_SECONDS, HOLD)).unwrap();
    (directory, path)
}

/// What fires now, and what has fired so far.
struct Watch {
    prometheus: Prometheus,
    seen: BTreeSet<String>,
}

impl Watch {
    fn firing(&self) -> BTreeSet<String> {
        // Pods without a namespace are those of another's tests on this machine.
        let points = self.prometheus.query("ALERTS{alertstate=\"firing\"} unless ALERTS{namespace=\"\", pod!=\"\"}");
        points.unwrap().iter().map(|point| point.labels["alertname"].clone()).collect()
    }

    /// Goes on with `step` until each of these has fired, and says how long that took.
    #[track_caller]
    fn until_fired(&mut self, what: &str, alerts: &[&str], mut step: impl FnMut()) {
        let (began, mut open) = (Instant::now(), alerts.iter().copied().collect::<BTreeSet<_>>());
        loop {
            let firing = self.firing();
            open.retain(|alert| !firing.contains(*alert));
            self.seen.extend(firing);
            if open.is_empty() {
                println!("{what}: {alerts:?} fire after {:.0} s", began.elapsed().as_secs_f64());
                return;
            }
            assert!(began.elapsed() < WITHIN, "{what}: {open:?} do not fire, but {:?}", self.seen);
            step();
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits for an alert, and says whether it came.
    fn fires_within(&mut self, alert: &str, time: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < time {
            let firing = self.firing();
            let fires = firing.contains(alert);
            self.seen.extend(firing);
            if fires {
                return true;
            }
            thread::sleep(Duration::from_millis(200));
        }
        false
    }

    /// None but these fire for so long.
    #[track_caller]
    fn silent_but_for(&self, what: &str, alerts: &[&str], time: Duration, mut step: impl FnMut()) {
        let began = Instant::now();
        while began.elapsed() < time {
            let mut firing = self.firing();
            firing.retain(|alert| !alerts.contains(&alert.as_str()));
            let lost = "sum by (collector, reason) (rate(podlens_lost_total[12s])) > 0";
            assert!(firing.is_empty(), "{what}: {firing:?}; {:?}", self.prometheus.query(lost));
            step();
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// An OTLP receiver over HTTP that wants nothing of what it gets, in a thread that ends with the process.
fn refusing_receiver() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                // Whatever it says, however long: the connection is closed once the refusal is there.
                let _ = stream.read(&mut [0; 8192]);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                while stream.read(&mut [0; 8192]).is_ok_and(|length| length > 0) {}
            });
        }
    });
    endpoint
}

/// The first wait for somebody who is there is in the rule, though in no rate of what victims tell by name: here it is all that
/// there is.
fn assert_first_wait_counts(node: &Node, prometheus: &Prometheus) {
    node.begin();
    let inflicted = "podlens_cpu_wait_inflicted_seconds_total{pod=\"log-1\"}";
    // For a whole window: of few samples `rate` makes too much.
    prometheus.wait_for(&format!("count_over_time({inflicted}[{WINDOW}])"), WITHIN, |points| {
        points.first().is_some_and(|point| point.value >= f64::from(WINDOW_SECONDS) - 1.0)
    });
    node.collide_once();
    let rule = "podlens:workload_cpu_wait_caused:tasks{workload=\"log\"}";
    let of_all = "podlens_cpu_wait_caused_seconds_total{culprit_pod=\"log-1\"}";
    let of_web = "podlens_cpu_wait_caused_seconds_total{pod=\"web-0\", culprit_pod=\"log-1\"}";
    // Until there are two samples after it.
    prometheus.wait_for(&format!("count_over_time({of_web}[{WINDOW}])"), WITHIN, |points| {
        points.first().is_some_and(|point| point.value >= 3.0)
    });
    let moment = prometheus.wait_for(&format!("timestamp({rule} > 0)"), WITHIN, |points| !points.is_empty())[0].value;
    let one = |expression: &str| prometheus.query(expression).unwrap().first().map_or(0.0, |point| point.value);
    let by_rule = one(&format!("{rule} @ {moment:.3}")) * f64::from(WINDOW_SECONDS);
    let by_rates = one(&format!("sum(rate({of_all}[{WINDOW}] @ {moment:.3}))")) * f64::from(WINDOW_SECONDS);
    let [of_web, of_all] = [of_web, of_all].map(|counters| one(&format!("sum({counters} @ {moment:.3})")));
    println!(
        "for log-1 waited web-0 {of_web:.3} s, all {of_all:.3} s; {by_rule:.3} s by the rule, {by_rates:.3} s by rates"
    );
    assert!(of_web > 0.01 && by_rule > 0.999 * of_web && by_rule < 1.2 * of_all);
}

/// How many CPUs were at work since the machine's start, as a sum of seconds, by the kernel's own count.
fn busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<f64> =
        text.lines().next().unwrap().split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
    // user, nice, system, then idle and iowait, then irq, softirq and steal. Guests are in user already.
    (ticks[..3].iter().sum::<f64>() + ticks[5..8].iter().sum::<f64>()) / 100.0
}

/// A pod is stopped by its own limit while next to nobody waits for a CPU. Where others use this machine meanwhile, as the
/// kernel says, the alert is rightly silent, and it is tried again.
fn assert_fires_while_idle(node: &Node, watch: &mut Watch) {
    let mut silent = Vec::new();
    for _ in 0..TRIES {
        let (began, busy) = (Instant::now(), busy_seconds());
        let limited = node.work_within_a_quota();
        let fires = watch.fires_within(WHILE_IDLE, TRY);
        let own = Duration::from_nanos(limited.cpu_ns_now()).as_secs_f64();
        drop(limited);
        let others = (busy_seconds() - busy - own) / began.elapsed().as_secs_f64();
        println!("a quota: {WHILE_IDLE} fires: {fires}; others used {others:.2} CPUs");
        if fires {
            return;
        }
        assert!(others > OTHERS_CPUS, "{WHILE_IDLE} is silent though others used but {others:.3} CPUs");
        silent.push(others);
    }
    panic!("{WHILE_IDLE} is silent, and others always used the machine: {silent:.2?} CPUs. Run it while nobody does");
}

#[test]
fn each_alert_fires_by_its_cause_and_is_silent_before() {
    if std::env::var_os("PODLENS_TEST_FULL").is_none() {
        return skip("PODLENS_TEST_FULL is not set: it takes three minutes");
    }
    let Some(node) = Node::start(&["podlens_cpu_wait_caused_seconds_total"]) else { return skip(LACKS) };
    let objects = cluster(3, 1);
    let server = FleetServer::start(&objects);
    let replica = Replica::start(&server, "one", &[]);
    let second = free_address();
    let (_rules, rules) = shortened();
    let targets =
        [target("test-node", node.agent.address()), target("second-node", second), target("fleet", replica.address())];
    let mut watch = Watch { prometheus: prometheus(&rules, &targets), seen: BTreeSet::new() };

    // Until the first scrape there is no agent, and at its start it may miss a little.
    thread::sleep(REST);
    watch.prometheus.wait_for("count(ALERTS{alertstate=\"firing\"}) or vector(0)", WITHIN, |points| {
        points[0].value == 0.0 && watch.prometheus.query("podlens_sweep_seconds").is_ok_and(|found| !found.is_empty())
    });
    // Nothing is wrong. What serves the second node's address is not there yet, and never was.
    watch.silent_but_for("at rest", &[], REST, || ());
    let endpoint = refusing_receiver();
    let agent = |environment: &[(&str, &str)]| {
        let mut agent = Agent::spawn(second, &[], environment);
        agent.wait_for_code("/readyz", 200);
        agent
    };
    let weak = agent(&[
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_OTLP_ENDPOINT", &endpoint),
        ("PODLENS_OTLP_PROTOCOL", "http/protobuf"),
        ("PODLENS_OTLP_INTERVAL", "1s"),
        ("PODLENS_SLOTS", "64"),
    ]);

    assert_first_wait_counts(&node, &watch.prometheus);

    // Pods in each other's way.
    {
        let mut busy = node.set_to_work(Duration::from_mins(5));
        busy.lose_one_of(6);
        let mut number = 0;
        let of_pods = [
            "PodOomKilledRepeatedly",
            "PodStalledForMemory",
            "PodRetransmitting",
            "PodDnsFailing",
            "PodlensOtlpFailing",
        ];
        watch.until_fired("neighbors", &of_pods, || {
            busy.step();
            if number % 3 == 0 {
                busy.kill_one();
            }
            number += 1;
        });
        watch.until_fired("a limit above a pod", &["NodeOutOfMemory"], kill_by_a_limit_above);
        // Beside whoever else uses this machine.
        node.favour_neighbors();
        watch.until_fired("a neighbor", &["PodDelayedByNeighbor"], || ());
    }
    let has_slow_disk = node.read_slowly().is_some_and(|_slow| {
        watch.until_fired("a slow disk", &["PodDiskSlow"], || ());
        true
    });
    // After what needs nobody's rest.
    assert_fires_while_idle(&node, &mut watch);

    // More cgroups than slots: a loss, and CPU time that belongs to nobody.
    {
        let cgroups: Vec<TestCgroup> = (0..80).map(|_| TestCgroup::any_container()).collect();
        let work = Work::Wake { times: 100_000, sleep: Duration::from_millis(40), spin: Duration::from_millis(10) };
        let mut loads: Vec<Load> = cgroups.iter().map(|cgroup| Load::start(Some(cgroup), work, None)).collect();
        loads.iter_mut().for_each(Load::go);
        watch.until_fired("too few slots", &["PodlensLosing", "PodlensAttributionLow"], || ());
    }

    // DaemonSets, and who watches them.
    objects.put(REVISIONS, revision(0, 2));
    objects.delete(PODS, &pod_uid(0, 1, 1));
    objects.put(PODS, pod(0, 1, 2, &bad_image()));
    watch.until_fired("a bad image", &["DaemonSetPodMissing", "DaemonSetRolloutStuck"], || ());
    let forbidden = [EVENTS, NODES].map(str::to_owned).into();
    objects.set_faults(Faults { forbidden, ..Faults::default() });
    drop(server);
    watch.until_fired("an API server that is away", &["PodlensFleetBlind"], || ());

    // The agents themselves.
    assert!(!watch.seen.contains("PodlensAgentDown") && !watch.seen.contains("PodlensAbsent"), "{:?}", watch.seen);
    let (status, _) = weak.stop();
    assert!(status.success());
    watch.until_fired("an agent's end", &["PodlensAgentDown"], || ());
    let directory = tempfile::tempdir().unwrap();
    let nobody = kubeconfig(free_address(), directory.path(), &json!({}));
    let mut powerless = Agent::spawn(
        second,
        &["setpriv", "--no-new-privs", "--bounding-set=-all"],
        &[("PODLENS_KUBERNETES_KUBECONFIG", nobody.to_str().unwrap())],
    );
    powerless.wait_for_code("/healthz", 200);
    watch.until_fired("neither rights nor names", &["PodlensCollectorLost", "PodlensNamesStale"], || ());
    drop((powerless, node));
    watch.until_fired("no agent", &["PodlensAbsent"], || ());

    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(file(RULES)).unwrap()).unwrap();
    let all = list(&rules, "/groups").flat_map(|group| list(group, "/rules")).map(|rule| text(rule, "/alert"));
    let never: Vec<&str> = all.filter(|alert| !alert.is_empty() && !watch.seen.contains(*alert)).collect();
    println!("not fired: {never:?}");
    // Its cause is a disk that only the virtual machines have.
    assert_eq!(never, if has_slow_disk { vec![] } else { vec!["PodDiskSlow"] });
    assert_eq!(watch.prometheus.complaints(), Vec::<String>::new());
}
