//! A node with pods that stand in each other's way: for CPU, memory, disks and network. Its agent tells what it tells by default, and
//! what the chart adds for rules.
//!
//! | pod | container | does |
//! | --- | --- | --- |
//! | shop/web-0 | app | works on CPU 0 within a quota, calls shop/db-0, asks it for names |
//! | shop/web-0 | sidecar | works on CPU 0 |
//! | shop/db-0 | db | answers over a way that loses segments |
//! | kube-system/log-1 | log | works on CPU 0, writes a little to a disk |
//! | batch/report-1 | report | reads a file that is larger than its memory, again and again |

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use testkit::{
    kubernetes::{ApiServer, Described, State, Status, Store},
    otlp::Receiver,
};

use crate::common::{
    Agent, ColdFile, Hog, Load, MemoryCgroup, Network, NullDisk, Peer, Relay, TestCgroup, Trees, Way, Work,
    container_id, load_module, pod_uid,
};

const NEAR: &str = "192.0.2.1/24";
const FAR: &str = "192.0.2.2/24";
const SERVER: &str = "192.0.2.2";
const MIB: u64 = 1 << 20;
/// What the chart tells agents to serve for rules and dashboards.
const SERIES: &str = "default, podlens_cpu_request_cores, podlens_memory_request_bytes";

/// Why there may be no such node.
pub const LACKS: &str =
    "this machine does not count memory by cgroup, has no disk for temporary files, or no TUN devices";
/// The chart's templates.
const TEMPLATES: &str = include_str!("../../../deploy/chart/templates/_helpers.tpl");

/// A pod of a workload, with containers of these numbers.
fn pod(
    namespace: &str,
    controller: (&'static str, &str),
    name: &str,
    uid: u32,
    containers: &[(&str, u32)],
) -> Described {
    let status = |(name, number): &(&str, u32)| Status {
        name: (*name).to_owned(),
        state: State::Running(container_id(*number)),
        ..Status::default()
    };
    Described {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: pod_uid(uid),
        node: "test-node".to_owned(),
        controller: (controller.0, controller.1.to_owned()),
        containers: containers.iter().map(status).collect(),
        ballast_bytes: 0,
    }
}

/// A command that runs in a cgroup until the value ends.
#[derive(Debug)]
pub struct Occupied(Child);

impl Occupied {
    /// `script` for a shell.
    pub fn start(cgroup: &MemoryCgroup, script: &str) -> Self {
        Self::start_in(|process| cgroup.add(process), script)
    }

    /// The same in whatever cgroup a process is put into by `add`.
    fn start_in(add: impl Fn(u32), script: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("there is a shell");
        add(child.id());
        // The end of its input lets it go.
        drop(child.stdin.take());
        Self(child)
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        // A script that runs one program after another: whichever it is now ends by itself soon.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The node at rest, with its agent.
pub struct Node {
    pub agent: Agent,
    _server: ApiServer,
    _receiver: Receiver,
    _kubeconfig: TempDir,
    app: TestCgroup,
    db: TestCgroup,
    sidecar: MemoryCgroup,
    log: MemoryCgroup,
    report: MemoryCgroup,
    cold: ColdFile,
}

/// What goes on there. Ends with the value.
pub struct Busy<'a> {
    node: &'a Node,
    client: Peer,
    database: Peer,
    relay: Relay,
    address: SocketAddr,
    own: SocketAddr,
    _loads: Vec<Load>,
    /// Of shop/web-0 and of kube-system/log-1.
    _hogs: [Hog; 2],
    reader: Occupied,
    /// Sends from kube-system/log-1.
    shipper: Peer,
    /// What batch/report-1 runs.
    program: PathBuf,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.program);
    }
}

