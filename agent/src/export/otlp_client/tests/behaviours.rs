//! The client against receivers as users meet them: over gRPC and HTTP, with metrics and with events.
//!
//! Whatever the receiver does, nothing hangs, what waits is bounded, and what was made is what was sent, dropped and
//! rejected: by the client's own counters, and against what the receiver has counted. The receiver is made of frames and
//! requests, not of the libraries that the client is made of.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::atomic::{AtomicU64, AtomicUsize},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    metrics::v1::{Metric, metric::Data},
};
use prost::Message as _;
use tokio::{net::TcpStream, task::JoinSet};

use super::{logs::Fixture as Events, *};

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Take,
    Late(Duration),
    /// UNAVAILABLE or 503.
    Busy,
    /// `INVALID_ARGUMENT` or 400.
    Never,
    Reject(u64),
    /// `RESOURCE_EXHAUSTED` or 413.
    TooLarge,
    Silence,
    /// What is no message of OTLP where one must be.
    Nonsense,
    /// The stream, over HTTP the connection, is reset before an answer.
    Reset,
    /// The same in the middle of an answer.
    HalfWay,
    /// An answer, and the connection is closed: over gRPC by GOAWAY.
    Last,
}

/// The turn at a request by its number and its size.
type Behaviour = fn(usize, usize) -> Turn;

const BEHAVIOURS: &[(&str, Behaviour)] = &[
    ("takes everything", |_, _| Turn::Take),
    ("is slow", |_, _| Turn::Late(Duration::from_millis(20))),
    ("is busy", |number, _| if number.is_multiple_of(3) { Turn::Take } else { Turn::Busy }),
    ("refuses", |number, _| if number.is_multiple_of(3) { Turn::Take } else { Turn::Never }),
    ("rejects a part", |number, _| if number.is_multiple_of(3) { Turn::Take } else { Turn::Reject(2) }),
    ("rejects more than it got", |_, _| Turn::Reject(1 << 40)),
    ("exhausts a quota", |number, _| if number % 20 < 10 { Turn::TooLarge } else { Turn::Take }),
    ("says nothing", |number, _| if number % 10 == 1 { Turn::Silence } else { Turn::Take }),
    ("answers nonsense", |number, _| if number.is_multiple_of(2) { Turn::Take } else { Turn::Nonsense }),
    ("resets", |number, _| if number.is_multiple_of(2) { Turn::Take } else { Turn::Reset }),
    ("resets half-way", |number, _| if number.is_multiple_of(2) { Turn::Take } else { Turn::HalfWay }),
    ("closes after each answer", |_, _| Turn::Last),
];

/// What the receiver has counted.
#[derive(Default)]
struct Tally {
    requests: AtomicUsize,
    /// Points or records in requests that it said to have taken.
    taken: AtomicU64,
    /// Of these, those that it said to have rejected.
    rejected: AtomicU64,
}

#[derive(Clone)]
struct Receiver {
    behaviour: Behaviour,
    tally: Arc<Tally>,
}

/// What goes back.
enum Answer {
    Taken { rejected: u64 },
    Refused(Turn),
}

