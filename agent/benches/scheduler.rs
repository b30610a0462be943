//! What the collector `scheduler` costs a context switch, and the node: `cargo xtask bench scheduler`.
//!
//! This process and another hand a byte to and fro through pipes on one CPU: two switches an operation. An empty program and
//! podlens' take turns on the tracepoint, each for half a millisecond, since other machines on the same host make this one
//! slower for tenths of a second and only what lies close together can be compared. Where a process' memory, a program and
//! its maps happen to lie makes them faster or slower by more than what is looked for: so there are several generations,
//! each with programs and processes started anew. Another build of podlens can take its turns with them. As root, on a quiet machine.

#[path = "common/mod.rs"]
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{BtfTracePoint, ProgramFd, ProgramInfo, loaded_programs},
};
use common::{
    Below, join, median,
    one_cpu::{self, Pair},
    take_over, typical,
};
use podlens::{collectors, config::Config, kernel::cgroupfs::hierarchies::Hierarchies};
use testkit::bpf;

/// The fewest generations, and the most: where the machine is not quiet, more of them make up for it.
const GENERATIONS: usize = 6;
const MOST_GENERATIONS: usize = 24;
/// The standard error with which a result is precise enough, and the one with which it still decides something: parts of
/// the budget.
const PRECISE: f64 = 0.05;
const USABLE: f64 = 0.125;
/// Pairs of processes in each place, in one generation.
const PAIRS: usize = 3;
/// How often the programs take turns with each pair; a multiple of two and of three, so that each comes first equally often.
const ROUNDS: usize = 804;
/// Operations after a turn until caches are as they stay, and those that are measured then.
const WARM: u32 = 30;
const MEASURED: u32 = 110;
/// How often the empty program is compared with none, which takes longer to change, and operations for that.
const ROUNDS_OF_HOOK: usize = 10;
const MEASURED_FOR_HOOK: u32 = 4000;
/// What podlens may add to an empty program, in percent of the bare switch: where both processes are in one cgroup, and where
/// each waits for another cgroup, so that at each switch a cause is found and a culprit named. Machines differ by a factor of
/// two, so nanoseconds decide nothing.
const BUDGET_PERCENT: f64 = 2.0;
const BUDGET_BETWEEN_CGROUPS_PERCENT: f64 = 4.0;
/// No program takes less for what podlens does: it has not run.
const LEAST_NS: f64 = 10.0;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-bpf"));
const TRACEPOINT: &str = "sched_switch";

#[derive(clap::Parser)]
struct Arguments {
    /// Exactly so many generations, in place of as many as precision needs
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    rounds: Option<usize>,
    /// Another binary of podlens, whose program takes turns with this one's
    #[arg(long)]
    against: Option<PathBuf>,
}

/// Nanoseconds a switch of one pair.
struct Figures {
    nothing: f64,
    /// Of the empty program over nothing.
    hook: f64,
    /// Of podlens over the empty program.
    added: f64,
    /// Of podlens over another build of it.
    over_other: Option<f64>,
}

