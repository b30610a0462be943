//! The end of a container from two witnesses, told once.
//!
//! Pure. The pod status has the reason, and comes some seconds late if at all; the kernel has the signal, at once and for
//! every container. So what the kernel tells waits for the status while a source reads statuses, and adds the
//! signal to it; where none comes, it is told itself, at a stop at once. A process that is the first of a PID namespace may be nested in a
//! container, so it counts as the container's end only once the container's cgroup is removed. Called by `events`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use podlens_common::lifecycle::InitEnd;

use crate::{
    attribution::{
        entity::pod_entity,
        kubernetes::{pod::Ended, table::End},
    },
    collectors::lifecycle::events::{EXIT_CODE, EXITED, FAILED, REASON, SIGNAL, SOURCE, STARTED},
    signal::{Attributes, Container, Entity, EntityKey, Event},
};

/// How long the kernel's word waits for the pod status: the kubelet looks at its runtime each second and writes a status
/// within ten.
const STATUS_WAIT: Duration = Duration::from_secs(15);
/// A container's cgroup is removed within moments of its first process' end. One that is still there then had a nested one.
const REMOVAL: Duration = Duration::from_secs(30);
/// Most ends that wait, and most that are remembered as told by the kernel.
const MOST: usize = 4096;

/// Ends that are not told yet, and those of which the status must not tell again.
#[derive(Debug, Default)]
pub(super) struct Ends {
    waiting: HashMap<EntityKey, Waiting>,
    /// By the container's id, in the order in which they ended.
    told: HashSet<Arc<str>>,
    order: VecDeque<(Arc<str>, SystemTime)>,
    /// A status that tells of an end before this one may tell it for the second time.
    forgotten: Option<SystemTime>,
    /// Ends that nobody can be told of.
    lost: u64,
}

#[derive(Debug)]
struct Waiting {
    end: InitEnd,
    at: SystemTime,
    since: Instant,
    /// When the container's cgroup was removed.
    removed: Option<Instant>,
}

impl Ends {
    /// The kernel has seen the first process of a PID namespace end in a cgroup of this container.
    pub(super) fn seen(&mut self, entity: &EntityKey, end: InitEnd, at: SystemTime, now: Instant) {
        let is_full = self.waiting.len() >= MOST;
        match self.waiting.get_mut(entity) {
            // The outermost namespace is the container's.
            Some(waiting) if waiting.end.level < end.level => {}
            Some(waiting) => *waiting = Waiting { end, at, since: now, removed: None },
            None if is_full => self.lost += 1,
            None => {
                self.waiting.insert(entity.clone(), Waiting { end, at, since: now, removed: None });
            }
        }
    }

    /// The container's cgroup is gone. Whether its end waits to be told.
    pub(super) fn removed(&mut self, entity: &EntityKey, now: Instant) -> bool {
        let waiting = self.waiting.get_mut(entity);
        waiting.map(|waiting| waiting.removed = Some(now)).is_some()
    }

    /// A pod status tells of an end. None where it was told before.
    pub(super) fn status(&mut self, end: End) -> Option<Event> {
        let End { pod_uid, ended } = end;
        if self.told.contains(&ended.id) || self.forgotten.is_some_and(|forgotten| ended.finished <= forgotten) {
            return None;
        }
        let entity = EntityKey::from(pod_entity(&pod_uid, &ended.id));
        let seen = self.waiting.remove(&entity);
        Some(of_status(entity, ended, seen.map(|waiting| waiting.end)))
    }

    /// What is to be told by the kernel's word alone. `statuses`: pods' statuses may yet come. A sandbox is a container to
    /// nobody but the runtime.
    pub(super) fn due(&mut self, statuses: bool, is_sandbox: impl Fn(&Entity) -> bool, now: Instant) -> Vec<Event> {
        let mut due = Vec::new();
        self.waiting.retain(|entity, waiting| {
            let Some(removed) = waiting.removed else { return now.duration_since(waiting.since) < REMOVAL };
            let may_come = statuses && matches!(&**entity, Entity::Container(_));
            if may_come && now.duration_since(removed) < STATUS_WAIT {
                return true;
            }
            if !is_sandbox(entity) {
                due.push(of_kernel(entity.clone(), waiting));
            }
            false
        });
        due.sort_by_key(|event| event.at);
        for event in &due {
            self.remember(event);
        }
        due
    }

