//! Processes that take memory until somebody has none left, and cgroups with a limit of their own for them.
//!
//! A hog is a [`HelperProcess`] at the one "test" in this file. It takes memory when it is told to and keeps it.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    PATIENCE, TestCgroup,
    helper_process::{HelperProcess, follow, orders},
    wait_until,
};

/// What a hog is told where it is to take memory of that node alone.
const BIND: &str = "bind to node ";
const PAGE_BYTES: usize = 4096;

/// A cgroup, in the memory controller's tree as well.
#[derive(Debug)]
pub struct MemoryCgroup {
    // Before `cgroup`, so that it is removed first where it is a directory of its own.
    directory: Directory,
    cgroup: TestCgroup,
    is_v1: bool,
}

/// A directory that goes with the value.
#[derive(Debug)]
struct Directory {
    root: PathBuf,
    path: PathBuf,
    is_own: bool,
}

impl MemoryCgroup {
    /// Gives a cgroup its place there; none where this machine does not count memory by cgroup.
    pub fn of(cgroup: TestCgroup) -> Option<Self> {
        let (root, is_v1) = tree()?;
        let path = root.join(cgroup.path().trim_start_matches('/'));
        if is_v1 {
            fs::create_dir_all(&path).expect("tests run as root");
        } else {
            let mut above: Vec<&Path> = path.ancestors().skip(1).take_while(|one| one.starts_with(&root)).collect();
            above.reverse();
            for directory in above {
                fs::write(directory.join("cgroup.subtree_control"), "+memory").expect("it holds no task");
            }
        }
        Some(Self { directory: Directory { root, path, is_own: is_v1 }, cgroup, is_v1 })
    }

    /// A container of a pod.
    pub fn container(pod_uid: &str, number: u32) -> Option<Self> {
        Self::of(TestCgroup::container(pod_uid, number))
    }

    /// A cgroup inside it.
    pub fn child(&self, name: &str) -> Self {
        let labels = self.labels().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let path = format!("{}/{name}", self.cgroup.path());
        Self::of(TestCgroup::at(path, labels, super::Trees::All)).expect("its parent is there")
    }

    /// The labels that tell its series from all others.
    pub fn labels(&self) -> Vec<(&str, &str)> {
        self.cgroup.labels()
    }

    /// The same and more.
    pub fn labels_and<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        self.cgroup.labels_and(more)
    }

    /// Limits the memory of all in it.
    pub fn limit(&self, bytes: u64) {
        self.limit_at(&self.directory.path, bytes);
    }

    /// Limits the memory of all in the cgroup above, which is the pod's where this is a container.
    pub fn limit_above(&self, bytes: u64) {
        self.limit_at(self.directory.path.parent().expect("it is below a root"), bytes);
    }

    /// The kernel kills all processes in it at once, where one has to be killed; false where it cannot.
    pub fn kill_together(&self) -> bool {
        fs::write(self.directory.path.join("memory.oom.group"), "1").is_ok()
    }

    /// Processes in it, but not below it, that the kernel has killed for want of memory, as it counts them.
    pub fn kills(&self) -> u64 {
        let name = if self.is_v1 { "memory.oom_control" } else { "memory.events.local" };
        self.number(name, "oom_kill").expect("the kernel counts kills")
    }

    /// How often the kernel has killed all in it at once; none where it does not count that.
    pub fn group_kills(&self) -> Option<u64> {
        self.number("memory.events.local", "oom_group_kill")
    }

    /// Lets its processes have memory of these nodes alone, where it is in a version 2 tree with the controller for that; gives
    /// whether it is.
    pub fn confine(&self, nodes: &str) -> bool {
        let Directory { root, path, .. } = &self.directory;
        let mut above: Vec<&Path> = path.ancestors().skip(1).take_while(|one| one.starts_with(root)).collect();
        above.reverse();
        above.into_iter().all(|one| fs::write(one.join("cgroup.subtree_control"), "+cpuset").is_ok())
            && fs::write(path.join("cpuset.mems"), nodes).is_ok()
    }

    /// Moves a process into it.
    pub fn add(&self, process: u32) {
        self.cgroup.add(process);
        fs::write(self.directory.path.join("cgroup.procs"), process.to_string()).expect("the process lives");
    }

    fn limit_at(&self, directory: &Path, bytes: u64) {
        let name = if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(directory.join(name), bytes.to_string()).expect("tests run as root");
    }

    fn number(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.directory.path.join(file)).ok()?;
        text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_own {
            return;
        }
        wait_until("an empty memory cgroup", PATIENCE, || match fs::remove_dir(&self.path) {
            // One below it took it along.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|error| error.to_string()),
        });
        // Up to the first that is not empty.
        for above in self.path.ancestors().skip(1).take_while(|one| **one != self.root) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
    }
}

/// Where memory is counted by cgroup, and whether that is a tree of version 1.
fn tree() -> Option<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("there is /proc");
    let mut version_2 = None;
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, place, kind, options, ..] = words.as_slice() else { continue };
        if *kind == "cgroup" && options.split(',').any(|option| option == "memory") {
            return Some((PathBuf::from(place), true));
        }
        if *kind == "cgroup2" {
            let controllers = fs::read_to_string(Path::new(place).join("cgroup.controllers")).unwrap_or_default();
            version_2 = controllers.split_whitespace().any(|name| name == "memory").then(|| PathBuf::from(place));
        }
    }
    version_2.map(|root| (root, false))
}

