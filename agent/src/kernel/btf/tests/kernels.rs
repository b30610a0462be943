//! Every member, constant and tracepoint that podlens asks for, on the BTF of real kernels: those that
//! `cargo xtask setup` fetched, and the running one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::env;
use std::path::{Path, PathBuf};

use super::super::{Btf, Shape};

const RUNNING: &str = "/sys/kernel/btf/vmlinux";
const SERIES: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];

/// What a member must hold, so that the kernel programs' loads fit.
#[derive(Clone, Copy)]
enum Holds {
    Pointer,
    Bytes(u32),
    /// A flag that newer kernels shrank: `se.on_rq` in 6.12, `on_rq` and `on_cpu` in 7.2.
    OneOrFourBytes,
    Array(u32),
    Embedded,
}

use Holds::{Array, Bytes, Embedded, OneOrFourBytes, Pointer};

/// Names of one member, newest first, and what it holds.
const MEMBERS: &[(&[&str], Holds)] = &[
    (&["task_struct.pid"], Bytes(4)),
    (&["task_struct.tgid"], Bytes(4)),
    (&["task_struct.flags"], Bytes(4)),
    (&["task_struct.cgroups"], Pointer),
    (&["task_struct.sched_task_group"], Pointer),
    (&["task_struct.se.cfs_rq"], Pointer),
    (&["task_struct.se.sum_exec_runtime"], Bytes(8)),
    (&["task_struct.on_rq"], OneOrFourBytes),
    (&["task_struct.se.on_rq"], OneOrFourBytes),
    (&["task_struct.nvcsw"], Bytes(8)),
    (&["task_struct.nivcsw"], Bytes(8)),
    (&["task_struct.sched_info.last_queued"], Bytes(8)),
    (&["task_struct.sched_info.last_arrival"], Bytes(8)),
    (&["task_struct.sched_info.run_delay"], Bytes(8)),
    (&["task_struct.sched_info.pcount"], Bytes(8)),
    (&["task_struct.start_time"], Bytes(8)),
    (&["css_set.dfl_cgrp"], Pointer),
    (&["css_set.subsys"], Array(8)),
    (&["cgroup.kn"], Pointer),
    (&["cgroup.self"], Embedded),
    (&["cgroup.self.parent"], Pointer),
    (&["cgroup.root"], Pointer),
    (&["cgroup.level"], Bytes(4)),
    (&["cgroup.subsys"], Array(8)),
    (&["cgroup_subsys_state.cgroup"], Pointer),
    (&["cgroup_subsys_state.parent"], Pointer),
    (&["cgroup_subsys_state.id"], Bytes(4)),
    (&["cgroup.self.serial_nr"], Bytes(8)),
    (&["kernfs_node.id"], Bytes(8)),
    (&["kernfs_node.name"], Pointer),
    (&["kernfs_node.__parent", "kernfs_node.parent"], Pointer),
    (&["cgroup_root.hierarchy_id"], Bytes(4)),
    (&["cfs_rq.rq"], Pointer),
    (&["cfs_rq.tg"], Pointer),
    (&["cfs_rq.throttled_clock_pelt_time", "cfs_rq.throttled_clock_task_time"], Bytes(8)),
    (&["rq.clock"], Bytes(8)),
    (&["rq.cpu"], Bytes(4)),
    (&["rq.curr"], Pointer),
    (&["task_group.css"], Embedded),
    (&["task_group.cfs_bandwidth.nr_periods"], Bytes(4)),
    (&["task_group.cfs_bandwidth.nr_throttled"], Bytes(4)),
    (&["task_group.cfs_bandwidth.throttled_time"], Bytes(8)),
    (&["task_struct.exit_state"], Bytes(4)),
    (&["task_struct.on_cpu"], OneOrFourBytes),
    (&["task_struct.tasks"], Embedded),
    (&["task_struct.thread_node"], Embedded),
    (&["task_struct.group_leader"], Pointer),
    (&["task_struct.signal"], Pointer),
    (&["signal_struct.thread_head"], Embedded),
    (&["signal_struct.live.counter"], Bytes(4)),
    (&["signal_struct.flags"], Bytes(4)),
    (&["signal_struct.group_exit_code"], Bytes(4)),
    (&["task_struct.exit_code"], Bytes(4)),
    (&["task_struct.thread_pid"], Pointer),
    (&["pid.level"], Bytes(4)),
    (&["pid.numbers"], Array(16)),
    (&["upid.nr"], Bytes(4)),
];

fn fetched(series: &str) -> PathBuf {
    let named = env::var_os("PODLENS_TEST_BTF_DIR").map(PathBuf::from);
    let root = named.unwrap_or_else(|| {
        let cache = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        let cache = cache.or_else(home).expect("HOME or XDG_CACHE_HOME must be set to find the kernels' BTF");
        cache.join("podlens/kernels")
    });
    root.join(series).join("vmlinux.btf")
}

fn read(path: &Path) -> Btf {
    Btf::read_file(path).unwrap_or_else(|error| panic!("{error}; `cargo xtask setup` fetches the kernels' BTF"))
}

