//! What the collector `scheduler` costs a context switch, and the node: `cargo xtask bench scheduler`.
//!
//! Two processes hand a byte to and fro through pipes on one CPU: two switches an operation. Runs alternate
//! between nothing loaded, an empty program on the same tracepoint, and podlens, since machines drift; medians
//! are compared. As root, on a quiet machine.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{Btf, Ebpf, EbpfLoader, programs::BtfTracePoint};
use podlens::{collectors, config::Config, pipeline::Pipeline};

const ROUNDS: usize = 9;
const OPERATIONS: u32 = 200_000;
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

fn main() -> Result<()> {
    let modes = [("nothing", Loaded::Nothing), ("empty program", Loaded::Empty), ("podlens", Loaded::Podlens)];
    let mut runs: [Vec<f64>; 3] = Default::default();
    for round in 0..ROUNDS {
        for ((name, mode), runs) in modes.iter().zip(&mut runs) {
            let us = measure(*mode)?;
            eprintln!("round {} of {ROUNDS}: {name}: {us:.3} us an operation", round + 1);
            runs.push(us);
        }
    }
    let [nothing, empty, podlens] = runs.map(median);
    println!("median of {ROUNDS} alternating runs of {OPERATIONS} operations, two switches each, on one CPU");
    println!("{:14} {nothing:7.3} us an operation", "nothing");
    println!("{:14} {empty:7.3} us, {:5.1} ns a switch over nothing", "empty program", (empty - nothing) * 500.0);
    let added_ns = (podlens - empty) * 500.0;
    println!(
        "{:14} {podlens:7.3} us, {added_ns:5.1} ns a switch over the empty program; budget {BUDGET_NS} ns",
        "podlens"
    );
    println!("{:14} {:+.1} % over nothing", "", (podlens / nothing - 1.0) * 100.0);
    sweep()?;
    if added_ns > BUDGET_NS {
        bail!("over budget: {added_ns:.1} ns a switch");
    }
    Ok(())
}

/// Microseconds an operation.
fn measure(mode: Loaded) -> Result<f64> {
    let _empty: Option<Ebpf>;
    let _podlens: Option<Pipeline>;
    match mode {
        Loaded::Nothing => {}
        Loaded::Empty => _empty = Some(load_empty()?),
        Loaded::Podlens => _podlens = Some(start()?),
    }
    // What the kernel still frees of the load before is not to be measured.
    std::thread::sleep(SETTLE);
    let output = Command::new("taskset")
        .args(["-c", "0", "perf", "bench", "--format=simple", "sched", "pipe", "-l"])
        .arg(OPERATIONS.to_string())
        .output()
        .context("cannot run taskset and perf: `cargo xtask setup` installs them")?;
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
