//! What podlens is tested with and what knows nothing of podlens' code: a little HTTP, a reader of pages of metrics, real
//! components as processes, an API server and a receiver of OTLP that play theirs, pictures of
//! dashboards, and what machine code tells.
//!
//! The agent's tests and benches and xtask's end-to-end checks use it. Nothing here is shipped; where something is not as it
//! must be, it panics, by which a test fails.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]
#![allow(clippy::missing_errors_doc, reason = "an error is the words of a test that fails")]
#![allow(clippy::must_use_candidate, reason = "who calls is a test")]

pub mod bpf;
#[cfg(feature = "certificates")]
pub mod certificates;
pub mod components;
pub mod dashboards;
pub mod http;
pub mod kernels;
pub mod kubernetes;
pub mod monitor;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod page;
pub mod rules;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

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
