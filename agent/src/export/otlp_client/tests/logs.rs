//! The exporter of events against a receiver that behaves as told.

use std::sync::atomic::AtomicU64;

use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
    logs_service_server::{LogsService, LogsServiceServer},
};

use super::*;
use crate::{
    export::{EventSource, otlp_client::OtlpLogClient},
    registry::{EventBatch, Journal},
    signal::{Event, EventKind, PathNames, Severity},
    telemetry::otlp::LogRecordCounters,
};

static KIND: EventKind = EventKind {
    name: "test.happened",
    severity: Severity::Info,
    about: "Something happened",
    entity: "",
    attributes: &[],
    source: "",
};

/// A receiver of log records.
#[derive(Clone, Default)]
struct Receiver {
    turns: Arc<Mutex<VecDeque<Turn>>>,
    /// The moments of the records that it took.
    received: Arc<Mutex<Vec<u64>>>,
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let turn = self.turns.lock().unwrap().pop_front().unwrap_or(Turn::Accept);
        let mut response = ExportLogsServiceResponse::default();
        match turn {
            Turn::Accept => {}
            Turn::Reject(rejected_log_records) => {
                let error_message = "too old".into();
                response.partial_success = Some(ExportLogsPartialSuccess { rejected_log_records, error_message });
            }
            Turn::Fail(status) => return Err(status),
            Turn::Hang => std::future::pending().await,
        }
        let logs = request.into_inner().resource_logs;
        let records = logs.iter().flat_map(|logs| &logs.scope_logs).flat_map(|scope| &scope.log_records);
        self.received.lock().unwrap().extend(records.map(|record| record.time_unix_nano));
        Ok(Response::new(response))
    }
}

impl Receiver {
    fn serve_on(&self, listener: TcpListener) {
        let service = LogsServiceServer::new(self.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let server =
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(async move { server.await.unwrap() });
    }
}

/// A journal of few events.
pub(super) struct FewEvents(Mutex<Journal>);

impl FewEvents {
    /// Notes an event of this moment.
    pub(super) fn note(&self, moments: std::ops::Range<u64>) {
        for moment in moments {
            let at = UNIX_EPOCH + Duration::from_nanos(moment);
            let event = Event { kind: &KIND, at, entity: None, attributes: Vec::new() };
            self.0.lock().unwrap().note(event, at, Instant::now());
        }
    }
}

impl EventSource for FewEvents {
    fn subscribe(&self, exporter: &'static str, dropped: Arc<AtomicU64>) {
        self.0.lock().unwrap().subscribe(exporter, dropped);
    }

    fn take(&self, exporter: &str, most: usize, at_once: bool) -> EventBatch {
        let mut journal = self.0.lock().unwrap();
        let events = if at_once {
            journal.take_at_once(exporter, most, &PathNames)
        } else {
            journal.take(exporter, most, Instant::now(), &PathNames)
        };
        EventBatch { events, described: snapshot(0) }
    }
}

pub(super) struct Fixture {
    pub(super) events: Arc<FewEvents>,
    counters: Arc<LogRecordCounters>,
    stop: watch::Sender<bool>,
    client: JoinHandle<()>,
}

impl Fixture {
    fn start(address: SocketAddr, limit: usize) -> Self {
        Self::start_with(&config(address), limit)
    }

    pub(super) fn start_with(config: &OtlpConfig, limit: usize) -> Self {
        let events = Arc::new(FewEvents(Mutex::new(Journal::with_limit(limit))));
        let counters = Arc::new(LogRecordCounters::default());
        let client = OtlpLogClient::new(config, "node", Arc::clone(&events), Arc::clone(&counters)).unwrap();
        let (stop, shutdown) = watch::channel(false);
        Self { events, counters, stop, client: tokio::spawn(client.run(shutdown)) }
    }

    /// Sent, dropped, rejected.
    pub(super) fn counts(&self) -> [u64; 3] {
        let LogRecordCounters { sent, dropped, rejected } = &*self.counters;
        [sent, dropped, rejected].map(|counter| counter.load(Ordering::Relaxed))
    }

    pub(super) async fn end(self) -> [u64; 3] {
        self.stop.send_replace(true);
        let counters = Arc::clone(&self.counters);
        self.client.await.unwrap();
        let LogRecordCounters { sent, dropped, rejected } = &*counters;
        [sent, dropped, rejected].map(|counter| counter.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn while_the_receiver_is_away_events_wait_and_those_that_find_no_room_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fixture = Fixture::start(address, 4);
    fixture.events.note(0..3);
    // The client takes the first ones and keeps them; of those behind them four have room.
    eventually("the journal is empty", || fixture.events.0.lock().unwrap().is_empty()).await;
    fixture.events.note(3..10);
    eventually("the counts", || fixture.counts() == [0, 3, 0]).await;
    let receiver = Receiver::default();
    receiver.serve_on(TcpListener::bind(address).await.unwrap());
    eventually("the counts", || fixture.counts() == [7, 3, 0]).await;
    assert_eq!(*receiver.received.lock().unwrap(), [0, 1, 2, 6, 7, 8, 9]);
    fixture.events.note(10..11);
    assert_eq!(fixture.end().await, [8, 3, 0], "the last one goes at the end");
}

#[tokio::test]
async fn what_the_receiver_rejects_or_refuses_is_counted_apart() {
    let receiver = Receiver::default();
    let refused = Turn::Fail(Status::invalid_argument("never"));
    receiver.turns.lock().unwrap().extend([Turn::Reject(2), refused, Turn::Fail(Status::unavailable("later"))]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fixture = Fixture::start(listener.local_addr().unwrap(), 100);
    receiver.serve_on(listener);
    fixture.events.note(0..5);
    eventually("the counts", || fixture.counts() == [3, 0, 2]).await;
    fixture.events.note(5..7);
    eventually("the counts", || fixture.counts() == [3, 2, 2]).await;
    fixture.events.note(7..8);
    eventually("the counts", || fixture.counts() == [4, 2, 2]).await;
    assert_eq!(fixture.end().await, [4, 2, 2]);
}

#[tokio::test]
async fn what_cannot_be_delivered_until_the_end_is_dropped_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fixture = Fixture::start(address, 100);
    fixture.events.note(0..3);
    eventually("the journal is empty", || fixture.events.0.lock().unwrap().is_empty()).await;
    fixture.events.note(3..10);
    assert_eq!(fixture.end().await, [0, 10, 0]);
}
