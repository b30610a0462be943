//! The exporter of OpenTelemetry's SDK over podlens' own connections.
//!
//! The library builds messages and decides what is repeated. Where they go, with which headers, certificates and
//! compression and for how long is the same as for every other push: what the library reads from the environment on its own
//! has no say, but for compression over gRPC, which the variables can switch on where the configuration has it off.
//! [`crate::export::own`] calls it.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    Compression as SdkCompression, ExporterBuildError, MetricExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::metrics::Temporality;
use tokio::runtime::Handle;

use super::{Failure, METRICS, OtlpConfig, OtlpConfigError, Protocol, grpc, http as over_http};
use crate::{config::Compression, log::beginning, signal::lock};

/// Why the SDK's exporter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SdkExporterError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] OtlpConfigError),
    /// The library refuses its settings.
    #[error("OpenTelemetry's exporter for the agent's own metrics cannot be built: switch OTLP off and report this")]
    Library(#[from] ExporterBuildError),
}

/// The library's exporter, and what its errors do not say.
pub(crate) struct SdkExporter {
    pub(crate) exporter: MetricExporter,
    /// Where it sends to, for the log.
    pub(crate) endpoint: String,
    failure: LastFailure,
}

/// Of the last request over HTTP, if it failed.
type LastFailure = Arc<Mutex<Option<Failure>>>;

impl SdkExporter {
    /// Why a push failed, in the library's words where nobody knows more: it tells the cause over gRPC, but not over HTTP.
    pub(crate) fn cause(&self, told: &str) -> String {
        let failure = lock(&self.failure).clone();
        let known = failure.map(|Failure { code, answer, cause, .. }| [Some(code), cause, answer]);
        let known = known.map(|parts| parts.into_iter().flatten().collect::<Vec<_>>().join(": "));
        known.unwrap_or_else(|| beginning(told))
    }
}

/// An exporter that connects once something is sent. Call it within a runtime.
///
/// # Errors
/// If the configuration cannot work whatever the receiver does.
pub(crate) fn exporter(config: &OtlpConfig) -> Result<SdkExporter, SdkExporterError> {
    config.check()?;
    let failure = LastFailure::default();
    let temporality = if config.options.delta { Temporality::Delta } else { Temporality::Cumulative };
    let builder = MetricExporter::builder().with_temporality(temporality);
    let (exporter, endpoint) = match config.protocol {
        Protocol::Grpc => {
            let (metadata, timeout) = (config.to_metadata()?, config.timeout);
            // Called last: in place of the library's own headers.
            let settle = move |mut request: tonic::Request<()>| {
                *request.metadata_mut() = metadata.clone();
                request.set_timeout(timeout);
                Ok(request)
            };
            let endpoint = config.to_endpoint()?;
            let channel = grpc::channel(&endpoint, timeout);
            let builder = builder.with_tonic().with_channel(channel).with_interceptor(settle).with_timeout(timeout);
            let builder = match config.compression {
                Compression::None => builder,
                Compression::Gzip => builder.with_compression(SdkCompression::Gzip),
                Compression::Zstd => builder.with_compression(SdkCompression::Zstd),
            };
            (builder.build()?, over_http::without_credentials(endpoint.uri(), false))
        }
        Protocol::HttpProtobuf => {
            let client = over_http::Client::new(config, METRICS)?;
            let target = client.target();
            let client = OverHttp {
                client: Arc::new(client),
                timeout: config.timeout,
                runtime: Handle::current(),
                failure: Arc::clone(&failure),
            };
            let builder = builder.with_http().with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
            let builder = builder.with_http_client(client).with_endpoint(target.clone()).with_timeout(config.timeout);
            (builder.build()?, target)
        }
    };
    Ok(SdkExporter { exporter, endpoint, failure })
}

/// Posts what the library gives, as podlens posts.
struct OverHttp {
    client: Arc<over_http::Client>,
    timeout: Duration,
    /// The library's thread belongs to none.
    runtime: Handle,
    failure: LastFailure,
}

impl fmt::Debug for OverHttp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OverHttp").field("target", &self.client.target()).finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for OverHttp {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let posted = async move { tokio::time::timeout(timeout, client.post(request.into_body())).await };
        let outcome = self.runtime.spawn(posted).await?.unwrap_or_else(|_| Err(Failure::timeout()));
        *lock(&self.failure) = match &outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(Failure::from_http(answer.status(), answer.headers(), answer.body())),
            Err(failure) => Some(failure.clone()),
        };
        outcome.map_err(|failure| failure.code.into())
    }
}
