//! Real components for integration tests: Prometheus, promtool and an OpenTelemetry collector.
//!
//! `cargo xtask setup` puts them into the user's cache; a missing one fails the test and says so. Each runs
//! on free ports of loopback with a directory of its own, and ends when its value is dropped. No container
//! engine, no mock. A test file uses it by `mod components;`.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses its own part of this module, and a test fails by panicking"
)]

mod collector;
mod http;
mod process;
mod prometheus;

pub use collector::Collector;
pub use http::{Reply, Request, Server};
pub use prometheus::{Point, Prometheus, promtool_check_metrics};

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// How long a component may take until it answers, on a machine that is busy with other tests.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

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

/// An address of loopback that nobody listened on a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
}

/// Looks until `found` has an answer; panics with its last refusal when the time is over.
pub fn wait_for<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match found() {
            Ok(answer) => return answer,
            Err(refusal) if start.elapsed() >= limit => {
                panic!("{what}: not within {} s: {refusal}", limit.as_secs());
            }
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}
