//! Memory by type, limits, events and faults against the kernel's own files of the same cgroup, and up to a cgroup's end.
//!
//! Each load rests before anything is compared, so that the files stand still and equality is exact once podlens has walked again,
//! at most every 10 s, and has read memory.stat again, at most every 30 s.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{
    Agent, BlockCounts, ColdFile, HelperProcess, MappedFile, NullDisk, PATIENCE, Page, Sample, TestCgroup, Trees,
    assert_runs_are_short, container_id, follow, kernel, lock_in_memory, memory_is_own, minor_faults, orders, pod_uid,
    remove_cgroup, run, skip, unseen_requests,
};

const MEMORY: &str = "podlens_memory_bytes";
const USAGE: &str = "podlens_memory_usage_bytes";
const WORKING_SET: &str = "podlens_memory_working_set_bytes";
const UNRECLAIMABLE: &str = "podlens_memory_unreclaimable_bytes";
const PEAK: &str = "podlens_memory_peak_bytes";
const LIMIT: &str = "podlens_memory_limit_bytes";
const HIGH: &str = "podlens_memory_high_bytes";
const PROTECTION: &str = "podlens_memory_protection_bytes";
const EVENTS: &str = "podlens_memory_events_total";
const FAULTS: &str = "podlens_page_faults_total";
const OPERATIONS: &str = "podlens_disk_operations_total";
const BYTES_OF_DISKS: &str = "podlens_disk_bytes_total";
const REFAULTS: &str = "podlens_refaults_total";
const MB: u64 = 1 << 20;
/// Longer than memory.stat may stay unread: 5 min where the walk knows all that has occurred, so for a line that occurs for the first
/// time.
const READ_AGAIN: Duration = Duration::from_secs(330);

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s")])
}

/// A cgroup in all trees of the machine, that of the memory controller included.
struct Group {
    cgroup: Option<TestCgroup>,
    /// Its directory where memory counts.
    memory: PathBuf,
    tree: PathBuf,
    is_v1: bool,
}

impl Group {
    fn container(number: u32) -> Option<Self> {
        Self::in_pod(&pod_uid(number), number)
    }

    fn in_pod(uid: &str, number: u32) -> Option<Self> {
        Self::of(TestCgroup::container(uid, number))
    }

    /// A cgroup below it.
    fn below(&self, name: &str) -> Self {
        let path = format!("{}/{name}", self.cgroup().path());
        Self::of(TestCgroup::at(path, Vec::new(), Trees::All)).unwrap()
    }

    /// None where the machine has no memory controller.
    fn of(cgroup: TestCgroup) -> Option<Self> {
        let (tree, is_v1) = memory_tree()?;
        let memory = tree.join(cgroup.path().trim_start_matches('/'));
        let mut above: Vec<&Path> = memory.ancestors().skip(1).take_while(|one| one.starts_with(&tree)).collect();
        above.reverse();
        if is_v1 {
            fs::create_dir_all(&memory).unwrap();
        } else {
            for one in above {
                fs::write(one.join("cgroup.subtree_control"), "+memory").unwrap();
            }
        }
        Some(Self { cgroup: Some(cgroup), memory, tree, is_v1 })
    }

    fn cgroup(&self) -> &TestCgroup {
        self.cgroup.as_ref().unwrap()
    }

