//! What the collector `lifecycle` can lose: slots, births and removals, ends of containers. `pipeline::health` counts them.

use podlens_common::cgroup::Losses;

use crate::signal::Loss;

/// No slot was free.
pub static NO_FREE_SLOT: Loss = Loss {
    reason: "no_free_slot",
    means: "the cgroup of a dispatched task got no slot, since none was free; the task counts as `unattributed`: see above",
};

/// The table of slots had no room.
pub static TABLE_FULL: Loss =
    Loss { reason: "table_full", means: "the same, since the table of the cgroups' slots was full" };

/// An event did not come through.
pub static EVENT_LOST: Loss = Loss {
    reason: "event_lost",
    means: "events did not fit the ring buffer; the log says `events of the kernel programs were lost; walking the trees instead`",
};

/// An event came without its cgroup's path.
pub static PATH_UNREADABLE: Loss =
    Loss { reason: "path_unreadable", means: "a cgroup's path is longer than 1,022 bytes" };

/// A task had no cgroup.
pub static NO_CGROUP: Loss =
    Loss { reason: "no_cgroup", means: "a task had no cgroup, which happens only while the kernel sets one up" };

/// A CPU came for which nothing is kept.
pub static LATE_CPU: Loss = Loss {
    reason: "late_cpu",
    means: "a CPU came online after the start, more than 8 beyond the highest that was online then: podlens counts processes and migrations on it, and measures nothing else there. The log names the CPU; restart the agent",
};

/// A slot was not given at that moment.
pub static SLOT_BUSY: Loss = Loss {
    reason: "slot_busy",
    means: "a cgroup got no slot at that moment, since an interrupt asked for one while another was being assigned on the same CPU; the value of that moment counts as `unattributed`, and the cgroup asks again",
};

/// A slot stays out of use.
pub static SLOT_STUCK: Loss = Loss {
    reason: "slot_stuck",
    means: "a slot could not be freed and stays out of use; if the daemon tried to free it, the log says why",
};

/// An event was not understood.
pub static MALFORMED_EVENT: Loss =
    Loss { reason: "malformed_event", means: "the daemon and the kernel programs are from different builds" };

/// Nobody knows whose end it was.
pub static END_UNKNOWN: Loss = Loss {
    reason: "end_unknown",
    means: "a container's first process ended in a cgroup whose birth was lost; podlens sends an event of it only if the pod status reports it. Counted where events are sent",
};

/// A program did not run.
pub static MISSED_END: Loss = Loss {
    reason: "missed_end",
    means: "a process or thread ended while podlens was examining another one's end on the same CPU, which is possible on kernels from 7.0 on, where a task can be preempted in the middle of that: if it was a container's first process, podlens sends an event of its end only if the pod status reports it. Counted where events are sent",
};

/// How often: as the programs count it, and slots that the daemon could not give back.
pub(crate) fn counted(losses: Losses, stuck: u64) -> [(&'static Loss, u64); 8] {
    let Losses { no_free_slot, table_full, event_lost, path_unreadable, no_cgroup, late_cpu, slot_busy, slot_stuck } =
        losses;
    [
        (&NO_FREE_SLOT, no_free_slot),
        (&TABLE_FULL, table_full),
        (&EVENT_LOST, event_lost),
        (&PATH_UNREADABLE, path_unreadable),
        (&NO_CGROUP, no_cgroup),
        (&LATE_CPU, late_cpu),
        (&SLOT_BUSY, slot_busy),
        (&SLOT_STUCK, slot_stuck + stuck),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_stuck_whoever_could_not_give_it_back() {
        let losses = Losses { slot_stuck: 2, table_full: 5, ..Losses::default() };
        let counts = counted(losses, 3);
        assert!(counts.contains(&(&SLOT_STUCK, 5)) && counts.contains(&(&TABLE_FULL, 5)), "{counts:?}");
    }
}
