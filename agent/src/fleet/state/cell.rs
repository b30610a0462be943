//! One `DaemonSet` on one node: what should be there, what is, and why nothing works there. Pure.

use std::collections::HashMap;

use super::{Question, Slot};
use crate::fleet::{
    causes::{self, Events, Lack, Reason},
    objects::{Pod, Template, Uid},
    placement::{Exclusion, Placement, placement},
};

/// What counts of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is counted by itself")]
pub(super) struct Cell {
    pub(super) wanted: bool,
    pub(super) present: bool,
    pub(super) ready: bool,
    pub(super) current: bool,
    pub(super) just_missed: bool,
    /// Why it should have none, as a position in [`Exclusion::NAMES`].
    pub(super) excluded: Option<u8>,
    /// Pods that should not be there.
    pub(super) misplaced: u8,
}

/// All that is found out about it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) cell: Cell,
    /// Why no pod works, and whether the pod is, or would be, of the newest revision.
    pub(super) lack: Option<(Lack, bool)>,
    /// Why a pod of the newest revision does not work beside an older one that does, as in a surge.
    pub(super) surge: Option<Lack>,
    /// A pod that may say itself why it is not ready, and where.
    pub(super) question: Option<Question>,
    /// The one requirement by which it should have none.
    pub(super) just_missed: Option<Exclusion>,
}

/// Who wants a pod there.
pub(super) struct Wants<'a> {
    pub(super) daemon_set: Uid,
    pub(super) template: &'a Template,
    /// The hash of the newest revision, where there are revisions.
    pub(super) newest: Option<&'a str>,
}

/// Looks at it.
pub(super) fn look(wants: &Wants<'_>, slot: &Slot, pods: &HashMap<Uid, Pod>, events: &Events) -> Found {
    let Some(node) = &slot.node else { return Found::default() };
    let mut found = Found::default();
    let cell = &mut found.cell;
    let all = || slot.pods.iter().filter_map(|uid| pods.get(uid));
    let own = || all().filter(|pod| pod.daemon_set == Some(wants.daemon_set));
    match placement(wants.template, node) {
        Placement::Wanted => {}
        // A pod that is there may stay and counts as if it were wanted.
        Placement::Stays(_) if own().any(|pod| !pod.is_over) => {}
        Placement::Stays(why) | Placement::Excluded(why) => {
            cell.excluded = Some(why.position());
            cell.misplaced = u8::try_from(own().filter(|pod| !pod.is_over).count()).unwrap_or(u8::MAX);
            cell.just_missed = why.just_misses();
            found.just_missed = Some(why).filter(Exclusion::just_misses);
            return found;
        }
    }
    cell.wanted = true;
    let is_current = |pod: &Pod| wants.newest.is_none_or(|newest| pod.revision.as_deref() == Some(newest));
    // While it surges a node has two.
    let best = own().max_by_key(|pod| (pod.works, !pod.is_over, is_current(pod)));
    cell.present = best.is_some_and(|pod| !pod.is_over);
    cell.current = best.is_some_and(|pod| !pod.is_over && is_current(pod));
    cell.ready = best.is_some_and(|pod| pod.works);
    let of_pod = |pod| {
        let beside: Vec<&Pod> = all().filter(|other| other.is_scheduled && !other.is_over).collect();
        causes::of_pod(pod, node, &beside, events)
    };
    if cell.ready {
        let new = own().find(|pod| !cell.current && is_current(pod) && !pod.is_over);
        found.surge = new.map(of_pod);
        return found;
    }
    let lack = best.map_or_else(|| causes::without_pod(wants.daemon_set, events), of_pod);
    let asked = best.filter(|_| lack.reason == Reason::NotReady);
    found.question = asked.and_then(|pod| Some(Question { pod: pod.uid, address: pod.story.as_ref()?.agent? }));
    // A node without a pod gets one of the newest revision.
    found.lack = Some((lack, best.is_none_or(is_current)));
    found
}
