//! What the collector `scheduler` costs a context switch, and the node: `cargo xtask bench scheduler`.
//!
//! Two processes hand a byte to and fro through pipes on one CPU: two switches an operation. While they run, nothing, an
//! empty program and podlens' program are attached to the tracepoint in turn, each for some milliseconds, since other
//! machines on the same host make this one slower for tenths of a second. Where a process' memory, a program and its maps
//! happen to lie makes them faster or slower by more than what is looked for: so only figures of one pair of processes
//! are compared, and there are several generations of pairs, each with programs that are loaded anew. As root, on a quiet
//! machine.

use std::{
    env,
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::AsFd as _,
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, loaded_programs},
};
use podlens::{collectors, config::Config, kernel::hierarchy::Hierarchies, pipeline::Pipeline};

/// The fewest generations, and the most: where the machine is not quiet, more of them make up for it.
const GENERATIONS: usize = 6;
const MOST_GENERATIONS: usize = 24;
/// The standard error with which a result is precise enough, and the one with which it still decides something.
const PRECISE_NS: f64 = 2.5;
const USABLE_NS: f64 = 10.0;
/// Pairs of processes in each place, in one generation.
const PAIRS: usize = 4;
/// How often each pair is measured; a multiple of what is compared, so that each comes first, second and last equally
/// often.
const ROUNDS: usize = 4 * MODES;
/// How long a pair runs with a program before it is measured, and while it is.
const WARM: Duration = Duration::from_millis(30);
const MEASURED: Duration = Duration::from_millis(20);
const SETTLE: Duration = Duration::from_millis(700);
/// Nanoseconds a switch that podlens may add to an empty program.
const BUDGET_NS: f64 = 60.0;
/// Set for the processes that hand a byte on.
const PIPE: &str = "PODLENS_BENCH_PIPE";

static EMPTY: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/empty-bpf"));

const MODES: usize = 3;

/// Nanoseconds a switch with nothing, with the empty program and with podlens', of one pair in one round.
type Round = [f64; MODES];

/// Nanoseconds a switch of one pair, each a median over its rounds.
struct Figures {
    nothing: f64,
    /// Of the empty program over nothing.
    hook: f64,
    /// Of podlens over the empty program.
    added: f64,
}

impl Figures {
    fn of(rounds: &[Round]) -> Self {
        let over = |of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
        Self {
            nothing: over(|[nothing, ..]| *nothing),
            hook: over(|[nothing, empty, _]| empty - nothing),
            added: over(|[_, empty, podlens]| podlens - empty),
        }
    }
}

