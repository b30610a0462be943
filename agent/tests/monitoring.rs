//! Rules, alerts and dashboards (deploy/alerts, deploy/dashboards) against what podlens serves: they name metrics and labels
//! that there are, and a real Prometheus that scrapes a real agent has an answer to each of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Agent, Hog, Load, MemoryCgroup, Network, Peer, TestCgroup, Work, container_id, pod_uid, skip};
use podlens::{
    collectors::ALL,
    fleet::{causes::Reason, kinds::Kind as FleetKind, placement::Exclusion, rollout::Rollout, state::STATES},
    pipeline::facts,
    signal::{ByDefault, Kind, LabelValues, Layout, Metric},
    telemetry::{OwnValues, SelfTelemetry, fleet, metrics},
};
use serde_json::{Value, json};
use testkit::{
    components::Prometheus,
    kubernetes::{ApiServer, Described, State, Status, Store},
};

const RULES: &str = "../deploy/chart/files/alerts/podlens.yaml";
const DASHBOARDS: &str = "../deploy/chart/files/dashboards";
/// The dashboard of what `podlens fleet` tells.
const FLEET: &str = "fleet";
/// What the scrape adds, or Prometheus for several clusters.
const OF_SCRAPES: &[&str] = &["cluster", "job", "instance", "namespace", "pod", "container"];
const OF_ENTITIES: &[&str] = &["node", "namespace", "pod", "container", "unit", "workload", "workload_type"];
const OF_CULPRITS: &[&str] = &["culprit_namespace", "culprit_pod", "culprit_workload", "culprit_unit"];

/// A query, and where it stands.
#[derive(Clone, Debug)]
struct Asked {
    place: String,
    expression: String,
    /// There may be no answer, which means this.
    nothing: Option<String>,
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// All rules, recording ones and alerts.
fn rules() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(file(RULES)).unwrap()).unwrap();
    list(&rules, "/groups").flat_map(|group| list(group, "/rules").cloned().collect::<Vec<_>>()).collect()
}

/// The queries of rules, and those in the texts of alerts.
fn asked_by_rules() -> Vec<Asked> {
    let mut all = Vec::new();
    for rule in rules() {
        let name = [text(&rule, "/record"), text(&rule, "/alert")].concat();
        let expression = text(&rule, "/expr").to_owned();
        all.push(Asked { place: name.clone(), expression, nothing: None });
        for annotation in ["/annotations/summary", "/annotations/description"] {
            // `printf` with a template in backquotes, the values behind it, and `| query`.
            for part in text(&rule, annotation).split("printf `").skip(1) {
                let (template, rest) = part.split_once('`').unwrap();
                if rest.split("}}").next().is_some_and(|rest| rest.trim_end().ends_with("| query")) {
                    // Any value: where a label's are fixed, one that there is not would be a fault.
                    let expression = template.replace("%s", ".*");
                    all.push(Asked { place: format!("{name}, {annotation}"), expression, nothing: None });
                }
            }
        }
    }
    all
}

