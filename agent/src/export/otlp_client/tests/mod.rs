//! Tests of the client against real servers in this process, which behave as told: gRPC here, HTTP in http.rs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    metrics_service_server::{MetricsService, MetricsServiceServer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};
use tonic::{
    Code, Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Certificate, Identity, ServerTlsConfig, server::TcpIncoming},
};
use tonic_types::{ErrorDetails, StatusExt};

mod behaviours;
mod http;
mod logs;
mod own;

use super::{EXPORTER, OtlpClient, OtlpConfig, OtlpConfigError, OtlpTls, Protocol, first_delay};
use crate::{
    config::Compression,
    export::{
        fixture::{FakeSource, container, eventually, large, parse, snapshot, state},
        otlp::{
            self,
            tests::{encode, messages_as_prometheus},
        },
        prometheus::{self, Format},
    },
    registry::Snapshot,
    telemetry::otlp::OtlpCounters,
};

/// What the collector does with one request. After the last one it accepts.
#[derive(Clone)]
enum Turn {
    Accept,
    Reject(i64),
    Fail(Status),
    Hang,
}

#[derive(Clone, Default)]
struct Collector {
    turns: Arc<Mutex<VecDeque<Turn>>>,
    received: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    tokens: Arc<Mutex<Vec<String>>>,
    moments: Arc<Mutex<Vec<Instant>>>,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.moments.lock().unwrap().push(Instant::now());
        let token = request.metadata().get("x-token").map(|token| token.to_str().unwrap().into());
        self.tokens.lock().unwrap().extend(token);
        let turn = self.turns.lock().unwrap().pop_front().unwrap_or(Turn::Accept);
        let mut response = ExportMetricsServiceResponse::default();
        match turn {
            Turn::Accept => {}
            Turn::Reject(rejected_data_points) => {
                let error_message = "too old".into();
                response.partial_success = Some(ExportMetricsPartialSuccess { rejected_data_points, error_message });
            }
            Turn::Fail(status) => return Err(status),
            Turn::Hang => std::future::pending().await,
        }
        self.received.lock().unwrap().push(request.into_inner());
        Ok(Response::new(response))
    }
}

impl Collector {
    fn with(turns: impl IntoIterator<Item = Turn>) -> Self {
        let collector = Self::default();
        collector.turns.lock().unwrap().extend(turns);
        collector
    }

    async fn serve(&self) -> SocketAddr {
        self.serve_at("127.0.0.1:0").await.unwrap()
    }

    async fn serve_at(&self, address: &str) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr().unwrap();
        self.serve_on(listener);
        Ok(address)
    }

    fn serve_on(&self, listener: TcpListener) -> JoinHandle<()> {
        let service = MetricsServiceServer::new(self.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let server =
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(async move { server.await.unwrap() })
    }

    fn received(&self) -> Vec<ExportMetricsServiceRequest> {
        self.received.lock().unwrap().clone()
    }
}

fn config(address: SocketAddr) -> OtlpConfig {
    OtlpConfig {
        endpoint: format!("http://{address}"),
        headers: vec![("x-token".into(), "secret".into())],
        timeout: Duration::from_millis(300),
        interval: Duration::from_millis(50),
        first_pause: Duration::from_millis(5),
        compression: Compression::Gzip,
        ..OtlpConfig::default()
    }
}

struct Running {
    source: Arc<FakeSource>,
    counters: &'static OtlpCounters,
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

/// Counters of this test alone.
fn counters() -> &'static OtlpCounters {
    Box::leak(Box::default())
}

fn start(config: &OtlpConfig, source: Arc<FakeSource>) -> Running {
    let counters = counters();
    let client = OtlpClient::new(config, "node-1", Arc::clone(&source), counters).unwrap();
    let (stop, shutdown) = watch::channel(false);
    Running { source, counters, stop, ended: tokio::spawn(client.run(shutdown)) }
}

