//! What `podlens fleet` costs on a large cluster: `cargo xtask bench fleet`.
//!
//! 5,000 nodes with 20 `DaemonSets`, all from an API server of the benchmark's own in this process: the start, a rest with nodes'
//! heartbeats, an update of one `DaemonSet` node by node, and the API server away. A scrape every 15 s, as in
//! a real cluster. Exits with 1 if the budget of memory or of CPU at rest does not hold, or if anything is lost. Of the fleet it
//! uses only what users have: flags and `/metrics`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../tests/fleet_parts/mod.rs"]
mod fleet_parts;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fleet_parts::{
    DAEMON_SETS, NODES, PODS, REVISIONS, Replica, daemon_set, node, nodes_in, pod, pod_uid, ready, revision, rollout,
};
use serde_json::{Value, json};
use testkit::{
    kubernetes::{FleetServer, Objects},
    page::Page,
};

const BUDGET_MIB: f64 = 150.0;
const BUDGET_REST_PERCENT: f64 = 2.0;
/// A node tells of itself so often.
const HEARTBEAT: Duration = Duration::from_mins(5);
const SCRAPE: Duration = Duration::from_secs(15);
/// What of a pod's object is not looked at: environments, volumes, managed fields.
const BALLAST_BYTES: usize = 3 << 10;
/// The start, and what is to be caught up with.
const PATIENCE: Duration = Duration::from_mins(5);

#[derive(clap::Parser)]
struct Arguments {
    /// The build that is measured
    #[arg(long)]
    binary: PathBuf,
    #[arg(long, default_value_t = 5000)]
    nodes: usize,
    #[arg(long, default_value_t = 20)]
    daemon_sets: usize,
    /// Seconds of rest that are measured
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// Seconds in which one `DaemonSet` is updated on all nodes
    #[arg(long, default_value_t = 300)]
    update: u64,
    /// Seconds for which the API server is away
    #[arg(long, default_value_t = 300)]
    away: u64,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = <Arguments as clap::Parser>::parse();
    let Arguments { nodes, daemon_sets, .. } = arguments;
    let objects = Arc::new(Objects::default());
    for number in 0..nodes {
        objects.put(NODES, node(number));
    }
    for number in 0..daemon_sets {
        objects.put(DAEMON_SETS, daemon_set(number));
        objects.put(REVISIONS, revision(number, 1));
        for node in 0..nodes {
            objects.put(PODS, with_ballast(pod(number, node, 1, &ready())));
        }
        // As of a server that runs for long; and memory is not without end.
        objects.forget_history();
    }
    let server = FleetServer::start(&objects);
    let address = server.address();
    println!("{nodes} nodes, {daemon_sets} DaemonSets, {} pods", nodes * daemon_sets);

    let replica = Replica::start_binary(&arguments.binary, &server, "bench", &["--lease", "fleet/podlens"], &[]);
    let last = format!("ds-{:02}", daemon_sets - 1);
    let all = nodes as u64;
    let is_whole =
        |page: &Page| nodes_in(page, "ds-00", "ready") == Some(all) && nodes_in(page, &last, "ready") == Some(all);
    let start = replica.wait("all nodes", PATIENCE, is_whole);
    let cpu = cpu_seconds(replica.id());
    println!("start: {:.1} s, {cpu:.2} s of CPU, {:.0} MB listed", start.as_secs_f64(), mb(objects.sent_bytes()));
    memory(&replica, "after the start");

    let scraper = Background::start({
        let address = replica.address();
        move || {
            let _ = testkit::http::get(address, "/metrics");
            thread::sleep(SCRAPE);
        }
    });
    let beats = Background::start({
        let objects = Arc::clone(&objects);
        let mut number = 0;
        move || {
            let mut node = node(number % nodes);
            node["status"]["conditions"][0]["lastHeartbeatTime"] = json!(number.to_string());
            objects.put(NODES, node);
            number += 1;
            thread::sleep(HEARTBEAT / u32::try_from(nodes).unwrap());
        }
    });
    let rest = measure(&replica, &objects, "at rest", || thread::sleep(Duration::from_secs(arguments.rest)));