impl Node {
    /// None where this machine has not what it takes. `more` are further series for the agent to tell.
    pub fn start(more: &[&str]) -> Option<Self> {
        load_module("tun", &[]);
        if !Path::new("/dev/net/tun").exists() {
            return None;
        }
        let [log_uid, web_uid, db_uid, report_uid] = [1, 2, 3, 4].map(pod_uid);
        let log = MemoryCgroup::container(&log_uid, 1)?;
        let sidecar = MemoryCgroup::container(&web_uid, 3)?;
        let report = MemoryCgroup::container(&report_uid, 5)?;
        let app = TestCgroup::container(&web_uid, 2);
        let db = TestCgroup::container(&db_uid, 4);
        let cold = ColdFile::new(96)?;
        assert!(TEMPLATES.contains(SERIES), "the chart tells agents to serve {SERIES}");
        app.set_quota(60_000, 100_000);
        sidecar.limit(64 * MIB);
        report.limit(24 * MIB);
        let store = Arc::new(Store::default());
        let mut web = pod("shop", ("StatefulSet", "web"), "web-0", 2, &[("app", 2), ("sidecar", 3)]).to_json();
        // More than it can have beside the others: it has a claim to what it waits for.
        web["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "900m".into();
        let pods = [
            pod("kube-system", ("DaemonSet", "log"), "log-1", 1, &[("log", 1)]),
            pod("shop", ("StatefulSet", "db"), "db-0", 3, &[("db", 4)]),
            pod("batch", ("Job", "report"), "report-1", 4, &[("report", 5)]),
        ];
        for pod in pods.iter().map(Described::to_json).chain([web]) {
            store.put(&pod);
        }
        let (server, directory, receiver) = (ApiServer::start(&store), tempfile::tempdir().unwrap(), Receiver::start());
        let agent = Agent::start(&[
            ("PODLENS_MAX_AGE", "0s"),
            ("PODLENS_SERIES_ALLOW", &[&[SERIES], more].concat().join(", ")),
            ("PODLENS_COLLECTORS_DNS", "true"),
            ("PODLENS_OTLP_ENDPOINT", &receiver.endpoint()),
            ("PODLENS_OTLP_INTERVAL", "2s"),
            ("PODLENS_KUBERNETES_KUBECONFIG", server.kubeconfig(directory.path(), &json!({})).to_str().unwrap()),
        ]);
        Some(Self {
            agent,
            _server: server,
            _receiver: receiver,
            _kubeconfig: directory,
            app,
            db,
            sidecar,
            log,
            report,
            cold,
        })
    }

    /// Sets all to work for so long.
    pub fn set_to_work(&self, time: Duration) -> Busy<'_> {
        let mut loads: Vec<Load> = (0..3).map(|_| Load::start(None, Work::SpinFor(time), Some(0))).collect();
        self.log.add(loads[0].id());
        self.sidecar.add(loads[1].id());
        self.app.add(loads[2].id());
        let mut hogs = [Hog::start(&self.sidecar, "hog"), Hog::start(&self.log, "hog")];
        hogs[0].take(8 << 20);
        hogs[1].take(80 << 20);
        let mut database = Peer::start(&self.db, Network::Own);
        let mut client = Peer::start(&self.app, Network::Own);
        let relay = Relay::lay([(&client, &[NEAR]), (&database, &[FAR])], Duration::from_millis(1));
        relay.lose_one_of(40);
        database.serve_names(SERVER, false);
        let address = database.serve(&format!("{SERVER}:0"));
        // Listens and takes nobody; and connections that stay.
        client.listen("192.0.2.1:0", 1);
        client.open(address, 3, 10, 10);
        let mut shipper = Peer::start(&self.app, Network::Own);
        self.log.add(shipper.id());
        let own = shipper.serve("127.0.0.1:0");
        loads.iter_mut().for_each(Load::go);
        let program = PathBuf::from(format!("{}-program", self.cold.path()));
        let reader = self.read(&program);
        Busy { node: self, client, database, relay, address, _loads: loads, _hogs: hogs, reader, shipper, own, program }
    }

    /// shop/web-0 works alone, and its quota does not last. Ends with the value.
    pub fn work_within_a_quota(&self) -> Load {
        let mut load = Load::start(Some(&self.app), Work::SpinFor(Duration::from_mins(5)), None);
        load.go();
        load
    }

    /// From now on shop/web-0 gets little of a CPU that other pods want as well.
    pub fn favour_neighbors(&self) {
        self.app.set_shares_above(64);
    }

    /// shop/db-0 reads from a disk that takes 0.3 s for each request; none where the kernel's module for such disks is not at hand.
    /// A loop device does not do: what it is asked counts at the disk that its file lies on. The readers end before the disk.
    pub fn read_slowly(&self) -> Option<(Vec<Occupied>, NullDisk)> {
        let slow = [("size", "64"), ("irqmode", "2"), ("completion_nsec", "300000000")];
        let disk = NullDisk::make("nullb2", &slow)?;
        let script = format!("exec dd if={} iflag=direct of=/dev/null bs=4k status=none", disk.path().display());
        let readers = (0..4).map(|_| Occupied::start_in(|process| self.db.add(process), &script));
        Some((readers.collect(), disk))
    }

