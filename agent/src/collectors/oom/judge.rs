//! From a mark to a kill: whether it is one, whether it belongs to the kill before, and whose limit led to it.
//!
//! Pure. Five facts of the kernel decide:
//! - It counts a kill in the victim's memory cgroup just before it marks the victim. A mark before which nothing was counted is
//!   no kill: a process that is about to end anyway, or another thread of one that was told.
//! - Whoever finds no room below a limit counts an OOM in the limit's cgroup before anybody is killed for it. It may be that
//!   nobody is: somebody else's end was enough. And for one OOM several processes may be killed, one after another.
//! - The task that wants memory has just tried to free some: of the cgroup whose limit it is, or of the node. Its last reclaim says
//!   for certain whether it is a limit at all, and that is often all that does: the count may have risen before the last mark, or
//!   since then for an OOM of which nobody died.
//! - A limit is reached when the kernel looks for a victim, but need not be when it marks one: processes that were killed before
//!   give back their memory meanwhile.
//! - In a group kill (memory.oom.group) a process may be met, killed and counted once more. Its mark then tells another of its
//!   threads, since the first has ended; only the first victim may be counted again without a mark, while it has not.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::RandomState;
use podlens_common::oom::{Level, OomScope, RECLAIM_OF_CGROUP, RECLAIM_OF_NODE, Victim};

/// How many of those that were killed last are remembered: their threads may still be marked.
const REMEMBERED: usize = 1024;
/// What CPUs keep for themselves of a limit (`MEMCG_CHARGE_BATCH` of mm/memcontrol.c).
const STOCK_PAGES: u64 = 64;
/// A limit whose cgroup has so much of it, but for one part in so many, may have been reached a moment ago.
const NEAR: u64 = 16;
/// For so long a limit counts as the reason of further kills, as long as it is reached.
const GOES_ON: Duration = Duration::from_secs(10);
/// The kernel kills a group, and a second process for one OOM, without a pause.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What is known of the kills so far.
#[derive(Debug, Default)]
pub(super) struct Judge {
    counted: HashMap<u64, Counted, RandomState>,
    /// A memory cgroup that is not in there has counted nothing before it was met: all that there were at the start are.
    complete: bool,
    killed: VecDeque<(u32, u64)>,
    last: Option<Last>,
}

/// What a memory cgroup had counted, as it was last seen.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    ooms: u64,
    /// None while it was met for its OOMs alone.
    kills: Option<u64>,
    /// Kills that the kernel may count once more.
    again: u64,
    /// When an OOM was last seen to have been counted.
    rose_ns: Option<u64>,
    /// When its limit was last the reason of a kill.
    fell_ns: Option<u64>,
}

/// The last kill.
#[derive(Clone, Copy, Debug)]
struct Last {
    at_ns: u64,
    trigger: u32,
    group: Option<u64>,
    cause: Cause,
}

/// What led to a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The limit of the memory cgroup with this id.
    Limit(u64),
    /// No limit: the node was short of memory.
    Node,
    /// What is known does not decide it.
    Unknown,
}

/// What a mark says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruling {
    /// The kill, if it is one.
    pub(super) kill: Option<Kill>,
    /// Kills that the kernel has counted there and of which no mark was seen.
    pub(super) untold: u64,
}

/// A kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kill {
    /// Whose limit led to it.
    pub(super) scope: OomScope,
    /// The cgroup of that limit, or else that of the victim's container.
    pub(super) level: Level,
    /// All processes of a cgroup are killed with it.
    pub(super) group: bool,
    /// It belongs to the group kill of the kill before.
    pub(super) continues: bool,
}

impl Judge {
    /// Enters what a memory cgroup had counted at the start.
    pub(super) fn begin(&mut self, id: u64, ooms: u64, kills: u64) {
        self.counted.insert(id, Counted { ooms, kills: Some(kills), ..Counted::default() });
    }

    /// All that there were have been entered.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// A memory cgroup is gone.
    pub(super) fn forget(&mut self, id: u64) {
        self.counted.remove(&id);
    }

    /// Kills in a memory cgroup of which no mark was seen, when it had counted so many.
    pub(super) fn untold(&mut self, id: u64, kills: u64) -> u64 {
        self.counted(id, kills).see(kills, 0)
    }

    /// A memory cgroup whose kills are known. One that was never met had none where all others are known, else so many.
    fn counted(&mut self, id: u64, or: u64) -> &mut Counted {
        let counted = self.counted.entry(id).or_default();
        counted.kills.get_or_insert(if self.complete { 0 } else { or });
        counted
    }

