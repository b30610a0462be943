//! What the network's collectors cost connections: `cargo xtask bench tcp`.
//!
//! A server and a client, each in a container's cgroup and a network namespace of the benchmark's own, are joined by a wire (veth).
//! nginx and wrk talk on connections that stay, then with a connection for each request, and iperf3 sends one stream as fast as
//! it goes. An agent with and one without the collectors, and hardly anything else, take turns beside them, each scraped every
//! second. What others do on the machine or its host makes it slower for seconds, so only two turns in a row are compared, and
//! the medians of such pairs are told with their standard errors; the CPU time for each request and byte, which is that of both
//! cgroups, is disturbed far less than the clock's. At the end the kernel's own statistics tell what each run of the programs took.
//! As root. Exits with 1 if a budget is surely missed, and where the machine is too busy to tell.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "common/statistics.rs"]
mod statistics;

use std::{
    collections::BTreeMap,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use common::{Agent, Program, RunStatistics, TestCgroup, WebServer};
use podlens::collectors;
use statistics::{median, typical};

#[derive(clap::Parser)]
struct Arguments {
    /// How often both agents have a turn
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(6..))]
    rounds: u32,
    /// The collectors that one agent has and the other has not
    #[arg(long, value_delimiter = ',', default_value = "tcp,drops")]
    collectors: Vec<String>,
}

/// What is measured: its name, whether more of it is better, and how much worse it may be, in percent.
const FIGURES: [(&str, bool, f64); 7] = [
    ("requests per second, connections that stay", true, 2.0),
    ("the 99th of a hundred of those takes, us", false, 2.0),
    ("CPU per such request, ns", false, 2.0),
    ("requests per second, a connection each", true, 2.0),
    ("CPU per request and its connection, ns", false, 2.0),
    ("bytes per second of one stream", true, 1.0),
    ("CPU per 1,000 bytes of it, ns", false, 1.0),
];
/// Where the server is, and both ends of the wire.
const SERVER: &str = "192.0.2.2";
const ADDRESSES: [&str; 2] = ["192.0.2.1/24", "192.0.2.2/24"];

/// One value for each of `FIGURES`.
type Values = [f64; FIGURES.len()];

fn main() -> Result<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    let known = collectors::switchable();
    for name in &arguments.collectors {
        ensure!(known.contains(&name.as_str()), "no collector is called {name}; there are {}", known.join(", "));
    }
    let ends = Ends::start()?;
    let mut pairs: Vec<[Values; 2]> = Vec::new();
    for round in 0..arguments.rounds {
        // Who comes first has the machine as the round before left it.
        let comes_first = round % 2 == 1;
        let of = |counts: bool| beside(if counts { &arguments.collectors } else { &[] }, |_| ends.measure());
        let (first, second) = (of(comes_first)?, of(!comes_first)?);
        pairs.push(if comes_first { [second, first] } else { [first, second] });
        eprintln!("round {} of {}", round + 1, arguments.rounds);
    }
    beside(&arguments.collectors, |agent| ends.tell_runs(agent, &arguments.collectors))?;
    report(&pairs)
}

/// Does something beside an agent that has these collectors.
fn beside<T>(with: &[String], act: impl FnOnce(&Agent) -> Result<T>) -> Result<T> {
    let names = collectors::switchable();
    // An agent that measures nothing is not ready: both have the one whose programs hardly ever run.
    let is_on = |name: &str| name == "oom" || with.iter().any(|wanted| wanted == name);
    let variable = |name: &&str| (format!("PODLENS_COLLECTORS_{}", name.to_uppercase()), is_on(name).to_string());
    let variables: Vec<(String, String)> = names.iter().map(variable).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let agent = Agent::start(&variables);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                agent.metrics();
                thread::park_timeout(Duration::from_secs(1));
            }
        });
        let done = act(&agent);
        is_over.store(true, Ordering::Relaxed);
        scraper.thread().unpark();
        done
    })
}

/// Both ends of the wire, in the cgroups of two containers, and the servers at one of them.
struct Ends {
    // In the order in which they end: the processes, then their cgroups.
    client: Program,
    _servers: (WebServer, Program),
    _server: Program,
    calling: TestCgroup,
    answering: TestCgroup,
}

impl Ends {
    fn start() -> Result<Self> {
        let (calling, answering) = (TestCgroup::any_container(), TestCgroup::any_container());
        let (client, server) = (Program::in_new_network(&calling), Program::in_new_network(&answering));
        let [near, far] = [client.id(), server.id()].map(|id| id.to_string());
        ip(&near, &["link", "add", "pl0", "type", "veth", "peer", "name", "pl0", "netns", &far])?;
        for (end, address) in [&near, &far].into_iter().zip(ADDRESSES) {
            ip(end, &["address", "add", address, "dev", "pl0"])?;
            ip(end, &["link", "set", "pl0", "up"])?;
        }
        let web = WebServer::start(&answering, server.id());
        let stream = Program::start(&answering, Some(server.id()), &["iperf3", "--server"]);
        Ok(Self { client, _servers: (web, stream), _server: server, calling, answering })
    }

