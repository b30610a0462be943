//! TCP against what a test's own programs wrote, read and made, and against the kernel's own counters of a namespace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod tcp_parts;

use std::{
    thread,
    time::{Duration, Instant},
};

use common::{Agent, Network, Page, Peer, TestCgroup, Traffic, assert_runs_are_short, skip};
use tcp_parts::{
    BYTES, FAILURES, OVERFLOWS, Pair, RETRANSMITS, SEGMENTS, bytes, events, expect, sockets, sockets_know_nothing,
    start, walk_is_lacking,
};

#[test]
fn tcp_bytes_and_connections_are_those_of_the_programs_alive_reset_and_closed() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    let mut pair = Pair::start();
    let addresses = ["127.0.0.1:0", "[::1]:0"].map(|address| pair.server.serve(address));
    for (address, length) in addresses.into_iter().zip([1000, 70_000]) {
        assert_eq!(pair.client.call(address, 25, length, 3 * length), 0);
        assert_eq!(pair.client.open(address, 5, length + 1, 17), 0);
    }
    pair.expect_bytes(&agent, "10 connections live and 50 are closed");
    let page = agent.metrics();
    assert_eq!(events(&page, &pair.calling), [60, 0, 0, 50].map(Some), "of the client");
    assert_eq!(events(&page, &pair.answering), [0, 60, 0, 50].map(Some), "of the server");
    assert_eq!(
        [sockets(&page, &pair.calling, "established"), sockets(&page, &pair.answering, "established")],
        [Some(10); 2]
    );
    assert_eq!(sockets(&page, &pair.answering, "listening"), Some(2));
    pair.client.reset();
    pair.expect_bytes(&agent, "after 10 resets");
    assert_eq!(pair.client.open(addresses[0], 3, 100_000, 100_000), 0);
    pair.expect_bytes(&agent, "3 more live");
    pair.client.close();
    pair.expect_bytes(&agent, "all are closed");
    expect(&agent, "all are over", &[Some(63); 2], |page| {
        [events(page, &pair.calling)[3], events(page, &pair.answering)[3]]
    });
    expect(&agent, "none lives", &[Some(0); 2], |page| {
        [sockets(page, &pair.calling, "established"), sockets(page, &pair.answering, "established")]
    });
    let count = |name: &str| agent.metrics().count(name, &pair.calling.labels());
    assert_eq!(count("podlens_tcp_connect_seconds_count"), Some(63), "how long each took to open");
    assert!(count("podlens_tcp_rtt_seconds_count") >= Some(63), "a round-trip time of each at its end");
}

#[test]
fn tcp_sockets_of_processes_that_sleep_since_before_the_agent_are_told() {
    if sockets_know_nothing() {
        return;
    }
    let mut pair = Pair::start();
    let address = pair.server.serve("127.0.0.1:0");
    assert_eq!(pair.client.open(address, 4, 5000, 60_000), 0);
    let expected = [pair.client.traffic(), pair.server.traffic()].map(Some);
    let agent = start();
    if walk_is_lacking(&agent) {
        return;
    }
    expect(&agent, "bytes", &expected, |page| [bytes(page, &pair.calling), bytes(page, &pair.answering)]);
    let states = |page: &Page| ["listening", "established"].map(|state| sockets(page, &pair.answering, state));
    expect(&agent, "sockets", &[Some(1), Some(4)], states);
    pair.client.close();
    expect(&agent, "their end", &expected, |page| [bytes(page, &pair.calling), bytes(page, &pair.answering)]);
}

#[test]
fn tcp_connections_that_are_not_made_count_by_reason() {
    let agent = start();
    if sockets_know_nothing() {
        return;
    }
    let cgroup = TestCgroup::any_container();
    let mut client = Peer::start(&cgroup, Network::Own);
    for nobody in ["127.0.0.1:9", "[::1]:9"] {
        assert_eq!(client.call(nobody.parse().unwrap(), 3, 1, 1), 3);
    }
    let mut unreachable = None;
    match client.wire(None, ["192.0.2.1/24", "198.51.100.1/24"]) {
        Ok(()) => {
            // Nobody has that address, which the network is asked for three times.
            assert_eq!(client.call("192.0.2.77:80".parse().unwrap(), 1, 1, 1), 1);
            unreachable = Some(1);
        }
        Err(refusal) => skip(&format!("this kernel has no veth devices: {refusal}")),
    }
    let failures = |page: &Page| {
        ["refused", "timeout", "unreachable", "other"]
            .map(|reason| page.count(FAILURES, &cgroup.labels_and(&[("reason", reason)])))
    };
    expect(&agent, "failures", &[Some(6), None, unreachable, None], failures);
    assert_eq!(events(&agent.metrics(), &cgroup), [0, 0, 6 + unreachable.unwrap_or(0), 0].map(Some));
}

#[test]
fn a_full_tcp_accept_queue_and_what_it_drops_are_the_kernels() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    for near in ["127.0.0.1:0", "[::1]:0"] {
        full_accept_queue(&agent, near);
    }
}

