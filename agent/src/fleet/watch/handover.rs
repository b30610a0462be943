//! What is told across a change of leaders: nothing twice, and what may be lost is a number.
//!
//! Each replica notices each change for itself. The one that leads writes marks of what it is about to tell into the Lease, with a
//! renewal, and tells it once that is written. The others strike out what they find there. So whoever takes over has
//! left what nobody has told, and tells that with its first renewal.
//!
//! Marks make room for newer ones, and go after a while. The Lease says how many there ever were, so one that was away for too
//! long knows how many it has missed: what it has open then may have been told, and is not told again should it take over, but
//! counted as unsure.
//!
//! A mark says what has changed (which `DaemonSet`, which node, into what) and not when, so no two clocks are compared. [`Handover`]
//! is pure; [`Telling`] shares it between who notices and the Lease.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;

use crate::{backoff::hash, fleet::state::Change, signal::lock};

/// What waits to be told at most, as many events as a journal has.
const OPEN: usize = 4096;
/// What nobody has told after this time, though somebody could have, is given up.
const OPEN_FOR: Duration = Duration::from_mins(10);
/// A replica may be so far behind the leader.
const EARLY_FOR: Duration = Duration::from_mins(1);
/// Marks stand in the Lease for so long: others look every 2 s, and one that was cut off takes over later than that.
const MARKED_FOR: Duration = Duration::from_mins(2);
/// So many at most, 9 bytes each: a Lease with much more than 100 KB would be refused. Older ones make room.
const MARKS: usize = 4096;

/// A change, and when it was noticed.
#[derive(Clone, Debug, PartialEq)]
pub struct Noted {
    /// What has changed.
    pub change: Change,
    /// When that was noticed.
    pub at: SystemTime,
}

/// What one replica knows about what is told and what is not.
#[derive(Debug, Default)]
pub struct Handover {
    /// Noticed here and told by nobody, oldest first.
    open: VecDeque<Open>,
    /// How many have left the front of that.
    left: u64,
    /// Told by the leader and not noticed here yet.
    early: VecDeque<(Instant, u32)>,
    /// So many marks of the leader were missed, as of then; what they were of may be noticed later.
    missed: Option<(Instant, u64)>,
    /// What stands in the Lease, oldest first.
    marks: VecDeque<(Instant, u32)>,
    /// How many marks all leaders together have written.
    count: u64,
    /// The last so many may not have got through, if the leader ends now.
    unsure: u64,
    has_heard: bool,
    losses: Losses,
}

/// Noticed, and told by nobody as far as is known.
#[derive(Debug)]
struct Open {
    since: Instant,
    mark: u32,
    noted: Noted,
    /// The leader may have told it, with a mark that was missed.
    may_be_told: bool,
}

/// What was not told, or may not have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Too many waited, or nobody led for long.
    pub untold: u64,
    /// A leader vanished while it told them, or marks of it were missed before it did.
    pub unsure: u64,
}

impl Handover {
    /// Changes are noticed. What the leader has told already is done with.
    pub fn note(&mut self, changes: Vec<Change>, at: SystemTime, now: Instant) {
        self.tidy(now);
        for change in changes {
            let mark = mark(&change);
            if let Some(position) = self.early.iter().position(|(_, early)| *early == mark) {
                self.early.remove(position);
            } else {
                let may_be_told = self.missed.as_mut().is_some_and(|(_, left)| {
                    let is_left = *left > 0;
                    *left = left.saturating_sub(1);
                    is_left
                });
                self.open.push_back(Open { since: now, mark, noted: Noted { change, at }, may_be_told });
            }
        }
        self.tidy(now);
    }

