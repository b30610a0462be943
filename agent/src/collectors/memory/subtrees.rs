//! From the records of a walk, each cgroup before those below it, to sums over what lies below. Pure.

use podlens_common::{
    cgroup::CgroupKey,
    memory::{LruList, MemoryRecord},
};

/// Cgroups that are met, and what was found of those that are wanted.
#[derive(Default)]
pub(super) struct Subtrees {
    open: Vec<Open>,
    /// Whose record it is, and its pages by list with those of all below.
    pub(super) found: Vec<(CgroupKey, MemoryRecord, [u64; LruList::COUNT])>,
}

/// A cgroup of which more below may come.
struct Open {
    depth: u64,
    lists: [u64; LruList::COUNT],
    wanted: Option<(CgroupKey, MemoryRecord)>,
}

impl Subtrees {
    /// The next record; `key`: whose it is, if somebody wants it.
    pub(super) fn take(&mut self, record: &MemoryRecord, key: Option<CgroupKey>) {
        self.close(record.depth);
        let wanted = key.map(|key| (key, *record));
        self.open.push(Open { depth: record.depth, lists: record.lists, wanted });
    }

    /// Nothing comes any more.
    pub(super) fn finish(mut self) -> Self {
        self.close(0);
        self
    }

    /// Closes all that are not above `depth`.
    fn close(&mut self, depth: u64) {
        while let Some(Open { lists, wanted, .. }) = self.open.pop_if(|last| last.depth >= depth) {
            if let Some(above) = self.open.last_mut() {
                above.lists.iter_mut().zip(lists).for_each(|(sum, pages)| *sum += pages);
            }
            if let Some((key, record)) = wanted {
                self.found.push((key, record, lists));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    #[test]
    fn lists_are_added_up_over_all_below_the_removed_ones_included() {
        let mut subtrees = Subtrees::default();
        // Id 0: removed ones, among them those below removed ones.
        for (id, depth, pages) in
            [(1, 1, 1), (2, 2, 10), (0, 3, 100), (3, 3, 1000), (4, 2, 10_000), (5, 1, 7), (0, 2, 2)]
        {
            let lists = [0, 0, pages, 0, 0];
            let record = MemoryRecord { id, depth, lists, ..MemoryRecord::zeroed() };
            subtrees.take(&record, (id != 0 && id != 4).then_some(id + 100));
        }
        let mut found: Vec<_> = subtrees
            .finish()
            .found
            .into_iter()
            .map(|(key, record, [.., pages, _, _])| (key, record.id, pages))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(101, 1, 11_111), (102, 2, 1110), (103, 3, 1000), (105, 5, 9)]);
    }
}
