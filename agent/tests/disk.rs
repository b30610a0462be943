//! Requests to disks against what a test asks of a disk, and against what the kernel counts.
//!
//! A disk of the test's own in memory, which is as slow as the test says, where the module `null_blk` is at hand (in the
//! virtual machines); otherwise a file below the directory for temporary files, read and written past the page cache.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    fs,
    io::Write as _,
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{
    Agent, BlockCounts, NullDisk, Page, TestCgroup, assert_near, load_module, machine_is_own, machine_is_slow, pod_uid,
    run, skip, unseen_requests,
};

const OPERATIONS: &str = "podlens_disk_operations_total";
const BYTES: &str = "podlens_disk_bytes_total";
const ERRORS: &str = "podlens_disk_errors_total";
const LATENCY: &str = "podlens_disk_latency_seconds";

const MIB: u64 = 1 << 20;
/// Of the file that stands for a disk.
const FILE_BYTES: u64 = 16 * MIB;
/// The disk in memory.
const NULL_DISK: &str = "nullb0";

fn start() -> Agent {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let running = [("collector", "disk"), ("state", "running")];
    assert_eq!(agent.metrics().count("podlens_collector_state", &running), Some(1), "{}", agent.log());
    agent
}

/// What requests go to.
struct Disk {
    path: PathBuf,
    /// Where it is one.
    null_disk: Option<NullDisk>,
}

impl Disk {
    /// Whatever there is; none, said as skipped, if there is nothing.
    fn any() -> Option<Self> {
        Self::null(&[]).or_else(Self::file)
    }

    /// The same with what only a disk in memory can do: its settings, by name.
    fn special(settings: &[(&str, &str)]) -> Option<Self> {
        let disk = Self::null(settings);
        if disk.is_none() {
            skip("there is no module null_blk for a disk that does as it is told");
        }
        disk
    }

    fn null(settings: &[(&str, &str)]) -> Option<Self> {
        // Requests complete in an interrupt, as those of a real disk.
        let usual =
            [("size", "64"), ("memory_backed", "1"), ("irqmode", "2"), ("completion_nsec", "100000"), ("discard", "1")];
        let disk = NullDisk::make(NULL_DISK, &[usual.as_slice(), settings].concat())?;
        Some(Self { path: disk.path(), null_disk: Some(disk) })
    }

    fn file() -> Option<Self> {
        let path = std::env::temp_dir().join(format!("podlens-disk-{}", std::process::id()));
        let mut file = fs::File::create(&path).unwrap();
        let device = file.metadata().unwrap().st_dev();
        if !Path::new(&format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device))).exists() {
            fs::remove_file(&path).unwrap();
            skip("the directory for temporary files is on no disk, and there is no module null_blk");
            return None;
        }
        // Written, so that reads go to the disk; and all of it is there before anybody is looked at.
        file.write_all(&vec![7; usize::try_from(FILE_BYTES).unwrap()]).unwrap();
        file.sync_all().unwrap();
        run(&mut Command::new("sync"));
        let disk = Self { path, null_disk: None };
        // What a shell and dd are read from is in memory then, and is no request of a container's.
        run(Command::new("sh").args(["-ec", &format!("{}; {}", disk.read(1, 4096), disk.write(1, 8192))]));
        Some(disk)
    }

    /// Reads so many blocks of so many bytes, one after another.
    fn read(&self, blocks: u64, bytes: u64) -> String {
        self.read_from(0, blocks, bytes)
    }

    /// The same from that block on.
    fn read_from(&self, from: u64, blocks: u64, bytes: u64) -> String {
        let path = self.path.display();
        format!("dd if={path} of=/dev/null bs={bytes} skip={from} count={blocks} iflag=direct status=none")
    }

    /// Writes them.
    fn write(&self, blocks: u64, bytes: u64) -> String {
        let path = self.path.display();
        format!("dd if=/dev/zero of={path} bs={bytes} count={blocks} oflag=direct conv=notrunc status=none")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.null_disk.is_none() {
            fs::remove_file(&self.path).unwrap();
        }
    }
}

/// A shell in a cgroup that waits until it may ask its disk.
struct Asker(Child);

