//! What fio says that it has read and written, and how long that took, against what podlens tells of the same container; and
//! against the kernel's own count, io.stat or, in version 1, blkio.throttle.
//!
//! Two containers use one disk of the test's own in memory, which is as slow as the test says, where the module `null_blk` is at
//! hand (in the virtual machines); otherwise files below the directory for temporary files, past the page cache.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use common::{
    Agent, BlockCounts, ColdFile, NullDisk, PATIENCE, Page, TestCgroup, count_in_version_1, machine_is_own, run, skip,
    unseen_requests, wait_until,
};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value},
    metrics::v1::{ExponentialHistogramDataPoint, metric},
};
use prost::Message as _;
use testkit::http::{Reply, Server};

const OPERATIONS: &str = "podlens_disk_operations_total";
const BYTES: &str = "podlens_disk_bytes_total";
const LATENCY: &str = "podlens.disk.latency";
const DISKS: [&str; 2] = ["nullb0", "nullb1"];
const MIB: u64 = 1 << 20;

/// What fio does, whether through the page cache, and how it is told so.
const JOBS: [(&str, bool, &str); 4] = [
    ("direct reads", false, "--ioengine=libaio --iodepth=8 --direct=1 --rw=randread"),
    ("direct writes", false, "--ioengine=libaio --iodepth=8 --direct=1 --rw=randwrite"),
    ("buffered reads", true, "--ioengine=psync --rw=randread"),
    ("buffered writes", true, "--ioengine=psync --rw=randwrite"),
];

/// What two containers use: a disk each, or a file each on one disk.
enum Places {
    Disks([NullDisk; 2]),
    Files([ColdFile; 2]),
}

impl Places {
    /// Whatever there is, and disks in memory with these settings; none, said as skipped, if there is nothing.
    fn any(settings: &[(&str, &str)]) -> Option<Self> {
        if Command::new("fio").arg("--version").stdout(Stdio::null()).status().is_err() {
            skip("there is no fio; `cargo xtask setup --for test` installs it");
            return None;
        }
        let usual = [("size", "64"), ("memory_backed", "1"), ("irqmode", "2"), ("completion_nsec", "100000")];
        let settings = [usual.as_slice(), settings].concat();
        let places = Self::of(&settings)?;
        // What fio reads of its own program and libraries is no request of a container's then. A disk of the test's own, where the
        // first who writes counts for long, is beside those.
        for (_, _, options) in JOBS.iter().filter(|_| matches!(places, Self::Files(_))) {
            run(fio(&places.path(0), &format!("{options} --bs=4k --size=256k")).stdout(Stdio::null()));
        }
        run(&mut Command::new("sync"));
        Some(places)
    }

    fn of(settings: &[(&str, &str)]) -> Option<Self> {
        let [first, second] = DISKS.map(|name| NullDisk::make(name, settings));
        if let (Some(first), Some(second)) = (first, second) {
            for name in DISKS {
                // Each request is one that somebody has made, as io.stat counts them.
                fs::write(format!("/sys/block/{name}/queue/nomerges"), "2").unwrap();
            }
            return Some(Self::Disks([first, second]));
        }
        Some(Self::Files([ColdFile::new(16)?, ColdFile::new(17)?]))
    }

    fn path(&self, which: usize) -> PathBuf {
        match self {
            Self::Disks(disks) => disks[which].path(),
            Self::Files(files) => files[which].path().into(),
        }
    }

    /// The place that both use at once, where one can be used by both.
    fn shared(&self, which: usize) -> PathBuf {
        self.path(if matches!(self, Self::Disks(_)) { 0 } else { which })
    }
}

/// Has the kernel count requests of these cgroups; false where it does not.
fn has_counts(cgroups: &[TestCgroup]) -> bool {
    // Where others use the machine, a limit would make the kernel look at all requests of everybody to a disk.
    if machine_is_own() {
        for name in DISKS {
            let device = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
            for cgroup in cgroups {
                count_in_version_1(cgroup, device.trim());
            }
        }
        return cgroups.iter().all(|cgroup| kernel(cgroup).is_some());
    }
    cgroups.iter().all(|cgroup| BlockCounts::of_io_stat(cgroup).is_some())
}

