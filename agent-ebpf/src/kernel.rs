//! The kernel's own structures, read through offsets that the daemon resolves from BTF before it loads.
//!
//! Each offset is a constant of the loaded program: the daemon writes it into the instructions, as a linker would
//! do, so a read is one load and a branch on a missing member is removed (docs/adr/0008).

use core::arch::asm;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use podlens_common::cpu::Bandwidth;

/// `PF_KTHREAD` of linux/sched.h.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `SIGNAL_GROUP_EXIT` of linux/sched/signal.h.
const SIGNAL_GROUP_EXIT: u32 = 4;
/// `TASK_ON_RQ_MIGRATING` of kernel/sched/sched.h.
const TASK_ON_RQ_MIGRATING: u8 = 2;
/// The first id that a kernfs gives, to its root.
pub(crate) const ROOT_ID: u64 = 1;
/// What stands in the serial number of a hierarchy's root: the kernel numbers those that are made later, from 1 on.
pub(crate) const ROOT_SERIAL: u64 = 0;

/// A number that the daemon knows and the compiler does not: an undefined symbol whose address it is.
trait Constant: Copy {
    /// The number itself.
    fn load(self) -> u64;
    /// The member at that offset, which has 8 bytes.
    ///
    /// # Safety
    /// `base` is a pointer that the verifier knows as a kernel structure, and the member has that size.
    unsafe fn member_u64(self, base: *const u8) -> u64;
    /// The member at that offset, which has 4 bytes.
    ///
    /// # Safety
    /// As above.
    unsafe fn member_u32(self, base: *const u8) -> u32;
    /// The member at that offset, which has 1 byte.
    ///
    /// # Safety
    /// As above.
    unsafe fn member_u8(self, base: *const u8) -> u8;
}

/// A load in the one form that the daemon shortens: the offset, the sum, and the load of what lies there.
macro_rules! load {
    ($base:expr, $name:ident, $width:literal, $class:ident) => {{
        let value;
        asm!(
            concat!("{sum} = ", stringify!($name), " ll"),
            "{sum} += {base}",
            concat!("{value} = *(", $width, " *)({sum} + 0)"),
            sum = out(reg) _,
            value = lateout($class) value,
            base = in(reg) $base,
            options(readonly, nostack, preserves_flags)
        );
        value
    }};
}

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy)]
            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            struct $name;
            impl Constant for $name {
                #[inline(always)]
                fn load(self) -> u64 {
                    let value: u64;
                    // Not `pure`, so that it is loaded anew at each use: to keep it would take a place on the stack.
                    // SAFETY: the instruction has no effect but its result.
                    unsafe {
                        asm!(
                            concat!("{value} = ", stringify!($name), " ll"),
                            value = out(reg) value,
                            options(nomem, nostack, preserves_flags)
                        );
                    }
                    value
                }
                #[inline(always)]
                unsafe fn member_u64(self, base: *const u8) -> u64 {
                    // SAFETY: the caller's; the verifier checks type and bounds of each such load.
                    unsafe { load!(base, $name, "u64", reg) }
                }
                #[inline(always)]
                unsafe fn member_u32(self, base: *const u8) -> u32 {
                    // SAFETY: as above.
                    unsafe { load!(base, $name, "u32", wreg) }
                }
                #[inline(always)]
                unsafe fn member_u8(self, base: *const u8) -> u8 {
                    // SAFETY: as above.
                    unsafe { load!(base, $name, "u8", wreg) }
                }
            }
        )*
    };
}

