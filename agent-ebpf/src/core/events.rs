//! The road to the daemon for what happens once: one ring buffer, into which any program sends a record.
//!
//! What does not fit is counted. Rare events only: a place in the ring costs more than a context switch may.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str_bytes},
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use bytemuck::Pod;
use podlens_common::{
    cgroup::CgroupKey,
    event::{EndPath, EventHeader, PATH_BYTES, PathEvent},
};

use crate::slots::lose;

/// Events in the order in which they happened on each CPU.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(512 * 1024, 0);
#[map]
static EVENT_BUFFER: PerCpuArray<PathEvent> = PerCpuArray::with_max_entries(1, 0);

/// An event whose record has one size.
#[repr(C)]
struct Event<T> {
    header: EventHeader,
    record: T,
}

/// Sends an event with a record.
#[inline(always)]
pub(crate) fn send<T: Pod>(kind: u32, key: CgroupKey, record: T) {
    const { assert!(size_of::<Event<T>>() == size_of::<EventHeader>() + size_of::<T>(), "pad the record to 8 bytes") };
    let Some(mut event) = EVENTS.reserve::<Event<T>>(0) else {
        // SAFETY: the helper has no precondition.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        lose!(cpu, event_lost);
        return;
    };
    event.write(Event { header: header(kind, size_of::<Event<T>>(), key), record });
    event.submit(0);
}

/// Sends an event whose record is too large for the stack: `fill` writes all of it where the daemon will read it.
#[inline(always)]
pub(crate) fn send_filled<T: Pod>(kind: u32, key: CgroupKey, fill: impl FnOnce(*mut T)) {
    const { assert!(size_of::<Event<T>>() == size_of::<EventHeader>() + size_of::<T>(), "pad the record to 8 bytes") };
    let Some(mut event) = EVENTS.reserve::<Event<T>>(0) else {
        // SAFETY: the helper has no precondition.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        lose!(cpu, event_lost);
        return;
    };
    let place = event.as_mut_ptr();
    // SAFETY: the place was reserved for this event alone.
    unsafe {
        (&raw mut (*place).header).write(header(kind, size_of::<Event<T>>(), key));
        fill(&raw mut (*place).record);
    }
    event.submit(0);
}

/// Sends an event about a cgroup by its path.
#[inline(always)]
pub(crate) fn send_path(kind: u32, key: CgroupKey, path: *const u8) {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(event) = EVENT_BUFFER.get_ptr_mut(0) else { return };
    // SAFETY: the buffer is this CPU's and preemption is off; the kernel copies at most the path's length.
    let path_bytes = match unsafe { bpf_probe_read_kernel_str_bytes(path, &mut (*event).path) } {
        Ok(path) => path.len(),
        Err(_) => 0,
    };
    if path_bytes == 0 || path_bytes >= PATH_BYTES - 1 {
        lose!(cpu, path_unreadable);
        return;
    }
    let bytes = size_of::<EventHeader>() + (path_bytes & (PATH_BYTES - 1));
    // SAFETY: as above; the bytes up to there were written.
    let sent = unsafe {
        (*event).header = header(kind, bytes, key);
        EVENTS.output::<[u8]>(core::slice::from_raw_parts(event.cast::<u8>(), bytes), 0)
    };
    if sent.is_err() {
        lose!(cpu, event_lost);
    }
}

/// Writes a cgroup's path where a record has it. Without a readable one it is empty.
#[inline(always)]
pub(crate) fn write_path(place: *mut EndPath, path: *const u8) {
    // SAFETY: the place is the program's own, and the kernel copies at most the path's length.
    unsafe {
        let bytes = &mut (*place).bytes;
        bytes[0] = 0;
        let _ = bpf_probe_read_kernel_str_bytes(path, bytes);
    }
}

#[inline(always)]
fn header(kind: u32, bytes: usize, key: CgroupKey) -> EventHeader {
    // SAFETY: the helper has no precondition.
    let at_ns = unsafe { bpf_ktime_get_boot_ns() };
    EventHeader { kind, bytes: bytes as u32, key, at_ns }
}