    /// What another replica has written into the Lease.
    pub fn hear(&mut self, words: &str, now: Instant) {
        let Some(Words { count, unsure, marks }) = Words::read(words) else { return };
        // One that was made anew begins anew.
        let written = if count < self.count { count } else { count - self.count };
        let new = usize::try_from(written).unwrap_or(usize::MAX).min(marks.len());
        let missed = written - new as u64;
        for mark in marks.iter().skip(marks.len() - new) {
            if let Some(position) = self.open.iter().position(|open| open.mark == *mark) {
                self.open.remove(position);
            } else if self.has_heard {
                self.early.push_back((now, *mark));
            }
            // What was told before this replica began is no news to it.
            self.marks.push_back((now, *mark));
        }
        if self.has_heard && missed > 0 {
            self.missed = Some((now, missed));
            self.open.iter_mut().for_each(|open| open.may_be_told = true);
        }
        // The leader was there long enough to tell what it had not told by then.
        self.open.retain(|open| !(open.may_be_told && now.duration_since(open.since) >= EARLY_FOR));
        (self.count, self.unsure, self.has_heard) = (count, unsure, true);
        self.tidy(now);
    }

    /// What stands in the Lease under this replica's own name, of a life before or of a write that it never heard of.
    /// In both cases it has told nothing of that itself.
    pub fn resume(&mut self, words: &str, now: Instant) {
        let Some(Words { count, marks, .. }) = Words::read(words) else { return };
        self.marks = marks.into_iter().map(|mark| (now, mark)).collect();
        self.count = count;
    }

    /// What to write into the Lease: that everything open is about to be told; and up to which of all that ever was open
    /// that is. `unsent` is what was told and has not got through yet.
    pub fn words(&mut self, unsent: u64, now: Instant) -> (String, u64) {
        self.tidy(now);
        let before = self.open.len();
        self.open.retain(|open| !open.may_be_told);
        let open = self.open.len();
        self.losses.unsure += (before - open) as u64;
        let old = self.marks.iter().skip((self.marks.len() + open).saturating_sub(MARKS)).map(|(_, mark)| *mark);
        let marks: Vec<u32> = old.chain(self.open.iter().map(|open| open.mark)).collect();
        let words = Words { count: self.count + open as u64, unsure: unsent + open as u64, marks };
        (words.write(), self.left + open as u64)
    }

    /// The same of one that tells nothing more and sends what it has told.
    pub fn last_words(&mut self) -> String {
        Words { count: self.count, unsure: 0, marks: self.marks.iter().map(|(_, mark)| *mark).collect() }.write()
    }

    /// What is open up to this one stands in the Lease now and is to be told.
    pub fn written(&mut self, up_to: u64, now: Instant) -> Vec<Noted> {
        let open = usize::try_from(up_to.saturating_sub(self.left)).unwrap_or(usize::MAX).min(self.open.len());
        let told: Vec<_> = self.open.drain(..open).collect();
        self.count += told.len() as u64;
        self.left += told.len() as u64;
        self.unsure = 0;
        self.marks.extend(told.iter().map(|open| (now, open.mark)));
        told.into_iter().map(|open| open.noted).collect()
    }

    /// The leader has vanished, and this replica leads.
    pub fn take_over(&mut self) {
        self.losses.unsure += std::mem::take(&mut self.unsure);
    }

    /// What was lost so far.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.losses
    }

    fn tidy(&mut self, now: Instant) {
        let is_old = |since: Instant, most: Duration| now.duration_since(since) >= most;
        while self.open.front().is_some_and(|open| is_old(open.since, OPEN_FOR)) || self.open.len() > OPEN {
            self.open.pop_front();
            self.left += 1;
            self.losses.untold += 1;
        }
        self.missed = self.missed.filter(|(since, _)| !is_old(*since, EARLY_FOR));
        while self.early.front().is_some_and(|(since, _)| is_old(*since, EARLY_FOR)) || self.early.len() > MARKS {
            self.early.pop_front();
        }
        while self.marks.front().is_some_and(|(since, _)| is_old(*since, MARKED_FOR)) || self.marks.len() > MARKS {
            self.marks.pop_front();
        }
    }
}

/// What has changed, as every replica names it. What is around it, such as the state before, may differ between them.
fn mark(change: &Change) -> u32 {
    let ((namespace, name), what, where_to) = match change {
        Change::Lacks { daemon_set, node, lack } => (daemon_set, lack.reason.name(), node.as_str()),
        Change::Ends { daemon_set, node, .. } => (daemon_set, "ends", node.as_str()),
        Change::RollsOut { daemon_set, now, .. } => (daemon_set, now.name(), ""),
    };
    let hash = hash([namespace, name, what, where_to].join("\n").as_bytes());
    #[allow(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    let mark = (hash >> 32) as u32;
    mark
}

