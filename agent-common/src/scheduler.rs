//! What one CPU has accounted for one slot, what it is doing and did lately, and what is remembered of threads.

use crate::cgroup::{Assigned, Holder};

/// Buckets of a histogram of durations; see [`bucket`] and [`place`].
pub const BUCKETS: usize = 32;

/// Ran meanwhile: the waiting container itself.
pub const CAUSE_SELF: usize = 0;
/// Ran meanwhile: another container of the same pod.
pub const CAUSE_POD: usize = 1;
/// Ran meanwhile: a container of another pod, or another container outside pods.
pub const CAUSE_NEIGHBOR: usize = 2;
/// Ran meanwhile: a unit of the node or a kernel thread.
pub const CAUSE_SYSTEM: usize = 3;
/// Ran meanwhile: nobody.
pub const CAUSE_IDLE: usize = 4;
/// The wait reaches further back than the CPU's history.
pub const CAUSE_UNKNOWN: usize = 5;
/// Number of causes.
pub const CAUSES: usize = 6;

/// Off the CPU: asleep until something happens that can also be interrupted, or stopped.
pub const OFF_SLEEP: usize = 0;
/// Off the CPU: asleep without interruption, as a rule for a disk.
pub const OFF_DISK: usize = 1;
/// Number of states off the CPU.
pub const OFF_STATES: usize = 2;

/// One CPU's account of one slot. Only that CPU writes it; all fields but the throttle's only grow.
///
/// The first cache line holds what nearly each switch needs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Time between blocking and being runnable again, of sleeps that ended in a dispatch here, by state.
    pub off_cpu_ns: [u64; OFF_STATES],
    /// Time waited in the run queue, throttled time taken out, by cause.
    pub wait_ns: [u64; CAUSES],
    /// Switches away from a task that wanted to go on.
    pub involuntary: u64,
    /// Tasks that were taken to another CPU by this one.
    pub migrations: u64,
    /// Time that was taken out of the wait since the group was throttled meanwhile.
    pub throttled_ns: u64,
    /// Waits by their length, each counted at its [`place`].
    pub waits: [u64; BUCKETS],
    /// When the throttle began that is in force, by the run queue's clock; 0 while none was seen.
    pub throttle_began_ns: u64,
    /// When the last finished throttle began.
    pub throttle_from_ns: u64,
    /// Padding.
    pub reserved: [u64; 6],
}

impl Account {
    /// An account on which nothing was booked.
    pub const EMPTY: Self = Self {
        throttle_queue: 0,
        throttle_total_ns: 0,
        throttle_until_ns: 0,
        on_cpu_ns: 0,
        voluntary: 0,
        off_cpu_ns: [0; OFF_STATES],
        wait_ns: [0; CAUSES],
        involuntary: 0,
        migrations: 0,
        throttled_ns: 0,
        waits: [0; BUCKETS],
        throttle_began_ns: 0,
        throttle_from_ns: 0,
        reserved: [0; 6],
    };
}

/// Throttles that one slot's tasks met, by their length, on all CPUs. Any CPU adds to it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttles {
    /// Throttles by their length, each counted at its [`place`].
    pub lengths: [u64; BUCKETS],
    /// Sum of their lengths.
    pub sum_ns: u64,
    /// Padding.
    pub reserved: [u64; 7],
}

impl Throttles {
    /// None.
    pub const EMPTY: Self = Self { lengths: [0; BUCKETS], sum_ns: 0, reserved: [0; 7] };
}

/// Slices that a CPU remembers; a power of two. At 10,000 switches a second between different cgroups they reach
/// back 200 ms.
pub const HISTORY: usize = 2048;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When, by the run queue's clock.
    pub at_ns: u64,
    /// The kernel's total of the task's CPU time by then.
    pub executed_ns: u64,
    /// Who has held the CPU since.
    pub holder: Holder,
}

