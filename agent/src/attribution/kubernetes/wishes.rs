//! Containers of which a source of names is to find something out: the pipeline names them, the source takes them.
//!
//! Nothing is kept until a source has asked for the first time, since there may be none that would.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use super::table::Unknown;

use crate::signal::lock;

/// Most that wait for a look; those beyond them are named again at the next sweep.
const MOST: usize = 4096;

/// What is wanted and not taken yet.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    wanted: Mutex<HashSet<Unknown>>,
    /// A source takes them.
    is_heard: AtomicBool,
    /// Something is wanted.
    notify: Notify,
}

impl Wishes {
    /// These are wanted.
    pub(super) fn add(&self, unknown: impl IntoIterator<Item = Unknown>) {
        if !self.is_heard.load(Ordering::Relaxed) {
            return;
        }
        let mut wanted = self.wanted();
        wanted.extend(unknown);
        if wanted.len() > MOST {
            let excess: Vec<Unknown> = wanted.iter().skip(MOST).cloned().collect();
            for one in excess {
                wanted.remove(&one);
            }
        }
        if !wanted.is_empty() {
            self.notify.notify_one();
        }
    }

    /// All that is wanted, once something is.
    pub(super) async fn next(&self) -> Vec<Unknown> {
        self.is_heard.store(true, Ordering::Relaxed);
        loop {
            let taken: Vec<Unknown> = self.wanted().drain().collect();
            if !taken.is_empty() {
                return taken;
            }
            self.notify.notified().await;
        }
    }

    fn wanted(&self) -> MutexGuard<'_, HashSet<Unknown>> {
        lock(&self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_is_wanted_is_handed_out_once_and_only_to_those_who_ask() {
        let one = || Unknown { pod_uid: "u".into(), container_id: "c".into() };
        let wishes = Arc::new(Wishes::default());
        wishes.add([one()]);
        let seeker = tokio::spawn({
            let wishes = Arc::clone(&wishes);
            async move { wishes.next().await }
        });
        tokio::task::yield_now().await;
        assert!(!seeker.is_finished(), "nobody listened when it was wanted");
        wishes.add([one()]);
        wishes.add([one()]);
        assert_eq!(seeker.await.ok(), Some(vec![one()]));
        assert!(wishes.wanted().is_empty());
    }
}