/// The queries of all panels and variables. `$` and a variable's name stand for its value, which matches everything unless
/// it is given here.
fn asked_by_dashboards(values: &[(&str, &str)]) -> Vec<Asked> {
    let mut all = Vec::new();
    let mut files: Vec<PathBuf> = fs::read_dir(file(DASHBOARDS)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let variables: Vec<&Value> = list(&dashboard, "/templating/list").collect();
        let filled = |expression: &str| {
            let mut expression = expression.replace("$__rate_interval", "30s");
            // The longest first: `$pod` is the beginning of another one.
            let mut names: Vec<&str> = variables.iter().map(|variable| text(variable, "/name")).collect();
            names.sort_by_key(|name| std::cmp::Reverse(name.len()));
            for name in names {
                let value = values.iter().find(|(given, _)| *given == name).map_or(".*", |(_, value)| value);
                expression = expression.replace(&format!("${name}"), value);
            }
            assert!(!expression.contains('$'), "{}: no variable for {expression}", path.display());
            expression
        };
        let dashboard_name = path.file_stem().unwrap().to_str().unwrap();
        for variable in variables.iter().filter(|variable| text(variable, "/type") == "query") {
            let query = text(variable, "/query/query").trim_start_matches("label_values(").trim_end_matches(')');
            let (series, label) = query.rsplit_once(", ").unwrap();
            let place = format!("{dashboard_name}, variable {label}");
            let nothing = match (dashboard_name, label) {
                (_, "cluster") => Some("one cluster alone needs no label".to_owned()),
                (FLEET, _) => Some("podlens fleet does not run".to_owned()),
                _ => None,
            };
            all.push(Asked { place, expression: format!("count by ({label}) ({})", filled(series)), nothing });
        }
        for panel in list(&dashboard, "/panels").filter(|panel| text(panel, "/type") != "row") {
            let place = format!("{dashboard_name}, {}", text(panel, "/title"));
            assert!(!text(panel, "/description").is_empty() || text(panel, "/type") == "stat", "{place}: says nothing");
            let nothing = panel.pointer("/fieldConfig/defaults/noValue").and_then(Value::as_str).map(str::to_owned);
            for target in list(panel, "/targets") {
                let expression = filled(text(target, "/expr"));
                all.push(Asked { place: place.clone(), expression, nothing: nothing.clone() });
            }
        }
    }
    all
}

/// What a series of a name can have for labels, each with its values where those are fixed.
type Labels = BTreeMap<String, Option<BTreeSet<String>>>;

/// Everything that podlens serves by default, by the names of series. What pods request is among it, since kube-state-metrics has
/// that where podlens is not asked for it.
fn served() -> BTreeMap<String, Labels> {
    let open = |names: &[&str]| -> Labels { names.iter().map(|name| ((*name).to_owned(), None)).collect() };
    let mut served: BTreeMap<String, Labels> = BTreeMap::new();
    let mut add = |name: &str, kind: Kind, labels: Labels| {
        let suffixes: &[&str] = if kind == Kind::Histogram { &["", "_bucket", "_count", "_sum"] } else { &[""] };
        for suffix in suffixes {
            let known = served.entry(format!("{name}{suffix}")).or_default();
            for (label, values) in labels.clone() {
                // A metric of two collectors has the values of both.
                let known = known.entry(label).or_insert_with(|| values.clone());
                if let (Some(known), Some(more)) = (known, values) {
                    known.extend(more);
                }
            }
            if *suffix == "_bucket" {
                known.insert("le".to_owned(), None);
            }
        }
    };
    let with = |more: &[&str]| open(&[OF_SCRAPES, OF_ENTITIES, more].concat());
    let of_collectors = ALL.iter().flat_map(|spec| spec.metrics).copied();
    let of_collectors = of_collectors.filter(|metric| metric.by_default != ByDefault::Nothing);
    for metric in of_collectors.chain([&facts::CPU_REQUEST, &facts::MEMORY_REQUEST]) {
        let Metric { name, kind, labels, split, .. } = metric;
        let mut all = with(if split.is_some() { OF_CULPRITS } else { &[] });
        for label in *labels {
            let values = match label.values {
                LabelValues::Fixed(values) => {
                    let values = values.iter().filter(|value| is_by_default(metric, label.name, value));
                    Some(values.map(|value| (*value).to_owned()).collect())
                }
                LabelValues::Kernel(_) => None,
            };
            all.insert(label.name.to_owned(), values);
        }
        add(name, *kind, all);
    }
    add(facts::POD_INFO.name, Kind::Gauge, with(&["uid", "qos", "host_network"]));
    add(facts::CONTAINER_INFO.name, Kind::Gauge, with(&["container_id", "image"]));
    for own in metrics::ALL.iter().chain(fleet::ALL) {
        let mut all = open(OF_SCRAPES);
        for label in own.labels {
            let values: Option<&[&str]> = match label.values {
                OwnValues::Fixed(values) => Some(values),
                OwnValues::FleetKinds => Some(&FleetKind::NAMES),
                OwnValues::FleetStates => Some(&STATES),
                OwnValues::FleetReasons => Some(Reason::NAMES),
                OwnValues::FleetExclusions => Some(&Exclusion::NAMES),
                OwnValues::FleetRollouts => Some(Rollout::NAMES),
                _ => None,
            };
            let values = values.map(|values| values.iter().map(|value| (*value).to_owned()).collect());
            all.insert(label.name.to_owned(), values);
        }
        add(own.name, own.kind, all);
    }
    for family in SelfTelemetry::new("any", None).unwrap().gather_process() {
        add(family.name(), Kind::Gauge, open(OF_SCRAPES));
    }
    add("up", Kind::Gauge, open(OF_SCRAPES));
    served
}

