//! CPU time by mode where version 1 counts it in a hierarchy without the quotas: a walk through that one.
//!
//! It follows the walk for the quotas, by the same program. Whose times these are is told by ids of that hierarchy (apart.rs).

use podlens_common::{
    cgroup::CgroupKey,
    cpu::{ACCOUNTS, CpuRecord, CpuTimes, CpuTimesAt},
    event::EndPath,
};

use super::times::Modes;
use crate::{
    collectors::{
        apart::{IdSource, Ids},
        tree::TreeReader,
    },
    kernel::cgroupfs::{
        files::{FileReader, Watch},
        hierarchies::Tree,
    },
};

/// The hierarchy, and whose its cgroups are.
pub(super) struct Accounts {
    tree: Tree,
    reader: FileReader,
    /// A cgroup's end is told.
    pub(super) tells_ends: bool,
    ids: Ids,
}

/// A cgroup's id there, which is looked for until it is known.
pub(super) enum AccountId {
    /// It is looked for.
    Sought(Watch<Option<u64>>),
    /// It is known.
    Known(u64),
}

impl Accounts {
    pub(super) fn new(tree: Tree, reader: FileReader, tells_ends: bool) -> Self {
        Self { tree, reader, tells_ends, ids: Ids::default() }
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

    /// What a walk finds of those whose ids are known; none if it does not come round.
    pub(super) fn walk(&self, walk: &TreeReader<CpuRecord>) -> Option<Vec<(CgroupKey, Modes)>> {
        walk.walk_through(ACCOUNTS, Vec::new, |found, record| {
            let CpuTimes { user, system, .. } = record.figures.handed_up;
            found.extend(self.ids.of(record.id).map(|key| (key, [user, system])));
        })
    }
}

/// What a cgroup had used by its end.
pub(super) fn of_end(end: &CpuTimesAt) -> Modes {
    [end.times.user, end.times.system]
}
