//! A fleet that is kept up to date: one list and one watch of each kind of objects, for as long as podlens runs.
//!
//! | file | what |
//! | --- | --- |
//! | agents.rs | podlens' own agents, asked why they are not ready |
//! | follow.rs | the list and the watch of one kind |
//! | health.rs | what is known about that |
//! | lease.rs | who of several replicas tells |
//! | handover.rs | what the one before has told |
//!
//! `kube-runtime` is not used: its watcher decodes a page of objects as one value, so that an odd object costs all others
//! theirs, and it would bring a second set of time limits beside those of the client that names have.

pub mod agents;
mod follow;
pub mod handover;
mod health;
pub mod lease;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::{sync::Notify, task::JoinSet};

pub use self::health::Health;
use super::{
    kinds::Kind,
    state::{Change, Fleet, Question},
};
use crate::{
    attribution::kubernetes::client::Client,
    signal::{
        lock,
        shutdown::{Shutdown, until_stopped},
    },
};

/// Changes that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(200);

/// What is watched.
pub struct Watch {
    fleet: Mutex<Fleet>,
    health: [Health; Kind::ALL.len()],
    changed: Notify,
    asks: Notify,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            fleet: Mutex::default(),
            health: Kind::ALL.map(Health::new),
            changed: Notify::new(),
            asks: Notify::new(),
        }
    }
}

impl Watch {
    /// Starts to follow each kind. `seed` makes pauses differ between replicas.
    pub fn start(self: &Arc<Self>, client: &Client, seed: &str, tasks: &mut JoinSet<()>, shutdown: &Shutdown) {
        for kind in Kind::ALL {
            let follower = follow::Follower::new(kind, client.clone(), seed, Arc::clone(self));
            tasks.spawn(until_stopped(shutdown.clone(), follower.run()));
        }
        let watch = Arc::clone(self);
        tasks.spawn(until_stopped(shutdown.clone(), async move { watch.keep_asking().await }));
    }

    /// Looks at what has changed whenever something has, or whenever something changes by itself, and hands on what is to be
    /// told. Never ends.
    pub async fn keep_settled(&self, tell: impl Fn(Vec<Change>)) {
        let mut next: Option<Timestamp> = None;
        loop {
            let by_itself = async {
                match next {
                    Some(at) => tokio::time::sleep(until(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(GATHER).await,
                () = by_itself => {}
            }
            if !self.is_begun() {
                continue;
            }
            let now = Timestamp::now();
            let changes = {
                let mut fleet = self.fleet();
                let changes = fleet.settle(now);
                next = fleet.next(now);
                changes
            };
            self.asks.notify_one();
            if !changes.is_empty() {
                tell(changes);
            }
        }
    }

    /// Asks agents of podlens that are not ready why. Never ends.
    async fn keep_asking(&self) {
        loop {
            self.asks.notified().await;
            let questions = self.fleet().questions();
            for Question { pod, address } in questions {
                if let Some(words) = agents::ask(address).await {
                    self.fleet().answer(pod, &words);
                    self.changed.notify_one();
                }
            }
        }
    }

    /// The fleet, as of the last look.
    pub fn fleet(&self) -> MutexGuard<'_, Fleet> {
        lock(&self.fleet)
    }

    /// What is known about the watch of a kind.
    pub fn health(&self) -> &[Health] {
        &self.health
    }

    /// All that is needed has been listed, and nothing of it was lost for long: something can be said.
    pub fn is_current(&self) -> bool {
        self.health.iter().all(|health| health.is_current() || !health.kind().is_needed())
    }

    /// The roll-outs of which the revisions are known.
    pub fn knows_revisions(&self) -> bool {
        self.health.iter().any(|health| health.kind() == Kind::Revisions && health.is_current())
    }

    /// Each kind was listed, or cannot be and is not needed.
    fn is_begun(&self) -> bool {
        self.health.iter().all(|health| health.is_listed() || (health.has_failed() && !health.kind().is_needed()))
    }

    fn of(&self, kind: Kind) -> Option<&Health> {
        self.health.get(kind.position())
    }
}

/// What is over already is due in a moment.
fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default().max(Duration::from_millis(1))
}
