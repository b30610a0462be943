//! A running agent has the metrics, the labels and the losses that are declared, and no others: docs/metrics.md and the table
//! of losses are made from the declarations alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{Agent, RunStatistics};
use podlens::{
    attribution::kubernetes::REQUESTS,
    collectors::ALL,
    pipeline::{facts, kinds, losses},
    telemetry::{OwnLabel, OwnMetric, OwnValues, metrics},
};
use serde_json::json;
use testkit::{kubernetes::ApiServer, page::Page};

/// Every metric of its own exists: events are told, though nobody takes them, and there is a source of names.
fn start() -> (Agent, ApiServer) {
    let server = ApiServer::start(&Arc::default());
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(&[
        ("PODLENS_COLLECTORS_UDP", "true"),
        ("PODLENS_COLLECTORS_DNS", "true"),
        ("PODLENS_SERIES_LIMIT", "1000000"),
        ("PODLENS_OTLP_ENDPOINT", &format!("http://{}", testkit::free_address())),
        ("PODLENS_KUBERNETES_KUBECONFIG", server.kubeconfig(directory.path(), &json!({})).to_str().unwrap()),
    ]);
    agent.wait_for_metrics("the list of pods", |page| match page.count("podlens_names_pods", &[]) {
        Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    (agent, server)
}

/// The families of the page and their help; those of the process are the library's.
fn families(page: &str) -> BTreeMap<&str, &str> {
    let helps = page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    helps.filter(|(name, _)| !name.starts_with("process_")).collect()
}

fn of_pods() -> BTreeSet<&'static str> {
    let of_collectors = ALL.iter().flat_map(|spec| spec.metrics).map(|metric| metric.name);
    let of_facts = [facts::POD_INFO.name, facts::CONTAINER_INFO.name].into_iter();
    let requests = [&facts::CPU_REQUEST, &facts::MEMORY_REQUEST].map(|metric| metric.name);
    of_collectors.chain(of_facts).chain(requests).collect()
}

fn may_be(label: &OwnLabel, value: &str) -> bool {
    match label.values {
        OwnValues::Fixed(values) => values.contains(&value),
        OwnValues::Collectors => ALL.iter().any(|spec| spec.name == value),
        OwnValues::LossParts => losses().any(|(part, _)| part == value),
        OwnValues::LossReasons => losses().any(|(_, loss)| loss.reason == value),
        OwnValues::Events => kinds().any(|kind| kind.name == value),
        OwnValues::NameSources => REQUESTS.iter().any(|(source, ..)| *source == value),
        OwnValues::NameVerbs => REQUESTS.iter().any(|(_, verbs, _)| verbs.contains(&value)),
        OwnValues::NameResults => REQUESTS.iter().any(|(.., results)| results.contains(&value)),
        OwnValues::FleetKinds
        | OwnValues::FleetStates
        | OwnValues::FleetReasons
        | OwnValues::FleetExclusions
        | OwnValues::FleetRollouts => panic!("{} is no label of an agent", label.name),
        OwnValues::Open => true,
    }
}

#[test]
fn a_running_agent_has_the_metrics_labels_and_losses_that_are_declared_and_no_others() {
    let (agent, _server) = start();
    let text = agent.get("/metrics").unwrap().1;
    let page = Page::parse(&text);

    let found = families(&text);
    for (name, help) in &found {
        let own = metrics::find(name);
        assert!(own.is_some() || of_pods().contains(name), "{name} is not declared");
        assert!(own.is_none_or(|own| own.help == *help), "{name}: {help}");
    }
    for OwnMetric { name, labels, .. } in metrics::ALL {
        assert!(found.contains_key(name), "{name} is declared and not on the page");
        for (_, sample) in page.all(name, &[]).iter().map(|sample| sample.series()) {
            let names: BTreeSet<&str> = sample.keys().map(String::as_str).collect();
            assert_eq!(names, labels.iter().map(|label| label.name).collect(), "{name}");
            let stray = labels.iter().find(|label| !may_be(label, &sample[label.name]));
            assert!(stray.is_none(), "{name}: {stray:?} does not declare {sample:?}");
        }
    }

    // What a collector that does not run here could lose is not counted.
    let runs = |collector: &str| {
        let is_in = |state| page.value("podlens_collector_state", &[("collector", collector), ("state", state)]) > 0.0;
        ALL.iter().all(|spec| spec.name != collector) || is_in("running") || is_in("degraded")
    };
    let declared: BTreeSet<(&str, &str)> =
        losses().filter(|(part, _)| runs(part)).map(|(part, loss)| (part, loss.reason)).collect();
    let lost = page.all("podlens_lost_total", &[]);
    let counted = lost.iter().map(|sample| (sample.label("collector"), sample.label("reason"))).collect();
    assert_eq!(declared, counted);
}

#[test]
fn what_is_rare_is_counted_from_0() {
    let (agent, _server) = start();
    let page = agent.metrics();
    for result in ["sent", "dropped", "rejected"] {
        for name in ["podlens_otlp_points_total", "podlens_otlp_log_records_total"] {
            assert!(page.count(name, &[("result", result)]).is_some(), "{name} {result}");
        }
    }
    assert!(page.count("podlens_otlp_failed_attempts_total", &[]).is_some());
    let nobodys_run = tempfile::tempdir().unwrap();
    let by_annotations = Agent::start(&[
        ("PODLENS_KUBERNETES_SOURCE", "bundle"),
        ("PODLENS_KUBERNETES_BUNDLE_ROOT", nobodys_run.path().to_str().unwrap()),
    ]);
    for (source, page) in [("api", &page), ("bundle", &by_annotations.metrics())] {
        let (_, verbs, results) = REQUESTS.iter().find(|(name, ..)| *name == source).unwrap();
        for (verb, result) in verbs.iter().flat_map(|verb| results.iter().map(move |result| (verb, result))) {
            let labels = [("source", source), ("verb", verb), ("result", result)];
            assert!(page.count("podlens_names_requests_total", &labels).is_some(), "{labels:?}");
        }
    }
    for kind in kinds() {
        assert!(page.count("podlens_events_total", &[("event", kind.name)]).is_some(), "{}", kind.name);
    }
}

/// A sweep that walks itself waits for it.
#[test]
fn walks_are_over_when_a_scrape_comes_at_its_time() {
    // A walk for the collector `cpu` is due every 4 s.
    const GAP: Duration = Duration::from_millis(4500);
    let agent = Agent::start(&[]);
    let _on = RunStatistics::start();
    if RunStatistics::of_loaded(agent.id(), "cpu_walk").is_none() {
        return common::skip("this kernel has no loop for a walk");
    }
    let runs = || RunStatistics::of(agent.id(), "cpu_walk").1;
    let (began, mut last) = (Instant::now(), runs());
    let mut told = Vec::new();
    // New cgroups of others may want a walk of their own, and a busy machine may scrape late.
    for turn in 0..10 {
        thread::sleep((began + GAP * turn).saturating_duration_since(Instant::now()));
        let ahead = runs();
        agent.metrics();
        let after = runs();
        told.push((ahead - last, after - ahead));
        last = after;
        if turn < 3 {
            assert_eq!(told[turn as usize].0, 0, "nothing is expected yet: {told:?}");
        } else if let Some((1.., 0)) = told.last() {
            return;
        }
    }
    panic!("runs before each scrape and while it was made: {told:?}");
}
