//! `podlens fleet --once` beside the real controller of `DaemonSets`, on nodes that are but objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    agent::{self, Form},
    e2e::{
        wait::within,
        workloads::{container, daemon_set},
        world::{World, items, text},
    },
};

/// Of all objects of these checks.
pub(super) const FLEET: &str = "fleet";
/// How the names of nodes begin that are but objects.
pub(super) const NODE: &str = "none-";
const NODES: u64 = 20;
const DAEMON_SETS: u64 = 20;
/// The controller makes pods in growing batches, and the node's controller adds taints to nodes that never report.
const AGREES_WITHIN: Duration = Duration::from_secs(90);

/// Nodes that lack a pod that works, with the reasons, by the name of the `DaemonSet`.
type Lacking = BTreeMap<String, BTreeMap<String, String>>;

pub(super) fn placement(world: &mut World) -> Result<String> {
    let mut chance = Chance(20_261_128);
    let mut objects = vec![namespace()];
    objects.extend((0..NODES).map(|number| random_node(number, &mut chance)));
    objects.extend(
        (0..DAEMON_SETS).map(|number| daemon_set(FLEET, &format!("any-{number}"), random_template(&mut chance))),
    );
    world.apply(&objects)?;
    let compared = within(AGREES_WITHIN, || {
        let made = made(world)?;
        let told = lacking(world)?;
        for number in 0..DAEMON_SETS {
            let name = format!("any-{number}");
            let wanted: BTreeSet<&String> = told.get(&name).map(|nodes| nodes.keys().collect()).unwrap_or_default();
            // On the real node they come to work.
            let made = made.get(&name).into_iter().flatten().filter(|node| node.starts_with(NODE));
            let made: BTreeSet<&String> = made.collect();
            let wanted: BTreeSet<&String> = wanted.into_iter().filter(|node| node.starts_with(NODE)).collect();
            if wanted != made {
                bail!("{name}: podlens wants {wanted:?}, the controller has made {made:?}");
            }
        }
        let pairs: usize = told.values().map(BTreeMap::len).sum();
        if pairs < 20 {
            bail!("only {pairs} pods are wanted: the choice is too narrow to show anything");
        }
        Ok(pairs)
    });
    let gone = clean(world, &[FLEET]);
    let pairs = compared?;
    gone?;
    Ok(format!("{} pairs of node and DaemonSet, {pairs} of them wanted", NODES * DAEMON_SETS))
}

/// What `podlens fleet --once` tells of all lacks of a namespace, in words.
pub(super) fn details(world: &World, namespace: &str) -> Result<Vec<String>> {
    let mut details = Vec::new();
    each_lack(world, |set, lack| {
        if text(set, "/namespace") == namespace {
            details.push(text(lack, "/detail").to_owned());
        }
    })?;
    Ok(details)
}

fn lacking(world: &World) -> Result<Lacking> {
    let mut all = Lacking::new();
    each_lack(world, |set, lack| {
        if text(set, "/namespace").starts_with(FLEET) {
            let nodes = all.entry(text(set, "/name").to_owned()).or_default();
            nodes.insert(text(lack, "/node").to_owned(), text(lack, "/reason").to_owned());
        }
    })?;
    Ok(all)
}

/// Each `DaemonSet` with each of its lacks by `podlens fleet --once`.
fn each_lack(world: &World, mut each: impl FnMut(&Value, &Value)) -> Result<()> {
    let program = agent::place(Form { release: true, static_binary: true })?;
    let output = Command::new(&program)
        .args(["fleet", "--once", "--output", "json", "--kubeconfig"])
        .arg(world.cluster.kubeconfig())
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .with_context(|| {
            format!("cannot start {}; make it with cargo xtask build --release --static", program.display())
        })?;
    let told: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("podlens fleet says {}", String::from_utf8_lossy(&output.stderr)))?;
    for set in told.get("daemonsets").and_then(Value::as_array).into_iter().flatten() {
        for lack in set.get("lacking").and_then(Value::as_array).into_iter().flatten() {
            each(set, lack);
        }
    }
    Ok(())
}

/// The nodes for which the controller has made pods, by the name of the `DaemonSet`.
fn made(world: &World) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut made = BTreeMap::<String, BTreeSet<String>>::new();
    for pod in items(&world.get(&["pods", "--namespace", FLEET])?) {
        let wanted = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
        let node = match text(pod, "/spec/nodeName") {
            "" => text(pod, wanted),
            node => node,
        };
        made.entry(text(pod, "/metadata/ownerReferences/0/name").to_owned()).or_default().insert(node.to_owned());
    }
    Ok(made)
}

