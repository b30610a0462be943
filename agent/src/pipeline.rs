//! The pipeline: from the kernel's records to one snapshot. The only file that sees collectors, attribution,
//! registry and exporters together.
//!
//! Exporters ask for a snapshot; whoever asks while one is made waits for that one. Between asks the pipeline
//! follows births and removals and frees the slots of cgroups that are gone.

mod start;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use podlens_common::cgroup::{CgroupKey, SLOT_FIRST, SLOT_KERNEL, SLOT_ROOT, SLOT_UNATTRIBUTED, Slot};
use tracing::{error, info, warn};

pub use self::start::StartError;
use crate::{
    attribution::{cgroups::Cgroups, names::Names},
    collectors::{
        Caused, Reading, State,
        lifecycle::{Event, Lifecycle},
        scheduler::Scheduler,
    },
    export::SnapshotSource,
    kernel::object::{Object, SlotMaps},
    registry::{Container, Ledger, Owner, Snapshot},
};

/// A dying task's last slice ends after its cgroup can be removed: so long the slot is kept. Later ones find
/// the cgroup's path still known and count all the same.
const GRACE: Duration = Duration::from_secs(1);
/// A cgroup whose birth was missed is looked for this long before its values count as unattributed.
const SEARCH: Duration = Duration::from_secs(30);
/// Least time between two walks through the cgroup trees.
const RESCAN: Duration = Duration::from_secs(5);
/// How often names hear who is still there, beside each sweep.
const MEET: Duration = Duration::from_secs(2);

