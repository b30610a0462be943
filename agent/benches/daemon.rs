//! What the daemon itself costs on a full node: `cargo xtask bench daemon`.
//!
//! 250 pods of two containers each, in cgroups and with light tasks of the benchmark's own; an API server of its own
//! whose pods have 30 KB of specification each; a scrape and a push every 15 s, as on a real node. As root. Exits with
//! 1 if a budget is missed.

#[path = "../tests/names_parts/api_server.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests use the rest")]
#[allow(clippy::indexing_slicing, reason = "JSON of its own making")]
mod api_server;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/names_parts/otlp.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "tests use the rest")]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds become nanoseconds")]
mod otlp;
#[path = "../tests/names_parts/pods.rs"]
#[allow(dead_code, reason = "tests use the rest")]
#[allow(clippy::indexing_slicing, reason = "JSON of its own making")]
mod pods;

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use api_server::{ApiServer, Store};
use common::{Agent, Page, TestCgroup, container_id, pod_uid};
use otlp::Receiver;
use pods::{Described, State, Status};
use serde_json::json;

const PODS: u32 = 250;
const CONTAINERS_A_POD: u32 = 2;
const BALLAST_BYTES: usize = 30 << 10;
/// Tasks of a container, each of which wakes once a second.
const TASKS: usize = 3;
/// Between two scrapes and between two pushes.
const INTERVAL: Duration = Duration::from_secs(15);
/// What belongs to the start is over.
const SETTLE_ROUNDS: u32 = 2;
const ROUNDS: u32 = 8;
/// Further scrapes, each with its own sweep, to tell what one costs.
const SCRAPES: u32 = 20;
/// Set for the process that is a container's load.
const LOAD: &str = "PODLENS_BENCH_LOAD";

/// A figure and what it may be at most.
struct Figure {
    what: &'static str,
    value: f64,
    unit: &'static str,
    budget: Option<f64>,
}

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
    let containers = start_containers()?;
    println!("{PODS} pods with {} containers of {TASKS} tasks, each waking once a second", containers.len());
    let store = Arc::new(Store::default());
    for pod in 0..PODS {
        store.put(&described(pod).to_json());
    }
    let (server, receiver, directory) = (ApiServer::start(&store), Receiver::start(), tempfile::tempdir()?);
    let kubeconfig = server.kubeconfig(directory.path(), &json!({}));
    let (endpoint, interval) = (receiver.endpoint(), format!("{}s", INTERVAL.as_secs()));
    let agent = Agent::start(&[
        ("PODLENS_OTLP_ENDPOINT", &endpoint),
        ("PODLENS_OTLP_INTERVAL", &interval),
        ("PODLENS_KUBERNETES_KUBECONFIG", kubeconfig.to_str().context("a path in UTF-8")?),
    ]);
    let cgroup = TestCgroup::new("daemon");
    cgroup.add(agent.id());
    let figures = measure(&agent, &cgroup)?;
    drop(agent);
    let mut missed = Vec::new();
    for Figure { what, value, unit, budget } in figures {
        let told = budget.map_or(String::new(), |budget| format!("  budget {budget} {unit}"));
        println!("{what:44} {value:9.3} {unit}{told}");
        if budget.is_some_and(|budget| value > budget) {
            missed.push(what);
        }
    }
    ensure!(missed.is_empty(), "over budget: {}", missed.join(", "));
    Ok(())
}

/// Lets rounds pass as they do on a node, and takes what the daemon used meanwhile.
fn measure(agent: &Agent, cgroup: &TestCgroup) -> Result<Vec<Figure>> {
    let mut page = String::new();
    for _ in 0..SETTLE_ROUNDS {
        thread::sleep(INTERVAL);
        page = scrape(agent)?;
    }
    check_page(&page)?;
    let (before_ns, start) = (cgroup.cpu_usage_ns(), Instant::now());
    for _ in 0..ROUNDS {
        thread::sleep(INTERVAL);
        scrape(agent)?;
    }
    let cpu_percent = (cgroup.cpu_usage_ns() - before_ns) as f64 / start.elapsed().as_nanos() as f64 * 100.0;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
    let mib = |key: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no such line in status")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    let (mut sweeps_ms, mut walls_ms, mut cpu_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SCRAPES {
        thread::sleep(Duration::from_millis(1200));
        let (before_ns, start) = (cgroup.cpu_usage_ns(), Instant::now());
        let page = scrape(agent)?;
        walls_ms.push(start.elapsed().as_secs_f64() * 1e3);
        cpu_ms.push((cgroup.cpu_usage_ns() - before_ns) as f64 / 1e6);
        sweeps_ms.push(Page::parse(&page).value("podlens_sweep_seconds", &[]) * 1e3);
    }
    let samples = page.lines().filter(|line| !line.starts_with('#')).count();
    let figure = |what, value, unit, budget| Figure { what, value, unit, budget };
    Ok(vec![
        figure("CPU of one core", cpu_percent, "%", Some(0.3)),
        figure("resident memory", mib("VmRSS:")?, "MiB", Some(24.0)),
        figure("  of it the daemon's own", mib("RssAnon:")?, "MiB", None),
        figure("  most so far", mib("VmHWM:")?, "MiB", None),
        figure("sweep with 500 containers (median)", median(&mut sweeps_ms), "ms", Some(2.0)),
        // Not each one reads the kernel's files.
        figure(
            "  the longest tenth begins at",
            sweeps_ms.get(sweeps_ms.len() * 9 / 10).copied().unwrap_or(f64::NAN),
            "ms",
            None,
        ),
        figure("samples on the page", samples as f64, "", None),
        figure("scrape with its sweep, CPU (median)", median(&mut cpu_ms), "ms", None),
        figure("scrape with its sweep, until read (median)", median(&mut walls_ms), "ms", None),
    ])
}

/// A page as Prometheus asks for it, without the compression.
fn scrape(agent: &Agent) -> Result<String> {
    let mut stream = TcpStream::connect(agent.address())?;
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: bench\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, page) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(page.to_owned())
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
    let cgroup = TestCgroup::container(&pod_uid(number / CONTAINERS_A_POD), number);
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

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
