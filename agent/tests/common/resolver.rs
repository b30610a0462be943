//! A DNS server of the test's own, and what a peer asks of it in each of the ways in which programs do.
//!
//! A name says what the answer is to be: its first label is the answer, a dash and how many ms it takes, as in `nxdomain-20.test.`.
//! Over TCP what is asked at once is answered in one piece, after the sum of all delays, but for names with the label `apart`.

#![allow(
    clippy::indexing_slicing,
    reason = "a command has the words that it needs, and a test's own message the parts that it looks at"
)]

use std::{
    ffi::CString,
    fs,
    io::{self, Read as _, Write as _},
    mem::zeroed,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Stdio},
    ptr,
    sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Peer, machine_is_own};

/// How long a client of the test's own waits for an answer that does not come.
const IN_VAIN: Duration = Duration::from_millis(300);
/// For one that comes.
const PATIENTLY: Duration = Duration::from_secs(30);
/// Where the C library finds servers, and whether it is to ask any.
const SERVERS: &str = "/etc/resolv.conf";
const SOURCES: &str = "/etc/nsswitch.conf";
/// Between two pieces of an answer that comes in several.
const TEAR: Duration = Duration::from_millis(30);
/// Queries that were understood.
static SERVED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Of names whose queries are answered on their own.
const APART: &[u8] = b"apart";
/// Types of records.
const A: u16 = 1;
const AAAA: u16 = 28;

/// How a program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// From a socket that is not connected.
    To,
    /// From one that is.
    Connected,
    /// By `write` and `read`.
    Written,
    /// By `writev` and `readv`.
    Pieces,
    /// By `sendmsg` and `recvmsg`.
    Message,
    /// For both addresses, by one `sendmmsg` as glibc does.
    Pair,
    /// For both addresses ten times, by one `sendmmsg` and by `recvmmsg`.
    Batch,
    /// The answer is looked at before it is taken.
    Peeked,
    /// The same query to each server, until one has answered.
    Again,
    /// For both addresses over TCP.
    Stream(Stream),
}

/// How a program writes queries to a connection and takes answers from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// All at once; answers by their lengths, as glibc and Go take them.
    Plain,
    /// Each length and each query is a piece of one call, as glibc writes them; answers as above.
    Pieces,
    /// Each length in a call of its own; answers as above.
    Apart,
    /// All at once; answers in one call, as c-ares and Java take them.
    Whole,
    /// All at once; answers by 5 bytes, as nobody is known to take them.
    Crumbs,
}

impl Peer {
    /// Answers at port 53 of this address, or, if it is `mute`, takes what comes and says nothing.
    pub fn serve_names(&mut self, address: &str, is_mute: bool) {
        self.begin(&format!("dns-serve {address} {is_mute}"));
        self.answer();
    }

    /// How many queries it has got so far over UDP, and over TCP.
    pub fn served(&mut self) -> (u64, u64) {
        self.begin("dns-served");
        let answer = self.answer();
        let (over_udp, over_tcp) = answer.split_once(' ').expect("two numbers");
        (over_udp.parse().expect("a number"), over_tcp.parse().expect("a number"))
    }

    /// Asks the servers; gives how many answers the program got.
    pub fn ask_for(&mut self, way: Way, name: &str, servers: &[&str]) -> usize {
        self.begin_asking_for(way, name, servers);
        self.answer().parse().expect("a number")
    }

    /// The same without waiting for the answer.
    pub fn begin_asking_for(&mut self, way: Way, name: &str, servers: &[&str]) {
        self.begin(&format!("dns-ask {} {name} {}", json!(way), servers.join(" ")));
    }

    /// Has the C library ask these servers from now on, in a mount namespace of its own.
    pub fn use_servers(&mut self, servers: &[&str]) {
        self.begin(&format!("dns-use {}", servers.join(" ")));
        self.answer();
    }

    /// The same, over TCP.
    pub fn use_servers_over_tcp(&mut self, servers: &[&str]) {
        self.begin(&format!("dns-use use-vc {}", servers.join(" ")));
        self.answer();
    }

