//! The budget of series: what is folded has the kernel's sums, counters of a fold go on when members go, and a limit that is
//! reached is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{collections::HashSet, path::Path, process::Command, sync::Arc, thread, time::Duration};

use common::{Agent, Load, Network, Peer, TestCgroup, Work, assert_near, container_id, pod_uid};
use serde_json::json;
use tempfile::TempDir;
use testkit::{
    kubernetes::{ApiServer, Described, State, Status, Store},
    page::Page,
};

const CPU: &str = "podlens_cpu_seconds_total";
const NS: u64 = 200_000;

/// A node: pods with containers of their own cgroups, and an API server that knows them.
struct Node {
    store: Arc<Store>,
    kubeconfig: String,
    /// The load stands before its cgroup, which must be empty when it goes.
    containers: Vec<(Load, TestCgroup)>,
    _server: ApiServer,
    _directory: TempDir,
}

impl Node {
    /// Stateful sets, each with so many pods of so many containers.
    fn start(sets: &[&str], pods: u32, containers: u32) -> Self {
        let store = Arc::new(Store::default());
        let mut made = Vec::new();
        for (set, name) in (0_u32..).zip(sets) {
            for pod in 0..pods {
                let uid = set * pods + pod;
                let number = |container| uid * containers + container;
                let numbers: Vec<u32> = (0..containers).map(number).collect();
                store.put(&described(name, pod, uid, &numbers).to_json());
                made.extend((0..containers).map(|container| {
                    let cgroup = TestCgroup::container(&pod_uid(uid), number(container));
                    let mut load = Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(5)), None);
                    load.run();
                    (load, cgroup)
                }));
            }
        }
        let (server, directory) = (ApiServer::start(&store), tempfile::tempdir().unwrap());
        let kubeconfig = server.kubeconfig(directory.path(), &json!({})).to_str().unwrap().to_owned();
        Self { store, kubeconfig, containers: made, _server: server, _directory: directory }
    }

    fn agent(&self, settings: &[(&str, &str)]) -> Agent {
        let always = [
            ("PODLENS_SERIES_ALLOW", "default"),
            ("PODLENS_MAX_AGE", "0s"),
            ("PODLENS_KUBERNETES_KUBECONFIG", self.kubeconfig.as_str()),
        ];
        Agent::start(&[&always[..], settings].concat())
    }

    /// Lets each container use more CPU, the later ones more than the earlier ones.
    fn load(&mut self) {
        for (number, (load, cgroup)) in (1_u64..).zip(&mut self.containers) {
            let mut more = Load::start(Some(cgroup), Work::Spin(Duration::from_millis(3 * number)), None);
            more.run();
            more.end();
            load.run();
        }
    }

    fn used_ns(&self) -> Vec<u64> {
        self.containers.iter().map(|(_, cgroup)| cgroup.cpu_usage_ns()).collect()
    }
}

fn described(set: &str, pod: u32, uid: u32, numbers: &[u32]) -> Described {
    let status = |number: &u32| Status {
        name: format!("app-{number}"),
        state: State::Running(container_id(*number)),
        ..Status::default()
    };
    Described {
        namespace: "shop".to_owned(),
        name: format!("{set}-{pod}"),
        uid: pod_uid(uid),
        node: "test-node".to_owned(),
        controller: ("StatefulSet", set.to_owned()),
        containers: numbers.iter().map(status).collect(),
        ballast_bytes: 0,
    }
}

/// Containers of a node's that are none of the test's own: such as one that a test before left behind.
fn strangers(page: &Page) -> u64 {
    let others = page.samples.iter().filter(|sample| sample.label("namespace") != "shop");
    let names = others.map(|sample| (sample.label("pod"), sample.label("container")));
    names.filter(|(_, container)| !container.is_empty()).collect::<HashSet<_>>().len() as u64
}

/// The CPU time of everything in pods.
fn in_pods(page: &Page) -> Vec<u64> {
    page.all(CPU, &[("namespace", "shop")]).iter().map(|sample| sample.ns()).collect()
}

fn of_workload(page: &Page, name: &str) -> Option<u64> {
    let labels =
        [("namespace", "shop"), ("workload", name), ("workload_type", "statefulset"), ("pod", ""), ("container", "")];
    page.ns(CPU, &labels)
}

