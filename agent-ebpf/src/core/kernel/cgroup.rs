//! Cgroups: from a task's set of them to one, its identity and its ancestors.

use podlens_common::cgroup::{KEY_BLKIO, KEY_V1};

use super::{has_v1, number, offsets, structure};

/// The first id that a kernfs gives, to its root.
pub(crate) const ROOT_ID: u64 = 1;
/// `CSS_ONLINE` of linux/cgroup-defs.h among a cgroup's flags: it was not removed.
pub(crate) const CGROUP_ONLINE: u32 = 1 << 1;
/// What stands in the serial number of a hierarchy's root: the kernel numbers those that are made later, from 1 on.
pub(crate) const ROOT_SERIAL: u64 = 0;

structure! {
    /// `struct css_set`: the cgroups of a task, one a hierarchy
    CssSet {
        default_cgroup: Cgroup = "css_set.dfl_cgrp";
        cpu: Css = "css_set.subsys[cgroup_subsys_id.cpu_cgrp_id]";
    }
}
structure! {
    /// `struct cgroup_subsys_state`
    Css {
        cgroup: Cgroup = "cgroup_subsys_state.cgroup";
    }
}
structure! {
    /// `struct cgroup`
    Cgroup {
        kn: KernfsNode = "cgroup.kn";
        serial: u64 = "cgroup.self.serial_nr";
        root: CgroupRoot = "cgroup.root";
        above: Css = "cgroup.self.parent";
        flags: u32 = "cgroup.self.flags";
    }
}
structure! {
    /// `struct cgroup_root`
    CgroupRoot {
        hierarchy: u32 = "cgroup_root.hierarchy_id";
    }
}
structure! {
    /// `struct kernfs_node`
    KernfsNode {
        id: u64 = "kernfs_node.id";
        name: Text = "kernfs_node.name";
    }
}
structure! {
    /// A text that ends with a zero.
    Text {}
}

impl Text {
    /// Where it begins.
    #[inline(always)]
    pub(crate) const fn as_ptr(self) -> *const u8 {
        self.0
    }
}

impl CssSet {
    /// The addresses of a task's cgroups in the version 2 tree and in the hierarchy of the CPU controller, as plain numbers,
    /// which a function can take that the verifier proves once. 0 for what cannot be read.
    #[inline(always)]
    pub(crate) fn addresses(self) -> (u64, u64) {
        let read = |offset: u64| offsets::word_inline(self.address() + offset);
        let (v2, css) = (read(offsets::set_default()), read(offsets::set_cpu()));
        (v2, offsets::word(css + offsets::css_cgroup()))
    }
}

impl Cgroup {
    /// The cgroup above; null at the root.
    #[inline(always)]
    pub(crate) fn parent(self) -> Self {
        let css = self.above();
        if css.is_null() { Self(core::ptr::null()) } else { css.cgroup() }
    }

    /// It was not removed.
    #[inline(always)]
    pub(crate) fn is_online(self) -> bool {
        self.flags() & CGROUP_ONLINE != 0
    }

    /// The hierarchy that podlens reads cgroups from, or none for any other.
    #[inline(always)]
    pub(crate) fn key_mark(self) -> Option<u64> {
        let hierarchy = u64::from(self.root().hierarchy());
        if hierarchy == 0 {
            Some(0)
        } else if has_v1() && hierarchy == number!("V1_HIERARCHY") {
            Some(KEY_V1)
        } else if hierarchy == number!("BLKIO_HIERARCHY") {
            Some(KEY_BLKIO)
        } else {
            None
        }
    }
}
