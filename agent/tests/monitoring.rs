//! Rules, alerts and dashboards (deploy/alerts, deploy/dashboards) against what podlens serves: they name metrics and labels
//! that there are, and a real Prometheus that scrapes a real agent has an answer to each of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod fleet_parts;
mod monitoring_parts;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use common::{Agent, skip};
use fleet_parts::{DAEMON_SETS, EVENTS, NODES, PODS, REVISIONS, Replica, bad_image, cluster, pod_uid, ready, revision};
use monitoring_parts::{DASHBOARDS, LACKS, Node, RULES, file, prometheus, target};
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
    dashboards::{Dashboard, Source, list, text},
    kubernetes::{Faults, FleetServer, Objects},
};

/// What the scrape adds, or Prometheus for several clusters.
const OF_SCRAPES: &[&str] = &["cluster", "job", "instance", "node", "namespace", "pod", "container"];
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

/// Each dashboard by the name of its file, with these values of variables: of that of one pod, and of the others.
fn dashboards(of_pod: &[(&str, &str)], of_others: &[(&str, &str)]) -> Vec<(String, Dashboard)> {
    let mut files: Vec<PathBuf> = fs::read_dir(file(DASHBOARDS)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let values = if name == "pod" { of_pod } else { of_others };
        let dashboard = Dashboard::read(&fs::read_to_string(path).unwrap(), values, WINDOW);
        (name, dashboard.unwrap_or_else(|fault| panic!("{}: {fault}", path.display())))
    };
    files.iter().map(read).collect()
}

