//! An owner as an OTLP resource: its attributes and the entities that they identify.
//!
//! Called by the encoder only. What is not known is left out, never guessed.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, EntityRef, KeyValue, any_value},
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

/// Digits of a container's id that stand for its name until the name is known.
const SHORT_ID_DIGITS: usize = 12;

/// The resource of an owner.
pub(super) fn resource(owner: &Owner, node: &str) -> Resource {
    let mut attributes = Vec::with_capacity(6);
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
        }
    }
    let entity_refs = entities(owner, &attributes);
    Resource { attributes, entity_refs, ..Resource::default() }
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
