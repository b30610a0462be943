//! Peers: processes of the test's own that talk TCP to each other in a known way, each in a cgroup and, if the test wants
//! it, in a network namespace of its own.
//!
//! A peer is a [`HelperProcess`] at the one "test" in this file. It makes its sockets when it is told to, so after it was moved into
//! its cgroup.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::{
    PATIENCE, TestCgroup,
    datagrams::Datagrams,
    helper_process::{HelperProcess, follow, orders},
    load_module, resolver,
};

/// Lengths of what is asked for and of what is answered, before either.
const HEAD: usize = 8;

/// In whose network namespace a peer is.
#[derive(Clone, Copy, Debug)]
pub enum Network<'a> {
    /// The machine's.
    Machine,
    /// One of its own.
    Own,
    /// That of another peer.
    Of(&'a Peer),
}

/// Payload that a peer's programs have written and read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Written.
    pub sent: u64,
    /// Read.
    pub received: u64,
}

/// A peer's process. Ends with the value, whatever it has open.
#[derive(Debug)]
pub struct Peer(HelperProcess);

impl Peer {
    /// Starts one in a cgroup.
    pub fn start(cgroup: &TestCgroup, network: Network<'_>) -> Self {
        let namespace = match network {
            Network::Of(other) => format!("--net=/proc/{}/ns/net", other.id()),
            Network::Machine | Network::Own => String::new(),
        };
        let under: &[&str] = match network {
            Network::Machine => &[],
            Network::Own => &["unshare", "--net"],
            Network::Of(_) => &["nsenter", &namespace],
        };
        let peer = Self(HelperProcess::start(under, concat!(module_path!(), "::peer_process"), ""));
        cgroup.add(peer.id());
        if matches!(network, Network::Own) {
            peer.in_its_network(&["ip", "link", "set", "lo", "up"]);
        }
        peer
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Runs a command in its network namespace.
    pub fn in_its_network(&self, command: &[&str]) {
        self.try_in_its_network(command).unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"));
    }

    /// The same; gives what the command prints, or what it says if it fails.
    pub fn try_in_its_network(&self, command: &[&str]) -> Result<String, String> {
        let net = format!("--net=/proc/{}/ns/net", self.id());
        let output = Command::new("nsenter").arg(net).args(command).output().expect("nsenter is installed");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Lays a wire from its network namespace, `pl0`, to another peer's, `pl1`, or to its own again, with these addresses; tells
    /// why not if the kernel has no such devices.
    pub fn wire(&self, other: Option<&Self>, addresses: [&str; 2]) -> Result<(), String> {
        load_module("veth", &[]);
        let far = other.unwrap_or(self);
        let id = far.id().to_string();
        let add = ["ip", "link", "add", "pl0", "type", "veth", "peer", "name", "pl1", "netns", &id];
        self.try_in_its_network(&add)?;
        for (peer, link, address) in [(self, "pl0", addresses[0]), (far, "pl1", addresses[1])] {
            peer.in_its_network(&["ip", "address", "add", address, "dev", link]);
            peer.in_its_network(&["ip", "link", "set", link, "up"]);
        }
        Ok(())
    }

    /// A number of its network namespace, by the names that /proc/net/snmp and netstat have.
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        let text = ["snmp", "netstat"].map(|file| {
            std::fs::read_to_string(format!("/proc/{}/net/{file}", self.id())).expect("the namespace has counters")
        });
        let mut lines = text.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix(group));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let at = names.split_whitespace().position(|one| one == name).unwrap_or_else(|| panic!("{group}{name}"));
        values.split_whitespace().nth(at).expect("as many values as names").parse().expect("a number")
    }

