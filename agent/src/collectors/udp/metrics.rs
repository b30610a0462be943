//! Metrics of UDP.

use podlens_common::{tcp::Direction, udp::UdpError};

use crate::{
    collectors::tcp,
    signal::{ByDefault, Kind, Label, LabelValues, Metric, Unit},
};

const DIRECTION: Label = Label { name: "direction", values: LabelValues::Fixed(&Direction::NAMES) };

/// Payload: of the family that the collector `tcp` has as well, under another protocol.
pub static BYTES: Metric = Metric {
    labels: &[DIRECTION, Label { name: "protocol", values: LabelValues::Fixed(&["udp"]) }],
    sparse: true,
    lifetime: false,
    source: "sock_send_length, sock_recv_length; before 6.3 the ends of udp_sendmsg, udp_recvmsg, udpv6_sendmsg, udpv6_recvmsg",
    must_equal: "the bytes that a test's programs sent and received, exactly",
    ..tcp::metrics::BYTES
};

/// Datagrams.
pub static DATAGRAMS: Metric = Metric {
    name: "podlens_udp_datagrams_total",
    otlp_name: "podlens.udp.datagrams",
    kind: Kind::Counter,
    unit: Unit::Count("datagram"),
    help: "UDP datagrams that programs of the container sent and received. As in the kernel's own count, several segments that a program hands over or takes in one piece count as one datagram. Unlike there, a datagram that a program puts together from several pieces (MSG_MORE, UDP_CORK) counts once per piece",
    labels: &[DIRECTION],
    sparse: true,
    by_default: ByDefault::Nothing,
    source: "sock_send_length, sock_recv_length; before 6.3 the ends of udp_sendmsg, udp_recvmsg, udpv6_sendmsg, udpv6_recvmsg",
    must_equal: "UdpOutDatagrams and UdpInDatagrams of a network namespace of the test's own, exactly",
    ..Metric::BASE
};

/// What went wrong.
pub static ERRORS: Metric = Metric {
    name: "podlens_udp_errors_total",
    otlp_name: "podlens.udp.errors",
    kind: Kind::Counter,
    unit: Unit::Count("error"),
    help: "Errors of UDP sockets of the container: receive_buffer (a datagram found no room in the socket's receive buffer), memory (a datagram came while the node's memory for UDP was used up; absent from kernel 6.18 on, which reports it only by podlens_network_drops_total, as proto_mem), refused (a call failed because nobody listens where an earlier datagram went), other (a call to send or to receive failed otherwise, unless it is only to be tried again). A wrong checksum counts in podlens_network_drops_total",
    labels: &[Label { name: "reason", values: LabelValues::Fixed(&UdpError::NAMES) }],
    sparse: true,
    source: "udp_fail_queue_rcv_skb, sock_send_length, sock_recv_length; before 6.3 the ends of udp_sendmsg, udp_recvmsg, udpv6_sendmsg, udpv6_recvmsg",
    must_equal: "UdpRcvbufErrors of a network namespace of the test's own, and the calls of a test that failed, exactly",
    ..Metric::BASE
};