    objects.put(REVISIONS, revision(0, 2));
    replica.wait("a roll-out", PATIENCE, |page| rollout(page, "ds-00") == "rolling");
    measure(&replica, &objects, "while one DaemonSet is updated", || {
        update(&objects, nodes, Duration::from_secs(arguments.update));
    });
    let late = replica.wait("the end of the update", PATIENCE, |page| {
        nodes_in(page, "ds-00", "current") == Some(all)
            && nodes_in(page, "ds-00", "ready") == Some(all)
            && rollout(page, "ds-00") == "settled"
    });
    println!("update: all {nodes} pods are seen, {:.2} s after the last change", late.as_secs_f64());

    drop(server);
    measure(&replica, &objects, "while the API server is away", || thread::sleep(Duration::from_secs(arguments.away)));
    for node in 0..nodes / 10 {
        objects.delete(PODS, &pod_uid(1, node, 1));
    }
    let lists = objects.requests(PODS, "list", 200);
    let _server = FleetServer::start_at(address, &objects);
    let back = replica
        .wait("what changed meanwhile", PATIENCE, |page| nodes_in(page, "ds-01", "ready") == Some(all - all / 10));
    println!(
        "back: caught up {:.1} s after it is there, with {} pages of pods listed",
        back.as_secs_f64(),
        objects.requests(PODS, "list", 200) - lists
    );
    drop((scraper, beats));

    let most = memory(&replica, "most so far");
    println!("budget: {most:.0} of {BUDGET_MIB} MiB, {rest:.2} of {BUDGET_REST_PERCENT} % of a core at rest");
    if most <= BUDGET_MIB && rest <= BUDGET_REST_PERCENT { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn with_ballast(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({ "ballast": "b".repeat(BALLAST_BYTES) });
    pod
}

/// As the controller does it, node by node: the old pod ends, a new one is made, is started, and works.
fn update(objects: &Objects, nodes: usize, time: Duration) {
    let began = Instant::now();
    for node in 0..nodes {
        let mut old = with_ballast(pod(0, node, 1, &ready()));
        old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:10:00Z");
        objects.put(PODS, old);
        objects.delete(PODS, &pod_uid(0, node, 1));
        for status in [json!({ "phase": "Pending" }), json!({ "phase": "Running" }), ready()] {
            objects.put(PODS, with_ballast(pod(0, node, 2, &status)));
        }
        // The controller counts them in the object's status.
        let mut counted = daemon_set(0);
        counted["status"] = json!({ "updatedNumberScheduled": node });
        objects.put(DAEMON_SETS, counted);
        let due = time * u32::try_from(node).unwrap() / u32::try_from(nodes).unwrap();
        thread::sleep(due.saturating_sub(began.elapsed()));
    }
}

/// Something that is done again and again until the value ends.
struct Background(Arc<AtomicBool>);

impl Background {
    fn start(mut act: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                act();
            }
        });
        Self(stop)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Percent of a core meanwhile.
fn measure(replica: &Replica, objects: &Objects, what: &str, act: impl FnOnce()) -> f64 {
    let (began, cpu, bytes) = (Instant::now(), cpu_seconds(replica.id()), objects.sent_bytes());
    act();
    let seconds = began.elapsed().as_secs_f64();
    let percent = (cpu_seconds(replica.id()) - cpu) / seconds * 100.0;
    let traffic = mb(objects.sent_bytes() - bytes) * 1000.0 / seconds;
    println!("{what}: {percent:.2} % of a core, {traffic:.0} KB/s watched, in {seconds:.0} s");
    memory(replica, what);
    percent
}

/// Prints what it holds now; gives the most that it ever held, in MiB.
fn memory(replica: &Replica, what: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", replica.id())).unwrap();
    let mib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    let (now, most) = (mib("VmRSS:"), mib("VmHWM:"));
    println!("  memory {what}: {now:.0} MiB, most {most:.0} MiB");
    most
}

fn cpu_seconds(id: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).unwrap().parse::<f64>().unwrap();
    // User and system time, in hundredths of a second on every Linux.
    (ticks(11) + ticks(12)) / 100.0
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
