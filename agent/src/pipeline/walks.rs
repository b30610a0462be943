//! The threads in which collectors walk through what the kernel has while the sweep goes on with all else. Called by the sweep.
//!
//! A collector whose walk is due is handed to a thread and comes back when it has walked; the sweep reads the others
//! meanwhile, and waits for it then: what it tells is of this sweep. Each collector walks by programs and maps of its own, so
//! two may walk at once.

use std::{
    io,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, SendError, Sender},
    },
    thread,
    time::Instant,
};

use super::Attached;
use crate::signal::lock;

/// How many there are: the longest walk takes as long as all others together.
const THREADS: usize = 2;

/// The threads, which end with the value.
pub(super) struct Walks {
    to: Sender<(Attached, Instant)>,
    back: Receiver<Attached>,
    /// Collectors that are with the threads.
    away: usize,
}

impl Walks {
    /// Starts the threads.
    ///
    /// # Errors
    /// One cannot be started.
    pub(super) fn start() -> io::Result<Self> {
        let (to, wanted) = mpsc::channel::<(Attached, Instant)>();
        let (done, back) = mpsc::channel();
        let wanted = Arc::new(Mutex::new(wanted));
        for _ in 0..THREADS {
            let (wanted, done) = (Arc::clone(&wanted), done.clone());
            // By itself, so that the other thread is not locked out while this one walks.
            let next = move || lock(&wanted).recv();
            let walk = move || {
                while let Ok((mut attached, now)) = next() {
                    attached.collector.walk(now);
                    if done.send(attached).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new().name("walks".to_owned()).spawn(walk)?;
        }
        Ok(Self { to, back, away: 0 })
    }

    /// Takes those out whose walks are due, and has them walk.
    pub(super) fn begin(&mut self, collectors: &mut Vec<Attached>, now: Instant) {
        let due: Vec<Attached> = collectors.extract_if(.., |attached| attached.collector.walk_is_due(now)).collect();
        for attached in due {
            match self.to.send((attached, now)) {
                Ok(()) => self.away += 1,
                // The threads have ended: it goes without this walk.
                Err(SendError((attached, _))) => collectors.push(attached),
            }
        }
    }

    /// The next one that has walked, in any order; none when all are back.
    pub(super) fn next(&mut self) -> Option<Attached> {
        self.away = self.away.checked_sub(1)?;
        self.back.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread::ThreadId,
    };

    use super::*;
    use crate::collectors::{Collector, Readings, Spec, Sweep, lifecycle};

    /// Counts its walks, and says in which thread the last one was.
    struct Walking {
        is_due: bool,
        walks: Arc<AtomicU32>,
        thread: Arc<Mutex<Option<ThreadId>>>,
    }

    impl Collector for Walking {
        fn spec(&self) -> &'static Spec {
            &lifecycle::SPEC
        }

        fn read(&mut self, _: &Sweep<'_>, _: &mut dyn Readings) {}

        fn walk_is_due(&self, _: Instant) -> bool {
            self.is_due
        }

        fn walk(&mut self, _: Instant) {
            self.walks.fetch_add(1, Ordering::Relaxed);
            *self.thread.lock().unwrap() = Some(thread::current().id());
        }
    }

    #[test]
    fn those_that_are_due_come_back_when_another_thread_has_had_them_walk() {
        let mut walks = Walks::start().unwrap();
        let (counts, last) = ([0; 3].map(|_| Arc::new(AtomicU32::new(0))), Arc::default());
        let mut collectors: Vec<Attached> = (0..3)
            .map(|section| {
                let walking =
                    Walking { is_due: section != 1, walks: Arc::clone(&counts[section]), thread: Arc::clone(&last) };
                Attached { section, collector: Box::new(walking) }
            })
            .collect();
        for round in 1..3 {
            walks.begin(&mut collectors, Instant::now());
            assert_eq!(collectors.iter().map(|attached| attached.section).collect::<Vec<_>>(), [1]);
            let mut back = Vec::new();
            while let Some(attached) = walks.next() {
                assert_eq!(counts[attached.section].load(Ordering::Relaxed), round);
                back.push(attached.section);
                collectors.push(attached);
            }
            back.sort_unstable();
            assert_eq!(back, [0, 2]);
            assert_ne!(last.lock().unwrap().unwrap(), thread::current().id());
            collectors.sort_by_key(|attached| attached.section);
        }
        assert_eq!(counts[1].load(Ordering::Relaxed), 0);
    }
}
