//! CPU time by mode where version 1 counts it in a hierarchy without the quotas: a walk through that one.
//!
//! The thread that reads cgroups' files makes the walk, when a sweep is expected, so that no sweep waits for it. Whose times these are
//! is told by ids of that hierarchy (apart.rs).

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use podlens_common::{
    cgroup::CgroupKey,
    cpu::{ACCOUNTS, CpuTimes, CpuTimesAt},
    event::EndPath,
};

use super::{Walk, times::Modes};
use crate::{
    collectors::apart::{IdSource, Ids},
    kernel::cgroupfs::{
        files::{FileReader, Source, Turn, Watch},
        hierarchies::Tree,
    },
    signal::lock,
};

/// The hierarchy, and what the last walk through it has found.
pub(super) struct Accounts {
    tree: Tree,
    reader: FileReader,
    /// A cgroup's end is told.
    pub(super) tells_ends: bool,
    ids: Ids,
    walks: Watch<()>,
    shared: Arc<Shared>,
    /// The walk that was taken last.
    taken: Option<Instant>,
}

/// What the thread hands over.
#[derive(Default)]
struct Shared {
    found: Mutex<Vec<(u64, Modes)>>,
    unfinished: AtomicU64,
}

struct WalkSource {
    walk: Walk,
    shared: Arc<Shared>,
}

/// A cgroup's id there, which is looked for until it is known.
pub(super) enum AccountId {
    /// It is looked for.
    Sought(Watch<Option<u64>>),
    /// It is known.
    Known(u64),
}

impl Accounts {
    pub(super) fn new(tree: Tree, walk: Walk, reader: FileReader, tells_ends: bool) -> Self {
        let shared = Arc::new(Shared::default());
        let walks = reader.watch(WalkSource { walk, shared: Arc::clone(&shared) });
        Self { tree, reader, tells_ends, ids: Ids::default(), walks, shared, taken: None }
    }

    /// A cgroup exists at this path.
    pub(super) fn born(&mut self, key: CgroupKey, path: &str) -> AccountId {
        self.ids.add(key, path);
        AccountId::Sought(self.reader.watch(IdSource::of(self.tree.directory(path))))
    }

    /// Takes note of a cgroup's id, if it has become known.
    pub(super) fn learn(&mut self, key: CgroupKey, account: &mut AccountId) {
        let AccountId::Sought(watch) = account else { return };
        if let Some(id) = watch.last().and_then(|reading| reading.value) {
            self.ids.learn(key, id);
            *account = AccountId::Known(id);
        }
    }

    /// A cgroup is gone.
    pub(super) fn forget(&mut self, key: CgroupKey, account: &AccountId) {
        let id = match account {
            AccountId::Sought(_) => None,
            AccountId::Known(id) => Some(*id),
        };
        self.ids.forget(key, id);
    }

    /// Whose last times these are.
    pub(super) fn of_end(&self, id: u64, path: &EndPath) -> Option<CgroupKey> {
        self.ids.of_end(id, path, &self.tree)
    }

    /// What a walk has found that was not taken yet.
    pub(super) fn take(&mut self) -> Vec<(CgroupKey, Modes)> {
        let at = self.walks.last().map(|reading| reading.at);
        if self.taken == at {
            return Vec::new();
        }
        self.taken = at;
        let found = mem::take(&mut *lock(&self.shared.found));
        found.into_iter().filter_map(|(id, modes)| Some((self.ids.of(id)?, modes))).collect()
    }

    /// When the walk was made that was taken last.
    pub(super) fn walked(&self) -> Option<Instant> {
        self.taken
    }

    /// Walks that did not come round.
    pub(super) fn unfinished(&self) -> u64 {
        self.shared.unfinished.load(Ordering::Relaxed)
    }
}

impl Source for WalkSource {
    type Value = ();

    fn read(&mut self, _: &mut Turn) {
        let found = lock(&self.walk).walk_through(ACCOUNTS, Vec::new, |found, record| {
            let CpuTimes { user, system, .. } = record.figures.handed_up;
            found.push((record.id, [user, system]));
        });
        match found {
            Some(found) => *lock(&self.shared.found) = found,
            None => {
                self.shared.unfinished.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What a cgroup had used by its end.
pub(super) fn of_end(end: &CpuTimesAt) -> Modes {
    [end.times.user, end.times.system]
}
