//! All that the object's programs need, asked of real kernels: those that `cargo xtask setup` fetched, and the running
//! one. What is asked for is read from the object; only what must come out stands here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};

use super::super::{Btf, Shape, index::Kind};
use crate::{
    collectors::{ALL, dns, node_of_tests, tcp, udp},
    kernel::{
        hooks::Hook,
        needs::{Answers, Fact, Request, programs},
        object::OBJECT,
    },
};

const RUNNING: &str = "/sys/kernel/btf/vmlinux";
const SERIES: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];
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

/// Asks for everything; gives what is missing, program by program.
fn check_all(kernel: &str, btf: Btf) -> Vec<String> {
    for program in ALL.iter().flat_map(|spec| spec.programs()) {
        check_hook(kernel, &btf, program.hook);
    }
    let programs = programs(OBJECT).unwrap();
    for program in &programs {
        for request in &program.requests {
            if let Some(Request::Fact(Fact::Member { bytes, paths }, _)) = Request::parse(request) {
                check_member(kernel, &btf, bytes, &paths);
            }
        }
    }
    let answers = Answers::new(&programs, btf, &node_of_tests()).unwrap();
    for feature in ["throttle", "bandwidth", "memstall", "high", "accounting", "times"] {
        assert_eq!(answers.lack(feature), None, "{kernel}");
    }
    let refusals = programs.iter().filter_map(|program| answers.refusal(&program.name)).map(str::to_owned);
    let hooks = ALL.iter().flat_map(|spec| spec.programs());
    let lacks =
        hooks.filter_map(|program| Some(format!("{} needs its hook: {}", program.name, program.hook.lack(&answers)?)));
    // A program of two collectors lacks it once.
    let lacks: BTreeSet<String> = lacks.collect();
    refusals.chain(lacks).collect()
}

/// A member that is loaded is a number or an address of just that size, and lies in its structure.
fn check_member(kernel: &str, btf: &Btf, bytes: Option<u32>, paths: &[&str]) {
    // The elements of arrays are checked as they are asked for.
    let Ok(member) = btf.first_member(paths) else { return };
    // Of several spellings that which the kernel has.
    let found = paths.iter().find(|path| btf.member(path).is_ok()).unwrap();
    let structure = found.split('.').next().unwrap();
    let end = member.offset_bytes + member.size_bytes;
    assert!(end <= btf.struct_size(structure).unwrap(), "{kernel}: {paths:?} ends at {end}");
    let Some(bytes) = bytes else { return };
    // Flags that newer kernels shrank: `on_rq` and `on_cpu` in 7.2. The state was 8 bytes until it was renamed in 5.14.
    let wider = match (bytes, paths) {
        (1, _) => 4,
        (4, [.., "task_struct.state"]) if btf.member("task_struct.__state").is_err() => 8,
        _ => bytes,
    };
    let fits = match member.shape {
        Shape::Pointer => bytes == 8,
        Shape::Boolean => bytes == 1,
        Shape::Integer { .. } => [bytes, wider].contains(&member.size_bytes),
        _ => false,
    };
    assert!(fits, "{kernel}: {paths:?} is {member:?}");
}

fn check_hook(kernel: &str, btf: &Btf, hook: Hook) {
    // A hook that the kernel lacks is told with what is missing.
    let Hook::Tracepoint { name, arguments: types } = hook else { return };
    let Ok(arguments) = btf.tracepoint(name) else { return };
    // A program that takes none does not care how many there are.
    if types.is_empty() {
        return;
    }
    for (argument, expected) in arguments.iter().zip(types) {
        let is_expected = expected.split('|').any(|expected| argument.type_name == expected);
        assert!(is_expected, "{kernel}: {name} {arguments:?}, expected {expected}");
    }
    assert!(arguments.len() <= types.len() + 1, "{kernel}: {name} {arguments:?}");
}

#[test]
fn every_fetched_kernel_has_what_the_programs_need() {
    for series in SERIES {
        let mut missing = check_all(series, read(&fetched(series)));
        missing.sort();
        // The registers of the task that runs are at hand since 5.15.
        let answers = Answers::new(&programs(OBJECT).unwrap(), read(&fetched(series)), &node_of_tests()).unwrap();
        assert_eq!(answers.lack("dns").is_some(), series == "5.10", "{series}");
        // The loop of the walks came in 5.17, what leads to a CPU's own part in 5.19.
        let expected: &[&str] = if series == "6.1" {
            &["udp_receive needs its hook", "udp_send needs its hook"]
        } else if series == "5.10" {
            &[
                "cpu_walk needs `enum bpf_func_id.BPF_FUNC_",
                "memory_walk needs `enum bpf_func_id.BPF_FUNC_loop`",
                "packet_dropped needs `enum skb_drop_reason.SKB_NOT_DROPPED_YET`",
                "packet_dropped needs its hook",
                "pressure_last_words needs `enum bpf_func_id.BPF_FUNC_map_lookup_percpu_elem`",
                "pressure_walk needs `enum bpf_func_id.BPF_FUNC_loop`",
                "task_walk needs `enum bpf_func_id.BPF_FUNC_loop`",
                "tcp_state_again needs `enum bpf_func_id.BPF_FUNC_for_each_map_elem`",
                "tcp_state_first needs `enum bpf_func_id.BPF_FUNC_for_each_map_elem`",
                "tcp_walk needs `enum bpf_func_id.BPF_FUNC_loop`",
                "udp_receive needs its hook",
                "udp_send needs its hook",
            ]
        } else {
            &[]
        };
        let fits = missing.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
        assert!(fits && missing.len() == expected.len(), "{series}: {missing:?}");
    }
}

