//! What podlens' kernel programs cost where the kernel does nothing but serve memory, a disk or a socket: `cargo xtask bench storms`.
//!
//! Processes of their own make page faults, reclaim for their cgroup's limit, read from a disk, alone and as fio does with many
//! requests in flight, send datagrams and a stream, and ask a DNS server. What podlens
//! adds is found in two ways. The programs that run meanwhile are attached and detached in turn, and each load runs for some hundredths
//! of a second in each state: that is all there is to it, but other machines on the same host disturb it by more than what is looked
//! for. And the kernel counts how often each program ran and for how long, and the same of an empty program on the same hook, so that
//! what counting costs falls out: that is precise, and lacks what a program does to caches. As root, on a quiet machine. The daemon,
//! which reads what the programs count, is measured by the benchmark `daemon`.

#[path = "common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Btf, EbpfLoader,
    programs::{BtfTracePoint, loaded_programs, tp_btf::BtfTracePointLink},
};
use common::{Below, OnTracepoint, load_podlens, median, one_cpu, typical};
use podlens::{collectors, config::Config, kernel::cgroupfs::hierarchies::Hierarchies};
use rustix::time::{ClockId, clock_gettime};

/// Turns with and without the programs.
const ROUNDS: usize = 100;
/// For so long a load runs in a turn, and up to twice as long.
const TURN: Duration = Duration::from_millis(40);
/// The same of fio, which starts anew for each and tells milliseconds; it has one turn in so many rounds.
const TURN_OF_FIO: Duration = Duration::from_millis(400);
const ROUNDS_OF_FIO: usize = 4;
/// Requests that it has in flight.
const DEPTH: u32 = 16;
/// The part of a turn that comes before and is not measured.
const WARM: u64 = 8;
/// A program that was detached shortly before keeps the kernel at work for a while.
const SETTLED: Duration = Duration::from_millis(20);
/// What podlens' programs may add to what empty ones on the same hooks take, in percent. That is the hooks' price, which any
/// agent on them pays, and of a read of 3 us from memory one hook is more than this already.
const BUDGET_PERCENT: f64 = 1.0;
/// What an empty program on a tracepoint costs over none: `cargo xtask bench scheduler` measures it.
const HOOK_NS: f64 = 70.0;
/// Where the scheduler's program runs, which the benchmark `scheduler` judges.
const SWITCH: &str = "sched_switch";
/// Turns in which the kernel counts runs.
const COUNTED_TURNS: u64 = 8;
/// The kernel takes back 32 pages at a time where a limit is reached.
const BLOCK_BYTES: usize = 32 * PAGE_BYTES;
const PAGE_BYTES: usize = 4096;
/// Of a buffer whose pages are touched: beyond what allocators keep.
const BUFFER_BYTES: usize = 64 << 20;
/// Of the cgroup whose files do not fit, and of those.
const LIMIT_BYTES: usize = 32 << 20;
const FILE_BYTES: usize = 256 << 20;
/// Of the disk.
const DISK_BYTES: usize = 64 << 20;
/// Where loads of queries have their server.
const SERVER: &str = "127.77.0.1:53";
/// Of a datagram, and of a piece of a stream, which has room in its socket.
const DATAGRAM_BYTES: usize = 100;
const PIECE_BYTES: usize = 16 << 10;
/// A program that runs in fewer of the operations has no part in them.
const LEAST_RUNS: f64 = 0.01;
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-bpf"));
/// The field of fio's terse output, version 3, that tells how long its reads took.
const FIO_READ_RUNTIME_MS: usize = 8;
/// Set for a process that makes a load: which, and of which file.
const LOAD: &str = "PODLENS_BENCH_LOAD";

#[derive(clap::Parser)]
struct Arguments {
    /// Turns with and without the programs
    #[arg(long, default_value_t = ROUNDS)]
    rounds: usize,
    /// The loads; all of them unless some are named
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// The collectors whose programs are attached and detached; all of them unless some are named
    #[arg(long, value_delimiter = ',')]
    collectors: Vec<String>,
}

