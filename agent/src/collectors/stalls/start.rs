//! What the collector `stalls` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use podlens_common::stalls::{StallCounts, Stalls as Record};

use super::{Stalls, metrics};
use crate::{
    collectors::{
        scheduler,
        spec::{Kind, Part, Program, Spec, Start, Started, Wish},
    },
    kernel::{hooks::Hook, major_faults::MajorFaults, mapped::MappedArray, maps::Map, missed::MissedRuns, refusal},
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "stalls",
    about: "stalls for want of memory by reason, major page faults",
    kind: Kind::Programs,
    is_optional: true,
    switch: Some("COUNTS_STALLS"),
    parts: &[
        Part {
            programs: &[
                RECLAIM_BEGIN,
                MEMCG_BEGIN,
                Program::on_tracepoint("reclaim_end", "mm_vmscan_direct_reclaim_end", &[]),
                Program::on_tracepoint("memcg_end", "mm_vmscan_memcg_reclaim_end", &[]),
            ],
            maps: &[Map::per_slot("STALLS", 1), Map::fixed("STALLS_BEGUN"), Map::fixed("STALL_COUNTS")],
            ..Part::BASE
        },
        Part {
            without: Some("stalls by compaction are missing"),
            programs: &[
                Program::on_tracepoint(COMPACTION[0], "mm_compaction_begin", &[]),
                Program::on_tracepoint(COMPACTION[1], "mm_compaction_end", &[]),
            ],
            ..Part::BASE
        },
        Part {
            without: Some(NO_FAULTS),
            programs: &[Program::on(MAJOR_FAULT, Hook::MajorFault)],
            maps: &[Map::fixed("LAST_SLEEPS")],
            ..Part::BASE
        },
    ],
    wishes: &[&[
        Wish {
            of: "memstall",
            without: "stalls by memory.high and refaults are missing, and reclaim that a user asks for counts as a stall",
        },
        Wish { of: "high", without: "a file system's wait while a page comes back may count as memory_high" },
    ]],
    without: None,
    metrics: &[&metrics::STALLS, &metrics::FAULTS],
    records: &[],
    events: &[],
    losses: &[&UNKNOWN_STALL, &MISSED_STALL, &UNKNOWN_FAULT, &MISSED_FAULT, &LATE_FAULTS],
    start,
};

/// What is told of the beginning of a reclaim: of the node, and of a cgroup. The collector `oom` has the same ones.
pub(in crate::collectors) const RECLAIM_BEGIN: Program =
    Program::on_tracepoint("reclaim_begin", "mm_vmscan_direct_reclaim_begin", &[]);
pub(in crate::collectors) const MEMCG_BEGIN: Program =
    Program::on_tracepoint("memcg_begin", "mm_vmscan_memcg_reclaim_begin", &[]);
const COMPACTION: [&str; 2] = ["compact_begin", "compact_end"];
const MAJOR_FAULT: &str = "major_fault";
const NO_FAULTS: &str = "major faults are missing";

/// A stall is missing.
pub(super) static UNKNOWN_STALL: Loss = Loss {
    reason: "unknown_stall",
    means: "a stall by reclaim or compaction is missing in `podlens_memory_stall_seconds`: two tasks whose ids share their low 13 bits stalled at once, the stall was under way at the start, or the kernel did not report its beginning or end",
};

/// A program did not run.
pub(super) static MISSED_STALL: Loss = Loss {
    reason: "missed_stall",
    means: "a stall by reclaim or compaction began or ended while another task's did on the same CPU, which is possible on kernels from 7.0 on, where a task can be preempted in the middle of a program: it is missing in `podlens_memory_stall_seconds`, and counts as `unknown_stall` too if podlens missed only its beginning or only its end",
};

/// The length of a fault may be missing.
pub(super) static UNKNOWN_FAULT: Loss = Loss {
    reason: "unknown_fault",
    means: "a major fault counts in `podlens_major_fault_seconds` as one without sleep, and podlens does not know whether it was: the last sleep for a device was that of another task whose id shares its low 13 bits",
};

/// The program did not run.
pub(super) static MISSED_FAULT: Loss = Loss {
    reason: "missed_fault",
    means: "a major fault ended on a CPU in the middle of a call that reads or writes BPF maps, during which the kernel runs no programs on such events: it is missing in `podlens_major_fault_seconds`; podlens finds it once a minute by the kernel's own count",
};

/// A CPU was not watched at first.
pub(super) static LATE_FAULTS: Loss = Loss {
    reason: "late_fault_cpu",
    means: "a CPU came online after the start: its major faults are missing in `podlens_major_fault_seconds` until podlens noticed it, for a second, or for up to two minutes if it had been offline for less than a second",
};

/// The maps, and how often a program was left out.
pub(super) struct StallMaps {
    /// What was counted, by slot.
    pub(super) stalls: MappedArray<Record>,
    /// What could not be.
    pub(super) losses: MappedArray<StallCounts>,
    /// Beginnings and ends that no program was told of.
    pub(super) missed: MissedRuns,
    /// What runs the program at major faults; none where there is none.
    pub(super) faults: Option<MajorFaults>,
}

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let sees_sleeps = start.is_running(scheduler::SPEC.name);
    let mut lacks = Vec::new();
    let mut faults = None;
    if start.runs(MAJOR_FAULT) {
        match start.object.major_faults(MAJOR_FAULT) {
            Ok(watched) => faults = Some(watched),
            Err(cause) => lacks.push(format!("{}: {NO_FAULTS}", refusal::explain(&cause))),
        }
    }
    let knows_faults = sees_sleeps && faults.is_some();
    let maps = StallMaps {
        stalls: start.object.array("STALLS")?,
        losses: start.object.array("STALL_COUNTS")?,
        missed: start.missed_runs()?,
        faults,
    };
    if !sees_sleeps {
        lacks.push(
            "the collector `scheduler` does not run: stalls by memory.high, refaults and major faults are missing"
                .to_owned(),
        );
    }
    if start.has("memstall") && !start.has_psi {
        lacks.push(
            "the kernel counts no stalls (boot it with psi=1): stalls by memory.high and refaults are missing, and reclaim that a user asks for counts as a stall".to_owned(),
        );
    }
    let collector = Stalls::new(Arc::clone(&start.layout), maps, knows_faults);
    Ok(Started { lacks, ..Started::whole(collector) })
}
