//! Names and amounts of every kind of pod, by both observers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::names::same_names;
use crate::e2e::{
    collector::Told,
    names::{Name, disagreements, total},
    prometheus::Series,
    truth::unread,
    wait::within,
    workloads::{ALL, Expected, NAMESPACE, STEADY, objects, pod},
    world::{RELEASE, World},
};

/// The first tick of a `CronJob` is up to a minute away, the third start of a container that fails 30 s.
const LOADS_WITHIN: Duration = Duration::from_mins(2);
/// Exporters and observers work every one or two seconds.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn every_kind(world: &mut World) -> Result<String> {
    world.apply(&objects())?;
    let fixed = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "fixed", "namespace": NAMESPACE },
        "spec": pod("fixed", &["350", "stay"]).get("spec"),
    });
    fs::write(world.cluster.static_pods().join("fixed.yaml"), fixed.to_string())
        .context("cannot write a static pod")?;
    // Its next start is 20 s away: one between its last log and its removal would be in nobody's truth.
    within(LOADS_WITHIN, || {
        let mut of_crash = ALL.iter().filter(|expected| expected.pod == "crash");
        of_crash.find_map(|expected| lacking(world, expected)).map_or(Ok(()), |what| bail!("{what}"))
    })?;
    world.kubectl(&["delete", "pod", "--namespace", NAMESPACE, "crash"])?;
    // Its first life is over before its second begins, under the same name.
    let again = Name::new(NAMESPACE, "again", "app");
    within(LOADS_WITHIN, || {
        if world.truth.by_name().contains_key(&again) { Ok(()) } else { bail!("{again} has not finished its load") }
    })?;
    world.kubectl(&["delete", "pod", "--namespace", NAMESPACE, "again"])?;
    world.apply(&[pod("again", &["500", "stay"])])?;
    within(LOADS_WITHIN, || match ALL.iter().find_map(|expected| lacking(world, expected)) {
        None => Ok(()),
        Some(what) => bail!("{what}"),
    })?;
    // From here on no new container comes.
    world.kubectl(&[
        "patch",
        "cronjob",
        "--namespace",
        NAMESPACE,
        "tick",
        "--patch",
        "{\"spec\":{\"suspend\":true}}",
    ])?;
    settled(world)?;
    let workloads = workloads(world)?;
    // And none ends any more: a last job may just have begun.
    same_names(world, &world.agent()?)?;
    let runs = world.truth.runs().len();
    Ok(format!("{runs} runs of {} containers, {workloads} pods", world.truth.by_name().len()))
}

pub(super) fn short_job(world: &mut World) -> Result<String> {
    let truth = world.truth.by_name();
    let (name, used) = truth
        .iter()
        .find(|(name, _)| name.pod.starts_with("short-"))
        .context("the job `short` has left no log: the check `workloads` makes it")?;
    let seen = prometheus(world)?.remove(name).with_context(|| format!("Prometheus has nothing of {name}"))?;
    let received = world.collector.received().by_name().remove(name);
    let received = received.with_context(|| format!("the collector has nothing of {name}"))?;
    for told in [seen, received] {
        if (told - used).abs() > 0.006 {
            bail!("{told:.4} s were told of {name}, which used {used:.4} s");
        }
    }
    Ok(format!("{:.1} ms, told {:.1} and {:.1} ms", used * 1e3, seen * 1e3, received * 1e3))
}

/// Waits until both observers agree with the truth in every name and value.
pub(super) fn settled(world: &mut World) -> Result<()> {
    within(SEEN_WITHIN, || {
        let truth = world.truth.by_name();
        // Their amounts are not known: no load of these checks.
        let untold: BTreeSet<Name> = [Name::new(NAMESPACE, STEADY, "app")].into();
        let ours = |seen: BTreeMap<Name, f64>| {
            let is_ours = |name: &Name| name.namespace != RELEASE && !is_named_by_id(name);
            seen.into_iter().filter(|(name, _)| is_ours(name)).collect::<BTreeMap<_, _>>()
        };
        let seen = prometheus(world)?;
        // Where a value that is missing may be instead.
        let beside = seen.iter().filter(|(name, _)| name.namespace == NAMESPACE && !truth.contains_key(name));
        let beside = beside.map(|(name, seconds)| format!("{name} {seconds:.3} s")).collect::<Vec<_>>().join(", ");
        let mut wrong = disagreements("Prometheus", &truth, &ours(seen), &untold);
        wrong.extend(disagreements("the collector", &truth, &ours(world.collector.received().by_name()), &untold));
        let runs = world.truth.runs();
        let unread =
            unread(&runs).into_iter().map(|run| format!("no log tells what run {} of {} used", run.restarts, run.name));
        wrong.extend(unread);
        // On a machine that others use as well, there may be pods of theirs, which nobody names.
        let uids: BTreeSet<&str> = runs.keys().map(|run| run.pod_uid.as_str()).collect();
        let nameless = world.prometheus.now("podlens_cpu_seconds_total{pod!=\"\"}")?;
        let nameless =
            nameless.iter().map(Series::name).filter(|name| uids.contains(&*name.pod) || is_named_by_id(name));
        wrong.extend(nameless.map(|name| format!("{name} is still without its name")));
        if wrong.is_empty() { Ok(()) } else { bail!("{}; beside them Prometheus has {beside}", wrong.join("; ")) }
    })
}

