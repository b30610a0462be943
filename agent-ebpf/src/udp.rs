//! Collector `udp`: what programs send and receive, and what goes wrong, by slot.
//!
//! The two hooks of data come at the end of each call, whichever the call is, for all kinds of sockets: whatever is not UDP's is
//! left at once. A second program on a hook would cost as much again as all of the first, so these two serve the collector
//! `dns` as well (dns.rs), which looks at streams too; the verifier removes the half that is switched off.
//!
//! Before 6.3 the kernel has no such hooks. There four programs stand in for the two, at the ends of the kernel's own functions that
//! send and receive UDP, one of each family; dns.rs has those of TCP.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_MMAPABLE,
    macros::{btf_tracepoint, fexit, map},
    maps::Array,
    programs::{BtfTracePointContext, FExitContext},
};
use podlens_common::{
    tcp::Direction,
    udp::{UdpAccount, UdpError},
};

use crate::{
    atomic, dns,
    kernel::{Cgroup, number, structure},
    socket_slot,
};

/// `AF_INET` of linux/socket.h.
const IPV4: u16 = 2;
/// `IPPROTO_UDP` of linux/in.h.
const UDP: u16 = 17;
/// `IPPROTO_TCP`.
const TCP: u16 = 6;
/// `SOCK_DGRAM` of linux/net.h: a raw socket may have the same protocol.
const DATAGRAMS: u16 = 2;
/// `MSG_PEEK` of linux/socket.h: the datagram stays where it is.
const PEEK: u32 = 0x2;
/// `MSG_ERRQUEUE`: what is received was sent, and came back with an error.
const ERROR_QUEUE: u32 = 0x2000;

/// Counts, by slot.
#[map]
static UDP_ACCOUNTS: Array<UdpAccount> = Array::with_max_entries(1, BPF_F_MMAPABLE);

structure! {
    /// `struct sock`
    Socket {
        family: u16 = "sock.__sk_common.skc_family";
        protocol: u16 = "sock.sk_protocol";
        kind: u16 = "sock.sk_type";
        cgroup: Cgroup = "sock.sk_cgrp_data.cgroup";
    }
}

// What a program at the end of a function gets: its arguments and its result.
structure! {
    /// Of `udp_sendmsg`
    EndedSend4 {
        socket: Socket = "udp_sendmsg(sk)";
        result: u64 = "udp_sendmsg()";
    }
}
structure! {
    /// Of `udpv6_sendmsg`
    EndedSend6 {
        socket: Socket = "udpv6_sendmsg(sk)";
        result: u64 = "udpv6_sendmsg()";
    }
}
structure! {
    /// Of `udp_recvmsg`
    EndedReceive4 {
        socket: Socket = "udp_recvmsg(sk)";
        flags: u64 = "udp_recvmsg(flags)";
        result: u64 = "udp_recvmsg()";
    }
}
structure! {
    /// Of `udpv6_recvmsg`
    EndedReceive6 {
        socket: Socket = "udpv6_recvmsg(sk)";
        flags: u64 = "udpv6_recvmsg(flags)";
        result: u64 = "udpv6_recvmsg()";
    }
}

/// The collector is switched on.
#[inline(always)]
fn is_on() -> bool {
    number!("COUNTS_UDP") != 0
}

impl Socket {
    #[inline(always)]
    fn is_udp(self) -> bool {
        !self.is_null() && self.protocol() == UDP && self.kind() == DATAGRAMS
    }

    #[inline(always)]
    fn is_tcp(self) -> bool {
        !self.is_null() && self.protocol() == TCP
    }
}

/// A call that receives takes nothing away, or takes what was sent and came back.
#[inline(always)]
pub(crate) fn leaves_it(flags: u64) -> bool {
    flags as u32 & (PEEK | ERROR_QUEUE) != 0
}

/// `sock_send_length(socket, result, flags)`, at the end of a call that sends.
#[btf_tracepoint(function = "sock_send_length")]
pub fn udp_send(context: BtfTracePointContext) -> i32 {
    let (socket, result) = (Socket::from_raw(context.arg(0)), context.arg(1));
    if dns::is_on() && socket.is_tcp() {
        dns::sent_in_stream(dns::Client::from_raw(socket.0), result);
        return 0;
    }
    sent(socket, result)
}

