//! Dropped packets, each caused by the test, against the kernel's own counters of a network namespace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{fs, net::SocketAddr};

use common::{Agent, Network, Page, Peer, TestCgroup, load_module, skip, unseen};

const DROPS: &str = "podlens_network_drops_total";
const NOBODY: (&str, &str) = ("unit", "unattributed");
/// Reasons at a TCP segment that has come before.
const COMES_TWICE: [&str; 2] = ["tcp_old_data", "tcp_old_sequence"];
/// At what a socket still has in its queue when it goes; older kernels name none.
const PURGED: [&str; 2] = ["queue_purge", "not_specified"];

/// An agent, unless this kernel tells no reasons: then it has no value of them and says so.
fn start() -> Option<Agent> {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let page = agent.metrics();
    if is_in(&page, "unsupported") {
        assert!(page.all(DROPS, &[]).is_empty(), "what cannot be counted has no value");
        skip(&format!("the collector drops is unsupported: {}", agent.lack("drops")));
        return None;
    }
    Some(agent)
}

fn is_in(page: &Page, state: &str) -> bool {
    page.count("podlens_collector_state", &[("collector", "drops"), ("state", state)]) == Some(1)
}

/// Whether a packet that is dropped on its way to a socket is charged to the socket's cgroup here.
fn receivers_are_known(agent: &Agent, page: &Page) -> bool {
    if !is_in(page, "running") {
        skip(&format!("whose packets are dropped: the collector drops is degraded: {}", agent.lack("drops")));
        return false;
    }
    senders_are_known()
}

/// Whether a packet that is dropped on its way from a socket is charged to the socket's cgroup here.
fn senders_are_known() -> bool {
    let is_known = TestCgroup::any_container().is_in_version_2();
    if !is_known {
        skip("whose packets are dropped: there is no cgroup version 2, the only one that sockets know");
    }
    is_known
}

fn drops(page: &Page, owner: &[(&str, &str)], reason: &str) -> u64 {
    page.count(DROPS, &[owner, &[("reason", reason)]].concat()).unwrap_or_default()
}

/// Waits until drops for that reason are as many as the kernel has counted, of whoever they are.
#[track_caller]
fn expect(agent: &Agent, owner: &[(&str, &str)], reason: &str, expected: u64) {
    agent.wait_for_metrics(reason, |page| {
        let found = drops(page, owner, reason);
        let is_seen = found <= expected && found + unseen(page) >= expected;
        if is_seen { Ok(()) } else { Err(format!("{found}, expected {expected} of {owner:?}")) }
    });
}

/// The same of what nobody is charged with, where the rest of the machine may add some.
#[track_caller]
fn expect_of_nobody(agent: &Agent, before: &Page, reason: &str, more: u64) {
    let before = drops(before, &[NOBODY], reason);
    agent.wait_for_metrics(reason, |page| {
        let found = drops(page, &[NOBODY], reason) - before;
        if found + unseen(page) >= more { Ok(()) } else { Err(format!("{found}, expected {more} or more")) }
    });
}

#[test]
fn datagrams_for_a_full_receive_buffer_are_dropped_as_often_as_the_kernel_counts_and_are_the_receivers() {
    let Some(agent) = start() else { return };
    let before = agent.metrics();
    let [receiving, sending] = [(); 2].map(|()| TestCgroup::any_container());
    let mut receiver = Peer::start(&receiving, Network::Own);
    let mut sender = Peer::start(&sending, Network::Of(&receiver));
    let mut lost = 0;
    for (at, address) in ["127.0.0.1:0", "[::1]:0"].into_iter().enumerate() {
        let to = receiver.bind_udp(address, 10_000);
        sender.bind_udp(address, 0);
        assert_eq!(sender.send_udp(at, "to", to, 500, 1000), 0);
        let (taken, _) = receiver.take_udp(at, "each");
        assert!((1..500).contains(&taken), "{taken} of 500 had room");
        lost += 500 - taken;
        assert_eq!(receiver.udp_counter("RcvbufErrors"), lost, "the kernel's own count");
    }
    if receivers_are_known(&agent, &before) {
        expect(&agent, &receiving.labels(), "socket_rcvbuff", lost);
        assert!(agent.metrics().all(DROPS, &sending.labels()).is_empty(), "nothing of the sender is dropped");
        drop(receiver);
        receiving.remove();
    } else {
        expect_of_nobody(&agent, &before, "socket_rcvbuff", lost);
    }
}

#[test]
fn datagrams_that_no_socket_takes_are_told_by_that_reason() {
    let Some(agent) = start() else { return };
    let before = agent.metrics();
    let cgroup = TestCgroup::any_container();
    let mut sender = Peer::start(&cgroup, Network::Own);
    for (at, (address, nobody)) in [("127.0.0.1:0", "127.0.0.1:9"), ("[::1]:0", "[::1]:9")].into_iter().enumerate() {
        sender.bind_udp(address, 0);
        assert_eq!(sender.send_udp(at, "to", nobody.parse().unwrap(), 20, 10), 0);
    }
    assert_eq!(sender.udp_counter("NoPorts"), 40);
    expect_of_nobody(&agent, &before, "no_socket", 40);
    // The answer to each, which says so, is an error of the sender's socket and no drop.
    assert_eq!(drops(&agent.metrics(), &cgroup.labels(), "no_socket"), 0);
}

