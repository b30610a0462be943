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
    parts: &[
        Part {
            without: None,
            for_events: false,
            programs: &[Program::on_tracepoint(FULL, "udp_fail_queue_rcv_skb", &["int", "sock"])],
            maps: &[Map::per_slot("UDP_ACCOUNTS", 1)],
        },
        Part {
            without: Some("bytes, datagrams and calls that fail are missing"),
            for_events: false,
            programs: &[
                Program::on_tracepoint(SEND, "sock_send_length", &["sock", "int", "int"]),
                Program::on_tracepoint(RECEIVE, "sock_recv_length", &["sock", "int", "int"]),
            ],
            maps: &[],
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
/// Programs of `dns` as well.
pub const SEND: &str = "udp_send";
/// The other one.
pub const RECEIVE: &str = "udp_receive";

/// A program did not run.
pub(super) static MISSED_DATAGRAM: Loss = Loss {
    reason: "missed_datagram",
    means: "a datagram that had no room, or a call that sent or received something, came while another one was being counted on the same CPU, in an interrupt or, on kernels from 7.0 on, in a task that took its turn meanwhile: if it was UDP's, it is in no metric",
};

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let sees_calls = start.runs(SEND);
    let programs: &[_] = if sees_calls { &[FULL, SEND, RECEIVE] } else { &[FULL] };
    let (accounts, missed) = (start.object.array("UDP_ACCOUNTS")?, start.object.missed_runs(programs)?);
    Ok(Started::whole(Udp::new(Arc::clone(&start.layout), accounts, missed, sees_calls)))
}
