//! What the collector `dns` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use podlens_common::{
    dns::{DnsKey, DnsLosses, PendingQuery},
    histogram::Lengths,
};

use super::{Dns, metrics};
use crate::{
    collectors::{
        spec::{Kind, Part, Program, Spec, Start, Started},
        udp::{self, CALLS},
    },
    kernel::{mapped::MappedArray, maps::Map, table::Table},
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "dns",
    about: "DNS: latency and results of queries",
    kind: Kind::Programs,
    is_optional: true,
    switch: Some("COUNTS_DNS"),
    parts: &[
        Part {
            // Of the programs below, whichever run.
            maps: &[Map::per_slot("DNS_ANSWERS", 1), Map::fixed("DNS_PENDING"), Map::fixed("DNS_LOSSES")],
            ..Part::BASE
        },
        Part {
            feature: FEATURE,
            programs: &CALLS,
            stand_in: Some(&Part { feature: FEATURE, programs: &ENDS, ..Part::BASE }),
            ..Part::BASE
        },
    ],
    wishes: &[],
    without: None,
    metrics: &[&metrics::LOOKUPS],
    records: &[],
    events: &[],
    losses: &[&NO_ROOM, &UNSEEN_CALL, &UNREADABLE, &UNSEEN_ANSWER, &MISSED_CALL],
    start,
};

/// What the programs, which are those of the collector `udp`, need to find messages.
const FEATURE: Option<&str> = Some("dns");

/// What stands in for them: those of UDP, and the same for TCP.
const ENDS: [Program; 6] = {
    let [send_4, send_6, receive_4, receive_6] = udp::ENDS;
    let stream_send = Program::at_end_of("dns_stream_send", "tcp_sendmsg");
    let stream_receive = Program::at_end_of("dns_stream_recv", "tcp_recvmsg");
    [send_4, send_6, receive_4, receive_6, stream_send, stream_receive]
};

/// A query is missing.
pub(super) static NO_ROOM: Loss = Loss {
    reason: "no_room",
    means: "a query was sent while 2,048 already waited for their answers (including those without an answer since the last sweep), or its result was new for its container while podlens was already counting as many pairs of container and result as there are slots: the query is in no metric",
};

/// A query is missing, or its answer.
pub(super) static UNSEEN_CALL: Loss = Loss {
    reason: "unseen_call",
    means: "a program sent a datagram to a DNS server, or took one from it, by a call whose buffer podlens does not find, as with io_uring: the query is in no metric, or counts as timeout",
};

/// A query is missing, or its answer.
pub(super) static UNREADABLE: Loss = Loss {
    reason: "unreadable",
    means: "the head of a DNS message was not in one piece, or not in memory when podlens read it: the query is in no metric, or counts as timeout",
};

/// A query is missing.
pub(super) static UNSEEN_ANSWER: Loss = Loss {
    reason: "unseen_answer",
    means: "podlens saw no answer to a query over TCP within 10 s, or before the container ended: there was none, or the program took it in pieces that podlens does not understand. The query is in no metric",
};

/// A program did not run.
pub(super) static MISSED_CALL: Loss = Loss {
    reason: "missed_call",
    means: "a call that sends or receives ended in a task that had preempted another one whose call podlens was examining: if it sent a query, that is in no metric; if it took an answer, the query counts as timeout. Where podlens sees calls by a tracepoint, calls on other sockets count too",
};

/// The maps.
pub(super) struct DnsMaps {
    /// How long answers were waited for.
    pub(super) answers: Table<DnsKey, Lengths>,
    /// Queries under way.
    pub(super) pending: Table<u64, PendingQuery>,
    /// What could not be told.
    pub(super) losses: MappedArray<DnsLosses>,
}

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let maps = DnsMaps {
        answers: start.object.table("DNS_ANSWERS")?,
        pending: start.object.table("DNS_PENDING")?,
        losses: start.object.array("DNS_LOSSES")?,
    };
    let missed = start.missed_runs()?;
    Ok(Started::whole(Dns::new(Arc::clone(&start.layout), maps, missed)))
}
