//! Marks as the kernel makes them, and what they are taken for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;

/// A container's memory cgroup, its pod's, and that of all pods.
const CONTAINER: u64 = 40;
const POD: u64 = 30;
const PODS: u64 = 20;
const CHILD: u64 = 50;
const NO_LIMIT: u64 = 1 << 51;
const MILLISECOND: u64 = 1_000_000;

/// Something in a container, whose kernel counts as the real one does.
#[derive(Default)]
struct Kernel {
    judge: Judge,
    marks: u64,
    at_ns: u64,
    ooms: HashMap<u64, u64>,
    kills: HashMap<u64, u64>,
    full: Vec<u64>,
    together: Option<u64>,
    in_child: bool,
    /// What the last reclaim of whoever wants memory was of.
    reclaim_of: u64,
}

impl Kernel {
    fn new() -> Self {
        let mut kernel = Self::default();
        kernel.judge.complete();
        kernel
    }

    fn oom(&mut self, of: u64) -> &mut Self {
        *self.ooms.entry(of).or_default() += 1;
        self.full = vec![of];
        self
    }

    fn own(&self) -> u64 {
        if self.in_child { CHILD } else { CONTAINER }
    }

    fn count(&mut self) {
        let own = self.own();
        *self.kills.entry(own).or_default() += 1;
    }

    fn mark(&mut self, process: u32, trigger: u32) -> Ruling {
        self.marks += 1;
        self.at_ns += MILLISECOND;
        let ids: &[u64] = if self.in_child { &[CHILD, CONTAINER, POD, PODS, 1] } else { &[CONTAINER, POD, PODS, 1] };
        let mut victim = Victim {
            mark: self.marks,
            process,
            trigger,
            started_ns: 7,
            kills: self.kills.get(&self.own()).copied().unwrap_or(0),
            group: POD,
            container: CONTAINER,
            reclaim_of: self.reclaim_of,
            level_count: u32::try_from(ids.len()).unwrap(),
            ..Victim::default()
        };
        for (at, id) in ids.iter().enumerate() {
            let limit_pages = if self.full.contains(id) { 1000 } else { NO_LIMIT };
            let ooms = self.ooms.get(id).copied().unwrap_or(0);
            victim.levels[at] = Level { id: *id, usage_pages: 990, limit_pages, ooms };
            victim.killed_together |= u32::from(self.together == Some(*id)) << at;
        }
        self.judge.judge(&victim, self.at_ns)
    }

    fn kill(&mut self, process: u32, trigger: u32) -> Kill {
        self.count();
        let ruling = self.mark(process, trigger);
        assert_eq!(ruling.untold, 0);
        ruling.kill.expect("it was counted")
    }
}

#[track_caller]
fn check_scope(of: Option<u64>, in_child: bool, scope: OomScope, level: u64) {
    let mut kernel = Kernel { in_child, ..Kernel::new() };
    if let Some(of) = of {
        kernel.oom(of);
    }
    let kill = kernel.kill(100, 200);
    assert_eq!((kill.scope, kill.level.id), (scope, level), "{of:?}");
}

#[test]
fn the_scope_is_where_an_oom_was_counted() {
    check_scope(Some(CONTAINER), false, OomScope::Container, CONTAINER);
    check_scope(Some(CONTAINER), true, OomScope::Container, CONTAINER);
    check_scope(Some(CHILD), true, OomScope::Container, CHILD);
    check_scope(Some(POD), false, OomScope::Pod, POD);
    check_scope(Some(POD), true, OomScope::Pod, POD);
    check_scope(Some(PODS), false, OomScope::Ancestor, PODS);
    check_scope(None, false, OomScope::Node, CONTAINER);
    check_scope(None, true, OomScope::Node, CONTAINER);
}

#[test]
fn a_container_outside_pods_and_a_plain_cgroup_have_limits_of_their_own() {
    for (group, container, cause, expected) in [
        (40, 40, Cause::Limit(40), OomScope::Container),
        (40, 40, Cause::Limit(30), OomScope::Ancestor),
        (0, 40, Cause::Limit(40), OomScope::Container),
        (0, 0, Cause::Limit(50), OomScope::Container),
        (0, 0, Cause::Limit(40), OomScope::Ancestor),
        (0, 0, Cause::Node, OomScope::Node),
        (0, 0, Cause::Unknown, OomScope::Other),
        (0, 0, Cause::Limit(7), OomScope::Other),
    ] {
        let mut victim = Victim { group, container, level_count: 3, ..Victim::default() };
        for (level, id) in victim.levels.iter_mut().zip([50, 40, 30]) {
            level.id = id;
        }
        assert_eq!(scope(&victim, cause), expected, "{group} {container} {cause:?}");
    }
}