    fn labels_and<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        self.cgroup().labels_and(more)
    }

    fn add(&self, process: u32) {
        self.cgroup().add(process);
        if self.is_v1 {
            self.write("cgroup.procs", &process.to_string());
        }
    }

    fn read(&self, file: &str) -> String {
        let path = self.memory.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.memory.join(file);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{text:?} to {}: {error}", path.display()));
    }

    fn set_limit(&self, bytes: u64) {
        self.write(if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" }, &bytes.to_string());
    }

    fn number(&self, v1: &str, v2: &str) -> u64 {
        self.read(if self.is_v1 { v1 } else { v2 }).trim().parse().unwrap()
    }

    /// The same of a file that some kernels lack.
    fn number_if_there(&self, v1: &str, v2: &str) -> Option<u64> {
        self.memory.join(if self.is_v1 { v1 } else { v2 }).exists().then(|| self.number(v1, v2))
    }

    /// The most that it ever had, where the kernel tells that.
    fn peak(&self) -> Option<u64> {
        self.number_if_there("memory.max_usage_in_bytes", "memory.peak")
    }

    /// A line of memory.stat with all below; `v1`: what version 1 calls it.
    fn line(&self, v1: &str, v2: &str) -> Option<u64> {
        let key = if self.is_v1 { format!("total_{v1} ") } else { format!("{v2} ") };
        self.read("memory.stat")
            .lines()
            .find_map(|line| line.strip_prefix(key.as_str()))
            .map(|number| number.parse().unwrap())
    }

    /// Count of an event; version 1 tells of one alone.
    fn event(&self, event: &str) -> Option<u64> {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let key = format!("{event} ");
        self.read(file).lines().find_map(|line| line.strip_prefix(key.as_str())).map(|number| number.parse().unwrap())
    }

    /// Everything that files tell: metric, its own label, and the value; none where there should be no sample.
    fn told_by_files(&self) -> Vec<(&'static str, (&'static str, &'static str), Option<u64>)> {
        let some = |number: Option<u64>| number.filter(|number| *number > 0);
        let mut told = Vec::new();
        for (of, v1, v2) in [
            ("anon", "rss", "anon"),
            ("file_active", "active_file", "active_file"),
            ("file_inactive", "inactive_file", "inactive_file"),
            ("shmem", "shmem", "shmem"),
            ("slab_reclaimable", "-", "slab_reclaimable"),
            ("slab_unreclaimable", "-", "slab_unreclaimable"),
            ("kernel_stack", "-", "kernel_stack"),
            ("page_tables", "-", "pagetables"),
            ("socket", "-", "sock"),
            ("zswap", "-", "zswap"),
            ("unevictable", "unevictable", "unevictable"),
        ] {
            told.push((MEMORY, ("type", of), some(self.line(v1, v2))));
        }
        let swap = if self.is_v1 { self.line("swap", "-") } else { self.number_if_there("-", "memory.swap.current") };
        told.push((MEMORY, ("type", "swap"), some(swap)));
        let usage = self.number("memory.usage_in_bytes", "memory.current");
        let inactive = self.line("inactive_file", "inactive_file").unwrap();
        let active = self.line("active_file", "active_file").unwrap();
        told.push((USAGE, ("", ""), Some(usage)));
        told.push((WORKING_SET, ("", ""), Some(usage.saturating_sub(inactive))));
        let slab = self.line("-", "slab_reclaimable");
        told.push((UNRECLAIMABLE, ("", ""), slab.map(|slab| usage.saturating_sub(inactive + active + slab))));
        if let Some(peak) = self.peak() {
            told.push((PEAK, ("", ""), Some(peak)));
        }
        let [faults, major] = ["pgfault", "pgmajfault"].map(|key| self.line(key, key).unwrap());
        told.push((FAULTS, ("type", "minor"), Some(faults - major)));
        told.push((FAULTS, ("type", "major"), Some(major)));
        for (of, key) in [("anon", "workingset_refault_anon"), ("file", "workingset_refault_file")] {
            told.push((REFAULTS, ("type", of), self.line(key, key)));
        }
        for event in ["low", "high", "max", "oom", "oom_kill", "oom_group_kill"] {
            if let Some(count) = self.event(event) {
                told.push((EVENTS, ("event", event), Some(count)));
            }
        }
        told
    }

    /// A page says all that the files say.
    fn agrees(&self, page: &Page) -> Result<(), String> {
        let mut differ = Vec::new();
        for (metric, label, expected) in self.told_by_files() {
            let own = [label];
            let labels = self.labels_and(if label.0.is_empty() { &[] } else { &own });
            let found = page.count(metric, &labels);
            if found != expected {
                differ.push(format!("{metric} {label:?}: {found:?}, the file {expected:?}"));
            }
        }
        if differ.is_empty() { Ok(()) } else { Err(differ.join("; ")) }
    }

    fn labels(&self) -> Vec<(String, String)> {
        self.cgroup().labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Has memory counted, or not.
    fn switch(&self, counts: bool) {
        match (self.is_v1, counts) {
            (true, true) => fs::create_dir(&self.memory).unwrap(),
            (true, false) => self.remove_memory(),
            (false, _) => {
                // The controller io needs it, and would keep it.
                let change = if counts { "+memory" } else { "-io -memory" };
                fs::write(self.memory.parent().unwrap().join("cgroup.subtree_control"), change).unwrap();
            }
        }
    }

    /// Takes a process out of what is about to go. In version 2 that has room for it without the controller.
    fn leave(&self, process: u32) {
        if self.is_v1 {
            fs::write(self.tree.join("cgroup.procs"), process.to_string()).unwrap();
        }
    }

    fn remove_memory(&self) {
        if self.is_v1 {
            remove_cgroup(&self.memory);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove_memory();
        drop(self.cgroup.take());
        if self.is_v1 {
            for above in self.memory.ancestors().skip(1).take_while(|above| *above != self.tree) {
                if fs::remove_dir(above).is_err() {
                    break;
                }
            }
        }
    }
}

/// Where memory counts, and whether that is a hierarchy of version 1.
fn memory_tree() -> Option<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    let of = |kind: &str, fits: &dyn Fn(&[&str]) -> bool| {
        mounts.iter().find(|words| words[2] == kind && fits(words)).map(|words| PathBuf::from(words[1]))
    };
    if let Some(v1) = of("cgroup", &|words| words[3].split(',').any(|option| option == "memory")) {
        return Some((v1, true));
    }
    let v2 = of("cgroup2", &|_| true)?;
    let has = fs::read_to_string(v2.join("cgroup.controllers")).unwrap().split_whitespace().any(|one| one == "memory");
    has.then_some((v2, false))
}

/// A process that does with memory what it is told, and rests otherwise.
struct MemoryWorker(HelperProcess);

impl MemoryWorker {
    fn start(group: &Group) -> Self {
        let worker = Self::outside();
        group.add(worker.0.id());
        worker
    }

    /// One that is in no group yet.
    fn outside() -> Self {
        Self(HelperProcess::start(&[], concat!(module_path!(), "::memory_worker"), ""))
    }

    /// Tells it to do something; false if that was its end.
    fn tell(&mut self, what: &str) -> bool {
        self.0.tell(what);
        self.0.answer().is_ok()
    }

    /// Minor faults of it so far, by its own account.
    fn faults(&mut self) -> u64 {
        self.0.ask("faults").parse().unwrap()
    }

    fn end(self) {
        self.0.end();
    }
}

#[test]
#[ignore = "no test, but the process that other tests start as a load"]
fn memory_worker() {
    if orders().is_none() {
        return;
    }
    let mut held: Vec<Vec<u8>> = Vec::new();
    follow(|command| {
        let mut words = command.split(' ');
        let (what, amount) = (words.next().unwrap(), words.next().unwrap_or_default());
        let bytes = || usize::try_from(amount.parse::<u64>().unwrap() * MB).unwrap();
        match what {
            "anon" => {
                let mut memory = vec![0_u8; bytes()];
                memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                held.push(memory);
            }
            "write" => {
                let mut file = fs::File::create(amount).unwrap();
                for _ in 0..words.next().unwrap().parse::<u64>().unwrap() {
                    file.write_all(&vec![7; usize::try_from(MB).unwrap()]).unwrap();
                }
                file.sync_all().unwrap();
            }
            "fault" => {
                let pages: usize = amount.parse().unwrap();
                let mut memory = vec![0_u8; pages * 4096];
                memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                std::hint::black_box(&memory);
            }
            "read" => {
                let mut file = fs::File::open(amount).unwrap().take(words.next().unwrap().parse::<u64>().unwrap() * MB);
                std::io::copy(&mut file, &mut std::io::sink()).unwrap();
            }
            "read-past-cache" => {
                let file = fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(amount).unwrap();
                let mut room = vec![0_u8; 2 * 4096];
                let page = room.as_ptr().align_offset(4096);
                for number in 0..words.next().unwrap().parse::<u64>().unwrap() {
                    file.read_exact_at(&mut room[page..page + 4096], number * 4096).unwrap();
                }
            }
            "lock" => {
                let memory = vec![1_u8; bytes()];
                lock_in_memory(&memory);
                held.push(memory);
            }
            "thread" => {
                thread::spawn(|| {
                    loop {
                        thread::park();
                    }
                });
            }
            "socket" => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let other = listener.accept().unwrap().0;
                one.set_nonblocking(true).unwrap();
                // Until both ends have as much as they take.
                while one.write(&[7; 4096]).is_ok() {}
                std::mem::forget((one, other));
            }
            "touch" => {
                let file = MappedFile::open(amount);
                (1..=words.next().unwrap().parse().unwrap())
                    .for_each(|step: usize| file.touch(step * 7 % file.pages()));
            }
            "faults" => return minor_faults().to_string(),
            other => panic!("no command is called {other:?}"),
        }
        "done".to_owned()
    })
}