    fn measure(&self) -> Result<Values> {
        let (kept, kept_cpu_ns) = self.cpu_of(|| self.requests(16, &["--latency"]))?;
        let (made, made_cpu_ns) = self.cpu_of(|| self.requests(4, &["--header", "Connection: close"]))?;
        let (bytes, stream_cpu_ns) = self.cpu_of(|| self.stream())?;
        let slowest_us = kept.slowest_us.context("wrk tells no 99th of a hundred")?;
        Ok([
            kept.per_second,
            slowest_us,
            kept_cpu_ns / kept.count,
            made.per_second,
            made_cpu_ns / made.count,
            bytes,
            // A stream takes one second.
            stream_cpu_ns / (bytes / 1000.0),
        ])
    }

    /// What the kernel's statistics, which cost something themselves, say of the programs under each load.
    fn tell_runs(&self, agent: &Agent, of_collectors: &[String]) -> Result<()> {
        let _on = RunStatistics::start();
        let loads: [(&str, &dyn Fn() -> Result<()>); 3] = [
            ("connections that stay", &|| self.requests(16, &[]).map(drop)),
            ("a connection each", &|| self.requests(4, &["--header", "Connection: close"]).map(drop)),
            ("one stream", &|| self.stream().map(drop)),
        ];
        for (load, run) in loads {
            let before = runs(agent, of_collectors);
            let ((), cpu_ns) = self.cpu_of(run)?;
            let mut sum = Duration::ZERO;
            for (name, (time, count)) in runs(agent, of_collectors) {
                let (time_before, count_before) = before.get(&name).copied().unwrap_or_default();
                let (time, count) = (time.saturating_sub(time_before), count - count_before);
                sum += time;
                if let Some(each_ns) = time.as_nanos().checked_div(count.into()) {
                    println!("{load:24} {name:16} {count:8} runs of {each_ns} ns");
                }
            }
            let percent = sum.as_nanos() as f64 / cpu_ns * 100.0;
            println!("{load:24} all programs took {percent:.2} % of the CPU time of both sides");
        }
        Ok(())
    }

    /// What both cgroups have used of CPUs meanwhile, in ns.
    fn cpu_of<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let used = || (self.calling.cpu_usage_ns() + self.answering.cpu_usage_ns()) as f64;
        let before = used();
        let done = act()?;
        Ok((done, used() - before))
    }

    fn requests(&self, connections: u32, more: &[&str]) -> Result<Requests> {
        let (connections, url) = (connections.to_string(), format!("http://{SERVER}/"));
        let command = [&["wrk", "--threads", "1", "--connections", &connections, "--duration", "1s"], more, &[&url]];
        let printed = Program::start(&self.calling, Some(self.client.id()), &command.concat()).output();
        Requests::of(&printed).with_context(|| format!("wrk prints something else: {printed}"))
    }

    /// Bytes in one second.
    fn stream(&self) -> Result<f64> {
        let command = ["iperf3", "--client", SERVER, "--time", "1", "--json"];
        let printed = Program::start(&self.calling, Some(self.client.id()), &command).output();
        let told: serde_json::Value = serde_json::from_str(&printed).context("iperf3 prints JSON")?;
        let bits = told.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
        Ok(bits.with_context(|| format!("iperf3 tells no rate: {printed}"))? / 8.0)
    }
}

/// What wrk tells.
struct Requests {
    count: f64,
    per_second: f64,
    slowest_us: Option<f64>,
}

impl Requests {
    fn of(printed: &str) -> Option<Self> {
        let lines = || printed.lines().map(str::trim);
        let count = lines().find_map(|line| line.split_once(" requests in "))?.0.parse().ok()?;
        let per_second = lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()?;
        let slowest_us = lines().find_map(|line| line.strip_prefix("99%")).and_then(|time| microseconds(time.trim()));
        Some(Self { count, per_second, slowest_us })
    }
}

/// Of a time as wrk prints it, `1.20ms`.
fn microseconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|letter: char| letter.is_ascii_alphabetic())?);
    let in_us = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    number.parse().ok().map(|number: f64| number * in_us)
}

/// What the collectors' programs have taken so far, and in how many runs.
fn runs(agent: &Agent, of_collectors: &[String]) -> BTreeMap<&'static str, (Duration, u64)> {
    let specs = collectors::ALL.iter().filter(|spec| of_collectors.iter().any(|name| name == spec.name));
    let names = specs.flat_map(|spec| spec.programs()).map(|program| program.name);
    names.filter_map(|name| Some((name, RunStatistics::of_loaded(agent.id(), name)?))).collect()
}

/// Runs `ip` in the network namespace of a process.
fn ip(process: &str, words: &[&str]) -> Result<()> {
    let net = format!("--net=/proc/{process}/ns/net");
    let output = Command::new("nsenter").args([&net, "ip"]).args(words).output().context("cannot run nsenter")?;
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
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
        let (middle, error) = typical(worse.collect());
        let bare = median(pairs.iter().map(|[without, _]| of(without)).collect());
        let verdict = if middle - 2.0 * error > *budget_percent {
            over_budget.push(*what);
            "missed"
        } else if middle + 2.0 * error > *budget_percent {
            undecided.push(*what);
            "too busy to tell"
        } else {
            "kept"
        };
        println!(
            "{what:44} {bare:14.0} without; {middle:+6.2} % worse with, standard error {error:.2}; budget {budget_percent} %: {verdict}"
        );
    }
    ensure!(over_budget.is_empty(), "over budget: {}", over_budget.join("; "));
    ensure!(
        undecided.is_empty(),
        "this machine is too busy to tell, or more rounds are needed: {}",
        undecided.join("; ")
    );
    Ok(())
}