#[test]
fn a_mark_before_which_nothing_was_counted_is_no_kill() {
    let mut kernel = Kernel::new();
    assert_eq!(kernel.oom(CONTAINER).mark(100, 100), Ruling::default(), "it was about to end");
    kernel.kill(101, 100);
    assert_eq!(kernel.mark(101, 101), Ruling::default(), "another thread of it");
    assert_eq!(kernel.mark(102, 100), Ruling::default(), "it was about to end");
    kernel.kill(102, 100);
}

#[test]
fn a_limit_is_the_reason_of_further_kills_for_one_oom_and_not_because_files_have_filled_it() {
    let mut kernel = Kernel::new();
    kernel.oom(POD);
    assert_eq!(kernel.kill(100, 200).scope, OomScope::Pod);
    assert_eq!(kernel.kill(101, 200).scope, OomScope::Pod, "nothing was counted anew");
    kernel.full.clear();
    assert_eq!(kernel.kill(104, 200).scope, OomScope::Pod, "the first one's memory is free, and more was wanted");
    kernel.reclaim_of = RECLAIM_OF_NODE;
    assert_eq!(kernel.kill(105, 201).scope, OomScope::Node, "somebody else wanted it");
    kernel.reclaim_of = 0;
    kernel.at_ns += 60_000 * MILLISECOND;
    kernel.full = vec![CONTAINER, POD];
    assert_eq!(kernel.kill(102, 200).scope, OomScope::Node, "both are full of files");
    kernel.oom(POD).full.push(CONTAINER);
    assert_eq!(kernel.kill(103, 200).scope, OomScope::Pod);
}

#[test]
fn an_oom_of_which_nobody_died_is_not_the_reason_of_a_later_kill() {
    let mut kernel = Kernel::new();
    kernel.oom(CONTAINER).full.clear();
    kernel.reclaim_of = RECLAIM_OF_NODE;
    assert_eq!(kernel.kill(100, 200).scope, OomScope::Node);
    kernel.oom(CONTAINER).full.clear();
    kernel.oom(POD);
    kernel.reclaim_of = RECLAIM_OF_CGROUP;
    assert_eq!(kernel.kill(101, 200).scope, OomScope::Pod);
}

/// What a container of 24 MiB had at its kills, in which four hogs and two readers of a file wanted memory at once: who wanted
/// it, pages, and OOMs counted. The kernel logged each as one by the limit of a cgroup.
const AT_ONCE_KILLS: [(u32, u64, u64); 4] = [(27, 6144, 1), (28, 6144, 23), (27, 4419, 31), (28, 6144, 33)];

/// Checks the scope of the third, by what the last reclaim of its trigger is said to have been of.
#[track_caller]
fn check_recorded(reclaim_of: u64, third: OomScope) {
    let mut judge = Judge::default();
    judge.complete();
    for (kills, (trigger, usage_pages, ooms)) in (1..).zip(AT_ONCE_KILLS) {
        let mut victim = Victim { process: trigger + 100, started_ns: kills, ..Victim::default() };
        (victim.trigger, victim.kills) = (trigger, kills);
        victim.reclaim_of = if kills == 3 { reclaim_of } else { RECLAIM_OF_CGROUP };
        (victim.group, victim.container, victim.level_count) = (POD, CONTAINER, 2);
        victim.levels[0] = Level { id: CONTAINER, usage_pages, limit_pages: 6144, ooms };
        victim.levels[1] = Level { id: POD, usage_pages: usage_pages + 3, limit_pages: NO_LIMIT, ooms: 0 };
        let kill = judge.judge(&victim, kills * 10 * MILLISECOND).kill.unwrap();
        let expected = if kills == 3 { third } else { OomScope::Container };
        assert_eq!((kill.scope, kill.level.id), (expected, CONTAINER), "kill {kills}");
    }
}

#[test]
fn a_limit_that_others_ends_have_left_behind_is_still_the_reason() {
    check_recorded(RECLAIM_OF_CGROUP, OomScope::Container);
    check_recorded(RECLAIM_OF_NODE, OomScope::Node);
}

#[test]
fn where_it_may_have_been_a_limit_it_is_never_the_node() {
    check_recorded(0, OomScope::Other);
    let mut kernel = Kernel::new();
    kernel.oom(POD);
    kernel.kill(100, 200);
    kernel.full.clear();
    let unknown = kernel.kill(101, 201);
    assert_eq!((unknown.scope, unknown.level.id), (OomScope::Other, CONTAINER), "it may have waited since then");
    kernel.at_ns += 60_000 * MILLISECOND;
    assert_eq!(kernel.kill(102, 202).scope, OomScope::Node, "nobody waits for so long");
}

