//! DNS against a server of the test's own: what it was told to answer, and how late.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use common::{
    Agent, Network, OnDrop, Page, Peer, Stream, TestCgroup, Way, assert_near, assert_seen, kernel, machine_is_own,
    skip, unseen, wait_until,
};

const LOOKUPS: &str = "podlens_dns_lookup_seconds";
const RESULTS: [&str; 7] = ["ok", "nxdomain", "servfail", "refused", "truncated", "other", "timeout"];
const SERVER: &str = "127.0.0.1";
/// A server that never answers.
const MUTE: &str = "127.0.0.2";
/// As the agent waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Count and sum of a result's histogram.
type Figures = BTreeMap<&'static str, (u64, u64)>;

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s"), ("PODLENS_COLLECTORS_DNS", "true")])
}

/// Whether nothing can be tested here, as the agent itself says or since sockets know no cgroup of a container.
fn is_hidden(agent: &Agent) -> bool {
    let page = agent.metrics();
    if page.count("podlens_collector_state", &[("collector", "dns"), ("state", "unsupported")]) == Some(1) {
        assert!(page.all(&format!("{LOOKUPS}_count"), &[]).is_empty());
        let (_, ready) = agent.get("/readyz").unwrap();
        assert!(ready.contains("sock_send_length"), "it says why: {ready}");
        skip(&format!("the collector dns is unsupported: {}", agent.lack("dns")));
        return true;
    }
    let is_lacking = !TestCgroup::any_container().is_in_version_2();
    if is_lacking {
        skip("there is no cgroup version 2, the only one that sockets know");
    }
    is_lacking
}

#[test]
fn where_nothing_runs_at_the_ends_of_functions_what_stands_in_is_missing_and_the_node_is_told_why() {
    const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";
    if kernel() >= [6, 3] {
        return skip("this kernel tells of calls by tracepoints");
    }
    if !machine_is_own() {
        return skip("function tracing is switched off for this, which others may need");
    }
    fs::write(SWITCH, "0").unwrap();
    let _on = OnDrop(|| fs::write(SWITCH, "1").unwrap());
    let agent = Agent::start(&[("PODLENS_COLLECTORS_DNS", "true"), ("PODLENS_COLLECTORS_UDP", "true")]);
    let page = agent.metrics();
    for (collector, state) in [("dns", "unsupported"), ("udp", "degraded")] {
        let labels = [("collector", collector), ("state", state)];
        assert_eq!(page.count("podlens_collector_state", &labels), Some(1), "{}", agent.lack(collector));
    }
    let of_udp = agent.lack("udp");
    assert!(
        of_udp.contains("kernel.ftrace_enabled is 0") && of_udp.contains("calls that fail are missing"),
        "{of_udp}"
    );
    // Before 5.15 it lacks more, which is told first.
    let of_dns = agent.lack("dns");
    assert!(of_dns.contains("kernel.ftrace_enabled is 0") || kernel() < [5, 15], "{of_dns}");
}

/// What a cgroup's queries came to; results without a query are absent.
fn lookups(page: &Page, labels: &[(&str, &str)]) -> Figures {
    let of = |result: &'static str| {
        let labels = [labels, &[("result", result)]].concat();
        let count = page.count(&format!("{LOOKUPS}_count"), &labels)?;
        Some((result, (count, page.ns(&format!("{LOOKUPS}_sum"), &labels).unwrap())))
    };
    RESULTS.into_iter().filter_map(of).collect()
}

fn counts(figures: &Figures) -> BTreeMap<&'static str, u64> {
    figures.iter().map(|(result, (count, _))| (*result, *count)).collect()
}

