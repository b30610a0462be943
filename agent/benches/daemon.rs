//! What the daemon itself costs on a full node, alone or beside another build of it: `cargo xtask bench daemon`.
//!
//! 250 pods of two containers each, in cgroups and with light tasks of the benchmark's own; an API server of its own
//! whose pods have 30 KB of specification each; a scrape and a push every 15 s, as on a real node. As root. Machines differ
//! by a factor of two from one day to the next, so only what is measured in turn in one run is compared: each round starts
//! both builds, the other one first each time, and the medians over the rounds make the ratio; collectors that only one of them
//! has are off. Exits with 1 if a ratio is over its budget. Of the agent it uses only what all builds have: these variables, `/metrics` and three metrics of it.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "common/statistics.rs"]
mod statistics;

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use common::{Agent, Page, TestCgroup, container_id, pod_uid};
use serde_json::json;
use statistics::median;
use tempfile::TempDir;
use testkit::{
    kubernetes::{ApiServer, Described, State, Status, Store},
    otlp::Receiver,
};

const PODS: u32 = 250;
const CONTAINERS_A_POD: u32 = 2;
const BALLAST_BYTES: usize = 30 << 10;
/// Tasks of a container, each of which wakes once a second.
const TASKS: usize = 3;
/// Intervals until what belongs to the start is over, and those that are measured then.
const SETTLING: u32 = 2;
const MEASURED: u32 = 4;
/// Further scrapes, each with its own sweep, to tell what one costs.
const SCRAPES: u32 = 10;
/// Between these, longer than a snapshot is handed out again (`max_age`).
const BETWEEN_SCRAPES: Duration = Duration::from_millis(1200);
/// Memory is read so long after the last scrape, as on a node, where that is most of the time.
const AT_REST: Duration = Duration::from_secs(4);
/// What Prometheus asks for, without and with native histograms.
const TEXT: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
                        text/plain;version=0.0.4;q=0.3";
const HEAD_ENDS: &[u8] = b"\r\n\r\n";
/// Set for the process that is a container's load.
const LOAD: &str = "PODLENS_BENCH_LOAD";

#[derive(clap::Parser)]
struct Arguments {
    /// The build that is judged
    #[arg(long)]
    binary: PathBuf,
    /// The build that it is compared with
    #[arg(long)]
    against: Option<PathBuf>,
    /// How often each build is started and measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds between two scrapes and between two pushes
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..))]
    interval: u64,
}

/// What is measured.
struct Figure {
    what: &'static str,
    unit: &'static str,
    /// The most that it may be of what the other build takes, in percent.
    budget_percent: Option<f64>,
}

const FIGURES: [Figure; 11] = [
    Figure { what: "CPU of one core", unit: "%", budget_percent: Some(60.0) },
    Figure { what: "resident memory", unit: "MiB", budget_percent: Some(85.0) },
    Figure { what: "  of it the daemon's own", unit: "MiB", budget_percent: None },
    Figure { what: "  most so far", unit: "MiB", budget_percent: None },
    Figure { what: "sweep with 500 containers (median)", unit: "ms", budget_percent: Some(40.0) },
    // Not each one reads the kernel's files.
    Figure { what: "  the longest tenth begins at", unit: "ms", budget_percent: None },
    Figure { what: "samples on the page", unit: "", budget_percent: None },
    Figure { what: "series per container, native histograms", unit: "", budget_percent: None },
    Figure { what: "scrape with its sweep, CPU (median)", unit: "ms", budget_percent: Some(65.0) },
    Figure { what: "scrape with its sweep, until read (median)", unit: "ms", budget_percent: None },
    // Of a build that has no such format it is the text again.
    Figure { what: "the same in protobuf, CPU (median)", unit: "ms", budget_percent: None },
];

/// One value for each of `FIGURES`.
type Values = [f64; FIGURES.len()];

/// A container of the benchmark. Ends with the value: first its process, then its cgroup.
struct Container {
    process: Child,
    _cgroup: TestCgroup,
}

