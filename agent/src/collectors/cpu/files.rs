//! The kernel's files of one cgroup: kept open and read anew from their beginning, and what their text says.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use podlens_common::{
    cgroup::{CgroupKey, KEY_V1},
    cpu::Bandwidth,
};

use crate::kernel::hierarchy::Hierarchies;

/// Longer than any of the files.
const TEXT_BYTES: usize = 1024;
/// Billionths of a CPU.
const CPU: u64 = 1_000_000_000;

/// How many more files may be kept open; those beyond are opened for each reading.
#[derive(Debug)]
pub(super) struct Room(pub(super) usize);

/// One file.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: Option<File>,
}

/// A cgroup's files, by the version of the tree that its CPU controller is in.
#[derive(Debug)]
pub(super) enum Files {
    V2(Box<[Source; 2]>),
    V1(Box<[Source; 3]>, Option<Box<[Source; 2]>>),
}

/// What of the files is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// CPU time by mode.
    pub(super) modes: bool,
    /// What a quota did.
    pub(super) bandwidth: bool,
}

/// What the files say; what a file does not say, or a file that is not there, is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) mode_ns: Option<[u64; 2]>,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) limit: Option<u64>,
}

impl Files {
    /// The files of a cgroup; none if its tree is not the CPU controller's.
    pub(super) fn of(hierarchies: &Hierarchies, key: CgroupKey, path: &str) -> Option<Self> {
        if (key & KEY_V1 != 0) != hierarchies.v1.is_some() {
            return None;
        }
        let directory = hierarchies.directory(key, path)?;
        if key & KEY_V1 == 0 {
            return Some(Self::V2(Box::new(sources(&directory, ["cpu.stat", "cpu.max"]))));
        }
        let accounting = hierarchies.v1_cpuacct.as_ref().map(|root| root.join(path.trim_start_matches('/')));
        let modes = accounting.map(|of| Box::new(sources(&of, ["cpuacct.usage_user", "cpuacct.usage_sys"])));
        let quota = sources(&directory, ["cpu.stat", "cpu.cfs_quota_us", "cpu.cfs_period_us"]);
        Some(Self::V1(Box::new(quota), modes))
    }

    /// What the quota allows at most; none without one.
    pub(super) fn read_limit(&mut self, room: &mut Room) -> Option<u64> {
        match self {
            Self::V2(files) => {
                let [_, max] = &mut **files;
                max.read(room, parse_max).flatten()
            }
            Self::V1(files, _) => {
                let [_, quota, period] = &mut **files;
                // -1 stands for no quota, and is no number here.
                let quota = quota.read(room, parse_number).flatten()?;
                cpus(quota, period.read(room, parse_number).flatten()?)
            }
        }
    }

    /// Reads what is wanted, but for the limit.
    pub(super) fn read(&mut self, wanted: Wanted, room: &mut Room) -> Figures {
        match self {
            Self::V2(files) => {
                let [stat, _] = &mut **files;
                let told = if wanted.modes || wanted.bandwidth { stat.read(room, parse_stat) } else { None };
                told.unwrap_or_default()
            }
            Self::V1(files, modes) => {
                let [stat, ..] = &mut **files;
                let told = if wanted.bandwidth { stat.read(room, parse_stat) } else { None };
                let mode_ns = modes.as_mut().filter(|_| wanted.modes).and_then(|modes| {
                    let [user, system] = &mut **modes;
                    Some([user.read(room, parse_number).flatten()?, system.read(room, parse_number).flatten()?])
                });
                Figures { mode_ns, ..told.unwrap_or_default() }
            }
        }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        let count = |sources: &[Source]| sources.iter().filter(|source| source.file.is_some()).count();
        match self {
            Self::V2(files) => count(&**files),
            Self::V1(files, modes) => count(&**files) + modes.as_ref().map_or(0, |modes| count(&**modes)),
        }
    }
}

fn sources<const N: usize>(directory: &Path, names: [&str; N]) -> [Source; N] {
    names.map(|name| Source { path: directory.join(name), file: None })
}

impl Source {
    /// What `parse` makes of the file as it is now; none if it cannot be read.
    fn read<T>(&mut self, room: &mut Room, parse: impl Fn(&str) -> T) -> Option<T> {
        let mut buffer = [0; TEXT_BYTES];
        if let Some(file) = &self.file {
            if let Ok(bytes) = file.read_at(&mut buffer, 0) {
                return text(&buffer, bytes).map(parse);
            }
            // The cgroup is gone, or its controller was switched off and may come back.
            self.file = None;
            room.0 += 1;
        }
        let file = File::open(&self.path).ok()?;
        let bytes = file.read_at(&mut buffer, 0).ok()?;
        if room.0 > 0 {
            room.0 -= 1;
            self.file = Some(file);
        }
        text(&buffer, bytes).map(parse)
    }
}

fn text(buffer: &[u8], bytes: usize) -> Option<&str> {
    std::str::from_utf8(buffer.get(..bytes)?).ok()
}

/// Both versions' cpu.stat: version 1 has no modes and counts in nanoseconds.
fn parse_stat(text: &str) -> Figures {
    let number = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    let in_ns = |key: &str| number(key).map(|us| us * 1000);
    let throttled_ns = in_ns("throttled_usec").or_else(|| number("throttled_time"));
    let mode_ns = in_ns("user_usec").zip(in_ns("system_usec")).map(|(user, system)| [user, system]);
    let bandwidth = number("nr_periods").zip(number("nr_throttled")).zip(throttled_ns);
    let bandwidth = bandwidth.map(|((periods, throttled_periods), throttled_ns)| Bandwidth {
        periods,
        throttled_periods,
        throttled_ns,
    });
    Figures { mode_ns, bandwidth, limit: None }
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
fn cpus(quota_us: u64, period_us: u64) -> Option<u64> {
    let billionths = u128::from(quota_us) * u128::from(CPU);
    u64::try_from(billionths.checked_div(u128::from(period_us))?).ok()
}

/// Lets this process keep as many files open as it may, and tells how many of them a collector can have.
pub(super) fn room() -> io::Result<Room> {
    /// For connections, maps and whatever else.
    const OTHERS: usize = 512;
    let most = crate::kernel::process::raise_file_limit()?;
    Ok(Room(most.saturating_sub(OTHERS)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs;

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
            Figures { mode_ns: Some([10_000, 20_000]), bandwidth: QUOTA, limit: None },
        );
        check(
            "nr_periods 7\nnr_throttled 3\nthrottled_time 9000\n",
            Figures { mode_ns: None, bandwidth: QUOTA, limit: None },
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
    fn a_file_is_kept_open_while_there_is_room_and_read_anew_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        for (mut room, kept) in [(Room(1), 1), (Room(0), 0)] {
            let [mut source] = sources(directory.path(), ["number"]);
            assert_eq!(source.read(&mut room, parse_number), None, "not there yet");
            for number in [5, 70_000] {
                fs::write(&path, format!("{number}\n")).unwrap();
                assert_eq!(source.read(&mut room, parse_number), Some(Some(number)));
            }
            assert_eq!((source.file.is_some(), room.0), (kept == 1, 0));
            fs::remove_file(&path).unwrap();
        }
    }
}
