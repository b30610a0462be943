//! A real Prometheus that stores native histograms scrapes the agent while containers come and go: what it has of a
//! distribution is what it has of the classic one, bucket by bucket, and what the kernel says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Agent, Load, TestCgroup, Work, assert_near};
use testkit::components::Prometheus;

const LIMIT: Duration = Duration::from_secs(30);
const LOAD: Duration = Duration::from_secs(20);
const METRIC: &str = "podlens_runqueue_latency_seconds";
/// The pod that is scraped, whose name is on no series but the agent's own.
const SCRAPED: &str = "the-agent";

fn selector(name: &str, cgroup: &TestCgroup) -> String {
    let matchers: Vec<String> = cgroup.labels().iter().map(|(label, value)| format!("{label}={value:?}")).collect();
    format!("{name}{{{}}}", matchers.join(","))
}

/// The answer of one series.
fn one_value(prometheus: &Prometheus, expression: &str) -> f64 {
    let points = prometheus.query(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    assert_eq!(points.len(), 1, "{expression} has one answer: {points:?}");
    points[0].value
}

/// Makes containers that live for a moment, until the load is over.
fn churn(over: &AtomicBool) -> usize {
    let mut lived = 0;
    while !over.load(Ordering::Acquire) {
        let cgroup = TestCgroup::any_container();
        Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(5)), None).run();
        lived += 1;
        thread::sleep(Duration::from_millis(100));
    }
    lived
}

#[test]
fn native_histograms_are_the_classic_ones_and_the_kernels_while_containers_come_and_go() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s"), ("PODLENS_PROMETHEUS_CLASSIC_HISTOGRAMS", "always")]);
    let (one, other) = (TestCgroup::any_container(), TestCgroup::any_container());
    let mut loads = [&one, &other].map(|cgroup| Load::start(Some(cgroup), Work::SpinFor(LOAD), Some(0)));
    let before = loads.each_ref().map(Load::figures);
    let prometheus = Prometheus::start_native(agent.address(), SCRAPED);
    prometheus.wait_until_up(LIMIT);
    let over = AtomicBool::new(false);
    let lived = thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&over));
        loads.iter_mut().for_each(Load::go);
        loads.iter_mut().for_each(Load::done);
        over.store(true, Ordering::Release);
        churning.join().unwrap()
    });
    let after = loads.each_ref().map(Load::figures);
    println!("{lived} containers came and went");
    assert!(lived > 20, "{lived} containers");
    // Two scrapes later all of it is there.
    thread::sleep(Duration::from_secs(3));
    for (number, cgroup) in [&one, &other].into_iter().enumerate() {
        let kernel = after[number] - before[number];
        check(&prometheus, cgroup);
        let sum_ns = one_value(&prometheus, &format!("histogram_sum({}) * 1e9", selector(METRIC, cgroup)));
        let sum_ns = Duration::from_secs_f64(sum_ns / 1e9).as_nanos().try_into().unwrap();
        assert_near("the waits' sum", sum_ns, kernel.wait_ns, 2.0, 1_000_000);
    }
    let of_units = prometheus.query("podlens_cpu_seconds_total{unit!=\"\"}").unwrap();
    assert!(!of_units.is_empty() && of_units.iter().all(|point| !point.labels.contains_key("pod")), "{of_units:?}");
    let own = prometheus.query("podlens_build_info").unwrap();
    assert_eq!(own[0].labels.get("pod").map(String::as_str), Some(SCRAPED));
    assert_eq!(prometheus.target().unwrap(), ("up".to_owned(), String::new()));
    assert!(one_value(&prometheus, "count_over_time(up[5m]) - sum_over_time(up[5m])") < 0.5, "no scrape failed");
    assert_eq!(prometheus.complaints(), Vec::<String>::new());
}

/// A distribution is the same in both forms, at one moment.
fn check(prometheus: &Prometheus, cgroup: &TestCgroup) {
    let native = selector(METRIC, cgroup);
    let count = one_value(prometheus, &format!("histogram_count({native})"));
    assert!(count > 100.0, "{count} waits");
    let classic = |suffix: &str| selector(&format!("{METRIC}{suffix}"), cgroup);
    assert_eq!(one_value(prometheus, &classic("_count")).to_bits(), count.to_bits());
    let sum = one_value(prometheus, &format!("histogram_sum({native})"));
    assert_eq!(one_value(prometheus, &classic("_sum")).to_bits(), sum.to_bits());
    let buckets = prometheus.query(&classic("_bucket")).unwrap();
    assert_eq!(buckets.len(), 13, "{buckets:?}");
    let mut bounds: Vec<f64> = Vec::new();
    for bucket in &buckets {
        let bound = &bucket.labels["le"];
        bounds.push(bound.parse().unwrap());
        // A share that is exact at the bounds of native buckets, which all classic bounds are.
        let up_to = one_value(prometheus, &format!("histogram_fraction(-Inf, {bound}, {native})")) * count;
        assert!((up_to - bucket.value).abs() < 0.01, "up to {bound} s: {up_to} native, {} classic", bucket.value);
    }
    bounds.sort_by(f64::total_cmp);
    for quantile in [0.05, 0.5, 0.9, 0.99] {
        let of_native = one_value(prometheus, &format!("histogram_quantile({quantile}, {native})"));
        let of_classic = one_value(prometheus, &format!("histogram_quantile({quantile}, {})", classic("_bucket")));
        let bucket = |value: f64| bounds.partition_point(|bound| *bound < value);
        println!("{quantile}: {of_native} s native, {of_classic} s classic");
        assert_eq!(bucket(of_native), bucket(of_classic), "the {quantile} quantile lies between the same bounds");
    }
}

#[test]
fn a_distribution_is_one_sample_of_a_page_with_native_histograms() {
    let agent = Agent::start(&[]);
    let cgroups: Vec<TestCgroup> = (0..10).map(|_| TestCgroup::any_container()).collect();
    for cgroup in &cgroups {
        Load::start(Some(cgroup), Work::Spin(Duration::from_millis(5)), None).run();
    }
    let prometheus = Prometheus::start_native(agent.address(), SCRAPED);
    prometheus.wait_until_up(LIMIT);
    let began = Instant::now();
    let scraped = prometheus.wait_for("scrape_samples_scraped", LIMIT, |points| points[0].value > 0.0)[0].value;
    let text = agent.metrics();
    let samples = |is_counted: &dyn Fn(&str) -> bool| text.text.lines().filter(|line| is_counted(line)).count() as f64;
    let all = samples(&|line| !line.starts_with('#'));
    let buckets_and_sums = samples(&|line| line.contains("_bucket{") || line.contains("_sum{"));
    println!("{scraped} samples as protobuf, {all} as text, after {:?}", began.elapsed());
    // Units come and go between the two scrapes.
    assert!((scraped - (all - buckets_and_sums)).abs() < all / 20.0, "{scraped} of {all}, {buckets_and_sums} left out");
    let of_one = prometheus.query(&selector(METRIC, &cgroups[0])).unwrap();
    assert_eq!(of_one.len(), 1, "{of_one:?}");
    let classic = prometheus.query(&selector(&format!("{METRIC}_bucket"), &cgroups[0])).unwrap();
    assert_eq!(classic, [], "classic buckets are in the text formats alone");
}
