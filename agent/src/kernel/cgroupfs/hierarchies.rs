//! Where this node's cgroups are: version 2, version 1, or both (hybrid); and which tree counts what.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use podlens_common::cgroup::{CgroupKey, KEY_BLKIO, KEY_MARKS, KEY_V1};

pub use super::part::Extent;

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
    v2: Option<Tree>,
    v1: Vec<Tree>,
    /// Cgroups of the blkio hierarchy have keys.
    with_blkio: bool,
}

/// One mounted tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Where it is mounted.
    pub root: PathBuf,
    /// The hierarchy's number, as `/proc/cgroups` tells it; 0 for version 2.
    pub number: u32,
    /// The controllers that count in it.
    pub controllers: Vec<String>,
    /// How much of it is mounted.
    pub extent: Extent,
}

impl Tree {
    /// That controller counts in it.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Where the cgroup at `path` would be.
    #[must_use]
    pub fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
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

/// The controller whose version 1 hierarchy, where there is one, has keys.
const CPU: &str = "cpu";
/// The controller whose version 1 hierarchy has keys of its own where somebody needs them.
const BLKIO: &str = "blkio";

impl Hierarchies {
    /// Finds the trees below `root`, which is the node's `/sys/fs/cgroup` or a mount of it.
    ///
    /// # Errors
    /// None is there.
    pub fn find(root: &Path) -> Result<Self, HierarchyError> {
        Self::find_by(root, || fs::read_to_string("/proc/cgroups"))
    }

    /// The same with the text of `/proc/cgroups`, which is read only where a version 1 hierarchy is mounted.
    fn find_by(root: &Path, table: impl FnOnce() -> io::Result<String>) -> Result<Self, HierarchyError> {
        if let Some(tree) = version_2(root, "cgroup.controllers") {
            return Ok(Self { mode: Mode::V2, v2: Some(tree), v1: Vec::new(), with_blkio: false });
        }
        let v2 = version_2(&root.join("unified"), "cgroup.procs");
        let mut v1 = version_1(root);
        let has_cpu = v1.iter().any(|tree| tree.has(CPU));
        let mode = match (&v2, has_cpu) {
            (None, false) => return Err(HierarchyError::None { root: root.to_owned() }),
            (Some(_), false) => Mode::V2,
            (None, true) => Mode::V1,
            (Some(_), true) => Mode::Hybrid,
        };
        if has_cpu {
            let table = table().map_err(HierarchyError::Number)?;
            for tree in &mut v1 {
                enter(tree, &table);
            }
            if v1.iter().any(|tree| tree.has(CPU) && tree.number == 0) {
                return Err(HierarchyError::Number(io::Error::other("it has no line for cpu")));
            }
        }
        Ok(Self { mode, v2, v1, with_blkio: false })
    }

    /// The version 2 tree.
    #[must_use]
    pub fn v2(&self) -> Option<&Tree> {
        self.v2.as_ref()
    }

    /// The version 1 hierarchy of a controller.
    #[must_use]
    pub fn v1(&self, controller: &str) -> Option<&Tree> {
        self.v1.iter().find(|tree| tree.has(controller))
    }

    /// The version 1 hierarchy whose cgroups have keys, with [`KEY_V1`]: that of the CPU controller.
    #[must_use]
    pub fn keyed_v1(&self) -> Option<&Tree> {
        self.v1(CPU)
    }

    /// The same for the blkio controller, with [`KEY_BLKIO`]; none without [`Self::with_blkio`], and where the CPU
    /// controller is in the same hierarchy.
    #[must_use]
    pub fn keyed_blkio(&self) -> Option<&Tree> {
        self.v1(BLKIO).filter(|tree| self.with_blkio && tree.number != 0 && !tree.has(CPU))
    }

    /// The same trees, of which that of the version 1 blkio controller has keys as well.
    #[must_use]
    pub fn with_blkio(self) -> Self {
        Self { with_blkio: true, ..self }
    }

    /// What marks the keys of the tree in which the CPU controller counts.
    #[must_use]
    pub fn cpu_mark(&self) -> CgroupKey {
        if self.keyed_v1().is_some() { KEY_V1 } else { 0 }
    }