#[test]
fn datagrams_with_a_wrong_checksum_are_told_by_that_reason() {
    let Some(agent) = start() else { return };
    let before = agent.metrics();
    let cgroup = TestCgroup::any_container();
    let mut peer = Peer::start(&cgroup, Network::Own);
    let to = peer.bind_udp("127.0.0.1:0", 0);
    assert_eq!(peer.send_broken_udp(to, 30), 0);
    assert_eq!(peer.take_udp(0, "each"), (0, 0), "a program never sees them");
    assert_eq!(peer.udp_counter("InCsumErrors"), 30);
    // Found out when the program asks for them, where the kernel tells no socket; and no reason in older ones.
    let reason = if is_in(&before, "running") { "udp_csum" } else { "not_specified" };
    expect_of_nobody(&agent, &before, reason, 30);
}

#[test]
fn packets_that_have_passed_too_many_hops_are_told_by_that_reason() {
    let Some(agent) = start() else { return };
    let before = agent.metrics();
    let [routing, sending] = [(); 2].map(|()| TestCgroup::any_container());
    let router = Peer::start(&routing, Network::Own);
    let mut sender = Peer::start(&sending, Network::Own);
    if let Err(refusal) = sender.wire(Some(&router), ["192.0.2.1/24", "192.0.2.2/24"]) {
        return skip(&format!("this kernel has no veth devices: {refusal}"));
    }
    sender.in_its_network(&["ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.2"]);
    router.in_its_network(&["ip", "route", "add", "198.51.100.0/24", "dev", "pl1"]);
    router.set_in_its_network("ipv4/ip_forward", "1");
    sender.set_in_its_network("ipv4/ip_default_ttl", "1");
    sender.bind_udp("0.0.0.0:0", 0);
    assert_eq!(sender.send_udp(0, "to", "198.51.100.77:9".parse().unwrap(), 15, 10), 0);
    common::wait_until("the router", common::PATIENCE, || {
        let counted = router.counter("Ip:", "InHdrErrors");
        if counted == 15 { Ok(()) } else { Err(format!("{counted} of 15")) }
    });
    expect_of_nobody(&agent, &before, "ip_inhdr", 15);
}

#[test]
fn packets_that_a_firewall_drops_are_told_by_that_reason_and_are_the_senders_on_their_way_out() {
    const RULES: &str = "table inet podlens {
        chain out { type filter hook output priority 0; udp dport 7001 counter drop; }
        chain in { type filter hook input priority 0; udp dport 7002 counter drop; }
    }";
    let Some(agent) = start() else { return };
    let before = agent.metrics();
    let cgroup = TestCgroup::any_container();
    let mut sender = Peer::start(&cgroup, Network::Own);
    for module in ["crc32c_generic", "libcrc32c", "nfnetlink", "nf_tables"] {
        load_module(module, &[]);
    }
    if let Err(refusal) = sender.try_in_its_network(&["nft", RULES]) {
        return skip(&format!("this kernel takes no rules of nftables: {refusal}"));
    }
    sender.bind_udp("127.0.0.1:0", 0);
    sender.bind_udp("[::1]:0", 0);
    for (at, address) in ["127.0.0.1", "[::1]"].into_iter().enumerate() {
        // A program is told of what is dropped on its way out.
        assert_eq!(sender.send_udp(at, "to", format!("{address}:7001").parse().unwrap(), 12, 10), 12);
        assert_eq!(sender.send_udp(at, "to", format!("{address}:7002").parse().unwrap(), 15, 10), 0);
    }
    let counted = sender.try_in_its_network(&["nft", "list", "ruleset"]).unwrap();
    for counter in ["counter packets 24 ", "counter packets 30 "] {
        assert!(counted.contains(counter), "the firewall's own count: {counted}");
    }
    if senders_are_known() {
        expect(&agent, &cgroup.labels(), "netfilter_drop", 24);
        expect_of_nobody(&agent, &before, "netfilter_drop", 30);
    } else {
        expect_of_nobody(&agent, &before, "netfilter_drop", 54);
    }
}

#[test]
fn connections_that_nobody_listens_for_are_told_by_that_reason() {
    let Some(agent) = start() else { return };
    let before = agent.metrics();
    let cgroup = TestCgroup::any_container();
    let mut client = Peer::start(&cgroup, Network::Own);
    for nobody in ["127.0.0.1:9", "[::1]:9"] {
        assert_eq!(client.call(nobody.parse().unwrap(), 20, 1, 1), 20);
    }
    expect_of_nobody(&agent, &before, "no_socket", 40);
}