    /// Looks a name up by `getaddrinfo`; gives whether it has an address.
    pub fn look_up(&mut self, name: &str) -> bool {
        self.begin(&format!("dns-lookup {name}"));
        self.answer() == "true"
    }

    /// Runs a program with the same servers; gives whether it succeeded.
    pub fn run_with_servers(&mut self, command: &str) -> bool {
        self.begin(&format!("dns-run {command}"));
        self.answer() == "true"
    }

    /// Sends this server what is no query, and has it answered by what is no answer.
    pub fn send_no_queries(&mut self, server: &str) {
        self.begin(&format!("dns-junk {server}"));
        self.answer();
    }
}

/// Follows a command; none if it is not one about names.
pub(super) fn follow(words: &[&str]) -> Option<String> {
    let address = |word: &str| SocketAddr::new(word.parse().expect("an address"), 53);
    let answer = match words[0] {
        "dns-serve" => {
            serve(address(words[1]), words[2] == "true");
            "done".to_owned()
        }
        "dns-served" => SERVED.each_ref().map(|count| count.load(Ordering::Relaxed).to_string()).join(" "),
        "dns-ask" => {
            let servers: Vec<SocketAddr> = words[3..].iter().map(|word| address(word)).collect();
            ask(serde_json::from_str(words[1]).expect("a way"), words[2], &servers).to_string()
        }
        "dns-use" => {
            use_servers(&words[1..]);
            "done".to_owned()
        }
        "dns-lookup" => look_up(words[1]).to_string(),
        "dns-run" => {
            let status = Command::new("sh").args(["-c", &words[1..].join(" ")]).stdin(Stdio::null()).status();
            status.is_ok_and(|status| status.success()).to_string()
        }
        "dns-junk" => {
            send_no_queries(address(words[1]));
            "done".to_owned()
        }
        _ => return None,
    };
    Some(answer)
}

/// A server in a thread of its own, which answers each query in one more.
fn serve(address: SocketAddr, is_mute: bool) {
    let socket = UdpSocket::bind(address).expect("port 53 of this namespace is free");
    let listener = TcpListener::bind(address).expect("port 53 of this namespace is free");
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut room) {
            let (query, socket) = (room[..length].to_vec(), socket.try_clone().expect("a descriptor"));
            let mut send = move |message: &[u8]| {
                let _ = socket.send_to(message, client);
            };
            if !is_mute {
                thread::spawn(move || answer(&mut send, &query, false));
            }
        }
    });
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || serve_stream(stream));
        }
    });
}

/// Answers queries of one connection.
fn serve_stream(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a socket");
    let mut come = Vec::new();
    let mut room = [0; 2048];
    while let Ok(length @ 1..) = stream.read(&mut room) {
        come.extend_from_slice(&room[..length]);
        let (mut answers, mut is_torn) = (Vec::new(), false);
        while let Some((query, rest)) = first_message(&come) {
            come = rest;
            if query.windows(APART.len()).any(|part| part == APART) {
                let mut stream = stream.try_clone().expect("a descriptor");
                let mut send = move |message: &[u8]| {
                    let _ = stream.write_all(&in_stream(message));
                };
                thread::spawn(move || answer(&mut send, &query, true));
                continue;
            }
            answer(&mut |message| answers.extend(in_stream(message)), &query, true);
            match first_label(&query) {
                Some(label) if label.starts_with("closed") => return,
                label => is_torn |= label.is_some_and(|label| label.starts_with("torn")),
            }
        }
        // The length, the head and some of what follows it, all else.
        let (length, rest) = answers.split_at(if is_torn { 2 } else { 0 });
        let (head, rest) = rest.split_at(if is_torn { 20 } else { 0 });
        for piece in [length, head, rest].into_iter().filter(|piece| !piece.is_empty()) {
            if stream.write_all(piece).is_err() {
                return;
            }
            if is_torn {
                thread::sleep(TEAR);
            }
        }
    }
}

/// The first part of the name that a message asks for.
fn first_label(query: &[u8]) -> Option<&str> {
    let (length, rest) = query.get(12..)?.split_first()?;
    std::str::from_utf8(rest.get(..usize::from(*length))?).ok()
}

