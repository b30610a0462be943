//! Pieces of `PromQL` that rules, alerts and dashboards share. Pure.
//!
//! `cluster` is no label of podlens: it is there where a Prometheus of several clusters adds it, and to group by a label that
//! nothing has does no harm.

/// Whose a value is where the containers of a pod count together. The last is for pods that are folded into their
/// workload and so have no name of their own.
pub(super) const POD: &str = "cluster, node, namespace, pod, workload";
/// What all pods of a workload on one node have in common.
pub(super) const WORKLOAD: &str = "cluster, node, namespace, workload, workload_type";
/// Which agent: its own metrics have no label but those that the scrape adds, the node among them where the chart or
/// deploy/examples says how to scrape.
pub(super) const AGENT: &str = "cluster, node, namespace, pod, instance";

/// The window of rates: four scrapes with the usual longest interval of a minute.
pub(super) const WINDOW: &str = "5m";

/// The rate of a counter, added up by these labels.
pub(super) fn rate(counter: &str, by: &str) -> String {
    rate_over(counter, by, WINDOW)
}

/// The same over another window.
pub(super) fn rate_over(counter: &str, by: &str, window: &str) -> String {
    format!("sum by ({by}) (rate({counter}[{window}]))")
}

/// What pods requested, added up by these labels. A pod may request something as a whole, which then is for all of its containers together.
/// What is folded into a workload has no container.
pub(super) fn requested(metric: &str, matchers: &str, by: &str) -> String {
    let comma = if matchers.is_empty() { "" } else { ", " };
    let of_containers = format!("sum by ({by}) ({metric}{{{matchers}{comma}container!=\"\"}})");
    let as_a_whole = format!("max by ({by}) ({metric}{{{matchers}{comma}container=\"\"}})");
    format!("({as_a_whole} > {of_containers} or {of_containers} or {as_a_whole})")
}

/// By how much a counter of rare events grew, added up by these labels. Its series may begin with the first event, which is
/// no growth to `increase`: then it counts as a whole, unless nothing at all is known of the node from before.
pub(super) fn grown(counter: &str, by: &str, window: &str) -> String {
    let before = |series: &str| format!("max_over_time({series}[{window}] offset {window})");
    format!(
        "sum by ({by}) (\n    {counter}\n  unless\n    {}\n  and on (cluster, node)\n    {}\n  or\n    increase({counter}[{window}])\n)",
        before(counter),
        before("podlens_cpu_seconds_total{unit=\"kernel\"}")
    )
}

/// A metric with its matchers, taken apart: `name{matchers}`.
fn parts(selector: &str) -> (&str, &str) {
    let (name, matchers) = selector.split_once('{').unwrap_or((selector, ""));
    (name, matchers.trim_end_matches('}'))
}

/// One of the series of a classic histogram.
fn classic(selector: &str, suffix: &str) -> String {
    let (name, matchers) = parts(selector);
    format!("{name}_{suffix}{{{matchers}}}")
}

/// The seconds per second that a distribution adds up to, whether it is stored as a classic or as a native histogram:
/// the one that is not there has no answer.
pub(super) fn histogram_sum(histogram: &str, by: &str, window: &str) -> String {
    of_either(&rate_over(&classic(histogram, "sum"), by, window), "histogram_sum", &rate_over(histogram, by, window))
}

/// The observations per second of a distribution.
pub(super) fn histogram_count(histogram: &str, by: &str, window: &str) -> String {
    of_either(
        &rate_over(&classic(histogram, "count"), by, window),
        "histogram_count",
        &rate_over(histogram, by, window),
    )
}

/// A quantile of a distribution.
pub(super) fn quantile(share: f64, histogram: &str, by: &str, window: &str) -> String {
    let by_bound = if by.is_empty() { "le".to_owned() } else { format!("{by}, le") };
    format!(
        "histogram_quantile({share}, {}) or histogram_quantile({share}, {})",
        rate_over(&classic(histogram, "bucket"), &by_bound, window),
        rate_over(histogram, by, window)
    )
}

fn of_either(classic: &str, function: &str, native: &str) -> String {
    format!("({classic} or {function}({native}))")
}

#[cfg(test)]
mod tests {
    use super::{histogram_sum, quantile};

    #[test]
    fn a_distribution_is_asked_for_in_both_of_its_forms() {
        assert_eq!(
            histogram_sum("a_seconds{unit=\"\"}", "node", "5m"),
            "(sum by (node) (rate(a_seconds_sum{unit=\"\"}[5m])) or histogram_sum(sum by (node) (rate(a_seconds{unit=\"\"}[5m]))))"
        );
        assert_eq!(
            quantile(0.5, "a_seconds", "", "5m"),
            "histogram_quantile(0.5, sum by (le) (rate(a_seconds_bucket{}[5m]))) or histogram_quantile(0.5, sum by () (rate(a_seconds[5m])))"
        );
    }
}
