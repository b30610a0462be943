//! The pipeline: from the kernel's records to one snapshot. The only module that sees collectors, attribution,
//! registry and exporters together.
//!
//! Exporters ask for a snapshot; whoever asks while one is made waits for that one. Between asks the pipeline
//! follows births and removals and frees the slots of cgroups that are gone.

mod ahead;
mod ends;
mod event_log;
mod events;
pub mod exporting;
pub mod facts;
mod fresh;
mod health;
mod kernel;
mod losses;
mod own;
mod reading;
mod start;
mod unnamed;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, TryLockError},
    time::{Duration, Instant, SystemTime},
};

use podlens_common::cgroup::CgroupKey;
use tokio::sync::watch;
use tracing::{info, warn};

use self::{
    ahead::{AHEAD, Ahead},
    events::EventReporting,
    facts::Facts,
    fresh::Fresh,
    kernel::Kernel,
    reading::{FixedEntities, Resolved},
    unnamed::{Look, Unnamed},
};
pub use self::{
    event_log::{EventLog, kinds},
    health::Health,
    losses::losses,
    own::OwnMetrics,
    start::StartError,
};
use crate::{
    attribution::{cgroups::Cgroups, kubernetes::Names},
    collectors::{ALL, Collector, SlotsInUse, Spec, State, map_memory::Plan, spec::Kind},
    export::SnapshotSource,
    registry::{Budget, Ledger, Snapshot},
    signal::{Entity, lock},
};

/// A dying task's last slice ends after its cgroup can be removed: so long the slot is kept. Later ones find
/// the cgroup's path still known and count all the same.
const GRACE: Duration = Duration::from_secs(1);
/// A cgroup whose birth was missed is looked for this long before its values count as unattributed.
const SEARCH: Duration = Duration::from_secs(30);
/// Least time between two walks through the cgroup trees.
const RESCAN: Duration = Duration::from_secs(5);
/// Least time between two looks at which slots can be given back: in a burst of events each would be as one before.
const FREE: Duration = Duration::from_millis(900);

