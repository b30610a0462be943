//! Collector `tcp`: connections that are made, fail and end, by slot, and what each socket has done by its end.
//!
//! One hook tells of every change of a socket's state, in whichever context the kernel is: the task that runs then need not
//! be the socket's, so what counts is the socket's own cgroup, which it has for life. Where the kernel leaves programs out, two are
//! on that hook (notes.rs). What living sockets have comes from a walk (walk/), resets from hooks of their own (resets.rs). What the
//! kernel counts in 32 bits goes on beyond them (wide.rs).

mod notes;
mod resets;
mod sockets;
mod walk;
mod wide;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use podlens_common::{
    histogram::hashed_bucket,
    tcp::{
        Account, ConnectFailure, ConnectionError, Counts, Cursor,
        asking::{Asked, Asking, LINES, Line, PLACES, begin, end},
        notes::place_of,
        state,
        wide::Narrow,
    },
};

use self::sockets::{Socket, TcpSocket};
use crate::{atomic, kernel::monotonic_ns, socket_slot};

/// `IPPROTO_TCP` of linux/in.h.
const TCP: u16 = 6;

/// Counts, by slot.
#[map]
static TCP_ACCOUNTS: Array<Account> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// How far the walk is; the daemon sets it back.
#[map]
static TCP_CURSOR: Array<Cursor> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// When sockets began to ask for a connection, by their addresses.
#[map]
static TCP_CONNECTS: Array<Asking> = Array::with_max_entries(LINES, 0);
/// Connections that were made in a time that nobody knows.
#[map]
static TCP_UNTIMED: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `inet_sock_set_state(socket, old, new)`: the socket still has its old state, and one that closes is in no table any more.
///
/// For kernels that never leave a program out.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(context: BtfTracePointContext) -> i32 {
    Change::of(&context).take();
    0
}

/// The same elsewhere: the first of two (notes.rs).
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state_first(context: BtfTracePointContext) -> i32 {
    let change = Change::of(&context);
    if notes::is_firsts(change.socket, change.new) {
        change.take();
    }
    0
}

/// The second, attached behind it.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state_again(context: BtfTracePointContext) -> i32 {
    let change = Change::of(&context);
    if notes::is_seconds(change.socket, change.new) {
        change.take();
    }
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
            (_, state::SYN_SENT) => asks(socket),
            (state::SYN_SENT | state::SYN_RECEIVED, state::ESTABLISHED) => made(socket, old),
            (state::CLOSE, state::CLOSE) => {}
            (_, state::CLOSE) => closed(socket, old),
            _ => {}
        }
    }
}

/// A socket asks for a connection.
#[inline(always)]
fn asks(socket: Socket) {
    if let Some((line, number)) = asking(socket) {
        begin(&line, number, monotonic_ns());
    }
}

/// It does not ask any more; when it began, if that is known.
#[inline(always)]
fn asked_at_ns(socket: Socket) -> Option<u64> {
    let (line, number) = asking(socket)?;
    end(&line, number)
}

/// Where a socket that asks for a connection is noted, and the number that stands for it there: how far its address is from the
/// map's.
#[inline(always)]
fn asking(socket: Socket) -> Option<(Reached, u64)> {
    let distance = socket.distance_from(TCP_CONNECTS.get_ptr_mut(0)?);
    Some((Reached(TCP_CONNECTS.get_ptr_mut(place_of(distance, LINES))?), distance))
}

/// A line as one CPU reaches it.
struct Reached(*mut Asking);

impl Line for Reached {
    #[inline(always)]
    fn read(&self, place: usize) -> Asked {
        if place >= PLACES {
            return Asked { socket: 0, at_ns: 0 };
        }
        // SAFETY: entries of a map outlive the program, the place is one of the array's, and both are whole words.
        unsafe {
            let asked = (&raw const (*self.0).places).cast::<Asked>().add(place);
            Asked {
                socket: (&raw const (*asked).socket).read_volatile(),
                at_ns: (&raw const (*asked).at_ns).read_volatile(),
            }
        }
    }

    #[inline(always)]
    fn write(&self, place: usize, asked: Asked) {
        if place < PLACES {
            // SAFETY: as above.
            unsafe {
                let place = (&raw mut (*self.0).places).cast::<Asked>().add(place);
                (&raw mut (*place).at_ns).write_volatile(asked.at_ns);
                (&raw mut (*place).socket).write_volatile(asked.socket);
            }
        }
    }
}

