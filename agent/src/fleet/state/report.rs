//! What is known about one `DaemonSet` at one moment, for people and programs. Pure.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Slot, watched::Watched};
use crate::fleet::{
    causes::{Lack, Reason},
    objects::{Pod, Uid},
    placement::{Exclusion, placement},
    rollout::Rollout,
};

/// A pod that was deleted has this long beyond its grace period before it is said to hang.
const GONE_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// One `DaemonSet`.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Nodes that should have a pod.
    pub wanted: usize,
    /// Those of them that have one.
    pub present: usize,
    /// Those whose pod works.
    pub ready: usize,
    /// Those whose pod is of the newest revision.
    pub current: usize,
    /// Pods on nodes that should have none.
    pub misplaced: usize,
    /// Nodes that should have one that works, and why they have none, by the nodes' names.
    pub lacking: BTreeMap<String, Lack>,
    /// Nodes that should have none, by reason.
    pub excluded: BTreeMap<&'static str, usize>,
    /// Those of them that are kept without one by a taint, by the first taint that is not tolerated.
    pub taints: BTreeMap<String, usize>,
    /// Nodes that would have one but for one requirement, which may be a mistake.
    pub just_missed: BTreeMap<String, Exclusion>,
    /// Nodes whose pod is of an older revision, by the hash of that.
    pub old: BTreeMap<String, Vec<String>>,
    /// How far a new revision has come.
    pub rollout: Rollout,
    /// The newest revision is an older template.
    pub rolled_back: bool,
}

impl Report {
    pub(super) fn of(watched: &Watched, slots: &[Slot], pods: &HashMap<Uid, Pod>, now: Timestamp) -> Self {
        let meta = &watched.object.metadata;
        let counts = &watched.counts;
        let name = |slot: u32| slots.get(slot as usize).map(|slot| slot.name.to_string());
        let excluded = Exclusion::NAMES.iter().zip(counts.excluded).filter(|(_, count)| *count > 0);
        let lacking = watched.lacking.iter();
        Self {
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            wanted: counts.wanted,
            present: counts.present,
            ready: counts.ready,
            current: counts.current,
            misplaced: counts.misplaced,
            lacking: lacking.filter_map(|(slot, lacking)| Some((name(*slot)?, told(&lacking.lack, now)))).collect(),
            excluded: excluded.map(|(name, count)| (*name, count)).collect(),
            taints: taints(watched, slots),
            just_missed: watched
                .just_missed
                .iter()
                .filter_map(|(slot, why)| Some((name(*slot)?, why.clone())))
                .collect(),
            old: old(watched, slots, pods),
            rollout: watched.rollout.clone(),
            rolled_back: watched.newest.as_ref().is_some_and(|newest| newest.rolled_back),
        }
    }
}

/// Looked at anew: there is one for most nodes of some clusters, which nobody asks for most of the time.
fn taints(watched: &Watched, slots: &[Slot]) -> BTreeMap<String, usize> {
    let mut taints = BTreeMap::new();
    let nodes = watched.cells.iter().zip(slots).filter(|(cell, _)| cell.excluded.is_some());
    for node in nodes.filter_map(|(_, slot)| slot.node.as_ref()) {
        if let Some(Exclusion::Taint(taint)) = placement(watched.object.template(), node).exclusion() {
            *taints.entry(taint).or_default() += 1;
        }
    }
    taints
}

/// In the order of the nodes' names.
fn old(watched: &Watched, slots: &[Slot], pods: &HashMap<Uid, Pod>) -> BTreeMap<String, Vec<String>> {
    let mut old = BTreeMap::<String, Vec<String>>::new();
    let is_own = |pod: &&Pod| pod.daemon_set == Some(watched.object.metadata.uid) && !pod.is_over;
    for (_, slot) in watched.cells.iter().zip(slots).filter(|(cell, _)| cell.present && !cell.current) {
        let own = slot.pods.iter().filter_map(|uid| pods.get(uid)).filter(is_own);
        let pod = own.max_by_key(|pod| (pod.works, pod.revision.as_deref()));
        if let Some(revision) = pod.and_then(|pod| pod.revision.as_deref()) {
            old.entry(revision.to_owned()).or_default().push(slot.name.to_string());
        }
    }
    for nodes in old.values_mut() {
        nodes.sort_unstable();
    }
    old
}

/// In a moment it may well be gone.
fn told(lack: &Lack, now: Timestamp) -> Lack {
    let is_leaving =
        lack.reason == Reason::Terminating && lack.since.is_some_and(|until| now.duration_since(until) < GONE_WITHIN);
    if !is_leaving {
        return lack.clone();
    }
    let pod = lack.detail.split(' ').next().unwrap_or_default();
    Lack { detail: format!("{pod} is being replaced"), ..lack.clone() }
}
