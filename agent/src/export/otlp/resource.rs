//! An entity as an OTLP resource: its attributes and the entities that they identify.
//!
//! Called by the encoders only, and by the agent's own metrics for the agent's. What is not known is left out, never guessed.

use super::{Options, field};
use crate::{
    config::Identity,
    export::proto,
    signal::{Container, Entity},
};

/// The conventions that the attributes follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// Attribute with the name of a unit of the node. The conventions have none for it.
pub const UNIT_KEY: &str = "podlens.unit";

/// Attributes of a workload whose kind the conventions do not have.
const WORKLOAD_KEY: &str = "podlens.workload";
const WORKLOAD_TYPE_KEY: &str = "podlens.workload.type";

const NODE_KEY: &str = "k8s.node.name";
const NAMESPACE_KEY: &str = "k8s.namespace.name";
const POD_KEY: &str = "k8s.pod.name";
const POD_UID_KEY: &str = "k8s.pod.uid";
const CONTAINER_KEY: &str = "k8s.container.name";
const CONTAINER_ID_KEY: &str = "container.id";
const IMAGE_NAME_KEY: &str = "container.image.name";
const IMAGE_TAGS_KEY: &str = "container.image.tags";

/// By these three, Prometheus' own OTLP receiver tells resources apart: the first two become `job`, the last `instance`.
const SERVICE_NAME_KEY: &str = "service.name";
const SERVICE_NAMESPACE_KEY: &str = "service.namespace";
const SERVICE_INSTANCE_KEY: &str = "service.instance.id";

/// Beginnings of attributes that tell which pod, container, service or process a resource is.
const OF_ENTITY: [&str; 13] = [
    "container.",
    "k8s.container.",
    "k8s.cronjob.",
    "k8s.daemonset.",
    "k8s.deployment.",
    "k8s.job.",
    "k8s.namespace.",
    "k8s.pod.",
    "k8s.replicaset.",
    "k8s.statefulset.",
    "podlens.",
    "process.",
    "service.",
];

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

/// The attribute tells which pod, container, service or process a resource is. One that a user gives for podlens is podlens'
/// own, and on no other resource.
#[must_use]
pub fn is_of_entity(key: &str) -> bool {
    OF_ENTITY.iter().any(|beginning| key.starts_with(beginning))
}

/// Calls `add` with each attribute that names an entity. `fact` gives what is known beside its names, by the label in
/// Prometheus.
fn names<'a>(
    entity: &Entity,
    node: &str,
    fact: impl Fn(&str) -> Option<&'a str>,
    mut add: impl FnMut(&'static str, &str),
) {
    let mut add = |key: &'static str, value: &str| {
        if !value.is_empty() {
            add(key, value);
        }
    };
    add(NODE_KEY, node);
    match entity {
        Entity::Unit(unit) => add(UNIT_KEY, unit),
        Entity::Workload(of) => {
            add(NAMESPACE_KEY, &of.namespace);
            if let Some((_, key)) = WORKLOAD_KEYS.iter().find(|(kind, _)| *kind == &*of.kind) {
                add(key, &of.name);
            } else {
                add(WORKLOAD_KEY, &of.name);
                add(WORKLOAD_TYPE_KEY, &of.kind);
            }
        }
        Entity::Container(container) => {
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
        }
    }
}

/// Writes the resource of an entity. `fact` is as for [`names`].
pub(super) fn write<'a>(
    out: &mut Vec<u8>,
    entity: &Entity,
    node: &str,
    fact: impl Fn(&str) -> Option<&'a str>,
    options: &Options,
) {
    let mut keys: Vec<&str> = Vec::with_capacity(8);
    // Where the entity's names are on points alone, its resource is the node.
    let is_named_here = options.identity != Identity::Attributes;
    names(entity, node, &fact, |key, value| {
        if is_named_here || key == NODE_KEY {
            attribute(out, field::RESOURCE_ATTRIBUTES, key, value);
            keys.push(key);
        }
    });
    if matches!(entity, Entity::Container(_)) && is_named_here {
        let (name, tag) = image(fact("image").unwrap_or_default());
        if !name.is_empty() {
            attribute(out, field::RESOURCE_ATTRIBUTES, IMAGE_NAME_KEY, name);
            keys.push(IMAGE_NAME_KEY);
        }
        if !tag.is_empty() {
            list(out, field::RESOURCE_ATTRIBUTES, IMAGE_TAGS_KEY, tag);
        }
    }
    if options.service_attributes {
        service(out, entity, node, fact("workload"));
    }
    for (key, value) in options.attributes.iter().filter(|(key, _)| !keys.contains(&key.as_str())) {
        attribute(out, field::RESOURCE_ATTRIBUTES, key, value);
    }
    entities(out, entity, &keys);
}

/// An entity's names as attributes of its points, written once for all of them; empty where they stand on its resource alone.
#[derive(Default)]
pub(super) struct PointIdentity([Vec<u8>; POINT_FIELDS.len()]);

/// The fields that hold a point's attributes, by kind of point.
const POINT_FIELDS: [u32; 3] = [field::NUMBER_ATTRIBUTES, field::HISTOGRAM_ATTRIBUTES, field::EXPLICIT_ATTRIBUTES];

