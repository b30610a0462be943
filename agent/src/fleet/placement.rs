//! Whether a node should have a pod of a `DaemonSet`, by the rules of the controller that makes those pods. Pure.
//!
//! The controller looks at the template's node name, node selector and required node affinity, and at the node's taints
//! against the template's tolerations and those that it adds itself. It does not look at what is free on the node: that
//! is the scheduler's part, with a pod that exists already.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use super::objects::{Node, Template};

/// What a node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A pod.
    Wanted,
    /// No new pod, but one that is there stays: a taint keeps new ones away.
    Stays(Exclusion),
    /// None.
    Excluded(Exclusion),
}

/// Why a node should have none, the first reason that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// The template names another node.
    NodeName(String),
    /// The template's node selector asks for another value of one label, or of so many.
    Selector(Vec<Label>),
    /// No term of the required node affinity holds; those are the requirements that fail of the term with the fewest.
    Affinity(Vec<String>),
    /// It has a taint that is not tolerated.
    Taint(String),
}

/// A label of a node that is not as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// The value that is asked for.
    pub wanted: String,
    /// What the node has; none if it has no such label.
    pub found: Option<String>,
}

impl Placement {
    /// Why it should have no new one.
    #[must_use]
    pub fn exclusion(self) -> Option<Exclusion> {
        match self {
            Self::Wanted => None,
            Self::Stays(why) | Self::Excluded(why) => Some(why),
        }
    }
}

impl Exclusion {
    /// All that the label `reason` can say.
    pub const NAMES: [&'static str; 4] = ["node_name", "node_selector", "node_affinity", "taint"];

    /// Which of [`Self::NAMES`] it is.
    #[must_use]
    pub fn position(&self) -> u8 {
        match self {
            Self::NodeName(_) => 0,
            Self::Selector(_) => 1,
            Self::Affinity(_) => 2,
            Self::Taint(_) => 3,
        }
    }

    /// For the label `reason`: one of [`Self::NAMES`].
    #[must_use]
    pub fn reason(&self) -> &'static str {
        Self::NAMES.get(usize::from(self.position())).copied().unwrap_or_default()
    }

    /// One requirement less and the node would have a pod: likely a mistake.
    #[must_use]
    pub fn just_misses(&self) -> bool {
        match self {
            Self::Selector(labels) => labels.len() == 1,
            Self::Affinity(requirements) => requirements.len() == 1,
            Self::NodeName(_) | Self::Taint(_) => false,
        }
    }
}

impl std::fmt::Display for Exclusion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NodeName(name) => write!(formatter, "the template names node {name}"),
            Self::Selector(labels) => {
                for (number, Label { name, wanted, found }) in labels.iter().enumerate() {
                    let comma = if number > 0 { ", " } else { "" };
                    match found {
                        Some(found) => write!(formatter, "{comma}label {name} is {found}, not {wanted}")?,
                        None => write!(formatter, "{comma}there is no label {name}={wanted}")?,
                    }
                }
                Ok(())
            }
            Self::Affinity(requirements) if requirements.is_empty() => {
                formatter.write_str("the required node affinity has no term that can hold")
            }
            Self::Affinity(requirements) => write!(formatter, "required is {}", requirements.join(" and ")),
            Self::Taint(taint) => write!(formatter, "taint {taint} is not tolerated"),
        }
    }
}

/// Decides about one node.
#[must_use]
pub fn placement(template: &Template, node: &Node) -> Placement {
    let name = &template.node_name;
    if !name.is_empty() && *name != node.name {
        return Placement::Excluded(Exclusion::NodeName(name.clone()));
    }
    if let Some(exclusion) = by_selector(template, node).or_else(|| by_affinity(template, node)) {
        return Placement::Excluded(exclusion);
    }
    let untolerated = |effects: &[&str]| {
        let taints = node.taints.iter().filter(|taint| effects.contains(&&*taint.effect));
        taints.into_iter().find(|taint| !is_tolerated(template, taint))
    };
    match (untolerated(&["NoExecute"]), untolerated(&["NoSchedule"])) {
        (Some(taint), _) => Placement::Excluded(Exclusion::Taint(text(taint))),
        (None, Some(taint)) => Placement::Stays(Exclusion::Taint(text(taint))),
        (None, None) => Placement::Wanted,
    }
}

fn by_selector(template: &Template, node: &Node) -> Option<Exclusion> {
    let wanted = template.node_selector.iter();
    let lacking = wanted.filter_map(|(name, wanted)| {
        let found = node.labels.get(name);
        (found != Some(wanted)).then(|| Label { name: name.clone(), wanted: wanted.clone(), found: found.cloned() })
    });
    let lacking: Vec<Label> = lacking.collect();
    (!lacking.is_empty()).then_some(Exclusion::Selector(lacking))
}

