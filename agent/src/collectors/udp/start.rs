//! What the collector `udp` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use super::{Udp, metrics};
use crate::{
    collectors::spec::{Kind, Part, Program, Spec, Start, Started, Wish},
    kernel::maps::Map,
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "udp",
    about: "UDP: bytes, datagrams and errors",
    kind: Kind::Programs,
    is_optional: true,
    switch: Some("COUNTS_UDP"),
    parts: &[
        Part {
            programs: &[Program::on_tracepoint(FULL, "udp_fail_queue_rcv_skb", &["int", "sock"])],
            maps: &[Map::per_slot("UDP_ACCOUNTS", 1)],
            ..Part::BASE
        },
        Part {
            without: Some("bytes, datagrams and calls that fail are missing"),
            programs: &CALLS,
            stand_in: Some(&Part { programs: &ENDS, ..Part::BASE }),
            ..Part::BASE
        },
    ],
    // Kernels tell of both families since they tell the packet as well.
    wishes: &[&[Wish { of: "udp_fail_queue_rcv_skb(3)", without: "datagrams of IPv6 that find no room are missing" }]],
    without: None,
    metrics: &[&metrics::BYTES, &metrics::DATAGRAMS, &metrics::ERRORS],
    records: &[],
    events: &[],
    losses: &[&MISSED_DATAGRAM],
    start,
};

const FULL: &str = "udp_full";

/// The queues through which datagrams come into a socket's own since 6.18. What comes out of them and is not granted memory is dropped
/// there: the hook is called for a full receive buffer alone.
const QUEUES: &str = "udp_sock.udp_prod_queue";
const NO_MEMORY: &str = "this kernel has `udp_sock.udp_prod_queue`, and calls no tracepoint of UDP when it drops a datagram that comes out of it: datagrams that come while the node's memory for UDP is used up are missing; the collector drops counts them as proto_mem";

/// What sees calls that send, and calls that receive, of all kinds of sockets. The collector `dns` has the same ones.
pub(in crate::collectors) const CALLS: [Program; 2] = [
    Program::on_tracepoint("udp_send", "sock_send_length", &["sock", "int", "int"]),
    Program::on_tracepoint("udp_receive", "sock_recv_length", &["sock", "int", "int"]),
];

/// What stands in for them where the kernel has no such tracepoints: the ends of its own functions for UDP.
pub(in crate::collectors) const ENDS: [Program; 4] = [
    Program::at_end_of("udp_send_4", "udp_sendmsg"),
    Program::at_end_of("udp_send_6", "udpv6_sendmsg"),
    Program::at_end_of("udp_receive_4", "udp_recvmsg"),
    Program::at_end_of("udp_receive_6", "udpv6_recvmsg"),
];

/// A program did not run.
pub(super) static MISSED_DATAGRAM: Loss = Loss {
    reason: "missed_datagram",
    means: "a datagram found no room, or a call that sends or receives ended, in an interrupt or a task that had interrupted the counting of another one: it is in no metric of UDP. Where podlens sees calls by a tracepoint, calls on other sockets count too",
};

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let accounts = start.object.array("UDP_ACCOUNTS")?;
    let missed = start.missed_runs()?;
    let sees_calls = start.attached.iter().any(|name| *name != FULL);
    let mut started = Started::whole(Udp::new(Arc::clone(&start.layout), accounts, missed, sees_calls));
    if start.has(QUEUES) {
        started.lacks.push(NO_MEMORY.to_owned());
    }
    Ok(started)
}
