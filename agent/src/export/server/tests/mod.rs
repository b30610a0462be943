//! Tests of the server through real sockets on the loopback address.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod web;

use std::{
    io::Read,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{CONNECTIONS, Content, Listen, PATIENCE, Server, ServerError, Verdict};
use crate::{
    config::ClassicHistograms,
    export::{
        fixture::{FakeSource, eventually, large, snapshot},
        metric_family::as_text,
        prometheus::{self, Format},
    },
    telemetry::SelfTelemetry,
};

struct Running {
    address: SocketAddr,
    health: Option<SocketAddr>,
    source: Arc<FakeSource>,
    telemetry: Arc<SelfTelemetry>,
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

fn on_loopback() -> Listen {
    Listen { address: "127.0.0.1:0".parse().unwrap(), health: None, web: None }
}

fn start(source: Arc<FakeSource>, patience: Duration) -> Running {
    start_on(&on_loopback(), source, patience)
}

fn start_on(listen: &Listen, source: Arc<FakeSource>, patience: Duration) -> Running {
    let telemetry = Arc::new(SelfTelemetry::new("1.2.3", None).unwrap());
    let content = Content {
        source: Arc::clone(&source),
        telemetry: Arc::clone(&telemetry),
        alive: Arc::new(|| Verdict { good: true, text: "ok\n".into() }),
        ready: Arc::new(|| Verdict { good: false, text: "scheduler: failed\n".into() }),
        node: "node<1>".into(),
        linger: Duration::from_mins(5),
        classic_histograms: ClassicHistograms::Auto,
    };
    let mut server = Server::bind(listen, content).unwrap();
    server.shared.patience = patience;
    let (stop, shutdown) = watch::channel(false);
    let (address, health) = (server.address(), server.health_address());
    Running { address, health, source, telemetry, stop, ended: tokio::spawn(server.run(shutdown)) }
}

fn started() -> Running {
    start(FakeSource::new(snapshot(7), false), PATIENCE)
}

struct Answer {
    status: String,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Sends bytes and reads until the server closes.
async fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // A server that refuses may reset the connection after its answer.
    let _ = stream.read_to_end(&mut all).await;
    divided(&all)
}

/// An answer's parts.
fn divided(all: &[u8]) -> Answer {
    let end = all.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(all.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.lines().next().unwrap_or_default().to_owned();
    Answer { status, head, body: all[end..].to_vec() }
}

async fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    send(address, &request).await
}

#[tokio::test]
async fn each_path_and_method_has_its_answer() {
    let running = started();
    for (method, path, status, content) in [
        ("GET", "/", "200 OK", "node&lt;1&gt;"),
        ("GET", "/healthz", "200 OK", "ok\n"),
        ("GET", "/readyz", "503 Service Unavailable", "scheduler: failed\n"),
        ("GET", "/metrics", "200 OK", "podlens_build_info{version=\"1.2.3\"} 1\n"),
        ("GET", "/metrics/", "404 Not Found", "not found"),
        ("GET", "/favicon.ico", "404 Not Found", "not found"),
        ("POST", "/metrics", "405 Method Not Allowed", "use GET or HEAD"),
        ("DELETE", "/", "405 Method Not Allowed", "use GET or HEAD"),
    ] {
        let answer = request(running.address, method, path, "").await;
        assert_eq!(answer.status, format!("HTTP/1.1 {status}"), "{method} {path}");
        assert!(answer.text().contains(content), "{method} {path}: {}", answer.text());
        let allows = status.starts_with("405").then_some("GET, HEAD");
        assert_eq!(answer.header("allow"), allows, "{method} {path}");
    }
}

#[tokio::test]
async fn a_page_is_the_encoders_text_and_is_acknowledged_once_all_behind_the_address_came() {
    let running = started();
    let answer = request(running.address, "GET", "/metrics", "").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let encoded = prometheus::encode(&snapshot(7), None, Format::Text);
    assert!(answer.body.starts_with(&encoded), "{}", answer.text());
    let source = Arc::clone(&running.source);
    eventually("an acknowledgement", || !source.exported().is_empty()).await;
    assert_eq!(source.exported(), [("prometheus/127.0.0.1".to_owned(), 0)], "another may share the address");
    // Until everyone has come who would at this pace.
    for _ in 0..100 {
        if source.exported().last().is_some_and(|(_, acknowledged)| *acknowledged >= 7) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        source.snapshot.lock().unwrap().sequence += 1;
        request(running.address, "GET", "/metrics", "").await;
    }
    let (exporters, sequences): (Vec<String>, Vec<u64>) = source.exported().into_iter().unzip();
    assert!(exporters.iter().all(|exporter| exporter == "prometheus/127.0.0.1"), "{exporters:?}");
    assert!(sequences.is_sorted() && sequences.last() >= Some(&7), "{sequences:?}");
}

#[tokio::test]
async fn a_kept_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let running = start(FakeSource::new(snapshot(1), false), Duration::from_millis(100));
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut piece = [0; 1000];
        assert!(stream.read(&mut piece).await.unwrap() > 0);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    // A head that has begun has the same time as on a new connection.
    let began = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn open_metrics_is_given_to_those_who_prefer_it() {
    let running = started();
    let accept = "accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2\r\n";
    let answer = request(running.address, "GET", "/metrics", accept).await;
    let expected = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(expected));
    let page = answer.text();
    assert!(page.ends_with("\n# EOF\n"));
    assert!(page.contains("# TYPE process_cpu_seconds counter\n"), "{page}");
    assert!(!page.contains("_total counter\n"), "{page}");
}

#[tokio::test]
async fn a_filtered_page_and_a_head_request_acknowledge_nothing() {
    let running = started();
    let filtered = request(running.address, "GET", "/metrics?namespace=shop&pod=web-1", "").await;
    assert!(filtered.text().contains("web-1") && !filtered.text().contains("{unit="));
    assert!(!filtered.text().contains("podlens_build_info"));
    let head = request(running.address, "HEAD", "/metrics", "").await;
    assert_eq!((head.status.as_str(), head.body.len()), ("HTTP/1.1 200 OK", 0));
    let length: usize = head.header("content-length").unwrap().parse().unwrap();
    // The same page, kept from the request for its head.
    let whole = request(running.address, "GET", "/metrics", "").await;
    assert_eq!(whole.body.len(), length);
    let source = Arc::clone(&running.source);
    eventually("an acknowledgement", || !source.exported().is_empty()).await;
    assert_eq!(source.exported().len(), 1, "only the whole page counts");
}

#[tokio::test]
async fn gzip_is_the_same_page() {
    let running = started();
    let plain = prometheus::encode(&snapshot(7), None, Format::Text);
    let answer = request(running.address, "GET", "/metrics", "accept-encoding: gzip\r\n").await;
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut page = Vec::new();
    flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut page).unwrap();
    assert!(page.starts_with(&plain));
}

