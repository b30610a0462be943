//! The little HTTP that tests need, without TLS: one request a connection, from and to threads that know no runtime.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client, header, server, service::service_fn};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{net::TcpStream, runtime, sync::oneshot, time::timeout};

/// The longest wait for a peer that says nothing, on an emulated machine too.
const SILENCE: Duration = Duration::from_secs(20);
/// What a value in a query may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A request as the server saw it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    async fn read(request: hyper::Request<Incoming>) -> Result<Self, String> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        let body = quickly("the body", body.collect()).await?.to_bytes().to_vec();
        Ok(Self { method: head.method.to_string(), path, headers, body })
    }
}

/// What the server answers with code 200.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The media type.
    pub content_type: &'static str,
    /// The whole body.
    pub body: String,
}

/// A server in a thread of its own. Ends with the value.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves each request by `answer`, one after another, on a free port of loopback.
    pub fn start(answer: impl FnMut(Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        Self::start_on(listener, answer)
    }

    /// The same where somebody listens already.
    pub fn start_on(listener: TcpListener, answer: impl FnMut(Request) -> Reply + Send + 'static) -> Self {
        let address = listener.local_addr().expect("a listener has an address");
        let (end, ended) = oneshot::channel();
        let answer = Arc::new(Mutex::new(answer));
        let thread = thread::spawn(move || {
            listener.set_nonblocking(true).expect("a listener can be polled");
            runtime().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime polls sockets");
                tokio::select! {
                    _ = ended => {}
                    () = accept(listener, answer) => {}
                }
            });
        });
        Self { address, end: Some(end), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its thread is gone only after a panic, which has been printed.
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept<A>(listener: tokio::net::TcpListener, answer: Arc<Mutex<A>>)
where
    A: FnMut(Request) -> Reply + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let answer = Arc::clone(&answer);
        let service = service_fn(move |request| {
            let answer = Arc::clone(&answer);
            async move {
                let request = Request::read(request).await?;
                let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
                let Reply { content_type, body } = answer(request);
                let response = hyper::Response::builder().header(header::CONTENT_TYPE, content_type);
                Ok::<_, String>(
                    response.body(Full::new(Bytes::from(body))).expect("the media type is a header's value"),
                )
            }
        });
        // A peer that breaks off has no answer to get; the test sees that nothing arrived.
        let mut protocol = server::conn::http1::Builder::new();
        let connection = protocol.keep_alive(false).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async { connection.await.is_ok() });
    }
}

/// Asks a server and returns the answer's code and body.
pub fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    content_type: &str,
    body: &str,
) -> Result<(u16, String), String> {
    send(address, method, path, content_type, body.as_bytes())
}

/// The same with a body that need not be text.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> Result<(u16, String), String> {
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, content_type)
        .body(Full::new(Bytes::copy_from_slice(body)));
    let answer = async {
        let request = request.map_err(|error| error.to_string())?;
        let stream = quickly("the connection", TcpStream::connect(address)).await?;
        let handshake = client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream));
        let (mut sender, connection) = quickly("the connection", handshake).await?;
        // Where it fails, the answer fails as well and tells of it.
        tokio::spawn(async { connection.await.is_ok() });
        let response = quickly("the answer", sender.send_request(request)).await?;
        let code = response.status().as_u16();
        let body = quickly("the answer's body", response.into_body().collect()).await?.to_bytes();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    };
    runtime().block_on(answer).map_err(|error: String| format!("{method} http://{address}{path}: {error}"))
}

/// Asks for a page.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    ask(address, "GET", path, "text/plain", "")
}

/// `text` as a value in a query.
pub fn percent_encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// On this thread alone, since a thread may have a network of its own.
fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a thread can have a runtime")
}

async fn quickly<T, E: std::fmt::Display>(what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(SILENCE, work).await {
        Ok(done) => done.map_err(|error| format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: nothing within {} s", SILENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        sync::mpsc,
        thread,
    };

    use super::{Reply, Server, ask, get, percent_encoded};

    #[test]
    fn a_body_arrives_whole_with_a_length_and_in_chunks() {
        let (sender, receiver) = mpsc::channel();
        let server = Server::start(move |request| {
            sender.send(request.body).unwrap();
            Reply { content_type: "application/json", body: "{}".to_owned() }
        });
        let address = server.address();
        for request in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert_eq!(receiver.recv().unwrap(), b"hello");
        }
    }

    #[test]
    fn an_answer_is_its_code_and_its_body() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            stream.write_all(b"HTTP/1.0 503 No\r\nA: b\r\n\r\nnot yet\n").unwrap();
        });
        assert_eq!(get(address, "/readyz").unwrap(), (503, "not yet\n".to_owned()));
        server.join().unwrap();
    }

    #[test]
    fn the_server_sees_what_was_asked_and_ends_with_its_value() {
        let server = Server::start(|request| {
            let told = format!("{} {} {:?}", request.method, request.path, request.header("content-type"));
            Reply { content_type: "text/plain", body: told }
        });
        let address = server.address();
        let told = ask(address, "POST", "/a?b=c", "application/json", "{}").unwrap();
        assert_eq!(told, (200, "POST /a?b=c Some(\"application/json\")".to_owned()));
        drop(server);
        let refused = get(address, "/").unwrap_err();
        assert!(refused.starts_with(&format!("GET http://{address}/: the connection: ")), "{refused}");
    }

    #[test]
    fn a_query_keeps_its_meaning_in_a_path() {
        assert_eq!(percent_encoded("a{b=\"c d\"}"), "a%7Bb%3D%22c%20d%22%7D");
    }
}
