//! What the API servers here are made of: a port whose connections are each served by a thread, and the few words of HTTP that
//! they speak. It knows no object.

use std::{
    collections::HashMap,
    io::{self, BufRead, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::json;

/// How often a watch that has nothing to tell says so.
pub(super) const BOOKMARKS: Duration = Duration::from_secs(5);
/// A free port of loopback.
pub(super) const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A port that is listened on, until [`Self::end`].
pub(super) struct Listening {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    listener: Option<JoinHandle<()>>,
}

impl Listening {
    /// Has `serve` answer each connection's requests, until it ends or it is stopped.
    pub(super) fn start_at(
        address: SocketAddr,
        serve: impl Fn(&TcpStream, &AtomicBool) -> io::Result<()> + Clone + Send + 'static,
    ) -> Self {
        let start = Instant::now();
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "cannot listen on {address}: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let address = listener.local_addr().unwrap();
        let (stopped, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = {
            let (stopped, connections) = (Arc::clone(&stopped), Arc::clone(&connections));
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stopped.load(Ordering::Acquire) {
                        return;
                    }
                    connections.lock().unwrap().push(stream.try_clone().unwrap());
                    let (serve, stopped) = (serve.clone(), Arc::clone(&stopped));
                    // A peer that breaks off has no answer to get.
                    thread::spawn(move || stream.set_nodelay(true).and_then(|()| serve(&stream, &stopped)).is_ok());
                }
            })
        };
        Self { address, stopped, connections, listener: Some(thread) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it and all connections; `wake` has those look up that wait for a change.
    pub(super) fn end(&mut self, wake: impl FnOnce()) {
        self.stopped.store(true, Ordering::Release);
        wake();
        // Wakes the listener, which then sees the end.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// The head of the next request; none if the peer is done.
pub(super) fn head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

/// The path of a request's target and what is asked of it.
pub(super) fn divided(target: &str) -> (&str, HashMap<&str, &str>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path, query.split('&').filter_map(|pair| pair.split_once('=')).collect())
}

/// The version from which a watch is to go on, and how long it is to last.
pub(super) fn since_and_time(query: &HashMap<&str, &str>) -> (u64, Duration) {
    let number = |name: &str| query.get(name).and_then(|number| number.parse().ok());
    (number("resourceVersion").unwrap_or(0), Duration::from_secs(number("timeoutSeconds").unwrap_or(300)))
}

pub(super) fn reply(mut stream: &TcpStream, status: &str, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// The body of a failure.
pub(super) fn failure(code: u16) -> String {
    json!({ "kind": "Status", "status": "Failure", "code": code }).to_string()
}

/// A watch's answer, line by line.
pub(super) struct Lines<'a>(&'a TcpStream);

impl<'a> Lines<'a> {
    pub(super) fn begin(mut stream: &'a TcpStream) -> io::Result<Self> {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        Ok(Self(stream))
    }

    pub(super) fn send(&mut self, lines: &str) -> io::Result<()> {
        self.0.write_all(format!("{:x}\r\n{lines}\r\n", lines.len()).as_bytes())
    }

    /// The changes since then are not known any more.
    pub(super) fn send_expired(&mut self) -> io::Result<()> {
        let status = json!({ "type": "ERROR", "object": { "kind": "Status", "code": 410, "reason": "Expired" } });
        self.send(&format!("{status}\n"))
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.0.write_all(b"0\r\n\r\n")
    }
}

/// The line that tells the version where nothing else happens.
pub(super) fn bookmark(kind: &str, version: u64) -> String {
    let object = json!({ "kind": kind, "metadata": { "resourceVersion": version.to_string() } });
    format!("{}\n", json!({ "type": "BOOKMARK", "object": object }))
}
