//! Each reason why a node lacks its pod, caused on the real node or, where that would break it, on nodes that are but objects; and
//! what the chart's fleet tells of it: as a metric, as an event, and its end.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::fleet::{FLEET, NODE, clean, namespace};
use crate::{
    e2e::{
        fleet::{lacking, leader, sample},
        wait::within,
        workloads::{container, daemon_set, with},
        world::{World, items, text},
    },
    process,
};

const STRICT: &str = "fleet-strict";
const FULL: &str = "fleet-full";
const NAMED_WITHIN: Duration = Duration::from_secs(90);
const ENDS_WITHIN: Duration = Duration::from_mins(1);
/// From when the API server shows that it is over until the page does.
const NOTICED: Duration = Duration::from_secs(5);
/// And so long after it an event, which waits for the Lease to be renewed and for the log's next push.
const TOLD: Duration = Duration::from_secs(30);
/// Of a registry whose certificate has expired.
const PORT: u16 = 5443;
const EXPIRED: &str = "expired.invalid";

/// A `DaemonSet` with one fault.
struct Fault {
    space: &'static str,
    name: &'static str,
    reason: &'static str,
    /// What the detail says.
    words: &'static str,
    pod: Value,
}

pub(super) fn reasons(world: &mut World) -> Result<String> {
    world.install(&json!({ "fleet": { "enabled": true } }), true)?;
    let told = caused(world);
    // Without it the node has its network back.
    let broken = broken_network(world);
    if broken.exists() {
        fs::remove_file(&broken).context("cannot mend the node's network")?;
    }
    let gone = clean(world, &[FLEET, STRICT, FULL]);
    let told = told?;
    gone?;
    Ok(told)
}

fn caused(world: &World) -> Result<String> {
    let on_nodes = on_nodes_of_objects(world)?;
    let mut faults = faults();
    faults.push(wrong_clock(world)?);
    let mut objects = vec![namespace()];
    objects.extend(spaces());
    world.apply(&[namespace(), daemon_set(FLEET, "port-a", with(good(), &port()))])?;
    within(NAMED_WITHIN, || {
        match sample(&leader(world)?, "podlens_fleet_nodes", &[("daemonset", "port-a"), ("state", "ready")]) {
            Some(1.0) => Ok(()),
            other => bail!("port-a is ready on {other:?} nodes"),
        }
    })?;
    objects.extend(faults.iter().map(|fault| daemon_set(fault.space, fault.name, fault.pod.clone())));
    world.apply(&objects)?;
    named(world, &faults)?;
    // Last, since no pod gets a network meanwhile.
    let network = Fault { name: "no-network", reason: "network", words: "no-such-plugin", ..fault(good()) };
    let path = broken_network(world);
    let list = json!({ "cniVersion": "0.4.0", "name": "broken", "plugins": [{ "type": "no-such-plugin" }] });
    // Never half a file.
    let whole = path.with_extension("new");
    fs::write(&whole, list.to_string()).with_context(|| format!("cannot write {}", whole.display()))?;
    fs::rename(&whole, &path).with_context(|| format!("cannot write {}", path.display()))?;
    world.apply(&[daemon_set(FLEET, network.name, good())])?;
    named(world, std::slice::from_ref(&network))?;
    fs::remove_file(&path).context("cannot mend the node's network")?;
    faults.push(network);

    let longest = ended(world, &faults)?;
    for fault in &faults {
        within(TOLD, || match event(world, "podlens.daemonset.restored", fault) {
            Some(_) => Ok(()),
            None => bail!("no event tells the end of {}", fault.name),
        })?;
    }
    Ok(format!("{} reasons and {on_nodes}; ends noticed within {:.1} s", faults.len(), longest.as_secs_f64()))
}

