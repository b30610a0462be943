//! Collector `dns`: how long queries to DNS servers wait for their answers, and what these say, by slot.
//!
//! Called by the programs of udp.rs at the end of each call that sends or receives, and before 6.3 by two of its own at the ends of the
//! kernel's functions for TCP. No hook tells the data, so the head
//! of the message is read from the memory of the program that calls, where the call's registers say that it lies. Whatever stands
//! there is taken for numbers: the worst that a program can do is to give itself wrong figures.
//!
//! - A query is one socket and one id. Sent again from the same socket it is the same query, to whichever server.
//! - A socket that has asked has a cookie, which few others have: so those cost one load at a receipt. No other socket ever has
//!   the same cookie.
//! - The hook comes once for each message of `sendmmsg` and `recvmmsg` and does not say which: it is the first one that is not
//!   known yet, or is still waited for.
//! - Over TCP a call has a piece of a stream, in which messages follow each other, each after its length (RFC 1035, 4.2.2). A message
//!   is where a call begins, since the length was told by the one before, or behind the two bytes that tell it.
//! - A query that was waited for too long is left to the daemon, so that it counts once.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::{
        bpf_get_current_task_btf, bpf_probe_read_user,
        generated::{bpf_get_socket_cookie, bpf_task_pt_regs},
    },
    macros::{fexit, map},
    maps::{Array, HashMap},
    programs::FExitContext,
};
use podlens_common::{
    dns::{DnsKey, DnsLosses, Head, PENDING_QUERIES, PendingQuery, TIMEOUT_NS},
    histogram::Lengths,
};

use crate::{
    atomic,
    kernel::{Cgroup, monotonic_ns, number, opaque, structure},
    socket_slot,
    udp::leaves_it,
};

/// Port 53, as it stands in a packet.
const DOMAIN: u16 = 53_u16.to_be();
/// Messages of one call that are looked at. libuv, the largest known user, takes 20 at once.
const MESSAGES: u64 = 32;
/// The same of a stream: messages in one piece, pieces of one call. glibc writes two messages in four pieces.
const STREAM_MESSAGES: u64 = 4;
const STREAM_PIECES: u64 = 6;
/// Of the length that stands before a message in a stream.
const PREFIX_BYTES: u64 = 2;
/// In place of a slot, where messages are taken.
const TAKEN: u32 = u32::MAX;
/// `sizeof(struct mmsghdr)` of linux/socket.h, and where `msg_iov` is in `struct msghdr`, whose first member is `msg_name`.
/// The number of pieces follows; a piece is an address and a length.
const MMSGHDR_BYTES: u64 = 64;
const MSG_IOV: u64 = 16;
const PIECE_BYTES: u64 = 16;
/// Where the port is in an address of either family.
const PORT: u64 = 2;
/// The answer of a map that has the key.
const EEXIST: i32 = -17;

/// How long answers were waited for.
#[map]
static DNS_ANSWERS: HashMap<DnsKey, Lengths> = HashMap::with_max_entries(1, 0);
/// Queries under way.
#[map]
static DNS_PENDING: HashMap<u64, PendingQuery> = HashMap::with_max_entries(PENDING_QUERIES, 0);
/// What could not be told.
#[map]
static DNS_LOSSES: Array<DnsLosses> = Array::with_max_entries(1, BPF_F_MMAPABLE);

structure! {
    /// `struct sock`
    Client {
        // Of the other side, 0 for a socket that is not connected.
        port: u16 = "sock.__sk_common.skc_dport?dns";
        // 0 until somebody has asked for it.
        cookie: u64 = "sock.__sk_common.skc_cookie.counter?dns";
        cgroup: Cgroup = "sock.sk_cgrp_data.cgroup";
    }
}
structure! {
    /// `struct pt_regs` of x86-64: which call it is, and what it was given
    Call {
        number: u64 = "pt_regs.orig_ax?dns";
        second: u64 = "pt_regs.si?dns";
        third: u64 = "pt_regs.dx?dns";
        fifth: u64 = "pt_regs.r8?dns";
    }
}

