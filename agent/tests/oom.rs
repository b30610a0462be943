//! OOM kills against the kernel's own counts, and what is told of each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{
    Agent, Fate, Hog, MemoryCgroup, PATIENCE, TestCgroup, Told, container_id, doomed, is_logged_as_of_cgroup,
    kill_fifty, logged_resident_bytes, memory_is_own, pod_uid, skip, wait_until,
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
};
use prost::Message as _;
use testkit::http::{Reply, Server};

const MB: u64 = 1 << 20;
const NO_MEMORY: &str = "this machine does not count memory by cgroup";

/// A receiver of log records.
struct Receiver {
    server: Server,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Receiver {
    fn start() -> Self {
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let received = Arc::clone(&told);
        let server = Server::start(move |request| {
            if request.path == "/v1/logs" {
                let body = ExportLogsServiceRequest::decode(request.body.as_slice()).unwrap();
                received.lock().unwrap().extend(kills(&body));
            }
            Reply { content_type: "application/x-protobuf", body: String::new() }
        });
        Self { server, told }
    }

    /// An agent that tells this receiver of events.
    fn agent(&self) -> Agent {
        Agent::start(&[
            ("PODLENS_MAX_AGE", "0s"),
            ("PODLENS_KUBERNETES_SOURCE", "none"),
            ("PODLENS_OTLP_PROTOCOL", "http/protobuf"),
            ("PODLENS_OTLP_ENDPOINT", &format!("http://{}", self.server.address())),
        ])
    }

    /// What is told of a container's kills, once there are so many; fails if there are more.
    #[track_caller]
    fn of(&self, number: u32, count: usize) -> Vec<Told> {
        self.of_container(&container_id(number), count)
    }

    #[track_caller]
    fn of_container(&self, id: &str, count: usize) -> Vec<Told> {
        wait_until("what is told", PATIENCE, || {
            let told = self.told.lock().unwrap();
            let found: Vec<Told> =
                told.iter().filter(|told| told.of.get("container.id").is_some_and(|of| of == id)).cloned().collect();
            assert!(found.len() <= count, "{found:?}");
            if found.len() == count { Ok(found) } else { Err(format!("{found:?}")) }
        })
    }
}

fn kills(body: &ExportLogsServiceRequest) -> Vec<Told> {
    let mut told = Vec::new();
    for logs in &body.resource_logs {
        let of = texts(logs.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default());
        let records = logs.scope_logs.iter().flat_map(|scope| &scope.log_records);
        let kills = records.filter(|record| record.event_name == "podlens.process.oom_killed");
        told.extend(kills.map(|record| Told { of: of.clone(), says: texts(&record.attributes) }));
    }
    told
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &AnyValue| match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|one| (one.key.clone(), one.value.as_ref().map(text).unwrap_or_default())).collect()
}

/// Waits until the kills of a cgroup's entity are so many in each scope that is named, and none in any other.
#[track_caller]
fn assert_counts(agent: &Agent, cgroup: &MemoryCgroup, expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> = ["container", "pod", "ancestor", "node", "other"]
        .into_iter()
        .map(|scope| {
            (scope.to_owned(), expected.iter().find(|(name, _)| *name == scope).map_or(0, |(_, kills)| *kills))
        })
        .collect();
    agent.wait_for_metrics("kills by scope", |page| {
        let samples = page.all("podlens_oom_kills_total", &cgroup.labels());
        let found: BTreeMap<String, u64> =
            samples.iter().map(|sample| (sample.label("scope").to_owned(), sample.count())).collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}, expected {expected:?}")) }
    });
}

#[track_caller]
fn assert_says(told: &Told, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(told.says.get(*key).map(String::as_str), Some(*value), "{key} in {told:?}");
    }
}

/// A number of bytes that was told.
#[track_caller]
fn bytes(told: &Told, key: &str) -> u64 {
    told.says[key].parse().unwrap()
}