/// The pipeline of one node.
pub struct Pipeline {
    node: Arc<str>,
    max_age: Duration,
    states: Vec<(&'static str, State)>,
    started: Instant,
    names: Arc<Names>,
    inner: Mutex<Inner>,
    fresh: tokio::sync::Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

struct Inner {
    cgroups: Cgroups,
    names: Arc<Names>,
    met: Instant,
    kernel: Option<Kernel>,
    ledger: Ledger,
    /// Keys without a known cgroup, and since when.
    unknown: HashMap<CgroupKey, Instant>,
    scanned: Instant,
    lost_events: u64,
    sweep: Duration,
    since: SystemTime,
}

/// Slots in use and their holders, the reserved slots among them.
type Held = BTreeMap<u32, Slot>;

/// What is attached.
struct Kernel {
    slots: SlotMaps,
    scheduler: Option<Scheduler>,
    lifecycle: Option<Lifecycle>,
    /// Slots that could not be given back: they stay out of use.
    stuck: u64,
    // Detaches all programs when it goes.
    _object: Object,
}

/// Counts that the agent tells about itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Slots that are held, by living cgroups and by removed ones, and free ones.
    pub slots: [(&'static str, u64); 3],
    /// What was lost: collector, reason, how often.
    pub lost: Vec<(&'static str, &'static str, u64)>,
    /// CPU time of which it is not known who had it.
    pub unseen_ns: u64,
    /// How long the last sweep took.
    pub sweep: Duration,
    /// Owners that are gone and wait for their last export.
    pub gone_owners: u64,
}

impl Pipeline {
    /// Each collector and what became of it.
    #[must_use]
    pub fn states(&self) -> &[(&'static str, State)] {
        &self.states
    }

    /// Some collector delivers values.
    #[must_use]
    pub fn is_useful(&self) -> bool {
        self.states.iter().any(|(name, state)| *name != crate::collectors::lifecycle::SPEC.name && state.delivers())
    }

    /// A view of now, made by the caller's thread.
    #[must_use]
    pub fn sweep(&self) -> Snapshot {
        self.lock().sweep(Arc::clone(&self.node))
    }

    /// Follows births and removals, and frees slots. To be called about once a second.
    pub fn tidy(&self) {
        self.lock().tidy();
    }

    /// Becomes readable when something is born or removed; none without the collector `lifecycle`.
    #[must_use]
    pub fn events(&self) -> Option<io::Result<OwnedFd>> {
        self.lock().kernel.as_ref()?.lifecycle.as_ref().map(Lifecycle::events)
    }

    /// Counts about the pipeline itself.
    #[must_use]
    pub fn health(&self) -> Health {
        self.lock().health()
    }

    /// Expects acknowledgements of this exporter from now on.
    pub fn expect_exporter(&self, name: &str) {
        self.lock().ledger.exported(name, 0, Instant::now());
    }

    /// The names of pods, for a source to fill.
    #[must_use]
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// How long it has been at work.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The source of both exporters: the pipeline, shared.
#[derive(Clone)]
pub struct Source(pub Arc<Pipeline>);

impl SnapshotSource for Source {
    async fn snapshot(&self) -> Arc<Snapshot> {
        let mut fresh = self.0.fresh.lock().await;
        if let Some((made, snapshot)) = fresh.as_ref()
            && made.elapsed() < self.0.max_age
        {
            return Arc::clone(snapshot);
        }
        let pipeline = Arc::clone(&self.0);
        let made = Instant::now();
        // The sweep sleeps a moment to set its clock, and reads more the more CPUs there are.
        let snapshot = match tokio::task::spawn_blocking(move || pipeline.sweep()).await {
            Ok(snapshot) => Arc::new(snapshot),
            Err(cause) => {
                error!(%cause, "a sweep ended early; the last snapshot is served again");
                match fresh.as_ref() {
                    Some((_, last)) => return Arc::clone(last),
                    None => Arc::new(self.0.lock().empty(Arc::clone(&self.0.node))),
                }
            }
        };
        *fresh = Some((made, Arc::clone(&snapshot)));
        snapshot
    }

    fn exported(&self, exporter: &str, sequence: u64) {
        self.0.lock().ledger.exported(exporter, sequence, Instant::now());
    }
}

impl Inner {
    fn sweep(&mut self, node: Arc<str>) -> Snapshot {
        let began = Instant::now();
        self.follow_events(began);
        self.meet(began);
        let names = Arc::clone(&self.names);
        let names = names.view();
        self.ledger.begin(began, &names);
        if let Some(mut kernel) = self.kernel.take() {
            self.read(&mut kernel, began);
            self.kernel = Some(kernel);
        }
        self.ledger.finish(began, &names);
        let mut snapshot = self.ledger.snapshot(SystemTime::now(), node, &names);
        names.describe(&mut snapshot);
        self.sweep = began.elapsed();
        snapshot
    }

    fn empty(&self, node: Arc<str>) -> Snapshot {
        Snapshot { sequence: 0, taken: self.since, node, owners: Vec::new(), families: Vec::new(), infos: Vec::new() }
    }

    fn meet(&mut self, now: Instant) {
        self.met = now;
        // The ledger's owners need names for as long as it has values of them, their cgroups gone or not.
        self.names.meet(self.cgroups.owners().chain(self.ledger.owners().map(|owner| (owner, false))));
    }

    fn tidy(&mut self) {
        let now = Instant::now();
        self.follow_events(now);
        if now.duration_since(self.met) >= MEET {
            self.meet(now);
        }
        if let Some(mut kernel) = self.kernel.take() {
            let held = kernel.held();
            let over: Held = held
                .iter()
                .filter(|(_, slot)| self.is_over(slot.key, now))
                .map(|(number, slot)| (*number, *slot))
                .collect();
            if !over.is_empty() {
                let (readings, caused) = kernel.sweep(&over);
                self.enter(&mut kernel, &over, readings, now);
                self.enter_caused(&held, &caused);
            }
            let keys: HashSet<CgroupKey> = held.values().map(|slot| slot.key).collect();
            self.cgroups.forget(now, |key| keys.contains(&key));
            self.unknown.retain(|key, _| keys.contains(key));
            self.kernel = Some(kernel);
        }
    }

    fn read(&mut self, kernel: &mut Kernel, now: Instant) {
        let held = kernel.held();
        self.search_unknown(&held, now);
        if let Some(scheduler) = &mut kernel.scheduler {
            scheduler.set_clock();
        }
        let (readings, caused) = kernel.sweep(&held);
        self.enter(kernel, &held, readings, now);
        self.enter_caused(&held, &caused);
    }

    /// Enters rows into the ledger; those of cgroups that are over are final, and their slots become free.
    fn enter(&mut self, kernel: &mut Kernel, held: &Held, readings: Vec<Reading>, now: Instant) {
        for reading in readings {
            let number = reading.slot;
            let Some(slot) = held.get(&number).copied() else { continue };
            let Some((owner, since)) = self.owner(number, slot.key, now) else { continue };
            if number >= SLOT_FIRST && self.is_over(slot.key, now) {
                self.ledger.retire(0, &owner, since, &reading.row);
                kernel.release(number, slot);
            } else {
                self.ledger.observe(0, &owner, since, &reading.row);
            }
        }
    }

    fn enter_caused(&mut self, held: &Held, caused: &[Caused]) {
        let now = Instant::now();
        let owner_of = |number: u32| {
            let slot = held.get(&number)?;
            self.owner(number, slot.key, now).map(|(owner, _)| owner)
        };
        let pairs: Vec<(Owner, Owner, u64)> = caused
            .iter()
            .filter_map(|caused| Some((owner_of(caused.slot)?, as_culprit(owner_of(caused.culprit)?), caused.ns)))
            .collect();
        for (owner, culprit, ns) in pairs {
            self.ledger.caused(0, &owner, &culprit, ns);
        }
    }

    /// Whose slot it is; none while that is still being looked for.
    fn owner(&self, number: u32, key: CgroupKey, now: Instant) -> Option<(Owner, SystemTime)> {
        match number {
            SLOT_UNATTRIBUTED => Some((Owner::unit(Owner::UNATTRIBUTED), self.since)),
            SLOT_KERNEL => Some((Owner::unit(Owner::KERNEL), self.since)),
            SLOT_ROOT => Some((Owner::unit("/"), self.since)),
            _ => match self.cgroups.get(key) {
                Some(cgroup) => Some((cgroup.owner.clone(), cgroup.since)),
                None => self
                    .unknown
                    .get(&key)
                    .filter(|since| now.duration_since(**since) >= SEARCH)
                    .map(|_| (Owner::unit(Owner::UNATTRIBUTED), self.since)),
            },
        }
    }

    /// The cgroup was removed long enough ago that none of its tasks can run.
    fn is_over(&self, key: CgroupKey, now: Instant) -> bool {
        self.cgroups
            .get(key)
            .and_then(|cgroup| cgroup.removed)
            .is_some_and(|removed| now.duration_since(removed) >= GRACE)
    }

    fn follow_events(&mut self, now: Instant) {
        let Some(kernel) = &mut self.kernel else { return };
        let events = kernel.lifecycle.as_mut().map(Lifecycle::drain).unwrap_or_default();
        for event in events {
            let born = match &event {
                Event::Born { key, .. } => Some(*key),
                Event::Removed { .. } => None,
            };
            self.cgroups.apply(event, now);
            if let Some(cgroup) = born.and_then(|key| self.cgroups.get(key)) {
                self.names.born(&cgroup.owner);
            }
        }
        let losses = kernel.slots.losses();
        let lost = losses.event_lost + losses.path_unreadable;
        let blind = kernel.lifecycle.is_none();
        if (lost != self.lost_events || blind) && now.duration_since(self.scanned) >= RESCAN {
            if lost != self.lost_events {
                self.names.births_lost();
                warn!(
                    lost = lost - self.lost_events,
                    "births or removals of cgroups were lost; walking the trees instead"
                );
            }
            self.lost_events = lost;
            self.scanned = now;
            self.cgroups.rescan(now);
        }
    }

    /// Looks for cgroups that hold a slot and were never announced.
    fn search_unknown(&mut self, held: &Held, now: Instant) {
        let mut unknown = held
            .iter()
            .filter(|(number, slot)| **number >= SLOT_FIRST && self.cgroups.get(slot.key).is_none())
            .peekable();
        if unknown.peek().is_none() {
            return;
        }
        for (_, slot) in unknown {
            self.unknown.entry(slot.key).or_insert(now);
        }
        if now.duration_since(self.scanned) >= RESCAN {
            self.scanned = now;
            self.cgroups.rescan(now);
        }
    }

    fn health(&self) -> Health {
        let mut health = Health { sweep: self.sweep, gone_owners: self.ledger.gone() as u64, ..Health::default() };
        health.lost.push(("registry", "expired_unexported", self.ledger.expired()));
        if let Some(kernel) = &self.kernel {
            let held = kernel.held();
            let removed = held
                .values()
                .filter(|slot| self.cgroups.get(slot.key).is_some_and(|cgroup| cgroup.removed.is_some()))
                .count() as u64;
            let all = held.len() as u64;
            let free = u64::from(kernel.slots.count()).saturating_sub(all).saturating_sub(kernel.stuck);
            health.slots = [("live", all - removed), ("tombstone", removed), ("free", free)];
            let losses = kernel.slots.losses();
            health.lost.extend([
                ("lifecycle", "no_free_slot", losses.no_free_slot),
                ("lifecycle", "table_full", losses.table_full),
                ("lifecycle", "event_lost", losses.event_lost),
                ("lifecycle", "path_unreadable", losses.path_unreadable),
                ("lifecycle", "no_cgroup", losses.no_cgroup),
                ("lifecycle", "slot_stuck", kernel.stuck),
            ]);
            if let Some(lifecycle) = &kernel.lifecycle {
                health.lost.push(("lifecycle", "malformed_event", lifecycle.malformed()));
            }
            if let Some(scheduler) = &kernel.scheduler {
                health.lost.extend(scheduler.lost().map(|(reason, count)| ("scheduler", reason, count)));
                health.unseen_ns = scheduler.unseen_ns();
            }
        }
        health
    }
}

impl Kernel {
    /// The slots in use and their holders, the reserved ones among them.
    fn held(&self) -> Held {
        (0..self.slots.count())
            .filter_map(|number| Some((number, self.slots.get(number)?)))
            .filter(|(number, slot)| *number < SLOT_FIRST || slot.key != 0)
            .collect()
    }

    fn sweep(&mut self, held: &Held) -> (Vec<Reading>, Vec<Caused>) {
        let numbers: Vec<u32> = held.keys().copied().collect();
        let slots = &self.slots;
        let generation = |number| slots.get(number).map(|slot| slot.generation);
        self.scheduler.as_mut().map(|scheduler| scheduler.sweep(&numbers, generation)).unwrap_or_default()
    }

    fn release(&mut self, number: u32, slot: Slot) {
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.clear(number);
        }
        if let Err(cause) = self.slots.release(number, slot) {
            self.stuck += 1;
            warn!(slot = number, %cause, "a slot could not be given back");
        }
    }
}

/// Culprits are pods and units: a pod's containers count together.
fn as_culprit(owner: Owner) -> Owner {
    match owner {
        Owner::Container(container) => {
            Owner::Container(Container { container: "".into(), container_id: "".into(), ..container })
        }
        unit @ Owner::Unit(_) => unit,
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