constants! {
    TASK_PID;
    TASK_TGID;
    TASK_FLAGS;
    TASK_STATE;
    TASK_ON_RQ;
    TASK_CGROUPS;
    TASK_CFS_RQ;
    TASK_QUEUED;
    TASK_RUN_DELAY;
    TASK_DISPATCHES;
    CFS_RQ_RQ;
    CFS_RQ_THROTTLED;
    CFS_RQ_THROTTLED_AT;
    CFS_RQ_THROTTLES;
    RQ_CLOCK;
    RQ_CPU;
    RQ_SWITCHES;
    TASK_ARRIVED;
    TASK_EXECUTED;
    CSS_SET_DEFAULT;
    CSS_SET_CPU;
    CSS_CGROUP;
    CSS_PARENT;
    CGROUP_SELF;
    CGROUP_KN;
    CGROUP_SERIAL;
    CGROUP_ROOT;
    CGROUP_ROOT_HIERARCHY;
    KN_ID;
    KN_NAME;
    TASK_SIGNAL;
    SIGNAL_LIVING;
    TASK_EXIT_STATE;
    TASK_ON_CPU;
    /// The state word, for the walk through tasks.
    TASK_STATE_WORD;
    TASK_TASKS;
    TASK_THREAD_NODE;
    TASK_LEADER;
    TASK_EXIT_CODE;
    TASK_THREAD_PID;
    PID_LEVEL;
    PID_NUMBERS;
    SIGNAL_FLAGS;
    SIGNAL_EXIT_CODE;
    /// 1: ends of PID namespaces' first processes are told.
    TELLS_ENDS;
    SIGNAL_THREADS;
    CGROUP_CPU;
    GROUP_PERIODS;
    GROUP_THROTTLED;
    GROUP_THROTTLED_NS;
    /// 1: what a quota did can be read from the task group.
    HAS_BANDWIDTH;
    /// 1: sched_process_exit tells whether the thread is its group's last (6.16 and later).
    EXIT_HAS_GROUP;
    /// 1: sched_switch carries the state of the task that leaves (5.18 and later).
    SWITCH_HAS_STATE;
    /// 1: a version 1 CPU hierarchy tells the cgroup of tasks that the version 2 tree leaves in its root.
    HAS_V1;
    /// Number of the version 1 CPU hierarchy.
    V1_HIERARCHY;
    /// The throttled time of slots above this one can be read.
    THROTTLED_ABOVE;
    /// 1: the moment at which the present throttle began can be read (6.6 and later).
    HAS_THROTTLED_AT;
    /// Slots a CPU.
    SLOTS_COUNT;
    /// CPUs that can exist.
    CPUS_COUNT;
}

/// The value of a constant that the daemon set.
macro_rules! constant {
    ($function:ident, $name:ident) => {
        #[inline(always)]
        pub(crate) fn $function() -> u64 {
            $name.load()
        }
    };
}
constant!(slots_count, SLOTS_COUNT);
constant!(cpus_count, CPUS_COUNT);

#[inline(always)]
pub(crate) fn has_v1() -> bool {
    HAS_V1.load() != 0
}
#[inline(always)]
pub(crate) fn switch_has_state() -> bool {
    SWITCH_HAS_STATE.load() != 0
}
#[inline(always)]
pub(crate) fn tells_ends() -> bool {
    TELLS_ENDS.load() != 0
}
#[inline(always)]
pub(crate) fn exit_tells_group() -> bool {
    EXIT_HAS_GROUP.load() != 0
}
/// The slot is of a task group whose throttled time can be read. One comparison with a constant tells that, and where the
/// kernel has no such time the verifier sees that no slot is above it.
#[inline(always)]
pub(crate) fn has_throttled(slot: u32) -> bool {
    slot > THROTTLED_ABOVE.load() as u32
}

/// What a member of a kernel structure can be.
trait Member {
    /// One load of a member.
    ///
    /// # Safety
    /// `base` is a pointer that the verifier knows as a kernel structure, and the member at `offset` has this size.
    unsafe fn read(base: *const u8, offset: impl Constant) -> Self;
}
impl Member for u64 {
    #[inline(always)]
    unsafe fn read(base: *const u8, offset: impl Constant) -> Self {
        // SAFETY: the caller's.
        unsafe { offset.member_u64(base) }
    }
}
impl Member for u32 {
    #[inline(always)]
    unsafe fn read(base: *const u8, offset: impl Constant) -> Self {
        // SAFETY: the caller's.
        unsafe { offset.member_u32(base) }
    }
}
impl Member for u8 {
    #[inline(always)]
    unsafe fn read(base: *const u8, offset: impl Constant) -> Self {
        // SAFETY: the caller's.
        unsafe { offset.member_u8(base) }
    }
}
impl Member for *const u8 {
    #[inline(always)]
    unsafe fn read(base: *const u8, offset: impl Constant) -> Self {
        // SAFETY: the caller's.
        unsafe { offset.member_u64(base) as Self }
    }
}

