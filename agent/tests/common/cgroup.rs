//! Cgroups of the test's own, in each tree that counts something of them on this machine: the version 2 tree, and the version
//! 1 hierarchies of the controllers cpu, cpuacct and blkio. Removed with the value.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::machine_is_slow;

/// How long a cgroup's last task may take to leave it.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// In which of the machine's trees a cgroup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trees {
    /// In all, as container runtimes do.
    All,
    /// In the version 2 tree alone where there is one beside version 1, otherwise in all: takes real-time tasks as it
    /// is, which a version 1 CPU hierarchy does only in kernels without real-time budgets of groups.
    ForRealTime,
    /// In the version 1 hierarchies alone, as a container runtime that knows no other.
    Version1,
}

/// Where this machine mounts its trees.
#[derive(Clone, Debug, Default)]
struct Mounts {
    v2: Option<PathBuf>,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    blkio: Option<PathBuf>,
    /// Used only where a test asks for it: version 1 keeps what a cgroup's tasks have touched for long after its removal.
    memory: Option<PathBuf>,
    with_memory: bool,
}

/// A cgroup.
#[derive(Debug)]
pub struct TestCgroup {
    path: String,
    labels: Vec<(String, String)>,
    mounts: Mounts,
}

/// What a cgroup's quota has done to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Periods in which it had something to run.
    pub periods: u64,
    /// Those in which it was stopped.
    pub stopped_periods: u64,
    /// For how long it was stopped, summed over CPUs.
    pub stopped_ns: u64,
}

/// A pod's uid that no other process' test has.
pub fn pod_uid(number: u32) -> String {
    format!("{:08x}-0000-4000-8000-{number:012x}", std::process::id())
}

/// A container's id; its first 12 digits, which podlens shows, tell `number`.
pub fn container_id(number: u32) -> String {
    format!("{number:012x}{:052x}", std::process::id())
}

impl TestCgroup {
    /// A plain cgroup; podlens names it as a unit by its path.
    pub fn new(name: &str) -> Self {
        let path = format!("/podlens-test-{}/{name}", std::process::id());
        let labels = vec![("unit".to_owned(), path.clone())];
        Self::at(path, labels, Trees::All)
    }

    /// A container of a pod, where the kubelet's cgroupfs driver would put it.
    pub fn container(pod_uid: &str, number: u32) -> Self {
        Self::container_in(pod_uid, number, Trees::All)
    }

    /// The same in chosen trees.
    pub fn container_in(pod_uid: &str, number: u32, trees: Trees) -> Self {
        let id = container_id(number);
        let path = format!("/kubepods/burstable/pod{pod_uid}/{id}");
        let short = id.get(..12).unwrap_or(&id).to_owned();
        let labels = vec![("pod".to_owned(), pod_uid.to_owned()), ("container".to_owned(), short)];
        Self::at(path, labels, trees)
    }

