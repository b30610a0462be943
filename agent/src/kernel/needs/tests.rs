//! Tests of the grammar, and of what the object's programs need.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{collections::BTreeSet, path::Path};

use super::{
    Answers, Fact, NeedsError, Program, Request, programs,
    request::{Condition, Without},
};
use crate::{
    collectors::node_of_tests,
    kernel::{
        btf::{Btf, tests::blob::rich},
        object::OBJECT,
    },
};

fn running() -> Btf {
    Btf::read_file(Path::new("/sys/kernel/btf/vmlinux")).expect("this kernel's BTF")
}

/// The smallest BTF: a header, and no type at all.
fn empty() -> Btf {
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    for word in [24_u32, 0, 0, 0, 1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.push(0);
    Btf::parse(bytes).expect("an empty BTF")
}

fn member<'a>(bytes: Option<u32>, paths: &[&'a str]) -> Fact<'a> {
    Fact::Member { bytes, paths: paths.to_vec() }
}

#[test]
fn a_name_is_a_request() {
    let exit = Fact::Tracepoint { name: "sched_process_exit", arguments: 2 };
    for (name, expected) in [
        ("SLOTS_COUNT", Request::Named("SLOTS_COUNT")),
        ("u32 a.b", Request::Fact(member(Some(4), &["a.b"]), Without::Refused)),
        ("a.b.c|a.d", Request::Fact(member(None, &["a.b.c", "a.d"]), Without::Refused)),
        ("u64 a.b[e.c]", Request::Fact(member(Some(8), &["a.b[e.c]"]), Without::Refused)),
        ("u32 a.b.c+d", Request::Fact(member(Some(4), &["a.b.c+d"]), Without::Refused)),
        ("mask u32 a.b?quota", Request::Fact(Fact::Mask { bytes: 4, path: "a.b" }, Without::Feature("quota"))),
        ("enum e.c", Request::Fact(Fact::Enumerator { enumeration: "e", constant: "c" }, Without::Refused)),
        ("sched_process_exit(2)", Request::Fact(exit.clone(), Without::Refused)),
        ("u8 a.b unless sched_process_exit(2)", Request::Fact(member(Some(1), &["a.b"]), Without::Other(exit.clone()))),
        ("u64 f(x)", Request::Fact(Fact::FunctionEnd { name: "f", argument: Some("x") }, Without::Refused)),
        ("u64 f()", Request::Fact(Fact::FunctionEnd { name: "f", argument: None }, Without::Refused)),
        ("u64 a.b?quota", Request::Fact(member(Some(8), &["a.b"]), Without::Feature("quota"))),
        ("u64 a.b?", Request::Fact(member(Some(8), &["a.b"]), Without::ItAlone)),
        ("quota ? 1 : 0", Request::Choice(Condition::Feature("quota"), 1, 0)),
        ("sched_process_exit(2) ? 2 : 4294967295", Request::Choice(Condition::Fact(exit), 2, u32::MAX)),
    ] {
        assert_eq!(Request::parse(name), Some(expected), "{name}");
    }
}