impl Asker {
    fn start(cgroup: &TestCgroup, script: &str) -> Self {
        let script = format!("read go; {script}");
        let child = Command::new("sh").args(["-ec", &script]).stdin(Stdio::piped()).spawn().unwrap();
        cgroup.add(child.id());
        Self(child)
    }

    fn go(&mut self) {
        writeln!(self.0.stdin.as_mut().unwrap(), "go").unwrap();
    }

    fn end(mut self) {
        assert!(self.0.wait().unwrap().success());
    }

    fn run(mut self) {
        self.go();
        self.end();
    }
}

/// How many of so many the kernel may not have told of. One that is emulated reports each completion. Some virtual machines
/// report none while their first process has the CPU (docs/kernels.md).
fn allowed(page: &Page, count: u64) -> u64 {
    if machine_is_own() { 0 } else { count.div_ceil(1000) + unseen_requests(page) }
}

fn of(page: &Page, metric: &str, labels: &[(&str, &str)], operation: &str) -> u64 {
    page.count(metric, &[labels, &[("operation", operation)]].concat()).unwrap_or(0)
}

/// So many operations and so many bytes of each kind: read, write, discard, flush.
#[track_caller]
fn check(page: &Page, labels: &[(&str, &str)], what: &str, operations: [u64; 4], bytes: [u64; 3]) {
    for (operation, expected) in ["read", "write", "discard", "flush"].into_iter().zip(operations) {
        let found = of(page, OPERATIONS, labels, operation);
        assert_near(&format!("{what}: {operation} operations"), found, expected, 0.0, allowed(page, expected));
        assert_eq!(of(page, ERRORS, labels, operation), 0, "{what}: {operation} errors");
    }
    for ((operation, expected), operations) in ["read", "write", "discard"].into_iter().zip(bytes).zip(operations) {
        let each = expected.checked_div(operations).unwrap_or(0);
        let found = of(page, BYTES, labels, operation);
        assert_near(&format!("{what}: {operation} bytes"), found, expected, 0.0, allowed(page, operations) * each);
    }
}

