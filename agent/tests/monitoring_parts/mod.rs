//! What tests of rules, alerts and dashboards share: a node with victims and their neighbors, and a Prometheus that scrapes as the
//! chart has it.

#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod node;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use testkit::{
    components::Prometheus,
    monitor::{endpoint, scrape_config},
};

pub use self::node::{Busy, LACKS, Node, Occupied, kill_by_a_limit_above};

pub const RULES: &str = "../deploy/chart/files/alerts/podlens.yaml";
pub const DASHBOARDS: &str = "../deploy/chart/files/dashboards";

pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What the chart renders with its monitors on; `cargo xtask chart --check` compares it with the chart.
const MONITORS: &str = include_str!("../../../deploy/chart/ci/golden/monitors.yaml");

/// An agent as a target that Prometheus' operator finds by the chart's monitor.
pub fn target(node: &str, agent: SocketAddr) -> Value {
    let pod = format!("podlens-on-{node}");
    let labels =
        [("namespace", "podlens"), ("pod", &pod), ("container", "podlens"), ("__meta_kubernetes_pod_node_name", node)];
    scrape_config(node, &endpoint(MONITORS, "PodMonitor"), true, agent, &labels)
}

/// A Prometheus with these rules, which scrapes and evaluates each second: what rules see are moments of half a second ago, of which
/// all samples are there.
pub fn prometheus(rules: &Path, targets: &[Value]) -> Prometheus {
    let configuration = json!({
        "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s", "rule_query_offset": "500ms" },
        "rule_files": [rules],
        "scrape_configs": targets,
    });
    Prometheus::start_configured(&configuration.to_string())
}
