//! Which of a pod's containers is its sandbox, that no status lists.
//!
//! Where a pod's birth was witnessed, the first container in it is the sandbox, once the status lists others. Where no
//! container is ever started twice and each is listed, all else is sandbox. In other pods, since a container that was just
//! started is not listed either, this waits until nothing else is possible: each of the pod's containers is listed and
//! accounted for, exactly one more lives beside them, and that stays so for [`CERTAIN_AFTER`]. In all other cases the
//! container keeps its id for a name. Runtimes that make no sandbox cgroup, such as CRI-O by default, never come that far.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Entry, Known, Table};
use crate::attribution::kubernetes::pod::{Container, Phase, Pod, Restart};

/// A restarted container is listed, and its predecessor's cgroup gone, long before this.
pub(super) const CERTAIN_AFTER: Duration = Duration::from_secs(10);

/// A container that may be the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    id: Arc<str>,
    since: Instant,
}

/// The birth of a pod's cgroup.
#[derive(Debug)]
pub(super) struct Birth {
    /// The first container that was born in it.
    pub(super) first: Option<Arc<str>>,
    pub(super) used: Instant,
}

impl Table {
    /// A runtime makes the sandbox before any container: if the first that was born is not listed although others
    /// are, it is the sandbox.
    pub(super) fn settle_first(&mut self, pod_uid: &str, now: Instant) {
        let Some(Birth { first: Some(first), .. }) = self.births.get(pod_uid) else { return };
        let first = Arc::clone(first);
        let Some(entry) = self.of_cgroup_mut(pod_uid) else { return };
        let lists_others = |pod: &Pod| pod.has_sandbox && pod.containers.iter().any(|one| one.id.is_some());
        if !entry.containers.contains_key(&first) && entry.pod.as_ref().is_some_and(lists_others) {
            entry.containers.insert(first, Known { name: None, image: "".into(), used: now });
            entry.changes += 1;
        }
    }
}

impl Entry {
    /// Takes a container that is not listed for the sandbox, if all that the pod can ever have are listed.
    pub(super) fn settle_unlisted(&mut self, id: &Arc<str>, now: Instant) -> bool {
        let is_only_life = |container: &Container| container.restart == Restart::Never && container.id.is_some();
        let lists_all =
            |pod: &Pod| pod.has_sandbox && !pod.containers.is_empty() && pod.containers.iter().all(is_only_life);
        let is_sandbox = self.pod.as_ref().is_some_and(lists_all);
        if is_sandbox {
            self.learn(id, None, &"".into(), now);
        }
        is_sandbox
    }

    /// Looks at the pod's living containers. `living` is sorted.
    pub(super) fn find_sandbox(&mut self, living: &[Arc<str>], now: Instant) {
        let candidate = self.only_possible(living).cloned();
        self.candidate = match (candidate, self.candidate.take()) {
            (Some(id), Some(known)) if known.id == id => {
                if now.duration_since(known.since) < CERTAIN_AFTER {
                    Some(known)
                } else {
                    self.containers.insert(id, Known { name: None, image: "".into(), used: now });
                    self.changes += 1;
                    None
                }
            }
            (Some(id), _) => Some(Candidate { id, since: now }),
            (None, _) => None,
        };
    }

    fn only_possible<'a>(&self, living: &'a [Arc<str>]) -> Option<&'a Arc<str>> {
        let has_sandbox = living.iter().any(|id| self.containers.get(id).is_some_and(|known| known.name.is_none()));
        let pod = self.pod.as_ref().filter(|pod| self.listed && !has_sandbox && !pod.containers.is_empty())?;
        let is_settled = |container: &Container| match (container.phase, &container.id) {
            (Phase::Running, Some(id)) => living.binary_search(id).is_ok(),
            (Phase::Ended { well }, Some(_)) => match container.restart {
                Restart::Never => true,
                Restart::OnFailure => well,
                Restart::Always => false,
            },
            _ => false,
        };
        if !pod.containers.iter().all(is_settled) {
            return None;
        }
        let mut unlisted = living.iter().filter(|id| !self.containers.contains_key(*id));
        let first = unlisted.next()?;
        unlisted.next().is_none().then_some(first)
    }
}
