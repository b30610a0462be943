//! What pods send, receive, ask and lose, by both observers, against what their own programs count.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::e2e::{
    collector::Figure,
    wait::within,
    world::{BURN_IMAGE, World},
};

const NAMESPACE: &str = "talks";
const CONTAINER: &str = "app";
const SERVER: &str = "server";
/// Who asks, and whether from the node's network.
const CLIENTS: [(&str, bool); 2] = [("client", false), ("node-client", true)];
const STARTED_WITHIN: Duration = Duration::from_secs(30);
/// Prometheus finds a new agent and its pods within 10 s, the agent walks through sockets that live every 10 s; what is closed is
/// told at the next sweep.
const SEEN_WITHIN: Duration = Duration::from_mins(1);

/// Names of what is looked at, with Prometheus and with the collector.
const METRICS: [(&str, &str); 6] = [
    ("podlens_network_bytes_total", "podlens.network.io"),
    ("podlens_tcp_connections_total", "podlens.tcp.connections"),
    ("podlens_udp_datagrams_total", "podlens.udp.datagrams"),
    ("podlens_udp_errors_total", "podlens.udp.errors"),
    ("podlens_network_drops_total", "podlens.network.drops"),
    ("podlens_dns_lookup_seconds_count", "podlens.dns.lookup"),
];
const LABELS: [&str; 5] = ["direction", "protocol", "event", "reason", "result"];

/// What a program says of itself, by name.
type Counts = BTreeMap<String, u64>;
/// Figures of pods.
type Figures = BTreeMap<(String, Figure), f64>;

pub(super) fn talks(world: &mut World) -> Result<String> {
    let old = world.agent()?;
    world.install(
        &json!({ "config": { "collectors": { "udp": true, "dns": true }, "series": { "allow": "*" } } }),
        true,
    )?;
    world.next_agent(&old.uid)?;
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    world.apply(&[namespace, pod(SERVER, &["serve"], false)])?;
    within(STARTED_WITHIN, || counts(world, SERVER))?;
    let address =
        world.kubectl(&["get", "pod", "--namespace", NAMESPACE, SERVER, "--output=jsonpath={.status.podIP}"])?;
    let clients = CLIENTS.map(|(name, on_node)| pod(name, &["ask", address.trim()], on_node));
    world.apply(&clients)?;
    let mut asked = Vec::new();
    for (name, _) in CLIENTS {
        asked.push((name, within(STARTED_WITHIN, || counts(world, name))?));
    }
    // The last thing that a client does has it count what it took, and it counts more than the first time.
    let connections = asked.iter().filter_map(|(_, client)| client.get("connections")).sum::<u64>();
    let served = within(STARTED_WITHIN, || {
        let served = counts(world, SERVER)?;
        if served.get("connections") == Some(&connections) { Ok(served) } else { bail!("the server has {served:?}") }
    })?;
    let expected = expected(&served, &asked).context("a program does not tell all that it counts")?;
    within(SEEN_WITHIN, || {
        let mut wrong = disagreements("Prometheus", &expected, &prometheus(world)?);
        wrong.extend(disagreements("the collector", &expected, &collector(world)));
        if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
    })?;
    let waited = waiting(world, &asked)?;
    world.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    let bytes: f64 =
        expected.iter().filter(|((_, (name, _)), _)| name == "podlens.network.io").map(|(_, value)| value).sum();
    Ok(format!("{} figures of 3 pods exact, {bytes:.0} bytes; {waited}", expected.len()))
}

/// A pod with the program that talks.
fn pod(name: &str, words: &[&str], on_node: bool) -> Value {
    let container = json!({
        "name": CONTAINER, "image": BURN_IMAGE, "imagePullPolicy": "Never", "command": ["/talk"], "args": words,
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "containers": [container], "hostNetwork": on_node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        },
    })
}

/// What a pod's program has said last.
fn counts(world: &World, pod: &str) -> Result<Counts> {
    let log = world.kubectl(&["logs", "--namespace", NAMESPACE, pod])?;
    log.lines().rev().find_map(told).with_context(|| format!("{pod} has not told what it counts: {log}"))
}

