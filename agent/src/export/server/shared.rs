//! One connection, from its handshake to its end, and what all connections share.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use tokio::net::TcpStream;

use super::{
    HEAD_BYTES, HEADERS, Has, IDLE,
    answer::{self, Answers},
    connection::{self, Delivery, Payload, Progress, Stream},
    refusals::Refusals,
    scrapers::Scrapers,
    seats::Seat,
    transport::{self, Transport},
    web::Web,
};
use crate::{
    export::SnapshotSource,
    signal::{
        lock,
        shutdown::{Shutdown, stopped},
    },
    telemetry::Refusal,
};

/// What all connections share.
pub(super) struct Shared<S> {
    pub(super) answers: Arc<Answers<S>>,
    pub(super) scrapers: Arc<Mutex<Scrapers>>,
    pub(super) web: Option<Arc<Web>>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) patience: Duration,
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self {
            answers: Arc::clone(&self.answers),
            scrapers: Arc::clone(&self.scrapers),
            web: self.web.clone(),
            refusals: Arc::clone(&self.refusals),
            patience: self.patience,
        }
    }
}

impl<S: SnapshotSource> Shared<S> {
    /// One connection, until it ends, makes room, or a stop is asked for.
    pub(super) async fn attend(self, stream: TcpStream, peer: IpAddr, seat: Seat, has: Has, shutdown: Shutdown) {
        // An answer is one write or a few large ones; nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        let seat = Arc::new(seat);
        let made_room = || self.refusals.tell(Refusal::MadeRoom, peer, &"");
        let transport = tokio::select! {
            transport = self.transport(stream, peer, has) => transport,
            () = seat.lost() => return made_room(),
            () = stopped(shutdown.clone()) => return,
        };
        let Some(transport) = transport else { return };
        let progress = Arc::new(Progress::default());
        let delivery = Arc::new(self.delivery(peer));
        let service = {
            let (shared, progress, held) = (self.clone(), Arc::clone(&progress), Arc::clone(&seat));
            let delivery = Arc::clone(&delivery);
            service_fn(move |request| {
                progress.request_came();
                let (shared, delivery, seat) = (shared.clone(), Arc::clone(&delivery), Arc::clone(&held));
                async move {
                    let answer = shared.answer(&request, peer, has, &delivery, &seat).await;
                    Ok::<_, std::convert::Infallible>(answer)
                }
            })
        };
        let stream = Stream::new(transport, self.patience, Arc::clone(&progress), delivery);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(stream, service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = seat.lost() => return made_room(),
            () = stopped(shutdown) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            self.tell_end(connection::refusal(&error, &progress), peer, &error);
        }
    }

    /// The connection's bytes, with TLS where that is configured. None if there is no agreement on it.
    async fn transport(&self, stream: TcpStream, peer: IpAddr, has: Has) -> Option<Transport> {
        let Some(web) = self.web.as_ref().filter(|_| has == Has::Everything) else {
            return Some(Transport::Plain(stream));
        };
        let Some(tls) = web.current().await.tls.clone() else { return Some(Transport::Plain(stream)) };
        match tokio::time::timeout(self.patience, Transport::secured(stream, tls)).await {
            Ok(Ok(transport)) => return Some(transport),
            Ok(Err(cause)) => self.tell_end(transport::refusal(&cause), peer, &cause),
            Err(_) => self.refusals.tell(Refusal::HandshakeTimeout, peer, &""),
        }
        None
    }

    fn tell_end(&self, refusal: Option<Refusal>, peer: IpAddr, cause: &dyn std::error::Error) {
        if let Some(refusal) = refusal {
            self.refusals.tell(refusal, peer, &cause);
        } else {
            tracing::debug!(%peer, %cause, "a connection ended early");
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        peer: IpAddr,
        has: Has,
        delivery: &Arc<Delivery>,
        seat: &Seat,
    ) -> Response<Payload> {
        if has == Has::Probes {
            return self.answers.probe(request);
        }
        let Some(web) = &self.web else { return seat.answering(self.answers.answer(request, delivery)).await };
        let current = web.current().await;
        // Whoever waits here for a password's check may still have to make room.
        let mut answer = match web.admits(&current, request.headers(), peer).await {
            Ok(()) => seat.answering(self.answers.answer(request, delivery)).await,
            Err(refusal) => {
                self.refusals.tell(refusal, peer, &request.uri().path());
                answer::refused(refusal, current.challenges())
            }
        };
        answer.headers_mut().extend(current.headers.clone());
        answer
    }

    fn delivery(&self, peer: IpAddr) -> Delivery {
        let (answers, scrapers) = (Arc::clone(&self.answers), Arc::clone(&self.scrapers));
        Delivery::new(move |sequence| {
            let mut scrapers = lock(&scrapers);
            let acknowledged = scrapers.delivered(peer, sequence, Instant::now());
            drop(scrapers);
            answers.content.source.exported(&format!("prometheus/{peer}"), acknowledged);
        })
    }
}
