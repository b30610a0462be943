//! Who scrapes, and which snapshot everyone has had. Pure.
//!
//! Scrapers are told apart by address. Several may share one: replicas of Prometheus behind a translating router or a
//! proxy. A page for one of them says nothing about the others, and a pod's last values are wanted by all. But each of
//! them comes once per its interval: what was first delivered longer ago than that, all have had. Nobody tells the interval,
//! so it is taken from the gaps between deliveries to the address: with two scrapers, one of two gaps in a row is at least
//! half an interval.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

/// Gaps that are remembered per address.
const GAPS: usize = 8;
/// The longest gap is taken this often: enough for two scrapers of one interval.
const SHARERS: u32 = 2;
/// Deliveries that are remembered per address. Beyond them the newest ones wait a little longer.
const DELIVERIES: usize = 128;
/// Addresses that are remembered. Beyond them all count as one scraper each.
const ADDRESSES: usize = 64;

/// All addresses that scraped of late.
#[derive(Debug)]
pub(super) struct Scrapers {
    longest: Duration,
    known: HashMap<IpAddr, Scraper>,
}

#[derive(Debug, Default)]
struct Scraper {
    last: Option<Instant>,
    gaps: VecDeque<Duration>,
    /// When a snapshot was first delivered, the oldest first.
    delivered: VecDeque<(Instant, u64)>,
    /// What all have had.
    acknowledged: u64,
}

impl Scrapers {
    /// Final values wait for `linger` at most, so a longer gap is none.
    pub(super) fn new(linger: Duration) -> Self {
        Self { longest: linger, known: HashMap::new() }
    }

    /// The address got the whole page of a snapshot. The newest snapshot that everyone behind it has had: 0 before there is
    /// one.
    pub(super) fn delivered(&mut self, address: IpAddr, sequence: u64, now: Instant) -> u64 {
        let longest = self.longest;
        self.known.retain(|_, scraper| scraper.last.is_some_and(|last| now.duration_since(last) < longest));
        if self.known.len() >= ADDRESSES && !self.known.contains_key(&address) {
            return sequence;
        }
        self.known.entry(address).or_default().delivered(sequence, now, longest)
    }
}

impl Scraper {
    fn delivered(&mut self, sequence: u64, now: Instant, longest: Duration) -> u64 {
        if let Some(last) = self.last.replace(now) {
            self.gaps.push_back(now.duration_since(last));
            if self.gaps.len() > GAPS {
                self.gaps.pop_front();
            }
        }
        let is_newer = self.delivered.back().is_none_or(|(_, newest)| *newest < sequence);
        if is_newer && self.delivered.len() < DELIVERIES {
            self.delivered.push_back((now, sequence));
        }
        let Some(gap) = self.gaps.iter().max() else { return self.acknowledged };
        // With the last values held for longer than half of the time that they may wait, the next delivery could be too late.
        let interval = (*gap * SHARERS).min(longest / 2);
        while let Some((_, sequence)) = self.delivered.pop_front_if(|(at, _)| now.duration_since(*at) >= interval) {
            self.acknowledged = sequence;
        }
        self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        time::{Duration, Instant},
    };

    use super::{ADDRESSES, Scrapers};

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// What is acknowledged at each of the seconds, with a new snapshot for each.
    fn acknowledged(linger_s: u64, seconds: &[u64]) -> Vec<u64> {
        let mut scrapers = Scrapers::new(Duration::from_secs(linger_s));
        let began = Instant::now();
        let numbered = (1..).zip(seconds);
        numbered.map(|(at, s)| scrapers.delivered(ADDRESS, at, began + Duration::from_secs(*s))).collect()
    }

    #[test]
    fn one_scraper_has_a_snapshot_once_it_came_twice_more() {
        assert_eq!(acknowledged(300, &[0, 15, 30, 45, 60]), [0, 0, 1, 2, 3]);
    }

    #[test]
    fn of_two_behind_one_address_both_have_had_what_is_acknowledged() {
        for offset in 1..15 {
            let seconds: Vec<u64> = (0..20).flat_map(|round| [round * 15, round * 15 + offset]).collect();
            for (at, acknowledged) in acknowledged(300, &seconds).into_iter().enumerate().skip(2) {
                // Deliveries take turns, so the one after is the other's.
                assert!(acknowledged < at as u64 + 1, "offset {offset}, delivery {at}");
                assert!(at < 8 || acknowledged > 0, "offset {offset}: it goes on");
            }
        }
    }

    #[test]
    fn a_long_interval_does_not_make_final_values_expire() {
        assert_eq!(acknowledged(300, &[0, 180, 360, 540]), [0, 1, 2, 3]);
        // Away for so long that nobody waited.
        assert_eq!(acknowledged(300, &[0, 15, 30, 1000, 1015]), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn addresses_beyond_the_limit_have_what_they_got() {
        let mut scrapers = Scrapers::new(Duration::from_mins(5));
        let now = Instant::now();
        for number in 0..u32::try_from(ADDRESSES).unwrap_or_default() {
            assert_eq!(scrapers.delivered(Ipv4Addr::from(number).into(), 7, now), 0);
        }
        assert_eq!(scrapers.delivered(Ipv4Addr::from(1 << 20).into(), 7, now), 7);
    }
}
