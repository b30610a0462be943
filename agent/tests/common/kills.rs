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

/// A container that loses processes, and what is expected of it.
#[derive(Debug)]
pub struct Doomed {
    number: u32,
    kind: Kind,
    inner: Option<MemoryCgroup>,
    container: MemoryCgroup,
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
    let is_node_short = containers.iter().any(|doomed| doomed.kind == Kind::Node);
    let _ballast = is_node_short.then(Ballast::take);
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
        Some(Self { number, kind, inner, container })
    }

    /// How many records there are of it.
    pub fn records(&self) -> usize {
        EACH
    }

    /// The container's id.
    pub fn id(&self) -> String {
        container_id(self.number)
    }

    fn lose(&self, turn: usize) {
        let wanted = if self.kind == Kind::Node { 64 << 30 } else { WANTED };
        if let Some(inner) = &self.inner {
            inner.limit(if is_inner_turn(turn) { LIMIT } else { 1024 * MB });
        }
        let companions = if self.kind == Kind::Group { COMPANIONS } else { 0 };
        let mut companions: Vec<Hog> = (0..companions).map(|_| Hog::start(self.eaters(), "companion")).collect();
        Hog::start(self.eaters(), &self.name(turn)).die(wanted);
        companions.iter_mut().for_each(Hog::is_killed);
    }

    /// Where its processes are.
    fn eaters(&self) -> &MemoryCgroup {
        self.inner.as_ref().unwrap_or(&self.container)
    }

    fn name(&self, turn: usize) -> String {
        format!("{}-{turn}", self.number)
    }

    /// How many processes end with one kill.
    fn at_once(&self) -> u64 {
        if self.kind == Kind::Group { COMPANIONS as u64 + 1 } else { 1 }
    }

    fn scope(&self) -> &'static str {
        match self.kind {
            Kind::OwnLimit | Kind::Inside | Kind::Group => "container",
            Kind::PodLimit => "pod",
            Kind::Node => "node",
        }
    }

    fn limit(&self, turn: usize) -> Option<u64> {
        match self.kind {
            Kind::Inside if !is_inner_turn(turn) => Some(OUTER_LIMIT),
            Kind::Node => None,
            _ => Some(LIMIT),
        }
    }

    /// Fails unless the page has the kernel's own counts.
    #[track_caller]
    pub fn assert_counts(&self, page: &Page) {
        let kernel = self.eaters().kills();
        let processes = EACH as u64 * self.at_once();
        if self.kind == Kind::Group {
            // The kernel may meet the first victim of a group once more, and then counts it twice.
            assert!((processes..=processes + EACH as u64).contains(&kernel), "{kernel} kills in {self:?}");
            let groups = self.container.group_kills();
            assert!(groups.is_none_or(|groups| groups == EACH as u64), "{groups:?} group kills in {self:?}");
        } else {
            assert_eq!(kernel, processes, "the kernel's count in {self:?}");
        }
        for scope in ["container", "pod", "ancestor", "node", "other"] {
            let labels = self.container.labels_and(&[("scope", scope)]);
            let expected = if scope == self.scope() { processes } else { 0 };
            assert_eq!(page.count("podlens_oom_kills_total", &labels), Some(expected), "{scope} in {self:?}");
        }
    }

    /// Fails unless these are the records of its kills, in their order and under its resource.
    #[track_caller]
    pub fn assert_told(&self, told: &[Told]) {
        assert_eq!(told.len(), EACH, "{told:?}");
        let (uid, id) = (pod_uid(self.number), self.id());
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
                let whose = format!("{uid}/{}", id.get(..12).expect("an id has 64 digits"));
                assert_eq!(says("podlens.oom.trigger"), Some(&*whose), "turn {turn} of {self:?}");
                assert_eq!(says("podlens.oom.trigger.process"), Some(&*self.name(turn)), "turn {turn} of {self:?}");
            }
        }
    }
}

fn is_inner_turn(turn: usize) -> bool {
    turn.is_multiple_of(2)
}

/// Most of the machine's memory, in a file that belongs to no process, so that nobody is killed for it.
struct Ballast(#[expect(dead_code, reason = "it is there as long as it is open")] rustix::fd::OwnedFd);

impl Ballast {
    fn take() -> Self {
        let text = fs::read_to_string("/proc/meminfo").expect("there is /proc");
        let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
        let available =
            available.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).expect("the kernel tells it") << 10;
        let file = memfd_create("ballast", MemfdFlags::CLOEXEC).expect("there are files in memory");
        let bytes = available.saturating_sub(LEFT);
        if bytes > 0 {
            fallocate(&file, FallocateFlags::empty(), 0, bytes).expect("there is so much memory");
        }
        Self(file)
    }
}
