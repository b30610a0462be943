//! The metric of DNS.

use podlens_common::dns::DnsResult;

use crate::signal::{Kind, Label, LabelValues, Metric, Unit};

/// Queries.
pub static LOOKUPS: Metric = Metric {
    name: "podlens_dns_lookup_seconds",
    otlp_name: "podlens.dns.lookup",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long the container's queries to DNS servers (port 53, over UDP or TCP) waited until its program took the answer: ok (also without records), nxdomain (there is no such name), servfail, refused, other (other errors), truncated (the answer did not fit, and programs ask again over TCP, which is another query), timeout (no answer within 10 s, or before the container ended; counts with the 10 s, or with the time until then). A name often takes two queries, for its IPv4 and its IPv6 addresses. A query that is sent again counts once from the same socket, and as another query from another socket: docs/dns.md",
    labels: &[Label { name: "result", values: LabelValues::Fixed(&DnsResult::NAMES) }],
    source: "sock_send_length, sock_recv_length, before 6.3 the ends of udp_sendmsg, udp_recvmsg, udpv6_sendmsg, udpv6_recvmsg, tcp_sendmsg, tcp_recvmsg; and the head of the message in the program's memory",
    must_equal: "the queries that a test's programs made to a server of its own, exactly; the sum: the delays that the test set at the server, within 10 %",
    ..Metric::BASE
};