/// Defines a pointer to a kernel structure and its readable members.
macro_rules! structure {
    ($(#[$doc:meta])* $name:ident { $($member:ident: $type:ty = $offset:ident;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub(crate) struct $name(*const u8);
        impl Member for $name {
            #[inline(always)]
            unsafe fn read(base: *const u8, offset: impl Constant) -> Self {
                // SAFETY: the caller's.
                Self(unsafe { Member::read(base, offset) })
            }
        }
        impl $name {
            #[inline(always)]
            #[allow(dead_code)]
            pub(crate) const fn from_raw(pointer: *const u8) -> Self {
                Self(pointer)
            }
            #[inline(always)]
            #[allow(dead_code)]
            pub(crate) fn is_null(self) -> bool {
                self.0.is_null()
            }
            #[inline(always)]
            #[allow(dead_code)]
            pub(crate) fn address(self) -> u64 {
                self.0 as u64
            }
            $(
                #[inline(always)]
                pub(crate) fn $member(self) -> $type {
                    // SAFETY: the offset was resolved for this member and its size compared with the type's.
                    unsafe { Member::read(self.0, $offset) }
                }
            )*
        }
    };
}

structure! {
    /// `struct task_struct`
    Task {
        pid: u32 = TASK_PID;
        tgid: u32 = TASK_TGID;
        flags: u32 = TASK_FLAGS;
        on_rq: u8 = TASK_ON_RQ;
        cgroups: CssSet = TASK_CGROUPS;
        cfs_rq: CfsRq = TASK_CFS_RQ;
        queued_ns: u64 = TASK_QUEUED;
        arrived_ns: u64 = TASK_ARRIVED;
        executed_ns: u64 = TASK_EXECUTED;
        run_delay_ns: u64 = TASK_RUN_DELAY;
        dispatches: u64 = TASK_DISPATCHES;
        signal: Signal = TASK_SIGNAL;
        leader: Task = TASK_LEADER;
        exit_code: u32 = TASK_EXIT_CODE;
        thread_pid: Pid = TASK_THREAD_PID;
    }
}
structure! {
    /// `struct signal_struct`: what the threads of a process share
    Signal {
        living: u32 = SIGNAL_LIVING;
        flags: u32 = SIGNAL_FLAGS;
        exit_code: u32 = SIGNAL_EXIT_CODE;
    }
}
structure! {
    /// `struct pid`: a process' numbers, one in each namespace from the host's down to its own
    Pid {
        level: u32 = PID_LEVEL;
    }
}
structure! {
    /// `struct cfs_rq`: a task group's queue on one CPU
    CfsRq {
        rq: Rq = CFS_RQ_RQ;
        throttled_ns: u64 = CFS_RQ_THROTTLED;
        throttled_at_ns: u64 = CFS_RQ_THROTTLED_AT;
        throttles: u32 = CFS_RQ_THROTTLES;
    }
}
structure! {
    /// `struct rq`: one CPU's run queue
    Rq {
        clock_ns: u64 = RQ_CLOCK;
        switches: u64 = RQ_SWITCHES;
        cpu: u32 = RQ_CPU;
    }
}
structure! {
    /// `struct css_set`: the cgroups of a task, one a hierarchy
    CssSet {
        default_cgroup: Cgroup = CSS_SET_DEFAULT;
        cpu: Css = CSS_SET_CPU;
    }
}
structure! {
    /// `struct cgroup_subsys_state`
    Css {
        cgroup: Cgroup = CSS_CGROUP;
    }
}
structure! {
    /// `struct cgroup`
    Cgroup {
        kn: KernfsNode = CGROUP_KN;
        serial: u64 = CGROUP_SERIAL;
        root: CgroupRoot = CGROUP_ROOT;
        cpu: Css = CGROUP_CPU;
    }
}
structure! {
    /// `struct cgroup_root`
    CgroupRoot {
        hierarchy: u32 = CGROUP_ROOT_HIERARCHY;
    }
}
structure! {
    /// `struct kernfs_node`
    KernfsNode {
        id: u64 = KN_ID;
        name: *const u8 = KN_NAME;
    }
}

impl Task {
    /// A kernel thread.
    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        self.flags() & PF_KTHREAD != 0
    }

    /// The task was taken from one run queue and is not yet on another.
    #[inline(always)]
    pub(crate) fn is_migrating(self) -> bool {
        self.on_rq() == TASK_ON_RQ_MIGRATING
    }

    /// The run queue of its task group's queue; none while the kernel sets it up.
    #[inline(always)]
    pub(crate) fn rq(self) -> Option<Rq> {
        let queue = self.cfs_rq();
        if queue.is_null() {
            return None;
        }
        let rq = queue.rq();
        if rq.is_null() { None } else { Some(rq) }
    }

    /// The state word, where the tracepoint does not carry it. Its upper half, where it is 64 bits wide, is 0.
    #[inline(always)]
    pub(crate) fn state(self) -> u32 {
        // SAFETY: `state` and `__state` both begin with these 32 bits on little endian machines.
        unsafe { Member::read(self.0, TASK_STATE) }
    }
}

impl Pid {
    /// The process' number in its own namespace.
    #[inline(always)]
    pub(crate) fn number(self) -> Option<u32> {
        // `struct upid` is a number and a pointer.
        let at = self.address() + PID_NUMBERS.load() + u64::from(self.level()) * 16;
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(at as *const u32) }.ok()
    }
}