impl Receiver {
    async fn start(behaviour: Behaviour, protocol: Protocol) -> (SocketAddr, Arc<Tally>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap(), Self::start_on(listener, behaviour, protocol))
    }

    fn start_on(listener: TcpListener, behaviour: Behaviour, protocol: Protocol) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        let receiver = Self { behaviour, tally: Arc::clone(&tally) };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                match protocol {
                    Protocol::Grpc => drop(tokio::spawn(receiver.clone().serve_grpc(stream))),
                    Protocol::HttpProtobuf => drop(tokio::spawn(receiver.clone().serve_http(stream))),
                }
            }
        });
        tally
    }

    fn turn(&self, bytes: usize) -> Turn {
        (self.behaviour)(self.tally.requests.fetch_add(1, Ordering::Relaxed), bytes)
    }

    async fn answer(&self, turn: Turn, path: &str, message: &[u8]) -> Answer {
        let rejected = match turn {
            Turn::Take | Turn::Last => 0,
            Turn::Reject(rejected) => rejected,
            Turn::Late(delay) => {
                tokio::time::sleep(delay).await;
                0
            }
            other => return Answer::Refused(other),
        };
        let items = items(path, message);
        self.tally.taken.fetch_add(items, Ordering::Relaxed);
        self.tally.rejected.fetch_add(rejected.min(items), Ordering::Relaxed);
        Answer::Taken { rejected }
    }

    async fn serve_grpc(self, stream: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        let (close, mut closing) = tokio::sync::mpsc::unbounded_channel();
        loop {
            let next = tokio::select! {
                next = connection.accept() => next,
                Some(()) = closing.recv() => {
                    connection.graceful_shutdown();
                    continue;
                }
            };
            let Some(Ok((request, respond))) = next else { return };
            let (receiver, close) = (self.clone(), close.clone());
            tokio::spawn(async move { receiver.answer_grpc(request, respond, close).await });
        }
    }

    async fn answer_grpc(
        self,
        request: ::http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
        close: tokio::sync::mpsc::UnboundedSender<()>,
    ) -> Option<()> {
        let (head, mut body) = request.into_parts();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.ok()?;
            body.flow_control().release_capacity(chunk.len()).ok()?;
            bytes.extend_from_slice(&chunk);
        }
        let message = bytes.get(5..)?;
        let turn = self.turn(message.len());
        let refused = |mut respond: h2::server::SendResponse<Bytes>, status: Status| {
            respond.send_response(status.into_http::<()>(), true).map(drop)
        };
        let begun = || ::http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let framed = |message: &[u8]| {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            Bytes::from([&[0], &length[..], message].concat())
        };
        let ended = || ::http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        match self.answer(turn, head.uri.path(), message).await {
            Answer::Taken { rejected } => {
                let mut stream = respond.send_response(begun(), false).ok()?;
                stream.send_data(framed(&partial(rejected)), false).ok()?;
                stream.send_trailers(ended()).ok()?;
                if matches!(turn, Turn::Last) {
                    close.send(()).ok()?;
                }
            }
            Answer::Refused(Turn::Busy) => refused(respond, Status::unavailable("later")).ok()?,
            Answer::Refused(Turn::Never) => refused(respond, Status::invalid_argument("never")).ok()?,
            Answer::Refused(Turn::TooLarge) => refused(respond, Status::resource_exhausted("too large")).ok()?,
            Answer::Refused(Turn::Reset) => respond.send_reset(h2::Reason::REFUSED_STREAM),
            Answer::Refused(Turn::HalfWay) => {
                let mut stream = respond.send_response(begun(), false).ok()?;
                stream.send_data(framed(&partial(1)).slice(..3), false).ok()?;
                tokio::time::sleep(Duration::from_millis(1)).await;
                stream.send_reset(h2::Reason::CANCEL);
            }
            Answer::Refused(Turn::Nonsense) => {
                let mut stream = respond.send_response(begun(), false).ok()?;
                stream.send_data(framed(b"\xff\xff\xff nonsense"), false).ok()?;
                stream.send_trailers(ended()).ok()?;
            }
            Answer::Refused(_) => std::future::pending().await,
        }
        Some(())
    }

    async fn serve_http(self, stream: TcpStream) {
        // What is closed without an answer is reset.
        let is_reset = matches!((self.behaviour)(1, 0), Turn::Reset | Turn::HalfWay);
        socket2::SockRef::from(&stream).set_linger(is_reset.then_some(Duration::ZERO)).unwrap();
        let service = service_fn(move |request| self.clone().answer_http(request));
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer_http(self, request: hyper::Request<Incoming>) -> Result<hyper::Response<Reply>, Infallible> {
        let (head, body) = request.into_parts();
        let length = head.headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap());
        let turn = self.turn(length);
        let reply = |status: u16, reply: Reply| {
            let answer = hyper::Response::builder().status(status).header("content-type", "application/x-protobuf");
            let answer = if matches!(turn, Turn::Last) { answer.header("connection", "close") } else { answer };
            Ok(answer.body(reply).unwrap())
        };
        if matches!(turn, Turn::TooLarge) {
            // Decided by the length alone, without a look at the body.
            return reply(413, Reply::whole(b"too large"));
        }
        let message = body.collect().await.unwrap().to_bytes();
        match self.answer(turn, head.uri.path(), &message).await {
            Answer::Taken { rejected } => reply(200, Reply::whole(&partial(rejected))),
            Answer::Refused(Turn::Busy) => reply(503, Reply::whole(b"later")),
            Answer::Refused(Turn::Never) => reply(400, Reply::whole(b"never")),
            Answer::Refused(Turn::Reset) => reply(200, Reply { bytes: None, missing: 1 }),
            Answer::Refused(Turn::HalfWay) => {
                reply(200, Reply { bytes: Some(Bytes::from_static(b"half")), missing: 4 })
            }
            Answer::Refused(Turn::Nonsense) => reply(500, Reply::whole(b"\xff\xff\xff nonsense")),
            Answer::Refused(_) => std::future::pending().await,
        }
    }
}