/// `sock_recv_length(socket, result, flags)`, at the end of a call that receives.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn udp_receive(context: BtfTracePointContext) -> i32 {
    let (socket, result, flags) = (Socket::from_raw(context.arg(0)), context.arg(1), context.arg(2));
    if dns::is_on() && socket.is_tcp() {
        if !leaves_it(flags) {
            dns::received_in_stream(dns::Client::from_raw(socket.0), result);
        }
        return 0;
    }
    received(socket, result, flags)
}

#[fexit(function = "udp_sendmsg")]
pub fn udp_send_4(context: FExitContext) -> i32 {
    let ended = EndedSend4::from_raw(context.as_ptr().cast());
    let socket = ended.socket();
    // A socket of IPv6 that sends to an address of IPv4 comes here on its way through the other function.
    if socket.is_null() || socket.family() != IPV4 {
        return 0;
    }
    sent(socket, ended.result())
}

#[fexit(function = "udpv6_sendmsg")]
pub fn udp_send_6(context: FExitContext) -> i32 {
    let ended = EndedSend6::from_raw(context.as_ptr().cast());
    sent(ended.socket(), ended.result())
}

#[fexit(function = "udp_recvmsg")]
pub fn udp_receive_4(context: FExitContext) -> i32 {
    let ended = EndedReceive4::from_raw(context.as_ptr().cast());
    received(ended.socket(), ended.result(), ended.flags())
}

#[fexit(function = "udpv6_recvmsg")]
pub fn udp_receive_6(context: FExitContext) -> i32 {
    let ended = EndedReceive6::from_raw(context.as_ptr().cast());
    received(ended.socket(), ended.result(), ended.flags())
}

/// A call that sends has ended.
#[inline(always)]
fn sent(socket: Socket, result: u64) -> i32 {
    if !socket.is_udp() {
        return 0;
    }
    if is_on() {
        count_call(socket_slot::slot_of(socket.cgroup()), Direction::Transmit as u64, result);
    }
    if dns::is_on() {
        dns::sent(dns::Client::from_raw(socket.0), result);
    }
    0
}

/// A call that receives has ended.
#[inline(always)]
fn received(socket: Socket, result: u64, flags: u64) -> i32 {
    if !socket.is_udp() || leaves_it(flags) {
        return 0;
    }
    if is_on() {
        count_call(socket_slot::slot_of(socket.cgroup()), Direction::Receive as u64, result);
    }
    if dns::is_on() {
        dns::received(dns::Client::from_raw(socket.0), result);
    }
    0
}

/// `udp_fail_queue_rcv_skb(result, socket)`: a datagram did not come into its socket's receive buffer.
#[btf_tracepoint(function = "udp_fail_queue_rcv_skb")]
pub fn udp_full(context: BtfTracePointContext) -> i32 {
    let socket = Socket::from_raw(context.arg(1));
    if socket.is_udp() {
        let error = UdpError::of_queue(context.arg::<u64>(0) as u32 as i32);
        count_error(socket_slot::slot_of(socket.cgroup()), error as u64);
    }
    0
}

/// Counts a call that gave `result`.
///
/// This and the next are functions of their own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_call(slot: u32, direction: u64, result: u64) -> u32 {
    let result = result as u32 as i32;
    if result < 0 {
        return match UdpError::of_call(result) {
            Some(error) => count_error(slot, error as u64),
            None => 0,
        };
    }
    let (Some(account), direction) = (UDP_ACCOUNTS.get_ptr_mut(slot), direction as usize) else { return 0 };
    if direction >= Direction::COUNT {
        return 0;
    }
    // SAFETY: entries of a map outlive the program, its words are whole and aligned, and the index is less than the lengths.
    unsafe {
        atomic::add((&raw mut (*account).bytes).cast::<u64>().add(direction), result as u64);
        atomic::add((&raw mut (*account).datagrams).cast::<u64>().add(direction), 1);
    }
    1
}

/// Counts an error.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_error(slot: u32, error: u64) -> u32 {
    let (Some(account), error) = (UDP_ACCOUNTS.get_ptr_mut(slot), error as usize) else { return 0 };
    if error >= UdpError::COUNT {
        return 0;
    }
    // SAFETY: as above.
    unsafe { atomic::add((&raw mut (*account).errors).cast::<u64>().add(error), 1) };
    1
}
