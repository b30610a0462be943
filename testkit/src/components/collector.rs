//! A real OpenTelemetry collector that hands all that it receives to the test, as OTLP's JSON.

use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;

use super::{
    process::{Directory, Process},
    program,
};
use crate::{
    free_address,
    http::{self, Reply, Server},
    wait_for,
};

const COMPONENT: &str = "otelcol-0.165.0";

/// A body that the collector exported.
#[derive(Clone, Debug)]
struct Export {
    path: String,
    body: Value,
}

/// A running collector. Ends with the value.
pub struct Collector {
    // In this order: the collector ends before the server that it sends to.
    process: Process,
    _server: Server,
    grpc: SocketAddr,
    http: SocketAddr,
    exports: Arc<Mutex<Vec<Export>>>,
}

impl Collector {
    /// Starts it with receivers for OTLP over gRPC and over HTTP.
    pub fn start() -> Self {
        Self::start_at(free_address())
    }

    /// The same with the receiver for gRPC at this address.
    pub fn start_at(grpc: SocketAddr) -> Self {
        let otelcol = program(COMPONENT, "otelcol");
        let exports = Arc::new(Mutex::new(Vec::new()));
        let server = Server::start({
            let exports = Arc::clone(&exports);
            move |request| {
                let body = serde_json::from_slice(&request.body)
                    .unwrap_or_else(|error| panic!("the collector's export to {} is no JSON: {error}", request.path));
                let export = Export { path: request.path, body };
                exports.lock().unwrap_or_else(PoisonError::into_inner).push(export);
                Reply { content_type: "application/json", body: "{}".to_owned() }
            }
        });
        let http = free_address();
        let directory = Directory::new("otelcol");
        let configuration = directory.write("otelcol.yml", &configuration(grpc, http, server.address()));
        let mut command = Command::new(otelcol);
        command.arg(format!("--config={}", configuration.display()));
        let mut process = Process::start("the OpenTelemetry collector", command, directory);
        process.wait_until_ready(|| {
            for address in [grpc, http] {
                TcpStream::connect(address).map_err(|error| format!("{address}: {error}"))?;
            }
            Ok(())
        });
        Self { process, _server: server, grpc, http, exports }
    }

    /// Where it receives OTLP over gRPC, as `http://ADDRESS:PORT`.
    pub fn grpc_endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Where it receives OTLP over HTTP.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Sends a body of OTLP's JSON to its HTTP receiver, for example to the path `/v1/metrics`.
    pub fn send_json(&self, path: &str, body: &Value) -> Result<(), String> {
        match http::ask(self.http, "POST", path, "application/json", &body.to_string())? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("the collector answered {code}: {body}")),
        }
    }

    /// All bodies of metrics (`ExportMetricsServiceRequest` in JSON) so far, oldest first.
    pub fn metrics(&self) -> Vec<Value> {
        self.exported("/v1/metrics")
    }

    /// All bodies of log records so far, oldest first.
    pub fn logs(&self) -> Vec<Value> {
        self.exported("/v1/logs")
    }

    /// Waits until `found` finds its answer in the bodies of metrics; panics with the collector's log after `limit`.
    pub fn wait_for_metrics<T>(&self, limit: Duration, found: impl Fn(&[Value]) -> Option<T>) -> T {
        wait_for("the collector's metrics", limit, || {
            let metrics = self.metrics();
            found(&metrics).ok_or_else(|| format!("not in {} bodies; its log:\n{}", metrics.len(), self.log()))
        })
    }

    /// The same in the bodies of log records.
    pub fn wait_for_logs<T>(&self, limit: Duration, found: impl Fn(&[Value]) -> Option<T>) -> T {
        wait_for("the collector's log records", limit, || {
            let logs = self.logs();
            found(&logs).ok_or_else(|| format!("not in {logs:?}; its log:\n{}", self.log()))
        })
    }

    /// Everything that it wrote so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal by its name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "the collector is there to get SIG{name}");
    }

    fn exported(&self, path: &str) -> Vec<Value> {
        let exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.iter().filter(|export| export.path == path).map(|export| export.body.clone()).collect()
    }
}

fn configuration(grpc: SocketAddr, http: SocketAddr, to: SocketAddr) -> String {
    let pipeline = "{receivers: [otlp], processors: [batch], exporters: [otlp_http]}";
    format!(
        "receivers:
  otlp:
    protocols:
      grpc: {{endpoint: '{grpc}'}}
      http: {{endpoint: '{http}'}}
processors:
  batch: {{timeout: 50ms}}
exporters:
  otlp_http: {{endpoint: 'http://{to}', encoding: json, compression: none}}
service:
  telemetry:
    metrics: {{level: none}}
  pipelines:
    metrics: {pipeline}
    logs: {pipeline}
"
    )
}