/// Queries of these results, no others, but for what the kernel did not tell.
#[track_caller]
fn assert_counts(page: &Page, figures: &Figures, expected: &[(&'static str, u64)]) {
    if unseen(page) == 0 {
        assert_eq!(counts(figures), expected.iter().copied().collect());
    }
    for (result, expected) in expected {
        // An answer whose taking was not told comes to a timeout.
        let more = if *result == "timeout" { unseen(page) } else { 0 };
        let found = figures.get(result).map_or(0, |(count, _)| *count);
        assert_seen(result, page, found.min(*expected), *expected);
        assert!(found <= expected + more, "{result}: {figures:?}");
    }
}

/// Asks as [`Peer::ask_for`] does; gives the answers, and how long it took until the client had all of them: no query of it took
/// longer.
fn ask(client: &mut Peer, way: Way, name: &str, server: &str) -> (usize, u64) {
    let began = Instant::now();
    let answers = client.ask_for(way, name, &[server]);
    (answers, nanoseconds(began))
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap()
}

/// So many queries took no less than the server's delays together, and none of them longer than the client waited.
#[track_caller]
fn assert_took(what: &str, sum_ns: u64, queries: u64, delays_ns: u64, waited_ns: u64) {
    // Timers of the server and of the kernel's clock for answers tick apart.
    let least_ns = delays_ns - delays_ns / 1000;
    assert!(
        (least_ns..=queries * waited_ns).contains(&sum_ns),
        "{what}: {sum_ns} ns, the server's delays are {delays_ns}, {queries} times {waited_ns} at most"
    );
}

/// A server, and a client in its network.
fn server_and_client(containers: [&TestCgroup; 2]) -> (Peer, Peer) {
    let mut server = Peer::start(containers[0], Network::Own);
    server.serve_names(SERVER, false);
    let client = Peer::start(containers[1], Network::Of(&server));
    (server, client)
}

#[test]
fn each_query_counts_once_with_the_time_to_its_answer_whichever_calls_the_program_makes() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let containers = [(); 2].map(|()| TestCgroup::any_container());
    let (mut server, mut client) = server_and_client(containers.each_ref());
    server.serve_names("::1", false);
    for (server, ways) in [
        (
            SERVER,
            &[Way::To, Way::Connected, Way::Written, Way::Pieces, Way::Message, Way::Pair, Way::Batch, Way::Peeked][..],
        ),
        ("::1", &[Way::To, Way::Connected, Way::Written, Way::Pair][..]),
    ] {
        for way in ways.iter().copied() {
            let before = lookups(&agent.metrics(), &containers[1].labels()).get("ok").copied().unwrap_or_default();
            let expected = match way {
                Way::Batch => 20,
                Way::Pair => 2,
                _ => 1,
            };
            let (answers, waited_ns) = ask(&mut client, way, "ok-200.test.", server);
            assert_eq!(answers, expected, "{way:?}");
            let page = agent.metrics();
            let after = lookups(&page, &containers[1].labels());
            let (count, sum_ns) = (after["ok"].0 - before.0, after["ok"].1 - before.1);
            println!("{server} {way:?}: {count} queries, {} us each", sum_ns / 1000 / count.max(1));
            let what = format!("{way:?}");
            assert_seen(&what, &page, count, expected as u64);
            assert_took(&what, sum_ns, count, count * 200_000_000, waited_ns);
            assert_eq!(after.len(), 1, "{after:?}");
        }
    }
    // The server has only answered.
    assert!(lookups(&agent.metrics(), &containers[0].labels()).is_empty());
}

#[test]
fn queries_over_tcp_count_however_programs_write_and_take_them_and_what_is_not_found_there_is_a_loss() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let containers = [(); 3].map(|()| TestCgroup::any_container());
    let (mut server, mut client) = server_and_client([&containers[0], &containers[1]]);
    server.serve_names("::1", false);
    for server in [SERVER, "::1"] {
        for how in [Stream::Pieces, Stream::Apart, Stream::Whole, Stream::Plain] {
            let before = lookups(&agent.metrics(), &containers[1].labels()).get("ok").copied().unwrap_or_default();
            let (answers, waited_ns) = ask(&mut client, Way::Stream(how), "ok-100.test.", server);
            assert_eq!(answers, 2, "{how:?}");
            let page = agent.metrics();
            let after = lookups(&page, &containers[1].labels());
            let (count, sum_ns) = (after["ok"].0 - before.0, after["ok"].1 - before.1);
            println!("{server} {how:?}: {count} queries, {} us in all", sum_ns / 1000);
            let what = format!("{how:?}");
            assert_seen(&what, &page, count, 2);
            // The server answers what has come together at once: each has waited for both delays, unless they came apart.
            let least_ns = if how == Stream::Apart { 300_000_000 } else { 400_000_000 };
            assert_took(&what, sum_ns, 2, least_ns, waited_ns);
            assert_eq!(after.len(), 1, "{after:?}");
        }
    }
    assert_eq!(client.ask_for(Way::Stream(Stream::Plain), "nxdomain-0.test.", &[SERVER]), 2);
    // What did not fit is asked for anew, and the C library does not take the other answer any more, which did not fit either.
    client.use_servers(&[SERVER]);
    assert!(client.look_up("long-0.test."));
    let page = agent.metrics();
    let found = lookups(&page, &containers[1].labels());
    assert_counts(&page, &found, &[("ok", 16 + 2), ("nxdomain", 2), ("truncated", 1)]);
    // Nobody finds the answer's head in there, or there is none: a loss, and no value.
    let mut odd = Peer::start(&containers[2], Network::Of(&server));
    assert_eq!(odd.ask_for(Way::Stream(Stream::Crumbs), "ok-0.test.", &[SERVER]), 2);
    assert_eq!(odd.ask_for(Way::Stream(Stream::Pieces), "closed-0.test.", &[SERVER]), 0);
    thread::sleep(TIMEOUT + Duration::from_millis(100));
    let page = agent.metrics();
    let found = lookups(&page, &containers[1].labels());
    assert_counts(&page, &found, &[("ok", 16 + 2), ("nxdomain", 2), ("truncated", 1), ("timeout", 1)]);
    assert_eq!(lookups(&page, &containers[2].labels()), Figures::new());
    let lost = page.count("podlens_lost_total", &[("collector", "dns"), ("reason", "unseen_answer")]);
    assert!(lost == Some(4) || unseen(&page) > 0, "{lost:?}");
}

