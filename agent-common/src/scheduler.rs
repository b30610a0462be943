//! What one CPU has accounted for one slot, and the history of each CPU.

use crate::cgroup::SLOT_IDLE;

/// Buckets of a histogram of durations; see [`bucket`].
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

/// One CPU's account of one slot. Only that CPU writes it; all fields but the throttle's only grow.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Time on the CPU, of finished slices.
    pub on_cpu_ns: u64,
    /// Switches away because the task blocked.
    pub voluntary: u64,
    /// Switches away from a task that wanted to go on.
    pub involuntary: u64,
    /// Time waited in the run queue, throttled time taken out, by cause.
    pub wait_ns: [u64; CAUSES],
    /// Time that was taken out of the wait since the group was throttled meanwhile.
    pub throttled_ns: u64,
    /// The kernel's address of the run queue whose throttle the next four fields follow; 0 while there is none.
    pub throttle_queue: u64,
    /// That queue's total of throttled time as last seen.
    pub throttle_total_ns: u64,
    /// When the throttle began that is in force, by the run queue's clock; 0 while none was seen.
    pub throttle_began_ns: u64,
    /// When the last finished throttle began.
    pub throttle_from_ns: u64,
    /// When the last finished throttle ended.
    pub throttle_until_ns: u64,
    /// Waits by their length.
    pub waits: [u64; BUCKETS],
    /// Padding.
    pub reserved: u64,
}

impl Account {
    /// An account on which nothing was booked.
    pub const EMPTY: Self = Self {
        on_cpu_ns: 0,
        voluntary: 0,
        involuntary: 0,
        wait_ns: [0; CAUSES],
        throttled_ns: 0,
        throttle_queue: 0,
        throttle_total_ns: 0,
        throttle_began_ns: 0,
        throttle_from_ns: 0,
        throttle_until_ns: 0,
        waits: [0; BUCKETS],
        reserved: 0,
    };
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
    /// The slot, or [`SLOT_IDLE`].
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
}

/// What one CPU is doing and did lately.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Grows by one before a program writes anything of this CPU, and once more after: odd meanwhile.
    pub sequence: u64,
    /// When the running slice began, by the run queue's clock; 0 until the first switch is seen.
    pub since_ns: u64,
    /// The running slot, or [`SLOT_IDLE`].
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// Thread group of the running task.
    pub tgid: u32,
    /// Thread id of the running task.
    pub pid: u32,
    /// `since_ns` of the slice that a move between cgroups has split; anything else is an old message.
    pub moved_in_ns: u64,
    /// When the move happened.
    pub moved_at_ns: u64,
    /// The slot moved to.
    pub moved_slot: u32,
    /// Its generation.
    pub moved_generation: u32,
    /// State of the random numbers for sampled culprits.
    pub random: u64,
    /// Legs of waits that ended in a migration and whose length is not known.
    pub unknown_legs: u64,
    /// The run queue's own count of switches, as of the last one that was seen.
    pub switches: u64,
    /// Switches that the run queue counted and the tracepoint did not report.
    pub missed: u64,
    /// Time for which nobody is known to have held or left the CPU, since switches were missed.
    pub missed_ns: u64,
    /// Time taken from this CPU by the hypervisor and by interrupts up to `since_ns`, as far as the kernel leaves it
    /// out of tasks' CPU time.
    pub stolen_ns: u64,
    /// Padding.
    pub reserved: [u64; 3],
}

/// One CPU's ring of finished slices. Only the programs read it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Position of the newest slice, modulo the ring's length.
    pub newest: u64,
    /// Padding.
    pub reserved: [u64; 7],
    /// The slices.
    pub slices: [Slice; HISTORY],
}

impl Slice {
    /// A slice that never was.
    pub const NONE: Self = Self { end_ns: 0, slot: SLOT_IDLE, generation: 0 };
}

/// Threads whose waited time is remembered from one dispatch to the next, by the low bits of their id.
pub const THREADS: u32 = 1 << 16;

/// The kernel's total of time that a thread has waited, as of its last dispatch.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// The thread.
    pub pid: u32,
    /// How often it had been dispatched; tells it from a later thread of the same id.
    pub dispatches: u32,
    /// The total, the wait that ended with the last dispatch included, and legs that were booked since.
    pub total_ns: u64,
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
    /// Slot in the low, generation in the high 32 bits; 0 while the way is free.
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

