//! A node: what decides about pods on it.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Taint, apimachinery::pkg::api::resource::Quantity};
use serde::Deserialize;

use super::{Condition, Meta, Uid};
use crate::attribution::kubernetes::{pod::nullable, quantity};

/// A node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "WireNode")]
pub struct Node {
    /// Its identity.
    pub uid: Uid,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Who is kept away.
    pub taints: Vec<Taint>,
    /// Whether its kubelet works, as far as that is told.
    pub ready: Option<Condition>,
    /// What pods may ask for together.
    pub allocatable: BTreeMap<String, f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireNode {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: WireSpec,
    #[serde(deserialize_with = "nullable")]
    status: WireStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    #[serde(deserialize_with = "nullable")]
    taints: Vec<Taint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "nullable")]
    allocatable: BTreeMap<String, Quantity>,
}

impl From<WireNode> for Node {
    fn from(WireNode { metadata, spec, status }: WireNode) -> Self {
        let amounts = status.allocatable.into_iter();
        Self {
            uid: metadata.uid,
            name: metadata.name,
            labels: metadata.labels,
            taints: spec.taints,
            ready: status.conditions.into_iter().find(|condition| condition.kind == "Ready"),
            allocatable: amounts.filter_map(|(name, amount)| Some((name, quantity::parse(&amount.0)?))).collect(),
        }
    }
}
