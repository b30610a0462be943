//! TCP over ways that a test sets: how long they are, what they lose, who does not answer, who answers too slowly, who breaks
//! off. Compared with what was set, with what the programs did, and with the kernel's own counters of a namespace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod tcp_parts;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use common::{Agent, Network, Page, Peer, Relay, TestCgroup, Traffic, Tunnel, load_module, skip, syn};
use tcp_parts::{
    FAILURES, LIMITED, OVERFLOWS, Pair, RETRANSMITS, bytes, events, expect, sockets, sockets_know_nothing, start,
    walk_is_lacking,
};

const RESETS: &str = "podlens_tcp_resets_total";
const ERRORS: &str = "podlens_tcp_connection_errors_total";
/// Addresses of the two ends of a way.
const NEAR: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];
const FAR: [&str; 2] = ["192.0.2.2/24", "2001:db8::2/64"];
/// The far one, for a server.
const FAR_PORTS: [&str; 2] = ["192.0.2.2:0", "[2001:db8::2]:0"];

/// Two peers in namespaces of their own, and the way between them.
struct Ends {
    relay: Relay,
    server: Peer,
    client: Peer,
    answering: TestCgroup,
    calling: TestCgroup,
}

impl Ends {
    /// `delay` is that of each direction. None without TUN devices.
    fn start(delay: Duration) -> Option<Self> {
        if has_no_tunnels() {
            return None;
        }
        let (answering, calling) = (TestCgroup::any_container(), TestCgroup::any_container());
        let server = Peer::start(&answering, Network::Own);
        let client = Peer::start(&calling, Network::Own);
        let relay = Relay::lay([(&client, &NEAR), (&server, &FAR)], delay);
        Some(Self { relay, server, client, answering, calling })
    }

    /// Waits until both have the bytes that their programs wrote and read, and what the kernel has sent again.
    fn expect_bytes_and_retransmits(&mut self, agent: &Agent, what: &str) {
        let written: [Option<Traffic>; 2] = [self.client.traffic(), self.server.traffic()].map(Some);
        agent.wait_for_metrics(what, |page| {
            let kernel = [&self.client, &self.server].map(|peer| peer.counter("Tcp:", "RetransSegs"));
            let cgroups = [&self.calling, &self.answering];
            let found = cgroups.map(|cgroup| page.count(RETRANSMITS, &cgroup.labels()));
            let told = cgroups.map(|cgroup| bytes(page, cgroup));
            if found == kernel.map(Some) && told == written {
                println!("{what}, {kernel:?} sent again");
                Ok(())
            } else {
                Err(format!("{found:?} of {kernel:?}, {told:?} of {written:?}"))
            }
        });
    }
}

fn has_no_tunnels() -> bool {
    load_module("tun", &[]);
    let is_lacking = !Path::new("/dev/net/tun").exists();
    if is_lacking {
        skip("this kernel has no TUN devices");
    }
    is_lacking
}

fn by(page: &Page, name: &str, cgroup: &TestCgroup, label: &str, value: &str) -> u64 {
    page.count(name, &cgroup.labels_and(&[(label, value)])).unwrap_or_default()
}

#[test]
fn tcp_round_trips_and_connects_take_as_long_as_the_way_that_was_set() {
    const DELAY: Duration = Duration::from_millis(50);
    const CALLS: u32 = 6;
    let agent = start();
    if sockets_know_nothing() {
        return;
    }
    let set = 2.0 * DELAY.as_secs_f64();
    for far in FAR_PORTS {
        // A machine that stands still in the middle of a round makes all of its round trips longer, and never shorter.
        let is_right = (0..3).any(|_| {
            let Some(Ends { calling, answering: _answering, mut client, mut server, relay: _relay }) =
                Ends::start(DELAY)
            else {
                return true;
            };
            let address = server.serve(far);
            assert_eq!(client.call(address, CALLS, 100, 200), 0);
            expect(&agent, "all are over", &Some(CALLS.into()), |page| events(page, &calling)[3]);
            let page = agent.metrics();
            let shares = ["podlens_tcp_connect_seconds", "podlens_tcp_rtt_seconds"].map(|name| {
                let of = |part: &str| page.value(&format!("{name}{part}"), &calling.labels());
                let (count, mean) = (of("_count"), of("_sum") / of("_count"));
                println!("{address}: {name}: {count} of {mean} s");
                assert!(count >= f64::from(CALLS), "{name}: {count}");
                assert!(mean > set * 0.9, "{name}: {mean} s, set were {set} s");
                mean / set
            });
            shares.iter().all(|share| *share < 1.1)
        });
        assert!(is_right, "{far}: more than {set} s each time");
    }
}