/// The first message of a stream and what follows it, once it is there.
fn first_message(stream: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (length, rest) = stream.split_first_chunk()?;
    let (message, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((message.to_vec(), rest.to_vec()))
}

/// A message as it stands in a stream.
fn in_stream(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a short message");
    [&length.to_be_bytes(), message].concat()
}

fn answer(send: &mut dyn FnMut(&[u8]), query: &[u8], over_tcp: bool) {
    let no_answers = |send: &mut dyn FnMut(&[u8])| {
        for junk in [&[][..], &[1, 2, 0x81], &[0xff; 12], &[0; 100], query] {
            send(junk);
        }
    };
    let Some((result, delay)) = first_label(query).and_then(|label| label.split_once('-')) else {
        return no_answers(send);
    };
    SERVED[usize::from(over_tcp)].fetch_add(1, Ordering::Relaxed);
    thread::sleep(Duration::from_millis(delay.parse().expect("a delay in ms")));
    // What stands behind the name: type and class.
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name ends") + 5;
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let [is_truncated, code] = match result {
        "ok" | "junk" | "twice" | "torn" => [0, 0],
        "nxdomain" => [0, 3],
        "servfail" => [0, 2],
        "refused" => [0, 5],
        "formerr" => [0, 1],
        "truncated" => [2, 0],
        // What a program asks for anew over TCP.
        "long" => [if over_tcp { 0 } else { 2 }, 0],
        "silent" | "closed" => return,
        other => panic!("no answer is called {other:?}"),
    };
    let address = match kind {
        _ if code != 0 || is_truncated != 0 => Vec::new(),
        A => [127, 0, 0, 1].to_vec(),
        AAAA => std::net::Ipv6Addr::LOCALHOST.octets().to_vec(),
        _ => Vec::new(),
    };
    let count = u8::from(!address.is_empty());
    let mut message = query[..2].to_vec();
    message.extend([0x81 | is_truncated, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    message.extend(&query[12..end]);
    if count != 0 {
        // The name as above, the class, how long it holds, and the address.
        message.extend([0xc0, 12].into_iter().chain(kind.to_be_bytes()).chain([0, 1, 0, 0, 0, 1, 0]));
        message.push(u8::try_from(address.len()).expect("a short address"));
        message.extend(address);
    }
    if result == "junk" {
        no_answers(send);
    }
    send(&message);
    if result == "twice" {
        send(&message);
    }
}

/// A query with an id that this process has not used yet.
fn query(name: &str, kind: u16) -> Vec<u8> {
    static NEXT: AtomicU16 = AtomicU16::new(0x1234);
    let id = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut message = [id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).expect("a short label"));
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend([kind.to_be_bytes(), 1_u16.to_be_bytes()].concat());
    message
}

/// Asks for both addresses of a name in one connection; gives how many answers the program got.
fn ask_over_tcp(how: Stream, name: &str, server: SocketAddr) -> usize {
    let both = [query(name, A), query(name, AAAA)];
    let mut stream = TcpStream::connect(server).expect("a server");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENTLY)).expect("a socket");
    write_queries(how, &mut stream, &both);
    let mut come = take_answers(how, &mut stream);
    let mut answers = 0;
    while let Some((answer, rest)) = first_message(&come) {
        answers += usize::from(both.iter().any(|query| query[..2] == answer[..2]) && answer[2] & 0x80 != 0);
        come = rest;
    }
    answers
}

fn write_queries(how: Stream, stream: &mut TcpStream, both: &[Vec<u8>; 2]) {
    let whole = both.each_ref().map(|query| in_stream(query));
    match how {
        Stream::Pieces => {
            let pieces = whole.each_ref().map(|query| query.split_at(2));
            let pieces = pieces.map(|(length, query)| [io::IoSlice::new(length), io::IoSlice::new(query)]).concat();
            assert_eq!(stream.write_vectored(&pieces).expect("a server"), whole.concat().len());
        }
        Stream::Apart => {
            for (length, query) in whole.each_ref().map(|query| query.split_at(2)) {
                stream.write_all(length).and_then(|()| stream.write_all(query)).expect("a server");
            }
        }
        Stream::Plain | Stream::Whole | Stream::Crumbs => stream.write_all(&whole.concat()).expect("a server"),
    }
}

