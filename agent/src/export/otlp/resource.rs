//! An owner as an OTLP resource: its attributes and the entities that they identify.
//!
//! Called by the encoder only. What is not known is left out, never guessed.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, EntityRef, KeyValue, any_value},
    resource::v1::Resource,
};

use crate::registry::{Container, Owner};

/// The conventions that the attributes follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// Attribute with the name of a unit of the node. The conventions have none for it.
pub const UNIT_KEY: &str = "podlens.unit";

const NODE_KEY: &str = "k8s.node.name";
const NAMESPACE_KEY: &str = "k8s.namespace.name";
const POD_KEY: &str = "k8s.pod.name";
const POD_UID_KEY: &str = "k8s.pod.uid";
const CONTAINER_KEY: &str = "k8s.container.name";
const CONTAINER_ID_KEY: &str = "container.id";
const IMAGE_NAME_KEY: &str = "container.image.name";
const IMAGE_TAGS_KEY: &str = "container.image.tags";

/// Digits of a container's id that stand for its name until the name is known.
const SHORT_ID_DIGITS: usize = 12;

/// Kinds of workload that the conventions have an attribute for.
const WORKLOAD_KEYS: [(&str, &str); 6] = [
    ("cronjob", "k8s.cronjob.name"),
    ("daemonset", "k8s.daemonset.name"),
    ("deployment", "k8s.deployment.name"),
    ("job", "k8s.job.name"),
    ("replicaset", "k8s.replicaset.name"),
    ("statefulset", "k8s.statefulset.name"),
];

/// The resource of an owner. `fact` gives what is known beside its names, by the label in Prometheus.
pub(super) fn resource<'a>(owner: &Owner, node: &str, fact: impl Fn(&str) -> Option<&'a str>) -> Resource {
    let mut attributes = Vec::with_capacity(8);
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            attributes.push(attribute(key, value));
        }
    };
    add(NODE_KEY, node);
    match owner {
        Owner::Unit(unit) => add(UNIT_KEY, unit),
        Owner::Container(container) => {
            add(NAMESPACE_KEY, &container.namespace);
            if container.pod != container.pod_uid {
                add(POD_KEY, &container.pod);
            }
            add(POD_UID_KEY, &container.pod_uid);
            if is_named(container) {
                add(CONTAINER_KEY, &container.container);
            }
            add(CONTAINER_ID_KEY, &container.container_id);
            let kind = fact("workload_type").unwrap_or_default();
            if let Some((_, key)) = WORKLOAD_KEYS.iter().find(|(workload, _)| *workload == kind) {
                add(key, fact("workload").unwrap_or_default());
            }
            let (name, tag) = image(fact("image").unwrap_or_default());
            add(IMAGE_NAME_KEY, name);
            if !tag.is_empty() {
                attributes.push(strings(IMAGE_TAGS_KEY, &[tag]));
            }
        }
    }
    let entity_refs = entities(owner, &attributes);
    Resource { attributes, entity_refs, ..Resource::default() }
}

/// An image's name and its tag, which is empty for an image that is named by its digest.
pub(super) fn image(image: &str) -> (&str, &str) {
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    // A colon before a slash belongs to the registry's port.
    match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) if digest.is_empty() => (name, tag),
        Some((name, _)) => (name, ""),
        None => (name, ""),
    }
}

fn strings(key: &str, texts: &[&str]) -> KeyValue {
    let values =
        texts.iter().map(|text| AnyValue { value: Some(any_value::Value::StringValue((*text).into())) }).collect();
    let value = AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values })) };
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

/// An attribute with a string value.
pub(super) fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.into())) };
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

fn is_named(container: &Container) -> bool {
    container.container_id.get(..SHORT_ID_DIGITS) != Some(&*container.container)
}

/// The pod by its uid and the container by its id, as the conventions identify them, or the unit by its name
/// on its node. The node is no entity here: the conventions identify one by its uid, which is not known.
fn entities(owner: &Owner, attributes: &[KeyValue]) -> Vec<EntityRef> {
    let has = |key: &&str| attributes.iter().any(|attribute| attribute.key == **key);
    let entity = |kind: &str, id: &[&str], description: &[&str]| {
        let present = |keys: &[&str]| keys.iter().copied().filter(|key| has(key)).map(String::from).collect::<Vec<_>>();
        let id_keys = present(id);
        (id_keys.len() == id.len()).then(|| EntityRef {
            schema_url: SCHEMA_URL.into(),
            r#type: kind.into(),
            id_keys,
            description_keys: present(description),
        })
    };
    let found = match owner {
        Owner::Unit(_) => [entity("podlens.unit", &[NODE_KEY, UNIT_KEY], &[]), None],
        Owner::Container(_) => {
            [entity("k8s.pod", &[POD_UID_KEY], &[POD_KEY]), entity("container", &[CONTAINER_ID_KEY], &[])]
        }
    };
    found.into_iter().flatten().collect()
}
