//! The kernel's files of one cgroup that this collector has read for it, and what their text says.

use std::time::{Duration, Instant};

use podlens_common::{
    cgroup::{CgroupKey, KEY_MARKS, KEY_V1},
    cpu::Bandwidth,
};

use super::figures::Figures;
use crate::kernel::cgroupfs::{
    files::{CgroupFile, FileReader, Source, TURN, Turn},
    hierarchies::{Hierarchies, Tree},
};

/// A quota is configuration, and where CPU time by mode is read alone, whoever asks every 10 s has it anew: every second turn is
/// enough.
const HOLDS: Duration = TURN.saturating_mul(2);
/// Billionths of a CPU.
const CPU: u64 = 1_000_000_000;

/// A cgroup's files, by the version of the tree that its CPU controller is in.
enum Files {
    V2 {
        stat: CgroupFile,
        max: CgroupFile,
    },
    V1 {
        stat: CgroupFile,
        quota: CgroupFile,
        period: CgroupFile,
        modes: Option<[CgroupFile; 2]>,
    },
    /// Those of version 1 that tell CPU time by mode.
    V1Modes([CgroupFile; 2]),
}

/// What is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All, for an entity's own cgroup.
    All,
    /// All but CPU time by mode.
    Quota,
    /// CPU time by mode alone: the walk tells the rest.
    Modes,
}

/// The files of a cgroup and what decides which of them are read: most cgroups have no quota, and what one without a
/// quota cannot have is not read.
pub(super) struct CpuFiles {
    files: Files,
    wanted: Wanted,
    since: Instant,
    /// The quota as it was read last, and when that was.
    limit: Option<u64>,
    limit_read: Option<Instant>,
    /// There was a quota once.
    had_quota: bool,
}

impl CpuFiles {
    /// The files of a cgroup; none if its tree is not the CPU controller's.
    pub(super) fn of(
        hierarchies: &Hierarchies,
        reader: &FileReader,
        key: CgroupKey,
        path: &str,
        wanted: Wanted,
    ) -> Option<Self> {
        if key & KEY_MARKS != hierarchies.cpu_mark() {
            return None;
        }
        let tree = hierarchies.keyed(key)?;
        let file = |tree: &Tree, name: &str| reader.file(tree.directory(path).join(name));
        let files = if key & KEY_V1 == 0 {
            Files::V2 { stat: file(tree, "cpu.stat"), max: file(tree, "cpu.max") }
        } else {
            // Two files and not cpuacct.usage_all, which costs as much as both on 2 CPUs and more with each further one.
            let modes = hierarchies
                .v1("cpuacct")
                .map(|tree| ["cpuacct.usage_user", "cpuacct.usage_sys"].map(|name| file(tree, name)));
            if wanted == Wanted::Modes {
                Files::V1Modes(modes?)
            } else {
                let [stat, quota, period] =
                    ["cpu.stat", "cpu.cfs_quota_us", "cpu.cfs_period_us"].map(|name| file(tree, name));
                Files::V1 { stat, quota, period, modes }
            }
        };
        let since = Instant::now();
        Some(Self { files, wanted, since, limit: None, limit_read: None, had_quota: false })
    }
}

impl Source for CpuFiles {
    type Value = Figures;

    fn read(&mut self, turn: &mut Turn) -> Figures {
        if self.wanted == Wanted::Modes {
            return Figures { mode_ns: self.files.read(true, false, turn).mode_ns, ..Figures::default() };
        }
        if is_due(self.since, self.limit_read, turn.now) {
            self.limit_read = Some(turn.now);
            self.limit = self.files.read_limit(turn);
        }
        self.had_quota |= self.limit.is_some();
        let told = self.files.read(self.wanted == Wanted::All, self.had_quota, turn);
        self.had_quota |= told.bandwidth.is_some_and(|bandwidth| bandwidth.periods > 0);
        Figures { limit: self.limit, ..told }
    }

    fn rest(&self, now: Instant) -> u32 {
        u32::from(self.wanted == Wanted::Modes && now.duration_since(self.since) >= HOLDS)
    }
}

/// It has to be read again. The runtime of a new cgroup is still setting it up. Turns come a moment sooner or
/// later, so half of one is granted.
fn is_due(since: Instant, read: Option<Instant>, now: Instant) -> bool {
    read.is_none_or(|read| read.duration_since(since) < HOLDS || now.duration_since(read) + TURN / 2 >= HOLDS)
}

impl Files {
    /// What the quota allows at most; none without one.
    fn read_limit(&mut self, turn: &mut Turn) -> Option<u64> {
        match self {
            Self::V2 { max, .. } => max.read(turn, parse_max).flatten(),
            Self::V1 { quota, period, .. } => {
                // -1 stands for no quota, and is no number here.
                let quota = quota.read(turn, parse_number).flatten()?;
                cpus(quota, period.read(turn, parse_number).flatten()?)
            }
            Self::V1Modes(_) => None,
        }
    }

