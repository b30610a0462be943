//! What tests of `podlens fleet` share: objects of a cluster, and a replica as a process.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    free_address,
    kubernetes::{FleetServer, Objects, kubeconfig},
    page::Page,
};

pub const DAEMON_SETS: &str = "/apis/apps/v1/daemonsets";
pub const REVISIONS: &str = "/apis/apps/v1/controllerrevisions";
pub const NODES: &str = "/api/v1/nodes";
pub const PODS: &str = "/api/v1/pods";
pub const EVENTS: &str = "/api/v1/events";

/// When everything was made.
const MADE: &str = "2026-01-01T00:00:00Z";

/// A uid as API servers make them, of a kind and a number.
pub fn uid(kind: u8, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

pub fn node(number: usize) -> Value {
    json!({
        "metadata": { "name": format!("node-{number:04}"), "uid": uid(1, number), "labels": { "kubernetes.io/os": "linux" } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }], "allocatable": { "cpu": "8", "memory": "32Gi", "pods": "110" } },
    })
}

pub fn daemon_set(number: usize) -> Value {
    json!({
        "metadata": { "name": format!("ds-{number:02}"), "namespace": "fleet", "uid": uid(2, number), "generation": 1 },
        "spec": { "selector": {}, "template": { "spec": { "containers": [] } }, "updateStrategy": { "type": "RollingUpdate" } },
    })
}

fn owner(daemon_set: usize) -> Value {
    json!([{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": format!("ds-{daemon_set:02}"), "uid": uid(2, daemon_set), "controller": true }])
}

pub fn revision(daemon_set: usize, number: usize) -> Value {
    json!({
        "metadata": {
            "name": format!("ds-{daemon_set:02}-{number}"), "namespace": "fleet", "uid": uid(3, daemon_set * 1000 + number),
            "ownerReferences": owner(daemon_set), "labels": { "controller-revision-hash": format!("r{number}") },
            "creationTimestamp": format!("2026-01-01T00:{number:02}:00Z"),
        },
        "revision": number,
    })
}

/// A pod of a `DaemonSet` on a node, of a revision, in this state.
pub fn pod(daemon_set: usize, node: usize, revision: usize, status: &Value) -> Value {
    json!({
        "metadata": {
            "name": format!("ds-{daemon_set:02}-{node:04}"), "namespace": "fleet",
            "uid": pod_uid(daemon_set, node, revision), "ownerReferences": owner(daemon_set),
            "labels": { "controller-revision-hash": format!("r{revision}") }, "creationTimestamp": MADE,
        },
        "spec": {
            "nodeName": format!("node-{node:04}"),
            "containers": [{ "name": "app", "resources": { "requests": { "cpu": "50m", "memory": "64Mi" } } }],
        },
        "status": status,
    })
}

pub fn pod_uid(daemon_set: usize, node: usize, revision: usize) -> String {
    uid(4, (revision * 100 + daemon_set) * 100_000 + node)
}

pub fn ready() -> Value {
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": MADE });
    let conditions: Vec<Value> = ["Ready", "PodScheduled", "Initialized", "ContainersReady"].map(condition).into();
    json!({ "phase": "Running", "conditions": conditions })
}

pub fn bad_image() -> Value {
    let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "not found" } });
    let ready = json!({ "type": "Ready", "status": "False", "lastTransitionTime": MADE });
    json!({ "phase": "Pending", "conditions": [ready], "containerStatuses": [{ "name": "app", "image": "app:2", "state": waiting }] })
}

/// A cluster whose every node has a pod of each `DaemonSet` that works.
pub fn cluster(nodes: usize, daemon_sets: usize) -> Arc<Objects> {
    let objects = Arc::new(Objects::default());
    (0..nodes).for_each(|number| objects.put(NODES, node(number)));
    for number in 0..daemon_sets {
        objects.put(DAEMON_SETS, daemon_set(number));
        objects.put(REVISIONS, revision(number, 1));
        (0..nodes).for_each(|node| objects.put(PODS, pod(number, node, 1, &ready())));
    }
    objects
}

fn tested_binary() -> PathBuf {
    testkit::tested_binary(env!("CARGO_BIN_EXE_podlens"))
}

