//! Losses that several collectors have alike, each under its own name.

/// The loss of a collector that walks through a tree of cgroups: its values are not those of now.
macro_rules! walk_unfinished {
    ($tree:literal) => {
        $crate::signal::Loss {
            reason: "walk_unfinished",
            means: concat!(
                "a walk through ",
                $tree,
                " did not finish, three times in a row: there are more than 131,072 cgroups, cgroups end faster than the walk advances, or this kernel's lists differ. podlens serves the values of the last walk; report it if it continues"
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
