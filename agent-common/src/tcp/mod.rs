//! TCP by cgroup: what closed sockets have done, by slot, what living ones have, by key, and the walk that meets those.
//!
//! A socket is counted once: when it closes, the hook adds what it has to its slot's account; until then the walk
//! meets it. Which of the two counts a socket that closes during a walk is decided by the [`Cursor`].

use bytemuck::{Pod, Zeroable};

use crate::{cgroup::CgroupKey, histogram::BUCKETS, label::label};

pub mod asking;
pub mod notes;
pub mod wide;

label! {
    /// Which way bytes and segments go.
    Direction {
        /// From the socket.
        Transmit = "transmit",
        /// To it.
        Receive = "receive",
    }
}

label! {
    /// The protocol of bytes.
    Protocol {
        /// TCP.
        Tcp = "tcp",
    }
}

label! {
    /// What happens to connections.
    ConnectionEvent {
        /// Made by the cgroup's own sockets.
        Opened = "opened",
        /// Made by others to one of its listening sockets.
        Accepted = "accepted",
        /// Tried by its own sockets, in vain.
        Failed = "failed",
        /// At their end, after they were made.
        Closed = "closed",
    }
}

label! {
    /// Why a connection was not made.
    ConnectFailure {
        /// The other side answered with a reset.
        Refused = "refused",
        /// Nobody answered.
        Timeout = "timeout",
        /// The network said that there is no way.
        Unreachable = "unreachable",
        /// Anything else: most of all, the program gave up.
        Other = "other",
    }
}

label! {
    /// Which error has ended a connection.
    ConnectionError {
        /// The other side sent a reset.
        Reset = "reset",
        /// The other side did not answer any more.
        Timeout = "timeout",
        /// The network said that there is no way any more.
        Unreachable = "unreachable",
        /// Anything else, as an administrator's.
        Other = "other",
    }
}

label! {
    /// What keeps a connection from sending more.
    Limit {
        /// The other side's receive window is full.
        ReceiveWindow = "receive_window",
        /// The socket's own send buffer is: all that is in it was sent, and there is no room for more.
        SendBuffer = "send_buffer",
    }
}

label! {
    /// What a socket is at.
    SocketState {
        /// It asks for a connection.
        SynSent = "syn_sent",
        /// It is asked for one.
        SynReceived = "syn_received",
        /// A connection.
        Established = "established",
        /// Closed on this side, not on the other.
        FinWait = "fin_wait",
        /// Closed on the other side, not on this.
        CloseWait = "close_wait",
        /// Closed on both sides, and the last word is awaited.
        Closing = "closing",
        /// It waits for connections.
        Listening = "listening",
    }
}