fn kernel(cgroup: &TestCgroup) -> Option<BlockCounts> {
    BlockCounts::of_io_stat(cgroup).or_else(|| BlockCounts::of_throttle(cgroup))
}

/// fio, with these options and those that are the same each time.
fn fio(place: &Path, options: &str) -> Command {
    let mut fio = Command::new("fio");
    fio.args(["--name=job", "--thread", "--output-format=json", "--lat_percentiles=1", "--percentile_list=50:90:99"]);
    fio.arg(format!("--filename={}", place.display())).args(options.split(' '));
    fio
}

/// fio in a cgroup.
struct Fio(Child);

impl Fio {
    /// One that waits until it may begin; these are its options.
    fn start(cgroup: &TestCgroup, place: &Path, options: &str) -> Self {
        let fio = fio(place, options);
        let mut shell = Command::new("sh");
        shell.args(["-ec", "read go; exec \"$@\"", "sh"]).arg(fio.get_program()).args(fio.get_args());
        let child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        cgroup.add(child.id());
        Self(child)
    }

    fn go(&mut self) {
        writeln!(self.0.stdin.take().unwrap(), "go").unwrap();
    }

    /// What it reports of its one job, once it has ended.
    fn end(mut self) -> serde_json::Value {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success(), "{text}");
        // It may have something to note before.
        let report: serde_json::Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
        report["jobs"][0].clone()
    }
}

/// Both at once.
fn run_both(jobs: [(&TestCgroup, PathBuf, String); 2]) -> [serde_json::Value; 2] {
    let mut both = jobs.map(|(cgroup, place, options)| Fio::start(cgroup, &place, &options));
    both.iter_mut().for_each(Fio::go);
    both.map(Fio::end)
}

/// Operations and bytes by read and write.
fn told(page: &Page, cgroup: &TestCgroup) -> [[u64; 2]; 2] {
    [OPERATIONS, BYTES].map(|metric| {
        ["read", "write"].map(|of| page.count(metric, &cgroup.labels_and(&[("operation", of)])).unwrap_or(0))
    })
}

#[test]
fn bytes_and_operations_are_fios_and_the_kernels_by_container() {
    let Some(places) = Places::any(&[]) else { return };
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let cgroups = [(); 2].map(|()| TestCgroup::any_container());
    let is_counted = has_counts(&cgroups);
    let is_v1 = BlockCounts::of_io_stat(&cgroups[0]).is_none();
    let both = Both { agent: &agent, places: &places, cgroups: &cgroups, is_counted, is_v1 };
    for job in JOBS {
        // Some virtual machines do not tell of all requests, sometimes of hundreds in a row.
        let rounds = if machine_is_own() { 1 } else { 3 };
        let mut refusals = Vec::new();
        while let Err(refusal) = both.run(job) {
            refusals.push(refusal);
            assert!(refusals.len() < rounds, "{refusals:#?}");
        }
    }
}

/// Two containers that are to do the same.
struct Both<'a> {
    agent: &'a Agent,
    places: &'a Places,
    cgroups: &'a [TestCgroup; 2],
    is_counted: bool,
    is_v1: bool,
}

