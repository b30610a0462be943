//! The replicas of `podlens fleet`, by their pages. Called by the checks.

use std::net::SocketAddr;

use anyhow::{Context, Error, Result};
use testkit::{http, page::Page};

use super::world::{PORT, RELEASE, World, items, text};

/// Where replicas serve that are not about to end.
pub(super) fn addresses(world: &World) -> Result<Vec<SocketAddr>> {
    let selector = format!("app.kubernetes.io/name=podlens-fleet,app.kubernetes.io/instance={RELEASE}");
    let pods = world.get(&["pods", "--namespace", RELEASE, "--selector", &selector])?;
    let staying = items(&pods).iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
    Ok(staying.filter_map(|pod| Some(SocketAddr::new(text(pod, "/status/podIP").parse().ok()?, PORT))).collect())
}

/// The pages of all replicas that answer.
pub(super) fn pages(world: &World) -> Result<Vec<Page>> {
    let answers = addresses(world)?.into_iter().filter_map(|address| http::get(address, "/metrics").ok());
    let pages = answers.filter(|(code, _)| *code == 200).map(|(_, page)| Page::read(&page).map_err(Error::msg));
    pages.collect()
}

/// The page of the replica that leads.
pub(super) fn leader(world: &World) -> Result<Page> {
    let leads = |page: &Page| sample(page, "podlens_fleet_leader", &[]) == Some(1.0);
    pages(world)?.into_iter().find(leads).context("no replica leads")
}

/// The value of the first sample with these labels.
pub(super) fn sample(page: &Page, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    page.all(name, labels).first()?.text.parse().ok()
}

/// Why its nodes lack the pod of a `DaemonSet`.
pub(super) fn lacking(page: &Page, name: &str) -> Vec<String> {
    let samples = page.all("podlens_fleet_lacking_since_timestamp_seconds", &[("daemonset", name)]);
    samples.into_iter().map(|sample| sample.label("reason").to_owned()).collect()
}

/// The state of a roll-out; empty while nothing is told of it.
pub(super) fn rollout(page: &Page, name: &str) -> String {
    let is_in = |state: &&str| {
        sample(page, "podlens_fleet_rollout_state", &[("daemonset", name), ("state", state)]) == Some(1.0)
    };
    ["settled", "rolling", "stuck", "paused"].into_iter().find(is_in).unwrap_or_default().to_owned()
}
