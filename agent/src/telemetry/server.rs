//! What the HTTP server refuses, and what becomes of changes to its web configuration, as counters.

use prometheus::{Counter, CounterVec};

use super::{SelfTelemetryError, metrics};

/// Why the server refused or broke something off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "`meaning` says it")]
pub enum Refusal {
    Handshake,
    HandshakeTimeout,
    ClientCertificate,
    ServerCertificate,
    MissingCredentials,
    WrongCredentials,
    UncheckedCredentials,
    BadRequest,
    SlowRequest,
    SlowReader,
    Gone,
    MadeRoom,
}

impl Refusal {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 12] = [
        Self::Handshake,
        Self::HandshakeTimeout,
        Self::ClientCertificate,
        Self::ServerCertificate,
        Self::MissingCredentials,
        Self::WrongCredentials,
        Self::UncheckedCredentials,
        Self::BadRequest,
        Self::SlowRequest,
        Self::SlowReader,
        Self::Gone,
        Self::MadeRoom,
    ];
    /// Their names, in the same order.
    pub const NAMES: [&str; 12] = [
        "handshake",
        "handshake_timeout",
        "client_certificate",
        "server_certificate",
        "missing_credentials",
        "wrong_credentials",
        "unchecked_credentials",
        "bad_request",
        "slow_request",
        "slow_reader",
        "gone",
        "made_room",
    ];

    /// The label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or_default()
    }

    /// For the log: what happened, and what may be done.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Handshake => {
                "a client and the server found no common TLS: it may have asked with http:// where https:// is served"
            }
            Self::HandshakeTimeout => "a client did not finish its TLS handshake in time",
            Self::ClientCertificate => {
                "a client's certificate is missing, expired, or not signed or named as the web configuration wants: probes, which have none, need a port of their own (health_listen)"
            }
            Self::ServerCertificate => {
                "a client does not accept the server's certificate: see whether it is expired, is for the name that the client asks, and is signed by an authority that the client knows"
            }
            Self::MissingCredentials => {
                "a request came without credentials, which the web configuration wants: probes, which have none, need a port of their own (health_listen)"
            }
            Self::WrongCredentials => "a request came with wrong credentials",
            Self::UncheckedCredentials => {
                "a request's password was not checked, since too many others wait for that: somebody may be guessing passwords"
            }
            Self::BadRequest => {
                "a request was malformed or its head too large: it may have asked with https:// where http:// is served"
            }
            Self::SlowRequest => "a client took too long to send its request",
            Self::SlowReader => "a client took too long to read its answer",
            Self::Gone => "a client went away before it had its answer: its scrape timeout may be short",
            Self::MadeRoom => "a connection that waited made room for a new one, since all were taken",
        }
    }
}

/// The server's counters.
pub(super) struct ServerCounters {
    refusals: Vec<Counter>,
    applied: Counter,
    failed: Counter,
    families: [CounterVec; 2],
}

impl ServerCounters {
    pub(super) fn new() -> Result<Self, SelfTelemetryError> {
        let refusals = metrics::SERVER_REFUSALS.counters()?;
        let reloads = metrics::WEB_CONFIG_RELOADS.counters()?;
        Ok(Self {
            refusals: Refusal::NAMES.iter().map(|name| refusals.with_label_values(&[*name])).collect(),
            applied: reloads.with_label_values(&["applied"]),
            failed: reloads.with_label_values(&["failed"]),
            families: [refusals, reloads],
        })
    }

    pub(super) fn families(&self) -> [CounterVec; 2] {
        self.families.clone()
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        if let Some(counter) = self.refusals.get(refusal as usize) {
            counter.inc();
        }
    }

    pub(super) fn reloaded(&self, is_applied: bool) {
        if is_applied { &self.applied } else { &self.failed }.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn each_reason_has_its_name_at_its_place() {
        for (at, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, at);
            let words: String = format!("{refusal:?}").to_lowercase();
            assert_eq!(refusal.name().replace('_', ""), words);
        }
    }
}