/// Kills of which no event tells.
fn untold(agent: &Agent) -> u64 {
    agent.metrics().count("podlens_lost_total", &[("collector", "oom"), ("reason", "untold_kill")]).unwrap()
}

#[test]
fn an_oom_kill_by_the_containers_own_limit_counts_once_and_is_told_with_its_story() {
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let uid = pod_uid(601);
    let Some(container) = MemoryCgroup::container(&uid, 601) else { return skip(NO_MEMORY) };
    container.limit(32 * MB);
    let hog = Hog::start(&container, "glutton");
    assert_counts(&agent, &container, &[]);
    let process = hog.id();
    hog.die(64 << 20);
    assert_counts(&agent, &container, &[("container", 1)]);
    assert_eq!(container.kills(), 1);
    let told = &receiver.of(601, 1)[0];
    assert_eq!(told.of["k8s.pod.uid"], uid);
    let whose = format!("{uid}/{}", &container_id(601)[..12]);
    assert_says(
        told,
        &[
            ("process.executable.name", "glutton"),
            ("process.pid", &process.to_string()),
            ("podlens.oom.scope", "container"),
            ("podlens.oom.processes", "1"),
            ("podlens.oom.limit", &(32 * MB).to_string()),
            ("podlens.oom.trigger", &whose),
        ],
    );
    let usage = bytes(told, "podlens.oom.usage");
    assert!((31 * MB..=33 * MB).contains(&usage), "{usage}");
    // What each CPU has not added to each of three sums yet, which newer kernels' log adds.
    let cpus = u64::try_from(common::online_cpus().len()).unwrap();
    let apart = 3 * cpus * (2 * cpus).max(32) * 4096;
    common::assert_near("rss", bytes(told, "podlens.oom.rss"), logged_resident_bytes(process), 0.0, apart);
    assert_eq!(untold(&agent), 0);
}

