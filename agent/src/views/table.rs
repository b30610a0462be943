//! The terminal view: who was busy, who waited, and for whom, who has how much memory and stalls for more, who waits for disks, who
//! sends and receives, and who was killed for want of memory, between two snapshots.
//!
//! Pure: from two snapshots to text. `podlens snapshot` prints it.

use std::fmt::Write as _;

use super::{
    format::{NAME, ROWS, more, per_second, percent, quantile, shorten},
    model::{Delay, Usage, WaitNs, delays, usages},
    resources::{disks, memory, network},
};
use crate::{registry::Snapshot, signal::Entity};

/// The whole view.
#[must_use]
pub fn render(before: &Snapshot, after: &Snapshot, seconds: f64) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "node {}, {seconds:.1} s", after.node);
    let usages = usages(before, after);
    busiest(&mut text, &usages, seconds);
    delayed(&mut text, &delays(before, after), seconds);
    memory(&mut text, &usages, seconds);
    disks(&mut text, &usages, seconds);
    network(&mut text, &usages, seconds);
    killed(&mut text, &usages);
    text
}

fn busiest(text: &mut String, usages: &[(&Entity, Usage)], seconds: f64) {
    let mut rows: Vec<&(&Entity, Usage)> =
        usages.iter().filter(|(_, usage)| usage.cpu_ns > 0 || usage.waits().sum_ns() > 0).collect();
    rows.sort_by_key(|(entity, usage)| (std::cmp::Reverse(usage.cpu_ns + usage.waits().sum_ns()), *entity));
    let _ = writeln!(
        text,
        "\n{:NAME$} {:>7} {:>8} {:>9} {:>9} {:>7} {:>7} {:>7} {:>7}",
        "POD OR UNIT", "CPU", "WAITING", "WAIT p50", "WAIT p99", "self", "pod", "others", "idle"
    );
    let _ = writeln!(
        text,
        "{:NAME$} {:>7} {:>8} {:>19} {:>31}",
        "", "cores", "tasks", "a dispatch, up to", "share of the waiting, by who ran"
    );
    for (entity, usage) in rows.iter().take(ROWS) {
        let WaitNs { all, own, pod, others, idle } = usage.waited_for();
        let _ = writeln!(
            text,
            "{:NAME$} {:>7.3} {:>8.3} {:>9} {:>9} {:>7} {:>7} {:>7} {:>7}",
            shorten(&entity.to_string()),
            per_second(usage.cpu_ns, seconds),
            per_second(usage.waits().sum_ns(), seconds),
            quantile(usage.waits(), 0.5),
            quantile(usage.waits(), 0.99),
            percent(own, all),
            percent(pod, all),
            percent(others, all),
            percent(idle, all),
        );
    }
    more(text, rows.len());
}

fn delayed(text: &mut String, delays: &[Delay<'_>], seconds: f64) {
    if delays.is_empty() {
        let _ = writeln!(text, "\nNobody waited for another.");
        return;
    }
    let _ = writeln!(text, "\n{:NAME$} {:>8}  BECAUSE THIS ONE HELD THE CPU", "WAITED", "tasks");
    for Delay { entity, culprit, ns } in delays.iter().take(ROWS) {
        let culprit = culprit.map_or_else(|| "(other)".to_owned(), Entity::to_string);
        let _ = writeln!(
            text,
            "{:NAME$} {:>8.4}  {}",
            shorten(&entity.to_string()),
            per_second(*ns, seconds),
            shorten(&culprit)
        );
    }
    more(text, delays.len());
}

/// OOM kills, where there were any.
fn killed(text: &mut String, usages: &[(&Entity, Usage)]) {
    let mut rows: Vec<(&Entity, u64)> =
        usages.iter().map(|(entity, usage)| (*entity, usage.oom_kills)).filter(|(_, kills)| *kills > 0).collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|(entity, kills)| (std::cmp::Reverse(*kills), *entity));
    let _ = writeln!(text, "\n{:NAME$} PROCESSES KILLED FOR WANT OF MEMORY", "POD OR UNIT");
    for (entity, kills) in rows.iter().take(ROWS) {
        let _ = writeln!(text, "{:NAME$} {kills}", shorten(&entity.to_string()));
    }
    more(text, rows.len());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use super::render;
    use crate::{
        collectors::{oom, scheduler::metrics},
        export::fixture::{container, distribution, snapshot_of, state, values},
    };

    #[test]
    fn waits_are_those_for_a_cpu_whatever_other_distributions_there_are() {
        let entities = vec![state(container("shop", "web", "nginx"))];
        let before = snapshot_of(entities.clone(), &[]);
        let after = snapshot_of(
            entities,
            &[
                values(&metrics::CPU, &[(0, &[500_000_000])]),
                values(&metrics::RUN_QUEUE_LATENCY, &[(0, &distribution(&[(14, 3)], 1_000_000))]),
                values(&metrics::THROTTLE_LATENCY, &[(0, &distribution(&[(24, 900)], 600_000_000_000))]),
            ],
        );
        let view = render(&before, &after, 1.0);
        let row = view.lines().find(|line| line.starts_with("shop/web/nginx")).expect(&view);
        let columns: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(columns[1..7], ["0.500", "0.001", "977", "us", "977", "us"], "{view}");
    }

    #[test]
    fn kills_of_the_interval_are_shown_by_entity_and_no_others() {
        let entities = vec![state(container("shop", "db-0", "postgres")), state(container("shop", "web", "nginx"))];
        let kills = |of_db: &[u64], of_web: &[u64]| values(&oom::metrics::OOM_KILLS, &[(0, of_db), (1, of_web)]);
        let before = snapshot_of(entities.clone(), &[kills(&[1, 0, 0, 0, 0], &[2, 0, 0, 0, 0])]);
        let after = snapshot_of(entities, &[kills(&[2, 2, 0, 0, 0], &[2, 0, 0, 0, 0])]);
        let view = render(&before, &after, 1.0);
        let rows: Vec<&str> = view.lines().skip_while(|line| !line.contains("KILLED")).skip(1).collect();
        assert_eq!(rows.len(), 1, "{view}");
        assert_eq!(rows[0].split_whitespace().collect::<Vec<_>>(), ["shop/db-0/postgres", "3"], "{view}");
        assert!(!render(&before, &before, 1.0).contains("KILLED"));
    }
}