impl ConnectFailure {
    /// Of an error number of the kernel's.
    #[inline(always)]
    #[must_use]
    pub const fn of_error(error: u32) -> Self {
        match error {
            // ECONNREFUSED, ETIMEDOUT; ENETUNREACH, EHOSTDOWN, EHOSTUNREACH.
            111 => Self::Refused,
            110 => Self::Timeout,
            101 | 112 | 113 => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

impl ConnectionError {
    /// Of an error number of the kernel's; none for a connection that ended in order.
    #[inline(always)]
    #[must_use]
    pub const fn of_error(error: u32) -> Option<Self> {
        match error {
            0 => None,
            // ECONNRESET; EPIPE, which is the same where the other side had closed before.
            104 | 32 => Some(Self::Reset),
            110 => Some(Self::Timeout),
            101 | 112 | 113 => Some(Self::Unreachable),
            _ => Some(Self::Other),
        }
    }
}

/// States of a socket as `net/tcp_states.h` numbers them; they are the same in all kernels.
pub mod state {
    /// `TCP_ESTABLISHED`.
    pub const ESTABLISHED: u32 = 1;
    /// `TCP_SYN_SENT`.
    pub const SYN_SENT: u32 = 2;
    /// `TCP_SYN_RECV`.
    pub const SYN_RECEIVED: u32 = 3;
    /// `TCP_FIN_WAIT1`.
    pub const FIN_WAIT_1: u32 = 4;
    /// `TCP_FIN_WAIT2`.
    pub const FIN_WAIT_2: u32 = 5;
    /// `TCP_TIME_WAIT`: a small socket that knows no cgroup; one that stands for an orphan in `FIN_WAIT2` says so too.
    pub const TIME_WAIT: u32 = 6;
    /// `TCP_CLOSE`.
    pub const CLOSE: u32 = 7;
    /// `TCP_CLOSE_WAIT`.
    pub const CLOSE_WAIT: u32 = 8;
    /// `TCP_LAST_ACK`.
    pub const LAST_ACK: u32 = 9;
    /// `TCP_LISTEN`.
    pub const LISTEN: u32 = 10;
    /// `TCP_CLOSING`.
    pub const CLOSING: u32 = 11;
    /// `TCP_NEW_SYN_RECV`: a small socket that belongs to its listening one.
    pub const REQUEST: u32 = 12;
}

impl SocketState {
    /// Of the kernel's number; none for a socket that is closed or waits for that.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            state::SYN_SENT => Some(Self::SynSent),
            state::SYN_RECEIVED | state::REQUEST => Some(Self::SynReceived),
            state::ESTABLISHED => Some(Self::Established),
            state::FIN_WAIT_1 | state::FIN_WAIT_2 => Some(Self::FinWait),
            state::CLOSE_WAIT => Some(Self::CloseWait),
            state::LAST_ACK | state::CLOSING => Some(Self::Closing),
            state::LISTEN => Some(Self::Listening),
            _ => None,
        }
    }
}

/// What sockets have done, closed or alive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counts {
    /// Payload by direction.
    pub bytes: [u64; Direction::COUNT],
    /// Segments by direction.
    pub segments: [u64; Direction::COUNT],
    /// Segments that were sent again.
    pub retransmits: u64,
    /// Connections that a listening socket had no room for.
    pub overflows: u64,
    /// How long they could not send more, in ticks of the kernel's.
    pub limited: [u64; Limit::COUNT],
}

/// How many numbers [`Counts`] has.
pub const COUNTS: usize = 8;

/// What the sockets of one slot's cgroup have done by their end, and what happened to its connections. Any CPU adds to it, by
/// atomic additions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Account {
    /// Of closed sockets.
    pub closed: Counts,
    /// The part of that whose sockets the present walk had passed before they closed. Added to before `closed` is.
    pub passed: Counts,
    /// Connections that its own sockets made.
    pub opened: u64,
    /// Connections that others made.
    pub accepted: u64,
    /// Connections that are over.
    pub ended: u64,
    /// Connections that were not made, by reason.
    pub failures: [u64; ConnectFailure::COUNT],
    /// Connections that an error has ended, by reason.
    pub errors: [u64; ConnectionError::COUNT],
    /// Resets by direction.
    pub resets: [u64; Direction::COUNT],
    /// How long it took to make one, summed up.
    pub connects_ns: u64,
    /// The same, counted at each hashed bucket, modulo 2^32.
    pub connects: [u32; BUCKETS],
    /// Smoothed round-trip times, summed up: of each connection at its end, and of living ones in some walks.
    pub round_trips_ns: u64,
    /// The same, counted at each hashed bucket, modulo 2^32.
    pub round_trips: [u32; BUCKETS],
}

impl Account {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        closed: Counts::NONE,
        passed: Counts::NONE,
        opened: 0,
        accepted: 0,
        ended: 0,
        failures: [0; ConnectFailure::COUNT],
        errors: [0; ConnectionError::COUNT],
        resets: [0; Direction::COUNT],
        connects_ns: 0,
        connects: [0; BUCKETS],
        round_trips_ns: 0,
        round_trips: [0; BUCKETS],
    };
}

/// What one cgroup's living sockets have, as the last walk met them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Alive {
    /// The cgroup; [`KEY_NOBODY`] for sockets of which it is not known.
    pub key: CgroupKey,
    /// What they have done so far.
    pub counts: Counts,
    /// How many there are, by state.
    pub connections: [u32; SocketState::COUNT],
    /// 1: the cgroup is there; 0: it was removed.
    pub is_online: u32,
    /// Connections that wait in listening sockets to be taken by the program.
    pub queue: u32,
    /// How many may wait.
    pub queue_limit: u32,
    /// Its slot; [`NO_SLOT`] without one.
    pub slot: u32,
    /// Padding.
    pub reserved: u32,
}