// What a program at the end of a function gets, as in udp.rs.
structure! {
    /// Of `tcp_sendmsg`
    EndedSend {
        socket: Client = "tcp_sendmsg(sk)";
        result: u64 = "tcp_sendmsg()";
    }
}
structure! {
    /// Of `tcp_recvmsg`
    EndedReceive {
        socket: Client = "tcp_recvmsg(sk)";
        flags: u64 = "tcp_recvmsg(flags)";
        result: u64 = "tcp_recvmsg()";
    }
}

/// What a call's second argument points to: the message, its pieces (`struct iovec`), a head (`struct msghdr`).
const MESSAGE: u64 = 1;
const PIECES: u64 = 2;
const MSGHDR: u64 = 3;

/// The calls, by their numbers on x86-64 (`arch/x86/entry/syscalls/syscall_64.tbl`).
const READ: u64 = 0;
const WRITE: u64 = 1;
const READV: u64 = 19;
const WRITEV: u64 = 20;
const SENDTO: u64 = 44;
const RECVFROM: u64 = 45;
const SENDMSG: u64 = 46;
const RECVMSG: u64 = 47;
const RECVMMSG: u64 = 299;
const SENDMMSG: u64 = 307;

/// Counts one loss.
macro_rules! lose {
    ($field:ident) => {
        if let Some(losses) = DNS_LOSSES.get_ptr_mut(0) {
            // SAFETY: entries of a map outlive the program, and the word is whole and aligned.
            unsafe { atomic::add(&raw mut (*losses).$field, 1) };
        }
    };
}

impl Call {
    /// The call that the running task is in.
    #[inline(always)]
    fn under_way() -> Self {
        // SAFETY: the helpers have no precondition; the task is the kernel's own pointer.
        let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
        Self::from_raw(registers as *const u8)
    }

    /// What its second argument points to, 0 if it is none of those that are understood; how many messages there are.
    #[inline(always)]
    fn shape(self) -> (u64, u64) {
        match self.number() {
            READ | WRITE | SENDTO | RECVFROM => (MESSAGE, 1),
            READV | WRITEV => (PIECES, 1),
            SENDMSG | RECVMSG => (MSGHDR, 1),
            SENDMMSG | RECVMMSG => (MSGHDR, self.third()),
            _ => (0, 0),
        }
    }
}

/// The collector is switched on, and can run here.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    number!("enum bpf_func_id.BPF_FUNC_task_pt_regs?dns");
    number!("COUNTS_DNS") != 0 && number!("dns ? 1 : 0") != 0
}

#[fexit(function = "tcp_sendmsg")]
pub fn dns_stream_send(context: FExitContext) -> i32 {
    let ended = EndedSend::from_raw(context.as_ptr().cast());
    if is_on() {
        sent_in_stream(ended.socket(), ended.result());
    }
    0
}

#[fexit(function = "tcp_recvmsg")]
pub fn dns_stream_recv(context: FExitContext) -> i32 {
    let ended = EndedReceive::from_raw(context.as_ptr().cast());
    if is_on() && !leaves_it(ended.flags()) {
        received_in_stream(ended.socket(), ended.result());
    }
    0
}

/// A call has sent a datagram, if `result` says so.
#[inline(never)]
pub(crate) fn sent(socket: Client, result: u64) {
    let port = socket.port();
    if port != DOMAIN && port != 0 || (result as u32 as i32) < Head::BYTES {
        return;
    }
    let call = Call::under_way();
    let (shape, count) = call.shape();
    if port == 0 {
        // The messages of one call go to one kind of server.
        let address = match call.number() {
            SENDTO => call.fifth(),
            SENDMSG | SENDMMSG => user_word(call.second()),
            _ => 0,
        };
        if port_at(address) != u64::from(DOMAIN) {
            return;
        }
    }
    if shape == 0 {
        lose!(unseen_call);
        return;
    }
    // SAFETY: the verifier knows that it is a socket.
    let cookie = unsafe { bpf_get_socket_cookie(socket.address() as *mut _) };
    let slot = socket_slot::slot_of(socket.cgroup());
    ask_all(shape, call.second(), count, cookie, slot);
}