fn by_affinity(template: &Template, node: &Node) -> Option<Exclusion> {
    let affinity = template.node_affinity()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let failing = terms.iter().filter_map(|term| failing(term, node));
    match failing.min_by_key(Vec::len) {
        Some(failing) if failing.is_empty() => None,
        failing => Some(Exclusion::Affinity(failing.unwrap_or_default())),
    }
}

/// What of a term does not hold. A term without any requirement holds for nobody, and none is told.
fn failing(term: &NodeSelectorTerm, node: &Node) -> Option<Vec<String>> {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return None;
    }
    let by_label = labels.iter().filter(|one| !holds(one, node.labels.get(&one.key).map(String::as_str))).map(|one| {
        let found = node.labels.get(&one.key).map_or("no such label".to_owned(), |value| format!("it is {value}"));
        format!("label {}, but {found}", requirement(one))
    });
    // Names are the only field that the API server lets through.
    let by_field = fields.iter().filter(|one| {
        let is_name = one.key == "metadata.name" && matches!(&*one.operator, "In" | "NotIn");
        !is_name || !holds(one, Some(&node.name))
    });
    Some(by_label.chain(by_field.map(|one| format!("field {}", requirement(one)))).collect())
}

fn holds(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let has = |found: &str| values.iter().any(|value| value == found);
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let [bound] = values else { return false };
        let pair = found.and_then(|found| Some((found.parse().ok()?, bound.parse().ok()?)));
        pair.is_some_and(|(found, bound)| holds(&found, &bound))
    };
    match &*requirement.operator {
        "In" => found.is_some_and(has),
        "NotIn" => !found.is_some_and(has),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

fn requirement(one: &NodeSelectorRequirement) -> String {
    let values = one.values.as_deref().unwrap_or_default().join(",");
    match &*one.operator {
        "In" => format!("{} in ({values})", one.key),
        "NotIn" => format!("{} not in ({values})", one.key),
        "Exists" => one.key.clone(),
        "DoesNotExist" => format!("!{}", one.key),
        "Gt" => format!("{} > {values}", one.key),
        "Lt" => format!("{} < {values}", one.key),
        other => format!("{} {other} {values}", one.key),
    }
}

/// Taints that the controller tolerates for every pod: key and effect. The last one only for pods in the node's own network.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

fn is_tolerated(template: &Template, taint: &Taint) -> bool {
    let known = (&*taint.key, &*taint.effect);
    TOLERATED.contains(&known)
        || known == NETWORK && template.host_network
        || template.tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_any_or =
        |asked: &Option<String>, has: &str| asked.as_deref().is_none_or(|asked| asked.is_empty() || asked == has);
    if !is_any_or(&toleration.effect, &taint.effect) || !is_any_or(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        "Exists" => true,
        _ => false,
    }
}

fn text(taint: &Taint) -> String {
    match taint.value.as_deref() {
        None | Some("") => format!("{}:{}", taint.key, taint.effect),
        Some(value) => format!("{}={value}:{}", taint.key, taint.effect),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use serde_json::{Value, json};

    use super::{Exclusion, Node, Placement, placement};

    /// A node `n1` in zone a with 8 cores.
    fn node(taints: &Value) -> Node {
        let labels = json!({ "zone": "a", "cores": "8" });
        serde_json::from_value(json!({ "metadata": { "name": "n1", "labels": labels }, "spec": { "taints": taints } }))
            .unwrap()
    }

    fn place(mut spec: Value, taints: &Value) -> Placement {
        spec.as_object_mut().unwrap().insert("containers".to_owned(), json!([]));
        placement(&serde_json::from_value(spec).unwrap(), &node(taints))
    }

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "each caller makes the value for it")]
    fn check(spec: Value, taints: &Value, expected: &str) {
        let told = match place(spec.clone(), taints) {
            Placement::Wanted => "wanted".to_owned(),
            Placement::Stays(why) => format!("stays: {why}"),
            Placement::Excluded(why) => why.to_string(),
        };
        assert_eq!(told, expected, "{spec} {taints}");
    }

    fn affinity(terms: &Value) -> Value {
        let required = json!({ "nodeSelectorTerms": terms });
        json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required } } })
    }

    #[test]
    fn a_node_is_chosen_by_name_and_by_labels() {
        let none = json!(null);
        check(json!({}), &none, "wanted");
        check(json!({ "nodeName": "n1" }), &none, "wanted");
        check(json!({ "nodeName": "n2" }), &none, "the template names node n2");
        check(json!({ "nodeSelector": { "zone": "a" } }), &none, "wanted");
        check(json!({ "nodeSelector": { "zone": "b" } }), &none, "label zone is a, not b");
        check(json!({ "nodeSelector": { "gpu": "" } }), &none, "there is no label gpu=");
    }

    #[test]
    fn an_affinity_holds_if_one_of_its_terms_holds_whole() {
        let check = |operator: &str, values: &Value, holds: bool| {
            let term = json!([{ "matchExpressions": [{ "key": "cores", "operator": operator, "values": values }] }]);
            assert_eq!(place(affinity(&term), &json!([])) == Placement::Wanted, holds, "{operator} {values}");
        };
        check("In", &json!(["4", "8"]), true);
        check("In", &json!(["4"]), false);
        check("NotIn", &json!(["4"]), true);
        check("NotIn", &json!(["8"]), false);
        check("Exists", &json!(null), true);
        check("DoesNotExist", &json!(null), false);
        check("Gt", &json!(["7"]), true);
        check("Gt", &json!(["8"]), false);
        check("Lt", &json!(["9"]), true);
        check("Lt", &json!(["many"]), false);
        check("Whatever", &json!(["8"]), false);
        let absent = |operator: &str| json!({ "key": "gpu", "operator": operator, "values": ["1"] });
        let [one, other] = ["NotIn", "In"].map(|operator| json!({ "matchExpressions": [absent(operator)] }));
        assert_eq!(place(affinity(&json!([one])), &json!([])), Placement::Wanted, "a label that is absent is not in");
        assert_eq!(place(affinity(&json!([other, one])), &json!([])), Placement::Wanted, "the second term");
        let named =
            |name: &str| json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] }]);
        assert_eq!(place(affinity(&named("n1")), &json!([])), Placement::Wanted);
        assert!(matches!(place(affinity(&named("n2")), &json!([])), Placement::Excluded(_)));
    }

    #[test]
    fn the_requirement_that_is_just_missed_is_told() {
        let zone = json!({ "key": "zone", "operator": "In", "values": ["b", "c"] });
        let cores = json!({ "key": "cores", "operator": "Gt", "values": ["16"] });
        let term = |requirements: &[&Value]| json!({ "matchExpressions": requirements });
        let Placement::Excluded(why) = place(affinity(&json!([term(&[&zone, &cores]), term(&[&zone])])), &json!([]))
        else {
            panic!("a node of zone a");
        };
        assert_eq!(
            (why.to_string(), why.just_misses()),
            ("required is label zone in (b,c), but it is a".to_owned(), true)
        );
        for nothing in [json!([]), json!([{}]), json!([{ "matchExpressions": [] }])] {
            assert_eq!(place(affinity(&nothing), &json!([])), Placement::Excluded(Exclusion::Affinity(Vec::new())));
        }
    }

    #[test]
    fn taints_keep_new_pods_away_or_all() {
        let taint = |key: &str, effect: &str| json!([{ "key": key, "value": "v", "effect": effect }]);
        check(json!({}), &taint("k", "PreferNoSchedule"), "wanted");
        check(json!({}), &taint("k", "NoSchedule"), "stays: taint k=v:NoSchedule is not tolerated");
        check(json!({}), &taint("k", "NoExecute"), "taint k=v:NoExecute is not tolerated");
        for (toleration, tolerated) in [
            (json!({ "operator": "Exists" }), true),
            (json!({ "key": "k", "operator": "Exists" }), true),
            (json!({ "key": "k", "value": "v" }), true),
            (json!({ "key": "k", "operator": "Equal", "value": "w" }), false),
            (json!({ "key": "l", "operator": "Exists" }), false),
            (json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }), false),
            (json!({ "key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 }), true),
        ] {
            let placed = place(json!({ "tolerations": [toleration] }), &taint("k", "NoExecute"));
            assert_eq!(placed == Placement::Wanted, tolerated, "{toleration}");
        }
    }

    #[test]
    fn what_the_controller_tolerates_by_itself_keeps_nobody_away() {
        for (key, effect) in super::TOLERATED {
            check(json!({}), &json!([{ "key": key, "effect": effect }]), "wanted");
        }
        // By another effect it is a taint as any other.
        check(
            json!({}),
            &json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }]),
            "stays: taint node.kubernetes.io/not-ready:NoSchedule is not tolerated",
        );
        let (key, effect) = super::NETWORK;
        let network = json!([{ "key": key, "effect": effect }]);
        check(json!({ "hostNetwork": true }), &network, "wanted");
        check(json!({}), &network, "stays: taint node.kubernetes.io/network-unavailable:NoSchedule is not tolerated");
    }
}
