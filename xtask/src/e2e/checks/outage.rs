//! The agent or the API server ends and comes back.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{names::same_names, workloads::settled};
use crate::e2e::{
    names::{Name, total},
    prometheus::Series,
    wait::within,
    workloads::{NAMESPACE, STEADY, pod},
    world::{Agent, World, kernel_seconds},
};

const API_SERVER: &str = "kube-apiserver";
const SHORT_OUTAGE: Duration = Duration::from_secs(20);
const LONG_OUTAGE: Duration = Duration::from_mins(5);
/// Prometheus scrapes each second. A machine that is busy starting the API server delays some scrapes, but an agent that
/// does not answer without it misses all for the whole outage.
const GAP_SECONDS: f64 = 10.0;
/// Kubelet's time to start a static pod.
const STATIC_POD_WITHIN: Duration = Duration::from_mins(1);
/// The agent waits up to a minute between two tries while the API server is dead.
const NAMES_BACK_WITHIN: Duration = Duration::from_secs(100);
const MISSING_LINE: &str = "new containers keep their ids for names until the API server answers";
const BACK_LINE: &str = "names come from the API server again";

pub(super) fn agent_restarts(world: &mut World) -> Result<String> {
    let old = world.agent()?;
    world.kubectl(&["delete", "pod", "--namespace", crate::e2e::world::RELEASE, &old.pod])?;
    let agent = world.next_agent(&old.uid)?;
    let told = same_names(world, &agent)?;
    load(world, "after-restart", "250")?;
    settled(world)?;
    Ok(told)
}

pub(super) fn api_server_dies(world: &mut World) -> Result<String> {
    let agent = world.agent()?;
    let id = world.container_id(NAMESPACE, STEADY)?;
    let lines = |world: &World| count(&world.log(&agent));
    let before = lines(world);
    let started = Instant::now();
    // The restart of the check before is further back.
    let last_before = steady(world)?.samples.last().map(|(time, _)| *time);
    let last_before = last_before.with_context(|| format!("{STEADY} has no sample"))?;
    world.cluster.kill_program(API_SERVER)?;
    // Kubelet starts static pods without the API server, so one appears whose name nobody can tell.
    let place = world.cluster.static_pods().join("late.yaml");
    fs::write(&place, pod("late", &["300", "stay"]).to_string()).context("cannot write a static pod")?;
    let outage = if world.long { LONG_OUTAGE } else { SHORT_OUTAGE };
    thread::sleep(outage);
    let meanwhile = within(STATIC_POD_WITHIN, || {
        // Its cgroup's uid, by which it is called meanwhile, is also in kubelet's log of it.
        let uid = world.pod_uid("late-podlens-node")?;
        if !agent.page()?.keys().any(|name| name.pod == uid) {
            bail!("the static pod that was made meanwhile has no values under its uid {uid}");
        }
        Ok(uid)
    });
    world.api_server_back()?;
    let uid = meanwhile?;
    let dead = started.elapsed();
    within(NAMES_BACK_WITHIN, || {
        let page = agent.page()?;
        let late = Name::new(NAMESPACE, "late-podlens-node", "app");
        if !page.contains_key(&late) {
            bail!("{late} has no values under its name");
        }
        match page.keys().find(|name| name.pod == uid) {
            Some(name) => bail!("{name} is still without its name"),
            None => Ok(()),
        }
    })?;
    settled(world)?;
    let after = lines(world);
    if (after.0 - before.0, after.1 - before.1) != (1, 1) {
        bail!(
            "the log tells {} times that names are missing and {} times that they are back",
            after.0 - before.0,
            after.1 - before.1
        );
    }
    let now = world.agent()?;
    if (&now.uid, now.restarts) != (&agent.uid, agent.restarts) {
        bail!("the agent was restarted {} times", now.restarts - agent.restarts);
    }
    let gap = no_gap(world, &id, last_before)?;
    fs::remove_file(&place).context("cannot remove a static pod")?;
    Ok(format!("dead for {:.0} s, longest time between two samples {gap:.1} s", dead.as_secs_f64()))
}