/// A call has received a datagram, if `result` says so.
#[inline(never)]
pub(crate) fn received(socket: Client, result: u64) {
    let (port, cookie) = (socket.port(), socket.cookie());
    if port != DOMAIN && port != 0 || cookie == 0 || (result as u32 as i32) < Head::BYTES {
        return;
    }
    let call = Call::under_way();
    let (shape, count) = call.shape();
    if shape == 0 {
        if port == DOMAIN {
            lose!(unseen_call);
        }
        return;
    }
    answer_all(shape, call.second(), count, cookie);
}

/// A call has written to a stream.
#[inline(never)]
pub(crate) fn sent_in_stream(socket: Client, result: u64) {
    if socket.port() != DOMAIN || (result as u32 as i32) < Head::BYTES {
        return;
    }
    // SAFETY: the verifier knows that it is a socket.
    let cookie = unsafe { bpf_get_socket_cookie(socket.address() as *mut _) };
    look_through(result, cookie, socket_slot::slot_of(socket.cgroup()));
}

/// A call has taken something from a stream.
#[inline(never)]
pub(crate) fn received_in_stream(socket: Client, result: u64) {
    let (port, cookie) = (socket.port(), socket.cookie());
    if port != DOMAIN || cookie == 0 || (result as u32 as i32) < Head::BYTES {
        return;
    }
    look_through(result, cookie, TAKEN);
}

#[inline(always)]
fn look_through(result: u64, cookie: u64, slot: u32) {
    let call = Call::under_way();
    let bytes_and_slot = u64::from(slot) << 32 | u64::from(result as u32);
    look_at_all(call.shape().0, call.second(), call.third(), cookie, bytes_and_slot);
}

/// Looks at each piece of what a call had of a stream, so many bytes in all.
///
/// This and the following are functions of their own with plain numbers only, which the verifier proves once. The loops are in
/// them, since older kernels prove them anew for each way that leads there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_at_all(shape: u64, second: u64, third: u64, cookie: u64, bytes_and_slot: u64) -> u64 {
    let (mut left, slot) = (u64::from(bytes_and_slot as u32), (bytes_and_slot >> 32) as u32);
    let (pieces, count) = match shape {
        MESSAGE => return look_at(second, left, cookie, slot),
        PIECES => (second, third),
        MSGHDR => (user_word(second + MSG_IOV), user_word(second + MSG_IOV + 8)),
        _ => {
            lose!(unseen_call);
            return 0;
        }
    };
    for index in 0..STREAM_PIECES {
        if index >= count || left == 0 {
            break;
        }
        let piece = pieces + index * PIECE_BYTES;
        let bytes = left.min(user_word(piece + 8));
        look_at(user_word(piece), bytes, cookie, slot);
        left -= bytes;
    }
    0
}

/// Finds the messages in a piece of a stream.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_at(at: u64, bytes: u64, cookie: u64, slot: u32) -> u64 {
    let mut begun = 0;
    for _ in 0..STREAM_MESSAGES {
        // Shorter than a head is what tells the length of what follows.
        if begun + Head::BYTES as u64 > bytes {
            break;
        }
        let first = user_word(at + begun);
        if note_or_settle(first, cookie, slot) == DONE {
            break;
        }
        if note_or_settle(user_word(at + begun + PREFIX_BYTES), cookie, slot) == KNOWN {
            break;
        }
        begun += PREFIX_BYTES + u64::from((first as u16).swap_bytes());
    }
    0
}

/// Of the head of a message in a stream, if it is one: notes the query, or counts the answer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_or_settle(head: u64, cookie: u64, slot: u32) -> u64 {
    if slot == TAKEN { settle(Head(head), cookie) } else { note(Head(head), cookie, slot, 1) }
}

/// It is not this message, look at the next one.
const KNOWN: u64 = 0;
/// It was this one.
const DONE: u64 = 1;