    /// A container of a pod of its own, numbered by itself.
    pub fn any_container() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // Far from the numbers that tests choose.
        let number = 0x7000_0000 + NEXT.fetch_add(1, Ordering::Relaxed);
        Self::container(&pod_uid(number), number)
    }

    /// A cgroup at any path, with the labels that podlens is expected to give it.
    pub fn at(path: String, labels: Vec<(String, String)>, trees: Trees) -> Self {
        let found = Mounts::find();
        let pure_v2 = found.cpu.is_none();
        let mounts = match trees {
            Trees::ForRealTime if found.v2.is_some() => Mounts { v2: found.v2, ..Mounts::default() },
            Trees::Version1 => Mounts { v2: None, ..found },
            Trees::All | Trees::ForRealTime => found,
        };
        let cgroup = Self { path, labels, mounts };
        for tree in cgroup.trees() {
            make(tree, &cgroup.path, pure_v2);
        }
        cgroup
    }

    /// The same in the memory controller's version 1 hierarchy as well; version 2 has memory in its one tree.
    pub fn with_memory(mut self) -> Self {
        self.mounts.with_memory = true;
        if let Some(memory) = &self.mounts.memory {
            make(memory, &self.path, false);
        }
        self
    }

    /// Path within each tree.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The labels that tell its series from all others.
    pub fn labels(&self) -> Vec<(&str, &str)> {
        self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// The same and more.
    pub fn labels_and<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [self.labels().as_slice(), more].concat()
    }

    /// Its directory in each tree.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.trees().into_iter().map(|tree| below(tree, &self.path)).collect()
    }

    /// Moves a process into it.
    pub fn add(&self, process: u32) {
        for directory in self.directories() {
            write(&directory.join("cgroup.procs"), &process.to_string());
        }
    }

    /// Limits its CPU time to `quota_us` in each `period_us`.
    pub fn set_quota(&self, quota_us: u64, period_us: u64) {
        match &self.mounts.cpu {
            Some(cpu) => {
                let directory = below(cpu, &self.path);
                write(&directory.join("cpu.cfs_period_us"), &period_us.to_string());
                write(&directory.join("cpu.cfs_quota_us"), &quota_us.to_string());
            }
            None => write(&self.v2().join("cpu.max"), &format!("{quota_us} {period_us}")),
        }
    }

    /// Its weight against its siblings, 1024 being the usual one.
    pub fn set_shares(&self, shares: u64) {
        self.set_shares_at(&self.path, shares);
    }

    /// The weight of the directory above, which is the pod's where this is a container.
    pub fn set_shares_above(&self, shares: u64) {
        let (above, _) = self.path.rsplit_once('/').expect("a path has a slash");
        self.set_shares_at(above, shares);
    }

    fn set_shares_at(&self, path: &str, shares: u64) {
        if let Some(cpu) = &self.mounts.cpu {
            write(&below(cpu, path).join("cpu.shares"), &shares.to_string());
        } else {
            let v2 = self.mounts.v2.as_ref().expect("a machine without version 1 has version 2");
            write(&below(v2, path).join("cpu.weight"), &(shares * 100 / 1024).max(1).to_string());
        }
    }

    /// Whether this machine has a version 2 tree beside a version 1 CPU hierarchy.
    pub fn machine_is_hybrid() -> bool {
        let found = Mounts::find();
        found.v2.is_some() && found.cpu.is_some()
    }

    /// Whether it is in a version 2 tree.
    pub fn is_in_version_2(&self) -> bool {
        self.mounts.v2.is_some()
    }

    /// CPU time of its tasks, as the kernel counts it.
    pub fn cpu_usage_ns(&self) -> u64 {
        match &self.mounts.cpuacct {
            Some(cpuacct) => {
                let text = read(&below(cpuacct, &self.path).join("cpuacct.usage"));
                text.trim().parse().unwrap_or_else(|error| panic!("cpuacct.usage is {text:?}: {error}"))
            }
            None => number(&read(&self.v2().join("cpu.stat")), "usage_usec") * 1000,
        }
    }

    /// The same once all its tasks have ended. A parent hears of an end before the kernel is done with the task, and
    /// what it still does for it, perhaps after others had their turn, is the cgroup's; so this reads until the figure
    /// has come to rest.
    pub fn final_cpu_usage_ns(&self) -> u64 {
        let pause = Duration::from_millis(if machine_is_slow() { 100 } else { 10 });
        let mut usage_ns = self.cpu_usage_ns();
        loop {
            thread::sleep(pause);
            let later_ns = self.cpu_usage_ns();
            if later_ns == usage_ns {
                return usage_ns;
            }
            println!("{}: {} ns after its last task's end was told", self.path, later_ns - usage_ns);
            usage_ns = later_ns;
        }
    }

    /// What its quota did, as the kernel counts it.
    pub fn throttled(&self) -> Throttled {
        let (text, ns_a_unit, key) = match &self.mounts.cpu {
            Some(cpu) => (read(&below(cpu, &self.path).join("cpu.stat")), 1, "throttled_time"),
            None => (read(&self.v2().join("cpu.stat")), 1000, "throttled_usec"),
        };
        Throttled {
            periods: number(&text, "nr_periods"),
            stopped_periods: number(&text, "nr_throttled"),
            stopped_ns: number(&text, key) * ns_a_unit,
        }
    }

    /// Removes it now; it must be empty.
    pub fn remove(self) {
        drop(self);
    }

    fn v2(&self) -> PathBuf {
        below(self.mounts.v2.as_ref().expect("a machine without version 1 has version 2"), &self.path)
    }

    fn trees(&self) -> Vec<&Path> {
        let Mounts { v2, cpu, cpuacct, blkio, memory, with_memory } = &self.mounts;
        let memory = memory.as_ref().filter(|_| *with_memory);
        let mut trees: Vec<&Path> = [v2.as_ref(), cpu.as_ref(), cpuacct.as_ref(), blkio.as_ref(), memory]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect();
        trees.dedup();
        trees
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        for directory in self.directories() {
            remove_cgroup(&directory);
        }
        for tree in self.trees() {
            // Up to the first that is not empty, be it another test's or the machine's own.
            for ancestor in below(tree, &self.path).ancestors().skip(1).take_while(|ancestor| *ancestor != tree) {
                if fs::remove_dir(ancestor).is_err() {
                    break;
                }
            }
        }
    }
}

