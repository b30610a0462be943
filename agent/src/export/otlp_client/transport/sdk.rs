//! The exporter of OpenTelemetry's SDK over podlens' own connections.
//!
//! The library builds messages and decides what is repeated. Where they go, with which headers, certificates and
//! compression and for how long is the same as for every other push: what the library reads from the environment on its own
//! has no say, but for compression over gRPC, which the variables can switch on where the configuration has it off.
//! [`crate::export::own`] calls it.

use std::{fmt, sync::Arc, time::Duration};

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

use super::{METRICS, OtlpConfig, OtlpConfigError, Protocol, grpc, http as over_http};
use crate::config::Compression;

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

/// An exporter that connects once something is sent. Call it within a runtime.
///
/// # Errors
/// If the configuration cannot work whatever the receiver does.
pub(crate) fn exporter(config: &OtlpConfig) -> Result<MetricExporter, SdkExporterError> {
    config.check()?;
    let temporality = if config.options.delta { Temporality::Delta } else { Temporality::Cumulative };
    let builder = MetricExporter::builder().with_temporality(temporality);
    let exporter = match config.protocol {
        Protocol::Grpc => {
            let (metadata, timeout) = (config.to_metadata()?, config.timeout);
            // Called last: in place of the library's own headers.
            let settle = move |mut request: tonic::Request<()>| {
                *request.metadata_mut() = metadata.clone();
                request.set_timeout(timeout);
                Ok(request)
            };
            let channel = grpc::channel(&config.to_endpoint()?, timeout);
            let builder = builder.with_tonic().with_channel(channel).with_interceptor(settle).with_timeout(timeout);
            match config.compression {
                Compression::None => builder,
                Compression::Gzip => builder.with_compression(SdkCompression::Gzip),
                Compression::Zstd => builder.with_compression(SdkCompression::Zstd),
            }
            .build()?
        }
        Protocol::HttpProtobuf => {
            let client = over_http::Client::new(config, METRICS)?;
            let target = client.target();
            let client = OverHttp { client: Arc::new(client), timeout: config.timeout, runtime: Handle::current() };
            let builder = builder.with_http().with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
            builder.with_http_client(client).with_endpoint(target).with_timeout(config.timeout).build()?
        }
    };
    Ok(exporter)
}

/// Posts what the library gives, as podlens posts.
struct OverHttp {
    client: Arc<over_http::Client>,
    timeout: Duration,
    /// The library's thread belongs to none.
    runtime: Handle,
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
        self.runtime.spawn(posted).await??.map_err(|failure| failure.cause.unwrap_or_default().into())
    }
}