/// Each load, in words, and whether it has a budget: not if those who pay have asked for it.
const LOADS: [(&str, &str, bool); 9] = [
    ("faults", "a minor page fault", true),
    ("reclaim", "128 kB of a file above the cgroup's limit", true),
    ("loop", "a direct read of 4 kB from a loop device in memory", true),
    ("disk", "a direct read of 4 kB from the disk", true),
    ("fio", "a read of 4 kB from a loop device in memory, fio", true),
    ("datagrams", "a datagram of 100 bytes, sent and taken over loopback", false),
    ("queries", "a DNS query and its answer, over loopback", false),
    ("tcp-queries", "the same over TCP, in a connection that stays", false),
    ("stream", "16 KiB through a TCP connection over loopback", false),
];

fn main() -> Result<()> {
    if let Some(load) = env::var_os(LOAD) {
        return serve(load.to_str().context("a load's name is UTF-8")?);
    }
    let Arguments { rounds, loads: wanted, collectors } = clap::Parser::parse();
    let known = LOADS.map(|(load, ..)| load);
    if let Some(name) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no load is called {name}; there are {}", known.join(", "));
    }
    ensure_small_pages()?;
    one_cpu::pin()?;
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let hole = sparse_file(directory.path())?;
    let disk = Loop::in_memory()?;
    let real = directory.path().join("disk");
    write_file(&real)?;
    let mut loads = Vec::new();
    for (load, name, is_judged) in
        LOADS.iter().filter(|(load, ..)| wanted.is_empty() || wanted.iter().any(|one| one == load))
    {
        let file = match *load {
            "reclaim" => &hole,
            "loop" | "fio" => &disk.path,
            "disk" => &real,
            _ => Path::new(""),
        };
        let mut started = Load::start(name, load, file, (*load == "reclaim").then_some(LIMIT_BYTES))?;
        started.is_judged = *is_judged;
        if *load == "fio" {
            (started.turn_length, started.rounds) = (TURN_OF_FIO, ROUNDS_OF_FIO);
        }
        loads.push(started);
    }
    let all = collectors::switchable();
    let of_collectors: Vec<&str> = collectors.iter().map(String::as_str).collect();
    let mut programs = load_podlens(if of_collectors.is_empty() { &all } else { &of_collectors })?;
    for load in &mut loads {
        load.calibrate()?;
    }
    count_runs(&mut programs, &mut loads)?;
    programs.retain(|program| loads.iter().any(|load| load.runs.contains_key(program.name)));
    for round in 0..rounds {
        // Each comes first equally often.
        let with_first = round / ROUNDS_OF_FIO % 2 == round % 2;
        for with in [with_first, !with_first] {
            let _attached = if with { attach(&mut programs)? } else { Vec::new() };
            thread::sleep(SETTLED);
            for load in loads.iter_mut().filter(|load| round % load.rounds == 0) {
                load.take_turn(with)?;
            }
        }
    }
    let failures: Vec<String> = loads.iter().filter_map(Load::report).collect();
    if !failures.is_empty() {
        bail!("over budget: {}", failures.join("; "));
    }
    Ok(())
}

/// Finds how often each program runs in each load, and for how much longer than an empty one.
fn count_runs(programs: &mut [OnTracepoint], loads: &mut [Load]) -> Result<()> {
    let btf = Btf::from_sys_fs()?;
    let mut empty = Vec::new();
    for OnTracepoint { tracepoint, .. } in &*programs {
        let mut object = EbpfLoader::new().btf(Some(&btf)).load(PROGRAMS)?;
        let program: &mut BtfTracePoint = object.program_mut("empty").context("no program `empty`")?.try_into()?;
        program.load(tracepoint, &btf)?;
        program.attach()?;
        empty.push((program.info()?.id(), object));
    }
    let _attached = attach(programs)?;
    let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    for load in loads {
        let before: Vec<[Runs; 2]> = pairs(programs, &empty)?;
        for _ in 0..COUNTED_TURNS {
            load.run(load.turn)?;
        }
        let operations = (COUNTED_TURNS * load.turn) as f64;
        for ((one, before), after) in programs.iter().zip(before).zip(pairs(programs, &empty)?) {
            let [(runs, ns), (empty_runs, empty_ns)] = [0, 1].map(|at| {
                before.get(at).zip(after.get(at)).map_or((0, 0), |(one, two)| (two.0 - one.0, two.1 - one.1))
            });
            let each = runs as f64 / operations;
            if each > LEAST_RUNS && empty_runs > 0 {
                let more_ns = ns as f64 / runs as f64 - empty_ns as f64 / empty_runs as f64;
                let empty_each = empty_runs as f64 / operations;
                load.runs.insert(one.name, Ran { tracepoint: one.tracepoint, each, empty_each, more_ns });
            }
        }
    }
    Ok(())
}