#[test]
fn of_limits_that_are_no_longer_reached_none_is_named_where_two_scopes_may_be_meant() {
    let mut kernel = Kernel { reclaim_of: RECLAIM_OF_CGROUP, in_child: true, ..Kernel::new() };
    assert_eq!(kernel.kill(100, 200).scope, OomScope::Other, "none has counted an OOM");
    kernel.oom(CHILD).oom(CONTAINER).full.clear();
    assert_eq!(kernel.kill(101, 200).scope, OomScope::Container, "of both, the container is the same");
    kernel.oom(POD).full.clear();
    assert_eq!(kernel.kill(102, 200).scope, OomScope::Other);
    kernel.at_ns += 60_000 * MILLISECOND;
    kernel.oom(POD).full.clear();
    assert_eq!(kernel.kill(103, 200).scope, OomScope::Pod, "the others were long ago");
}

#[test]
fn all_of_a_group_have_the_cause_of_its_first() {
    let mut kernel = Kernel { together: Some(CONTAINER), reclaim_of: RECLAIM_OF_CGROUP, ..Kernel::new() };
    let scopes = [100, 101].map(|process| kernel.kill(process, 200).scope);
    assert_eq!(scopes, [OomScope::Other; 2]);
    kernel.reclaim_of = RECLAIM_OF_NODE;
    let scopes = [102, 103].map(|process| kernel.kill(process, 201).scope);
    assert_eq!(scopes, [OomScope::Node; 2]);
}

#[test]
fn a_group_is_killed_once_though_its_first_process_is_counted_twice() {
    let mut kernel = Kernel { together: Some(CONTAINER), ..Kernel::new() };
    let first = kernel.oom(POD).kill(100, 200);
    assert_eq!((first.scope, first.group, first.continues), (OomScope::Pod, true, false));
    kernel.full.clear();
    for process in 101..104 {
        let ruling = kernel.mark(process, 200);
        assert_eq!(ruling, Ruling::default(), "it is not counted yet");
        // Before one of the others, or behind all.
        if process == 102 {
            kernel.count();
        }
        let member = kernel.kill(process, 200);
        assert_eq!((member.scope, member.group, member.continues), (OomScope::Pod, true, true));
    }
    kernel.at_ns += 60_000 * MILLISECOND;
    let next = kernel.oom(CONTAINER).kill(110, 110);
    assert_eq!((next.scope, next.group, next.continues), (OomScope::Container, true, false));
    kernel.count();
    assert_eq!(kernel.judge.untold(CONTAINER, kernel.kills[&CONTAINER]), 0, "the first one once more");
    kernel.count();
    assert_eq!(kernel.judge.untold(CONTAINER, kernel.kills[&CONTAINER]), 1);
}

#[test]
fn a_process_of_a_group_that_is_counted_and_marked_once_more_is_one_kill() {
    let mut kernel = Kernel { together: Some(CONTAINER), ..Kernel::new() };
    kernel.oom(CONTAINER).kill(100, 200);
    kernel.kill(101, 200);
    kernel.kill(102, 200);
    for process in [100, 101] {
        kernel.count();
        assert_eq!(kernel.mark(process, 200), Ruling::default(), "a further thread of {process}");
    }
    assert_eq!(kernel.mark(102, 200), Ruling::default(), "it is about to end");
    // One kill was lost before the third process is met again.
    kernel.count();
    kernel.count();
    kernel.count();
    assert_eq!(kernel.mark(102, 200).untold, 1, "and the first one may have been counted without a mark");
}

#[test]
fn a_group_above_the_limit_is_not_killed() {
    let mut kernel = Kernel { together: Some(POD), ..Kernel::new() };
    assert!(!kernel.oom(CONTAINER).kill(100, 100).group);
    assert!(kernel.oom(POD).kill(101, 100).group);
}

#[test]
fn kills_whose_marks_were_lost_are_untold_and_those_before_the_start_are_not() {
    let mut kernel = Kernel::new();
    kernel.kills.insert(CONTAINER, 5);
    kernel.judge.begin(CONTAINER, 0, 5);
    kernel.oom(CONTAINER).kill(100, 100);
    kernel.count();
    kernel.count();
    assert_eq!(kernel.mark(102, 102).untold, 1, "of two, one has its mark");
    kernel.count();
    assert_eq!(kernel.judge.untold(CONTAINER, 9), 1);
    assert_eq!(kernel.judge.untold(CHILD, 3), 3, "it came after the start");
    assert_eq!(kernel.judge.untold(CHILD, 3), 0);
}

#[test]
fn where_not_all_is_known_what_is_met_first_may_have_had_a_past() {
    let mut kernel = Kernel::default();
    kernel.kills.insert(CONTAINER, 5);
    assert_eq!(kernel.oom(POD).kill(100, 100).scope, OomScope::Pod);
    assert_eq!(kernel.mark(101, 100), Ruling::default());
    assert_eq!(kernel.judge.untold(CHILD, 3), 0);
    assert_eq!(kernel.judge.untold(POD, 2), 0);
    assert_eq!(kernel.judge.untold(POD, 3), 1);
}
