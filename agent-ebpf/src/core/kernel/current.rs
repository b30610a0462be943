//! The task that runs, for programs on hooks that do not tell it. Kernels before 5.11 give no pointer with a type: there it is read
//! by its address, at 26 ns for each read.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf};

use super::{Task, number, offsets, task::is_kernel_thread_at};

/// The task that runs.
#[derive(Clone, Copy)]
pub(crate) struct Current {
    address: u64,
}

impl Current {
    #[inline(always)]
    pub(crate) fn get() -> Self {
        // SAFETY: the helper has no precondition.
        Self { address: unsafe { bpf_get_current_task() } }
    }

    /// The same with its type; none where the kernel gives no such pointer.
    #[inline(always)]
    pub(crate) fn typed() -> Option<Task> {
        if number!("enum bpf_func_id.BPF_FUNC_get_current_task_btf ? 1 : 0") == 0 {
            return None;
        }
        // SAFETY: as above.
        Some(Task::from_raw(unsafe { bpf_get_current_task_btf() }.cast()))
    }

    /// Its id, by the host's count.
    #[inline(always)]
    pub(crate) fn pid() -> u32 {
        bpf_get_current_pid_tgid() as u32
    }

    /// Where it is.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.address
    }

    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        match Self::typed() {
            Some(task) => task.is_kernel_thread(),
            None => is_kernel_thread_at(self.address),
        }
    }

    /// The kernel counts it as stalled for want of memory; always so where it does not count that.
    #[inline(always)]
    pub(crate) fn is_stalled_for_memory(self) -> bool {
        if number!("HAS_PSI") == 0 || number!("memstall ? 1 : 0") == 0 {
            return true;
        }
        if let Some(task) = Self::typed() {
            return task.is_stalled_for_memory();
        }
        let bits = self.half(number!("u32 task_struct.in_memstall?memstall"));
        u64::from(bits) & number!("mask u32 task_struct.in_memstall?memstall") != 0
    }

    /// Page faults that it has had, modulo 2^32.
    #[inline(always)]
    pub(crate) fn faults(self) -> u32 {
        let [minor, major] = [number!("u64 task_struct.min_flt"), number!("u64 task_struct.maj_flt")];
        (self.word(minor) + self.word(major)) as u32
    }

    /// The address of its set of cgroups.
    #[inline(always)]
    pub(crate) fn cgroups(self) -> u64 {
        self.word(offsets::task_cgroups())
    }

    #[inline(always)]
    fn word(self, offset: u64) -> u64 {
        offsets::word(self.address + offset)
    }

    #[inline(always)]
    fn half(self, offset: u64) -> u32 {
        offsets::half(self.address + offset)
    }
}