#[test]
fn an_oom_kill_in_a_cgroup_inside_the_container_is_the_containers() {
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let Some(container) = MemoryCgroup::container(&pod_uid(602), 602) else { return skip(NO_MEMORY) };
    let child = container.child("inner");
    container.limit(32 * MB);
    Hog::start(&child, "by-outer").die(64 << 20);
    child.limit(24 * MB);
    Hog::start(&child, "by-inner").die(64 << 20);
    assert_counts(&agent, &container, &[("container", 2)]);
    assert_eq!((child.kills(), container.kills()), (2, 0));
    let told = receiver.of(602, 2);
    let limits =
        told.iter().map(|told| (told.says["process.executable.name"].as_str(), bytes(told, "podlens.oom.limit")));
    assert_eq!(limits.collect::<Vec<_>>(), [("by-outer", 32 * MB), ("by-inner", 24 * MB)]);
    assert!(told.iter().all(|told| told.says["podlens.oom.scope"] == "container"));
    // What is gone keeps its count.
    let labels = container.labels();
    let labels: Vec<(String, String)> = labels.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    drop((child, container));
    let scope = ("scope".to_owned(), "container".to_owned());
    agent.wait_for_metrics("the count after the end", |page| {
        let of: Vec<(&str, &str)> = labels.iter().chain([&scope]).map(|(a, b)| (a.as_str(), b.as_str())).collect();
        match page.count("podlens_oom_kills_total", &of) {
            Some(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn an_oom_kill_by_the_pods_limit_names_the_container_that_wanted_memory() {
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let uid = pod_uid(603);
    let Some(large) = MemoryCgroup::container(&uid, 603) else { return skip(NO_MEMORY) };
    let small = MemoryCgroup::container(&uid, 604).unwrap();
    large.limit_above(40 * MB);
    large.limit(100 * MB);
    let (mut victim, mut trigger) = (Hog::start(&large, "victim"), Hog::start(&small, "trigger"));
    victim.take(28 << 20);
    trigger.go(20 << 20);
    victim.is_killed();
    // The kernel may kill it as well before the memory of the first one is free.
    let second = u64::from(!trigger.survives());
    assert_counts(&agent, &large, &[("pod", 1)]);
    assert_counts(&agent, &small, &[("pod", second)]);
    assert_eq!((large.kills(), small.kills()), (1, second));
    let told = &receiver.of(603, 1)[0];
    let whose = format!("{uid}/{}", &container_id(604)[..12]);
    assert_says(
        told,
        &[
            ("process.executable.name", "victim"),
            ("podlens.oom.scope", "pod"),
            ("podlens.oom.limit", &(40 * MB).to_string()),
            ("podlens.oom.trigger", &whose),
            ("podlens.oom.trigger.process", "trigger"),
        ],
    );
}

#[test]
fn an_oom_kill_by_a_limit_above_the_pod_is_an_ancestors_and_who_lowers_a_limit_is_its_trigger() {
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let parent = format!("/podlens-test-{}/above", std::process::id());
    let above = TestCgroup::at(parent.clone(), Vec::new(), common::Trees::All);
    let Some(above) = MemoryCgroup::of(above) else { return skip(NO_MEMORY) };
    let below = TestCgroup::new("above/below");
    let below = MemoryCgroup::of(below).unwrap();
    above.limit(32 * MB);
    Hog::start(&below, "below").die(64 << 20);
    assert_counts(&agent, &below, &[("ancestor", 1)]);
    assert_eq!(below.kills(), 1);
    let of_units = |count| {
        wait_until("what is told", PATIENCE, || {
            let told = receiver.told.lock().unwrap().clone();
            if told.len() == count { Ok(told) } else { Err(format!("{told:?}")) }
        })
    };
    assert_says(&of_units(1)[0], &[("podlens.oom.scope", "ancestor"), ("process.executable.name", "below")]);
    if is_v1() {
        // Version 1 refuses such a limit.
        return;
    }
    let mut hog = Hog::start(&below, "shrunk");
    hog.take(20 << 20);
    below.limit(8 * MB);
    hog.is_killed();
    assert_counts(&agent, &below, &[("ancestor", 1), ("container", 1)]);
    let own_name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let expected = [
        ("podlens.oom.scope", "container"),
        ("process.executable.name", "shrunk"),
        ("podlens.oom.trigger.process", own_name.trim_end()),
    ];
    assert_says(&of_units(2)[1], &expected);
}

fn is_v1() -> bool {
    std::fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .any(|line| line.contains("cgroup") && line.contains(",memory"))
}

#[test]
fn threads_that_take_memory_at_once_are_one_oom_kill() {
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let Some(container) = MemoryCgroup::container(&pod_uid(606), 606) else { return skip(NO_MEMORY) };
    container.limit(32 * MB);
    for _ in 0..5 {
        Hog::start_threads(&container, "threads", 8).die(96 << 20);
    }
    assert_counts(&agent, &container, &[("container", 5)]);
    assert_eq!(container.kills(), 5);
    assert!(receiver.of(606, 5).iter().all(|told| told.says["podlens.oom.processes"] == "1"));
}

#[test]
fn oom_kills_that_follow_one_another_at_once_are_of_the_limit_that_the_kernel_logs() {
    const ROUNDS: usize = 6;
    const HOGS: usize = 4;
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let Some(container) = MemoryCgroup::container(&pod_uid(613), 613) else { return skip(NO_MEMORY) };
    container.limit(24 * MB);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("read-over-and-over");
    std::fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).unwrap();
    File::create(&path).unwrap().set_len(96 * MB).unwrap();
    // In a virtual machine files lie in memory themselves, and what is read of them cannot be freed.
    let readers = if memory_is_own() { 0 } else { 2 };
    let readers: Vec<Reader> = (0..readers).map(|_| Reader::start(&container, &path)).collect();
    for _ in 0..ROUNDS {
        let mut hogs: Vec<Hog> = (0..HOGS).map(|number| Hog::start(&container, &format!("hog-{number}"))).collect();
        for hog in &mut hogs {
            hog.go(64 << 20);
        }
        hogs.iter_mut().for_each(Hog::is_killed);
    }
    drop(readers);
    std::fs::remove_file(&path).unwrap();
    let kills = container.kills();
    assert!(kills >= (ROUNDS * HOGS) as u64, "{kills}");
    for told in receiver.of(613, usize::try_from(kills).unwrap()) {
        let process = told.says["process.pid"].parse().unwrap();
        assert!(is_logged_as_of_cgroup(process), "{told:?}");
        assert_says(&told, &[("podlens.oom.scope", "container"), ("podlens.oom.limit", &(24 * MB).to_string())]);
    }
    assert_counts(&agent, &container, &[("container", kills)]);
    assert_eq!(untold(&agent), 0);
}

/// A shell that has a file read over and over, so that its pages fill whatever becomes free. Ends with the value.
struct Reader(Child);

impl Reader {
    fn start(cgroup: &MemoryCgroup, path: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "read go; while :; do cat \"$0\" > /dev/null; done"]).arg(path);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        cgroup.add(shell.id());
        // Closed, it goes on.
        drop(shell.stdin.take());
        Self(shell)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Fails only for a child that was killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processes_of_an_oom_group_count_each_and_are_told_once() {
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let Some(container) = MemoryCgroup::container(&pod_uid(607), 607) else { return skip(NO_MEMORY) };
    if !container.kill_together() {
        return skip("version 1 cannot kill a group");
    }
    container.limit(48 * MB);
    let mut others: Vec<Hog> = (0..4).map(|number| Hog::start(&container, &format!("other-{number}"))).collect();
    for other in &mut others {
        other.take(4 << 20);
    }
    Hog::start(&container, "largest").die(64 << 20);
    for other in &mut others {
        other.is_killed();
    }
    assert_counts(&agent, &container, &[("container", 5)]);
    let (kills, groups) = (container.kills(), container.group_kills());
    // The kernel may count each of them once more: see collectors/oom/judge/.
    assert!((5..=10).contains(&kills) && groups.is_none_or(|groups| groups == 1), "{kills} {groups:?}");
    let told = &receiver.of(607, 1)[0];
    assert_says(told, &[("process.executable.name", "largest"), ("podlens.oom.processes", "5")]);
    // Alone in its group.
    Hog::start(&container, "alone").die(64 << 20);
    assert_counts(&agent, &container, &[("container", 6)]);
    let told = &receiver.of(607, 2)[1];
    assert_says(told, &[("process.executable.name", "alone"), ("podlens.oom.processes", "1")]);
}

#[test]
fn oom_kills_before_the_start_do_not_count_and_without_events_all_others_do() {
    let Some(container) = MemoryCgroup::container(&pod_uid(608), 608) else { return skip(NO_MEMORY) };
    container.limit(32 * MB);
    for _ in 0..3 {
        Hog::start(&container, "before").die(64 << 20);
    }
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let rests = Hog::start(&container, "rests");
    assert_counts(&agent, &container, &[]);
    drop(rests);
    for _ in 0..2 {
        Hog::start(&container, "after").die(64 << 20);
    }
    assert_counts(&agent, &container, &[("container", 2)]);
    assert_eq!(container.kills(), 5);
    // Of nobody who has not ended, some mark is missing.
    std::thread::sleep(Duration::from_secs(2));
    assert_counts(&agent, &container, &[("container", 2)]);
}

#[test]
fn an_oom_kill_whose_record_is_lost_counts_and_its_story_is_a_loss() {
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let Some(container) = MemoryCgroup::container(&pod_uid(610), 610) else { return skip(NO_MEMORY) };
    container.limit(32 * MB);
    Hog::start(&container, "told").die(64 << 20);
    assert_counts(&agent, &container, &[("container", 1)]);
    // Births and removals that nobody reads fill the ring.
    agent.signal("STOP");
    for _ in 0..2000 {
        TestCgroup::new(&"long".repeat(50)).remove();
    }
    for _ in 0..2 {
        Hog::start(&container, "untold").die(64 << 20);
    }
    agent.signal("CONT");
    assert_counts(&agent, &container, &[("container", 1), ("other", 2)]);
    assert_eq!(untold(&agent), 2);
    Hog::start(&container, "told").die(64 << 20);
    assert_counts(&agent, &container, &[("container", 2), ("other", 2)]);
    assert_eq!(container.kills(), 4);
    let told = receiver.of(610, 2);
    assert!(told.iter().all(|told| told.says["process.executable.name"] == "told"), "{told:?}");
    assert_eq!(untold(&agent), 2);
}

#[test]
fn an_oom_kill_where_the_node_has_no_memory_left_is_by_nobodys_limit() {
    // This takes all memory of the machine.
    if !memory_is_own() {
        return skip("others use this machine");
    }
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let Some(container) = MemoryCgroup::container(&pod_uid(609), 609) else { return skip(NO_MEMORY) };
    Hog::start(&container, "endless").die(64 << 30);
    assert_counts(&agent, &container, &[("node", 1)]);
    assert_eq!(container.kills(), 1);
    let told = &receiver.of(609, 1)[0];
    assert_says(told, &[("process.executable.name", "endless"), ("podlens.oom.scope", "node")]);
    assert_eq!(told.says.get("podlens.oom.limit"), None);
}

#[test]
fn an_oom_kill_where_a_cpuset_or_a_policy_leaves_one_node_alone_is_by_nobodys_limit() {
    if !memory_is_own() {
        return skip("others use this machine");
    }
    if !Path::new("/sys/devices/system/node/node1").exists() {
        return skip("there is one memory node; `cargo xtask vm --second-node 256` gives the machine another");
    }
    let receiver = Receiver::start();
    let agent = receiver.agent();
    for (number, by_policy) in [(611, false), (612, true)] {
        let Some(container) = MemoryCgroup::container(&pod_uid(number), number) else { return skip(NO_MEMORY) };
        if !by_policy && !container.confine("1") {
            println!("the machine gives no cpusets to its version 2 tree");
            continue;
        }
        let mut hog = Hog::start(&container, "confined");
        if by_policy {
            hog.bind(1);
        }
        hog.die(64 << 30);
        assert_counts(&agent, &container, &[("node", 1)]);
        assert_eq!(container.kills(), 1);
        let told = &receiver.of(number, 1)[0];
        let expected = [("process.executable.name", "confined"), ("podlens.oom.scope", "node")];
        assert_says(told, &expected);
        assert_eq!(told.says.get("podlens.oom.limit"), None);
        assert!(bytes(told, "podlens.oom.rss") < 1024 * MB, "the other node has more to give");
    }
}

#[test]
fn fifty_oom_kills_of_every_kind_at_once_are_each_told_and_counted_as_the_kernel_counts_them() {
    let receiver = Receiver::start();
    let agent = receiver.agent();
    let Some(containers) = doomed() else { return skip(NO_MEMORY) };
    let began = Instant::now();
    kill_fifty(&containers);
    println!("the last kill was after {:?}", began.elapsed());
    for container in &containers {
        container.fate.assert_told(&receiver.of_container(&container.fate.id(), Fate::RECORDS));
        container.assert_counts(&agent.metrics());
    }
    // What the kernel has counted to the end adds nothing.
    let fates: Vec<Fate> = containers.iter().map(|container| container.fate).collect();
    drop(containers);
    agent.wait_for_metrics("what the containers had at their end", |page| {
        let living = fates.iter().map(|fate| page.all("podlens_memory_usage_bytes", &[("pod", &fate.pod())]));
        let living: usize = living.map(|samples| samples.len()).sum();
        if living > 0 {
            return Err(format!("{living} live"));
        }
        fates.iter().try_for_each(|fate| fate.on(page))
    });
    assert_eq!(untold(&agent), 0);
}