    /// A number of UDP in its network namespace: over both families, as the kernel counts them.
    pub fn udp_counter(&self, name: &str) -> u64 {
        let text =
            std::fs::read_to_string(format!("/proc/{}/net/snmp6", self.id())).expect("the namespace has counters");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("Udp6{name} ")));
        let of_version_6: u64 = line.unwrap_or_else(|| panic!("Udp6{name}")).trim().parse().expect("a number");
        self.counter("Udp:", name) + of_version_6
    }

    /// Sets a value below /proc/sys/net for its network namespace.
    pub fn set_in_its_network(&self, name: &str, value: &str) {
        self.in_its_network(&["sh", "-c", &format!("echo {value} > /proc/sys/net/{name}")]);
    }

    /// Has all that its network receives on loopback come in an interrupt, on that CPU or another one; tells why not if the
    /// kernel cannot.
    pub fn receive_in_interrupts(&self) -> Result<(), String> {
        // What is received is handed to these CPUs, in turns by connection, as the cards of a node's hardware do.
        let set = "mount -t sysfs sysfs /sys && echo 3 > /sys/class/net/lo/queues/rx-0/rps_cpus";
        self.try_in_its_network(&["unshare", "--mount", "sh", "-c", set]).map(drop)
    }

    /// Listens at an address and answers whoever comes; gives the address.
    pub fn serve(&mut self, address: &str) -> SocketAddr {
        self.ask(&format!("serve {address}")).parse().expect("an address")
    }

    /// Listens with this backlog and takes nobody.
    pub fn listen(&mut self, address: &str, backlog: u32) -> SocketAddr {
        self.ask(&format!("listen {address} {backlog}")).parse().expect("an address")
    }

    /// The same with a receive window of so many bytes at most, which is full long before the receive buffer is.
    pub fn listen_narrowly(&mut self, address: &str, window: u32) -> SocketAddr {
        self.ask(&format!("listen {address} 5 {window}")).parse().expect("an address")
    }

    /// Makes connections one after another, sends and asks for so much on each, and keeps them; gives what failed.
    pub fn open(&mut self, address: SocketAddr, times: u32, up: u32, down: u32) -> u32 {
        self.ask(&format!("open {address} {times} {up} {down}")).parse().expect("a number")
    }

    /// The same, and closes each.
    pub fn call(&mut self, address: SocketAddr, times: u32, up: u32, down: u32) -> u32 {
        self.ask(&format!("call {address} {times} {up} {down}")).parse().expect("a number")
    }

    /// Makes so many connections to itself, with 10 bytes up and 20 down on each, and keeps both ends.
    pub fn fill(&mut self, address: &str, times: u32) {
        self.ask(&format!("fill {address} {times}"));
    }

    /// Asks for a connection from one address to another, which may be the same one, and keeps it; does not wait for the answer, which
    /// is what failed.
    pub fn begin_crossing(&mut self, from: &str, to: &str) {
        self.begin(&format!("cross {from} {to}"));
    }

    /// Connects and goes on writing in a thread of its own; with a send buffer of so many bytes, or 0 for the kernel's own.
    pub fn push(&mut self, address: SocketAddr, buffer: u32) {
        self.ask(&format!("push {address} {buffer}"));
    }

    /// Listens, and takes those who come and what they send, with so many ms between one piece and the next.
    pub fn swallow(&mut self, address: &str, pause_ms: u32) -> SocketAddr {
        self.ask(&format!("swallow {address} {pause_ms}")).parse().expect("an address")
    }

    /// Connects, sends until the connection has so many segments, and keeps it; does not wait for the answer, which are the segments
    /// that it has sent by then, by the kernel.
    pub fn begin_flood(&mut self, address: SocketAddr, segments: u64) {
        self.begin(&format!("flood {address} {segments}"));
    }

    /// Listens, and lets the kernel throw away all that comes.
    pub fn drain(&mut self, address: &str) -> SocketAddr {
        self.ask(&format!("drain {address}")).parse().expect("an address")
    }

    /// For how long what it pushes was kept waiting by the other side's window and by its own buffer, in us, by the kernel.
    pub fn limited_us(&mut self) -> [u64; 2] {
        let answer = self.ask("limited");
        let (window, buffer) = answer.split_once(' ').expect("two numbers");
        [window, buffer].map(|number| number.parse().expect("a number"))
    }

    /// Its TCP sockets of this network namespace in a state, as /proc/net/tcp and tcp6 number it.
    pub fn sockets_of_its_network(&self, state: &str) -> u64 {
        sockets_in(self.id(), state)
    }

    /// Sets a parameter of its network namespace, such as `net.ipv4.tcp_syncookies`.
    pub fn set_parameter(&self, name: &str, value: &str) {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        self.in_its_network(&["sh", "-c", &format!("echo {value} > {file}")]);
    }

    /// Tries so many connections at once and waits for none of them.
    pub fn knock(&mut self, address: SocketAddr, times: u32) {
        self.ask(&format!("knock {address} {times}"));
    }

    /// Closes all that it has kept.
    pub fn close(&mut self) {
        self.ask("close");
    }

    /// The same, by resets.
    pub fn reset(&mut self) {
        self.ask("reset");
    }

    /// What its programs have written and read so far.
    pub fn traffic(&mut self) -> Traffic {
        let answer = self.ask("traffic");
        let (sent, received) = answer.split_once(' ').expect("two numbers");
        Traffic { sent: sent.parse().expect("a number"), received: received.parse().expect("a number") }
    }

    /// Makes a UDP socket at this address, with this receive buffer unless that is 0; its number is how many it had before.
    pub fn bind_udp(&mut self, address: &str, buffer: u32) -> SocketAddr {
        self.ask(&format!("udp-bind {address} {buffer}")).parse().expect("an address")
    }

    /// Sends datagrams from one of its UDP sockets, in one of the ways of `datagrams.rs`; gives how many calls failed.
    pub fn send_udp(&mut self, from: usize, way: &str, to: SocketAddr, times: u32, length: u32) -> u32 {
        self.ask(&format!("udp-send {from} {way} {to} {times} {length}")).parse().expect("a number")
    }

    /// Takes all that a UDP socket of its own has, in one of the ways of `datagrams.rs`; gives datagrams and bytes.
    pub fn take_udp(&mut self, at: usize, way: &str) -> (u64, u64) {
        let answer = self.ask(&format!("udp-take {at} {way}"));
        let (datagrams, bytes) = answer.split_once(' ').expect("two numbers");
        (datagrams.parse().expect("a number"), bytes.parse().expect("a number"))
    }

    /// Sends datagrams with a wrong checksum; gives how many calls failed.
    pub fn send_broken_udp(&mut self, to: SocketAddr, times: u32) -> u32 {
        self.ask(&format!("udp-broken {to} {times}")).parse().expect("a number")
    }

    /// Tells it what to do and does not wait for the answer.
    pub fn begin(&mut self, command: &str) {
        self.0.tell(command);
    }

    fn ask(&mut self, command: &str) -> String {
        self.0.ask(command)
    }

    /// Its next answer.
    pub fn answer(&mut self) -> String {
        self.0.answer().unwrap_or_else(|said| panic!("the peer has ended; it said:\n{said}"))
    }
}

