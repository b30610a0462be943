//! A real Prometheus scrapes the agent: it has nothing to object, and its functions give the load that was made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds become nanoseconds")]

mod common;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use common::{Agent, Load, OnDrop, TestCgroup, Work, assert_near};
use testkit::components::{Prometheus, promtool_check_metrics};

const LIMIT: Duration = Duration::from_secs(30);
/// How long the load runs; the window of the rates lies within.
const LOAD: Duration = Duration::from_secs(27);
const WINDOW_SECONDS: u32 = 20;
const PERCENT: f64 = 2.0;

/// The selector of a cgroup's series, with more matchers.
fn selector(name: &str, cgroup: &TestCgroup, more: &str) -> String {
    let matchers: Vec<String> = cgroup.labels().iter().map(|(label, value)| format!("{label}={value:?}")).collect();
    format!("{name}{{{}{more}}}", matchers.join(","))
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The kernel's count at a moment, on the line between the looks before and after it.
fn at(looks: &[(f64, u64)], moment: f64) -> f64 {
    let after = looks.iter().position(|(time, _)| *time >= moment).expect("looks were taken after the scrape");
    assert!(after > 0, "looks were taken before the scrape");
    let ((t0, v0), (t1, v1)) = (looks[after - 1], looks[after]);
    v0 as f64 + (v1 - v0) as f64 * (moment - t0) / (t1 - t0)
}

#[test]
fn the_page_is_flawless_for_promtool() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let cgroup = TestCgroup::any_container();
    Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(20)), None).run();
    let page = agent.metrics();
    assert!(page.one("podlens_cpu_seconds_total", &cgroup.labels()).is_some());
    assert_eq!(promtool_check_metrics(&page.text), Ok(()));
}

#[test]
fn rate_and_histogram_quantile_give_the_load_that_was_made() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    // Two that each want the whole of one CPU: together one core, and each waits for a slice of the other.
    let (one, other) = (TestCgroup::any_container(), TestCgroup::any_container());
    let mut loads = [&one, &other].map(|cgroup| Load::start(Some(cgroup), Work::SpinFor(LOAD), Some(0)));
    let before = loads.each_ref().map(Load::figures);
    let prometheus = Prometheus::start(agent.address());
    prometheus.wait_until_up(LIMIT);

    let looks: Mutex<Vec<(f64, [u64; 2])>> = Mutex::new(Vec::new());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = OnDrop(|| over.store(true, Ordering::Release));
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                let usage = [one.cpu_usage_ns(), other.cpu_usage_ns()];
                looks.lock().unwrap().push((seconds_now(), usage));
                thread::sleep(Duration::from_millis(20));
            }
        });
        loads.iter_mut().for_each(Load::go);
        loads.iter_mut().for_each(Load::done);
    });
    let looks = looks.into_inner().unwrap();
    let end = looks.last().unwrap().0 - 1.0;
    let mut both = 0.0;
    for (number, cgroup) in [&one, &other].into_iter().enumerate() {
        let looks: Vec<(f64, u64)> = looks.iter().map(|(time, usage)| (*time, usage[number])).collect();
        let cpu = selector("podlens_cpu_seconds_total", cgroup, "");
        let rate = prometheus.one(&format!("rate({cpu}[{WINDOW_SECONDS}s] @ {end:.3})"));
        // The scrapes that the rate was made from: the first and the last within its window.
        let within = |offset: f64| prometheus.one(&format!("timestamp({cpu} @ {:.3})", end - offset));
        let (first, last) = (within(f64::from(WINDOW_SECONDS) - 1.0), within(0.0));
        let expected = (at(&looks, last) - at(&looks, first)) / 1e9 / (last - first);
        let difference = (rate - expected).abs() / expected * 100.0;
        println!("rate {rate:.4}, by the kernel {expected:.4} cores: {difference:.2} % apart");
        assert!(difference < PERCENT, "rate() is {rate}, the kernel's {expected}");
        both += rate;
    }
    println!("together {both:.4} cores");
    assert!(both < 1.01 && both > 0.05, "two loads on one CPU use {both} cores");

    let after = loads.each_ref().map(Load::figures);
    for (number, cgroup) in [&one, &other].into_iter().enumerate() {
        let kernel = after[number] - before[number];
        let mean_ns = kernel.wait_ns / kernel.dispatches;
        let metric = "podlens_runqueue_latency_seconds";
        let value = |suffix: &str| selector(&format!("{metric}{suffix}"), cgroup, "");
        let sum_ns = (prometheus.one(&value("_sum")) * 1e9) as u64;
        assert_near("the waits' sum", sum_ns, kernel.wait_ns, PERCENT, 1_000_000);
        let quantile = |share: f64| {
            let buckets = selector(&format!("{metric}_bucket"), cgroup, "");
            let window = format!("rate({buckets}[{WINDOW_SECONDS}s] @ {end:.3})");
            prometheus.one(&format!("histogram_quantile({share}, {window})"))
        };
        let (low, median, high) = (quantile(0.05), quantile(0.5), quantile(0.99));
        println!("waits: mean {mean_ns} ns; 5 % {low}, 50 % {median}, 99 % {high} s");
        // Buckets are a factor of 4 apart; a scheduler slice is 1 to 10 ms, and short waits behind kernel threads
        // pull the mean down.
        let mean = mean_ns as f64 / 1e9;
        assert!(low <= median && median <= high, "quantiles are in order");
        assert!(median > mean / 4.0 && median < mean * 4.0, "the median {median} s is near the mean {mean} s");
        assert!(high > mean, "99 % of the waits are not below their mean");
    }
    assert_eq!(prometheus.target().unwrap(), ("up".to_owned(), String::new()));
    prometheus.assert_scraped("5m");
    assert_eq!(prometheus.complaints(), Vec::<String>::new());
}
