//! What the collector `tcp` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use super::{
    Books, MissedChanges, Tcp, metrics,
    walk::{WalkMaps, Walker},
};
use crate::{
    collectors::spec::{Kind, Part, Program, Spec, Start, Started},
    kernel::{hooks::Hook, maps::Map},
    signal::Loss,
};

/// The two programs that are told of changes of sockets' states, in this order: the second takes what the kernel has left the
/// first out for, as kernels do since 6.1. They do no harm where one would do.
const STATE_TWICE: [&str; 2] = ["tcp_state_first", "tcp_state_again"];
/// The one that stands in for both before 5.13, which cannot run them.
const STATE: &str = "tcp_state";
/// The program that walks through living sockets.
const WALK: &str = "tcp_walk";
/// Where they are attached, and what they take.
const CHANGE: &str = "inet_sock_set_state";
const CHANGE_ARGUMENTS: &[&str] = &["sock", "int", "int"];
/// The programs that count resets.
const RESETS: [&str; 2] = ["tcp_reset_sent", "tcp_reset_came"];

/// The collector.
pub static SPEC: Spec = Spec {
    name: "tcp",
    about: "TCP: bytes, segments, connections, their latencies and failures",
    kind: Kind::Programs,
    is_optional: true,
    switch: None,
    parts: &[
        Part {
            // Of the programs below, whichever run.
            maps: &[
                Map::per_slot("TCP_ACCOUNTS", 1),
                Map::fixed("TCP_CURSOR"),
                Map::fixed("TCP_CONNECTS"),
                Map::fixed("TCP_UNTIMED"),
            ],
            ..Part::BASE
        },
        Part {
            programs: &[
                Program::on_tracepoint(STATE_TWICE[0], CHANGE, CHANGE_ARGUMENTS),
                Program::on_tracepoint(STATE_TWICE[1], CHANGE, CHANGE_ARGUMENTS),
            ],
            maps: &[Map::fixed("TCP_NOTES"), Map::fixed("TCP_NOTES_AT"), Map::fixed("TCP_SHARES")],
            stand_in: Some(&Part {
                programs: &[Program::on_tracepoint(STATE, CHANGE, CHANGE_ARGUMENTS)],
                ..Part::BASE
            }),
            ..Part::BASE
        },
        Part {
            without: Some(
                "bytes, segments, retransmits, time limited, overflows and sockets by state are missing, since what living sockets have is not known",
            ),
            programs: &[Program::on(WALK, Hook::TaskIterator)],
            maps: &[
                Map::per_slot("TCP_ALIVE", 1),
                // A table that is never full.
                Map::per_slot("TCP_PLACES", 2),
                Map::fixed("TCP_WALK"),
                Map::fixed("TCP_AT"),
                Map::fixed("TCP_WIDE"),
                Map::fixed("TCP_WIDE_USED"),
            ],
            ..Part::BASE
        },
        Part {
            without: Some("resets are missing"),
            programs: &[
                Program::on_tracepoint(RESETS[0], "tcp_send_reset", &["sock", "sk_buff"]),
                Program::on_tracepoint(RESETS[1], "tcp_receive_reset", &["sock"]),
            ],
            ..Part::BASE
        },
    ],
    wishes: &[],
    without: None,
    metrics: &[
        &metrics::BYTES,
        &metrics::SEGMENTS,
        &metrics::RETRANSMITS,
        &metrics::LIMITED,
        &metrics::CONNECTION_EVENTS,
        &metrics::CONNECT_FAILURES,
        &metrics::CONNECTION_ERRORS,
        &metrics::RESETS,
        &metrics::CONNECT_LATENCY,
        &metrics::ROUND_TRIP,
        &metrics::SOCKETS,
        &metrics::TIME_WAIT,
        &metrics::ACCEPT_QUEUE,
        &metrics::ACCEPT_QUEUE_LIMIT,
        &metrics::LISTEN_OVERFLOWS,
    ],
    records: &[],
    events: &[],
    losses: &[&MISSED_CLOSING, &MISSED_RESET, &UNTIMED, &WALK_UNFINISHED, &CHAIN_LEFT, &NO_ROOM, &UNNOTED],
    start,
};

