//! What the collector `scheduler` costs a context switch, and the node: `cargo xtask bench scheduler`.
//!
//! Two processes hand a byte to and fro through pipes on one CPU: two switches an operation. Runs alternate
//! between nothing loaded, an empty program on the same tracepoint, and podlens, since machines drift; the
//! middle halves are compared. As root, on a quiet machine.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{Btf, Ebpf, EbpfLoader, programs::BtfTracePoint};
use podlens::{collectors, config::Config, kernel::hierarchy::Hierarchies, pipeline::Pipeline};

const ROUNDS: usize = 11;
/// Processes a round: where each one's memory happens to lie makes it one of the faster or of the slower.
const REPEATS: usize = 3;
const OPERATIONS: u32 = 100_000;
const SETTLE: Duration = Duration::from_secs(1);
/// Nanoseconds a switch that podlens may add to an empty program.
const BUDGET_NS: f64 = 60.0;

static EMPTY: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/empty-bpf"));

#[derive(Clone, Copy)]
enum Loaded {
    Nothing,
    Empty,
    Podlens,
}

const MODES: [(&str, Loaded); 3] =
    [("nothing", Loaded::Nothing), ("empty program", Loaded::Empty), ("podlens", Loaded::Podlens)];

fn main() -> Result<()> {
    let below = Below::make()?;
    // Which cgroup the two processes are in decides how long the way to their slot is.
    let places = [("the root cgroup", None), ("a cgroup below it", Some(&below))];
    let mut runs: [[Vec<f64>; MODES.len()]; 2] = Default::default();
    for round in 0..ROUNDS {
        for ((name, mode), position) in MODES.iter().zip(0..) {
            let _loaded = load(*mode)?;
            for ((place, cgroup), runs) in places.iter().zip(&mut runs) {
                let runs: &mut Vec<f64> = runs.get_mut(position).context("one list a mode")?;
                for _ in 0..REPEATS {
                    runs.push(measure(*cgroup)?);
                }
                let latest = runs.iter().rev().take(REPEATS);
                eprintln!(
                    "round {} of {ROUNDS}: {name}, in {place}: {:?} us an operation",
                    round + 1,
                    latest.collect::<Vec<_>>()
                );
            }
        }
    }
    println!(
        "means of the middle half of {} alternating runs of {OPERATIONS} operations, two switches each, on one CPU",
        ROUNDS * REPEATS
    );
    let mut most_ns = f64::MIN;
    for ((place, _), runs) in places.iter().zip(runs) {
        let [nothing, empty, podlens] = runs.map(middle);
        let added_ns = (podlens - empty) * 500.0;
        println!("in {place}:");
        println!("  {:14} {nothing:7.3} us an operation", "nothing");
        println!("  {:14} {empty:7.3} us, {:5.1} ns a switch over nothing", "empty program", (empty - nothing) * 500.0);
        println!(
            "  {:14} {podlens:7.3} us, {added_ns:5.1} ns a switch over the empty program (budget {BUDGET_NS}), {:+.1} % over nothing",
            "podlens",
            (podlens / nothing - 1.0) * 100.0
        );
        most_ns = most_ns.max(added_ns);
    }
    sweep()?;
    if most_ns > BUDGET_NS {
        bail!("over budget: {most_ns:.1} ns a switch");
    }
    Ok(())
}

/// What is loaded, for as long as the value lives.
enum Load {
    Nothing,
    Empty { _ebpf: Ebpf },
    Podlens { _pipeline: Box<Pipeline> },
}

fn load(mode: Loaded) -> Result<Load> {
    let load = match mode {
        Loaded::Nothing => Load::Nothing,
        Loaded::Empty => Load::Empty { _ebpf: load_empty()? },
        Loaded::Podlens => Load::Podlens { _pipeline: Box::new(start()?) },
    };
    // What the kernel still frees of the load before is not to be measured.
    std::thread::sleep(SETTLE);
    Ok(load)
}

/// A cgroup of the version 2 tree, removed with the value.
struct Below(PathBuf);

impl Below {
    fn make() -> Result<Self> {
        let root = Config::defaults(&collectors::switchable()).cgroup_root;
        let tree = Hierarchies::find(&root)?.v2.context("the benchmark needs a version 2 tree of cgroups")?;
        let directory = tree.join(format!("podlens-bench-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self(directory))
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        // It stays only if a process is left in it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Microseconds an operation.
fn measure(cgroup: Option<&Below>) -> Result<f64> {
    let join = cgroup.map_or_else(String::new, |below| format!("echo $$ > {}/cgroup.procs && ", below.0.display()));
    // First in, first out: no other task comes between on that CPU, and a switch is accounted alike in each class.
    let command =
        format!("{join}exec chrt --fifo 1 taskset -c 0 perf bench --format=simple sched pipe -l {OPERATIONS}");
    let output = Command::new("sh")
        .args(["-c", &command])
        .output()
        .context("cannot run chrt, taskset and perf: `cargo xtask setup` installs them")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds: f64 = text.trim().parse().with_context(|| format!("perf bench printed {text:?}"))?;
    Ok(seconds * 1e6 / f64::from(OPERATIONS))
}

fn load_empty() -> Result<Ebpf> {
    let btf = Btf::from_sys_fs()?;
    let mut ebpf = EbpfLoader::new().btf(Some(&btf)).load(EMPTY)?;
    let program: &mut BtfTracePoint = ebpf.program_mut("empty").context("no program `empty`")?.try_into()?;
    program.load("sched_switch", &btf)?;
    program.attach()?;
    Ok(ebpf)
}

fn start() -> Result<Pipeline> {
    let mut config = Config::defaults(&collectors::switchable());
    "bench".clone_into(&mut config.node);
    let pipeline = Pipeline::start(&config)?;
    if !pipeline.is_useful() {
        bail!("podlens can measure nothing here: {:?}", pipeline.states());
    }
    Ok(pipeline)
}

/// How long start and sweep take.
fn sweep() -> Result<()> {
    let began = Instant::now();
    let pipeline = start()?;
    println!("{:14} {:7.1} ms to start, all programs attached", "podlens", began.elapsed().as_secs_f64() * 1e3);
    let mut sweeps: Vec<f64> = Vec::new();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(20));
        let began = Instant::now();
        let snapshot = pipeline.sweep();
        sweeps.push(began.elapsed().as_secs_f64() * 1e3);
        drop(snapshot);
    }
    println!("{:14} {:7.3} ms a sweep (median)", "podlens", median(sweeps));
    Ok(())
}

/// The mean of the middle half.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let quarter = values.len() / 4;
    let half = values.get(quarter..values.len() - quarter).unwrap_or_default();
    half.iter().sum::<f64>() / half.len() as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