/// A body that may break off.
struct Reply {
    bytes: Option<Bytes>,
    /// Bytes that were announced and do not come.
    missing: u64,
}

impl Reply {
    fn whole(bytes: &[u8]) -> Self {
        Self { bytes: Some(Bytes::copy_from_slice(bytes)), missing: 0 }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        match self.bytes.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.missing > 0 => Poll::Ready(Some(Err(std::io::Error::other("broken off")))),
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64) + self.missing)
    }
}

/// The answer to a request that was taken, but for so many of its points or records.
fn partial(rejected_data_points: u64) -> Vec<u8> {
    if rejected_data_points == 0 {
        return Vec::new();
    }
    let rejected_data_points = i64::try_from(rejected_data_points).unwrap();
    let partial = ExportMetricsPartialSuccess { rejected_data_points, error_message: "too old".into() };
    ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
}

/// Points or records in a request.
fn items(path: &str, message: &[u8]) -> u64 {
    if path.to_lowercase().contains("logs") {
        let logs = ExportLogsServiceRequest::decode(message).unwrap().resource_logs;
        let scopes = logs.into_iter().flat_map(|logs| logs.scope_logs);
        return scopes.map(|scope| scope.log_records.len() as u64).sum();
    }
    let points = |metric: Metric| match metric.data.unwrap() {
        Data::Sum(sum) => sum.data_points.len(),
        Data::Gauge(gauge) => gauge.data_points.len(),
        Data::ExponentialHistogram(histogram) => histogram.data_points.len(),
        Data::Histogram(histogram) => histogram.data_points.len(),
        Data::Summary(_) => 0,
    };
    let metrics = ExportMetricsServiceRequest::decode(message).unwrap().resource_metrics;
    let scopes = metrics.into_iter().flat_map(|metrics| metrics.scope_metrics);
    scopes.flat_map(|scope| scope.metrics).map(|metric| points(metric) as u64).sum()
}

fn settings(address: SocketAddr, protocol: Protocol) -> OtlpConfig {
    OtlpConfig {
        protocol,
        interval: Duration::from_millis(3),
        first_pause: Duration::from_millis(1),
        // Long enough for a busy machine: a request that was taken too late would count twice at the receiver.
        timeout: Duration::from_millis(1500),
        compression: Compression::None,
        queue_snapshots: 3,
        ..config(address)
    }
}

/// What the client says of its points: made, sent, dropped, rejected. Made is read last, so it is never too small.
fn points(counters: &OtlpCounters) -> [u64; 4] {
    let [sent, dropped, rejected] =
        [&counters.sent, &counters.dropped, &counters.rejected].map(|counter| counter.load(Ordering::Relaxed));
    [counters.made.load(Ordering::Relaxed), sent, dropped, rejected]
}