#[test]
fn a_tcp_connect_whose_first_request_is_lost_takes_as_long_as_it_took_however_many_others_connect_meanwhile() {
    /// Enough for each place in which the kernel program keeps who asks.
    const OTHERS: u32 = 5000;
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    for far in FAR_PORTS {
        let Some(Ends { calling, answering: _answering, mut client, mut server, relay }) =
            Ends::start(Duration::from_millis(5))
        else {
            return;
        };
        let address = server.serve(far);
        relay.cut();
        let began = Instant::now();
        client.begin(&format!("open {address} 1 10 10"));
        expect(&agent, "it asks", &Some(1), |page| sockets(page, &calling, "syn_sent"));
        let mut others = Pair::start();
        let near = others.server.serve("127.0.0.1:0");
        assert_eq!(others.client.call(near, OTHERS, 1, 1), 0);
        relay.mend();
        let asked = began.elapsed();
        assert_eq!(client.answer(), "0", "it is heard the second time");
        let whole = began.elapsed();
        expect(&agent, "it is made", &Some(1), |page| events(page, &calling)[0]);
        let took = agent.metrics().value("podlens_tcp_connect_seconds_sum", &calling.labels());
        println!("{far}: {took} s, mended after {asked:?}, all after {whole:?}");
        assert!((asked.as_secs_f64() * 0.9..=whole.as_secs_f64()).contains(&took), "{took} s");
        assert_eq!(untimed(&agent.metrics()), 0);
    }
}

#[test]
fn a_tcp_connect_that_began_before_the_agent_and_is_heard_the_second_time_is_told_as_one_of_unknown_duration() {
    if sockets_know_nothing() {
        return;
    }
    let Some(Ends { calling, answering: _answering, mut client, mut server, relay }) =
        Ends::start(Duration::from_millis(5))
    else {
        return;
    };
    let address = server.serve(FAR_PORTS[0]);
    relay.cut();
    client.begin(&format!("open {address} 1 10 10"));
    common::wait_until("it asks", common::PATIENCE, || {
        if client.sockets_of_its_network("02") == 1 { Ok(()) } else { Err("it does not".to_owned()) }
    });
    let agent = start();
    assert_eq!(untimed(&agent.metrics()), 0);
    relay.mend();
    assert_eq!(client.answer(), "0", "it is heard some time");
    expect(&agent, "it is made", &Some(1), |page| events(page, &calling)[0]);
    let page = agent.metrics();
    assert_eq!(page.count("podlens_tcp_connect_seconds_count", &calling.labels()).unwrap_or_default(), 0);
    assert_eq!(untimed(&page), 1);
}