/// Notes the first of these messages that is a query and not under way already.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_all(shape: u64, messages: u64, count: u64, cookie: u64, slot: u32) -> u64 {
    // Opaque, or turns are counted down to 0, which verifiers before 6.8 do not follow.
    for index in 0..MESSAGES {
        if index >= opaque!(count) || ask(shape, messages + index * MMSGHDR_BYTES, cookie, slot) != KNOWN {
            break;
        }
    }
    0
}

/// Counts the first of these messages that is an answer and waited for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer_all(shape: u64, messages: u64, count: u64, cookie: u64) -> u64 {
    // Opaque, as above.
    for index in 0..MESSAGES {
        if index >= opaque!(count) || answer(shape, messages + index * MMSGHDR_BYTES, cookie) != KNOWN {
            break;
        }
    }
    0
}

/// Notes a query, if the message is one that is not under way already.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask(shape: u64, at: u64, cookie: u64, slot: u32) -> u64 {
    note(Head(message_head(shape, at)), cookie, slot, 0)
}

/// Counts an answer, if the message is one that is waited for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer(shape: u64, at: u64, cookie: u64) -> u64 {
    settle(Head(message_head(shape, at)), cookie)
}

#[inline(always)]
fn note(head: Head, cookie: u64, slot: u32, over_tcp: u32) -> u64 {
    if !head.is_query() {
        return KNOWN;
    }
    let query = PendingQuery { at_ns: monotonic_ns(), slot, over_tcp };
    match DNS_PENDING.insert(head.key(cookie), query, u64::from(BPF_NOEXIST)) {
        Err(EEXIST) => return KNOWN,
        Err(_) => lose!(no_room),
        Ok(()) => {}
    }
    DONE
}

#[inline(always)]
fn settle(head: Head, cookie: u64) -> u64 {
    if !head.is_answer() {
        return KNOWN;
    }
    let key = head.key(cookie);
    let Some(query) = DNS_PENDING.get_ptr(key) else { return KNOWN };
    // SAFETY: entries of a map outlive the program.
    let (at_ns, slot) = unsafe { ((*query).at_ns, (*query).slot) };
    let waited_ns = monotonic_ns().saturating_sub(at_ns);
    // Whoever takes it out counts it: another CPU, or the daemon, may be about to do the same.
    if waited_ns < TIMEOUT_NS && DNS_PENDING.remove(key).is_ok() {
        enter_answer(DnsKey { slot, result: head.result() as u32 }, waited_ns);
    }
    DONE
}

#[inline(always)]
fn enter_answer(key: DnsKey, waited_ns: u64) {
    let mut lengths = DNS_ANSWERS.get_ptr_mut(key);
    if lengths.is_none() {
        // Another CPU may be first, or there is no room.
        let _ = DNS_ANSWERS.insert(key, Lengths::EMPTY, u64::from(BPF_NOEXIST));
        lengths = DNS_ANSWERS.get_ptr_mut(key);
    }
    match lengths {
        // SAFETY: entries of a map outlive the program.
        Some(lengths) => unsafe { atomic::enter(lengths, waited_ns) },
        None => lose!(no_room),
    }
}

/// More pieces than one.
const MANY: u64 = 2;

/// The head of a message: the first word of its first piece. 0, which is neither a query nor an answer, if it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn message_head(shape: u64, at: u64) -> u64 {
    let (mut at, mut pieces) = (at, MANY);
    if shape == MSGHDR {
        pieces = user_word(at + MSG_IOV + 8);
        at = user_word(at + MSG_IOV);
    }
    if shape != MESSAGE {
        // Of a call with many messages only the length of one is known.
        if user_word(at + 8) < Head::BYTES as u64 {
            if pieces > 1 {
                lose!(unreadable);
            }
            return 0;
        }
        at = user_word(at);
    }
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(at as *const u64) } {
        Ok(head) => head,
        Err(_) => {
            lose!(unreadable);
            0
        }
    }
}

/// The port of an address in the memory of the program that calls; 0 where none is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn port_at(address: u64) -> u64 {
    if address == 0 {
        return 0;
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user((address + PORT) as *const u16) }.map_or(0, u64::from)
}

/// A word of the memory of the program that calls; 0 where none is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn user_word(address: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const u64) }.unwrap_or(0)
}
