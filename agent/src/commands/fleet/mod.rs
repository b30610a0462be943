//! `podlens fleet`: which nodes lack a `DaemonSet`'s pod, and why.

mod watching;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;

use crate::{
    attribution::kubernetes::source,
    cli::{Fleet, FleetOutput},
    config::Config,
    fleet::{json, kinds::Kind, lists, table, watch::agents},
    log,
};

/// Looks once and prints, successful if nothing lacks; or watches until SIGTERM or SIGINT.
///
/// # Errors
/// There is no API server to ask, or, once, it does not answer.
pub fn run(config: &Config, options: &Fleet) -> Result<ExitCode> {
    if options.once {
        return once(config, options.output);
    }
    log::start(&config.log);
    watching::run(config, options)?;
    Ok(ExitCode::SUCCESS)
}

fn once(config: &Config, output: FleetOutput) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime: file descriptors are exhausted")?;
    let mut fleet = runtime.block_on(async {
        let client = source::api_client(&config.kubernetes).await?;
        Ok::<_, anyhow::Error>(lists::fleet(&client).await?)
    })?;
    let now = Timestamp::now();
    fleet.settle(now);
    // What agents say themselves, where they can be asked from here.
    if runtime.block_on(agents::ask_all(&mut fleet)) {
        fleet.settle(now);
    }
    let reports = fleet.reports(now);
    let text = match output {
        FleetOutput::Table => table::render(&reports, now),
        FleetOutput::Json => json::encode(&reports),
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    let has_nodes = fleet.held(Kind::Nodes) > 0;
    if !has_nodes {
        let _ = writeln!(
            io::stderr(),
            "podlens: the API server knows no node, so nothing was looked at: is that the cluster?"
        );
    }
    let is_whole = has_nodes && reports.iter().all(|report| report.lacking.is_empty());
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
