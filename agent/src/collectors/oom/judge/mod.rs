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
mod tests;