impl Both<'_> {
    /// Both do it once; fails with what does not agree.
    fn run(&self, (what, is_buffered, options): (&str, bool, &str)) -> Result<(), String> {
        let Self { agent, places, cgroups, .. } = self;
        let page = agent.metrics();
        let unseen_before = unseen_requests(&page);
        let before = cgroups.each_ref().map(|cgroup| (told(&page, cgroup), kernel(cgroup)));
        // What is in the page cache of a disk belongs to one of its users alone.
        let place = |which| if is_buffered { places.path(which) } else { places.shared(which) };
        let reports = run_both([
            (&cgroups[0], place(0), format!("{options} --bs=4k --size=4m")),
            (&cgroups[1], place(1), format!("{options} --bs=8k --size=6m --offset=8m")),
        ]);
        // Whoever makes it go to the disk: here nobody of the containers.
        run(&mut Command::new("sync"));
        let page = agent.metrics();
        let untold = 2 + unseen_requests(&page) - unseen_before;
        for (which, cgroup) in cgroups.iter().enumerate() {
            let (told_before, kernel_before) = &before[which];
            let now = told(&page, cgroup);
            let grown = [0, 1].map(|metric| [0, 1].map(|of| now[metric][of] - told_before[metric][of]));
            let of_fio = |key| ["read", "write"].map(|of| reports[which][of][key].as_u64().unwrap());
            let (mut operations, mut bytes) = (of_fio("total_ios"), of_fio("io_bytes"));
            assert_eq!(bytes.iter().sum::<u64>(), [4, 6][which] * MIB, "fio did what it was told");
            println!("{what}, container {which}: podlens {grown:?}, fio {operations:?} and {bytes:?}");
            if self.is_v1 && what == "buffered writes" && matches!(places, Places::Files(_)) {
                // Version 1 does not know who has written what the page cache has, but who makes it go: of a disk its last user.
                (operations, bytes) = ([0; 2], [0; 2]);
            }
            // How much of the page cache one request carries is the kernel's choice.
            if !is_buffered {
                agree(&format!("{what}, operations"), grown[0], operations, untold, [1, 1])?;
            }
            agree(&format!("{what}, bytes"), grown[1], bytes, untold, [8192, 256 * 1024])?;
            if self.is_counted {
                let kernel = kernel(cgroup).unwrap().since(kernel_before.unwrap());
                println!("{what}, container {which}: the kernel {kernel:?}");
                let kernel = [&kernel.operations, &kernel.bytes].map(|of| [of[0], of[1]]);
                agree(&format!("{what}, the kernel's operations"), grown[0], kernel[0], 0, [0, 0])?;
                agree(&format!("{what}, the kernel's bytes"), grown[1], kernel[1], 0, [0, 0])?;
            }
        }
        Ok(())
    }
}

/// Reads and writes are as many as expected. Where others use the machine, so many requests may not be told of, and what the
/// kernel has forgotten of fio's own program meanwhile is read again: so much each.
fn agree(what: &str, found: [u64; 2], expected: [u64; 2], untold: u64, each: [u64; 2]) -> Result<(), String> {
    let [fewer, more] = if machine_is_own() { [0; 2] } else { [untold * each[0], 40 * each[1]] };
    let is_near = |(found, expected): (u64, u64)| (expected.saturating_sub(fewer)..=expected + more).contains(&found);
    let all_near = found.into_iter().zip(expected).all(is_near);
    if all_near { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}")) }
}

/// Durations by length.
#[derive(Clone, Debug, Default)]
struct Distribution {
    sum_s: f64,
    /// By the exponent of 2 of the seconds at which a bucket ends.
    counts: BTreeMap<i32, u64>,
}

impl Distribution {
    fn of(point: &ExponentialHistogramDataPoint) -> Self {
        assert_eq!(point.scale, 0, "bounds are powers of 2");
        let mut counts = BTreeMap::new();
        // The shortest are said to be none at all.
        counts.insert(bucket_of(point.zero_threshold), point.zero_count);
        if let Some(positive) = &point.positive {
            counts.extend((positive.offset + 1..).zip(positive.bucket_counts.iter().copied()));
        }
        Self { sum_s: point.sum.unwrap(), counts }
    }

    fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    fn mean_s(&self) -> f64 {
        self.sum_s / self.count() as f64
    }

    /// Where the bucket ends in which so many percent of all come to their end.
    fn percentile(&self, percent: u32) -> i32 {
        let rank = (self.count() * u64::from(percent)).div_ceil(100);
        let mut seen = 0;
        let at = self.counts.iter().find(|(_, count)| {
            seen += *count;
            seen >= rank
        });
        *at.unwrap().0
    }
}