/// Two messages, or what there is of them when the server is gone.
fn take_answers(how: Stream, stream: &mut TcpStream) -> Vec<u8> {
    let mut come = Vec::new();
    let mut room = [0; 2048];
    // One call, which takes no more than so many bytes; whether the server is still there.
    let mut take = |come: &mut Vec<u8>, most: usize| {
        let taken = stream.read(&mut room[..most]).expect("a server");
        come.extend_from_slice(&room[..taken]);
        taken > 0
    };
    let has_all = |come: &[u8]| first_message(come).is_some_and(|(_, rest)| first_message(&rest).is_some());
    match how {
        Stream::Whole => {
            take(&mut come, 2048);
        }
        Stream::Crumbs => while !has_all(&come) && take(&mut come, 5) {},
        Stream::Plain | Stream::Pieces | Stream::Apart => {
            let mut take_until = |come: &mut Vec<u8>, end: usize| {
                while come.len() < end && take(come, end - come.len()) {}
                come.len() == end
            };
            for _ in 0..2 {
                let begun = come.len();
                if !take_until(&mut come, begun + 2) {
                    break;
                }
                let length = u16::from_be_bytes([come[begun], come[begun + 1]]);
                take_until(&mut come, begun + 2 + usize::from(length));
            }
        }
    }
    come
}

/// Gives how many answers the program got.
fn ask(way: Way, name: &str, servers: &[SocketAddr]) -> usize {
    let first = || query(name, A);
    let asker = || Asker::new(servers[0], if name.starts_with("silent") { IN_VAIN } else { PATIENTLY });
    match way {
        Way::To => asker().to(&first(), servers[0]).into(),
        Way::Connected => asker().connected(&first()).into(),
        Way::Written => asker().written(&first()).into(),
        Way::Pieces => asker().in_pieces(&first()).into(),
        Way::Message => asker().in_a_message(first()),
        Way::Pair => asker().in_a_pair([first(), query(name, AAAA)]),
        Way::Batch => asker().in_a_batch((0..10).flat_map(|_| [query(name, A), query(name, AAAA)]).collect()),
        Way::Peeked => asker().peeked(&first()).into(),
        Way::Again => asker().again(&first(), servers).into(),
        Way::Stream(how) => ask_over_tcp(how, name, servers[0]),
    }
}

/// A UDP socket, and whom it asks.
struct Asker {
    socket: UdpSocket,
    server: SocketAddr,
    room: [u8; 2048],
}

impl Asker {
    fn new(server: SocketAddr, patience: Duration) -> Self {
        let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("a socket");
        socket.set_read_timeout(Some(patience)).expect("a socket");
        Self { socket, server, room: [0; 2048] }
    }

    fn connect(&self) {
        self.socket.connect(self.server).expect("an address");
    }

    /// Takes what comes until it is the answer; whether that came.
    fn take(&mut self, query: &[u8]) -> bool {
        while self.socket.recv_from(&mut self.room).is_ok() {
            if self.room[..2] == query[..2] && self.room[2] & 0x80 != 0 {
                return true;
            }
        }
        false
    }

    fn to(&mut self, query: &[u8], server: SocketAddr) -> bool {
        self.socket.send_to(query, server).expect("a server");
        self.take(query)
    }

    fn connected(&mut self, query: &[u8]) -> bool {
        self.connect();
        self.socket.send(query).expect("a server");
        self.take(query)
    }

    fn written(&mut self, query: &[u8]) -> bool {
        self.connect();
        // SAFETY: the message lives until the call is over.
        let written = unsafe { libc::write(self.socket.as_raw_fd(), query.as_ptr().cast(), query.len()) };
        assert!(written > 0);
        // SAFETY: there is so much room.
        unsafe { libc::read(self.socket.as_raw_fd(), self.room.as_mut_ptr().cast(), self.room.len()) > 0 }
    }

