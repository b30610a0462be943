//! A real `VictoriaMetrics`, a receiver of OTLP over HTTP of another make than OpenTelemetry's own collector.

use std::{collections::BTreeMap, net::SocketAddr, process::Command};

use serde_json::Value;

use super::{
    process::{Directory, Process},
    program,
};
use crate::{free_address, http};

const COMPONENT: &str = "victoria-metrics";

/// A stored series.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// All labels, `__name__` among them.
    pub labels: BTreeMap<String, String>,
    /// Time in milliseconds and value, oldest first.
    pub samples: Vec<(u64, f64)>,
}

/// A running `VictoriaMetrics`. Ends with the value.
pub struct VictoriaMetrics {
    _process: Process,
    address: SocketAddr,
}

impl VictoriaMetrics {
    /// Starts it so that it names what it gets over OTLP as Prometheus does, with unit and `_total`.
    pub fn start() -> Self {
        let victoria_metrics = program(COMPONENT, "victoria-metrics");
        let directory = Directory::new("victoria-metrics");
        let address = free_address();
        let mut command = Command::new(victoria_metrics);
        command
            .arg(format!("-storageDataPath={}", directory.path().join("data").display()))
            .arg(format!("-httpListenAddr={address}"))
            .args(["-opentelemetry.usePrometheusNaming", "-retentionPeriod=1d", "-memory.allowedBytes=64MB"]);
        let mut process = Process::start("VictoriaMetrics", command, directory);
        process.wait_until_ready(|| match http::get(address, "/health")? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("not ready: {code} {}", body.trim())),
        });
        Self { _process: process, address }
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every series that the selector matches, with all of its samples as they were received.
    pub fn stored(&self, selector: &str) -> Result<Vec<Stored>, String> {
        // What came last is not searched before it is flushed.
        http::get(self.address, "/internal/force_flush")?;
        let path = format!("/api/v1/export?match[]={}", http::percent_encoded(selector));
        let (code, body) = http::get(self.address, &path)?;
        if code != 200 {
            return Err(format!("{path}: {code} {body}"));
        }
        body.lines().map(stored).collect()
    }
}

/// One line of the export: a JSON object.
fn stored(line: &str) -> Result<Stored, String> {
    let object: Value = serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}"))?;
    let list = |name: &str| object[name].as_array().cloned().unwrap_or_default();
    let labels = object["metric"].as_object().ok_or_else(|| format!("no labels in {line}"))?;
    let labels = labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let times = list("timestamps").into_iter().map(|time| time.as_u64().unwrap_or_default());
    // A mark of staleness is no number in JSON.
    let values = list("values").into_iter().map(|value| value.as_f64().unwrap_or(f64::NAN));
    Ok(Stored { labels: labels.collect(), samples: times.zip(values).collect() })
}