/// Removes everything in these namespaces and nodes that are but objects, pods on nodes without a kubelet by force.
pub(super) fn clean(world: &World, spaces: &[&str]) -> Result<()> {
    let force = ["--ignore-not-found", "--wait=false"];
    for space in spaces {
        world.kubectl(&[&["delete", "daemonset", "--all", "--namespace", space][..], &force].concat())?;
        world.kubectl(&["delete", "pods", "--all", "--namespace", space, "--force", "--grace-period=0"])?;
        world.kubectl(&[&["delete", "namespace", space][..], &force].concat())?;
    }
    world.kubectl(&[&["delete", "nodes", "--selector", "podlens-check=fleet"][..], &force].concat())?;
    within(Duration::from_mins(1), || {
        let left = world.get(&["nodes,namespaces"])?;
        let names: Vec<&str> = items(&left).iter().map(|one| text(one, "/metadata/name")).collect();
        let ours: Vec<&&str> = names.iter().filter(|name| name.starts_with(NODE) || spaces.contains(name)).collect();
        if ours.is_empty() { Ok(()) } else { bail!("{ours:?} are still there") }
    })
}

pub(super) fn namespace() -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": FLEET } })
}

/// A small generator of numbers, the same in each run, so that a failure can be looked at again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are the better ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_of(&mut self, many: &[&'static str]) -> &'static str {
        let at = self.below(many.len() as u64);
        usize::try_from(at).ok().and_then(|at| many.get(at)).copied().unwrap_or_default()
    }
}

fn random_node(number: u64, chance: &mut Chance) -> Value {
    let mut labels = json!({ "podlens-check": FLEET, "pool": chance.one_of(&["a", "b", "c"]) });
    if let Some(labels) = labels.as_object_mut().filter(|_| chance.below(2) == 0) {
        labels.insert("cores".to_owned(), json!(chance.one_of(&["4", "8", "16", "many"])));
    }
    let taint = |key: &str, value: &str, effect: &str| json!({ "key": key, "value": value, "effect": effect });
    let mut taints = Vec::new();
    for key in ["k", "l"] {
        if chance.below(4) == 0 {
            let effect = chance.one_of(&["NoSchedule", "NoExecute", "PreferNoSchedule"]);
            taints.push(taint(key, chance.one_of(&["", "v"]), effect));
        }
    }
    if chance.below(6) == 0 {
        taints.push(taint("node.kubernetes.io/network-unavailable", "", "NoSchedule"));
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": format!("{NODE}{number}"), "labels": labels },
        "spec": { "taints": taints, "unschedulable": chance.below(4) == 0 },
    })
}

fn random_template(chance: &mut Chance) -> Value {
    let mut tolerations = Vec::new();
    // Nodes without a kubelet get this taint in a minute, which would leave little to compare.
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if chance.below(8) > 0 {
            tolerations.push(json!({ "key": key, "operator": "Exists" }));
        }
    }
    if chance.below(3) == 0 {
        let (key, operator) = (chance.one_of(&["k", "l"]), chance.one_of(&["Exists", "Equal"]));
        let value = if operator == "Equal" { chance.one_of(&["", "v", "w"]) } else { "" };
        let effect = chance.one_of(&["", "NoSchedule", "NoExecute"]);
        tolerations.push(json!({ "key": key, "operator": operator, "value": value, "effect": effect }));
    }
    if chance.below(8) == 0 {
        tolerations.push(json!({ "operator": "Exists" }));
    }
    let mut spec = json!({
        "containers": [container("app", &["1", "stay"], &json!({}))],
        "terminationGracePeriodSeconds": 1,
        "hostNetwork": chance.below(3) == 0,
        "tolerations": tolerations,
    });
    let Some(members) = spec.as_object_mut() else { return spec };
    if chance.below(4) == 0 {
        members.insert("nodeSelector".to_owned(), json!({ "pool": chance.one_of(&["a", "b"]) }));
    }
    if chance.below(2) == 0 {
        let terms: Vec<Value> = (0..=chance.below(2)).map(|_| random_term(chance)).collect();
        let required = json!({ "nodeSelectorTerms": terms });
        let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required } });
        members.insert("affinity".to_owned(), affinity);
    }
    spec
}

fn random_term(chance: &mut Chance) -> Value {
    let requirement = |chance: &mut Chance| {
        let operator = chance.one_of(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]);
        let key = if matches!(operator, "Gt" | "Lt") { "cores" } else { chance.one_of(&["pool", "cores"]) };
        let values = match operator {
            "Gt" | "Lt" => vec![chance.one_of(&["4", "8"])],
            "Exists" | "DoesNotExist" => Vec::new(),
            _ => vec![chance.one_of(&["a", "8"]), chance.one_of(&["b", "16"])],
        };
        json!({ "key": key, "operator": operator, "values": values })
    };
    if chance.below(6) == 0 {
        let operator = chance.one_of(&["In", "NotIn"]);
        return json!({ "matchFields": [{ "key": "metadata.name", "operator": operator, "values": [format!("{NODE}3")] }] });
    }
    let requirements: Vec<Value> = (0..=chance.below(2)).map(|_| requirement(chance)).collect();
    json!({ "matchExpressions": requirements })
}