    /// kube-system/log-1 begins: until it has run once, nothing of it is known.
    pub fn begin(&self) {
        let mut load = Load::start(None, Work::SpinFor(Duration::from_millis(1)), Some(1));
        self.log.add(load.id());
        load.run();
    }

    /// For a moment kube-system/log-1 wants the CPU that shop/web-0 works on.
    pub fn collide_once(&self) {
        let mut loads: Vec<Load> =
            [2000, 300].map(|ms| Load::start(None, Work::SpinFor(Duration::from_millis(ms)), Some(0))).into();
        self.app.add(loads[0].id());
        self.log.add(loads[1].id());
        loads.iter_mut().for_each(Load::go);
        loads.iter_mut().for_each(Load::done);
    }

    /// batch/report-1 reads its file, and runs a program of which no page is in memory, again and again.
    fn read(&self, program: &Path) -> Occupied {
        let (file, program) = (self.cold.path(), program.display());
        let cool = format!("dd of={program} oflag=nocache conv=notrunc,nocreat,fdatasync count=0 status=none");
        let script =
            format!("cp $(command -v dd) {program}; while :; do cat {file}; {cool}; {program} --version; done");
        Occupied::start(&self.report, &script)
    }

    /// Directories of the container shop/web-0 app, and of kube-system/log-1 in the same trees.
    fn writers(&self) -> [Vec<PathBuf>; 2] {
        let app = self.app.directories();
        let log = app
            .iter()
            .map(|one| one.ancestors().nth(2).unwrap().join(format!("pod{}", pod_uid(1))).join(container_id(1)));
        [log.collect(), app]
    }
}

impl Busy<'_> {
    /// What is done step by step: calls, queries, writes, refusals.
    pub fn step(&mut self) {
        self.client.call(self.address, 2, 20_000, 60_000);
        self.shipper.call(self.own, 2, 30_000, 100);
        // Nobody listens there.
        self.client.call("192.0.2.2:9".parse().unwrap(), 1, 1, 1);
        for name in ["ok-5.test.", "ok-2.test.", "nxdomain-1.test.", "servfail-1.test."] {
            self.client.ask_for(Way::To, name, &[SERVER]);
        }
        for directories in self.node.writers() {
            written(&directories);
        }
    }

    /// Who takes what shop/web-0 sends, and does so too slowly, ends before it has taken all.
    pub fn break_off(&mut self) {
        let mut slow = Peer::start(&self.node.db, Network::Of(&self.database));
        let address = slow.swallow(&format!("{SERVER}:0"), 1000);
        self.client.push(address, 0);
        std::thread::sleep(Duration::from_millis(300));
        drop(slow);
    }

    /// A process of batch/report-1 is killed since it wants more memory than there may be.
    pub fn kill_one(&mut self) {
        Hog::start(&self.node.report, "report").die(64 << 20);
        // Who is killed may be another one as well.
        if self.reader.has_ended() {
            self.reader = self.node.read(&self.program);
        }
    }

    /// The way to shop/db-0 loses more.
    pub fn lose_one_of(&self, segments: u64) {
        self.relay.lose_one_of(segments);
    }
}

/// A process is killed since a cgroup above its own is at its limit.
pub fn kill_by_a_limit_above() {
    let parent = format!("/podlens-test-{}/above", std::process::id());
    let above = MemoryCgroup::of(TestCgroup::at(parent, Vec::new(), Trees::All)).unwrap();
    let below = MemoryCgroup::of(TestCgroup::new("above/below")).unwrap();
    above.limit(32 * MIB);
    Hog::start(&below, "below").die(64 << 20);
}

/// Writes a little to the disk of the directory for temporary files, as a process of the cgroup with these directories.
fn written(cgroup: &[PathBuf]) {
    let path = std::env::temp_dir().join(format!("podlens-monitoring-{}", std::process::id()));
    let script = "for one; do echo $$ > \"$one/cgroup.procs\"; done; \
                  exec dd if=/dev/zero of=\"$0\" bs=4k count=16 oflag=dsync status=none";
    let status = Command::new("sh").args(["-c", script]).arg(&path).args(cgroup).status().unwrap();
    assert!(status.success(), "dd writes to {}", path.display());
    fs::remove_file(path).unwrap();
}