    /// The trees whose cgroups have keys, each with what marks those.
    fn keyed_trees(&self) -> impl Iterator<Item = (&Tree, CgroupKey)> {
        let trees = [(self.v2(), 0), (self.keyed_v1(), KEY_V1), (self.keyed_blkio(), KEY_BLKIO)];
        trees.into_iter().filter_map(|(tree, mark)| Some((tree?, mark)))
    }

    /// The tree in which a controller counts.
    #[must_use]
    pub fn of(&self, controller: &str) -> Option<&Tree> {
        self.v1(controller).or_else(|| self.v2().filter(|tree| tree.has(controller)))
    }

    /// Where a controller counts what belongs to a cgroup. Runtimes use one path in all hierarchies; none where this
    /// one has no such directory.
    #[must_use]
    pub fn directory_in(&self, controller: &str, path: &str) -> Option<PathBuf> {
        self.of(controller).map(|tree| tree.directory(path)).filter(|directory| directory.is_dir())
    }

    /// Every cgroup that exists now. Directories that vanish meanwhile are left out.
    #[must_use]
    pub fn scan(&self) -> Vec<Directory> {
        let mut found = Vec::new();
        for (tree, mark) in self.keyed_trees() {
            walk(&tree.root, mark, &mut found);
        }
        found
    }

    /// The cgroup of that key still exists at that path.
    #[must_use]
    pub fn exists(&self, key: CgroupKey, path: &str) -> bool {
        self.keyed(key)
            .and_then(|tree| fs::metadata(tree.directory(path)).ok())
            .is_some_and(|found| found.ino() == key & !KEY_MARKS)
    }

    /// Where the cgroup that the kernel has at `path` is in its mounted tree; none if it cannot be seen there. Learns from
    /// the first that can where the mounted part begins.
    pub fn localize(&mut self, key: CgroupKey, path: &str) -> Option<String> {
        let mut v1 = self.v1.iter_mut();
        let tree = match key & KEY_MARKS {
            KEY_V1 => v1.find(|tree| tree.has(CPU)),
            KEY_BLKIO => v1.find(|tree| tree.has(BLKIO)),
            _ => self.v2.as_mut(),
        }?;
        let Tree { root, extent, .. } = tree;
        let is_at = |local: &str| {
            let found = fs::metadata(root.join(local.trim_start_matches('/')));
            found.is_ok_and(|found| found.ino() == key & !KEY_MARKS)
        };
        extent.localize(path, is_at)
    }

    /// The reverse of [`Self::localize`]: the kernel's path of what is at `path` in the mounted tree. As it is while it is
    /// not known where the part begins, which [`Self::localize`] takes as well.
    #[must_use]
    pub fn globalize(&self, key: CgroupKey, path: String) -> String {
        match self.keyed(key).map(|tree| &tree.extent) {
            Some(Extent::Part { begins_at: Some(begins_at) }) => format!("{}{}", begins_at, path.trim_end_matches('/')),
            _ => path,
        }
    }

    /// All cgroups of that key's tree can be seen.
    #[must_use]
    pub fn is_whole(&self, key: CgroupKey) -> bool {
        self.keyed(key).is_none_or(|tree| tree.extent == Extent::Whole)
    }

    /// The mounted tree is a part of the kernel's: which one, in words.
    #[must_use]
    pub fn part(&self) -> Option<String> {
        self.keyed_trees().find_map(|(tree, _)| match &tree.extent {
            Extent::Whole => None,
            Extent::Part { begins_at: Some(path) } => Some(format!("what lies below {path}")),
            Extent::Part { begins_at: None } => {
                Some("what lies below the root of this node's cgroup namespace".to_owned())
            }
        })
    }

