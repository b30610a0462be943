//! Cgroups of a hierarchy that a version 1 controller has for itself, where they have other ids than those that podlens knows them
//! by. Each is found by its path, which is the same in all hierarchies, until its id there is known; and its last words may
//! come after its removal is told. For any collector that reads such a hierarchy. What is not here: the walk, and what is read.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use podlens_common::{cgroup::CgroupKey, event::EndPath};

use crate::kernel::cgroupfs::{
    files::{Source, TURN, Turn},
    hierarchies::{Extent, Tree},
};

/// How long last words are waited for that come from another hierarchy than the removal.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);
/// A cgroup that has had no directory in the other hierarchy for so many turns hardly gets one.
const EARLY: Duration = TURN.saturating_mul(6);
/// So many turns are then left out.
const REST: u32 = 5;

/// Whose cgroup of the other hierarchy it is.
#[derive(Debug, Default)]
pub(super) struct Ids {
    by_id: HashMap<u64, CgroupKey, RandomState>,
    /// Those whose id is not known.
    by_path: HashMap<Box<str>, CgroupKey, RandomState>,
    /// Where births in the other hierarchy are told too: ids by path.
    told: HashMap<Box<str>, u64, RandomState>,
}

impl Ids {
    /// A cgroup without an id; gives the one that was told of its path already.
    pub(super) fn add(&mut self, key: CgroupKey, path: &str) -> Option<u64> {
        let told = self.told.get(path).copied();
        if let Some(id) = told {
            self.learn(key, id);
        } else {
            self.by_path.insert(path.into(), key);
        }
        told
    }

    /// A birth in the other hierarchy was told; gives whose id it is, if that cgroup had none.
    pub(super) fn tell(&mut self, path: &str, id: u64) -> Option<CgroupKey> {
        self.told.insert(path.into(), id);
        let key = self.by_path.get(path).copied()?;
        self.learn(key, id);
        Some(key)
    }

    /// The same of a removal there.
    pub(super) fn untell(&mut self, id: u64) {
        self.told.retain(|_, told| *told != id);
    }

    /// The id of a cgroup. It tells more than the path, which may be that of a later one by now.
    pub(super) fn learn(&mut self, key: CgroupKey, id: u64) {
        self.by_path.retain(|_, of_path| *of_path != key);
        self.by_id.insert(id, key);
    }

    /// Whose id it is.
    pub(super) fn of(&self, id: u64) -> Option<CgroupKey> {
        self.by_id.get(&id).copied()
    }

    /// Whose last words these are, from a cgroup of that id and at that path of the kernel's, of which `tree` is what is mounted.
    pub(super) fn of_end(&self, id: u64, path: &EndPath, tree: &Tree) -> Option<CgroupKey> {
        self.of(id).or_else(|| self.by_path.get(local(path.as_str()?, &tree.extent)?).copied())
    }

    /// Forgets a cgroup, but not what is another one's by now.
    pub(super) fn forget(&mut self, key: CgroupKey, id: Option<u64>) {
        match id {
            Some(id) if self.of(id) == Some(key) => {
                self.by_id.remove(&id);
            }
            Some(_) => {}
            None => self.by_path.retain(|_, of_path| *of_path != key),
        }
    }
}

/// The path in the mounted tree of what the kernel has at `path`.
fn local<'a>(path: &'a str, extent: &Extent) -> Option<&'a str> {
    match extent {
        Extent::Whole => Some(path),
        Extent::Part { begins_at } => path.strip_prefix(begins_at.as_deref()?).filter(|local| local.starts_with('/')),
    }
}

/// The id of the cgroup in that directory; none while there is none.
pub(super) fn id_at(directory: &Path) -> Option<u64> {
    fs::metadata(directory).ok().map(|found| found.ino())
}

/// Looks for a cgroup's id, at first at each turn, since its runtime makes its directories one after another.
pub(super) struct IdSource {
    directory: PathBuf,
    since: Instant,
}

impl IdSource {
    /// The cgroup that has, or gets, this directory.
    pub(super) fn of(directory: PathBuf) -> Self {
        Self { directory, since: Instant::now() }
    }
}

impl Source for IdSource {
    type Value = Option<u64>;

