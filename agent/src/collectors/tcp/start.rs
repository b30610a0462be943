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
                "bytes, segments, retransmits, time limited, overflows and sockets by state are missing, since podlens does not see living sockets",
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
    means: "the kernel ran neither of the two programs at a change of a socket's state, since the CPU was in the middle of both when an interrupt or another task caused it: a connection may be missing in the counts of events, and its traffic since the last walk in bytes, segments and retransmits",
};

/// A reset is in no metric.
pub(super) static MISSED_RESET: Loss = Loss {
    reason: "missed_reset",
    means: "the kernel did not run the program at a reset, since the reset came in an interrupt on a CPU that was counting another one: it is missing in `podlens_tcp_resets_total`",
};

/// A connection is in no distribution of how long it took to make one.
pub(super) static UNTIMED: Loss = Loss {
    reason: "connect_untimed",
    means: "podlens does not know how long it took to make a TCP connection, since its request was sent again, and the first one was sent before the agent started or while thousands of others were: it is missing in `podlens_tcp_connect_seconds`",
};

/// What living sockets have is not that of now.
pub(super) static WALK_UNFINISHED: Loss = Loss {
    reason: "walk_unfinished",
    means: "a walk through the node's TCP sockets did not finish: there are more than a million sockets or 4,096 network namespaces, or this kernel's tables differ. Bytes, segments and sockets by state stay those of the last walk that finished; report it if it continues",
};

/// Some living sockets were not met.
pub(super) static CHAIN_LEFT: Loss = Loss {
    reason: "chain_left",
    means: "a socket was closed and made again in another place just as the walk through sockets reached it: the walk missed the sockets behind it, which the next walk meets",
};

/// Sockets of more cgroups than there are records.
pub(super) static NO_ROOM: Loss = Loss {
    reason: "no_room",
    means: "the walk met a living TCP socket whose cgroup got no record, since more cgroups have sockets than there are slots: the socket counts as `unattributed` until it closes",
};

/// More sockets have come far in a number of 32 bits than are remembered.
pub(super) static UNNOTED: Loss = Loss {
    reason: "large_socket",
    means: "a 32-bit count of a living TCP socket has come so far (2,147,483,648 segments, as a rule) that podlens should remember the socket, but it already remembers 1,024 others: when that count starts again at 0, 4,294,967,296 are missing in segments, retransmits, overflows or ticks",
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
        let lack = "this node has no cgroup version 2, the only version whose cgroups sockets refer to: all sockets are unattributed";
        started.lacks.push(lack.to_owned());
    }
    Ok(started)
}