/// From a line such as `talk connections=21 flood=200`.
fn told(line: &str) -> Option<Counts> {
    let words = line.strip_prefix("talk ")?.split_whitespace();
    words
        .map(|word| word.split_once('=').and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?))))
        .collect()
}

/// What both observers are to tell.
fn expected(served: &Counts, asked: &[(&str, Counts)]) -> Option<Figures> {
    let mut figures = Figures::new();
    let mut enter = |pod: &str, name: &str, labels: &[(&str, &str)], count: u64| {
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        figures.insert((pod.to_owned(), (name.to_owned(), labels)), count as f64);
    };
    let mut lost = 0;
    for (pod, counts) in asked.iter().map(|(pod, counts)| (*pod, counts)).chain([(SERVER, served)]) {
        let count = |name: &str| counts.get(name).copied();
        for (direction, end) in [("transmit", "sent"), ("receive", "taken")] {
            for protocol in ["tcp", "udp"] {
                let labels = [("direction", direction), ("protocol", protocol)];
                enter(pod, "podlens.network.io", &labels, count(&format!("{protocol}_{end}"))?);
            }
            enter(pod, "podlens.udp.datagrams", &[("direction", direction)], count(&format!("datagrams_{end}"))?);
        }
        let event = if pod == SERVER { "accepted" } else { "opened" };
        for event in [event, "closed"] {
            enter(pod, "podlens.tcp.connections", &[("event", event)], count("connections")?);
        }
        if pod == SERVER {
            lost -= i64::try_from(count("datagrams_taken")?).ok()?;
        } else {
            lost += i64::try_from(count("datagrams_sent")?).ok()?;
            for result in ["ok", "nxdomain"] {
                enter(pod, "podlens.dns.lookup", &[("result", result)], count(result)?);
            }
        }
    }
    let lost = u64::try_from(lost).ok()?;
    enter(SERVER, "podlens.udp.errors", &[("reason", "receive_buffer")], lost);
    enter(SERVER, "podlens.network.drops", &[("reason", "socket_rcvbuff")], lost);
    Some(figures)
}

fn disagreements(observer: &str, expected: &Figures, seen: &Figures) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((pod, figure), value) in expected {
        let found = seen.get(&(pod.clone(), figure.clone()));
        if found != Some(value) {
            wrong.push(format!("{observer} has {found:?} of {pod} {figure:?}, which counts {value}"));
        }
    }
    for ((pod, figure), value) in seen {
        if *value != 0.0
            && !is_usual_drop(pod, figure, *value, expected)
            && !expected.contains_key(&(pod.clone(), figure.clone()))
        {
            wrong.push(format!("{observer} has {value} of {pod} {figure:?}, which counts none"));
        }
    }
    wrong
}

/// TCP drops what comes twice. The server closes each connection first, so its socket may drop the other side's end.
fn is_usual_drop(pod: &str, (name, labels): &Figure, value: f64, expected: &Figures) -> bool {
    let Some(reason) = labels.get("reason") else { return false };
    let closed = expected.iter().find_map(|((of, (name, labels)), count)| {
        let is_closed = name == "podlens.tcp.connections" && labels.get("event").is_some_and(|event| event == "closed");
        (of == pod && is_closed).then_some(*count)
    });
    name == "podlens.network.drops"
        && (["tcp_old_data", "tcp_old_sequence"].contains(&reason.as_str())
            || pod == SERVER && reason == "queue_purge" && closed.is_some_and(|closed| value <= closed))
}

fn prometheus(world: &World) -> Result<Figures> {
    let names = METRICS.map(|(name, _)| name).join("|");
    let series = world
        .prometheus
        .now(&format!("{{__name__=~\"{names}\",namespace=\"{NAMESPACE}\",container=\"{CONTAINER}\"}}"))?;
    let figure = |one: &crate::e2e::prometheus::Series| {
        let (_, name) = METRICS.iter().find(|(name, _)| *name == one.label("__name__"))?;
        let labels = LABELS.into_iter().filter(|label| !one.label(label).is_empty());
        let labels = labels.map(|label| (label.to_owned(), one.label(label).to_owned())).collect();
        let (_, value) = one.samples.last()?;
        Some(((one.label("pod").to_owned(), ((*name).to_owned(), labels)), *value))
    };
    Ok(series.iter().filter_map(figure).collect())
}