impl PointIdentity {
    /// `fact` is as for [`names`].
    pub(super) fn of<'a>(
        entity: &Entity,
        node: &str,
        fact: impl Fn(&str) -> Option<&'a str>,
        options: &Options,
    ) -> Self {
        if options.identity == Identity::Resource {
            return Self::default();
        }
        Self(POINT_FIELDS.map(|field| {
            let mut attributes = Vec::new();
            names(entity, node, &fact, |key, value| attribute(&mut attributes, field, key, value));
            attributes
        }))
    }

    /// The attributes as they stand in this field.
    pub(super) fn in_field(&self, field: u32) -> &[u8] {
        let found = POINT_FIELDS.iter().zip(&self.0).find(|(known, _)| **known == field);
        found.map(|(_, attributes)| attributes.as_slice()).unwrap_or_default()
    }
}

/// Writes an entity's names as attributes of its log records, where they are to stand there; in the field of a resource's
/// attributes, since records are built of what is decoded.
pub(super) fn record_identity<'a>(
    out: &mut Vec<u8>,
    entity: &Entity,
    node: &str,
    fact: impl Fn(&str) -> Option<&'a str>,
    options: &Options,
) {
    if options.identity != Identity::Resource {
        names(entity, node, fact, |key, value| attribute(out, field::RESOURCE_ATTRIBUTES, key, value));
    }
}

/// Writes the entity as a service: a pod's workload, or else the pod; a unit by its name. The instance is the container by
/// its id: with names alone, a container that was made again would share the series of the one before it, whose last values
/// may come in the same request.
fn service(out: &mut Vec<u8>, entity: &Entity, node: &str, workload: Option<&str>) {
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            attribute(out, field::RESOURCE_ATTRIBUTES, key, value);
        }
    };
    match entity {
        Entity::Unit(unit) => {
            add(SERVICE_NAME_KEY, unit);
            add(SERVICE_INSTANCE_KEY, &format!("{node}/{unit}"));
        }
        Entity::Workload(of) => {
            add(SERVICE_NAMESPACE_KEY, &of.namespace);
            add(SERVICE_NAME_KEY, &of.name);
            add(SERVICE_INSTANCE_KEY, &format!("{node}/{}/{}/{}", of.namespace, of.kind, of.name));
        }
        Entity::Container(container) => {
            add(SERVICE_NAMESPACE_KEY, &container.namespace);
            add(SERVICE_NAME_KEY, workload.unwrap_or(&container.pod));
            let is_pod = container.container_id.is_empty();
            add(SERVICE_INSTANCE_KEY, if is_pod { &container.pod_uid } else { &container.container_id });
        }
    }
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

/// Writes an attribute with a string value.
pub(super) fn attribute(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    proto::nested(out, field, |out| {
        proto::string(out, field::KEY_VALUE_KEY, key);
        proto::nested(out, field::KEY_VALUE_VALUE, |out| proto::strings(out, field::ANY_VALUE_STRING, &[value]));
    });
}

/// Writes an attribute with a list of one string.
fn list(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    proto::nested(out, field, |out| {
        proto::string(out, field::KEY_VALUE_KEY, key);
        proto::nested(out, field::KEY_VALUE_VALUE, |out| {
            proto::nested(out, field::ANY_VALUE_ARRAY, |out| {
                proto::nested(out, field::ARRAY_VALUES, |out| proto::strings(out, field::ANY_VALUE_STRING, &[value]));
            });
        });
    });
}

fn is_named(container: &Container) -> bool {
    container.container_id.get(..SHORT_ID_DIGITS) != Some(&*container.container)
}

/// Writes the pod by its uid and the container by its id, as the conventions identify them, or the unit by its name
/// on its node, as far as there are attributes of these keys. The node is no entity here: the conventions identify one
/// by its uid, which is not known.
fn entities(out: &mut Vec<u8>, entity: &Entity, keys: &[&str]) {
    let mut refer_to = |kind: &str, id: &[&str], description: &[&str]| {
        if !id.iter().all(|key| keys.contains(key)) {
            return;
        }
        proto::nested(out, field::RESOURCE_ENTITY_REFS, |out| {
            proto::string(out, field::ENTITY_REF_SCHEMA_URL, SCHEMA_URL);
            proto::string(out, field::ENTITY_REF_TYPE, kind);
            for key in id {
                proto::string(out, field::ENTITY_REF_ID_KEYS, key);
            }
            for key in description.iter().filter(|key| keys.contains(key)) {
                proto::string(out, field::ENTITY_REF_DESCRIPTION_KEYS, key);
            }
        });
    };
    match entity {
        Entity::Unit(_) => refer_to("podlens.unit", &[NODE_KEY, UNIT_KEY], &[]),
        // The conventions identify a workload by its uid, which is not known.
        Entity::Workload(_) => {}
        Entity::Container(_) => {
            refer_to("k8s.pod", &[POD_UID_KEY], &[POD_KEY]);
            refer_to("container", &[CONTAINER_ID_KEY], &[]);
        }
    }
}
