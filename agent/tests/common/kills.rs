//! Fifty kills for want of memory of every kind at once, and what is to be told of each: who was killed, by whose limit, and
//! how often. Who reads what was told is the test's own affair.

use std::{collections::BTreeMap, fs, thread};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use super::{Hog, MemoryCgroup, Page, container_id, memory_is_own, pod_uid};

const MB: u64 = 1 << 20;
/// OOM kills in each container.
const EACH: usize = 10;
/// What a container may have, and what each hog wants.
const LIMIT: u64 = 24 * MB;
const WANTED: usize = 48 << 20;
/// What the container may have whose inner cgroup reaches its limit in every second turn.
const OUTER_LIMIT: u64 = 32 * MB;
/// Of a group, beside the hog that wants too much.
const COMPANIONS: usize = 2;
/// What is left of a machine whose memory is used up otherwise: enough for all hogs, and soon taken.
const LEFT: u64 = 400 * MB;

/// How containers lose processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OwnLimit,
    /// In a cgroup inside, by its limit and by the container's in turn.
    Inside,
    PodLimit,
    /// All in it at once; where the kernel cannot, one at a time.
    Group,
    /// The machine has none left; where others use it, by its own limit as well.
    Node,
}

/// A container that loses processes.
#[derive(Debug)]
pub struct Doomed {
    pub fate: Fate,
    // Before the container, so that it is removed first.
    inner: Option<MemoryCgroup>,
    container: MemoryCgroup,
}

/// What is expected of a container, be it there or removed.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    number: u32,
    kind: Kind,
}

/// A log record and its resource, by their attributes.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub of: BTreeMap<String, String>,
    pub says: BTreeMap<String, String>,
}

/// One container of each kind; none where memory is not counted by cgroup.
pub fn doomed() -> Option<Vec<Doomed>> {
    let kinds = [Kind::OwnLimit, Kind::Inside, Kind::PodLimit, Kind::Group, Kind::Node];
    (700..).zip(kinds).map(|(number, kind)| Doomed::new(number, kind)).collect()
}

/// Has the kernel kill all that it is to, in all containers at once.
pub fn kill_fifty(containers: &[Doomed]) {
    let is_node_short = containers.iter().any(|doomed| doomed.fate.kind == Kind::Node);
    let _ballast = is_node_short.then(|| Ballast::leave(LEFT));
    thread::scope(|scope| {
        for doomed in containers {
            scope.spawn(move || (0..EACH).for_each(|turn| doomed.lose(turn)));
        }
    });
}

impl Doomed {
    fn new(number: u32, kind: Kind) -> Option<Self> {
        let container = MemoryCgroup::container(&pod_uid(number), number)?;
        let kind = match kind {
            Kind::Node if !memory_is_own() => Kind::OwnLimit,
            Kind::Group if !container.kill_together() => Kind::OwnLimit,
            kind => kind,
        };
        match kind {
            Kind::OwnLimit | Kind::Group => container.limit(LIMIT),
            Kind::Inside => container.limit(OUTER_LIMIT),
            Kind::PodLimit => container.limit_above(LIMIT),
            Kind::Node => {}
        }
        let inner = (kind == Kind::Inside).then(|| container.child("inner"));
        Some(Self { fate: Fate { number, kind }, inner, container })
    }

    fn lose(&self, turn: usize) {
        let Fate { kind, .. } = self.fate;
        let wanted = if kind == Kind::Node { 64 << 30 } else { WANTED };
        if let Some(inner) = &self.inner {
            inner.limit(if is_inner_turn(turn) { LIMIT } else { 1024 * MB });
        }
        let companions = if kind == Kind::Group { COMPANIONS } else { 0 };
        let mut companions: Vec<Hog> = (0..companions).map(|_| Hog::start(self.eaters(), "companion")).collect();
        Hog::start(self.eaters(), &self.fate.name(turn)).die(wanted);
        companions.iter_mut().for_each(Hog::is_killed);
    }

    /// Where its processes are.
    fn eaters(&self) -> &MemoryCgroup {
        self.inner.as_ref().unwrap_or(&self.container)
    }

    /// Fails unless the kernel has counted all that was expected, and the page has that.
    #[track_caller]
    pub fn assert_counts(&self, page: &Page) {
        let kernel = self.eaters().kills();
        let processes = EACH as u64 * self.fate.at_once();
        if self.fate.kind == Kind::Group {
            // The kernel finds the first victim of a group once more, and may find any once more that is about to end; each time
            // it counts.
            assert!((processes..=2 * processes + EACH as u64).contains(&kernel), "{kernel} kills in {self:?}");
            let groups = self.container.group_kills();
            assert!(groups.is_none_or(|groups| groups == EACH as u64), "{groups:?} group kills in {self:?}");
        } else {
            assert_eq!(kernel, processes, "the kernel's count in {self:?}");
        }
        assert_eq!(self.fate.on(page), Ok(()));
    }
}

