//! What one CPU has accounted for one slot, what it is doing and did lately, and what is remembered of threads.
//!
//! The arithmetic that the kernel programs do with these records is in the modules below, where tests replay it.

pub mod cause;
pub mod culprits;
pub mod throttle;
pub mod wait;

use bytemuck::{Pod, Zeroable};

use self::culprits::Culprits;
use crate::{
    cgroup::{Assigned, Holder},
    histogram::BUCKETS,
    label::label,
};

label! {
    /// Who held the CPU while a task waited for it.
    Cause {
        /// The waiting container itself.
        Own = "self",
        /// Another container of the same pod.
        Pod = "pod",
        /// A container of another pod, or another container outside pods.
        Neighbor = "neighbor",
        /// A unit of the node or a kernel thread.
        System = "system",
        /// Nobody.
        Idle = "idle",
        /// The wait reaches further back than the CPU's history, or one of the two had no slot.
        Unknown = "unknown",
    }
}

label! {
    /// How a task is off the CPU.
    OffCpu {
        /// Asleep until something happens that can also be interrupted, or stopped.
        Sleep = "sleep",
        /// Asleep without interruption, as a rule for a disk.
        Disk = "disk",
    }
}

label! {
    /// Why a task leaves the CPU.
    SwitchKind {
        /// It blocked.
        Voluntary = "voluntary",
        /// Another had to run.
        Involuntary = "involuntary",
    }
}

/// One CPU's account of one slot. Only that CPU writes it; all fields but the throttle's and the culprits' only grow.
///
/// The first cache line holds what nearly each switch needs, and one more what a wait for another slot needs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Account {
    /// The kernel's address of the run queue whose throttles are followed; 0 while there is none.
    pub throttle_queue: u64,
    /// That queue's total of throttled time as last seen.
    pub throttle_total_ns: u64,
    /// When the last finished throttle ended.
    pub throttle_until_ns: u64,
    /// Time on the CPU, of finished slices.
    pub on_cpu_ns: u64,
    /// Switches away because the task blocked.
    pub voluntary: u64,
    /// Time between blocking and being runnable again, of sleeps that ended in a dispatch here, by [`OffCpu`].
    pub off_cpu_ns: [u64; OffCpu::COUNT],
    /// Time waited in the run queue, throttled time taken out, by [`Cause`]; without what `culprits` hold.
    pub wait_ns: [u64; Cause::COUNT],
    /// Switches away from a task that wanted to go on.
    pub involuntary: u64,
    /// When the throttle began that is in force, by the run queue's clock; 0 while none was seen.
    pub throttle_began_ns: u64,
    /// When the last finished throttle began.
    pub throttle_from_ns: u64,
    /// For whom it has waited: neighbors and the node.
    pub culprits: Culprits,
    /// Waits by their length, each counted at its [`hashed_bucket`](crate::histogram::hashed_bucket). A count that reaches
    /// [`WAITS_LIMIT`] starts from 0 and is carried into [`SlotTotals::carried_waits`].
    pub waits: [u32; BUCKETS],
}

/// What a count of waits never reaches: its highest bit, which one instruction tests.
pub const WAITS_LIMIT: u32 = 1 << 31;

impl Account {
    /// An account on which nothing was booked.
    pub const EMPTY: Self = Self {
        throttle_queue: 0,
        throttle_total_ns: 0,
        throttle_until_ns: 0,
        on_cpu_ns: 0,
        voluntary: 0,
        off_cpu_ns: [0; OffCpu::COUNT],
        wait_ns: [0; Cause::COUNT],
        involuntary: 0,
        throttle_began_ns: 0,
        throttle_from_ns: 0,
        culprits: Culprits::EMPTY,
        waits: [0; BUCKETS],
    };
}

/// What is too rare for an account on each CPU: one slot's on all of them. Any CPU adds to it, by atomic additions.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SlotTotals {
    /// Throttles by their length, each counted at its [`hashed_bucket`](crate::histogram::hashed_bucket).
    pub throttles: [u64; BUCKETS],
    /// Sum of their lengths.
    pub throttles_ns: u64,
    /// Time that was taken out of waits since the group was throttled meanwhile.
    pub throttled_wait_ns: u64,
    /// Tasks that were taken to another CPU.
    pub migrations: u64,
    /// How often a count of [`Account::waits`] has reached [`WAITS_LIMIT`].
    pub carried_waits: [u64; BUCKETS],
    /// Padding.
    pub reserved: [u64; 5],
}