/// Resident memory of a victim, as the kernel's log tells it.
pub fn logged_resident_bytes(process: u32) -> u64 {
    let text = log_of_kill(process);
    ["anon-rss:", "file-rss:", "shmem-rss:"].map(|part| kilobytes(&text, part)).into_iter().sum::<u64>() * 1024
}

/// Whether the kernel's log says that a victim was killed for the limit of a cgroup, and not since the node had no memory. This
/// line comes with each kill; the longer ones before it are left out where many are killed.
pub fn is_logged_as_of_cgroup(process: u32) -> bool {
    let text = log_of_kill(process);
    assert!(text.contains("ut of memory"), "{text}");
    text.contains("Memory cgroup out of memory")
}

/// What the kernel has logged last of a process that it has killed. It may still be at it when the process has ended.
fn log_of_kill(process: u32) -> String {
    wait_until("the kernel's line", PATIENCE, || logged_of_kill(process).ok_or_else(|| format!("none of {process}")))
}

fn logged_of_kill(process: u32) -> Option<String> {
    let log = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let mut log = log.expect("tests run as root");
    let (mut record, mut found) = ([0; 8192], None);
    loop {
        match log.read(&mut record) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(record.get(..bytes).unwrap_or_default()).into_owned();
                if text.contains(&format!("Killed process {process} (")) {
                    found = Some(text);
                }
            }
            // What has not been read yet was overwritten.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return found,
        }
    }
}

fn kilobytes(text: &str, behind: &str) -> u64 {
    let (_, rest) = text.split_once(behind).expect("the log has it");
    rest.split_once("kB").and_then(|(number, _)| number.parse().ok()).expect("the log has it in kB")
}

/// A process that takes memory. Ends with the value.
#[derive(Debug)]
pub struct Hog(HelperProcess);

impl Hog {
    /// Starts one of that name in a cgroup; it has no memory to speak of yet.
    pub fn start(cgroup: &MemoryCgroup, name: &str) -> Self {
        Self::start_threads(cgroup, name, 1)
    }

    /// The same with so many threads, which take their shares at the same time.
    pub fn start_threads(cgroup: &MemoryCgroup, name: &str, threads: u32) -> Self {
        let test = concat!(module_path!(), "::hog_process");
        let hog = Self(HelperProcess::start(&[], test, &format!("{threads} {name}")));
        cgroup.add(hog.id());
        hog
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Makes it ask for memory of that node alone from now on, by a policy of its own.
    pub fn bind(&mut self, node: u32) {
        self.0.tell(&format!("{BIND}{node}"));
        self.has_it();
    }

    /// Makes it take so much memory; returns at once.
    pub fn go(&mut self, bytes: usize) {
        self.0.tell(&bytes.to_string());
    }

    /// Makes it take so much memory, for which there is room, and waits until it has it.
    pub fn take(&mut self, bytes: usize) {
        self.go(bytes);
        self.has_it();
    }

    /// Waits until it has what it was told to take.
    pub fn has_it(&mut self) {
        self.0.answer().expect("it was not killed");
    }

    /// Waits until it has what it was told to take, or is killed.
    pub fn survives(&mut self) -> bool {
        let survives = self.0.answer().is_ok();
        if !survives {
            self.is_killed();
        }
        survives
    }

    /// Makes it take so much memory, for which there is no room, and waits for its end.
    pub fn die(mut self, bytes: usize) {
        self.go(bytes);
        self.is_killed();
    }

    /// Waits until it was killed.
    pub fn is_killed(&mut self) {
        let status = self.0.wait();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    }
}

#[test]
#[ignore = "no test, but the process that other tests start to take memory"]
fn hog_process() {
    let Some(orders) = orders() else { return };
    let (threads, name) = orders.split_once(' ').expect("how many, and a name");
    let threads: usize = threads.parse().expect("a number");
    // The name of the process, whichever of its threads this is.
    fs::write("/proc/self/comm", name).expect("a process may name itself");
    // So that it and nobody else is killed where the whole machine is short of memory.
    fs::write("/proc/self/oom_score_adj", "1000").expect("a process may offer itself");
    follow(|command| {
        if let Some(node) = command.strip_prefix(BIND) {
            bind(node.parse().expect("a node's number"));
            return "bound".to_owned();
        }
        let bytes: usize = command.parse().expect("a number of bytes");
        let taking: Vec<_> = (0..threads).map(|_| thread::spawn(move || take(bytes / threads))).collect();
        for one in taking {
            // It is kept to the end.
            std::mem::forget(one.join().expect("a thread ends"));
        }
        "has it".to_owned()
    })
}

/// Has this thread, and those that it starts, take memory of one node alone.
fn bind(node: u32) {
    let nodes: u64 = 1 << node;
    // One bit more than there are, as the kernel wants it.
    let bits: u64 = 64 + 1;
    // SAFETY: the mask lives as long as the call and has as many bits as are told.
    let answer = unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_BIND, &raw const nodes, bits) };
    assert_eq!(answer, 0, "set_mempolicy: {}", io::Error::last_os_error());
}

/// Takes memory piece by piece, so that threads take it side by side.
fn take(bytes: usize) -> Vec<Vec<u8>> {
    const PIECE_BYTES: usize = 256 * 1024;
    let mut pieces = Vec::new();
    for _ in 0..bytes.div_ceil(PIECE_BYTES) {
        let mut piece = vec![0; PIECE_BYTES];
        for page in piece.chunks_mut(PAGE_BYTES) {
            page.fill(1);
        }
        pieces.push(piece);
        thread::sleep(Duration::from_micros(10));
    }
    pieces
}