/// The metric can have a series with this value of a label by default.
fn is_by_default(metric: &'static Metric, label: &str, value: &str) -> bool {
    let ByDefault::Only(combinations) = metric.by_default else { return true };
    let layout = Layout::new(&[metric]);
    let column = layout.column(metric).expect("the layout is the metric's");
    combinations.iter().any(|combination| column.values(*combination).any(|of| of == (label, value)))
}

/// What a query names.
#[derive(Default)]
struct Named {
    /// Name, label, kind of the comparison, value.
    matchers: Vec<(String, String, String, String)>,
    metrics: BTreeSet<String>,
    /// Labels by which it groups or joins.
    labels: BTreeSet<String>,
    /// Labels that it makes.
    made: BTreeSet<String>,
}

impl Named {
    /// Of Prometheus' own tree of the query.
    fn enter(&mut self, tree: &Value) {
        let of = |pointer| list(tree, pointer).filter_map(Value::as_str).map(str::to_owned);
        match text(tree, "/type") {
            "vectorSelector" | "matrixSelector" => {
                let name = text(tree, "/name").to_owned();
                let matchers = list(tree, "/matchers").map(|matcher| {
                    let part = |part| text(matcher, part).to_owned();
                    (name.clone(), part("/name"), part("/type"), part("/value"))
                });
                self.matchers.extend(matchers.filter(|(_, label, ..)| label != "__name__"));
                self.metrics.insert(name);
            }
            "aggregation" => self.labels.extend(of("/grouping")),
            "binaryExpr" => self.labels.extend(of("/matching/labels").chain(of("/matching/include"))),
            "call" if text(tree, "/func/name") == "label_replace" => {
                self.made.insert(text(tree, "/args/1/val").to_owned());
            }
            _ => {}
        }
        match tree {
            Value::Object(members) => members.values().for_each(|member| self.enter(member)),
            Value::Array(elements) => elements.iter().for_each(|element| self.enter(element)),
            _ => {}
        }
    }
}

/// What is wrong with a query, if anything.
fn faults(asked: &Asked, named: &Named, served: &BTreeMap<String, Labels>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut add = |fault: String| faults.push(format!("{}: {fault} in {}", asked.place, asked.expression));
    for name in named.metrics.iter().filter(|name| !served.contains_key(*name)) {
        add(format!("there is no metric {name}"));
    }
    for (name, label, comparison, value) in &named.matchers {
        match served.get(name).map(|labels| labels.get(label)) {
            Some(None) => add(format!("{name} has no label {label}")),
            Some(Some(Some(values))) if value != ".*" && !value.is_empty() => {
                let one = value.split('|').filter(|one| comparison.contains('~') || *one == value);
                let unknown: Vec<&str> = one.filter(|one| !values.contains(*one)).collect();
                if !unknown.is_empty() {
                    add(format!("{name} has {label} with {values:?}, and not {unknown:?}"));
                }
            }
            _ => {}
        }
    }
    let labels: BTreeSet<&String> =
        named.metrics.iter().filter_map(|name| served.get(name)).flat_map(BTreeMap::keys).collect();
    for label in named.labels.iter().filter(|label| !labels.contains(label) && !named.made.contains(*label)) {
        add(format!("nothing has a label {label}"));
    }
    faults
}

fn named(prometheus: &Prometheus, expression: &str) -> Named {
    let mut named = Named::default();
    named.enter(&prometheus.parsed(expression).unwrap_or_else(|error| panic!("{expression}: {error}")));
    named
}

