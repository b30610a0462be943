//! All addresses of the cluster, of one family: a cluster has IPv4 alone or IPv6 alone. Pure. Called by the rest of
//! this folder, and by the end-to-end tests for their observers.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The family that the command line asks for.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Family {
    /// With IPv6 alone, instead of IPv4
    #[arg(long)]
    pub(crate) ipv6: bool,
}

/// One family's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// As people call it, and as the state directory keeps it.
    pub(super) family: &'static str,
    /// The node's: kubelet refuses a loopback one, so it is the one of the pods' bridge.
    pub(crate) node: IpAddr,
    /// The first service address, which in-cluster clients are given in their environment. The API server listens on
    /// it itself, so neither kube-proxy nor address translation is needed to reach it.
    pub(super) service: IpAddr,
    /// Those of the node and its pods.
    pub(super) pods: Range,
    /// Those of services. The API server takes no range with more than 20 free bits.
    pub(super) services: Range,
    pub(crate) loopback: IpAddr,
    /// Stands for every address of the machine where a program listens.
    pub(super) every: IpAddr,
}

/// The addresses that begin with the first `bits` of `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: IpAddr,
    pub(super) bits: u8,
}

impl Addresses {
    const IPV4: &'static Self = &Self {
        family: "IPv4",
        node: IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1)),
        service: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
        pods: Range { first: IpAddr::V4(Ipv4Addr::new(10, 88, 0, 0)), bits: 16 },
        services: Range { first: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), bits: 16 },
        loopback: IpAddr::V4(Ipv4Addr::LOCALHOST),
        every: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };

    /// Unique local addresses (RFC 4193) below one prefix.
    const IPV6: &'static Self = &Self {
        family: "IPv6",
        node: unique_local(0x88, 1),
        service: unique_local(0x96, 1),
        pods: Range { first: unique_local(0x88, 0), bits: 64 },
        services: Range { first: unique_local(0x96, 0), bits: 112 },
        loopback: IpAddr::V6(Ipv6Addr::LOCALHOST),
        every: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };

    /// By the name that the state directory keeps.
    pub(super) fn of_family(name: &str) -> Option<&'static Self> {
        [Self::IPV4, Self::IPV6].into_iter().find(|addresses| addresses.family == name)
    }

    /// A port of a program that only the node's own programs reach; in URLs too.
    pub(super) fn on_loopback(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.loopback, port)
    }

    /// A port that pods reach.
    pub(crate) fn on_node(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.node, port)
    }
}

impl Family {
    pub(crate) fn addresses(self) -> &'static Addresses {
        if self.ipv6 { Addresses::IPV6 } else { Addresses::IPV4 }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.first, self.bits)
    }
}

const fn unique_local(subnet: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfdc5, 0x9f3e, 0x70d2, subnet, 0, 0, 0, host))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::IpAddr;

    use super::{Addresses, Range};

    fn bits(address: IpAddr) -> (u128, u8) {
        match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        }
    }

    fn holds(range: Range, address: IpAddr) -> bool {
        let (first, width) = bits(range.first);
        let (asked, asked_width) = bits(address);
        width == asked_width && (first ^ asked) >> (width - range.bits) == 0
    }

    #[test]
    fn each_familys_addresses_fit_together_and_none_is_of_the_other() {
        for addresses in [Addresses::IPV4, Addresses::IPV6] {
            let Addresses { node, service, pods, services, loopback, every, family } = *addresses;
            assert!(holds(pods, node) && holds(services, service), "{family}");
            assert!(!holds(pods, service) && !holds(services, node), "{family}");
            assert!(loopback.is_loopback() && every.is_unspecified(), "{family}");
            assert!([node, service, loopback, every].iter().all(|one| one.is_ipv6() == (family == "IPv6")), "{family}");
            assert!(bits(services.first).1 - services.bits <= 20, "{family}");
            assert_eq!(Addresses::of_family(family), Some(addresses));
        }
        assert!(matches!(Addresses::IPV6.node, IpAddr::V6(node) if node.is_unique_local()));
    }

    #[test]
    fn a_port_of_an_address_of_ipv6_has_brackets_before_it() {
        assert_eq!(Addresses::IPV6.on_loopback(1).to_string(), "[::1]:1");
        assert_eq!(Addresses::IPV4.on_node(2).to_string(), "10.88.0.1:2");
        assert_eq!(Addresses::IPV6.pods.to_string(), "fdc5:9f3e:70d2:88::/64");
    }
}
