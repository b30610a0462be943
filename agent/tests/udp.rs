//! UDP against what a test's own programs sent and received, and against the kernel's own counters of a namespace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{Agent, Network, Page, Peer, TestCgroup, assert_seen, podlens, skip, unseen};

const BYTES: &str = "podlens_network_bytes_total";
const DATAGRAMS: &str = "podlens_udp_datagrams_total";
const ERRORS: &str = "podlens_udp_errors_total";

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s"), ("PODLENS_COLLECTORS_UDP", "true")])
}

/// Whether sockets know no cgroup of a container here.
fn sockets_know_nothing() -> bool {
    let is_lacking = !TestCgroup::any_container().is_in_version_2();
    if is_lacking {
        skip("there is no cgroup version 2, the only one that sockets know");
    }
    is_lacking
}

/// Whether calls cannot be seen on this kernel, as the agent itself says; then nothing of them has a value.
fn calls_are_hidden(agent: &Agent) -> bool {
    let page = agent.metrics();
    let is_lacking = page.count("podlens_collector_state", &[("collector", "udp"), ("state", "degraded")]) == Some(1);
    if is_lacking {
        assert!(page.all(BYTES, &[("protocol", "udp")]).is_empty() && page.all(DATAGRAMS, &[]).is_empty());
        skip("the collector udp is degraded: this kernel has no tracepoint sock_send_length (6.3 and later)");
    }
    is_lacking
}

/// Datagrams and bytes of one direction.
fn traffic(page: &Page, cgroup: &TestCgroup, direction: &str) -> (u64, u64) {
    let direction = ("direction", direction);
    let datagrams = page.count(DATAGRAMS, &cgroup.labels_and(&[direction]));
    let bytes = page.count(BYTES, &cgroup.labels_and(&[direction, ("protocol", "udp")]));
    (datagrams.unwrap_or_default(), bytes.unwrap_or_default())
}

fn errors(page: &Page, cgroup: &TestCgroup) -> [u64; 4] {
    ["receive_buffer", "memory", "refused", "other"]
        .map(|reason| page.count(ERRORS, &cgroup.labels_and(&[("reason", reason)])).unwrap_or_default())
}

#[test]
fn datagrams_and_bytes_are_those_of_the_programs_whichever_calls_they_make() {
    let agent = start();
    if sockets_know_nothing() || calls_are_hidden(&agent) {
        return;
    }
    let [receiving, sending] = [(); 2].map(|()| TestCgroup::any_container());
    let mut receiver = Peer::start(&receiving, Network::Own);
    let mut sender = Peer::start(&sending, Network::Of(&receiver));
    let (mut sent, mut arrived) = ((0, 0), (0, 0));
    let mut at = 0;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for (to_way, from_way) in [
            ("to", "each"),
            ("connected", "peek"),
            ("batch", "batch"),
            ("to", "short"),
            ("segments", "each"),
            ("segments", "together"),
        ] {
            let to = receiver.bind_udp(address, 0);
            sender.bind_udp(address, 0);
            for length in [0, 1, 999] {
                if to_way == "segments" && length == 0 {
                    continue;
                }
                // As a program sets it before anything comes.
                receiver.take_udp(at, from_way);
                assert_eq!(sender.send_udp(at, to_way, to, 20, length), 0, "{to_way}");
                // Segments are handed over in one call, and the kernel counts them as one.
                sent.0 += if to_way == "segments" { 1 } else { 20 };
                sent.1 += 20 * u64::from(length);
                let (datagrams, bytes) = receiver.take_udp(at, from_way);
                (arrived.0, arrived.1) = (arrived.0 + datagrams, arrived.1 + bytes);
            }
            at += 1;
        }
    }
    assert_eq!(sender.udp_counter("OutDatagrams"), sent.0, "the kernel's own count");
    assert_eq!(receiver.udp_counter("InDatagrams"), arrived.0, "the kernel's own count");
    let page = agent.metrics();
    for (cgroup, direction, expected) in [(&sending, "transmit", sent), (&receiving, "receive", arrived)] {
        let found = traffic(&page, cgroup, direction);
        assert_seen(direction, &page, found.0, expected.0);
        // As many as in the longest call are missing with each datagram.
        let missing = expected.1.checked_sub(found.1);
        assert!(
            missing.is_some_and(|missing| missing <= unseen(&page) * 20 * 999),
            "{direction}: {found:?}, {expected:?}"
        );
    }
    assert_eq!((traffic(&page, &sending, "receive"), traffic(&page, &receiving, "transmit")), ((0, 0), (0, 0)));
    assert_eq!([errors(&page, &sending), errors(&page, &receiving)], [[0; 4]; 2]);
    // What goes leaves what it had.
    let before = traffic(&page, &sending, "transmit").0;
    let labels: Vec<(String, String)> =
        sending.labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    sender.kill();
    sending.remove();
    let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let left = agent.metrics().count(DATAGRAMS, &[labels.as_slice(), &[("direction", "transmit")]].concat());
    assert_eq!(left, Some(before));
}