    fn read(&mut self, _: &mut Turn) -> Option<u64> {
        id_at(&self.directory)
    }

    fn rest(&self, now: Instant) -> u32 {
        if now.duration_since(self.since) >= EARLY { REST } else { 0 }
    }
}

/// Removed cgroups whose last words have not come, and until when they are waited for.
pub(super) struct Leaving<W>(HashMap<CgroupKey, (Instant, W), RandomState>);

impl<W> Default for Leaving<W> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<W> Leaving<W> {
    /// Waits for its last words from now on.
    pub(super) fn hold(&mut self, key: CgroupKey, watched: W) {
        self.0.insert(key, (Instant::now() + LAST_WORDS_WITHIN, watched));
    }

    pub(super) fn get_mut(&mut self, key: CgroupKey) -> Option<&mut W> {
        self.0.get_mut(&key).map(|(_, watched)| watched)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (CgroupKey, &W)> {
        self.0.iter().map(|(key, (_, watched))| (*key, watched))
    }

    /// Takes those whose last words have come, and those of which they are not waited for any longer.
    pub(super) fn over(&mut self, has_ended: impl Fn(&W) -> bool) -> Vec<(CgroupKey, W)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let over = self.0.extract_if(|_, (until, watched)| has_ended(watched) || now >= *until);
        over.map(|(key, (_, watched))| (key, watched)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn end(path: &str) -> EndPath {
        let mut end = EndPath { bytes: [0; EndPath::BYTES] };
        for (place, byte) in end.bytes.iter_mut().zip(path.bytes()) {
            *place = byte;
        }
        end
    }

    fn tree(extent: Extent) -> Tree {
        Tree { root: PathBuf::new(), number: 2, controllers: Vec::new(), extent }
    }

    #[test]
    fn a_cgroup_is_found_by_its_path_until_its_id_is_known_and_then_by_that_alone() {
        let (mut ids, whole) = (Ids::default(), tree(Extent::Whole));
        ids.add(7, "/a");
        assert_eq!((ids.of(70), ids.of_end(70, &end("/a"), &whole)), (None, Some(7)));
        ids.learn(7, 70);
        assert_eq!((ids.of(70), ids.of_end(70, &end(""), &whole)), (Some(7), Some(7)));
        assert_eq!(ids.of_end(71, &end("/a"), &whole), None, "a later one of the same path");
        ids.add(8, "/a");
        ids.forget(7, Some(70));
        assert_eq!((ids.of(70), ids.of_end(71, &end("/a"), &whole)), (None, Some(8)));
        ids.forget(8, None);
        assert_eq!(ids.of_end(71, &end("/a"), &whole), None);
    }

    #[test]
    fn the_births_of_both_hierarchies_come_in_any_order() {
        let mut ids = Ids::default();
        assert_eq!((ids.tell("/a", 70), ids.add(7, "/a"), ids.of(70)), (None, Some(70), Some(7)));
        assert_eq!((ids.add(8, "/b"), ids.tell("/b", 80), ids.of(80)), (None, Some(8), Some(8)));
        ids.forget(7, Some(70));
        ids.untell(70);
        assert_eq!((ids.add(9, "/a"), ids.of(70)), (None, None), "a later one of the same path");
    }

    #[test]
    fn paths_are_those_of_the_mounted_part() {
        let mut ids = Ids::default();
        ids.add(7, "/a");
        let part = |begins_at: Option<&str>| tree(Extent::Part { begins_at: begins_at.map(str::to_owned) });
        assert_eq!(ids.of_end(1, &end("/node/a"), &part(Some("/node"))), Some(7));
        assert_eq!(ids.of_end(1, &end("/node/a"), &part(Some("/other"))), None);
        assert_eq!(ids.of_end(1, &end("/a"), &part(None)), None, "it is not known where the part begins");
    }

    #[test]
    fn one_that_leaves_is_over_when_its_last_words_have_come() {
        let mut leaving = Leaving::default();
        leaving.hold(7, false);
        assert_eq!(leaving.over(|has_ended| *has_ended), []);
        *leaving.get_mut(7).unwrap() = true;
        assert_eq!(leaving.over(|has_ended| *has_ended), [(7, true)]);
        assert_eq!(leaving.iter().count(), 0);
    }
}
