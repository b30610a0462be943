//! A `DaemonSet`: where its pods belong and how they are replaced.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeAffinity, Toleration},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Deserialize;

use super::Meta;
use crate::attribution::kubernetes::pod::nullable;

/// A `DaemonSet`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    /// Name, identity.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Meta,
    /// What somebody wants.
    #[serde(deserialize_with = "nullable")]
    pub spec: DaemonSetSpec,
}

/// What somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetSpec {
    /// How pods are replaced.
    #[serde(deserialize_with = "nullable")]
    pub update_strategy: UpdateStrategy,
    #[serde(deserialize_with = "nullable")]
    template: PodTemplate,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PodTemplate {
    #[serde(deserialize_with = "nullable")]
    spec: Template,
}

/// How pods are replaced.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// How many at once.
    #[serde(deserialize_with = "nullable")]
    pub rolling_update: RollingUpdate,
}

/// How many pods are replaced at once.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// New ones beside old ones.
    pub max_surge: Option<IntOrString>,
    /// Nodes without one that works.
    pub max_unavailable: Option<IntOrString>,
}

/// Of the pods' template, where they belong.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Template {
    /// The only node.
    #[serde(deserialize_with = "nullable")]
    pub node_name: String,
    /// Labels of the node.
    #[serde(deserialize_with = "nullable")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    affinity: Affinity,
    /// Taints that do not matter.
    #[serde(deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    /// It has the node's own network.
    #[serde(deserialize_with = "nullable")]
    pub host_network: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

impl DaemonSet {
    /// Where its pods belong.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.spec.template.spec
    }
}

impl Template {
    /// The affinity to nodes.
    #[must_use]
    pub fn node_affinity(&self) -> Option<&NodeAffinity> {
        self.affinity.node_affinity.as_ref()
    }
}
