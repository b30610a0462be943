//! Cgroups: from a task's set of them to one, its identity, its ancestors, and what its quota did.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use podlens_common::{
    cgroup::{KEY_BLKIO, KEY_V1},
    cpu::Bandwidth,
};

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
        cpu: Css = "cgroup.subsys[cgroup_subsys_id.cpu_cgrp_id]?bandwidth";
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

impl Css {
    /// What the quota of the task group that this is part of has done so far; none where it cannot be read.
    #[inline(always)]
    fn bandwidth(self) -> Option<Bandwidth> {
        let group = self.address() - number!("task_group.css?bandwidth");
        let periods = group + number!("u32 task_group.cfs_bandwidth.nr_periods?bandwidth");
        let throttled = group + number!("u32 task_group.cfs_bandwidth.nr_throttled?bandwidth");
        let throttled_ns = group + number!("u64 task_group.cfs_bandwidth.throttled_time?bandwidth");
        // SAFETY: the helper checks the addresses; they are those of members of these sizes.
        unsafe {
            Some(Bandwidth {
                periods: u64::from(bpf_probe_read_kernel(periods as *const u32).ok()?),
                throttled_periods: u64::from(bpf_probe_read_kernel(throttled as *const u32).ok()?),
                throttled_ns: bpf_probe_read_kernel(throttled_ns as *const u64).ok()?,
            })
        }
    }
}

/// What the quota of a cgroup with a CPU controller has done so far.
#[inline(always)]
pub(crate) fn bandwidth(cgroup: Cgroup) -> Option<Bandwidth> {
    if number!("bandwidth ? 1 : 0") == 0 {
        return None;
    }
    let css = cgroup.cpu();
    if css.is_null() { None } else { css.bandwidth() }
}
