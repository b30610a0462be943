//! The snapshots that wait to be sent: bounded, the oldest gives way, and no point leaves uncounted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use tokio::sync::Notify;

use crate::{export::otlp, registry::Snapshot, telemetry::otlp::OtlpCounters};

/// The queue between the collecting and the sending half.
pub(super) struct Queue {
    entries: Mutex<VecDeque<Entry>>,
    filled: Notify,
    limit: usize,
    counters: &'static OtlpCounters,
}

/// The oldest snapshot and how far it was sent.
pub(super) struct Front {
    pub(super) snapshot: Arc<Snapshot>,
    /// Requests that need not be sent again.
    pub(super) done_requests: usize,
}

struct Entry {
    snapshot: Arc<Snapshot>,
    done_requests: usize,
    open_points: u64,
    refused: bool,
}

impl Queue {
    pub(super) fn new(limit: usize, counters: &'static OtlpCounters) -> Self {
        let entries = Mutex::new(VecDeque::new());
        Self { entries, filled: Notify::new(), limit: limit.max(1), counters }
    }

    /// Adds a snapshot, at the cost of the oldest ones if the queue is full.
    pub(super) fn push(&self, snapshot: Arc<Snapshot>) {
        let mut entries = self.lock();
        if entries.back().is_some_and(|newest| newest.snapshot.sequence == snapshot.sequence) {
            return;
        }
        let open_points = otlp::points(&snapshot);
        entries.push_back(Entry { snapshot, done_requests: 0, open_points, refused: false });
        self.shrink(&mut entries, self.limit);
        drop(entries);
        self.filled.notify_one();
    }

    /// The oldest snapshot; waits for one.
    pub(super) async fn front(&self) -> Front {
        loop {
            if let Some(front) = self.try_front() {
                return front;
            }
            self.filled.notified().await;
        }
    }

    /// The oldest snapshot, if there is one.
    pub(super) fn try_front(&self) -> Option<Front> {
        self.lock()
            .front()
            .map(|entry| Front { snapshot: Arc::clone(&entry.snapshot), done_requests: entry.done_requests })
    }

    /// One request of the oldest snapshot is settled: accepted, or refused for good. Nothing happens if that
    /// snapshot has been dropped meanwhile.
    pub(super) fn settle(&self, sequence: u64, points: u64, refused: bool) {
        if let Some(entry) = self.lock().front_mut().filter(|entry| entry.snapshot.sequence == sequence) {
            entry.done_requests += 1;
            entry.open_points = entry.open_points.saturating_sub(points);
            entry.refused |= refused;
        }
    }

    /// All requests of the oldest snapshot are settled. True if every one was accepted.
    pub(super) fn finish(&self, sequence: u64) -> bool {
        let mut entries = self.lock();
        if entries.front().is_none_or(|entry| entry.snapshot.sequence != sequence) {
            return false;
        }
        entries.pop_front().is_some_and(|entry| !entry.refused)
    }

    /// Drops all but the newest snapshot.
    pub(super) fn keep_newest(&self) {
        self.shrink(&mut self.lock(), 1);
    }

    /// Drops what is left.
    pub(super) fn drop_all(&self) {
        self.shrink(&mut self.lock(), 0);
    }

    fn shrink(&self, entries: &mut VecDeque<Entry>, limit: usize) {
        while entries.len() > limit {
            if let Some(oldest) = entries.pop_front() {
                self.counters.dropped.fetch_add(oldest.open_points, Ordering::Relaxed);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
