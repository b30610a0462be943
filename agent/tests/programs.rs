//! docs/programs.md: how large each kernel program is, and how much of the verifier's patience it takes.
//!
//! `PODLENS_TEST_UPDATE=1 cargo test --package podlens --test programs` writes it anew, as root. What the object holds is
//! compared on any machine; what the verifier counted only on one like that on which the file was written, since it
//! follows the kernel's version, the offsets of its structures and the loops over CPUs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path};

use common::{Agent, programs_of, skip};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind, read::elf::ElfFile64};
use testkit::bpf::{INSTRUCTION, stack_bytes};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/podlens-bpf"));

const HEADING: &str = "\
# Kernel programs

How large each program is, each function that they call, and how many instructions the verifier went through to prove a program
(it gives up at 1,000,000). Nothing here is a limit: a change of it is to be seen in the change that causes it. A
program with `-` is not loaded on the machine of the counts: another one stands in for it, or nobody asks for what it does.
`PODLENS_TEST_UPDATE=1 cargo test --package podlens --test programs` writes this anew, as root.

";

/// A program, which has a section of its own, or a function that programs call.
struct Code {
    is_program: bool,
    instructions: usize,
    stack_bytes: u16,
}

/// A function's path within the programs' crate.
fn path_of(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol)).replace("podlens_bpf::", "")
}

fn codes() -> BTreeMap<String, Code> {
    let file: ElfFile64<'_> = ElfFile64::parse(OBJECT).unwrap();
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0);
    let code = functions.filter_map(|symbol| {
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        (section.kind() == SectionKind::Text).then_some(())?;
        let (from, bytes) = (usize::try_from(symbol.address()).ok()?, usize::try_from(symbol.size()).ok()?);
        let code = section.data().ok()?.get(from..from + bytes)?;
        let is_program = section.name() != Ok(".text");
        let code = Code { is_program, instructions: bytes / INSTRUCTION, stack_bytes: stack_bytes(code) };
        Some((path_of(symbol.name().ok()?), code))
    });
    code.collect()
}

/// What decides the verifier's counts beside the programs.
fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let series: Vec<&str> = release.split('.').take(2).collect();
    let cpus = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let has_v1 = fs::read_to_string("/proc/self/cgroup").unwrap().lines().any(|line| !line.starts_with("0::"));
    let cgroups = if has_v1 { "1 and 2" } else { "2" };
    format!("Linux {}, CPUs {}, cgroup version {cgroups}", series.join("."), cpus.trim())
}

/// The verifier's count of each program that a running agent has loaded.
fn verified() -> BTreeMap<String, u32> {
    let agent = Agent::start(&[("PODLENS_COLLECTORS_UDP", "true"), ("PODLENS_COLLECTORS_DNS", "true")]);
    agent.metrics();
    programs_of(agent.id())
        .filter_map(|program| Some((program.name_as_str()?.to_owned(), program.verified_instruction_count()?)))
        .collect()
}

/// The tables: one line per program, one per function. `None`: a count that is not asked for.
fn tables(codes: &BTreeMap<String, Code>, verified: Option<&BTreeMap<String, u32>>) -> String {
    let mut text = String::from("| program | instructions | stack, bytes | verified |\n| --- | --- | --- | --- |\n");
    for (name, code) in codes.iter().filter(|(_, code)| code.is_program) {
        let count = verified.map_or("?".to_owned(), |counts| counts.get(name).map_or("-".to_owned(), u32::to_string));
        writeln!(text, "| `{name}` | {} | {} | {count} |", code.instructions, code.stack_bytes).unwrap();
    }
    text.push_str("\n| function | instructions | stack, bytes |\n| --- | --- | --- |\n");
    for (name, code) in codes.iter().filter(|(_, code)| !code.is_program) {
        writeln!(text, "| `{name}` | {} | {} |", code.instructions, code.stack_bytes).unwrap();
    }
    text
}

/// The page without the verifier's counts.
fn without_verified(page: &str) -> Vec<String> {
    page.lines()
        .map(|line| match line.split('|').collect::<Vec<_>>().as_slice() {
            [start, name, instructions, stack, _, end] => [start, name, instructions, stack, " ? ", end].join("|"),
            _ => line.to_owned(),
        })
        .collect()
}

#[test]
fn each_programs_size_is_the_recorded_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/programs.md");
    let machine = format!("The verifier's counts are of {}.\n\n", machine());
    let codes = codes();
    if env::var_os("PODLENS_TEST_UPDATE").is_some() {
        fs::write(&path, [HEADING, &machine, &tables(&codes, Some(&verified()))].concat()).unwrap();
        return;
    }
    let recorded = fs::read_to_string(&path).unwrap();
    let differs = "docs/programs.md differs: PODLENS_TEST_UPDATE=1 cargo test --test programs writes it anew";
    let (_, tables_recorded) = recorded.split_once("| program |").expect("there is a table of programs");
    let tables_recorded = format!("| program |{tables_recorded}");
    assert_eq!(without_verified(&tables_recorded), without_verified(&tables(&codes, None)), "{differs}");
    if !recorded.contains(&machine) {
        return skip(&format!("the verifier's counts in docs/programs.md are not of a machine like this: {machine}"));
    }
    assert_eq!(tables_recorded, tables(&codes, Some(&verified())), "{differs}");
}
