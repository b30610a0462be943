//! Grafana dashboards, one file each, and what they have in common. Pure.
//!
//! build.rs has what a dashboard is made of; the other files say which panels there are. Each panel says what it shows and, where it
//! may have no answer, what that means.

mod agents;
mod build;
mod daemonsets;
mod fleet;
mod neighbors;
mod node;
mod pod;
mod workload;

pub(super) use self::build::Dashboard;
use self::build::{Panel, Unit, Variable};

pub(super) fn all() -> Vec<Dashboard> {
    vec![
        node::dashboard(),
        workload::dashboard(),
        pod::dashboard(),
        neighbors::dashboard(),
        daemonsets::dashboard(),
        fleet::dashboard(),
        agents::dashboard(),
    ]
}

/// The window of rates: Grafana's own, which follows the interval of scrapes and the zoom.
const WINDOW: &str = "$__rate_interval";

const CLUSTER: Variable = Variable { label: "cluster", of: "podlens_build_info", single: false };
const NODE: Variable =
    Variable { label: "node", of: "podlens_cpu_seconds_total{cluster=~\"$cluster\"}", single: false };

/// A counter's rate, added up by these labels.
fn rate(counter: &str, by: &str) -> String {
    super::query::rate_over(counter, by, WINDOW)
}

/// The busiest ten alone.
fn top(expression: &str) -> String {
    format!("topk(10, {expression})")
}

/// A quantile and its legend.
fn quantile(share: f64, legend: &'static str, histogram: &str, by: &str) -> (String, &'static str) {
    (super::query::quantile(share, histogram, by, WINDOW), legend)
}

/// The series of a metric that a dashboard is about, with further matchers.
type Of = fn(&str, &str) -> String;

/// Whoever made somebody wait, by all its names.
const CULPRIT: &str = "culprit_namespace, culprit_pod, culprit_workload, culprit_unit";
/// Those that have a series of their own.
const NAMED: &str = ", culprit_pod!=\"(other)\"";
/// Waits for others.
const FOR_OTHERS: &str = ", cause=~\"neighbor|system\"";

/// The heaviest culprits of these victims by name, and the rest, so that all lines together are what the victims lost to others:
/// in the rest are culprits without a name of their own, lighter ones, and what a culprit caused before it got its name.
fn culprits(of: Of) -> Vec<(String, &'static str)> {
    let named = top(&rate(&of("podlens_cpu_wait_caused_seconds_total", NAMED), CULPRIT));
    let lost = rate(&of("podlens_cpu_wait_seconds_total", FOR_OTHERS), "");
    vec![
        (named.clone(), "{{culprit_namespace}} {{culprit_pod}}{{culprit_workload}}{{culprit_unit}}"),
        (format!("clamp_min({lost} - (sum({named}) or vector(0)), 0)"), "(other)"),
    ]
}

fn bytes_on_disks(of: Of, by: &str, legend: &'static str) -> Panel {
    Panel::graph(
        "Bytes on disks",
        Unit::BYTES_PER_SECOND,
        vec![(rate(&of("podlens_disk_bytes_total", ""), by), legend)],
    )
    .about("Requests that reached a device, without those that the page cache answers.")
    .or_nothing("No request reached a disk.")
}

fn time_in_device(of: Of) -> Panel {
    let in_device = of("podlens_disk_latency_seconds", ", part=\"device\"");
    Panel::graph(
        "Time in the device, 99th percentile",
        Unit::SECONDS,
        vec![quantile(0.99, "{{operation}}", &in_device, "operation")],
    )
    .about("From the driver to the completion of each request.")
    .or_nothing("No request reached a disk that measures times.")
}
