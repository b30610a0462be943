//! When objects are listed and when they are watched, what follows from a failure, and when one is told. Pure: it hears what
//! happened and says what to ask for next. `api` goes by it for a node's pods, the fleet's watches for each kind of objects.
//!
//! | what happens | what follows |
//! | --- | --- |
//! | a watch ends, breaks off or falls silent | it is taken up where it was |
//! | the server is not reached, does not begin to answer, or cannot now | the same, however often: nothing speaks against the place where the watch was, and a list of a large cluster is hundreds of megabytes |
//! | watches that were granted break off, or are refused, three times in a row | a list: something there does not pass, or the place is one that the server does not say it has lost |
//! | the server has lost the place, or makes no sense | a list |
//! | a watch lasts for five first pauses | pauses and counts begin anew. Only the time since it was granted counts: a server that takes long to refuse is not well |
//! | a list fails, a watch is refused, or the second watch in a row fails | it is told. One watch that broke off is back in a moment |
//! | a place is lost | the list that follows tells. From the second one in a row, whatever was listed between, it is told, and a watch that is granted proves nothing before it has brought something |

use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::RequestError;
use crate::backoff::{Backoff, hash};

/// The server ends a watch after this time, and at most half as much again.
const WATCH_SECONDS: u64 = 300;
/// A watch that lasted so many first pauses was a success.
const LASTING_PAUSES: u32 = 5;
/// After so many watches in a row that cast doubt on where they were, the objects are listed again.
const DOUBTS: u32 = 3;

/// Where lists and watches of some objects stand.
#[derive(Debug)]
pub struct ListWatch {
    backoff: Backoff,
    lasting: Duration,
    watch_seconds: u64,
    /// Where the watch goes on.
    version: Option<String>,
    granted: Option<Instant>,
    /// Watches in a row that failed, and those of them that cast doubt on where they were.
    failures: u32,
    doubts: u32,
    /// Places in a row that were lost, whatever was listed between.
    losses: u32,
}

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// All objects.
    List,
    /// Changes, by this query.
    Watch(String),
}

/// What a failure says about the place where a watch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing: there was no answer, or the server cannot give one now.
    Away,
    /// The answer broke off or fell silent.
    Broken,
    /// The server does not want to.
    Refused,
    /// There is no such place any more, or no sense in what comes from there.
    Lost,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// As what it is counted: `list`, `watch`, or `stream` for a watch that was granted.
    pub counted: &'static str,
    /// It is a failure and no hiccup.
    pub is_told: bool,
    /// How long to wait.
    pub pause: Duration,
}

impl From<&RequestError> for Failure {
    fn from(error: &RequestError) -> Self {
        match error {
            RequestError::NoCredentials { .. }
            | RequestError::Unreachable { .. }
            | RequestError::Certificate { .. }
            | RequestError::Silent { .. } => Self::Away,
            RequestError::Refused { status, .. } if status.is_server_error() || status.as_u16() == 429 => Self::Away,
            RequestError::Refused { .. } => Self::Refused,
            RequestError::Broken { .. } => Self::Broken,
            RequestError::TooLong { .. } | RequestError::Garbage { .. } | RequestError::Gone { .. } => Self::Lost,
        }
    }
}

