//! Collector `cpu`: what a quota has done to a cgroup that is about to be removed, since its files are gone by then. All
//! else the daemon reads from files.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use podlens_common::cpu::LAST_WORDS;

use crate::{
    events,
    kernel::{self, Cgroup},
};

/// `cgroup_rmdir(cgroup, path)`: the cgroup's controllers are still there.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cpu_last_words(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::from_raw(context.arg(0));
    if let Some(mark) = cgroup.key_mark()
        && let Some(bandwidth) = kernel::bandwidth(cgroup).filter(|bandwidth| bandwidth.periods > 0)
    {
        events::send(LAST_WORDS, cgroup.kn().id() | mark, bandwidth);
    }
    0
}
