//! What the checks act in: the cluster with podlens installed, and who observes it. Called by the checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    net::SocketAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Error, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use testkit::{http, page::Page};

use super::{collector::Collector, names::Name, prometheus::Prometheus, truth::Truth, wait::within};
use crate::{
    cluster::Cluster,
    image::{self, Entry, Image},
    places, process,
};

/// Release and namespace.
pub(super) const RELEASE: &str = "podlens";
pub(super) const PORT: u16 = 9464;
/// The image of the loads: burn.c and talk.c.
pub(super) const BURN_IMAGE: &str = "podlens-burn:1";

const HELM_LIMIT: &str = "90s";
const AGENT_LIMIT: Duration = Duration::from_mins(1);

/// The cluster, the observers, and what is known to be true.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) prometheus: Prometheus,
    pub(super) collector: Collector,
    pub(super) truth: Truth,
    /// The long forms of the checks are wanted.
    pub(super) long: bool,
    /// For what the checks write.
    pub(super) folder: PathBuf,
}

/// The agent's pod.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) pod: String,
    pub(super) uid: String,
    pub(super) container_id: String,
    pub(super) restarts: u64,
    address: SocketAddr,
}

impl World {
    /// Gives the images to the node, moves this thread into the node's network, and starts the observers there.
    pub(super) fn new(cluster: Cluster, archive: &Path, long: bool) -> Result<Self> {
        let folder = cluster.scratch("e2e")?;
        cluster.import_image(archive)?;
        let burn = folder.join("burn.tar");
        image::write(&burn_image(&folder)?, &burn)?;
        cluster.import_image(&burn)?;
        let network = cluster.network()?;
        let network = File::open(&network).with_context(|| format!("cannot open {}", network.display()))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the cluster's network")?;
        let prometheus = Prometheus::start(&cluster, &folder)?;
        let collector = Collector::start(&cluster, &folder)?;
        let truth = Truth::follow(cluster.pod_logs());
        Ok(Self { cluster, prometheus, collector, truth, long, folder })
    }

    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        process::output(self.cluster.kubectl()?.arg("--request-timeout=20s").args(arguments))
    }

    /// What `kubectl get` answers, as JSON.
    pub(super) fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output=json"], arguments].concat())?;
        serde_json::from_str(&text).context("cannot read kubectl's answer")
    }

    pub(super) fn apply(&self, objects: &[Value]) -> Result<()> {
        let path = self.folder.join("objects.json");
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        fs::write(&path, list.to_string()).context("cannot write objects")?;
        process::output(self.cluster.kubectl()?.args(["apply", "--filename"]).arg(&path)).map(drop)
    }

    pub(super) fn helm(&self, arguments: &[&str]) -> Result<String> {
        process::output(self.cluster.helm()?.args(["--namespace", RELEASE]).args(arguments))
    }

    /// Installs the chart, or upgrades to these values, which are merged into those that every check needs.
    pub(super) fn install(&self, values: &Value, wait: bool) -> Result<()> {
        let mut all = json!({
            "image": { "pullPolicy": "Never" },
            "otlp": { "endpoint": self.collector.endpoint() },
            "config": { "otlp": { "interval": "2s" } },
            "minReadySeconds": 0,
        });
        merge(&mut all, values);
        let path = self.folder.join("values.json");
        fs::write(&path, all.to_string()).context("cannot write the chart's values")?;
        let chart = places::workspace()?.join("deploy/chart");
        let mut helm = self.cluster.helm()?;
        helm.args([
            "upgrade",
            "--install",
            RELEASE,
            "--namespace",
            RELEASE,
            "--create-namespace",
            "--timeout",
            HELM_LIMIT,
        ])
        .arg(chart)
        .arg("--values")
        .arg(&path);
        if wait {
            helm.arg("--wait");
        }
        process::output(&mut helm).map(drop)
    }

    /// The one agent that is not about to end.
    pub(super) fn agent(&self) -> Result<Agent> {
        let selector = format!("app.kubernetes.io/name=podlens,app.kubernetes.io/instance={RELEASE}");
        let pods = self.get(&["pods", "--namespace", RELEASE, "--selector", &selector])?;
        let staying = items(&pods).iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        let [pod] = staying.collect::<Vec<_>>()[..] else { bail!("there is not one agent's pod: {pods}") };
        let status = pod.pointer("/status/containerStatuses/0").context("the agent's pod has no container yet")?;
        let address = text(pod, "/status/podIP").parse().context("the agent's pod has no address yet")?;
        if status.pointer("/state/running").is_none() {
            bail!("the agent does not run: {status}");
        }
        Ok(Agent {
            pod: text(pod, "/metadata/name").to_owned(),
            uid: text(pod, "/metadata/uid").to_owned(),
            container_id: text(status, "/containerID").trim_start_matches("containerd://").to_owned(),
            restarts: status.pointer("/restartCount").and_then(Value::as_u64).unwrap_or_default(),
            address: SocketAddr::new(address, PORT),
        })
    }

    /// An agent other than the one with this pod uid, once it answers.
    pub(super) fn next_agent(&self, old_uid: &str) -> Result<Agent> {
        within(AGENT_LIMIT, || {
            let agent = self.agent()?;
            if agent.uid == old_uid {
                bail!("the old agent {} is still there", agent.pod);
            }
            agent.ask("/healthz").map(|_| agent)
        })
    }

    /// Starts the API server again, and those that depend on it anew: after an outage they wait up to a minute and more
    /// until they see new objects, which is no matter of podlens. Containers do not notice.
    pub(super) fn api_server_back(&self) -> Result<()> {
        self.cluster.start()?;
        for program in ["kube-controller-manager", "kube-scheduler", "kubelet"] {
            self.cluster.kill_program(program)?;
        }
        self.cluster.start()
    }

    /// The containers that run, as the API server has it from kubelet.
    pub(super) fn living(&self) -> Result<BTreeSet<Name>> {
        let pods = self.get(&["pods", "--all-namespaces"])?;
        let mut found = BTreeSet::new();
        for pod in items(&pods) {
            for list in ["/status/containerStatuses", "/status/initContainerStatuses"] {
                for status in pod.pointer(list).and_then(Value::as_array).into_iter().flatten() {
                    if status.pointer("/state/running").is_some() {
                        found.insert(Name::new(
                            text(pod, "/metadata/namespace"),
                            text(pod, "/metadata/name"),
                            text(status, "/name"),
                        ));
                    }
                }
            }
        }
        Ok(found)
    }

    /// The uid of a pod, as its cgroup has it.
    pub(super) fn pod_uid(&self, pod: &str) -> Result<String> {
        let found = self.pod_uids()?.into_iter().find_map(|(uid, name)| (name == pod).then_some(uid));
        found.with_context(|| format!("kubelet has no logs of pod {pod}"))
    }

    /// Names of the node's pods by the uids in their cgroups, from kubelet's logs. A machine that others use as well may
    /// have cgroups of pods that are not the cluster's.
    pub(super) fn pod_uids(&self) -> Result<BTreeMap<String, String>> {
        let logs = self.cluster.pod_logs();
        let folders = fs::read_dir(&logs).with_context(|| format!("cannot list {}", logs.display()))?.flatten();
        let pair = |folder: String| {
            let mut parts = folder.splitn(3, '_').skip(1).map(str::to_owned);
            let (name, uid) = (parts.next()?, parts.next()?);
            Some((uid, name))
        };
        Ok(folders.filter_map(|entry| pair(entry.file_name().into_string().ok()?)).collect())
    }

    /// The id of a running container.
    pub(super) fn container_id(&self, namespace: &str, pod: &str) -> Result<String> {
        let path = "--output=jsonpath={.status.containerStatuses[0].containerID}";
        let id = self.kubectl(&["get", "pod", "--namespace", namespace, pod, path])?;
        Ok(id.trim_start_matches("containerd://").to_owned())
    }

    /// What the agent says of itself, for whoever looks for the cause of a failure: its losses, what it could not
    /// attribute, and its warnings.
    pub(super) fn report(&self) -> String {
        let agent = match self.agent() {
            Ok(agent) => agent,
            Err(failure) => return format!("there is no agent to ask: {failure:#}"),
        };
        let page = agent.ask("/metrics").map_or_else(|failure| format!("{failure:#}"), |(_, page)| page);
        let told = page.lines().filter(|line| {
            let is_loss = line.starts_with("podlens_lost_total{") && !line.ends_with(" 0");
            is_loss || line.starts_with("podlens_cpu_seconds_total{") && line.contains("unattributed")
        });
        let log = self.log(&agent);
        let warnings = log.lines().filter(|line| !line.contains("\"level\":\"INFO\"") && !line.contains(" INFO "));
        told.chain(warnings).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }

    /// All that the agents of this pod have logged.
    pub(super) fn log(&self, agent: &Agent) -> String {
        let folder = self.cluster.pod_logs().join(format!("{RELEASE}_{}_{}", agent.pod, agent.uid)).join("podlens");
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
        files.sort();
        files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect()
    }
}

