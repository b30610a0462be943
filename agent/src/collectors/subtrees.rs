//! From the records of a walk through a tree, each cgroup before those below it, to sums over what lies below. Pure; for any
//! collector that has such a walk.

use podlens_common::cgroup::CgroupKey;

/// Cgroups that are met, and what was found of those that are wanted.
pub(super) struct Subtrees<R, const SUMS: usize> {
    open: Vec<Open<SUMS>>,
    /// Whose record it is, and its figures with those of all below.
    pub(super) found: Vec<(CgroupKey, R, [u64; SUMS])>,
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
            self.found.push((key, *record, sums));
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
            if let Some((.., of_found)) = found.and_then(|at| self.found.get_mut(at)) {
                *of_found = sums;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_added_up_over_all_below_the_removed_ones_included() {
        let mut subtrees = Subtrees::new();
        // Id 0: removed ones, among them those below removed ones.
        for (id, depth, pages) in
            [(1, 1, 1), (2, 2, 10), (0, 3, 100), (3, 3, 1000), (4, 2, 10_000), (5, 1, 7), (0, 2, 2)]
        {
            subtrees.take(depth, [0, pages], (id != 0 && id != 4).then_some((id + 100, &id)));
        }
        let mut found = subtrees.finish().found;
        found.sort_unstable();
        assert_eq!(found, [(101, 1, [0, 11_111]), (102, 2, [0, 1110]), (103, 3, [0, 1000]), (105, 5, [0, 9])]);
    }
}