    /// Judges a mark.
    pub(super) fn judge(&mut self, victim: &Victim, at_ns: u64) -> Ruling {
        let levels = levels_of(victim);
        let Some(own) = levels.first() else { return Ruling::default() };
        let moved: Vec<bool> = levels.iter().map(|level| self.moved(level, at_ns)).collect();
        let process = (victim.process, victim.started_ns);
        let is_new = !self.killed.contains(&process);
        let counted = self.counted(own.id, victim.kills.saturating_sub(u64::from(is_new)));
        let is_counted = (is_new || victim.killed_together != 0) && Some(victim.kills) > counted.kills;
        let is_kill = is_new && is_counted;
        let untold = counted.see(victim.kills, u64::from(is_counted));
        if !is_kill {
            return Ruling { kill: None, untold };
        }
        self.killed.push_back(process);
        if self.killed.len() > REMEMBERED {
            self.killed.pop_front();
        }
        Ruling { kill: Some(self.kill(victim, levels, &moved, at_ns)), untold }
    }

    fn kill(&mut self, victim: &Victim, levels: &[Level], moved: &[bool], at_ns: u64) -> Kill {
        let place = |id: u64| levels.iter().position(|level| level.id == id);
        let before = self.last.filter(|last| {
            let is_of_group = |group| place(group).is_some_and(|at| is_killed_together(victim, at));
            let is_soon = at_ns.saturating_sub(last.at_ns) < nanoseconds(AT_ONCE);
            last.trigger == victim.trigger && is_soon && last.group.is_some_and(is_of_group)
        });
        let cause = before.map_or_else(|| self.cause(victim, moved, at_ns), |before| before.cause);
        let limit = cause.limit().and_then(place);
        // The topmost of those below the limit, or of all where it is none's.
        let below = levels.get(..=limit.unwrap_or(levels.len())).unwrap_or(levels);
        let group_at = (0..below.len()).rev().find(|at| is_killed_together(victim, *at));
        let id_at = |at: usize| levels.get(at).map(|level| level.id);
        let group = before.map_or_else(|| group_at.and_then(id_at), |before| before.group);
        if let Some(counted) = levels.first().and_then(|own| self.counted.get_mut(&own.id))
            && before.is_none()
        {
            counted.again = u64::from(group.is_some());
        }
        self.last = Some(Last { at_ns, trigger: victim.trigger, group, cause });
        if let Some(counted) = cause.limit().and_then(|id| self.counted.get_mut(&id)) {
            counted.fell_ns = Some(at_ns);
        }
        let shown = limit.or_else(|| place(victim.container)).unwrap_or(0);
        Kill {
            scope: scope(victim, cause),
            level: levels.get(shown).copied().unwrap_or_default(),
            group: group.is_some(),
            continues: before.is_some(),
        }
    }

    /// What led to the kill of this victim. Never the node where it may have been a limit.
    fn cause(&self, victim: &Victim, moved: &[bool], at_ns: u64) -> Cause {
        let levels = levels_of(victim);
        let limit_of = |at: Option<usize>| at.and_then(|at| levels.get(at)).map(|level| Cause::Limit(level.id));
        match victim.reclaim_of {
            RECLAIM_OF_NODE => Cause::Node,
            RECLAIM_OF_CGROUP => limit_of(self.full(levels, moved, at_ns))
                .or_else(|| limit_of(self.no_longer_full(victim, at_ns)))
                .unwrap_or(Cause::Unknown),
            _ => limit_of(self.full(levels, moved, at_ns))
                .or_else(|| self.same_oom(victim, at_ns).map(Cause::Limit))
                .or_else(|| levels.iter().any(|level| self.is_recent(level, at_ns)).then_some(Cause::Unknown))
                .unwrap_or(Cause::Node),
        }
    }

    /// The lowest level that is full, of those that have counted an OOM.
    fn full(&self, levels: &[Level], moved: &[bool], at_ns: u64) -> Option<usize> {
        let has_moved = |at: usize| moved.get(at).copied().unwrap_or_default();
        let goes_on =
            |level: &Level| self.counted.get(&level.id).is_some_and(|counted| is_lately(counted.fell_ns, at_ns));
        let lowest = |test: &dyn Fn(usize, &Level) -> bool| {
            levels.iter().enumerate().find(|(at, level)| test(*at, level)).map(|(at, _)| at)
        };
        lowest(&|at, level| has_moved(at) && is_reached(level, STOCK_PAGES))
            .or_else(|| lowest(&|at, level| has_moved(at) && is_reached(level, level.limit_pages / NEAR)))
            .or_else(|| lowest(&|_, level| is_reached(level, STOCK_PAGES) && goes_on(level)))
    }

