//! Kubernetes names for pods and containers.
//!
//! [`Names`] is what the pipeline asks; one of the sources fills it in the background:
//!
//! | file | what |
//! | --- | --- |
//! | source.rs | chooses the source and says why |
//! | api.rs | the API server: one list and one watch of this node's pods |
//! | kubelet.rs | the kubelet's own list, asked for while something has no name, and at a container's end |
//! | bundle.rs | the annotations that runtimes write beside each container |
//! | client.rs | HTTP as both servers want it |
//! | plugin.rs | the program that a kubeconfig names for credentials |
//! | wishes.rs | what the pipeline wants to be looked for |
//! | pacer.rs | how often something is looked for, pure |
//! | pod.rs, event.rs, workload.rs, quantity.rs | from JSON to what names need, pure |
//! | table.rs | what is known, pure |
//! | facts.rs | facts about a container beside its names, pure |
//!
//! Without names values are exported under the pod's uid and the container's id: nothing waits, nothing is guessed.

pub mod api;
pub mod bundle;
pub mod client;
pub mod event;
mod facts;
pub mod kubelet;
pub mod list_watch;
mod pacer;
pub mod plugin;
pub mod pod;
pub mod quantity;
pub mod source;
pub mod table;
mod wishes;
pub mod workload;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tracing::warn;

pub use self::facts::{Facts, PodFacts};
use self::{
    pod::Pod,
    table::{ContainerFacts, End, Table, Unknown},
    wishes::Wishes,
};
use crate::signal::{Container, Entity, Loss, Naming, lock};

/// Names are kept so much longer than the last value that may need them.
const MARGIN: Duration = Duration::from_mins(1);

/// The names of this node's pods.
#[derive(Debug)]
pub struct Names {
    table: RwLock<Table>,
    /// The table's, as of the last change: finding it takes a look at each pod.
    version: AtomicU64,
    /// Containers without a name.
    unnamed: Wishes,
    /// Containers that have ended and whose pods' statuses have not told it.
    ended: Wishes,
    /// The source lists pods with their statuses.
    lists_pods: AtomicBool,
    /// It has done so.
    has_list: AtomicBool,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: HashMap<(&'static str, &'static str, &'static str), u64>,
    synced: Option<bool>,
    odd: u64,
}

/// A name was dropped.
pub static NO_ROOM: Loss = Loss { reason: "no_room", means: "there are more names than the table holds" };

/// A name was not believed.
pub static CONTRADICTION: Loss = Loss {
    reason: "contradiction",
    means: "two sources, or two answers, named one pod differently; podlens keeps the first name",
};

/// An object of a list was left out.
pub static ODD_OBJECT: Loss = Loss {
    reason: "odd_object",
    means: "an object in the list of pods is no pod (it has no uid, or has another form); the log says which one and why. All others get their names",
};

/// What sources ask: each source, its verbs, and the results that a request can have. The labels of
/// `podlens_names_requests_total`.
pub static REQUESTS: &[(&str, &[&str], &[&str])] = &[
    (api::SOURCE, api::VERBS, client::RequestError::RESULTS),
    (kubelet::SOURCE, kubelet::VERBS, client::RequestError::RESULTS),
    (bundle::SOURCE, bundle::VERBS, bundle::RESULTS),
];

/// All that names can lose.
pub static LOSSES: &[&Loss] = &[&NO_ROOM, &CONTRADICTION, &ODD_OBJECT];

/// What names tell about themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamesHealth {
    /// Requests by source, verb and result.
    pub requests: Vec<(&'static str, &'static str, &'static str, u64)>,
    /// Pods that exist by the source's last word; none where it has listed none yet, or never does.
    pub pods: Option<u64>,
    /// Whether the source answers now; none without a source.
    pub synced: Option<bool>,
    /// Names that were dropped for want of room.
    pub dropped: u64,
    /// Answers that contradicted earlier ones.
    pub conflicts: u64,
    /// Objects in answers that are no pods and were left out.
    pub odd: u64,
}

impl NamesHealth {
    /// How often, for each of [`LOSSES`].
    #[must_use]
    pub fn lost(&self) -> [(&'static Loss, u64); 3] {
        [(&NO_ROOM, self.dropped), (&CONTRADICTION, self.conflicts), (&ODD_OBJECT, self.odd)]
    }
}

impl Names {
    /// Knows nothing yet, and keeps names as long as a ledger with that linger time may need them.
    #[must_use]
    pub fn new(linger: Duration) -> Self {
        Self {
            table: RwLock::new(Table::new(linger + MARGIN)),
            version: AtomicU64::new(0),
            unnamed: Wishes::default(),
            ended: Wishes::default(),
            lists_pods: AtomicBool::new(false),
            has_list: AtomicBool::new(false),
            counts: Mutex::default(),
        }
    }

    /// A pod is as described.
    pub fn apply(&self, pod: Pod) {
        self.change(|table| table.apply(pod, Instant::now()));
    }

    /// A pod is gone.
    pub fn delete(&self, uid: &str) {
        self.change(|table| table.delete(uid, Instant::now()));
    }

    /// Keeps from now on the ends of containers that end after `since`, until [`Self::take_ends`].
    pub fn tell_ends(&self, since: SystemTime) {
        self.write().tell_ends(since);
    }

    /// The ends that pods' statuses have told since the last call.
    #[must_use]
    pub fn take_ends(&self) -> Vec<End> {
        self.write().take_ends()
    }

    /// Whether pods' statuses are being read: not every source has them.
    #[must_use]
    pub fn tells_statuses(&self) -> bool {
        self.lists_pods.load(Ordering::Relaxed)
    }