pub(super) fn agent_starts_without_api(world: &mut World) -> Result<String> {
    let agent = world.agent()?;
    restarted_in_outage(world, &agent, |world, agent| {
        let uids = world.pod_uids()?;
        // It measures, under uids and ids: there is nobody to ask.
        within(Duration::from_secs(20), || {
            let page = agent.page()?;
            let ours = page.keys().filter(|name| uids.contains_key(&name.pod)).count();
            match page.keys().find(|name| !name.namespace.is_empty()) {
                Some(name) => bail!("{name} has a name that nobody can have told"),
                None if ours < 5 => bail!("only {ours} containers have values"),
                None => Ok(()),
            }
        })
    })?;
    let agent = world.agent()?;
    let told = within(NAMES_BACK_WITHIN, || same_names(world, &agent))?;
    load(world, "after-outage", "250")?;
    settled(world)?;
    Ok(told)
}

/// Kills the API server and the agent, waits for kubelet to start the agent's container anew, lets `look` judge, and
/// brings the API server back.
pub(super) fn restarted_in_outage(
    world: &World,
    agent: &Agent,
    look: impl FnOnce(&World, &Agent) -> Result<()>,
) -> Result<()> {
    let process = agent.process()?;
    world.cluster.kill_program(API_SERVER)?;
    let looked = (|| {
        let raw = i32::try_from(process).ok().and_then(Pid::from_raw).context("the agent has no process id")?;
        kill_process(raw, Signal::KILL).context("cannot kill the agent")?;
        // Its pod and address stay, so the next container answers in the same place.
        within(Duration::from_mins(1), || match agent.ask("/readyz")? {
            (200, _) => Ok(()),
            (code, body) => bail!("/readyz answers {code}: {body}"),
        })?;
        look(world, agent)
    })();
    world.api_server_back()?;
    looked
}

/// Runs a load of its own name to its end.
fn load(world: &mut World, name: &str, milliseconds: &str) -> Result<()> {
    world.apply(&[pod(name, &[milliseconds, "stay"])])?;
    let name = Name::new(NAMESPACE, name, "app");
    within(Duration::from_mins(1), || {
        if world.truth.by_name().contains_key(&name) { Ok(()) } else { bail!("{name} has not finished its load") }
    })
}

/// Lines of the log that tell of missing names and of their return.
fn count(log: &str) -> (i64, i64) {
    let lines = |text: &str| i64::try_from(log.lines().filter(|line| line.contains(text)).count()).unwrap_or(i64::MAX);
    (lines(MISSING_LINE), lines(BACK_LINE))
}

/// All samples of the pod that always runs.
fn steady(world: &World) -> Result<Series> {
    let selector = format!("podlens_cpu_seconds_total{{pod=\"{STEADY}\",container=\"app\"}}");
    let found = world.prometheus.history(&selector)?;
    let count = found.len();
    let [series] = <[Series; 1]>::try_from(found).map_err(|_| anyhow!("{STEADY} has {count} series"))?;
    Ok(series)
}

/// The longest time between two samples, from that of `since` on, of the pod that always runs, whose amount must be what
/// the kernel has counted.
fn no_gap(world: &World, container_id: &str, since: f64) -> Result<f64> {
    let told = kernel_seconds(container_id)?;
    let series = steady(world)?;
    let recent: Vec<_> = series.samples.iter().copied().filter(|(time, _)| *time >= since).collect();
    let mut longest: f64 = 0.0;
    for pair in recent.windows(2) {
        let [(earlier, before), (later, after)] = pair else { continue };
        longest = longest.max(later - earlier);
        if after < before {
            bail!("the value of {STEADY} fell from {before} s to {after} s");
        }
    }
    if longest > GAP_SECONDS {
        bail!("{longest:.1} s passed between two samples of {STEADY}");
    }
    let seen = total(&series.samples);
    // One restart of the agent is before this check: what ran meanwhile is in no value.
    if seen > told * 1.015 || told - seen > told * 0.015 + 3.0 {
        bail!("Prometheus has {seen:.2} s of {STEADY}, the kernel {told:.2} s");
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::{BACK_LINE, MISSING_LINE, count};

    #[test]
    fn lines_are_counted_by_what_they_tell() {
        assert_eq!(count(&format!("a {MISSING_LINE} b\nx\n{BACK_LINE}\n{MISSING_LINE}\n")), (2, 1));
    }
}
