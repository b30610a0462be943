//! What the kernel's files say that each memory cgroup has counted. They are read at the start, for what was before it, and
//! where a kill's record was lost.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use podlens_common::cgroup::{CgroupKey, KEY_V1};

use crate::kernel::cgroupfs::hierarchies::{Extent, Hierarchies, Tree};

/// All memory cgroups that have counted something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Those that have.
    pub(super) cgroups: Vec<Count>,
    /// All others have counted nothing: each of them was read, and the tree is the kernel's own.
    pub(super) complete: bool,
}

/// One memory cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// Its id in its tree.
    pub(super) id: u64,
    /// The key of the cgroup at its path, whose tasks are its own; 0 if there is none any more.
    pub(super) key: CgroupKey,
    /// OOMs of its own limit; version 1 has no file that tells them.
    pub(super) ooms: u64,
    /// Kills of processes in it, those below it not included.
    pub(super) kills: u64,
}

impl Counts {
    /// Reads the files of all memory cgroups of these trees.
    pub(super) fn read(hierarchies: &Hierarchies) -> Self {
        let Some(tree) = hierarchies.of("memory") else { return Self::default() };
        let is_v1 = hierarchies.v1("memory").is_some();
        let mut counts = Self { cgroups: Vec::new(), complete: tree.extent == Extent::Whole };
        let mut open = vec![PathBuf::from("/")];
        while let Some(path) = open.pop() {
            let directory = directory(tree, &path);
            // One that is gone meanwhile tells its own last words.
            let Ok(metadata) = fs::metadata(&directory) else { continue };
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                open.push(path.join(entry.file_name()));
            }
            match read(&directory, is_v1) {
                Ok((0, 0)) => {}
                Ok((ooms, kills)) => {
                    let key = key_of(hierarchies, &path.to_string_lossy());
                    counts.cgroups.push(Count { id: metadata.ino(), key, ooms, kills });
                }
                // Where the controller is off a cgroup has no such file; its tasks are another's.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(_) => counts.complete &= !directory.exists(),
            }
        }
        counts
    }
}

/// The key of the cgroup at a path; 0 if there is none.
fn key_of(hierarchies: &Hierarchies, path: &str) -> CgroupKey {
    let inode = |tree: Option<&Tree>| Some(fs::metadata(tree?.directory(path)).ok()?.ino());
    match (inode(hierarchies.v2()), inode(hierarchies.keyed_v1())) {
        // Where version 1 has the controllers, tasks may be in the version 2 tree's root all the same.
        (Some(id), _) if path != "/" || hierarchies.keyed_v1().is_none() => id,
        (_, Some(id)) => id | KEY_V1,
        (id, None) => id.unwrap_or(0),
    }
}

fn directory(tree: &Tree, path: &Path) -> PathBuf {
    tree.root.join(path.strip_prefix("/").unwrap_or(path))
}

/// OOMs and kills.
fn read(directory: &Path, is_v1: bool) -> io::Result<(u64, u64)> {
    let name = if is_v1 { "memory.oom_control" } else { "memory.events.local" };
    let text = fs::read_to_string(directory.join(name))?;
    let number = |key: &str| {
        text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
    };
    Ok((number("oom").unwrap_or(0), number("oom_kill").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn inode(root: &tempfile::TempDir, path: &str) -> u64 {
        fs::metadata(root.path().join(path)).unwrap().ino()
    }

    #[test]
    fn what_was_counted_is_read_from_all_cgroups_of_version_2_and_nothing_else() {
        let root = tree(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("pod/memory.events.local", "low 0\nhigh 3\nmax 9\noom 4\noom_kill 0\noom_group_kill 0\n"),
            ("pod/one/memory.events.local", "low 0\noom 2\noom_kill 3\n"),
            ("pod/two/memory.events.local", "low 1\noom 0\noom_kill 0\n"),
            ("pod/one/without/cgroup.procs", ""),
        ]);
        let hierarchies = Hierarchies::find(root.path()).unwrap();
        let mut counts = Counts::read(&hierarchies);
        counts.cgroups.sort_by_key(|count| count.kills);
        let count = |path, ooms, kills| Count { id: inode(&root, path), key: inode(&root, path), ooms, kills };
        assert_eq!(counts.cgroups, [count("pod", 4, 0), count("pod/one", 2, 3)]);
        assert_eq!(key_of(&hierarchies, "/"), inode(&root, ""));
        assert_eq!(key_of(&hierarchies, "/gone"), 0);
    }

    #[test]
    fn version_1_tells_kills_alone_and_a_path_leads_to_the_cgroup_that_has_the_key() {
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n";
        let root = tree(&[
            ("unified/cgroup.procs", ""),
            ("unified/both/cgroup.procs", ""),
            ("cpu/cgroup.clone_children", "0\n"),
            ("cpu/both/cgroup.clone_children", "0\n"),
            ("cpu/one/cgroup.clone_children", "0\n"),
            ("memory/cgroup.clone_children", "0\n"),
            ("memory/one/memory.oom_control", control),
        ]);
        let hierarchies = Hierarchies::find(root.path()).unwrap();
        let counts = Counts::read(&hierarchies);
        let key = inode(&root, "cpu/one") | KEY_V1;
        assert_eq!(counts.cgroups, [Count { id: inode(&root, "memory/one"), key, ooms: 0, kills: 5 }]);
        assert_eq!(key_of(&hierarchies, "/both"), inode(&root, "unified/both"));
        assert_eq!(key_of(&hierarchies, "/"), inode(&root, "cpu") | KEY_V1);
    }
}