/// Waits until each is a metric and an event.
fn named(world: &World, faults: &[Fault]) -> Result<()> {
    within(NAMED_WITHIN, || {
        let page = leader(world)?;
        for fault in faults {
            let found = lacking(&page, fault.name);
            if found != [fault.reason] {
                bail!("{} lacks its pod for {found:?}, not {}", fault.name, fault.reason);
            }
            // What may pass by itself is an event after a minute.
            if fault.reason == "not_ready" {
                continue;
            }
            let event = event(world, "podlens.daemonset.lacking", fault);
            let event = event.with_context(|| format!("no event tells {} of {}", fault.reason, fault.name))?;
            let detail = event.get("podlens.detail").map_or("", String::as_str);
            if !detail.contains(fault.words) {
                bail!("of {} is told: {detail}", fault.name);
            }
        }
        Ok(())
    })
}

/// The attributes of the event of this name about this fault, whatever reason its end gives.
fn event(world: &World, name: &str, fault: &Fault) -> Option<BTreeMap<String, String>> {
    let is_it = |more: &BTreeMap<String, String>| {
        let has = |key: &str, value: &str| more.get(key).is_some_and(|found| found == value);
        has("k8s.daemonset.name", fault.name) && has("podlens.reason", fault.reason)
    };
    if fault.reason == "not_ready" && name.ends_with("restored") {
        return Some(BTreeMap::new());
    }
    let events = world.collector.received().events(name);
    events.into_iter().map(|(_, more)| more).find(is_it)
}

/// Takes every fault away; gives the longest time from a pod that works to a page that knows.
fn ended(world: &World, faults: &[Fault]) -> Result<Duration> {
    world.kubectl(&["delete", "resourcequota", "--namespace", FULL, "--all"])?;
    world.kubectl(&["label", "namespace", STRICT, "pod-security.kubernetes.io/enforce-"])?;
    for fault in faults {
        let patch = json!([{ "op": "replace", "path": "/spec/template/spec", "value": good() }]).to_string();
        let set = format!("daemonset/{}", fault.name);
        world.kubectl(&["patch", "--namespace", fault.space, &set, "--type=json", "--patch", &patch])?;
    }
    let mut works = BTreeMap::new();
    let mut noticed = BTreeMap::new();
    within(ENDS_WITHIN, || {
        let pods = world.get(&["pods", "--all-namespaces"])?;
        let now = Instant::now();
        let page = leader(world)?;
        for fault in faults {
            let is_its = |pod: &&Value| text(pod, "/metadata/labels/app") == fault.name && is_ready(pod);
            if items(&pods).iter().any(|pod| is_its(&pod)) {
                works.entry(fault.name).or_insert(now);
            }
            match lacking(&page, fault.name).first() {
                None => drop(noticed.entry(fault.name).or_insert_with(Instant::now)),
                // Its old pod makes room for the new one.
                Some(_) => drop(noticed.remove(fault.name)),
            }
        }
        let left: Vec<_> = faults.iter().map(|one| one.name).filter(|name| !noticed.contains_key(name)).collect();
        let idle: Vec<_> = faults.iter().map(|one| one.name).filter(|name| !works.contains_key(name)).collect();
        if left.is_empty() && idle.is_empty() { Ok(()) } else { bail!("{left:?} are not over; {idle:?} do not work") }
    })?;
    let times = faults.iter().filter_map(|fault| {
        Some((fault.name, noticed.get(fault.name)?.saturating_duration_since(*works.get(fault.name)?)))
    });
    let (name, longest) = times.max_by_key(|(_, time)| *time).context("no fault")?;
    if longest > NOTICED {
        bail!("the end of {name} was noticed after {longest:?}");
    }
    Ok(longest)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let is_deleted = pod.pointer("/metadata/deletionTimestamp").is_some();
    let mut ready = conditions.into_iter().flatten().filter(|one| text(one, "/type") == "Ready");
    !is_deleted && ready.any(|one| text(one, "/status") == "True")
}

