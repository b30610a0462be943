//! The cgroup below which the cluster's kubelet puts all its pods, in each hierarchy of this machine. So no group
//! but the cluster's own is ever touched, and another kubelet, or a test with groups like a kubelet's, is not in
//! the way. Called by [`super::node`].

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// kubelet's `cgroupRoot`.
pub(crate) const CGROUP_ROOT: &str = "/podlens-cluster";

const MOUNT: &str = "/sys/fs/cgroup";
/// Controllers that kubelet wants in its root; a group has those that its parent enables.
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// Makes the group in each hierarchy.
pub(crate) fn make() -> Result<()> {
    for group in groups()? {
        fs::create_dir(&group).with_context(|| format!("cannot make the cgroup {}", group.display()))?;
    }
    let unified = Path::new(MOUNT).join("cgroup.subtree_control");
    if unified.exists() {
        for controller in CONTROLLERS {
            fs::write(&unified, format!("+{controller}"))
                .with_context(|| format!("cannot enable {controller} in {}", unified.display()))?;
        }
    }
    Ok(())
}

/// Removes the groups and all below them. Fails while a process is in one.
pub(crate) fn remove() -> Result<()> {
    groups()?.iter().try_for_each(|group| remove_tree(group))
}

/// The group in the one tree of version 2, or in the tree of each controller.
fn groups() -> Result<Vec<PathBuf>> {
    let name = CGROUP_ROOT.trim_start_matches('/');
    let mount = Path::new(MOUNT);
    if mount.join("cgroup.controllers").exists() {
        return Ok(vec![mount.join(name)]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(mount).with_context(|| format!("cannot list {MOUNT}"))? {
        let top = entry.with_context(|| format!("cannot list {MOUNT}"))?.path();
        // Names of several controllers are links to one tree.
        if !top.is_symlink() && top.join("cgroup.procs").exists() {
            found.push(top.join(name));
        }
    }
    Ok(found)
}

fn remove_tree(group: &Path) -> Result<()> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(other) => return Err(other).with_context(|| format!("cannot list {}", group.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", group.display()))?;
        if entry.file_type().with_context(|| format!("cannot look at {}", entry.path().display()))?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group).with_context(|| format!("cannot remove the cgroup {}", group.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{env, fs, process};

    use super::{groups, remove_tree};

    #[test]
    fn a_tree_is_removed_from_its_leaves_and_a_missing_one_is_no_failure() {
        let top = env::temp_dir().join(format!("podlens-tree-{}", process::id()));
        fs::create_dir_all(top.join("pod/container")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn every_group_stands_directly_below_the_top_of_a_hierarchy() {
        let found = groups().unwrap();
        assert!(!found.is_empty(), "this machine has no cgroups");
        for group in found {
            assert!(group.parent().unwrap().join("cgroup.procs").exists(), "{}", group.display());
        }
    }
}