#[test]
fn over_tcp_an_answer_in_several_pieces_and_answers_in_another_order_count_each_with_its_own_time() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let containers = [(); 2].map(|()| TestCgroup::any_container());
    let (server, mut client) = server_and_client(containers.each_ref());
    // Both delays, and 30 ms until the head of the first is taken, 60 until that of the second, which comes with the rest.
    let (answers, waited_ns) = ask(&mut client, Way::Stream(Stream::Pieces), "torn-100.test.", SERVER);
    assert_eq!(answers, 2);
    let page = agent.metrics();
    let found = lookups(&page, &containers[1].labels());
    assert_counts(&page, &found, &[("ok", 2)]);
    assert_took("in pieces", found["ok"].1, 2, 490_000_000, waited_ns);

    // One connection, on which both answers come when they are ready.
    for (name, how) in [("ok-100.apart.test.", Stream::Pieces), ("refused-100.apart.test.", Stream::Apart)] {
        let container = TestCgroup::any_container();
        let mut client = Peer::start(&container, Network::Of(&server));
        let (answers, waited_ns) = ask(&mut client, Way::Stream(how), name, SERVER);
        assert_eq!(answers, 2);
        let page = agent.metrics();
        let found = lookups(&page, &container.labels());
        let result = if name.starts_with("ok") { "ok" } else { "refused" };
        assert_counts(&page, &found, &[(result, 2)]);
        assert_took(name, found[result].1, 2, 200_000_000, waited_ns);
    }
}

#[test]
fn the_c_library_that_asks_over_tcp_alone_has_each_query_counted_once() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let containers = [(); 2].map(|()| TestCgroup::any_container());
    let (mut server, mut client) = server_and_client(containers.each_ref());
    client.use_servers_over_tcp(&[SERVER]);
    let began = Instant::now();
    for (name, is_there) in [("ok-50.apart.test.", true), ("nxdomain-50.apart.test.", false)] {
        assert_eq!(client.look_up(name), is_there, "{name}");
    }
    let waited_ns = nanoseconds(began);
    assert_eq!(server.served(), (0, 4), "two each");
    let page = agent.metrics();
    let found = lookups(&page, &containers[1].labels());
    assert_counts(&page, &found, &[("ok", 2), ("nxdomain", 2)]);
    for (result, (count, sum_ns)) in &found {
        assert_took(result, *sum_ns, *count, count * 50_000_000, waited_ns);
    }
}

