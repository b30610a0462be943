//! Offsets as numbers, for a program that reads kernel memory by address.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use super::number;

/// Where a node of a list has the one before it, in bytes.
const PREVIOUS: u64 = 8;

macro_rules! offsets {
    ($($function:ident = $request:literal;)*) => {
        $(#[inline(always)]
        pub(crate) fn $function() -> u64 {
            number!($request)
        })*
    };
}

offsets! {
    task_leader = "u64 task_struct.group_leader";
    task_tasks = "task_struct.tasks";
    task_thread_node = "task_struct.thread_node";
    task_signal = "u64 task_struct.signal";
    task_pid = "u32 task_struct.pid";
    task_flags = "u32 task_struct.flags";
    task_exit_state = "u32 task_struct.exit_state";
    task_state = "u32 task_struct.__state|task_struct.state";
    task_on_cpu = "u8 task_struct.on_cpu";
    task_cgroups = "u64 task_struct.cgroups";
    signal_threads = "signal_struct.thread_head";
    set_default = "u64 css_set.dfl_cgrp";
    set_cpu = "u64 css_set.subsys[cgroup_subsys_id.cpu_cgrp_id]";
    css_cgroup = "u64 cgroup_subsys_state.cgroup";
    cgroup_kn = "u64 cgroup.kn";
    cgroup_serial = "u64 cgroup.self.serial_nr";
    cgroup_above = "u64 cgroup.self.parent";
    kn_id = "u64 kernfs_node.id";
    kn_name = "u64 kernfs_node.name";
}

/// 64 bits of kernel memory; 0 where nothing is. For an address that is made of a pointer with a type, which a function that is
/// proved once does not take.
#[inline(always)]
pub(crate) fn word_inline(address: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.unwrap_or(0)
}

/// 64 bits of kernel memory; 0 where nothing is.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn word(address: u64) -> u64 {
    word_inline(address)
}

/// 32 bits of kernel memory; 0 where nothing is. As [`word`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn half(address: u64) -> u32 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.unwrap_or(0)
}

/// Whether at that address is a member of a list of the kernel's: those before and behind it name it.
#[inline(always)]
pub(crate) fn is_linked(node: u64) -> bool {
    let (next, previous) = (word(node), word(node + PREVIOUS));
    next != 0 && previous != 0 && word(next + PREVIOUS) == node && word(previous) == node
}

/// The id of the cgroup at an address.
#[inline(always)]
pub(crate) fn id_of(cgroup: u64) -> u64 {
    word(word(cgroup + cgroup_kn()) + kn_id())
}

/// Says that the program calls `bpf_loop` (5.17 and later).
#[inline(always)]
pub(crate) fn needs_loop() {
    number!("enum bpf_func_id.BPF_FUNC_loop");
}