/// A change of a socket's state is in no metric.
pub(super) static MISSED_CLOSING: Loss = Loss {
    reason: "missed_closing",
    means: "the kernel left out both programs at a change of a socket's state, since a CPU was in the middle of both when an interrupt or another task brought it: a connection may be missing in the counts of events, and what it sent and received since the last walk in bytes, segments and retransmits",
};

/// A reset is in no metric.
pub(super) static MISSED_RESET: Loss = Loss {
    reason: "missed_reset",
    means: "the kernel left out a program at a reset, since that came in an interrupt on a CPU that was counting another one: it is missing in `podlens_tcp_resets_total`",
};

/// A connection is in no distribution of how long it took to make one.
pub(super) static UNTIMED: Loss = Loss {
    reason: "connect_untimed",
    means: "a TCP connection was made of which nobody knows how long that took, since its request was sent again, and first before the agent came or while thousands of others asked: it is missing in `podlens_tcp_connect_seconds`",
};

/// What living sockets have is not that of now.
pub(super) static WALK_UNFINISHED: Loss = Loss {
    reason: "walk_unfinished",
    means: "a walk through the node's TCP sockets did not come to its end: more than a million sockets or 4,096 network namespaces, or a kernel whose tables differ. Bytes, segments and sockets by state stay those of the last walk that did; report it if it goes on",
};

/// Some living sockets were not met.
pub(super) static CHAIN_LEFT: Loss = Loss {
    reason: "chain_left",
    means: "a socket was closed and made anew in another place just as the walk through sockets came by: what came behind it is told at the next walk",
};

/// Sockets of more cgroups than there are records.
pub(super) static NO_ROOM: Loss = Loss {
    reason: "no_room",
    means: "a living TCP socket was met whose cgroup got no record, since more cgroups have sockets than there are slots: it counts as `unattributed` until it closes",
};

/// More sockets have come far in a number of 32 bits than are remembered.
pub(super) static UNNOTED: Loss = Loss {
    reason: "large_socket",
    means: "a living TCP socket was met that has come so far in a number of 32 bits (2,147,483,648 segments, as a rule) that it is to be remembered, while 1,024 others are: where the kernel begins anew at 0, 4,294,967,296 are missing in segments, retransmits, overflows or ticks",
};

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let accounts = Arc::new(start.object.array("TCP_ACCOUNTS")?);
    let slots = Arc::new(start.object.array("SLOTS")?);
    let walker = if start.runs(WALK) {
        let maps = WalkMaps {
            iterator: start.object.iterator(WALK)?,
            slots: Arc::clone(&slots),
            accounts: Arc::clone(&accounts),
            alive: start.object.array("TCP_ALIVE")?,
            walk: start.object.array("TCP_WALK")?,
            cursor: start.object.array("TCP_CURSOR")?,
        };
        Some(Walker::start(maps)?)
    } else {
        None
    };
    let has_v1 = start.hierarchies.keyed_v1().is_some();
    let missed_closings = if start.runs(STATE) {
        MissedChanges::new(start.object.missed_runs(&[STATE])?, None)
    } else {
        let [first, _] = STATE_TWICE;
        MissedChanges::new(start.object.missed_runs(&[first])?, Some(start.object.array("TCP_SHARES")?))
    };
    let sees_resets = RESETS.iter().all(|name| start.runs(name));
    let missed_resets = if sees_resets { Some(start.object.missed_runs(&RESETS)?) } else { None };
    let untimed = start.object.array("TCP_UNTIMED")?;
    let [found, unused] = [start.layout.row(), start.layout.row()];
    let mut started = Started::whole(Tcp {
        layout: Arc::clone(&start.layout),
        accounts,
        slots,
        walker,
        has_v1,
        missed_closings,
        missed_resets,
        untimed,
        ticks_per_second: None,
        books: Books::default(),
        found,
        unused,
    });
    if start.hierarchies.v2().is_none() {
        let lack = "this node has no cgroup version 2, the only one that sockets know: all of them are unattributed";
        started.lacks.push(lack.to_owned());
    }
    Ok(started)
}