/// The queries of all panels and variables. Those of the dashboard of one pod have their values here, others match everything.
fn asked_by_dashboards(values: &[(&str, &str)]) -> Vec<Asked> {
    let mut all = Vec::new();
    for (name, dashboard) in dashboards(values, &[]) {
        for variable in dashboard.variables {
            let label = variable.label;
            let nothing = (label == "cluster").then(|| "one cluster alone needs no label".to_owned());
            let expression = format!("count by ({label}) ({})", variable.series);
            all.push(Asked { place: format!("{name}, variable {label}"), expression, nothing });
        }
        for panel in dashboard.panels.into_iter().filter(|panel| panel.kind != "row") {
            let place = format!("{name}, {}", panel.title);
            assert!(!panel.about.is_empty(), "{place}: says nothing");
            for target in panel.targets {
                let nothing = panel.nothing.clone();
                all.push(Asked { place: place.clone(), expression: target.expression, nothing });
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

/// Over which rates are taken: longer than the 10 s from one walk through memory and sockets to the next.
const WINDOW: &str = "15s";
/// Two of those, in which what has just begun is as long within one as what was there before.
const ANSWERED: Duration = Duration::from_secs(30);
/// What some machines do not tell: a part of the expression or of the place, and the collector that is not at work then.
const NOT_EVERYWHERE: &[(&str, Option<&str>)] = &[
    ("pressure", Some("pressure")),
    ("podlens_dns_", Some("dns")),
    ("podlens_network_drops", Some("drops")),
    // Version 1.
    ("podlens_memory_unreclaimable_bytes", None),
    // One cluster alone needs no label.
    ("variable cluster", None),
];
/// How long the loads run at most, and so how long all of it may take.
const LOAD: Duration = Duration::from_mins(3);
/// The variable that names a directory for pictures of the dashboards, whose loads then run for longer.
const DRAW: &str = "PODLENS_TEST_DRAW";
const LOAD_FOR_PICTURES: Duration = Duration::from_secs(130);

/// `DaemonSets` of a cluster with everything that its dashboard tells of, and who watches it.
struct Fleet {
    objects: Arc<Objects>,
    replica: Replica,
    _server: FleetServer,
    began: Instant,
}

impl Fleet {
    fn start() -> Self {
        let objects = cluster(6, 4);
        objects.set_faults(Faults { forbidden: [EVENTS.to_owned()].into(), ..Faults::default() });
        let server = FleetServer::start(&objects);
        let replica = Replica::start(&server, "one", &[("PODLENS_FLEET_LACKING_SERIES", "2")]);
        // One that no pod tolerates.
        let mut tainted = fleet_parts::node(6);
        tainted["spec"] = json!({ "taints": [{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }] });
        objects.put(NODES, tainted);
        // A roll-out that is stuck, and one that is under way.
        for (daemon_set, status) in [(0, bad_image()), (1, ready())] {
            objects.put(REVISIONS, revision(daemon_set, 2));
            objects.delete(PODS, &pod_uid(daemon_set, 3, 1));
            objects.put(PODS, fleet_parts::pod(daemon_set, 3, 2, &status));
        }
        // Pods that lack on several nodes.
        for node in [1, 2, 4] {
            objects.put(PODS, fleet_parts::pod(2, node, 1, &bad_image()));
        }
        objects.delete(PODS, &pod_uid(3, 5, 1));
        Self { objects, replica, _server: server, began: Instant::now() }
    }

    /// Now and then an object makes no sense, and the Lease cannot be renewed for a moment.
    fn step(&self, number: u32) {
        self.objects.put_odd(DAEMON_SETS, "odd", &json!({ "metadata": { "uid": "odd" }, "spec": number }));
        // Longer than between two renewals, and shorter than what the holder has left then.
        let no_leases = (5_000..9_500).contains(&(self.began.elapsed().as_millis() % 16_000));
        self.objects.set_faults(Faults { forbidden: [EVENTS.to_owned()].into(), no_leases, ..Faults::default() });
    }
}

#[test]
fn a_prometheus_with_the_rules_answers_every_panel_and_the_costs_are_the_sums_of_what_was_measured() {
    let Some(node) = Node::start(&[]) else { return skip(LACKS) };
    let fleet = Fleet::start();
    // An agent that may load nothing and asks nobody for names.
    let away = tempfile::tempdir().unwrap();
    let nobody = testkit::kubernetes::kubeconfig(testkit::free_address(), away.path(), &json!({}));
    let under = ["setpriv", "--no-new-privs", "--bounding-set=-all"];
    let powerless = Agent::start_under(&under, &[("PODLENS_KUBERNETES_KUBECONFIG", nobody.to_str().unwrap())]);
    let prometheus = prometheus(
        &file(RULES).canonicalize().unwrap(),
        &[
            target("test-node", node.agent.address()),
            target("other-node", powerless.address()),
            target("fleet", fleet.replica.address()),
        ],
    );
    let not_here = not_here(&node.agent);
    let is_not_here =
        |asked: &Asked| not_here.iter().any(|part| asked.expression.contains(part) || asked.place.contains(part));
    let directory = std::env::var_os(DRAW).map(PathBuf::from);
    let load = if directory.is_some() { LOAD_FOR_PICTURES } else { LOAD };
    let mut busy = node.set_to_work(load);

    let of_rules = rules();
    let records = of_rules.iter().filter(|rule| rule.get("record").is_some());
    let recorded = records.map(|rule| {
        let expression = text(rule, "/record").to_owned();
        Asked { place: "rules".to_owned(), expression, nothing: None }
    });
    let mut open: Vec<Asked> = asked_by_dashboards(&[("namespace", "shop"), ("pod", "web-0")]);
    // Pods for which the panels of one have something to say.
    let of_report = asked_by_dashboards(&[("namespace", "batch"), ("pod", "report-1")]);
    let mut of_report: BTreeMap<String, String> =
        open.iter().zip(of_report).map(|(asked, other)| (asked.expression.clone(), other.expression)).collect();
    open.extend(recorded);
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() + Duration::from_secs(2) < load && (!open.is_empty() || directory.is_some()) {
        busy.step();
        fleet.step(number);
        match number % 12 {
            3 => busy.kill_one(),
            6 => busy.break_off(),
            _ => {}
        }
        number += 1;
        let answered = |expression: &str, place: &str| {
            let answer = prometheus.query(expression);
            !answer.unwrap_or_else(|error| panic!("{place}: {expression}: {error}")).is_empty()
        };
        open.retain(|asked| {
            let other = of_report.entry(asked.expression.clone()).or_insert_with(|| asked.expression.clone());
            !answered(&asked.expression, &asked.place) && !answered(other, &asked.place)
        });
        if open.iter().all(is_not_here) && directory.is_none() {
            break;
        }
        thread::sleep(Duration::from_millis(500));
    }
    println!("after {:.0} s and {number} steps these have no answer:", began.elapsed().as_secs_f64());
    for asked in &open {
        println!("  {}: {} ({:?})", asked.place, asked.expression, asked.nothing);
    }
    if let Some(directory) = directory {
        drawn(&prometheus, &directory, began.elapsed());
    }
    assert_costs(&prometheus);
    assert_culprits_add_up(&prometheus);
    for asked in asked_by_rules() {
        prometheus.query(&asked.expression).unwrap_or_else(|error| panic!("{}: {error}", asked.place));
    }
    assert_eq!(prometheus.complaints(), Vec::<String>::new());
    let unanswered: Vec<&Asked> = open.iter().filter(|asked| !is_not_here(asked)).collect();
    assert!(unanswered.is_empty(), "{unanswered:#?}");
}

/// The parts of expressions and places that this machine need not have an answer to.
fn not_here(agent: &Agent) -> Vec<&'static str> {
    let page = agent.metrics();
    let is_at_work = |collector: &str| {
        page.count("podlens_collector_state", &[("collector", collector), ("state", "unsupported")]) == Some(0)
    };
    let lacking = NOT_EVERYWHERE.iter().filter(|(_, collector)| !collector.is_some_and(is_at_work));
    lacking.map(|(part, _)| *part).collect()
}

/// Draws each dashboard with what there is now.
fn drawn(prometheus: &Prometheus, directory: &Path, time: Duration) {
    let until = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let source = Source { address: prometheus.address(), until, seconds: time.as_secs_f64(), step: 1.0 };
    fs::create_dir_all(directory).unwrap();
    let of_others = [("namespace", "shop|batch|kube-system|fleet")];
    for (name, dashboard) in dashboards(&[("namespace", "shop"), ("pod", "web-0")], &of_others) {
        let picture = dashboard.draw(&source).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let path = directory.join(format!("{name}.svg"));
        fs::write(&path, picture.svg).unwrap();
        println!("{}; empty: {:?}", path.display(), picture.empty);
    }
}

/// What rules say of costs is what was measured, at the moment of each rule.
fn assert_costs(prometheus: &Prometheus) {
    // A scrape that was not answered in time has none at its moment.
    let one = |expression: &str| prometheus.wait_for(expression, ANSWERED, |points| points.len() == 1)[0].value;
    for (rule, measured) in [
        (
            "podlens:workload_cpu_wait_caused:tasks{workload=\"log\", workload_type=\"daemonset\"}",
            "podlens_cpu_wait_inflicted_seconds_total{namespace=\"kube-system\", pod=\"log-1\"}[5m]",
        ),
        (
            "podlens:workload_cpu_wait_suffered:tasks{workload=\"web\"}",
            "podlens_cpu_wait_seconds_total{pod=\"web-0\", cause=~\"neighbor|system\"}[5m]",
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
    // Who made others wait knows it whether or not a victim names it.
    let [named, inflicted] = [
        "podlens_cpu_wait_caused_seconds_total{culprit_pod=\"log-1\"}",
        "podlens_cpu_wait_inflicted_seconds_total{pod=\"log-1\"}",
    ]
    .map(|counters| one(&format!("sum({counters} @ {moment:.3})")));
    println!("by name log-1 caused {named} s, inflicted {inflicted} s");
    assert!(named > 0.1 && inflicted > named * (1.0 - 1e-9), "{named} and {inflicted}");
}

/// Who delayed whom adds up to what was lost to others, with what the agent tells by default.
fn assert_culprits_add_up(prometheus: &Prometheus) {
    let lost =
        |of: &str| format!("sum(rate(podlens_cpu_wait_seconds_total{{{of}cause=~\"neighbor|system\"}}[{WINDOW}]))");
    let of_web = lost("namespace=\"shop\", pod=\"web-0\", ");
    let of_node = lost("node=~\".*\", ");
    let mut compared = Vec::new();
    for (name, dashboard) in dashboards(&[("namespace", "shop"), ("pod", "web-0")], &[]) {
        for panel in dashboard.panels {
            let lost = match &*panel.title {
                "For whom it waits" => &of_web,
                "Who makes others wait" | "Culprits" | "Victim and culprit" => &of_node,
                _ => continue,
            };
            // One question, so that all is of the same moment.
            let shown: Vec<String> =
                panel.targets.iter().map(|target| format!("(sum({}) or vector(0))", target.expression)).collect();
            let named = &panel.targets[0].expression;
            // A culprit's series that begins within the window has a larger rate there than the part of its victim's that it is.
            let share = format!("({}) / {lost}", shown.join(" + "));
            let shares = prometheus.wait_for(&share, ANSWERED, |points| {
                points.first().is_some_and(|share| (share.value - 1.0).abs() < 1e-6)
            });
            let others = prometheus.wait_for(&format!("count({named})"), ANSWERED, |points| !points.is_empty());
            println!("{name}, {}: {shares:?} of what was lost to others, {others:?} by name", panel.title);
            assert!(others[0].value >= 1.0, "{name}, {}: {others:?}", panel.title);
            compared.push(panel.title);
        }
    }
    assert_eq!(compared.len(), 4, "{compared:?}");
}
