//! Collector `tcp`: a walk through all TCP sockets of the node, which sums up by cgroup what living ones have.
//!
//! It reads the kernel's own tables, which do not know whose network namespace the reader is in. Nearly always there is
//! one table of connections for all namespaces; a namespace may have its own, so the walk goes round the namespaces for the
//! table with the next higher address until there is none. Listening sockets are in one table that all share.
//!
//! A run takes so many steps that it does not hold its CPU for longer than 0.5 ms. It is one read-side critical section, and it
//! ends between two buckets, since a connection never changes its bucket. `TCP_CURSOR` says which buckets the walk has passed: a
//! bucket is passed before its head is read. So a socket that closes is either in no chain that is read later, or its
//! closing sees that the walk has passed it: in no case is it counted by both and not taken off.

mod records;
mod sums;
mod tables;

use core::{arch::asm, cell::Cell};

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    cty::{c_long, c_void},
    helpers::{
        bpf_ktime_get_ns, bpf_loop,
        generated::{bpf_jiffies64, bpf_probe_read_kernel},
    },
    macros::map,
    maps::Array,
};
use podlens_common::tcp::{Alive, Direction, KEY_NOBODY, Limit, SocketState, SocketWalk, buckets_at_once, state};

use self::{
    records::{Known, REMEMBERED, place, record_of},
    sums::{add, add_narrow, observe},
    tables::seek,
};
use super::{TCP_ACCOUNTS, TCP_CURSOR, sockets as offsets, wide::living};
use crate::{
    atomic,
    cells::{cells, element},
    kernel::{
        offsets::{self as kernel, half, word},
        opaque,
    },
};

/// What a run may cost, in pieces of a table that are read at once (0.3 us each).
const COST: u32 = 1000;
/// What a socket costs.
const SOCKET_COST: u32 = 3;
/// Turns of the loop, above what a run can cost: only a chain without an end has so many.
const TURNS: u32 = 1 << 16;
/// Words of a table that are read at once; a power of two.
const HEADS: u32 = 128;
/// The end of a chain has this bit.
const END: u64 = 1;

/// What the walk met, by cgroup, in the order in which it met them.
#[map]
static TCP_ALIVE: Array<Alive> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// How far it is, for the daemon.
#[map]
static TCP_WALK: Array<SocketWalk> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Where the walk is. In a map, since it goes on at the next run, and since the verifier follows what is on the stack from
/// turn to turn of the loop.
#[map]
static TCP_AT: Array<At> = Array::with_max_entries(1, 0);

/// What is walked.
const SEEK: u32 = 0;
const CONNECTIONS: u32 = 1;
const LISTENERS: u32 = 2;

/// Where the walk is.
#[repr(C)]
struct At {
    /// The namespace at which the round begins, the present one, and what tells a namespace from the ring's head.
    first: u64,
    net: u64,
    operations: u64,
    /// The lowest table of the round above the present one.
    above: u64,
    /// It came round.
    round: u32,
    phase: u32,
    /// The present tables, and where the buckets begin.
    tables: u64,
    base: u64,
    /// Words of a bucket, and which of them is the head.
    stride: u32,
    head: u32,
    buckets: u32,
    /// The first bucket whose head is in `heads`, how many are, and how many of those were taken.
    bucket: u32,
    have: u32,
    taken: u32,
    /// The next socket of the present chain, or a chain's end.
    node: u64,
    /// What the present run has cost.
    cost: u32,
    /// Which run it is.
    run: u32,
    heads: [u64; HEADS as usize],
    known: [Known; REMEMBERED as usize],
}

cells! {
    /// Only one reader walks at a time.
    AtCells of At {
        first: u64 = first;
        net: u64 = net;
        operations: u64 = operations;
        above: u64 = above;
        round: u32 = round;
        phase: u32 = phase;
        tables: u64 = tables;
        base: u64 = base;
        stride: u32 = stride;
        head: u32 = head;
        buckets: u32 = buckets;
        bucket: u32 = bucket;
        have: u32 = have;
        taken: u32 = taken;
        node: u64 = node;
        cost: u32 = cost;
        run: u32 = run;
    }
}
cells! {
    /// The same.
    WalkCells of SocketWalk {
        number: u32 = number;
        observes: u32 = observes;
        ticks: u64 = ticks;
        began_ns: u64 = began_ns;
        runs: u64 = runs;
        finished: u64 = finished;
        lost: u64 = lost;
        records: u64 = records;
        sockets: u64 = sockets;
        time_wait: u64 = time_wait;
        left: u64 = left;
        unplaced: u64 = unplaced;
        unnoted: u64 = unnoted;
    }
}
cells! {
    /// The same.
    AliveCells of Alive {
        bytes: [u64; Direction::COUNT] = counts.bytes;
        segments: [u64; Direction::COUNT] = counts.segments;
        retransmits: u64 = counts.retransmits;
        overflows: u64 = counts.overflows;
        limited: [u64; Limit::COUNT] = counts.limited;
        is_online: u32 = is_online;
        queue: u32 = queue;
        queue_limit: u32 = queue_limit;
        slot: u32 = slot;
    }
}

