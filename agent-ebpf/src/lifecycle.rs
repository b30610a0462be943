//! Collector `lifecycle`: tells the daemon of births and removals of cgroups, and before a removal what other
//! collectors' figures of that cgroup were, since its files are gone by then.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use podlens_common::event::{CGROUP_BORN, CGROUP_REMOVED, CPU_LAST_WORDS};

use crate::{
    events,
    kernel::{self, Cgroup},
};

/// `cgroup_mkdir(cgroup, path)`: before any task can enter the group.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::from_raw(context.arg(0));
    if let Some(mark) = cgroup.key_mark() {
        events::send_path(CGROUP_BORN, cgroup.kn().id() | mark, context.arg(1));
    }
    0
}

/// `cgroup_rmdir(cgroup, path)`: when no task can enter it again. Its controllers go later.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::from_raw(context.arg(0));
    if let Some(mark) = cgroup.key_mark() {
        let key = cgroup.kn().id() | mark;
        if let Some(bandwidth) = kernel::bandwidth(cgroup).filter(|bandwidth| bandwidth.periods > 0) {
            events::send(CPU_LAST_WORDS, key, bandwidth);
        }
        events::send_path(CGROUP_REMOVED, key, context.arg(1));
    }
    0
}
