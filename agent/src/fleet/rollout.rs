//! How far a new revision of a `DaemonSet` has come. Pure.

use k8s_openapi::{
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::{SignedDuration, Timestamp},
};

use super::{
    causes::Lack,
    objects::{DaemonSet, Revision, RollingUpdate},
};

/// A pod of the new revision that is not ready after this time holds a roll-out up, even if nothing of it has failed.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// All pods are of the newest revision.
    Settled,
    /// Pods are being replaced.
    Rolling,
    /// Pods of the new revision do not come to work, and no more old ones may be taken away.
    Stuck {
        /// The node.
        node: String,
        /// What its pod lacks.
        lack: Lack,
    },
    /// Old pods stay until somebody deletes them: the strategy is `OnDelete`.
    Paused,
}

impl Rollout {
    /// All that the label `state` can say.
    pub const NAMES: &[&'static str] = &["settled", "rolling", "stuck", "paused"];

    /// For the label `state`: one of [`Self::NAMES`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Rolling => "rolling",
            Self::Stuck { .. } => "stuck",
            Self::Paused => "paused",
        }
    }
}

/// The revision that is at work, and whether that is an older one to which the template went back.
#[must_use]
pub fn newest<'a>(revisions: impl Iterator<Item = &'a Revision> + Clone) -> Option<(&'a Revision, bool)> {
    let newest = revisions.clone().max_by_key(|revision| revision.number)?;
    let is_older = revisions.into_iter().any(|other| other.made > newest.made);
    Some((newest, is_older))
}

/// How many pods may be away at once while it rolls.
#[must_use]
pub fn most_unavailable(daemon_set: &DaemonSet, wanted: usize) -> usize {
    let RollingUpdate { max_surge, max_unavailable } = &daemon_set.spec.update_strategy.rolling_update;
    let count = |value: &Option<IntOrString>, default| value.as_ref().map_or(default, |value| scaled(value, wanted));
    // With a surge new pods come beside the old ones, as many as that.
    match count(max_surge, 0) {
        0 => count(max_unavailable, 1).max(1),
        surge => surge,
    }
}

/// Percent of all, rounded up, as the controller does.
fn scaled(value: &IntOrString, all: usize) -> usize {
    match value {
        IntOrString::Int(count) => usize::try_from(*count).unwrap_or_default(),
        IntOrString::String(text) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or_default();
            all.saturating_mul(percent).div_ceil(100)
        }
    }
}

/// What is known about the pods of a `DaemonSet` for the question whether it rolls.
#[derive(Clone, Debug, Default)]
pub struct Pods<I> {
    /// How many nodes should have one.
    pub wanted: usize,
    /// How many are of an older revision.
    pub old: usize,
    /// Nodes without a pod that works, what they lack, and whether the pod is of the newest revision; those without any pod
    /// are.
    pub lacking: I,
}

/// Decides.
#[must_use]
pub fn rollout<'a, I>(daemon_set: &DaemonSet, pods: &Pods<I>, now: Timestamp) -> Rollout
where
    I: Iterator<Item = (&'a str, &'a Lack, bool)> + Clone,
{
    if pods.old == 0 {
        return Rollout::Settled;
    }
    if daemon_set.spec.update_strategy.kind == "OnDelete" {
        return Rollout::Paused;
    }
    let holds_up =
        |lack: &Lack| !lack.reason.passes() || lack.since.is_some_and(|since| now.duration_since(since) > PATIENCE);
    // Old pods that do not work are replaced first, whatever the limit.
    let mut new = pods.lacking.clone().filter(|(_, _, is_new)| *is_new);
    let is_full = new.clone().count() >= most_unavailable(daemon_set, pods.wanted);
    match new.find(|(_, lack, _)| holds_up(lack)).filter(|_| is_full) {
        Some((node, lack, _)) => Rollout::Stuck { node: node.to_owned(), lack: lack.clone() },
        None => Rollout::Rolling,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::fleet::causes::Reason;

    fn daemon_set(strategy: &Value) -> DaemonSet {
        let template = json!({ "spec": { "containers": [] } });
        serde_json::from_value(json!({ "spec": { "selector": {}, "template": template, "updateStrategy": strategy } }))
            .unwrap()
    }

    fn lack(reason: Reason) -> Lack {
        Lack { reason, detail: String::new(), since: Some(Timestamp::UNIX_EPOCH) }
    }

    #[track_caller]
    fn check(strategy: &Value, old: usize, lacking: &[(&Lack, bool)], minutes: i64, expected: &str) {
        let lacking = lacking.iter().map(|(lack, is_new)| ("n", *lack, *is_new));
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        let told = rollout(&daemon_set(strategy), &Pods { wanted: 10, old, lacking }, now);
        assert_eq!(told.name(), expected, "{strategy} {old} {minutes}");
    }

    #[test]
    fn a_roll_out_is_stuck_once_what_may_be_away_is_held_by_pods_that_fail() {
        let (image, starting) = (lack(Reason::Image), lack(Reason::Starting));
        let rolling = json!({ "type": "RollingUpdate" });
        check(&rolling, 0, &[], 0, "settled");
        check(&rolling, 3, &[], 0, "rolling");
        check(&rolling, 3, &[(&image, true)], 0, "stuck");
        check(&rolling, 3, &[(&image, false)], 0, "rolling");
        check(&rolling, 3, &[(&starting, true)], 9, "rolling");
        check(&rolling, 3, &[(&starting, true)], 11, "stuck");
        check(&json!({ "type": "OnDelete" }), 3, &[(&image, true)], 0, "paused");
        let some = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "15%" } });
        check(&some, 3, &[(&image, true)], 0, "rolling");
        check(&some, 3, &[(&image, true), (&starting, true)], 0, "stuck");
        let surge = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 2, "maxUnavailable": 0 } });
        check(&surge, 3, &[(&image, true)], 0, "rolling");
        check(&surge, 3, &[(&image, true), (&image, true)], 0, "stuck");
    }

    #[test]
    fn percent_is_rounded_up_and_one_may_always_be_away() {
        let most = |strategy: &Value| most_unavailable(&daemon_set(strategy), 10);
        assert_eq!(most(&json!({})), 1);
        assert_eq!(most(&json!({ "rollingUpdate": { "maxUnavailable": "1%" } })), 1);
        assert_eq!(most(&json!({ "rollingUpdate": { "maxUnavailable": "11%" } })), 2);
        assert_eq!(most(&json!({ "rollingUpdate": { "maxUnavailable": 4 } })), 4);
    }

    #[test]
    fn a_template_that_went_back_is_told_by_a_newer_number_on_an_older_revision() {
        let revision = |number: i64, hash: &str, made: &str| -> Revision {
            let metadata = json!({ "labels": { "controller-revision-hash": hash }, "creationTimestamp": made });
            serde_json::from_value(json!({ "metadata": metadata, "revision": number })).unwrap()
        };
        let first = revision(1, "a", "2026-01-01T00:00:00Z");
        let second = revision(2, "b", "2026-01-02T00:00:00Z");
        assert_eq!(newest([&first, &second].into_iter()), Some((&second, false)));
        let back = revision(3, "a", "2026-01-01T00:00:00Z");
        assert_eq!(newest([&back, &second].into_iter()), Some((&back, true)));
        assert_eq!(newest([].into_iter()), None);
    }
}