/// The exponent of 2 of the seconds at which a duration's bucket ends.
#[expect(clippy::cast_possible_truncation, reason = "no duration is so long")]
fn bucket_of(seconds: f64) -> i32 {
    seconds.log2().ceil() as i32
}

/// Distributions that came by OTLP, by container's id, operation and part.
type Latencies = BTreeMap<[String; 3], Distribution>;

/// A receiver of metrics that keeps what came last.
struct Receiver {
    server: Server,
    last: Arc<Mutex<Latencies>>,
}

impl Receiver {
    fn start() -> Self {
        let last: Arc<Mutex<Latencies>> = Arc::default();
        let received = Arc::clone(&last);
        let server = Server::start(move |request| {
            if request.path == "/v1/metrics" {
                let body = ExportMetricsServiceRequest::decode(request.body.as_slice()).unwrap();
                received.lock().unwrap().extend(latencies(&body));
            }
            Reply { content_type: "application/x-protobuf", body: String::new() }
        });
        Self { server, last }
    }

    /// A container's, by part, once there are so many observations of each.
    fn wait_for(&self, container: &str, operation: &str, count: u64) -> [Distribution; 2] {
        ["queue", "device"].map(|part| {
            wait_until("durations by OTLP", PATIENCE, || {
                let last = self.last.lock().unwrap();
                let found = last.iter().find(|([id, of, their_part], _)| {
                    id.starts_with(container) && of == operation && their_part == part
                });
                let Some((_, found)) = found else { return Err(format!("none of {container} among {}", last.len())) };
                if found.count() >= count { Ok(found.clone()) } else { Err(format!("{found:?}, expected {count}")) }
            })
        })
    }
}

