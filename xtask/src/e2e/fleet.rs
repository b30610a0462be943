//! The replicas of `podlens fleet`, by their pages. Called by the checks.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use testkit::http;

use super::{
    names::labels,
    world::{PORT, RELEASE, World, items, text},
};

/// Where replicas serve that are not about to end.
pub(super) fn addresses(world: &World) -> Result<Vec<SocketAddr>> {
    let selector = format!("app.kubernetes.io/name=podlens-fleet,app.kubernetes.io/instance={RELEASE}");
    let pods = world.get(&["pods", "--namespace", RELEASE, "--selector", &selector])?;
    let staying = items(&pods).iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
    Ok(staying.filter_map(|pod| Some(SocketAddr::new(text(pod, "/status/podIP").parse().ok()?, PORT))).collect())
}

/// The pages of all replicas that answer.
pub(super) fn pages(world: &World) -> Result<Vec<String>> {
    let answers = addresses(world)?.into_iter().filter_map(|address| http::get(address, "/metrics").ok());
    Ok(answers.filter(|(code, _)| *code == 200).map(|(_, page)| page).collect())
}

/// The page of the replica that leads.
pub(super) fn leader(world: &World) -> Result<String> {
    let leads = |page: &String| sample(page, "podlens_fleet_leader", &[]) == Some(1.0);
    pages(world)?.into_iter().find(leads).context("no replica leads")
}

/// The value of the first sample with these labels.
pub(super) fn sample(page: &str, name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let has = |line: &&str| {
        let rest = line.strip_prefix(name);
        let found = labels(line);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && wanted.iter().all(|(label, value)| found.get(*label).is_some_and(|found| found == value))
    };
    page.lines().find(has)?.rsplit(' ').next()?.parse().ok()
}

/// Why its nodes lack the pod of a `DaemonSet`.
pub(super) fn lacking(page: &str, name: &str) -> Vec<String> {
    let lines = page.lines().filter(|line| line.starts_with("podlens_fleet_lacking_since_timestamp_seconds{"));
    let mut reasons = Vec::new();
    for line in lines {
        let found = labels(line);
        if found.get("daemonset").is_some_and(|found| found == name) {
            reasons.extend(found.get("reason").cloned());
        }
    }
    reasons
}

/// The state of a roll-out; empty while nothing is told of it.
pub(super) fn rollout(page: &str, name: &str) -> String {
    let is_in = |state: &&str| {
        sample(page, "podlens_fleet_rollout_state", &[("daemonset", name), ("state", state)]) == Some(1.0)
    };
    ["settled", "rolling", "stuck", "paused"].into_iter().find(is_in).unwrap_or_default().to_owned()
}
