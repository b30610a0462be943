//! Where names come from: what each source costs and whether all of them say the same.

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    names::{NAMED_WITHIN, named, same_names},
    outage::restarted_in_outage,
};
use crate::e2e::{
    wait::within,
    world::{RELEASE, World, text},
};

pub(super) fn api_load(world: &mut World) -> Result<String> {
    let user = format!("system:serviceaccount:{RELEASE}:{RELEASE}");
    let (mut lists, mut watches) = (0, 0);
    for event in audited(world)?.iter().filter(|event| text(event, "/user/username") == user) {
        let (verb, uri) = (text(event, "/verb"), text(event, "/requestURI"));
        let of_node = uri.starts_with("/api/v1/pods?") && uri.contains("fieldSelector=spec.nodeName%3Dpodlens-node");
        match (verb, text(event, "/stage")) {
            ("list", "ResponseComplete") if of_node => lists += 1,
            ("watch", "ResponseStarted") if of_node => watches += 1,
            ("watch", "ResponseComplete") if of_node => {}
            _ => bail!("the agent asked the API server to {verb} {uri}"),
        }
    }
    // The server ends a watch after 5 minutes, which these checks have not run for.
    if (lists, watches) != (1, 1) {
        bail!("the agent made {lists} lists and {watches} watches");
    }
    Ok("one list, one watch, by the API server's audit log".into())
}

fn audited(world: &World) -> Result<Vec<Value>> {
    let path = world.cluster.audit_log();
    let log = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    log.lines().map(|line| serde_json::from_str(line).context("cannot read the audit log")).collect()
}

pub(super) fn bundles(world: &mut World) -> Result<String> {
    let old = world.agent()?;
    world.install(&json!({ "names": { "source": "bundle", "bundles": { "enabled": true } } }), true)?;
    let agent = world.next_agent(&old.uid)?;
    let roles = world.kubectl(&["get", "clusterroles,clusterrolebindings", "--output=name"])?;
    if roles.lines().any(|role| role.ends_with("/podlens")) {
        bail!("a source that asks nobody was given a role");
    }
    let pod = world.get(&["pod", "--namespace", RELEASE, &agent.pod])?;
    if pod.to_string().contains("serviceAccountToken") {
        bail!("a source that asks nobody was given a token");
    }
    same_names(world, &agent)
}

pub(super) fn bundles_in_outage(world: &mut World) -> Result<String> {
    let old = world.agent()?;
    world.install(&json!({ "names": { "bundles": { "enabled": true } } }), true)?;
    let agent = world.next_agent(&old.uid)?;
    same_names(world, &agent)?;
    let living = world.living()?;
    restarted_in_outage(world, &agent, |world, agent| within(NAMED_WITHIN, || named(world, agent, &living)))?;
    let agent = world.agent()?;
    same_names(world, &agent)
}

pub(super) fn kubelet(world: &mut World) -> Result<String> {
    let old = world.agent()?;
    world.install(&json!({ "names": { "source": "kubelet" } }), true)?;
    let agent = world.next_agent(&old.uid)?;
    let role = world.get(&["clusterrole", RELEASE])?;
    let rules = role.get("rules").cloned().unwrap_or_default();
    if rules != json!([{ "apiGroups": [""], "resources": ["nodes/pods"], "verbs": ["get"] }]) {
        bail!("the kubelet as the source was given {rules}");
    }
    same_names(world, &agent)
}