/// Where the two processes of a pair are, and what podlens may cost there, in percent of the bare switch.
type Place<'a> = (&'static str, [&'a Path; 2], f64);

const PLACES: usize = 3;

fn main() -> Result<()> {
    if one_cpu::has_served()? {
        return Ok(());
    }
    let tree = v2_tree()?;
    let (one, other) = (Below::make(&tree, "one")?, Below::make(&tree, "other")?);
    // Which cgroups the two processes are in decides how long the way to their slot is, and whether one waits for the
    // other as for a neighbor, which is then named.
    let places: [Place<'_>; PLACES] = [
        ("the root cgroup", [&tree, &tree], BUDGET_PERCENT),
        ("a cgroup below it", [&one.0, &one.0], BUDGET_PERCENT),
        ("two cgroups, each waiting for the other", [&one.0, &other.0], BUDGET_BETWEEN_CGROUPS_PERCENT),
    ];
    // The other process of each pair inherits that.
    one_cpu::pin_first_in_first_out()?;
    let mut figures: [Vec<Figures>; PLACES] = Default::default();
    let mut count = 0;
    let arguments = <Arguments as clap::Parser>::parse();
    let (fewest, most) = arguments.rounds.map_or((GENERATIONS, MOST_GENERATIONS), |rounds| (rounds, rounds));
    while count < fewest || count < most && imprecision(&places, &figures) > PRECISE {
        let mut programs = Programs::load(arguments.against.as_deref())?;
        for ((_, cgroups, _), figures) in places.iter().zip(&mut figures) {
            for _ in 0..PAIRS {
                figures.push(measure(start_pair(cgroups)?, &mut programs)?);
            }
        }
        count += 1;
        eprintln!("generation {count}, standard error {:.0} % of the budget", imprecision(&places, &figures) * 100.0);
    }
    println!("medians over {} pairs of processes in each place, all on one CPU", count * PAIRS);
    let mut over_budget = Vec::new();
    for ((place, _, budget_percent), figures) in places.iter().zip(&figures) {
        let nothing_ns = nothing(figures);
        let (hook_ns, hook_error_ns) = typical(figures.iter().map(|figures| figures.hook).collect());
        let (added_ns, added_error_ns) = added(figures);
        let percent = |ns: f64| ns / nothing_ns * 100.0;
        println!("in {place}:");
        println!("  {:14} {nothing_ns:7.1} ns a switch", "nothing");
        println!("  {:14} {hook_ns:+7.1} ns over nothing, standard error {hook_error_ns:.1}", "empty program");
        println!("  {:14} {added_ns:+7.1} ns over the empty program, standard error {added_error_ns:.1}", "podlens");
        println!(
            "  {:14} {:7.2} % of the bare switch, standard error {:.2}; budget {budget_percent} %",
            "",
            percent(added_ns),
            percent(added_error_ns),
        );
        if let Some(binary) = &arguments.against {
            let (over_ns, error_ns) = typical(figures.iter().filter_map(|figures| figures.over_other).collect());
            println!("  {:14} {over_ns:+7.1} ns over {}, standard error {error_ns:.1}", "", binary.display());
        }
        if added_ns < LEAST_NS {
            bail!("{added_ns:.1} ns in {place}: podlens' program has not run when its turn had come");
        }
        if percent(added_ns) > *budget_percent {
            over_budget.push(format!("{:.2} % of a switch in {place}", percent(added_ns)));
        }
    }
    let imprecision = imprecision(&places, &figures);
    if imprecision > USABLE {
        bail!(
            "a standard error of {:.0} % of the budget decides nothing: run this on a machine that does nothing else",
            imprecision * 100.0
        );
    }
    if !over_budget.is_empty() {
        bail!("over budget: {}", over_budget.join(", "));
    }
    Ok(())
}

/// What podlens adds to the empty program, and the standard error of that.
fn added(figures: &[Figures]) -> (f64, f64) {
    typical(figures.iter().map(|figures| figures.added).collect())
}

/// The switch without any program.
fn nothing(figures: &[Figures]) -> f64 {
    median(figures.iter().map(|figures| figures.nothing).collect())
}

/// The greatest standard error, as a part of the budget of its place.
fn imprecision(places: &[Place<'_>], figures: &[Vec<Figures>]) -> f64 {
    let of_budget = |((.., budget_percent), figures): (&Place<'_>, &Vec<Figures>)| {
        added(figures).1 / nothing(figures) * 100.0 / budget_percent
    };
    places.iter().zip(figures).map(of_budget).fold(0.0, f64::max)
}

/// The programs that are compared.
struct Programs {
    ebpf: Ebpf,
    turn: ProgramArray<MapData>,
    podlens: BtfTracePoint,
    other: Option<BtfTracePoint>,
}

impl Programs {
    fn load(against: Option<&Path>) -> Result<Self> {
        let btf = Btf::from_sys_fs()?;
        let mut ebpf = EbpfLoader::new().btf(Some(&btf)).load(PROGRAMS)?;
        let turn = ProgramArray::try_from(ebpf.take_map("TURN").context("no map `TURN`")?)?;
        for name in ["empty", "in_turn"] {
            program(&mut ebpf, name)?.load(TRACEPOINT, &btf)?;
        }
        Ok(Self { ebpf, turn, podlens: load_podlens()?, other: against.map(load_other).transpose()? })
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?.try_into()?)
}

/// Starts both processes of a pair in their cgroups.
fn start_pair([here, there]: &[&Path; 2]) -> Result<Pair> {
    join(here)?;
    let pair = Pair::start()?;
    fs::write(there.join("cgroup.procs"), pair.other_id().to_string())
        .with_context(|| format!("cannot join {}", there.display()))?;
    Ok(pair)
}

fn measure(mut pair: Pair, programs: &mut Programs) -> Result<Figures> {
    let (mut nothing, mut hook) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS_OF_HOOK {
        let empty = program(&mut programs.ebpf, "empty")?;
        let link = empty.attach()?;
        let with_ns = pair.operations(MEASURED_FOR_HOOK)?;
        empty.detach(link)?;
        // A program that was detached shortly before keeps the kernel at work for a while.
        thread::sleep(Duration::from_millis(30));
        let without_ns = pair.operations(MEASURED_FOR_HOOK)?;
        nothing.push(without_ns);
        hook.push(with_ns - without_ns);
    }
    let mut in_order = vec![fd(program(&mut programs.ebpf, "empty")?)?, fd(&programs.podlens)?];
    in_order.extend(programs.other.as_ref().map(fd).transpose()?);
    let in_turn = program(&mut programs.ebpf, "in_turn")?;
    let link = in_turn.attach()?;
    let (mut added, mut over_other) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut found_ns = vec![0.0; in_order.len()];
        for turn in 0..in_order.len() {
            let whose = (round + turn) % in_order.len();
            if let (Some(program), Some(ns)) = (in_order.get(whose), found_ns.get_mut(whose)) {
                programs.turn.set(0, program, 0)?;
                pair.operations(WARM)?;
                *ns = pair.operations(MEASURED)?;
            }
        }
        let of = |whose: usize| found_ns.get(whose).copied();
        let [empty_ns, podlens_ns, other_ns] = [0, 1, 2].map(of);
        added.extend(podlens_ns.zip(empty_ns).map(|(with, without)| with - without));
        over_other.extend(podlens_ns.zip(other_ns).map(|(one, other)| one - other));
    }
    in_turn.detach(link)?;
    let over_other = (!over_other.is_empty()).then(|| median(over_other));
    Ok(Figures { nothing: median(nothing), hook: median(hook), added: median(added), over_other })
}

/// The version 2 tree of cgroups.
fn v2_tree() -> Result<PathBuf> {
    let root = Config::defaults(&collectors::switchable()).cgroup_root;
    Hierarchies::find(&root)?
        .v2()
        .map(|tree| tree.root.clone())
        .context("the benchmark needs a version 2 tree of cgroups")
}

/// Another handle of a program, so that its entity can be used meanwhile.
fn fd(program: &BtfTracePoint) -> Result<ProgramFd> {
    Ok(program.fd()?.try_clone()?)
}

/// The same program of another binary, which measures for a second and is gone then.
fn load_other(binary: &Path) -> Result<BtfTracePoint> {
    let mut command = Command::new(binary);
    command.args(["snapshot", "--seconds", "1", "--output", "json"]).stdout(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", binary.display()))?;
    let mut found = None;
    while child.try_wait()?.is_none() {
        if found.is_none() {
            let its = bpf::programs_of(child.id());
            let is_its = |info: &ProgramInfo| info.name_as_str() == Some(TRACEPOINT) && its.contains(&info.id());
            let info = loaded_programs().filter_map(Result::ok).find(is_its);
            found = info.map(|info| take_over(info, TRACEPOINT)).transpose()?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    found.with_context(|| format!("{} has loaded no program on `{TRACEPOINT}`", binary.display()))
}

/// The one program of podlens that runs at a switch. Its others have no part in one.
fn load_podlens() -> Result<BtfTracePoint> {
    let ours = common::load_podlens(&collectors::switchable())?.into_iter().find(|one| one.tracepoint == TRACEPOINT);
    Ok(ours.with_context(|| format!("podlens has no program on `{TRACEPOINT}`"))?.program)
}