#[test]
fn what_arrives_is_no_drop() {
    let Some(agent) = start() else { return };
    let [receiving, sending] = [(); 2].map(|()| TestCgroup::any_container());
    let mut receiver = Peer::start(&receiving, Network::Own);
    let mut sender = Peer::start(&sending, Network::Of(&receiver));
    let to = receiver.bind_udp("127.0.0.1:0", 0);
    sender.bind_udp("127.0.0.1:0", 0);
    for _ in 0..50 {
        assert_eq!(sender.send_udp(0, "to", to, 20, 100), 0);
        assert_eq!(receiver.take_udp(0, "each").0, 20);
    }
    let address = receiver.serve("127.0.0.1:0");
    assert_eq!(sender.call(address, 50, 1000, 100_000), 0);
    let page = agent.metrics();
    for cgroup in [&receiving, &sending] {
        // Acknowledgements that come twice are among what TCP drops; nothing of UDP is.
        let all = page.all(DROPS, &cgroup.labels());
        assert!(all.iter().all(|sample| sample.label("reason").starts_with("tcp_")), "{all:?}");
        assert!(all.iter().all(|sample| sample.count() < 50), "{all:?}");
    }
}

/// A server and its client in these cgroups, in a network of their own, and the server's address.
fn connected(answering: &TestCgroup, calling: &TestCgroup) -> (Peer, Peer, SocketAddr) {
    let mut server = Peer::start(answering, Network::Own);
    let client = Peer::start(calling, Network::Of(&server));
    let address = server.serve("127.0.0.1:0");
    (server, client, address)
}

#[test]
fn a_tcp_socket_whose_program_ended_first_drops_the_other_sides_end_at_most_and_the_other_side_nothing() {
    const CONNECTIONS: u32 = 40;
    let Some(agent) = start() else { return };
    if !senders_are_known() {
        return;
    }
    let [answering, calling] = [(); 2].map(|()| TestCgroup::any_container());
    let (server, mut client, address) = connected(&answering, &calling);
    assert_eq!(client.open(address, CONNECTIONS, 10, 20), 0);
    drop(client);
    common::wait_until("all are closed", common::PATIENCE, || {
        let open = ["01", "04", "05", "08", "09", "0B"].iter().map(|state| server.sockets_of_its_network(state));
        let open = open.sum::<u64>();
        if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
    });
    let page = agent.metrics();
    let of = |cgroup: &TestCgroup| {
        let all = page.all(DROPS, &cgroup.labels());
        let first_time = all.iter().filter(|sample| !COMES_TWICE.contains(&sample.label("reason")));
        first_time.map(|sample| (sample.label("reason").to_owned(), sample.count())).collect::<Vec<_>>()
    };
    println!("who closed first: {:?}, the other side: {:?}", of(&calling), of(&answering));
    // Where the other side tells its own end together with its word that it has heard of this one's, the socket is still whole, and
    // nobody reads any more. Otherwise it is in TIME_WAIT by then, and nobody's.
    assert!(of(&calling).iter().map(|(_, count)| count).sum::<u64>() <= u64::from(CONNECTIONS), "{:?}", of(&calling));
    assert!(of(&calling).iter().all(|(reason, _)| PURGED.contains(&reason.as_str())), "{:?}", of(&calling));
    assert!(of(&answering).is_empty(), "{:?}", of(&answering));
}

#[test]
fn tcp_segments_that_were_sent_again_in_vain_are_all_that_an_undisturbed_connection_drops() {
    let Some(agent) = start() else { return };
    if !senders_are_known() {
        return;
    }
    let [answering, calling] = [(); 2].map(|()| TestCgroup::any_container());
    let (server, mut client, address) = connected(&answering, &calling);
    assert_eq!(client.call(address, 10, 20_000_000, 20_000_000), 0);
    let page = agent.metrics();
    let all = [&calling, &answering].map(|cgroup| page.all(DROPS, &cgroup.labels())).concat();
    let again = server.counter("Tcp:", "RetransSegs");
    println!("{again} sent again, {all:?}");
    assert!(all.iter().all(|sample| COMES_TWICE.contains(&sample.label("reason"))), "{all:?}");
    let dropped = all.iter().map(|sample| sample.count()).sum::<u64>();
    assert!(dropped <= again, "{dropped} of {again}");
}

#[test]
fn reasons_have_the_names_that_the_kernel_prints() {
    let Some(agent) = start() else { return };
    let format = "events/skb/kfree_skb/format";
    let roots = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(std::path::Path::new);
    let Some(printed) = roots.iter().find_map(|root| fs::read_to_string(root.join(format)).ok()) else {
        return skip("no tracefs is mounted, which prints the reasons");
    };
    let cgroup = TestCgroup::any_container();
    let mut sender = Peer::start(&cgroup, Network::Own);
    sender.bind_udp("127.0.0.1:0", 0);
    sender.send_udp(0, "to", "127.0.0.1:9".parse().unwrap(), 1, 10);
    let page = agent.metrics();
    let reasons = page.all(DROPS, &[]);
    assert!(!reasons.is_empty());
    for reason in reasons.iter().map(|sample| sample.label("reason")).filter(|reason| *reason != "other") {
        assert!(printed.contains(&format!("\"{}\"", reason.to_uppercase())), "{reason} is not among {printed}");
    }
}
