//! What the OTLP client can be told, and its check before anything is sent.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::{HeaderMap, Uri};
use tonic::{
    metadata::{MetadataKey, MetadataMap, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use super::transport::tls;
use crate::{
    config::{Compression, Headers},
    export::otlp,
};

/// Settings of the push exporter.
#[derive(Clone)]
pub struct OtlpConfig {
    /// How the receiver is spoken to.
    pub protocol: Protocol,
    /// `http://HOST:PORT` or, encrypted, `https://HOST:PORT`. Over HTTP a path may follow.
    pub endpoint: String,
    /// Over HTTP: the endpoint's path is the service's own, and none is added.
    pub endpoint_has_path: bool,
    /// Sent with each request. May hold secrets, so `Debug` shows the names alone.
    pub headers: Vec<(String, String)>,
    /// Time that one attempt may take, the connection included.
    pub timeout: Duration,
    /// Time between two exports.
    pub interval: Duration,
    /// How requests are compressed. With gzip that is the larger part of an export's CPU time (50 of 72 ms for 50,000
    /// points), so they are not by default.
    pub compression: Compression,
    /// Used where the endpoint is encrypted.
    pub tls: OtlpTls,
    /// How pods' values are written.
    pub options: otlp::Options,
    /// The resource of the agent's own metrics.
    pub own_resource: BTreeMap<String, String>,
    /// Snapshots that may wait while the receiver is away, at least 1.
    pub queue_snapshots: usize,
    /// Pause after the first failed attempt; it doubles up to 30 s.
    pub first_pause: Duration,
}

/// How an OTLP receiver is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf over HTTP/1.1.
    HttpProtobuf,
}

/// Certificates for an encrypted endpoint, as PEM.
#[derive(Clone, Default)]
pub struct OtlpTls {
    /// The authority to trust instead of the public ones.
    pub authority_pem: Option<Vec<u8>>,
    /// The client's own certificate, together with its key.
    pub certificate_pem: Option<Vec<u8>>,
    /// The client's key.
    pub key_pem: Option<Vec<u8>>,
    /// The name to find in the server's certificate, if it is not the endpoint's.
    pub server_name: Option<String>,
}

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum OtlpConfigError {
    /// The endpoint is not a URL that can be used.
    #[error("OTLP endpoint {endpoint:?} cannot be used: give http://HOST:PORT or https://HOST:PORT")]
    Endpoint {
        /// As configured.
        endpoint: String,
    },
    /// A header is not one.
    #[error(
        "OTLP header {name:?} cannot be sent: use lower-case letters, digits and hyphens for the name (not ending in -bin) and printable ASCII for the value"
    )]
    Header {
        /// Its name. The value may be a secret.
        name: String,
    },
    /// A header would break the request, or is there twice.
    #[error("OTLP header {name:?} cannot be sent: {reason}; leave it out")]
    Refused {
        /// Its name. The value may be a secret.
        name: String,
        /// In words.
        reason: &'static str,
    },
    /// Half of the client's identity is missing.
    #[error("the OTLP client certificate and its key belong together: set both or neither")]
    HalfIdentity,
    /// A certificate or key cannot be used.
    #[error(
        "the certificates for OTLP endpoint {endpoint:?} cannot be used: check that each file is PEM and that the key belongs to the certificate"
    )]
    Tls {
        /// As configured.
        endpoint: String,
        /// What the library says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A duration of nothing.
    #[error("the OTLP {setting} is zero: give at least 1 ms")]
    Zero {
        /// Which one.
        setting: &'static str,
    },
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            protocol: Protocol::Grpc,
            endpoint: "http://localhost:4317".into(),
            endpoint_has_path: false,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            interval: Duration::from_secs(15),
            compression: Compression::None,
            tls: OtlpTls::default(),
            options: otlp::Options::default(),
            own_resource: BTreeMap::new(),
            queue_snapshots: 4,
            first_pause: Duration::from_secs(1),
        }
    }
}

impl fmt::Debug for OtlpConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header_names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        formatter
            .debug_struct("OtlpConfig")
            .field("protocol", &self.protocol)
            .field("endpoint", &self.endpoint)
            .field("header_names", &header_names)
            .field("timeout", &self.timeout)
            .field("interval", &self.interval)
            .field("compression", &self.compression)
            .field("queue_snapshots", &self.queue_snapshots)
            .finish_non_exhaustive()
    }
}

impl OtlpConfig {
    /// What is the same for all protocols.
    pub(super) fn check(&self) -> Result<(), OtlpConfigError> {
        for (setting, duration) in
            [("timeout", self.timeout), ("interval", self.interval), ("first pause", self.first_pause)]
        {
            if duration < Duration::from_millis(1) {
                return Err(OtlpConfigError::Zero { setting });
            }
        }
        let uri: Option<Uri> = self.endpoint.parse().ok();
        let is_usable = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !is_usable {
            return Err(OtlpConfigError::Endpoint { endpoint: self.endpoint.clone() });
        }
        // The library for gRPC passes over authorities that it cannot read.
        tls::client_config(self).map(drop)
    }

    /// The endpoint for gRPC, ready to be connected to.
    pub(super) fn to_endpoint(&self) -> Result<Endpoint, OtlpConfigError> {
        let unusable = || OtlpConfigError::Endpoint { endpoint: self.endpoint.clone() };
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|_| unusable())?;
        let endpoint = endpoint
            .user_agent(concat!("podlens/", env!("CARGO_PKG_VERSION")))
            .map_err(|_| unusable())?
            .connect_timeout(self.timeout);
        match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
            (Some("http"), Some(_)) => Ok(endpoint),
            (Some("https"), Some(_)) => endpoint
                .tls_config(self.tls()?)
                .map_err(|source| OtlpConfigError::Tls { endpoint: self.endpoint.clone(), source: source.into() }),
            _ => Err(unusable()),
        }
    }

    /// The headers as gRPC metadata.
    pub(super) fn to_metadata(&self) -> Result<MetadataMap, OtlpConfigError> {
        let mut metadata = MetadataMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            let refused = || OtlpConfigError::Header { name: name.clone() };
            let key = MetadataKey::from_bytes(name.as_bytes()).map_err(|_| refused())?;
            let value = MetadataValue::try_from(value.as_str()).map_err(|_| refused())?;
            let twice = metadata.contains_key(&key).then_some("it is there twice");
            if let Some(reason) = Headers::refusal(key.as_str()).or(twice) {
                return Err(OtlpConfigError::Refused { name: name.clone(), reason });
            }
            metadata.append(key, value);
        }
        Ok(metadata)
    }

    /// The headers as HTTP takes them. What gRPC does not allow is refused here too, so that the protocol may be changed
    /// without a look at the headers.
    pub(super) fn to_headers(&self) -> Result<HeaderMap, OtlpConfigError> {
        Ok(self.to_metadata()?.into_headers())
    }

    fn tls(&self) -> Result<ClientTlsConfig, OtlpConfigError> {
        let mut tls = match &self.tls.authority_pem {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        match (&self.tls.certificate_pem, &self.tls.key_pem) {
            (Some(certificate), Some(key)) => {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            (None, None) => {}
            _ => return Err(OtlpConfigError::HalfIdentity),
        }
        if let Some(name) = &self.tls.server_name {
            tls = tls.domain_name(name.clone());
        }
        Ok(tls)
    }
}