fn latencies(body: &ExportMetricsServiceRequest) -> Latencies {
    let mut found = Latencies::new();
    for of in &body.resource_metrics {
        let id = text(of.resource.as_ref().map(|of| of.attributes.as_slice()).unwrap_or_default(), "container.id");
        let metrics = of.scope_metrics.iter().flat_map(|scope| &scope.metrics).filter(|metric| metric.name == LATENCY);
        for data in metrics.filter_map(|metric| metric.data.as_ref()) {
            let metric::Data::ExponentialHistogram(histogram) = data else { panic!("{data:?}") };
            for point in histogram.data_points.iter().filter(|point| point.count > 0) {
                let [operation, part] = ["operation", "part"].map(|key| text(&point.attributes, key));
                found.insert([id.clone(), operation, part], Distribution::of(point));
            }
        }
    }
    found
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

#[test]
fn latencies_are_fios_own_within_one_bucket_by_container() {
    // One request at a time, so that the others have to wait.
    let settings = [("completion_nsec", "10000000"), ("hw_queue_depth", "1"), ("submit_queues", "1")];
    let Some(places) = Places::any(&settings) else { return };
    if machine_is_own() {
        // With room for all that is asked for at once, for writes too where the kernel leaves them less than reads.
        let queue = Path::new("/sys/block").join(DISKS[0]).join("queue");
        for (file, text) in [("scheduler", "mq-deadline"), ("nr_requests", "16"), ("iosched/async_depth", "16")] {
            let file = queue.join(file);
            if file.exists() {
                fs::write(file, text).unwrap();
            }
        }
    }
    let receiver = Receiver::start();
    let agent = Agent::start(&[
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_KUBERNETES_SOURCE", "none"),
        ("PODLENS_OTLP_PROTOCOL", "http/protobuf"),
        ("PODLENS_OTLP_INTERVAL", "1s"),
        ("PODLENS_OTLP_ENDPOINT", &format!("http://{}", receiver.server.address())),
    ]);
    for (operation, rw) in [("read", "randread"), ("write", "randwrite")] {
        // One that waits for each request beside one that has many under way.
        let cgroups = [(); 2].map(|()| TestCgroup::any_container());
        let unseen_before = unseen_requests(&agent.metrics());
        let reports = run_both([
            (
                &cgroups[0],
                places.shared(0),
                format!("--ioengine=psync --direct=1 --rw={rw} --bs=4k --size=16m --number_ios=300"),
            ),
            (
                &cgroups[1],
                places.shared(1),
                format!("--ioengine=libaio --iodepth=8 --direct=1 --rw={rw} --bs=4k --size=16m --number_ios=600"),
            ),
        ]);
        let page = agent.metrics();
        let untold = 16 + unseen_requests(&page) - unseen_before;
        for (cgroup, of_fio) in cgroups.iter().zip(&reports) {
            let labels = cgroup.labels_and(&[("operation", operation)]);
            let count = page.count(OPERATIONS, &labels).unwrap();
            let container = cgroup.labels().iter().find(|(name, _)| *name == "container").unwrap().1.to_owned();
            let parts = receiver.wait_for(&container, operation, count);
            let waited_s = page.sum_ns("podlens_cpu_wait_seconds_total", &cgroup.labels()) as f64 / 1e9 / count as f64;
            let faults = page.count("podlens_major_fault_seconds_count", &cgroup.labels()).unwrap_or(0);
            compare(&parts, &of_fio[operation], Container { count, untold, faults, waited_s }, operation);
        }
    }
}

/// What podlens tells of one that runs fio: requests, major faults, and how long it waited for a CPU with each request on average.
#[derive(Clone, Copy)]
struct Container {
    count: u64,
    /// Requests that may be missing there.
    untold: u64,
    faults: u64,
    waited_s: f64,
}

/// fio's time from the call to the end (`lat`) against the two parts of the same requests. Its own has in it what wakes it up, for
/// which it waited for a CPU for so long with each request on average, and what waits for a place among the device's requests, which is
/// none yet.
fn compare(parts: &[Distribution; 2], of_fio: &serde_json::Value, container: Container, what: &str) {
    let Container { count, untold, faults, waited_s } = container;
    let issued = of_fio["total_ios"].as_u64().unwrap();
    // What the kernel has forgotten of fio's own program is read again, by some requests for each major fault.
    let read_again = count.saturating_sub(issued).min(8 * faults);
    agree("requests", [count - read_again, 0], [issued, 0], untold, [1, 1]).unwrap();
    assert_eq!(parts.each_ref().map(Distribution::count), [count; 2], "{what}: of each request both parts");
    let mean_s = of_fio["lat_ns"]["mean"].as_f64().unwrap() / 1e9;
    let [queue, device] = parts;
    println!("{what}: {:.6} s in the queue, {:.6} s in the device, fio {mean_s:.6} s", queue.mean_s(), device.mean_s());
    // What else was read in its name, as a file's own blocks, may have taken longer than what fio has timed.
    if count == issued {
        assert!(queue.mean_s() + device.mean_s() <= mean_s * 1.02, "{what}: not more than the whole");
    }
    // Where others use the machine, a tail of fio's is that of its wake-ups.
    let percents: &[u32] = if machine_is_own() { &[50, 90, 99] } else { &[50, 90] };
    for percent in percents.iter().copied() {
        let fio_s = of_fio["lat_ns"]["percentile"][format!("{percent}.000000")].as_f64().unwrap() / 1e9;
        let buckets = [queue, device].map(|part| part.percentile(percent));
        // Of two durations of which only the buckets are known the sum lies in one of these.
        let parts_s: f64 = buckets.iter().map(|end| 2_f64.powi(*end)).sum();
        // Of no more requests than those beyond the percentile was the wait for a CPU longer than that.
        let longest_wait_s = waited_s * 100.0 / f64::from(100 - percent);
        let (least, most) = (buckets[0].max(buckets[1]), bucket_of(parts_s + longest_wait_s));
        let of_fio = bucket_of(fio_s);
        println!("{what}: p{percent} 2^{least} to 2^{most} s, fio {fio_s:.6} s, which is up to 2^{of_fio}");
        assert!((least - 1..=most + 1).contains(&of_fio), "{what}: p{percent}");
    }
}
