//! Real components: Prometheus, promtool, an OpenTelemetry collector and `VictoriaMetrics`.
//!
//! `cargo xtask setup` puts them into the user's cache; a missing one fails the test and says so. Each runs on free ports of
//! loopback with a directory of its own, and ends when its value is dropped. No container engine, no mock.

mod collector;
mod process;
mod prometheus;
mod victoria_metrics;

use std::{env, path::PathBuf, time::Duration};

pub use self::{
    collector::Collector,
    prometheus::{Point, Prometheus, promtool_check_metrics},
    victoria_metrics::{Stored, VictoriaMetrics},
};

/// How long a component may take until it answers, on a machine that is busy with other tests.
const START_WITHIN: Duration = Duration::from_secs(30);

/// A program of a component, by the rule of `xtask/src/places.rs`.
fn program(component: &str, name: &str) -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .expect("the components are looked for in XDG_CACHE_HOME or HOME/.cache, but neither is set");
    let path = cache.join("podlens").join(component).join(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask setup`", path.display());
    path
}
