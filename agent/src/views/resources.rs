//! The parts of the terminal view about memory, disks and the network. Pure.

use std::{cmp::Reverse, fmt::Write as _};

use podlens_common::{disk::Operation, tcp::Direction};

use super::{
    format::{NAME, ROWS, more, per_second, percent, quantile, shorten},
    model::Usage,
};
use crate::signal::Entity;

const MIB: f64 = (1 << 20) as f64;

/// Who has how much memory: who stalls for more first, then who has most.
pub(super) fn memory(text: &mut String, usages: &[(&Entity, Usage)], seconds: f64) {
    let mut rows: Vec<(&Entity, &Usage, u64)> = usages
        .iter()
        .filter_map(|(entity, usage)| Some((*entity, usage, usage.memory.working_set?)))
        .filter(|(entity, usage, bytes)| *bytes > negligible(entity) || usage.stalled_ns > 0)
        .collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|(entity, usage, bytes)| (Reverse((usage.stalled_ns, *bytes)), *entity));
    let _ = writeln!(
        text,
        "\n{:NAME$} {:>8} {:>8} {:>7} {:>7} {:>8} {:>8} {:>9}",
        "POD OR UNIT", "MEMORY", "LIMIT", "used", "stays", "STALLED", "FAULTS", "FAULT p99"
    );
    let _ = writeln!(
        text,
        "{:NAME$} {:>17} {:>15} {:>8} {:>18}",
        "", "working set, MiB", "of the limit", "tasks", "major, a second"
    );
    for (entity, usage, bytes) in rows.iter().take(ROWS) {
        let limit = usage.memory.limit;
        let of_limit = |bytes: Option<u64>| percent(bytes.unwrap_or(0), limit.filter(|_| bytes.is_some()).unwrap_or(0));
        let faults = usage.major_faults();
        let _ = writeln!(
            text,
            "{:NAME$} {:>8.1} {:>8} {:>7} {:>7} {:>8.4} {:>8.1} {:>9}",
            shorten(&entity.to_string()),
            *bytes as f64 / MIB,
            limit.map_or_else(|| "-".to_owned(), |limit| format!("{:.1}", limit as f64 / MIB)),
            of_limit(Some(*bytes)),
            of_limit(usage.memory.unreclaimable),
            per_second(usage.stalled_ns, seconds),
            faults.count() as f64 / seconds,
            quantile(faults, 0.99),
        );
    }
    more(text, rows.len());
}

/// What nobody wants to see: each pod's own cgroup has some of the kernel's memory beside its containers.
fn negligible(entity: &Entity) -> u64 {
    let is_pods_own = matches!(entity, Entity::Container(container) if container.container.is_empty());
    if is_pods_own { 1 << 20 } else { 0 }
}

/// Who used disks, those first whose requests took longest.
pub(super) fn disks(text: &mut String, usages: &[(&Entity, Usage)], seconds: f64) {
    let has_requests = |usage: &Usage| usage.disk_ns() != (0, 0) || usage.disk_bytes.iter().any(|bytes| *bytes > 0);
    let mut rows: Vec<&(&Entity, Usage)> = usages.iter().filter(|(_, usage)| has_requests(usage)).collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|(entity, usage)| {
        let (in_queues, in_devices) = usage.disk_ns();
        (Reverse(in_queues + in_devices), *entity)
    });
    let _ = writeln!(
        text,
        "\n{:NAME$} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7}",
        "POD OR UNIT", "READ", "p50", "p99", "WRITTEN", "p50", "p99", "QUEUED"
    );
    let _ = writeln!(
        text,
        "{:NAME$} {:>8} {:>17} {:>8} {:>17} {:>7}",
        "", "MiB/s", "in the device", "MiB/s", "in the device", "of time"
    );
    for (entity, usage) in rows.iter().take(ROWS) {
        let (in_queues, in_devices) = usage.disk_ns();
        let _ = write!(text, "{:NAME$}", shorten(&entity.to_string()));
        for operation in [Operation::Read, Operation::Write] {
            let bytes = usage.disk_bytes.get(operation.index()).copied().unwrap_or(0);
            let took = usage.in_devices(operation);
            let _ = write!(
                text,
                " {:>8.2} {:>8} {:>8}",
                bytes as f64 / MIB / seconds,
                quantile(took, 0.5),
                quantile(took, 0.99)
            );
        }
        let _ = writeln!(text, " {:>7}", percent(in_queues, in_queues + in_devices));
    }
    more(text, rows.len());
}

