//! Names from the API server: one list of this node's pods, then one watch, for as long as podlens runs.
//!
//! The list is answered from the API server's memory (resource version 0), the watch goes on from it and is kept
//! fresh by bookmarks. What follows from a failure is `list_watch`'s to decide; the log tells once that names come late and
//! once that they are back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{
    Names,
    client::{Client, RequestError},
    event::{Event, Lines},
    list_watch::{Ask, Failure, ListWatch},
    pod::{PodError, PodList},
};
use crate::signal::shutdown::{Shutdown, until_stopped};

pub(super) const SOURCE: &str = "api";
pub(super) const VERBS: &[&str] = ListWatch::VERBS;
/// A node's pods are a few megabytes at most.
const LIST_BYTES: usize = 128 << 20;
/// A pod's object is at most 1.5 MB in the API server's store.
const EVENT_BYTES: usize = 16 << 20;

/// The API server as the source of names.
pub struct ApiSource {
    client: Client,
    node: String,
    names: Arc<Names>,
    first_pause: Duration,
    /// The last list had no pod of this node.
    has_none: bool,
}

impl ApiSource {
    /// A source for this node's pods.
    #[must_use]
    pub fn new(client: Client, node: &str, names: Arc<Names>) -> Self {
        Self { client, node: node.to_owned(), names, first_pause: Duration::from_secs(1), has_none: false }
    }

    /// With another pause after the first failure, for tests.
    #[must_use]
    pub fn with_first_pause(self, first_pause: Duration) -> Self {
        Self { first_pause, ..self }
    }

    /// Keeps the names up to date until podlens stops.
    pub async fn run(mut self, shutdown: Shutdown) {
        self.names.expect(SOURCE, VERBS, RequestError::RESULTS);
        self.names.set_lists_pods();
        self.names.set_synced(false);
        until_stopped(shutdown, self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut course = ListWatch::new(self.first_pause, &self.node);
        let mut health = Health { failing: false };
        loop {
            let outcome = match course.ask() {
                Ask::List => self.list().await.map(|version| {
                    self.names.count(SOURCE, "list", "ok");
                    course.listed(version);
                    Duration::ZERO
                }),
                Ask::Watch(query) => {
                    let outcome = self.watch(&query, &mut course, &mut health).await;
                    outcome.map(|()| course.ended(Instant::now()))
                }
            };
            let error = match outcome {
                Ok(pause) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) => error,
            };
            let verdict = course.failed(Failure::from(&error), error.retry_after(), Instant::now());
            self.names.count(SOURCE, verdict.counted, error.result());
            if verdict.is_told {
                self.names.set_synced(false);
                health.fails(&error);
            }
            tokio::time::sleep(verdict.pause).await;
            self.client.renew_after(&error).await;
        }
    }

    async fn list(&mut self) -> Result<String, RequestError> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}&resourceVersion=0", self.node);
        let whole = self.client.get(&path).await?.whole(LIST_BYTES).await?;
        let list = PodList::decode(&whole).map_err(|source| self.garbage(source))?;
        drop(whole);
        let version = self.place(list.version)?;
        let had_none = std::mem::replace(&mut self.has_none, list.pods.is_empty() && list.odd.is_empty());
        if self.has_none && !had_none {
            warn!(
                node = self.node,
                "the API server knows no pod on this node: if it has some, set `node`, PODLENS_NODE or NODE_NAME to the name that `kubectl get nodes` shows"
            );
        }
        self.names.leave_out(&list.odd);
        self.names.replace_all(list.pods);
        Ok(version)
    }

    /// Follows changes until the server ends the watch.
    async fn watch(&self, query: &str, course: &mut ListWatch, health: &mut Health) -> Result<(), RequestError> {
        let path = format!("/api/v1/pods?{query}&fieldSelector=spec.nodeName%3D{}", self.node);
        let mut answer = self.client.get(&path).await?;
        course.granted(Instant::now());
        self.names.count(SOURCE, "watch", "ok");
        let mut is_proven = !course.is_doubted();
        if is_proven {
            self.works(health);
        }
        let mut lines = Lines::default();
        while let Some(part) = answer.next().await? {
            lines.push(&part);
            while let Some(line) = lines.take() {
                if let Some(newer) = self.enter(&line)? {
                    course.reached(self.place(newer)?);
                    if !std::mem::replace(&mut is_proven, true) {
                        self.works(health);
                    }
                }
            }
            if lines.pending() > EVENT_BYTES {
                return Err(RequestError::TooLong { server: self.client.server().clone(), limit: EVENT_BYTES });
            }
        }
        // What is left is half a line, and half an object is none.
        Ok(())
    }

    fn works(&self, health: &mut Health) {
        self.names.set_synced(true);
        health.works(&self.client, self.names.health().pods.unwrap_or_default());
    }

    /// A version from which a watch can go on.
    fn place(&self, version: String) -> Result<String, RequestError> {
        if ListWatch::is_place(&version) {
            Ok(version)
        } else {
            Err(self.garbage(PodError::Identity("metadata.resourceVersion")))
        }
    }

    /// Enters one event; gives the version that it brought.
    fn enter(&self, line: &[u8]) -> Result<Option<String>, RequestError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let server = || self.client.server().clone();
        match Event::decode(line).map_err(|source| self.garbage(source))? {
            Event::Applied { pod, version } => {
                self.names.apply(pod);
                Ok(version)
            }
            Event::Deleted { pod, version } => {
                // Its last state may name containers that no event before did.
                let uid = Arc::clone(&pod.uid);
                self.names.apply(pod);
                self.names.delete(&uid);
                Ok(version)
            }
            Event::Odd { what, version } => {
                self.names.leave_out(&[what]);
                Ok(version)
            }
            Event::Bookmark { version } => Ok(version),
            Event::Refused { code: 410 } => Err(RequestError::Gone { server: server() }),
            Event::Refused { code } => {
                let status = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
                Err(RequestError::Refused { server: server(), status, retry_after: None })
            }
        }
    }

    fn garbage(&self, source: PodError) -> RequestError {
        RequestError::Garbage { server: self.client.server().clone(), source }
    }
}

/// The state that the log tells, once a change.
struct Health {
    failing: bool,
}

impl Health {
    fn works(&mut self, client: &Client, pods: u64) {
        if std::mem::take(&mut self.failing) {
            info!(server = %client.server(), pods, "names come from the API server again");
        } else {
            debug!(server = %client.server(), pods, "watching pods");
        }
    }

    fn fails(&mut self, error: &RequestError) {
        let cause = crate::log::with_causes(error);
        if std::mem::replace(&mut self.failing, true) {
            debug!(cause, "still no names from the API server");
        } else {
            warn!(cause, "new containers keep their ids for names until the API server answers");
        }
    }
}
