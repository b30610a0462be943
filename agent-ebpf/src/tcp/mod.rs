//! Collector `tcp`: connections that are made, fail and end, by slot, and what each socket has done by its end.
//!
//! One hook tells of every change of a socket's state, in whichever context the kernel is: the task that runs then need not
//! be the socket's, so what counts is the socket's own cgroup, which it has for life. Two programs are on that hook, since the
//! kernel leaves out one that a CPU is in the middle of. What living sockets have comes from a walk (walk.rs), resets from hooks of
//! their own (resets.rs).

mod resets;
mod sockets;
mod walk;

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map},
    maps::{Array, LruHashMap},
    programs::BtfTracePointContext,
};
use podlens_common::{
    histogram::hashed_bucket,
    tcp::{Account, ConnectFailure, ConnectionError, Counts, Cursor, state},
};

use self::sockets::{Socket, TcpSocket};
use crate::{atomic, owner};

/// `IPPROTO_TCP` of linux/in.h.
const TCP: u16 = 6;

/// Counts, by slot.
#[map]
static TCP_ACCOUNTS: Array<Account> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// How far the walk is; the daemon sets it back.
#[map]
static TCP_CURSOR: Array<Cursor> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// When sockets began to ask for a connection, by their addresses: the kernel keeps no time that survives a SYN which is sent
/// again.
#[map]
static TCP_CONNECTS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// Which change of a socket `tcp_state` has taken last, by the sockets' addresses.
#[map]
static TCP_TAKEN: Array<u64> = Array::with_max_entries(TAKEN, 0);
/// Changes that `tcp_state_again` has taken.
#[map]
static TCP_STOOD_IN: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// A power of two, above the number of sockets that change while one program is put off between the two calls of one change.
const TAKEN: u32 = 1 << 12;

/// `inet_sock_set_state(socket, old, new)`: the socket still has its old state, and one that closes is in no table any more.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(context: BtfTracePointContext) -> i32 {
    let change = Change::of(&context);
    change.take();
    if let Some((taken, mark)) = change.taken() {
        // SAFETY: entries of a map outlive the program, and each is a whole word.
        unsafe { taken.write_volatile(mark) };
    }
    0
}

/// The same once more, attached behind it: takes the changes at which the kernel has left `tcp_state` out.
///
/// It does so where a CPU comes to a program that it is running already: an interrupt brings packets to other sockets while a
/// process opens or closes one, or, from kernel 7.0 on, the scheduler puts the program off and runs another task. Whoever comes in
/// the middle of `tcp_state` meets this program, and in the middle of this one has met that.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state_again(context: BtfTracePointContext) -> i32 {
    let change = Change::of(&context);
    if let Some((taken, mark)) = change.taken() {
        // SAFETY: as above.
        if unsafe { taken.read_volatile() } == mark {
            // SAFETY: as above.
            unsafe { taken.write_volatile(0) };
            return 0;
        }
    }
    if let Some(count) = TCP_STOOD_IN.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { atomic::add(count, 1) };
    }
    change.take();
    0
}

/// A change of a socket's state. Other protocols have such sockets too; what is missed of those is missed all the same.
struct Change {
    socket: Socket,
    old: u32,
    new: u32,
}

impl Change {
    #[inline(always)]
    fn of(context: &BtfTracePointContext) -> Self {
        let (old, new) = (context.arg::<u64>(1) as u32, context.arg::<u64>(2) as u32);
        Self { socket: Socket::from_raw(context.arg(0)), old, new }
    }

    /// Counts what it means.
    #[inline(always)]
    fn take(&self) {
        let Self { socket, old, new } = *self;
        if socket.protocol() != TCP {
            return;
        }
        match (old, new) {
            (_, state::SYN_SENT) => {
                // SAFETY: the helper has no precondition.
                let now_ns = unsafe { bpf_ktime_get_ns() };
                // Without room the time is told by the socket's own, if the SYN was sent once.
                let _ = TCP_CONNECTS.insert(socket.address(), now_ns, 0);
            }
            (state::SYN_SENT | state::SYN_RECEIVED, state::ESTABLISHED) => made(socket, old),
            (state::CLOSE, state::CLOSE) => {}
            (_, state::CLOSE) => closed(socket, old),
            _ => {}
        }
    }

    /// Where it is noted that it was taken, and the note, by which it differs from all others. No more than one change of a socket
    /// comes at a time, but it may go on on another CPU.
    #[inline(always)]
    fn taken(&self) -> Option<(*mut u64, u64)> {
        // To the verifier an address is a pointer with a type, which takes no arithmetic, but two of them have a distance.
        let from = TCP_TAKEN.get_ptr_mut(0)?;
        let mut distance = self.socket.address();
        // SAFETY: it changes this number alone.
        unsafe {
            asm!(
                "{distance} -= {from}",
                distance = inout(reg) distance,
                from = in(reg) from,
                options(pure, readonly, nostack)
            );
        }
        let hash = ((distance >> 6) as u32).wrapping_mul(0x9e37_79b9);
        let taken = TCP_TAKEN.get_ptr_mut(hash >> (u32::BITS - TAKEN.ilog2()))?;
        // Addresses begin with bits that are all the same, and states are less than 16.
        Some((taken, distance << 4 | u64::from(self.new)))
    }
}

