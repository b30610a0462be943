//! The snapshots that wait to be sent: bounded, the oldest gives way, and no point leaves uncounted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
};

use tokio::sync::Notify;

use crate::{export::otlp, registry::Snapshot, signal::lock, telemetry::otlp::OtlpCounters};

/// The queue between the collecting and the sending half.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Notify,
    limit: usize,
    /// What was added since a snapshot counts on from it, so one that was sent in part is sent whole.
    delta: bool,
    counters: &'static OtlpCounters,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// The newest snapshot that was ever queued: none is sent twice.
    newest: Option<u64>,
}

/// The oldest snapshot and how far it was sent.
pub(super) struct Front {
    pub(super) snapshot: Arc<Snapshot>,
    /// Entities that need not be sent again.
    pub(super) done_entities: usize,
}

struct Entry {
    snapshot: Arc<Snapshot>,
    done_entities: usize,
    open_points: u64,
    refused: bool,
    /// A request of it may be under way: until its answer it is not known what became of its points.
    under_way: bool,
}

impl Queue {
    pub(super) fn new(limit: usize, delta: bool, counters: &'static OtlpCounters) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), limit: limit.max(1), delta, counters }
    }

    /// Adds a snapshot, at the cost of the oldest ones if the queue is full.
    pub(super) fn push(&self, snapshot: Arc<Snapshot>) {
        let mut state = self.lock();
        if state.newest == Some(snapshot.sequence) {
            return;
        }
        state.newest = Some(snapshot.sequence);
        let open_points = otlp::points(&snapshot);
        self.counters.made.fetch_add(open_points, Ordering::Relaxed);
        state.entries.push_back(Entry { snapshot, done_entities: 0, open_points, refused: false, under_way: false });
        while state.entries.len() > self.limit {
            let stays = state.entries.front().is_some_and(|entry| entry.under_way || self.has_begun(entry));
            let oldest = usize::from(stays);
            if oldest + 1 >= state.entries.len() {
                break;
            }
            self.drop_at(&mut state, oldest);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// The oldest snapshot, which stays until [`Self::pause`] or [`Self::finish`]; waits for one.
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
        let mut state = self.lock();
        let entry = state.entries.front_mut()?;
        entry.under_way = true;
        Some(Front { snapshot: Arc::clone(&entry.snapshot), done_entities: entry.done_entities })
    }

    /// One request of the oldest snapshot is settled: accepted, or refused for good. It may have had points beyond the
    /// snapshot's own: the last ones of series that ended.
    pub(super) fn settle(&self, request: &otlp::Request, refused: bool) {
        if let Some(entry) = self.lock().entries.front_mut() {
            let beyond = request.points.saturating_sub(entry.open_points);
            self.counters.made.fetch_add(beyond, Ordering::Relaxed);
            entry.done_entities += request.entities;
            entry.open_points = entry.open_points.saturating_sub(request.points);
            entry.refused |= refused;
        }
    }

    /// The oldest snapshot is tried again later, or gives way.
    pub(super) fn pause(&self) {
        if let Some(entry) = self.lock().entries.front_mut() {
            entry.under_way = false;
        }
    }

    /// All requests of the oldest snapshot are settled. True if every one was accepted.
    pub(super) fn finish(&self) -> bool {
        self.lock().entries.pop_front().is_some_and(|entry| !entry.refused)
    }

    /// Drops what the newest snapshot says as well: totals are cumulative, and differences count on from the last snapshot
    /// of which something was sent.
    pub(super) fn keep_last(&self) {
        let mut state = self.lock();
        let kept = usize::from(state.entries.front().is_some_and(|entry| self.has_begun(entry)));
        while state.entries.len() > kept + 1 {
            self.drop_at(&mut state, kept);
        }
    }

    /// Drops what is left.
    pub(super) fn drop_all(&self) {
        let mut state = self.lock();
        while !state.entries.is_empty() {
            self.drop_at(&mut state, 0);
        }
    }

    fn has_begun(&self, entry: &Entry) -> bool {
        self.delta && entry.done_entities > 0
    }

    fn drop_at(&self, state: &mut State, at: usize) {
        if let Some(entry) = state.entries.remove(at) {
            self.counters.dropped.fetch_add(entry.open_points, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
