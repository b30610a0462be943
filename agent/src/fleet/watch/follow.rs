//! The list and the watch of one kind of objects. What follows from a failure is `list_watch`'s to decide; the log tells once
//! that something is lacking and once that it is back.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{Health, Watch};
use crate::{
    attribution::kubernetes::{
        client::{Client, RequestError},
        event::{Lines, RawEvent},
        list_watch::{Ask, Failure, ListWatch},
    },
    fleet::{
        kinds::Kind,
        lists::{self, ListError},
    },
    log::with_causes,
};

/// An object is at most 1.5 MB in the API server's store.
const EVENT_BYTES: usize = 16 << 20;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// What a list has left out.
#[derive(Default, PartialEq, Eq)]
struct Left {
    odd: u64,
    no_nodes: bool,
}

pub(super) struct Follower {
    kind: Kind,
    client: Client,
    seed: String,
    watch: Arc<Watch>,
}

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the watch tells what is no event; podlens lists anew")]
    Garbage(#[source] serde_json::Error),
    #[error("the watch tells a version from which none can go on; podlens lists anew")]
    NoPlace,
}

impl FollowError {
    fn request(&self) -> Option<&RequestError> {
        match self {
            Self::Request(error) => Some(error),
            Self::List(ListError::Request { source, .. }) => Some(source),
            Self::List(ListError::Garbage { .. } | ListError::Other { .. } | ListError::Endless(_))
            | Self::Garbage(_)
            | Self::NoPlace => None,
        }
    }

    fn result(&self) -> &'static str {
        self.request().map_or("garbage", RequestError::result)
    }

    /// What makes no sense leaves no place to go on from.
    fn failure(&self) -> Failure {
        self.request().map_or(Failure::Lost, Failure::from)
    }
}

impl Follower {
    pub(super) fn new(kind: Kind, client: Client, seed: &str, watch: Arc<Watch>) -> Self {
        Self { kind, client, seed: format!("{seed} {}", kind.name()), watch }
    }

