//! What the kernel programs must know about the running kernel, found by name in its BTF.
//!
//! Pure: from BTF to constants and lacks. `object` writes the constants into the programs; `podlens check`
//! prints the lacks.

use podlens_common::cgroup::SLOT_FIRST;

use super::btf::{Btf, BtfError};

/// A part of the programs that works only where its facts are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// From a task to its slot; everything needs it.
    Slots,
    /// Births and removals of cgroups.
    Lifecycle,
    /// Slices, waits, switches and culprits.
    Scheduler,
    /// Waits of tasks that migrate while they wait.
    Legs,
    /// Throttled time kept out of the wait.
    Throttle,
    /// The same to the nanosecond.
    ThrottleExact,
    /// What a CPU quota did, at the removal of its cgroup.
    Bandwidth,
    /// Processes that begin and end.
    Processes,
    /// The walk through all tasks.
    Walk,
    /// How a PID namespace's first process ended.
    Ends,
}

/// A kernel fact that was not found.
#[derive(Debug)]
pub struct Lack {
    /// The part that does without it.
    pub part: Part,
    /// What was looked for and why it was not found.
    pub cause: String,
}

/// The constants of the programs, and the parts that lack one.
#[derive(Debug, Default)]
pub struct Facts {
    /// Name and value of each constant.
    pub constants: Vec<(&'static str, u32)>,
    /// What is missing.
    pub lacks: Vec<Lack>,
}

/// A member whose offset is a constant of the programs.
struct Wanted {
    part: Part,
    constant: &'static str,
    /// Spellings over the kernel versions, newest first.
    paths: &'static [&'static str],
    /// Bytes that the programs load; the low ones, where the member is wider.
    size_bytes: u32,
}

