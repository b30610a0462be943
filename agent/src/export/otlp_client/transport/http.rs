//! OTLP over HTTP/1.1, messages in protobuf.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message as _;
use rustls::pki_types::ServerName;

use super::{Accepted, Answer, Failure, OtlpConfig, OtlpConfigError, Service, tls::client_config};
use crate::config::Compression;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Far more than any answer needs.
const ANSWER_BYTES: usize = 64 << 10;

/// Posts to one service.
pub(super) struct Client {
    uri: Uri,
    headers: HeaderMap,
    compression: Compression,
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    pub(super) fn new(config: &OtlpConfig, service: Service) -> Result<Self, OtlpConfigError> {
        let mut headers = config.to_headers()?;
        headers.insert(header::CONTENT_TYPE, PROTOBUF);
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("podlens/", env!("CARGO_PKG_VERSION"))));
        match config.compression {
            Compression::None => {}
            Compression::Gzip => _ = headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip")),
            Compression::Zstd => _ = headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd")),
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let builder = HttpsConnectorBuilder::new().with_tls_config(client_config(config)?).https_or_http();
        let builder = match server_name(config)? {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
            None => builder,
        };
        let connector = builder.enable_http1().wrap_connector(connector);
        Ok(Self {
            uri: uri(config, service)?,
            headers,
            compression: config.compression,
            inner: legacy::Client::builder(TokioExecutor::new()).build(connector),
        })
    }

    pub(super) fn target(&self) -> String {
        without_credentials(&self.uri, true)
    }

    /// One request and what became of it.
    pub(super) async fn send(&self, message: Bytes) -> Result<Accepted, Failure> {
        let (head, body) = self.post(message).await?.into_parts();
        // Some receivers answer 202 or 204, without a message.
        if head.status.is_success() {
            return Ok(accepted(&head, &body));
        }
        Err(Failure::from_http(head.status, &head.headers, &body))
    }

    /// One request and its answer, whatever that is.
    pub(super) async fn post(&self, message: Bytes) -> Result<Response<Bytes>, Failure> {
        let message = compressed(message, self.compression).map_err(|cause| Failure::here(&cause))?;
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let answer = self.inner.request(request).await.map_err(|cause| Failure::here(&cause))?;
        let (head, body) = answer.into_parts();
        let body = match Limited::new(body, ANSWER_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(cause) if head.status.is_success() => return Err(Failure::here(&*cause)),
            // What the receiver decided holds without its explanation too.
            Err(_) => Bytes::new(),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// An answer that is no message, as from a proxy in between, says that all was taken.
fn accepted(head: &http::response::Parts, body: &Bytes) -> Accepted {
    if head.status != StatusCode::OK || head.headers.get(header::CONTENT_TYPE) != Some(&PROTOBUF) {
        return Accepted::default();
    }
    Answer::decode(body.clone()).map(Accepted::from).unwrap_or_default()
}

fn compressed(message: Bytes, compression: Compression) -> std::io::Result<Bytes> {
    match compression {
        Compression::None => Ok(message),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 8), flate2::Compression::default());
            encoder.write_all(&message)?;
            encoder.finish().map(Bytes::from)
        }
        Compression::Zstd => zstd::bulk::compress(&message, zstd::DEFAULT_COMPRESSION_LEVEL).map(Bytes::from),
    }
}

/// The endpoint with the service's path below its own, unless the endpoint is the service's already.
fn uri(config: &OtlpConfig, service: Service) -> Result<Uri, OtlpConfigError> {
    let unusable = || OtlpConfigError::Endpoint { endpoint: config.endpoint.clone() };
    let mut parts = config.endpoint.parse::<Uri>().map_err(|_| unusable())?.into_parts();
    if !config.endpoint_has_path {
        let base = parts.path_and_query.as_ref().map_or("", PathAndQuery::path).trim_end_matches('/');
        parts.path_and_query = Some(format!("{base}/{}", service.http_path).parse().map_err(|_| unusable())?);
    }
    Uri::from_parts(parts).map_err(|_| unusable())
}

/// A URL for the log: it can hide a password before the host.
pub(super) fn without_credentials(uri: &Uri, with_path: bool) -> String {
    format!(
        "{}://{}{}{}",
        uri.scheme_str().unwrap_or_default(),
        uri.host().unwrap_or_default(),
        uri.port().map(|port| format!(":{port}")).unwrap_or_default(),
        if with_path { uri.path() } else { "" },
    )
}

fn server_name(config: &OtlpConfig) -> Result<Option<ServerName<'static>>, OtlpConfigError> {
    let Some(name) = config.tls.server_name.clone() else { return Ok(None) };
    ServerName::try_from(name)
        .map(Some)
        .map_err(|cause| OtlpConfigError::Tls { endpoint: config.endpoint.clone(), source: cause.into() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use super::{
        super::{LOGS, METRICS},
        OtlpConfig, uri,
    };

    #[test]
    fn a_services_path_follows_the_endpoints_own_unless_the_endpoint_is_the_services() {
        for (endpoint, has_path, metrics, logs) in [
            ("http://c:4318", false, "http://c:4318/v1/metrics", "http://c:4318/v1/logs"),
            ("http://c:4318/", false, "http://c:4318/v1/metrics", "http://c:4318/v1/logs"),
            ("https://c/api/v1/otlp", false, "https://c/api/v1/otlp/v1/metrics", "https://c/api/v1/otlp/v1/logs"),
            ("https://c/otlp//", false, "https://c/otlp/v1/metrics", "https://c/otlp/v1/logs"),
            ("http://c:4318/in", true, "http://c:4318/in", "http://c:4318/in"),
            ("http://c:4318", true, "http://c:4318/", "http://c:4318/"),
        ] {
            let config = OtlpConfig { endpoint: endpoint.into(), endpoint_has_path: has_path, ..OtlpConfig::default() };
            assert_eq!(uri(&config, METRICS).unwrap().to_string(), metrics, "{endpoint}");
            assert_eq!(uri(&config, LOGS).unwrap().to_string(), logs, "{endpoint}");
        }
    }
}