#[test]
fn results_are_told_apart_and_those_that_do_not_occur_are_absent() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let containers = [(); 2].map(|()| TestCgroup::any_container());
    let (_server, mut client) = server_and_client(containers.each_ref());
    let names = [("ok", 5), ("nxdomain", 4), ("servfail", 3), ("refused", 2), ("truncated", 2), ("formerr", 1)];
    for (name, times) in names {
        for way in [Way::To, Way::Connected] {
            (0..times).for_each(|_| assert_eq!(client.ask_for(way, &format!("{name}-1.test."), &[SERVER]), 1));
        }
    }
    // A second answer, or one between others' packets, is none more.
    for name in ["twice-1.test.", "junk-1.test."] {
        client.ask_for(Way::To, name, &[SERVER]);
    }
    client.ask_for(Way::Again, "junk-1.test.", &[SERVER]);
    let page = agent.metrics();
    let found = lookups(&page, &containers[1].labels());
    let expected = [("nxdomain", 8), ("servfail", 6), ("refused", 4), ("truncated", 4), ("other", 2), ("ok", 13)];
    assert_counts(&page, &found, &expected);
}

#[test]
fn a_query_without_answer_is_a_timeout_and_one_that_comes_too_late_is_no_other() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let containers = [(); 3].map(|()| TestCgroup::any_container());
    let (mut server, mut client) = server_and_client([&containers[0], &containers[1]]);
    server.serve_names(MUTE, true);
    let mut late = Peer::start(&containers[2], Network::Of(&server));
    late.begin_asking_for(Way::To, "ok-11000.test.", &[SERVER]);
    assert_eq!(client.ask_for(Way::Connected, "silent-0.test.", &[SERVER]), 0);
    assert_eq!(client.ask_for(Way::To, "silent-0.test.", &[SERVER]), 0);
    // The second server answers: asked from the same socket it is the same query, which has waited for the first one too.
    assert_eq!(client.ask_for(Way::Again, "ok-0.test.", &[MUTE, SERVER]), 1);
    let asked = Instant::now();
    let page = agent.metrics();
    let found = lookups(&page, &containers[1].labels());
    assert_counts(&page, &found, &[("ok", 1)]);
    assert!(found["ok"].1 >= 300_000_000, "{found:?}");
    assert_eq!(late.answer(), "1", "its program has waited");
    thread::sleep((TIMEOUT + Duration::from_millis(100)).saturating_sub(asked.elapsed()));
    for _ in 0..2 {
        let page = agent.metrics();
        let found = lookups(&page, &containers[1].labels());
        assert_counts(&page, &found, &[("ok", 1), ("timeout", 2)]);
        assert_eq!(found["timeout"].1, found["timeout"].0 * 10_000_000_000);
        assert_counts(&page, &lookups(&page, &containers[2].labels()), &[("timeout", 1)]);
    }
}

#[test]
fn queries_of_a_container_that_ends_before_an_answer_are_timeouts() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let [kept, gone] = [(); 2].map(|()| TestCgroup::any_container());
    let (_server, mut client) = server_and_client([&kept, &gone]);
    for way in [Way::To, Way::Connected] {
        assert_eq!(client.ask_for(way, "silent-0.test.", &[SERVER]), 0);
    }
    let labels: Vec<(String, String)> =
        gone.labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    drop(client);
    gone.remove();
    let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let found = wait_until("the last values", TIMEOUT, || {
        let page = agent.metrics();
        let found = lookups(&page, &labels);
        let enough = found.get("timeout").is_some_and(|(count, _)| *count + unseen(&page) >= 2);
        if enough { Ok(found) } else { Err(format!("{found:?}")) }
    });
    assert!(found.len() == 1 && found["timeout"].1 < 20_000_000_000, "{found:?}");
}

#[test]
fn the_c_librarys_pairs_count_and_a_second_server_is_a_query_of_its_own() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let containers = [(); 2].map(|()| TestCgroup::any_container());
    let (mut server, mut client) = server_and_client(containers.each_ref());
    server.serve_names(MUTE, true);
    client.use_servers(&[SERVER]);
    let began = Instant::now();
    // IPv4 and IPv6 addresses are asked for at once.
    for (name, is_there) in [("ok-50.test.", true), ("nxdomain-50.test.", false), ("servfail-50.test.", false)] {
        assert_eq!(client.look_up(name), is_there, "{name}");
    }
    let waited_ns = nanoseconds(began);
    let page = agent.metrics();
    let found = lookups(&page, &containers[1].labels());
    assert_counts(&page, &found, &[("ok", 2), ("nxdomain", 2), ("servfail", 2)]);
    for (result, (count, sum_ns)) in &found {
        assert_took(result, *sum_ns, *count, count * 50_000_000, waited_ns);
    }
    client.use_servers(&[MUTE, SERVER]);
    assert!(client.look_up("ok-0.test."));
    thread::sleep(TIMEOUT);
    let page = agent.metrics();
    let found = lookups(&page, &containers[1].labels());
    assert_counts(&page, &found, &[("ok", 4), ("nxdomain", 2), ("servfail", 2), ("timeout", 2)]);
}