/// The TCP sockets in a state, as /proc/net/tcp and tcp6 number it, in the network namespace of a process.
pub fn sockets_in(process: u32, state: &str) -> u64 {
    let tables =
        ["tcp", "tcp6"].map(|file| std::fs::read_to_string(format!("/proc/{process}/net/{file}")).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines.filter(|line| line.split_whitespace().nth(3) == Some(state)).count() as u64
}

/// What a peer's process has written and read.
#[derive(Default)]
struct Totals {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Totals {
    fn send(&self, stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
        stream.write_all(&vec![7; bytes])?;
        self.sent.fetch_add(bytes as u64, Ordering::SeqCst);
        Ok(())
    }

    fn receive(&self, stream: &mut TcpStream, bytes: usize) -> std::io::Result<Vec<u8>> {
        let mut found = vec![0; bytes];
        stream.read_exact(&mut found)?;
        self.received.fetch_add(bytes as u64, Ordering::SeqCst);
        Ok(found)
    }
}

/// What a peer's process has open, and what went through it.
#[derive(Default)]
struct Sockets {
    totals: Arc<Totals>,
    kept: Vec<TcpStream>,
    pushed: Vec<TcpStream>,
    /// Those that take nobody.
    listeners: Vec<TcpListener>,
    datagrams: Datagrams,
}

impl Sockets {
    /// Does what a command says; gives the answer.
    fn follow(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        let number = |at: usize| word(at).parse::<u32>().expect("a number");
        match word(0) {
            "fill" => fill(word(1), number(2), &self.totals, &mut self.kept),
            "push" => self.pushed.push(push(word(1), number(2))),
            "knock" => knock(word(1), number(2)),
            "close" => self.kept.drain(..).for_each(end),
            "reset" => self.kept.drain(..).for_each(reset),
            "serve" => return serve(word(1), &self.totals).to_string(),
            "listen" => return self.listen(word(1), number(2), words.get(3).copied()).to_string(),
            "open" | "call" => return self.call(word(0) == "open", word(1), [2, 3, 4].map(number)).to_string(),
            "cross" => return self.cross(word(1), word(2)),
            "swallow" => return swallow(word(1), Duration::from_millis(number(2).into())).to_string(),
            "flood" => return self.flood(word(1), word(2).parse().expect("a number")).to_string(),
            "drain" => return drain(word(1)).to_string(),
            "limited" => return self.limited_us().map(|time| time.to_string()).join(" "),
            "traffic" => {
                return [&self.totals.sent, &self.totals.received]
                    .map(|sum| sum.load(Ordering::SeqCst).to_string())
                    .join(" ");
            }
            other => {
                let done = self.datagrams.follow(&words).or_else(|| resolver::follow(&words));
                return done.unwrap_or_else(|| panic!("no command is called {other:?}"));
            }
        }
        "done".to_owned()
    }

    /// Listens and takes nobody.
    fn listen(&mut self, address: &str, backlog: u32, window: Option<&str>) -> SocketAddr {
        let listener = TcpListener::bind(address).expect("a free port");
        let bound = listener.local_addr().expect("an address");
        let backlog = i32::try_from(backlog).expect("a small number");
        // SAFETY: it is a socket that listens; to listen once more changes how many may wait.
        let answer = unsafe { libc::listen(listener.as_raw_fd(), backlog) };
        assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
        if let Some(window) = window {
            let window: libc::c_int = window.parse().expect("a number");
            set_option(&listener, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, &window);
        }
        self.listeners.push(listener);
        bound
    }

    /// Makes connections one after another; gives how many failed.
    fn call(&mut self, is_to_keep: bool, address: &str, [times, up, down]: [u32; 3]) -> u32 {
        let mut failed = 0;
        for _ in 0..times {
            match call(address, up, down, &self.totals) {
                Ok(stream) if is_to_keep => self.kept.push(stream),
                Ok(stream) => end(stream),
                Err(_) => failed += 1,
            }
        }
        failed
    }

    /// Gives what failed, if anything did.
    fn cross(&mut self, from: &str, to: &str) -> String {
        let made = cross(from, to);
        let failed = made.as_ref().err().map(ToString::to_string).unwrap_or_default();
        self.kept.extend(made);
        failed
    }

    fn flood(&mut self, address: &str, segments: u64) -> u64 {
        let (stream, sent) = flood(address, segments);
        self.kept.push(stream);
        sent
    }

    /// Of all that it pushes.
    fn limited_us(&self) -> [u64; 2] {
        self.pushed.iter().map(limited_us).fold([0; 2], |sum, one| [sum[0] + one[0], sum[1] + one[1]])
    }
}

#[test]
#[ignore = "no test, but the process that other tests start as a peer"]
fn peer_process() {
    if orders().is_none() {
        return;
    }
    let mut sockets = Sockets::default();
    follow(|command| sockets.follow(command))
}

/// One exchange as the side that asks.
fn call(address: &str, up: u32, down: u32, totals: &Totals) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    // Head and payload are two segments, of which the second would wait for the first one's acknowledgement.
    stream.set_nodelay(true)?;
    let head = [up.to_le_bytes(), down.to_le_bytes()].concat();
    stream.write_all(&head)?;
    totals.sent.fetch_add(HEAD as u64, Ordering::SeqCst);
    totals.send(&mut stream, up as usize)?;
    totals.receive(&mut stream, down as usize)?;
    Ok(stream)
}

/// Asks for a connection from an address of the program's own choice.
fn cross(from: &str, to: &str) -> std::io::Result<TcpStream> {
    let [from, to] = [from, to].map(|address| address.parse::<SocketAddr>().expect("an address"));
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Closes a connection and waits until the other side has done so too.
fn end(mut stream: TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut [0; 1]);
}

/// Closes a connection by a reset.
fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set_option(&stream, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
    drop(stream);
}

/// Answers each connection in a thread of its own.
fn serve(address: &str, totals: &Arc<Totals>) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let bound = listener.local_addr().expect("an address");
    let totals = Arc::clone(totals);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, totals) = (stream.expect("a connection"), Arc::clone(&totals));
            thread::spawn(move || {
                let Ok(head) = totals.receive(&mut stream, HEAD) else { return };
                let lengths = [head.first_chunk(), head.last_chunk()];
                let [up, down] = lengths.map(|bytes| u32::from_le_bytes(*bytes.expect("4 bytes")) as usize);
                if totals.receive(&mut stream, up).is_ok() && totals.send(&mut stream, down).is_ok() {
                    let _ = stream.read(&mut [0; 1]);
                }
            });
        }
    });
    bound
}

