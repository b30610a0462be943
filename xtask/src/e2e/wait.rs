//! Trying with a limit. Called by the rest of this folder.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Tries until it works; the last failure after `limit`.
pub(super) fn within<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(failure) if started.elapsed() >= limit => {
                return Err(failure.context(format!("not within {} s", limit.as_secs())));
            }
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}
