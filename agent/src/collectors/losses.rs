//! Losses that several collectors have alike, each under its own name.

/// The loss of a collector that walks through a tree of cgroups: its values are not those of now.
macro_rules! walk_unfinished {
    ($tree:literal) => {
        $crate::signal::Loss {
            reason: "walk_unfinished",
            means: concat!(
                "a walk through ",
                $tree,
                " did not come round, three times in a row: more than 131,072 cgroups, cgroups that end faster than the walk goes on, or a kernel whose lists differ. The values of the last walk are served; report it if it goes on"
            ),
        }
    };
}

/// The loss of a collector that has files read: what they tell is older than it should be.
macro_rules! late_file {
    ($found:literal, $served:literal) => {
        $crate::signal::Loss {
            reason: "late_file",
            means: concat!(
                $found,
                " some file of a cgroup hangs (thread `cgroup-files`), or the node is far too busy. ",
                $served
            ),
        }
    };
}

pub(super) use late_file;
pub(super) use walk_unfinished;