impl Alive {
    /// No socket.
    pub const EMPTY: Self = Self {
        key: KEY_NOBODY,
        counts: Counts::NONE,
        connections: [0; SocketState::COUNT],
        is_online: 0,
        queue: 0,
        queue_limit: 0,
        slot: NO_SLOT,
        reserved: 0,
    };
}

impl Counts {
    /// Nothing.
    pub const NONE: Self = Self { bytes: [0; 2], segments: [0; 2], retransmits: 0, overflows: 0, limited: [0; 2] };
}

/// In a record of living sockets: whose cgroup is not known.
pub const KEY_NOBODY: CgroupKey = 0;
/// In a record of living sockets: the root of the version 2 tree.
pub const KEY_ROOT: CgroupKey = 1;
/// No index of a slot.
pub const NO_SLOT: u32 = u32::MAX;

/// Where a key's record is, in the walk of that number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Place {
    /// The key.
    pub key: CgroupKey,
    /// The walk; any other one means that nothing is here.
    pub walk: u32,
    /// The record.
    pub record: u32,
}

/// How far the walk is: which sockets it will not meet any more. Buckets are passed table by table, in the order of the tables'
/// addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Cursor {
    /// The table in which it is: all of those below are passed.
    pub table: u64,
    /// How many of that table's buckets are.
    pub buckets: u64,
    /// Grows with each step, by an atomic addition, so that what is read after it is not older than the cursor.
    pub steps: u64,
}

impl Cursor {
    /// No walk: nothing is passed.
    pub const NONE: Self = Self { table: 0, buckets: 0, steps: 0 };
    /// The table that is above all: whatever the walk meets now, connections are passed.
    pub const ALL: u64 = u64::MAX;

    /// Whether it has passed a bucket of a table. Of two words that are read one after another, `buckets` is to be the
    /// older: then what is passed is never taken for what is not.
    #[inline(always)]
    #[must_use]
    pub const fn has_passed(table: u64, buckets: u64, of_table: u64, bucket: u64) -> bool {
        of_table < table || (of_table == table && bucket < buckets)
    }
}

/// How far a walk is, as of the end of its last run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketWalk {
    /// Which walk it is; the daemon counts them from 1.
    pub number: u32,
    /// 1: round-trip times of living connections are entered.
    pub observes: u32,
    /// The kernel's count of ticks when it began, and the time.
    pub ticks: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// Runs that it took so far; 0 has the next one begin.
    pub runs: u64,
    /// 1: it has met all.
    pub finished: u64,
    /// 1: it cannot go on.
    pub lost: u64,
    /// Records that it wrote.
    pub records: u64,
    /// Sockets that it met.
    pub sockets: u64,
    /// Those of them in `TIME_WAIT`, which know no cgroup.
    pub time_wait: u64,
    /// Chains that it had to leave since a socket in them had moved to another one: the rest of each is met by the next walk.
    pub left: u64,
    /// Sockets of cgroups for which there was no record left.
    pub unplaced: u64,
    /// Sockets that are to be remembered ([`wide`]), for which there was no room.
    pub unnoted: u64,
}

/// How many of a table's buckets fit into so many words, where a bucket has `stride` of them and so many buckets are left.
///
/// In the table of listening sockets a lock stands before the head of each chain. It has 4 bytes on most kernels, 24 where locks
/// are debugged, 32 where they may sleep (`PREEMPT_RT`), and 48 more where lockdep is built in.
#[inline(always)]
#[must_use]
pub const fn buckets_at_once(words: u32, stride: u32, left: u32) -> u32 {
    if stride == 0 {
        return 0;
    }
    let most = words / stride;
    if left < most { left } else { most }
}

/// Payload that was handed to the network for the first time.
///
/// What was sent less what was sent again; but where a queue of this host drops, which counts as sent each time and not as
/// sent again, the sequence numbers that were used, which may have one for SYN and one for FIN among them.
#[inline(always)]
#[must_use]
pub const fn transmitted(sent: u64, sent_again: u64, acknowledged: u64, next: u32, unacknowledged: u32) -> u64 {
    let by_sending = sent.wrapping_sub(sent_again);
    let by_sequence = acknowledged.wrapping_add(next.wrapping_sub(unacknowledged) as u64);
    if by_sending < by_sequence { by_sending } else { by_sequence }
}

