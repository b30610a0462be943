//! Whether the agent's page has the right names. Called by the checks beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::e2e::{
    names::Name,
    wait::within,
    workloads::{NAMESPACE, STEADY},
    world::{Agent, World},
};

/// Idle containers wake up every 2 s.
pub(super) const NAMED_WITHIN: Duration = Duration::from_secs(30);

/// Waits until the agent names exactly the containers that run.
pub(super) fn same_names(world: &World, agent: &Agent) -> Result<String> {
    within(NAMED_WITHIN, || {
        let living = world.living()?;
        named(world, agent, &living)?;
        Ok(format!("{} containers named as the API server has them", living.len()))
    })
}

/// All of them under their names, and nobody else.
pub(super) fn named(world: &World, agent: &Agent, living: &BTreeSet<Name>) -> Result<()> {
    let uids = world.pod_uids()?;
    let is_ours =
        |name: &Name| !name.container.is_empty() && (!name.namespace.is_empty() || uids.contains_key(&name.pod));
    let seen: BTreeSet<Name> = agent.page()?.into_keys().filter(is_ours).collect();
    let list = |names: Vec<&Name>| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let missing: Vec<&Name> = living.difference(&seen).collect();
    let foreign: Vec<&Name> = seen.difference(living).collect();
    if !missing.is_empty() || !foreign.is_empty() {
        bail!("missing are {}; nobody's names are {}", list(missing), list(foreign));
    }
    steady(&agent.page()?).map(drop)
}

/// The one value of the pod that always runs.
pub(super) fn steady(page: &BTreeMap<Name, f64>) -> Result<f64> {
    let name = Name::new(NAMESPACE, STEADY, "app");
    page.get(&name).copied().with_context(|| format!("the page has no {name}"))
}
