//! What the containers have really used: each prints its cgroup's CPU time as the kernel counted it, and kubelet writes
//! that into a log whose path tells namespace, pod, container and instance. So neither podlens nor the API server has a
//! part in it. Called by the checks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::names::Name;

/// The last of the programs' output that says how much was used.
const MARK: &str = "burn own=";

/// One run of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) name: Name,
    pub(super) pod_uid: String,
    /// How often kubelet had started it before.
    pub(super) restarts: u32,
}

/// When one run ends, kubelet removes the logs of all before the last one: a container that fails at once has the second of
/// its runs behind it within a second.
const READ_EVERY: Duration = Duration::from_millis(100);

/// CPU seconds of each run that has finished its load, read in the background while this exists, since logs do not stay.
#[derive(Debug, Default)]
pub(super) struct Truth(Arc<Mutex<Runs>>);

/// CPU seconds of each run.
pub(super) type Runs = BTreeMap<Run, f64>;

impl Truth {
    /// Reads the logs of all pods of a node from now on.
    pub(super) fn follow(logs: PathBuf) -> Self {
        let truth = Self::default();
        let into = Arc::downgrade(&truth.0);
        thread::spawn(move || {
            while let Some(runs) = into.upgrade() {
                let found = read(&logs);
                runs.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                drop(runs);
                thread::sleep(READ_EVERY);
            }
        });
        truth
    }

    /// All that was read so far.
    pub(super) fn runs(&self) -> Runs {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Seconds by name, over all runs.
    pub(super) fn by_name(&self) -> BTreeMap<Name, f64> {
        let mut sums = BTreeMap::new();
        for (run, seconds) in self.runs() {
            *sums.entry(run.name).or_default() += seconds;
        }
        sums
    }
}

/// Runs before a later one of the same container whose logs were gone before they were read: nobody knows what they used.
pub(super) fn unread(runs: &Runs) -> Vec<Run> {
    let before = runs.keys().flat_map(|run| (0..run.restarts).map(move |restarts| Run { restarts, ..run.clone() }));
    let mut unread: Vec<Run> = before.filter(|run| !runs.contains_key(run)).collect();
    unread.sort_unstable();
    unread.dedup();
    unread
}

/// What the logs tell now.
fn read(logs: &Path) -> Runs {
    let mut runs = Runs::new();
    for pod in entries(logs) {
        for container in entries(&logs.join(&pod)) {
            for log in entries(&logs.join(&pod).join(&container)) {
                let Some(run) = run(&pod, &container, &log) else { continue };
                let text = fs::read_to_string(logs.join(&pod).join(&container).join(&log)).unwrap_or_default();
                if let Some(seconds) = text.lines().find_map(seconds) {
                    runs.insert(run, seconds);
                }
            }
        }
    }
    runs
}

/// Names in a folder; one that is gone meanwhile has none.
fn entries(folder: &Path) -> Vec<String> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// `NAMESPACE_POD_UID/CONTAINER/RESTARTS.log`.
fn run(pod: &str, container: &str, log: &str) -> Option<Run> {
    let mut parts = pod.splitn(3, '_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let restarts = log.strip_suffix(".log")?.parse().ok()?;
    Some(Run { name: Name::new(namespace, pod, container), pod_uid: uid.to_owned(), restarts })
}

/// From a line such as `2026-11-24T11:37:54.9Z stdout F burn own=300000121 cgroup=318000000`.
fn seconds(line: &str) -> Option<f64> {
    let (_, said) = line.split_once(MARK)?;
    let used_ns: u64 = said.split_once("cgroup=")?.1.trim().parse().ok()?;
    Some(used_ns as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Name, Run, Runs, run, seconds, unread};

    #[test]
    fn a_logs_path_tells_whose_it_is() {
        let found = run("shop_db-0_e5017a02-e266", "postgres", "2.log").unwrap();
        assert_eq!(found.name, Name::new("shop", "db-0", "postgres"));
        assert_eq!((&*found.pod_uid, found.restarts), ("e5017a02-e266", 2));
        assert_eq!(run("shop_db-0_e5017a02-e266", "postgres", "0.log.20261124"), None);
    }

    #[test]
    fn a_run_without_a_log_before_one_that_has_a_log_is_noticed() {
        let run = |restarts| Run { name: Name::new("shop", "crash", "app"), pod_uid: "u".to_owned(), restarts };
        let runs = |found: &[u32]| -> Runs { found.iter().map(|restarts| (run(*restarts), 0.2)).collect() };
        assert_eq!(unread(&runs(&[0, 1, 2])), []);
        assert_eq!(unread(&runs(&[1, 3])), [run(0), run(2)]);
    }

    #[test]
    fn only_the_closing_line_tells_an_amount() {
        let table = [
            ("2026-11-24T11:37:54.9Z stdout F burn own=300000121 cgroup=318500000", Some(0.3185)),
            ("2026-11-24T11:37:54.9Z stdout F burn own=300000121 cgroup=-1", None),
            ("2026-11-24T11:37:54.9Z stderr F out of memory", None),
        ];
        for (line, expected) in table {
            assert_eq!(seconds(line), expected, "{line}");
        }
    }
}