/// Connects to itself, and keeps both ends.
fn fill(address: &str, times: u32, totals: &Totals, kept: &mut Vec<TcpStream>) {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("an address");
    for _ in 0..times {
        let mut near = TcpStream::connect(address).expect("it listens");
        let (mut far, _) = listener.accept().expect("it has come");
        totals.send(&mut near, 10).and_then(|()| totals.receive(&mut far, 10)).expect("10 bytes");
        totals.send(&mut far, 20).and_then(|()| totals.receive(&mut near, 20)).expect("20 bytes");
        kept.extend([near, far]);
    }
}

/// Connects and writes until the other side has had enough; gives the connection.
fn push(address: &str, buffer: u32) -> TcpStream {
    /// Bytes a second, which is more than a small buffer lets through.
    const PACE: libc::c_uint = 4_000_000;
    let stream = TcpStream::connect(address).expect("it listens");
    if buffer > 0 {
        set_option(&stream, libc::SOL_SOCKET, libc::SO_SNDBUF, &libc::c_int::try_from(buffer).expect("a small number"));
        // The kernel says that the buffer limits where the last of it is sent while a call waits for room. On a slow machine each
        // call would find an empty buffer and fill it at once, and wait with nothing to send: no limit, by the kernel. So what a
        // call leaves there goes out bit by bit.
        set_option(&stream, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &PACE);
    }
    let mut writing = stream.try_clone().expect("a descriptor is left");
    thread::spawn(move || while writing.write_all(&[7; 1 << 14]).is_ok() {});
    stream
}

