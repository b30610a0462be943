//! What users are told of a kill: one event for each, and for each group kill, whose processes die one after another.
//!
//! Pure. An event is held back until no more can belong to it, which is at the next kill that does not, or a second later.

use std::{collections::VecDeque, time::Duration};

use podlens_common::{
    cgroup::CgroupKey,
    oom::{NAME_BYTES, Victim},
    tasks::KEY_KERNEL,
};

use super::{events, judge::Kill};
use crate::{
    collectors::{HeldBack, Noticed},
    signal::{Attributes, Entity},
};

/// How long more may come of a group.
const GROUP_KILL: Duration = Duration::from_secs(1);

/// Events that are held back, in the order in which they happened.
#[derive(Debug)]
pub(super) struct Stories {
    page_bytes: u64,
    held: VecDeque<Story>,
}

#[derive(Debug)]
struct Story {
    key: CgroupKey,
    at_ns: u64,
    /// When its last process was killed.
    last_ns: u64,
    processes: u32,
    kill: Kill,
    victim: Box<Victim>,
}

impl Stories {
    /// None yet; a page has so many bytes.
    pub(super) fn new(page_bytes: u64) -> Self {
        Self { page_bytes, held: VecDeque::new() }
    }

    /// A process of that cgroup was killed.
    pub(super) fn enter(&mut self, key: CgroupKey, at_ns: u64, victim: &Victim, kill: Kill) {
        if let Some(story) = self.held.back_mut().filter(|_| kill.continues) {
            story.processes += 1;
            story.last_ns = at_ns;
            return;
        }
        self.held.push_back(Story { key, at_ns, last_ns: at_ns, processes: 1, kill, victim: Box::new(*victim) });
    }

    /// Those that are whole at that moment.
    pub(super) fn take(&mut self, now_ns: u64) -> Vec<HeldBack> {
        let wait_ns = u64::try_from(GROUP_KILL.as_nanos()).unwrap_or(u64::MAX);
        let is_open = |story: &Story| story.kill.group && now_ns.saturating_sub(story.last_ns) < wait_ns;
        // Only the last one can go on.
        let open = usize::from(self.held.back().is_some_and(is_open));
        let whole = self.held.len() - open;
        self.held.drain(..whole).map(|story| story.told(self.page_bytes)).collect()
    }
}

impl Story {
    fn told(self, page_bytes: u64) -> HeldBack {
        let Self { key, at_ns, processes, kill, victim, .. } = self;
        let bytes = |pages: u64| i64::try_from(pages.saturating_mul(page_bytes)).unwrap_or(i64::MAX);
        let mut attributes: Attributes = vec![
            (&events::NAME, (&*text(&victim.name)).into()),
            (&events::ID, i64::from(victim.process).into()),
            (&events::SCOPE, kill.scope.name().into()),
            (&events::PROCESSES, i64::from(processes).into()),
            (&events::RESIDENT, bytes(victim.resident_pages).into()),
            (&events::USAGE, bytes(kill.level.usage_pages).into()),
        ];
        // `PAGE_COUNTER_MAX` of linux/page_counter.h.
        let no_limit = i64::MAX.unsigned_abs() / page_bytes;
        if kill.level.limit_pages < no_limit {
            attributes.push((&events::LIMIT, bytes(kill.level.limit_pages).into()));
        }
        attributes.push((&events::TRIGGER_NAME, (&*text(&victim.trigger_name)).into()));
        let mut others = Vec::new();
        if victim.trigger_key == KEY_KERNEL {
            attributes.push((&events::TRIGGER, Entity::KERNEL.into()));
        } else {
            others.push((&events::TRIGGER, victim.trigger_key));
        }
        HeldBack { key, at_ns, noticed: Noticed { kind: &events::KILLED, attributes, others } }
    }
}