    /// The level whose limit it was, though none is full any more. Of those that have ever counted an OOM, or else of those that
    /// have lately, all must have the same scope: then it is one of them, and the one with the least room is the likeliest.
    fn no_longer_full(&self, victim: &Victim, at_ns: u64) -> Option<usize> {
        let levels = levels_of(victim);
        let of_one_scope = |test: &dyn Fn(&Level) -> bool| {
            let found = || levels.iter().enumerate().filter(|(_, level)| test(level));
            let mut scopes = found().map(|(_, level)| scope(victim, Cause::Limit(level.id)));
            let first = scopes.next()?;
            let likeliest = found().min_by_key(|(_, level)| level.limit_pages.saturating_sub(level.usage_pages));
            likeliest.filter(|_| scopes.all(|scope| scope == first)).map(|(at, _)| at)
        };
        of_one_scope(&|level| level.ooms > 0).or_else(|| of_one_scope(&|level| self.is_recent(level, at_ns)))
    }

    /// Somebody may have found no room there and wait to kill for it.
    fn is_recent(&self, level: &Level, at_ns: u64) -> bool {
        let is_lately = |counted: &Counted| is_lately(counted.rose_ns, at_ns) || is_lately(counted.fell_ns, at_ns);
        self.counted.get(&level.id).is_some_and(is_lately)
    }

    /// Whose limit the last kill had, if this one is likely to be for the same OOM: the task that wants memory is the same, and
    /// what the first victim gave back was not enough yet.
    fn same_oom(&self, victim: &Victim, at_ns: u64) -> Option<u64> {
        let last = self.last.filter(|last| last.trigger == victim.trigger)?;
        let limit = last.cause.limit().filter(|_| at_ns.saturating_sub(last.at_ns) < nanoseconds(AT_ONCE))?;
        levels_of(victim).iter().any(|level| level.id == limit).then_some(limit)
    }

    /// An OOM was counted there since it was last seen.
    fn moved(&mut self, level: &Level, at_ns: u64) -> bool {
        if level.ooms == 0 {
            return false;
        }
        let counted = self.counted.entry(level.id).or_default();
        let has_moved = level.ooms > counted.ooms;
        counted.ooms = level.ooms;
        if has_moved {
            counted.rose_ns = Some(at_ns);
        }
        has_moved
    }
}

impl Cause {
    fn limit(self) -> Option<u64> {
        match self {
            Self::Limit(id) => Some(id),
            Self::Node | Self::Unknown => None,
        }
    }
}

impl Counted {
    /// Sees a new count, of which so many are told; gives how many are not.
    fn see(&mut self, kills: u64, told: u64) -> u64 {
        let before = self.kills.unwrap_or(kills);
        let more = kills.saturating_sub(before).saturating_sub(told);
        let again = more.min(self.again);
        self.again -= again;
        self.kills = Some(kills.max(before));
        more - again
    }
}

/// The memory cgroups of a record.
fn levels_of(victim: &Victim) -> &[Level] {
    let count = usize::try_from(victim.level_count).unwrap_or(usize::MAX);
    victim.levels.get(..count).unwrap_or(&victim.levels)
}

fn is_killed_together(victim: &Victim, level: usize) -> bool {
    u32::try_from(level).is_ok_and(|level| victim.killed_together.checked_shr(level).unwrap_or(0) & 1 != 0)
}

fn is_reached(level: &Level, but_for_pages: u64) -> bool {
    level.usage_pages.saturating_add(but_for_pages) >= level.limit_pages
}

fn is_lately(then_ns: Option<u64>, at_ns: u64) -> bool {
    then_ns.is_some_and(|then_ns| at_ns.saturating_sub(then_ns) < nanoseconds(GOES_ON))
}

/// Whose limit it is to the victim.
fn scope(victim: &Victim, cause: Cause) -> OomScope {
    let place = |id: u64| levels_of(victim).iter().position(|level| id != 0 && level.id == id);
    let limit = match cause {
        Cause::Limit(id) => place(id),
        Cause::Node => return OomScope::Node,
        Cause::Unknown => None,
    };
    let Some(limit) = limit else { return OomScope::Other };
    let (container, pod) = (place(victim.container), place(victim.group));
    if limit <= container.unwrap_or(0) {
        OomScope::Container
    } else if pod.is_some_and(|pod| limit <= pod) {
        OomScope::Pod
    } else {
        OomScope::Ancestor
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
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
            let ids: &[u64] =
                if self.in_child { &[CHILD, CONTAINER, POD, PODS, 1] } else { &[CONTAINER, POD, PODS, 1] };
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
}
