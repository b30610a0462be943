//! The list of checks. Called by [`super::run`].

mod chart;
mod fleet;
mod fleet_cost;
mod fleet_reasons;
mod fleet_watched;
mod names;
mod network;
mod outage;
mod rights;
mod sources;
mod tls;
mod workloads;

use anyhow::Result;

use super::world::World;

/// One check.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// What holds if it passes.
    pub(super) claim: &'static str,
    /// The others cannot do without it.
    pub(super) needed: bool,
    /// What was found, in a few words.
    pub(super) run: fn(&mut World) -> Result<String>,
}

const fn check(name: &'static str, claim: &'static str, run: fn(&mut World) -> Result<String>) -> Check {
    Check { name, claim, needed: false, run }
}

const fn needed(name: &'static str, claim: &'static str, run: fn(&mut World) -> Result<String>) -> Check {
    Check { needed: true, ..check(name, claim, run) }
}

/// In the order in which they run.
pub(super) const ALL: &[Check] = &[
    needed("install", "helm installs the chart with its defaults and the agent gets ready", chart::install),
    check("rights", "the agent holds exactly two capabilities", rights::held),
    needed(
        "workloads",
        "every kind of pod has its own name, workload and amount of CPU with both observers",
        workloads::every_kind,
    ),
    check("short-job", "a job of 100 ms has its own name and all of its CPU time", workloads::short_job),
    check("api-load", "the agent asks the API server for one list and one watch and nothing else", sources::api_load),
    check(
        "restart",
        "after a restart of the agent all names are back and new values are whole",
        outage::agent_restarts,
    ),
    check(
        "api-outage",
        "while the API server is dead nothing is lost, and names that were missing come by themselves",
        outage::api_server_dies,
    ),
    check(
        "restart-in-outage",
        "an agent that starts while the API server is dead measures, and renames without doubling",
        outage::agent_starts_without_api,
    ),
    check(
        "bundles",
        "the runtime's annotations name every container with no right at the API server",
        sources::bundles,
    ),
    check(
        "bundles-in-outage",
        "with annotations at hand even an agent that starts without the API server names every container",
        sources::bundles_in_outage,
    ),
    check("kubelet", "the kubelet names every container, with the one right that it asks for", sources::kubelet),
    check(
        "node-address",
        "an agent pushes to the collector at the address of its node, in brackets with IPv4 too",
        chart::pushes_to_its_node,
    ),
    check(
        "network",
        "what pods send, receive, ask and lose is what their programs count, with both observers, in their own network and in the node's",
        network::talks,
    ),
    check("helm-test", "helm test passes, and fails where no agent is", chart::helm_test),
    check(
        "capabilities",
        "without a capability the agent serves and says what is missing, and is not restarted",
        rights::missing,
    ),
    check(
        "fleet-placement",
        "the nodes that should have a pod of a DaemonSet are those for which its controller makes one",
        fleet::placement,
    ),
    check(
        "fleet-watched",
        "the chart's fleet tells why within 2 minutes of helm install, by one replica, and notices an end within 5 s",
        fleet_watched::first_why,
    ),
    check(
        "fleet-reasons",
        "each reason why a node lacks its pod is a metric and an event by the chart's fleet, and its end within 5 s",
        fleet_reasons::reasons,
    ),
    check(
        "fleet-roll-outs",
        "a roll-out that a bad image holds up is told from one that rolls and from one that waits for somebody",
        fleet_watched::roll_outs,
    ),
    check(
        "fleet-cost",
        "what others waited for a DaemonSet is the same in the metric, the rule, the dashboard and the table",
        fleet_cost::waited_for,
    ),
    check(
        "fleet-web",
        "the chart's fleet serves with the agents' web configuration, and its probes get an answer",
        fleet_watched::serves_with_credentials,
    ),
    check(
        "tls",
        "agents and fleet serve with certificates to who has one, a new certificate needs no restart, and a wrong one is an alert",
        tls::demanded,
    ),
    check("uninstall", "helm uninstall leaves no object and no kernel program behind", chart::uninstall),
];