#[tokio::test]
async fn who_takes_protobuf_gets_it_with_the_agents_own_metrics() {
    let running = started();
    let accept = "accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;q=0.2\r\n";
    let answer = request(running.address, "GET", "/metrics", accept).await;
    assert_eq!(answer.header("content-type"), Some(Format::Protobuf.content_type()));
    let pods = prometheus::encode(&snapshot(7), None, Format::Protobuf);
    assert!(answer.body.starts_with(&pods));
    let own = as_text(&answer.body[pods.len()..], false);
    let value = |name: &str| own.iter().find(|((found, _), _)| found == name).map(|(_, value)| *value);
    assert_eq!((value("podlens_build_info"), value("podlens_scrape_seconds_count")), (Some(1.0), Some(0.0)));
    assert!(value("process_cpu_seconds_total").is_some() && value("process_resident_memory_bytes") > Some(0.0));
    let buckets = own.keys().filter(|(name, _)| name == "podlens_scrape_seconds_bucket").count();
    assert!(buckets > 3, "its own buckets are classic: {own:?}");
}

#[tokio::test]
async fn two_scrapers_at_one_moment_get_one_encoding() {
    let running = start(FakeSource::new(large(200, 20), false), PATIENCE);
    let (one, two) =
        tokio::join!(request(running.address, "GET", "/metrics", ""), request(running.address, "GET", "/metrics", ""),);
    // The page has the process' CPU time and the number of scrapes in it, so two encodings would differ.
    assert_eq!(one.text(), two.text());
    let three = request(running.address, "GET", "/metrics", "").await;
    assert_eq!(one.text(), three.text());
    assert!(one.text().contains("podlens_scrape_seconds_count 0\n"));
    running.source.snapshot.lock().unwrap().sequence += 1;
    let later = request(running.address, "GET", "/metrics", "").await;
    assert!(later.text().contains("podlens_scrape_seconds_count 3\n"), "a new snapshot, a new page");
}

