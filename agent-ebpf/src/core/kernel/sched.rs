//! Run queues, and the throttles of a task group's queue.

use podlens_common::cgroup::SLOT_FIRST;

use super::{number, structure};

structure! {
    /// `struct cfs_rq`: a task group's queue on one CPU
    CfsRq {
        rq: Rq = "cfs_rq.rq";
        // The older totals stand still while interrupts and the hypervisor take the CPU, and run by a clock that a lower
        // frequency of the CPU slows down.
        throttled_ns: u64 = "cfs_rq.throttled_clock_self_time|cfs_rq.throttled_clock_pelt_time|cfs_rq.throttled_clock_task_time?throttle";
        throttles: u32 = "cfs_rq.throttle_count?throttle";
        throttled_at_ns: u64 = "cfs_rq.throttled_clock_self?";
    }
}
structure! {
    /// `struct rq`: one CPU's run queue
    Rq {
        clock_ns: u64 = "rq.clock";
        switches: u64 = "rq.nr_switches";
        cpu: u32 = "rq.cpu";
    }
}

impl CfsRq {
    /// When the present throttle of this queue began; 0 if there is none, `clock_ns` if it is only known to be on, as
    /// before 6.6.
    #[inline(always)]
    pub(crate) fn throttle_began_ns(self, clock_ns: u64) -> u64 {
        if number!("u64 cfs_rq.throttled_clock_self ? 1 : 0") != 0 {
            self.throttled_at_ns()
        } else if self.throttles() != 0 {
            clock_ns
        } else {
            0
        }
    }
}

/// The slot is of a task group whose throttled time can be read. One comparison with a number tells that, and where the
/// kernel has no such time the verifier sees that no slot is above it.
#[inline(always)]
pub(crate) fn has_throttled(slot: u32) -> bool {
    const { assert!(SLOT_FIRST - 1 == 2, "the number in the request") };
    slot > number!("throttle ? 2 : 4294967295") as u32
}
