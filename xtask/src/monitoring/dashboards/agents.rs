//! The agents themselves: do they measure, what do they lose, what do they cost.

use super::{
    CLUSTER,
    build::{Dashboard, Panel, Unit, Variable},
    quantile, rate, top,
};

/// Which agent: its node, where the scrape has it, and its address.
const AGENT: &str = "{{node}} {{instance}}";
const HERE: &str = "cluster=~\"$cluster\", instance=~\"$instance\"";

pub(super) fn dashboard() -> Dashboard {
    let of = "podlens_build_info{cluster=~\"$cluster\"}";
    Dashboard {
        name: "agents",
        title: "Agents",
        about: "podlens about itself: the state of its collectors, its losses, whether it reaches the source of names and the receiver of its values, and its cost.",
        variables: vec![CLUSTER, Variable { label: "instance", of, single: false }],
        rows: vec![("State", state()), ("What is missing", losses()), ("Delivery", delivery()), ("Cost", cost())],
    }
}

fn of(metric: &str, more: &str) -> String {
    format!("{metric}{{{HERE}{more}}}")
}

fn state() -> Vec<Panel> {
    vec![
        Panel::number(
            "Agents by version",
            Unit::NUMBER,
            format!(
                "count by (version) ({} and on (cluster, instance) {})",
                of("podlens_build_info", ""),
                // podlens fleet has none.
                of("podlens_sweep_seconds", "")
            ),
            "{{version}}",
        )
        .about("How many answer.")
        .wide(4),
        Panel::graph(
            "Collectors that do not run",
            Unit::NUMBER,
            vec![(
                format!(
                    "sum by (collector, state) ({}) > 0",
                    of("podlens_collector_state", ", state=~\"degraded|unsupported|failed\"")
                ),
                "{{collector}} {{state}}",
            )],
        )
        .about("Number of agents. `podlens check` on the node says why; a degraded collector measures, but not everything.")
        .or_nothing("All run.")
        .wide(10),
        Panel::graph(
            "Pods known by name",
            Unit::NUMBER,
            vec![
                (format!("sum ({})", of("podlens_names_pods", "")), "pods"),
                (format!("count ({} == 0)", of("podlens_names_synced", "")), "agents whose source of names is away"),
            ],
        )
        .about("According to the API server or the kubelet.")
        .or_nothing("There is no source of names.")
        .wide(10),
    ]
}

fn losses() -> Vec<Panel> {
    let cpu = rate(&of("podlens_cpu_seconds_total", ""), "node, instance");
    let nobodys = rate(&of("podlens_cpu_seconds_total", ", unit=\"unattributed\""), "node, instance");
    // The agent's own metrics have a node only where the scrape gives them one.
    let unseen = rate(&of("podlens_cpu_unseen_seconds_total", ""), "instance");
    vec![
        Panel::graph(
            "Lost",
            Unit::PER_SECOND,
            vec![(
                format!("{} > 0", rate(&of("podlens_lost_total", ""), "collector, reason")),
                "{{collector}} {{reason}}",
            )],
        )
        .about("Cases in which podlens could not count, name or report something, by reason. docs/troubleshooting.md has a table of the reasons.")
        .or_nothing("Nothing was lost."),
        Panel::graph(
            "CPU time charged to no pod or unit",
            Unit::SHARE,
            vec![(top(&format!("(({nobodys} or 0 * {cpu}) + on (instance) group_left () {unseen}) / {cpu}")), AGENT)],
        )
        .about("Unattributed and unseen, as a share of all. podlens promises less than 1 %."),
        Panel::graph(
            "Slots in use",
            Unit::SHARE,
            vec![(
                top(&format!(
                    "1 - sum by (node, instance) ({}) / sum by (node, instance) ({})",
                    of("podlens_slots", ", state=\"free\""),
                    of("podlens_slots", "")
                )),
                AGENT,
            )],
        )
        .about("At 100 % new cgroups are unattributed; raise `slots`."),
        Panel::graph(
            "Gone, and not delivered yet",
            Unit::NUMBER,
            vec![(top(&format!("sum by (node, instance) ({})", of("podlens_gone_entities", ""))), AGENT)],
        )
        .about("Pods' containers and units that ended and wait for their last scrape or push."),
    ]
}

fn delivery() -> Vec<Panel> {
    let scrape = of("podlens_scrape_seconds", "");
    vec![
        Panel::graph(
            "Time for a page of metrics",
            Unit::SECONDS,
            vec![quantile(0.5, "half are below", &scrape, ""), quantile(0.99, "99 % are below", &scrape, "")],
        )
        .about("From the request to the answer.")
        .wide(8),
        Panel::graph(
            "OTLP points",
            Unit::PER_SECOND,
            vec![(rate(&of("podlens_otlp_points_total", ""), "result"), "{{result}}")],
        )
        .about("Points that are dropped or rejected are missing at the receiver for good.")
        .or_nothing("There is no OTLP endpoint.")
        .wide(8),
        Panel::graph(
            "Requests for names",
            Unit::PER_SECOND,
            vec![(
                format!("{} > 0", rate(&of("podlens_names_requests_total", ""), "verb, result")),
                "{{verb}} {{result}}",
            )],
        )
        .about("To the API server or the kubelet. A watch is one request for many minutes.")
        .or_nothing("None was made, or there is no source of names.")
        .wide(8),
    ]
}

fn cost() -> Vec<Panel> {
    // The agent's own process, which every scrape tells of under the same names as other programs: podlens' are those that have
    // series of its own.
    let own = |series: &str| {
        format!(
            "sum by (cluster, node, instance) ({series} and on (cluster, job, instance) {})",
            of("podlens_build_info", "")
        )
    };
    vec![
        Panel::graph(
            "CPU",
            Unit::CPUS,
            vec![(
                top(&own(&format!("rate({}[10m])", of("process_cpu_seconds_total", "")))),
                AGENT,
            )],
        )
        .about("CPU time of the daemon, over 10 minutes, since its value has whole seconds; the cost of the kernel programs counts for the tasks that they measure.")
        .wide(8),
        Panel::graph(
            "Memory",
            Unit::BYTES,
            vec![(
                top(&own(&of("process_resident_memory_bytes", ""))),
                AGENT,
            )],
        )
        .about("Resident.")
        .wide(8),
        Panel::graph(
            "Time of a sweep",
            Unit::SECONDS,
            vec![(top(&format!("sum by (node, instance) ({})", of("podlens_sweep_seconds", ""))), AGENT)],
        )
        .about("One reading of all values.")
        .wide(8),
    ]
}
