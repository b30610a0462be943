//! Where this node's cgroups are: version 2, version 1, or both (hybrid).

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use podlens_common::cgroup::{CgroupKey, KEY_V1};

/// How the node mounts its cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One version 2 tree with all controllers.
    V2,
    /// Version 1 hierarchies alone.
    V1,
    /// Version 1 hierarchies, and a version 2 tree beside them.
    Hybrid,
}

impl Mode {
    /// As the node's documentation calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid (v1 controllers beside a v2 tree)",
        }
    }
}

/// The trees that podlens reads cgroups from.
#[derive(Clone, Debug)]
pub struct Hierarchies {
    /// How they are mounted.
    pub mode: Mode,
    /// The version 2 tree.
    pub v2: Option<PathBuf>,
    /// The version 1 hierarchy of the CPU controller.
    pub v1: Option<PathBuf>,
    /// The number of that hierarchy, as `/proc/cgroups` tells it; 0 without one.
    pub v1_number: u32,
    /// The version 1 hierarchy that counts CPU time, which may be the same one.
    pub v1_cpuacct: Option<PathBuf>,
}

/// Why the node's cgroups cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// There is no cgroup mount at all.
    #[error("no cgroup tree below {}: mount the node's /sys/fs/cgroup there, or set cgroup_root to where it is", root.display())]
    None {
        /// Where it was looked for.
        root: PathBuf,
    },
    /// The hierarchy's number is not known.
    #[error("cannot read the number of the CPU controller's hierarchy from /proc/cgroups")]
    Number(#[source] io::Error),
}

/// One directory of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The cgroup's identity.
    pub key: CgroupKey,
    /// Its parent's.
    pub parent: CgroupKey,
    /// Path from the root of its hierarchy, `/` for the root.
    pub path: String,
}

impl Hierarchies {
    /// Finds the trees below `root`, which is the node's `/sys/fs/cgroup` or a mount of it.
    ///
    /// # Errors
    /// None is there.
    pub fn find(root: &Path) -> Result<Self, HierarchyError> {
        if root.join("cgroup.controllers").exists() {
            return Ok(Self { mode: Mode::V2, v2: Some(root.to_owned()), v1: None, v1_number: 0, v1_cpuacct: None });
        }
        let unified = root.join("unified");
        let v2 = unified.join("cgroup.procs").exists().then_some(unified);
        let v1 = ["cpu", "cpu,cpuacct", "cpuacct,cpu"]
            .into_iter()
            .map(|name| root.join(name))
            .find(|path| path.join("cpu.shares").exists() || path.join("cgroup.clone_children").exists());
        let mode = match (&v2, &v1) {
            (None, None) => return Err(HierarchyError::None { root: root.to_owned() }),
            (Some(_), None) => Mode::V2,
            (None, Some(_)) => Mode::V1,
            (Some(_), Some(_)) => Mode::Hybrid,
        };
        let v1_number = match v1 {
            Some(_) => cpu_hierarchy_number().map_err(HierarchyError::Number)?,
            None => 0,
        };
        let v1_cpuacct = ["cpuacct", "cpu,cpuacct", "cpuacct,cpu", "cpu"]
            .into_iter()
            .map(|name| root.join(name))
            .find(|path| path.join("cpuacct.usage_user").exists());
        Ok(Self { mode, v2, v1, v1_number, v1_cpuacct })
    }

    /// Every cgroup that exists now. Directories that vanish meanwhile are left out.
    #[must_use]
    pub fn scan(&self) -> Vec<Directory> {
        let mut found = Vec::new();
        for (root, mark) in [(&self.v2, 0), (&self.v1, KEY_V1)] {
            if let Some(root) = root {
                walk(root, mark, &mut found);
            }
        }
        found
    }

    /// The cgroup of that key still exists at that path.
    #[must_use]
    pub fn exists(&self, key: CgroupKey, path: &str) -> bool {
        self.directory(key, path)
            .and_then(|directory| fs::metadata(directory).ok())
            .is_some_and(|found| found.ino() == key & !KEY_V1)
    }

    /// The directory of a cgroup.
    #[must_use]
    pub fn directory(&self, key: CgroupKey, path: &str) -> Option<PathBuf> {
        let root = if key & KEY_V1 == 0 { self.v2.as_ref()? } else { self.v1.as_ref()? };
        Some(root.join(path.trim_start_matches('/')))
    }
}

fn walk(root: &Path, mark: CgroupKey, found: &mut Vec<Directory>) {
    let mut open = vec![(root.to_owned(), String::new(), 0)];
    while let Some((directory, path, parent)) = open.pop() {
        let Ok(metadata) = fs::metadata(&directory) else { continue };
        let key = metadata.ino() | mark;
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name();
                open.push((entry.path(), format!("{path}/{}", name.to_string_lossy()), key));
            }
        }
        let path = if path.is_empty() { "/".to_owned() } else { path };
        found.push(Directory { key, parent, path });
    }
}

fn cpu_hierarchy_number() -> io::Result<u32> {
    let table = fs::read_to_string("/proc/cgroups")?;
    table
        .lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("cpu")).then(|| words.next()?.parse().ok()).flatten()
        })
        .ok_or_else(|| io::Error::other("it has no line for cpu"))
}