#[test]
fn what_is_no_query_counts_nowhere_whatever_it_is() {
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let containers = [(); 2].map(|()| TestCgroup::any_container());
    let (_server, mut client) = server_and_client(containers.each_ref());
    client.send_no_queries(SERVER);
    // Another port is another matter.
    let to = client.bind_udp("127.0.0.1:0", 0);
    assert_eq!(client.send_udp(0, "to", to, 20, 100), 0);
    client.take_udp(0, "each");
    let page = agent.metrics();
    for cgroup in &containers {
        assert_eq!(lookups(&page, &cgroup.labels()), Figures::new());
    }
    assert_eq!(page.count("podlens_lost_total", &[("collector", "dns"), ("reason", "no_room")]), Some(0));
    assert_eq!(client.ask_for(Way::To, "ok-0.test.", &[SERVER]), 1);
    let page = agent.metrics();
    assert_counts(&page, &lookups(&page, &containers[1].labels()), &[("ok", 1)]);
}

/// A program of either collector.
fn is_of_calls(program: &str) -> bool {
    program.starts_with("udp_") || program.starts_with("dns_")
}

#[test]
fn one_program_on_a_hook_serves_whichever_of_both_collectors_runs() {
    if is_hidden(&start()) {
        return;
    }
    for (udp, dns) in [(true, false), (false, true), (true, true)] {
        let [on, off] = [true, false].map(|state: bool| state.to_string());
        let value = |is_on: bool| if is_on { on.as_str() } else { off.as_str() };
        // With the two capabilities that are needed, and no other.
        let under = ["setpriv", "--no-new-privs", "--bounding-set=-all,+bpf,+perfmon"];
        let mut agent = Agent::start_under(
            &under,
            &[
                ("PODLENS_MAX_AGE", "0s"),
                ("PODLENS_COLLECTORS_UDP", value(udp)),
                ("PODLENS_COLLECTORS_DNS", value(dns)),
            ],
        );
        agent.wait_for_code("/readyz", 200);
        let programs: BTreeSet<String> = agent.programs().into_iter().filter(|name| is_of_calls(name)).collect();
        let expected = |names: &[&str]| programs.iter().map(String::as_str).eq(names.iter().copied());
        let full = ["udp_full"].as_slice();
        let of_streams = ["dns_stream_recv", "dns_stream_send"].as_slice();
        let ends = ["udp_receive_4", "udp_receive_6", "udp_send_4", "udp_send_6"].as_slice();
        let [full, of_streams] = [(udp, full), (dns, of_streams)].map(|(is_on, names)| if is_on { names } else { &[] });
        let by_tracepoints = [full, &["udp_receive", "udp_send"]].concat();
        let by_ends = [of_streams, full, ends].concat();
        assert!(expected(&by_tracepoints) || expected(&by_ends), "{programs:?}");
        let containers = [(); 2].map(|()| TestCgroup::any_container());
        let (_server, mut client) = server_and_client(containers.each_ref());
        assert_eq!(client.ask_for(Way::Connected, "ok-0.test.", &[SERVER]), 1);
        let page = agent.metrics();
        let labels = containers[1].labels();
        let datagrams =
            page.count("podlens_udp_datagrams_total", &[labels.as_slice(), &[("direction", "receive")]].concat());
        let answered = lookups(&page, &labels).get("ok").map(|(count, _)| *count);
        for (what, is_on, count) in [("udp", udp, datagrams), ("dns", dns, answered)] {
            let expected = is_on.then_some(1);
            assert!(count == expected || is_on && unseen(&page) > 0, "{what}: {count:?}, expected {expected:?}");
        }
    }
    let agent = Agent::start(&[]);
    let programs = agent.programs();
    assert!(!programs.iter().any(|name| is_of_calls(name)), "nobody pays who does not ask for it: {programs:?}");
}

