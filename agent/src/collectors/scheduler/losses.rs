//! What the collector `scheduler` can lose.

use podlens_common::scheduler::Now;

use crate::signal::Loss;

/// A switch was not reported.
pub(super) static MISSED_SWITCH: Loss = Loss {
    reason: "missed_switch",
    means: "switches that the kernel did not report. After a single one podlens corrects CPU time and waits; only the switch itself is missing in `podlens_context_switches_total`. A few per minute are usual, more with other tracing programs on the node. Some providers' kernels report no switch from the node's first process, and nothing that an interrupt does while that process runs (docs/kernels.md)",
};

/// What is remembered of a thread did not tell a part of its wait.
pub(super) static UNKNOWN_SEGMENT: Loss = Loss {
    reason: "unknown_segment",
    means: "a part of a wait before a migration was not counted: the thread has not left a CPU since the start of podlens, or more than 65,536 thread ids were in use in turn",
};

/// What is remembered of a thread did not tell when it fell asleep.
pub(super) static UNKNOWN_SLEEP: Loss = Loss {
    reason: "unknown_sleep",
    means: "a sleep is missing in `podlens_offcpu_seconds_total`: the ids of two threads share their low 16 bits, or podlens did not see the switch in which the thread left the CPU",
};

/// How often, over these CPUs.
pub(super) fn counted(cpus: impl Iterator<Item = Now>) -> Vec<(&'static Loss, u64)> {
    let (mut missed, mut segments, mut sleeps) = (0, 0, 0);
    for cpu in cpus {
        missed += cpu.missed;
        segments += cpu.unknown_segments;
        sleeps += cpu.unknown_sleeps;
    }
    vec![(&MISSED_SWITCH, missed), (&UNKNOWN_SEGMENT, segments), (&UNKNOWN_SLEEP, sleeps)]
}

#[cfg(test)]
mod tests {
    use super::{super::start::SPEC, Loss, counted};

    #[test]
    fn what_is_counted_is_what_the_specification_declares() {
        let told: Vec<&Loss> = counted(std::iter::empty()).into_iter().map(|(loss, _)| loss).collect();
        assert_eq!(told, SPEC.losses);
    }
}