impl ListWatch {
    /// What counts a request, for the label `verb`.
    pub const VERBS: &[&'static str] = &["list", "watch", "stream"];

    /// Nothing is known yet. `seed` makes pauses differ, and watches end at other moments than others' do.
    #[must_use]
    pub fn new(first_pause: Duration, seed: &str) -> Self {
        Self {
            backoff: Backoff::new(first_pause, seed),
            lasting: first_pause * LASTING_PAUSES,
            watch_seconds: WATCH_SECONDS + hash(seed.as_bytes()) % (WATCH_SECONDS / 2),
            version: None,
            granted: None,
            failures: 0,
            doubts: 0,
            losses: 0,
        }
    }

    /// Whether a watch can go on from this version. The server's own versions are numbers; what else is printable it may
    /// understand.
    #[must_use]
    pub fn is_place(version: &str) -> bool {
        (1..=128).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// Places are lost again and again: a watch that is granted is no success yet.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.losses > 1
    }

    /// What is to be asked for now.
    pub fn ask(&mut self) -> Ask {
        self.granted = None;
        match &self.version {
            None => Ask::List,
            Some(version) => Ask::Watch(format!(
                "watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
                utf8_percent_encode(version, NON_ALPHANUMERIC),
                self.watch_seconds
            )),
        }
    }

    /// All objects are known as of this version.
    pub fn listed(&mut self, version: String) {
        self.version = Some(version);
        (self.failures, self.doubts) = (0, 0);
    }

    /// The server has begun to answer a watch.
    pub fn granted(&mut self, now: Instant) {
        self.granted = Some(now);
    }

    /// All changes are known up to this version.
    pub fn reached(&mut self, version: String) {
        self.version = Some(version);
    }

    /// The server has ended a watch; tells how long to wait. One that ends every watch at once is left alone for a while.
    pub fn ended(&mut self, now: Instant) -> Duration {
        let has_lasted = self.has_lasted(now);
        (self.failures, self.doubts, self.losses) = (0, 0, 0);
        if has_lasted { Duration::ZERO } else { self.backoff.pause(None) }
    }

    /// A list or a watch has failed; `wanted` is the pause that the server asks for.
    pub fn failed(&mut self, failure: Failure, wanted: Option<Duration>, now: Instant) -> Verdict {
        if self.has_lasted(now) {
            (self.failures, self.doubts, self.losses) = (0, 0, 0);
        }
        let pause = self.backoff.pause(wanted);
        if self.version.is_none() {
            return Verdict { counted: "list", is_told: true, pause };
        }
        // What is silent, or says that it cannot, after it began to answer has broken off.
        let failure = if failure == Failure::Away && self.granted.is_some() { Failure::Broken } else { failure };
        self.failures = self.failures.saturating_add(1);
        self.doubts = self.doubts.saturating_add(u32::from(failure != Failure::Away));
        self.losses = self.losses.saturating_add(u32::from(failure == Failure::Lost));
        if failure == Failure::Lost || self.doubts >= DOUBTS {
            self.version = None;
        }
        let counted = if self.granted.is_some() { "stream" } else { "watch" };
        let is_told = match failure {
            // The list that follows tells, unless it does not help.
            Failure::Lost => self.is_doubted(),
            Failure::Refused => true,
            Failure::Away | Failure::Broken => self.failures > 1,
        };
        Verdict { counted, is_told, pause }
    }

    /// The watch was a success, whatever has ended it: pauses begin anew.
    fn has_lasted(&mut self, now: Instant) -> bool {
        let has_lasted = self.granted.is_some_and(|granted| now.duration_since(granted) >= self.lasting);
        if has_lasted {
            self.backoff.reset();
        }
        has_lasted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::{
        Ask, Duration,
        Failure::{Away, Broken, Lost, Refused},
        Instant, ListWatch,
    };

    /// What happens next.
    enum Step {
        /// A list succeeds.
        Listed,
        /// The request itself fails, after so many seconds.
        Fails(super::Failure, u64),
        /// A watch is granted and fails so many seconds later.
        Breaks(super::Failure, u64),
        /// A watch is granted and ends so many seconds later.
        Ends(u64),
    }
    use Step::{Breaks, Ends, Fails, Listed};

    /// Each step with what is asked for before it, whether it is told, and the longest pause after it in seconds: the shortest
    /// is half of that. A first pause is a second, so that a watch has lasted after five.
    #[track_caller]
    fn check(steps: &[(Step, &str, bool, u64)]) {
        let (mut course, mut now) = (ListWatch::new(Duration::from_secs(1), "n1"), Instant::now());
        for (position, (step, asked, is_told, longest)) in steps.iter().enumerate() {
            let ask = course.ask();
            assert_eq!(if ask == Ask::List { "list" } else { "watch" }, *asked, "{position}");
            let mut granted = |course: &mut ListWatch, seconds: u64| {
                now += Duration::from_secs(20);
                course.granted(now);
                now += Duration::from_secs(seconds);
            };
            let (told, pause) = match step {
                Listed => {
                    course.listed("1".to_owned());
                    (false, Duration::ZERO)
                }
                Ends(seconds) => {
                    granted(&mut course, *seconds);
                    (false, course.ended(now))
                }
                Fails(failure, seconds) => {
                    now += Duration::from_secs(*seconds);
                    let verdict = course.failed(*failure, None, now);
                    assert_eq!(verdict.counted, *asked, "{position}");
                    (verdict.is_told, verdict.pause)
                }
                Breaks(failure, seconds) => {
                    granted(&mut course, *seconds);
                    let verdict = course.failed(*failure, None, now);
                    assert_eq!(verdict.counted, "stream", "{position}");
                    (verdict.is_told, verdict.pause)
                }
            };
            assert_eq!(told, *is_told, "{position}");
            let longest = Duration::from_secs(*longest);
            assert!(pause >= longest / 2 && pause <= longest, "{position}: {pause:?} of {longest:?}");
        }
    }

    #[test]
    fn a_list_that_fails_is_told_and_tried_again_with_growing_pauses_however_long_it_took() {
        check(&[
            (Fails(Away, 15), "list", true, 1),
            (Fails(Refused, 0), "list", true, 2),
            (Fails(Lost, 0), "list", true, 4),
            (Listed, "list", false, 0),
            (Ends(300), "watch", false, 0),
        ]);
    }

    #[test]
    fn a_watch_goes_on_where_it_was_and_one_break_is_no_failure() {
        check(&[
            (Listed, "list", false, 0),
            (Breaks(Broken, 60), "watch", false, 1),
            (Breaks(Away, 60), "watch", false, 1),
            (Breaks(Broken, 60), "watch", false, 1),
            (Breaks(Broken, 60), "watch", false, 1),
            (Ends(300), "watch", false, 0),
        ]);
    }

    #[test]
    fn a_server_that_is_away_is_told_at_the_second_attempt_and_costs_no_list() {
        check(&[
            (Listed, "list", false, 0),
            (Breaks(Broken, 300), "watch", false, 1),
            (Fails(Away, 0), "watch", true, 2),
            (Fails(Away, 15), "watch", true, 4),
            (Fails(Away, 15), "watch", true, 8),
            (Fails(Away, 0), "watch", true, 16),
            (Breaks(Broken, 300), "watch", false, 1),
        ]);
    }

    #[test]
    fn watches_that_do_not_last_break_off_thrice_and_then_all_is_listed() {
        for failure in [Broken, Away] {
            check(&[
                (Listed, "list", false, 0),
                (Breaks(failure, 1), "watch", false, 1),
                (Fails(Away, 15), "watch", true, 2),
                (Breaks(failure, 1), "watch", true, 4),
                (Breaks(failure, 1), "watch", true, 8),
                (Listed, "list", false, 0),
                (Breaks(failure, 1), "watch", false, 16),
            ]);
        }
    }

    #[test]
    fn a_refusal_is_told_at_once_and_the_third_one_leads_to_a_list() {
        check(&[
            (Listed, "list", false, 0),
            (Fails(Refused, 0), "watch", true, 1),
            (Fails(Refused, 0), "watch", true, 2),
            (Fails(Refused, 0), "watch", true, 4),
            (Listed, "list", false, 0),
            (Fails(Refused, 0), "watch", true, 8),
        ]);
    }

    #[test]
    fn a_lost_place_leads_to_a_list_at_once_and_not_to_a_quick_circle() {
        check(&[
            (Listed, "list", false, 0),
            (Breaks(Lost, 300), "watch", false, 1),
            (Listed, "list", false, 0),
            (Fails(Lost, 0), "watch", true, 2),
            (Listed, "list", false, 0),
            (Fails(Lost, 0), "watch", true, 4),
            (Fails(Away, 0), "list", true, 8),
        ]);
    }

    #[test]
    fn a_place_that_is_lost_again_and_again_is_told_until_a_watch_ends_well() {
        for lost in [|| Fails(Lost, 0), || Breaks(Lost, 0)] {
            check(&[
                (Listed, "list", false, 0),
                (lost(), "watch", false, 1),
                (Listed, "list", false, 0),
                (lost(), "watch", true, 2),
                (Listed, "list", false, 0),
                (lost(), "watch", true, 4),
                (Listed, "list", false, 0),
                (Ends(300), "watch", false, 0),
                (lost(), "watch", false, 1),
            ]);
        }
    }

    #[test]
    fn a_version_is_no_part_of_the_query_it_stands_in() {
        let mut course = ListWatch::new(Duration::from_secs(1), "n1");
        course.listed("5&fieldSelector=&limit=1#".to_owned());
        let Ask::Watch(query) = course.ask() else { panic!("a list") };
        assert!(query.contains("resourceVersion=5%26fieldSelector%3D%26limit%3D1%23&timeoutSeconds="), "{query}");
        for (version, is_place) in
            [("7", true), ("a-b_c", true), ("", false), ("7 x", false), ("7\n", false), ("é", false)]
        {
            assert_eq!(ListWatch::is_place(version), is_place, "{version:?}");
        }
    }

    #[test]
    fn a_place_that_was_lost_in_an_outage_is_not_told_once_more() {
        check(&[
            (Listed, "list", false, 0),
            (Breaks(Broken, 300), "watch", false, 1),
            (Fails(Away, 0), "watch", true, 2),
            (Breaks(Lost, 0), "watch", false, 4),
            (Listed, "list", false, 0),
        ]);
    }

    #[test]
    fn a_server_that_ends_every_watch_at_once_is_left_alone_for_a_while() {
        check(&[
            (Listed, "list", false, 0),
            (Ends(1), "watch", false, 1),
            (Ends(1), "watch", false, 2),
            (Ends(4), "watch", false, 4),
            (Ends(5), "watch", false, 0),
            (Ends(1), "watch", false, 1),
        ]);
    }

    #[test]
    fn a_watch_asks_from_the_version_that_was_reached_last() {
        let mut course = ListWatch::new(Duration::from_secs(1), "n1");
        course.listed("7".to_owned());
        course.reached("9".to_owned());
        let Ask::Watch(query) = course.ask() else { panic!("a list") };
        assert!(query.contains("resourceVersion=9&") && query.contains("allowWatchBookmarks=true"), "{query}");
        let seconds: u64 = query.rsplit('=').next().unwrap().parse().unwrap();
        assert!((300..450).contains(&seconds), "{query}");
        let wanted = Some(Duration::from_secs(20));
        assert_eq!(course.failed(Away, wanted, Instant::now()).pause, Duration::from_secs(20));
    }
}