/// What stands in the Lease: how many marks there ever were, how many of the last ones may not have got through, and the last marks.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    count: u64,
    unsure: u64,
    marks: Vec<u32>,
}

impl Words {
    fn write(&self) -> String {
        let marks = self.marks.iter().map(|mark| format!(" {mark:08x}"));
        format!("{} {}", self.count, self.unsure) + &marks.collect::<String>()
    }

    fn read(words: &str) -> Option<Self> {
        let mut words = words.split(' ');
        let (count, unsure) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let marks = words.map(|mark| u32::from_str_radix(mark, 16)).collect::<Result<_, _>>().ok()?;
        Some(Self { count, unsure, marks })
    }
}

/// A [`Handover`] that is shared, and who is told.
pub struct Telling {
    handover: Mutex<Handover>,
    news: Notify,
    is_alone: bool,
    tell: Box<dyn Fn(Noted) + Send + Sync>,
    unsent: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Telling {
    /// `tell` hears each change once. Of a replica that is alone at once, else when the Lease says so. `unsent` says how
    /// many of those have not got through yet.
    pub fn new(
        is_alone: bool,
        tell: impl Fn(Noted) + Send + Sync + 'static,
        unsent: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            handover: Mutex::default(),
            news: Notify::new(),
            is_alone,
            tell: Box::new(tell),
            unsent: Box::new(unsent),
        }
    }

    /// Changes are noticed.
    pub fn note(&self, changes: Vec<Change>) {
        let at = SystemTime::now();
        if self.is_alone {
            for change in changes {
                (self.tell)(Noted { change, at });
            }
        } else {
            self.handover().note(changes, at, Instant::now());
            self.news.notify_one();
        }
    }

    /// What was lost so far.
    pub fn losses(&self) -> Losses {
        self.handover().losses()
    }

    /// Something waits to be told.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// What to write into the Lease, and up to where that is about to be told.
    pub(super) fn words(&self) -> (String, u64) {
        let unsent = (self.unsent)();
        self.handover().words(unsent, Instant::now())
    }

