//! A server that plays the API server from a script, byte by byte, so that it can also answer wrongly.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    collections::VecDeque,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use podlens::{
    attribution::kubernetes::Names,
    signal::{Container, Entity, Naming as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// How long anything may take that is quick on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// What the server does with one request.
#[derive(Clone)]
pub(crate) enum Act {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Waits.
    Pause(Duration),
    /// Keeps the connection and says nothing more.
    Hang,
}

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) at: Instant,
}

/// The server. It answers the n-th request with the n-th turn, and those after the last one by silence.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(turns: Vec<Vec<Act>>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), turns, None).await
    }

    pub(crate) async fn start_at(address: SocketAddr, turns: Vec<Vec<Act>>, tls: Option<TlsAcceptor>) -> Self {
        // A server before this one at the address may still be on its way out.
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let turns = Arc::new(Mutex::new(VecDeque::from(turns)));
        let into = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // They end together with the server.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (turns, seen, tls) = (Arc::clone(&turns), Arc::clone(&into), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => answer(stream, turns, seen).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, turns, seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen, task }
    }

    /// The paths asked for so far.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.path.clone()).collect()
    }

    pub(crate) async fn wait_for_requests(&self, count: usize) {
        wait(|| self.seen.lock().unwrap().len() >= count, &format!("{count} requests")).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    turns: Arc<Mutex<VecDeque<Vec<Act>>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().push(Seen { path, at: Instant::now() });
    let turn = turns.lock().unwrap().pop_front().unwrap_or_else(|| vec![Act::Hang]);
    for act in turn {
        match act {
            Act::Send(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
                let _ = stream.flush().await;
            }
            Act::Pause(time) => tokio::time::sleep(time).await,
            Act::Hang => std::future::pending().await,
        }
    }
    let _ = stream.shutdown().await;
}

/// A whole answer.
pub(crate) fn reply(status: &str, headers: &str, body: &str) -> Vec<Act> {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    vec![Act::Send(text.into_bytes())]
}

pub(crate) fn list(version: &str, pods: &[Value]) -> Vec<Act> {
    let list = json!({ "kind": "PodList", "metadata": { "resourceVersion": version }, "items": pods });
    reply("200 OK", "", &list.to_string())
}

/// The head of a watch's answer.
pub(crate) fn watch() -> Act {
    Act::Send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec())
}

/// An event as one chunk.
pub(crate) fn event(kind: &str, object: &Value) -> Act {
    chunk(&format!("{}\n", json!({ "type": kind, "object": object })))
}

pub(crate) fn chunk(text: &str) -> Act {
    Act::Send(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes())
}

/// The orderly end of a watch.
pub(crate) fn end() -> Act {
    Act::Send(b"0\r\n\r\n".to_vec())
}

/// Number `n`'s container id.
pub(crate) fn id(n: u32) -> String {
    format!("{n:064x}")
}

/// Pod number `n` with the container number `n`.
pub(crate) fn pod(n: u32, version: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("web-{n}"), "namespace": "shop", "uid": format!("uid-{n}"), "resourceVersion": version,
        },
        "spec": { "nodeName": "n1", "containers": [{ "name": format!("app-{n}"), "image": "app:1" }] },
        "status": { "containerStatuses": [
            { "name": format!("app-{n}"), "containerID": format!("containerd://{}", id(n)), "state": { "running": {} } },
        ]},
    })
}

/// The names of pod number `n` by now.
pub(crate) fn named(names: &Names, n: u32) -> (String, String, String) {
    let entity = Entity::Container(Container {
        namespace: "".into(),
        pod: format!("uid-{n}").into(),
        container: id(n)[..12].into(),
        pod_uid: format!("uid-{n}").into(),
        container_id: id(n).into(),
    });
    match names.name(&entity) {
        Entity::Container(called) => {
            (called.namespace.to_string(), called.pod.to_string(), called.container.to_string())
        }
        other => panic!("no container: {other}"),
    }
}

pub(crate) fn truth(n: u32) -> (String, String, String) {
    ("shop".to_owned(), format!("web-{n}"), format!("app-{n}"))
}

pub(crate) fn unnamed(n: u32) -> (String, String, String) {
    (String::new(), format!("uid-{n}"), id(n)[..12].to_owned())
}

/// Requests by verb and result; watches that failed after they had begun count as watches.
pub(crate) fn requests(names: &Names, verb: &str, result: &str) -> u64 {
    let health = names.health();
    let is_wanted = |one: &str| one == verb || (one, verb) == ("stream", "watch");
    let found = health.requests.iter().filter(|(_, one, of, _)| is_wanted(one) && *of == result);
    found.map(|(.., count)| *count).sum()
}

pub(crate) async fn wait(done: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Collects log lines.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Collects what this thread logs for as long as the guard is kept.
    pub(crate) fn collect() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let into = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || into.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// All of it so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