/// What one CPU is doing. The first cache line is what each switch needs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
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
    /// Legs of waits that ended in a migration and whose length is not known.
    pub unknown_legs: u64,
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
    pub const fn moves(&self) -> usize {
        if self.moved != Self::UNMOVED && self.moved >> Self::MOVES_BITS == Self::slice(self.since_ns) {
            (self.moved & Self::UNMOVED) as usize
        } else {
            0
        }
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
    /// The thread, and how often it had been dispatched: see [`Thread::stage`].
    pub stage: u64,
    /// The kernel's total of time that it had waited, legs that were booked since included.
    pub total_ns: u64,
    /// 0 if it could go on; else when it blocked and how: see [`Thread::blocked`].
    pub blocked: u64,
}

impl Thread {
    /// `blocked` of a thread that could go on.
    pub const COULD_GO_ON: u64 = 0;

    /// A thread after so many dispatches, modulo 2^32, which also tell it from a later thread of the same id.
    #[inline(always)]
    #[must_use]
    pub const fn stage(pid: u32, dispatches: u64) -> u64 {
        dispatches << 32 | pid as u64
    }

    /// A thread that has blocked. Its clock lags by what it has waited so far; by how much more it lags when it is
    /// queued again is how long it slept. The lowest bit is its state.
    #[inline(always)]
    #[must_use]
    pub const fn blocked(lag_ns: u64, state: usize) -> u64 {
        lag_ns & !1 | state as u64
    }
}

/// Culprits that a CPU can tell apart for one waiting slot.
pub const WAYS: usize = 8;

/// One CPU's split of one slot's wait by who ran meanwhile, for causes neighbor and system.
///
/// Way `i` belongs to `culprit[i]` since its total was `from_ns[i]`. The total goes on growing when the way
/// changes hands, so a reader that remembers the last total knows what is the present culprit's and what
/// was a former one's, and nothing is counted twice or lost.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Culprits {
    /// Words made by [`culprit`]; 0 while the way is free.
    pub culprit: [u64; WAYS],
    /// Total of the way over all its culprits.
    pub total_ns: [u64; WAYS],
    /// The total at which the present culprit took the way.
    pub from_ns: [u64; WAYS],
}

impl Culprits {
    /// An entry without any.
    pub const EMPTY: Self = Self { culprit: [0; WAYS], total_ns: [0; WAYS], from_ns: [0; WAYS] };
}

/// A holder of a real slot in a word that is never 0.
#[inline(always)]
#[must_use]
pub const fn culprit(holder: Holder) -> u64 {
    holder.0.wrapping_add(1)
}

/// The holder of a word made by [`culprit`]; none for a free way.
#[must_use]
pub const fn culprit_holder(word: u64) -> Option<Holder> {
    if word == 0 { None } else { Some(Holder(word - 1)) }
}

/// The place in an array of counts at which a duration counts; [`bucket`] tells what is counted there. A program
/// needs no table so.
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "what is not large has 32 bits left when it is shifted")]
pub const fn place(duration_ns: u64) -> usize {
    if duration_ns >> LARGE_BITS != 0 {
        return (u32::MAX.wrapping_mul(DE_BRUIJN) >> 27) as usize;
    }
    // In units of 2^-25 s, so that the buckets' bounds are powers of two: 2^25 / 10^9 = 72057594.04 / 2^31. With the
    // factor cut off, a duration that is such a bound comes out just below it, and so in the bucket that ends there. What
    // is not large leaves room for the product.
    // Smeared to all ones below the highest bit, and those hashed, in a straight line: there is no instruction for the
    // logarithm, and branches on it are mispredicted.
    let mut ones = ((duration_ns * 72_057_594) >> 31) as u32 | 1;
    ones |= ones >> 1;
    ones |= ones >> 2;
    ones |= ones >> 4;
    ones |= ones >> 8;
    ones |= ones >> 16;
    (ones.wrapping_mul(DE_BRUIJN) >> 27) as usize
}

