//! UDP against what a test's own programs sent and received, and against the kernel's own counters of a namespace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{net::SocketAddr, path::Path};

use common::{Agent, Network, Page, Peer, RunStatistics, TestCgroup, assert_seen, podlens, skip, unseen};

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
    let lack = agent.lack("udp");
    let is_lacking = lack.contains("bytes, datagrams and calls that fail are missing");
    if is_lacking {
        let page = agent.metrics();
        assert!(page.all(BYTES, &[("protocol", "udp")]).is_empty() && page.all(DATAGRAMS, &[]).is_empty());
        skip(&format!("the collector udp is degraded: {lack}"));
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
    // The last one sends to IPv4 from a socket of IPv6.
    for (address, from) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("127.0.0.1:0", "[::]:0")] {
        for (to_way, from_way) in [
            ("to", "each"),
            ("connected", "peek"),
            ("batch", "batch"),
            ("to", "short"),
            ("segments", "each"),
            ("segments", "together"),
        ] {
            let mut to = receiver.bind_udp(address, 0);
            if let (SocketAddr::V4(short), "[::]:0") = (to, from) {
                to = SocketAddr::new(short.ip().to_ipv6_mapped().into(), short.port());
            }
            sender.bind_udp(from, 0);
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
    drop(sender);
    sending.remove();
    let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let left = agent.metrics().count(DATAGRAMS, &[labels.as_slice(), &[("direction", "transmit")]].concat());
    assert_eq!(left, Some(before));
}

#[test]
fn what_a_kernel_tells_of_no_memory_is_what_the_agent_says() {
    let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let name = b"\0udp_prod_queue\0";
    let hides = types.windows(name.len()).any(|piece| piece == name);
    let agent = start();
    let lack = agent.lack("udp");
    assert_eq!(lack.contains("while the node's memory for UDP is used up are missing"), hides, "{lack}");
    let state = |state| agent.metrics().count("podlens_collector_state", &[("collector", "udp"), ("state", state)]);
    if hides {
        assert_eq!((state("degraded"), state("running")), (Some(1), Some(0)));
        assert!(agent.metrics().all(ERRORS, &[("reason", "memory")]).is_empty(), "what cannot be counted has no value");
    }
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
fn calls_are_seen_by_what_the_kernel_has_for_that_and_only_once() {
    let programs = start().programs();
    let has = |names: &[&str]| names.iter().filter(|name| programs.contains(**name)).count();
    let found =
        (has(&["udp_send", "udp_receive"]), has(&["udp_send_4", "udp_send_6", "udp_receive_4", "udp_receive_6"]));
    let events = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(|root| format!("{root}/events/sock"));
    let Some(events) = events.iter().map(Path::new).find(|events| events.exists()) else {
        return skip("no tracefs is mounted, which tells the kernel's tracepoints");
    };
    let expected = if events.join("sock_send_length").exists() { (2, 0) } else { (0, 4) };
    assert_eq!(found, expected, "{programs:?}");
}

#[test]
fn a_call_runs_one_program_once() {
    const DATAGRAMS: u64 = 2000;
    let agent = start();
    if calls_are_hidden(&agent) {
        return;
    }
    let by_tracepoint = agent.programs().contains("udp_send");
    let names = if by_tracepoint { ["udp_send", "udp_receive"] } else { ["udp_send_4", "udp_receive_4"] };
    let cgroup = TestCgroup::any_container();
    let mut peer = Peer::start(&cgroup, Network::Own);
    let to = peer.bind_udp("127.0.0.1:0", 0);
    let _on = RunStatistics::start();
    let before = names.map(|name| RunStatistics::of(agent.id(), name));
    for _ in 0..DATAGRAMS / 100 {
        assert_eq!(peer.send_udp(0, "to", to, 100, 100), 0);
        assert_eq!(peer.take_udp(0, "each").0, 100);
    }
    for (name, before) in names.into_iter().zip(before) {
        let after = RunStatistics::of(agent.id(), name);
        let (time, runs) = (after.0.saturating_sub(before.0), after.1 - before.1);
        println!("{name}: {runs} runs, {} ns each", time.as_nanos() / u128::from(runs.max(1)));
        // Each hundred ends with a call that finds nothing. A tracepoint is everybody's on the machine.
        let expected = if name.contains("send") { DATAGRAMS } else { DATAGRAMS + DATAGRAMS / 100 };
        assert!(runs == expected || by_tracepoint && runs + unseen(&agent.metrics()) >= expected, "{name}: {runs}");
    }
}

#[test]
fn nobody_pays_for_datagrams_who_does_not_ask_for_them() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let page = agent.metrics();
    assert_eq!(page.count("podlens_collector_state", &[("collector", "udp"), ("state", "disabled")]), Some(1));
    let programs = agent.programs();
    let has = |start: &str| programs.iter().any(|name| name.starts_with(start));
    assert!(has("tcp_state") && !has("udp_"), "{programs:?}");
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
