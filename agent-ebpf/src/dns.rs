//! Collector `dns`: how long queries to DNS servers wait for their answers, and what these say, by slot.
//!
//! Called by the programs of udp.rs at the end of each call that sends or receives UDP. Neither hook tells the data, so the head
//! of the message is read from the memory of the program that calls, where the call's registers say that it lies. Whatever stands
//! there is taken for numbers: the worst that a program can do is to give itself wrong figures.
//!
//! - A query is one socket and one id. Sent again from the same socket it is the same query, to whichever server.
//! - A socket that has asked has a cookie, which few others have: so those cost one load at a receipt. No other socket ever has
//!   the same cookie.
//! - The hook comes once for each message of `sendmmsg` and `recvmmsg` and does not say which: it is the first one that is not
//!   known yet, or is still waited for.
//! - A query that was waited for too long is left to the daemon, so that it counts once.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::{
        bpf_get_current_task_btf, bpf_ktime_get_ns, bpf_probe_read_user,
        generated::{bpf_get_socket_cookie, bpf_task_pt_regs},
    },
    macros::map,
    maps::{Array, HashMap},
};
use podlens_common::{
    dns::{DnsKey, DnsLosses, Head, PENDING_QUERIES, PendingQuery, TIMEOUT_NS},
    histogram::Lengths,
};

use crate::{
    atomic,
    kernel::{Cgroup, number, structure},
    owner,
};

/// Port 53, as it stands in a packet.
const DOMAIN: u16 = 53_u16.to_be();
/// Messages of one call that are looked at. libuv, the largest known user, takes 20 at once.
const MESSAGES: u64 = 32;
/// `sizeof(struct mmsghdr)` of linux/socket.h, and where `msg_iov` is in `struct msghdr`, whose first member is `msg_name`.
/// The number of pieces follows; a piece is an address and a length.
const MMSGHDR_BYTES: u64 = 64;
const MSG_IOV: u64 = 16;
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
    let (slot, messages) = (owner::slot_of(socket.cgroup()), call.second());
    for index in 0..MESSAGES {
        if index >= count || ask(shape, messages + index * MMSGHDR_BYTES, cookie, slot) != KNOWN {
            return;
        }
    }
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
    let messages = call.second();
    for index in 0..MESSAGES {
        if index >= count || answer(shape, messages + index * MMSGHDR_BYTES, cookie) != KNOWN {
            return;
        }
    }
}

/// It is not this message, look at the next one.
const KNOWN: u64 = 0;
/// It was this one.
const DONE: u64 = 1;

/// Notes a query, if the message is one that is not under way already.
///
/// This and the following are functions of their own with plain numbers only, which the verifier proves once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask(shape: u64, at: u64, cookie: u64, slot: u32) -> u64 {
    let head = Head(message_head(shape, at));
    if !head.is_query() {
        return KNOWN;
    }
    let query = PendingQuery { at_ns: monotonic_ns(), slot, reserved: 0 };
    match DNS_PENDING.insert(head.key(cookie), query, u64::from(BPF_NOEXIST)) {
        Err(EEXIST) => return KNOWN,
        Err(_) => lose!(no_room),
        Ok(()) => {}
    }
    DONE
}

/// Counts an answer, if the message is one that is waited for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer(shape: u64, at: u64, cookie: u64) -> u64 {
    let head = Head(message_head(shape, at));
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

#[inline(always)]
fn monotonic_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_ns() }
}
