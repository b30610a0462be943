//! The connection to a receiver's service as its users see it: what becomes of one request, when to try again, and a
//! log that tells each change of state once.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    OtlpConfig, OtlpConfigError,
    transport::{Accepted, Failure, Service, Transport, Verdict},
};
use crate::backoff::Backoff;

/// The connection for one signal. Requests are offered one after the other.
pub(crate) struct Connection {
    transport: Transport,
    backoff: Backoff,
    health: Health,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Taken, but for `rejected` of its points or records.
    Accepted {
        /// As the receiver counts them.
        rejected: u64,
    },
    /// To be offered again after this pause.
    Retry(Duration),
    /// It would fail again.
    Refused,
}

impl Connection {
    /// Connects once something is offered. `node` makes pauses differ between nodes.
    ///
    /// # Errors
    /// If the configuration cannot work whatever the receiver does.
    pub(crate) fn new(config: &OtlpConfig, service: Service, node: &str) -> Result<Self, OtlpConfigError> {
        let transport = Transport::new(config, service)?;
        let (signal, endpoint) = (service.signal, transport.target());
        Ok(Self {
            transport,
            backoff: Backoff::new(config.first_pause, node),
            health: Health { signal, endpoint, state: State::Unknown, warned: false },
        })
    }

    /// Offers an encoded request once, within the timeout.
    pub(crate) async fn offer(&mut self, message: Bytes) -> Outcome {
        match self.transport.send(message).await {
            Ok(accepted) => {
                self.backoff.reset();
                self.health.accepted(&accepted);
                Outcome::Accepted { rejected: accepted.rejected }
            }
            Err(failure) => {
                self.health.failed(&failure);
                match failure.verdict {
                    Verdict::Retry(delay) => Outcome::Retry(self.backoff.pause(delay)),
                    Verdict::Refused => Outcome::Refused,
                }
            }
        }
    }

    /// Everything that belonged together was accepted: the log may say that export works.
    pub(crate) fn delivered(&mut self) {
        self.health.worked();
    }
}

/// The state that the log tells, once per change.
struct Health {
    signal: &'static str,
    endpoint: String,
    state: State,
    /// The receiver's last answer had a warning.
    warned: bool,
}

#[derive(Clone, Copy)]
enum State {
    Unknown,
    Working,
    Failing { since: Instant, attempts: u64 },
}

impl Health {
    fn worked(&mut self) {
        let Self { signal, endpoint, .. } = self;
        match self.state {
            State::Working => return,
            State::Unknown => tracing::info!(signal, endpoint, "OTLP export works"),
            State::Failing { since, attempts } => {
                let failed_for = since.elapsed();
                tracing::info!(signal, endpoint, ?failed_for, attempts, "OTLP export works again");
            }
        }
        self.state = State::Working;
    }

    fn failed(&mut self, failure: &Failure) {
        if let State::Failing { attempts, .. } = &mut self.state {
            *attempts = attempts.saturating_add(1);
            return;
        }
        self.state = State::Failing { since: Instant::now(), attempts: 1 };
        tracing::warn!(
            signal = self.signal,
            endpoint = self.endpoint,
            code = failure.code,
            message = failure.message,
            cause = failure.cause,
            will_retry = failure.verdict != Verdict::Refused,
            "OTLP export fails; further failures are counted and not logged"
        );
    }

    fn accepted(&mut self, accepted: &Accepted) {
        let Accepted { rejected, message } = accepted;
        if *rejected > 0 && !self.warned {
            let Self { signal, endpoint, .. } = self;
            tracing::warn!(signal, endpoint, rejected, message, "the OTLP receiver rejects points");
        }
        self.warned = *rejected > 0;
    }
}
