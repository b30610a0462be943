//! `podlens run`: the agent.

use std::{io, iter, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{sync::watch, task::JoinSet, time::MissedTickBehavior};
use tracing::{info, warn};

use super::service::{self, Beat, StopSignals};
use crate::{
    attribution::kubernetes::source,
    config::{self, Config, Histograms, Otlp, Temporality},
    export::{
        otlp::{Options, is_of_entity},
        otlp_client::{self, EXPORTER, OtlpClient, OtlpConfig, OtlpLogClient, OtlpTls, PemError},
        own::{self, OwnPush},
        server::{Content, Server, Verdict},
    },
    files,
    kernel::{allocator, process},
    pipeline::{OwnMetrics, Pipeline, Source, log_states},
    signal::shutdown::until_stopped,
    telemetry::{
        SelfTelemetry,
        otlp::{COUNTERS, LogRecordCounters},
    },
};

const REAP: Duration = Duration::from_secs(1);
/// By then the first names are there and connections are made.
const STARTED: Duration = Duration::from_secs(10);
/// After that, until everything has run that runs again and again, the walk through names among it.
const SETTLED: Duration = Duration::from_secs(50);
/// A release takes a millisecond, and those pages that are in use come back, in a hundred faults.
const SELDOM: Duration = Duration::from_mins(10);
/// A stop waits so long for a sweep that is under way.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The address is taken, a setting cannot work, or the node has no cgroups.
pub fn run(config: &Config) -> Result<()> {
    service::block_on(serve(config))
}

/// What is there before anything runs.
struct Prepared {
    otlp: Option<OtlpConfig>,
    logs: Option<OtlpConfig>,
    telemetry: Arc<SelfTelemetry>,
    pipeline: Arc<Pipeline>,
    beat: Arc<Beat>,
    source: Arc<Source>,
    log_counters: Option<Arc<LogRecordCounters>>,
    server: Server<Source>,
}

fn prepare(config: &Config) -> Result<Prepared> {
    let (otlp, logs) = otlp_settings(config)?;
    let telemetry = Arc::new(SelfTelemetry::new(env!("CARGO_PKG_VERSION"), otlp.as_ref().map(|_| &COUNTERS))?);
    let pipeline = Arc::new(Pipeline::start(config)?);
    let beat = Arc::new(Beat::begin());
    let source = Arc::new(Source(Arc::clone(&pipeline)));
    OwnMetrics::register(&telemetry, &pipeline)?;
    let log_counters = pipeline.event_log().map(|_| Arc::new(LogRecordCounters::default()));
    if let Some(counters) = &log_counters {
        telemetry.add_log_records(Arc::clone(counters))?;
    }
    // The port is taken before anything is pushed: a second agent beside this one stops here, unheard.
    let server = Server::bind(&service::listen(config), content(&pipeline, &source, &telemetry, &beat, config))?;
    info!(address = %server.address(), node = config.node, "serving");
    if let Some(address) = server.health_address() {
        info!(%address, "serving /healthz and /readyz, open to all");
    }
    log_states(pipeline.states());
    Ok(Prepared { otlp, logs, telemetry, pipeline, beat, source, log_counters, server })
}

async fn serve(config: &Config) -> Result<()> {
    let mut stop_signals = StopSignals::listen()?;
    let (stop, shutdown) = watch::channel(false);
    let prepared = stop_signals.unless_asked(service::aside(config, prepare)).await?;
    let Some(Prepared { otlp, logs, telemetry, pipeline, beat, source, log_counters, server }) = prepared else {
        return Ok(());
    };

    let mut tasks = JoinSet::new();
    tasks.spawn(server.run(shutdown.clone()));
    tasks.spawn(until_stopped(shutdown.clone(), keep_reaping(Arc::clone(&pipeline), Arc::clone(&beat))));
    tasks.spawn(until_stopped(shutdown.clone(), walk_ahead(Arc::clone(&pipeline))));
    tasks.spawn(until_stopped(shutdown.clone(), release_program()));
    #[cfg(feature = "kernel-log")]
    if let Some(lines) = pipeline.kernel_log() {
        tasks.spawn(lines.follow(shutdown.clone()));
    }
    source::start(&config.kubernetes, &config.node, pipeline.names(), &mut tasks, &shutdown).await;
    if let Some(events) = pipeline.events() {
        tasks.spawn(until_stopped(shutdown.clone(), follow(Arc::clone(&pipeline), events)));
    }
    if let Some(otlp) = otlp {
        pipeline.expect_exporter(EXPORTER);
        let client = OtlpClient::new(&otlp, &config.node, source, &COUNTERS)?;
        // After everything that is registered.
        let own_push = OwnPush::new(&otlp, &config.node, telemetry)?;
        info!(endpoint = otlp.endpoint, interval = ?otlp.interval, "pushing");
        tasks.spawn(client.run(shutdown.clone()));
        tasks.spawn(own_push.run(shutdown.clone()));
    }
    if let (Some(logs), Some(events), Some(counters)) = (logs, pipeline.event_log(), log_counters) {
        info!(endpoint = logs.endpoint, "pushing events");
        tasks.spawn(OtlpLogClient::new(&logs, &config.node, events, counters)?.run(shutdown.clone()));
    }

    stop_signals.come().await;
    tell_rest(&pipeline).await;
    stop.send_replace(true);
    service::end(tasks).await;
    Ok(())
}

/// Before the last push of events: whatever waits to be told is told now.
async fn tell_rest(pipeline: &Arc<Pipeline>) {
    let pipeline = Arc::clone(pipeline);
    let told = tokio::task::spawn_blocking(move || pipeline.tell_rest());
    if tokio::time::timeout(LAST_WORDS, told).await.is_err() {
        warn!(bound = ?LAST_WORDS, "a sweep takes long: ends of containers that waited for their pods' statuses are not told");
    }
}

/// The settings of the clients for metrics and for events; none where nothing is to be pushed.
pub(super) fn otlp_settings(config: &Config) -> Result<(Option<OtlpConfig>, Option<OtlpConfig>)> {
    let metrics = client_settings(config, &config.otlp)?;
    let logs = if config.tells_events() { client_settings(config, &config.logs)? } else { None };
    Ok((metrics, logs))
}

fn client_settings(config: &Config, settings: &Otlp) -> Result<Option<OtlpConfig>> {
    let Some(endpoint) = settings.endpoint.as_ref().filter(|_| settings.enabled) else { return Ok(None) };
    let pem = |key: &str, path: &Option<PathBuf>, check: fn(&[u8]) -> Result<(), PemError>| {
        let Some(path) = path else { return Ok(None) };
        let place = path.display();
        let text = files::read(path, files::CREDENTIAL_BYTES).with_context(|| {
            format!("cannot read {place}: correct `{key}`, or let the user that runs podlens read it")
        })?;
        if let Err(cause) = check(&text) {
            bail!("{place} {cause}: correct `{key}`, or the file");
        }
        Ok(Some(text))
    };
    let certificates = |text: &[u8]| otlp_client::certificates(text).map(drop);
    let key = |text: &[u8]| otlp_client::key(text).map(drop);
    let given = &settings.resource_attributes;
    let of_all = given.iter().filter(|(key, _)| !is_of_entity(key));
    let options = Options {
        explicit_histograms: settings.histograms == Histograms::Explicit,
        service_attributes: settings.service_attributes,
        delta: settings.temporality == Temporality::Delta,
        identity: settings.identity,
        attributes: of_all.map(|(key, value)| (key.clone(), value.clone())).collect(),
    };
    Ok(Some(OtlpConfig {
        protocol: match settings.protocol {
            config::Protocol::Grpc => otlp_client::Protocol::Grpc,
            config::Protocol::HttpProtobuf => otlp_client::Protocol::HttpProtobuf,
        },
        endpoint: endpoint.url.to_string(),
        endpoint_has_path: endpoint.is_for_signal,
        headers: settings.headers.values.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        timeout: settings.timeout,
        interval: settings.interval,
        compression: settings.compression,
        tls: OtlpTls {
            authority_pem: pem("otlp.certificate", &settings.certificate, certificates)?,
            certificate_pem: pem("otlp.client_certificate", &settings.client_certificate, certificates)?,
            key_pem: pem("otlp.client_key", &settings.client_key, key)?,
            server_name: None,
        },
        options,
        own_resource: own::resource_attributes(&config.node, given, settings.service_name.as_deref()),
        ..OtlpConfig::default()
    }))
}

fn content(
    pipeline: &Arc<Pipeline>,
    source: &Arc<Source>,
    telemetry: &Arc<SelfTelemetry>,
    beat: &Arc<Beat>,
    config: &Config,
) -> Content<Source> {
    let ready = {
        let pipeline = Arc::clone(pipeline);
        move || Verdict { good: pipeline.is_useful(), text: states(&pipeline) }
    };
    let beat = Arc::clone(beat);
    Content {
        source: Arc::clone(source),
        telemetry: Arc::clone(telemetry),
        alive: Arc::new(move || beat.verdict("the pipeline")),
        ready: Arc::new(ready),
        node: config.node.as_str().into(),
        linger: config.linger,
        classic_histograms: config.prometheus.classic_histograms,
    }
}

fn states(pipeline: &Pipeline) -> String {
    pipeline
        .states()
        .iter()
        .map(|(name, state)| match state.reason() {
            Some(reason) => format!("{name}: {}: {reason}\n", state.name()),
            None => format!("{name}: {}\n", state.name()),
        })
        .collect()
}

async fn keep_reaping(pipeline: Arc<Pipeline>, beat: Arc<Beat>) {
    let mut ticks = tokio::time::interval(REAP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        reap(&pipeline).await;
        beat.give();
    }
}

/// Has walks made a moment before each sweep that is expected.
async fn walk_ahead(pipeline: Arc<Pipeline>) {
    let mut walks_at = pipeline.walks_at();
    loop {
        let at = *walks_at.borrow_and_update();
        if let Some(at) = at {
            // A sweep that comes before has its walks made itself.
            if tokio::time::timeout_at(at.into(), walks_at.changed()).await.is_ok() {
                continue;
            }
            let pipeline = Arc::clone(&pipeline);
            let _ = tokio::task::spawn_blocking(move || pipeline.walk()).await;
        }
        if walks_at.changed().await.is_err() {
            return;
        }
    }
}

/// Gives the start's code back when all of it has run, and what else runs seldom now and then; so with memory that was allocated.
async fn release_program() {
    for pause in [STARTED, SETTLED].into_iter().chain(iter::repeat(SELDOM)) {
        tokio::time::sleep(pause).await;
        process::release_program();
        allocator::settle();
    }
}

/// On a thread that may wait for a sweep: the runtime's own go on answering.
async fn reap(pipeline: &Arc<Pipeline>) {
    let pipeline = Arc::clone(pipeline);
    // An error means that it panicked, which ends the process.
    let _ = tokio::task::spawn_blocking(move || pipeline.reap()).await;
}

/// Reads births and removals as they come, so that a burst does not fill the ring buffer between two ticks.
async fn follow(pipeline: Arc<Pipeline>, events: io::Result<OwnedFd>) {
    let readable = match events.and_then(process::watch) {
        Ok(readable) => readable,
        Err(cause) => return warn!(%cause, "births and removals of cgroups are read once a second only"),
    };
    loop {
        let guard: io::Result<_> = readable.readable().await;
        let Ok(mut guard) = guard else { return };
        guard.clear_ready();
        reap(&pipeline).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{config::Endpoint, log::with_causes};

    #[test]
    fn a_certificate_without_end_is_refused_by_its_key() {
        let mut config = Config::defaults(&[]);
        config.otlp.endpoint = Some(Endpoint { url: "https://127.0.0.1:1".parse().unwrap(), is_for_signal: false });
        config.otlp.certificate = Some("/dev/zero".into());
        let error = with_causes(&*otlp_settings(&config).err().unwrap());
        assert!(error.contains("`otlp.certificate`") && error.contains("a device and no regular file"), "{error}");
    }
}