#[test]
fn datagrams_that_find_no_room_and_calls_that_fail_are_the_sockets_errors() {
    let agent = start();
    if sockets_know_nothing() {
        return;
    }
    let [receiving, sending] = [(); 2].map(|()| TestCgroup::any_container());
    let mut receiver = Peer::start(&receiving, Network::Own);
    let mut sender = Peer::start(&sending, Network::Of(&receiver));
    let check = podlens(&[], &["check"], &[("PODLENS_COLLECTORS_UDP", "true")]).stdout;
    let is_of_version_4_alone = String::from_utf8_lossy(&check).contains("datagrams of IPv6 that find no room");
    let (mut lost, mut expected) = (0, 0);
    for (at, address) in ["127.0.0.1:0", "[::1]:0"].into_iter().enumerate() {
        let to = receiver.bind_udp(address, 10_000);
        sender.bind_udp(address, 0);
        assert_eq!(sender.send_udp(at, "to", to, 300, 1000), 0);
        let (taken, _) = receiver.take_udp(at, "each");
        lost += 300 - taken;
        if at == 0 || !is_of_version_4_alone {
            expected = lost;
        }
        assert_eq!(receiver.udp_counter("RcvbufErrors"), lost, "the kernel's own count");
    }
    let page = agent.metrics();
    let [no_room, others @ ..] = errors(&page, &receiving);
    assert_seen("no room", &page, no_room, expected);
    assert_eq!(others, [0; 3]);
    if calls_are_hidden(&agent) {
        return;
    }
    // Each second call is told that nobody listens, and sends nothing.
    let refused = sender.send_udp(0, "connected", "127.0.0.1:9".parse().unwrap(), 20, 10);
    assert_eq!(refused, 10);
    // Longer than any datagram.
    sender.bind_udp("127.0.0.1:0", 0);
    assert_eq!(sender.send_udp(2, "to", "127.0.0.1:9".parse().unwrap(), 3, 70_000), 3);
    let page = agent.metrics();
    assert_eq!(errors(&page, &sending), [0, 0, u64::from(refused), 3]);
    assert_eq!(traffic(&page, &sending, "transmit").0, 600 + 10);
}

#[test]
fn nobody_pays_for_datagrams_who_does_not_ask_for_them() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let page = agent.metrics();
    assert_eq!(page.count("podlens_collector_state", &[("collector", "udp"), ("state", "disabled")]), Some(1));
    let programs = agent.programs();
    assert!(programs.contains("tcp_state") && !programs.iter().any(|name| name.starts_with("udp_")), "{programs:?}");
}

#[test]
fn no_other_socket_counts_as_one_of_datagrams() {
    let agent = start();
    if sockets_know_nothing() {
        return;
    }
    let cgroup = TestCgroup::any_container();
    let mut peer = Peer::start(&cgroup, Network::Own);
    let address = peer.serve("127.0.0.1:0");
    assert_eq!(peer.call(address, 20, 1000, 1000), 0);
    // By a raw socket, for a port that nobody has.
    assert_eq!(peer.send_broken_udp("127.0.0.1:9".parse().unwrap(), 5), 0);
    let page = agent.metrics();
    for name in [DATAGRAMS, ERRORS] {
        assert!(page.all(name, &cgroup.labels()).is_empty(), "{name}");
    }
    assert!(page.all(BYTES, &cgroup.labels_and(&[("protocol", "udp")])).is_empty());
}
