//! What tests of TCP share: values of a page, what this node and kernel can tell, and two peers that talk.
//!
//! A test file uses it by `mod tcp_parts;` beside `mod common;`.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this module")]

use crate::common::{Agent, Network, Page, Peer, TestCgroup, Traffic, skip};

/// Payload.
pub const BYTES: &str = "podlens_network_bytes_total";
/// Segments.
pub const SEGMENTS: &str = "podlens_tcp_segments_total";
/// Segments that were sent again.
pub const RETRANSMITS: &str = "podlens_tcp_retransmits_total";
/// Connections by what happens to them.
pub const EVENTS: &str = "podlens_tcp_connections_total";
/// Connections that were not made.
pub const FAILURES: &str = "podlens_tcp_connect_failures_total";
/// Sockets by state.
pub const SOCKETS: &str = "podlens_tcp_sockets";
/// Connections without room.
pub const OVERFLOWS: &str = "podlens_tcp_listen_overflows_total";
/// Sockets in `TIME_WAIT`.
pub const TIME_WAITING: &str = "podlens_tcp_time_wait_sockets";
/// Time for which connections could not send more.
pub const LIMITED: &str = "podlens_tcp_limited_seconds_total";

/// Starts an agent whose pages are never older than the request.
pub fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s")])
}

/// Whether sockets know no cgroup of a container here.
pub fn sockets_know_nothing() -> bool {
    let cgroup = TestCgroup::any_container();
    let is_lacking = !cgroup.is_in_version_2();
    if is_lacking {
        skip("there is no cgroup version 2, the only one that sockets know");
    }
    is_lacking
}

/// Whether the walk through sockets does not work on this kernel, as the agent itself says; then there is nothing of them.
pub fn walk_is_lacking(agent: &Agent) -> bool {
    let page = agent.metrics();
    let is_lacking = page.count("podlens_collector_state", &[("collector", "tcp"), ("state", "degraded")]) == Some(1);
    if is_lacking {
        for name in [BYTES, SEGMENTS, RETRANSMITS, SOCKETS, OVERFLOWS, TIME_WAITING, LIMITED] {
            assert!(page.all(name, &[]).is_empty(), "what cannot be counted has no value: {name}");
        }
        skip(&format!("the collector tcp is degraded: {}", agent.lack("tcp")));
    }
    is_lacking
}

/// What the sockets of a cgroup have sent and received.
pub fn bytes(page: &Page, cgroup: &TestCgroup) -> Option<Traffic> {
    let of = |direction| page.count(BYTES, &cgroup.labels_and(&[("direction", direction), ("protocol", "tcp")]));
    Some(Traffic { sent: of("transmit")?, received: of("receive")? })
}

/// Connections that were opened, accepted, not made and closed.
pub fn events(page: &Page, cgroup: &TestCgroup) -> [Option<u64>; 4] {
    ["opened", "accepted", "failed", "closed"].map(|event| page.count(EVENTS, &cgroup.labels_and(&[("event", event)])))
}

/// Sockets in a state.
pub fn sockets(page: &Page, cgroup: &TestCgroup, state: &str) -> Option<u64> {
    page.count(SOCKETS, &cgroup.labels_and(&[("state", state)]))
}

/// Waits until a page has it; a walk through sockets is no older than a moment.
#[track_caller]
pub fn expect<T: std::fmt::Debug + PartialEq>(agent: &Agent, what: &str, expected: &T, of: impl Fn(&Page) -> T) {
    agent.wait_for_metrics(what, |page| {
        let found = of(page);
        let lost = page.all("podlens_lost_total", &[("collector", "tcp")]);
        let lost: Vec<String> = lost.iter().filter(|one| one.count() > 0).map(|one| format!("{one:?}")).collect();
        if found == *expected { Ok(()) } else { Err(format!("{found:?}, expected {expected:?}, lost {lost:?}")) }
    });
}

/// A server and a client, each in a cgroup of its own, which goes after them.
pub struct Pair {
    /// Who answers.
    pub server: Peer,
    /// Who calls.
    pub client: Peer,
    /// The cgroup of who answers.
    pub answering: TestCgroup,
    /// The cgroup of who calls.
    pub calling: TestCgroup,
}

impl Pair {
    /// Starts both.
    pub fn start() -> Self {
        let (answering, calling) = (TestCgroup::any_container(), TestCgroup::any_container());
        let server = Peer::start(&answering, Network::Machine);
        let client = Peer::start(&calling, Network::Machine);
        Self { server, client, answering, calling }
    }

    /// Starts both in a network of their own.
    pub fn in_own_network() -> Self {
        let (answering, calling) = (TestCgroup::any_container(), TestCgroup::any_container());
        let server = Peer::start(&answering, Network::Own);
        let client = Peer::start(&calling, Network::Of(&server));
        Self { server, client, answering, calling }
    }

    /// Waits until both have the bytes that their programs wrote and read.
    #[track_caller]
    pub fn expect_bytes(&mut self, agent: &Agent, what: &str) {
        let expected = [self.client.traffic(), self.server.traffic()].map(Some);
        assert_eq!(expected[0].unwrap().sent, expected[1].unwrap().received, "what one wrote the other has read");
        expect(agent, what, &expected, |page| [bytes(page, &self.calling), bytes(page, &self.answering)]);
    }
}