/// With both on one loopback, at this address of it.
fn full_accept_queue(agent: &Agent, near: &str) {
    let Pair { answering, calling: _calling, mut server, mut client } = Pair::in_own_network();
    let address = server.listen(near, 3);
    client.knock(address, 9);
    expect(agent, "the queue and its limit", &[Some(4), Some(3)], |page| {
        ["podlens_tcp_accept_queue", "podlens_tcp_accept_queue_limit"].map(|name| page.count(name, &answering.labels()))
    });
    // What was not let in asks again, later and later.
    let start = Instant::now();
    loop {
        let before = server.counter("TcpExt:", "ListenDrops");
        let found = agent.metrics().count(OVERFLOWS, &answering.labels());
        let after = server.counter("TcpExt:", "ListenDrops");
        if before == after && before > 0 && found == Some(before) {
            assert_eq!(server.counter("TcpExt:", "ListenOverflows"), before, "all for want of room in that queue");
            break;
        }
        assert!(start.elapsed() < common::PATIENCE, "{found:?} told, {before} to {after} counted by the kernel");
        thread::sleep(Duration::from_millis(50));
    }
    drop(server);
    expect(agent, "nobody listens", &None, |page| page.count("podlens_tcp_accept_queue", &answering.labels()));
    assert!(agent.metrics().count(OVERFLOWS, &answering.labels()) > Some(0), "what was dropped stays counted");
}

#[test]
fn tcp_bytes_and_retransmits_between_two_namespaces_are_those_of_the_programs_and_of_the_kernel() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    let [answering, calling] = [(); 2].map(|()| TestCgroup::any_container());
    let mut server = Peer::start(&answering, Network::Own);
    let mut client = Peer::start(&calling, Network::Own);
    if let Err(refusal) = client.wire(Some(&server), ["192.0.2.1/24", "192.0.2.2/24"]) {
        return skip(&format!("this kernel has no veth devices: {refusal}"));
    }
    let address = server.serve("192.0.2.2:0");
    assert_eq!(client.call(address, 20, 10_000, 300_000), 0);
    assert_eq!(client.open(address, 2, 10_000, 300_000), 0);
    let again = |peer: &Peer| Some(peer.counter("Tcp:", "RetransSegs"));
    // The client's side of the wire is away for a moment, in which the server sends; until that meets what is under way, and
    // not only what the server keeps back since it sees that there is no wire.
    let in_client = format!("--net=/proc/{}/ns/net", client_id(&calling));
    let start = Instant::now();
    while again(&server) == Some(0) {
        assert!(start.elapsed() < common::PATIENCE, "nothing was lost");
        thread::scope(|scope| {
            let link = scope.spawn(|| {
                for state in ["down", "up"] {
                    let mut set = std::process::Command::new("nsenter");
                    assert!(set.args([&in_client, "ip", "link", "set", "pl0", state]).status().unwrap().success());
                    thread::sleep(Duration::from_millis(400));
                }
            });
            let mut failed = 0;
            while !link.is_finished() {
                failed += client.call(address, 1, 10_000, 3_000_000);
            }
            println!("{failed} failed while there was no wire");
        });
    }
    assert_eq!(client.call(address, 1, 10, 10), 0, "the wire is there again");
    client.close();
    let written = server.traffic();
    agent.wait_for_metrics("bytes and retransmits", |page| {
        let found = [&calling, &answering].map(|cgroup| page.count(RETRANSMITS, &cgroup.labels()));
        let expected = [again(&client), again(&server)];
        let told = bytes(page, &answering).unwrap_or_default();
        // What this host itself dropped counts by sequence numbers, which SYN and FIN have as well: on the few connections
        // that were there while there was no wire.
        let is_told = told.received == written.received && (written.sent..=written.sent + 6).contains(&told.sent);
        if found == expected && is_told {
            Ok(())
        } else {
            Err(format!("{found:?} of {expected:?}, {told:?} of {written:?}"))
        }
    });
}

/// The one process of a cgroup.
fn client_id(cgroup: &TestCgroup) -> String {
    let processes = std::fs::read_to_string(cgroup.directories()[0].join("cgroup.procs")).unwrap();
    processes.lines().next().unwrap().to_owned()
}

#[test]
fn a_container_that_goes_with_living_tcp_connections_leaves_all_that_they_had() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    let Pair { answering, calling, mut server, mut client } = Pair::start();
    let address = server.serve("127.0.0.1:0");
    assert_eq!(client.call(address, 7, 300, 400), 0);
    assert_eq!(client.open(address, 5, 20_000, 30_000), 0);
    let expected = Some(client.traffic());
    let labels: Vec<(String, String)> =
        calling.labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    drop(client);
    calling.remove();
    let found = |page: &Page| {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let of = |direction| page.count(BYTES, &[labels.as_slice(), &[("direction", direction)]].concat());
        Some(Traffic { sent: of("transmit")?, received: of("receive")? })
    };
    expect(&agent, "removed a moment ago", &expected, found);
    thread::sleep(Duration::from_millis(2500));
    let page = agent.metrics();
    assert_eq!(found(&page), expected, "its slot is given back");
    assert_eq!(bytes(&page, &answering), Some(server.traffic()), "the other side");
}

