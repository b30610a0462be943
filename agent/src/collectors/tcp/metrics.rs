//! Metrics of TCP.

use podlens_common::tcp::{ConnectFailure, ConnectionError, ConnectionEvent, Direction, Limit, Protocol, SocketState};

use crate::signal::{ByDefault, Kind, Label, LabelValues, Metric, Unit};

const DIRECTION: Label = Label { name: "direction", values: LabelValues::Fixed(&Direction::NAMES) };

/// Payload.
pub static BYTES: Metric = Metric {
    name: "podlens_network_bytes_total",
    otlp_name: "podlens.network.io",
    kind: Kind::Counter,
    unit: Unit::Bytes,
    help: "Payload that sockets of the container sent and received, over loopback too and in any network namespace; a byte that was sent several times counts once. A TCP connection that existed before the agent counts from its beginning",
    labels: &[DIRECTION, Label { name: "protocol", values: LabelValues::Fixed(&Protocol::NAMES) }],
    by_default: ByDefault::Nonzero,
    lifetime: true,
    source: "inet_sock_set_state, the kernel's tables of sockets",
    must_equal: "the bytes that a test's programs wrote and read, exactly; where a queue of this host dropped, up to 2 more per connection (SYN and FIN)",
    ..Metric::BASE
};

/// Segments.
pub static SEGMENTS: Metric = Metric {
    name: "podlens_tcp_segments_total",
    otlp_name: "podlens.tcp.segments",
    kind: Kind::Counter,
    unit: Unit::Count("segment"),
    help: "TCP segments that sockets of the container sent (including those sent again) and received, without resets and without answers to requests for a connection. The kernel counts each socket's segments in 32 bits; podlens continues the count in 64 bits where a walk meets the socket once in 2,147,483,648 segments, which take 41 minutes at 10 Gb/s and 4 at 100. Of the segments that a connection had before the agent, multiples of 4,294,967,296 are missing",
    labels: &[DIRECTION],
    by_default: ByDefault::Only(&[Direction::Transmit.index()]),
    lifetime: true,
    source: "segs_out and segs_in of each socket",
    must_equal: "segs_out and segs_in of `ss -ti`",
    ..Metric::BASE
};

/// Segments that were sent again.
pub static RETRANSMITS: Metric = Metric {
    name: "podlens_tcp_retransmits_total",
    otlp_name: "podlens.tcp.retransmits",
    kind: Kind::Counter,
    unit: Unit::Count("segment"),
    help: "TCP segments that sockets of the container sent again",
    by_default: ByDefault::With(&SEGMENTS),
    lifetime: true,
    source: "total_retrans of each socket",
    must_equal: "TcpRetransSegs of a network namespace of the test's own, exactly",
    ..Metric::BASE
};

/// Time for which connections could not send more.
pub static LIMITED: Metric = Metric {
    name: "podlens_tcp_limited_seconds_total",
    otlp_name: "podlens.tcp.limited",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "For how long connections of the container had something to send and could not, summed over connections: the receive_window of the other side was full, because its program reads too slowly, or their own send_buffer was full, because it is too small for the path. Counted in ticks of the kernel (1 to 10 ms); absent in the first second, until podlens knows the length of a tick",
    labels: &[Label { name: "by", values: LabelValues::Fixed(&Limit::NAMES) }],
    by_default: ByDefault::Nothing,
    lifetime: true,
    source: "chrono_stat of each socket",
    must_equal: "tcpi_rwnd_limited and tcpi_sndbuf_limited of TCP_INFO (`ss -ti`), exactly",
    ..Metric::BASE
};

/// Connections by what happens to them.
pub static CONNECTION_EVENTS: Metric = Metric {
    name: "podlens_tcp_connections_total",
    otlp_name: "podlens.tcp.connections",
    kind: Kind::Counter,
    unit: Unit::Count("connection"),
    help: "TCP connections since the agent began: opened (the container made them; where both sides ask at once, both count), accepted (others made them, whether the program takes them or not), failed (the container asked in vain), closed (they ended, whichever side made them)",
    labels: &[Label { name: "event", values: LabelValues::Fixed(&ConnectionEvent::NAMES) }],
    by_default: ByDefault::Only(&[ConnectionEvent::Accepted.index()]),
    source: "inet_sock_set_state",
    must_equal: "the connections that a test made, exactly; opened and accepted: TcpActiveOpens without those that fail, and TcpPassiveOpens",
    ..Metric::BASE
};

/// Connections that were not made.
pub static CONNECT_FAILURES: Metric = Metric {
    name: "podlens_tcp_connect_failures_total",
    otlp_name: "podlens.tcp.connect_failures",
    kind: Kind::Counter,
    unit: Unit::Count("connection"),
    help: "TCP connections that the container asked for in vain: refused (by a reset), timeout (no answer in time), unreachable (according to the network), other (mostly because the program gave up). A connection that fails before anything is sent, as without a route, does not count",
    labels: &[Label { name: "reason", values: LabelValues::Fixed(&ConnectFailure::NAMES) }],
    sparse: true,
    source: "inet_sock_set_state, sk_err",
    must_equal: "the failures that a test made, exactly",
    ..Metric::BASE
};

/// Connections that an error has ended.
pub static CONNECTION_ERRORS: Metric = Metric {
    name: "podlens_tcp_connection_errors_total",
    otlp_name: "podlens.tcp.connection_errors",
    kind: Kind::Counter,
    unit: Unit::Count("connection"),
    help: "TCP connections of the container that were made and then ended by an error: reset by the other side, timeout (it did not answer any more), unreachable according to the network. A connection that the container itself ends, by a reset too, does not count",
    labels: &[Label { name: "reason", values: LabelValues::Fixed(&ConnectionError::NAMES) }],
    sparse: true,
    source: "inet_sock_set_state, sk_err",
    must_equal: "the errors that a test made, exactly",
    ..Metric::BASE
};