#[test]
fn a_workload_has_the_sum_of_its_containers_and_goes_on_when_a_pod_is_gone() {
    let mut node = Node::start(&["db", "web"], 2, 1);
    let agent = node.agent(&[("PODLENS_SERIES_DETAIL", "workload"), ("PODLENS_LINGER", "1s")]);
    // Whoever does nothing has no CPU time.
    node.load();
    let before =
        agent.wait_for_metrics("both workloads", |page| match (of_workload(page, "db"), of_workload(page, "web")) {
            (Some(_), Some(_)) if in_pods(page).len() == 2 => Ok(node.used_ns()),
            _ => Err(format!("{:?}", page.all(CPU, &[("namespace", "shop")]))),
        });
    let at_first = agent.metrics();
    node.load();
    let after = node.used_ns();
    let page = agent.metrics();
    let grown = |name: &str| of_workload(&page, name).unwrap() - of_workload(&at_first, name).unwrap();
    let used = |number: usize| after[number] - before[number];
    assert_near("db", grown("db"), used(0) + used(1), 1.0, NS);
    assert_near("web", grown("web"), used(2) + used(3), 1.0, NS);
    let (load, cgroup) = node.containers.pop().unwrap();
    load.end();
    cgroup.remove();
    node.store.delete(&pod_uid(3));
    let mut last = of_workload(&page, "web").unwrap();
    // Longer than its values wait for an exporter, and than a deleted pod keeps its name.
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(200));
        let now = of_workload(&agent.metrics(), "web").unwrap();
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    assert_near("web, all of it", last - of_workload(&at_first, "web").unwrap(), used(2) + used(3), 1.0, 5_000_000);
}

#[test]
fn beyond_the_limit_containers_are_folded_and_the_page_and_the_log_say_so() {
    // The least limit there may be. How many containers it leaves depends on the machine's own units, but no machine has
    // room in it for as many as these.
    let mut node = Node::start(&["db", "web"], 3, 4);
    let containers = node.containers.len() as u64;
    let unlimited = node.agent(&[]);
    let strangers = unlimited.wait_for_metrics("all names", |page| match page.count("podlens_names_pods", &[]) {
        Some(6) => Ok(strangers(page)),
        other => Err(format!("{other:?} pods have names")),
    });
    drop(unlimited);
    let agent = node.agent(&[("PODLENS_SERIES_LIMIT", "100")]);
    node.load();
    let at_first = agent.wait_for_metrics("the folds", |page| {
        let told = page.all(CPU, &[("namespace", "shop")]);
        let left = told.iter().filter(|sample| sample.label("workload").is_empty()).count() as u64;
        match page.count("podlens_folded_containers", &[]) {
            Some(folded) if folded > 0 && (containers..=containers + strangers).contains(&(folded + left)) => {
                Ok(in_pods(page).iter().sum::<u64>())
            }
            other => Err(format!("{other:?} are folded, {strangers} are of others, {told:?}")),
        }
    });
    let before = node.used_ns();
    node.load();
    let used: u64 = node.used_ns().iter().sum::<u64>() - before.iter().sum::<u64>();
    let page = agent.metrics();
    assert_near("all of them", in_pods(&page).iter().sum::<u64>() - at_first, used, 1.0, 5_000_000);
    assert!(page.value("podlens_series", &[]) > 0.0);
    assert!(agent.log().contains("series.limit"), "{}", agent.log());
}

#[test]
fn metrics_are_left_out_by_name() {
    let agent = Agent::start(&[("PODLENS_SERIES_ALLOW", "podlens_cpu_*"), ("PODLENS_SERIES_DENY", "*_wait_*")]);
    let page = agent.metrics();
    let families = page.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let families: Vec<&str> = families.collect();
    for (name, is_there) in [
        (CPU, true),
        ("podlens_cpu_wait_seconds_total", false),
        ("podlens_context_switches_total", false),
        ("podlens_memory_bytes", false),
        ("podlens_build_info", true),
    ] {
        assert_eq!(families.contains(&name), is_there, "{name}: {families:?}");
    }
}

