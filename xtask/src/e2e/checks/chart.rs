//! Installation, test, upgrade and removal by helm.

use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::e2e::{
    names::Name,
    wait::within,
    workloads::{NAMESPACE, STEADY},
    world::{PORT, RELEASE, World},
};

/// The agents' programs, as the kernel shortens their names.
const PROGRAM: &str = "_sched_switch";

pub(super) fn install(world: &mut World) -> Result<String> {
    world.install(&json!({}), true)?;
    let agent = world.agent()?;
    let (code, body) = agent.ask("/readyz")?;
    if code != 200 {
        bail!("helm says that the agent is ready; it answers {code}: {body}");
    }
    Ok(body.lines().next().unwrap_or_default().to_owned())
}

pub(super) fn pushes_to_its_node(world: &mut World) -> Result<String> {
    const VARIABLE: &str = "HOST_IP";
    let steady = Name::new(NAMESPACE, STEADY, "app");
    let old = world.agent()?;
    let before = world.collector.received().starts(&steady);
    let variables = json!([
        { "name": VARIABLE, "valueFrom": { "fieldRef": { "fieldPath": "status.hostIP" } } },
        { "name": "PODLENS_OTLP_ENDPOINT", "value": world.collector.endpoint_at(VARIABLE) },
    ]);
    world.install(&json!({ "otlp": { "endpoint": "" }, "extraEnv": variables }), true)?;
    world.next_agent(&old.uid)?;
    within(Duration::from_secs(30), || match world.collector.received().starts(&steady) {
        after if after > before => Ok(()),
        _ => bail!("the agent has pushed nothing of {steady} since its start"),
    })?;
    Ok(format!("{} is {}", world.collector.endpoint_at(VARIABLE), world.collector.endpoint()))
}

pub(super) fn helm_test(world: &mut World) -> Result<String> {
    // Whatever the checks before have left.
    world.install(&json!({}), true)?;
    let agent = within(Duration::from_secs(30), || world.agent())?;
    let nobody = format!("http://{}", SocketAddr::new(world.cluster.addresses().loopback, PORT));
    world.install(&json!({ "tests": { "url": nobody } }), true)?;
    if world.helm(&["test", RELEASE, "--timeout", "60s"]).is_ok() {
        bail!("helm test passes where no agent is");
    }
    // The cluster has no name server, so the Service's name would not do.
    world.install(&json!({ "tests": { "url": agent.url() } }), true)?;
    if world.agent()?.uid != agent.uid {
        bail!("a value of the test alone has made helm restart the agent");
    }
    // It takes the place of the failed test's pod, which helm leaves for its log, and goes.
    world.helm(&["test", RELEASE, "--timeout", "60s"])?;
    // A changed value of the agent's own does restart it.
    world.install(&json!({ "config": { "log": { "level": "debug" } } }), true)?;
    world.next_agent(&agent.uid)?;
    Ok("passes against the agent, fails against nobody; an upgrade rolls".into())
}

pub(super) fn uninstall(world: &mut World) -> Result<String> {
    world.helm(&["uninstall", RELEASE, "--wait", "--timeout", "60s"])?;
    within(Duration::from_secs(30), || {
        let kinds = world.kubectl(&["api-resources", "--verbs=list", "--output=name"])?;
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let selector = format!("app.kubernetes.io/instance={RELEASE}");
        let left = ["get", &kinds.join(","), "--all-namespaces", "--selector", &selector, "--output=name"];
        let left = world.kubectl(&left)?;
        // What kube-controller-manager makes of the Service goes with it, a moment later.
        if !left.trim().is_empty() {
            bail!("helm has left {}", left.trim().replace('\n', ", "));
        }
        Ok(())
    })?;
    within(Duration::from_secs(20), || {
        let (loaded, held) = (loaded()?, held()?);
        if loaded > held.len() {
            bail!("the kernel has {loaded} programs {PROGRAM}, living processes hold {}", held.len());
        }
        Ok(())
    })?;
    Ok("no object with the release's label, no program without a process".into())
}

/// Programs of the name in the kernel's list of symbols.
fn loaded() -> Result<usize> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("cannot read the kernel's symbols")?;
    let is_ours = |line: &&str| {
        line.split_whitespace().nth(2).is_some_and(|name| name.starts_with("bpf_prog_") && name.ends_with(PROGRAM))
    };
    Ok(symbols.lines().filter(is_ours).count())
}

/// Ids of programs that some process has open, itself or by a link.
fn held() -> Result<BTreeSet<u64>> {
    let mut ids = BTreeSet::new();
    for process in fs::read_dir("/proc").context("cannot list processes")?.flatten() {
        for file in fs::read_dir(process.path().join("fdinfo")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            ids.extend(text.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u64>().ok()));
        }
    }
    Ok(ids)
}