/// How often a program ran, and for how many nanoseconds.
type Runs = (u64, u64);

/// Runs of each of podlens' programs, and of the empty one beside it.
fn pairs(programs: &[OnTracepoint], empty: &[(u32, aya::Ebpf)]) -> Result<Vec<[Runs; 2]>> {
    let all: BTreeMap<u32, Runs> = loaded_programs()
        .filter_map(Result::ok)
        .map(|info| (info.id(), (info.run_count(), u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX))))
        .collect();
    let of = |id: u32| all.get(&id).copied().context("it is loaded");
    programs.iter().zip(empty).map(|(one, (empty, _))| Ok([of(one.program.info()?.id())?, of(*empty)?])).collect()
}

fn attach(programs: &mut [OnTracepoint]) -> Result<Vec<BtfTracePointLink>> {
    let one = |OnTracepoint { program, .. }: &mut OnTracepoint| {
        let link = program.attach()?;
        Ok(program.take_link(link)?)
    };
    programs.iter_mut().map(one).collect()
}

/// How a program ran in a load.
struct Ran {
    tracepoint: &'static str,
    /// How often in an operation, and how often an empty program on the same tracepoint.
    each: f64,
    empty_each: f64,
    /// For how many nanoseconds more than that.
    more_ns: f64,
}

/// A process that makes a load, in a cgroup of its own.
struct Load {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// It has a budget.
    is_judged: bool,
    /// For how long it runs in a turn, and in every which round.
    turn_length: Duration,
    rounds: usize,
    /// Operations in a turn.
    turn: u64,
    /// Nanoseconds an operation, without and with the programs.
    found: [Vec<f64>; 2],
    /// By the programs that run.
    runs: BTreeMap<&'static str, Ran>,
    // They go when the process has ended.
    _cgroups: Vec<Below>,
}

