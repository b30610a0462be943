//! The API server goes away and returns, or changes its mind about a token: values go on, names come late, nothing is
//! there twice.
//!
//! `PODLENS_TEST_FULL=1` keeps it away for a minute and a half instead of some seconds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{Agent, Load, Page, TestCgroup, Work, container_id, pod_uid};
use serde_json::json;
use testkit::kubernetes::{ApiServer, Described, State, Status, Store};

const CPU: &str = "podlens_cpu_seconds_total";
/// Apart from other tests' numbers.
const BASE: u32 = 0x20_0000;
const BUNDLES: &str = "io.containerd.runtime.v2.task/k8s.io";

/// A pod with one container that has used some CPU time and goes on using more.
struct Subject {
    described: Described,
    id: String,
    load: Load,
    cgroup: TestCgroup,
    /// What it had used before the agent came.
    before_ns: u64,
}

impl Subject {
    fn start(number: u32) -> Self {
        let (uid, id) = (pod_uid(BASE + number), container_id(BASE + number));
        let described = Described {
            namespace: "away".to_owned(),
            name: format!("web-{number}"),
            uid: uid.clone(),
            node: "test-node".to_owned(),
            controller: ("StatefulSet", "web".to_owned()),
            containers: vec![Status { name: "app".to_owned(), state: State::Running(id.clone()), ..Status::default() }],
            ballast_bytes: 0,
        };
        let cgroup = TestCgroup::container(&uid, BASE + number);
        let load = Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(5)), None);
        let mut subject = Self { described, id, load, before_ns: 0, cgroup };
        subject.meet_agent();
        subject
    }

    /// An agent is there now; it knows a container by what that does.
    fn meet_agent(&mut self) {
        self.before_ns = self.cgroup.cpu_usage_ns();
        self.work();
    }

    /// Works a little and rests.
    fn work(&mut self) {
        self.load.run();
        self.load.figures();
    }

    /// Its series on a page, by whether they have its name.
    #[track_caller]
    fn cpu_ns(&self, page: &Page) -> (Option<u64>, Option<u64>) {
        let named = [("namespace", "away"), ("pod", self.described.name.as_str()), ("container", "app")];
        (page.ns(CPU, &self.cgroup.labels()), page.ns(CPU, &named))
    }

    /// It is there once, with all of its CPU time.
    #[track_caller]
    fn assert_once(&self, page: &Page, is_named: bool) {
        let (unnamed, named) = self.cpu_ns(page);
        assert_eq!((unnamed.is_some(), named.is_some()), (!is_named, is_named), "{}", self.described.name);
        let (found, kernel) = (unnamed.or(named).unwrap(), self.cgroup.cpu_usage_ns() - self.before_ns);
        common::assert_near("CPU time", found, kernel, 2.0, 200_000);
    }

    fn write_bundle(&self, root: &Path) {
        let place = root.join(BUNDLES).join(&self.id);
        fs::create_dir_all(&place).unwrap();
        let annotations = BTreeMap::from([
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.container-name", "app"),
            ("io.kubernetes.cri.sandbox-namespace", "away"),
            ("io.kubernetes.cri.sandbox-name", &self.described.name),
            ("io.kubernetes.cri.sandbox-uid", &self.described.uid),
        ]);
        fs::write(place.join("config.json"), json!({ "annotations": annotations }).to_string()).unwrap();
    }
}

fn start(kubeconfig: &Path, root: &Path) -> Agent {
    Agent::start(&[
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_KUBERNETES_KUBECONFIG", kubeconfig.to_str().unwrap()),
        ("PODLENS_KUBERNETES_BUNDLE_ROOT", root.to_str().unwrap()),
    ])
}

fn wait_for_name(agent: &Agent, subject: &Subject) -> Page {
    agent.wait_for_metrics(&format!("the name of {}", subject.described.name), |page| match subject.cpu_ns(page) {
        (None, Some(_)) => Ok(page.clone()),
        (Some(_), Some(_)) => panic!("{} is there twice", subject.described.name),
        other => Err(format!("{other:?}")),
    })
}

fn count(log: &str, part: &str) -> usize {
    log.lines().filter(|line| line.contains(part)).count()
}

