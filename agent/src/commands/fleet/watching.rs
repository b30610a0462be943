//! `podlens fleet` without `--once`: a fleet that is kept up to date, served and pushed until a stop is asked for.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use prometheus::{
    CounterVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    attribution::kubernetes::source,
    cli::Fleet,
    commands::run::otlp_settings,
    config::Config,
    export::{
        EventSource, SnapshotSource,
        otlp_client::{OtlpConfig, OtlpLogClient},
        own::DirectPush,
        server::{Content, Listen, Server, Verdict},
    },
    fleet::{
        events,
        metrics::{FleetMetrics, LeaseCounts},
        watch::{
            Watch,
            lease::{Claim, Lease},
        },
    },
    registry::{EventBatch, Journal, Snapshot},
    signal::{
        Entity, Event, Naming,
        shutdown::{Shutdown, until_stopped},
    },
    telemetry::{
        SelfTelemetry, metrics,
        otlp::{COUNTERS, LogRecordCounters},
    },
};

/// A runtime that has not run this for so long hangs.
const HEARTBEAT: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_secs(5);
/// Everything still under way after a stop is given up then.
const LAST_ACTS: Duration = Duration::from_secs(4);
/// The Lease is given back within this time, or runs out.
const RELEASE: Duration = Duration::from_secs(2);

pub(super) fn run(config: &Config, options: &Fleet) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_name("podlens")
        .enable_all()
        .build()
        .context("cannot start the runtime: threads or file descriptors are exhausted")?;
    let outcome = runtime.block_on(serve(config, options));
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

async fn serve(config: &Config, options: &Fleet) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let (stop, shutdown) = watch::channel(false);
    // In a pod the host's name is the pod's.
    let instance = config.node.as_str();

    let otlp = otlp_settings(config, &config.otlp)?.map(of_no_node);
    let logs = if config.tells_events() { otlp_settings(config, &config.logs)?.map(of_no_node) } else { None };
    let telemetry = Arc::new(SelfTelemetry::new(env!("CARGO_PKG_VERSION"), otlp.as_ref().map(|_| &COUNTERS))?);
    let watch = Arc::new(Watch::default());
    let claim = Arc::new(if options.lease.is_some() { Claim::default() } else { Claim::alone() });
    let lease_counts = Arc::new(LeaseCounts::default());
    FleetMetrics::register(&telemetry, &watch, &claim, &lease_counts, config.fleet.lacking_series)?;
    let journal = logs.as_ref().map(|_| Arc::new(FleetLog::new(instance)));
    let log_counters = Arc::new(LogRecordCounters::default());
    if let Some(journal) = &journal {
        telemetry.register(EventCounts { journal: Arc::clone(journal), counters: metrics::EVENTS.counters()? })?;
        telemetry.add_log_records(Arc::clone(&log_counters))?;
    }
    let client = source::api_client(&config.kubernetes).await?;
    let beat = Arc::new(Beat { began: Instant::now(), last_ms: AtomicU64::new(0) });
    let listen = Listen { address: config.listen, health: config.health_listen, web: config.web.config_file.clone() };
    let server = Server::bind(&listen, content(&watch, &claim, &telemetry, &beat, config))?;
    info!(address = %server.address(), instance, api = %client.server(), "watching the fleet");

    let mut tasks = JoinSet::new();
    tasks.spawn(server.run(shutdown.clone()));
    tasks.spawn(until_stopped(shutdown.clone(), beat.keep()));
    watch.start(&client, instance, &mut tasks, &shutdown);
    tasks.spawn(until_stopped(shutdown.clone(), keep_settled(watch, Arc::clone(&claim), journal.clone())));
    if let Some((namespace, name)) = &options.lease {
        let count = move |result| *lock(&lease_counts).entry(result).or_default() += 1;
        let lease = Lease::new(client, (namespace, name), instance, claim, count);
        tasks.spawn(hold(lease, shutdown.clone()));
    }
    if let Some(otlp) = otlp {
        info!(endpoint = otlp.endpoint, interval = ?otlp.interval, "pushing");
        tasks.spawn(DirectPush::new(&otlp, instance, telemetry, &COUNTERS)?.run(shutdown.clone()));
    }
    if let (Some(logs), Some(journal)) = (logs, journal) {
        info!(endpoint = logs.endpoint, "pushing events");
        tasks.spawn(OtlpLogClient::new(&logs, instance, journal, log_counters)?.run(shutdown.clone()));
    }

    tokio::select! {
        _ = terminate.recv() => info!(signal = "SIGTERM", "stopping"),
        _ = interrupt.recv() => info!(signal = "SIGINT", "stopping"),
    }
    stop.send_replace(true);
    let last_acts = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ACTS, last_acts).await.is_err() {
        warn!(bound = ?LAST_ACTS, "some tasks did not end in time and were given up");
    }
    Ok(())
}

/// What is told of a cluster is no node's.
fn of_no_node(mut settings: OtlpConfig) -> OtlpConfig {
    if settings.own_resource.get("k8s.node.name") == settings.own_resource.get("service.instance.id") {
        settings.own_resource.remove("k8s.node.name");
    }
    settings
}

