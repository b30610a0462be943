//! `podlens snapshot`: measures for a moment, prints, and ends.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{runtime::Runtime, sync::watch, task::JoinSet};

use super::service;
use crate::{
    attribution::kubernetes::source,
    cli::{By, Output, Snapshot as Options},
    config::Config,
    export::{json, prometheus},
    pipeline::{Pipeline, facts},
    views::{table, workloads},
};

/// Measures and prints.
///
/// # Errors
/// Nothing can be measured on this node, or standard output is closed.
pub fn run(config: &Config, options: &Options) -> Result<()> {
    let mut config = config.clone();
    config.series.want_all();
    let config = &config;
    let pipeline = Pipeline::start(config)?;
    if !pipeline.is_useful() {
        let why: Vec<String> =
            pipeline.states().iter().filter_map(|(name, state)| Some(format!("{name}: {}", state.reason()?))).collect();
        bail!("nothing can be measured here: {}", why.join("; "));
    }
    let mut names = BackgroundNames::start(config, &pipeline)?;
    let began = Instant::now();
    let before = pipeline.sweep();
    let until = began + Duration::from_secs(options.seconds);
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::sleep(left.min(Duration::from_secs(1)));
        pipeline.reap();
    }
    let after = pipeline.sweep();
    names.stop();
    let bytes = match options.output {
        Output::Table => {
            let seconds = began.elapsed().as_secs_f64();
            let requests = workloads::Requests { cpu: &facts::CPU_REQUEST, memory: &facts::MEMORY_REQUEST };
            let text = match options.by {
                By::Container => table::render(&before, &after, seconds),
                By::Workload => workloads::render(&before, &after, seconds, requests),
            };
            text.into_bytes()
        }
        Output::Json => json::encode(&after).into_bytes(),
        Output::Prometheus => prometheus::encode(&after, None, prometheus::Format::Text),
    };
    std::io::stdout().write_all(&bytes).context("cannot write to standard output")
}

/// The source of names at work while the command measures.
struct BackgroundNames {
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl BackgroundNames {
    fn start(config: &Config, pipeline: &Pipeline) -> Result<Self> {
        let runtime = service::runtime(1)?;
        let (stop, shutdown) = watch::channel(false);
        let mut tasks = JoinSet::new();
        runtime.block_on(source::start(&config.kubernetes, &config.node, pipeline.names(), &mut tasks, &shutdown));
        Ok(Self { runtime: Some(runtime), stop, _tasks: tasks })
    }

    fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