impl Running {
    /// Sent, dropped and rejected points, and failed attempts.
    fn counts(&self) -> [u64; 4] {
        let counters = self.counters;
        [&counters.sent, &counters.dropped, &counters.rejected, &counters.failed_attempts]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

fn per_snapshot() -> u64 {
    otlp::points(&snapshot(1))
}

#[tokio::test]
async fn accepted_snapshots_are_counted_acknowledged_and_equal_to_the_text_page() {
    let collector = Collector::default();
    let running = start(&config(collector.serve().await), FakeSource::new(snapshot(7), false));
    eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
    assert_eq!(running.source.exported()[0], (EXPORTER.to_owned(), 7));
    assert_eq!(running.counts()[0] % per_snapshot(), 0);
    assert_eq!(running.counts()[1..], [0, 0, 0]);
    assert_eq!(collector.tokens.lock().unwrap()[0], "secret");
    let message = collector.received()[0].clone();
    let page = prometheus::encode(&snapshot(7), None, Format::Text);
    assert_eq!(messages_as_prometheus(&[message]), parse(&String::from_utf8(page).unwrap()));
}

#[tokio::test]
async fn a_receiver_is_found_by_its_address_of_ipv6() {
    let collector = Collector::default();
    // Not every machine has it.
    let Ok(address) = collector.serve_at("[::1]:0").await else { return };
    let running = start(&config(address), FakeSource::new(snapshot(7), false));
    eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
    assert_eq!(running.counts()[1..], [0, 0, 0]);
}

#[tokio::test]
async fn a_retryable_failure_is_repeated_until_it_is_accepted() {
    for status in [
        Status::unavailable("restarting"),
        Status::deadline_exceeded("slow"),
        Status::with_error_details(
            Code::ResourceExhausted,
            "busy",
            ErrorDetails::with_retry_info(Some(Duration::from_millis(1))),
        ),
    ] {
        let code = status.code();
        let collector = Collector::with([Turn::Fail(status.clone()), Turn::Fail(status)]);
        let source = FakeSource::new(snapshot(7), false);
        let running = start(&config(collector.serve().await), source);
        eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
        let [sent, settled @ ..] = running.counts();
        assert_eq!((sent % per_snapshot(), settled), (0, [0, 0, 2]), "{code:?}");
    }
}

#[tokio::test]
async fn the_servers_delay_is_kept() {
    let delay = Duration::from_millis(400);
    let details = ErrorDetails::with_retry_info(Some(delay));
    let refusal = Status::with_error_details(Code::Unavailable, "later", details);
    let collector = Collector::with([Turn::Fail(refusal)]);
    let running = start(&config(collector.serve().await), FakeSource::new(snapshot(7), false));
    eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
    let moments = collector.moments.lock().unwrap().clone();
    assert!(moments[1] - moments[0] >= delay, "{:?}", moments[1] - moments[0]);
}

#[tokio::test]
async fn a_final_refusal_drops_and_counts_and_is_not_acknowledged() {
    for status in [Status::invalid_argument("no"), Status::resource_exhausted("too large")] {
        let code = status.code();
        let collector = Collector::with([Turn::Fail(status)]);
        let running = start(&config(collector.serve().await), FakeSource::new(snapshot(7), true));
        eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
        assert_eq!(running.counts()[1..], [per_snapshot(), 0, 1], "{code:?}");
        // Sequence 8 was refused, 9 is the next.
        assert_eq!(running.source.exported()[0].1, 9, "{code:?}");
    }
}

#[tokio::test]
async fn rejected_points_are_counted_and_not_repeated() {
    let collector = Collector::with([Turn::Reject(3)]);
    let running = start(&config(collector.serve().await), FakeSource::new(snapshot(7), false));
    eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
    let [sent, dropped, rejected, failed] = running.counts();
    assert_eq!((sent % per_snapshot(), dropped, rejected, failed), (per_snapshot() - 3, 0, 3, 0));
}

#[tokio::test]
async fn a_peer_that_hangs_is_cut_by_the_timeout() {
    let collector = Collector::with([Turn::Hang]);
    let began = Instant::now();
    let running = start(&config(collector.serve().await), FakeSource::new(snapshot(7), false));
    eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(running.counts()[3], 1);
    assert!(collector.moments.lock().unwrap().len() >= 2);
}

#[tokio::test]
async fn peers_that_speak_no_grpc_are_retried_without_end_and_the_queue_stays_bounded() {
    for answer in ["", "garbage", "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Closes each connection midway, after it has read a part of the request.
        let closing = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut piece = [0; 100];
                let _ = stream.read(&mut piece).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let config = OtlpConfig { queue_snapshots: 2, ..config(address) };
        let running = start(&config, FakeSource::new(snapshot(7), true));
        eventually("drops", || running.counts()[1] >= 2 * per_snapshot()).await;
        assert_eq!(running.counts()[0], 0, "{answer:?}");
        assert!(running.counts()[3] > 0, "{answer:?}");
        closing.abort();
        // Everything that was collected is accounted for in the end.
        running.stop.send(true).unwrap();
        running.ended.await.unwrap();
        let collected = running.source.asked.load(Ordering::Relaxed) * per_snapshot();
        let counters = running.counters;
        assert_eq!(counters.dropped.load(Ordering::Relaxed), collected, "{answer:?}");
    }
}

#[tokio::test]
async fn an_outage_ends_with_the_newest_snapshots_sent_and_the_others_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = OtlpConfig { queue_snapshots: 2, ..config(address) };
    let running = start(&config, FakeSource::new(snapshot(7), true));
    eventually("drops", || running.counts()[1] > 0).await;
    let collector = Collector::default();
    collector.serve_on(TcpListener::bind(address).await.unwrap());
    eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
    let [_, dropped, rejected, failed] = running.counts();
    let first = running.source.exported()[0].1;
    assert_eq!(dropped, (first - 8) * per_snapshot(), "all before {first} are counted");
    assert!(rejected == 0 && failed > 0);
}

#[tokio::test]
async fn a_snapshot_in_several_requests_goes_on_where_it_failed() {
    let whole = encode(&large(2000, 100)).len();
    assert!(whole > 2);
    let turns = [Turn::Accept, Turn::Fail(Status::unavailable("once")), Turn::Accept];
    let collector = Collector::with(turns);
    let address = collector.serve().await;
    let config = OtlpConfig { timeout: Duration::from_secs(10), ..config(address) };
    let running = start(&config, FakeSource::new(large(2000, 100), false));
    tokio::time::timeout(Duration::from_secs(20), async {
        while running.source.exported().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("an acknowledgement");
    let received = collector.received();
    assert_eq!(received[..whole], encode(&large(2000, 100))[..]);
}

#[tokio::test]
async fn an_entity_that_left_is_ended_at_the_receiver() {
    let collector = Collector::default();
    let source = FakeSource::new(snapshot(7), true);
    let running = start(&config(collector.serve().await), Arc::clone(&source));
    eventually("an export", || !running.source.exported().is_empty()).await;
    Arc::make_mut(&mut source.snapshot.lock().unwrap().entities)[0] = state(container("shop", "web-2", "nginx"));
    // One entity more than the snapshot has.
    let ended = |request: &ExportMetricsServiceRequest| request.resource_metrics.len() == 4;
    eventually("last points", || collector.received().iter().any(ended)).await;
    let after = collector.received().len() + 3;
    eventually("later exports", || collector.received().len() > after).await;
    let count = collector.received().iter().filter(|request| ended(request)).count();
    assert_eq!(count, 1, "said once");
}

#[tokio::test]
async fn a_stop_exports_once_more_and_within_its_bound() {
    let check = async |collector: Collector, accepted: usize| {
        let config = OtlpConfig {
            interval: Duration::from_hours(1),
            timeout: Duration::from_mins(1),
            ..config(collector.serve().await)
        };
        let running = start(&config, FakeSource::new(snapshot(7), false));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = Instant::now();
        running.stop.send(true).unwrap();
        running.ended.await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
        assert_eq!(collector.received().len(), accepted);
        assert_eq!(running.source.exported().len(), accepted);
        let dropped = running.counters.dropped.load(Ordering::Relaxed);
        assert_eq!(dropped, if accepted == 0 { per_snapshot() } else { 0 });
    };
    check(Collector::default(), 1).await;
    check(Collector::with([Turn::Hang]), 0).await;
    check(Collector::with([Turn::Fail(Status::unavailable("gone"))]), 0).await;
}

#[tokio::test]
async fn after_a_timeout_a_new_connection_is_made() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = start(&config(listener.local_addr().unwrap()), FakeSource::new(snapshot(7), false));
    // The first connection stays open and silent, as when the peer's machine is gone.
    let (_silent, _) = listener.accept().await.unwrap();
    let collector = Collector::default();
    collector.serve_on(listener);
    eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
    assert!(running.counts()[3] > 0);
}

#[tokio::test]
async fn a_stop_after_an_outage_sends_the_newest_snapshot_and_counts_the_older_ones() {
    let collector = Collector::with([Turn::Fail(Status::unavailable("once"))]);
    let config = OtlpConfig { first_pause: Duration::from_hours(1), ..config(collector.serve().await) };
    let running = start(&config, FakeSource::new(snapshot(7), true));
    eventually("a filled queue", || running.source.asked.load(Ordering::Relaxed) >= 3).await;
    running.stop.send(true).unwrap();
    running.ended.await.unwrap();
    let asked = running.source.asked.load(Ordering::Relaxed);
    assert_eq!(running.source.exported(), [(EXPORTER.to_owned(), 7 + asked)]);
    assert_eq!(running.counters.dropped.load(Ordering::Relaxed), (asked - 1) * per_snapshot());
}

#[test]
fn nodes_export_at_different_moments_of_the_interval_and_each_at_its_own() {
    let interval = Duration::from_secs(15);
    let moment = |node: &str, now_ms: u64| {
        let now = Duration::from_millis(now_ms);
        let delay = first_delay(node, interval, UNIX_EPOCH + now);
        assert!(delay < interval, "{delay:?}");
        (now + delay).as_nanos() % interval.as_nanos()
    };
    let mut thirds = [0; 3];
    for number in 0..300 {
        let node = format!("node-{number}");
        let first = moment(&node, 1_700_000_000_000);
        assert_eq!(first, moment(&node, 1_700_000_012_345), "{node}");
        thirds[usize::try_from(first * 3 / interval.as_nanos()).unwrap()] += 1;
    }
    assert!(thirds.iter().all(|third| *third > 60), "{thirds:?}");
    assert!(first_delay("node", interval, SystemTime::now()) < interval);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_once_whatever_the_protocol() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        refuses_what_cannot_work(protocol);
    }
}

fn refuses_what_cannot_work(protocol: Protocol) {
    let check = |config: &OtlpConfig, expected: &str| {
        let source = FakeSource::new(snapshot(1), false);
        let client = OtlpClient::new(config, "node-1", source, counters());
        let error: OtlpConfigError = client.err().expect(expected);
        assert!(error.to_string().contains(expected), "{error}");
    };
    let good = OtlpConfig { protocol, ..OtlpConfig::default() };
    for endpoint in ["", "localhost:4317", "ftp://x:1", "http://", "not a url"] {
        check(&OtlpConfig { endpoint: endpoint.into(), ..good.clone() }, "give http://HOST:PORT");
    }
    let header = |name: &str, value: &str| OtlpConfig { headers: vec![(name.into(), value.into())], ..good.clone() };
    check(&header("a b", "x"), "\"a b\" cannot be sent");
    check(&header("token", "line\nbreak"), "\"token\" cannot be sent");
    check(&header("token-bin", "x"), "\"token-bin\" cannot be sent");
    for (name, value) in [("content-length", "5"), ("transfer-encoding", "chunked"), ("content-encoding", "br")] {
        check(&header(name, value), &format!("{name:?} cannot be sent: each request has it already"));
    }
    check(&header("Host", "x"), "\"Host\" cannot be sent: each request has it already");
    check(&header("grpc-timeout", "1n"), "\"grpc-timeout\" cannot be sent: names that begin with grpc-");
    let twice = ["x-token", "X-Token"].map(|name| (name.to_owned(), "x".to_owned())).to_vec();
    check(&OtlpConfig { headers: twice, ..good.clone() }, "\"X-Token\" cannot be sent: it is there twice");
    check(&OtlpConfig { interval: Duration::ZERO, ..good.clone() }, "interval is zero");
    let tls = |tls: OtlpTls| OtlpConfig { endpoint: "https://localhost:4317".into(), tls, ..good.clone() };
    let half = OtlpTls { certificate_pem: Some(Vec::new()), ..OtlpTls::default() };
    check(&tls(half), "set both or neither");
    let not_pem = OtlpTls { certificate_pem: Some(b"x".to_vec()), key_pem: Some(b"y".to_vec()), ..OtlpTls::default() };
    check(&tls(not_pem), "check that each file is PEM");
    let good_pem = certificates().0;
    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        for pem in [broken.to_owned(), format!("{good_pem}{broken}")].iter().filter(|pem| **pem != good_pem) {
            let authority_pem = Some(pem.clone().into_bytes());
            check(&tls(OtlpTls { authority_pem, ..OtlpTls::default() }), "check that each file is PEM");
        }
    }
    let source = FakeSource::new(snapshot(1), false);
    assert!(OtlpClient::new(&tls(OtlpTls::default()), "node-1", source, counters()).is_ok());
    let debug = format!("{:?}", header("authorization", "Bearer 1234"));
    assert!(debug.contains("authorization") && !debug.contains("1234"), "{debug}");
}