const fn wanted(part: Part, constant: &'static str, size_bytes: u32, paths: &'static [&'static str]) -> Wanted {
    Wanted { part, constant, paths, size_bytes }
}

const POINTER: u32 = 8;

const WANTED: &[Wanted] = &[
    wanted(Part::Slots, "TASK_FLAGS", 4, &["task_struct.flags"]),
    wanted(Part::Slots, "TASK_PID", 4, &["task_struct.pid"]),
    wanted(Part::Slots, "TASK_TGID", 4, &["task_struct.tgid"]),
    wanted(Part::Slots, "TASK_CGROUPS", POINTER, &["task_struct.cgroups"]),
    wanted(Part::Slots, "CSS_SET_DEFAULT", POINTER, &["css_set.dfl_cgrp"]),
    wanted(Part::Slots, "CSS_CGROUP", POINTER, &["cgroup_subsys_state.cgroup"]),
    wanted(Part::Slots, "CSS_PARENT", POINTER, &["cgroup_subsys_state.parent"]),
    wanted(Part::Slots, "CGROUP_SERIAL", 8, &["cgroup.self.serial_nr"]),
    wanted(Part::Slots, "CGROUP_KN", POINTER, &["cgroup.kn"]),
    wanted(Part::Slots, "KN_ID", 8, &["kernfs_node.id"]),
    wanted(Part::Slots, "KN_NAME", POINTER, &["kernfs_node.name"]),
    wanted(Part::Lifecycle, "CGROUP_ROOT", POINTER, &["cgroup.root"]),
    wanted(Part::Lifecycle, "CGROUP_ROOT_HIERARCHY", 4, &["cgroup_root.hierarchy_id"]),
    wanted(Part::Scheduler, "TASK_CFS_RQ", POINTER, &["task_struct.se.cfs_rq"]),
    wanted(Part::Scheduler, "TASK_QUEUED", 8, &["task_struct.sched_info.last_queued"]),
    wanted(Part::Scheduler, "TASK_RUN_DELAY", 8, &["task_struct.sched_info.run_delay"]),
    wanted(Part::Scheduler, "CFS_RQ_RQ", POINTER, &["cfs_rq.rq"]),
    wanted(Part::Scheduler, "RQ_CLOCK", 8, &["rq.clock"]),
    wanted(Part::Scheduler, "RQ_SWITCHES", 8, &["rq.nr_switches"]),
    wanted(Part::Scheduler, "TASK_ARRIVED", 8, &["task_struct.sched_info.last_arrival"]),
    wanted(Part::Scheduler, "TASK_EXECUTED", 8, &["task_struct.se.sum_exec_runtime"]),
    wanted(Part::Scheduler, "TASK_DISPATCHES", 8, &["task_struct.sched_info.pcount"]),
    wanted(Part::Legs, "TASK_ON_RQ", 1, &["task_struct.on_rq"]),
    wanted(Part::Legs, "RQ_CPU", 4, &["rq.cpu"]),
    wanted(
        Part::Throttle,
        "CFS_RQ_THROTTLED",
        8,
        &["cfs_rq.throttled_clock_self_time", "cfs_rq.throttled_clock_pelt_time", "cfs_rq.throttled_clock_task_time"],
    ),
    wanted(Part::Throttle, "CFS_RQ_THROTTLES", 4, &["cfs_rq.throttle_count"]),
    wanted(Part::Bandwidth, "GROUP_PERIODS", 4, &["task_group.cfs_bandwidth.nr_periods"]),
    wanted(Part::Bandwidth, "GROUP_THROTTLED", 4, &["task_group.cfs_bandwidth.nr_throttled"]),
    wanted(Part::Bandwidth, "GROUP_THROTTLED_NS", 8, &["task_group.cfs_bandwidth.throttled_time"]),
    wanted(Part::Walk, "TASK_SIGNAL", POINTER, &["task_struct.signal"]),
    wanted(Part::Walk, "TASK_EXIT_STATE", 4, &["task_struct.exit_state"]),
    wanted(Part::Walk, "TASK_ON_CPU", 1, &["task_struct.on_cpu"]),
    wanted(Part::Walk, "TASK_STATE_WORD", 4, &["task_struct.__state", "task_struct.state"]),
    wanted(Part::Walk, "TASK_TASKS", POINTER, &["task_struct.tasks"]),
    wanted(Part::Walk, "TASK_THREAD_NODE", POINTER, &["task_struct.thread_node"]),
    wanted(Part::Walk, "TASK_LEADER", POINTER, &["task_struct.group_leader"]),
    wanted(Part::Walk, "SIGNAL_THREADS", POINTER, &["signal_struct.thread_head"]),
    wanted(Part::Ends, "TASK_EXIT_CODE", 4, &["task_struct.exit_code"]),
    wanted(Part::Ends, "TASK_THREAD_PID", POINTER, &["task_struct.thread_pid"]),
    wanted(Part::Ends, "PID_LEVEL", 4, &["pid.level"]),
    wanted(Part::Ends, "SIGNAL_FLAGS", 4, &["signal_struct.flags"]),
    wanted(Part::Ends, "SIGNAL_EXIT_CODE", 4, &["signal_struct.group_exit_code"]),
];

/// Looks everything up.
#[must_use]
pub fn resolve(btf: &Btf) -> Facts {
    let mut facts = Facts::default();
    for wanted in WANTED {
        match btf.first_member(wanted.paths) {
            Ok(member) if member.size_bytes >= wanted.size_bytes => {
                facts.constants.push((wanted.constant, member.offset_bytes));
            }
            Ok(member) => facts.lacks.push(Lack {
                part: wanted.part,
                cause: format!(
                    "`{}` has {} bytes in this kernel, not {}; what needs it does not work here",
                    wanted.paths.join("` or `"),
                    member.size_bytes,
                    wanted.size_bytes
                ),
            }),
            Err(cause) => facts.lack_of(wanted.part, &cause),
        }
    }
    // `cgroup.self` is a whole structure and `subsys` an array: their offsets are wanted, not their sizes.
    facts.offset(btf, Part::Slots, "CGROUP_SELF", "cgroup.self", 0);
    facts.offset(btf, Part::Ends, "PID_NUMBERS", "pid.numbers", 0);
    facts.cpu_controller(btf);
    facts.switch_prototype(btf);
    facts.exit_prototype(btf);
    // The walk's loop, since 5.17, and what starts it.
    if let Err(cause) = btf.enum_value("bpf_func_id", "BPF_FUNC_loop") {
        facts.lack_of(Part::Walk, &cause);
    }
    if let Ok(at) = btf.member("cfs_rq.throttled_clock_self") {
        facts.constants.extend([("CFS_RQ_THROTTLED_AT", at.offset_bytes), ("HAS_THROTTLED_AT", 1)]);
    }
    // The older totals stand still while interrupts and the hypervisor take the CPU, and run by a clock that a lower
    // frequency of the CPU slows down.
    if let Err(cause) = btf.member("cfs_rq.throttled_clock_self_time") {
        facts.lack_of(Part::ThrottleExact, &cause);
    }
    for (part, tracepoint) in [
        (Part::Lifecycle, "cgroup_mkdir"),
        (Part::Lifecycle, "cgroup_rmdir"),
        (Part::Scheduler, "cgroup_attach_task"),
        (Part::Legs, "sched_migrate_task"),
        (Part::Processes, "sched_process_fork"),
    ] {
        if let Err(cause) = btf.tracepoint(tracepoint) {
            facts.lack_of(part, &cause);
        }
    }
    let throttled_above = if facts.has(Part::Throttle) { SLOT_FIRST - 1 } else { u32::MAX };
    let has_bandwidth = u32::from(facts.has(Part::Bandwidth));
    facts.constants.extend([("THROTTLED_ABOVE", throttled_above), ("HAS_BANDWIDTH", has_bandwidth)]);
    facts
}

impl Facts {
    /// From now on ends of PID namespaces' first processes are told.
    ///
    /// # Errors
    /// What is lacking.
    pub fn tell_ends(&mut self) -> Result<(), String> {
        if let Some(lack) = [Part::Ends, Part::Processes].into_iter().find_map(|part| self.lack(part)) {
            return Err(lack.to_owned());
        }
        // The walk needs them too, but may lack something else.
        let is_known = |name: &str| self.constants.iter().any(|(known, _)| *known == name);
        if !is_known("TASK_LEADER") || !is_known("TASK_SIGNAL") {
            return Err("`task_struct` has no leader or no signals in this kernel".to_owned());
        }
        self.constants.push(("TELLS_ENDS", 1));
        Ok(())
    }

    /// All that the part needs was found.
    #[must_use]
    pub fn has(&self, part: Part) -> bool {
        !self.lacks.iter().any(|lack| lack.part == part)
    }

    /// What the part lacks, in words; none if it lacks nothing.
    #[must_use]
    pub fn lack(&self, part: Part) -> Option<&str> {
        self.lacks.iter().find(|lack| lack.part == part).map(|lack| lack.cause.as_str())
    }

    fn lack_of(&mut self, part: Part, cause: &BtfError) {
        self.lacks.push(Lack { part, cause: cause.to_string() });
    }

    fn offset(&mut self, btf: &Btf, part: Part, constant: &'static str, path: &str, add_bytes: u32) {
        match btf.member(path) {
            Ok(member) => self.constants.push((constant, member.offset_bytes + add_bytes)),
            Err(cause) => self.lack_of(part, &cause),
        }
    }

    /// The CPU controller's place in a task's list of controllers.
    fn cpu_controller(&mut self, btf: &Btf) {
        match btf.enum_value("cgroup_subsys_id", "cpu_cgrp_id").map(u32::try_from) {
            Ok(Ok(index)) => {
                self.offset(btf, Part::Slots, "CSS_SET_CPU", "css_set.subsys", index * POINTER);
                self.offset(btf, Part::Bandwidth, "CGROUP_CPU", "cgroup.subsys", index * POINTER);
                // A task group is known by the address of its `css`.
                match btf.member("task_group.css") {
                    Ok(css) if css.offset_bytes == 0 => {}
                    Ok(_) => self.lacks.push(Lack {
                        part: Part::Bandwidth,
                        cause: "`task_group` does not begin with `css` in this kernel".to_owned(),
                    }),
                    Err(cause) => self.lack_of(Part::Bandwidth, &cause),
                }
            }
            Ok(Err(_)) => {}
            Err(cause) => self.lack_of(Part::Slots, &cause),
        }
    }

    /// `sched_process_exit` tells the last thread of a process from 6.16 on; before, the count of living ones does.
    fn exit_prototype(&mut self, btf: &Btf) {
        match btf.tracepoint("sched_process_exit") {
            Ok(arguments) if arguments.len() >= 2 => self.constants.push(("EXIT_HAS_GROUP", 1)),
            Ok(_) => {
                self.offset(btf, Part::Processes, "SIGNAL_LIVING", "signal_struct.live.counter", 0);
                if let Err(cause) = btf.member("task_struct.signal") {
                    self.lack_of(Part::Processes, &cause);
                }
            }
            Err(cause) => self.lack_of(Part::Processes, &cause),
        }
    }

    /// `sched_switch` carries the leaving task's state from 5.18 on; before, the task itself has it.
    fn switch_prototype(&mut self, btf: &Btf) {
        match btf.tracepoint("sched_switch") {
            Ok(arguments) if arguments.len() >= 4 => self.constants.push(("SWITCH_HAS_STATE", 1)),
            Ok(_) => match btf.first_member(&["task_struct.__state", "task_struct.state"]) {
                Ok(member) => self.constants.push(("TASK_STATE", member.offset_bytes)),
                Err(cause) => self.lack_of(Part::Scheduler, &cause),
            },
            Err(cause) => self.lack_of(Part::Scheduler, &cause),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::path::Path;

    use super::{Part, WANTED, resolve};
    use crate::kernel::btf::Btf;

    #[test]
    fn the_running_kernel_has_everything() {
        let btf = Btf::read_file(Path::new("/sys/kernel/btf/vmlinux")).expect("this kernel's BTF");
        let facts = resolve(&btf);
        assert!(facts.lacks.is_empty(), "{:?}", facts.lacks);
        let named: std::collections::HashSet<&str> = facts.constants.iter().map(|(name, _)| *name).collect();
        assert_eq!(named.len(), facts.constants.len(), "a constant is set twice");
        assert!(WANTED.iter().all(|wanted| named.contains(wanted.constant)));
    }

    #[test]
    fn a_kernel_without_a_structure_disables_what_needs_it_and_names_it() {
        // The smallest BTF: a header, and no type at all.
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24_u32, 0, 0, 0, 1] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.push(0);
        let facts = resolve(&Btf::parse(bytes).expect("an empty BTF"));
        for part in [
            Part::Slots,
            Part::Lifecycle,
            Part::Scheduler,
            Part::Legs,
            Part::Throttle,
            Part::ThrottleExact,
            Part::Bandwidth,
            Part::Processes,
            Part::Walk,
            Part::Ends,
        ] {
            let lack = facts.lack(part).unwrap_or_else(|| panic!("{part:?} lacks nothing"));
            assert!(lack.contains("this kernel has no"), "{lack}");
        }
    }
}
