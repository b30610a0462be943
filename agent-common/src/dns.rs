//! Queries to DNS servers by slot: how long each waited for its answer, and what that said; and the little of a message that tells
//! so, which the kernel programs read. Names and addresses are none of it.

use bytemuck::{Pod, Zeroable};

use crate::label::label;

label! {
    /// What came of a query.
    DnsResult {
        /// An answer without an error, be it one without records.
        Ok = "ok",
        /// The name does not exist.
        NameError = "nxdomain",
        /// The server failed.
        ServerFailure = "servfail",
        /// The server does not answer this client, or not this query.
        Refused = "refused",
        /// The answer did not fit, whatever else it says: the client asks anew over TCP.
        Truncated = "truncated",
        /// The server tells another error.
        Other = "other",
        /// No answer came in time.
        Timeout = "timeout",
    }
}

/// Results that an answer tells; they come first. That there is none is found out by the daemon.
pub const ANSWERS: usize = DnsResult::Timeout as usize;

/// For how long an answer is waited for: resolvers try a server again after 1 to 5 s, and give up after 10 s or so.
pub const TIMEOUT_NS: u64 = 10_000_000_000;

/// Queries under way at once, on the whole node.
pub const PENDING_QUERIES: u32 = 2048;

/// A slot and what an answer told: few of the results occur in one slot, and in most slots none, so each pair that does has
/// its durations in an entry of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DnsKey {
    /// The slot of the socket's cgroup.
    pub slot: u32,
    /// A [`DnsResult`] below [`ANSWERS`].
    pub result: u32,
}

/// A query under way, which [`Head::key`] finds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PendingQuery {
    /// When it was sent first, by the monotonic clock.
    pub at_ns: u64,
    /// The slot of its socket's cgroup.
    pub slot: u32,
    /// 1 if it went over TCP, else 0.
    pub over_tcp: u32,
}

/// What could not be told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DnsLosses {
    /// Queries, or answers, for which there was no room.
    pub no_room: u64,
    /// Datagrams to or from a server in calls whose memory is not found.
    pub unseen_call: u64,
    /// Datagrams whose memory could not be read.
    pub unreadable: u64,
}

const _: () = assert!(size_of::<DnsKey>() == 8);
const _: () = assert!(size_of::<PendingQuery>() == 16);
const _: () = assert!(size_of::<DnsLosses>() == 24);

/// The first 8 bytes of a message (RFC 1035, 4.1.1), the first one lowest: id, flags, number of questions, number of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head(pub u64);

impl Head {
    /// Bytes of a whole head; what is shorter is no message.
    pub const BYTES: i32 = 12;

    /// An ordinary query, with one question, as all of them have in practice.
    #[inline(always)]
    #[must_use]
    pub const fn is_query(self) -> bool {
        self.kind() == 0 && self.byte(4) == 0 && self.byte(5) == 1
    }

    /// An answer to one.
    #[inline(always)]
    #[must_use]
    pub const fn is_answer(self) -> bool {
        self.kind() == Self::ANSWER
    }

    /// What an answer says.
    #[inline(always)]
    #[must_use]
    pub const fn result(self) -> DnsResult {
        if self.byte(2) & Self::TRUNCATED != 0 {
            return DnsResult::Truncated;
        }
        match self.byte(3) & 15 {
            0 => DnsResult::Ok,
            2 => DnsResult::ServerFailure,
            3 => DnsResult::NameError,
            5 => DnsResult::Refused,
            _ => DnsResult::Other,
        }
    }

    /// What a query and its answer have in common: the socket, by its cookie, and the id. Cookies are counted from 1 on, so
    /// their upper bits are free.
    #[inline(always)]
    #[must_use]
    pub const fn key(self, cookie: u64) -> u64 {
        cookie << 16 | self.0 & 0xffff
    }

    const ANSWER: u64 = 0x80;
    const TRUNCATED: u64 = 0x02;

    /// Whether it is an answer, and the kind of query.
    #[inline(always)]
    const fn kind(self) -> u64 {
        self.byte(2) & 0xf8
    }

    #[inline(always)]
    const fn byte(self, at: u32) -> u64 {
        self.0 >> (8 * at) & 0xff
    }
}

#[cfg(test)]
mod tests {
    use super::{DnsResult, Head};

    fn head(bytes: [u8; 8]) -> Head {
        Head(u64::from_le_bytes(bytes))
    }

    #[test]
    fn queries_and_answers_are_told_apart_and_all_else_is_neither() {
        for (bytes, is_query, is_answer) in [
            // A query that wants recursion, the same without, with one's checks off, and its answer.
            ([9, 8, 0x01, 0x00, 0, 1, 0, 0], true, false),
            ([9, 8, 0x00, 0x00, 0, 1, 0, 0], true, false),
            ([9, 8, 0x01, 0x30, 0, 1, 0, 0], true, false),
            ([9, 8, 0x81, 0x80, 0, 1, 0, 1], false, true),
            // No question, two, 256; an update, a notice, its answer.
            ([9, 8, 0x01, 0x00, 0, 0, 0, 0], false, false),
            ([9, 8, 0x01, 0x00, 0, 2, 0, 0], false, false),
            ([9, 8, 0x01, 0x00, 1, 0, 0, 0], false, false),
            ([9, 8, 0x28, 0x00, 0, 1, 0, 0], false, false),
            ([9, 8, 0x20, 0x00, 0, 1, 0, 0], false, false),
            ([9, 8, 0xa8, 0x00, 0, 1, 0, 0], false, false),
            // What could not be read, text, ones.
            ([0; 8], false, false),
            (*b"GET / HT", false, false),
            ([0xff; 8], false, false),
        ] {
            let head = head(bytes);
            assert_eq!((head.is_query(), head.is_answer()), (is_query, is_answer), "{bytes:?}");
        }
    }

    #[test]
    fn an_answer_says_what_came_of_it() {
        for (flags, expected) in [
            ([0x81, 0x80], DnsResult::Ok),
            ([0x85, 0xa0], DnsResult::Ok),
            ([0x81, 0x83], DnsResult::NameError),
            ([0x81, 0x82], DnsResult::ServerFailure),
            ([0x81, 0x85], DnsResult::Refused),
            ([0x81, 0x81], DnsResult::Other),
            ([0x81, 0x8f], DnsResult::Other),
            ([0x83, 0x80], DnsResult::Truncated),
            ([0x83, 0x82], DnsResult::Truncated),
        ] {
            assert_eq!(head([0, 0, flags[0], flags[1], 0, 1, 0, 0]).result(), expected, "{flags:?}");
        }
    }

    #[test]
    fn socket_and_id_make_the_key_and_nothing_else_does() {
        let query = head([1, 2, 0x01, 0, 0, 1, 0, 0]);
        let answer = head([1, 2, 0x81, 0x83, 0, 1, 0, 7]);
        assert_eq!(query.key(5), answer.key(5));
        assert_ne!(query.key(5), query.key(6));
        assert_ne!(query.key(5), head([2, 1, 0x01, 0, 0, 1, 0, 0]).key(5));
    }
}