/// The shape of a snapshot does not matter to the queue, its number does.
#[test]
fn an_unchanged_snapshot_is_sent_once() {
    let counters = counters();
    let queue = super::Queue::new(3, false, counters);
    let same: Arc<Snapshot> = Arc::new(snapshot(1));
    queue.push(Arc::clone(&same));
    queue.push(Arc::clone(&same));
    assert!(queue.finish());
    queue.push(same);
    assert!(queue.try_front().is_none());
    assert_eq!(counters.made.load(Ordering::Relaxed), per_snapshot());
}

#[test]
fn what_is_under_way_gives_way_to_nothing_and_afterwards_only_to_totals() {
    let (first, later) = (Arc::new(snapshot(1)), [2, 3, 4].map(|sequence| Arc::new(snapshot(sequence))));
    let request = || otlp::requests_of(&first, None, 1).next().unwrap();
    for delta in [false, true] {
        let counters = counters();
        let dropped = || counters.dropped.load(Ordering::Relaxed);
        let queue = super::Queue::new(1, delta, counters);
        queue.push(Arc::clone(&first));
        assert_eq!(queue.try_front().unwrap().done_entities, 0);
        let [second, third, fourth] = later.clone();
        queue.push(second);
        queue.push(third);
        assert_eq!(dropped(), per_snapshot(), "the second, while the first is under way");
        queue.settle(&request(), false);
        queue.pause();
        queue.push(fourth);
        let rest = per_snapshot() - request().points;
        assert_eq!(dropped(), per_snapshot() + if delta { per_snapshot() } else { rest + per_snapshot() });
        let front = queue.try_front().unwrap();
        assert_eq!((front.snapshot.sequence, front.done_entities), if delta { (1, 1) } else { (4, 0) });
        queue.drop_all();
        assert_eq!(counters.made.load(Ordering::Relaxed), dropped() + request().points);
    }
}