/// Takes what comes, piece by piece.
fn swallow(address: &str, pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let bound = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut piece = vec![0; 1 << 16];
                while stream.read(&mut piece).is_ok_and(|length| length > 0) {
                    thread::sleep(pause);
                }
            });
        }
    });
    bound
}

/// Connects and sends pages of a file, which nobody copies, until so many segments are sent and acknowledged; gives the connection and
/// how many there were.
fn flood(address: &str, segments: u64) -> (TcpStream, u64) {
    /// At once; a connection that sends 2^32 segments between two looks is none of this world.
    const PIECE: usize = 1 << 22;
    let stream = TcpStream::connect(address).expect("it listens");
    let file = tempfile::tempfile().expect("a directory for it");
    file.set_len(PIECE as u64).expect("there is memory for it");
    let (mut sent, mut last) = (0, 0);
    loop {
        let info = tcp_info(&stream);
        // `tcpi_segs_out` and `tcpi_unacked`: the lower halves.
        let [now, unacknowledged] = [info[17], info[3]].map(|word| u32::try_from(word & 0xffff_ffff).expect("32 bits"));
        sent += u64::from(now.wrapping_sub(last));
        last = now;
        if sent >= segments {
            if unacknowledged == 0 {
                return (stream, sent);
            }
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        let mut from = 0;
        // SAFETY: both are open, and it writes the one number.
        let done = unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &raw mut from, PIECE) };
        assert!(done > 0, "{}", std::io::Error::last_os_error());
    }
}

/// Takes those who come, and has the kernel throw away what they send.
fn drain(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let bound = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            // SAFETY: with this flag nothing is written, however long the buffer is said to be.
            while unsafe { libc::recv(stream.as_raw_fd(), std::ptr::null_mut(), 1 << 22, libc::MSG_TRUNC) } > 0 {}
        }
    });
    bound
}

/// `tcpi_rwnd_limited` and `tcpi_sndbuf_limited` of linux/tcp.h, which are the 22nd and the 23rd word of 8 bytes.
fn limited_us(stream: &TcpStream) -> [u64; 2] {
    let found = tcp_info(stream);
    [found[22], found[23]]
}

/// `struct tcp_info` of linux/tcp.h, in words of 8 bytes.
fn tcp_info(stream: &TcpStream) -> [u64; 32] {
    let mut found = [0_u64; 32];
    let mut length = libc::socklen_t::try_from(size_of_val(&found)).expect("a small number");
    // SAFETY: the kernel writes so many bytes at most as there are.
    let answer = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            found.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    found
}

/// Connects from so many threads of its own and keeps what comes of it.
fn knock(address: &str, times: u32) {
    let address: SocketAddr = address.parse().expect("an address");
    for _ in 0..times {
        thread::spawn(move || {
            let _stream = TcpStream::connect_timeout(&address, PATIENCE);
            thread::sleep(PATIENCE);
        });
    }
}

fn set_option<T>(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: &T) {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("a small number");
    // SAFETY: the value is of the option's type, which the caller knows.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), length) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}
