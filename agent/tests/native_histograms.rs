//! A real Prometheus that stores native histograms, and one that does not, scrape the agent while containers come and go: what
//! they have of a distribution is the same, bucket by bucket, and what the kernel says; they object to nothing, and what is
//! gone is gone for them with the next scrape.
//!
//! `PODLENS_TEST_FULL=1` runs it at its full length: 10 minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use common::{Agent, Load, OnDrop, Record, TestCgroup, Work, assert_near, given};
use testkit::components::Prometheus;

const LIMIT: Duration = Duration::from_secs(30);
const LOAD: Duration = Duration::from_secs(20);
const LONG_LOAD: Duration = Duration::from_mins(10);
/// Of so many containers that came and went the end is looked at.
const ENDS: usize = 40;
const METRIC: &str = "podlens_runqueue_latency_seconds";
/// What Prometheus asks for where it stores native histograms.
const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
/// The pod that is scraped, whose name is on no series but the agent's own.
const SCRAPED: &str = "the-agent";

fn selector(name: &str, cgroup: &TestCgroup) -> String {
    let matchers: Vec<String> = cgroup.labels().iter().map(|(label, value)| format!("{label}={value:?}")).collect();
    format!("{name}{{{}}}", matchers.join(","))
}

/// The answer of one series.
/// A container that came and went: the matchers of its series, and when it was removed.
struct Gone {
    cpu: String,
    removed: f64,
}

/// Makes containers that live for a moment or some scrapes, until the load is over.
fn churn(over: &AtomicBool) -> Vec<Gone> {
    let mut gone = Vec::new();
    let mut living: BTreeMap<usize, TestCgroup> = BTreeMap::new();
    for number in 0.. {
        if over.load(Ordering::Acquire) {
            break;
        }
        let cgroup = TestCgroup::any_container();
        let mut load = Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(5)), None);
        load.run();
        load.end();
        let until = number + [1, 5, 30][number % 3];
        living.insert(until * 3 + number % 3, cgroup);
        while let Some(first) = living.first_entry().filter(|first| *first.key() / 3 <= number) {
            let cgroup = first.remove();
            let cpu = selector("podlens_cpu_seconds_total", &cgroup);
            cgroup.remove();
            gone.push(Gone { cpu, removed: seconds_now() });
        }
        thread::sleep(Duration::from_millis(100));
    }
    gone
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Prometheus has nothing to object to any scrape, by its log and by its own counters.
fn assert_content(prometheus: &Prometheus) {
    assert_eq!(prometheus.target().unwrap(), ("up".to_owned(), String::new()));
    prometheus.assert_scraped("15m");
    assert_eq!(prometheus.complaints(), Vec::<String>::new());
    let (_, page) = testkit::http::get(prometheus.address(), "/metrics").unwrap();
    for what in ["duplicate_timestamp", "out_of_order", "out_of_bounds"] {
        let counter = format!("prometheus_target_scrapes_sample_{what}_total ");
        let refused = page.lines().find_map(|line| line.strip_prefix(&counter)).expect("Prometheus counts it");
        assert_eq!(refused.parse::<f64>().unwrap().to_bits(), 0.0_f64.to_bits(), "{what}");
    }
}

/// The series of who is gone end: soon after the removal there is a last sample, and one scrape later there is no answer, where
/// without a mark of its end it would be there for five minutes more.
fn assert_ends(prometheus: &Prometheus, gone: &[Gone], over: f64) {
    // Those whose end was some scrapes ago.
    let ended: Vec<&Gone> = gone.iter().filter(|one| one.removed < over - 8.0).collect();
    let step = ended.len().div_ceil(ENDS).max(1);
    let (mut looked, mut latest) = (0, 0.0_f64);
    for Gone { cpu, removed } in ended.into_iter().step_by(step) {
        let last = prometheus.query(&format!("max_over_time(timestamp({cpu})[15m:50ms])")).unwrap();
        // Who lived between two scrapes is on one page.
        assert_eq!(last.len(), 1, "{cpu}: {last:?}");
        let last = last[0].value;
        // A removed cgroup is kept for a second, in which its last tasks end, and told once more.
        latest = latest.max(last - removed);
        assert!(last - removed < 8.0, "{cpu} has samples {} s after its end", last - removed);
        let after = prometheus.query(&format!("{cpu} @ {:.3}", last + 1.9)).unwrap();
        assert_eq!(after, [], "one scrape after its last sample it is gone");
        looked += 1;
    }
    println!(
        "the ends of {looked} containers were looked at; the last sample came at most {latest:.1} s after the removal"
    );
    assert!(looked >= 5, "{looked} containers");
}

