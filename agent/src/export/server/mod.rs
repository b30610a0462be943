//! The HTTP server: `/metrics`, `/healthz`, `/readyz` and a plain index.
//!
//! HTTP/1.1 without TLS, for Prometheus and the kubelet's probes. It knows no metric and no collector: the text
//! comes from the encoder and the verdicts from whoever starts it. A peer can neither hang it nor make it
//! hold much: heads are bounded in size and time, answers must be taken in time, connections are counted, and
//! those that wait for their peers make room for new ones.

mod answer;
mod connection;
mod listen;
mod pages;
mod scrapers;
mod seats;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use self::{
    answer::Answers,
    connection::{Delivery, HeadCame, Stream},
    pages::Pages,
    scrapers::Scrapers,
    seats::{Seat, Seats},
};
use crate::{
    config::ClassicHistograms,
    export::SnapshotSource,
    signal::shutdown::{Shutdown, stopped},
    telemetry::SelfTelemetry,
};

/// Connections served at one time.
const CONNECTIONS: usize = 64;

/// For a request's head to arrive once it has begun, and for a peer to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A kept connection may be idle for so long: longer than between two scrapes, and longer than Prometheus itself keeps one
/// (5 min), so that no scrape meets a connection that is about to be closed here.
const IDLE: Duration = Duration::from_mins(6);

/// For answers under way when a stop is asked for.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A request's head may have this size and number of headers.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;

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

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {}", remedy(source))]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
}

/// A bound server.
pub struct Server<S> {
    listener: TcpListener,
    address: SocketAddr,
    answers: Arc<Answers<S>>,
    scrapers: Arc<Mutex<Scrapers>>,
    patience: Duration,
}

impl<S: SnapshotSource> Server<S> {
    /// Takes the address; requests are answered once it runs. Call it within a runtime.
    ///
    /// # Errors
    /// If the address is taken, is not this machine's, or is not allowed.
    pub fn bind(address: SocketAddr, content: Content<S>) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Bind { address, source };
        let listener = listen::listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scrapers = Arc::new(Mutex::new(Scrapers::new(content.linger)));
        let answers = Arc::new(Answers { content, pages: Pages::default() });
        Ok(Self { listener, address, answers, scrapers, patience: PATIENCE })
    }

    /// Where it listens, with the port that the kernel chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until a stop is asked for, then lets answers under way end within two seconds.
    pub async fn run(self, shutdown: Shutdown) {
        let seats = Seats::new(CONNECTIONS);
        let mut connections = JoinSet::new();
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
                    connections.spawn(self.serve(stream, peer.ip().to_canonical(), seat, shutdown.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        // What is left is cut when the set is dropped.
        let _ = tokio::time::timeout(LAST_ANSWERS, ended).await;
    }

    fn serve(
        &self,
        stream: TcpStream,
        peer: IpAddr,
        seat: Seat,
        shutdown: Shutdown,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let seat = Arc::new(seat);
        let held = Arc::clone(&seat);
        let answers = Arc::clone(&self.answers);
        let patience = self.patience;
        // An answer is one write or a few large ones; nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        let delivery = {
            let (answers, scrapers) = (Arc::clone(&answers), Arc::clone(&self.scrapers));
            Arc::new(Delivery::new(move |sequence| {
                let mut scrapers = scrapers.lock().unwrap_or_else(PoisonError::into_inner);
                let acknowledged = scrapers.delivered(peer, sequence, Instant::now());
                drop(scrapers);
                answers.content.source.exported(&format!("prometheus/{peer}"), acknowledged);
            }))
        };
        let head_came = HeadCame::default();
        let stream = Stream::new(TokioIo::new(stream), patience, Arc::clone(&head_came), Arc::clone(&delivery));
        let service = service_fn(move |request| {
            head_came.store(true, Ordering::Relaxed);
            let (answers, delivery, seat) = (Arc::clone(&answers), Arc::clone(&delivery), Arc::clone(&held));
            async move {
                let answer = seat.answering(answers.answer(&request, &delivery)).await;
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(stream, service);
        async move {
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = seat.lost() => return tracing::debug!(%peer, "a connection made room for a new one"),
                () = stopped(shutdown) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a connection ended early");
            }
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process, perhaps another podlens, listens there: stop it or use --listen",
        io::ErrorKind::AddrNotAvailable => {
            "the address is not one of this machine's: use --listen with one that is, or [::] for all"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: use --listen with a higher one",
        _ => "use --listen with another address",
    }
}

#[cfg(test)]
mod tests;
