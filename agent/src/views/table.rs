//! The terminal view: who was busy, who waited, and for whom, between two snapshots.
//!
//! Pure: from two snapshots to text. `podlens snapshot` prints it.

use std::{collections::HashMap, fmt::Write as _};

use crate::{
    collectors::scheduler::metrics,
    registry::{Snapshot, Value, snapshot::Culprit},
    signal::{Entity, Histogram, Metric},
};

/// Rows a part of the table.
const ROWS: usize = 20;
/// Width of a name; longer ones lose their middle.
const NAME: usize = 46;

/// What an entity did in the time between.
#[derive(Clone, Debug, Default)]
struct Usage {
    cpu_ns: u64,
    waits: Histogram,
    cause_ns: [u64; 6],
    switches: u64,
}

/// The whole view.
#[must_use]
pub fn render(before: &Snapshot, after: &Snapshot, seconds: f64) -> String {
    let usages = usages(before, after);
    let mut text = String::new();
    let _ = writeln!(text, "node {}, {seconds:.1} s", after.node);
    busiest(&mut text, &usages, seconds);
    delays(&mut text, &pairs(before, after), seconds);
    text
}

fn busiest(text: &mut String, usages: &HashMap<&Entity, Usage>, seconds: f64) {
    let mut rows: Vec<(&Entity, &Usage)> = usages
        .iter()
        .map(|(entity, usage)| (*entity, usage))
        .filter(|(_, usage)| usage.cpu_ns > 0 || usage.waits.sum_ns > 0)
        .collect();
    rows.sort_by_key(|(entity, usage)| (std::cmp::Reverse(usage.cpu_ns + usage.waits.sum_ns), *entity));
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
        let all_ns: u64 = usage.cause_ns.iter().sum();
        let [own, pod, neighbor, system, idle, _] = usage.cause_ns;
        let _ = writeln!(
            text,
            "{:NAME$} {:>7.3} {:>8.3} {:>9} {:>9} {:>7} {:>7} {:>7} {:>7}",
            shorten(&name(entity)),
            per_second(usage.cpu_ns, seconds),
            per_second(usage.waits.sum_ns, seconds),
            quantile(&usage.waits, 0.5),
            quantile(&usage.waits, 0.99),
            percent(own, all_ns),
            percent(pod, all_ns),
            percent(neighbor + system, all_ns),
            percent(idle, all_ns),
        );
    }
    more(text, rows.len());
}

fn delays(text: &mut String, pairs: &[(&Entity, Option<&Entity>, u64)], seconds: f64) {
    if pairs.is_empty() {
        let _ = writeln!(text, "\nNobody waited for another.");
        return;
    }
    let _ = writeln!(text, "\n{:NAME$} {:>8}  BECAUSE THIS ONE HELD THE CPU", "WAITED", "tasks");
    for (entity, culprit, ns) in pairs.iter().take(ROWS) {
        let culprit = culprit.map_or_else(|| "(other)".to_owned(), name);
        let _ =
            writeln!(text, "{:NAME$} {:>8.4}  {}", shorten(&name(entity)), per_second(*ns, seconds), shorten(&culprit));
    }
    more(text, pairs.len());
}

fn more(text: &mut String, rows: usize) {
    if rows > ROWS {
        let _ = writeln!(text, "... and {} more: see --output prometheus", rows - ROWS);
    }
}

/// How a person calls an entity.
fn name(entity: &Entity) -> String {
    match entity {
        Entity::Unit(unit) => unit.to_string(),
        Entity::Container(container) => [&container.namespace, &container.pod, &container.container]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(AsRef::as_ref)
            .collect::<Vec<&str>>()
            .join("/"),
    }
}

fn shorten(name: &str) -> String {
    let characters: Vec<char> = name.chars().map(|one| if one.is_control() { '?' } else { one }).collect();
    if characters.len() <= NAME {
        return characters.into_iter().collect();
    }
    let head = NAME / 3;
    let tail = characters.len() - (NAME - head - 2);
    let part = |range: &[char]| range.iter().collect::<String>();
    format!(
        "{}..{}",
        part(characters.get(..head).unwrap_or_default()),
        part(characters.get(tail..).unwrap_or_default())
    )
}

fn per_second(ns: u64, seconds: f64) -> f64 {
    ns as f64 / 1e9 / seconds
}

fn percent(part_ns: u64, all_ns: u64) -> String {
    if all_ns == 0 { "-".to_owned() } else { format!("{:.0}%", part_ns as f64 * 100.0 / all_ns as f64) }
}