#[test]
fn a_tcp_connection_that_both_sides_ask_for_at_once_is_opened_by_both_as_the_kernel_counts() {
    /// Each asks long before it hears of the other.
    const DELAY: Duration = Duration::from_millis(500);
    let agent = start();
    if sockets_know_nothing() {
        return;
    }
    for at in ["127.0.0.1:7000", "[::1]:7000"] {
        let cgroup = TestCgroup::any_container();
        let mut peer = Peer::start(&cgroup, Network::Own);
        peer.begin_crossing(at, at);
        assert_eq!(peer.answer(), "", "with itself");
        assert_eq!(["ActiveOpens", "PassiveOpens"].map(|name| peer.counter("Tcp:", name)), [1, 0], "by the kernel");
        expect(&agent, "with itself", &[1, 0, 0, 0].map(Some), |page| events(page, &cgroup));
        assert_eq!(agent.metrics().count("podlens_tcp_connect_seconds_count", &cgroup.labels()), Some(1));
        peer.reset();
        expect(&agent, "its end", &[1, 0, 0, 1].map(Some), |page| events(page, &cgroup));
    }
    for (near, far) in [("192.0.2.1:7000", "192.0.2.2:7000"), ("[2001:db8::1]:7000", "[2001:db8::2]:7000")] {
        let Some(Ends { calling, answering, mut client, mut server, relay: _relay }) = Ends::start(DELAY) else {
            return;
        };
        client.begin_crossing(near, far);
        server.begin_crossing(far, near);
        for peer in [&mut client, &mut server] {
            assert_eq!(peer.answer(), "", "{near} and {far}");
            let kernel = ["ActiveOpens", "PassiveOpens"].map(|name| peer.counter("Tcp:", name));
            assert_eq!(kernel, [1, 0], "{near} and {far}, by the kernel");
        }
        let took = [&calling, &answering].map(|cgroup| {
            expect(&agent, far, &[1, 0, 0, 0].map(Some), |page| events(page, cgroup));
            agent.metrics().value("podlens_tcp_connect_seconds_sum", &cgroup.labels())
        });
        println!("{far}: {took:?} s");
        // Who asks later than the other waits as much less for it as the other waits longer.
        let delay = DELAY.as_secs_f64();
        assert!(took.iter().sum::<f64>() >= delay * 1.8 && took.iter().all(|one| *one > delay / 10.0), "{took:?} s");
    }
}

/// Connections that were made in a time that is not known.
fn untimed(page: &Page) -> u64 {
    page.count("podlens_lost_total", &[("collector", "tcp"), ("reason", "connect_untimed")]).expect("it is told")
}

#[test]
fn tcp_segments_that_a_way_loses_are_sent_again_as_often_as_the_kernel_counts_and_no_byte_counts_twice() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    for address in FAR_PORTS {
        let Some(mut ends) = Ends::start(Duration::from_millis(2)) else { return };
        let address = ends.server.serve(address);
        ends.relay.lose_one_of(20);
        assert_eq!(ends.client.call(address, 4, 60_000, 400_000), 0);
        assert_eq!(ends.client.open(address, 2, 60_000, 400_000), 0);
        ends.relay.lose_one_of(0);
        let lost = ends.relay.lost();
        assert!(lost > 50, "{lost} segments lost");
        ends.expect_bytes_and_retransmits(&agent, &format!("{address}: {lost} lost"));
    }
}

#[test]
fn tcp_segments_that_overtake_each_other_are_the_kernels_and_no_byte_counts_twice() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    for address in FAR_PORTS {
        let Some(mut ends) = Ends::start(Duration::from_millis(5)) else { return };
        let address = ends.server.serve(address);
        ends.relay.hurry_one_of(11);
        assert_eq!(ends.client.call(address, 4, 60_000, 400_000), 0);
        assert_eq!(ends.client.open(address, 2, 60_000, 400_000), 0);
        ends.relay.hurry_one_of(0);
        let hurried = ends.relay.hurried();
        let out_of_order = ends.client.counter("TcpExt:", "TCPOFOQueue");
        assert!(hurried > 50 && out_of_order > 50, "{hurried} hurried, {out_of_order} came out of their order");
        ends.expect_bytes_and_retransmits(&agent, &format!("{address}: {hurried} have overtaken others"));
    }
}