    /// Reads what is wanted, but for the limit.
    fn read(&mut self, wants_modes: bool, wants_bandwidth: bool, turn: &mut Turn) -> Figures {
        let is_v2 = matches!(self, Self::V2 { .. });
        let (stat, modes) = match self {
            Self::V2 { stat, .. } => (Some(stat), None),
            Self::V1 { stat, modes, .. } => (Some(stat), modes.as_mut()),
            Self::V1Modes(modes) => (None, Some(modes)),
        };
        let stat = stat.filter(|_| wants_bandwidth || wants_modes && is_v2);
        let told = stat.and_then(|stat| stat.read(turn, parse_stat)).unwrap_or_default();
        if is_v2 {
            return told;
        }
        let mode_ns = modes.filter(|_| wants_modes).and_then(|[user, system]| {
            Some([user.read(turn, parse_number).flatten()?, system.read(turn, parse_number).flatten()?])
        });
        Figures { mode_ns, ..told }
    }
}

/// Both versions' cpu.stat: version 1 has no modes and counts in nanoseconds.
fn parse_stat(text: &str) -> Figures {
    let [mut user, mut system, mut periods, mut throttled_periods, mut throttled_ns] = [None; 5];
    for line in text.lines() {
        let Some((key, number)) = line.split_once(' ') else { continue };
        let in_ns = || number.trim().parse::<u64>().ok()?.checked_mul(1000);
        match key {
            "user_usec" => user = in_ns(),
            "system_usec" => system = in_ns(),
            "nr_periods" => periods = parse_number(number),
            "nr_throttled" => throttled_periods = parse_number(number),
            "throttled_usec" => throttled_ns = in_ns(),
            "throttled_time" => throttled_ns = parse_number(number),
            _ => {}
        }
    }
    let mode_ns = user.zip(system).map(|(user, system)| [user, system]);
    let bandwidth = periods.zip(throttled_periods).zip(throttled_ns);
    let bandwidth = bandwidth.map(|((periods, throttled_periods), throttled_ns)| Bandwidth {
        periods,
        throttled_periods,
        throttled_ns,
    });
    Figures { mode_ns, bandwidth, ..Figures::default() }
}

/// `QUOTA PERIOD` in microseconds; the quota is `max` where there is none.
fn parse_max(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    cpus(quota.parse().ok()?, period.parse().ok()?)
}

fn parse_number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Quota by period in billionths of a CPU.
pub(super) fn cpus(quota: u64, period: u64) -> Option<u64> {
    let billionths = u128::from(quota) * u128::from(CPU);
    u64::try_from(billionths.checked_div(u128::from(period))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Figures) {
        assert_eq!(parse_stat(text), expected);
    }

    const QUOTA: Option<Bandwidth> = Some(Bandwidth { periods: 7, throttled_periods: 3, throttled_ns: 9000 });

    #[test]
    fn both_versions_of_cpu_stat_say_the_same_in_their_own_units() {
        check(
            "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 7\nnr_throttled 3\nthrottled_usec 9\nnr_bursts 0\n",
            Figures { mode_ns: Some([10_000, 20_000]), bandwidth: QUOTA, ..Figures::default() },
        );
        check(
            "nr_periods 7\nnr_throttled 3\nthrottled_time 9000\n",
            Figures { bandwidth: QUOTA, ..Figures::default() },
        );
    }

    #[test]
    fn what_a_file_does_not_say_is_not_known() {
        check(
            "usage_usec 30\nuser_usec 10\nsystem_usec 20\n",
            Figures { mode_ns: Some([10_000, 20_000]), ..Figures::default() },
        );
        check("nr_periods 7\nnr_throttled 3\n", Figures::default());
        check("nr_periods x\n", Figures::default());
        check("", Figures::default());
    }

    #[test]
    fn a_quota_is_a_number_of_cpus_and_max_is_none() {
        for (text, expected) in [
            ("max 100000\n", None),
            ("20000 100000\n", Some(200_000_000)),
            ("250000 100000\n", Some(2_500_000_000)),
            ("10000 30000\n", Some(333_333_333)),
            ("1 0\n", None),
            ("", None),
        ] {
            assert_eq!(parse_max(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_quota_is_read_at_each_look_while_the_cgroup_is_new_and_then_every_second_turn() {
        let check = |read_ms: Option<u64>, now_ms, expected| {
            let since = Instant::now();
            let at = |ms| since + Duration::from_millis(ms);
            let due = is_due(since, read_ms.map(at), at(now_ms));
            assert_eq!(due, expected, "read at {read_ms:?} ms, now {now_ms} ms");
        };
        check(None, 60_000, true);
        check(Some(0), 250, true);
        check(Some(9_000), 10_000, true);
        check(Some(10_000), 15_010, false);
        check(Some(10_000), 19_990, true);
        check(Some(10_000), 20_000, true);
    }
}