/// The pipeline of one node.
pub struct Pipeline {
    node: Arc<str>,
    states: Vec<(&'static str, State)>,
    memory: Plan,
    names: Arc<Names>,
    inner: Mutex<Inner>,
    /// What exporters have delivered since the last sweep began: the newest snapshot of each. Apart from `inner`, so that
    /// nobody who delivers waits for a sweep.
    delivered: Mutex<HashMap<String, u64>>,
    /// As of the last time that somebody asked, for those who ask during a sweep.
    health: Mutex<Health>,
    /// When walks are to be made for the next sweep.
    walks_at: watch::Sender<Option<Instant>>,
    fresh: Fresh<Arc<Snapshot>>,
    /// What becomes of a snapshot on its way to the exporters.
    budget: Mutex<Budget>,
}

struct Inner {
    cgroups: Cgroups,
    names: Arc<Names>,
    /// Whom names are to hear of, and when.
    unnamed: Unnamed,
    kernel: Option<Kernel>,
    /// In the order of all.
    collectors: Vec<Attached>,
    ahead: Ahead,
    ledger: Ledger,
    /// Keys without a known cgroup, and since when.
    unknown: HashMap<CgroupKey, Instant>,
    scanned: Instant,
    /// When it was last looked which slots can be given back.
    freed: Instant,
    lost_events: u64,
    sweep: Duration,
    fixed: FixedEntities,
    resolved: Resolved,
    facts: Facts,
    /// Snapshots that may still be in use. The memory of those that are not is used again.
    snapshots: Vec<Arc<Snapshot>>,
    /// None where nobody is to be told of events.
    reporting: Option<EventReporting>,
}

/// A collector at work and its section of the ledger.
struct Attached {
    section: usize,
    collector: Box<dyn Collector>,
}

impl Pipeline {
    /// Each collector and what became of it.
    #[must_use]
    pub fn states(&self) -> &[(&'static str, State)] {
        &self.states
    }

    /// How the kernel's memory is used.
    #[must_use]
    pub fn memory(&self) -> &Plan {
        &self.memory
    }

    /// Some collector with kernel programs delivers values. What the kernel's files tell is enough only where no
    /// other collector was asked for.
    #[must_use]
    pub fn is_useful(&self) -> bool {
        let all = || ALL.iter().zip(&self.states).map(|(spec, (_, state))| (spec, state));
        let asked = all().any(|(spec, state)| spec.measures_by_programs() && *state != State::Disabled);
        let counts = |spec: &Spec| spec.measures_by_programs() || (!asked && spec.kind == Kind::Files);
        all().any(|(spec, state)| counts(spec) && state.delivers())
    }

    /// A view of now, made by the caller's thread. Reads everything, so it takes milliseconds.
    #[must_use]
    pub fn sweep(&self) -> Arc<Snapshot> {
        let mut inner = lock(&self.inner);
        let now = Instant::now();
        for (exporter, sequence) in lock(&self.delivered).drain() {
            inner.ledger.exported(&exporter, sequence, now);
        }
        let snapshot = inner.sweep(Arc::clone(&self.node));
        self.walks_at.send_replace(inner.ahead.next());
        snapshot
    }

    /// When [`Self::walk`] is to be called: a moment before the next sweep, where it can be told when that comes.
    #[must_use]
    pub fn walks_at(&self) -> watch::Receiver<Option<Instant>> {
        self.walks_at.subscribe()
    }

    /// Has collectors walk through what the kernel has, for a sweep that is about to come and then need not wait for it. To be called
    /// by a thread that may wait: for a sweep, if one is under way.
    pub fn walk(&self) {
        lock(&self.inner).walk_ahead();
    }

    /// Follows births and removals, and frees slots. To be called about once a second, by a thread that may wait: for a
    /// sweep, if one is under way.
    pub fn reap(&self) {
        lock(&self.inner).reap();
    }

    /// Notes what waits to be told of, since nothing more will come. To be called at a stop, by a thread that may wait.
    pub fn tell_rest(&self) {
        let (mut inner, now) = (lock(&self.inner), Instant::now());
        inner.follow_events(now);
        inner.tell(now, true);
    }

    /// Becomes readable when the kernel programs have reported something; none without the collector `lifecycle`.
    #[must_use]
    pub fn events(&self) -> Option<io::Result<OwnedFd>> {
        lock(&self.inner).kernel.as_ref()?.descriptor()
    }

    /// The kernel programs' lines, to be logged; none if none runs, and after the first call.
    #[cfg(feature = "kernel-log")]
    #[must_use]
    pub fn kernel_log(&self) -> Option<crate::kernel::log::KernelLog> {
        lock(&self.inner).kernel.as_mut()?.object.take_log()
    }

    /// What has happened; none where nobody is to be told.
    #[must_use]
    pub fn event_log(&self) -> Option<Arc<EventLog>> {
        lock(&self.inner).reporting.as_ref().map(|reporting| Arc::clone(&reporting.log))
    }

    /// Counts about the pipeline itself; while it is at work, those of the last time that somebody asked.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut last = lock(&self.health);
        match self.inner.try_lock() {
            Ok(inner) => *last = inner.health(),
            Err(TryLockError::Poisoned(inner)) => *last = inner.into_inner().health(),
            Err(TryLockError::WouldBlock) => {}
        }
        last.spent = lock(&self.budget).spent();
        last.clone()
    }

    /// Expects acknowledgements of this exporter from now on.
    pub fn expect_exporter(&self, name: &str) {
        self.exported(name, 0);
    }

    /// The exporter has delivered the snapshot of that number. Never waits for a sweep.
    pub fn exported(&self, exporter: &str, sequence: u64) {
        let mut delivered = lock(&self.delivered);
        let newest = delivered.entry(exporter.to_owned()).or_default();
        *newest = sequence.max(*newest);
    }

    /// The names of pods, for a source to fill.
    #[must_use]
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }
}

/// The source of both exporters: the pipeline, shared.
#[derive(Clone)]
pub struct Source(pub Arc<Pipeline>);

impl SnapshotSource for Source {
    async fn snapshot(&self) -> Arc<Snapshot> {
        let pipeline = Arc::clone(&self.0);
        // The sweep sleeps a moment to set its clock, and reads more the more CPUs there are.
        let snapshot = self.0.fresh.get(move || pipeline.export()).await;
        snapshot.unwrap_or_else(|| Arc::new(Snapshot::empty(Arc::clone(&self.0.node), 0, SystemTime::now())))
    }

    fn exported(&self, exporter: &str, sequence: u64) {
        self.0.exported(exporter, sequence);
    }
}