impl Drop for Container {
    fn drop(&mut self) {
        // Fails only for a process that has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn main() -> Result<()> {
    if env::var_os(LOAD).is_some() {
        be_a_load();
    }
    let arguments = <Arguments as clap::Parser>::parse();
    let node = Node::start(Duration::from_secs(arguments.interval))?;
    println!("{PODS} pods with {} containers of {TASKS} tasks, each waking once a second", node.containers.len());
    let (mut judged, mut other) = (Vec::new(), Vec::new());
    let (off_judged, off_other) = match &arguments.against {
        Some(against) => differing(&collectors(&arguments.binary), &collectors(against)),
        None => Default::default(),
    };
    if !off_judged.is_empty() || !off_other.is_empty() {
        println!("off, since only one of both builds has them: {}", [&*off_judged, &*off_other].concat().join(", "));
    }
    for round in 0..arguments.rounds {
        let mut turns = vec![(&arguments.binary, &off_judged, &mut judged)];
        turns.extend(arguments.against.as_ref().map(|against| (against, &off_other, &mut other)));
        // Who comes first has the machine as the round before left it.
        if round % 2 == 1 {
            turns.reverse();
        }
        for (binary, off, values) in turns {
            println!("round {} of {}: {}", round + 1, arguments.rounds, binary.display());
            values.push(node.measure(binary, off).with_context(|| format!("cannot measure {}", binary.display()))?);
        }
    }
    let over_budget = report(&judged, &other);
    ensure!(over_budget.is_empty(), "over budget: {}", over_budget.join(", "));
    Ok(())
}

/// The collectors that a build has.
fn collectors(binary: &Path) -> Vec<String> {
    let page = Agent::start_binary(binary, &[]).metrics();
    let mut names: Vec<String> =
        page.all("podlens_collector_state", &[]).iter().map(|sample| sample.label("collector").to_owned()).collect();
    names.dedup();
    names
}

/// Those that only the one has, and those that only the other has.
fn differing(one: &[String], other: &[String]) -> (Vec<String>, Vec<String>) {
    let without = |all: &[String], known: &[String]| all.iter().filter(|name| !known.contains(name)).cloned().collect();
    (without(one, other), without(other, one))
}

/// Prints each figure for both builds with the ratio; names those that are over their budgets.
fn report(judged: &[Values], other: &[Values]) -> Vec<&'static str> {
    let mut over_budget = Vec::new();
    println!("{:44} {:>9} {:>9}", "", "judged", "other");
    for (number, Figure { what, unit, budget_percent }) in FIGURES.iter().enumerate() {
        let over_rounds =
            |values: &[Values]| median(values.iter().filter_map(|values| values.get(number).copied()).collect());
        let value = over_rounds(judged);
        if other.is_empty() {
            println!("{what:44} {value:9.3} {:>9} {unit}", "");
            continue;
        }
        let other = over_rounds(other);
        let percent = value / other * 100.0;
        let budget = budget_percent.map_or(String::new(), |budget| format!("  budget {budget} %"));
        println!("{what:44} {value:9.3} {other:9.3} {unit:4} {percent:6.1} %{budget}");
        // A ratio that is no number keeps no budget.
        if budget_percent.is_some_and(|budget| percent.is_nan() || percent > budget) {
            over_budget.push(*what);
        }
    }
    over_budget
}

/// The node that the agents find: its containers, its API server, its collector. Ends with the value.
struct Node {
    containers: Vec<Container>,
    interval: Duration,
    kubeconfig: PathBuf,
    receiver: Receiver,
    _server: ApiServer,
    _directory: TempDir,
}

impl Node {
    fn start(interval: Duration) -> Result<Self> {
        let containers = start_containers()?;
        let store = Arc::new(Store::default());
        for pod in 0..PODS {
            store.put(&described(pod).to_json());
        }
        let (server, receiver, directory) = (ApiServer::start(&store), Receiver::start(), tempfile::tempdir()?);
        let kubeconfig = server.kubeconfig(directory.path(), &json!({}));
        Ok(Self { containers, interval, kubeconfig, receiver, _server: server, _directory: directory })
    }