/// Slot and generation in one word that is never 0.
#[inline(always)]
#[must_use]
pub const fn culprit(slot: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | (slot as u64 + 1)
}

/// The slot and generation of a word made by [`culprit`]; none for a free way.
#[must_use]
pub const fn culprit_slot(word: u64) -> Option<(u32, u32)> {
    let slot = (word & 0xffff_ffff) as u32;
    if slot == 0 { None } else { Some((slot - 1, (word >> 32) as u32)) }
}

/// The bucket of a duration.
///
/// The duration is scaled to units of 2^-30 s first, so that the bounds are exact powers of two in seconds:
/// bucket 0 takes up to 2^-24 s, bucket `i` takes (2^(i-25), 2^(i-24)] s, the last one everything above 64 s.
#[inline(always)]
#[must_use]
#[allow(clippy::indexing_slicing, reason = "the mask keeps the index inside")]
pub const fn bucket(duration_ns: u64) -> u32 {
    // 2^30 / 10^9 = 1 + 4948730.04 / 2^26. Everything above 2^36 ns is in the last bucket and is capped, so that
    // the product fits.
    let capped = if duration_ns > 1 << 36 { 1 << 36 } else { duration_ns };
    let scaled = capped + ((capped * 4_948_730) >> 26);
    let above = scaled.saturating_sub(1) >> 5;
    // Smeared to all ones below the highest bit, and those counted, in a straight line: there is no instruction
    // for the logarithm, and branches on it are mispredicted.
    let mut ones = (above | 1) & 0xffff_ffff;
    ones |= ones >> 1;
    ones |= ones >> 2;
    ones |= ones >> 4;
    ones |= ones >> 8;
    ones |= ones >> 16;
    // A de Bruijn sequence of 32 bits: each product's top 5 bits differ.
    DE_BRUIJN[(((ones * 0x07c4_acdd) & 0xffff_ffff) >> 27) as usize & 31] as u32
}

/// The logarithm of the number that [`bucket`] smears, by the top bits of its product.
static DE_BRUIJN: [u8; 32] = [
    0, 9, 1, 10, 13, 21, 2, 29, 11, 14, 16, 18, 22, 25, 3, 30, 8, 12, 20, 28, 15, 17, 24, 7, 19, 27, 23, 6, 26, 5, 4,
    31,
];

const _: () = assert!(size_of::<Account>() == 384);
const _: () = assert!(size_of::<Cpu>() == 128);
const _: () = assert!(size_of::<History>() == 64 + 16 * HISTORY);
const _: () = assert!(size_of::<Culprits>() == 192);

#[cfg(test)]
mod tests {
    use super::{bucket, culprit, culprit_slot};

    /// Bucket `i` takes (2^(i-25), 2^(i-24)] seconds.
    fn expected(duration_ns: u64) -> u32 {
        let seconds = duration_ns as f64 / 1e9;
        (0..31).zip(0_u32..).find(|(power, _)| seconds <= 2f64.powi(power - 24)).map_or(31, |(_, index)| index)
    }

    #[test]
    fn every_duration_is_in_the_bucket_of_its_power_of_two() {
        let mut duration_ns = 1_u64;
        while duration_ns < 1 << 60 {
            for near in [duration_ns - 1, duration_ns, duration_ns + 1, duration_ns + duration_ns / 3] {
                // Within a nanosecond of a bound either bucket is right: the bounds are no whole nanoseconds.
                let right = [expected(near.saturating_sub(1)), expected(near), expected(near + 1)];
                assert!(right.contains(&bucket(near)), "{near} ns: bucket {}, expected {right:?}", bucket(near));
            }
            duration_ns = duration_ns * 9 / 8 + 1;
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, 31));
        assert_eq!((bucket(1_000_000_000), bucket(1_000_000_002)), (24, 25), "1 s is the upper bound of its bucket");
    }

    #[test]
    fn slot_and_generation_come_back_from_a_culprits_word() {
        for (slot, generation) in [(0, 0), (1023, 0), (7, u32::MAX)] {
            assert_eq!(culprit_slot(culprit(slot, generation)), Some((slot, generation)));
        }
        assert_eq!(culprit_slot(0), None, "a free way");
    }
}