impl SlotTotals {
    /// Nothing.
    pub const EMPTY: Self = Self {
        throttles: [0; BUCKETS],
        throttles_ns: 0,
        throttled_wait_ns: 0,
        migrations: 0,
        carried_waits: [0; BUCKETS],
        reserved: [0; 5],
    };
}

/// Slices that a CPU remembers; a power of two. At 10,000 switches per second between different cgroups they reach back
/// 100 ms.
pub const HISTORY: usize = 1024;

/// A stretch of time in which one slot held the CPU; it began where the one before it ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// End, by the run queue's clock.
    pub end_ns: u64,
    /// Whose it was.
    pub holder: Holder,
}

/// Moves between cgroups that one slice can be split at; a power of two. What comes after more is unattributed.
pub const MOVES: usize = 4;

/// A move of the running task to another cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Moved {
    /// When, by the run queue's clock.
    pub at_ns: u64,
    /// The kernel's total of the task's CPU time by then.
    pub executed_ns: u64,
    /// Who has held the CPU since.
    pub holder: Holder,
}

impl Moved {
    /// When the move splits the slice from `since_ns` to `end_ns`: at its beginning, if the message tells of another time.
    #[inline(always)]
    #[must_use]
    pub const fn split_ns(&self, since_ns: u64, end_ns: u64) -> u64 {
        if self.at_ns > since_ns && self.at_ns < end_ns { self.at_ns } else { since_ns }
    }
}

/// What one CPU is doing. The first cache line is what each switch needs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Now {
    /// Grows by one before a program writes anything of this CPU, and once more after: odd meanwhile.
    pub sequence: u32,
    /// The run queue's own count of switches, modulo 2^32, as of the last one that was seen.
    pub switches: u32,
    /// When the running slice began, by the run queue's clock; 0 until the first switch is seen.
    pub since_ns: u64,
    /// Who holds the CPU.
    pub holder: Holder,
    /// The kernel's total of the running task's CPU time as of `since_ns`.
    pub executed_ns: u64,
    /// How often the running slice was split by a move between cgroups, and which slice that was: see
    /// [`Now::moves`]. [`Now::UNMOVED`] as a rule, and not until the first switch is seen.
    pub moved: u32,
    /// Which CPU this is.
    pub cpu: u16,
    /// Position of the newest slice in the history, modulo its length.
    pub newest: u16,
    /// The cgroup below a root that ran last. Very often it is also the one that runs next.
    pub recent: Assigned,
    /// The kernel's address of the running task.
    pub task: u64,
    /// State of the random numbers for sampled culprits.
    pub random: u64,
    /// Segments of waits that ended in a migration and whose length is not known.
    pub unknown_segments: u64,
    /// Sleeps whose length is not known.
    pub unknown_sleeps: u64,
    /// Switches that the run queue counted and the tracepoint did not report.
    pub missed: u64,
    /// Time for which nobody is known to have held or left the CPU, since switches were missed.
    pub missed_ns: u64,
    /// Padding.
    pub reserved: [u64; 7],
    /// The moves, oldest first.
    pub list: [Moved; MOVES],
}

impl Now {
    const MOVES_BITS: u32 = 3;
    const SLICE: u64 = (u32::MAX >> Self::MOVES_BITS) as u64;

    /// `moved` where no message was left: more moves than there can be.
    pub const UNMOVED: u32 = (1 << Self::MOVES_BITS) - 1;

    /// How many entries of `list` hold for the slice that runs. They are a message that any CPU may leave, and
    /// void once the slice has ended.
    #[inline(always)]
    #[must_use]
    pub const fn moves(moved: u32, since_ns: u64) -> usize {
        if moved != Self::UNMOVED && moved >> Self::MOVES_BITS == Self::slice(since_ns) {
            (moved & Self::UNMOVED) as usize
        } else {
            0
        }
    }