#[test]
fn while_the_server_is_away_values_go_on_and_an_agent_started_then_names_what_it_can_and_the_rest_later() {
    let away = Duration::from_secs(if env::var_os("PODLENS_TEST_FULL").is_some() { 90 } else { 6 });
    let (store, directory) = (Arc::new(Store::default()), tempfile::tempdir().unwrap());
    fs::create_dir_all(directory.path().join(BUNDLES)).unwrap();
    let server = ApiServer::start(&store);
    let kubeconfig = server.kubeconfig(directory.path(), &json!({}));
    let mut known = [Subject::start(1), Subject::start(2)];
    for subject in &known {
        store.put(&subject.described.to_json());
    }
    let agent = start(&kubeconfig, directory.path());
    for subject in &mut known {
        subject.meet_agent();
        wait_for_name(&agent, subject);
    }

    let address = server.address();
    drop(server);
    let gone = Instant::now();
    let mut born = [Subject::start(3), Subject::start(4)];
    for subject in &born {
        store.put(&subject.described.to_json());
    }
    while gone.elapsed() < away / 2 {
        for subject in known.iter_mut().chain(&mut born) {
            subject.work();
        }
        let page = agent.metrics();
        for (subject, is_named) in known.iter().map(|one| (one, true)).chain(born.iter().map(|one| (one, false))) {
            subject.assert_once(&page, is_named);
        }
        thread::sleep(Duration::from_millis(300));
    }
    let log = agent.log();
    let (status, _) = agent.stop();
    assert_eq!(status.code(), Some(0));
    assert_eq!(count(&log, "keep their ids for names until"), 1, "{log}");

    known[0].write_bundle(directory.path());
    let agent = start(&kubeconfig, directory.path());
    known.iter_mut().chain(&mut born).for_each(Subject::meet_agent);
    wait_for_name(&agent, &known[0]);
    while gone.elapsed() < away {
        for subject in known.iter_mut().chain(&mut born) {
            subject.work();
        }
        let page = agent.metrics();
        // Its runtime's annotations name it.
        known[0].assert_once(&page, true);
        for subject in known[1..].iter().chain(&born) {
            subject.assert_once(&page, false);
        }
        thread::sleep(Duration::from_millis(300));
    }

    let before = agent.metrics();
    let _server = ApiServer::start_at(address, &store);
    for subject in known.iter().chain(&born) {
        let after = wait_for_name(&agent, subject);
        let (unnamed, named) = subject.cpu_ns(&before);
        let (_, later) = subject.cpu_ns(&after);
        assert!(later >= unnamed.max(named), "{} goes on from where it was", subject.described.name);
        subject.assert_once(&after, true);
    }
    let log = agent.log();
    assert_eq!(count(&log, "keep their ids for names until"), 1, "{log}");
    assert_eq!(count(&log, "come from the API server again"), 1, "{log}");
    assert_eq!(store.requests("list", 200), 2, "one list an agent");
}

#[test]
fn a_token_that_is_changed_on_disk_is_used_as_soon_as_the_old_one_is_refused() {
    let (store, directory) = (Arc::new(Store::default()), tempfile::tempdir().unwrap());
    let token = directory.path().join("token");
    fs::write(&token, "first").unwrap();
    store.accept_only("first");
    let server = ApiServer::start(&store);
    let kubeconfig = server.kubeconfig(directory.path(), &json!({ "tokenFile": token }));
    let agent = start(&kubeconfig, directory.path());
    let first = Subject::start(11);
    store.put(&first.described.to_json());
    wait_for_name(&agent, &first);

    // The watch that is granted goes on; the next one is refused until the token is read again.
    store.accept_only("second");
    let address = server.address();
    drop(server);
    let second = Subject::start(12);
    store.put(&second.described.to_json());
    let _server = ApiServer::start_at(address, &store);
    common::wait_until("a refusal", common::PATIENCE, || match store.requests("watch", 401) {
        0 => Err("none".to_owned()),
        some => Ok(some),
    });
    fs::write(&token, "second").unwrap();
    wait_for_name(&agent, &second);
    let log = agent.log();
    assert!(log.contains("401 Unauthorized") && log.contains("token"), "{log}");
    assert_eq!(count(&log, "keep their ids for names until"), 1, "{log}");
    assert_eq!(count(&log, "come from the API server again"), 1, "{log}");
}
