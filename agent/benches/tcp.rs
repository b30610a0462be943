//! What the collector `tcp` costs connections: `cargo xtask bench tcp`.
//!
//! A server and a client, each a process in a container's cgroup of the benchmark's own, talk over loopback in three ways: requests on
//! connections that stay (as wrk does), a connection for each request, and one stream as fast as it goes (as iperf3 does). An
//! agent with and one without the collector, and hardly anything else, take turns beside them, each scraped every second. What other machines do
//! on the same host makes this one slower for seconds, so only two turns in a row are compared, and the medians of such pairs
//! are told with their standard errors. As root, on a machine that does nothing else. Exits with 1 if a budget is surely missed, and
//! where the machine is too busy to tell.

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use common::{Agent, TestCgroup};

/// Set for the process of a side.
const SIDE: &str = "PODLENS_BENCH_SIDE";
/// How long each load is measured in a turn.
const MEASURED: Duration = Duration::from_millis(1200);
/// Connections that stay, and those that are made at once.
const STAYING: usize = 16;
const MAKING: usize = 4;
/// Lengths of a request and of its answer.
const REQUEST: usize = 100;
const ANSWER: usize = 1000;
/// One write of the stream.
const PIECE: usize = 64 << 10;

#[derive(clap::Parser)]
struct Arguments {
    /// How often both agents have a turn
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..))]
    rounds: u32,
}

/// What is measured: its name, whether more of it is better, and how much worse it may be, in percent.
const FIGURES: [(&str, bool, f64); 4] = [
    ("requests a second, connections that stay", true, 2.0),
    ("the 99th of a hundred requests takes", false, 2.0),
    ("requests a second, a connection each", true, 2.0),
    ("bytes a second of one stream", true, 1.0),
];

/// One value for each of `FIGURES`.
type Values = [f64; FIGURES.len()];

fn main() -> Result<()> {
    match env::var(SIDE).as_deref() {
        Ok("server") => return serve(),
        Ok(_) => return call(),
        Err(_) => {}
    }
    let arguments = <Arguments as clap::Parser>::parse();
    let (answering, calling) = (TestCgroup::any_container(), TestCgroup::any_container());
    let mut server = Side::start("server", &answering)?;
    let mut client = Side::start("client", &calling)?;
    let address = server.answer()?;
    let mut pairs: Vec<[Values; 2]> = Vec::new();
    for round in 0..arguments.rounds {
        // Who comes first has the machine as the round before left it.
        let comes_first = round % 2 == 1;
        let first = turn(comes_first, &mut client, &address)?;
        let second = turn(!comes_first, &mut client, &address)?;
        pairs.push(if comes_first { [second, first] } else { [first, second] });
        eprintln!("round {} of {}", round + 1, arguments.rounds);
    }
    report(&pairs)
}

/// All loads beside one agent.
fn turn(counts: bool, client: &mut Side, address: &str) -> Result<Values> {
    let names =
        podlens::collectors::switchable().into_iter().map(|name| format!("PODLENS_COLLECTORS_{}", name.to_uppercase()));
    // An agent that measures nothing is not ready: both have the one whose programs hardly ever run.
    let is_on = |name: &str| name == "PODLENS_COLLECTORS_OOM" || counts && name == "PODLENS_COLLECTORS_TCP";
    let set = |name: &str| if is_on(name) { "true" } else { "false" };
    let names: Vec<String> = names.collect();
    let environment: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), set(name))).collect();
    let agent = Agent::start(&environment);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                agent.metrics();
                thread::sleep(Duration::from_secs(1));
            }
        });
        let values = client.ask(address);
        is_over.store(true, Ordering::Relaxed);
        values
    })
}