fn check(kernel: &str, btf: &Btf, names: &[&str], holds: Holds) {
    let member = btf.first_member(names).unwrap_or_else(|error| panic!("{kernel}: {error}"));
    let fits = match holds {
        Pointer => member.is_pointer() && member.size_bytes == 8,
        Bytes(size) => member.size_bytes == size && matches!(member.shape, Shape::Integer { .. }),
        OneOrFourBytes => [1, 4].contains(&member.size_bytes) && matches!(member.shape, Shape::Integer { .. }),
        Array(size) => {
            matches!(member.shape, Shape::Array { element_bytes } if element_bytes == size)
        }
        Embedded => member.shape == Shape::Structure && member.size_bytes > 0,
    };
    assert!(fits, "{kernel}: {names:?} is {member:?}");
    let structure = names[0].split('.').next().unwrap();
    let end = member.offset_bytes + member.size_bytes;
    assert!(end <= btf.struct_size(structure).unwrap(), "{kernel}: {names:?} ends at {end}");
}

fn check_all(kernel: &str, btf: &Btf) {
    for (names, holds) in MEMBERS {
        check(kernel, btf, names, *holds);
    }
    check_state(kernel, btf);
    let cpu = btf.enum_value("cgroup_subsys_id", "cpu_cgrp_id").unwrap();
    assert!((0..16).contains(&cpu), "{kernel}: cpu_cgrp_id {cpu}");
    assert!(btf.function_exists("try_to_wake_up"), "{kernel}");
    assert!(!btf.function_exists("podlens_is_no_kernel_function"));
    check_tracepoints(kernel, btf);
    // A task group is known by its `css`, and the loop of the walk through tasks came in 5.17.
    assert_eq!(btf.member("task_group.css").unwrap().offset_bytes, 0, "{kernel}");
    assert_eq!(btf.enum_value("bpf_func_id", "BPF_FUNC_loop").is_ok(), kernel != "5.10", "{kernel}");
}

/// The state was 8 bytes until it was renamed in 5.14.
fn check_state(kernel: &str, btf: &Btf) {
    let state = btf.first_member(&["task_struct.__state", "task_struct.state"]).unwrap();
    let renamed = btf.member("task_struct.__state").is_ok();
    assert_eq!(state.size_bytes, if renamed { 4 } else { 8 }, "{kernel}");
}

fn check_tracepoints(kernel: &str, btf: &Btf) {
    let switch = btf.tracepoint("sched_switch").unwrap();
    assert_eq!(switch[0].shape, Shape::Boolean, "{kernel}: {switch:?}");
    for task in &switch[1..3] {
        assert_eq!((task.shape, task.type_name.as_str()), (Shape::Pointer, "task_struct"), "{kernel}: {switch:?}");
    }
    for (name, counts, first) in [
        ("sched_switch", 3..=4, "_Bool"),
        ("sched_migrate_task", 2..=2, "task_struct"),
        ("cgroup_mkdir", 2..=2, "cgroup"),
        ("cgroup_rmdir", 2..=2, "cgroup"),
        ("cgroup_attach_task", 4..=4, "cgroup"),
        ("sched_process_exit", 1..=2, "task_struct"),
        ("sched_process_fork", 2..=2, "task_struct"),
    ] {
        let arguments = btf.tracepoint(name).unwrap_or_else(|error| panic!("{kernel}: {error}"));
        assert!(counts.contains(&arguments.len()), "{kernel}: {name} {arguments:?}");
        assert_eq!(arguments[0].type_name, first, "{kernel}: {name} {arguments:?}");
    }
}

#[test]
fn every_fetched_kernel_has_what_podlens_asks_for() {
    for series in SERIES {
        check_all(series, &read(&fetched(series)));
    }
}

#[test]
fn the_running_kernel_has_what_podlens_asks_for() {
    check_all("running", &read(Path::new(RUNNING)));
}

#[test]
fn members_that_only_some_kernels_have_are_told_apart() {
    let self_time = "cfs_rq.throttled_clock_self_time";
    for (series, throttle_totals, state, parent, switch_arguments) in [
        ("5.10", false, "task_struct.state", "kernfs_node.parent", 3),
        ("6.1", false, "task_struct.__state", "kernfs_node.parent", 4),
        ("6.12", true, "task_struct.__state", "kernfs_node.parent", 4),
        ("7.2", true, "task_struct.__state", "kernfs_node.__parent", 4),
    ] {
        let btf = read(&fetched(series));
        assert_eq!(btf.member(self_time).is_ok(), throttle_totals, "{series}");
        assert_eq!(btf.member("cfs_rq.throttled_clock_self").is_ok(), throttle_totals, "{series}");
        assert!(btf.member("rq.rq_sched_info.run_delay").is_ok(), "{series} has CONFIG_SCHEDSTATS");
        assert!(btf.function_exists("unthrottle_cfs_rq"), "{series}");
        assert!(btf.member(state).is_ok(), "{series}");
        assert!(btf.member(parent).is_ok(), "{series}");
        assert_eq!(btf.tracepoint("sched_switch").unwrap().len(), switch_arguments, "{series}");
    }
}

#[test]
fn a_real_file_cut_short_is_refused() {
    let mut bytes = std::fs::read(RUNNING).unwrap();
    bytes.truncate(bytes.len() / 2);
    let error = Btf::parse(bytes).unwrap_err();
    assert!(error.to_string().contains("beyond the end of the file"), "{error}");
}