impl Inner {
    fn sweep(&mut self, node: Arc<str>) -> Arc<Snapshot> {
        let began = Instant::now();
        for old in self.snapshots.extract_if(.., |snapshot| Arc::strong_count(snapshot) == 1) {
            if let Ok(old) = Arc::try_unwrap(old) {
                self.ledger.recycle(old);
            }
        }
        if !self.ahead.sweep(began) {
            self.start_walks();
        }
        // Slots first: whoever holds one was born before, so that its event has come unless it was lost.
        let in_use = self.kernel.as_ref().map(Kernel::in_use).unwrap_or_default();
        self.follow_events(began);
        self.search_unknown(&in_use, began);
        self.walk(began, began, &in_use);
        self.refresh_names(began);
        let names = Arc::clone(&self.names);
        self.ledger.begin(began, &*names);
        let expired = self.expired(&in_use, began);
        self.read(&in_use, &in_use, &expired, began);
        self.ledger.finish(began, &*names);
        let mut snapshot = self.ledger.snapshot(SystemTime::now(), node, &*names);
        self.facts.describe(&mut snapshot, &names, self.ledger.changes());
        let snapshot = Arc::new(snapshot);
        self.snapshots.push(Arc::clone(&snapshot));
        self.sweep = began.elapsed();
        snapshot
    }

    /// For a sweep that is about to come.
    fn walk_ahead(&mut self) {
        let now = Instant::now();
        if self.start_walks() {
            self.ahead.walk(now);
        }
        let in_use = self.kernel.as_ref().map(Kernel::in_use).unwrap_or_default();
        // What would be due at the sweep or just after it.
        self.walk(now, now + 2 * AHEAD, &in_use);
    }

    /// Has collectors begin the walks for which they wait in a sweep; gives whether all have.
    fn start_walks(&mut self) -> bool {
        let mut all = true;
        for attached in &mut self.collectors {
            all &= attached.collector.start_walk();
        }
        all
    }

    /// Has those walk whose walks are due by then.
    fn walk(&mut self, now: Instant, by: Instant, in_use: &SlotsInUse) {
        for attached in self.collectors.iter_mut().filter(|attached| attached.collector.walk_is_due(by)) {
            attached.collector.walk(now, in_use);
        }
    }

    /// Tells names who is there, as often as they are to hear it.
    fn refresh_names(&mut self, now: Instant) {
        let Some(look) = self.unnamed.due(now) else { return };
        let unknown = match look {
            Look::All => {
                // The ledger's entities need names for as long as it has values of them, their cgroups gone or not.
                let of_ledger = self.ledger.entities().map(|entity| (&**entity, false));
                self.names.refresh(self.cgroups.entities().chain(of_ledger))
            }
            Look::Young => {
                let is_young = |entity: &Entity| match entity {
                    Entity::Container(container) => self.unnamed.is_young(&container.pod_uid, now),
                    Entity::Unit(_) | Entity::Workload(_) => false,
                };
                self.names.meet(self.cgroups.entities().filter(|(entity, _)| is_young(entity)))
            }
        };
        self.unnamed.found(look, unknown, now);
    }

    fn reap(&mut self) {
        let now = Instant::now();
        self.follow_events(now);
        self.tell(now, false);
        self.refresh_names(now);
        if let Some(kernel) = &mut self.kernel {
            kernel.tell_late_cpus();
        }
        for attached in &mut self.collectors {
            attached.collector.tick();
        }
        self.give_back(now);
        let is_idle = self.unknown.is_empty() && !self.cgroups.any_removed();
        if is_idle || now.duration_since(self.freed) < FREE {
            return;
        }
        self.freed = now;
        let in_use = self.kernel.as_ref().map(Kernel::in_use).unwrap_or_default();
        let expired = self.expired(&in_use, now);
        if !expired.is_empty() {
            self.read(&expired, &in_use, &expired, now);
        }
        let Self { cgroups, unknown, .. } = self;
        let is_of_interest = |key: &CgroupKey| cgroups.is_removed(*key) || unknown.contains_key(key);
        let keys: HashSet<CgroupKey> = in_use.iter().map(|(_, slot)| slot.key).filter(is_of_interest).collect();
        cgroups.forget(now, |key| keys.contains(&key));
        unknown.retain(|key, _| keys.contains(key) && cgroups.get(*key).is_none());
    }
}

/// Logs each collector's state, once.
pub fn log_states(states: &[(&'static str, State)]) {
    for (collector, state) in states {
        match state {
            State::Running | State::Disabled => info!(collector, state = state.name(), "collector"),
            State::Degraded(reason) | State::Unsupported(reason) | State::Failed(reason) => {
                warn!(collector, state = state.name(), reason, "collector");
            }
        }
    }
}