#[test]
fn every_expression_names_metrics_labels_and_values_that_there_are() {
    let prometheus = Prometheus::start_configured("scrape_configs: []");
    let mut served = served();
    for rule in rules().iter().filter(|rule| rule.get("record").is_some()) {
        let named = named(&prometheus, text(rule, "/expr"));
        // Not `le` and the like, since no rule keeps them.
        let labels = named.labels.iter().map(|label| (label.clone(), None)).collect();
        served.insert(text(rule, "/record").to_owned(), labels);
    }
    let all: Vec<Asked> = asked_by_rules().into_iter().chain(asked_by_dashboards(&[])).collect();
    assert!(all.len() > 100, "there are {} expressions", all.len());
    let faults: Vec<String> =
        all.iter().flat_map(|asked| faults(asked, &named(&prometheus, &asked.expression), &served)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    let wrong = |expression: &str, fault: &str| {
        let asked = Asked { place: "here".to_owned(), expression: expression.to_owned(), nothing: None };
        let found = self::faults(&asked, &named(&prometheus, expression), &served);
        assert!(found.len() == 1 && found[0].contains(fault), "{expression}: {found:?}");
    };
    wrong("rate(podlens_cpu_second_total[5m])", "no metric podlens_cpu_second_total");
    wrong("podlens_oom_kills_total{scopes=\"node\"}", "no label scopes");
    wrong("podlens_oom_kills_total{scope=~\"node|nodes\"}", "not [\"nodes\"]");
    wrong("sum by (culprit) (podlens_cpu_wait_caused_seconds_total)", "a label culprit");
    wrong("histogram_quantile(0.9, podlens_cpu_seconds_total_bucket)", "no metric podlens_cpu_seconds_total_bucket");
}

/// For which nothing is caused here: the place, and a part of the expression. Each panel says what no answer means.
const NOT_CAUSED: &[(&str, &str)] = &[
    ("agents, Collectors that do not run", ""),
    ("agents, Pods known by name", "podlens_names_synced"),
    ("agents, OTLP points", ""),
    // An agent has no metrics of a fleet.
    ("fleet, variable namespace", ""),
    ("fleet, variable daemonset", ""),
    ("fleet, DaemonSets", ""),
    ("fleet, By reason", ""),
    ("fleet, By DaemonSet", ""),
    ("fleet, Nodes", ""),
    ("fleet, Nodes that should have none, by why", ""),
    ("fleet, Lacking, without a row of their own", ""),
    ("fleet, Under way", ""),
    ("fleet, Nodes that have the newest revision", ""),
    ("fleet, By state", ""),
    ("fleet, Who leads", ""),
    ("fleet, Time since the API server's last word", ""),
    ("fleet, Watches that do not work", ""),
    ("fleet, Requests that fail, and what is left out", ""),
    ("fleet, Objects that are held", ""),
    ("node, Killed for want of memory", ""),
    ("node, Standing still for want of memory", ""),
    ("node, Packets dropped by the kernel", ""),
    // Version 1 does not tell it.
    ("pod, Memory beside request and limit", "podlens_memory_unreclaimable_bytes"),
    ("pod, Standing still for want of memory", ""),
    ("pod, Major page faults and kills", ""),
    ("pod, TCP: what goes wrong", ""),
    // The collector is off unless asked for.
    ("pod, DNS: queries by result", ""),
    ("pod, DNS: time until the answer", ""),
];
/// The same where the directory for temporary files is on no disk, or where the machine counts no pressure.
const NOT_EVERYWHERE: &[&str] = &["disk", "pressure"];
/// How long the loads run, and so how long all of it may take: walks through memory and sockets come every 10 s.
const LOAD: Duration = Duration::from_secs(40);
/// Questions are asked for a little less long.
const ASKED: Duration = Duration::from_secs(38);

/// A pod of a workload, with containers of these numbers.
fn pod(
    namespace: &str,
    controller: (&'static str, &str),
    name: &str,
    uid: u32,
    containers: &[(&str, u32)],
) -> Described {
    let status = |(name, number): &(&str, u32)| Status {
        name: (*name).to_owned(),
        state: State::Running(container_id(*number)),
        ..Status::default()
    };
    Described {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: pod_uid(uid),
        node: "test-node".to_owned(),
        controller: (controller.0, controller.1.to_owned()),
        containers: containers.iter().map(status).collect(),
        ballast_bytes: 0,
    }
}

/// A Prometheus with the rules, which scrapes the agent as the pod that it would be.
fn prometheus(agent: &Agent) -> Prometheus {
    let target = json!({
        "targets": [agent.address().to_string()], "labels": { "namespace": "podlens", "pod": "podlens-x" },
    });
    let configuration = json!({
        "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
        "rule_files": [file(RULES).canonicalize().unwrap()],
        "scrape_configs": [{ "job_name": "podlens", "honor_labels": true, "static_configs": [target] }],
    });
    Prometheus::start_configured(&configuration.to_string())
}

/// Writes a little to the disk of the directory for temporary files, as a process of the cgroup with these directories.
fn written(cgroup: &[PathBuf]) {
    let path = std::env::temp_dir().join(format!("podlens-monitoring-{}", std::process::id()));
    let script = "for one; do echo $$ > \"$one/cgroup.procs\"; done; \
                  exec dd if=/dev/zero of=\"$0\" bs=4k count=16 oflag=dsync status=none";
    let status = Command::new("sh").args(["-c", script]).arg(&path).args(cgroup).status().unwrap();
    assert!(status.success(), "dd writes to {}", path.display());
    fs::remove_file(path).unwrap();
}

/// The directory of another container in the same tree.
fn beside(directory: &Path, uid: &str, number: u32) -> PathBuf {
    directory.ancestors().nth(2).unwrap().join(format!("pod{uid}")).join(container_id(number))
}

#[test]
fn a_prometheus_with_the_rules_answers_every_panel_and_the_costs_are_the_sums_of_what_was_measured() {
    let (log_uid, web_uid) = (pod_uid(1), pod_uid(2));
    let (Some(log), Some(sidecar)) = (MemoryCgroup::container(&log_uid, 1), MemoryCgroup::container(&web_uid, 3))
    else {
        return skip("this machine does not count memory by cgroup");
    };
    let app = TestCgroup::container(&web_uid, 2);
    let log_directories = app.directories().iter().map(|one| beside(one, &log_uid, 1)).collect::<Vec<_>>();
    app.set_quota(50_000, 100_000);
    let store = Arc::new(Store::default());
    store.put(&pod("kube-system", ("DaemonSet", "log"), "log-1", 1, &[("log", 1)]).to_json());
    store.put(&pod("shop", ("StatefulSet", "web"), "web-0", 2, &[("app", 2), ("sidecar", 3)]).to_json());
    let (server, directory) = (ApiServer::start(&store), tempfile::tempdir().unwrap());
    let agent = Agent::start(&[
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_KUBERNETES_KUBECONFIG", server.kubeconfig(directory.path(), &json!({})).to_str().unwrap()),
    ]);
    let prometheus = prometheus(&agent);

    let mut hog = Hog::start(&sidecar, "hog");
    sidecar.limit(64 << 20);
    hog.take(8 << 20);
    let mut loads: Vec<Load> = (0..3).map(|_| Load::start(None, Work::SpinFor(LOAD), Some(0))).collect();
    log.add(loads[0].id());
    sidecar.add(loads[1].id());
    app.add(loads[2].id());
    let mut backend = Peer::start(&app, Network::Own);
    loads.iter_mut().for_each(Load::go);
    let address = backend.serve("127.0.0.1:0");
    let mut client = Peer::start(&app, Network::Of(&backend));

    let of_rules = rules();
    let records: Vec<&Value> = of_rules.iter().filter(|rule| rule.get("record").is_some()).collect();
    let recorded = records.iter().map(|rule| {
        let expression = text(rule, "/record").to_owned();
        let nothing = NOT_EVERYWHERE.iter().find(|what| expression.contains(**what)).map(|what| (*what).to_owned());
        Asked { place: "rules".to_owned(), expression, nothing }
    });
    let mut open: Vec<Asked> = asked_by_dashboards(&[("namespace", "shop"), ("pod", "web-0")]);
    // All but the pod's have every namespace.
    let everywhere = asked_by_dashboards(&[]);
    for (asked, other) in open.iter_mut().zip(everywhere) {
        if !asked.place.starts_with("pod,") {
            *asked = other;
        }
    }
    open.extend(recorded);
    let began = Instant::now();
    while began.elapsed() < ASKED
        && open.iter().any(|asked| asked.nothing.is_none() || asked.expression.contains("disk"))
    {
        client.call(address, 5, 10_000, 10_000);
        written(&app.directories());
        written(&log_directories);
        open.retain(|asked| {
            let answer = prometheus.query(&asked.expression);
            answer.unwrap_or_else(|error| panic!("{}: {}: {error}", asked.place, asked.expression)).is_empty()
        });
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("after {:.0} s these have no answer:", began.elapsed().as_secs_f64());
    for asked in &open {
        println!("  {}: {} ({:?})", asked.place, asked.expression, asked.nothing);
    }
    let unanswered = open.iter().filter(|asked| {
        let mut parts = NOT_CAUSED.iter().filter(|(place, _)| *place == asked.place).map(|(_, part)| part);
        let is_expected = parts.any(|part| asked.expression.contains(part))
            || NOT_EVERYWHERE.iter().any(|what| asked.expression.contains(what))
            || asked.place.ends_with("variable cluster");
        asked.nothing.is_none() || !is_expected
    });
    let unanswered: Vec<&Asked> = unanswered.collect();

    assert_costs(&prometheus);
    for asked in asked_by_rules() {
        prometheus.query(&asked.expression).unwrap_or_else(|error| panic!("{}: {error}", asked.place));
    }
    assert_eq!(prometheus.complaints(), Vec::<String>::new());
    assert!(unanswered.is_empty(), "{unanswered:#?}");
}

/// What rules say of costs is what was measured, at the moment of each rule.
fn assert_costs(prometheus: &Prometheus) {
    let one = |expression: &str| {
        let points = prometheus.query(expression).unwrap();
        assert_eq!(points.len(), 1, "{expression}: {points:?}");
        points[0].value
    };
    for (rule, measured) in [
        (
            "podlens:workload_cpu_wait_caused:tasks{workload=\"log\", workload_type=\"daemonset\"}",
            "podlens_cpu_wait_caused_seconds_total{culprit_namespace=\"kube-system\", culprit_pod=\"log-1\"}[5m]",
        ),
        (
            "podlens:workload_cpu_wait_suffered:tasks{workload=\"web\"}",
            "podlens_cpu_wait_seconds_total{namespace=\"shop\", cause=~\"neighbor|system\"}[5m]",
        ),
        ("podlens:workload_cpu:cores{workload=\"web\"}", "podlens_cpu_seconds_total{pod=\"web-0\"}[5m]"),
    ] {
        let moment = one(&format!("timestamp({rule})"));
        let by_rule = one(&format!("{rule} @ {moment:.3}"));
        let by_metric = one(&format!("sum(rate({measured} @ {moment:.3}))"));
        println!("{rule}: {by_rule}, measured {by_metric}");
        // Seconds of load, as a rate over five minutes.
        assert!(by_rule > 0.001, "{rule} is {by_rule}");
        assert!((by_rule - by_metric).abs() < 1e-9 * by_metric, "{rule} is {by_rule}, measured were {by_metric}");
    }
    // What was suffered is what was caused. As counters: a culprit's series begins with its first wait, which is in no rate.
    let suffered = "podlens_cpu_wait_seconds_total{namespace=\"shop\", cause=~\"neighbor|system\"}";
    let moment = one(&format!("max(timestamp({suffered}))"));
    let [suffered, caused] = [suffered, "podlens_cpu_wait_caused_seconds_total{namespace=\"shop\"}"]
        .map(|counters| one(&format!("sum({counters} @ {moment:.3})")));
    println!("suffered {suffered} s, caused {caused} s");
    assert!(suffered > 0.1 && (suffered - caused).abs() < 1e-9 * suffered, "{suffered} and {caused}");
}
