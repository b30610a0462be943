//! Which part of the kernel's tree a mounted tree is.
//!
//! An agent in a node that is itself a container (kind, k3d, Docker in Docker) sees that container's part alone, while the
//! kernel reports the births and removals of all cgroups, with paths from the kernel's own root. Where the part begins is told
//! by no file to a process in a cgroup namespace; the first birth inside the part tells it.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// The kernel's id of a tree's root, which is also the inode of the directory where all of the tree is mounted.
const ROOT_ID: u64 = 1;
/// What the link to the cgroup namespace says in the first one, where paths are those of the kernel.
const FIRST_NAMESPACE: &str = "cgroup:[4026531835]";

/// How much of the kernel's tree is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What lies below one cgroup.
    Part {
        /// That cgroup's path in the kernel's tree, once it is known.
        begins_at: Option<String>,
    },
}

impl Extent {
    /// What is mounted at `root`.
    pub(super) fn of(root: &Path) -> Self {
        match fs::metadata(root) {
            Ok(metadata) if metadata.ino() != ROOT_ID => Self::Part { begins_at: mount_root(root) },
            _ => Self::Whole,
        }
    }

    /// Where the cgroup at the kernel's `path` is in the mounted tree; none if it is outside of that. `is_at` tells whether
    /// it is the one at a path of the mounted tree.
    pub(super) fn localize(&mut self, path: &str, is_at: impl Fn(&str) -> bool) -> Option<String> {
        match self {
            Self::Whole => Some(path.to_owned()),
            Self::Part { begins_at: Some(begins_at) } => below(begins_at, path),
            Self::Part { begins_at } => {
                let mut ends = path.match_indices('/').filter_map(|(at, _)| path.split_at_checked(at));
                let (above, local) = ends.find(|(_, local)| is_at(local))?;
                // A path that a walk through the mounted tree has found tells nothing of where that begins.
                if !above.is_empty() {
                    *begins_at = Some(above.to_owned());
                }
                Some(local.to_owned())
            }
        }
    }
}

/// `path` as seen from the cgroup at `top`; none if it is not below that.
fn below(top: &str, path: &str) -> Option<String> {
    match path.strip_prefix(top)? {
        "" => Some("/".to_owned()),
        rest => rest.starts_with('/').then(|| rest.to_owned()),
    }
}

/// Where the part begins, as the table of mounts tells it in the first cgroup namespace; in any other one its paths are not
/// those of the kernel.
fn mount_root(root: &Path) -> Option<String> {
    let namespace = fs::read_link("/proc/self/ns/cgroup").ok()?;
    if namespace.to_str()? != FIRST_NAMESPACE {
        return None;
    }
    mounted_part(&fs::read_to_string("/proc/self/mountinfo").ok()?, root)
}

/// The root of what is mounted at `place`; of several mounts the last one is on top.
fn mounted_part(table: &str, place: &Path) -> Option<String> {
    let of_line = |line: &str| {
        let mut words = line.split(' ').skip(3);
        let (part, at) = (words.next()?, words.next()?);
        (Path::new(at) == place).then(|| part.to_owned())
    };
    table.lines().rev().find_map(of_line).filter(|part| !part.starts_with("/.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: &str = "/system.slice/docker-1.scope";

    fn part(begins_at: Option<&str>) -> Extent {
        Extent::Part { begins_at: begins_at.map(str::to_owned) }
    }

    #[track_caller]
    fn check(extent: &Extent, path: &str, exists: &str, expected: Option<&str>, then: &Extent) {
        let mut extent = extent.clone();
        assert_eq!(extent.localize(path, |local| local == exists).as_deref(), expected);
        assert_eq!(extent, *then);
    }

    #[test]
    fn in_a_whole_tree_each_path_is_as_the_kernel_tells_it() {
        check(&Extent::Whole, "/a/b", "", Some("/a/b"), &Extent::Whole);
    }

    #[test]
    fn where_the_part_begins_is_known_paths_are_cut_at_whole_names() {
        let known = part(Some(TOP));
        check(&known, &format!("{TOP}/a/b"), "", Some("/a/b"), &known);
        check(&known, TOP, "", Some("/"), &known);
        check(&known, &format!("{TOP}x/a"), "", None, &known);
        check(&known, "/system.slice/a.service", "/system.slice/a.service", None, &known);
        check(&known, "/", "", None, &known);
    }

    #[test]
    fn the_first_birth_inside_tells_where_the_part_begins() {
        check(&part(None), "/system.slice/a.service", "", None, &part(None));
        check(&part(None), &format!("{TOP}/a/b"), "/a/b", Some("/a/b"), &part(Some(TOP)));
        check(&part(None), "/a/b", "/a/b", Some("/a/b"), &part(None));
    }

    #[test]
    fn the_table_of_mounts_tells_a_bound_part() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            38 31 0:35 /docker/1 /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            41 31 0:38 /../other /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let check = |place: &str, expected: Option<&str>| {
            assert_eq!(mounted_part(table, Path::new(place)).as_deref(), expected, "{place}");
        };
        check("/sys/fs/cgroup/cpu", Some("/docker/1"));
        check("/sys/fs/cgroup/unified", None);
        check("/sys/fs/cgroup/memory", None);
    }
}