/// A task's name.
fn text(name: &[u8; NAME_BYTES]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
    String::from_utf8_lossy(name.get(..end).unwrap_or(name)).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use podlens_common::oom::{Level, OomScope};

    use super::*;
    use crate::signal::{Attribute, AttributeValue};

    const SECOND: u64 = 1_000_000_000;

    fn kill(group: bool, continues: bool) -> Kill {
        let level = Level { id: 40, usage_pages: 10, limit_pages: 11, ooms: 1 };
        Kill { scope: OomScope::Container, level, group, continues }
    }

    fn victim(name: &str) -> Victim {
        let mut victim = Victim { process: 100, resident_pages: 9, trigger_key: 77, ..Victim::default() };
        victim.name[..name.len()].copy_from_slice(name.as_bytes());
        victim.trigger_name[..2].copy_from_slice(b"sh");
        victim
    }

    fn of<'a>(told: &'a HeldBack, attribute: &Attribute) -> Option<&'a AttributeValue> {
        told.noticed.attributes.iter().find(|(known, _)| *known == attribute).map(|(_, value)| value)
    }

    #[test]
    fn a_kill_is_told_at_once_and_a_group_kill_once_when_all_are_dead() {
        let mut stories = Stories::new(4096);
        stories.enter(7, SECOND, &victim("single"), kill(false, false));
        stories.enter(8, 2 * SECOND, &victim("first"), kill(true, false));
        stories.enter(8, 2 * SECOND + 1, &victim("second"), kill(true, true));
        let told = stories.take(2 * SECOND + 2);
        assert_eq!(told.iter().map(|told| (told.key, told.at_ns)).collect::<Vec<_>>(), [(7, SECOND)]);
        assert_eq!(of(&told[0], &events::PROCESSES), Some(&1.into()));
        stories.enter(8, 2 * SECOND + 3, &victim("third"), kill(true, true));
        assert_eq!(stories.take(3 * SECOND), []);
        let told = stories.take(4 * SECOND);
        assert_eq!(told.iter().map(|told| (told.key, told.at_ns)).collect::<Vec<_>>(), [(8, 2 * SECOND)]);
        assert_eq!(of(&told[0], &events::PROCESSES), Some(&3.into()));
        assert_eq!(of(&told[0], &events::NAME), Some(&"first".into()));
        assert_eq!(stories.take(5 * SECOND), []);
    }

    #[test]
    fn another_kill_ends_a_group() {
        let mut stories = Stories::new(4096);
        stories.enter(8, SECOND, &victim("first"), kill(true, false));
        stories.enter(9, SECOND + 1, &victim("other"), kill(true, false));
        assert_eq!(stories.take(SECOND + 2).iter().map(|told| told.key).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn what_is_told_is_in_bytes_and_without_what_there_is_not() {
        let mut stories = Stories::new(4096);
        let mut unlimited = kill(false, false);
        unlimited.level.limit_pages = i64::MAX.unsigned_abs() / 4096;
        stories.enter(7, 1, &victim("0123456789abcdef"), kill(false, false));
        stories.enter(7, 2, &Victim { trigger_key: KEY_KERNEL, ..victim("x") }, unlimited);
        let told = stories.take(3);
        for (attribute, value) in [
            (&events::NAME, AttributeValue::from("0123456789abcdef")),
            (&events::ID, 100.into()),
            (&events::SCOPE, "container".into()),
            (&events::RESIDENT, (9 * 4096).into()),
            (&events::USAGE, (10 * 4096).into()),
            (&events::LIMIT, (11 * 4096).into()),
            (&events::TRIGGER_NAME, "sh".into()),
        ] {
            assert_eq!(of(&told[0], attribute), Some(&value), "{}", attribute.name);
        }
        assert_eq!(told[0].noticed.others, [(&events::TRIGGER, 77)]);
        assert_eq!(of(&told[1], &events::LIMIT), None);
        assert_eq!(of(&told[1], &events::TRIGGER), Some(&"kernel".into()));
        assert_eq!(told[1].noticed.others, []);
    }
}
