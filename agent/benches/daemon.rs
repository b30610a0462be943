//! What the daemon itself costs on a full node, alone or beside another build of it: `cargo xtask bench daemon`.
//!
//! 250 pods of two containers each, in cgroups and with light tasks of the benchmark's own; an API server of its own
//! whose pods have 30 KB of specification each; a scrape and a push every 15 s, as on a real node; all collectors, those too that are
//! off by default. As root. Machines differ by a factor of two from one day to the next, so only what is measured in one run is compared.
//! Alone, a build's times are judged by what a bare context switch takes there. Beside another one, each round starts
//! both builds, the other one first each time, and the medians over the rounds make the ratio; collectors that only one of them
//! has are off. Exits with 1 if a figure is over its budget. Of the agent it uses only what all builds have: these variables, `/metrics` and three metrics of it.

#[path = "../tests/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "it measures a bare switch and looks at no other")]
#[path = "common/one_cpu.rs"]
mod one_cpu;
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
/// Seconds between two scrapes, and between two pushes, as on a node. Budgets are for that.
const INTERVAL: u64 = 15;
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
    /// Seconds between two scrapes and between two pushes; any but a node's 15 decide nothing
    #[arg(long, default_value_t = INTERVAL, value_parser = clap::value_parser!(u64).range(2..))]
    interval: u64,
}

/// Where a bare switch takes so long, budgets for times hold as they are; elsewhere they are longer or shorter as it is.
const SWITCH_NS: f64 = 2100.0;

/// What is measured.
struct Figure {
    what: &'static str,
    unit: &'static str,
    /// The most that it may be.
    alone: Option<Budget>,
    /// The most that it may be of what the other build takes, in percent.
    of_other_percent: Option<f64>,
}

enum Budget {
    /// By the speed of the machine.
    Time(f64),
    /// On any machine.
    Size(f64),
}

impl Figure {
    const fn told(what: &'static str, unit: &'static str) -> Self {
        Self { what, unit, alone: None, of_other_percent: None }
    }

    const fn judged(what: &'static str, unit: &'static str, alone: Budget, of_other_percent: f64) -> Self {
        Self { what, unit, alone: Some(alone), of_other_percent: Some(of_other_percent) }
    }
}

const FIGURES: [Figure; 11] = [
    Figure::judged("CPU of one core", "%", Budget::Time(0.25), 60.0),
    Figure::judged("resident memory", "MiB", Budget::Size(24.0), 85.0),
    Figure::told("  of it the daemon's own", "MiB"),
    Figure::told("  most so far", "MiB"),
    Figure::judged("sweep with 500 containers (median)", "ms", Budget::Time(2.0), 40.0),
    // Not each one reads the kernel's files.
    Figure::told("  the longest tenth begins at", "ms"),
    Figure::told("samples on the page", ""),
    Figure {
        what: "series per container, native histograms",
        unit: "",
        alone: Some(Budget::Size(60.0)),
        of_other_percent: None,
    },
    Figure::judged("scrape with its sweep, CPU (median)", "ms", Budget::Time(10.0), 65.0),
    Figure::told("scrape with its sweep, until read (median)", "ms"),
    // Of a build that has no such format it is the text again.
    Figure {
        what: "the same in protobuf, CPU (median)",
        unit: "ms",
        alone: Some(Budget::Time(8.0)),
        of_other_percent: None,
    },
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
    if one_cpu::has_served()? {
        return Ok(());
    }
    let arguments = <Arguments as clap::Parser>::parse();
    let node = Node::start(Duration::from_secs(arguments.interval))?;
    println!("{PODS} pods with {} containers of {TASKS} tasks, each waking once a second", node.containers.len());
    let of_judged = collectors(&arguments.binary);
    let of_other = arguments.against.as_deref().map(collectors);
    let (switched_judged, switched_other) = switched(&of_judged, of_other.as_ref());
    if let Some(other) = &switched_other {
        let off = switched_judged.iter().chain(other).filter(|(_, is_on)| !is_on);
        println!("off, since only one of both builds has them: {:?}", off.map(|(name, _)| name).collect::<Vec<_>>());
    }
    let (mut judged, mut other, mut switches_ns) = (Vec::new(), Vec::new(), vec![one_cpu::bare_switch_ns()?]);
    for round in 0..arguments.rounds {
        let mut turns = vec![(&arguments.binary, &switched_judged, &mut judged)];
        let against = arguments.against.as_ref().zip(switched_other.as_ref());
        turns.extend(against.map(|(binary, switched)| (binary, switched, &mut other)));
        // Who comes first has the machine as the round before left it.
        if round % 2 == 1 {
            turns.reverse();
        }
        for (binary, switched, values) in turns {
            println!("round {} of {}: {}", round + 1, arguments.rounds, binary.display());
            values
                .push(node.measure(binary, switched).with_context(|| format!("cannot measure {}", binary.display()))?);
        }
        switches_ns.push(one_cpu::bare_switch_ns()?);
    }
    let over_budget = if other.is_empty() { report_alone(&judged, &switches_ns) } else { report(&judged, &other) };
    if arguments.interval != INTERVAL {
        println!("nothing is judged: budgets are for a scrape and a push every {INTERVAL} s");
        return Ok(());
    }
    ensure!(over_budget.is_empty(), "over budget: {}", over_budget.join(", "));
    Ok(())
}

