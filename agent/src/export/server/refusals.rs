//! Tells what the server refused: each time in a metric, and in the log the first of each kind and then one per minute, so
//! that who floods the server does not flood the log.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    log,
    signal::lock,
    telemetry::{Refusal, SelfTelemetry},
};

/// Between two lines of one kind.
const PAUSE: Duration = Duration::from_mins(1);

/// What was told, and what was not.
pub(super) struct Refusals {
    telemetry: Arc<SelfTelemetry>,
    told: Mutex<HashMap<&'static str, Seldom>>,
}

/// Lines of one kind: the first, and then one per minute.
#[derive(Default)]
pub(super) struct Seldom {
    told_at: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// So many were not told since the last line; none if this one shall not be either.
    pub(super) fn is_due(&mut self, now: Instant) -> Option<u64> {
        if self.told_at.is_some_and(|told_at| now.duration_since(told_at) < PAUSE) {
            self.untold += 1;
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Refusals {
    pub(super) fn new(telemetry: Arc<SelfTelemetry>) -> Self {
        Self { telemetry, told: Mutex::default() }
    }

    /// The peer was refused something; the detail is for the log.
    pub(super) fn tell(&self, refusal: Refusal, peer: IpAddr, detail: &dyn fmt::Display) {
        self.telemetry.observe_refusal(refusal);
        if let Some(untold) = self.is_due(refusal, Instant::now()) {
            // A path or a library's words about what came: the peer's own, in part.
            let detail = Some(log::beginning(&detail.to_string())).filter(|detail| !detail.is_empty());
            tracing::warn!(%peer, reason = refusal.name(), detail, untold, "{}", refusal.meaning());
        }
    }

    /// So many of the kind were not told; none if this one shall not be either.
    fn is_due(&self, refusal: Refusal, now: Instant) -> Option<u64> {
        lock(&self.told).entry(refusal.name()).or_default().is_due(now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{PAUSE, Refusals};
    use crate::telemetry::{Refusal, SelfTelemetry};

    #[test]
    fn the_first_of_each_kind_is_told_and_then_one_per_minute_with_how_many_were_not() {
        let refusals = Refusals::new(Arc::new(SelfTelemetry::new("1", None).unwrap()));
        let began = Instant::now();
        let at = |refusal, ms| refusals.is_due(refusal, began + Duration::from_millis(ms));
        assert_eq!(at(Refusal::Gone, 0), Some(0));
        for ms in 1..=1000 {
            assert_eq!(at(Refusal::Gone, ms), None);
        }
        assert_eq!(at(Refusal::BadRequest, 1000), Some(0), "each kind has its own");
        let pause_ms = u64::try_from(PAUSE.as_millis()).unwrap();
        assert_eq!(at(Refusal::Gone, pause_ms - 1), None);
        assert_eq!(at(Refusal::Gone, pause_ms), Some(1001));
        assert_eq!(at(Refusal::Gone, 3 * pause_ms), Some(0));
    }
}
