//! The agent's own metrics, pushed by OpenTelemetry's SDK over the client's connections.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, NumberDataPoint, ResourceMetrics, metric::Data, number_data_point},
};
use opentelemetry_sdk::metrics::{data::ResourceMetrics as SdkMetrics, exporter::PushMetricExporter as _};
use prost::Message as _;

use super::*;
use crate::{
    export::{
        otlp_client::transport::exporter,
        own::{OwnPush, resource_attributes},
    },
    telemetry::{SelfTelemetry, metrics},
};

/// A push that can be stopped.
pub(super) struct Pushing {
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

/// Pushes the agent's own metrics and nothing else.
pub(super) fn push(config: &OtlpConfig, telemetry: SelfTelemetry) -> Pushing {
    let own_resource = resource_attributes("node-1", &BTreeMap::new(), None);
    let config = OtlpConfig { own_resource, ..config.clone() };
    let push = OwnPush::new(&config, "node-1", Arc::new(telemetry)).unwrap();
    let (stop, shutdown) = watch::channel(false);
    Pushing { stop, ended: tokio::spawn(push.run(shutdown)) }
}

impl Pushing {
    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.ended.await.unwrap();
    }
}

pub(super) fn telemetry() -> SelfTelemetry {
    SelfTelemetry::new("1.2.3", Some(counters())).unwrap()
}

/// Whether this is a push of the agent's own metrics.
pub(super) fn is_own(request: &ExportMetricsServiceRequest) -> bool {
    let scopes = request.resource_metrics.iter().flat_map(|of_one| &of_one.scope_metrics);
    scopes.flat_map(|scope| &scope.metrics).any(|metric| metric.name == "podlens.build.info")
}

fn string(pair: &KeyValue) -> String {
    match pair.value.clone().unwrap().value.unwrap() {
        any_value::Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    }
}

/// The labels' values and the number of each point.
fn numbers(of_agent: &ResourceMetrics, name: &str) -> Vec<String> {
    let metrics: &[Metric] = &of_agent.scope_metrics[0].metrics;
    let metric = metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name}: {metrics:?}"));
    let points: &[NumberDataPoint] = match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
            &sum.data_points
        }
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    };
    let text = |point: &NumberDataPoint| {
        let labels: Vec<String> = point.attributes.iter().map(string).collect();
        let number_data_point::Value::AsDouble(value) = point.value.unwrap() else { panic!("{point:?}") };
        format!("{} {value}", labels.join(","))
    };
    let mut texts: Vec<String> = points.iter().map(text).collect();
    texts.sort();
    texts
}

/// Pushes to a receiver of this protocol, of which `received` tells what came.
async fn pushes_what_the_page_says(config: &OtlpConfig, received: impl Fn() -> Vec<ExportMetricsServiceRequest>) {
    let counters = counters();
    counters.sent.store(10, Ordering::Relaxed);
    let telemetry = SelfTelemetry::new("1.2.3", Some(counters)).unwrap();
    let slots = metrics::SLOTS.gauges().unwrap();
    slots.with_label_values(&["live"]).set(5.0);
    telemetry.register(slots.clone()).unwrap();
    let losses = metrics::LOST.counters().unwrap();
    telemetry.register(losses.clone()).unwrap();
    telemetry.observe_scrape(Duration::from_millis(250));
    telemetry.observe_scrape(Duration::from_secs(2));
    let pushing = push(config, telemetry);
    eventually("two pushes", || received().len() >= 2).await;
    slots.with_label_values(&["live"]).set(6.0);
    losses.with_label_values(&["registry", "late"]).inc();
    pushing.stop().await;

    let received = received();
    let (first, last) = (&received[0].resource_metrics[0], &received.last().unwrap().resource_metrics[0]);
    let resource = first.resource.as_ref().unwrap();
    let identity: BTreeMap<&str, String> =
        resource.attributes.iter().map(|pair| (pair.key.as_str(), string(pair))).collect();
    assert_eq!(identity["service.name"], "podlens");
    assert_eq!(identity["service.instance.id"], "node-1");
    assert_eq!(identity["k8s.node.name"], "node-1");
    let metrics = &first.scope_metrics[0].metrics;
    assert!(metrics.iter().all(|metric| metric.name.starts_with("podlens.")), "{metrics:?}");
    assert_eq!(numbers(first, "podlens.build.info"), ["1.2.3 1"]);
    assert_eq!(numbers(first, "podlens.otlp.points"), ["dropped 0", "rejected 0", "sent 10"]);
    assert_eq!(numbers(first, "podlens.slots"), ["live 5"]);
    assert_eq!(numbers(first, "podlens.scrape.count"), [" 2"]);
    assert_eq!(numbers(first, "podlens.scrape.sum"), [" 2.25"]);
    assert_eq!(numbers(last, "podlens.slots"), ["live 6"], "the last push is new");
    assert_eq!(numbers(last, "podlens.lost"), ["registry,late 1"], "a series that came later");
    // Own points are none of the client's.
    assert_eq!(numbers(last, "podlens.otlp.points"), ["dropped 0", "rejected 0", "sent 10"]);
}

#[tokio::test]
async fn the_same_numbers_are_pushed_over_grpc_under_a_resource_of_the_agents_own() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let collector = Collector::default();
        let config = OtlpConfig { compression, ..config(collector.serve().await) };
        pushes_what_the_page_says(&config, || collector.received()).await;
        let tokens = collector.tokens.lock().unwrap();
        assert!(tokens.len() >= 3 && tokens.iter().all(|token| token == "secret"), "{tokens:?}");
    }
}

