//! OTLP over HTTP/1.1, messages in protobuf.

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message as _;
use rustls::pki_types::ServerName;

use super::{
    Accepted, Answer, Failure, OtlpConfig, OtlpConfigError, Service,
    failure::{is_protobuf, said},
    tls::client_config,
};
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
        if head.status.is_success() {
            return Ok(accepted(&head.headers, &body));
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
        let body = match beginning(body).await {
            Ok(body) => body,
            Err(cause) if head.status.is_success() => return Err(Failure::here(&cause)),
            // What the receiver decided holds without its explanation too.
            Err(_) => Bytes::new(),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// What is beyond the limit is not read: no message of OTLP is so long, and of anything else the log has less.
async fn beginning(mut body: Incoming) -> Result<Bytes, hyper::Error> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > ANSWER_BYTES {
            break;
        }
    }
    Ok(read.freeze())
}

/// A success says that all was taken, whatever follows it: some receivers answer without a message, and proxies in between
/// with their own.
fn accepted(headers: &HeaderMap, body: &Bytes) -> Accepted {
    let is_readable =
        body.len() <= ANSWER_BYTES && (is_protobuf(headers) || !headers.contains_key(header::CONTENT_TYPE));
    match Answer::decode(body.clone()) {
        _ if body.is_empty() => Accepted::default(),
        Ok(answer) if is_readable => answer.into(),
        _ => Accepted { rejected: 0, answer: said(&String::from_utf8_lossy(body)), is_foreign: true },
    }
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

    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;

    use super::{
        super::{LOGS, METRICS},
        *,
    };

    #[test]
    fn a_success_is_one_whatever_its_body_and_one_that_is_no_otlp_is_told() {
        let check = |kind: Option<&'static str>, body: &[u8], expected: (u64, Option<&str>, bool)| {
            let headers = kind.map(|kind| (header::CONTENT_TYPE, HeaderValue::from_static(kind))).into_iter().collect();
            let Accepted { rejected, answer, is_foreign } = accepted(&headers, &Bytes::copy_from_slice(body));
            assert_eq!((rejected, answer.as_deref(), is_foreign), expected, "{kind:?} {} bytes", body.len());
        };
        let protobuf = Some("application/x-protobuf");
        let partial = ExportMetricsPartialSuccess { rejected_data_points: 3, error_message: "old".into() };
        let message = Answer { partial_success: Some(partial) }.encode_to_vec();
        for kind in [protobuf, Some("Application/X-Protobuf; charset=utf-8"), None] {
            check(kind, &message, (3, Some("old"), false));
        }
        for kind in [protobuf, Some("text/html"), None] {
            check(kind, b"", (0, None, false));
            check(kind, b"<html>login", (0, Some("<html>login"), true));
        }
        check(Some("text/plain"), &message, (0, said(&String::from_utf8_lossy(&message)).as_deref(), true));
        check(protobuf, b"\xff\xfe\x00", (0, Some("\u{fffd}\u{fffd}\0"), true));
        check(Some("text/html"), &vec![b'x'; ANSWER_BYTES + 1], (0, Some(&"x".repeat(200)), true));
        // A field that nobody knows, as long as can be.
        let mut long = vec![0x7a, 0x80, 0x80, 0x04];
        long.resize(4 + (1 << 16), b'x');
        check(protobuf, &long, (0, said(&String::from_utf8_lossy(&long)).as_deref(), true));
    }

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
