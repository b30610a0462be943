//! Why a web configuration cannot be used.

use std::{io, path::PathBuf};

use crate::config;

/// Each names the file and the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WebError {
    #[error("cannot read {}, which is or belongs to the web configuration ({cause}): correct the path, or let the user that runs podlens read it", path.display())]
    Read { path: PathBuf, cause: io::Error },

    #[error("{} is larger than {limit_bytes} bytes: it is no part of a web configuration, correct the path", path.display())]
    TooLarge { path: PathBuf, limit_bytes: u64 },

    #[error(transparent)]
    File(#[from] config::Error),

    #[error("{place} has no certificate in PEM{reason}: give it one that begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate { place: String, reason: String },

    #[error(
        "{place} has no key in PEM that can be used{reason}: give it one that begins with -----BEGIN PRIVATE KEY-----, not encrypted"
    )]
    NoKey { place: String, reason: String },

    #[error("the server's certificate and key cannot be used: {cause}; see that the key is the certificate's own")]
    Identity { cause: rustls::Error },

    #[error(
        "the TLS settings of the web configuration leave nothing to agree on: {cause}; allow more versions or cipher suites"
    )]
    Nothing { cause: rustls::Error },

    #[error("the authorities for clients' certificates cannot be used: {reason}; correct client_ca_file")]
    Authorities { reason: String },

    #[error("the bearer token file {} {what}: put one token of printable ASCII without spaces on each line, of at least {least} characters", path.display())]
    Tokens { path: PathBuf, what: &'static str, least: usize },

    #[error("it would switch TLS {now} while podlens runs: start podlens anew for that")]
    TlsSwitched { now: &'static str },

    #[error(
        "it would let in everybody, where credentials or a certificate were wanted: start podlens anew if that is meant"
    )]
    Opened,

    #[error(
        "the kernel gives no random numbers, which credentials are checked with: see whether getrandom() is allowed"
    )]
    NoRandomness,
}
