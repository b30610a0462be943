//! `podlens fleet` without `--once`: a fleet that is kept up to date, served and pushed until a stop is asked for.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use prometheus::{
    CounterVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tracing::{info, warn};

use crate::{
    attribution::kubernetes::source,
    cli::Fleet,
    commands::{
        run::otlp_settings,
        service::{self, Beat, StopSignals},
    },
    config::Config,
    export::{
        EventSource, SnapshotSource,
        otlp_client::{OtlpConfig, OtlpLogClient},
        own::DirectPush,
        server::{Content, Server, Verdict},
    },
    fleet::{
        events,
        metrics::{FleetMetrics, LeaseCounts, Sources},
        watch::{
            Watch,
            handover::{Noted, Telling},
            lease::{Claim, Lease},
        },
    },
    registry::{EventBatch, Journal, Snapshot},
    signal::{
        Event, PathNames, lock,
        shutdown::{Shutdown, until_stopped},
    },
    telemetry::{
        SelfTelemetry, metrics,
        otlp::{COUNTERS, LogRecordCounters},
    },
};

/// How often the runtime gives a sign of life.
const BEAT: Duration = Duration::from_secs(5);
/// The Lease is given back within this time, or runs out.
const RELEASE: Duration = Duration::from_secs(2);

pub(super) fn run(config: &Config, options: &Fleet) -> Result<()> {
    service::block_on(serve(config, options))
}

async fn serve(config: &Config, options: &Fleet) -> Result<()> {
    let mut stop_signals = StopSignals::listen()?;
    let (stop, shutdown) = watch::channel(false);
    // In a pod the host's name is the pod's.
    let instance = config.node.as_str();

    let settings = |config: &Config| {
        let runtime = Handle::current();
        Ok((otlp_settings(config)?, runtime.block_on(source::api_client(&config.kubernetes))?))
    };
    let Some(((otlp, logs), client)) = stop_signals.unless_asked(service::aside(config, settings)).await? else {
        return Ok(());
    };
    let (otlp, logs) = (otlp.map(of_no_node), logs.map(of_no_node));
    let telemetry = Arc::new(SelfTelemetry::new(env!("CARGO_PKG_VERSION"), otlp.as_ref().map(|_| &COUNTERS))?);
    let watch = Arc::new(Watch::default());
    let claim = Arc::new(if options.lease.is_some() { Claim::default() } else { Claim::alone() });
    let lease_counts = Arc::new(LeaseCounts::default());
    let journal = logs.as_ref().map(|_| Arc::new(FleetLog::new(instance)));
    let log_counters = Arc::new(LogRecordCounters::default());
    let telling = Arc::new(telling(options.lease.is_none(), journal.clone(), Arc::clone(&log_counters)));
    let told_of = Sources {
        watch: Arc::clone(&watch),
        claim: Arc::clone(&claim),
        lease: Arc::clone(&lease_counts),
        telling: Arc::clone(&telling),
    };
    FleetMetrics::register(&telemetry, told_of, config.fleet.lacking_series)?;
    if let Some(journal) = &journal {
        telemetry.register(EventCounts { journal: Arc::clone(journal), counters: metrics::EVENTS.counters()? })?;
        telemetry.add_log_records(Arc::clone(&log_counters))?;
    }
    let beat = Arc::new(Beat::begin());
    let server = Server::bind(&service::listen(config), content(&watch, &claim, &telemetry, &beat, config))?;
    info!(address = %server.address(), instance, api = %client.server(), "watching the fleet");
    if let Some(address) = server.health_address() {
        info!(%address, "serving /healthz and /readyz, open to all");
    }

    let mut tasks = JoinSet::new();
    tasks.spawn(server.run(shutdown.clone()));
    tasks.spawn(until_stopped(shutdown.clone(), keep_beating(beat)));
    watch.start(&client, instance, &mut tasks, &shutdown);
    tasks.spawn(until_stopped(shutdown.clone(), keep_settled(watch, Arc::clone(&telling), journal.is_some())));
    if let Some((namespace, name)) = &options.lease {
        let count = move |result| *lock(&lease_counts).entry(result).or_default() += 1;
        let lease = Lease::new(client, (namespace, name), instance, claim, telling, count);
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

    stop_signals.come().await;
    stop.send_replace(true);
    service::end(tasks).await;
    Ok(())
}

/// What is told of a cluster is no node's.
fn of_no_node(mut settings: OtlpConfig) -> OtlpConfig {
    if settings.own_resource.get("k8s.node.name") == settings.own_resource.get("service.instance.id") {
        settings.own_resource.remove("k8s.node.name");
    }
    settings
}

/// Whatever is told becomes an event.
fn telling(is_alone: bool, journal: Option<Arc<FleetLog>>, counters: Arc<LogRecordCounters>) -> Telling {
    let noted = journal.clone();
    let tell = move |noted: Noted| {
        if let Some(journal) = &journal {
            journal.note(events::event(&noted.change, noted.at), noted.at);
        }
    };
    let unsent = move || {
        let LogRecordCounters { sent, dropped, rejected } = &*counters;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let done = load(sent) + load(dropped) + load(rejected);
        noted.as_ref().map_or(0, |journal| journal.noted()).saturating_sub(done)
    };
    Telling::new(is_alone, tell, unsent)
}

/// Without anybody who is to be told nothing waits for it.
async fn keep_settled(watch: Arc<Watch>, telling: Arc<Telling>, has_events: bool) {
    let tell = |changes| {
        if has_events {
            telling.note(changes);
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
async fn keep_beating(beat: Arc<Beat>) {
    loop {
        beat.give();
        tokio::time::sleep(BEAT).await;
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
        alive: Arc::new(move || beat.verdict("nothing")),
        ready: Arc::new(move || ready(&watch, &claim)),
        node,
        linger: config.linger,
        classic_histograms: config.prometheus.classic_histograms,
    }
}

/// Ready once it knows what it needs and has looked at it, so that it notices what happens from then on; whether or not it
/// leads. A roll-out takes the old replica away then.
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
    Verdict { good: watch.is_current() && watch.fleet().is_settled(), text }
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
        Arc::new(Snapshot::empty(Arc::clone(&self.node), sequence, SystemTime::now()))
    }

    fn exported(&self, _exporter: &str, _sequence: u64) {}
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

    /// How many events there were.
    fn noted(&self) -> u64 {
        lock(&self.journal).noted().map(|(_, count)| count).sum()
    }

    fn note(&self, event: Event, noticed: SystemTime) {
        lock(&self.journal).note(event, noticed, Instant::now());
    }
}

impl EventSource for FleetLog {
    fn subscribe(&self, exporter: &'static str, dropped: Arc<AtomicU64>) {
        lock(&self.journal).subscribe(exporter, dropped);
    }

    fn take(&self, exporter: &str, most: usize, _at_once: bool) -> EventBatch {
        // No event of a fleet is about an entity.
        let events = lock(&self.journal).take_at_once(exporter, most, &PathNames);
        EventBatch { events, described: Snapshot::empty(Arc::clone(&self.instance), 0, SystemTime::now()) }
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