impl Agent {
    /// Asks for a page.
    pub(super) fn ask(&self, path: &str) -> Result<(u16, String)> {
        http::get(self.address, path).map_err(Error::msg)
    }

    /// CPU seconds by name, as the agent's page has them now; the names of pods and containers may be ids.
    pub(super) fn page(&self) -> Result<BTreeMap<Name, f64>> {
        let (code, page) = self.ask("/metrics")?;
        if code != 200 {
            bail!("/metrics answered {code}: {page}");
        }
        let page = Page::read(&page).map_err(Error::msg)?;
        let mut found = BTreeMap::new();
        for sample in page.all("podlens_cpu_seconds_total", &[]) {
            let [namespace, pod, container] = ["namespace", "pod", "container"].map(|label| sample.label(label));
            if pod.is_empty() {
                continue;
            }
            let value = sample.text.parse().with_context(|| format!("{sample:?} is no number"))?;
            let name = Name::new(namespace, pod, container);
            if found.insert(name.clone(), value).is_some() {
                bail!("the page has {name} twice");
            }
        }
        Ok(found)
    }

    /// Where the agent serves, as a URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process, as this machine numbers it.
    pub(super) fn process(&self) -> Result<u32> {
        for entry in fs::read_dir("/proc").context("cannot list processes")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if groups.contains(&self.container_id) {
                return Ok(pid);
            }
        }
        bail!("no process is in the cgroup of container {}", self.container_id)
    }
}