impl Load {
    fn start(name: &'static str, load: &str, file: &Path, limit: Option<usize>) -> Result<Self> {
        let (hierarchies, mut cgroups) = (hierarchies()?, Vec::new());
        for controller in ["cpu", "memory", "io", "blkio"] {
            let Some(tree) = hierarchies.of(controller) else { continue };
            if !cgroups.iter().any(|known: &Below| known.0.parent() == Some(&tree.root)) {
                cgroups.push(Below::make(&tree.root, &format!("{load}-{}", cgroup_number()))?);
            }
        }
        let memory = hierarchies.of("memory").context("this machine does not count memory by cgroup")?;
        if let Some(limit) = limit {
            let mut of_memory = cgroups.iter().filter(|cgroup| cgroup.0.parent() == Some(&memory.root));
            let file = if memory.number == 0 { "memory.max" } else { "memory.limit_in_bytes" };
            let file = of_memory.next().context("it has a cgroup in each tree")?.0.join(file);
            fs::write(&file, limit.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let itself = env::current_exe().context("cannot tell where this program is")?;
        let mut child = Command::new(itself)
            .env(LOAD, format!("{load}:{}", file.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process")?;
        for cgroup in &cgroups {
            let procs = cgroup.0.join("cgroup.procs");
            fs::write(&procs, child.id().to_string()).with_context(|| format!("cannot write {}", procs.display()))?;
        }
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Self {
            name,
            child,
            input,
            output,
            is_judged: true,
            turn_length: TURN,
            rounds: 1,
            turn: 0,
            found: Default::default(),
            runs: BTreeMap::new(),
            _cgroups: cgroups,
        })
    }

    /// Nanoseconds that so many operations took.
    fn run(&mut self, operations: u64) -> Result<f64> {
        writeln!(self.input, "{operations}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("{}: it has ended", self.name))
    }

    /// Finds how many operations fill a turn, within a factor of two.
    fn calibrate(&mut self) -> Result<()> {
        self.turn = 16;
        while self.run(self.turn)? < self.turn_length.as_nanos() as f64 {
            self.turn *= 2;
        }
        Ok(())
    }

    fn take_turn(&mut self, with: bool) -> Result<()> {
        self.run(self.turn / WARM)?;
        let ns = self.run(self.turn)? / self.turn as f64;
        let [without_ns, with_ns] = &mut self.found;
        if with {
            with_ns.push(ns);
        } else {
            without_ns.push(ns);
        }
        Ok(())
    }

    /// Says what was found; what is over budget, if something is.
    fn report(&self) -> Option<String> {
        let [without_ns, with_ns] = &self.found;
        let percent = without_ns.iter().zip(with_ns).map(|(without, with)| (with / without - 1.0) * 100.0);
        let (percent, error) = typical(percent.collect());
        let without_ns = median(without_ns.clone());
        println!("{}:", self.name);
        println!("  {without_ns:8.0} ns without podlens, {:8.0} with it", median(with_ns.clone()));
        println!("  {percent:+8.2} % in turn, standard error {error:.2}");
        let (mut all_ns, mut own_ns) = (0.0, 0.0);
        for (name, Ran { tracepoint, each, empty_each, more_ns }) in &self.runs {
            println!(
                "    {name:16} {tracepoint:32} {each:6.3} runs ({empty_each:.3}), each {more_ns:4.0} ns over an empty program"
            );
            all_ns += each * (more_ns + HOOK_NS);
            if *tracepoint != SWITCH {
                own_ns += each * more_ns;
            }
        }
        let [counted, own] = [all_ns, own_ns].map(|ns| ns / without_ns * 100.0);
        let budget = if self.is_judged { format!("budget {BUDGET_PERCENT} %") } else { "no budget".to_owned() };
        println!(
            "  {counted:+8.2} % counted: all programs, {HOOK_NS} ns for each hook, and switches, which have a budget of their own"
        );
        println!("  {own:+8.2} % of it over empty programs, without switches; {budget}");
        let surely_uncounted = percent - 2.0 * error - counted;
        let is_over = own > BUDGET_PERCENT || own + surely_uncounted > BUDGET_PERCENT;
        (is_over && self.is_judged).then(|| format!("{}: {own:.2} % counted, {percent:.2} % in turn", self.name))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // One that is gone already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that makes a load: as many operations as each line says, then how many nanoseconds they took.
fn serve(load: &str) -> Result<()> {
    let (load, file) = load.split_once(':').context("a load has a file")?;
    let mut operation: Box<dyn FnMut(u64) -> Result<()>> = match load {
        "faults" => Box::new(faults),
        "reclaim" => Box::new(reads_of_file(Path::new(file))?),
        "datagrams" => Box::new(datagrams()?),
        "queries" => Box::new(queries()?),
        "tcp-queries" => Box::new(queries_over_tcp()?),
        "stream" => Box::new(stream()?),
        "fio" => return serve_fio(file),
        _ => Box::new(reads_of_disk(Path::new(file))?),
    };
    // A read waits, and now and then for what others do; all else is this thread's own work.
    let waits = matches!(load, "loop" | "disk");
    for line in io::stdin().lines() {
        let operations: u64 = line?.parse()?;
        let ns = if waits {
            let mut each = Vec::new();
            for _ in 0..operations {
                let began = Instant::now();
                operation(1)?;
                each.push(began.elapsed().as_nanos() as f64);
            }
            median(each) * operations as f64
        } else {
            let began_ns = thread_ns();
            operation(operations)?;
            (thread_ns() - began_ns) as f64
        };
        println!("{ns}");
    }
    Ok(())
}

/// The same of reads at random, past the page cache, many of them in flight: fio makes them and says how long they took.
fn serve_fio(file: &str) -> Result<()> {
    for line in io::stdin().lines() {
        let reads: usize = line?.parse()?;
        let mut fio = Command::new("fio");
        fio.args(["--name=reads", "--rw=randread", "--norandommap", "--bs=4k", "--direct=1", "--ioengine=libaio"]);
        fio.arg(format!("--filename={file}")).arg(format!("--iodepth={DEPTH}"));
        fio.arg(format!("--size={DISK_BYTES}")).arg(format!("--io_size={}", reads * PAGE_BYTES));
        let output = fio.args(["--output-format=terse", "--terse-version=3"]).output();
        let output = output.context("cannot run fio: `cargo xtask setup --for bench` installs it")?;
        ensure!(output.status.success(), "fio failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        let text = String::from_utf8_lossy(&output.stdout);
        let runtime_ms = text.trim().split(';').nth(FIO_READ_RUNTIME_MS).and_then(|field| field.parse::<f64>().ok());
        println!("{}", runtime_ms.with_context(|| format!("fio did not say how long it read: {text}"))? * 1e6);
    }
    Ok(())
}

/// CPU time of this thread.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)).unwrap_or(0)
}

/// Touches so many pages of memory that nobody has touched.
#[expect(clippy::unnecessary_wraps, reason = "as the other loads")]
fn faults(mut pages: u64) -> Result<()> {
    while pages > 0 {
        // The system's, untouched.
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        for page in buffer.chunks_mut(PAGE_BYTES) {
            if pages == 0 {
                break;
            }
            pages -= 1;
            if let Some(byte) = black_box(page).first_mut() {
                *byte = 1;
            }
        }
        drop(black_box(buffer));
    }
    Ok(())
}

/// Reads a file that does not fit into memory, of which nothing is on a disk.
fn reads_of_file(path: &Path) -> Result<impl FnMut(u64) -> Result<()>> {
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut block, mut at) = (vec![0; BLOCK_BYTES], 0);
    Ok(move |blocks| {
        for _ in 0..blocks {
            file.read_exact_at(&mut block, at)?;
            at = (at + BLOCK_BYTES as u64) % FILE_BYTES as u64;
        }
        Ok(())
    })
}

/// Reads pages from a disk at random, past the page cache.
fn reads_of_disk(path: &Path) -> Result<impl FnMut(u64) -> Result<()>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    // The kernel wants the address of a direct read to be a multiple of a block.
    let mut memory = vec![0; 2 * PAGE_BYTES];
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    Ok(move |reads| {
        let begin = memory.as_ptr().align_offset(PAGE_BYTES);
        let page = memory.get_mut(begin..begin + PAGE_BYTES).context("it has two pages")?;
        for _ in 0..reads {
            // Marsaglia's xorshift.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let place = random % (DISK_BYTES / PAGE_BYTES) as u64;
            file.read_exact_at(page, place * PAGE_BYTES as u64)?;
        }
        Ok(())
    })
}

/// Sends to itself.
fn datagrams() -> Result<impl FnMut(u64) -> Result<()>> {
    let receiver = UdpSocket::bind("127.0.0.1:0").context("cannot make a socket")?;
    let sender = UdpSocket::bind("127.0.0.1:0").context("cannot make a socket")?;
    sender.connect(receiver.local_addr()?)?;
    let mut room = [0; DATAGRAM_BYTES];
    Ok(move |datagrams| {
        for _ in 0..datagrams {
            sender.send(&room)?;
            receiver.recv(&mut room)?;
        }
        Ok(())
    })
}

/// A query of 40 bytes, with one question, for the addresses of a name.
fn query(id: u16) -> [u8; 40] {
    let mut query = [0; 40];
    let [high, low] = id.to_be_bytes();
    query[..6].copy_from_slice(&[high, low, 1, 0, 0, 1]);
    query
}

/// Of a message's third byte: it is an answer.
const ANSWER: u8 = 0x80;

/// Asks a server of its own and answers, in one thread: four calls, each of which a program may look at.
fn queries() -> Result<impl FnMut(u64) -> Result<()>> {
    let server = UdpSocket::bind(SERVER).with_context(|| format!("cannot serve at {SERVER}"))?;
    let client = UdpSocket::bind("127.0.0.1:0").context("cannot make a socket")?;
    client.connect(SERVER)?;
    let mut room = [0; 512];
    let mut id: u16 = 0;
    Ok(move |queries| {
        for _ in 0..queries {
            id = id.wrapping_add(1);
            client.send(&query(id))?;
            let (length, from) = server.recv_from(&mut room)?;
            room[2] |= ANSWER;
            server.send_to(room.get(..length).context("it has room")?, from)?;
            client.recv(&mut room)?;
        }
        Ok(())
    })
}

/// A connection to this address, both ends of it.
fn connection(address: &str) -> Result<[TcpStream; 2]> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot serve at {address}"))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    Ok([client, server])
}

/// The same over TCP: five calls, since a client takes the length of an answer first.
fn queries_over_tcp() -> Result<impl FnMut(u64) -> Result<()>> {
    let [mut client, mut server] = connection(SERVER)?;
    let mut id: u16 = 0;
    let mut message = [0; 42];
    Ok(move |queries| {
        for _ in 0..queries {
            id = id.wrapping_add(1);
            let query = query(id);
            message[..2].copy_from_slice(&u16::try_from(query.len())?.to_be_bytes());
            message[2..].copy_from_slice(&query);
            client.write_all(&message)?;
            server.read_exact(&mut message)?;
            message[4] |= ANSWER;
            server.write_all(&message)?;
            let (length, answer) = message.split_at_mut(2);
            client.read_exact(length)?;
            client.read_exact(answer)?;
        }
        Ok(())
    })
}

/// Writes to itself.
fn stream() -> Result<impl FnMut(u64) -> Result<()>> {
    let [mut client, mut server] = connection("127.0.0.1:0")?;
    let mut room = vec![0; PIECE_BYTES];
    Ok(move |pieces| {
        for _ in 0..pieces {
            client.write_all(&room)?;
            server.read_exact(&mut room)?;
        }
        Ok(())
    })
}

/// A file of holes.
fn sparse_file(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("hole");
    let file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.set_len(FILE_BYTES as u64)?;
    Ok(path)
}

fn write_file(path: &Path) -> Result<()> {
    let file = fs::File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all_at(&vec![7; DISK_BYTES], 0).with_context(|| format!("cannot write {}", path.display()))?;
    file.sync_all()?;
    Ok(())
}

/// A loop device whose file is in memory; it goes with the value.
struct Loop {
    path: PathBuf,
    file: PathBuf,
}

impl Loop {
    fn in_memory() -> Result<Self> {
        let file = Path::new("/dev/shm").join(format!("podlens-bench-{}", process::id()));
        write_file(&file)?;
        let mut command = Command::new("losetup");
        let output = command.args(["--find", "--show"]).arg(&file).output().context("cannot run losetup")?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        // Removed with the value in any case.
        let device = Self { path, file };
        ensure!(output.status.success(), "losetup failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(device)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What cannot be removed stays, and the next run does not mind.
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
        let _ = fs::remove_file(&self.file);
    }
}

fn hierarchies() -> Result<Hierarchies> {
    Ok(Hierarchies::find(&Config::defaults(&collectors::switchable()).cgroup_root)?)
}

/// Tells the cgroups of loads apart.
fn cgroup_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One fault of 2 MB in place of 512 is another benchmark.
fn ensure_small_pages() -> Result<()> {
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    ensure!(
        !enabled.contains("[always]"),
        "huge pages are always used here: write `madvise` to /sys/kernel/mm/transparent_hugepage/enabled"
    );
    Ok(())
}