/// Where the two processes of a pair are, and what podlens may cost there.
type Place<'a> = (&'static str, [Option<&'a Below>; 2], Option<f64>);

const PLACES: usize = 3;

fn main() -> Result<()> {
    if env::var_os(PIPE).is_some() {
        return hand_on();
    }
    let (one, other) = (Below::make("one")?, Below::make("other")?);
    // Which cgroups the two processes are in decides how long the way to their slot is, and whether one waits for the
    // other as for a neighbor, which is then named.
    let places: [Place<'_>; PLACES] = [
        ("the root cgroup", [None, None], Some(BUDGET_NS)),
        ("a cgroup below it", [Some(&one), Some(&one)], Some(BUDGET_NS)),
        ("two cgroups, each waiting for the other", [Some(&one), Some(&other)], None),
    ];
    let mut figures: [Vec<Figures>; PLACES] = Default::default();
    let mut count = 0;
    while count < GENERATIONS || count < MOST_GENERATIONS && error_ns(&figures) > PRECISE_NS {
        measure_generation(&places, &mut figures)?;
        count += 1;
        eprintln!("generation {count}, standard error {:.1} ns", error_ns(&figures));
    }
    println!("medians over {} pairs of processes in each place, all on one CPU", count * PAIRS);
    let mut over_budget = Vec::new();
    for ((place, _, budget_ns), figures) in places.iter().zip(&figures) {
        let nothing_ns = median(figures.iter().map(|figures| figures.nothing).collect());
        let (hook_ns, hook_error_ns) = typical(figures.iter().map(|figures| figures.hook).collect());
        let (added_ns, added_error_ns) = added(figures);
        println!("in {place}:");
        println!("  {:14} {nothing_ns:7.1} ns a switch", "nothing");
        println!("  {:14} {hook_ns:+7.1} ns over nothing, standard error {hook_error_ns:.1}", "empty program");
        println!(
            "  {:14} {added_ns:+7.1} ns over the empty program, standard error {added_error_ns:.1}{}; {:+.1} % over nothing",
            "podlens",
            budget_ns.map_or_else(String::new, |ns| format!(" (budget {ns})")),
            100.0 * (hook_ns + added_ns) / nothing_ns
        );
        if budget_ns.is_some_and(|budget_ns| added_ns > budget_ns) {
            over_budget.push(format!("{added_ns:.1} ns a switch in {place}"));
        }
    }
    drop((one, other));
    sweep()?;
    let error_ns = error_ns(&figures);
    if error_ns > USABLE_NS {
        bail!("a standard error of {error_ns:.1} ns decides nothing: run this on a machine that does nothing else");
    }
    if !over_budget.is_empty() {
        bail!("over budget: {}", over_budget.join(", "));
    }
    Ok(())
}

/// Loads the programs, starts pairs of processes in each place, measures them in turn, and adds their figures.
fn measure_generation(places: &[Place<'_>; PLACES], figures: &mut [Vec<Figures>; PLACES]) -> Result<()> {
    let mut empty = load_empty()?;
    let mut podlens = load_podlens()?;
    let start = |cgroups: &[_; 2]| (0..PAIRS).map(|_| Pair::start(cgroups)).collect::<Result<Vec<_>>>();
    let pairs = places.iter().map(|(_, cgroups, _)| start(cgroups)).collect::<Result<Vec<_>>>()?;
    // By then each process waits for a byte.
    thread::sleep(SETTLE);
    let mut pairs =
        pairs.into_iter().flatten().map(|pair| Ok((pair.begin()?, Vec::new()))).collect::<Result<Vec<_>>>()?;
    for round in 0..ROUNDS {
        for (pair, rounds) in &mut pairs {
            rounds.push(pair.compare([None, Some(program(&mut empty)?), Some(&mut podlens)], round)?);
        }
    }
    for (figures, pairs) in figures.iter_mut().zip(pairs.chunks(PAIRS)) {
        figures.extend(pairs.iter().map(|(_, rounds)| Figures::of(rounds)));
    }
    Ok(())
}

/// What podlens adds to the empty program, and the standard error of that.
fn added(figures: &[Figures]) -> (f64, f64) {
    typical(figures.iter().map(|figures| figures.added).collect())
}

/// The greatest standard error of what is looked for.
fn error_ns(places: &[Vec<Figures>]) -> f64 {
    places.iter().map(|figures| added(figures).1).fold(0.0, f64::max)
}

/// The median, and its standard error, estimated from the middle half as if the values were normally distributed.
fn typical(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |quarters: usize| values.get(values.len() * quarters / 4).copied().unwrap_or(f64::NAN);
    (at(2), 1.253 * (at(3) - at(1)) / 1.349 / (values.len() as f64).sqrt())
}

/// One of the two processes: hands on a byte for as long as somebody hands it one.
fn hand_on() -> Result<()> {
    // Not buffered, and nothing but the two calls.
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut to = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut byte = [0];
    while from.read(&mut byte)? == 1 {
        to.write_all(&byte)?;
    }
    Ok(())
}

/// Two processes that do so with each other, and the pipe on which the first byte comes.
struct Pair([Child; 2], PipeWriter);

impl Pair {
    fn start([one, other]: &[Option<&Below>; 2]) -> Result<Self> {
        let (there, to_there) = io::pipe().context("cannot make a pipe")?;
        let (back, to_back) = io::pipe().context("cannot make a pipe")?;
        let first = to_there.try_clone().context("cannot share a pipe")?;
        Ok(Self([process(*one, there, to_back)?, process(*other, back, to_there)?], first))
    }

    /// Gives them the byte. They stand still but while they are measured.
    fn begin(mut self) -> Result<Self> {
        self.signal(libc::SIGSTOP)?;
        self.1.write_all(b"x").context("cannot hand over the first byte")?;
        Ok(self)
    }

    /// What a switch takes with nothing, the empty program and podlens' in turn.
    fn compare(&self, mut programs: [Option<&mut BtfTracePoint>; MODES], round: usize) -> Result<Round> {
        let mut figures = [0.0; MODES];
        self.signal(libc::SIGCONT)?;
        for turn in 0..MODES {
            // A program that was detached shortly before keeps the kernel at work for a while. So that all have one before
            // them, the empty one comes and goes.
            if let Some(Some(empty)) = programs.get_mut(1) {
                let link = empty.attach()?;
                empty.detach(link)?;
            }
            let mode = (turn + round) % MODES;
            let (Some(program), Some(figure)) = (programs.get_mut(mode), figures.get_mut(mode)) else { continue };
            *figure = match program {
                None => self.measure()?,
                Some(program) => {
                    let link = program.attach()?;
                    let ns = self.measure()?;
                    program.detach(link)?;
                    ns
                }
            };
        }
        self.signal(libc::SIGSTOP)?;
        Ok(figures)
    }

    /// Nanoseconds a switch.
    fn measure(&self) -> Result<f64> {
        thread::sleep(WARM);
        let (began, before) = (Instant::now(), self.dispatches()?);
        thread::sleep(MEASURED);
        let (took, after) = (began.elapsed(), self.dispatches()?);
        // Each operation dispatches both.
        Ok(took.as_secs_f64() * 1e9 / (2 * (after - before)) as f64)
    }

    /// How often the kernel has put the first process onto its CPU.
    fn dispatches(&self) -> Result<u64> {
        let Self([process, _], _) = self;
        let path = format!("/proc/{}/schedstat", process.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        text.split_whitespace().nth(2).and_then(|count| count.parse().ok()).with_context(|| format!("{path}: {text:?}"))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        for process in &self.0 {
            let id = libc::pid_t::try_from(process.id()).context("a process id is too large")?;
            // SAFETY: the call takes two numbers; the process is a child that was not waited for.
            if unsafe { libc::kill(id, signal) } != 0 {
                return Err(io::Error::last_os_error()).context("a process of the benchmark is gone");
            }
        }
        Ok(())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // One that is gone already needs no end.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn process(cgroup: Option<&Below>, from: PipeReader, to: PipeWriter) -> Result<Child> {
    let join = cgroup.map_or_else(String::new, |below| format!("echo $$ > {}/cgroup.procs && ", below.0.display()));
    let itself = env::current_exe().context("cannot tell where this program is")?;
    // First in, first out: no other task comes between on that CPU, and a switch is accounted alike in each class.
    Command::new("sh")
        .args(["-c", &format!("{join}exec chrt --fifo 1 taskset -c 0 {}", itself.display())])
        .env(PIPE, "1")
        .stdin(from)
        .stdout(to)
        .spawn()
        .context("cannot run chrt and taskset: `cargo xtask setup` installs them")
}

/// A cgroup of the version 2 tree, removed with the value.
struct Below(PathBuf);

impl Below {
    fn make(name: &str) -> Result<Self> {
        let root = Config::defaults(&collectors::switchable()).cgroup_root;
        let tree = Hierarchies::find(&root)?.v2.context("the benchmark needs a version 2 tree of cgroups")?;
        let directory = tree.join(format!("podlens-bench-{}-{name}", std::process::id()));
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

fn load_empty() -> Result<Ebpf> {
    let btf = Btf::from_sys_fs()?;
    let mut ebpf = EbpfLoader::new().btf(Some(&btf)).load(EMPTY)?;
    program(&mut ebpf)?.load("sched_switch", &btf)?;
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut BtfTracePoint> {
    Ok(ebpf.program_mut("empty").context("no program `empty`")?.try_into()?)
}

/// The one program of podlens that runs at a switch. What else it consists of is started, and ended again: it has no part
/// in a switch, and the program keeps its maps.
fn load_podlens() -> Result<BtfTracePoint> {
    let switch_programs =
        || loaded_programs().filter_map(Result::ok).filter(|info| info.name_as_str() == Some("sched_switch"));
    let others: Vec<u32> = switch_programs().map(|info| info.id()).collect();
    let _pipeline = start()?;
    let ours =
        switch_programs().find(|info| !others.contains(&info.id())).context("podlens has no program `sched_switch`")?;
    // SAFETY: the program is podlens' own, which is of that type.
    Ok(unsafe { BtfTracePoint::from_program_info(ours, "sched_switch".into()) }?)
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
        thread::sleep(Duration::from_millis(20));
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
