//! A receiver of OTLP that keeps, for each container's id, under which names it came and its last CPU time.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds become nanoseconds")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{NumberDataPoint, ResourceMetrics, metric, number_data_point},
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// What came for one container.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    /// Namespace, pod and container; parts that were not told are empty.
    pub names: Vec<[String; 3]>,
    /// The uids of pods under which it came.
    pub pod_uids: BTreeSet<String>,
    /// The last CPU time.
    pub cpu_ns: u64,
    /// Times of the points so far.
    last_time_ns: u64,
    /// What contradicts itself.
    pub faults: Vec<String>,
}

/// The receiver. Ends with the value.
pub struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<BTreeMap<String, Pushed>>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Clone)]
struct Service(Arc<Mutex<BTreeMap<String, Pushed>>>);

impl Receiver {
    /// On a free port of loopback.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let received = Arc::default();
        let service = MetricsServiceServer::new(Service(Arc::clone(&received))).max_decoding_message_size(64 << 20);
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Self { address, received, _runtime: runtime }
    }

    /// Where it receives, as `http://ADDRESS:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything so far, by the container's id.
    pub fn received(&self) -> BTreeMap<String, Pushed> {
        self.received.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut received = self.0.lock().unwrap();
        for resource in request.into_inner().resource_metrics {
            enter(&mut received, &resource);
        }
        drop(received);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn enter(received: &mut BTreeMap<String, Pushed>, resource: &ResourceMetrics) {
    let attributes = resource.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    let id = attribute(attributes, "container.id");
    let Some(point) = cpu_time(resource).filter(|_| !id.is_empty()) else { return };
    let names = ["k8s.namespace.name", "k8s.pod.name", "k8s.container.name"].map(|key| attribute(attributes, key));
    let pushed = received.entry(id).or_default();
    pushed.pod_uids.insert(attribute(attributes, "k8s.pod.uid"));
    if point.time_unix_nano <= pushed.last_time_ns {
        pushed.faults.push(format!("two points at {}, as {names:?}", point.time_unix_nano));
    }
    pushed.last_time_ns = point.time_unix_nano;
    let cpu_ns = match point.value {
        Some(number_data_point::Value::AsDouble(seconds)) => (seconds * 1e9).round() as u64,
        other => panic!("CPU time is {other:?}"),
    };
    if cpu_ns < pushed.cpu_ns {
        pushed.faults.push(format!("{} ns, then {cpu_ns} ns", pushed.cpu_ns));
    }
    pushed.cpu_ns = cpu_ns;
    if pushed.names.last() != Some(&names) {
        pushed.names.push(names);
    }
}

fn cpu_time(resource: &ResourceMetrics) -> Option<NumberDataPoint> {
    let mut metrics = resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
    let cpu = metrics.find(|metric| metric.name == "container.cpu.time")?;
    match &cpu.data {
        // A point without a value marks the end of its series.
        Some(metric::Data::Sum(sum)) => sum.data_points.iter().find(|point| point.value.is_some()).cloned(),
        _ => None,
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}
