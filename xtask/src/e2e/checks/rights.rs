//! The two capabilities: that there are no others, and what becomes of an agent that lacks one.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::fleet;
use crate::e2e::{
    wait::within,
    world::{RELEASE, World},
};

/// `CAP_PERFMON` is 38, `CAP_BPF` 39.
const BOTH: u64 = 1 << 38 | 1 << 39;
/// Longer than a crash loop needs to show, since kubelet's first pauses are 0 and 10 s.
const LOOK: Duration = Duration::from_secs(15);

pub(super) fn held(world: &mut World) -> Result<String> {
    let process = world.agent()?.process()?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("the agent's process is gone")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).with_context(|| format!("the agent's status has no {name}"))
    };
    for (set, wanted) in [("CapEff", BOTH), ("CapPrm", BOTH), ("CapBnd", BOTH), ("CapInh", 0), ("CapAmb", 0)] {
        let found = u64::from_str_radix(field(set)?, 16).context("a set of capabilities is no number")?;
        if found != wanted {
            bail!("{set} is {found:x}, not {wanted:x}");
        }
    }
    if (field("NoNewPrivs")?, field("Seccomp")?) != ("1", "2") {
        bail!("NoNewPrivs is {}, Seccomp {}", field("NoNewPrivs")?, field("Seccomp")?);
    }
    Ok("BPF and PERFMON in every set, no new privileges, seccomp on".into())
}

pub(super) fn missing(world: &mut World) -> Result<String> {
    for (left, lacking) in [(&["PERFMON"][..], "BPF"), (&["BPF"], "PERFMON"), (&[], "BPF, PERFMON")] {
        let old = world.agent()?;
        world.install(&json!({ "capabilities": { "add": left } }), false)?;
        let agent = world.next_agent(&old.uid)?;
        let message = format!("the process lacks the capabilities {lacking}:");
        within(Duration::from_secs(10), || match agent.ask("/readyz")? {
            (503, body) if body.contains(&message) => Ok(()),
            (code, body) => bail!("without {lacking}, /readyz answers {code}: {body}"),
        })?;
        if !world.log(&agent).contains(&message) {
            bail!("without {lacking}, the log does not say `{message}`");
        }
        // The fleet names it too, for a person as for its replicas.
        within(Duration::from_secs(20), || match fleet::details(world, RELEASE)? {
            told if told.iter().any(|detail| detail.contains(&message)) => Ok(()),
            told => bail!("without {lacking}, podlens fleet says {told:?}"),
        })?;
        thread::sleep(LOOK);
        let now = world.agent()?;
        if (&now.uid, now.restarts) != (&agent.uid, 0) {
            bail!("without {lacking}, the agent was restarted");
        }
        let (code, page) = agent.ask("/metrics")?;
        if code != 200 || page.contains("podlens_cpu_seconds_total{") {
            bail!("without {lacking}, /metrics answers {code} or has values that nobody can have measured");
        }
    }
    let old = world.agent()?;
    world.install(&json!({}), true)?;
    world.next_agent(&old.uid)?;
    Ok("each alone and both: /readyz and the log name it, /metrics is served, no restart".into())
}
