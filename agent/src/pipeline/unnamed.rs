//! When names hear who is there: all of them now and then, and those of a pod in which somebody is new or lacks a name soon.
//! Pure, with the caller's clock.
//!
//! Names find out of a pod's living containers which one is its sandbox, and ask their source for whoever they do not know. For
//! both a young pod is looked at often. All others are still who they were, and one that nobody has named within a minute is
//! looked at no more often than they are.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

/// How often names hear of all.
const ALL: Duration = Duration::from_secs(10);
/// How often they hear of pods that are young.
const YOUNG: Duration = Duration::from_secs(2);
/// So long a pod without all names is young: longer than any source is asked at short distances.
const YOUTH: Duration = Duration::from_mins(1);

/// Whom names are to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Everybody.
    All,
    /// The containers of those pods for which [`Unnamed::is_young`] is true.
    Young,
}

/// Pods of which somebody is new or lacks a name, by the uid in their cgroup, and since when.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    since: HashMap<Arc<str>, Instant, RandomState>,
    heard_of_all: Option<Instant>,
    heard: Option<Instant>,
}

impl Unnamed {
    /// Somebody of this pod is new.
    pub(super) fn born(&mut self, pod_uid: &Arc<str>, now: Instant) {
        self.since.insert(Arc::clone(pod_uid), now);
    }

    /// Whom names are to hear of now, if of anybody. Whoever asks tells them, and then what they have found.
    pub(super) fn due(&mut self, now: Instant) -> Option<Look> {
        let is_over = |last: Option<Instant>, distance| last.is_none_or(|last| now.duration_since(last) >= distance);
        if is_over(self.heard_of_all, ALL) {
            (self.heard_of_all, self.heard) = (Some(now), Some(now));
            return Some(Look::All);
        }
        let is_due = is_over(self.heard, YOUNG) && self.since.values().any(|since| is_young(*since, now));
        is_due.then(|| {
            self.heard = Some(now);
            Look::Young
        })
    }

    /// The pod is young and somebody of it may lack a name.
    pub(super) fn is_young(&self, pod_uid: &str, now: Instant) -> bool {
        self.since.get(pod_uid).is_some_and(|since| is_young(*since, now))
    }

    /// In that look those of these pods lacked a name, and nobody else.
    pub(super) fn found(&mut self, look: Look, lacking: impl IntoIterator<Item = Arc<str>>, now: Instant) {
        let mut before = std::mem::take(&mut self.since);
        for pod_uid in lacking {
            let since = before.get(&pod_uid).copied().unwrap_or(now);
            self.since.insert(pod_uid, since);
        }
        if look == Look::Young {
            before.retain(|_, since| !is_young(*since, now));
            before.extend(self.since.drain());
            self.since = before;
        }
    }
}

fn is_young(since: Instant, now: Instant) -> bool {
    now.duration_since(since) < YOUTH
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks within so many seconds, one question a second, where `lacking` tells who lacks a name by second.
    fn looks(births: &[(u64, &str)], seconds: u64, lacking: impl Fn(u64, &str) -> bool) -> Vec<(u64, Look)> {
        let (mut unnamed, start) = (Unnamed::default(), Instant::now());
        let mut looks = Vec::new();
        let mut known: Vec<Arc<str>> = Vec::new();
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            for (_, uid) in births.iter().filter(|(at, _)| *at == second) {
                let uid: Arc<str> = (*uid).into();
                unnamed.born(&uid, now);
                known.push(uid);
            }
            if let Some(look) = unnamed.due(now) {
                looks.push((second, look));
                let met = known.iter().filter(|uid| look == Look::All || unnamed.is_young(uid, now));
                let found: Vec<Arc<str>> = met.filter(|uid| lacking(second, uid)).cloned().collect();
                unnamed.found(look, found, now);
            }
        }
        looks
    }

    #[test]
    fn while_all_have_names_and_nobody_is_new_names_hear_of_all_every_ten_seconds_and_of_nobody_between() {
        let expected: Vec<_> = (0..6).map(|turn| (turn * 10, Look::All)).collect();
        assert_eq!(looks(&[(0, "a")], 60, |_, _| false), expected);
    }

    #[test]
    fn a_new_container_is_heard_of_soon_and_often_until_it_has_a_name() {
        let looks = looks(&[(13, "a")], 30, |second, _| second < 18);
        let young: Vec<u64> =
            looks.iter().filter(|(_, look)| *look == Look::Young).map(|(second, _)| *second).collect();
        assert_eq!(young, [13, 15, 17, 19]);
    }

    #[test]
    fn who_lacks_a_name_for_long_does_not_keep_everybody_awake() {
        let looks = looks(&[(0, "a"), (0, "b")], 200, |_, uid| uid == "a");
        let young = |from: u64, to: u64| {
            looks.iter().filter(|(second, look)| *look == Look::Young && (from..to).contains(second)).count()
        };
        assert_eq!((young(0, 60), young(60, 200)), (24, 0));
    }
}
