//! What must hold of the rendered chart for the values, names and versions that users have: the list, and who runs it.
//! No case needs a cluster; one needs a real Prometheus. Called by [`super`].

mod fleet;
mod monitoring;
mod names;
mod pods;
mod prometheus;
mod values;

use anyhow::{Result, bail};

use super::helm::{Helm, Objects, Request};

/// What a case may use.
pub(super) struct Context<'a> {
    pub(super) helm: &'a Helm,
    /// The text of values.yaml.
    pub(super) values: &'a str,
}

struct Case {
    /// A sentence that is true if it passes.
    name: &'static str,
    run: fn(&Context<'_>) -> Result<()>,
}

const fn case(name: &'static str, run: fn(&Context<'_>) -> Result<()>) -> Case {
    Case { name, run }
}

const CASES: &[Case] = &[
    case("null in the place of any value means its default or, of what can be removed, nothing", values::nulls),
    case("the values of an older chart render, with defaults for what they lack", values::older),
    case("a value of a wrong shape is refused with its place and meets no template", values::shapes),
    case("what would have no effect is refused with a sentence that names it", values::refused),
    case("the notes say that nothing collects the metrics where that is so", values::notes),
    case("text that looks like a number reaches podlens as written or is refused", values::numbers),
    case("every release and namespace gives valid names and labels", names::every_release),
    case("the labels that find the pods are theirs alone, and other labels can be replaced", names::labels),
    case("annotations of the user stand over the chart's, once", names::annotations),
    case("the agent listens on every address of the node, or on the one that is asked for", pods::addresses),
    case("the kubelet's probes get an answer whatever the web configuration asks for", pods::probes),
    case("nodes without a kernel of their own are left out, whatever affinity the user has", pods::virtual_nodes),
    case("seccomp and AppArmor profiles are those that the user names, on every Kubernetes", pods::profiles),
    case("the bundles of every runtime are where the agent looks for them", pods::bundles),
    case("no field is newer than the Kubernetes that is rendered for", pods::versions),
    case("SecurityContextConstraints allow what the DaemonSet asks for", pods::security_context_constraints),
    case(
        "the fleet may list and watch and nothing else, holds no capability, and its pods are no agents",
        fleet::least,
    ),
    case("the fleet serves with the certificates and credentials of the agents", fleet::serves_as_agents_do),
    case("rules and dashboards are the files of the same content", monitoring::rules_and_dashboards),
    case("Prometheus charges no unit of the node to a pod, and each container to its own", prometheus::monitors),
];

/// Runs all cases and names every one that fails.
pub(super) fn run(helm: &Helm, values: &str) -> Result<()> {
    let context = Context { helm, values };
    let mut failures = Vec::new();
    for case in CASES {
        if let Err(error) = (case.run)(&context) {
            failures.push(format!("not so: {}\n  {error:#}", case.name));
        }
    }
    if !failures.is_empty() {
        bail!("{} of {} cases of the chart fail\n{}", failures.len(), CASES.len(), failures.join("\n"));
    }
    println!("the chart passes {} cases", CASES.len());
    Ok(())
}

impl Context<'_> {
    /// The objects with these values.
    pub(super) fn objects(&self, values: &str) -> Result<Objects> {
        self.helm.objects(&Request { values, ..Request::DEFAULT })
    }
}

/// Fails with both sides, unless they are the same.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<()> {
    if found != wanted {
        bail!("{what} is {found:?}, not {wanted:?}");
    }
    Ok(())
}