/// A file on a disk, or in memory (tmpfs), that is not there yet and is removed with the value; none where there is no such place.
struct TestFile(PathBuf);

impl TestFile {
    fn on_disk(name: &str) -> Option<Self> {
        let temporary = env::temp_dir();
        let places = ["/var/tmp", temporary.to_str().unwrap()];
        Self::new(&places, name, |kind| ["ext4", "xfs", "btrfs"].contains(&kind))
    }

    fn in_memory(name: &str) -> Option<Self> {
        Self::new(&["/dev/shm", "/run", "/tmp"], name, |kind| kind == "tmpfs")
    }

    fn new(places: &[&str], name: &str, fits: impl Fn(&str) -> bool) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let is_there = |place: &Path| {
            let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let mount = mounts.filter(|words| place.starts_with(words[1])).max_by_key(|words| words[1].len());
            place.is_dir() && mount.is_some_and(|words| fits(words[2]))
        };
        let place = places.iter().map(Path::new).find(|place| is_there(place))?;
        Some(Self(place.join(format!("podlens-test-{}-{name}", std::process::id()))))
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Pages until one fulfils what is wanted.
#[track_caller]
fn page_with(agent: &Agent, what: &str, holds: impl Fn(&Page) -> Result<(), String>) -> Page {
    let began = Instant::now();
    loop {
        let page = agent.metrics();
        match holds(&page) {
            Ok(()) => return page,
            Err(refusal) => assert!(began.elapsed() < READ_AGAIN, "{what}: {refusal}"),
        }
        thread::sleep(Duration::from_millis(250));
    }
}

fn value(page: &Page, metric: &str, labels: &[(&str, &str)]) -> Option<u64> {
    page.one(metric, labels).map(Sample::count)
}

/// The walk works on this kernel, as the agent itself says.
fn walks(page: &Page) -> bool {
    page.count("podlens_collector_state", &[("collector", "memory"), ("state", "running")]) == Some(1)
}

macro_rules! group {
    ($group:expr) => {
        match $group {
            Some(group) => group,
            None => return skip("this machine has no memory controller"),
        }
    };
}

#[test]
fn each_value_is_that_of_the_kernels_files() {
    let group = group!(Group::container(0x11));
    let agent = start();
    let mut worker = MemoryWorker::start(&group);
    assert!(worker.tell("anon 24"));
    let (shared, file) = (TestFile::in_memory("parity"), TestFile::on_disk("parity"));
    for (file, megabytes) in [(&shared, 6), (&file, 12)] {
        if let Some(TestFile(file)) = file {
            assert!(worker.tell(&format!("write {} {megabytes}", file.display())));
        }
    }
    assert!(worker.tell("lock 3") && worker.tell("socket") && worker.tell("thread"));
    let page = page_with(&agent, "at rest", |page| group.agrees(page));
    let of = |kind| value(&page, MEMORY, &group.labels_and(&[("type", kind)])).unwrap_or(0);
    // Before 5.16 the file leaves out what each CPU has not handed on.
    let least = |megabytes| megabytes * MB - MB / 2;
    assert!(of("anon") >= least(24), "{}", of("anon"));
    assert!(shared.is_none() || of("shmem") >= least(6), "{}", of("shmem"));
    assert!(of("unevictable") >= least(3), "{}", of("unevictable"));
    // The kernel's own types, of which version 1 does not tell.
    for kind in ["socket", "slab_reclaimable", "slab_unreclaimable", "kernel_stack", "page_tables"] {
        let (found, is_told) = (of(kind), !group.is_v1);
        // Before 5.16 a kind of which there is little may lie with the CPUs as a whole.
        let may_be_none = kind == "slab_reclaimable" || kernel() < [5, 16];
        assert!((found > 0) == is_told || may_be_none, "{kind}: {found}");
    }
    let in_files = of("file_inactive") + of("file_active");
    // A kernel that reclaims what is not used (DAMON) may have taken some already.
    assert!(file.is_none() || in_files > 0);
    assert_eq!(page.one(LIMIT, &group.labels_and(&[])), None);
    assert!(worker.tell("anon 8"));
    page_with(&agent, "later", |page| group.agrees(page));
    worker.end();
}

#[test]
fn limits_are_those_that_are_set_and_absent_without() {
    let group = group!(Group::container(0x12));
    let agent = start();
    let told = |page: &Page| [LIMIT, HIGH].map(|metric| value(page, metric, &group.labels_and(&[])));
    let protected =
        |page: &Page| ["min", "low"].map(|kind| value(page, PROTECTION, &group.labels_and(&[("kind", kind)])));
    let check = |what: &str, limits: [Option<u64>; 2], protection: [Option<u64>; 2]| {
        page_with(&agent, what, |page| {
            let found = (told(page), protected(page));
            if found == (limits, protection) { Ok(()) } else { Err(format!("{found:?}")) }
        })
    };
    check("nothing is set", [None; 2], [None; 2]);
    group.set_limit(64 * MB);
    if group.is_v1 {
        check("a limit", [Some(64 * MB), None], [None; 2]);
        return;
    }
    group.write("memory.high", &(48 * MB).to_string());
    group.write("memory.min", &(8 * MB).to_string());
    group.write("memory.low", &(16 * MB).to_string());
    check("all of them", [Some(64 * MB), Some(48 * MB)], [Some(8 * MB), Some(16 * MB)]);
    for (file, text) in [("memory.max", "max"), ("memory.high", "max"), ("memory.min", "0"), ("memory.low", "0")] {
        group.write(file, text);
    }
    check("nothing again", [None; 2], [None; 2]);
}

#[test]
fn what_happens_at_a_limit_is_counted_as_the_kernel_counts_it() {
    let group = group!(Group::container(0x13));
    group.set_limit(24 * MB);
    let agent = start();
    for kills in 1..=2 {
        let mut worker = MemoryWorker::start(&group);
        assert!(!worker.tell("anon 200"), "it is killed");
        worker.0.wait();
        assert_eq!(group.event("oom_kill"), Some(kills));
    }
    let page = page_with(&agent, "after two kills", |page| {
        let found = value(page, EVENTS, &group.labels_and(&[("event", "oom_kill")]));
        if found == Some(2) || found.is_none() && !walks(page) { group.agrees(page) } else { Err(format!("{found:?}")) }
    });
    if walks(&page) {
        let of = |event| value(&page, EVENTS, &group.labels_and(&[("event", event)])).unwrap();
        assert!(of("oom") >= 2 && of("max") >= 2, "{} and {}", of("oom"), of("max"));
    }
}

#[test]
fn every_kind_of_event_is_counted_as_the_kernel_counts_it() {
    let uid = pod_uid(0x43);
    let group = group!(Group::in_pod(&uid, 0x43));
    if group.is_v1 {
        return skip("version 1 tells of one event alone, and of no refaults");
    }
    let pod = Group::of(TestCgroup::at(format!("/kubepods/burstable/pod{uid}"), Vec::new(), Trees::All)).unwrap();
    let Some(sources) = Sources::find() else { return };
    let agent = start();
    let read = format!("read {} 16", sources.pages.display());
    // By the pod's limit, and though the container was to be spared; what was read comes back soon.
    pod.set_limit(8 * MB);
    group.write("memory.low", &(64 * MB).to_string());
    let mut worker = MemoryWorker::start(&group);
    assert!(worker.tell(&read) && worker.tell(&read));
    pod.write("memory.max", "max");
    group.write("memory.low", "0");
    // Slowed down.
    group.write("memory.high", &(6 * MB).to_string());
    assert!(worker.tell(&read));
    group.write("memory.high", "max");
    // By its own limit, and killed with all others in it.
    group.set_limit(8 * MB);
    assert!(worker.tell(&read));
    group.write("memory.oom.group", "1");
    assert!(!worker.tell("anon 64"), "it is killed");
    worker.0.wait();
    let page = page_with(&agent, "after all of it", |page| {
        let found = value(page, EVENTS, &group.labels_and(&[("event", "oom_kill")]));
        if found.is_some_and(|kills| kills > 0) || !walks(page) {
            group.agrees(page)
        } else {
            Err(format!("{found:?}"))
        }
    });
    for event in ["low", "high", "max", "oom", "oom_kill", "oom_group_kill"] {
        let (told, file) = (value(&page, EVENTS, &group.labels_and(&[("event", event)])), group.event(event));
        println!("{event}: {told:?}, the file {file:?}");
        assert!(file.is_none_or(|count| count > 0), "{event}: the test has caused it");
    }
    // Which of the pages that come back count is the kernel's choice.
    println!("refaults: {:?}", value(&page, REFAULTS, &group.labels_and(&[("type", "file")])));
    drop(group);
}

#[test]
fn what_lies_below_a_container_is_the_containers() {
    let outer = group!(Group::container(0x14));
    // One that is removed takes along what is empty above it.
    let _keeper = outer.below("keeper");
    let inner = outer.below("inner");
    let agent = start();
    let mut worker = MemoryWorker::start(&inner);
    assert!(worker.tell("anon 16"));
    let file = TestFile::on_disk("below");
    if let Some(TestFile(file)) = &file {
        assert!(worker.tell(&format!("write {} 8", file.display())));
    }
    let page = page_with(&agent, "the outer one", |page| outer.agrees(page));
    let of = |kind| value(&page, MEMORY, &outer.labels_and(&[("type", kind)])).unwrap_or(0);
    assert!(of("anon") >= 15 * MB, "{}", of("anon"));
    assert!(file.is_none() || of("file_inactive") + of("file_active") > 0);
    worker.end();
    // What its files have left behind stays the outer one's.
    drop(inner);
    page_with(&agent, "the inner one is gone", |page| outer.agrees(page));
}

#[test]
fn a_pods_own_cgroup_has_its_limit_and_what_no_living_container_of_it_has() {
    let uid = pod_uid(0x15);
    let group = group!(Group::in_pod(&uid, 0x15));
    let labels = vec![("pod".to_owned(), uid.clone()), ("container".to_owned(), String::new())];
    let pod = Group::of(TestCgroup::at(format!("/kubepods/burstable/pod{uid}"), labels, Trees::All)).unwrap();
    pod.set_limit(96 * MB);
    let agent = start();
    let mut worker = MemoryWorker::start(&group);
    assert!(worker.tell("anon 8"));
    let page = page_with(&agent, "the pod's limit", |page| {
        let found = [&pod, &group].map(|one| value(page, LIMIT, &one.labels_and(&[])));
        if found == [Some(96 * MB), None] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    page_with(&agent, "its container", |page| group.agrees(page));
    for metric in [PEAK, FAULTS] {
        assert_eq!(page.one(metric, &pod.labels_and(&[])), None, "{metric}");
    }
    if !walks(&page) {
        assert_eq!(page.one(USAGE, &pod.labels_and(&[])), None);
        return skip("files do not tell what a pod has beside its containers");
    }
    // A container leaves a file in memory behind, which counts against the pod's limit.
    let Some(file) = TestFile::in_memory("left") else { return skip("there is no file system in memory") };
    let gone = Group::in_pod(&uid, 0x16).unwrap();
    let mut writer = MemoryWorker::start(&gone);
    assert!(writer.tell(&format!("write {} 16", file.0.display())));
    writer.end();
    drop(gone);
    page_with(&agent, "what it left", |page| {
        let left = value(page, USAGE, &pod.labels_and(&[]));
        let of_all: u64 = page.all(USAGE, &[("pod", &uid)]).into_iter().map(Sample::count).sum();
        let expected = pod.number("memory.usage_in_bytes", "memory.current");
        let has_it = left.is_some_and(|bytes| bytes >= 16 * MB) && of_all == expected;
        if has_it { Ok(()) } else { Err(format!("{left:?}, all {of_all}, the file {expected}")) }
    });
    drop(worker);
    drop(group);
}

/// Idle containers with different counts, by which podlens learns what the kernel's words mean.
fn teachers() -> Vec<(MemoryWorker, Group)> {
    (1..=5_u32)
        .map(|number| {
            let group = Group::container(0x20 + number).unwrap();
            let mut worker = MemoryWorker::start(&group);
            assert!(worker.tell(&format!("fault {}", 700 * number + number * number)));
            (worker, group)
        })
        .collect()
}

#[test]
fn a_container_of_a_moment_is_counted_to_its_end() {
    let first = group!(Group::container(0x16));
    let agent = start();
    let teachers = teachers();
    // Until the kernel's words are known, and after: the words that are known are in the last words.
    let page = page_with(&agent, "the teachers", |page| teachers.iter().try_for_each(|(_, group)| group.agrees(page)));
    let walks = walks(&page);
    drop(first);
    for number in 0..4 {
        let memory_last = number % 2 == 1;
        let group = Group::container(0x17 + number).unwrap();
        group.set_limit(16 * MB);
        let mut worker = MemoryWorker::start(&group);
        assert!(worker.tell("fault 3000"));
        assert!(!worker.tell("anon 100"), "it is killed");
        worker.0.wait();
        let labels = group.labels();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let kernel = group.event("oom_kill").unwrap();
        let peak = group.peak();
        // A flush by the kernel every 2 s: what this says can be less than there is, but not by the CPUs' own parts at the end.
        let faults = wait_for_faults(&group);
        let of_memory = group.memory.clone();
        let mut group = group;
        if memory_last {
            drop(group.cgroup.take());
            assert!(!group.is_v1 || of_memory.exists());
        }
        drop(group);
        assert!(!of_memory.exists());
        for look in ["at once", "later"] {
            let page = agent.metrics();
            if walks {
                let told = value(&page, EVENTS, &[labels.as_slice(), &[("event", "oom_kill")]].concat());
                assert_eq!(told, Some(kernel), "{look}, memory last: {memory_last}");
                let minor = value(&page, FAULTS, &[labels.as_slice(), &[("type", "minor")]].concat());
                assert_eq!(minor, Some(faults), "{look}, memory last: {memory_last}");
                let told = value(&page, PEAK, &labels);
                assert!(peak.is_none_or(|peak| told == Some(peak)), "{look}: {told:?}, the file {peak:?}");
            }
            assert_eq!(page.one(USAGE, &labels), None, "{look}: what is gone uses nothing");
            assert_eq!(page.one(LIMIT, &labels), None, "{look}: what is gone has no limit");
            if look == "at once" {
                thread::sleep(Duration::from_millis(2500));
            }
        }
    }
}

/// What pages can be read from: without any request to a disk, or with all of them counted by the kernel; and where a request is
/// one.
struct Sources {
    pages: PathBuf,
    requests: PathBuf,
    files: Option<[ColdFile; 2]>,
    _disk: Option<NullDisk>,
}

impl Sources {
    fn find() -> Option<Self> {
        if let Some(disk) = NullDisk::make("nullb1", &[("size", "64"), ("memory_backed", "1")]) {
            // Each request is one that somebody has made, as io.stat counts them.
            let path = disk.path();
            let name = path.file_name().unwrap().display();
            fs::write(format!("/sys/block/{name}/queue/nomerges"), "2").unwrap();
            return Some(Self { pages: path.clone(), requests: path, files: None, _disk: Some(disk) });
        }
        let files = [ColdFile::hole(18)?, ColdFile::new(1)?];
        let [pages, requests] = files.each_ref().map(|file| PathBuf::from(file.path()));
        Some(Self { pages, requests, files: Some(files), _disk: None })
    }

    /// Takes out of memory what was read.
    fn cool(&self) {
        match &self.files {
            Some(files) => files[1].cool(),
            None => fs::write("/proc/sys/vm/drop_caches", "1").unwrap(),
        }
    }
}

#[test]
fn containers_of_a_twentieth_of_a_second_have_all_their_faults_bytes_and_stalls() {
    const FAULTED: u64 = 800;
    const REQUESTS: u64 = 20;
    let first = group!(Group::container(0x30));
    let Some(sources) = Sources::find() else { return };
    let agent = start();
    let mut teachers = teachers();
    // Each with another number of major faults, whether the kernel forgets the pages in between or not.
    for ((worker, _), pages) in teachers.iter_mut().zip([5, 14, 25, 41, 60]) {
        assert!(worker.tell(&format!("touch {} {pages}", sources.requests.display())));
        sources.cool();
    }
    let page = page_with(&agent, "the teachers", |page| teachers.iter().try_for_each(|(_, group)| group.agrees(page)));
    let walks = walks(&page);
    // Until a walk has compared what all of their files say.
    thread::sleep(if walks { Duration::from_secs(25) } else { Duration::ZERO });
    agent.metrics();
    drop(first);
    let (mut lives, mut all_stalls) = (Vec::new(), 0);
    for number in 0..13 {
        let mut worker = MemoryWorker::outside();
        let began = Instant::now();
        let group = Group::container(0x31 + number).unwrap();
        group.set_limit(6 * MB);
        group.add(worker.0.id());
        let faults_before = worker.faults();
        assert!(worker.tell(&format!("fault {FAULTED}")));
        assert!(worker.tell(&format!("read-past-cache {} {REQUESTS}", sources.requests.display())));
        assert!(worker.tell(&format!("read {} 16", sources.pages.display())));
        let faults = worker.faults() - faults_before;
        worker.end();
        let labels = group.labels();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (reclaims, requests) = (group.event("max"), BlockCounts::of_io_stat(group.cgroup()));
        drop(group);
        lives.push(began.elapsed());
        let page = agent.metrics();
        let of = |metric, own: &[(&str, &str)]| value(&page, metric, &[labels.as_slice(), own].concat()).unwrap_or(0);
        let (read, bytes) = (of(OPERATIONS, &[("operation", "read")]), of(BYTES_OF_DISKS, &[("operation", "read")]));
        let stalls = of("podlens_memory_stall_seconds_count", &[("reason", "memcg_reclaim")]);
        let (told_faults, told_max) = (of(FAULTS, &[("type", "minor")]), of(EVENTS, &[("event", "max")]));
        println!(
            "{:?}: {told_faults} faults of {faults}, {stalls} stalls, {told_max} of {reclaims:?} at the limit, {read} requests of {requests:?}",
            lives.last()
        );
        match requests {
            Some(kernel) => assert_eq!((read, bytes), (kernel.operations[0], kernel.bytes[0]), "container {number}"),
            // The first one's process reads its own program again, where the kernel has forgotten it meanwhile.
            None if number == 0 => {}
            // Some virtual machines do not tell of all. What is read through the page cache makes requests as well, unless it is a hole.
            None => {
                let is_alone = sources.files.is_some();
                let holds = if is_alone { read <= REQUESTS && bytes == read * 4096 } else { bytes > read * 4096 };
                assert!(read + unseen_requests(&page) >= REQUESTS && holds, "{read}, {bytes}");
            }
        }
        if walks {
            // Those between its coming and its first word, and of its end, are in none of its own accounts.
            assert!((faults..faults + 200).contains(&told_faults) && faults > 100, "container {number}");
            assert!(reclaims.is_none_or(|reclaims| reclaims == told_max), "container {number}");
        }
        let reclaims = if walks { told_max } else { reclaims.unwrap_or(stalls) };
        assert_eq!(stalls, reclaims, "container {number}");
        all_stalls += stalls;
    }
    // How far a batch of charged pages reaches is the kernel's, so not each of them comes to its limit.
    assert!(all_stalls > 0);
    lives.sort();
    println!("they lived {lives:?}");
    if lives[0] > Duration::from_millis(100) {
        skip(
            "this machine is too slow or too busy for a container of a twentieth of a second: those that were lived longer",
        );
    }
}

#[test]
fn a_memory_controller_that_comes_later_and_goes_again_is_told_while_it_is_there() {
    let group = group!(Group::container(0x41));
    let _sibling = Group::container(0x42);
    group.switch(false);
    let agent = start();
    let gauges = [USAGE, WORKING_SET, PEAK, LIMIT];
    let is_told = |page: &Page| {
        let all = gauges.iter().map(|metric| page.one(metric, &group.labels_and(&[])).is_some());
        all.chain([!page.all(MEMORY, &group.labels_and(&[])).is_empty()]).any(|is_there| is_there)
    };
    let is_absent = |page: &Page| if is_told(page) { Err("it is told".to_owned()) } else { Ok(()) };
    // As long as a walk takes to come again.
    for _ in 0..12 {
        assert_eq!(is_absent(&agent.metrics()), Ok(()), "there is no controller");
        thread::sleep(Duration::from_secs(1));
    }
    group.switch(true);
    let kill = || {
        group.set_limit(64 * MB);
        let mut victim = MemoryWorker::start(&group);
        assert!(!victim.tell("anon 96"), "it is killed");
        victim.0.wait();
    };
    let has_kills = |page: &Page, expected| {
        let found = value(page, EVENTS, &group.labels_and(&[("event", "oom_kill")]));
        if found == Some(expected) { Ok(()) } else { Err(format!("{found:?} kills")) }
    };
    let mut worker = MemoryWorker::start(&group);
    assert!(worker.tell("anon 8"));
    kill();
    kill();
    page_with(&agent, "once it is there", |page| has_kills(page, 2).and_then(|()| group.agrees(page)));
    group.leave(worker.0.id());
    group.switch(false);
    page_with(&agent, "once it is gone", is_absent);
    group.switch(true);
    group.add(worker.0.id());
    kill();
    // The kernel counts from 0 again, and podlens goes on.
    page_with(&agent, "the third kill", |page| has_kills(page, 3));
    assert!(worker.tell("anon 4"));
    page_with(&agent, "there again", |page| {
        let expected = Some(group.number("memory.usage_in_bytes", "memory.current"));
        let found = value(page, USAGE, &group.labels_and(&[]));
        if found == expected { Ok(()) } else { Err(format!("{found:?}, the file {expected:?}")) }
    });
    let log = agent.log();
    assert!(!log.contains("ERROR"), "{log}");
    worker.end();
}

/// Minor faults once the file has come to rest.
fn wait_for_faults(group: &Group) -> u64 {
    let read = || group.line("pgfault", "pgfault").unwrap() - group.line("pgmajfault", "pgmajfault").unwrap();
    let mut last = read();
    loop {
        thread::sleep(Duration::from_millis(2500));
        let now = read();
        if now == last {
            return now;
        }
        last = now;
    }
}

/// A device to which pages go. Goes with the value, when nobody has pages there.
struct Swap(NullDisk);

impl Swap {
    fn start() -> Option<Self> {
        let disk = NullDisk::make("nullb1", &[("size", "256"), ("memory_backed", "1")])?;
        run(Command::new("mkswap").arg(disk.path()).stdout(Stdio::null()));
        run(Command::new("swapon").arg(disk.path()));
        Some(Self(disk))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        run(Command::new("swapoff").arg(self.0.path()));
    }
}

#[test]
fn what_is_in_swap_and_compressed_is_told_as_the_kernels_files_tell_it() {
    if !memory_is_own() {
        return skip("swap would be that of all who use this machine");
    }
    let Some(_swap) = Swap::start() else { return skip("there is no module null_blk for a device to swap to") };
    let [plain, compressed] =
        [0x1b, 0x1c].map(|number| Group::container(number).expect("there is a memory controller"));
    let agent = start();
    let mut workers = Vec::new();
    let switch = Path::new("/sys/module/zswap/parameters/enabled");
    for (group, zswap) in [(&plain, "N"), (&compressed, "Y")] {
        let is_switched = fs::write(switch, zswap).is_ok();
        println!("zswap {zswap}: {is_switched}");
        group.set_limit(16 * MB);
        let mut worker = MemoryWorker::start(group);
        assert!(worker.tell("anon 40"), "there is room in swap");
        workers.push(worker);
    }
    let _ = fs::write(switch, "N");
    let page = page_with(&agent, "what is in swap", |page| {
        plain.agrees(page)?;
        compressed.agrees(page)
    });
    let of = |group: &Group, kind| value(&page, MEMORY, &group.labels_and(&[("type", kind)])).unwrap_or(0);
    for group in [&plain, &compressed] {
        assert!(of(group, "swap") > 16 * MB, "{} in swap", of(group, "swap"));
    }
    // At its limit the one may have had to give a page while the switch was for the other.
    assert!(of(&plain, "zswap") * 10 <= of(&compressed, "zswap"), "{} compressed", of(&plain, "zswap"));
    println!("{} compressed, the file has {:?}", of(&compressed, "zswap"), compressed.line("-", "zswap"));
    drop(workers);
}

#[test]
fn a_thousand_containers_that_come_and_go_leave_nothing_behind() {
    let kept = group!(Group::container(0x18));
    let agent = start();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap().count();
    let warnings = || agent.log().lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).count();
    page_with(&agent, "the one that stays", |page| kept.agrees(page));
    let before = descriptors();
    // A kernel that lacks something is told of once, at the start.
    let at_start = warnings();
    let began = Instant::now();
    for number in 0..1000 {
        let group = Group::container(0x1_0000 + number).unwrap();
        if number % 50 == 0 {
            agent.metrics();
        }
        drop(group);
    }
    println!("1,000 containers in {:?}", began.elapsed());
    let page = page_with(&agent, "the one that stays", |page| kept.agrees(page));
    for reason in ["walk_unfinished", "late_file"] {
        let lost = page.count("podlens_lost_total", &[("collector", "memory"), ("reason", reason)]);
        assert_eq!(lost.unwrap_or(0), 0, "{reason}");
    }
    let is_own = |sample: &&Sample| sample.label("pod").starts_with(&pod_uid(0)[..8]);
    let living = page.all(USAGE, &[]).into_iter().filter(is_own);
    let living = living.filter(|sample| sample.label("container").starts_with("00000001")).count();
    assert_eq!(living, 0, "no value of one that is gone");
    common::wait_until("descriptors", PATIENCE, || {
        let now = descriptors();
        if now <= before + 8 { Ok(()) } else { Err(format!("{now} descriptors, {before} before")) }
    });
    assert!(warnings() < at_start + 5, "{}", agent.log());
    assert_eq!(container_id(0x1_0000).get(..8), Some("00000001"));
}

#[test]
fn no_run_of_the_walk_holds_a_cpu_for_long() {
    let groups: Vec<Group> = (0..600).filter_map(|number| Group::container(0x2_0000 + number)).collect();
    if groups.is_empty() {
        return skip("this machine has no memory controller");
    }
    assert_runs_are_short("memory_walk", || {
        let agent = start();
        if !walks(&agent.metrics()) {
            skip(&format!("the collector memory is degraded: {}", agent.lack("memory")));
            return None;
        }
        page_with(&agent, "all of them", |page| {
            let found = page.all(USAGE, &[]).len();
            if found >= groups.len() { Ok(()) } else { Err(format!("{found} of {}", groups.len())) }
        });
        Some((agent, 5))
    });
}
