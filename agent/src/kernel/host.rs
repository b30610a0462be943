//! What the node says about itself: kernel release and CPUs.

use std::{fmt, fs, io, path::Path};

use super::perf_event::{PerfEvent, Software};

/// Where the kernel lists its CPUs.
const DIRECTORY: &str = "/sys/devices/system/cpu";
/// CPUs that may come online after the start and are measured all the same.
const RESERVE: u32 = 8;

/// The running kernel's release, as `uname -r` prints it.
///
/// # Errors
/// `/proc` is not readable.
pub fn kernel_release() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|release| release.trim().to_owned())
}

/// Whether the kernel counts stalls (pressure stall information): it has the files only then, whatever it was built with.
#[must_use]
pub fn has_psi(proc: &Path) -> bool {
    proc.join("pressure/memory").exists()
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
    /// Those of this node, whatever a container is made to see of them: lxcfs and the like put a file of their own over the
    /// list of online CPUs, in which the container's share stands. Then the kernel itself is asked.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of_node() -> io::Result<Self> {
        let directory = Path::new(DIRECTORY);
        let told = Self::read(directory)?;
        let is_kernels = is_in_sysfs(&directory.join("online")).unwrap_or(false);
        Ok(if is_kernels { told } else { told.with_online(is_online) })
    }

    /// The same with what is online by another word; where that cannot be told, all CPUs may be.
    fn with_online(self, is_online: impl Fn(u32) -> io::Result<bool>) -> Self {
        let found = (0..self.possible).rev().find_map(|cpu| match is_online(cpu) {
            Ok(true) => Some(cpu + 1),
            Ok(false) => None,
            Err(_) => Some(self.possible),
        });
        Self { online: found.unwrap_or(self.possible), ..self }
    }

    /// Reads them from a directory like `/sys/devices/system/cpu`.
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

/// The CPUs of this node that are online, whatever a container is made to see of them: see [`Cpus::of_node`].
///
/// # Errors
/// As [`Cpus::read`].
pub fn online_cpus() -> io::Result<Vec<u32>> {
    let list = Path::new(DIRECTORY).join("online");
    if is_in_sysfs(&list).unwrap_or(false) {
        return Ok(cpus_of(&fs::read_to_string(list)?).collect());
    }
    let possible = Cpus::read(Path::new(DIRECTORY))?.possible;
    // One that cannot be asked for is not known to be there.
    Ok((0..possible).filter(|cpu| is_online(*cpu).unwrap_or(false)).collect())
}

/// How many memory nodes the machine can have, counted up to the highest, as `/sys/devices/system/node` tells it; 1 where the
/// kernel knows of none.
#[must_use]
pub fn memory_nodes(directory: &Path) -> u32 {
    let list = fs::read_to_string(directory.join("possible")).unwrap_or_default();
    last_cpu(&list).map_or(1, |last| last.saturating_add(1))
}

/// The file is the kernel's own.
fn is_in_sysfs(path: &Path) -> io::Result<bool> {
    /// `SYSFS_MAGIC` of linux/magic.h.
    const SYSFS: i64 = 0x6265_6572;
    Ok(rustix::fs::statfs(path)?.f_type == SYSFS)
}

/// Asks the kernel for a counter on this CPU, which it refuses for one that is offline.
fn is_online(cpu: u32) -> io::Result<bool> {
    match PerfEvent::open(Software::Nothing, cpu) {
        Ok(_) => Ok(true),
        Err(refusal) if refusal.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

fn last_cpu(list: &str) -> Option<u32> {
    cpus_of(list).last()
}

/// The CPUs of a list like `0-7,16-23`, in its order. What is no number is left out.
fn cpus_of(list: &str) -> impl Iterator<Item = u32> {
    list.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, io, path::Path};

    use super::{Cpus, cpus_of, has_psi, is_in_sysfs, is_online, last_cpu, online_cpus};

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
    fn a_kernel_that_has_no_pressure_files_counts_no_stalls() {
        let proc = tempfile::tempdir().unwrap();
        assert!(!has_psi(proc.path()));
        fs::create_dir(proc.path().join("pressure")).unwrap();
        fs::write(proc.path().join("pressure/memory"), "some\n").unwrap();
        assert!(has_psi(proc.path()));
    }

    #[test]
    fn what_is_no_list_of_cpus_is_refused_by_its_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("possible"), "0-3\n").unwrap();
        fs::write(directory.path().join("online"), "\n").unwrap();
        assert!(Cpus::read(directory.path()).unwrap_err().to_string().contains("online holds"));
    }

    #[test]
    fn a_list_that_is_not_the_kernels_has_no_say_in_what_is_online() {
        let told = Cpus { possible: 128, online: 2 };
        assert_eq!(told.with_online(|cpu| Ok(cpu < 64 && cpu != 7)), Cpus { online: 64, ..told });
        // Whoever cannot ask has room for all.
        assert_eq!(told.with_online(|_| Err(io::ErrorKind::PermissionDenied.into())), Cpus { online: 128, ..told });
        assert_eq!(told.with_online(|_| Ok(false)), Cpus { online: 128, ..told });
    }

    #[test]
    fn a_file_that_somebody_has_put_over_the_kernels_is_told_from_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_in_sysfs(file.path()).unwrap());
        assert!(is_in_sysfs(Path::new("/sys/devices/system/cpu/possible")).unwrap());
        assert!(is_in_sysfs(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn cpus_are_those_of_the_list_each_once() {
        for (list, cpus) in
            [("0\n", vec![0]), ("0-2,5,7-8\n", vec![0, 1, 2, 5, 7, 8]), ("", vec![]), ("x-3,1", vec![1])]
        {
            assert_eq!(cpus_of(list).collect::<Vec<u32>>(), cpus, "{list:?}");
        }
    }

    #[test]
    fn what_this_process_may_run_on_is_online() {
        let (online, allowed) = (online_cpus().unwrap(), std::thread::available_parallelism().unwrap().get());
        assert!(online.len() >= allowed, "{online:?}, and {allowed} are allowed");
        assert!(online.iter().all(|cpu| is_online(*cpu).is_ok_and(|is_online| is_online)), "{online:?}");
    }

    #[test]
    fn the_last_possible_cpu_is_the_largest_number_in_the_list() {
        for (list, last) in [("0\n", Some(0)), ("0-7\n", Some(7)), ("0-3,8-11\n", Some(11)), ("", None), ("x", None)] {
            assert_eq!(last_cpu(list), last, "{list:?}");
        }
    }
}