#[test]
fn tcp_connections_to_nobody_time_out_and_those_that_are_cut_off_stay_half_open() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    for far in FAR_PORTS {
        let Some(Ends { calling, answering, mut client, mut server, relay }) = Ends::start(Duration::from_millis(1))
        else {
            return;
        };
        // It asks for more than 10 s: walks through sockets come as seldom as each is long, and on an emulated machine none came
        // within 3 s.
        client.set_parameter("net.ipv4.tcp_syn_retries", "3");
        client.set_parameter("net.ipv4.tcp_retries2", "2");
        let (address, swallowing) = (server.serve(far), server.swallow(far, 0));
        assert_eq!(client.open(address, 2, 100, 100), 0);
        client.push(swallowing, 0);
        let established = |page: &Page, cgroup| sockets(page, cgroup, "established");
        expect(&agent, "all are there", &[Some(3); 2], |page| {
            [&calling, &answering].map(|cgroup| established(page, cgroup))
        });
        relay.cut();
        client.begin(&format!("call {address} 1 1 1"));
        expect(&agent, "one asks", &Some(1), |page| sockets(page, &calling, "syn_sent"));
        assert_eq!(client.answer(), "1", "it asks in vain");
        expect(&agent, "its end, and that of the connection that had something to say", &[1, 1], |page| {
            [by(page, FAILURES, &calling, "reason", "timeout"), by(page, ERRORS, &calling, "reason", "timeout")]
        });
        // Who says nothing knows of nothing, nor does the other side.
        expect(&agent, "half-open", &[Some(2), Some(3)], |page| {
            [&calling, &answering].map(|cgroup| established(page, cgroup))
        });
        drop(client);
        expect(&agent, "the other side does not even hear of its end", &Some(3), |page| established(page, &answering));
        assert_eq!(events(&agent.metrics(), &answering)[3], Some(0), "nothing is over there");
    }
}

#[test]
fn tcp_resets_count_for_who_sends_and_who_receives_them() {
    let agent = start();
    if sockets_know_nothing() {
        return;
    }
    for near in ["127.0.0.1", "[::1]"] {
        resets_count(&agent, near);
    }
}