/// Payload that came. The kernel counts the other side's FIN as a byte, and then sets `SOCK_DONE` among the socket's flags.
#[inline(always)]
#[must_use]
pub const fn received(received: u64, flags: u64) -> u64 {
    received.wrapping_sub((flags >> SOCK_DONE) & 1)
}

/// What the span that runs adds to the time for which a connection could not send more: `span` for the one limit that it is of.
/// The kind of the span is some bits of `word`, those of `mask`: 2 and 3 of `enum tcp_chrono`, where 0 is idle and 1 is busy.
#[inline(always)]
#[must_use]
pub const fn limited(word: u64, mask: u64, span: u32) -> [u32; Limit::COUNT] {
    let one = mask & mask.wrapping_neg();
    let kind = word & mask;
    [if kind == 2 * one { span } else { 0 }, if kind == 3 * one { span } else { 0 }]
}

/// `SOCK_DONE` of `net/sock.h`.
const SOCK_DONE: u32 = 1;

const _: () = assert!(size_of::<Counts>() == 8 * COUNTS);
const _: () = assert!(size_of::<Account>() == 504);
const _: () = assert!(size_of::<Alive>() == 120);
const _: () = assert!(size_of::<Place>() == 16);
const _: () = assert!(size_of::<Cursor>() == 24);
const _: () = assert!(size_of::<SocketWalk>() == 96);

#[cfg(test)]
mod tests {
    use super::{Cursor, buckets_at_once, limited, received, transmitted};

    #[test]
    fn what_was_sent_again_or_dropped_by_this_host_is_not_transmitted_twice() {
        for (what, sent, sent_again, acknowledged, next, unacknowledged, expected) in [
            ("nothing", 0, 0, 0, 7, 7, 0),
            ("a SYN that was acknowledged, and no payload", 0, 0, 1, 7, 7, 0),
            ("all acknowledged", 1000, 0, 1001, 1007, 1007, 1000),
            ("500 in flight, over the end of the numbers", 1500, 0, 1001, 200, 200_u32.wrapping_sub(500), 1500),
            ("400 sent again", 1400, 400, 1001, 9, 9, 1000),
            ("dropped on this host and sent again: SYN is in the sequence", 2400, 0, 1001, 9, 9, 1001),
        ] {
            assert_eq!(transmitted(sent, sent_again, acknowledged, next, unacknowledged), expected, "{what}");
        }
    }

    #[test]
    fn pieces_of_a_table_are_whole_buckets_however_large_their_locks_are() {
        for (what, stride, expected) in [
            ("a chain alone", 1, 128),
            ("a lock of 4 bytes", 2, 64),
            ("of 24, which is debugged", 4, 32),
            ("of 32, which may sleep", 5, 25),
            ("of 80, which lockdep follows as well", 11, 11),
            ("what does not fit", 129, 0),
            ("what is none", 0, 0),
        ] {
            let found = buckets_at_once(128, stride, 1 << 16);
            assert_eq!(found, expected, "{what}");
            assert!(found * stride <= 128, "{what}");
        }
        assert_eq!(buckets_at_once(128, 5, 3), 3, "the end of the table");
    }

    #[test]
    fn the_other_sides_end_is_no_payload() {
        assert_eq!((received(10, 0), received(11, 0b10), received(11, 0b1101)), (10, 10, 11));
    }

    #[test]
    fn a_span_that_runs_is_of_one_limit_wherever_its_bits_lie() {
        for (word, mask, expected) in [
            (0b1110_1101, 0b11, [0, 0]),
            (0b10, 0b11, [9, 0]),
            (0b11, 0b11, [0, 9]),
            (0b1000_0011, 0b1100_0000, [9, 0]),
            (0b1100_0000, 0b1100_0000, [0, 9]),
            (0b0011_1111, 0b1100_0000, [0, 0]),
        ] {
            assert_eq!(limited(word, mask, 9), expected, "{word:b} {mask:b}");
        }
    }

    #[test]
    fn a_cursor_has_passed_what_lies_below_it() {
        let passed = |table, buckets| Cursor::has_passed(table, buckets, 500, 3);
        assert_eq!([passed(499, 9), passed(500, 3), passed(500, 4), passed(501, 0)], [false, false, true, true]);
        assert!(!passed(Cursor::NONE.table, Cursor::NONE.buckets) && passed(Cursor::ALL, 0));
    }
}
