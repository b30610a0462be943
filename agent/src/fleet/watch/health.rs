//! What is known about the list and the watch of one kind: counted where it happens, read by metrics and probes.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{fleet::kinds::Kind, signal::lock};

/// A watch that is lost for longer is no ground for a claim.
const CURRENT_FOR: Duration = Duration::from_mins(1);

/// Of one kind.
#[derive(Debug)]
pub struct Health {
    kind: Kind,
    listed: AtomicBool,
    failed: AtomicBool,
    odd: AtomicU64,
    /// The last word, in milliseconds since 1970.
    heard_ms: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: HashMap<(&'static str, &'static str), u64>,
    /// The watch is at work.
    synced: bool,
    lost: Option<Instant>,
    /// Why it is not, for `/readyz`.
    trouble: Option<String>,
}

impl Health {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            listed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            odd: AtomicU64::new(0),
            heard_ms: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// It was listed once.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }

    /// A request has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Its watch is at work.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.state().synced
    }

    /// It is known, and was not lost for long.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let state = self.state();
        self.is_listed() && (state.synced || state.lost.is_none_or(|lost| lost.elapsed() < CURRENT_FOR))
    }

    /// Why its watch is not at work, if it is known.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// Objects that make no sense, and those for which there is no room.
    #[must_use]
    pub fn odd(&self) -> u64 {
        self.odd.load(Ordering::Relaxed)
    }

    /// When the server was last heard of, in seconds since 1970.
    #[must_use]
    pub fn heard(&self) -> Option<f64> {
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        (heard_ms > 0).then(|| heard_ms as f64 / 1000.0)
    }

    /// Requests by verb and result.
    #[must_use]
    pub fn requests(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.state().requests.iter().map(|((verb, result), count)| (*verb, *result, *count)).collect()
    }

    pub(super) fn count(&self, verb: &'static str, result: &'static str) {
        *self.state().requests.entry((verb, result)).or_default() += 1;
    }

    pub(super) fn hear(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.heard_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn leave_out(&self, odd: u64) {
        self.odd.fetch_add(odd, Ordering::Relaxed);
    }

    pub(super) fn list(&self) {
        self.listed.store(true, Ordering::Relaxed);
    }

    /// Its watch works now; tells whether it did not before.
    pub(super) fn works(&self) -> bool {
        let mut state = self.state();
        state.synced = true;
        state.lost = None;
        state.trouble.take().is_some()
    }

    /// It does not; tells whether it did before.
    pub(super) fn fails(&self, trouble: String) -> bool {
        self.failed.store(true, Ordering::Relaxed);
        let mut state = self.state();
        state.synced = false;
        state.lost.get_or_insert_with(Instant::now);
        state.trouble.replace(trouble).is_none()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
