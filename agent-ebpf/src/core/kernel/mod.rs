//! The kernel's own structures, read through numbers that the daemon knows and the compiler does not.
//!
//! Such a number is an undefined symbol, and its **name is the request**: the daemon reads the names from the object,
//! program by program, answers them from the running kernel's BTF, and writes the numbers into the instructions, as a
//! linker would do. So a read is one load, a branch on what is missing is removed (docs/adr/0008), and a program that
//! needs what this kernel does not have is refused by name before the verifier sees it. The requests:
//!
//! | name | number |
//! | --- | --- |
//! | `u32 task_struct.pid` | offset of a member from which so many bytes are loaded; it may be wider |
//! | `task_struct.tasks` | offset of a member of any size |
//! | `u32 task_struct.in_memstall+in_iowait` | offset of the aligned word of that width in which a bit field lies, or several do |
//! | `mask u32 task_struct.in_memstall` | the bits of such a word that are the bit field |
//! | `u32 task_struct.__state\|task_struct.state` | the same, under the first of several spellings that the kernel has |
//! | `u64 css_set.subsys[cgroup_subsys_id.cpu_cgrp_id]` | the same, of the element that an enumeration's constant tells |
//! | `enum bpf_func_id.BPF_FUNC_loop` | the constant of an enumeration |
//! | `u64 udp_recvmsg(flags)` | where a program at the end of a function finds its argument of that name |
//! | `u64 udp_recvmsg()` | the same of its result |
//! | `sched_switch(4)` | how many arguments the tracepoint has, which must be so many at least |
//! | `REQUEST unless REQUEST` | the first one, which may be missing (and is 0 then) where the kernel has the second |
//! | `REQUEST?feature` | the same, where what is missing lets the program do without a feature; it is 0 then |
//! | `REQUEST?` | the same, where nothing else belongs to the feature |
//! | `feature ? 1 : 0` | the first number where all requests of that feature were answered, else the second |
//! | `REQUEST ? 1 : 0` | the same of one request |
//! | `SLOTS_COUNT` | what the daemon itself knows under this name |
//!
//! agent/src/kernel/needs reads them. A structure that only one collector reads stands in that collector's module, by the
//! same macros.

mod cgroup;
mod current;
pub(crate) mod offsets;
mod sched;
mod task;

use aya_ebpf::helpers::bpf_ktime_get_ns;

pub(crate) use self::{
    cgroup::{CGROUP_ONLINE, Cgroup, CssSet, ROOT_ID, ROOT_SERIAL},
    current::Current,
    sched::{CfsRq, has_throttled},
    task::{
        Signal, Task, executed_ns_at, exit_tells_group, is_kernel_thread_at, switch_has_state, thread_at,
        thread_group_at,
    },
};

/// The number of a request. Loaded anew at each use: to keep it would take a place on the stack.
macro_rules! number {
    ($($request:expr),+) => {{
        let value: u64;
        // Not `pure`, so that it is not kept.
        // SAFETY: the instruction has no effect but its result.
        #[allow(unused_unsafe, reason = "it may be used in an unsafe block")]
        unsafe {
            core::arch::asm!(
                concat!("{value} = \"", $($request),+, "\" ll"),
                value = out(reg) value,
                options(nomem, nostack, preserves_flags)
            );
        }
        value
    }};
}
pub(crate) use number;

/// A load in the one form that the daemon shortens: the offset, the sum, and the load of what lies there.
macro_rules! load {
    ($base:expr, $type:literal, $request:literal, $class:ident) => {{
        let value;
        // SAFETY: the verifier checks type and bounds of each such load; the daemon has compared the sizes.
        unsafe {
            core::arch::asm!(
                concat!("{sum} = \"", $type, " ", $request, "\" ll"),
                "{sum} += {base}",
                concat!("{value} = *(", $type, " *)({sum} + 0)"),
                sum = out(reg) _,
                value = lateout($class) value,
                base = in(reg) $base,
                options(readonly, nostack, preserves_flags)
            );
        }
        value
    }};
}
pub(crate) use load;

/// A member: a number, or a pointer to another structure.
macro_rules! member {
    ($base:expr, u64, $request:literal) => {{
        let value: u64 = $crate::kernel::load!($base, "u64", $request, reg);
        value
    }};
    ($base:expr, u32, $request:literal) => {{
        let value: u32 = $crate::kernel::load!($base, "u32", $request, wreg);
        value
    }};
    ($base:expr, u16, $request:literal) => {{
        let value: u16 = $crate::kernel::load!($base, "u16", $request, wreg);
        value
    }};
    ($base:expr, u8, $request:literal) => {{
        let value: u8 = $crate::kernel::load!($base, "u8", $request, wreg);
        value
    }};
    ($base:expr, $structure:ident, $request:literal) => {{
        let pointer: *const u8 = $crate::kernel::load!($base, "u64", $request, reg);
        $structure::from_raw(pointer)
    }};
}
pub(crate) use member;

/// Defines a pointer to a kernel structure and its readable members, each with the path that is its request.
macro_rules! structure {
    ($(#[$doc:meta])* $name:ident { $($member:ident: $type:ident = $request:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub(crate) struct $name(*const u8);
        #[allow(dead_code)]
        impl $name {
            #[inline(always)]
            pub(crate) const fn from_raw(pointer: *const u8) -> Self {
                Self(pointer)
            }
            #[inline(always)]
            pub(crate) fn is_null(self) -> bool {
                self.0.is_null()
            }
            #[inline(always)]
            pub(crate) fn address(self) -> u64 {
                self.0 as u64
            }
            $(
                #[inline(always)]
                pub(crate) fn $member(self) -> $type {
                    $crate::kernel::member!(self.0, $type, $request)
                }
            )*
        }
    };
}
pub(crate) use structure;

/// The same number, of which the compiler knows nothing, where it would otherwise make of it what verifiers do not follow.
macro_rules! opaque {
    ($number:expr) => {{
        let mut number = $number;
        // SAFETY: no instruction at all.
        #[allow(unused_unsafe, reason = "it may be used in an unsafe block")]
        unsafe {
            core::arch::asm!("/* {number} */", number = inout(reg) number, options(nomem, nostack, preserves_flags));
        }
        number
    }};
}
pub(crate) use opaque;

/// The monotonic clock.
#[inline(always)]
pub(crate) fn monotonic_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// Slots a CPU.
#[inline(always)]
pub(crate) fn slots_count() -> u64 {
    number!("SLOTS_COUNT")
}

/// CPUs that are measured: those from 0 to this number less one have their entries in the maps.
#[inline(always)]
pub(crate) fn cpus_count() -> u64 {
    number!("CPUS_COUNT")
}

/// A version 1 CPU hierarchy is mounted, in which a task's cgroup may count.
#[inline(always)]
pub(crate) fn has_v1() -> bool {
    number!("HAS_V1") != 0
}