/// Removes a cgroup as soon as nothing is in it. One that stays is told: a later test may find it.
pub fn remove_cgroup(directory: &Path) {
    let start = Instant::now();
    while let Err(error) = fs::remove_dir(directory) {
        if error.kind() == io::ErrorKind::NotFound {
            // One below it took it along.
            return;
        }
        if error.kind() != io::ErrorKind::ResourceBusy || start.elapsed() > EMPTY_WITHIN {
            // Not by `eprintln!`, which nobody sees where the test passes.
            let in_it = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            let in_it: Vec<&str> = in_it.lines().collect();
            let _ = writeln!(io::stderr(), "{} stays behind: {error}, {in_it:?} in it", directory.display());
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

impl Mounts {
    fn find() -> Self {
        let mut found = Self::default();
        for line in read(Path::new("/proc/self/mounts")).lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [_, place, kind, options, ..] = words.as_slice() else { continue };
            let has = |option: &str| options.split(',').any(|one| one == option);
            let place = PathBuf::from(place);
            match *kind {
                "cgroup2" => found.v2 = found.v2.or(Some(place)),
                "cgroup" => {
                    if has("cpu") {
                        found.cpu = found.cpu.or_else(|| Some(place.clone()));
                    }
                    if has("cpuacct") {
                        found.cpuacct = found.cpuacct.or_else(|| Some(place.clone()));
                    }
                    if has("blkio") {
                        found.blkio = found.blkio.or_else(|| Some(place.clone()));
                    }
                    if has("memory") {
                        found.memory = found.memory.or(Some(place));
                    }
                }
                _ => {}
            }
        }
        assert!(found.v2.is_some() || found.cpu.is_some(), "this machine mounts no cgroup tree");
        found
    }
}

/// Makes the directory and those above it, which another test may be removing at this moment.
fn make(tree: &Path, path: &str, with_controllers: bool) {
    let directory = below(tree, path);
    let start = Instant::now();
    while let Err(error) = fs::create_dir_all(&directory) {
        assert!(start.elapsed() < EMPTY_WITHIN, "cannot make {}: {error}: tests need root", directory.display());
        thread::sleep(Duration::from_millis(1));
    }
    if with_controllers {
        let mut above: Vec<&Path> = directory.ancestors().skip(1).take_while(|one| one.starts_with(tree)).collect();
        above.reverse();
        for ancestor in above {
            // Below one that holds tasks, as below a container, there are no controllers.
            if ancestor != tree && !read(&ancestor.join("cgroup.procs")).is_empty() {
                break;
            }
            // Refused where the machine's manager has not given the controller; then no quota can be set. The io controller
            // knows who has written a page only where there is the memory controller as well.
            for controller in ["+cpu", "+memory", "+io"] {
                let _ = fs::write(ancestor.join("cgroup.subtree_control"), controller);
            }
        }
    }
}

fn below(tree: &Path, path: &str) -> PathBuf {
    tree.join(path.trim_start_matches('/'))
}

/// The number behind `key` in a file of lines `key number`; 0 where the kernel does not have it.
fn number(text: &str, key: &str) -> u64 {
    let of_line = |line: &str| line.strip_prefix(key)?.trim().parse().ok();
    text.lines().find_map(of_line).unwrap_or(0)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {text:?} to {}: {error}", path.display()));
}
