//! Collector `disk`: requests to block devices when they complete, by the cgroup that the kernel charges them to.
//!
//! The request itself says whose it is and when it was made and handed to the driver, so nothing has to be remembered
//! between two hooks.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use podlens_common::{
    cgroup::{SLOT_ROOT, SLOT_UNATTRIBUTED},
    disk::{DiskAccount, Operation, Part, WITH_BYTES, distribution},
    histogram::hashed_bucket,
};

use crate::{
    atomic,
    kernel::{Cgroup, ROOT_SERIAL, monotonic_ns, structure},
    slots,
};

/// Accounts, by slot.
#[map]
static DISK: Array<DiskAccount> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `REQ_OP_MASK` of linux/blk_types.h, and those of its operations that are told apart.
const OPERATION_MASK: u32 = 0xff;
const READ: u32 = 0;
const WRITE: u32 = 1;
const DISCARD: u32 = 3;
/// From here on an operation is a driver's own, which nobody's account of a disk has.
const OF_DRIVERS: u32 = 32;
/// `BLK_MQ_F_STACKING` of linux/blk-mq.h: the driver hands the request on to a device below (loop, multipath by requests).
const STACKING: u64 = 1 << 2;
/// A duration that is not known.
const UNKNOWN_NS: u64 = u64::MAX;

structure! {
    /// `struct request`
    Request {
        flags: u32 = "request.cmd_flags";
        bytes_left: u32 = "request.__data_len";
        segments: u16 = "request.nr_phys_segments";
        bio: Bio = "request.bio";
        queue: HardwareQueue = "request.mq_hctx";
        made_ns: u64 = "request.start_time_ns";
        issued_ns: u64 = "request.io_start_time_ns";
    }
}
structure! {
    /// `struct blk_mq_hw_ctx`
    HardwareQueue {
        flags: u64 = "blk_mq_hw_ctx.flags";
    }
}
structure! {
    /// `struct bio`: what somebody has asked for. A request has those of one cgroup only.
    Bio {
        group: Group = "bio.bi_blkg";
    }
}
structure! {
    /// `struct blkcg_gq`: a cgroup on one device
    Group {
        blkcg: Blkcg = "blkcg_gq.blkcg";
    }
}
structure! {
    /// `struct blkcg`
    Blkcg {
        cgroup: Cgroup = "blkcg.css.cgroup";
    }
}

impl Request {
    /// What it asks for; none for what nobody waits for or moves bytes with.
    #[inline(always)]
    fn operation(self) -> Option<Operation> {
        let operation = self.flags() & OPERATION_MASK;
        if self.bytes_left() == 0 {
            // A flush is a write of nothing. A write with a flush before or behind it completes once more when its bytes are
            // written; it has segments.
            return if operation == WRITE && self.segments() == 0 { Some(Operation::Flush) } else { None };
        }
        match operation {
            READ => Some(Operation::Read),
            DISCARD => Some(Operation::Discard),
            // The kernel's rule: odd ones move bytes to the device.
            _ if operation < OF_DRIVERS && operation & 1 != 0 => Some(Operation::Write),
            _ => None,
        }
    }

    /// The cgroup that it is charged to; none if it has none.
    #[inline(always)]
    fn cgroup(self) -> Option<Cgroup> {
        let bio = self.bio();
        if bio.is_null() {
            return None;
        }
        let group = bio.group();
        if group.is_null() {
            return None;
        }
        let cgroup = group.blkcg().cgroup();
        if cgroup.is_null() { None } else { Some(cgroup) }
    }
}

/// `block_rq_complete(request, error, bytes)`, for each part of a request that completes; in an interrupt or not.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn disk_complete(context: BtfTracePointContext) -> i32 {
    let request = Request::from_raw(context.arg(0));
    let has_failed = context.arg::<u64>(1) as u32 != 0;
    let bytes = context.arg::<u64>(2) as u32;
    if let Some(operation) = request.operation()
        && request.queue().flags() & STACKING == 0
    {
        let is_last = bytes >= request.bytes_left();
        let outcome = u32::from(is_last) << 1 | u32::from(has_failed);
        let (device_ns, queue_ns) = if is_last { durations(operation, request) } else { (UNKNOWN_NS, UNKNOWN_NS) };
        count(slot_of(request), (operation as u32) << 2 | outcome, bytes, device_ns, queue_ns);
    }
    0
}