#[test]
fn a_name_that_is_no_request_is_refused() {
    for name in [
        "",
        " ",
        ".a",
        "a.",
        "a..b",
        "u7 a.b",
        "u32 a",
        "a.b c",
        "a.b[c]",
        "a.b[c.d.e]",
        "a.b[]",
        "a.b|",
        "a.b+",
        "u32 a+b.c",
        "mask a.b",
        "mask u64 a.b",
        "mask u32 a.b+c",
        "mask u32 a.b|a.c",
        "enum a",
        "enum a.b.c",
        "f(",
        "f()",
        "f(x)",
        "f(-1)",
        "u32 f(x)",
        "u64 f(x.y)",
        "u64 f(x",
        "a.b?c.d",
        "a.b unless",
        "a.b unless c",
        "a ? 1",
        "a ? 1 : -1",
        "a.b ? x : 0",
        "memset.",
    ] {
        assert_eq!(Request::parse(name), None, "{name:?}");
    }
    // A function that no object has, and a feature that nothing belongs to.
    for name in ["memcpy", "bandwith ? 1 : 0"] {
        let program = Program {
            name: "p".to_owned(),
            section: "tp_btf/p".to_owned(),
            requests: BTreeSet::from([name.to_owned(), "u32 a.b?bandwidth".to_owned()]),
        };
        let error = Answers::new(&[program], empty(), &node_of_tests()).expect_err("nobody knows it");
        assert!(matches!(error, NeedsError::Unknown { .. }) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn bit_fields_are_read_by_their_aligned_word() {
    let btf = rich().parse();
    for (request, expected) in [
        ("u32 bits.one", Ok(4)),
        ("u32 bits.one+three", Ok(4)),
        ("u64 bits.plain+three", Ok(0)),
        ("u8 old_bits.five", Ok(4)),
        ("mask u32 bits.one", Ok(1)),
        ("mask u32 bits.three", Ok(0b1110)),
        ("mask u8 old_bits.five", Ok(0b1111_1000)),
        ("mask u32 bits.plain", Ok(u32::MAX)),
        ("u32 bits.plain+one", Err("`bits.plain+one` lies in no one aligned word of 4 bytes")),
        ("u32 bits.one+lost", Err("no member `lost` in `bits`")),
        ("bits.one", Err("it is a bit field")),
        ("mask u32 bits.lost", Err("no member `lost` in `bits`")),
        ("mask u16 bits.plain", Err("no one aligned word of 2 bytes")),
    ] {
        let Some(Request::Fact(fact, Without::Refused)) = Request::parse(request) else { panic!("{request}") };
        match (fact.answer(&btf), expected) {
            (Ok(number), Ok(expected)) => assert_eq!(number, expected, "{request}"),
            (Err(lack), Err(part)) => assert!(lack.to_string().contains(part), "{request}: {lack}"),
            (answer, _) => panic!("{request}: {answer:?}"),
        }
    }
}

#[test]
fn the_running_kernel_has_all_that_the_programs_need() {
    let programs = programs(OBJECT).unwrap();
    let answers = Answers::new(&programs, running(), &node_of_tests()).unwrap();
    for program in &programs {
        assert_eq!(answers.refusal(&program.name), None);
        assert!(program.requests.len() >= 5, "{program:?}");
    }
}

#[test]
fn a_kernel_without_a_structure_refuses_what_needs_it_and_names_it() {
    let programs = programs(OBJECT).unwrap();
    let answers = Answers::new(&programs, empty(), &node_of_tests()).unwrap();
    for program in &programs {
        let refusal = answers.refusal(&program.name).unwrap_or_else(|| panic!("{} is not refused", program.name));
        assert!(refusal.starts_with(&format!("{} needs `", program.name)), "{refusal}");
        let first = if program.section.starts_with("fexit/") { "function" } else { "structure" };
        assert!(refusal.contains(&format!("this kernel has no {first}")), "{refusal}");
    }
    for wish in ["throttle", "bandwidth", "cfs_rq.throttled_clock_self_time"] {
        let lack = answers.lack(wish).unwrap_or_else(|| panic!("{wish} is not missing"));
        assert!(lack.contains("this kernel has no"), "{lack}");
    }
    let numbers: std::collections::HashMap<&str, u32> = answers.numbers().collect();
    assert_eq!(numbers["throttle ? 2 : 4294967295"], u32::MAX);
    assert_eq!(numbers["bandwidth ? 1 : 0"], 0);
}

fn needs(program: &str) -> BTreeSet<String> {
    let all = programs(OBJECT).unwrap();
    all.into_iter().find(|found| found.name == program).unwrap_or_else(|| panic!("{program}")).requests
}

#[test]
fn a_program_needs_what_the_functions_that_it_calls_need() {
    // In a function of its own, which the first dispatch of a cgroup calls.
    for program in ["sched_switch", "sched_migrate", "cgroup_attach", "process_fork", "process_exit"] {
        assert!(needs(program).contains("u32 cgroup_root.hierarchy_id"), "{program}");
    }
    // In the function that the kernel's loop calls back.
    assert!(needs("task_walk").contains("u8 task_struct.on_cpu"));
    assert!(!needs("sched_switch").contains("u8 task_struct.on_cpu"));
    assert!(!needs("cgroup_mkdir").contains("u64 task_struct.cgroups"));
}

#[test]
fn what_may_be_missing_is_asked_for_before_it_is_read() {
    for program in programs(OBJECT).unwrap() {
        for request in &program.requests {
            let asked = |condition: &str| {
                let question = format!("{condition} ? ");
                program.requests.iter().any(|other| other.starts_with(&question))
            };
            let guard = match Request::parse(request).unwrap() {
                Request::Fact(_, Without::Feature(feature)) => feature.to_owned(),
                Request::Fact(_, Without::ItAlone) => request.trim_end_matches('?').to_owned(),
                Request::Fact(_, Without::Other(_)) => request.split_once(" unless ").unwrap().1.to_owned(),
                _ => continue,
            };
            assert!(asked(&guard), "{} reads `{request}` without asking whether it is there", program.name);
        }
    }
}
