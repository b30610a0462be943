//! A way between the network namespaces of two peers that is as long and as bad as a test wants it: packets come out of a TUN
//! device in one of them, and go into that of the other one after a delay that is set, or never.
//!
//! The way is laid by threads of the test's own. It ends with its value.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::SocketAddrV4,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::Peer;

/// `TUNSETIFF` of `linux/if_tun.h`: makes a device, or gives the one of that name.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// `IFF_TUN` and `IFF_NO_PI` of the same: packets without a link's head and without a head of the device's own.
const FLAGS: libc::c_short = 0x1001;
/// How often a thread looks whether the way is to end.
const LOOKS_EVERY: Duration = Duration::from_millis(50);

/// A device in a peer's network namespace; what is sent there goes to the test.
#[derive(Debug)]
pub struct Tunnel(File);

impl Tunnel {
    /// Makes it with these addresses.
    pub fn make(peer: &Peer, addresses: &[&str]) -> Self {
        const NAME: &str = "pt0";
        let namespace = File::open(format!("/proc/{}/ns/net", peer.id())).expect("the peer runs");
        // A thread of its own, which stays in that namespace until it ends.
        let opened = thread::spawn(move || {
            // SAFETY: the descriptor is open.
            let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
            let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("there are TUN devices");
            // SAFETY: a structure of numbers alone.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (place, letter) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
                *place = letter.cast_signed();
            }
            request.ifr_ifru.ifru_flags = FLAGS;
            // SAFETY: the request is of the type that this number takes.
            let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
            assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
            device
        });
        let device = opened.join().expect("a device is made");
        peer.in_its_network(&["ip", "link", "set", NAME, "up"]);
        for address in addresses {
            let is_v6 = address.contains(':');
            let words: &[&str] = if is_v6 { &["nodad"] } else { &[] };
            peer.in_its_network(&[&["ip", "address", "add", address, "dev", NAME], words].concat());
        }
        Self(device)
    }

    /// Puts a packet into the namespace.
    pub fn send(&mut self, packet: &[u8]) {
        self.0.write_all(packet).expect("the device takes packets");
    }
}

/// A way between two peers.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    ends: AtomicBool,
    /// Nothing comes through.
    is_cut: AtomicBool,
    /// Of so many segments with payload one is lost; 0: none is.
    loses_one_of: AtomicU64,
    lost: AtomicU64,
    /// Of so many segments with payload one comes at once and overtakes those under way; 0: none does.
    hurries_one_of: AtomicU64,
    hurried: AtomicU64,
}

impl Relay {
    /// Lays one; `delay` is that of each direction.
    pub fn lay(ends: [(&Peer, &[&str]); 2], delay: Duration) -> Self {
        let [one, other] = ends.map(|(peer, addresses)| Tunnel::make(peer, addresses).0);
        let shared = Arc::new(Shared::default());
        let copies = [&one, &other].map(|device| device.try_clone().expect("a descriptor is left"));
        let [one_copy, other_copy] = copies;
        let ways = [(one, other_copy), (other, one_copy)];
        let threads = ways.map(|(from, to)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || carry(from, to, delay, &shared))
        });
        Self { shared, threads: threads.into() }
    }

    /// From now on one of so many segments with payload is lost, in both directions together; 0: none is.
    pub fn lose_one_of(&self, segments: u64) {
        self.shared.loses_one_of.store(segments, Ordering::SeqCst);
    }

    /// How many were lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// From now on one of so many segments with payload overtakes those under way, in each direction; 0: none does.
    pub fn hurry_one_of(&self, segments: u64) {
        self.shared.hurries_one_of.store(segments, Ordering::SeqCst);
    }

    /// How many overtook others so far.
    pub fn hurried(&self) -> u64 {
        self.shared.hurried.load(Ordering::SeqCst)
    }

    /// From now on nothing comes through.
    pub fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::SeqCst);
    }

    /// From now on all comes through again.
    pub fn mend(&self) {
        self.shared.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry(mut from: File, mut to: File, delay: Duration, shared: &Shared) {
    punctual();
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut carried = 0_u64;
    while !shared.ends.load(Ordering::SeqCst) {
        let next = under_way.front().map_or(LOOKS_EVERY, |(due, _)| due.saturating_duration_since(Instant::now()));
        if has_packet(&from, next.min(LOOKS_EVERY)) {
            let mut packet = vec![0; 1 << 16];
            let length = from.read(&mut packet).expect("the device gives packets");
            packet.truncate(length);
            carried += u64::from(has_payload(&packet));
            let is_one_of = |of: &AtomicU64| {
                let of = of.load(Ordering::SeqCst);
                of != 0 && has_payload(&packet) && carried.is_multiple_of(of)
            };
            let now = Instant::now();
            if is_one_of(&shared.loses_one_of) {
                shared.lost.fetch_add(1, Ordering::SeqCst);
            } else if shared.is_cut.load(Ordering::SeqCst) {
                // It goes nowhere.
            } else if is_one_of(&shared.hurries_one_of) {
                shared.hurried.fetch_add(u64::from(!under_way.is_empty()), Ordering::SeqCst);
                under_way.push_front((now, packet));
            } else {
                under_way.push_back((now + delay, packet));
            }
        }
        while let Some((due, packet)) = under_way.front()
            && *due <= Instant::now()
        {
            // A namespace that has gone takes nothing.
            let _ = to.write_all(packet);
            under_way.pop_front();
        }
    }
}

/// Lets this thread go before everybody else who wants its CPU, so that the way is as long as it is set however busy the machine
/// is. Where that is refused, as in a cgroup without a budget for it, the way may be longer.
fn punctual() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter lives as long as the call, and 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
}

fn has_packet(device: &File, patience: Duration) -> bool {
    let mut poll = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let patience = libc::timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
    // SAFETY: one entry, and a time, both of which outlive the call.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const patience, std::ptr::null()) == 1 }
}

/// A TCP segment that is more than its heads.
fn has_payload(packet: &[u8]) -> bool {
    let byte = |at: usize| usize::from(packet.get(at).copied().unwrap_or_default());
    let (head, protocol) = if byte(0) >> 4 == 6 { (40, byte(6)) } else { ((byte(0) & 15) * 4, byte(9)) };
    protocol == 6 && packet.len() > head + (byte(head + 12) >> 4) * 4
}

/// A request for a connection, as a packet of version 4.
pub fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    // Sequence 1, no acknowledgement, a head of 20 bytes, SYN, a window of 64 KiB; then the sum, and no urgent data.
    let segment = [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff]].concat();
    let segment_sum = internet_sum(&[&addresses[..], &[0, 6, 0, 20], &segment].concat());
    // Version, a head of 20 bytes, 40 in all, in one piece, 64 hops, TCP; then the sum.
    let head = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6];
    let head_sum = internet_sum(&[&head, &addresses[..]].concat());
    [&head, &head_sum[..], &addresses, &segment, &segment_sum, &[0, 0]].concat()
}

/// The sum of RFC 1071.
fn internet_sum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("16 bits")).to_be_bytes()
}