impl AtCells {
    #[inline(always)]
    fn get() -> Option<Self> {
        Self::at(TCP_AT.get_ptr_mut(0))
    }

    #[inline(always)]
    fn word_of_heads(self, index: u32) -> &'static Cell<u64> {
        // Opaque, so that a loop indexes anew at each turn, which the verifier can follow.
        // SAFETY: entries of a map outlive the program, and the mask keeps the index inside.
        unsafe { element(&raw mut (*self.0.as_ptr()).heads, (opaque!(index) & (HEADS - 1)) as usize) }
    }

    #[inline(always)]
    fn known(self, index: u32) -> &'static Cell<Known> {
        // SAFETY: as above.
        unsafe { element(&raw mut (*self.0.as_ptr()).known, (index & (REMEMBERED - 1)) as usize) }
    }
}

impl WalkCells {
    #[inline(always)]
    fn get() -> Option<Self> {
        Self::at(TCP_WALK.get_ptr_mut(0))
    }
}

/// Called for the first task that the reader may see; ends its reading.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn tcp_walk(_context: *mut c_void) -> i32 {
    let (Some(at), Some(walk)) = (AtCells::get(), WalkCells::get()) else { return 1 };
    offsets::needs_chains_of_listeners();
    kernel::needs_loop();
    if walk.runs().get() == 0 {
        at.tables().set(0);
        at.phase().set(SEEK);
        // SAFETY: the helpers have no precondition.
        let (ticks, now_ns) = unsafe { (bpf_jiffies64(), bpf_ktime_get_ns()) };
        walk.ticks().set(ticks);
        walk.began_ns().set(now_ns);
        // The first record is nobody's.
        place(KEY_NOBODY, 0);
    }
    walk.runs().update(|runs| runs + 1);
    at.run().update(|run| run.wrapping_add(1));
    at.cost().set(0);
    at.node().set(END);
    if at.phase().get() == SEEK && !seek(at) {
        walk.lost().set(1);
        return 1;
    }
    let step: extern "C" fn(u32, *mut c_void) -> c_long = next_socket;
    // SAFETY: the callback has the form that the kernel calls.
    unsafe { bpf_loop(TURNS, step as *mut c_void, core::ptr::null_mut(), 0) };
    if at.node().get() & END == 0 {
        walk.lost().set(1);
    }
    // On at the first bucket whose chain was not read.
    at.bucket().set(at.bucket().get().wrapping_add(at.taken().get()));
    at.have().set(0);
    at.taken().set(0);
    if at.phase().get() == CONNECTIONS {
        pass(at.tables().get(), at.bucket().get());
    }
    // Not to be called for the next task.
    1
}

/// Says how far the walk is, before it reads on.
#[inline(always)]
fn pass(table: u64, buckets: u32) {
    let Some(cursor) = TCP_CURSOR.get_ptr_mut(0) else { return };
    // The table first, so that the buckets of the last one are never taken for less than were passed.
    // SAFETY: entries of a map outlive the program, and each field is a whole word.
    unsafe {
        (&raw mut (*cursor).table).write_volatile(table);
        (&raw mut (*cursor).buckets).write_volatile(buckets.into());
        atomic::add(&raw mut (*cursor).steps, 1);
    }
}

/// One socket, or the way to the next chain.
extern "C" fn next_socket(_index: u32, _context: *mut c_void) -> c_long {
    let (Some(at), Some(walk)) = (AtCells::get(), WalkCells::get()) else { return 1 };
    let node = at.node().get();
    if node & END == 0 {
        visit(at, walk, node);
        return 0;
    }
    if at.cost().get() >= COST {
        return 1;
    }
    if at.taken().get() >= at.have().get() {
        return read_heads(at, walk);
    }
    at.node().set(next_head(at));
    0
}

