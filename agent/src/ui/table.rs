//! The terminal view: who was busy, who waited, and for whom, between two snapshots.
//!
//! Pure: from two snapshots to text. `podlens snapshot` prints it.

use std::{collections::HashMap, fmt::Write as _};

use crate::{
    collectors::scheduler::metrics,
    registry::{Histogram, Metric, Owner, Snapshot, Value, snapshot::Culprit},
};

/// Rows a part of the table.
const ROWS: usize = 20;
/// Width of a name; longer ones lose their middle.
const NAME: usize = 46;

/// What an owner did in the time between.
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

fn busiest(text: &mut String, usages: &HashMap<&Owner, Usage>, seconds: f64) {
    let mut rows: Vec<(&Owner, &Usage)> = usages
        .iter()
        .map(|(owner, usage)| (*owner, usage))
        .filter(|(_, usage)| usage.cpu_ns > 0 || usage.waits.sum_ns > 0)
        .collect();
    rows.sort_by_key(|(owner, usage)| (std::cmp::Reverse(usage.cpu_ns + usage.waits.sum_ns), *owner));
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
    for (owner, usage) in rows.iter().take(ROWS) {
        let all_ns: u64 = usage.cause_ns.iter().sum();
        let [own, pod, neighbor, system, idle, _] = usage.cause_ns;
        let _ = writeln!(
            text,
            "{:NAME$} {:>7.3} {:>8.3} {:>9} {:>9} {:>7} {:>7} {:>7} {:>7}",
            shorten(&name(owner)),
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

fn delays(text: &mut String, pairs: &[(&Owner, Option<&Owner>, u64)], seconds: f64) {
    if pairs.is_empty() {
        let _ = writeln!(text, "\nNobody waited for another.");
        return;
    }
    let _ = writeln!(text, "\n{:NAME$} {:>8}  BECAUSE THIS ONE HELD THE CPU", "WAITED", "tasks");
    for (owner, culprit, ns) in pairs.iter().take(ROWS) {
        let culprit = culprit.map_or_else(|| "(other)".to_owned(), name);
        let _ =
            writeln!(text, "{:NAME$} {:>8.4}  {}", shorten(&name(owner)), per_second(*ns, seconds), shorten(&culprit));
    }
    more(text, pairs.len());
}

fn more(text: &mut String, rows: usize) {
    if rows > ROWS {
        let _ = writeln!(text, "... and {} more: see --output prometheus", rows - ROWS);
    }
}

/// How a person calls an owner.
fn name(owner: &Owner) -> String {
    match owner {
        Owner::Unit(unit) => unit.to_string(),
        Owner::Container(container) => [&container.namespace, &container.pod, &container.container]
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

fn usages<'a>(before: &'a Snapshot, after: &'a Snapshot) -> HashMap<&'a Owner, Usage> {
    let mut usages: HashMap<&Owner, Usage> = HashMap::new();
    for (snapshot, sign) in [(after, true), (before, false)] {
        for family in &snapshot.families {
            for sample in &family.samples {
                let Some(state) = snapshot.owner(sample) else { continue };
                // An owner that has gone meanwhile has nothing to be subtracted from.
                if !sign && !usages.contains_key(&state.owner) {
                    continue;
                }
                usages.entry(&state.owner).or_default().enter(
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
fn pairs<'a>(before: &'a Snapshot, after: &'a Snapshot) -> Vec<(&'a Owner, Option<&'a Owner>, u64)> {
    let earlier: HashMap<(&Owner, Option<&Owner>), u64> =
        pair_totals(before).into_iter().map(|(owner, culprit, ns)| ((owner, culprit), ns)).collect();
    let mut pairs: Vec<(&Owner, Option<&Owner>, u64)> = pair_totals(after)
        .into_iter()
        .map(|(owner, culprit, ns)| {
            (owner, culprit, ns.saturating_sub(earlier.get(&(owner, culprit)).copied().unwrap_or(0)))
        })
        .filter(|(_, _, ns)| *ns > 0)
        .collect();
    pairs.sort_by_key(|(owner, culprit, ns)| (std::cmp::Reverse(*ns), *owner, *culprit));
    pairs
}

fn pair_totals(snapshot: &Snapshot) -> Vec<(&Owner, Option<&Owner>, u64)> {
    let owner_at = |position: u32| snapshot.owners.get(usize::try_from(position).ok()?).map(|state| &state.owner);
    snapshot
        .families
        .iter()
        .flat_map(|family| &family.samples)
        .filter_map(|sample| {
            let (Some(culprit), Value::Nanoseconds(ns)) = (sample.culprit, &sample.value) else { return None };
            let culprit = match culprit {
                Culprit::Owner(position) => Some(owner_at(position)?),
                Culprit::Other => None,
            };
            Some((owner_at(sample.owner)?, culprit, *ns))
        })
        .collect()
}
