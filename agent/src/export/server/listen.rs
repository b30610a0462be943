//! Taking the address to listen on.
//!
//! `[::]` stands for every address that the host has: one socket takes connections over IPv6 and IPv4, whatever the default
//! of the node, and where the kernel has no IPv6 it is IPv4 alone.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listens. Call it within a runtime.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = on_what_there_is(address, open)?;
    TcpListener::from_std(listener)
}

/// Takes the address and gives it back at once; nobody is heard meanwhile, and nobody else is kept from it.
pub(super) fn try_out(address: SocketAddr) -> io::Result<()> {
    on_what_there_is(address, bound).map(drop)
}

fn on_what_there_is<T>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match open(address) {
        Err(cause) if is_without_ipv6(&cause) && address.is_ipv6() && address.ip().is_unspecified() => {
            tracing::info!(%address, "the kernel has no IPv6; listening on every IPv4 address");
            open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        outcome => outcome,
    }
}

/// Without the protocol there is no socket; where it is only switched off there may be one, but no address.
fn is_without_ipv6(cause: &io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = bound(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // A new agent takes over while connections of the one before it linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::{cell::RefCell, net::TcpStream};

    use super::{SocketAddr, io, listen, on_what_there_is};

    /// The addresses that are tried, where all of IPv6 fails so.
    fn tried(address: &str, error: i32) -> Vec<String> {
        let tried = RefCell::new(Vec::new());
        let open = |address: SocketAddr| {
            tried.borrow_mut().push(address.to_string());
            if address.is_ipv6() { Err(io::Error::from_raw_os_error(error)) } else { Ok(()) }
        };
        let _ = on_what_there_is(address.parse().unwrap(), open);
        tried.into_inner()
    }

    #[test]
    fn without_ipv6_every_ipv4_address_stands_for_every_address() {
        for error in [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL] {
            assert_eq!(tried("[::]:9464", error), ["[::]:9464", "0.0.0.0:9464"]);
            assert_eq!(tried("[::1]:9464", error), ["[::1]:9464"], "an address that was asked for has no other");
        }
        assert_eq!(tried("[::]:9464", libc::EADDRINUSE), ["[::]:9464"], "taken is taken");
        assert_eq!(tried("0.0.0.0:9464", libc::EAFNOSUPPORT), ["0.0.0.0:9464"]);
    }

    #[tokio::test]
    async fn every_address_is_reached_over_whatever_the_host_has() {
        let port = listen("[::]:0".parse().unwrap()).unwrap().into_std().unwrap();
        let port_number = port.local_addr().unwrap().port();
        assert!(TcpStream::connect(("127.0.0.1", port_number)).is_ok(), "over IPv4");
        let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
        assert_eq!(TcpStream::connect(("::1", port_number)).is_ok(), has_ipv6, "over IPv6, if the host has it");
    }
}