/// A connection is made.
#[inline(always)]
fn made(socket: Socket, old: u32) {
    let Some(account) = account_of(socket) else { return };
    if old == state::SYN_RECEIVED {
        // SAFETY: entries of a map outlive the program, and each number is a whole word.
        unsafe { atomic::add(&raw mut (*account).accepted, 1) };
        return;
    }
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut (*account).opened, 1) };
    if let Some(took_ns) = since_syn_ns(socket) {
        // SAFETY: as above, and the bucket is less than the length.
        unsafe {
            atomic::add_u32((&raw mut (*account).connects).cast::<u32>().add(hashed_bucket(took_ns)), 1);
            atomic::add(&raw mut (*account).connects_ns, took_ns);
        }
    }
}

/// How long ago a socket began to ask for its connection.
#[inline(always)]
fn since_syn_ns(socket: Socket) -> Option<u64> {
    let address = socket.address();
    // SAFETY: the value is copied at once.
    let began_ns = unsafe { TCP_CONNECTS.get(address) }.copied();
    if let Some(began_ns) = began_ns {
        let _ = TCP_CONNECTS.remove(address);
        // SAFETY: the helper has no precondition.
        return Some(unsafe { bpf_ktime_get_ns() }.wrapping_sub(began_ns));
    }
    // It began before the programs did, or there was no room.
    let tcp = TcpSocket::of(socket)?;
    if tcp.total_retransmits() == 0 { tcp.round_trip_ns() } else { None }
}

/// A socket has closed: nothing of it changes any more.
#[inline(always)]
fn closed(socket: Socket, old: u32) {
    let Some(account) = account_of(socket) else { return };
    let counts = if old == state::LISTEN {
        Counts { overflows: socket.drops().into(), ..Counts::NONE }
    } else {
        let Some(tcp) = TcpSocket::of(socket) else { return };
        let was_made = old != state::SYN_SENT && old != state::SYN_RECEIVED;
        // SAFETY: entries of a map outlive the program, and each number is a whole word; bucket and reason are less than the lengths.
        unsafe {
            atomic::add(&raw mut (*account).ended, u64::from(was_made));
            if was_made && let Some(time_ns) = tcp.round_trip_ns() {
                atomic::add_u32((&raw mut (*account).round_trips).cast::<u32>().add(hashed_bucket(time_ns)), 1);
                atomic::add(&raw mut (*account).round_trips_ns, time_ns);
            }
            if was_made && let Some(reason) = ConnectionError::of_error(socket.error()) {
                atomic::add((&raw mut (*account).errors).cast::<u64>().add(reason.index()), 1);
            }
        }
        if old == state::SYN_SENT {
            let _ = TCP_CONNECTS.remove(socket.address());
            let reason = ConnectFailure::of_error(socket.error()).index();
            // SAFETY: as above.
            unsafe { atomic::add((&raw mut (*account).failures).cast::<u64>().add(reason), 1) };
        }
        tcp.counts(socket)
    };
    // First where it is taken off, then where it is added: whoever reads them the other way round may for a moment miss a
    // socket but never has one twice.
    // SAFETY: as above.
    unsafe {
        // An addition of nothing is the barrier between the socket's leaving its table and the look at the cursor.
        atomic::add(&raw mut (*account).ended, 0);
        if is_passed(socket, old) {
            add(&raw mut (*account).passed, &counts);
        }
        add(&raw mut (*account).closed, &counts);
    }
}

/// Adds to counts in a map.
///
/// # Safety
/// `sums` lies in a value of a map.
#[inline(always)]
unsafe fn add(sums: *mut Counts, counts: &Counts) {
    let Counts {
        bytes: [transmitted, received],
        segments: [sent, came],
        retransmits,
        overflows,
        limited: [by_window, by_buffer],
    } = *counts;
    // SAFETY: the caller vouches for the place; the arrays have two words each.
    unsafe {
        let bytes = (&raw mut (*sums).bytes).cast::<u64>();
        atomic::add(bytes, transmitted);
        atomic::add(bytes.add(1), received);
        let segments = (&raw mut (*sums).segments).cast::<u64>();
        atomic::add(segments, sent);
        atomic::add(segments.add(1), came);
        atomic::add(&raw mut (*sums).retransmits, retransmits);
        atomic::add(&raw mut (*sums).overflows, overflows);
        let limited = (&raw mut (*sums).limited).cast::<u64>();
        atomic::add(limited, by_window);
        atomic::add(limited.add(1), by_buffer);
    }
}

/// The present walk has passed the socket's place.
#[inline(always)]
fn is_passed(socket: Socket, old: u32) -> bool {
    let Some(cursor) = TCP_CURSOR.get_ptr(0) else { return false };
    // In this order: see `Cursor::has_passed`.
    // SAFETY: entries of a map outlive the program, and the fields are whole words.
    let (buckets, table) =
        unsafe { ((&raw const (*cursor).buckets).read_volatile(), (&raw const (*cursor).table).read_volatile()) };
    if table == Cursor::NONE.table || table == Cursor::ALL || old == state::LISTEN {
        return table == Cursor::ALL;
    }
    let tables = socket.net().tables();
    let bucket = socket.hash() & tables.connections_mask();
    Cursor::has_passed(table, buckets, tables.address(), bucket.into())
}

/// The account of the socket's cgroup.
#[inline(always)]
fn account_of(socket: Socket) -> Option<*mut Account> {
    TCP_ACCOUNTS.get_ptr_mut(owner::slot_of(socket.cgroup()))
}
