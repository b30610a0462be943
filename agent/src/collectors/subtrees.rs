//! From the records of a walk through a tree, each cgroup before those below it, to sums over what lies below. Pure; for any
//! collector that has such a walk.

use podlens_common::cgroup::CgroupKey;

/// Cgroups that are met, and what was found of those that are wanted.
pub(super) struct Subtrees<R, const SUMS: usize> {
    open: Vec<Open<SUMS>>,
    pub(super) found: Vec<Found<R, SUMS>>,
}

/// A cgroup that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found<R, const SUMS: usize> {
    /// Whose record it is.
    pub(super) key: CgroupKey,
    pub(super) record: R,
    /// Its figures with those of all below.
    pub(super) sums: [u64; SUMS],
    /// Where the next one above it stands among those that were found.
    pub(super) above: Option<usize>,
}

/// A cgroup of which more below may come.
struct Open<const SUMS: usize> {
    depth: u64,
    sums: [u64; SUMS],
    /// Where it stands among those that were found, whose sums it gets in the end. Records are long, and copied once.
    found: Option<usize>,
}

impl<R: Copy, const SUMS: usize> Subtrees<R, SUMS> {
    /// Nothing is met yet.
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), found: Vec::new() }
    }

    /// The next cgroup, so far below the root and with these figures of its own; `wanted`: whose record it is, if somebody wants
    /// it.
    pub(super) fn take(&mut self, depth: u64, sums: [u64; SUMS], wanted: Option<(CgroupKey, &R)>) {
        self.close(depth);
        let found = wanted.map(|(key, record)| {
            let above = self.open.iter().rev().find_map(|open| open.found);
            self.found.push(Found { key, record: *record, sums, above });
            self.found.len() - 1
        });
        self.open.push(Open { depth, sums, found });
    }

    /// Nothing comes any more.
    pub(super) fn finish(mut self) -> Self {
        self.close(0);
        self
    }

    /// Closes all that are not above `depth`.
    fn close(&mut self, depth: u64) {
        while let Some(Open { sums, found, .. }) = self.open.pop_if(|last| last.depth >= depth) {
            if let Some(above) = self.open.last_mut() {
                above.sums.iter_mut().zip(sums).for_each(|(sum, more)| *sum = sum.saturating_add(more));
            }
            if let Some(found) = found.and_then(|at| self.found.get_mut(at)) {
                found.sums = sums;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_above_is_in_the_same_branch() {
        let mut subtrees = Subtrees::new();
        for (id, depth) in [(1, 1), (2, 2), (4, 2), (5, 3), (6, 4)] {
            subtrees.take(depth, [], (id != 4).then_some((id, &())));
        }
        let above: Vec<_> = subtrees.finish().found.into_iter().map(|found| (found.key, found.above)).collect();
        assert_eq!(above, [(1, None), (2, Some(0)), (5, Some(0)), (6, Some(2))]);
    }

    #[test]
    fn figures_are_added_up_over_all_below_the_removed_ones_included() {
        let mut subtrees = Subtrees::new();
        // Id 0: removed ones, among them those below removed ones.
        for (id, depth, pages) in
            [(1, 1, 1), (2, 2, 10), (0, 3, 100), (3, 3, 1000), (4, 2, 10_000), (5, 1, 7), (0, 2, 2)]
        {
            subtrees.take(depth, [0, pages], (id != 0 && id != 4).then_some((id + 100, &id)));
        }
        let of = |key, record, pages, above| Found { key, record, sums: [0, pages], above };
        assert_eq!(
            subtrees.finish().found,
            [of(101, 1, 11_111, None), of(102, 2, 1110, Some(0)), of(103, 3, 1000, Some(1)), of(105, 5, 9, None)]
        );
    }
}