/// A taint, a label that is just missed, no place for pods, a kubelet that is not ready, and a pod that does not go.
fn on_nodes_of_objects(world: &World) -> Result<String> {
    let node = |name: &str, pool: &str, pods: &str, ready: &str, taints: Value| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": format!("{NODE}{name}"), "labels": { "podlens-check": FLEET, "pool": pool } },
            "spec": { "taints": taints },
            "status": {
                "allocatable": { "cpu": "4", "memory": "4Gi", "pods": pods },
                "capacity": { "cpu": "4", "memory": "4Gi", "pods": pods },
                "conditions": [{ "type": "Ready", "status": ready, "reason": "Kubelet", "message": "container runtime is down" }],
            },
        })
    };
    let taint = json!([{ "key": "gpu", "value": "a", "effect": "NoSchedule" }]);
    let on = |pool: &str, tolerates_all: bool| {
        let tolerations = if tolerates_all { json!([{ "operator": "Exists" }]) } else { json!([]) };
        with(good(), &json!({ "nodeSelector": { "pool": pool }, "tolerations": tolerations }))
    };
    world.apply(&[
        namespace(),
        node("tainted", "tainted", "10", "True", taint),
        node("full", "full", "0", "True", json!([])),
        node("down", "down", "10", "False", json!([])),
        node("leaving", "leaving", "10", "True", json!([])),
        daemon_set(FLEET, "on-tainted", on("tainted", false)),
        daemon_set(FLEET, "on-full", on("full", true)),
        daemon_set(FLEET, "on-down", on("down", true)),
        daemon_set(FLEET, "on-leaving", on("leaving", true)),
    ])?;
    let has = |name: &str, reason: &str| match lacking(&leader(world)?, name) {
        found if found == [reason] => Ok(()),
        found => bail!("{name} lacks its pod for {found:?}, not {reason}"),
    };
    within(NAMED_WITHIN, || {
        let page = leader(world)?;
        for (metric, label, value) in
            [("podlens_fleet_excluded_nodes", "reason", "taint"), ("podlens_fleet_nodes", "state", "just_missed")]
        {
            let (set, least) = if value == "taint" { ("on-tainted", 1.0) } else { ("on-full", 4.0) };
            match sample(&page, metric, &[("daemonset", set), (label, value)]) {
                Some(count) if count >= least => {}
                other => bail!("{metric} of {set} with {value} is {other:?}"),
            }
        }
        has("on-full", "resources")?;
        has("on-down", "node_not_ready")?;
        has("on-leaving", "starting")
    })?;
    world.kubectl(&["delete", "pods", "--namespace", FLEET, "--selector", "app=on-leaving", "--wait=false"])?;
    within(NOTICED, || has("on-leaving", "terminating"))?;
    world.kubectl(&["delete", "daemonset", "--namespace", FLEET, "--all"])?;
    within(NOTICED, || {
        let page = leader(world)?;
        for name in ["on-full", "on-down", "on-leaving"] {
            if let [reason, ..] = &lacking(&page, name)[..] {
                bail!("{name} lacks its pod for {reason} and should have none");
            }
        }
        Ok(())
    })?;
    world.kubectl(&["delete", "nodes", "--selector", "podlens-check=fleet", "--wait=false"])?;
    Ok("a taint, a missed label, a full node, one that is not ready and a pod that does not go".to_owned())
}

/// A registry whose certificate has expired: to the node it is as if its clock were wrong.
fn wrong_clock(world: &World) -> Result<Fault> {
    let address = world.cluster.addresses().on_node(PORT);
    let folder = world.cluster.scratch("expired")?;
    let openssl = |arguments: &[&str]| process::output(Command::new("openssl").current_dir(&folder).args(arguments));
    openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "request", "-subj", "/CN=expired"])?;
    openssl(&["x509", "-req", "-in", "request", "-signkey", "key", "-days", "-1", "-out", "certificate"])?;
    let file = |name: &str| folder.join(name).display().to_string();
    let arguments =
        ["s_server", "-accept", &address.to_string(), "-cert", &file("certificate"), "-key", &file("key"), "-www"];
    world.cluster.start_beside("expired", Path::new("openssl"), &arguments.map(str::to_owned))?;
    // An image's name has no IPv6 address in it.
    let hosts = world.cluster.registry(EXPIRED)?.join("hosts.toml");
    // containerd before 2.0 wants a table of hosts, be it empty.
    fs::write(&hosts, format!("server = \"https://{address}\"\n[host]\n"))
        .context("cannot tell where a registry is")?;
    let image = json!({ "image": format!("{EXPIRED}/none:1"), "imagePullPolicy": "Always" });
    Ok(Fault {
        name: "clock",
        reason: "clock",
        words: "expired or is not yet valid",
        ..fault(of(&["1", "stay"], &image))
    })
}