    /// The kernel has seen an end in a cgroup whose path is not known.
    pub(super) fn seen_somewhere(&mut self) {
        self.lost += 1;
    }

    /// Ends that could not be told: their cgroup was not known, or there was no room.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    fn remember(&mut self, event: &Event) {
        let Some(Entity::Container(Container { container_id, .. })) = event.entity.as_deref() else { return };
        self.told.insert(Arc::clone(container_id));
        self.order.push_back((Arc::clone(container_id), event.at));
        while self.order.len() > MOST {
            let Some((oldest, at)) = self.order.pop_front() else { return };
            self.told.remove(&oldest);
            self.forgotten = self.forgotten.max(Some(at));
        }
    }
}

/// The signal and the exit code in the kernel's status; runtimes add 128 to a signal, so that one number tells both.
fn signal_and_code(end: InitEnd) -> (Option<i64>, i64) {
    match i64::from(end.status & 0x7f) {
        0 => (None, i64::from(end.status >> 8 & 0xff)),
        signal => (Some(signal), 128 + signal),
    }
}

fn of_kernel(entity: EntityKey, waiting: &Waiting) -> Event {
    let (signal, code) = signal_and_code(waiting.end);
    let mut attributes: Attributes = vec![(&EXIT_CODE, code.into())];
    attributes.extend(signal.map(|signal| (&SIGNAL, signal.into())));
    attributes.push((&SOURCE, "kernel".into()));
    let kind = if code == 0 { &EXITED } else { &FAILED };
    Event { kind, at: waiting.at, entity: Some(entity), attributes }
}

