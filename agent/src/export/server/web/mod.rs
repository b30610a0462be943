//! The web configuration at work: TLS, headers and credentials of the server, read again when a file changes.
//!
//! Whoever accepts a connection or gets a request asks for what holds now. That costs a look at the files' metadata, no
//! reading, by a thread that may block: a file may be on a disk that does not answer, and then what was there before holds. A
//! change that cannot be used leaves that in force too, and so does one that would open what was closed: an editor that
//! truncates a file before it writes must not let anybody in.

mod checker;
mod credentials;
mod error;
mod files;
mod tls;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use hyper::HeaderMap;
use rustls::ServerConfig;
use tokio::sync::OwnedMutexGuard;

pub use self::error::WebError;
use self::{
    checker::Checker,
    credentials::Credentials,
    files::{Contents, RECENT, Stamp},
};
use crate::{
    signal::lock,
    telemetry::{Refusal, SelfTelemetry},
};

/// Whoever asks waits so long for a look at the files: less than the kubelet waits for a probe's answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The web configuration and its files.
pub(super) struct Web {
    path: PathBuf,
    telemetry: Arc<SelfTelemetry>,
    checker: Arc<Checker>,
    state: Mutex<State>,
    /// Held by the one who looks at the files, not by whoever has asked for it and may leave.
    seen: Arc<tokio::sync::Mutex<Seen>>,
}

struct State {
    current: Arc<Current>,
    /// Of the look that is under way.
    began: Option<Instant>,
}

/// What the last look has found.
struct Seen {
    /// When it began.
    at: Instant,
    /// Of which files, and how they were when they were read.
    stamp: Stamp,
    read: Instant,
    /// Look at the contents again later, even if the files seem to be the same.
    is_provisional: bool,
    complaint: Option<String>,
}

/// What holds for one connection or one request.
pub(super) struct Current {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) headers: HeaderMap,
    credentials: Option<Arc<Credentials>>,
    /// Everybody may ask who can reach the port.
    is_open: bool,
    digest: files::Digest,
}

/// Tries a web configuration out: what it asks for, in words.
///
/// # Errors
/// The file, or one that it names, is lacking or wrong.
pub fn check(path: &Path) -> Result<String, WebError> {
    let (_, contents) = files::read(path);
    let contents = contents?;
    let current = Current::new(&contents, &Checker::new()?)?;
    let clients = contents.web.tls.as_ref().and_then(|tls| tls.clients.as_ref());
    let asks = [
        current.tls.as_ref().map(|_| "TLS"),
        clients.map(
            |clients| if clients.required { "clients' certificates" } else { "certificates of clients that have one" },
        ),
        (!contents.web.users.0.is_empty()).then_some("passwords"),
        contents.web.token_file.as_ref().map(|_| "tokens"),
    ];
    let asks: Vec<&str> = asks.into_iter().flatten().collect();
    Ok(if asks.is_empty() { "open to all, without TLS".to_owned() } else { asks.join(", ") })
}

impl Web {
    /// Reads the file and those that it names.
    ///
    /// # Errors
    /// One is lacking or wrong.
    pub(super) fn open(path: PathBuf, telemetry: Arc<SelfTelemetry>) -> Result<Self, WebError> {
        let checker = Arc::new(Checker::new()?);
        let (stamp, contents) = files::read(&path);
        let current = Arc::new(Current::new(&contents?, &checker)?);
        let is_provisional = !stamp.is_settled();
        let now = Instant::now();
        let seen = Seen { at: now, stamp, read: now, is_provisional, complaint: None };
        let state = Mutex::new(State { current, began: None });
        Ok(Self { path, telemetry, checker, state, seen: Arc::new(tokio::sync::Mutex::new(seen)) })
    }