#[tokio::test]
async fn the_same_numbers_are_pushed_over_http_with_the_clients_own_headers_and_compression() {
    for (compression, encoding) in http::ENCODINGS {
        let (address, mut coming) = http::receiver([]).await;
        let config = OtlpConfig { compression, ..http::over_http(address) };
        let messages = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&messages);
        tokio::spawn(async move {
            while let Some((head, message)) = coming.recv().await {
                let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
                assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/v1/metrics"));
                assert_eq!(header("content-type"), Some("application/x-protobuf"));
                assert_eq!(header("content-encoding"), encoding);
                assert_eq!(header("x-token"), Some("secret"));
                assert!(header("user-agent").unwrap().starts_with("podlens/"));
                taken.lock().unwrap().push(ExportMetricsServiceRequest::decode(&message[..]).unwrap());
            }
        });
        pushes_what_the_page_says(&config, || messages.lock().unwrap().clone()).await;
    }
}

#[tokio::test]
async fn own_metrics_come_once_the_receiver_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let _pushing = push(&config(address), telemetry());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let collector = Collector::default();
    collector.serve_on(TcpListener::bind(address).await.unwrap());
    eventually("a push", || !collector.received().is_empty()).await;
}

#[tokio::test]
async fn each_push_that_fails_is_counted() {
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let counters = counters();
    let _pushing = push(&config(away), SelfTelemetry::new("1.2.3", Some(counters)).unwrap());
    eventually("a second failure", || counters.failed_attempts.load(Ordering::Relaxed) >= 2).await;
}

/// What the log would say of a push, of the library's own words the longest.
async fn cause_of(config: &OtlpConfig) -> (String, String) {
    let sdk = exporter(config).unwrap();
    let failed = sdk.exporter.export(&SdkMetrics::default()).await.unwrap_err().to_string();
    (sdk.cause(&failed), sdk.endpoint)
}

#[tokio::test]
async fn a_push_that_fails_is_told_with_its_cause_and_its_endpoint() {
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (cause, endpoint) = cause_of(&http::over_http(away)).await;
    assert!(cause.starts_with("connection: ") && cause.contains("Connection refused"), "{cause}");
    assert_eq!(endpoint, format!("http://{away}/v1/metrics"));
    let (cause, endpoint) = cause_of(&config(away)).await;
    assert!(cause.contains("Connection refused"), "{cause}");
    assert_eq!(endpoint, format!("http://{away}"));

    let (address, _coming) = http::receiver([Some((401, vec![], b"no such\ntenant".to_vec()))]).await;
    let (cause, _) = cause_of(&http::over_http(address)).await;
    assert_eq!(cause, "401 Unauthorized: no such\ntenant");
    let (address, _coming) = http::receiver(std::iter::repeat_n(None, 20)).await;
    let (cause, _) = cause_of(&http::over_http(address)).await;
    assert_eq!(cause, "timeout: no answer within the timeout");
}

#[tokio::test]
async fn own_metrics_come_after_a_receiver_that_did_not_answer() {
    let collector = Collector::with([Turn::Hang, Turn::Hang]);
    let _pushing = push(&config(collector.serve().await), telemetry());
    eventually("a push over gRPC", || !collector.received().is_empty()).await;

    let (address, mut coming) = http::receiver([None, None]).await;
    let _pushing = push(&http::over_http(address), telemetry());
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_secs(10), coming.recv()).await.expect("an attempt").unwrap();
    }
}

#[test]
fn stopping_waits_for_no_receiver_that_hangs_or_is_away_and_neither_does_the_runtimes_end() {
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [hanging.local_addr().unwrap(), away] {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            for running in [Duration::ZERO, Duration::from_millis(200)] {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                let timeout = Duration::from_secs(10);
                let config = OtlpConfig { protocol, timeout, ..config(address) };
                let began = runtime.block_on(async {
                    let pushing = push(&config, telemetry());
                    tokio::time::sleep(running).await;
                    let began = Instant::now();
                    pushing.stop().await;
                    began
                });
                drop(runtime);
                assert!(began.elapsed() < Duration::from_secs(3), "{protocol:?} {running:?} {:?}", began.elapsed());
            }
        }
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_before_anything_is_pushed() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let good = OtlpConfig { protocol, ..OtlpConfig::default() };
        let header = OtlpConfig { headers: vec![("a b".into(), "x".into())], ..good.clone() };
        let half = OtlpTls { certificate_pem: Some(Vec::new()), ..OtlpTls::default() };
        let half = OtlpConfig { endpoint: "https://localhost:4317".into(), tls: half, ..good.clone() };
        let endpoint = OtlpConfig { endpoint: "ftp://x:1".into(), ..good.clone() };
        for (config, expected) in
            [(endpoint, "give http://HOST:PORT"), (header, "\"a b\" cannot be sent"), (half, "set both or neither")]
        {
            let refused = OwnPush::new(&config, "node-1", Arc::new(telemetry())).err().expect(expected);
            assert!(refused.to_string().contains(expected), "{refused}");
        }
        assert!(OwnPush::new(&good, "node-1", Arc::new(telemetry())).is_ok());
    }
}