/// `podlens fleet` with this kubeconfig and nothing but a path in its environment.
pub fn fleet_command(kubeconfig: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(tested_binary());
    command.args(["fleet", "--kubeconfig"]).arg(kubeconfig).args(arguments);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// What `podlens fleet --once` says with this kubeconfig, where it cannot look.
pub fn refusal(kubeconfig: &Path) -> String {
    let output = fleet_command(kubeconfig, &["--once"]).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// One replica of `podlens fleet`. Ends with the value.
pub struct Replica {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    _kubeconfig: TempDir,
}

impl Replica {
    /// Starts one beside others of the same Lease and waits for nothing.
    pub fn start(server: &FleetServer, name: &str, more: &[(&str, &str)]) -> Self {
        Self::start_binary(&tested_binary(), server, name, &["--lease", "fleet/podlens"], more)
    }

    /// The same, alone, as this user of a kubeconfig.
    pub fn start_as(server: &FleetServer, name: &str, user: &Value) -> Self {
        Self::spawn(&tested_binary(), server, name, user, &[], &[])
    }

    pub fn start_binary(
        binary: &Path,
        server: &FleetServer,
        name: &str,
        arguments: &[&str],
        more: &[(&str, &str)],
    ) -> Self {
        Self::spawn(binary, server, name, &json!({}), arguments, more)
    }

    fn spawn(
        binary: &Path,
        server: &FleetServer,
        name: &str,
        user: &Value,
        arguments: &[&str],
        more: &[(&str, &str)],
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("podlens-fleet-{}-{number}.log", std::process::id()));
        let file = || fs::OpenOptions::new().create(true).append(true).open(&log).expect("the log can be written");
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = kubeconfig(server.address(), directory.path(), user);
        let address = free_address();
        let child = Command::new(binary)
            .args(["fleet", "--listen", &address.to_string(), "--kubeconfig"])
            .arg(&kubeconfig)
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("NODE_NAME", name)
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(file())
            .stderr(file())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()));
        Self { child, address, log, _kubeconfig: directory }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn get(&self, path: &str) -> Result<(u16, String), String> {
        testkit::http::get(self.address, path)
    }

    /// Its page; empty while it does not answer.
    pub fn page(&self) -> Page {
        Page::parse(&self.get("/metrics").map(|(_, page)| page).unwrap_or_default())
    }

    /// Waits until something is seen on its page, and says how long that took.
    #[track_caller]
    pub fn wait(&self, what: &str, limit: Duration, seen: impl Fn(&Page) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            let page = self.page();
            if seen(&page) {
                return start.elapsed();
            }
            assert!(start.elapsed() < limit, "{what}: not within {limit:?}; the log:\n{}\n{}", self.log(), page.text);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn leads(&self) -> bool {
        self.page().all("podlens_fleet_leader", &[]).iter().any(|sample| sample.text == "1")
    }

    pub fn signal(&self, name: &str) {
        let (signal, id) = (format!("-{name}"), self.id().to_string());
        assert!(Command::new("kill").args([signal, id]).status().unwrap().success());
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = fs::remove_file(&self.log);
        }
    }
}

/// The number of nodes of a `DaemonSet` in a state; none without a sample.
pub fn nodes_in(page: &Page, daemon_set: &str, state: &str) -> Option<u64> {
    let all = page.all("podlens_fleet_nodes", &[("daemonset", daemon_set), ("state", state)]);
    all.first().map(|sample| sample.count())
}

/// Nodes that lack the pod of a `DaemonSet`, with their reasons.
pub fn lacking(page: &Page, daemon_set: &str) -> Vec<(String, String)> {
    let all = page.all("podlens_fleet_lacking_since_timestamp_seconds", &[("daemonset", daemon_set)]);
    all.iter().map(|sample| (sample.label("node").to_owned(), sample.label("reason").to_owned())).collect()
}

/// The state of a roll-out.
pub fn rollout(page: &Page, daemon_set: &str) -> String {
    let all = page.all("podlens_fleet_rollout_state", &[("daemonset", daemon_set)]);
    all.iter().find(|sample| sample.text == "1").map(|sample| sample.label("state").to_owned()).unwrap_or_default()
}