#[inline(always)]
fn slot_of(request: Request) -> u32 {
    let Some(cgroup) = request.cgroup() else { return SLOT_UNATTRIBUTED };
    let serial = cgroup.serial();
    // What is charged to a root is not known to be kernel threads' or others'.
    if serial == ROOT_SERIAL {
        return SLOT_ROOT;
    }
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    slots::of_cgroup_in_any_context(cgroup, serial, cpu).slot()
}

/// How long the device and the queue had it. Without statistics of the device the kernel does not note a moment, which is 0 then.
#[inline(always)]
fn durations(operation: Operation, request: Request) -> (u64, u64) {
    let (made_ns, issued_ns) = (request.made_ns(), request.issued_ns());
    let began_ns = if matches!(operation, Operation::Flush) { made_ns } else { issued_ns };
    if began_ns == 0 {
        return (UNKNOWN_NS, UNKNOWN_NS);
    }
    let now_ns = monotonic_ns();
    let queue_ns = if made_ns == 0 { UNKNOWN_NS } else { issued_ns.saturating_sub(made_ns) };
    (now_ns.saturating_sub(began_ns), queue_ns)
}

/// Adds a part of a request. `what` is its operation, and in the two lowest bits 2 for the last part, and 1 more if it has failed.
/// Gives whether there was room.
///
/// A function of its own with plain numbers only, which the verifier proves once and not for each operation.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count(slot: u32, what: u32, bytes: u32, device_ns: u64, queue_ns: u64) -> u32 {
    let Some(account) = DISK.get_ptr_mut(slot) else { return 0 };
    // An index has 64 bits: of the copy of a half register old verifiers do not know what was compared.
    let operation = u64::from(what >> 2) as usize;
    if operation >= Operation::COUNT {
        return 0;
    }
    // SAFETY: entries of a map outlive the program, its words are whole and aligned, and the indices are less than the
    // lengths.
    unsafe {
        let add_one = |counts: *mut [u64; Operation::COUNT]| atomic::add(counts.cast::<u64>().add(operation), 1);
        if what & 2 != 0 {
            add_one(&raw mut (*account).operations);
        }
        if what & 1 != 0 {
            add_one(&raw mut (*account).errors);
        }
        if operation < WITH_BYTES {
            atomic::add((&raw mut (*account).bytes).cast::<u64>().add(operation), bytes.into());
            if queue_ns != UNKNOWN_NS {
                enter(account, operation, queue_ns);
            }
        }
        if device_ns != UNKNOWN_NS {
            enter(account, WITH_BYTES + operation, device_ns);
        }
    }
    1
}

// `count` reckons the places of distributions from numbers: in the queue where there are bytes, in the device for all.
const _: () = {
    let mut at = 0;
    while at < Operation::COUNT {
        let operation = Operation::ALL[at];
        assert!(matches!(distribution(operation, Part::Device), Some(place) if place == WITH_BYTES + at));
        assert!(match distribution(operation, Part::Queue) {
            Some(place) => place == at && at < WITH_BYTES,
            None => at >= WITH_BYTES,
        });
        at += 1;
    }
};

/// Enters a duration at its place, one of [`distribution`]'s.
///
/// # Safety
/// The account is an entry of the map, and the place less than `DISTRIBUTIONS`.
#[inline(always)]
unsafe fn enter(account: *mut DiskAccount, place: usize, duration_ns: u64) {
    // SAFETY: the caller's; the mask keeps the bucket inside.
    unsafe {
        let durations = (&raw mut (*account).durations).cast::<[u32; 32]>().add(place).cast::<u32>();
        atomic::add_u32(durations.add(hashed_bucket(duration_ns) & 31), 1);
        atomic::add((&raw mut (*account).durations_ns).cast::<u64>().add(place), duration_ns);
    }
}