fn of_status(entity: EntityKey, ended: Ended, seen: Option<InitEnd>) -> Event {
    let Ended { exit_code, signal, reason, started, finished, .. } = ended;
    let signal = signal.or_else(|| signal_and_code(seen?).0);
    let mut attributes: Attributes = vec![(&EXIT_CODE, exit_code.into())];
    attributes.extend(signal.map(|signal| (&SIGNAL, signal.into())));
    let words = [(&REASON, reason), (&STARTED, started)].into_iter().filter(|(_, word)| !word.is_empty());
    attributes.extend(words.map(|(attribute, word)| (attribute, (&*word).into())));
    attributes.push((&SOURCE, "pod_status".into()));
    let kind = if exit_code == 0 { &EXITED } else { &FAILED };
    Event { kind, at: finished, entity: Some(entity), attributes }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::signal::{Attribute, AttributeValue};

    const UID: &str = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";
    const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
    const KILLED: InitEnd = InitEnd { status: 9, level: 1 };
    const WELL: InitEnd = InitEnd { status: 0, level: 1 };

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn container() -> EntityKey {
        pod_entity(UID, ID).into()
    }

    fn status(exit_code: i64) -> End {
        let ended = Ended {
            id: ID.into(),
            exit_code,
            signal: None,
            reason: "Error".into(),
            started: "".into(),
            finished: at(100),
        };
        End { pod_uid: UID.into(), ended }
    }

    fn no_sandbox(_: &Entity) -> bool {
        false
    }

    fn of<'a>(event: &'a Event, attribute: &Attribute) -> Option<&'a AttributeValue> {
        event.attributes.iter().find(|(known, _)| *known == attribute).map(|(_, value)| value)
    }

    #[track_caller]
    fn check(event: &Event, code: i64, signal: Option<i64>, source: &str) {
        assert_eq!(of(event, &EXIT_CODE), Some(&code.into()));
        assert_eq!(of(event, &SIGNAL), signal.map(AttributeValue::from).as_ref());
        assert_eq!(of(event, &SOURCE), Some(&source.into()));
        assert_eq!(event.kind, if code == 0 { &EXITED } else { &FAILED });
    }

    #[test]
    fn the_kernels_status_is_split_as_wait_does_and_a_signal_counts_as_runtimes_count_it() {
        let split = |status| signal_and_code(InitEnd { status, level: 1 });
        assert_eq!(split(0), (None, 0));
        assert_eq!(split(0x300), (None, 3));
        assert_eq!(split(0x09), (Some(9), 137));
        assert_eq!(split(0x8b), (Some(11), 139), "with a core dump");
    }

    #[test]
    fn a_status_within_the_wait_is_told_with_the_kernels_signal_and_the_kernels_word_is_not() {
        let (mut ends, now) = (Ends::default(), Instant::now());
        ends.seen(&container(), KILLED, at(99), now);
        ends.removed(&container(), now);
        assert_eq!(ends.due(true, no_sandbox, now + STATUS_WAIT / 2), []);
        check(&ends.status(status(137)).unwrap(), 137, Some(9), "pod_status");
        assert_eq!(ends.due(true, no_sandbox, now + STATUS_WAIT * 2), []);
    }

    #[test]
    fn without_a_status_the_kernels_word_is_told_and_a_late_status_is_not() {
        let (mut ends, now) = (Ends::default(), Instant::now());
        ends.seen(&container(), KILLED, at(99), now);
        ends.removed(&container(), now);
        let due = ends.due(true, no_sandbox, now + STATUS_WAIT);
        assert_eq!(due.len(), 1);
        check(&due[0], 137, Some(9), "kernel");
        assert_eq!(ends.status(status(137)), None);
    }

    #[test]
    fn where_nobody_reads_statuses_and_outside_pods_nothing_is_waited_for() {
        let unit = EntityKey::from(Entity::unit("docker/3f1b0c5a9d7e"));
        let now = Instant::now();
        for (entity, statuses) in [(container(), false), (unit, true)] {
            let mut ends = Ends::default();
            ends.seen(&entity, WELL, at(99), now);
            assert_eq!(ends.due(statuses, no_sandbox, now), [], "its cgroup is there");
            ends.removed(&entity, now);
            let due = ends.due(statuses, no_sandbox, now);
            assert_eq!(due.len(), 1);
            check(&due[0], 0, None, "kernel");
        }
    }

    #[test]
    fn a_nested_namespace_is_no_end_of_the_container() {
        let (mut ends, now) = (Ends::default(), Instant::now());
        let nested = InitEnd { status: 0, level: 2 };
        ends.seen(&container(), nested, at(50), now);
        assert_eq!(ends.due(false, no_sandbox, now + REMOVAL), []);
        ends.removed(&container(), now + REMOVAL);
        assert_eq!(ends.due(false, no_sandbox, now + REMOVAL), [], "it was forgotten");
        // Of those that end together with the container the outermost counts, in whichever order they come.
        ends.seen(&container(), KILLED, at(99), now);
        ends.seen(&container(), nested, at(99), now);
        ends.removed(&container(), now);
        let due = ends.due(false, no_sandbox, now);
        assert_eq!(due.len(), 1);
        check(&due[0], 137, Some(9), "kernel");
    }

    #[test]
    fn a_pods_sandbox_is_no_container() {
        let (mut ends, now) = (Ends::default(), Instant::now());
        ends.seen(&container(), WELL, at(99), now);
        ends.removed(&container(), now);
        assert_eq!(ends.due(true, |_| true, now + STATUS_WAIT), []);
        assert_eq!(ends.due(true, no_sandbox, now + STATUS_WAIT), [], "it is forgotten");
    }

    #[test]
    fn what_is_forgotten_is_never_told_twice() {
        let (mut ends, now) = (Ends::default(), Instant::now());
        ends.seen(&container(), KILLED, at(100), now);
        ends.removed(&container(), now);
        assert_eq!(ends.due(false, no_sandbox, now).len(), 1);
        for number in 0..MOST {
            let other = EntityKey::from(pod_entity(UID, &format!("{number:064x}")));
            ends.seen(&other, WELL, at(200), now);
            ends.removed(&other, now);
        }
        assert_eq!(ends.due(false, no_sandbox, now).len(), MOST);
        assert_eq!((ends.told.len(), ends.status(status(137))), (MOST, None));
    }
}
