//! Tests of the agent's own metrics: as text, as `OpenMetrics`, and as OTLP at a real gRPC server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{NumberDataPoint, metric::Data, number_data_point},
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, transport::server::TcpIncoming};

use super::{SelfPush, SelfTelemetry};
use crate::export::{
    fixture::{eventually, parse},
    otlp_client::{OtlpConfig, OtlpCounters},
    prometheus::Format,
};

fn telemetry() -> (SelfTelemetry, Arc<OtlpCounters>) {
    let counters = Arc::new(OtlpCounters::default());
    (SelfTelemetry::new("1.2.3", Some(Arc::clone(&counters))).unwrap(), counters)
}

fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    parse(page).get(&(name.to_owned(), labels)).copied()
}

#[test]
fn a_page_tells_build_process_scrapes_points_and_what_was_added() {
    let (telemetry, counters) = telemetry();
    counters.sent.store(10, Ordering::Relaxed);
    counters.dropped.store(2, Ordering::Relaxed);
    telemetry.observe_scrape(Duration::from_millis(2));
    let slots = telemetry.integer_gauge("podlens_slots", "Slots", &["state"]).unwrap();
    slots.with_label_values(&["live"]).set(5);
    let lost = telemetry.counter("podlens_lost_total", "Lost", &["collector", "reason"]).unwrap();
    lost.with_label_values(&["scheduler", "full"]).inc();
    let page = telemetry.encode(Format::Text);
    for (name, labels, expected) in [
        ("podlens_build_info", &[("version", "1.2.3")][..], 1.0),
        ("podlens_otlp_points_total", &[("result", "sent")], 10.0),
        ("podlens_otlp_points_total", &[("result", "dropped")], 2.0),
        ("podlens_otlp_points_total", &[("result", "rejected")], 0.0),
        ("podlens_scrape_seconds_bucket", &[("le", "0.001")], 0.0),
        ("podlens_scrape_seconds_bucket", &[("le", "0.003")], 1.0),
        ("podlens_slots", &[("state", "live")], 5.0),
        ("podlens_lost_total", &[("collector", "scheduler"), ("reason", "full")], 1.0),
    ] {
        assert_eq!(value(&page, name, labels), Some(expected), "{name} {labels:?}\n{page}");
    }
    assert!(value(&page, "process_resident_memory_bytes", &[]).unwrap() > 0.0);
    let twice = telemetry.integer_gauge("podlens_slots", "Slots", &["state"]);
    assert!(twice.err().unwrap().to_string().contains("podlens_slots"));
}

#[test]
fn nothing_is_said_about_points_where_nothing_is_pushed() {
    let telemetry = SelfTelemetry::new("1.2.3", None).unwrap();
    assert!(!telemetry.encode(Format::Text).contains("podlens_otlp_points"));
}

#[test]
fn open_metrics_names_counter_families_without_their_suffix() {
    let (telemetry, _) = telemetry();
    let counter = telemetry.counter("podlens_x_total", "A \"quoted\" \\ help", &[]).unwrap();
    counter.with_label_values::<&str>(&[]).inc();
    let page = telemetry.encode(Format::OpenMetrics);
    let expected = "# HELP podlens_x A \\\"quoted\\\" \\\\ help\n# TYPE podlens_x counter\npodlens_x_total 1\n";
    assert!(page.contains(expected), "{page}");
    assert!(page.contains("# TYPE podlens_scrape_seconds histogram\n"), "{page}");
}

#[derive(Clone, Default)]
struct Collector {
    received: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.received.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_numbers_are_pushed_under_a_resource_of_the_agents_own() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = Collector::default();
    let service = MetricsServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip);
    let server =
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);

    let (telemetry, counters) = telemetry();
    counters.sent.store(10, Ordering::Relaxed);
    let slots = telemetry.integer_gauge("podlens_slots", "Slots", &["state"]).unwrap();
    slots.with_label_values(&["live"]).set(5);
    let interval = Duration::from_millis(50);
    let config = OtlpConfig { endpoint, interval, ..OtlpConfig::default() };
    let push = SelfPush::start(&telemetry, &config, "node-1").unwrap();
    eventually("a push", || !collector.received.lock().unwrap().is_empty()).await;
    slots.with_label_values(&["live"]).set(6);
    push.stop().await;

    let received = collector.received.lock().unwrap();
    let resource = received[0].resource_metrics[0].resource.as_ref().unwrap();
    let identity: BTreeMap<&str, String> =
        resource.attributes.iter().map(|pair| (pair.key.as_str(), string(pair))).collect();
    assert_eq!(identity["service.name"], "podlens");
    assert_eq!(identity["service.instance.id"], "node-1");
    let points = |at: usize, name: &str| {
        let metrics = &received[at].resource_metrics[0].scope_metrics[0].metrics;
        let metric = metrics.iter().find(|metric| metric.name == name).expect(name);
        let points: Vec<NumberDataPoint> = match metric.data.clone().unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic);
                sum.data_points
            }
            Data::Gauge(gauge) => gauge.data_points,
            other => panic!("{other:?}"),
        };
        points
            .iter()
            .map(|point| {
                let labels: Vec<String> = point.attributes.iter().map(string).collect();
                let number_data_point::Value::AsDouble(value) = point.value.unwrap() else { panic!("{point:?}") };
                (labels.join(","), value)
            })
            .collect::<BTreeMap<String, f64>>()
    };
    assert_eq!(points(0, "podlens.otlp.points")["sent"].to_bits(), 10.0_f64.to_bits());
    assert_eq!(points(0, "podlens.otlp.points")["dropped"].to_bits(), 0.0_f64.to_bits());
    assert_eq!(points(0, "podlens.slots")["live"].to_bits(), 5.0_f64.to_bits());
    assert_eq!(
        points(received.len() - 1, "podlens.slots")["live"].to_bits(),
        6.0_f64.to_bits(),
        "the last push is new"
    );
}

#[test]
fn stopping_waits_for_no_peer_that_hangs_and_neither_does_the_runtimes_end() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (telemetry, _) = telemetry();
    let config = OtlpConfig { endpoint, ..OtlpConfig::default() };
    let began = Instant::now();
    runtime.block_on(async {
        SelfPush::start(&telemetry, &config, "node-1").unwrap().stop().await;
    });
    drop(runtime);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

fn string(pair: &KeyValue) -> String {
    match pair.value.clone().unwrap().value.unwrap() {
        any_value::Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    }
}
