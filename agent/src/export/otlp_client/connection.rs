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
    /// The last answer that refused a request for its size, until it is decided what to do.
    too_large: Option<Failure>,
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
    /// It is too large, or a quota is used up: it may be offered in smaller pieces, or is to be given up with
    /// [`Connection::give_up`].
    TooLarge,
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
            health: Health { signal, endpoint, state: State::Unknown, warned: None },
            too_large: None,
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
            Err(failure) if failure.verdict == Verdict::TooLarge => {
                self.too_large = Some(failure);
                Outcome::TooLarge
            }
            Err(failure) => {
                self.health.failed(&failure);
                match failure.verdict {
                    Verdict::Retry(delay) => Outcome::Retry(self.backoff.pause(delay)),
                    Verdict::Refused | Verdict::TooLarge => Outcome::Refused,
                }
            }
        }
    }

    /// What was too large is offered in smaller pieces from now on.
    pub(crate) fn divide(&mut self) {
        let Self { health: Health { signal, endpoint, .. }, too_large, .. } = self;
        if let Some(Failure { code, answer, .. }) = too_large.take() {
            tracing::info!(
                signal,
                endpoint,
                code,
                answer,
                "the OTLP receiver refuses a request for its size; smaller ones follow"
            );
        }
    }

    /// What was too large is not offered again.
    pub(crate) fn give_up(&mut self) {
        if let Some(failure) = self.too_large.take() {
            self.health.failed(&failure);
        }
    }

    /// Everything that belonged together was accepted, and of it the receiver took so much: the log may say that export
    /// works. Where nothing was there to be sent, or all of it was rejected, nobody knows.
    pub(crate) fn delivered(&mut self, taken: u64) {
        if taken > 0 {
            self.health.worked();
        }
    }
}

/// The state that the log tells, once per change.
struct Health {
    signal: &'static str,
    endpoint: String,
    state: State,
    /// What the log said of the receiver's last answer.
    warned: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum State {
    Unknown,
    Working,
    /// Everything is accepted, but perhaps by somebody else than a receiver.
    Doubtful,
    Failing {
        since: Instant,
        attempts: u64,
    },
}

/// What helps where the receiver does not answer in the protocol that it was asked in.
fn remedy(cause: &str) -> Option<&'static str> {
    let is_foreign = ["http2 error", "invalid HTTP version"].iter().any(|part| cause.contains(part));
    is_foreign.then_some(
        "see that otlp.protocol is the one of that port: by convention 4317 is for grpc and 4318 for http/protobuf",
    )
}

impl Health {
    fn worked(&mut self) {
        let Self { signal, endpoint, .. } = self;
        match self.state {
            State::Working | State::Doubtful => return,
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
        // What is said after it is news again.
        self.warned = None;
        tracing::warn!(
            signal = self.signal,
            endpoint = self.endpoint,
            code = failure.code,
            answer = failure.answer,
            cause = failure.cause,
            will_retry = matches!(failure.verdict, Verdict::Retry(_)),
            remedy = remedy(failure.cause.as_deref().unwrap_or_default()),
            "OTLP export fails; further failures are counted and not logged"
        );
    }

    fn accepted(&mut self, accepted: &Accepted) {
        if let Some(event) = self.warning(accepted) {
            let (Self { signal, endpoint, .. }, Accepted { rejected, answer, .. }) = (&*self, accepted);
            tracing::warn!(signal, endpoint, rejected, answer, "{event}");
        }
        match self.state {
            _ if accepted.is_foreign => self.state = State::Doubtful,
            State::Doubtful => self.state = State::Unknown,
            State::Unknown | State::Working | State::Failing { .. } => {}
        }
    }

    /// What the log has to say of an answer: the first one that rejects something or has a warning, until one has neither.
    fn warning(&mut self, accepted: &Accepted) -> Option<&'static str> {
        let event = match accepted {
            Accepted { is_foreign: true, .. } => Some(
                "the answer is no OTLP: see whether that is a receiver; what it says to have accepted is counted as sent",
            ),
            Accepted { rejected: 1.., .. } => Some("the OTLP receiver rejects a part of what it gets"),
            Accepted { answer: Some(_), .. } => Some("the OTLP receiver takes everything, with a warning"),
            Accepted { .. } => None,
        };
        let is_new = event != self.warned;
        self.warned = event;
        event.filter(|_| is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{OtlpConfig, transport::METRICS},
        Accepted, Connection, Failure, Health, State, remedy,
    };

    #[test]
    fn a_receiver_that_speaks_another_protocol_is_told_with_the_remedy() {
        assert!(remedy("h2 protocol error: http2 error: frame with invalid size").is_some());
        assert!(remedy("client error (SendRequest): invalid HTTP version parsed").is_some());
        assert_eq!(remedy("tcp connect error: Connection refused (os error 111)"), None);
    }

    #[tokio::test]
    async fn export_works_once_something_of_it_was_taken() {
        let config = OtlpConfig::default();
        let Ok(mut connection) = Connection::new(&config, METRICS, "n") else { unreachable!() };
        // Nothing was there to be sent, or all of it was rejected.
        connection.delivered(0);
        assert!(matches!(connection.health.state, State::Unknown));
        connection.health.failed(&Failure::timeout());
        connection.delivered(0);
        assert!(matches!(connection.health.state, State::Failing { .. }));
        connection.delivered(1);
        assert!(matches!(connection.health.state, State::Working));
    }

    #[test]
    fn an_answer_that_is_no_otlp_is_told_once_and_nobody_says_that_export_works() {
        let mut health = Health { signal: "metrics", endpoint: String::new(), state: State::Unknown, warned: None };
        let page = || Accepted { rejected: 0, answer: Some("<html>".to_owned()), is_foreign: true };
        for _ in 0..2 {
            assert!(health.warning(&page()).is_some_and(|event| event.contains("is no OTLP")));
            assert!(health.warning(&page()).is_none());
            health.accepted(&page());
            health.worked();
            assert!(matches!(health.state, State::Doubtful));
            // After an outage it is told anew.
            health.failed(&Failure::timeout());
        }
        health.accepted(&page());
        health.accepted(&Accepted::default());
        health.worked();
        assert!(matches!(health.state, State::Working));
    }

    #[test]
    fn a_rejection_and_a_warning_without_one_are_logged_once_each() {
        let mut health = Health { signal: "metrics", endpoint: String::new(), state: State::Unknown, warned: None };
        let mut logged = |rejected: u64, answer: &str| {
            let answer = Some(answer.to_owned()).filter(|answer| !answer.is_empty());
            health.warning(&Accepted { rejected, answer, is_foreign: false }).is_some()
        };
        assert!(!logged(0, ""));
        assert!(logged(0, "use the newer endpoint"));
        assert!(!logged(0, "use the newer endpoint"));
        assert!(!logged(0, "use the newer endpoint, for the 3rd time"));
        assert!(logged(2, "too old"));
        assert!(!logged(3, "too old"));
        assert!(!logged(0, ""));
        assert!(logged(1, "too old"), "again, after it was over");
    }
}
