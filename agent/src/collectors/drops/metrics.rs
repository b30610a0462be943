//! Metrics of packets that the kernel dropped.

use crate::signal::{KernelEnum, Kind, Label, LabelValues, Metric, Unit};

/// The kernel's names of its reasons. Kernels up to 7.2 have less than 140 of them.
pub const REASONS: KernelEnum = KernelEnum { name: "skb_drop_reason", prefix: "SKB_DROP_REASON_", most: 160 };

/// Packets.
pub static DROPS: Metric = Metric {
    name: "podlens_network_drops_total",
    otlp_name: "podlens.network.drops",
    kind: Kind::Counter,
    unit: Unit::Count("packet"),
    help: "IPv4 and IPv6 packets that the kernel dropped, under its own names of the reasons; other is what a kernel module calls a reason. It counts for whom the packet's socket belongs to, the one that it is from or for; what is dropped before a socket is found, as for a closed port or by a firewall on the way in, is unattributed, and so is what a program finds to have a wrong checksum or leaves unread when it closes its socket. Not all lose something: TCP drops a segment that was sent again though it had come (tcp_old_data), and a connection that the container closed first may drop the other side's end, which nobody reads any more (queue_purge). Several segments that the kernel handles as one packet are one. What is dropped in a device or its driver is not the kernel's to tell, and what overflows an accept queue is in podlens_tcp_listen_overflows_total",
    labels: &[Label { name: "reason", values: LabelValues::Kernel(REASONS) }],
    sparse: true,
    source: "kfree_skb",
    must_equal: "UdpRcvbufErrors, UdpNoPorts and UdpInCsumErrors of a network namespace of the test's own, exactly",
    ..Metric::BASE
};
