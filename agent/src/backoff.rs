//! Pauses between attempts. Pure; whoever retries something asks it how long to wait.

use std::time::Duration;

/// The longest pause of our own making.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause that a server may ask for.
pub const LONGEST_SERVER_PAUSE: Duration = Duration::from_mins(5);

/// Pauses that double, and differ between nodes so that they do not come back at one moment.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    seed: u64,
    failures: u32,
}

impl Backoff {
    /// Starts with a pause of about `first`. Its chances are the node's own.
    #[must_use]
    pub fn new(first: Duration, node: &str) -> Self {
        Self { first, seed: hash(node.as_bytes()), failures: 0 }
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next pause: half of it fixed, the other half by chance, and never shorter than the server wants.
    pub fn pause(&mut self, server: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.seed = hash(&self.seed.to_le_bytes());
        let per_mille = u32::try_from(self.seed % 501).unwrap_or_default();
        let pause = doubled / 2 + doubled / 1000 * per_mille;
        pause.max(server.unwrap_or_default().min(LONGEST_SERVER_PAUSE))
    }
}

/// FNV-1a with a final mix: small, and the same in every build, unlike the standard library's hasher.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The high bits of short names barely differ without it.
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use super::{Backoff, Duration, LONGEST_SERVER_PAUSE};

    #[test]
    fn pauses_double_stay_within_their_bounds_and_start_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), "node-1");
        for expected in [1, 2, 4, 8, 16, 30, 30, 30] {
            let pause = backoff.pause(None);
            let full = Duration::from_secs(expected);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} for {full:?}");
        }
        backoff.reset();
        assert!(backoff.pause(None) <= Duration::from_secs(1));
    }

    #[test]
    fn a_server_can_lengthen_a_pause_but_not_without_end() {
        let mut backoff = Backoff::new(Duration::from_secs(1), "node-1");
        assert_eq!(backoff.pause(Some(Duration::from_secs(20))), Duration::from_secs(20));
        assert_eq!(backoff.pause(Some(Duration::MAX)), LONGEST_SERVER_PAUSE);
    }
}
