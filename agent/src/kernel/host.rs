//! What the node says about itself: kernel release and CPUs.

use std::{fmt, fs, io, path::Path};

/// CPUs that may come online after the start and are measured all the same.
const RESERVE: u32 = 8;

/// The running kernel's release, as `uname -r` prints it.
///
/// # Errors
/// `/proc` is not readable.
pub fn kernel_release() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|release| release.trim().to_owned())
}

/// The node's CPUs. Numbers are counted from 0 up to the highest, whether each of them exists or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// CPUs that can ever be online. The kernel's own maps for each CPU have room for them.
    pub possible: u32,
    /// CPUs up to the highest that is online.
    pub online: u32,
}

impl Cpus {
    /// Reads them from `/sys/devices/system/cpu`.
    ///
    /// # Errors
    /// A file cannot be read or is not of the form `0-7,16-23`.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let count = |name| {
            let path = directory.join(name);
            let list = fs::read_to_string(&path)?;
            last_cpu(&list)
                .map(|last| last + 1)
                .ok_or_else(|| io::Error::other(format!("{} holds {list:?}, not a list of CPUs", path.display())))
        };
        Ok(Self { possible: count("possible")?, online: count("online")? })
    }

    /// For how many CPUs the programs have room: many machines tell of CPUs that never come.
    #[must_use]
    pub fn measured(self) -> u32 {
        self.online.saturating_add(RESERVE).min(self.possible)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { possible, online } = self;
        write!(formatter, "{possible} possible, {online} up to the highest online, room for {}", self.measured())
    }
}

/// How many memory nodes the machine can have, counted up to the highest, as `/sys/devices/system/node` tells it; 1 where the
/// kernel knows of none.
#[must_use]
pub fn memory_nodes(directory: &Path) -> u32 {
    let list = fs::read_to_string(directory.join("possible")).unwrap_or_default();
    last_cpu(&list).map_or(1, |last| last.saturating_add(1))
}

fn last_cpu(list: &str) -> Option<u32> {
    list.trim().split(',').filter_map(|range| range.split('-').next_back()?.parse().ok()).max()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::{Cpus, last_cpu};

    #[test]
    fn cpus_that_are_far_from_coming_get_no_room() {
        for (possible, online, measured) in
            [("0-127", "0-3", 12), ("0-127", "0,2-63", 72), ("0-127", "0-127", 128), ("0-3", "0", 4), ("0", "0", 1)]
        {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("possible"), format!("{possible}\n")).unwrap();
            fs::write(directory.path().join("online"), format!("{online}\n")).unwrap();
            let cpus = Cpus::read(directory.path()).unwrap();
            assert_eq!(cpus.measured(), measured, "{cpus}");
        }
    }

    #[test]
    fn what_is_no_list_of_cpus_is_refused_by_its_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("possible"), "0-3\n").unwrap();
        fs::write(directory.path().join("online"), "\n").unwrap();
        assert!(Cpus::read(directory.path()).unwrap_err().to_string().contains("online holds"));
    }

    #[test]
    fn the_last_possible_cpu_is_the_largest_number_in_the_list() {
        for (list, last) in [("0\n", Some(0)), ("0-7\n", Some(7)), ("0-3,8-11\n", Some(11)), ("", None), ("x", None)] {
            assert_eq!(last_cpu(list), last, "{list:?}");
        }
    }
}