#[test]
fn no_tcp_value_falls_while_connections_come_and_go_under_walks_and_all_are_exact_at_the_end() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    let mut pairs = [(); 2].map(|()| Pair::start());
    for pair in &mut pairs {
        let address = pair.server.serve("127.0.0.1:0");
        assert_eq!(pair.client.open(address, 10, 1000, 1000), 0);
        pair.client.begin(&format!("call {address} 4000 100 300"));
    }
    let start = Instant::now();
    let mut last = pairs.each_ref().map(|_| [Traffic::default(); 2]);
    let mut pages = 0;
    while start.elapsed() < Duration::from_secs(6) {
        let page = agent.metrics();
        pages += 1;
        for (pair, last) in pairs.iter().zip(&mut last) {
            let now = [&pair.calling, &pair.answering].map(|cgroup| bytes(&page, cgroup).unwrap_or_default());
            for (now, before) in now.iter().zip(*last) {
                assert!(now.sent >= before.sent && now.received >= before.received, "{before:?}, then {now:?}");
            }
            *last = now;
        }
    }
    println!("{pages} pages");
    for pair in &mut pairs {
        assert_eq!(pair.client.answer(), "0", "calls that failed");
        pair.expect_bytes(&agent, "10 live and 4,000 are closed");
        expect(&agent, "events", &[Some(4000); 2], |page| {
            [events(page, &pair.calling)[3], events(page, &pair.answering)[3]]
        });
    }
}

#[test]
fn no_tcp_socket_counts_twice_that_closes_under_a_walk() {
    const ROUNDS: u32 = 12;
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    let mut pair = Pair::start();
    let address = pair.server.serve("127.0.0.1:0");
    let mut pages = 0;
    for _ in 0..ROUNDS {
        assert_eq!(pair.client.open(address, 400, 1000, 1000), 0);
        // Nothing is sent any more: whatever is more than this was counted twice, and would never be taken back.
        let all = [pair.client.traffic(), pair.server.traffic()];
        let Pair { client, answering, calling, .. } = &mut pair;
        thread::scope(|scope| {
            let closing = scope.spawn(|| client.close());
            while !closing.is_finished() {
                let page = agent.metrics();
                pages += 1;
                for (cgroup, all) in [&*calling, &*answering].into_iter().zip(all) {
                    let told = bytes(&page, cgroup).unwrap_or_default();
                    assert!(told.sent <= all.sent && told.received <= all.received, "{told:?} of {all:?}");
                }
            }
        });
    }
    println!("{pages} pages");
    pair.expect_bytes(&agent, "all are closed");
}

/// At 20 million small segments a second, as loopback carries them in large pieces.
#[test]
#[ignore = "it sends 4.3 billion segments, which takes minutes: run it by its name with --ignored"]
fn tcp_segments_go_on_where_the_kernels_number_of_them_begins_anew() {
    const ROUND: u64 = 1 << 32;
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    let Pair { answering, calling, mut server, mut client } = Pair::in_own_network();
    // Segments of 48 bytes.
    server.in_its_network(&["ip", "link", "set", "lo", "mtu", "100"]);
    let address = server.drain("127.0.0.1:0");
    client.begin_flood(address, ROUND + 1_000_000);
    let told = |page: &Page| {
        let of = |cgroup: &TestCgroup, direction| page.count(SEGMENTS, &cgroup.labels_and(&[("direction", direction)]));
        [of(&calling, "transmit"), of(&answering, "receive")].map(Option::unwrap_or_default)
    };
    let sent: u64 = thread::scope(|scope| {
        let flood = scope.spawn(|| client.answer().parse().unwrap());
        let mut last = [0; 2];
        while !flood.is_finished() {
            thread::sleep(Duration::from_secs(2));
            let now = told(&agent.metrics());
            assert!(now.iter().zip(last).all(|(now, last)| *now >= last), "{last:?}, then {now:?}");
            last = now;
            println!("{now:?}");
        }
        flood.join().unwrap()
    });
    expect(&agent, "of a living connection", &[sent; 2], told);
    client.close();
    expect(&agent, "none lives", &Some(0), |page| sockets(page, &answering, "established"));
    let [out, came] = told(&agent.metrics());
    assert!((sent..=sent + 3).contains(&out) && (sent..=sent + 3).contains(&came), "{out} and {came} of {sent}");
}

#[test]
fn a_walk_meets_each_of_many_tcp_sockets_once_and_no_run_holds_a_cpu_for_long() {
    const CONNECTIONS: u32 = 800;
    if sockets_know_nothing() {
        return;
    }
    let mut pair = Pair::start();
    let address = pair.server.serve("127.0.0.1:0");
    assert_eq!(pair.client.open(address, CONNECTIONS, 10, 20), 0);
    assert_runs_are_short("tcp_walk", || {
        let agent = start();
        if walk_is_lacking(&agent) {
            return None;
        }
        let each = Some(u64::from(CONNECTIONS));
        expect(&agent, "living connections", &[each; 2], |page| {
            [sockets(page, &pair.calling, "established"), sockets(page, &pair.answering, "established")]
        });
        Some((agent, 1))
    });
}
