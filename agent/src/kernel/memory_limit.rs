//! The memory that this process may use, by the limits of its own cgroup and those above. The kernel charges maps to it.

use std::{fs, path::Path};

/// A version 1 hierarchy without a limit tells the largest number of pages that there can be.
const UNLIMITED: u64 = 1 << 60;

/// The lowest limit in force, in bytes; none without one. `proc` is `/proc`, `root` is where this process sees its own
/// cgroup tree, `/sys/fs/cgroup`.
#[must_use]
pub fn read(proc: &Path, root: &Path) -> Option<u64> {
    let cgroups = fs::read_to_string(proc.join("self/cgroup")).ok()?;
    let lowest = cgroups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if controllers.is_empty() {
            of_v2(root, path)
        } else if controllers.split(',').any(|name| name == "memory") {
            of_v1(&root.join("memory"), path)
        } else {
            None
        }
    });
    lowest.min()
}

/// The lowest `memory.max` from a cgroup up to the root. A path that is not there is one of the host, while a container
/// sees its own cgroup as the root.
fn of_v2(root: &Path, path: &str) -> Option<u64> {
    let own = root.join(path.trim_start_matches('/'));
    let own = if own.is_dir() { own.as_path() } else { root };
    own.ancestors()
        .take_while(|directory| directory.starts_with(root))
        .filter_map(|directory| fs::read_to_string(directory.join("memory.max")).ok()?.trim().parse().ok())
        .min()
}

/// A version 1 cgroup tells the lowest limit by itself.
fn of_v1(root: &Path, path: &str) -> Option<u64> {
    let own = root.join(path.trim_start_matches('/'));
    let own = if own.is_dir() { own.as_path() } else { root };
    let stat = fs::read_to_string(own.join("memory.stat")).ok()?;
    let limit = stat.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "))?;
    limit.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::read;

    #[track_caller]
    fn check(cgroups: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let node = tempfile::tempdir().unwrap();
        let (proc, root) = (node.path().join("proc"), node.path().join("cgroup"));
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::write(proc.join("self/cgroup"), cgroups).unwrap();
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(read(&proc, &root), expected, "{cgroups:?} {files:?}");
    }

    #[test]
    fn the_lowest_limit_from_the_own_cgroup_up_counts() {
        let pod = ("pods/pod/memory.max", "100\n");
        check("0::/pods/pod/app\n", &[("pods/pod/app/memory.max", "200\n"), pod], Some(100));
        check("0::/pods/pod/app\n", &[("pods/pod/app/memory.max", "50\n"), pod], Some(50));
        check("0::/pods/pod/app\n", &[("pods/pod/app/memory.max", "max\n"), ("pods/pod/memory.max", "max\n")], None);
    }

    #[test]
    fn a_container_sees_its_own_cgroup_as_the_root() {
        check("0::/\n", &[("memory.max", "300\n")], Some(300));
        check("0::/kubepods/pod/app\n", &[("memory.max", "300\n")], Some(300));
        check("4:memory:/kubepods/pod\n0::/\n", &[("memory/memory.stat", "hierarchical_memory_limit 9\n")], Some(9));
    }

    #[test]
    fn version_1_tells_the_limit_of_the_hierarchy() {
        let stat = |limit: &str| format!("cache 1\nhierarchical_memory_limit {limit}\n");
        let (own, none) = (stat("400"), stat("9223372036854771712"));
        check("5:cpu,cpuacct:/a\n4:memory:/a\n0::/a\n", &[("memory/a/memory.stat", &own)], Some(400));
        check("4:memory:/a\n", &[("memory/a/memory.stat", &none)], None);
        check("", &[], None);
    }
}
