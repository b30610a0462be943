//! Collector `lifecycle`: tells the daemon of births and removals of cgroups, and what a removed one's quota did.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_probe_read_kernel_str_bytes},
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use podlens_common::cgroup::{Bandwidth, EVENT_BORN, EVENT_HEADER_BYTES, EVENT_REMOVED, Event, PATH_BYTES};

use crate::{
    events,
    kernel::{self, Cgroup},
    slots::lose,
};

#[map]
static EVENT_BUFFER: PerCpuArray<Event> = PerCpuArray::with_max_entries(1, 0);

/// `cgroup_mkdir(cgroup, path)`: before any task can enter the group.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(context: BtfTracePointContext) -> i32 {
    report(&context, EVENT_BORN);
    0
}

/// `cgroup_rmdir(cgroup, path)`: when no task can enter it again.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(context: BtfTracePointContext) -> i32 {
    report(&context, EVENT_REMOVED);
    0
}

#[inline(always)]
fn report(context: &BtfTracePointContext, kind: u32) {
    let cgroup = Cgroup::from_raw(context.arg(0));
    let path: *const u8 = context.arg(1);
    let Some(mark) = cgroup.key_mark() else { return };
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(event) = EVENT_BUFFER.get_ptr_mut(0) else { return };
    let parent = cgroup.parent();
    // The controllers of a removed cgroup go later; its files are gone by now.
    let bandwidth = if kind == EVENT_REMOVED { kernel::bandwidth(cgroup) } else { None };
    // SAFETY: the buffer is this CPU's and preemption is off; the kernel copies at most the path's length.
    let path_bytes = unsafe {
        (*event).key = cgroup.kn().id() | mark;
        (*event).parent = if parent.is_null() { 0 } else { parent.kn().id() | mark };
        (*event).kind = kind;
        (*event).bandwidth = bandwidth.unwrap_or(Bandwidth { periods: 0, throttled_periods: 0, throttled_ns: 0 });
        (*event).has_bandwidth = u32::from(bandwidth.is_some());
        (*event).reserved = 0;
        match bpf_probe_read_kernel_str_bytes(path, &mut (*event).path) {
            Ok(path) => path.len(),
            Err(_) => 0,
        }
    };
    if path_bytes == 0 || path_bytes >= PATH_BYTES - 1 {
        lose!(cpu, path_unreadable);
        return;
    }
    // SAFETY: as above; the bytes up to here were written.
    let sent = unsafe {
        (*event).path_bytes = path_bytes as u32;
        let bytes =
            core::slice::from_raw_parts(event.cast::<u8>(), EVENT_HEADER_BYTES + (path_bytes & (PATH_BYTES - 1)));
        events::send(bytes)
    };
    if !sent {
        lose!(cpu, event_lost);
    }
}