fn report(pairs: &[[Values; 2]]) -> Result<()> {
    let mut over_budget = Vec::new();
    let mut undecided = Vec::new();
    for (number, (what, more_is_better, budget_percent)) in FIGURES.iter().enumerate() {
        let of = |turn: &Values| turn.get(number).copied().unwrap_or(f64::NAN);
        let worse = pairs.iter().map(|[without, with]| {
            let ratio = of(with) / of(without);
            (if *more_is_better { 1.0 - ratio } else { ratio - 1.0 }) * 100.0
        });
        let worse: Vec<f64> = worse.collect();
        let bare = median(pairs.iter().map(|[without, _]| of(without)).collect());
        let (middle, error) = (median(worse.clone()), standard_error(&worse));
        println!(
            "{what:44} {bare:14.0} without; {middle:+6.2} % worse with it, standard error {error:.2}; budget {budget_percent} %"
        );
        if middle - 2.0 * error > *budget_percent {
            over_budget.push(*what);
        } else if error > *budget_percent {
            undecided.push(*what);
        }
    }
    ensure!(over_budget.is_empty(), "over budget: {}", over_budget.join(", "));
    ensure!(undecided.is_empty(), "this machine is too busy to tell: {}", undecided.join(", "));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Of the median, by the values' distance from it.
fn standard_error(values: &[f64]) -> f64 {
    let middle = median(values.to_vec());
    let deviation = median(values.iter().map(|value| (value - middle).abs()).collect());
    // A normal distribution's deviation is 1.48 times that, and its median is 1.25 times as uncertain as its mean.
    1.48 * 1.25 * deviation / (values.len() as f64).sqrt()
}

/// A process of the benchmark. Ends with the value.
struct Side {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Side {
    fn start(side: &str, cgroup: &TestCgroup) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        let mut child = command.env(SIDE, side).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("it is piped")?;
        let output = BufReader::new(child.stdout.take().context("it is piped")?);
        let mut started = Self { child, input, output };
        cgroup.add(started.child.id());
        // It makes its sockets only then.
        writeln!(started.input, "begin")?;
        Ok(started)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, address: &str) -> Result<Values> {
        writeln!(self.input, "{address}")?;
        let answer = self.answer()?;
        let mut values = answer.split(' ').filter_map(|value| value.parse().ok());
        let mut next = || values.next().with_context(|| format!("the client said {answer:?}"));
        Ok([next()?, next()?, next()?, next()?])
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Fails only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers each request of whoever comes; who begins with a byte that is not 0 has a stream.
fn serve() -> Result<()> {
    let mut lines = std::io::stdin().lines();
    lines.next().context("nobody asks")??;
    // All of loopback, so that a client has many addresses and never runs out of ports.
    let listener = TcpListener::bind("0.0.0.0:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || -> Result<()> {
            stream.set_nodelay(true)?;
            let mut request = [0; REQUEST];
            loop {
                stream.read_exact(&mut request)?;
                if request.first() != Some(&0) {
                    let mut piece = vec![0; PIECE];
                    while stream.read(&mut piece)? > 0 {}
                    return Ok(());
                }
                stream.write_all(&[7; ANSWER])?;
            }
        });
    }
    Ok(())
}

/// Measures all loads whenever it is asked to.
fn call() -> Result<()> {
    for line in std::io::stdin().lines().skip(1) {
        let port = line?.parse::<SocketAddr>()?.port();
        let (staying, slowest) = requests(port)?;
        let making = connections(port)?;
        println!("{staying} {slowest} {making} {}", stream(port)?);
    }
    Ok(())
}

fn exchange(stream: &mut TcpStream, answer: &mut [u8; ANSWER]) -> Result<()> {
    stream.write_all(&[0; REQUEST])?;
    Ok(stream.read_exact(answer)?)
}

fn connect(port: u16, last: u8) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::new(127, 0, 0, last), port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Requests a second on connections that stay, and what the slowest in a hundred take at least, in ns.
fn requests(port: u16) -> Result<(f64, f64)> {
    let began = Instant::now();
    let threads: Vec<_> = (0..STAYING)
        .map(|_| {
            thread::spawn(move || -> Result<Vec<f64>> {
                let (mut stream, mut answer, mut times) = (connect(port, 1)?, [0; ANSWER], Vec::new());
                while began.elapsed() < MEASURED {
                    let asked = Instant::now();
                    exchange(&mut stream, &mut answer)?;
                    times.push(asked.elapsed().as_nanos() as f64);
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for thread in threads {
        let Ok(found) = thread.join() else { bail!("a thread has ended early") };
        times.extend(found?);
    }
    let a_second = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    Ok((a_second, times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN)))
}

/// Requests a second with a connection for each.
fn connections(port: u16) -> Result<f64> {
    let (began, made) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (1..=MAKING)
        .map(|number| {
            let made = Arc::clone(&made);
            thread::spawn(move || -> Result<()> {
                let last = u8::try_from(number)?;
                let mut answer = [0; ANSWER];
                while began.elapsed() < MEASURED {
                    exchange(&mut connect(port, last)?, &mut answer)?;
                    made.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        let Ok(ended) = thread.join() else { bail!("a thread has ended early") };
        ended?;
    }
    Ok(made.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}

/// Bytes a second of one stream.
fn stream(port: u16) -> Result<f64> {
    let mut stream = connect(port, 1)?;
    let piece = vec![1; PIECE];
    let (began, mut sent) = (Instant::now(), 0.0);
    stream.write_all(&[1; REQUEST])?;
    while began.elapsed() < MEASURED {
        stream.write_all(&piece)?;
        sent += PIECE as f64;
    }
    Ok(sent / began.elapsed().as_secs_f64())
}
