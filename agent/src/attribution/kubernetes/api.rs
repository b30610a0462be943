//! Names from the API server: one list of this node's pods, then one watch, for as long as podlens runs.
//!
//! The list is answered from the API server's memory (resource version 0), the watch goes on from it and is kept
//! fresh by bookmarks. A watch that ends, breaks or falls silent is taken up where it was; only if that is refused,
//! the pods are listed anew. All failures are waited out with growing pauses, and the log tells once that names come
//! late and once that they are back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{
    Names,
    client::{Client, RequestError},
    event::{Event, Lines},
    pod::{PodError, PodList},
};
use crate::{
    backoff::{Backoff, hash},
    signal::shutdown::{Shutdown, until_stopped},
};

pub(super) const SOURCE: &str = "api";
/// A watch that was granted and then breaks off is counted as `stream`.
pub(super) const VERBS: &[&str] = &["list", "watch", "stream"];
/// A node's pods are a few megabytes at most.
const LIST_BYTES: usize = 128 << 20;
/// A pod's object is at most 1.5 MB in the API server's store.
const EVENT_BYTES: usize = 16 << 20;
/// The server ends a watch after this time, and at most half as much again.
const WATCH_SECONDS: u64 = 300;
/// A watch that lasted so many first pauses was a success.
const LASTING_PAUSES: u32 = 5;
/// After so many failed watches in a row the list is fetched again.
const FAILED_WATCHES: u32 = 3;

/// The API server as the source of names.
pub struct ApiSource {
    client: Client,
    node: String,
    names: Arc<Names>,
    first_pause: Duration,
}

impl ApiSource {
    /// A source for this node's pods.
    #[must_use]
    pub fn new(client: Client, node: &str, names: Arc<Names>) -> Self {
        Self { client, node: node.to_owned(), names, first_pause: Duration::from_secs(1) }
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
        let mut backoff = Backoff::new(self.first_pause, &self.node);
        let mut health = Health { failing: false };
        let mut version: Option<String> = None;
        let mut failed_watches = 0;
        loop {
            let began = Instant::now();
            let mut began_watch = false;
            let (verb, outcome) = match &mut version {
                None => ("list", self.list().await.map(|listed| version = Some(listed))),
                Some(version) => ("watch", self.watch(version, &mut began_watch, &mut health).await),
            };
            let error = match outcome {
                Ok(()) if verb == "list" => {
                    self.names.count(SOURCE, verb, "ok");
                    continue;
                }
                Ok(()) => {
                    failed_watches = 0;
                    if began.elapsed() >= self.first_pause * LASTING_PAUSES {
                        backoff.reset();
                        continue;
                    }
                    // A server that ends every watch at once is left alone for a while as well.
                    tokio::time::sleep(backoff.pause(None)).await;
                    continue;
                }
                Err(error) => error,
            };
            self.names.count(SOURCE, if began_watch { "stream" } else { verb }, error.result());
            if began.elapsed() >= self.first_pause * LASTING_PAUSES {
                backoff.reset();
            }
            failed_watches = if version.is_some() { failed_watches + 1 } else { 0 };
            let is_lost = matches!(
                error,
                RequestError::Gone { .. } | RequestError::Garbage { .. } | RequestError::TooLong { .. }
            );
            if is_lost || failed_watches >= FAILED_WATCHES {
                version = None;
            }
            // A watch that broke off is taken up again in a moment; it is a failure once that does not work.
            if verb == "list" || failed_watches != 1 || is_refusal(&error) {
                self.names.set_synced(false);
                health.fails(&error);
            }
            tokio::time::sleep(backoff.pause(error.retry_after())).await;
            self.client.renew_after(&error);
        }
    }

    async fn list(&self) -> Result<String, RequestError> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}&resourceVersion=0", self.node);
        let whole = self.client.get(&path).await?.whole(LIST_BYTES).await?;
        let list = PodList::decode(&whole).map_err(|source| self.garbage(source))?;
        drop(whole);
        if list.pods.is_empty() && list.odd.is_empty() {
            warn!(
                node = self.node,
                "the API server knows no pod on this node: if it has some, set `node`, PODLENS_NODE or NODE_NAME to the name that `kubectl get nodes` shows"
            );
        }
        self.names.leave_out(&list.odd);
        self.names.replace_all(list.pods);
        Ok(list.version)
    }

    /// Follows changes until the server ends the watch. `version` is where the next one goes on; `began` tells whether
    /// the server granted this one.
    async fn watch(&self, version: &mut String, began: &mut bool, health: &mut Health) -> Result<(), RequestError> {
        // Not all nodes' watches end at one moment.
        let seconds = WATCH_SECONDS + hash(self.node.as_bytes()) % (WATCH_SECONDS / 2);
        let path = format!(
            "/api/v1/pods?watch=true&allowWatchBookmarks=true&fieldSelector=spec.nodeName%3D{}&resourceVersion={version}&timeoutSeconds={seconds}",
            self.node
        );
        let mut answer = self.client.get(&path).await?;
        *began = true;
        self.names.count(SOURCE, "watch", "ok");
        self.names.set_synced(true);
        health.works(&self.client, self.names.health().pods.unwrap_or_default());
        let mut lines = Lines::default();
        while let Some(part) = answer.next().await? {
            lines.push(&part);
            while let Some(line) = lines.take() {
                if let Some(newer) = self.enter(&line)? {
                    *version = newer;
                }
            }
            if lines.pending() > EVENT_BYTES {
                return Err(RequestError::TooLong { server: self.client.server().clone(), limit: EVENT_BYTES });
            }
        }
        // What is left is half a line, and half an object is none.
        Ok(())
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

fn is_refusal(error: &RequestError) -> bool {
    matches!(error, RequestError::Refused { .. })
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
