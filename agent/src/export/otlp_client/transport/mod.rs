//! Requests to an OTLP receiver over gRPC or HTTP, whatever their signal.
//!
//! Encoded messages go in, and what the receiver made of them comes out. Knows neither snapshots nor queues, and repeats
//! nothing: [`super::connection`] decides what to do about a failure.

mod failure;
mod grpc;
mod http;
mod sdk;
pub(super) mod tls;

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;

pub(super) use self::failure::{Failure, Verdict};
pub use self::sdk::SdkExporterError;
pub(crate) use self::sdk::{SdkExporter, exporter};
use super::{OtlpConfig, OtlpConfigError, Protocol};

/// A signal's service at the receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    /// For the log.
    pub(crate) signal: &'static str,
    /// Path of the call over gRPC.
    grpc_path: &'static str,
    /// Path below the endpoint over HTTP.
    http_path: &'static str,
}

/// Takes an `ExportMetricsServiceRequest`.
pub(crate) const METRICS: Service = Service {
    signal: "metrics",
    grpc_path: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    http_path: "v1/metrics",
};

/// Takes an `ExportLogsServiceRequest`.
pub(crate) const LOGS: Service = Service {
    signal: "logs",
    grpc_path: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    http_path: "v1/logs",
};

/// What the receiver says about a request that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Points or records in it that it did not take.
    pub(super) rejected: u64,
    /// The beginning of why, or of any other warning.
    pub(super) answer: Option<String>,
    /// It answers with something else than OTLP, of which [`Self::answer`] is the beginning: it may be no receiver.
    pub(super) is_foreign: bool,
}

/// The answers of all services are alike on the wire, so one of them stands for all.
type Answer = ExportMetricsServiceResponse;

impl From<Answer> for Accepted {
    fn from(answer: Answer) -> Self {
        let partial = answer.partial_success.unwrap_or_default();
        let rejected = u64::try_from(partial.rejected_data_points).unwrap_or_default();
        Self { rejected, answer: failure::said(&partial.error_message), is_foreign: false }
    }
}

/// The way to one service.
pub(super) struct Transport {
    way: Way,
    timeout: Duration,
}

enum Way {
    Grpc(Box<grpc::Client>),
    Http(Box<http::Client>),
}

impl Transport {
    /// Connects once something is sent.
    pub(super) fn new(config: &OtlpConfig, service: Service) -> Result<Self, OtlpConfigError> {
        config.check()?;
        let way = match config.protocol {
            Protocol::Grpc => Way::Grpc(Box::new(grpc::Client::new(config, service)?)),
            Protocol::HttpProtobuf => Way::Http(Box::new(http::Client::new(config, service)?)),
        };
        Ok(Self { way, timeout: config.timeout })
    }

    /// Where the requests go, for the log.
    pub(super) fn target(&self) -> String {
        match &self.way {
            Way::Grpc(client) => client.target(),
            Way::Http(client) => client.target(),
        }
    }

    /// One attempt, within the timeout.
    pub(super) async fn send(&mut self, message: Bytes) -> Result<Accepted, Failure> {
        let timeout = self.timeout;
        let sent = async {
            match &mut self.way {
                Way::Grpc(client) => client.send(message, timeout).await,
                Way::Http(client) => client.send(message).await,
            }
        };
        if let Ok(outcome) = tokio::time::timeout(timeout, sent).await {
            return outcome;
        }
        // The peer may be gone without a word, and the old connection would find out much later.
        if let Way::Grpc(client) = &mut self.way {
            client.disconnect();
        }
        Err(Failure::timeout())
    }
}