#[test]
fn native_histograms_are_the_classic_ones_and_the_kernels_while_containers_come_and_go() {
    let load = if env::var_os("PODLENS_TEST_FULL").is_some() { LONG_LOAD } else { LOAD };
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s"), ("PODLENS_PROMETHEUS_CLASSIC_HISTOGRAMS", "always")]);
    let (one, other) = (TestCgroup::any_container(), TestCgroup::any_container());
    let mut loads = [&one, &other].map(|cgroup| Load::start(Some(cgroup), Work::SpinFor(load), Some(0)));
    let before = loads.each_ref().map(Load::figures);
    let prometheus = Prometheus::start_native(agent.address(), SCRAPED);
    prometheus.wait_until_up(LIMIT);
    // Without native histograms: it asks for text.
    let classic = Prometheus::start(agent.address());
    classic.wait_until_up(LIMIT);
    let over = AtomicBool::new(false);
    let gone = thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&over));
        {
            let _over = OnDrop(|| over.store(true, Ordering::Release));
            loads.iter_mut().for_each(Load::go);
            loads.iter_mut().for_each(Load::done);
        }
        given("who makes and removes cgroups", churning.join())
    });
    let after = loads.each_ref().map(Load::figures);
    let end = seconds_now();
    println!("{} containers came and went in {load:?}", gone.len());
    assert!(gone.len() > 20, "{} containers", gone.len());
    // Two scrapes later all of it is there.
    thread::sleep(Duration::from_secs(3));
    for (number, cgroup) in [&one, &other].into_iter().enumerate() {
        let kernel = after[number] - before[number];
        check(&prometheus, cgroup);
        let sum_ns = prometheus.one(&format!("histogram_sum({}) * 1e9", selector(METRIC, cgroup)));
        let sum_ns = Duration::from_secs_f64(sum_ns / 1e9).as_nanos().try_into().unwrap();
        assert_near("the waits' sum", sum_ns, kernel.wait_ns, 2.0, 1_000_000);
        let sum = selector(&format!("{METRIC}_sum"), cgroup);
        let of_text = Duration::from_secs_f64(classic.one(&sum)).as_nanos().try_into().unwrap();
        assert_near("the waits' sum in text", of_text, kernel.wait_ns, 2.0, 1_000_000);
        let buckets = selector(&format!("{METRIC}_bucket"), cgroup);
        for quantile in [0.05, 0.5, 0.9, 0.99] {
            let [of_native, of_text] =
                [&prometheus, &classic].map(|of| of.one(&format!("histogram_quantile({quantile}, {buckets})")));
            assert!((of_native - of_text).abs() <= of_native * 0.05, "{quantile}: {of_native} and {of_text} s");
        }
    }
    let of_units = prometheus.query("podlens_cpu_seconds_total{unit!=\"\"}").unwrap();
    assert!(!of_units.is_empty() && of_units.iter().all(|point| !point.labels.contains_key("pod")), "{of_units:?}");
    let own = prometheus.query("podlens_build_info").unwrap();
    assert_eq!(own[0].labels.get("pod").map(String::as_str), Some(SCRAPED));
    for prometheus in [&prometheus, &classic] {
        assert_content(prometheus);
        assert_ends(prometheus, &gone, end);
        let of_scrapes = |what: &str| prometheus.one(&format!("avg_over_time({what}[15m])"));
        let seconds = of_scrapes("scrape_duration_seconds{job=\"podlens\"}");
        println!("a scrape has {:.0} samples and takes {:.1} ms", of_scrapes("scrape_samples_scraped"), seconds * 1e3);
    }
}

/// A distribution is the same in both forms, at one moment.
fn check(prometheus: &Prometheus, cgroup: &TestCgroup) {
    let native = selector(METRIC, cgroup);
    let count = prometheus.one(&format!("histogram_count({native})"));
    assert!(count > 100.0, "{count} waits");
    let classic = |suffix: &str| selector(&format!("{METRIC}{suffix}"), cgroup);
    assert_eq!(prometheus.one(&classic("_count")).to_bits(), count.to_bits());
    let sum = prometheus.one(&format!("histogram_sum({native})"));
    assert_eq!(prometheus.one(&classic("_sum")).to_bits(), sum.to_bits());
    let buckets = prometheus.query(&classic("_bucket")).unwrap();
    assert_eq!(buckets.len(), 13, "{buckets:?}");
    let mut bounds: Vec<f64> = Vec::new();
    for bucket in &buckets {
        let bound = &bucket.labels["le"];
        bounds.push(bound.parse().unwrap());
        // A share that is exact at the bounds of native buckets, which all classic bounds are.
        let up_to = prometheus.one(&format!("histogram_fraction(-Inf, {bound}, {native})")) * count;
        assert!((up_to - bucket.value).abs() < 0.01, "up to {bound} s: {up_to} native, {} classic", bucket.value);
    }
    bounds.sort_by(f64::total_cmp);
    for quantile in [0.05, 0.5, 0.9, 0.99] {
        let of_native = prometheus.one(&format!("histogram_quantile({quantile}, {native})"));
        let of_classic = prometheus.one(&format!("histogram_quantile({quantile}, {})", classic("_bucket")));
        let bucket = |value: f64| bounds.partition_point(|bound| *bound < value);
        println!("{quantile}: {of_native} s native, {of_classic} s classic");
        assert_eq!(bucket(of_native), bucket(of_classic), "the {quantile} quantile lies between the same bounds");
    }
}

