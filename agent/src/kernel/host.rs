//! What the node says about itself: kernel release, CPUs, memory pages.

use std::{fs, io, path::Path};

/// The running kernel's release, as `uname -r` prints it.
///
/// # Errors
/// `/proc` is not readable.
pub fn kernel_release() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|release| release.trim().to_owned())
}

/// The number of CPUs that can ever be online, which sizes what the programs keep for each CPU.
///
/// # Errors
/// The file cannot be read or is not of the form `0-7,16-23`.
pub fn possible_cpus() -> io::Result<u32> {
    let path = Path::new("/sys/devices/system/cpu/possible");
    let list = fs::read_to_string(path)?;
    last_cpu(&list)
        .map(|last| last + 1)
        .ok_or_else(|| io::Error::other(format!("{} holds {list:?}, not a list of CPUs", path.display())))
}

fn last_cpu(list: &str) -> Option<u32> {
    list.trim().split(',').filter_map(|range| range.split('-').next_back()?.parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::last_cpu;

    #[test]
    fn the_last_possible_cpu_is_the_largest_number_in_the_list() {
        for (list, last) in [("0\n", Some(0)), ("0-7\n", Some(7)), ("0-3,8-11\n", Some(11)), ("", None), ("x", None)] {
            assert_eq!(last_cpu(list), last, "{list:?}");
        }
    }
}
