//! Names from the kubelet of this node: its list of pods, asked for only while a container has no name, and at an end.
//!
//! There is no watch. A container that appears is a reason to ask, after a moment in which the kubelet learns of it,
//! and then at growing distances; a container that stays unknown in a pod with all its ids is no reason any more. One that
//! ends is a reason where events are told, until its status says how it ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{
    Names,
    client::{Client, RequestError},
    pacer::Pacer,
    pod::PodList,
};
use crate::{
    backoff::Backoff,
    signal::shutdown::{Shutdown, until_stopped},
};

pub(super) const SOURCE: &str = "kubelet";
pub(super) const VERBS: &[&str] = &["list"];
const LIST_BYTES: usize = 128 << 20;
/// The kubelet itself looks at its containers once a second.
const TRIES: &[Duration] = &[
    Duration::from_millis(300),
    Duration::from_millis(1500),
    Duration::from_secs(4),
    Duration::from_secs(12),
    Duration::from_secs(40),
];
/// After those, as long as the list lacks the pod or some of its ids: a kubelet may tell them minutes after a container
/// was born, while it starts or while its runtime is busy.
const AGAIN: Duration = Duration::from_secs(30);
/// When to ask how a container has ended, after that: the kubelet looks at its runtime each second, and whoever tells the end
/// waits 15 s for the status.
const END_TRIES: &[Duration] = &[
    Duration::from_millis(500),
    Duration::from_millis(1500),
    Duration::from_secs(3),
    Duration::from_secs(6),
    Duration::from_secs(11),
];
/// Least time between two requests, however many containers are born.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// The kubelet as the source of names.
pub struct KubeletSource {
    client: Client,
    node: String,
    names: Arc<Names>,
}

impl KubeletSource {
    /// A source for this node's pods.
    #[must_use]
    pub fn new(client: Client, node: &str, names: Arc<Names>) -> Self {
        Self { client, node: node.to_owned(), names }
    }

    /// Looks up names until podlens stops.
    pub async fn run(mut self, shutdown: Shutdown) {
        self.names.expect(SOURCE, VERBS, RequestError::RESULTS);
        self.names.set_lists_pods();
        self.names.set_synced(false);
        until_stopped(shutdown, self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut unnamed = Pacer::new(TRIES).again_every(AGAIN);
        let mut ended = Pacer::new(END_TRIES);
        let mut backoff = Backoff::new(LEAST_PAUSE, &self.node);
        let mut failing = false;
        loop {
            self.wait(&mut unnamed, &mut ended).await;
            unnamed.keep(|unknown| self.names.lacks(unknown));
            ended.keep(|unknown| self.names.lacks_end(unknown));
            ended.forget_tried();
            let now = Instant::now();
            let due = unnamed.due(now, |unknown| self.names.may_come(unknown));
            let due_ends = ended.due(now, |_| false);
            if due.is_empty() && due_ends.is_empty() {
                continue;
            }
            let error = match self.list().await {
                Ok(()) => {
                    self.names.count(SOURCE, "list", "ok");
                    self.names.set_synced(true);
                    if std::mem::take(&mut failing) {
                        info!(server = %self.client.server(), "names come from the kubelet again");
                    }
                    backoff.reset();
                    tokio::time::sleep(LEAST_PAUSE).await;
                    continue;
                }
                Err(error) => error,
            };
            unnamed.give_back(&due);
            ended.give_back(&due_ends);
            self.names.count(SOURCE, "list", error.result());
            self.names.set_synced(false);
            if !std::mem::replace(&mut failing, true) {
                let cause = crate::log::with_causes(&error);
                warn!(cause, "new containers keep their ids for names until the kubelet answers");
            }
            tokio::time::sleep(backoff.pause(error.retry_after())).await;
            self.client.renew_after(&error).await;
        }
    }

    /// Until something is due.
    async fn wait(&self, unnamed: &mut Pacer, ended: &mut Pacer) {
        let next = [unnamed.next(), ended.next()].into_iter().flatten().min().map(tokio::time::Instant::from_std);
        let due = async move {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            wanted = self.names.unnamed.next() => unnamed.want(wanted, Instant::now()),
            wanted = self.names.ended.next() => ended.want(wanted, Instant::now()),
            () = due => {}
        }
    }

    async fn list(&self) -> Result<(), RequestError> {
        let whole = self.client.get("/pods").await?.whole(LIST_BYTES).await?;
        let list = PodList::decode(&whole)
            .map_err(|source| RequestError::Garbage { server: self.client.server().clone(), source })?;
        self.names.leave_out(&list.odd);
        self.names.replace_all(list.pods);
        Ok(())
    }
}