/// Reads the next piece of the table; not 0 at its end.
#[inline(always)]
fn read_heads(at: AtCells, walk: WalkCells) -> c_long {
    let bucket = at.bucket().get().wrapping_add(at.have().get());
    let buckets = at.buckets().get();
    let stride = at.stride().get();
    at.have().set(0);
    at.taken().set(0);
    at.bucket().set(bucket);
    if bucket >= buckets {
        if at.phase().get() == LISTENERS {
            walk.finished().set(1);
        }
        at.phase().set(SEEK);
        return 1;
    }
    let count = buckets_at_once(HEADS, stride, buckets - bucket);
    let bytes = count * stride * 8;
    if bytes == 0 || bytes > HEADS * 8 {
        walk.lost().set(1);
        return 1;
    }
    if at.phase().get() == CONNECTIONS {
        pass(at.tables().get(), bucket + count);
    }
    let from = at.base().get() + u64::from(bucket) * u64::from(stride) * 8;
    let heads = at.word_of_heads(0).as_ptr();
    // Kernel 6.1 forgets by now what the size was compared with. Twice the heads still lie in the record.
    let mut bytes = u64::from(bytes);
    // SAFETY: it changes this number alone, and that only if it were larger than it is.
    unsafe {
        asm!(
            "{bytes} &= {most}",
            bytes = inout(reg) bytes,
            most = const 2 * HEADS * 8 - 1,
            options(pure, nomem, nostack)
        );
    }
    // SAFETY: the helper checks the address, and writes so many bytes at most as there are.
    if unsafe { bpf_probe_read_kernel(heads.cast(), bytes as u32, from as *const c_void) } != 0 {
        walk.lost().set(1);
        return 1;
    }
    at.have().set(count);
    at.cost().update(|cost| cost + 1);
    0
}

/// The next head of a chain that is not empty; an end if there is none in this piece.
#[inline(always)]
fn next_head(at: AtCells) -> u64 {
    let (have, stride, first) = (at.have().get(), at.stride().get(), at.head().get());
    let mut taken = at.taken().get();
    let mut head = END;
    let mut turn = 0;
    while turn < HEADS {
        if taken >= have {
            break;
        }
        head = at.word_of_heads(taken * stride + first).get();
        taken += 1;
        if head & END == 0 {
            break;
        }
        turn += 1;
    }
    at.taken().set(taken);
    head
}

#[inline(always)]
fn visit(at: AtCells, walk: WalkCells, node: u64) {
    let next = if node == 0 { 0 } else { word(node) };
    if next == 0 {
        // Not readable: no chain ends so.
        at.node().set(END);
        walk.left().update(|left| left + 1);
        return;
    }
    at.node().set(next);
    at.cost().update(|cost| cost + SOCKET_COST);
    let socket = node - offsets::node();
    let state = half(socket + offsets::state()) & 0xff;
    if at.phase().get() == CONNECTIONS {
        let here = at.bucket().get().wrapping_add(at.taken().get()).wrapping_sub(1);
        if half(socket + offsets::hash()) & at.buckets().get().wrapping_sub(1) != here {
            // Closed since its address was read, and made anew in another chain.
            at.node().set(END);
            walk.left().update(|left| left + 1);
            return;
        }
    }
    walk.sockets().update(|sockets| sockets + 1);
    if state == state::TIME_WAIT {
        walk.time_wait().update(|sockets| sockets + 1);
        return;
    }
    let owner = if state == state::REQUEST { word(socket + offsets::listener()) } else { socket };
    let record = record_of(at, word(owner + offsets::cgroup()));
    let Some(alive) = TCP_ALIVE.get_ptr_mut(record) else { return };
    if let Some(state) = SocketState::of(state) {
        // SAFETY: entries of a map outlive the program, only one reader walks, and the index is less than the length.
        unsafe {
            let count = (&raw mut (*alive).connections).cast::<u32>().add(state.index());
            count.write_volatile(count.read_volatile() + 1);
        }
    }
    let Some(alive) = AliveCells::at(Some(alive)) else { return };
    match state {
        state::REQUEST => {}
        state::LISTEN => {
            add_narrow(record, socket, 1);
            alive.queue().update(|queue| queue.wrapping_add(half(socket + offsets::queue())));
            alive.queue_limit().update(|limit| limit.saturating_add(half(socket + offsets::queue_limit())));
        }
        _ => {
            add(alive, socket);
            add_narrow(record, socket, 0);
            observe(walk, alive, socket);
        }
    }
}
