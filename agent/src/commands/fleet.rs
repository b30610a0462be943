//! `podlens fleet`: which nodes lack a `DaemonSet`'s pod, and why.

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;

use crate::{
    attribution::kubernetes::source,
    cli::{Fleet, FleetOutput},
    config::Config,
    fleet::{json, lists, table},
};

/// Looks once and prints; successful if nothing lacks.
///
/// # Errors
/// There is no API server to ask, or it does not answer.
pub fn run(config: &Config, options: &Fleet) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime: file descriptors are exhausted")?;
    let cluster = runtime.block_on(async {
        let client = source::api_client(&config.kubernetes).await?;
        Ok::<_, anyhow::Error>(lists::cluster(&client).await?)
    })?;
    let now = Timestamp::now();
    let reports = cluster.reports(now);
    let text = match options.output {
        FleetOutput::Table => table::render(&reports, now),
        FleetOutput::Json => json::encode(&reports),
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    let is_whole = reports.iter().all(|report| report.lacking.is_empty());
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