    /// Hands out the running slice's parts up to `now_ns`: one holder's, or several's where its task was moved between
    /// cgroups meanwhile. What ended with a move is told by the task's CPU time, the rest by the clock.
    pub fn running(&self, now_ns: u64, mut part: impl FnMut(Holder, u64)) {
        let (mut holder, mut since_ns, mut executed_ns) = (self.holder, self.since_ns, self.executed_ns);
        for moved in self.list.iter().take(Self::moves(self.moved, self.since_ns)) {
            part(holder, moved.executed_ns.saturating_sub(executed_ns));
            (holder, since_ns, executed_ns) = (moved.holder, moved.at_ns, moved.executed_ns);
        }
        part(holder, now_ns.saturating_sub(since_ns));
    }

    /// The value of `moved` for so many moves in the slice that began then.
    #[inline(always)]
    #[must_use]
    pub const fn moved_times(since_ns: u64, moves: u32) -> u32 {
        Self::slice(since_ns) << Self::MOVES_BITS | moves
    }

    /// What tells a slice from those right before it: as much of its beginning as has room beside the moves.
    const fn slice(since_ns: u64) -> u32 {
        (since_ns & Self::SLICE) as u32
    }
}

/// What one CPU is doing and did lately.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// What it is doing.
    pub now: Now,
    /// A ring of its finished slices. Only the programs read it.
    pub history: [Slice; HISTORY],
}

/// Threads that are remembered from one switch to the next, by the low bits of their id.
pub const THREADS: u32 = 1 << 16;

/// What is remembered of one thread when it leaves the CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// The thread, and how often it had been dispatched: see [`Thread::dispatch_id`].
    pub dispatch_id: u64,
    /// The kernel's total of time that it had waited, segments that were booked since included.
    pub total_ns: u64,
    /// 0 if it could go on; else when it blocked, to 8 ns, and how: see [`Thread::blocked`].
    pub blocked: u64,
}

impl Thread {
    /// `blocked` of a thread that could go on.
    pub const COULD_GO_ON: u64 = 0;

    /// A thread after so many dispatches, modulo 2^32, which also tell it from a later thread of the same id.
    #[inline(always)]
    #[must_use]
    pub const fn dispatch_id(pid: u32, dispatches: u64) -> u64 {
        dispatches << 32 | pid as u64
    }

    /// In the kind of a sleep in state disk, but for [`Thread::AMID_READING`]. A kind of 0 is any other sleep.
    pub const OFF_CPU: u64 = 1;
    /// In the kind of a sleep in state disk: the kernel says that it is for a device.
    pub const FOR_DEVICE: u64 = 2;
    /// In the kind of a sleep in state disk: the kernel says that it is for want of memory.
    pub const FOR_MEMORY: u64 = 4;
    /// The kind of a sleep in state disk that the kernel says is for want of memory and not for a device, and that a kill does not end,
    /// unlike one for `memory.high`: on a lock, say, amid the reading of a page that comes back.
    pub const AMID_READING: u64 = Self::FOR_MEMORY;
    const KINDS: u64 = Self::OFF_CPU | Self::FOR_DEVICE | Self::FOR_MEMORY;

    /// A thread that has blocked. Its clock lags by what it has waited so far; by how much more it lags when it is
    /// queued again is how long it slept. The lowest bits are the kind of its sleep.
    #[inline(always)]
    #[must_use]
    pub const fn blocked(lag_ns: u64, kind: u64) -> u64 {
        lag_ns & !Self::KINDS | kind
    }

    /// The kind of a sleep.
    #[inline(always)]
    #[must_use]
    pub const fn kind(blocked: u64) -> u64 {
        blocked & Self::KINDS
    }

    /// The [`OffCpu`] of a kind.
    #[inline(always)]
    #[must_use]
    pub const fn off_cpu(kind: u64) -> usize {
        (kind != 0) as usize
    }

    /// How long a thread has slept whose clock lagged like that when it blocked, and lags by `lag_ns` now.
    #[inline(always)]
    #[must_use]
    pub const fn slept_ns(blocked: u64, lag_ns: u64) -> u64 {
        (lag_ns & !Self::KINDS).wrapping_sub(blocked & !Self::KINDS)
    }
}