async fn keep_settled(watch: Arc<Watch>, claim: Arc<Claim>, journal: Option<Arc<FleetLog>>) {
    let tell = |changes: Vec<_>| {
        // The replica that does not lead follows, so that it need not tell everything again once it does.
        if let Some(journal) = journal.as_ref().filter(|_| claim.holds()) {
            let now = SystemTime::now();
            for change in &changes {
                journal.note(events::event(change, now));
            }
        }
    };
    watch.keep_settled(tell).await;
}

async fn hold(mut lease: Lease, shutdown: Shutdown) {
    until_stopped(shutdown, lease.run()).await;
    if tokio::time::timeout(RELEASE, lease.release()).await.is_err() {
        warn!(bound = ?RELEASE, "the Lease was not given back in time and runs out");
    }
}

/// A sign of life of the runtime itself, whatever others do.
struct Beat {
    began: Instant,
    last_ms: AtomicU64,
}

impl Beat {
    fn keep(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let beat = Arc::clone(self);
        async move {
            loop {
                let now_ms = u64::try_from(beat.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                beat.last_ms.store(now_ms, Ordering::Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        }
    }

    fn verdict(&self) -> Verdict {
        let silent = self.began.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)));
        let good = silent < HEARTBEAT;
        let text = if good { "ok\n".to_owned() } else { format!("nothing has moved for {} s\n", silent.as_secs()) };
        Verdict { good, text }
    }
}

fn content(
    watch: &Arc<Watch>,
    claim: &Arc<Claim>,
    telemetry: &Arc<SelfTelemetry>,
    beat: &Arc<Beat>,
    config: &Config,
) -> Content<Empty> {
    let (watch, claim, beat) = (Arc::clone(watch), Arc::clone(claim), Arc::clone(beat));
    let node: Arc<str> = config.node.as_str().into();
    Content {
        source: Arc::new(Empty { node: Arc::clone(&node), sequence: AtomicU64::new(0) }),
        telemetry: Arc::clone(telemetry),
        alive: Arc::new(move || beat.verdict()),
        ready: Arc::new(move || ready(&watch, &claim)),
        node,
        linger: config.linger,
        classic_histograms: config.prometheus.classic_histograms,
    }
}

/// Ready once it knows what it needs; whether or not it leads.
fn ready(watch: &Watch, claim: &Claim) -> Verdict {
    let mut text = if claim.holds() { "leads: it tells\n" } else { "follows: another replica tells\n" }.to_owned();
    for health in watch.health() {
        let state = match (health.trouble(), health.is_synced()) {
            (Some(trouble), _) => trouble,
            (None, true) => "watched".to_owned(),
            (None, false) => "being listed".to_owned(),
        };
        let _ = writeln!(text, "{}: {state}", health.kind().name());
    }
    Verdict { good: watch.is_current(), text }
}

/// There are no pods' values: everything is in the process's own metrics.
struct Empty {
    node: Arc<str>,
    sequence: AtomicU64,
}

impl SnapshotSource for Empty {
    async fn snapshot(&self) -> Arc<Snapshot> {
        // A page is kept for a moment by its snapshot's number.
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        Arc::new(empty(Arc::clone(&self.node), sequence))
    }

    fn exported(&self, _exporter: &str, _sequence: u64) {}
}

fn empty(node: Arc<str>, sequence: u64) -> Snapshot {
    let (entities, sections, infos) = (Arc::default(), Vec::new(), Vec::new().into());
    Snapshot { sequence, taken: SystemTime::now(), node, entities, sections, infos }
}

/// The fleet's events on their way out.
struct FleetLog {
    instance: Arc<str>,
    journal: Mutex<Journal>,
}

impl FleetLog {
    fn new(instance: &str) -> Self {
        Self { instance: instance.into(), journal: Mutex::default() }
    }

    fn note(&self, event: Event) {
        lock(&self.journal).note(event, SystemTime::now(), Instant::now());
    }
}

impl EventSource for FleetLog {
    fn subscribe(&self, exporter: &'static str, dropped: Arc<AtomicU64>) {
        lock(&self.journal).subscribe(exporter, dropped);
    }

    fn take(&self, exporter: &str, most: usize, _at_once: bool) -> EventBatch {
        let events = lock(&self.journal).take_at_once(exporter, most, &NoNames);
        EventBatch { events, described: empty(Arc::clone(&self.instance), 0) }
    }
}

/// No event of a fleet is about an entity.
struct NoNames;

impl Naming for NoNames {
    fn version(&self) -> u64 {
        0
    }

    fn name(&self, entity: &Entity) -> Entity {
        entity.clone()
    }

    fn is_pending(&self, _entity: &Entity) -> bool {
        false
    }
}

/// How many events of each kind were noted, kinds without any included.
struct EventCounts {
    journal: Arc<FleetLog>,
    counters: CounterVec,
}

impl Collector for EventCounts {
    fn desc(&self) -> Vec<&Desc> {
        self.counters.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let noted: HashMap<&str, u64> = lock(&self.journal.journal).noted().collect();
        let Ok(counters) = metrics::EVENTS.counters() else { return Vec::new() };
        for kind in events::ALL {
            let count = noted.get(kind.name).copied().unwrap_or_default();
            counters.with_label_values(&[kind.name]).inc_by(count as f64);
        }
        counters.collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