/// Collectors that are not as the configuration leaves them, and whether they are on.
type Switches = Vec<(String, bool)>;

/// The collectors that a build has, and whether each is on by default.
fn collectors(binary: &Path) -> Switches {
    let page = Agent::start_binary(binary, &[]).metrics();
    let disabled = page.all("podlens_collector_state", &[("state", "disabled")]);
    disabled.iter().map(|sample| (sample.label("collector").to_owned(), sample.value() == 0.0)).collect()
}

/// All are on but for those that only one of both builds has.
fn switched(judged: &Switches, other: Option<&Switches>) -> (Switches, Option<Switches>) {
    let is_known = |name: &str, to: &Switches| to.iter().any(|(known, _)| known == name);
    let of = |build: &Switches, beside: Option<&Switches>| {
        let wanted = |name: &str| beside.is_none_or(|beside| is_known(name, beside));
        let differing = build.iter().filter(|(name, is_on)| wanted(name) != *is_on);
        differing.map(|(name, is_on)| (name.clone(), !is_on)).collect()
    };
    (of(judged, other), other.map(|other| of(other, Some(judged))))
}

/// Prints each figure with its budget; names those that are over it.
fn report_alone(values: &[Values], switches_ns: &[f64]) -> Vec<&'static str> {
    let switch_ns = median(switches_ns.to_vec());
    let slower = switch_ns / SWITCH_NS;
    println!(
        "a bare switch takes {switch_ns:.0} ns ({switches_ns:.0?}), {slower:.2} times as long as where budgets hold as they are"
    );
    let mut over_budget = Vec::new();
    for (number, Figure { what, unit, alone, .. }) in FIGURES.iter().enumerate() {
        let value = over_rounds(values, number);
        let (most, told) = match alone {
            Some(Budget::Time(most)) => (most * slower, format!("  budget {most} {unit}, {:.3} here", most * slower)),
            Some(Budget::Size(most)) => (*most, format!("  budget {most} {unit}")),
            None => (f64::INFINITY, String::new()),
        };
        println!("{what:44} {value:9.3} {unit:4}{told}");
        if is_over(value, most) {
            over_budget.push(*what);
        }
    }
    over_budget
}

/// Prints each figure for both builds with the ratio; names those that are over their budgets.
fn report(judged: &[Values], other: &[Values]) -> Vec<&'static str> {
    let mut over_budget = Vec::new();
    println!("{:44} {:>9} {:>9}", "", "judged", "other");
    for (number, Figure { what, unit, of_other_percent, .. }) in FIGURES.iter().enumerate() {
        let (value, other) = (over_rounds(judged, number), over_rounds(other, number));
        let percent = value / other * 100.0;
        let told = of_other_percent.map_or(String::new(), |budget| format!("  budget {budget} %"));
        println!("{what:44} {value:9.3} {other:9.3} {unit:4} {percent:6.1} %{told}");
        if of_other_percent.is_some_and(|budget| is_over(percent, budget)) {
            over_budget.push(*what);
        }
    }
    over_budget
}

fn over_rounds(values: &[Values], number: usize) -> f64 {
    median(values.iter().filter_map(|values| values.get(number).copied()).collect())
}

/// What is no number keeps no budget.
fn is_over(value: f64, budget: f64) -> bool {
    value.is_nan() || value > budget
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

    /// Starts a build with these collectors on and off and lets time pass as it does on a node; what the daemon used meanwhile.
    fn measure(&self, binary: &Path, collectors: &Switches) -> Result<Values> {
        let (endpoint, interval) = (self.receiver.endpoint(), format!("{}s", self.interval.as_secs()));
        // Made before the agent, so that it is empty when it goes.
        let cgroup = TestCgroup::new("daemon");
        let kubeconfig = self.kubeconfig.to_str().context("a path in UTF-8")?;
        let mut environment: Vec<(&str, &str)> = vec![
            ("PODLENS_OTLP_ENDPOINT", &endpoint),
            ("PODLENS_OTLP_INTERVAL", &interval),
            ("PODLENS_KUBERNETES_KUBECONFIG", kubeconfig),
        ];
        let switched =
            |(name, is_on): &(String, bool)| (format!("PODLENS_COLLECTORS_{}", name.to_uppercase()), is_on.to_string());
        let switched: Vec<(String, String)> = collectors.iter().map(switched).collect();
        environment.extend(switched.iter().map(|(variable, value)| (variable.as_str(), value.as_str())));
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