    /// Starts a build without these collectors and lets time pass as it does on a node; what the daemon used meanwhile.
    fn measure(&self, binary: &Path, off: &[String]) -> Result<Values> {
        let (endpoint, interval) = (self.receiver.endpoint(), format!("{}s", self.interval.as_secs()));
        // Made before the agent, so that it is empty when it goes.
        let cgroup = TestCgroup::new("daemon");
        let kubeconfig = self.kubeconfig.to_str().context("a path in UTF-8")?;
        let mut environment: Vec<(&str, &str)> = vec![
            ("PODLENS_OTLP_ENDPOINT", &endpoint),
            ("PODLENS_OTLP_INTERVAL", &interval),
            ("PODLENS_KUBERNETES_KUBECONFIG", kubeconfig),
        ];
        let off: Vec<String> = off.iter().map(|name| format!("PODLENS_COLLECTORS_{}", name.to_uppercase())).collect();
        environment.extend(off.iter().map(|variable| (variable.as_str(), "false")));
        let agent = Agent::start_binary(binary, &environment);
        cgroup.add(agent.id());
        let mut page = String::new();
        for _ in 0..SETTLING {
            thread::sleep(self.interval);
            page = scrape(&agent)?;
        }
        check_page(&page)?;
        let (before_ns, start) = (cgroup.cpu_usage_ns(), Instant::now());
        for _ in 0..MEASURED {
            thread::sleep(self.interval);
            scrape(&agent)?;
        }
        let cpu_percent = (cgroup.cpu_usage_ns() - before_ns) as f64 / start.elapsed().as_nanos() as f64 * 100.0;
        thread::sleep(AT_REST);
        let status = fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
        let mib = |key: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no such line in status")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
        };
        let (mut sweeps_ms, mut walls_ms, mut cpu_ms, mut protobuf_ms) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..SCRAPES {
            thread::sleep(BETWEEN_SCRAPES);
            let (before_ns, start) = (cgroup.cpu_usage_ns(), Instant::now());
            page = scrape(&agent)?;
            walls_ms.push(start.elapsed().as_secs_f64() * 1e3);
            cpu_ms.push((cgroup.cpu_usage_ns() - before_ns) as f64 / 1e6);
            let parsed = Page::parse(&page);
            let sweep = parsed.one("podlens_sweep_seconds", &[]).context("it tells no podlens_sweep_seconds")?;
            sweeps_ms.push(sweep.value() * 1e3);
            thread::sleep(BETWEEN_SCRAPES);
            let before_ns = cgroup.cpu_usage_ns();
            scrape_as(&agent, PROTOBUF)?;
            protobuf_ms.push((cgroup.cpu_usage_ns() - before_ns) as f64 / 1e6);
        }
        sweeps_ms.sort_by(f64::total_cmp);
        let slowest_ms = sweeps_ms.get(sweeps_ms.len() * 9 / 10).copied().unwrap_or(f64::NAN);
        let samples = page.lines().filter(|line| !line.starts_with('#')).count();
        Ok([
            cpu_percent,
            mib("VmRSS:")?,
            mib("RssAnon:")?,
            mib("VmHWM:")?,
            median(sweeps_ms),
            slowest_ms,
            samples as f64,
            native_series(&page) as f64 / f64::from(PODS * CONTAINERS_A_POD),
            median(cpu_ms),
            median(walls_ms),
            median(protobuf_ms),
        ])
    }
}

/// Series of the pods, if a distribution is one of them.
fn native_series(page: &str) -> usize {
    let of_pods = page.lines().filter(|line| !line.starts_with('#') && line.contains("namespace=\"bench\""));
    of_pods.filter(|line| !line.contains("_bucket{") && !line.contains("_sum{")).count()
}

/// A page as Prometheus asks for it without native histograms, not compressed.
fn scrape(agent: &Agent) -> Result<String> {
    Ok(String::from_utf8(scrape_as(agent, TEXT)?)?)
}

/// A page in the format that is asked for.
fn scrape_as(agent: &Agent, accept: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(agent.address())?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: bench\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(HEAD_ENDS.len()).position(|bytes| bytes == HEAD_ENDS).context("no HTTP")?;
    let page = answer.split_off(end + HEAD_ENDS.len());
    let head = String::from_utf8_lossy(&answer);
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(page)
}

/// All containers are there under their names: else something cheaper was measured.
fn check_page(page: &str) -> Result<()> {
    let page = Page::parse(page);
    let named = page.all("podlens_cpu_seconds_total", &[("namespace", "bench")]).len();
    if named != (PODS * CONTAINERS_A_POD) as usize {
        bail!("{named} containers have names, not {}", PODS * CONTAINERS_A_POD);
    }
    Ok(())
}

fn start_containers() -> Result<Vec<Container>> {
    let next = AtomicUsize::new(0);
    let count = (PODS * CONTAINERS_A_POD) as usize;
    // Each move into a version 1 hierarchy waits for the kernel, so several go at a time.
    let parts: Vec<Result<Vec<Container>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let mut made = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok(made);
                        }
                        made.push(start_container(u32::try_from(number)?)?);
                    }
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked"))).collect()
    });
    let mut containers = Vec::new();
    for part in parts {
        containers.extend(part?);
    }
    Ok(containers)
}

fn start_container(number: u32) -> Result<Container> {
    let process = Command::new(env::current_exe()?)
        .env(LOAD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start a load")?;
    let cgroup = TestCgroup::container(&pod_uid(number / CONTAINERS_A_POD), number).with_memory();
    cgroup.add(process.id());
    Ok(Container { process, _cgroup: cgroup })
}

/// Wakes now and then, until it is killed.
fn be_a_load() -> ! {
    for _ in 1..TASKS {
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(1));
            }
        });
    }
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn described(pod: u32) -> Described {
    let status = |of_pod: u32| Status {
        name: format!("app-{of_pod}"),
        state: State::Running(container_id(pod * CONTAINERS_A_POD + of_pod)),
        ..Status::default()
    };
    Described {
        namespace: "bench".to_owned(),
        name: format!("web-{pod}"),
        uid: pod_uid(pod),
        node: "test-node".to_owned(),
        controller: ("StatefulSet", "web".to_owned()),
        containers: (0..CONTAINERS_A_POD).map(status).collect(),
        ballast_bytes: BALLAST_BYTES,
    }
}