/// A container's id stands for its name for a moment, since its pod's name is known before.
fn is_named_by_id(name: &Name) -> bool {
    name.namespace == NAMESPACE
        && name.container.len() == 12
        && name.container.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// CPU seconds by name over the whole run; what was exported before its name was known is in its later values.
fn prometheus(world: &World) -> Result<BTreeMap<Name, f64>> {
    let mut sums = BTreeMap::new();
    for series in world.prometheus.history("podlens_cpu_seconds_total{namespace!=\"\"}")? {
        *sums.entry(series.name()).or_default() += total(&series.samples);
    }
    Ok(sums)
}

/// What of an expected load is not finished.
fn lacking(world: &World, expected: &Expected) -> Option<String> {
    let runs: Vec<_> = world.truth.runs().into_keys().filter(|run| expected.is(&run.name.pod)).collect();
    let pods: BTreeSet<&str> = runs.iter().map(|run| run.name.pod.as_str()).collect();
    if pods.len() < expected.pods {
        return Some(format!("{} pods {} have finished a load, not {}", pods.len(), expected.pod, expected.pods));
    }
    expected.containers.iter().find_map(|&(container, wanted)| {
        let found = runs.iter().filter(|run| run.name.container == container).count();
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).saturating_mul(expected.pods);
        (found < wanted).then(|| format!("{found} runs of {}/{container}, not {wanted}", expected.pod))
    })
}

/// Compares what is told of pods beside their names; returns how many there are.
fn workloads(world: &World) -> Result<usize> {
    let mut wrong = Vec::new();
    let mut pods: BTreeSet<(String, String)> =
        world.truth.runs().into_keys().map(|run| (run.name.pod, run.pod_uid)).collect();
    let count = pods.len();
    for series in world.prometheus.last(&format!("podlens_pod_info{{namespace=\"{NAMESPACE}\"}}"))? {
        let pod = series.label("pod");
        let Some(expected) = ALL.iter().find(|expected| expected.is(pod)) else { continue };
        let workload = if expected.workload.is_empty() { expected.pod } else { expected.workload };
        let told = (series.label("workload"), series.label("workload_type"), series.label("qos").to_lowercase());
        if told != (workload, expected.workload_type, expected.qos.to_owned()) {
            wrong.push(format!("Prometheus has {pod} as {told:?}"));
        }
        pods.retain(|(name, _)| name != pod);
    }
    wrong.extend(pods.iter().map(|(pod, _)| format!("Prometheus has no podlens_pod_info of {pod}")));
    let received = world.collector.received();
    for told in received.told().values() {
        for name in told.names.iter().filter(|name| name.namespace == NAMESPACE) {
            let Some(expected) = ALL.iter().find(|expected| expected.is(&name.pod)) else { continue };
            wrong.extend(wrong_workload(name, told, expected));
        }
    }
    if wrong.is_empty() { Ok(count) } else { bail!("{}", wrong.join("; ")) }
}

/// What is wrong with the attributes of a container's workload.
fn wrong_workload(name: &Name, told: &Told, expected: &Expected) -> Option<String> {
    let key = format!("k8s.{}.name", expected.workload_type);
    // The conventions have no attribute for static and bare pods.
    let wanted: BTreeSet<(String, String)> = match expected.workload {
        "" => BTreeSet::new(),
        workload => [(key, workload.to_owned())].into(),
    };
    let several = told.names.len() > 1;
    (several || told.workloads != wanted)
        .then(|| format!("the collector has {name} as {:?} with {:?}", told.names, told.workloads))
}
