//! `podlens fleet` as the chart's Deployment: how soon it tells why, how soon it notices an end, and roll-outs.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, bail};
use serde_json::{Value, json};
use testkit::http;

use crate::e2e::{
    names::labels,
    wait::within,
    workloads::{container, daemon_set},
    world::{BURN_IMAGE, PORT, RELEASE, World, items, text},
};

/// Of all objects of these checks.
const SPACE: &str = "fleet-watched";
/// From nothing to the first reason.
const FIRST_WHY: Duration = Duration::from_mins(2);
/// An end is noticed within it.
const NOTICED: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_mins(1);
const NO_IMAGE: &str = "nobody.invalid/none:1";

/// Installs the chart anew with the fleet, beside a fault that is there already.
pub(super) fn first_why(world: &mut World) -> Result<String> {
    world.apply(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SPACE } }),
        with_image("faulty", NO_IMAGE, &json!({ "type": "RollingUpdate" })),
    ])?;
    world.helm(&["uninstall", RELEASE, "--wait", "--timeout", "60s", "--ignore-not-found"])?;
    let started = Instant::now();
    world.install(&json!({ "fleet": { "enabled": true } }), false)?;
    within(FIRST_WHY, || match lacking(&leader(world)?, "faulty") {
        reasons if reasons == ["image"] => Ok(()),
        reasons => bail!("faulty lacks its pod for {reasons:?}"),
    })?;
    let first = started.elapsed();
    if first > FIRST_WHY {
        bail!("the first reason took {first:?}");
    }
    // The one that does not lead tells nothing.
    let pages = within(LIMIT, || match pages(world)? {
        pages if pages.len() == 2 => Ok(pages),
        pages => bail!("{} replicas answer", pages.len()),
    })?;
    let telling = pages.iter().filter(|page| page.contains("podlens_fleet_nodes{")).count();
    if telling != 1 {
        bail!("{telling} of two replicas tell");
    }
    // The end, counted from when the API server shows a pod that works.
    set_image(world, "faulty", BURN_IMAGE)?;
    let works = within(LIMIT, || if works(world, "faulty")? { Ok(Instant::now()) } else { bail!("no pod works") })?;
    within(NOTICED, || match lacking(&leader(world)?, "faulty") {
        reasons if reasons.is_empty() => Ok(()),
        reasons => bail!("faulty still lacks its pod for {reasons:?}"),
    })?;
    Ok(format!("first reason after {:.0} s, its end after {:.1} s", first.as_secs_f64(), works.elapsed().as_secs_f64()))
}

/// One roll-out that rolls, one that a bad image holds up, and one that waits for somebody.
pub(super) fn roll_outs(world: &mut World) -> Result<String> {
    let surge = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
    let told = (|| {
        world.apply(&[
            with_image("surges", BURN_IMAGE, &surge),
            with_image("waits", BURN_IMAGE, &json!({ "type": "OnDelete" })),
        ])?;
        becomes(world, "surges", "settled")?;
        becomes(world, "waits", "settled")?;
        world.kubectl(&["set", "env", "--namespace", SPACE, "daemonset/surges", "daemonset/waits", "A=b"])?;
        becomes(world, "waits", "paused")?;
        let mut seen = Vec::new();
        within(LIMIT, || {
            seen.push(rollout(&leader(world)?, "surges"));
            let pods = world.get(&["pods", "--namespace", SPACE, "--selector", "app=surges"])?;
            let has_new = items(&pods).len() == 1 && pods.to_string().contains("\"name\":\"A\"");
            if has_new && seen.last().is_some_and(|state| state == "settled") {
                Ok(())
            } else {
                bail!("surges is {seen:?}")
            }
        })?;
        if seen.iter().any(|state| state == "stuck") {
            bail!("a roll-out that rolls is told to be stuck: {seen:?}");
        }
        world.kubectl(&["delete", "pods", "--namespace", SPACE, "--selector", "app=waits", "--wait=false"])?;
        becomes(world, "waits", "settled")?;
        set_image(world, "surges", NO_IMAGE)?;
        becomes(world, "surges", "stuck")?;
        // The old pod works all the while.
        if let reasons @ [_, ..] = &lacking(&leader(world)?, "surges")[..] {
            bail!("surges lacks its pod for {reasons:?}");
        }
        world.kubectl(&["rollout", "undo", "--namespace", SPACE, "daemonset/surges"])?;
        becomes(world, "surges", "settled")?;
        let page = leader(world)?;
        match sample(&page, "podlens_fleet_rolled_back", &[("daemonset", "surges")]) {
            Some(1.0) => Ok("settled, rolling, stuck by an image, rolled back, paused".to_owned()),
            other => bail!("podlens_fleet_rolled_back of surges is {other:?}"),
        }
    })();
    world.kubectl(&["delete", "namespace", SPACE, "--wait=false"])?;
    told
}