    fn in_pieces(&mut self, query: &[u8]) -> bool {
        self.connect();
        let (head, rest) = query.split_at(12);
        let pieces = [io::IoSlice::new(head), io::IoSlice::new(rest)];
        // SAFETY: pieces are laid out as the call wants them, and live until it is over.
        assert!(unsafe { libc::writev(self.socket.as_raw_fd(), pieces.as_ptr().cast(), 2) } > 0);
        let (head, rest) = self.room.split_at_mut(100);
        let mut pieces = [io::IoSliceMut::new(head), io::IoSliceMut::new(rest)];
        // SAFETY: as above.
        unsafe { libc::readv(self.socket.as_raw_fd(), pieces.as_mut_ptr().cast(), 2) > 0 }
    }

    fn in_a_message(&self, query: Vec<u8>) -> usize {
        assert_eq!(Batch::new(vec![query], Some(self.server)).send_one(&self.socket), 1);
        Batch::new(vec![vec![0; 2048]], None).receive_one(&self.socket)
    }

    fn in_a_pair(&mut self, queries: [Vec<u8>; 2]) -> usize {
        self.connect();
        assert_eq!(Batch::new(queries.into(), None).send(&self.socket), 2);
        (0..2).filter(|_| self.socket.recv(&mut self.room).is_ok()).count()
    }

    fn in_a_batch(&self, queries: Vec<Vec<u8>>) -> usize {
        let count = queries.len();
        assert_eq!(Batch::new(queries, Some(self.server)).send(&self.socket), count);
        let mut taken = 0;
        while taken < count {
            match Batch::new(vec![vec![0; 2048]; count], None).receive(&self.socket) {
                0 => break,
                some => taken += some,
            }
        }
        taken
    }

    fn peeked(&mut self, query: &[u8]) -> bool {
        self.connect();
        self.socket.send(query).expect("a server");
        self.socket.peek(&mut self.room).expect("an answer");
        self.socket.recv(&mut self.room).is_ok()
    }

    fn again(&mut self, query: &[u8], servers: &[SocketAddr]) -> bool {
        self.socket.set_read_timeout(Some(IN_VAIN)).expect("a socket");
        let is_answered = servers.iter().any(|server| self.to(query, *server));
        // Whatever comes after it is no answer to anybody.
        while self.socket.recv_from(&mut self.room).is_ok() {}
        is_answered
    }
}

/// Messages of one call, and all that they point to.
struct Batch {
    messages: Vec<Vec<u8>>,
    pieces: Vec<libc::iovec>,
    to: libc::sockaddr_in,
    heads: Vec<libc::mmsghdr>,
}

impl Batch {
    /// To this address of version 4; none for a connected socket, and to receive.
    fn new(messages: Vec<Vec<u8>>, to: Option<SocketAddr>) -> Self {
        // SAFETY: zeros are a valid address and a valid head.
        let mut batch = Self { messages, pieces: Vec::new(), to: unsafe { zeroed() }, heads: Vec::new() };
        if let Some(SocketAddr::V4(to)) = to {
            batch.to.sin_family = libc::AF_INET.try_into().expect("a small number");
            batch.to.sin_port = to.port().to_be();
            batch.to.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        }
        batch.pieces = batch
            .messages
            .iter_mut()
            .map(|message| libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() })
            .collect();
        // SAFETY: as above.
        batch.heads = batch.pieces.iter().map(|_| unsafe { zeroed() }).collect();
        batch
    }

    /// The heads, which point into the batch where it lies now.
    fn heads(&mut self) -> (*mut libc::mmsghdr, u32) {
        let is_addressed = self.to.sin_port != 0;
        for (head, piece) in self.heads.iter_mut().zip(&mut self.pieces) {
            (head.msg_hdr.msg_iov, head.msg_hdr.msg_iovlen) = (piece, 1);
            if is_addressed {
                head.msg_hdr.msg_name = (&raw mut self.to).cast();
                head.msg_hdr.msg_namelen = size_of_val(&self.to).try_into().expect("a small number");
            }
        }
        (self.heads.as_mut_ptr(), self.heads.len().try_into().expect("a small number"))
    }

    fn send(&mut self, socket: &UdpSocket) -> usize {
        let (heads, count) = self.heads();
        // SAFETY: the heads and what they point to live until the call is over.
        unsafe { libc::sendmmsg(socket.as_raw_fd(), heads, count, 0) }.try_into().unwrap_or_default()
    }

    fn receive(&mut self, socket: &UdpSocket) -> usize {
        let (heads, count) = self.heads();
        // SAFETY: as above.
        let taken = unsafe { libc::recvmmsg(socket.as_raw_fd(), heads, count, libc::MSG_WAITFORONE, ptr::null_mut()) };
        taken.try_into().unwrap_or_default()
    }

    fn send_one(&mut self, socket: &UdpSocket) -> usize {
        self.heads();
        let head = &raw const self.heads[0].msg_hdr;
        // SAFETY: as above.
        usize::from(unsafe { libc::sendmsg(socket.as_raw_fd(), head, 0) } > 0)
    }

    fn receive_one(&mut self, socket: &UdpSocket) -> usize {
        self.heads();
        let head = &raw mut self.heads[0].msg_hdr;
        // SAFETY: as above.
        usize::from(unsafe { libc::recvmsg(socket.as_raw_fd(), head, 0) } > 0)
    }
}

