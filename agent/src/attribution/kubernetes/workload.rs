//! Who made a pod: from its controlling owner to the workload that a person knows.
//!
//! Pure. Nothing is asked of the API server: a Deployment is told by the hash that its controller puts into names
//! and labels alike, a `CronJob` by the minute that its controller puts into its jobs' names.

use std::sync::Arc;

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// In lower case: `deployment`, `daemonset`, `statefulset`, `job`, `cronjob`, `replicaset`, `staticpod`,
    /// `barepod` for a pod that nobody controls, or any other kind of controller.
    pub kind: Arc<str>,
    /// Its name; the pod's own for static and bare ones.
    pub name: Arc<str>,
}

/// The minutes since 1970 that a `CronJob`'s controller appends to its jobs' names: from 2017 to 2084. Other numbers,
/// dates such as 20261124 among them, are a person's choice.
const CRON_MINUTES: std::ops::Range<u64> = 25_000_000..60_000_000;

impl Workload {
    /// The workload of a pod by the kind and name of its controller and its label `pod-template-hash`.
    #[must_use]
    pub fn of(controller: Option<(&str, &str)>, template_hash: Option<&str>, pod: &str) -> Self {
        let new = |kind: &str, name: &str| Self { kind: kind.into(), name: name.into() };
        match controller {
            None => new("barepod", pod),
            Some(("Node", _)) => new("staticpod", pod),
            Some(("ReplicaSet", name)) => match template_hash.and_then(|hash| stem(name, hash)) {
                Some(deployment) => new("deployment", deployment),
                None => new("replicaset", name),
            },
            Some(("Job", name)) => match cron_job(name) {
                Some(cron_job) => new("cronjob", cron_job),
                None => new("job", name),
            },
            Some((kind, name)) => new(&kind.to_lowercase(), name),
        }
    }
}

fn stem<'a>(name: &'a str, hash: &str) -> Option<&'a str> {
    let stem = name.strip_suffix(hash)?.strip_suffix('-')?;
    (!hash.is_empty() && !stem.is_empty()).then_some(stem)
}

fn cron_job(job: &str) -> Option<&str> {
    let (stem, minutes) = job.rsplit_once('-')?;
    let is_minute = minutes.len() == 8 && minutes.parse().is_ok_and(|minutes| CRON_MINUTES.contains(&minutes));
    (is_minute && !stem.is_empty()).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::Workload;

    #[track_caller]
    fn check(controller: Option<(&str, &str)>, hash: Option<&str>, kind: &str, name: &str) {
        let workload = Workload::of(controller, hash, "the-pod");
        assert_eq!((&*workload.kind, &*workload.name), (kind, name), "{controller:?} {hash:?}");
    }

    #[test]
    fn a_replica_set_is_a_deployments_only_if_the_hash_says_so() {
        check(Some(("ReplicaSet", "web-7d4b9c6f5")), Some("7d4b9c6f5"), "deployment", "web");
        check(Some(("ReplicaSet", "a-b-7d4b9c6f5")), Some("7d4b9c6f5"), "deployment", "a-b");
        check(Some(("ReplicaSet", "web-7d4b9c6f5")), None, "replicaset", "web-7d4b9c6f5");
        check(Some(("ReplicaSet", "web-7d4b9c6f5")), Some("other"), "replicaset", "web-7d4b9c6f5");
        check(Some(("ReplicaSet", "web7d4b9c6f5")), Some("7d4b9c6f5"), "replicaset", "web7d4b9c6f5");
        check(Some(("ReplicaSet", "web-")), Some(""), "replicaset", "web-");
        check(Some(("ReplicaSet", "-abc")), Some("abc"), "replicaset", "-abc");
    }

    #[test]
    fn a_job_is_a_cron_jobs_only_if_its_suffix_is_a_minute_of_our_time() {
        check(Some(("Job", "backup-29926113")), None, "cronjob", "backup");
        check(Some(("Job", "backup-20261124")), None, "job", "backup-20261124");
        check(Some(("Job", "backup-1")), None, "job", "backup-1");
        check(Some(("Job", "-29926113")), None, "job", "-29926113");
        check(Some(("Job", "backup-+9926113")), None, "job", "backup-+9926113");
        check(Some(("Job", "backup")), None, "job", "backup");
    }

    #[test]
    fn other_controllers_are_told_by_kind_and_a_pod_without_one_by_its_own_name() {
        check(Some(("DaemonSet", "agent")), None, "daemonset", "agent");
        check(Some(("StatefulSet", "db")), Some("x"), "statefulset", "db");
        check(Some(("Rollout", "web")), None, "rollout", "web");
        check(Some(("Node", "node-1")), None, "staticpod", "the-pod");
        check(None, None, "barepod", "the-pod");
    }
}