    /// Never ends.
    pub(super) async fn run(self) {
        let mut course = ListWatch::new(FIRST_PAUSE, &self.seed);
        let mut last = Left::default();
        loop {
            let (verb, outcome) = match course.ask() {
                Ask::List => {
                    let outcome = self.list(&mut last).await.map(|version| {
                        self.count("list", "ok");
                        course.listed(version);
                        Duration::ZERO
                    });
                    ("list", outcome)
                }
                Ask::Watch(query) => {
                    let outcome = self.follow(&query, &mut course).await;
                    ("watch", outcome.map(|()| course.ended(Instant::now())))
                }
            };
            let error = match outcome {
                Ok(pause) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) => error,
            };
            let wanted = error.request().and_then(RequestError::retry_after);
            let verdict = course.failed(error.failure(), wanted, Instant::now());
            self.count(verdict.counted, error.result());
            if verdict.is_told {
                self.fails(verb, &error);
            }
            tokio::time::sleep(verdict.pause).await;
            if let Some(error) = error.request() {
                self.client.renew_after(error).await;
            }
        }
    }

    /// What is left out is told once, until another list leaves out another number.
    async fn list(&self, last: &mut Left) -> Result<String, FollowError> {
        let (mut seen, mut no_room) = (HashSet::new(), 0);
        let listed = lists::list(&self.client, self.kind, |items| {
            let mut fleet = self.watch.fleet();
            for item in items {
                match item {
                    Ok(object) => {
                        seen.insert(object.uid());
                        no_room += u64::from(fleet.put(object).is_err());
                    }
                    // What it was when it made sense is better than nothing.
                    Err(identity) => seen.extend(identity),
                }
            }
            self.health(Health::hear);
        })
        .await?;
        self.watch.fleet().retain(self.kind, &seen);
        let left = Left { odd: listed.odd, no_nodes: self.kind == Kind::Nodes && seen.is_empty() };
        if left != *last {
            lists::tell_odd(self.kind, left.odd);
            if left.no_nodes {
                warn!(server = %self.client.server(), "the API server knows no node: nothing can lack a pod there");
            }
            *last = left;
        }
        self.health(|health| health.leave_out(listed.odd + no_room));
        self.health(Health::list);
        self.watch.changed.notify_one();
        Ok(listed.version)
    }

    /// Follows changes until the server ends the watch.
    async fn follow(&self, query: &str, course: &mut ListWatch) -> Result<(), FollowError> {
        let path = format!("{}?{query}{}", self.kind.path(), self.kind.selector());
        let mut answer = self.client.get(&path).await?;
        course.granted(Instant::now());
        self.count("watch", "ok");
        let mut is_proven = !course.is_doubted();
        if is_proven {
            self.works();
        }
        let mut lines = Lines::default();
        while let Some(part) = answer.next().await? {
            self.health(Health::hear);
            lines.push(&part);
            let mut has_changed = false;
            while let Some(line) = lines.take() {
                has_changed |= self.enter(&line, course)?;
                if !std::mem::replace(&mut is_proven, true) {
                    self.works();
                }
            }
            if has_changed {
                self.watch.changed.notify_one();
            }
            if lines.pending() > EVENT_BYTES {
                let server = self.client.server().clone();
                return Err(RequestError::TooLong { server, limit: EVENT_BYTES }.into());
            }
        }
        // What is left is half a line, and half an object is none.
        Ok(())
    }

    /// Enters one event; tells whether something has changed.
    fn enter(&self, line: &[u8], course: &mut ListWatch) -> Result<bool, FollowError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(false);
        }
        let event = RawEvent::decode(line).map_err(FollowError::Garbage)?;
        let server = || self.client.server().clone();
        let has_changed = match &*event.kind {
            "ADDED" | "MODIFIED" => match self.kind.decode(event.object) {
                Ok(object) => {
                    let is_left_out = self.watch.fleet().put(object).is_err();
                    self.health(|health| health.leave_out(u64::from(is_left_out)));
                    !is_left_out
                }
                Err(cause) => {
                    debug!(kind = self.kind.name(), cause = with_causes(&cause), "an object makes no sense");
                    self.health(|health| health.leave_out(1));
                    false
                }
            },
            "DELETED" => {
                let identity = Kind::identity(event.object);
                if let Some(uid) = identity {
                    self.watch.fleet().remove(self.kind, uid);
                }
                identity.is_some()
            }
            "ERROR" => match event.code() {
                410 => return Err(RequestError::Gone { server: server() }.into()),
                code => {
                    let status = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
                    return Err(RequestError::Refused { server: server(), status, retry_after: None }.into());
                }
            },
            // A bookmark, or what a newer server may tell: the version counts.
            _ => false,
        };
        if let Some(newer) = event.version() {
            if !ListWatch::is_place(&newer) {
                return Err(FollowError::NoPlace);
            }
            course.reached(newer);
        }
        Ok(has_changed)
    }

    fn works(&self) {
        let (kind, server) = (self.kind.name(), self.client.server());
        let mut was_away = false;
        self.health(|health| was_away = health.works());
        if was_away {
            info!(kind, %server, "watched again");
        } else {
            debug!(kind, %server, "watching");
        }
    }

    fn fails(&self, verb: &'static str, error: &FollowError) {
        let kind = self.kind;
        let is_forbidden = error.result() == "forbidden";
        let trouble = if is_forbidden {
            format!("may not {verb} {} in all namespaces: let the ClusterRole allow it", kind.resource())
        } else {
            with_causes(error)
        };
        let mut is_news = false;
        self.health(|health| is_news = health.fails(trouble.clone()));
        let without = match kind {
            Kind::DaemonSets | Kind::Nodes | Kind::Pods => "nothing can be told of the fleet without them",
            Kind::Revisions => "roll-outs are not told without them",
            Kind::DaemonSetEvents | Kind::PodEvents => "reasons that only events tell are not told without them",
        };
        if is_news {
            warn!(kind = kind.name(), trouble, "{without}");
        } else {
            debug!(kind = kind.name(), trouble, "still not watched");
        }
    }

    fn count(&self, verb: &'static str, result: &'static str) {
        self.health(|health| health.count(verb, result));
    }

    fn health(&self, act: impl FnOnce(&Health)) {
        if let Some(health) = self.watch.of(self.kind) {
            act(health);
        }
    }
}
