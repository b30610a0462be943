//! What a peer does with UDP: sockets of its own, and each of the ways in which programs send and take datagrams.

#![allow(
    clippy::indexing_slicing,
    reason = "a command has the words that it needs, and a peer the sockets that it is told of"
)]

use std::{
    io,
    mem::{size_of_val, zeroed},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `UDP_SEGMENT` and `UDP_GRO` of linux/udp.h.
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
/// Datagrams of one `sendmmsg` or `recvmmsg`.
const BATCH: u8 = 16;
const HEADS: usize = BATCH as usize;
/// Longer than any datagram.
const ROOM: usize = 1 << 16;

/// A peer's sockets, in the order in which they were made.
#[derive(Default)]
pub(super) struct Datagrams(Vec<UdpSocket>);

impl Datagrams {
    /// Follows a command; none if it is not one about UDP.
    pub(super) fn follow(&mut self, words: &[&str]) -> Option<String> {
        let number = |at: usize| words[at].parse::<usize>().expect("a number");
        let address = |at: usize| words[at].parse::<SocketAddr>().expect("an address");
        let answer = match words[0] {
            "udp-bind" => self.bind(address(1), number(2)).to_string(),
            "udp-send" => self.send(number(1), words[2], address(3), number(4), number(5)).to_string(),
            "udp-take" => {
                let (datagrams, bytes) = self.take(number(1), words[2]);
                format!("{datagrams} {bytes}")
            }
            "udp-broken" => broken(address(1), number(2)).to_string(),
            _ => return None,
        };
        Some(answer)
    }

    /// A socket at this address with this receive buffer, 0 for the kernel's own choice.
    fn bind(&mut self, address: SocketAddr, buffer: usize) -> SocketAddr {
        let socket = UdpSocket::bind(address).expect("a free port");
        socket.set_nonblocking(true).expect("a socket");
        if buffer != 0 {
            set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, buffer);
        }
        let bound = socket.local_addr().expect("an address");
        self.0.push(socket);
        bound
    }

    /// Sends so many datagrams of a length; gives how many calls failed.
    fn send(&self, from: usize, way: &str, to: SocketAddr, times: usize, length: usize) -> usize {
        let (socket, payload) = (&self.0[from], vec![7_u8; length]);
        let count = |results: &mut dyn Iterator<Item = io::Result<usize>>| results.filter(Result::is_err).count();
        match way {
            "to" => count(&mut (0..times).map(|_| socket.send_to(&payload, to))),
            "connected" => {
                socket.connect(to).expect("an address");
                count(&mut (0..times).map(|_| socket.send(&payload)))
            }
            "batch" => {
                socket.connect(to).expect("an address");
                let mut left = times;
                while left > 0 {
                    left -= send_batch(socket, &payload, left.min(HEADS));
                }
                0
            }
            "segments" => {
                socket.connect(to).expect("an address");
                set(socket, libc::SOL_UDP, UDP_SEGMENT, length);
                let failed = usize::from(socket.send(&vec![7; length * times]).is_err());
                set(socket, libc::SOL_UDP, UDP_SEGMENT, 0);
                failed
            }
            other => panic!("no way to send is called {other:?}"),
        }
    }

    /// Takes what is there; how many datagrams and bytes the program got.
    fn take(&self, at: usize, way: &str) -> (usize, usize) {
        let socket = &self.0[at];
        let mut room = vec![0; ROOM];
        let mut all = (0, 0);
        let mut add = |datagrams: usize, bytes: usize| all = (all.0 + datagrams, all.1 + bytes);
        match way {
            "each" => {
                while let Ok(bytes) = socket.recv(&mut room) {
                    add(1, bytes);
                }
            }
            "peek" => {
                while socket.peek(&mut room).is_ok() {
                    add(1, socket.recv(&mut room).expect("it was there"));
                }
            }
            "short" => {
                while let Ok(bytes) = socket.recv(&mut room[..10]) {
                    add(1, bytes);
                }
            }
            "batch" => {
                while let Some((datagrams, bytes)) = receive_batch(socket) {
                    add(datagrams, bytes);
                }
            }
            "together" => {
                set(socket, libc::SOL_UDP, UDP_GRO, 1);
                while let Ok(bytes) = socket.recv(&mut room) {
                    add(1, bytes);
                }
            }
            other => panic!("no way to receive is called {other:?}"),
        }
        all
    }
}

fn send_batch(socket: &UdpSocket, payload: &[u8], count: usize) -> usize {
    let mut piece = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: zeros are a valid header without an address, pieces and control messages.
    let mut heads: [libc::mmsghdr; HEADS] = unsafe { zeroed() };
    for head in &mut heads {
        (head.msg_hdr.msg_iov, head.msg_hdr.msg_iovlen) = (&raw mut piece, 1);
    }
    let count = u32::try_from(count).expect("a small number");
    // SAFETY: the heads and what they point to live until the call is over.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), heads.as_mut_ptr(), count, 0) };
    usize::try_from(sent).unwrap_or_else(|_| panic!("{}", io::Error::last_os_error()))
}

fn receive_batch(socket: &UdpSocket) -> Option<(usize, usize)> {
    let mut rooms = vec![[0_u8; 4096]; HEADS];
    // SAFETY: as above.
    let mut heads: [libc::mmsghdr; HEADS] = unsafe { zeroed() };
    let mut pieces: Vec<libc::iovec> =
        rooms.iter_mut().map(|room| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }).collect();
    for (head, piece) in heads.iter_mut().zip(&mut pieces) {
        (head.msg_hdr.msg_iov, head.msg_hdr.msg_iovlen) = (piece, 1);
    }
    // SAFETY: as above.
    let taken = unsafe {
        libc::recvmmsg(socket.as_raw_fd(), heads.as_mut_ptr(), BATCH.into(), libc::MSG_DONTWAIT, std::ptr::null_mut())
    };
    let taken = usize::try_from(taken).ok()?;
    Some((taken, heads.iter().take(taken).map(|head| head.msg_len as usize).sum()))
}

/// Sends so many datagrams with a wrong checksum; gives how many calls failed.
fn broken(to: SocketAddr, times: usize) -> usize {
    // SAFETY: no memory is handed over.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP) };
    assert!(raw >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is nobody else's.
    let raw = unsafe { OwnedFd::from_raw_fd(raw) };
    // The same calls serve any socket of the internet; only the head is the program's own matter.
    let raw = UdpSocket::from(raw);
    let length: u16 = 8 + 4;
    let head = [9_u16.to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes(), 0xdead_u16.to_be_bytes()].concat();
    let packet = [head.as_slice(), &[1, 2, 3, 4]].concat();
    (0..times).filter(|_| raw.send_to(&packet, SocketAddr::new(to.ip(), 0)).is_err()).count()
}

fn set(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, value: usize) {
    let value = libc::c_int::try_from(value).expect("a small number");
    let length = libc::socklen_t::try_from(size_of_val(&value)).expect("a small number");
    // SAFETY: these options take a whole number.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    assert_eq!(answer, 0, "{}", io::Error::last_os_error());
}
