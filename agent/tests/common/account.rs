//! What a metrics page says about scheduling: of one cgroup, of its culprits, and of what was not seen.

use std::{collections::BTreeMap, fs, ops::Sub};

use super::{Agent, Page, Sample, TestCgroup, kernel, machine_is_own};

const WAIT: &str = "podlens_cpu_wait_seconds_total";
const CAUSED: &str = "podlens_cpu_wait_caused_seconds_total";
const LATENCY_SUM: &str = "podlens_runqueue_latency_seconds_sum";
/// How often the kernel may leave a program out while hundreds of cgroups come and go.
const SELDOM: u64 = 3;

/// One entity's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Time on a CPU.
    pub cpu_ns: u64,
    /// Sum of the histogram of waits.
    pub wait_ns: u64,
    /// Count of that histogram.
    pub waits: u64,
    /// The same waits by cause.
    pub causes: BTreeMap<String, u64>,
    /// Throttled time that the kernel counts as waiting.
    pub throttled_ns: u64,
    /// Switches away from a task that blocked.
    pub voluntary: u64,
    /// Switches away from a task that wanted to go on.
    pub involuntary: u64,
}

/// What the agent could not see, over all cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Switches that the tracepoint did not report.
    pub switches: u64,
    /// Time around them that is nobody's.
    pub ns: u64,
    /// Segments of waits of unknown length.
    pub segments: u64,
    /// Sleeps of unknown length.
    pub sleeps: u64,
}

impl Account {
    /// The figures of a cgroup's entity; all must be there.
    #[track_caller]
    pub fn of(page: &Page, cgroup: &TestCgroup) -> Self {
        Self::with(page, &cgroup.labels())
    }

    /// The figures of the entity with these labels; all must be there.
    #[track_caller]
    pub fn with(page: &Page, labels: &[(&str, &str)]) -> Self {
        let one = |name: &str, more: &[(&str, &str)]| {
            let labels = [labels, more].concat();
            page.one(name, &labels).unwrap_or_else(|| panic!("there is no {name}{labels:?}"))
        };
        let causes = page.all(WAIT, labels).into_iter().map(|sample| (sample.label("cause").to_owned(), sample.ns()));
        let switches = |kind: &str| one("podlens_context_switches_total", &[("kind", kind)]).count();
        Self {
            cpu_ns: one("podlens_cpu_seconds_total", &[]).ns(),
            // Without any observation there is no histogram.
            wait_ns: page.one(LATENCY_SUM, labels).map_or(0, Sample::ns),
            waits: page.one("podlens_runqueue_latency_seconds_count", labels).map_or(0, Sample::count),
            causes: causes.collect(),
            throttled_ns: one("podlens_cpu_throttled_wait_seconds_total", &[]).ns(),
            voluntary: switches("voluntary"),
            involuntary: switches("involuntary"),
        }
    }

    /// The wait for one cause.
    #[track_caller]
    pub fn cause(&self, cause: &str) -> u64 {
        *self.causes.get(cause).unwrap_or_else(|| panic!("there is no cause {cause} in {self:?}"))
    }
}

impl Losses {
    /// What is lost so far.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds become nanoseconds")]
    pub fn of(page: &Page) -> Self {
        let count = |reason: &str| {
            let labels = [("collector", "scheduler"), ("reason", reason)];
            page.all("podlens_lost_total", &labels).into_iter().map(Sample::count).sum()
        };
        Self {
            switches: count("missed_switch"),
            ns: (page.all("podlens_cpu_unseen_seconds_total", &[]).into_iter().map(Sample::value).sum::<f64>() * 1e9)
                as u64,
            segments: count("unknown_segment"),
            sleeps: count("unknown_sleep"),
        }
    }
}

/// How many of the kernel's calls of a tracepoint may be missing beside those that are counted: some providers' kernels call no
/// program while the node's first process has the CPU, of which only the switches are known (docs/kernels.md). None where the
/// machine is the tests' own.
pub fn unseen(page: &Page) -> u64 {
    if machine_is_own() { 0 } else { Losses::of(page).switches }
}

/// How many requests to a disk end, or connections change their state, while the first process has the CPU once. A request takes 60 us,
/// and it has the CPU for 100 to 200: of 1,000 requests 71 were missing, where it had the CPU 41 times.
pub const UNSEEN_EACH_TIME: u64 = 4;

/// The same of requests to a disk.
pub fn unseen_requests(page: &Page) -> u64 {
    UNSEEN_EACH_TIME * unseen(page)
}

/// Does something; the most that the hypervisor may have taken from the first CPU meanwhile. Waits have that in them, and the
/// kernel's CPU time of a task has not.
pub fn stolen_ns(meanwhile: impl FnOnce()) -> u64 {
    /// How finely the kernel tells it.
    const TICK_NS: u64 = 10_000_000;
    let ticks = || {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let first = stat.lines().find_map(|line| line.strip_prefix("cpu0 ")).unwrap();
        first.split(' ').nth(7).unwrap().parse::<u64>().unwrap()
    };
    let before = ticks();
    meanwhile();
    (ticks() - before + 1) * TICK_NS
}