/// A certificate for `localhost` and loopback's addresses, and its key as PEM, signed by an authority whose certificate comes last.
fn certificates() -> (String, String, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(str::to_owned)).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.pem(), key.serialize_pem(), authority_pem)
}

#[tokio::test]
async fn an_encrypted_endpoint_is_used_only_where_both_sides_certificates_hold() {
    let (server_pem, server_key_pem, server_authority_pem) = certificates();
    let (client_pem, client_key_pem, client_authority_pem) = certificates();
    let (listener, hosts) = on_every_loopback().await;
    let port = listener.local_addr().unwrap().port();
    let collector = Collector::default();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server_pem, server_key_pem))
        .client_ca_root(Certificate::from_pem(client_authority_pem));
    let service = MetricsServiceServer::new(collector.clone())
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd);
    let server = tonic::transport::Server::builder().tls_config(tls).unwrap().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let pair = Pair { authority: server_authority_pem, client: client_pem, client_key: client_key_pem };
    let good = check_tls(&hosts.map(|host| format!("https://{host}:{port}")), Protocol::Grpc, pair).await;
    let _pushing = own::push(&good, own::telemetry());
    eventually("the agent's own metrics", || collector.received().iter().any(own::is_own)).await;
}

/// The server's authority, and the client's certificate and key, as PEM.
struct Pair {
    authority: String,
    client: String,
    client_key: String,
}