/// Who sent and received, those first who did most of it.
pub(super) fn network(text: &mut String, usages: &[(&Entity, Usage)], seconds: f64) {
    let is_any = |usage: &Usage| usage.network.all_bytes() + usage.network.made() + usage.network.failed() > 0;
    let mut rows: Vec<&(&Entity, Usage)> =
        usages.iter().filter(|(_, usage)| is_any(usage) || usage.network.dropped > 0).collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|(entity, usage)| (Reverse((usage.network.all_bytes(), usage.network.made())), *entity));
    let _ = writeln!(
        text,
        "\n{:NAME$} {:>8} {:>8} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "POD OR UNIT", "SENT", "RECEIVED", "AGAIN", "MADE", "FAILED", "RTT p50", "RTT p99", "DROPPED"
    );
    let _ = writeln!(
        text,
        "{:NAME$} {:>17} {:>6} {:>17} {:>17} {:>8}",
        "", "MiB/s", "TCP", "connections/s", "up to", "packets"
    );
    for (entity, usage) in rows.iter().take(ROWS) {
        let network = &usage.network;
        let _ = write!(text, "{:NAME$}", shorten(&entity.to_string()));
        for direction in Direction::ALL {
            let bytes = network.bytes.get(direction.index()).copied().unwrap_or(0);
            let _ = write!(text, " {:>8.2}", bytes as f64 / MIB / seconds);
        }
        let _ = writeln!(
            text,
            " {:>6} {:>8.1} {:>8.1} {:>8} {:>8} {:>8}",
            percent(network.retransmits, network.segments),
            network.made() as f64 / seconds,
            network.failed() as f64 / seconds,
            quantile(network.round_trips(), 0.5),
            quantile(network.round_trips(), 0.99),
            network.dropped,
        );
    }
    more(text, rows.len());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use crate::{
        collectors::{disk, memory, stalls, tcp, udp},
        export::fixture::{container, distribution, snapshot_of, state, values},
        views::table::render,
    };

    const MIB: u64 = 1 << 20;

    /// The words of the rows below the heading that has this word.
    fn rows(view: &str, heading: &str) -> Vec<Vec<String>> {
        let rows = view.lines().skip_while(|line| !line.contains(heading)).skip(2).take_while(|line| !line.is_empty());
        rows.map(|row| row.split_whitespace().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn memory_is_that_of_the_end_and_stalls_are_those_of_the_time_between_and_come_first() {
        let of_pods = ["db", "web"].map(|pod| state(container("shop", pod, "")));
        let mut entities = vec![state(container("shop", "db", "pg")), state(container("shop", "web", "nginx"))];
        entities.extend(of_pods);
        let stalls = |ns: u64| {
            let mut cells = Vec::new();
            for reason in 0..5 {
                cells.extend(distribution(&[(20, u64::from(reason == 1))], if reason == 1 { ns } else { 0 }));
            }
            values(&stalls::metrics::STALLS, &[(1, &cells)])
        };
        let sizes = |db: u64| {
            let cells = [[db * MIB], [50 * MIB], [MIB / 2], [2 * MIB]];
            values(&memory::metrics::WORKING_SET, &[(0, &cells[0]), (1, &cells[1]), (2, &cells[2]), (3, &cells[3])])
        };
        let limit = values(&memory::metrics::LIMIT, &[(1, &[100 * MIB])]);
        let stays = values(&memory::metrics::UNRECLAIMABLE, &[(1, &[20 * MIB])]);
        let before = snapshot_of(entities.clone(), &[sizes(700), limit.clone(), stalls(1_000_000_000)]);
        let after = snapshot_of(entities, &[sizes(400), limit, stays, stalls(2_000_000_000)]);
        let view = render(&before, &after, 2.0);
        let found = rows(&view, "STALLED");
        assert_eq!(found[0], ["shop/web/nginx", "50.0", "100.0", "50%", "20%", "0.5000", "0.0", "-"], "{view}");
        assert_eq!(found[1], ["shop/db/pg", "400.0", "-", "-", "-", "0.0000", "0.0", "-"], "{view}");
        assert_eq!(found[2][..2], ["shop/web", "2.0"], "{view}");
        assert_eq!(found.len(), 3, "the other pod has little beside its container: {view}");
    }

    #[test]
    fn requests_to_disks_are_told_by_operation_and_who_used_none_is_not() {
        let entities = vec![state(container("shop", "db", "pg")), state(container("shop", "web", "nginx"))];
        let (empty, queue) = (distribution(&[], 0), distribution(&[(10, 3)], 2_000_000));
        // Reads and writes, each in the queue and in the device, and others.
        let (reads, writes) = (distribution(&[(14, 3)], 3_000_000), distribution(&[(17, 1)], 3_000_000));
        let latency =
            [&queue, &reads, &empty, &writes, &empty, &empty, &empty, &empty].map(|cells| cells.to_vec()).concat();
        let before = snapshot_of(entities.clone(), &[]);
        let after = snapshot_of(
            entities,
            &[
                values(&disk::metrics::LATENCY, &[(0, &latency)]),
                values(&disk::metrics::BYTES, &[(0, &[6 * MIB, MIB, 0])]),
            ],
        );
        let view = render(&before, &after, 2.0);
        let found = rows(&view, "QUEUED");
        assert_eq!(found.len(), 1, "{view}");
        let row = found[0].join(" ");
        assert_eq!(row, "shop/db/pg 3.00 977 us 977 us 0.50 8 ms 8 ms 25%", "{view}");
        assert!(!render(&before, &before, 1.0).contains("QUEUED"));
    }

    #[test]
    fn what_sockets_did_is_told_over_protocols_and_of_the_time_between() {
        let entities = vec![state(container("shop", "db", "pg")), state(container("shop", "web", "nginx"))];
        let bytes = |sent: u64, received: u64| values(&tcp::metrics::BYTES, &[(1, &[sent * MIB, received * MIB])]);
        let before = snapshot_of(entities.clone(), &[bytes(1, 1)]);
        let after = snapshot_of(
            entities,
            &[
                bytes(5, 2),
                values(&udp::metrics::BYTES, &[(1, &[2 * MIB, 0])]),
                values(&tcp::metrics::SEGMENTS, &[(1, &[100, 7])]),
                values(&tcp::metrics::RETRANSMITS, &[(1, &[3])]),
                values(&tcp::metrics::CONNECTION_EVENTS, &[(1, &[4, 2, 1, 5])]),
                values(&tcp::metrics::CONNECTION_ERRORS, &[(1, &[1, 2, 0, 0])]),
                values(&tcp::metrics::ROUND_TRIP, &[(1, &distribution(&[(14, 3)], 1_000_000))]),
            ],
        );
        let view = render(&before, &after, 2.0);
        let found = rows(&view, "RECEIVED");
        assert_eq!(found.len(), 1, "{view}");
        assert_eq!(found[0].join(" "), "shop/web/nginx 3.00 0.50 3% 3.0 2.0 977 us 977 us 0", "{view}");
        assert!(!render(&before, &before, 1.0).contains("RECEIVED"));
    }
}