#[test]
fn of_a_part_and_its_stand_in_each_kernel_runs_what_it_can() {
    let tracepoints = ["udp_send", "udp_receive"].as_slice();
    let ends = ["udp_send_4", "udp_send_6", "udp_receive_4", "udp_receive_6"].as_slice();
    let ends_of_both = [ends, &["dns_stream_send", "dns_stream_recv"]].concat();
    let (one, two) = (["tcp_state"].as_slice(), ["tcp_state_first", "tcp_state_again"].as_slice());
    for (series, of_tcp, of_udp, of_dns) in [
        ("5.10", one, ends, Err("BPF_FUNC_task_pt_regs")),
        ("6.1", two, ends, Ok(ends_of_both.as_slice())),
        ("6.12", two, tracepoints, Ok(tracepoints)),
        ("7.2", two, tracepoints, Ok(tracepoints)),
    ] {
        let answers = Answers::new(&programs(OBJECT).unwrap(), read(&fetched(series)), &node_of_tests()).unwrap();
        for (spec, expected) in [(&tcp::SPEC, Ok(of_tcp)), (&udp::SPEC, Ok(of_udp)), (&dns::SPEC, of_dns)] {
            let part = spec.parts.iter().find(|part| part.stand_in.is_some()).unwrap();
            match (part.on(&answers), expected) {
                (Ok(part), Ok(expected)) => {
                    let names: Vec<&str> = part.programs.iter().map(|program| program.name).collect();
                    assert_eq!(names, expected, "{series} {}", spec.name);
                }
                (Err(lack), Err(part)) => assert!(lack.contains("sock_send_length") && lack.contains(part), "{lack}"),
                (chosen, _) => panic!("{series} {}: {chosen:?}", spec.name),
            }
        }
    }
}

#[test]
fn hooks_have_the_numbers_that_they_have_among_all_types_and_nothing_else_is_there() {
    let btf = read(Path::new("/sys/kernel/btf/vmlinux"));
    let hooks = Btf::parse(btf.hooks(&["udp_sendmsg"])).unwrap();
    let is_hook = |btf: &Btf, number| matches!(btf.index.record(number).unwrap().kind, Kind::Typedef | Kind::Function);
    let numbers = |btf: &Btf, name| btf.index.named(name).filter(|number| is_hook(btf, *number)).collect::<Vec<u32>>();
    for name in ["btf_trace_sched_switch", "btf_trace_cgroup_mkdir", "bpf_iter_task", "udp_sendmsg"] {
        assert_eq!(numbers(&hooks, name), numbers(&btf, name), "{name}");
        assert!(!numbers(&hooks, name).is_empty(), "{name}");
    }
    for name in ["pid_t", "udp_recvmsg"] {
        assert!(!numbers(&btf, name).is_empty() && numbers(&hooks, name).is_empty(), "{name}");
    }
}

#[test]
fn the_running_kernel_has_what_the_programs_need() {
    assert_eq!(check_all("running", read(Path::new(RUNNING))), Vec::<String>::new());
}

#[test]
fn members_that_only_some_kernels_have_are_told_apart() {
    for (series, throttle_totals, state, parent, switch_arguments) in [
        ("5.10", false, "task_struct.state", "kernfs_node.parent", 3),
        ("6.1", false, "task_struct.__state", "kernfs_node.parent", 4),
        ("6.12", true, "task_struct.__state", "kernfs_node.parent", 4),
        ("7.2", true, "task_struct.__state", "kernfs_node.__parent", 4),
    ] {
        let answers = Answers::new(&programs(OBJECT).unwrap(), read(&fetched(series)), &node_of_tests()).unwrap();
        let btf = answers.btf();
        assert_eq!(answers.lack("cfs_rq.throttled_clock_self_time").is_none(), throttle_totals, "{series}");
        let numbers: std::collections::HashMap<&str, u32> = answers.numbers().collect();
        assert_eq!(numbers["u64 cfs_rq.throttled_clock_self ? 1 : 0"], u32::from(throttle_totals), "{series}");
        assert_eq!(numbers["sched_switch(4) ? 1 : 0"], u32::from(switch_arguments == 4), "{series}");
        let read_state = "u32 task_struct.__state|task_struct.state unless sched_switch(4)";
        assert_eq!(numbers[read_state], btf.member(state).unwrap().offset_bytes, "{series}");
        assert_eq!(numbers["throttle ? 2 : 4294967295"], 2, "{series}");
        let marks = ["in_memstall?memstall", "in_iowait"].map(|bit| numbers[&*format!("mask u32 task_struct.{bit}")]);
        assert!(marks[0] != marks[1] && marks.iter().all(|mark| mark.is_power_of_two()), "{series}: {marks:?}");
        let typed = numbers["enum bpf_func_id.BPF_FUNC_get_current_task_btf ? 1 : 0"];
        assert_eq!(typed, u32::from(series != "5.10"), "{series}");
        assert!(btf.member("rq.rq_sched_info.run_delay").is_ok(), "{series} has CONFIG_SCHEDSTATS");
        assert!(btf.function_exists("unthrottle_cfs_rq") && btf.function_exists("try_to_wake_up"), "{series}");
        assert!(!btf.function_exists("podlens_is_no_kernel_function"));
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