    /// What holds now; where the files cannot be looked at in time, what held before.
    pub(super) async fn current(self: &Arc<Self>) -> Arc<Current> {
        let asked = Instant::now();
        // A look that hangs has kept somebody waiting already.
        let until = self.state().began.unwrap_or(asked) + PATIENCE;
        let _ = tokio::time::timeout_at(until.into(), self.look(asked)).await;
        Arc::clone(&self.state().current)
    }

    /// Ends when a look at the files has been made that began at this moment or later.
    async fn look(self: &Arc<Self>, asked: Instant) {
        let seen = Arc::clone(&self.seen).lock_owned().await;
        if seen.at >= asked {
            return;
        }
        self.state().began = Some(Instant::now());
        let web = Arc::clone(self);
        // An error means that it panicked, which ends the process.
        let _ = tokio::task::spawn_blocking(move || web.look_now(seen)).await;
    }

    /// Whether a request with these headers is let in.
    pub(super) async fn admits(&self, current: &Current, headers: &HeaderMap, peer: IpAddr) -> Result<(), Refusal> {
        match &current.credentials {
            None => Ok(()),
            Some(credentials) => self.checker.check(credentials, headers, peer).await,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn look_now(&self, mut seen: OwnedMutexGuard<Seen>) {
        seen.at = Instant::now();
        let is_due = seen.is_provisional && seen.read.elapsed() > RECENT;
        if is_due || !seen.stamp.is_still_so() {
            self.read_again(&mut seen);
        }
        self.state().began = None;
    }

    fn read_again(&self, seen: &mut Seen) {
        let (stamp, contents) = files::read(&self.path);
        let before = Arc::clone(&self.state().current);
        let next = contents.and_then(|contents| {
            if contents.digest() == before.digest {
                return Ok(None);
            }
            let next = Current::new(&contents, &self.checker)?;
            before.may_become(&next)?;
            Ok(Some(next))
        });
        seen.read = Instant::now();
        // What fails may be half of a change, whose other half is in a file that is not known yet.
        seen.is_provisional = next.is_err() || !stamp.is_settled();
        seen.stamp = stamp;
        match next {
            Ok(None) => seen.complaint = None,
            Ok(Some(next)) => {
                self.state().current = Arc::new(next);
                seen.complaint = None;
                self.telemetry.observe_web_reload(true);
                tracing::info!(file = %self.path.display(), "the web configuration has changed and holds from now on");
            }
            Err(cause) => {
                let complaint = cause.to_string();
                if seen.complaint.as_ref() != Some(&complaint) {
                    self.telemetry.observe_web_reload(false);
                    tracing::error!(%cause, "the web configuration has changed and cannot be used; what was there before holds on");
                    seen.complaint = Some(complaint);
                }
            }
        }
    }
}

impl Current {
    fn new(contents: &Contents, checker: &Checker) -> Result<Self, WebError> {
        let web = &contents.web;
        let tls = web.tls.as_ref().map(|tls| tls::server(tls, contents)).transpose()?;
        let credentials = Credentials::new(contents, checker)?.map(Arc::new);
        let requires_certificate =
            web.tls.as_ref().and_then(|tls| tls.clients.as_ref()).is_some_and(|clients| clients.required);
        Ok(Self {
            tls,
            headers: web.headers.iter().cloned().collect(),
            is_open: credentials.is_none() && !requires_certificate,
            credentials,
            digest: contents.digest(),
        })
    }

    /// Schemes `Basic` and `Bearer`, for the answer to who showed nothing.
    pub(super) fn challenges(&self) -> impl Iterator<Item = &'static str> {
        self.credentials.iter().flat_map(|credentials| credentials.challenges())
    }

    fn may_become(&self, next: &Self) -> Result<(), WebError> {
        if self.tls.is_some() != next.tls.is_some() {
            return Err(WebError::TlsSwitched { now: if next.tls.is_some() { "on" } else { "off" } });
        }
        if next.is_open && !self.is_open {
            return Err(WebError::Opened);
        }
        Ok(())
    }
}