    /// The tree of a cgroup.
    #[must_use]
    pub fn keyed(&self, key: CgroupKey) -> Option<&Tree> {
        self.keyed_trees().find(|(_, mark)| *mark == key & KEY_MARKS).map(|(tree, _)| tree)
    }
}

/// The version 2 tree at `root`, which `mark` tells from a directory that is none.
fn version_2(root: &Path, mark: &str) -> Option<Tree> {
    if !root.join(mark).exists() {
        return None;
    }
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let controllers = controllers.split_whitespace().map(str::to_owned).collect();
    Some(Tree { root: root.to_owned(), number: 0, controllers, extent: Extent::of(root) })
}

/// The version 1 hierarchies below `root`, by the names of their directories. One that several names lead to is there
/// once: distributions have a link from each controller to the directory that they share.
fn version_1(root: &Path) -> Vec<Tree> {
    let mut names: Vec<_> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut found: Vec<((u64, u64), Tree)> = Vec::new();
    for name in names {
        let directory = root.join(&name);
        // Each cgroup of version 1 has this file, and none of version 2.
        if !directory.join("cgroup.clone_children").exists() {
            continue;
        }
        let Ok(metadata) = fs::metadata(&directory) else { continue };
        let place = (metadata.dev(), metadata.ino());
        let controllers = name.split(',').map(str::to_owned);
        if let Some((_, tree)) = found.iter_mut().find(|(at, _)| *at == place) {
            tree.controllers.extend(controllers);
        } else {
            let extent = Extent::of(&directory);
            found.push((place, Tree { root: directory, number: 0, controllers: controllers.collect(), extent }));
        }
    }
    found.into_iter().map(|(_, tree)| tree).collect()
}

/// What `/proc/cgroups` tells of a hierarchy: its number, and all controllers that are in it. Those of its directory's
/// name that are not there, as `systemd`, stay.
fn enter(tree: &mut Tree, table: &str) {
    let lines = || {
        table.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?.parse::<u32>().ok()?))
        })
    };
    tree.number = lines().find(|(name, _)| tree.has(name)).map_or(0, |(_, number)| number);
    if tree.number != 0 {
        let members = lines().filter(|(_, number)| *number == tree.number).map(|(name, _)| name.to_owned());
        tree.controllers.extend(members);
    }
    tree.controllers.sort();
    tree.controllers.dedup();
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
        let mut path = if path.is_empty() { "/".to_owned() } else { path };
        // It is kept for as long as the cgroup exists.
        path.shrink_to_fit();
        found.push(Directory { key, parent, path });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const TABLE: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
        cpuset\t3\t1\t1\ncpu\t4\t1\t1\ncpuacct\t4\t1\t1\nblkio\t7\t1\t1\nmemory\t5\t1\t1\nnet_cls\t0\t1\t1\npids\t8\t1\t1\n";

    /// A root with these files, each a path; a name with `->` is a link.
    fn root_with(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            if let Some((link, target)) = file.split_once("->") {
                std::os::unix::fs::symlink(target, root.path().join(link)).unwrap();
                continue;
            }
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "cpu memory io\n").unwrap();
        }
        root
    }

    fn find(root: &Path) -> Result<Hierarchies, HierarchyError> {
        Hierarchies::find_by(root, || Ok(TABLE.to_owned()))
    }

    /// For each controller the name of the directory that counts it and its hierarchy's number.
    #[track_caller]
    fn check(files: &[&str], mode: Mode, expected: &[(&str, Option<(&str, u32)>)]) {
        let root = root_with(files);
        let found = find(root.path()).unwrap();
        assert_eq!(found.mode, mode);
        for (controller, place) in expected {
            let tree = found.of(controller).map(|tree| (tree.root.strip_prefix(root.path()).unwrap(), tree.number));
            assert_eq!(tree, place.map(|(name, number)| (Path::new(name), number)), "{controller}");
        }
    }

    #[test]
    fn one_version_2_tree_counts_all_that_it_has_a_controller_for() {
        check(
            &["cgroup.controllers", "cgroup.procs"],
            Mode::V2,
            &[("cpu", Some(("", 0))), ("memory", Some(("", 0))), ("pids", None), ("cpuacct", None)],
        );
    }

    #[test]
    fn version_1_hierarchies_are_known_by_each_of_their_controllers() {
        check(
            &[
                "cpu,cpuacct/cgroup.clone_children",
                "memory/cgroup.clone_children",
                "pids/no",
                "systemd/cgroup.clone_children",
            ],
            Mode::V1,
            &[
                ("cpu", Some(("cpu,cpuacct", 4))),
                ("cpuacct", Some(("cpu,cpuacct", 4))),
                ("memory", Some(("memory", 5))),
                ("systemd", Some(("systemd", 0))),
                ("pids", None),
                ("net_cls", None),
            ],
        );
    }

    #[test]
    fn a_hybrid_node_counts_in_version_1_what_is_mounted_there() {
        check(
            &["unified/cgroup.procs", "unified/cgroup.controllers", "cpu/cgroup.clone_children"],
            Mode::Hybrid,
            &[("cpu", Some(("cpu", 4))), ("cpuacct", Some(("cpu", 4))), ("io", Some(("unified", 0)))],
        );
    }

    #[test]
    fn links_to_one_hierarchy_are_one() {
        let root = root_with(&["cpu,cpuacct/cgroup.clone_children", "cpu->cpu,cpuacct", "cpuacct->cpu,cpuacct"]);
        let found = find(root.path()).unwrap();
        assert_eq!(found.v1.len(), 1);
        assert_eq!(
            found.keyed_v1().map(|tree| tree.controllers.as_slice()),
            Some(["cpu", "cpuacct"].map(str::to_owned).as_slice())
        );
    }

    #[test]
    fn version_1_without_the_cpu_controller_does_not_count() {
        let files = ["unified/cgroup.procs", "systemd/cgroup.clone_children"];
        check(&files, Mode::V2, &[("cpu", None)]);
        let root = root_with(&["systemd/cgroup.clone_children"]);
        assert!(matches!(find(root.path()), Err(HierarchyError::None { .. })));
    }

    #[test]
    fn the_blkio_hierarchy_has_keys_of_its_own_where_they_are_asked_for_and_it_is_not_the_cpus() {
        let check = |files: &[&str], keyed: Option<u32>| {
            let root = root_with(files);
            let found = Hierarchies::find_by(root.path(), || Ok(TABLE.replace("net_cls\t0", "net_cls\t4"))).unwrap();
            assert_eq!(found.keyed_blkio(), None, "nobody asks");
            let found = found.with_blkio();
            assert_eq!(found.keyed_blkio().map(|tree| tree.number), keyed);
            let [cpu, blkio]: [Vec<String>; 2] = [KEY_V1, KEY_BLKIO].map(|mark| {
                let marked = found.scan().into_iter().filter(|directory| directory.key & KEY_MARKS == mark);
                let mut seen: Vec<String> = marked
                    .inspect(|directory| assert!(found.exists(directory.key, &directory.path), "{directory:?}"))
                    .map(|directory| directory.path)
                    .collect();
                seen.sort();
                seen
            });
            assert!(cpu.contains(&"/pod".to_owned()), "{cpu:?}");
            assert_eq!(blkio, if keyed.is_some() { vec!["/", "/a", "/a/b"] } else { vec![] });
        };
        check(&["cpu/cgroup.clone_children", "cpu/pod/x", "blkio/cgroup.clone_children", "blkio/a/b/x"], Some(7));
        check(&["cpu,blkio/cgroup.clone_children", "cpu,blkio/pod/x"], None);
        check(&["cpu/cgroup.clone_children", "cpu/pod/x"], None);
    }

    #[test]
    fn a_cpu_hierarchy_without_a_number_is_refused() {
        let root = root_with(&["cpu/cgroup.clone_children"]);
        for table in [Ok(String::new()), Err(io::Error::other("gone"))] {
            assert!(matches!(Hierarchies::find_by(root.path(), || table), Err(HierarchyError::Number(_))));
        }
    }

    #[test]
    fn a_cgroup_is_in_a_controllers_tree_at_the_same_path_or_not_at_all() {
        let root = root_with(&["cpu/cgroup.clone_children", "cpu/a/x", "memory/cgroup.clone_children"]);
        let found = find(root.path()).unwrap();
        assert_eq!(found.directory_in("cpu", "/a"), Some(root.path().join("cpu/a")));
        assert_eq!(found.directory_in("memory", "/a"), None, "it has no such directory");
        assert_eq!(found.directory_in("pids", "/a"), None, "it is not mounted");
    }
}