#[tokio::test]
async fn garbage_and_oversized_heads_are_refused_and_harm_nobody() {
    let running = started();
    let many = "a: b\r\n".repeat(100);
    let long = "x".repeat(100_000);
    for (what, request) in [
        ("garbage", "\u{1}\u{2}\u{3} garbage\r\n\r\n".to_owned()),
        ("no version", "GET /metrics\r\n\r\n".to_owned()),
        ("a TLS hello", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned()),
        ("many headers", format!("GET / HTTP/1.1\r\n{many}\r\n")),
        ("a long header", format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n")),
        ("a long path", format!("GET /{long} HTTP/1.1\r\n\r\n")),
    ] {
        let answer = send(running.address, &request).await;
        assert!(!answer.status.contains(" 200 "), "{what}: {}", answer.status);
        let healthy = request_health(running.address).await;
        assert!(healthy, "after {what}");
    }
}

async fn request_health(address: SocketAddr) -> bool {
    request(address, "GET", "/healthz", "").await.status.contains(" 200 ")
}

#[tokio::test]
async fn a_peer_that_sends_slowly_is_cut() {
    let running = start(FakeSource::new(snapshot(1), false), Duration::from_millis(200));
    let began = Instant::now();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost:").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
}

#[tokio::test]
async fn a_peer_that_does_not_take_its_answer_is_cut_and_acknowledges_nothing() {
    // More than both kernels' socket buffers hold.
    let source = FakeSource::new(large(1000, 80), false);
    let running = start(source, Duration::from_millis(300));
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // Takes a little now and then, which must not help.
    let mut piece = [0; 1000];
    let cut = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    // After the cut the kernel still has bytes for us, so the other side's view decides.
                    if stream.write_all(b"x").await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), cut).await.expect("the connection is cut");
    assert_eq!(running.source.exported(), []);
    assert!(request_health(running.address).await);
}

/// The server is healthy and a scrape gets its page, at once.
async fn assert_nobody_is_kept_out(address: SocketAddr) {
    let soon = Duration::from_secs(2);
    for _ in 0..3 {
        assert!(tokio::time::timeout(soon, request_health(address)).await.expect("an answer to the probe"));
        let page = tokio::time::timeout(soon, request(address, "GET", "/metrics?pod=web-1", "")).await;
        assert!(page.expect("an answer to the scrape").status.contains(" 200 "));
    }
}

#[tokio::test]
async fn connections_that_send_nothing_keep_nobody_out_however_many_there_are() {
    let running = started();
    let mut idle = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        idle.push(TcpStream::connect(running.address).await.unwrap());
    }
    // Half a head is no request either.
    for stream in &mut idle {
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\n").await;
    }
    assert_nobody_is_kept_out(running.address).await;
    let read = tokio::time::timeout(Duration::from_secs(2), idle[0].read_u8()).await;
    assert!(read.expect("the oldest was cut").is_err());
    let last = idle.last_mut().unwrap();
    last.write_all(b"host: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 "), "the newest is still served: {answer:?}");
}

#[tokio::test]
async fn connections_that_do_not_take_their_answers_keep_nobody_out_either() {
    let running = start(FakeSource::new(large(1000, 80), false), PATIENCE);
    let mut deaf = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        deaf.push(stream);
    }
    // The beginning of an answer: the page is made, and the rest waits for us.
    for stream in &mut deaf {
        stream.read_u8().await.unwrap();
    }
    assert_nobody_is_kept_out(running.address).await;
}

#[tokio::test]
async fn a_connection_serves_several_requests() {
    let running = started();
    let two = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = send(running.address, two).await;
    assert!(answer.text().contains("scheduler: failed"), "{}", answer.text());
}

#[tokio::test]
async fn a_stop_ends_the_server_even_with_a_kept_connection() {
    let running = started();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 1000];
    assert!(stream.read(&mut piece).await.unwrap() > 0);
    running.stop.send(true).unwrap();
    let began = Instant::now();
    tokio::time::timeout(Duration::from_secs(5), running.ended).await.expect("an end").unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn a_taken_address_is_named_with_a_remedy() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = holder.local_addr().unwrap();
    let content = Content {
        source: FakeSource::new(snapshot(1), false),
        telemetry: Arc::new(SelfTelemetry::new("1", None).unwrap()),
        alive: Arc::new(|| Verdict { good: true, text: String::new() }),
        ready: Arc::new(|| Verdict { good: true, text: String::new() }),
        node: "node-1".into(),
        linger: Duration::from_mins(5),
        classic_histograms: ClassicHistograms::Auto,
    };
    let listen = Listen { address, ..on_loopback() };
    let Err(error) = Server::bind(&listen, content) else { panic!("bound twice") };
    assert!(matches!(error, ServerError::Bind { .. }));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("use --listen"), "{text}");
}