/// With both on one loopback, at this address of it.
fn resets_count(agent: &Agent, near: &str) {
    let Pair { answering, calling, mut server, mut client } = Pair::in_own_network();
    let [sent, received] = ["transmit", "receive"]
        .map(|direction| move |page: &Page, cgroup| by(page, RESETS, cgroup, "direction", direction));
    let address = server.serve(&format!("{near}:0"));
    assert_eq!(client.open(address, 5, 10, 10), 0);
    client.reset();
    expect(agent, "resets by the client", &[5, 5], |page| [sent(page, &calling), received(page, &answering)]);
    assert_eq!(client.call(format!("{near}:9").parse().unwrap(), 3, 1, 1), 3);
    expect(agent, "nobody listens there", &[5, 3], |page| [sent(page, &calling), received(page, &calling)]);
    if walk_is_lacking(agent) {
        return;
    }
    // The kernel breaks off what waits in the queue of a socket that goes.
    let address = server.listen(&format!("{near}:0"), 8);
    client.knock(address, 2);
    agent.wait_for_metrics("two wait", |page| match page.count("podlens_tcp_accept_queue", &answering.labels()) {
        Some(2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(server);
    expect(agent, "resets by the server", &[2, 5], |page| [sent(page, &answering), received(page, &calling)]);
    let page = agent.metrics();
    let told = sent(&page, &calling) + sent(&page, &answering);
    assert_eq!(told + 3, client.counter("Tcp:", "OutRsts"), "the three refusals are no socket's");
    let ended = |cgroup| by(&page, ERRORS, cgroup, "reason", "reset");
    assert_eq!([ended(&calling), ended(&answering)], [2, 5], "connections that the other side has reset");
    let all = page.all(ERRORS, &calling.labels());
    assert_eq!(all.len(), 1, "its own resets are no errors: {all:?}");
}

#[test]
fn tcp_connections_are_limited_by_who_reads_too_slowly_or_by_their_own_buffer_for_as_long_as_the_kernel_says() {
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) {
        return;
    }
    // A program that reads nothing, of a narrow window: what comes may take so much more of the receive buffer than its payload that
    // this is full while the window is still open, and then segments are lost and nothing is limited by the window.
    let Pair { answering: _answering, calling, mut server, mut client } = Pair::in_own_network();
    // Segments of a size that a network has: with those of loopback a packet takes the whole of a narrow window.
    server.in_its_network(&["ip", "link", "set", "lo", "mtu", "1500"]);
    let address = server.listen_narrowly("127.0.0.1:0", 8192);
    client.push(address, 0);
    limited(&agent, "receive_window", (server, client), &calling);
    // A way that is too long for a small buffer.
    let Some(Ends { calling, answering: _answering, mut client, mut server, relay: _relay }) =
        Ends::start(Duration::from_millis(20))
    else {
        return;
    };
    let address = server.swallow(FAR_PORTS[0], 0);
    client.push(address, 5000);
    limited(&agent, "send_buffer", (server, client), &calling);
}

/// The client pushes, and is kept waiting by this limit.
fn limited(agent: &Agent, limit: &str, (server, mut client): (Peer, Peer), calling: &TestCgroup) {
    let place = usize::from(limit == "send_buffer");
    let told =
        |page: &Page| ["receive_window", "send_buffer"].map(|by| page.ns(LIMITED, &calling.labels_and(&[("by", by)])));
    let least_us = 2_000_000;
    let last = common::wait_until("what the kernel says", common::PATIENCE, || {
        let before = client.limited_us();
        let found = told(&agent.metrics()).map(|ns| ns.map(|ns| ns / 1000));
        let after = client.limited_us();
        let is_told = |at: usize| found[at].is_some_and(|us| (before[at]..=after[at]).contains(&us));
        if before[place] >= least_us && is_told(0) && is_told(1) {
            println!("{limit}: {before:?} us, {found:?} us, {after:?} us");
            Ok(after)
        } else {
            let why = ["TCPRcvQDrop", "TCPToZeroWindowAdv", "TCPZeroWindowDrop", "TCPTimeouts"];
            let why = why.map(|name| format!("{name} {}", server.counter("TcpExt:", name)));
            Err(format!("{before:?}, {found:?}, {after:?}; of the receiver's network: {}", why.join(", ")))
        }
    });
    assert!(last[1 - place] < last[place] / 2, "it is limited by {limit}: {last:?}");
    // What a socket had stays, once it is closed.
    drop(server);
    drop(client);
    expect(agent, "it is closed", &Some(1), |page| events(page, calling)[3]);
    let end = told(&agent.metrics());
    assert!(end[place].is_some_and(|ns| ns / 1000 >= last[place]), "{end:?} after {last:?}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(told(&agent.metrics()), end, "nothing runs any more");
}

#[test]
fn a_full_queue_of_requests_for_tcp_connections_and_what_it_drops_are_the_kernels() {
    const LIMIT: u16 = 8;
    const ASKED: u16 = 20;
    let agent = start();
    if sockets_know_nothing() || walk_is_lacking(&agent) || has_no_tunnels() {
        return;
    }
    let answering = TestCgroup::any_container();
    let mut server = Peer::start(&answering, Network::Own);
    let mut tunnel = Tunnel::make(&server, &FAR);
    // Otherwise a full queue is no reason to drop anything: the kernel puts what it must know into its answer.
    server.set_parameter("net.ipv4.tcp_syncookies", "0");
    let address = match server.listen(FAR_PORTS[0], LIMIT.into()) {
        std::net::SocketAddr::V4(address) => address,
        other @ std::net::SocketAddr::V6(_) => panic!("{other}"),
    };
    for port in 0..ASKED {
        // They ask and are not heard of again.
        tunnel.send(&syn(std::net::SocketAddrV4::new([192, 0, 2, 77].into(), 10_000 + port), address));
    }
    agent.wait_for_metrics("requests, and what was dropped", |page| {
        let kernel = || {
            let dropped = ["ListenDrops", "TCPReqQFullDrop"].map(|name| server.counter("TcpExt:", name));
            (server.sockets_of_its_network("03"), dropped)
        };
        let (waiting, [dropped, for_requests]) = kernel();
        let found = (sockets(page, &answering, "syn_received"), page.count(OVERFLOWS, &answering.labels()));
        let limit = page.count("podlens_tcp_accept_queue_limit", &answering.labels());
        let is_all = waiting > 0 && dropped == u64::from(ASKED) - waiting && dropped == for_requests;
        if is_all && found == (Some(waiting), Some(dropped)) && limit == Some(LIMIT.into()) {
            println!("{waiting} wait, {dropped} were dropped");
            Ok(())
        } else {
            Err(format!("{found:?}, limit {limit:?}; the kernel has {:?}", kernel()))
        }
    });
}
