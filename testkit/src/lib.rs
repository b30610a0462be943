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
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::PathBuf,
    process,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Ports of [`free_address`]. The kernel gives none of these to a connection (`net.ipv4.ip_local_port_range`), which could otherwise have it by
/// the time that somebody listens.
const PORTS: Range<u16> = 20_000..30_000;

/// The binary of podlens that is tested: the one that was built for the tests, unless `PODLENS_TEST_BINARY` names another.
pub fn tested_binary(built: &str) -> PathBuf {
    env::var_os("PODLENS_TEST_BINARY").map_or_else(|| built.into(), PathBuf::from)
}

/// An address of loopback that nobody listened on a moment ago.
pub fn free_address() -> SocketAddr {
    /// So that one that was given is not given again soon.
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    // Processes that run side by side begin far apart.
    let first = usize::try_from(process::id()).unwrap_or_default() * 97;
    (0..PORTS.len())
        .filter_map(|_| PORTS.clone().nth((first + GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len()))
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
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
