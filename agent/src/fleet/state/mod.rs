//! All `DaemonSets` of a cluster at one moment: what each node should have, has, and lacks. Pure.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1::PodSpec},
    jiff::{SignedDuration, Timestamp},
};

use super::{
    causes::{self, Events, Lack},
    objects::{Event, Node, Pod, REVISION, Revision},
    placement::{Exclusion, Placement, placement},
    rollout::{self, Rollout, newest, rollout},
};

/// A pod that was deleted has this long beyond its grace period before it is said to hang.
const GONE_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// What the API server tells.
#[derive(Debug, Default)]
pub struct Cluster {
    /// All `DaemonSets`.
    pub daemon_sets: Vec<DaemonSet>,
    /// Their revisions; others may be among them.
    pub revisions: Vec<Revision>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All pods of all namespaces.
    pub pods: Vec<Pod>,
    /// Events about `DaemonSets` and pods.
    pub events: Vec<Event>,
}

/// One `DaemonSet`.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Nodes that should have a pod.
    pub wanted: usize,
    /// Those of them that have one.
    pub present: usize,
    /// Those whose pod works.
    pub ready: usize,
    /// Those whose pod is of the newest revision.
    pub current: usize,
    /// Pods on nodes that should have none.
    pub misplaced: usize,
    /// Nodes that should have one that works, and why they have none, by the nodes' names.
    pub lacking: BTreeMap<String, Lack>,
    /// Nodes that should have none, by reason.
    pub excluded: BTreeMap<&'static str, usize>,
    /// Nodes that would have one but for one requirement, which may be a mistake.
    pub just_missed: BTreeMap<String, Exclusion>,
    /// How far a new revision has come.
    pub rollout: Rollout,
    /// The newest revision is an older template.
    pub rolled_back: bool,
}

/// What is found out about pods and nodes once, for all `DaemonSets`.
struct Places<'a> {
    nodes: &'a [Node],
    /// Pods that hold something, by the node that they are on.
    on: HashMap<&'a str, Vec<&'a Pod>>,
    /// By controller and the node that they are for.
    of: HashMap<(&'a str, &'a str), Vec<&'a Pod>>,
    events: Events<'a>,
    now: Timestamp,
}

impl Cluster {
    /// Looks at all of them, in the order of their names.
    #[must_use]
    pub fn reports(&self, now: Timestamp) -> Vec<Report> {
        let (mut on, mut of) = (HashMap::<_, Vec<&Pod>>::new(), HashMap::<_, Vec<&Pod>>::new());
        for pod in &self.pods {
            if !pod.spec.node_name.is_empty() && !pod.is_over() {
                on.entry(&*pod.spec.node_name).or_default().push(pod);
            }
            if let (Some(controller), Some(node)) = (pod.metadata.controller(), pod.node()) {
                of.entry((controller, node)).or_default().push(pod);
            }
        }
        let places = Places { nodes: &self.nodes, on, of, events: Events::of(&self.events), now };
        let mut revisions = HashMap::<&str, Vec<&Revision>>::new();
        for revision in &self.revisions {
            revisions.entry(revision.metadata.controller().unwrap_or_default()).or_default().push(revision);
        }
        let mut reports: Vec<Report> = self
            .daemon_sets
            .iter()
            .filter_map(|daemon_set| {
                let uid = daemon_set.metadata.uid.as_deref()?;
                report(daemon_set, uid, revisions.get(uid).map(Vec::as_slice).unwrap_or_default(), &places)
            })
            .collect();
        reports.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
        reports
    }
}

fn report(daemon_set: &DaemonSet, uid: &str, revisions: &[&Revision], places: &Places<'_>) -> Option<Report> {
    let template: &PodSpec = daemon_set.spec.as_ref()?.template.spec.as_ref()?;
    let (newest, rolled_back) = newest(revisions).unzip();
    let mut report = Report {
        namespace: daemon_set.metadata.namespace.clone().unwrap_or_default(),
        name: daemon_set.metadata.name.clone().unwrap_or_default(),
        wanted: 0,
        present: 0,
        ready: 0,
        current: 0,
        misplaced: 0,
        lacking: BTreeMap::new(),
        excluded: BTreeMap::new(),
        just_missed: BTreeMap::new(),
        rollout: Rollout::Settled,
        rolled_back: rolled_back.unwrap_or_default(),
    };
    // With each whether its pod is, or would be, of the newest revision.
    let mut lacking: BTreeMap<&str, (Lack, bool)> = BTreeMap::new();
    for node in places.nodes {
        let name = &node.metadata.name;
        let pods = places.of.get(&(uid, &**name)).map(Vec::as_slice).unwrap_or_default();
        match placement(template, node) {
            Placement::Wanted => report.wanted += 1,
            // A pod that is there may stay and counts as if it were wanted.
            Placement::Stays(_) if pods.iter().any(|pod| !pod.is_over()) => report.wanted += 1,
            Placement::Stays(why) | Placement::Excluded(why) => {
                *report.excluded.entry(why.reason()).or_default() += 1;
                report.misplaced += pods.iter().filter(|pod| !pod.is_over()).count();
                if why.just_misses() {
                    report.just_missed.insert(name.clone(), why);
                }
                continue;
            }
        }
        let is_current = |pod: &&Pod| {
            newest.is_none_or(|newest| pod.metadata.labels.get(REVISION).is_some_and(|hash| hash == newest))
        };
        let works = |pod: &&Pod| pod.is_ready() && pod.metadata.deletion_timestamp.is_none();
        // While it surges a node has two.
        let best = pods.iter().copied().max_by_key(|pod| (works(pod), !pod.is_over(), is_current(pod)));
        report.present += usize::from(best.is_some_and(|pod| !pod.is_over()));
        report.current += usize::from(pods.iter().any(|pod| !pod.is_over() && is_current(pod)));
        if best.is_some_and(|pod| works(&pod)) {
            report.ready += 1;
            continue;
        }
        // A node without a pod gets one of the newest revision.
        lacking.insert(name, (why(best, node, uid, places), best.is_none_or(|pod| is_current(&pod))));
    }
    let pods = rollout::Pods {
        wanted: report.wanted,
        old: report.present.saturating_sub(report.current),
        lacking: lacking.iter().map(|(node, (lack, is_current))| (*node, lack, *is_current)).collect(),
    };
    report.rollout = rollout(daemon_set, &pods, places.now);
    report.lacking = lacking.into_iter().map(|(node, (lack, _))| (node.to_owned(), lack)).collect();
    Some(report)
}

fn why(pod: Option<&Pod>, node: &Node, daemon_set: &str, places: &Places<'_>) -> Lack {
    let Some(pod) = pod else { return causes::without_pod(daemon_set, &places.events) };
    let beside = places.on.get(&*node.metadata.name).map(Vec::as_slice).unwrap_or_default();
    let lack = causes::of_pod(pod, node, beside, &places.events);
    let is_leaving = pod.metadata.deletion_timestamp.as_ref();
    match is_leaving.filter(|until| places.now.duration_since(until.0) < GONE_WITHIN) {
        Some(_) => Lack { detail: format!("{} is being replaced", pod.metadata.name), ..lack },
        None => lack,
    }
}

#[cfg(test)]
mod tests;