/// The first by its name counts.
fn broken_network(world: &World) -> PathBuf {
    world.cluster.network_configurations().join("00-broken.conflist")
}

/// Faults that one real node can have.
fn faults() -> Vec<Fault> {
    let stays = ["1", "stay"];
    let bad_image = json!({ "image": "nobody.invalid/none:1", "imagePullPolicy": "Always" });
    let secret = json!({ "env": [{ "name": "X", "valueFrom": { "secretKeyRef": { "name": "none", "key": "k" } } }] });
    let probe = json!({ "readinessProbe": { "tcpSocket": { "port": 9 }, "periodSeconds": 1 } });
    let mount = json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] });
    let volume = json!({ "volumes": [{ "name": "v", "secret": { "secretName": "none" } }] });
    let asks = |resource: &str, amount: &str| json!({ "resources": { "requests": { resource: amount } } });
    let little = json!({ "resources": { "limits": { "memory": "16Mi" } } });
    let named = |name, reason, words, pod| Fault { name, reason, words, ..fault(pod) };
    vec![
        named("bad-image", "image", "nobody.invalid/none:1", of(&stays, &bad_image)),
        named("crashes", "crash_loop", "exit code 3", of(&["1", "exit", "3"], &json!({}))),
        named("eats", "out_of_memory", "OOMKilled", of(&["64", "hog"], &little)),
        named("no-secret", "configuration", "secret \"none\" not found", of(&stays, &secret)),
        named("no-volume", "volume", "secret \"none\" not found", with(of(&stays, &mount), &volume)),
        named("not-ready", "not_ready", "", of(&stays, &probe)),
        named("port-b", "host_port", "held by fleet/port-a", with(good(), &port())),
        named("too-much-cpu", "resources", "cpu: asks for 1000000m", of(&stays, &asks("cpu", "1000"))),
        named("too-much-memory", "resources", "memory: asks for 104857600 MiB", of(&stays, &asks("memory", "100Ti"))),
        named("nobodys", "admission", "service account", with(good(), &json!({ "serviceAccountName": "none" }))),
        Fault {
            space: STRICT,
            ..named("strict", "pod_security", "hostNetwork", with(good(), &json!({ "hostNetwork": true })))
        },
        Fault { space: FULL, ..named("full", "quota", "exceeded quota: none", good()) },
    ]
}

fn fault(pod: Value) -> Fault {
    Fault { space: FLEET, name: "", reason: "", words: "", pod }
}

fn spaces() -> Vec<Value> {
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": STRICT, "labels": labels } }),
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": FULL } }),
        json!({
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": { "name": "none", "namespace": FULL }, "spec": { "hard": { "pods": "0" } },
        }),
    ]
}

/// A pod that works.
fn good() -> Value {
    of(&["1", "stay"], &json!({}))
}

/// A pod of one container with more members.
fn of(words: &[&str], more: &Value) -> Value {
    let app = with(container("app", words, &json!({})), more);
    json!({ "containers": [app], "terminationGracePeriodSeconds": 1 })
}

fn port() -> Value {
    let app = with(
        container("app", &["1", "stay"], &json!({})),
        &json!({ "ports": [{ "containerPort": 80, "hostPort": 31_999 }] }),
    );
    json!({ "containers": [app] })
}