const _: () = assert!(size_of::<Account>() == 320);
const _: () = assert!(MOVES < Now::UNMOVED as usize);
const _: () = assert!(size_of::<SlotTotals>() == 576);
const _: () = assert!(size_of::<Now>() == 256);
const _: () = assert!(size_of::<Cpu>() == 256 + 16 * HISTORY);
const _: () = assert!(size_of::<Thread>() == 24);
const _: () = assert!(OffCpu::COUNT == 2 && OffCpu::Disk as usize == Thread::off_cpu(Thread::OFF_CPU));

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::{MOVES, Moved, Now, Thread};
    use crate::cgroup::{Assigned, Holder};

    fn now(since_ns: u64, executed_ns: u64, moves: &[(u64, u64)]) -> Now {
        let mut list = [Moved { at_ns: 0, executed_ns: 0, holder: Holder::UNSEEN }; MOVES];
        let (mut at_ns, mut ran_ns) = (since_ns, executed_ns);
        for (index, (later_ns, more_ns)) in moves.iter().enumerate() {
            (at_ns, ran_ns) = (at_ns + later_ns, ran_ns + more_ns);
            list[index] = Moved { at_ns, executed_ns: ran_ns, holder: Holder::new(10 + index as u32, 0) };
        }
        let count = moves.len() as u32;
        let message = if count == 0 { Now::UNMOVED } else { Now::moved_times(since_ns, count) };
        Now {
            sequence: 0,
            switches: 0,
            since_ns,
            holder: Holder::new(9, 0),
            executed_ns,
            moved: message,
            cpu: 0,
            newest: 0,
            recent: Assigned::NONE,
            task: 0,
            random: 0,
            unknown_segments: 0,
            unknown_sleeps: 0,
            missed: 0,
            missed_ns: 0,
            reserved: [0; 7],
            list,
        }
    }

    fn parts(now: &Now, now_ns: u64) -> Vec<(u32, u64)> {
        let mut parts = Vec::new();
        now.running(now_ns, |holder, ns| parts.push((holder.slot(), ns)));
        parts
    }

    proptest! {
        #[test]
        fn a_running_slice_has_one_part_more_than_moves_and_each_lies_between_two(
            since_ns in 1_u64..1 << 60, executed_ns in 0_u64..1 << 60,
            moves in prop::collection::vec((1_u64..1_000_000, 0_u64..1_000_000), 0..=MOVES), rest_ns in 0_u64..1_000_000,
        ) {
            let now = now(since_ns, executed_ns, &moves);
            let last_ns = moves.iter().fold(since_ns, |at_ns, (later_ns, _)| at_ns + later_ns);
            let expected = moves.iter().map(|(_, ran_ns)| *ran_ns).chain([rest_ns]);
            let expected: Vec<(u32, u64)> = (9..).zip(expected).collect();
            prop_assert_eq!(parts(&now, last_ns + rest_ns), expected);
        }

        #[test]
        fn moves_of_an_earlier_slice_are_void(since_ns in 1_u64..1 << 60, later_ns in 1_u64..1 << 28, moves in 1_u32..=4) {
            let moved = Now::moved_times(since_ns, moves);
            prop_assert_eq!(Now::moves(moved, since_ns), moves as usize);
            prop_assert_eq!(Now::moves(moved, since_ns + later_ns), 0);
            prop_assert_eq!(Now::moves(Now::UNMOVED, since_ns), 0);
        }

        #[test]
        fn a_move_splits_a_slice_within_it(at_ns in 0_u64..100, since_ns in 0_u64..100, length_ns in 0_u64..100) {
            let moved = Moved { at_ns, executed_ns: 0, holder: Holder::UNSEEN };
            let split_ns = moved.split_ns(since_ns, since_ns + length_ns);
            let inside = at_ns > since_ns && at_ns < since_ns + length_ns;
            prop_assert_eq!(split_ns, if inside { at_ns } else { since_ns });
        }

        #[test]
        fn a_sleep_is_by_how_much_more_a_threads_clock_lags(lag_ns in 0_u64..1 << 60, slept_ns in 0_u64..1 << 60) {
            for kind in 0..8 {
                let blocked = Thread::blocked(lag_ns, kind);
                prop_assert!(Thread::slept_ns(blocked, lag_ns + slept_ns).abs_diff(slept_ns) < 8);
                prop_assert_eq!(Thread::kind(blocked), kind);
            }
        }
    }
}
