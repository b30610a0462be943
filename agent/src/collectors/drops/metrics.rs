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
    help: "IPv4 and IPv6 packets that the kernel dropped, under its own names of the reasons; other stands for the reasons of kernel modules. A packet counts for the owner of the socket that it is from or for. A packet is unattributed if it is dropped before its socket is found, as for a closed port or by a firewall on the way in, and if a program finds its checksum wrong or leaves it unread when it closes its socket. Not every drop loses something: TCP drops a segment that was sent again though it had come (tcp_old_data), and a connection that the container closed first may drop the other side's end, which nobody reads any more (queue_purge). Several segments that the kernel handles as one packet count as one. The kernel does not report drops in a device or its driver; podlens_tcp_listen_overflows_total counts the overflows of accept queues",
    labels: &[Label { name: "reason", values: LabelValues::Kernel(REASONS) }],
    sparse: true,
    source: "kfree_skb",
    must_equal: "UdpRcvbufErrors, UdpNoPorts and UdpInCsumErrors of a network namespace of the test's own, exactly",
    ..Metric::BASE
};