fn collector(world: &World) -> Figures {
    let received = world.collector.received();
    let mut figures = Figures::new();
    for told in received.told().values() {
        for name in told.names.iter().filter(|name| name.namespace == NAMESPACE && name.container == CONTAINER) {
            let of_pod = told.network.iter().filter(|((name, _), _)| METRICS.iter().any(|(_, known)| known == name));
            figures.extend(of_pod.map(|(figure, value)| ((name.pod.clone(), figure.clone()), *value)));
        }
    }
    figures
}

/// How long queries waited by Prometheus, against what their programs have measured.
fn waiting(world: &World, asked: &[(&str, Counts)]) -> Result<String> {
    const MORE_OR_LESS: f64 = 0.1;
    let selector = format!("podlens_dns_lookup_seconds_sum{{namespace=\"{NAMESPACE}\",container=\"{CONTAINER}\"}}");
    // A scrape that is late leaves none until the next one.
    let series = within(SEEN_WITHIN, || match world.prometheus.now(&format!("sum by (pod) ({selector})"))? {
        series if series.len() >= asked.len() => Ok(series),
        series => bail!("Prometheus has times of {} pods", series.len()),
    })?;
    let mut shown = Vec::new();
    for (pod, counts) in asked {
        let measured = counts.get("waited_us").copied().unwrap_or_default() as f64 / 1e6;
        let found = series.iter().find(|one| one.label("pod") == *pod).and_then(|one| one.samples.last());
        let (_, found) = found.with_context(|| format!("Prometheus has no times of {pod}"))?;
        if (found - measured).abs() > measured * MORE_OR_LESS {
            bail!("queries of {pod} waited {found:.3} s, by its own clock {measured:.3} s");
        }
        shown.push(format!("queries of {pod} waited {found:.3} s, by its own clock {measured:.3} s"));
    }
    Ok(shown.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Counts, SERVER, disagreements, expected, told};

    fn counts(datagrams_sent: u64, datagrams_taken: u64) -> Counts {
        let names =
            "connections=2 tcp_sent=10 tcp_taken=20 udp_sent=30 udp_taken=40 ok=5 nxdomain=6 flood=0 waited_us=7";
        told(&format!("talk {names} datagrams_sent={datagrams_sent} datagrams_taken={datagrams_taken}")).unwrap()
    }

    #[test]
    fn what_a_client_sent_and_the_server_did_not_take_is_lost() {
        let figures = expected(&counts(3, 8), &[("client", counts(12, 3)), ("other", counts(6, 3))]).unwrap();
        let lost: Vec<f64> = figures
            .iter()
            .filter(|((pod, (_, labels)), _)| pod == SERVER && labels.contains_key("reason"))
            .map(|(_, count)| *count)
            .collect();
        assert_eq!(lost, [10.0, 10.0]);
        assert_eq!(figures.len(), 2 * (6 + 2 + 2) + 6 + 2 + 2);
        assert_eq!(expected(&counts(0, 9), &[("client", counts(8, 0))]), None, "more than were sent");
    }

    #[test]
    fn what_is_missing_what_differs_and_what_nobody_did_is_told() {
        let right = expected(&counts(3, 3), &[("client", counts(3, 3))]).unwrap();
        assert_eq!(disagreements("x", &right, &right), Vec::<String>::new());
        let mut wrong = right.clone();
        let (first, last) = (right.keys().next().unwrap(), right.keys().next_back().unwrap());
        wrong.remove(first);
        wrong.insert(last.clone(), 99.0);
        wrong.insert(("stranger".to_owned(), last.1.clone()), 1.0);
        wrong.insert(("silent".to_owned(), last.1.clone()), 0.0);
        assert_eq!(disagreements("x", &right, &wrong).len(), 3);
    }

    #[test]
    fn only_a_programs_own_line_tells_counts() {
        assert_eq!(told("talk a=1 b=2").map(|counts| counts.len()), Some(2));
        for line in ["", "talk a=x", "talks a=1", "burn own=3 cgroup=4"] {
            assert_eq!(told(line), None, "{line}");
        }
    }
}