/// The upper bound of the bucket that holds the quantile.
fn quantile(waits: &Histogram, quantile: f64) -> String {
    let count = waits.count();
    if count == 0 {
        return "-".to_owned();
    }
    let rank = (count as f64 * quantile).ceil();
    let mut below = 0;
    for (index, bucket) in waits.buckets.iter().enumerate() {
        below += bucket;
        if below as f64 >= rank {
            return Histogram::upper_bound_exponent(index)
                .map_or_else(|| "> 64 s".to_owned(), |power| duration(2f64.powi(power)));
        }
    }
    "> 64 s".to_owned()
}

fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 1.0 => format!("{seconds:.0} s"),
        _ if seconds >= 1e-3 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds >= 1e-6 => format!("{:.0} us", seconds * 1e6),
        _ => format!("{:.0} ns", seconds * 1e9),
    }
}

fn usages<'a>(before: &'a Snapshot, after: &'a Snapshot) -> HashMap<&'a Entity, Usage> {
    let mut usages: HashMap<&Entity, Usage> = HashMap::new();
    for (snapshot, sign) in [(after, true), (before, false)] {
        for family in &snapshot.families {
            for sample in &family.samples {
                let Some(state) = snapshot.entity(sample) else { continue };
                // An entity that has gone meanwhile has nothing to be subtracted from.
                if !sign && !usages.contains_key(&state.entity) {
                    continue;
                }
                usages.entry(&state.entity).or_default().enter(
                    family.metric,
                    usize::from(sample.label_value),
                    &sample.value,
                    sign,
                );
            }
        }
    }
    usages
}

impl Usage {
    fn enter(&mut self, metric: &Metric, label_value: usize, value: &Value, sign: bool) {
        let apply = |to: &mut u64, amount: u64| {
            *to = if sign { *to + amount } else { to.saturating_sub(amount) };
        };
        match value {
            Value::Nanoseconds(ns) if std::ptr::eq(metric, &raw const metrics::CPU) => apply(&mut self.cpu_ns, *ns),
            Value::Nanoseconds(ns) if std::ptr::eq(metric, &raw const metrics::CPU_WAIT) => {
                if let Some(cause_ns) = self.cause_ns.get_mut(label_value) {
                    apply(cause_ns, *ns);
                }
            }
            Value::Integer(count) if std::ptr::eq(metric, &raw const metrics::CONTEXT_SWITCHES) => {
                apply(&mut self.switches, *count);
            }
            Value::Histogram(histogram) => {
                for (bucket, amount) in self.waits.buckets.iter_mut().zip(&histogram.buckets) {
                    apply(bucket, *amount);
                }
                apply(&mut self.waits.sum_ns, histogram.sum_ns);
            }
            _ => {}
        }
    }
}

/// Pairs of who waited and who held the CPU, the longest first.
fn pairs<'a>(before: &'a Snapshot, after: &'a Snapshot) -> Vec<(&'a Entity, Option<&'a Entity>, u64)> {
    let earlier: HashMap<(&Entity, Option<&Entity>), u64> =
        pair_totals(before).into_iter().map(|(entity, culprit, ns)| ((entity, culprit), ns)).collect();
    let mut pairs: Vec<(&Entity, Option<&Entity>, u64)> = pair_totals(after)
        .into_iter()
        .map(|(entity, culprit, ns)| {
            (entity, culprit, ns.saturating_sub(earlier.get(&(entity, culprit)).copied().unwrap_or(0)))
        })
        .filter(|(_, _, ns)| *ns > 0)
        .collect();
    pairs.sort_by_key(|(entity, culprit, ns)| (std::cmp::Reverse(*ns), *entity, *culprit));
    pairs
}

fn pair_totals(snapshot: &Snapshot) -> Vec<(&Entity, Option<&Entity>, u64)> {
    let entity_at = |position: u32| snapshot.entities.get(usize::try_from(position).ok()?).map(|state| &state.entity);
    snapshot
        .families
        .iter()
        .flat_map(|family| &family.samples)
        .filter_map(|sample| {
            let (Some(culprit), Value::Nanoseconds(ns)) = (sample.culprit, &sample.value) else { return None };
            let culprit = match culprit {
                Culprit::Entity(position) => Some(entity_at(position)?),
                Culprit::Other => None,
            };
            Some((entity_at(sample.entity)?, culprit, *ns))
        })
        .collect()
}
