//! Units that come by the thousand, each with a name of its own: connections of ssh, and the monitors of containers. The number
//! of series stays, sums are whole, and no name tells an address.
//!
//! `PODLENS_TEST_FULL=1` runs them at full length: 1,000 of each in 10 minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Agent, Load, OnDrop, Page, TestCgroup, Trees, Work, assert_near, assert_nothing_lost, given};
use podlens::{
    collectors::ALL,
    signal::{Kind, Metric},
};

const CPU: &str = "podlens_cpu_seconds_total";
/// Metrics of which not all series are there from the beginning, and how many a unit has at most: 16 culprits by name and all
/// others; four states, which the walk through all tasks tells where it happens to meet one.
const BOUNDED: [(&str, usize); 2] = [("podlens_cpu_wait_caused_seconds_total", 17), ("podlens_tasks", 4)];
/// What podlens calls them.
const UNITS: [&str; 2] = ["sshd@.service", "crio-conmon-*.scope"];
const CLIENT: &str = "198.51.100.7";
/// The kernel's and podlens' figures of the sum.
const PERCENT: f64 = 0.5;

/// How many of each kind, in which time, and how often the page is read.
struct Form {
    count: u32,
    time: Duration,
    interval: Duration,
}

const SHORT: Form = Form { count: 200, time: Duration::from_secs(30), interval: Duration::from_secs(1) };
const FULL: Form = Form { count: 1000, time: Duration::from_mins(10), interval: Duration::from_secs(10) };

/// The cgroup of the unit of that number, of the first kind or of the second.
fn unit(kind: usize, number: u32) -> TestCgroup {
    let own = std::process::id();
    let path = if kind == 0 {
        let port = 1024 + number;
        format!("/system.slice/system-sshd.slice/sshd@{own}{number}-192.0.2.10:22-{CLIENT}:{port}.service")
    } else {
        format!("/system.slice/crio-conmon-{own:032x}{number:032x}.scope")
    };
    TestCgroup::at(path, vec![("unit".to_owned(), UNITS[kind].to_owned())], Trees::All)
}

/// Makes a unit, uses it and removes it; its CPU time by the kernel.
fn live(kind: usize, number: u32) -> u64 {
    let spin = Duration::from_micros(1_000 + u64::from(number % 7) * 700);
    // Its start is outside, so that the unit has nothing but its work.
    let mut load = Load::start(None, Work::Wake { times: 2, sleep: Duration::from_millis(2), spin }, None);
    load.figures();
    let cgroup = unit(kind, number);
    load.join(&cgroup);
    load.run();
    load.end();
    let usage_ns = cgroup.final_cpu_usage_ns();
    cgroup.remove();
    usage_ns
}

/// The names and labels of a page's series of these units, without the bounded ones.
fn series(page: &Page) -> BTreeSet<String> {
    let is_of_units = |line: &&str| UNITS.iter().any(|unit| line.contains(&format!("unit={unit:?}")));
    let is_bounded = |line: &&str| BOUNDED.iter().any(|(name, _)| line.starts_with(name));
    let lines = page.text.lines().filter(is_of_units).filter(|line| !is_bounded(line));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
}

/// A series that is not there before something has happened to one of the unit's tasks, such as a fault that waits for a disk: that
/// may be late, and the labels have a closed list of values.
fn begins_with_an_event(series: &str) -> bool {
    let name = series.split('{').next().unwrap_or(series);
    let of = |metric: &Metric| {
        let suffix = name.strip_prefix(metric.name);
        suffix.is_some_and(|suffix| ["", "_bucket", "_count", "_sum"].contains(&suffix))
            && (metric.sparse || metric.kind == Kind::Histogram)
    };
    ALL.iter().flat_map(|spec| spec.metrics).any(|metric| of(metric))
}

/// What a counter has grown by over pages: where it begins anew, what it has since.
fn increase_ns(pages: &[Page], unit: &str) -> u64 {
    let values = pages.iter().map(|page| page.ns(CPU, &[("unit", unit)]));
    let (mut sum_ns, mut last_ns) = (0, 0);
    for value_ns in values {
        match value_ns {
            Some(value_ns) if value_ns >= last_ns => sum_ns += value_ns - last_ns,
            Some(value_ns) => sum_ns += value_ns,
            None => {}
        }
        last_ns = value_ns.unwrap_or(0);
    }
    sum_ns
}

#[test]
fn a_thousand_connections_and_a_thousand_monitors_are_two_units_whose_sums_are_whole() {
    let Form { count, time, interval } = if env::var_os("PODLENS_TEST_FULL").is_some() { FULL } else { SHORT };
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let pages = Mutex::new(vec![agent.metrics()]);
    let used_ns = [AtomicU64::new(0), AtomicU64::new(0)];
    let (next, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let start = Instant::now();
    thread::scope(|scope| {
        let _over = OnDrop(|| over.store(true, Ordering::Release));
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                thread::sleep(interval);
                pages.lock().unwrap().push(agent.metrics());
            }
        });
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= 2 * count {
                            return;
                        }
                        // An even rate, the two kinds in turn.
                        thread::sleep((time * number / (2 * count)).saturating_sub(start.elapsed()));
                        let kind = (number % 2) as usize;
                        used_ns[kind].fetch_add(live(kind, number), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for worker in workers {
            given("a worker", worker.join());
        }
    });
    println!("{count} of each in {:?}", start.elapsed());
    let mut pages = pages.into_inner().unwrap();
    pages.push(agent.metrics());

    let all = |pages: &[Page]| pages.iter().flat_map(series).collect::<BTreeSet<String>>();
    let (early, late) = (all(&pages[..pages.len() / 4]), all(&pages));
    println!("{} series on {} pages", late.len(), pages.len());
    assert!(!early.is_empty());
    let more: Vec<&String> = late.difference(&early).filter(|series| !begins_with_an_event(series)).collect();
    assert_eq!(more, Vec::<&String>::new(), "series after the first quarter");
    for (name, most) in BOUNDED {
        let found = |unit| pages.iter().map(move |page| page.all(name, &[("unit", unit)]).len()).max();
        let found = UNITS.map(|unit| found(unit).unwrap_or(0));
        assert!(found.iter().all(|found| *found <= most), "{name}: {found:?} series");
    }
    let digits = format!("{:032x}", std::process::id());
    for page in &pages {
        assert!(!page.text.contains(CLIENT) && !page.text.contains(&digits), "no label tells an instance");
    }
    for (unit, used_ns) in UNITS.iter().zip(&used_ns) {
        let used_ns = used_ns.load(Ordering::Relaxed);
        let found_ns = increase_ns(&pages, unit);
        println!("{unit}: {found_ns} ns, by the kernel {used_ns} ns");
        assert_near(unit, found_ns, used_ns, PERCENT, 0);
    }
    assert_nothing_lost(pages.last().unwrap());
}