/// Watches a client until `enough`: at every moment no more has become of points than were made, and no more wait than the
/// queue has room for and one is under way.
async fn watch_until(running: &Running, what: &str, most_waiting: u64, enough: impl Fn() -> bool) {
    let began = Instant::now();
    while !enough() {
        assert!(began.elapsed() < Duration::from_mins(1), "{what} hangs: {:?}", points(running.counters));
        // Read before what became of them, so that what waits is not too much.
        let made_before = running.counters.made.load(Ordering::Relaxed);
        let [made, sent, dropped, rejected] = points(running.counters);
        let settled = sent + dropped + rejected;
        assert!(settled <= made, "{what}: {settled} of {made}");
        let made = made_before.max(settled);
        assert!(made - settled <= most_waiting, "{what}: {settled} of {made}, at most {most_waiting} wait");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Stops a client and compares what it says with the receiver's count.
async fn settle(running: Running, what: &str, tally: &Tally, per_snapshot: u64) -> [u64; 4] {
    running.stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(5), running.ended)
        .await
        .unwrap_or_else(|_| panic!("{what} hangs"))
        .unwrap();
    let [made, sent, dropped, rejected] = points(running.counters);
    assert_eq!(made, running.source.asked.load(Ordering::Relaxed) * per_snapshot, "{what}");
    assert_eq!(made, sent + dropped + rejected, "{what}");
    let [taken, refused] = [&tally.taken, &tally.rejected].map(|counter| counter.load(Ordering::Relaxed));
    assert_eq!((sent + rejected, rejected), (taken, refused), "{what}: {:?}", points(running.counters));
    [made, sent, dropped, rejected]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_receiver_does_the_points_made_are_those_sent_dropped_and_rejected() {
    let mut tasks = JoinSet::new();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for delta in [false, true] {
            for (name, behaviour) in BEHAVIOURS {
                tasks.spawn(async move {
                    let what = format!("a receiver that {name}, {protocol:?}, delta {delta}");
                    let (address, tally) = Receiver::start(*behaviour, protocol).await;
                    let options = otlp::Options { delta, ..otlp::Options::default() };
                    let config = OtlpConfig { options, ..settings(address, protocol) };
                    let running = start(&config, FakeSource::new(snapshot(1), true));
                    let enough = || tally.requests.load(Ordering::Relaxed) >= 60;
                    watch_until(&running, &what, 4 * per_snapshot(), enough).await;
                    let [_, sent, dropped, rejected] = settle(running, &what, &tally, per_snapshot()).await;
                    match *name {
                        "takes everything" | "closes after each answer" => assert_eq!(rejected, 0, "{what}"),
                        "rejects more than it got" => assert_eq!(sent, 0, "{what}"),
                        "rejects a part" => assert!(rejected > 0, "{what}"),
                        "refuses" | "exhausts a quota" | "is slow" => assert!(dropped > 0 && sent > 0, "{what}"),
                        _ => assert!(sent > 0, "{what}"),
                    }
                });
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_receiver_does_the_events_made_are_those_sent_dropped_and_rejected() {
    let mut tasks = JoinSet::new();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for (name, behaviour) in BEHAVIOURS {
            tasks.spawn(async move {
                let what = format!("a receiver that {name}, {protocol:?}");
                let (address, tally) = Receiver::start(*behaviour, protocol).await;
                let events = Events::start_with(&settings(address, protocol), 200);
                let mut made = 0;
                let began = Instant::now();
                // Events come one by one and in bursts beyond what the journal keeps.
                while tally.requests.load(Ordering::Relaxed) < 4 || made < 1000 {
                    assert!(began.elapsed() < Duration::from_mins(1), "{what} hangs: {:?}", events.counts());
                    let burst = if made % 7 == 0 { 150 } else { 1 };
                    events.events.note(made..made + burst);
                    made += burst;
                    let settled: u64 = events.counts().iter().sum();
                    assert!(settled <= made, "{what}: {settled} of {made}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let [sent, dropped, rejected] = tokio::time::timeout(Duration::from_secs(5), events.end())
                    .await
                    .unwrap_or_else(|_| panic!("{what} hangs"));
                assert_eq!(made, sent + dropped + rejected, "{what}: {sent} {dropped} {rejected}");
                let [taken, refused] = [&tally.taken, &tally.rejected].map(|counter| counter.load(Ordering::Relaxed));
                assert_eq!((sent + rejected, rejected), (taken, refused), "{what}");
            });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// A receiver with a limit of a request's size: 64 KiB, and 1 MiB as many proxies have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_a_limit_gets_everything_in_requests_that_it_takes() {
    const SMALL: Behaviour = |_, bytes| if bytes > 64 << 10 { Turn::TooLarge } else { Turn::Take };
    const ONE_MIB: Behaviour = |_, bytes| if bytes > 1 << 20 { Turn::TooLarge } else { Turn::Take };
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for (behaviour, few) in [(SMALL, 1..=5), (ONE_MIB, 0..=0)] {
            let what = format!("{protocol:?}, {few:?}");
            let (address, tally) = Receiver::start(behaviour, protocol).await;
            let config = OtlpConfig {
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(20),
                ..settings(address, protocol)
            };
            let running = start(&config, FakeSource::new(large(600, 40), true));
            let per_snapshot = otlp::points(&large(600, 40));
            watch_until(&running, &what, 4 * per_snapshot, || running.source.exported().len() >= 2).await;
            let failed = running.counters.failed_attempts.load(Ordering::Relaxed);
            assert!(few.contains(&failed), "{what}: {failed} attempts failed, and only the first ones may");
            let [_, _, dropped, rejected] = settle(running, &what, &tally, per_snapshot).await;
            assert_eq!((dropped, rejected), (0, 0), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_too_large_a_request_go_in_smaller_ones() {
    const LIMITED: Behaviour = |_, bytes| if bytes > 2000 { Turn::TooLarge } else { Turn::Take };
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (address, tally) = Receiver::start(LIMITED, protocol).await;
        let events = Events::start_with(&settings(address, protocol), 1000);
        events.events.note(0..500);
        eventually("all events", || events.counts() == [500, 0, 0]).await;
        assert_eq!(tally.taken.load(Ordering::Relaxed), 500);
        assert_eq!(events.end().await, [500, 0, 0], "{protocol:?}");
    }
}

/// 240 exports, an hour of the default interval, while nobody listens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_hour_without_a_receiver_the_newest_are_sent_and_all_others_counted() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let what = format!("{protocol:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let running = start(&settings(address, protocol), FakeSource::new(snapshot(1), true));
        let asked = || running.source.asked.load(Ordering::Relaxed);
        watch_until(&running, &what, 4 * per_snapshot(), || asked() >= 240).await;
        let [_, sent, dropped, _] = points(running.counters);
        assert!(sent == 0 && dropped >= (240 - 4) * per_snapshot(), "{what}: {dropped}");
        let tally = Receiver::start_on(TcpListener::bind(address).await.unwrap(), |_, _| Turn::Take, protocol);
        // Pauses between attempts have grown to at most 30 s in an hour, to less in this one.
        watch_until(&running, &what, 4 * per_snapshot(), || !running.source.exported().is_empty()).await;
        settle(running, &what, &tally, per_snapshot()).await;
    }
}

/// The receiver wants TLS and the client does not, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_only_one_side_speaks_tls_nothing_hangs_and_everything_is_counted() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for server_wants_it in [true, false] {
            let what = format!("{protocol:?}, the server wants TLS: {server_wants_it}");
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let scheme = if server_wants_it { "http" } else { "https" };
            let config = OtlpConfig { endpoint: format!("{scheme}://{address}"), ..settings(address, protocol) };
            let tally = if server_wants_it {
                let acceptor = http::tls_acceptor();
                tokio::spawn(async move {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let acceptor = acceptor.clone();
                        tokio::spawn(async move { acceptor.accept(stream).await.is_ok() });
                    }
                });
                Arc::default()
            } else {
                Receiver::start_on(listener, |_, _| Turn::Take, protocol)
            };
            let running = start(&config, FakeSource::new(snapshot(1), true));
            let failed = || running.counters.failed_attempts.load(Ordering::Relaxed);
            let enough = || failed() >= 3 && points(running.counters)[2] > 0;
            watch_until(&running, &what, 4 * per_snapshot(), enough).await;
            let [made, _, dropped, _] = settle(running, &what, &tally, per_snapshot()).await;
            assert_eq!(dropped, made, "{what}");
        }
    }
}