/// Lets an attempt at a move be right, with container numbers of its own. One that is wrong is made again where some switch was not
/// told: of a slice whose beginning was not (docs/kernels.md: PID 1 on some providers' kernels) nobody knows that its task was moved.
pub fn attempted(agent: &Agent, number: u32, mut attempt: impl FnMut(u32) -> Result<(), String>) {
    let lost = || Losses::of(&agent.metrics());
    for number in (number..).step_by(1000).take(4) {
        let before = lost();
        let Err(wrong) = attempt(number) else { return };
        let missed = (lost() - before).switches;
        assert!(missed > 0, "{wrong}");
        println!("{wrong}; {missed} switches were not told meanwhile");
    }
    panic!("wrong each time");
}

/// A count of calls of a tracepoint: exact but for what [`unseen`] allows; never more.
#[track_caller]
pub fn assert_seen(what: &str, page: &Page, found: u64, expected: u64) {
    let missing = expected.checked_sub(found);
    assert!(missing.is_some_and(|missing| missing <= unseen(page)), "{what}: found {found}, expected {expected}");
}

impl Sub for Losses {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            switches: self.switches - earlier.switches,
            ns: self.ns - earlier.ns,
            segments: self.segments - earlier.segments,
            sleeps: self.sleeps - earlier.sleeps,
        }
    }
}

/// What a cgroup's entity has lost to each named culprit, a pod's uid or a unit's name.
pub fn culprits(page: &Page, cgroup: &TestCgroup) -> BTreeMap<String, u64> {
    let name = |sample: &Sample| match sample.label("culprit_pod") {
        "" => sample.label("culprit_unit").to_owned(),
        pod => pod.to_owned(),
    };
    page.all(CAUSED, &cgroup.labels()).into_iter().map(|sample| (name(sample), sample.ns())).collect()
}

/// What a cgroup's entity has lost to the culprit with this label; 0 if that is not named.
pub fn caused_by(page: &Page, cgroup: &TestCgroup, culprit: (&str, &str)) -> u64 {
    page.sum_ns(CAUSED, &cgroup.labels_and(&[culprit]))
}

/// What a cgroup's entity has lost to all culprits.
pub fn caused(page: &Page, cgroup: &TestCgroup) -> u64 {
    page.sum_ns(CAUSED, &cgroup.labels())
}

/// For every entity of the page, exactly: causes add up to the histogram's sum, culprits to neighbor and system.
/// Gives how many entities there are.
#[track_caller]
pub fn assert_sums_agree(page: &Page) -> usize {
    let mut latency = sums(page, LATENCY_SUM, |_| true);
    let wait = sums(page, WAIT, |_| true);
    // Without any observation there is no histogram.
    for entity in wait.keys() {
        latency.entry(entity.clone()).or_insert(0);
    }
    assert_eq!(wait, latency, "the sum over causes is the histogram's");
    let others = sums(page, WAIT, |sample| matches!(sample.label("cause"), "neighbor" | "system"));
    let mut caused = sums(page, CAUSED, |_| true);
    for entity in others.keys() {
        caused.entry(entity.clone()).or_insert(0);
    }
    assert_eq!(caused, others, "the sum over culprits is that of causes neighbor and system");
    latency.len()
}

/// Sums by entity: by the labels that do not tell its series apart.
fn sums(page: &Page, name: &str, counts: impl Fn(&Sample) -> bool) -> BTreeMap<BTreeMap<String, String>, u64> {
    let mut sums = BTreeMap::new();
    for sample in page.all(name, &[]).into_iter().filter(|sample| counts(sample)) {
        let mut entity = sample.labels.clone();
        entity.retain(|label, _| label != "cause" && !label.starts_with("culprit_"));
        *sums.entry(entity).or_insert(0) += sample.ns();
    }
    sums
}

/// Slots that are held, less the entities that have CPU time on the page. A living cgroup is in both, so whoever else comes and
/// goes on this machine changes nothing, while a slot that was not given back is left.
#[allow(clippy::cast_precision_loss, reason = "slots are few")]
pub fn slots_without_series(page: &Page) -> f64 {
    let held = ["live", "removed"].map(|state| page.value("podlens_slots", &[("state", state)]));
    held.iter().sum::<f64>() - page.all("podlens_cpu_seconds_total", &[]).len() as f64
}

/// No cgroup, name or value was lost, but for what some kernels leave out now and then. The scheduler's losses are not looked at: a
/// kernel that does not report some switches causes them whatever the churn, and each life's CPU time is compared by itself.
#[track_caller]
pub fn assert_nothing_lost(page: &Page) {
    let losses = page.all("podlens_lost_total", &[]);
    assert!(losses.len() >= 8, "the losses are counted: {losses:?}");
    for sample in losses.into_iter().filter(|sample| sample.label("collector") != "scheduler") {
        // From 7.0 on the kernel leaves a program out where another task's turn comes in the middle of it (docs/kernels.md).
        let is_left_out = kernel() >= [7, 0] && sample.label("reason").starts_with("missed_");
        let most = if is_left_out { SELDOM } else { 0 };
        assert!(sample.count() <= most, "{sample:?}");
    }
    assert_eq!(page.sum_ns("podlens_cpu_seconds_total", &[("unit", "unattributed")]), 0);
}