/// A connection is made.
#[inline(always)]
fn made(socket: Socket, old: u32) {
    let Some(account) = account_of(socket) else { return };
    let asked_at_ns = if old == state::SYN_RECEIVED && !has_program(socket) { None } else { asked_at_ns(socket) };
    // Where both sides ask at once each has opened it, as the kernel counts: such a socket has asked before it was asked.
    if old == state::SYN_RECEIVED && asked_at_ns.is_none() {
        // SAFETY: entries of a map outlive the program, and each number is a whole word.
        unsafe { atomic::add(&raw mut (*account).accepted, 1) };
        return;
    }
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut (*account).opened, 1) };
    if let Some(took_ns) = since_syn_ns(socket, asked_at_ns) {
        // SAFETY: as above, and the bucket is less than the length.
        unsafe {
            atomic::add_u32((&raw mut (*account).connects).cast::<u32>().add(hashed_bucket(took_ns)), 1);
            atomic::add(&raw mut (*account).connects_ns, took_ns);
        }
    } else if let Some(untimed) = TCP_UNTIMED.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { atomic::add(untimed, 1) };
    }
}

/// A program has it already. One that others' asking has made has none before it is accepted, but for those of TCP Fast Open.
#[inline(always)]
fn has_program(socket: Socket) -> bool {
    socket.program() != 0
}

/// How long a socket that has its connection asked for it. Where the SYN was sent once that is its first round-trip time; where it was
/// sent again and is not noted, as when it asked before the program came, nobody knows.
#[inline(always)]
fn since_syn_ns(socket: Socket, asked_at_ns: Option<u64>) -> Option<u64> {
    let tcp = TcpSocket::of(socket)?;
    if tcp.total_retransmits() == 0 {
        return tcp.round_trip_ns();
    }
    Some(monotonic_ns().wrapping_sub(asked_at_ns?))
}

/// A socket has closed: nothing of it changes any more.
#[inline(always)]
fn closed(socket: Socket, old: u32) {
    let Some(account) = account_of(socket) else { return };
    let mut ended = 0;
    let (bytes, narrow) = if old == state::LISTEN {
        ([0; 2], Narrow { overflows: socket.drops(), ..Narrow::NONE })
    } else {
        let Some(tcp) = TcpSocket::of(socket) else { return };
        let was_made = old != state::SYN_SENT && old != state::SYN_RECEIVED;
        ended = u64::from(was_made);
        // SAFETY: entries of a map outlive the program, and each number is a whole word; bucket and reason are less than the lengths.
        unsafe {
            if was_made && let Some(time_ns) = tcp.round_trip_ns() {
                atomic::add_u32((&raw mut (*account).round_trips).cast::<u32>().add(hashed_bucket(time_ns)), 1);
                atomic::add(&raw mut (*account).round_trips_ns, time_ns);
            }
            if was_made && let Some(reason) = ConnectionError::of_error(socket.error()) {
                atomic::add((&raw mut (*account).errors).cast::<u64>().add(reason.index()), 1);
            }
        }
        let may_have_asked = old == state::SYN_SENT || old == state::SYN_RECEIVED && has_program(socket);
        // Its note goes in any case.
        let was_noted = may_have_asked && asked_at_ns(socket).is_some();
        if was_noted || old == state::SYN_SENT {
            let reason = ConnectFailure::of_error(socket.error()).index();
            // SAFETY: as above.
            unsafe { atomic::add((&raw mut (*account).failures).cast::<u64>().add(reason), 1) };
        }
        (tcp.bytes(socket), tcp.narrow())
    };
    let counts = wide::closed(socket, bytes, narrow);
    // First where it is taken off, then where it is added: whoever reads them the other way round may for a moment miss a
    // socket but never has one twice.
    // SAFETY: as above.
    unsafe {
        // It is also the barrier between the socket's leaving its table and the look at the cursor.
        atomic::add(&raw mut (*account).ended, ended);
        if is_passed(socket, old) {
            add(&raw mut (*account).passed, &counts);
        }
        add(&raw mut (*account).closed, &counts);
    }
}

/// Adds to counts in a map. Those of which most sockets have none are left alone: an addition is what costs most here.
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
        let limited = (&raw mut (*sums).limited).cast::<u64>();
        for (sum, amount) in [
            (&raw mut (*sums).retransmits, retransmits),
            (&raw mut (*sums).overflows, overflows),
            (limited, by_window),
            (limited.add(1), by_buffer),
        ] {
            if amount != 0 {
                atomic::add(sum, amount);
            }
        }
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
    TCP_ACCOUNTS.get_ptr_mut(socket_slot::slot_of(socket.cgroup()))
}