/// What docs/cardinality.md tells is measured here.
#[test]
fn a_coarser_detail_has_fewer_series() {
    let mut node = Node::start(&["api", "db", "proxy", "web"], 5, 2);
    node.load();
    let mut per_container = Vec::new();
    for detail in ["container", "pod", "workload"] {
        let agent = node.agent(&[("PODLENS_SERIES_DETAIL", detail)]);
        agent.wait_for_metrics("all pods' names", |page| match page.count("podlens_names_pods", &[]) {
            Some(20) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        node.load();
        // As long as the files of a cgroup may be read late.
        thread::sleep(Duration::from_secs(6));
        let page = agent.metrics();
        let of_pods = |line: &&str| !line.starts_with('#') && line.contains("namespace=\"shop\"");
        let classic = page.text.lines().filter(of_pods).count();
        let native = page.text.lines().filter(of_pods).filter(is_native).count();
        let containers = node.containers.len();
        let each = |series: usize| series as f64 / containers as f64;
        println!(
            "{detail}: {:.1} series per container with classic histograms, {:.1} with native ones",
            each(classic),
            each(native)
        );
        per_container.push(native);
    }
    assert!(per_container.is_sorted_by(|more, fewer| *fewer * 10 < *more * 9), "{per_container:?}");
}

/// Most series that a container which does all that is measured has by default, with native histograms.
const MOST: usize = 40;

/// What docs/cardinality.md tells of containers at work is measured here.
#[test]
fn a_container_that_does_everything_has_at_most_forty_series_by_default() {
    let cgroups =
        [(91, 910), (91, 911)].map(|(pod, number)| TestCgroup::container(&pod_uid(pod), number).with_memory());
    let agent = Agent::start(&[("PODLENS_SERIES_ALLOW", "default"), ("PODLENS_MAX_AGE", "0s")]);
    let [serving, calling] = &cgroups;
    serving.set_quota(20_000, 100_000);
    let (mut server, mut client) = (Peer::start(serving, Network::Machine), Peer::start(calling, Network::Machine));
    let address = server.serve("127.0.0.1:0");
    let directory = tempfile::tempdir().unwrap();
    for cgroup in &cgroups {
        client.call(address, 20, 10_000, 10_000);
        client.open(address, 3, 100, 100);
        for work in [Work::Spin(Duration::from_millis(100)), Work::Disk { times: 5, sleep: Duration::from_millis(5) }] {
            Load::start_tasks(Some(cgroup), work, Some(0), 3).run();
        }
        write_and_read(cgroup, &directory.path().join("file"));
    }
    // As long as memory.stat may be read late.
    thread::sleep(Duration::from_secs(31));
    let page = agent.metrics();
    for cgroup in &cgroups {
        let labels: Vec<String> = cgroup.labels().iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let is_of = |line: &&str| !line.starts_with('#') && labels.iter().all(|label| line.contains(label));
        let series: Vec<&str> = page.text.lines().filter(is_of).filter(is_native).collect();
        println!("{} series:\n{}", series.len(), series.join("\n"));
        assert!(series.len() <= MOST, "{} series", series.len());
    }
    client.close();
}

/// Has a process of the cgroup write a file to the disk and read it, past the page cache where the place for temporary files lets it.
fn write_and_read(cgroup: &TestCgroup, file: &Path) {
    let enter: Vec<String> =
        cgroup.directories().iter().map(|at| format!("echo $$ > {}/cgroup.procs", at.display())).collect();
    let file = file.display();
    let write = |flag| format!("dd if=/dev/zero of={file} bs=64k count=40 {flag} conv=fsync status=none");
    let read = |flag| format!("dd if={file} of=/dev/null bs=64k {flag} status=none");
    let [past, through] =
        [["oflag=direct", "iflag=direct"], [""; 2]].map(|[to, from]| format!("{} && {}", write(to), read(from)));
    let script = format!("{} && {{ {{ {past}; }} 2>/dev/null || {{ {through}; }}; }}", enter.join(" && "));
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A line of the text page that a page with native histograms has as well.
fn is_native(line: &&str) -> bool {
    !line.contains("_bucket{") && !line.contains("_sum{")
}
