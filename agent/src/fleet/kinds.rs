//! The kinds of objects that a fleet is made from: where the API server has them, and how one is decoded. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::objects::{DaemonSet, Event, Node, Pod, Revision, Uid};

/// A kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `DaemonSets`.
    DaemonSets,
    /// Their revisions; others may be among them.
    Revisions,
    /// All nodes.
    Nodes,
    /// All pods of all namespaces.
    Pods,
    /// Events about `DaemonSets`.
    DaemonSetEvents,
    /// Events about pods.
    PodEvents,
}

/// An object.
#[derive(Debug)]
pub enum Object {
    /// A `DaemonSet`.
    DaemonSet(Box<DaemonSet>),
    /// A revision.
    Revision(Revision),
    /// A node.
    Node(Box<Node>),
    /// A pod.
    Pod(Pod),
    /// An event.
    Event(Event),
}

/// Why an object is left out.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is of no use.
    #[error("it is no object of its kind")]
    Garbage(#[from] serde_json::Error),
    /// Nothing tells it from others.
    #[error("it has no metadata.uid or no metadata.name")]
    Nameless,
}

impl Kind {
    /// All of them, what the others depend on first.
    pub const ALL: [Self; 6] =
        [Self::DaemonSets, Self::Revisions, Self::Nodes, Self::Pods, Self::DaemonSetEvents, Self::PodEvents];

    /// For the label `kind`, in the order of [`Self::ALL`].
    pub const NAMES: [&'static str; 6] =
        ["daemonsets", "controllerrevisions", "nodes", "pods", "daemonset_events", "pod_events"];

    /// Its name: one of [`Self::NAMES`].
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.get(self.position()).copied().unwrap_or_default()
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub fn position(self) -> usize {
        self as usize
    }

    /// Without it nothing can be said about a fleet.
    #[must_use]
    pub fn is_needed(self) -> bool {
        matches!(self, Self::DaemonSets | Self::Nodes | Self::Pods)
    }

    /// The resource by the name that a role has for it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::DaemonSets => "daemonsets.apps",
            Self::Revisions => "controllerrevisions.apps",
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::DaemonSetEvents | Self::PodEvents => "events",
        }
    }

    /// The kind of a list of them.
    #[must_use]
    pub fn list(self) -> &'static str {
        match self {
            Self::DaemonSets => "DaemonSetList",
            Self::Revisions => "ControllerRevisionList",
            Self::Nodes => "NodeList",
            Self::Pods => "PodList",
            Self::DaemonSetEvents | Self::PodEvents => "EventList",
        }
    }

    /// Where it is listed and watched.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::DaemonSets => "/apis/apps/v1/daemonsets",
            Self::Revisions => "/apis/apps/v1/controllerrevisions",
            Self::Nodes => "/api/v1/nodes",
            Self::Pods => "/api/v1/pods",
            Self::DaemonSetEvents | Self::PodEvents => "/api/v1/events",
        }
    }

    /// Of what is there, what is asked for, to be added to a query.
    #[must_use]
    pub fn selector(self) -> &'static str {
        match self {
            Self::DaemonSetEvents => "&fieldSelector=involvedObject.kind%3DDaemonSet%2Ctype%3DWarning",
            Self::PodEvents => "&fieldSelector=involvedObject.kind%3DPod%2Ctype%3DWarning",
            Self::DaemonSets | Self::Revisions | Self::Nodes | Self::Pods => "",
        }
    }

    /// Decodes one.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(self, object: &RawValue) -> Result<Object, ObjectError> {
        let text = object.get();
        let (object, is_named) = match self {
            Self::DaemonSets => {
                let object: DaemonSet = serde_json::from_str(text)?;
                let is_named = !object.metadata.name.is_empty();
                (Object::DaemonSet(Box::new(object)), is_named)
            }
            Self::Revisions => (Object::Revision(serde_json::from_str(text)?), true),
            Self::Nodes => {
                let object: Node = serde_json::from_str(text)?;
                let is_named = !object.name.is_empty();
                (Object::Node(Box::new(object)), is_named)
            }
            Self::Pods => (Object::Pod(serde_json::from_str(text)?), true),
            Self::DaemonSetEvents | Self::PodEvents => (Object::Event(serde_json::from_str(text)?), true),
        };
        if is_named && object.uid() != Uid::default() { Ok(object) } else { Err(ObjectError::Nameless) }
    }

    /// The identity of one, whatever else may be wrong with it.
    #[must_use]
    pub fn identity(object: &RawValue) -> Option<Uid> {
        #[derive(Deserialize)]
        struct Wire {
            metadata: Identity,
        }
        #[derive(Deserialize)]
        struct Identity {
            uid: Uid,
        }
        let Wire { metadata } = serde_json::from_str(object.get()).ok()?;
        Some(metadata.uid)
    }
}

impl Object {
    /// Its identity.
    #[must_use]
    pub fn uid(&self) -> Uid {
        match self {
            Self::DaemonSet(object) => object.metadata.uid,
            Self::Revision(object) => object.uid,
            Self::Node(object) => object.uid,
            Self::Pod(object) => object.uid,
            Self::Event(object) => object.uid,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{json, value::to_raw_value};

    use super::Kind;

    #[test]
    fn names_stand_in_the_order_of_the_kinds() {
        for (position, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.position(), position);
        }
        assert_eq!(Kind::PodEvents.name(), "pod_events");
    }

    #[test]
    fn what_is_no_object_of_its_kind_or_has_no_identity_is_refused_and_null_is_nothing() {
        let metadata = json!({ "name": "a", "uid": "u", "labels": null, "ownerReferences": null });
        for kind in Kind::ALL {
            let decode = |object: serde_json::Value| kind.decode(&to_raw_value(&object).unwrap()).map(drop);
            assert!(decode(json!({ "metadata": metadata, "spec": null, "status": null })).is_ok(), "{kind:?}");
            for odd in [json!(5), json!({}), json!({ "metadata": { "name": "a" } }), json!({ "metadata": 5 })] {
                assert!(decode(odd.clone()).is_err(), "{kind:?} {odd}");
            }
        }
        assert!(Kind::identity(&to_raw_value(&json!({ "metadata": metadata, "spec": 5 })).unwrap()).is_some());
    }
}