    /// A container of this entity has ended: its pod's status is wanted soon. No sandbox has one.
    pub fn want_end(&self, entity: &Entity) {
        let Entity::Container(container) = entity else { return };
        let is_sandbox = matches!(self.name(entity), Entity::Container(named) if named.container.is_empty());
        if !is_sandbox {
            self.ended.add([Unknown::of(container)]);
        }
    }

    /// Whether the source answers now; none without a source.
    #[must_use]
    pub fn synced(&self) -> Option<bool> {
        self.counts().synced
    }

    /// These are all pods.
    pub fn replace_all(&self, pods: Vec<Pod>) {
        self.change(|table| table.replace_all(pods, Instant::now()));
        self.has_list.store(true, Ordering::Relaxed);
    }

    /// A container's annotations tell its names.
    pub fn learn(&self, facts: &ContainerFacts) {
        self.change(|table| table.learn(facts, Instant::now()));
    }

    /// What is known about a container beside its names.
    #[must_use]
    pub fn facts(&self, container: &Container) -> Facts {
        Facts::of(&self.read(), container)
    }

    /// A cgroup of this entity was born: its name is wanted at once, since it may be gone in a moment. `in_order`: after
    /// all others that were told before.
    pub fn born(&self, entity: &Entity, in_order: bool) {
        let Entity::Container(container) = entity else { return };
        if in_order {
            self.write().born(container, Instant::now());
        }
        if !container.container_id.is_empty() && !self.read().knows(entity) {
            self.unnamed.add([Unknown::of(container)]);
        }
    }

    /// Some births were not told.
    pub fn births_lost(&self) {
        self.write().births_lost();
    }

    /// Meets everyone whose names may still be asked for, and whether each has a living cgroup; drops what nobody needs any
    /// more. Gives the pods of those who lack a name.
    pub fn refresh<'a>(&self, entities: impl IntoIterator<Item = (&'a Entity, bool)>) -> Vec<Arc<str>> {
        self.want(self.change(|table| table.refresh(entities, Instant::now())))
    }

    /// Meets all containers of some pods likewise, which says nothing about any other.
    pub fn meet<'a>(&self, entities: impl IntoIterator<Item = (&'a Entity, bool)>) -> Vec<Arc<str>> {
        self.want(self.change(|table| table.meet(entities, Instant::now())))
    }

    /// The names of these are wanted. Gives their pods.
    fn want(&self, unknown: Vec<Unknown>) -> Vec<Arc<str>> {
        let pods = unknown.iter().map(|one| Arc::clone(&one.pod_uid)).collect();
        self.unnamed.add(unknown);
        pods
    }

    /// Counts about names.
    #[must_use]
    pub fn health(&self) -> NamesHealth {
        let counts = self.counts();
        let mut requests: Vec<_> =
            counts.requests.iter().map(|((source, verb, result), count)| (*source, *verb, *result, *count)).collect();
        requests.sort_unstable();
        let (synced, odd) = (counts.synced, counts.odd);
        drop(counts);
        let table = self.read();
        NamesHealth {
            requests,
            pods: self.has_list.load(Ordering::Relaxed).then(|| table.listed() as u64),
            synced,
            dropped: table.dropped(),
            conflicts: table.conflicts(),
            odd,
        }
    }

    /// A source will make requests of these kinds, each with one of these results: they are counted from 0.
    fn expect(&self, source: &'static str, verbs: &[&'static str], results: &[&'static str]) {
        let mut counts = self.counts();
        for verb in verbs {
            for result in results {
                counts.requests.entry((source, *verb, *result)).or_default();
            }
        }
    }

    /// A request was made.
    fn count(&self, source: &'static str, verb: &'static str, result: &'static str) {
        *self.counts().requests.entry((source, verb, result)).or_default() += 1;
    }

    /// These objects in an answer are no pods. The log tells of the first one.
    fn leave_out(&self, odd: &[String]) {
        let Some(first) = odd.first() else { return };
        let mut counts = self.counts();
        if counts.odd == 0 {
            warn!(
                object = first,
                "an object in the list of pods is left out, and its containers keep their ids for names"
            );
        }
        counts.odd += odd.len() as u64;
    }

    /// The source lists pods with their statuses.
    fn set_lists_pods(&self) {
        self.lists_pods.store(true, Ordering::Relaxed);
    }

    /// The source answers, or does not.
    fn set_synced(&self, synced: bool) {
        self.counts().synced = Some(synced);
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the version tells of.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.write();
        let result = change(&mut table);
        self.version.store(table.version(), Ordering::Release);
        result
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody still lacks this name.
    fn lacks(&self, unknown: &Unknown) -> bool {
        let table = self.read();
        !table.knows_id(&unknown.pod_uid, &unknown.container_id)
    }

    /// Whether no status has told this container's end yet.
    fn lacks_end(&self, unknown: &Unknown) -> bool {
        !self.read().has_told_end(&unknown.pod_uid, &unknown.container_id)
    }

    /// Whether the source may yet tell this name though it has answered: it does not list the pod, or lists it
    /// without all its ids.
    fn may_come(&self, unknown: &Unknown) -> bool {
        self.read().may_learn(&unknown.pod_uid)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }
}

/// Each answer is of its own moment: nobody who brings names waits for a whole sweep.
impl Naming for Names {
    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn name(&self, entity: &Entity) -> Entity {
        self.read().name(entity)
    }

    fn is_pending(&self, entity: &Entity) -> bool {
        self.counts().synced.is_some() && !self.read().knows(entity)
    }
}

#[cfg(test)]
mod tests;