/// Resets.
pub static RESETS: Metric = Metric {
    name: "podlens_tcp_resets_total",
    otlp_name: "podlens.tcp.resets",
    kind: Kind::Counter,
    unit: Unit::Count("segment"),
    help: "TCP resets since the agent began: those that sockets of the container sent, whether the program closed them so or the kernel answered for them, and those that its connections received, each of which ended by it (a refused one too). Resets that no socket sends, as by a port where nobody listens, and those for a connection in TIME_WAIT are unattributed, where the kernel reports them (6.10 and later)",
    labels: &[DIRECTION],
    by_default: ByDefault::Nothing,
    source: "tcp_send_reset, tcp_receive_reset",
    must_equal: "sent: TcpOutRsts of a network namespace of the test's own, exactly; received: the resets that a test made, exactly",
    ..Metric::BASE
};

/// How long it took to make a connection.
pub static CONNECT_LATENCY: Metric = Metric {
    name: "podlens_tcp_connect_seconds",
    otlp_name: "podlens.tcp.connect",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long it took the container to open a TCP connection, from the first SYN to the answer, however often the SYN was sent",
    source: "inet_sock_set_state",
    must_equal: "a delay that the test set, within 10 %; count: connections opened",
    ..Metric::BASE
};

/// Smoothed round-trip times.
pub static ROUND_TRIP: Metric = Metric {
    name: "podlens_tcp_rtt_seconds",
    otlp_name: "podlens.tcp.rtt",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "Smoothed round-trip times of TCP connections: one observation of each connection at its end, and of each living one every 10 s",
    source: "srtt_us of each socket",
    must_equal: "a delay that the test set, within 10 %",
    ..Metric::BASE
};

/// Sockets by state.
pub static SOCKETS: Metric = Metric {
    name: "podlens_tcp_sockets",
    otlp_name: "podlens.tcp.sockets",
    kind: Kind::Gauge,
    unit: Unit::Count("socket"),
    help: "TCP sockets by state; fin_wait is FIN_WAIT1 and FIN_WAIT2, closing is CLOSING and LAST_ACK. syn_received is the queue of requests for a connection that were answered and wait for the last ACK; each counts for the container of the listening socket. The kernel lets one more wait there than `podlens_tcp_accept_queue_limit` before it drops further ones or answers them with SYN cookies. A socket in TIME_WAIT has no cgroup any more: see podlens_tcp_time_wait_sockets",
    labels: &[Label { name: "state", values: LabelValues::Fixed(&SocketState::NAMES) }],
    by_default: ByDefault::Nonzero,
    source: "the kernel's tables of sockets",
    must_equal: "/proc/net/tcp and /proc/net/tcp6 of each namespace",
    ..Metric::BASE
};

/// Sockets in `TIME_WAIT`.
pub static TIME_WAIT: Metric = Metric {
    name: "podlens_tcp_time_wait_sockets",
    otlp_name: "podlens.tcp.time_wait_sockets",
    kind: Kind::Gauge,
    unit: Unit::Count("socket"),
    help: "TCP sockets in TIME_WAIT, over all network namespaces of the node, and orphans in FIN_WAIT2 that the kernel keeps in the same way; they have no cgroup any more, so all are unattributed",
    source: "the kernel's tables of sockets",
    must_equal: "/proc/net/tcp and /proc/net/tcp6 over all namespaces",
    ..Metric::BASE
};

/// Connections that wait for the program.
pub static ACCEPT_QUEUE: Metric = Metric {
    name: "podlens_tcp_accept_queue",
    otlp_name: "podlens.tcp.accept_queue",
    kind: Kind::Gauge,
    unit: Unit::Count("connection"),
    help: "Connections that wait in listening sockets for the program to take them; no sample without a listening socket",
    by_default: ByDefault::Nothing,
    source: "sk_ack_backlog of each listening socket",
    must_equal: "Recv-Q of `ss -tl`",
    ..Metric::BASE
};

/// How many may wait.
pub static ACCEPT_QUEUE_LIMIT: Metric = Metric {
    name: "podlens_tcp_accept_queue_limit",
    otlp_name: "podlens.tcp.accept_queue.limit",
    kind: Kind::Gauge,
    unit: Unit::Count("connection"),
    help: "How many connections may wait in listening sockets, over all of the container's; no sample without one",
    by_default: ByDefault::Nothing,
    source: "sk_max_ack_backlog of each listening socket",
    must_equal: "Send-Q of `ss -tl`",
    ..Metric::BASE
};

/// Connections for which there was no room.
pub static LISTEN_OVERFLOWS: Metric = Metric {
    name: "podlens_tcp_listen_overflows_total",
    otlp_name: "podlens.tcp.listen_overflows",
    kind: Kind::Counter,
    unit: Unit::Count("connection"),
    help: "Segments that would have made a connection and that a listening socket dropped, mostly because its accept queue was full; an attempt may count more than once, since it is repeated",
    by_default: ByDefault::With(&ACCEPT_QUEUE_LIMIT),
    lifetime: true,
    source: "sk_drops of each listening socket",
    must_equal: "TcpExtListenDrops of a network namespace of the test's own, exactly",
    ..Metric::BASE
};