fn with_image(name: &str, image: &str, strategy: &Value) -> Value {
    let mut app = container("app", &["1", "stay"], &json!({}));
    for (member, value) in [("image", image), ("imagePullPolicy", "IfNotPresent")] {
        if let Some(app) = app.as_object_mut() {
            app.insert(member.to_owned(), json!(value));
        }
    }
    let mut set = daemon_set(SPACE, name, json!({ "containers": [app], "terminationGracePeriodSeconds": 1 }));
    if let Some(spec) = set.pointer_mut("/spec").and_then(Value::as_object_mut) {
        spec.insert("updateStrategy".to_owned(), strategy.clone());
    }
    set
}

fn set_image(world: &World, name: &str, image: &str) -> Result<()> {
    let (set, image) = (format!("daemonset/{name}"), format!("app={image}"));
    world.kubectl(&["set", "image", "--namespace", SPACE, &set, &image]).map(drop)
}

/// Its newest pod works, as the API server has it.
fn works(world: &World, name: &str) -> Result<bool> {
    let pods = world.get(&["pods", "--namespace", SPACE, "--selector", &format!("app={name}")])?;
    let is_ready = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|one| (text(one, "/type"), text(one, "/status")) == ("Ready", "True"))
    };
    Ok(items(&pods).iter().any(is_ready))
}

/// The pages of all replicas that answer.
fn pages(world: &World) -> Result<Vec<String>> {
    let selector = format!("app.kubernetes.io/name=podlens-fleet,app.kubernetes.io/instance={RELEASE}");
    let pods = world.get(&["pods", "--namespace", RELEASE, "--selector", &selector])?;
    let mut pages = Vec::new();
    for pod in items(&pods).iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none()) {
        let Ok(address) = text(pod, "/status/podIP").parse() else { continue };
        if let Ok((200, page)) = http::get(SocketAddr::new(address, PORT), "/metrics").map_err(Error::msg) {
            pages.push(page);
        }
    }
    Ok(pages)
}

/// The page of the replica that leads.
fn leader(world: &World) -> Result<String> {
    let leads = |page: &String| sample(page, "podlens_fleet_leader", &[]) == Some(1.0);
    pages(world)?.into_iter().find(leads).context("no replica leads")
}

/// The value of the first sample with these labels.
fn sample(page: &str, name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let has = |line: &&str| {
        let rest = line.strip_prefix(name);
        let found = labels(line);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && wanted.iter().all(|(label, value)| found.get(*label).is_some_and(|found| found == value))
    };
    page.lines().find(has)?.rsplit(' ').next()?.parse().ok()
}

fn lacking(page: &str, name: &str) -> Vec<String> {
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

fn rollout(page: &str, name: &str) -> String {
    let is_in = |state: &&str| {
        sample(page, "podlens_fleet_rollout_state", &[("daemonset", name), ("state", state)]) == Some(1.0)
    };
    ["settled", "rolling", "stuck", "paused"].into_iter().find(is_in).unwrap_or_default().to_owned()
}

fn becomes(world: &World, name: &str, wanted: &str) -> Result<()> {
    within(LIMIT, || match rollout(&leader(world)?, name) {
        state if state == wanted => Ok(()),
        state => bail!("the roll-out of {name} is {state}, not {wanted}"),
    })
}