impl Signal {
    /// How the whole process was told to end, if it was not its main thread alone that did.
    #[inline(always)]
    pub(crate) fn group_exit(self) -> Option<u32> {
        if self.flags() & SIGNAL_GROUP_EXIT != 0 { Some(self.exit_code()) } else { None }
    }
}

impl CfsRq {
    /// When the present throttle of this queue began; 0 if there is none, `clock_ns` if it is only known to be on.
    #[inline(always)]
    pub(crate) fn throttle_began_ns(self, clock_ns: u64) -> u64 {
        if HAS_THROTTLED_AT.load() != 0 {
            self.throttled_at_ns()
        } else if self.throttles() != 0 {
            clock_ns
        } else {
            0
        }
    }
}

impl Cgroup {
    /// The cgroup above; null at the root.
    #[inline(always)]
    pub(crate) fn parent(self) -> Self {
        // SAFETY: `self` is embedded in the cgroup, so its offset plus that of `parent` is a member of the cgroup.
        let css = unsafe {
            self.0.add(CGROUP_SELF.load() as usize + CSS_PARENT.load() as usize).cast::<Css>().read_volatile()
        };
        if css.is_null() { Self(core::ptr::null()) } else { css.cgroup() }
    }

    /// The hierarchy that podlens reads cgroups from, or none for any other.
    #[inline(always)]
    pub(crate) fn key_mark(self) -> Option<u64> {
        let hierarchy = self.root().hierarchy();
        if hierarchy == 0 {
            Some(0)
        } else if has_v1() && u64::from(hierarchy) == V1_HIERARCHY.load() {
            Some(podlens_common::cgroup::KEY_V1)
        } else {
            None
        }
    }
}

impl Css {
    /// What the quota of this task group has done so far; none where it cannot be read. The task group begins with
    /// its `cgroup_subsys_state`.
    #[inline(always)]
    pub(crate) fn bandwidth(self) -> Option<Bandwidth> {
        let at = |offset: u64| self.address() + offset;
        // SAFETY: the helper checks the addresses; the offsets are those of members of these sizes.
        unsafe {
            Some(Bandwidth {
                periods: u64::from(bpf_probe_read_kernel(at(GROUP_PERIODS.load()) as *const u32).ok()?),
                throttled_periods: u64::from(bpf_probe_read_kernel(at(GROUP_THROTTLED.load()) as *const u32).ok()?),
                throttled_ns: bpf_probe_read_kernel(at(GROUP_THROTTLED_NS.load()) as *const u64).ok()?,
            })
        }
    }
}

/// The thread group of a task that may be gone by now; none if nothing is there any more.
#[inline(always)]
pub(crate) fn thread_group_at(task: u64) -> Option<u32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((task + TASK_TGID.load()) as *const u32) }.ok()
}

/// The CPU time of a task that may be gone by now; none if nothing is there any more.
#[inline(always)]
pub(crate) fn executed_ns_at(task: u64) -> Option<u64> {
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel((task + TASK_EXECUTED.load()) as *const u64) }.ok()
}

/// What the quota of a cgroup with a CPU controller has done so far.
#[inline(always)]
pub(crate) fn bandwidth(cgroup: Cgroup) -> Option<Bandwidth> {
    if HAS_BANDWIDTH.load() == 0 {
        return None;
    }
    let css = cgroup.cpu();
    if css.is_null() { None } else { css.bandwidth() }
}

/// Offsets as numbers, for a program that reads kernel memory by address.
pub(crate) mod offsets {
    use super::Constant as _;

    macro_rules! offset {
        ($($function:ident = $name:ident;)*) => {
            $(#[inline(always)]
            pub(crate) fn $function() -> u64 {
                super::$name.load()
            })*
        };
    }
    offset! {
        task_leader = TASK_LEADER;
        task_tasks = TASK_TASKS;
        task_thread_node = TASK_THREAD_NODE;
        task_signal = TASK_SIGNAL;
        task_pid = TASK_PID;
        task_flags = TASK_FLAGS;
        task_exit_state = TASK_EXIT_STATE;
        task_state = TASK_STATE_WORD;
        task_on_cpu = TASK_ON_CPU;
        task_cgroups = TASK_CGROUPS;
        signal_threads = SIGNAL_THREADS;
        set_default = CSS_SET_DEFAULT;
        set_cpu = CSS_SET_CPU;
        css_cgroup = CSS_CGROUP;
        cgroup_kn = CGROUP_KN;
        kn_id = KN_ID;
    }
}