/// The labels of a cgroup that outlive it.
fn labels_of(cgroup: &TestCgroup) -> Vec<(String, String)> {
    cgroup.labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn borrowed(labels: &[(String, String)]) -> Vec<(&str, &str)> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn operations_and_bytes_are_what_a_container_has_asked_for() {
    // One of two was there before the agent, one comes after it.
    let before = TestCgroup::any_container();
    let Some(disk) = Disk::any() else { return };
    let agent = start();
    let after = TestCgroup::any_container();
    let script = |blocks| format!("{}; {}", disk.read(2 * blocks, 4096), disk.write(blocks, 8192));
    let mut both = [(&before, 300), (&after, 500)].map(|(cgroup, blocks)| Asker::start(cgroup, &script(blocks)));
    both.iter_mut().for_each(Asker::go);
    both.into_iter().for_each(Asker::end);
    let page = agent.metrics();
    for (cgroup, blocks) in [(&before, 300), (&after, 500)] {
        let bytes = blocks * 8192;
        check(&page, &cgroup.labels(), cgroup.path(), [2 * blocks, blocks, 0, 0], [bytes, bytes, 0]);
    }
    assert_eq!(of(&page, OPERATIONS, &[("unit", "unattributed")], "read"), 0);
}

#[test]
fn every_kind_of_request_is_counted_as_the_kernel_counts_it() {
    // With a cache there is something to flush.
    let Some(disk) = Disk::special(&[("cache_size", "8")]) else { return };
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let path = disk.path.display();
    let safe_write = disk.write(5, 4096).replace("notrunc", "notrunc,fsync");
    let script = format!("{}; {safe_write}; blkdiscard -o {MIB} -l {} {path}", disk.read(100, 16384), 3 * MIB);
    Asker::start(&cgroup, &script).run();
    let page = agent.metrics();
    let labels = cgroup.labels();
    let operations = ["read", "write", "discard", "flush"].map(|operation| of(&page, OPERATIONS, &labels, operation));
    let [reads, writes, discards, flushes] = operations;
    assert_eq!((reads, writes, flushes), (100, 5, 1), "reads, writes, flushes");
    assert!(discards > 0, "{operations:?}");
    check(&page, &labels, "of all kinds", operations, [100 * 16384, 5 * 4096, 3 * MIB]);
    let Some(found) = BlockCounts::of_io_stat(&cgroup) else { return };
    let (bytes, operations_there) = ([100 * 16384, 5 * 4096, 3 * MIB], [reads, writes + flushes, discards]);
    assert_eq!(found, BlockCounts { bytes, operations: operations_there }, "io.stat");
    for (operation, count) in ["read", "write", "discard", "flush"].into_iter().zip(operations) {
        let told = |part| {
            page.count(&format!("{LATENCY}_count"), &cgroup.labels_and(&[("operation", operation), ("part", part)]))
        };
        let in_queue = if operation == "flush" { None } else { Some(count) };
        assert_eq!((told("queue"), told("device")), (in_queue, Some(count)), "{operation}: durations");
    }
}

#[test]
fn a_container_of_a_moment_is_told_whole() {
    let Some(disk) = Disk::any() else { return };
    let agent = start();
    agent.metrics();
    let cgroup = TestCgroup::any_container();
    Asker::start(&cgroup, &disk.read(40, 4096)).run();
    let labels = labels_of(&cgroup);
    cgroup.remove();
    let expected = ([40, 0, 0, 0], [40 * 4096, 0, 0]);
    check(&agent.metrics(), &borrowed(&labels), "removed a moment ago", expected.0, expected.1);
    thread::sleep(Duration::from_millis(2500));
    check(&agent.metrics(), &borrowed(&labels), "its slots are given back", expected.0, expected.1);
}

#[test]
fn what_goes_through_a_loop_device_is_counted_once() {
    let Some(disk) = Disk::any() else { return };
    load_module("loop", &[]);
    let mut losetup = Command::new("losetup");
    losetup.args(["--find", "--show", "--direct-io=on"]).arg(&disk.path).stderr(Stdio::null());
    let made = losetup.output().ok().filter(|made| made.status.success());
    let Some(made) = made else { return skip("no loop device can be made here") };
    let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let agent = start();
    let cgroup = TestCgroup::any_container();
    Asker::start(&cgroup, &format!("dd if={device} of=/dev/null bs=4096 count=200 iflag=direct status=none")).run();
    let page = agent.metrics();
    run(Command::new("losetup").args(["--detach", &device]));
    check(&page, &cgroup.labels(), "through a loop device", [200, 0, 0, 0], [200 * 4096, 0, 0]);
}

#[test]
fn a_request_that_fails_is_an_error() {
    // In sectors of 512 bytes.
    let Some(disk) = Disk::special(&[("badblocks", "+2048-4095")]) else { return };
    let bad = disk.read_from(300, 1, 4096);
    if Command::new("sh").args(["-c", &bad]).status().unwrap().success() {
        return skip("this kernel's null_blk reads what is told to be bad");
    }
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let script = format!("{}; for n in 1 2 3; do {bad} && exit 1; done; true", disk.read(7, 4096));
    Asker::start(&cgroup, &script).run();
    let page = agent.metrics();
    let told = [ERRORS, OPERATIONS].map(|metric| of(&page, metric, &cgroup.labels(), "read"));
    assert_eq!(told, [3, 10], "errors and operations");
}

/// A distribution: observations, and their mean.
fn distribution(page: &Page, cgroup: &TestCgroup, part: &str) -> (u64, Duration) {
    let labels = cgroup.labels_and(&[("operation", "read"), ("part", part)]);
    let count = page.count(&format!("{LATENCY}_count"), &labels).unwrap_or(0);
    let sum = Duration::from_nanos(page.one(&format!("{LATENCY}_sum"), &labels).unwrap().ns());
    (count, sum / u32::try_from(count.max(1)).unwrap())
}

#[test]
fn latency_is_that_of_the_device_and_of_the_queue_before_it() {
    const EACH: Duration = Duration::from_millis(20);
    let nanoseconds = EACH.as_nanos().to_string();
    let settings = [("completion_nsec", nanoseconds.as_str()), ("hw_queue_depth", "1"), ("submit_queues", "1")];
    let Some(disk) = Disk::special(&settings) else { return };
    let agent = start();
    let [alone, crowded] = [(); 2].map(|()| TestCgroup::any_container());
    Asker::start(&alone, &disk.read(25, 4096)).run();
    let page = agent.metrics();
    let (count, mean) = distribution(&page, &alone, "device");
    let most = EACH * 3 / 2;
    assert!(count == 25 && mean >= EACH && mean <= most, "{count} requests of {mean:?} each");
    // The bounds around 20 ms.
    let up_to = |bound: &str| {
        let labels = alone.labels_and(&[("operation", "read"), ("part", "device"), ("le", bound)]);
        page.count(&format!("{LATENCY}_bucket"), &labels)
    };
    assert_eq!((up_to("0.015625"), up_to("0.0625")), (Some(0), Some(25)));
    let (count, mean) = distribution(&page, &alone, "queue");
    assert!(count == 25 && mean < EACH / 4, "{count} requests that waited {mean:?} each");

    // The scheduler takes all of them, the device one at a time.
    let scheduler = format!("/sys/block/{NULL_DISK}/queue/scheduler");
    fs::write(&scheduler, "mq-deadline").unwrap();
    fs::write(format!("/sys/block/{NULL_DISK}/queue/nr_requests"), "16").unwrap();
    // Far from each other, since neighboring requests become one.
    let mut askers = [0, 1000, 2000, 3000].map(|from| Asker::start(&crowded, &disk.read_from(from, 15, 4096)));
    askers.iter_mut().for_each(Asker::go);
    askers.into_iter().for_each(Asker::end);
    let page = agent.metrics();
    let [(queued, wait), (completed, mean)] = ["queue", "device"].map(|part| distribution(&page, &crowded, part));
    assert_eq!((queued, completed), (60, 60));
    assert!(mean >= EACH && mean <= most, "{mean:?} in the device");
    assert!(wait >= 2 * EACH && wait <= 4 * most, "{wait:?} in the queue, behind three others");
}

#[test]
fn latencies_add_up_to_the_time_in_which_the_requests_were_made() {
    let Some(disk) = Disk::any() else { return };
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let mut asker = Asker::start(&cgroup, &disk.read(2000, 4096));
    let began = Instant::now();
    asker.go();
    asker.end();
    let took = began.elapsed();
    let page = agent.metrics();
    let [(queued, wait), (completed, mean)] = ["queue", "device"].map(|part| distribution(&page, &cgroup, part));
    assert_near("device parts", completed, 2000, 0.0, allowed(&page, 2000));
    assert_near("queue parts", queued, completed, 0.0, 0);
    let told = 2000 * (wait + mean);
    // For so long it had a CPU, or wanted one that somebody else had.
    let [ran, waited] = ["podlens_cpu_seconds_total", "podlens_cpu_wait_seconds_total"]
        .map(|name| Duration::from_nanos(page.sum_ns(name, &cgroup.labels())));
    println!("{told:?} of {took:?} in requests of {mean:?} each; ran {ran:?}, waited {waited:?} for a CPU");
    let without_cpu = took.saturating_sub(waited);
    assert!(told <= took && told >= without_cpu / if machine_is_slow() { 50 } else { 5 }, "{told:?} of {took:?}");
}

#[test]
fn a_buffered_write_is_the_writers_where_the_kernel_knows_the_writer() {
    let Some(disk) = Disk::any() else { return };
    let agent = start();
    let cgroup = TestCgroup::container(&pod_uid(81), 81);
    // Who closes a disk last writes what is in its cache.
    let open = fs::File::options().write(true).open(&disk.path).unwrap();
    let bytes = 4 * MIB;
    let path = disk.path.display();
    let script = format!("dd if=/dev/zero of={path} bs=65536 count={} conv=notrunc status=none", bytes / 65536);
    Asker::start(&cgroup, &script).run();
    open.sync_all().unwrap();
    let found = of(&agent.metrics(), BYTES, &cgroup.labels(), "write");
    match BlockCounts::of_io_stat(&cgroup) {
        Some(kernel) => assert_eq!((found, kernel.bytes[1]), (bytes, bytes), "podlens and io.stat"),
        None => assert_eq!(found, 0, "version 1 does not know the writer and charges the root"),
    }
}
