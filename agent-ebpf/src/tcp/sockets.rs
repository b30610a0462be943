//! The kernel's sockets: one that a program was given, with its members, and the numbers for what is read by address.

use core::arch::asm;

use aya_ebpf::{
    cty::c_void,
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_jiffies64, bpf_skc_to_tcp_sock},
    },
};
use podlens_common::tcp::{Direction, Limit, limited as limited_by, received, transmitted, wide::Narrow};

use crate::kernel::{Cgroup, number, structure};

structure! {
    /// `struct sock`
    Socket {
        protocol: u16 = "sock.sk_protocol";
        error: u32 = "sock.sk_err";
        drops: u32 = "sock.sk_drops.counter";
        cgroup: Cgroup = "sock.sk_cgrp_data.cgroup";
        hash: u32 = "sock.__sk_common.skc_hash";
        state: u8 = "sock.__sk_common.skc_state";
        flags: u64 = "sock.__sk_common.skc_flags";
        net: Net = "sock.__sk_common.skc_net.net";
        program: u64 = "sock.sk_socket";
    }
}
structure! {
    /// `struct net`: a network namespace
    Net {
        tables: Tables = "net.ipv4.tcp_death_row.hashinfo";
    }
}
structure! {
    /// `struct inet_hashinfo`: tables of sockets, of one network namespace or of many
    Tables {
        connections_mask: u32 = "inet_hashinfo.ehash_mask";
    }
}
structure! {
    /// `struct tcp_sock`
    TcpSocket {
        sent: u64 = "tcp_sock.bytes_sent";
        sent_again: u64 = "tcp_sock.bytes_retrans";
        acknowledged: u64 = "tcp_sock.bytes_acked";
        received: u64 = "tcp_sock.bytes_received";
        next: u32 = "tcp_sock.snd_nxt";
        unacknowledged: u32 = "tcp_sock.snd_una";
        segments_out: u32 = "tcp_sock.segs_out";
        segments_in: u32 = "tcp_sock.segs_in";
        total_retransmits: u32 = "tcp_sock.total_retrans";
        srtt: u32 = "tcp_sock.srtt_us";
        span_began: u32 = "tcp_sock.chrono_start";
        span_kind: u8 = "tcp_sock.chrono_type";
        // The first kind is none, and so has no sum: each sum stands at the constant before its own.
        by_window: u32 = "tcp_sock.chrono_stat[tcp_chrono.TCP_CHRONO_BUSY]";
        by_buffer: u32 = "tcp_sock.chrono_stat[tcp_chrono.TCP_CHRONO_RWND_LIMITED]";
    }
}

impl Socket {
    /// How far its address is from a map's entry. To the verifier an address is a pointer with a type, which takes no arithmetic; but
    /// two of them have a distance.
    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "its address is a number here, nothing behind it is touched")]
    pub(super) fn distance_from<T>(self, from: *mut T) -> u64 {
        let mut distance = self.address();
        // SAFETY: it changes this number alone.
        unsafe {
            asm!(
                "{distance} -= {from}",
                distance = inout(reg) distance,
                from = in(reg) from,
                options(pure, nomem, nostack)
            );
        }
        distance
    }
}

impl TcpSocket {
    /// The whole of a socket; none if it is a small one.
    #[inline(always)]
    pub(super) fn of(socket: Socket) -> Option<Self> {
        // SAFETY: the kernel looks what kind of socket it is.
        let tcp = unsafe { bpf_skc_to_tcp_sock(socket.address() as *mut c_void) };
        if tcp.is_null() { None } else { Some(Self::from_raw(tcp.cast::<u8>().cast_const())) }
    }

    /// Its payload, under its lock.
    #[inline(always)]
    pub(super) fn bytes(self, socket: Socket) -> [u64; Direction::COUNT] {
        let transmitted =
            transmitted(self.sent(), self.sent_again(), self.acknowledged(), self.next(), self.unacknowledged());
        [transmitted, received(self.received(), socket.flags())]
    }

    /// What else it has done, under its lock.
    #[inline(always)]
    pub(super) fn narrow(self) -> Narrow {
        Narrow {
            segments: [self.segments_out(), self.segments_in()],
            retransmits: self.total_retransmits(),
            overflows: 0,
            limited: self.limited(),
        }
    }

    /// How long it could not send more, in ticks.
    #[inline(always)]
    fn limited(self) -> [u32; Limit::COUNT] {
        let kind = u64::from(self.span_kind()) & span_kinds();
        let running = if kind == 0 { [0; Limit::COUNT] } else { running(kind, self.span_began()) };
        [self.by_window().wrapping_add(running[0]), self.by_buffer().wrapping_add(running[1])]
    }