    pub(super) fn handover(&self) -> MutexGuard<'_, Handover> {
        lock(&self.handover)
    }

    /// What stands in the Lease now up to here is told.
    pub(super) fn written(&self, up_to: u64) {
        let told = self.handover().written(up_to, Instant::now());
        told.into_iter().for_each(&self.tell);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::fleet::causes::Reason;

    fn ends(node: &str) -> Change {
        let daemon_set = ("logs".to_owned(), "shipper".to_owned());
        Change::Ends { daemon_set, node: node.to_owned(), reason: Reason::Image }
    }

    /// Two replicas and the Lease between them.
    struct Pair {
        leader: Handover,
        other: Handover,
        lease: String,
        /// What the leader has told and not sent.
        unsent: u64,
        now: Instant,
    }

    impl Pair {
        fn new() -> Self {
            let (leader, other) = (Handover::default(), Handover::default());
            Self { leader, other, lease: String::new(), unsent: 0, now: Instant::now() }
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        /// The nodes of what the leader tells with a renewal.
        fn renew(&mut self) -> Vec<String> {
            let (words, up_to) = self.leader.words(self.unsent, self.now);
            self.lease = words;
            nodes(self.leader.written(up_to, self.now))
        }

        fn look(&mut self) {
            self.other.hear(&self.lease, self.now);
        }

        /// The other one leads now.
        fn take_over(&mut self, is_released: bool) {
            if is_released {
                self.lease = self.leader.last_words();
            }
            self.look();
            self.other.take_over();
            self.unsent = 0;
            std::mem::swap(&mut self.leader, &mut self.other);
        }
    }

    fn nodes(told: Vec<Noted>) -> Vec<String> {
        let node = |noted: Noted| match noted.change {
            Change::Ends { node, .. } => node,
            other => format!("{other:?}"),
        };
        told.into_iter().map(node).collect()
    }

    fn note(replica: &mut Handover, nodes: &[&str], now: Instant) {
        replica.note(nodes.iter().map(|node| ends(node)).collect(), SystemTime::UNIX_EPOCH, now);
    }

    #[test]
    fn whoever_takes_over_tells_what_the_one_before_has_not_and_nothing_else() {
        let mut pair = Pair::new();
        note(&mut pair.leader, &["a", "b"], pair.now);
        note(&mut pair.other, &["a", "b"], pair.now);
        assert_eq!(pair.renew(), ["a", "b"]);
        // One gets through.
        pair.unsent = 1;
        assert!(pair.renew().is_empty());
        // Noticed before the end and not written, and after it.
        note(&mut pair.leader, &["c"], pair.now);
        note(&mut pair.other, &["c"], pair.now);
        pair.pass(10);
        note(&mut pair.other, &["d"], pair.now);
        pair.take_over(false);
        assert_eq!(pair.renew(), ["c", "d"]);
        assert_eq!(pair.leader.losses(), Losses { untold: 0, unsure: 1 }, "b may not have got through");
        assert!(pair.renew().is_empty());
    }

    #[test]
    fn what_the_one_before_has_told_is_not_told_again_by_one_that_notices_it_later() {
        let mut pair = Pair::new();
        pair.renew();
        pair.look();
        note(&mut pair.leader, &["a"], pair.now);
        assert_eq!(pair.renew(), ["a"]);
        pair.take_over(true);
        note(&mut pair.leader, &["a", "a"], pair.now);
        assert_eq!(pair.renew(), ["a"], "once it was told, and it has happened twice");
        assert_eq!(pair.leader.losses(), Losses::default(), "a leader that is stopped sends what it has told");
    }

    #[test]
    fn what_has_got_through_is_sure_and_a_look_strikes_out_once() {
        let mut pair = Pair::new();
        for node in ["a", "b", "c"] {
            note(&mut pair.leader, &[node], pair.now);
            note(&mut pair.other, &[node], pair.now);
            assert_eq!(pair.renew(), [node]);
            pair.look();
            pair.look();
        }
        // The same once more is something new.
        note(&mut pair.other, &["a"], pair.now);
        assert!(pair.renew().is_empty());
        pair.take_over(false);
        assert_eq!(pair.renew(), ["a"]);
        assert_eq!(pair.leader.losses(), Losses::default());
        // And back: the numbers go on.
        note(&mut pair.other, &["a"], pair.now);
        pair.take_over(false);
        assert!(pair.renew().is_empty());
    }

    #[test]
    fn what_was_told_before_a_replica_began_may_happen_again() {
        let mut pair = Pair::new();
        note(&mut pair.leader, &["a", "b"], pair.now);
        pair.renew();
        // It began after one and before the other.
        note(&mut pair.other, &["b"], pair.now);
        pair.take_over(false);
        assert!(pair.renew().is_empty());
        note(&mut pair.leader, &["a"], pair.now);
        assert_eq!(pair.renew(), ["a"]);
    }

    #[test]
    fn a_write_that_its_writer_never_heard_of_is_told_by_the_writer() {
        let mut pair = Pair::new();
        note(&mut pair.leader, &["a"], pair.now);
        note(&mut pair.other, &["a"], pair.now);
        let (words, _) = pair.leader.words(0, pair.now);
        pair.lease = words;
        pair.look();
        let lease = pair.lease.clone();
        pair.leader.resume(&lease, pair.now);
        assert_eq!(pair.renew(), ["a"]);
        pair.take_over(true);
        assert!(pair.renew().is_empty());
    }

    #[test]
    fn what_waits_and_what_stands_in_the_lease_is_bounded_and_what_is_given_up_is_counted() {
        let mut pair = Pair::new();
        let many: Vec<String> = (0..OPEN + 10).map(|number| format!("n{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        note(&mut pair.leader, &many, pair.now);
        assert_eq!(pair.leader.losses().untold, 10);
        assert_eq!(pair.renew().len(), OPEN);
        note(&mut pair.leader, &["a"], pair.now);
        assert_eq!(pair.renew(), ["a"]);
        assert!(pair.lease.len() < 40_000, "{}", pair.lease.len());
        // What nobody tells.
        note(&mut pair.other, &["b"], pair.now);
        pair.pass(601);
        pair.look();
        assert_eq!(pair.other.losses().untold, 1);
        assert!(pair.renew().is_empty() && pair.lease == format!("{} 0", OPEN + 1), "{}", pair.lease);
    }

    #[test]
    fn what_is_noticed_or_given_up_while_the_lease_is_written_is_not_told_by_that() {
        let mut replica = Handover::default();
        let now = Instant::now();
        note(&mut replica, &["a", "b"], now);
        let (_, up_to) = replica.words(0, now);
        note(&mut replica, &["c"], now);
        let many: Vec<String> = (0..OPEN - 2).map(|number| format!("n{number}")).collect();
        note(&mut replica, &many.iter().map(String::as_str).collect::<Vec<_>>(), now);
        assert_eq!((nodes(replica.written(up_to, now)), replica.losses().untold), (vec!["b".to_owned()], 1));
    }

    /// Many marks at once, of which the first make room.
    fn storm(pair: &mut Pair, prefix: &str) {
        for part in 0..2 {
            let many: Vec<String> = (0..OPEN / 2 + 10).map(|number| format!("{prefix}{part}-{number}")).collect();
            let many: Vec<&str> = many.iter().map(String::as_str).collect();
            note(&mut pair.leader, &many, pair.now);
            pair.renew();
        }
    }

    #[test]
    fn what_may_have_been_told_while_marks_were_missed_is_counted_and_not_told_again() {
        let mut pair = Pair::new();
        pair.renew();
        pair.look();
        // Noticed by both in time; by the other one in time and late; by it alone.
        note(&mut pair.leader, &["a", "b"], pair.now);
        note(&mut pair.other, &["a"], pair.now);
        assert_eq!(pair.renew(), ["a", "b"]);
        storm(&mut pair, "n");
        // All of it has got through.
        pair.renew();
        note(&mut pair.other, &["c"], pair.now);
        pair.look();
        note(&mut pair.other, &["b", "n0-1"], pair.now);
        pair.take_over(false);
        assert!(pair.renew().is_empty(), "a, b and n0-1 were told, and c may have been");
        assert_eq!(pair.leader.losses().unsure, 4);
        // Once it leads, or a minute later, all is as ever.
        pair.pass(60);
        note(&mut pair.leader, &["b"], pair.now);
        assert_eq!(pair.renew(), ["b"]);
    }

    #[test]
    fn marks_that_were_missed_cost_nothing_while_the_leader_stays() {
        let mut pair = Pair::new();
        pair.renew();
        pair.look();
        note(&mut pair.leader, &["a"], pair.now);
        note(&mut pair.other, &["a", "c"], pair.now);
        pair.renew();
        storm(&mut pair, "n");
        pair.look();
        // It is told a moment later, and its mark is found.
        note(&mut pair.leader, &["c"], pair.now);
        pair.renew();
        pair.look();
        pair.pass(61);
        pair.look();
        note(&mut pair.other, &["d"], pair.now);
        pair.take_over(true);
        assert_eq!((pair.renew(), pair.leader.losses()), (vec!["d".to_owned()], Losses::default()));
    }

    #[test]
    fn words_that_make_no_sense_are_no_words() {
        for words in ["", "1", "a 0", "1 0 xyz", "1 0 "] {
            assert_eq!(Words::read(words), None, "{words:?}");
        }
        let words = Words { count: 7, unsure: 1, marks: vec![1, u32::MAX] };
        assert_eq!(Words::read(&words.write()), Some(words));
    }

    #[test]
    fn a_lease_that_was_made_anew_is_read_from_its_beginning() {
        let mut replica = Handover::default();
        let now = Instant::now();
        replica.hear("100 0", now);
        note(&mut replica, &["a"], now);
        let mut other = Handover::default();
        note(&mut other, &["a"], now);
        replica.hear(&other.words(0, now).0, now);
        assert_eq!(replica.words(0, now).1, 0);
    }
}