impl Fate {
    /// How many records there are of each.
    pub const RECORDS: usize = EACH;

    /// The container's id.
    pub fn id(self) -> String {
        container_id(self.number)
    }

    /// Its pod's uid.
    pub fn pod(self) -> String {
        pod_uid(self.number)
    }

    /// Whether the page has its kills and no others.
    pub fn on(self, page: &Page) -> Result<(), String> {
        let (uid, id) = (self.pod(), self.id());
        let shown = short(&id);
        for scope in ["container", "pod", "ancestor", "node", "other"] {
            let labels = [("pod", &*uid), ("container", shown), ("scope", scope)];
            let expected = if scope == self.scope() { EACH as u64 * self.at_once() } else { 0 };
            let found = page.count("podlens_oom_kills_total", &labels);
            if found != Some(expected) {
                return Err(format!("{found:?} of scope {scope}, expected {expected}, in {self:?}"));
            }
        }
        Ok(())
    }

    /// Fails unless these are the records of its kills, in their order and under its resource.
    #[track_caller]
    pub fn assert_told(self, told: &[Told]) {
        assert_eq!(told.len(), EACH, "{told:?}");
        let (uid, id) = (self.pod(), self.id());
        let resource = [("k8s.node.name", "test-node"), ("k8s.pod.uid", &uid), ("container.id", &id)];
        let resource: BTreeMap<String, String> =
            resource.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        for (turn, Told { of, says }) in told.iter().enumerate() {
            assert_eq!(*of, resource);
            let says = |key: &str| says.get(key).map(String::as_str);
            assert_eq!(says("process.executable.name"), Some(&*self.name(turn)), "{self:?}: {told:?}");
            assert_eq!(says("podlens.oom.scope"), Some(self.scope()), "turn {turn} of {self:?}: {told:?}");
            assert_eq!(says("podlens.oom.processes"), Some(&*self.at_once().to_string()), "turn {turn} of {self:?}");
            let limit = self.limit(turn).map(|bytes| bytes.to_string());
            assert_eq!(says("podlens.oom.limit"), limit.as_deref(), "turn {turn} of {self:?}");
            if self.kind != Kind::Node {
                // Where nobody has memory, anybody may be the one to want some.
                let whose = format!("{uid}/{}", short(&id));
                assert_eq!(says("podlens.oom.trigger"), Some(&*whose), "turn {turn} of {self:?}");
                assert_eq!(says("podlens.oom.trigger.process"), Some(&*self.name(turn)), "turn {turn} of {self:?}");
            }
        }
    }

    fn name(self, turn: usize) -> String {
        format!("{}-{turn}", self.number)
    }

    /// How many processes end with one kill.
    fn at_once(self) -> u64 {
        if self.kind == Kind::Group { COMPANIONS as u64 + 1 } else { 1 }
    }

    fn scope(self) -> &'static str {
        match self.kind {
            Kind::OwnLimit | Kind::Inside | Kind::Group => "container",
            Kind::PodLimit => "pod",
            Kind::Node => "node",
        }
    }

    fn limit(self, turn: usize) -> Option<u64> {
        match self.kind {
            Kind::Inside if !is_inner_turn(turn) => Some(OUTER_LIMIT),
            Kind::Node => None,
            _ => Some(LIMIT),
        }
    }
}

/// What podlens shows of an id.
fn short(id: &str) -> &str {
    id.get(..12).expect("an id has 64 digits")
}

fn is_inner_turn(turn: usize) -> bool {
    turn.is_multiple_of(2)
}

/// Most of the machine's memory, in a file that belongs to no process, so that nobody is killed for it.
#[derive(Debug)]
pub struct Ballast(#[expect(dead_code, reason = "it is there as long as it is open")] rustix::fd::OwnedFd);

impl Ballast {
    /// Takes all but so many bytes.
    pub fn leave(left: u64) -> Self {
        let text = fs::read_to_string("/proc/meminfo").expect("there is /proc");
        let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
        let available =
            available.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).expect("the kernel tells it") << 10;
        let file = memfd_create("ballast", MemfdFlags::CLOEXEC).expect("there are files in memory");
        let bytes = available.saturating_sub(left);
        if bytes > 0 {
            fallocate(&file, FallocateFlags::empty(), 0, bytes).expect("there is so much memory");
        }
        Self(file)
    }
}