/// CPU seconds that the kernel has counted for a container.
pub(super) fn kernel_seconds(container_id: &str) -> Result<f64> {
    let found = cgroup(Path::new("/sys/fs/cgroup"), container_id, 6)
        .with_context(|| format!("container {container_id} has no cgroup with a count of CPU time"))?;
    let ns = if let Ok(text) = fs::read_to_string(found.join("cpuacct.usage")) {
        text.trim().parse::<u64>()?
    } else {
        let text = fs::read_to_string(found.join("cpu.stat"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        1000 * line.context("cpu.stat has no usage_usec")?.parse::<u64>()?
    };
    Ok(ns as f64 / 1e9)
}

/// The elements of a list.
pub(super) fn items(list: &Value) -> &[Value] {
    list.get("items").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A text within a value; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The cgroup of this name that has a count, not deeper than `depth`.
fn cgroup(folder: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let found = folder.join(name);
    if found.join("cpuacct.usage").exists()
        || found.join("cgroup.controllers").exists() && found.join("cpu.stat").exists()
    {
        // The empty version 2 tree of a hybrid machine counts CPU time as well.
        return Some(found);
    }
    let inner = fs::read_dir(folder).ok()?.flatten().filter(|entry| depth > 0 && entry.path().is_dir());
    inner.map(|entry| entry.path()).find_map(|path| cgroup(&path, name, depth - 1))
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn burn_image(folder: &Path) -> Result<Image> {
    let mut entries = Vec::new();
    for (name, source) in [("burn", include_str!("burn.c")), ("talk", include_str!("talk.c"))] {
        let program = folder.join(name);
        let place = program.with_extension("c");
        fs::write(&place, source).context("cannot write a load's source")?;
        process::output(Command::new("cc").args(["-Os", "-static", "-s", "-o"]).arg(&program).arg(&place))
            .context("cannot compile a load; a C compiler is needed (Debian: apt-get install gcc libc6-dev)")?;
        entries.push(Entry::Program(name.into(), fs::read(&program).context("cannot read a load")?));
    }
    Ok(Image {
        reference: format!("docker.io/library/{BURN_IMAGE}"),
        entries,
        entrypoint: vec!["/burn".into()],
        ..Image::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::merge;

    #[test]
    fn values_are_merged_into_their_groups() {
        let mut into = json!({ "a": { "b": 1, "c": 2 }, "d": [1] });
        merge(&mut into, &json!({ "a": { "c": 3, "e": { "f": 4 } }, "d": [] }));
        assert_eq!(into, json!({ "a": { "b": 1, "c": 3, "e": { "f": 4 } }, "d": [] }));
    }
}