/// Programs of languages that bring resolvers of their own: what is needed, how it is made from its source, and how it asks.
const CLIENTS: &[(&str, &str, &str)] = &[
    ("glibc", "", "getent ahosts ok-20.test."),
    ("Python", "", "python3 -c 'import socket; socket.getaddrinfo(\"ok-20.test.\", 80)'"),
    ("Node, by the C library", "", "node -e 'require(\"dns\").lookup(\"ok-20.test.\", e => process.exit(e ? 1 : 0))'"),
    ("Node, by c-ares", "", "node -e 'require(\"dns\").resolve4(\"ok-20.test\", e => process.exit(e ? 1 : 0))'"),
    ("Go", "CGO_ENABLED=0 go build -o go-client client.go", "./go-client"),
    ("musl", "musl-gcc -static -o musl-client client.c", "./musl-client"),
    ("Java", "javac Client.java", "java Client address"),
    ("Java, by its own resolver", "javac Client.java", "java Client directory"),
];

const SOURCES: [(&str, &str); 3] = [
    (
        "client.go",
        r#"package main
import ("net"; "os")
func main() { if _, err := net.LookupHost("ok-20.test."); err != nil { os.Exit(1) } }
"#,
    ),
    (
        "client.c",
        r#"#include <netdb.h>
int main(void) { struct addrinfo *found; return getaddrinfo("ok-20.test", 0, 0, &found) != 0; }
"#,
    ),
    (
        "Client.java",
        r#"public class Client {
    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("address")) { java.net.InetAddress.getAllByName("ok-20.test."); return; }
        var environment = new java.util.Hashtable<String, String>();
        environment.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
        environment.put("java.naming.provider.url", "dns://127.0.0.1");
        new javax.naming.directory.InitialDirContext(environment).getAttributes("ok-20.test", new String[] {"A"});
    }
}
"#,
    ),
];

#[test]
fn resolvers_of_other_languages_are_seen() {
    if env::var_os("PODLENS_TEST_FULL").is_none() {
        return skip("PODLENS_TEST_FULL is not set: it takes compilers of other languages");
    }
    let agent = start();
    if is_hidden(&agent) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let shell = |command: &str, at: &Path| {
        Command::new("sh").args(["-c", command]).current_dir(at).status().is_ok_and(|status| status.success())
    };
    let mut seen = [0; 3];
    // One that is answered at once, one whose answer does not fit and is asked for anew over TCP, and one over TCP alone.
    let cases = [("ok-20", false), ("long-20.apart", false), ("ok-20.apart", true)];
    for (case, (name, over_tcp_alone)) in cases.into_iter().enumerate() {
        for (client, build, run) in CLIENTS {
            for (file, source) in SOURCES {
                fs::write(directory.path().join(file), source.replace("ok-20", name)).unwrap();
            }
            if !shell(build, directory.path()) {
                println!("{client}: this machine cannot make it");
                continue;
            }
            let run = run.replace("ok-20", name);
            let containers = [(); 2].map(|()| TestCgroup::any_container());
            let (mut server, mut peer) = server_and_client(containers.each_ref());
            if over_tcp_alone {
                peer.use_servers_over_tcp(&[SERVER]);
            } else {
                peer.use_servers(&[SERVER]);
            }
            let has_asked = peer.run_with_servers(&format!("cd {} && {run}", directory.path().display()));
            let page = agent.metrics();
            let ((over_udp, over_tcp), found) = (server.served(), lookups(&page, &containers[1].labels()));
            println!("{client}: {over_udp} queries of {name} over UDP, {over_tcp} over TCP, found {found:?}");
            let answered = match case {
                0 => over_udp,
                1 => over_tcp,
                // Not all of them know of the wish.
                _ => over_udp + over_tcp,
            };
            if answered == 0 {
                println!("{client}: it does not run on this machine, or never asks over TCP");
                continue;
            }
            assert!(has_asked, "{client}");
            if case == 1 {
                assert!(found["truncated"].0 >= 1, "{client}");
                assert_seen(client, &page, found["ok"].0, answered);
            } else {
                assert_counts(&page, &found, &[("ok", answered)]);
            }
            assert_near(client, found["ok"].1, answered * 20_000_000, 10.0, answered * 10_000_000);
            seen[case] += usize::from(case != 2 || over_tcp > 0);
        }
    }
    assert!(seen.iter().all(|seen| *seen > 0), "glibc is everywhere: {seen:?}");
}