    /// Its smoothed round-trip time; none before the first measurement.
    #[inline(always)]
    pub(super) fn round_trip_ns(self) -> Option<u64> {
        round_trip_ns(self.srtt())
    }
}

/// Of the kernel's number: eighths of a microsecond, 0 for none.
#[inline(always)]
pub(super) fn round_trip_ns(srtt: u32) -> Option<u64> {
    if srtt == 0 { None } else { Some(u64::from(srtt) * 125) }
}

/// The bits of a word that are the kind of the span that runs.
#[inline(always)]
fn span_kinds() -> u64 {
    number!("mask u8 tcp_sock.chrono_type")
}

/// What the span that runs adds, by limit, in ticks.
#[inline(always)]
fn running(kind: u64, began: u32) -> [u32; Limit::COUNT] {
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_jiffies64() } as u32;
    limited_by(kind, span_kinds(), now.wrapping_sub(began))
}

/// How long the connection at an address could not send more, in ticks.
///
/// The kernel adds a span to the sum when it ends, then notes when the next one began. So a span whose beginning is the same
/// after the sums were read is not in them yet; of one that just ends, nothing is told this time.
#[inline(always)]
pub(super) fn limited(socket: u64) -> [u32; Limit::COUNT] {
    let began = half_inline(socket + chrono_start());
    // SAFETY: the helper checks the address.
    let kind = unsafe { bpf_probe_read_kernel((socket + chrono_type()) as *const u8) }.unwrap_or(0);
    let sums = socket + chrono_stat();
    // The first one is that of all that is busy.
    let mut spans = [half_inline(sums + 4), half_inline(sums + 8)];
    if half_inline(socket + chrono_start()) == began {
        let running = running(kind.into(), began);
        spans = [spans[0].wrapping_add(running[0]), spans[1].wrapping_add(running[1])];
    }
    spans
}

/// As `half`, for an address that is made of a pointer with a type.
#[inline(always)]
fn half_inline(address: u64) -> u32 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.unwrap_or(0)
}

macro_rules! offsets {
    ($($function:ident = $request:literal;)*) => {
        $(#[inline(always)]
        pub(super) fn $function() -> u64 {
            number!($request)
        })*
    };
}

offsets! {
    task_proxy = "u64 task_struct.nsproxy";
    proxy_net = "u64 nsproxy.net_ns";
    net_list = "net.list";
    net_operations = "u64 net.ns.ops";
    net_tables = "u64 net.ipv4.tcp_death_row.hashinfo";
    connections = "u64 inet_hashinfo.ehash";
    connections_mask = "u32 inet_hashinfo.ehash_mask";
    listeners = "u64 inet_hashinfo.lhash2";
    listeners_mask = "u32 inet_hashinfo.lhash2_mask";
    listeners_head = "u64 inet_listen_hashbucket.nulls_head.first";
    node = "sock_common.skc_nulls_node";
    state = "u8 sock_common.skc_state";
    hash = "u32 sock_common.skc_hash";
    flags = "u64 sock_common.skc_flags";
    listener = "u64 sock_common.skc_listener";
    cgroup = "u64 sock.sk_cgrp_data.cgroup";
    drops = "u32 sock.sk_drops.counter";
    queue = "u32 sock.sk_ack_backlog";
    queue_limit = "u32 sock.sk_max_ack_backlog";
    sent = "u64 tcp_sock.bytes_sent";
    sent_again = "u64 tcp_sock.bytes_retrans";
    acknowledged = "u64 tcp_sock.bytes_acked";
    received_bytes = "u64 tcp_sock.bytes_received";
    next = "u32 tcp_sock.snd_nxt";
    unacknowledged = "u32 tcp_sock.snd_una";
    segments_out = "u32 tcp_sock.segs_out";
    segments_in = "u32 tcp_sock.segs_in";
    total_retransmits = "u32 tcp_sock.total_retrans";
    srtt = "u32 tcp_sock.srtt_us";
    chrono_start = "u32 tcp_sock.chrono_start";
    chrono_type = "u8 tcp_sock.chrono_type";
    chrono_stat = "tcp_sock.chrono_stat";
    cgroup_flags = "u32 cgroup.self.flags";
}

/// Says that the program reads the table of listening sockets as kernels have it since they know tables of one
/// namespace's own (6.1): chains that end in a number.
#[inline(always)]
pub(super) fn needs_chains_of_listeners() {
    number!("inet_hashinfo.pernet");
}
