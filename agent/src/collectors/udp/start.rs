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
                Program::on_tracepoint("udp_receive", "sock_recv_length", &["sock", "int", "int"]),
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
const SEND: &str = "udp_send";

/// A program did not run.
pub(super) static MISSED_DATAGRAM: Loss = Loss {
    reason: "missed_datagram",
    means: "a datagram that had no room came in an interrupt while another one was being counted on the same CPU: it is in no metric of UDP",
};

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let (accounts, missed) = (start.object.array("UDP_ACCOUNTS")?, start.object.missed_runs(FULL)?);
    let sees_calls = start.runs(SEND);
    Ok(Started::whole(Udp::new(Arc::clone(&start.layout), accounts, missed, sees_calls)))
}