/// A listener, and the hosts of a URL that are reached there. Not every machine has IPv6.
async fn on_every_loopback() -> (TcpListener, [&'static str; 3]) {
    match TcpListener::bind("[::]:0").await {
        Ok(listener) => (listener, ["localhost", "127.0.0.1", "[::1]"]),
        Err(_) => (TcpListener::bind("127.0.0.1:0").await.unwrap(), ["localhost", "127.0.0.1", "127.0.0.1"]),
    }
}

/// Sends to an encrypted receiver with the right certificates, and with each wrong one, at the first endpoint. Returns what
/// is right.
async fn check_tls(endpoints: &[String; 3], protocol: Protocol, pair: Pair) -> OtlpConfig {
    let [first, ..] = endpoints;
    let with = |endpoint: &str, tls: OtlpTls| OtlpConfig {
        protocol,
        endpoint: endpoint.to_owned(),
        tls,
        ..config(SocketAddr::from(([127, 0, 0, 1], 1)))
    };
    let check_at = async |endpoint: &str, tls: OtlpTls, accepted: bool| {
        let running = start(&with(endpoint, tls), FakeSource::new(snapshot(7), false));
        let settled = || running.counts()[3] > 0 || !running.source.exported().is_empty();
        eventually("an attempt", settled).await;
        assert_eq!(!running.source.exported().is_empty(), accepted, "{endpoint}: {:?}", running.counts());
    };
    let check = async |tls: OtlpTls, accepted: bool| check_at(first, tls, accepted).await;
    let good = OtlpTls {
        authority_pem: Some(pair.authority.into_bytes()),
        certificate_pem: Some(pair.client.into_bytes()),
        key_pem: Some(pair.client_key.into_bytes()),
        server_name: None,
    };
    for endpoint in endpoints {
        check_at(endpoint, good.clone(), true).await;
    }
    let other_name = Some("collector.example.org".to_owned());
    check(OtlpTls { server_name: other_name, ..good.clone() }, false).await;
    check(OtlpTls { certificate_pem: None, key_pem: None, ..good.clone() }, false).await;
    let (_, _, stranger_pem) = certificates();
    check(OtlpTls { authority_pem: Some(stranger_pem.into_bytes()), ..good.clone() }, false).await;
    check(OtlpTls { authority_pem: None, ..good.clone() }, false).await;
    with(first, good)
}