/// A quantile of raw values by its rank, in percent, in seconds.
fn quantile_of(sorted_ns: &[u64], percent: usize) -> f64 {
    let rank = sorted_ns.len() * percent / 100;
    Duration::from_nanos(sorted_ns[rank.min(sorted_ns.len() - 1)]).as_secs_f64()
}

#[test]
fn quantiles_are_within_one_bucket_of_those_of_every_single_wait_that_perf_recorded() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s"), ("PODLENS_PROMETHEUS_CLASSIC_HISTOGRAMS", "always")]);
    let prometheus = Prometheus::start_native(agent.address(), SCRAPED);
    prometheus.wait_until_up(LIMIT);
    let cgroups = [(); 3].map(|()| TestCgroup::any_container());
    let wakes = |times, sleep_us, spin_us| Work::Wake {
        times,
        sleep: Duration::from_micros(sleep_us),
        spin: Duration::from_micros(spin_us),
    };
    // Next to these and to one that never rests it waits for anything up to some milliseconds. On an idle CPU the kernel's waits are
    // none, whereas perf sees it wake up.
    let works = [wakes(1500, 1700, 60), wakes(1200, 900, 700), wakes(400, 6000, 3000)];
    let mut loads: Vec<Load> =
        cgroups.iter().zip(works).map(|(cgroup, work)| Load::start(Some(cgroup), work, Some(0))).collect();
    let mut busy = Load::start(None, Work::SpinFor(Duration::from_mins(1)), Some(0));
    let record = Record::start();
    busy.go();
    loads.iter_mut().for_each(Load::go);
    loads.iter_mut().for_each(Load::done);
    drop(busy);
    let lengths = record.lengths(0);
    thread::sleep(Duration::from_secs(3));
    for (cgroup, load) in cgroups.iter().zip(&loads) {
        let mut waits: Vec<u64> =
            load.threads().iter().filter_map(|thread| lengths.get(thread)).flatten().copied().collect();
        waits.sort_unstable();
        let (native, classic) = (selector(METRIC, cgroup), selector(&format!("{METRIC}_bucket"), cgroup));
        let count = prometheus.one(&format!("histogram_count({native})"));
        println!("{} waits recorded, {count} told", waits.len());
        assert!((count - waits.len() as f64).abs() < 20.0 + count * 0.02, "{count} and {} waits", waits.len());
        for percent in [25, 50, 75, 90, 99] {
            // Some waits are in one of the two alone, and next to a bound the clocks decide.
            let [least, most] = [percent - 1, percent + 1].map(|percent| quantile_of(&waits, percent));
            let quantile = f64::from(u8::try_from(percent).unwrap()) / 100.0;
            for (form, histogram, width) in [("native", &native, 2.0), ("classic", &classic, 4.0)] {
                let told = prometheus.one(&format!("histogram_quantile({quantile}, {histogram})"));
                println!("{quantile} {form}: {told:.9} s told, {least:.9} to {most:.9} s recorded");
                // A recorded wait begins and ends at other lines of the kernel's than its own.
                let apart = 10e-6;
                let allowed = (least / width - apart)..=(most * width + apart);
                assert!(allowed.contains(&told), "the {quantile} quantile, {form}: {told} s, not in {allowed:?}");
            }
        }
    }
}

/// Bytes of a page in this format, uncompressed, and how long they took.
fn scrape(agent: &Agent, accept: &str) -> (usize, Duration) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(agent.address()).unwrap();
    let head = format!("GET /metrics HTTP/1.1\r\nhost: agent\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..200]));
    (answer.len(), began.elapsed())
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
    for (name, accept) in [("text", "text/plain"), ("protobuf", PROTOBUF)] {
        let (bytes, time) = scrape(&agent, accept);
        println!("{name}: {bytes} bytes in {time:?}");
    }
    // Units come and go between the two scrapes.
    assert!((scraped - (all - buckets_and_sums)).abs() < all / 20.0, "{scraped} of {all}, {buckets_and_sums} left out");
    let of_one = prometheus.query(&selector(METRIC, &cgroups[0])).unwrap();
    assert_eq!(of_one.len(), 1, "{of_one:?}");
    let classic = prometheus.query(&selector(&format!("{METRIC}_bucket"), &cgroups[0])).unwrap();
    assert_eq!(classic, [], "classic buckets are in the text formats alone");
}