/// What goes to port 53 and is no query, from a connected socket and from one that is not; whatever comes is taken.
fn send_no_queries(server: SocketAddr) {
    let all: Vec<Vec<u8>> = (0..14)
        .map(|length| vec![0; length])
        .chain([
            vec![0xff; 12],
            vec![0xff; 1400],
            b"GET / HTTP/1.1".to_vec(),
            // No question, two of them, an update, an answer.
            vec![1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            vec![1, 2, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0],
            vec![1, 2, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            vec![1, 2, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0],
            // A query, cut short.
            vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0],
        ])
        .collect();
    for is_connected in [true, false] {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
        if is_connected {
            socket.connect(server).expect("an address");
        }
        for message in &all {
            let sent = if is_connected { socket.send(message) } else { socket.send_to(message, server) };
            assert_eq!(sent.expect("a server"), message.len());
        }
        // In one call, and through nowhere.
        if is_connected {
            Batch::new(all.clone(), None).send(&socket);
        }
        // SAFETY: the kernel refuses the address.
        unsafe { libc::sendto(socket.as_raw_fd(), ptr::without_provenance(1), 100, 0, ptr::null(), 0) };
        let mut room = [0; 2048];
        while socket.recv_from(&mut room).is_ok() {}
    }
}

/// Lays files of its own over those in which the C library finds its servers, if that is not done yet, and writes them: addresses
/// of servers, and options.
fn use_servers(words: &[&str]) {
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    if !IS_DONE.swap(true, Ordering::Relaxed) {
        hide_servers();
    }
    let mut lines = vec!["options timeout:1 attempts:1".to_owned()];
    let line = |word: &&str| {
        if word.parse::<IpAddr>().is_ok() { format!("nameserver {word}") } else { format!("options {word}") }
    };
    lines.extend(words.iter().map(line));
    fs::write(SERVERS, lines.join("\n") + "\n").expect("a file of its own");
    fs::write(SOURCES, "hosts: dns\n").expect("a file of its own");
}

fn hide_servers() {
    // SAFETY: only this thread gets another view of the file systems.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "{}", io::Error::last_os_error());
    let path = |text: &str| CString::new(text).expect("a path");
    let mount = |from: &str, to: &str, flags: libc::c_ulong| {
        let (from, to) = (path(from), path(to));
        // SAFETY: the paths live until the call is over.
        let answer = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), flags, ptr::null()) };
        assert_eq!(answer, 0, "{to:?}: {}", io::Error::last_os_error());
    };
    mount("none", "/", libc::MS_REC | libc::MS_PRIVATE);
    for name in [SERVERS, SOURCES] {
        if !Path::new(name).exists() && machine_is_own() {
            fs::write(name, "").expect("the machine is the test's own");
        }
        let own = std::env::temp_dir().join(format!("podlens-test-{}-{}", std::process::id(), &name[5..]));
        fs::write(&own, "").expect("a file");
        mount(own.to_str().expect("a path"), name, libc::MS_BIND);
        fs::remove_file(&own).expect("it is there");
    }
}

/// By `getaddrinfo`, which the standard library calls.
fn look_up(name: &str) -> bool {
    (name, 80).to_socket_addrs().is_ok_and(|mut found| found.next().is_some())
}
