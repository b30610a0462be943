//! The client against a receiver that speaks OTLP over HTTP.

use std::{convert::Infallible, io::Read as _, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message as _;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
};

use super::{Pair, certificates, check_tls, config, on_every_loopback, own, per_snapshot, start};
use crate::{
    config::Compression,
    export::{
        fixture::{FakeSource, eventually, snapshot},
        otlp::tests::encode,
        otlp_client::{EXPORTER, OtlpConfig, Protocol},
    },
};

/// Head and decompressed body of what came.
pub(super) type Received = (http::request::Parts, Vec<u8>);

/// An answer: status, headers, body. Beyond the last one, all is accepted. None: no answer at all.
pub(super) type Turn = Option<(u16, Vec<(&'static str, &'static str)>, Vec<u8>)>;

#[derive(Clone)]
struct Receiver {
    turns: Arc<std::sync::Mutex<std::collections::VecDeque<Turn>>>,
    came: mpsc::UnboundedSender<Received>,
}

impl Receiver {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let mut message = Vec::new();
        match head.headers.get("content-encoding") {
            Some(coding) if coding == "gzip" => GzDecoder::new(&bytes[..]).read_to_end(&mut message).unwrap(),
            Some(coding) if coding == "zstd" => {
                zstd::Decoder::new(&bytes[..]).unwrap().read_to_end(&mut message).unwrap()
            }
            Some(other) => panic!("{other:?}"),
            None => bytes.as_ref().read_to_end(&mut message).unwrap(),
        };
        let _ = self.came.send((head, message));
        let turn = self.turns.lock().unwrap().pop_front();
        let protobuf = vec![("content-type", "application/x-protobuf")];
        let Some((status, headers, body)) = turn.unwrap_or(Some((200, protobuf, Vec::new()))) else {
            std::future::pending().await
        };
        let answer =
            headers.iter().fold(Response::builder().status(status), |it, (name, value)| it.header(*name, *value));
        Ok(answer.body(Full::from(body)).unwrap())
    }

    async fn serve_connection(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(move |request| self.clone().answer(request));
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

/// A receiver with its answers, and what it gets.
pub(super) async fn receiver(turns: impl IntoIterator<Item = Turn>) -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let (came, coming) = mpsc::unbounded_channel();
    let receiver = Receiver { turns: Arc::new(std::sync::Mutex::new(turns.into_iter().collect())), came };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(receiver.clone().serve_connection(stream));
        }
    });
    (address, coming)
}

/// Each compression and what the header calls it.
pub(super) const ENCODINGS: [(Compression, Option<&str>); 3] =
    [(Compression::None, None), (Compression::Gzip, Some("gzip")), (Compression::Zstd, Some("zstd"))];

pub(super) fn over_http(address: SocketAddr) -> OtlpConfig {
    OtlpConfig { protocol: Protocol::HttpProtobuf, ..config(address) }
}

#[tokio::test]
async fn http_carries_the_same_messages_with_headers_and_with_or_without_compression() {
    for (compression, encoding) in ENCODINGS {
        let (address, mut coming) = receiver([]).await;
        let config = OtlpConfig { compression, ..over_http(address) };
        let running = start(&config, FakeSource::new(snapshot(7), false));
        eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
        assert_eq!(running.source.exported()[0], (EXPORTER.to_owned(), 7));
        assert_eq!(running.counts()[1..], [0, 0, 0]);
        let (head, message) = coming.recv().await.unwrap();
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/v1/metrics"));
        let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("content-type"), Some("application/x-protobuf"));
        assert_eq!(header("content-encoding"), encoding);
        assert_eq!(header("x-token"), Some("secret"));
        assert!(header("user-agent").unwrap().starts_with("podlens/"));
        assert_eq!(ExportMetricsServiceRequest::decode(&message[..]).unwrap(), encode(&snapshot(7))[0]);
    }
}

#[tokio::test]
async fn http_statuses_decide_what_is_sent_again_and_the_servers_delay_is_kept() {
    let check = async |turn: Turn, acknowledged: u64, dropped: u64, rejected: u64, failed: u64| {
        let (address, _coming) = receiver([turn]).await;
        let running = start(&over_http(address), FakeSource::new(snapshot(7), true));
        eventually("an acknowledgement", || !running.source.exported().is_empty()).await;
        assert_eq!(running.counts()[1..], [dropped, rejected, failed]);
        assert_eq!(running.source.exported()[0].1, acknowledged);
    };
    check(Some((503, vec![], b"restarting".to_vec())), 8, 0, 0, 1).await;
    check(Some((400, vec![], b"no".to_vec())), 9, per_snapshot(), 0, 1).await;
    check(Some((204, vec![], Vec::new())), 8, 0, 0, 0).await;
    // Whatever its size.
    for size in [6, 64 << 10, 1 << 20] {
        check(Some((200, vec![("content-type", "text/html")], vec![b'<'; size])), 8, 0, 0, 0).await;
    }
    // Field 1, a message of 2 bytes: field 1, the number 3.
    let partial = vec![0x0a, 2, 0x08, 3];
    check(Some((200, vec![("content-type", "application/x-protobuf")], partial)), 8, 0, 3, 0).await;

    let (address, _coming) = receiver([None]).await;
    let running = start(&over_http(address), FakeSource::new(snapshot(7), false));
    eventually("an acknowledgement after the timeout", || !running.source.exported().is_empty()).await;
    assert_eq!(running.counts()[1..], [0, 0, 1]);

    let (address, mut coming) = receiver([Some((429, vec![("retry-after", "1")], Vec::new()))]).await;
    let _running = start(&over_http(address), FakeSource::new(snapshot(7), false));
    coming.recv().await.unwrap();
    let began = std::time::Instant::now();
    coming.recv().await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

/// A server of TLS that asks for no client's certificate.
pub(super) fn tls_acceptor() -> tokio_rustls::TlsAcceptor {
    let (certificate, key, _) = certificates();
    let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    Arc::new(server).into()
}

#[tokio::test]
async fn an_encrypted_endpoint_over_http_is_used_only_where_both_sides_certificates_hold() {
    let (server_pem, server_key_pem, server_authority_pem) = certificates();
    let (client_pem, client_key_pem, client_authority_pem) = certificates();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(client_authority_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(server_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(server_key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let (listener, hosts) = on_every_loopback().await;
    let port = listener.local_addr().unwrap().port();
    let (came, mut coming) = mpsc::unbounded_channel();
    let receiver = Receiver { turns: Arc::default(), came };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, receiver) = (acceptor.clone(), receiver.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    receiver.serve_connection(stream).await;
                }
            });
        }
    });
    let pair = Pair { authority: server_authority_pem, client: client_pem, client_key: client_key_pem };
    let good = check_tls(&hosts.map(|host| format!("https://{host}:{port}")), Protocol::HttpProtobuf, pair).await;
    let _pushing = own::push(&good, own::telemetry());
    let own_metrics = async {
        while !own::is_own(&ExportMetricsServiceRequest::decode(&coming.recv().await.unwrap().1[..]).unwrap()) {}
    };
    tokio::time::timeout(Duration::from_secs(10), own_metrics).await.expect("the agent's own metrics");
}
