//! The HTTP server: `/metrics`, `/healthz`, `/readyz` and a plain index.
//!
//! HTTP/1.1 for Prometheus and the kubelet's probes, with TLS and credentials if the web configuration says so; and the two
//! probes alone on a port of their own, open to all, if that is wished. It knows no metric and no collector: the text
//! comes from the encoder and the verdicts from whoever starts it. A peer can neither hang it nor make it
//! hold much: handshakes are bounded in time, heads in size and time, answers must be taken in time, connections are counted,
//! and those that wait for their peers make room for new ones. What is refused is told.

mod answer;
mod connection;
mod listen;
mod pages;
mod refusals;
mod scrapers;
mod seats;
mod shared;
mod transport;
mod web;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, task::JoinSet};

pub use self::web::{WebError, check as check_web};
use self::{
    answer::Answers,
    pages::Pages,
    refusals::{Refusals, Seldom},
    scrapers::Scrapers,
    seats::Seats,
    shared::Shared,
    web::Web,
};
use crate::{
    config::ClassicHistograms,
    export::SnapshotSource,
    signal::shutdown::{Shutdown, stopped},
    telemetry::SelfTelemetry,
};

/// Connections served at one time.
const CONNECTIONS: usize = 64;

/// Connections to the port of the probes.
const HEALTH_CONNECTIONS: usize = 16;

/// For a TLS handshake, for a request's head to arrive once it has begun, and for a peer to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A kept connection may be idle for so long: longer than between two scrapes, and longer than Prometheus itself keeps one
/// (5 min), so that no scrape meets a connection that is about to be closed here.
const IDLE: Duration = Duration::from_mins(6);

/// For answers under way when a stop is asked for.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A request's head may have this size and number of headers.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;

/// The flags that set the addresses.
const LISTEN: &str = "--listen";
const HEALTH_LISTEN: &str = "--health-listen";

/// After `accept` failed, usually for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a probe finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Answered as 200, else as 503.
    pub good: bool,
    /// The answer's body: plain text that says why.
    pub text: String,
}

/// Asked at each request; must not block.
pub type Probe = Arc<dyn Fn() -> Verdict + Send + Sync>;

/// What the server shows.
pub struct Content<S> {
    /// Gives snapshots and hears which were delivered.
    pub source: Arc<S>,
    /// The agent's own metrics.
    pub telemetry: Arc<SelfTelemetry>,
    /// `/healthz`: podlens' own heartbeat and nothing that another program can break.
    pub alive: Probe,
    /// `/readyz`: the collectors' states.
    pub ready: Probe,
    /// For the index.
    pub node: Arc<str>,
    /// How long final values wait for those who scrape.
    pub linger: Duration,
    /// Which pages have classic buckets.
    pub classic_histograms: ClassicHistograms,
}

/// Where the server is, and what protects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Of everything.
    pub address: SocketAddr,
    /// Of the probes alone, always open.
    pub health: Option<SocketAddr>,
    /// The web configuration file. None: without TLS and open to all.
    pub web: Option<PathBuf>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {}", remedy(source, flag))]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// That sets it.
        flag: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The web configuration cannot be used.
    #[error(transparent)]
    Web(#[from] WebError),
}

/// Tries the addresses out without listening there: in words, whether a server could have them now. One that is taken is no
/// mistake, since podlens itself may run there.
///
/// # Errors
/// One is not this machine's, or not allowed.
pub fn check_addresses(listen: &Listen) -> Result<String, ServerError> {
    let addresses = [(Some(listen.address), LISTEN), (listen.health, HEALTH_LISTEN)];
    let tried = addresses.into_iter().filter_map(|(address, flag)| Some((address?, flag))).map(|(address, flag)| {
        match listen::try_out(address) {
            Ok(()) => Ok(address.to_string()),
            Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => {
                Ok(format!("{address} is taken, by podlens itself if it runs here"))
            }
            Err(source) => Err(ServerError::Bind { address, flag, source }),
        }
    });
    Ok(tried.collect::<Result<Vec<_>, _>>()?.join(", "))
}

/// A bound server.
pub struct Server<S> {
    door: Door,
    health: Option<Door>,
    shared: Shared<S>,
}

/// One port.
struct Door {
    listener: TcpListener,
    address: SocketAddr,
    connections: usize,
    has: Has,
}

/// What a port has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Has {
    Everything,
    Probes,
}

impl<S: SnapshotSource> Server<S> {
    /// Takes the addresses; requests are answered once it runs. Call it within a runtime.
    ///
    /// # Errors
    /// If an address is taken, is not this machine's, or is not allowed, or the web configuration is wrong.
    pub fn bind(listen: &Listen, content: Content<S>) -> Result<Self, ServerError> {
        let telemetry = Arc::clone(&content.telemetry);
        let web = listen.web.clone().map(|path| Web::open(path, Arc::clone(&telemetry))).transpose()?;
        let door = Door::open(listen.address, LISTEN, CONNECTIONS, Has::Everything)?;
        let health = listen
            .health
            .map(|address| Door::open(address, HEALTH_LISTEN, HEALTH_CONNECTIONS, Has::Probes))
            .transpose()?;
        let scrapers = Arc::new(Mutex::new(Scrapers::new(content.linger)));
        let shared = Shared {
            answers: Arc::new(Answers { content, pages: Pages::default() }),
            scrapers,
            web: web.map(Arc::new),
            refusals: Arc::new(Refusals::new(telemetry)),
            patience: PATIENCE,
        };
        Ok(Self { door, health, shared })
    }

    /// Where it listens, with the port that the kernel chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.door.address
    }

    /// Where the probes are served, if they have a port of their own.
    #[must_use]
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health.as_ref().map(|door| door.address)
    }

    /// Answers until a stop is asked for, then lets answers under way end within two seconds.
    pub async fn run(self, shutdown: Shutdown) {
        let probes = async {
            if let Some(door) = self.health {
                door.run(self.shared.clone(), shutdown.clone()).await;
            }
        };
        tokio::join!(self.door.run(self.shared.clone(), shutdown.clone()), probes);
    }
}

impl Door {
    fn open(address: SocketAddr, flag: &'static str, connections: usize, has: Has) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Bind { address, flag, source };
        let listener = listen::listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, connections, has })
    }

    async fn run<S: SnapshotSource>(self, shared: Shared<S>, shutdown: Shutdown) {
        let seats = Seats::new(self.connections);
        let mut connections = JoinSet::new();
        let mut unaccepted = Seldom::default();
        let stop = stopped(shutdown.clone());
        tokio::pin!(stop);
        loop {
            let accepted = async {
                let (stream, peer) = self.listener.accept().await?;
                Ok::<_, io::Error>((stream, peer, seats.take().await))
            };
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, peer, seat)) => {
                    let peer = peer.ip().to_canonical();
                    connections.spawn(shared.clone().attend(stream, peer, seat, self.has, shutdown.clone()));
                }
                Err(cause) => {
                    if let Some(untold) = unaccepted.is_due(Instant::now()) {
                        tracing::warn!(%cause, untold, "a connection could not be accepted; podlens tries on");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        // What is left is cut when the set is dropped.
        let _ = tokio::time::timeout(LAST_ANSWERS, ended).await;
    }
}

fn remedy(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another process, perhaps another podlens, listens there: stop it or use {flag}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("the address is not one of this machine's: use {flag} with one that is, or [::] for all")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need a privilege: use {flag} with a higher one")
        }
        _ => format!("use {flag} with another address"),
    }
}

#[cfg(test)]
mod tests;