/// The bucket that is counted at a [`place`]: bucket 0 takes up to 2^-24 s, bucket `i` takes (2^(i-25), 2^(i-24)] s, the
/// last one everything above 64 s.
#[must_use]
pub fn bucket(place: usize) -> Option<usize> {
    BUCKET_AT.get(place).copied().map(usize::from)
}

/// Longer ones than so many bits of nanoseconds are in the last bucket.
const LARGE_BITS: u32 = 36;
/// A de Bruijn sequence of 32 bits: its products with numbers of all ones differ in their top 5 bits.
const DE_BRUIJN: u32 = 0x07c4_acdd;
/// The logarithm of the number that [`place`] smears, by the top bits of its product.
static BUCKET_AT: [u8; BUCKETS] = [
    0, 9, 1, 10, 13, 21, 2, 29, 11, 14, 16, 18, 22, 25, 3, 30, 8, 12, 20, 28, 15, 17, 24, 7, 19, 27, 23, 6, 26, 5, 4,
    31,
];

const _: () = assert!(size_of::<Account>() == 448);
const _: () = assert!(MOVES < Now::UNMOVED as usize);
const _: () = assert!(size_of::<Throttles>() == 320);
const _: () = assert!(size_of::<Now>() == 256);
const _: () = assert!(size_of::<Cpu>() == 256 + 16 * HISTORY);
const _: () = assert!(size_of::<Thread>() == 24);
const _: () = assert!(size_of::<Culprits>() == 192);

#[cfg(test)]
mod tests {
    use super::{BUCKETS, bucket, culprit, culprit_holder, place};
    use crate::cgroup::Holder;

    /// Bucket `i` takes (2^(i-25), 2^(i-24)] seconds.
    fn expected(duration_ns: u64) -> Option<usize> {
        let seconds = duration_ns as f64 / 1e9;
        (0..31).zip(0..).find(|(power, _)| seconds <= 2f64.powi(power - 24)).map_or(Some(31), |(_, index)| Some(index))
    }

    fn counted(duration_ns: u64) -> Option<usize> {
        bucket(place(duration_ns))
    }

    #[test]
    fn every_duration_is_in_the_bucket_of_its_power_of_two() {
        let mut duration_ns = 1_u64;
        while duration_ns < 1 << 60 {
            for near in [duration_ns - 1, duration_ns, duration_ns + 1, duration_ns + duration_ns / 3] {
                // Within a nanosecond of a bound either bucket is right: the bounds are no whole nanoseconds.
                let right = [expected(near.saturating_sub(1)), expected(near), expected(near + 1)];
                assert!(right.contains(&counted(near)), "{near} ns: bucket {:?}, expected {right:?}", counted(near));
            }
            duration_ns = duration_ns * 9 / 8 + 1;
        }
        assert_eq!((counted(0), counted(u64::MAX)), (Some(0), Some(31)));
        assert_eq!(
            (counted(1_000_000_000), counted(1_000_000_002)),
            (Some(24), Some(25)),
            "1 s is the upper bound of its bucket"
        );
    }

    #[test]
    fn each_place_has_a_bucket_of_its_own() {
        for sought in 0..BUCKETS {
            let places = (0..BUCKETS).filter(|place| bucket(*place) == Some(sought)).count();
            assert_eq!(places, 1, "bucket {sought}");
        }
        assert_eq!(bucket(BUCKETS), None, "no place");
    }

    #[test]
    fn slot_and_generation_come_back_from_a_culprits_word() {
        for (slot, generation) in [(0, 0), (1023, 0), (7, u32::MAX)] {
            let holder = culprit_holder(culprit(Holder::new(slot, generation)));
            assert_eq!(holder.map(|holder| (holder.slot(), holder.generation())), Some((slot, generation)));
        }
        assert_eq!(culprit_holder(0), None, "a free way");
    }
}
