//! Objects as the API server describes them, reduced to what the fleet's questions need. Pure decoding: `null` is the same as
//! a missing field, and what is not used is skipped while parsing.
//!
//! A cluster has them by the ten thousand, so what stays in memory is not what comes over the wire: a pod that works keeps
//! no story, and what many share is held once ([`Shared`]).

mod daemon_set;
mod node;
mod pod;
mod shared;

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde::{Deserialize, Deserializer};

pub use self::{
    daemon_set::{DaemonSet, RollingUpdate, Template, UpdateStrategy},
    node::Node,
    pod::{Claim, ContainerStatus, Pod, Story},
    shared::Shared,
};
use crate::{attribution::kubernetes::pod::nullable, backoff::hash};

/// The label of a pod that tells its `DaemonSet`'s revision.
pub const REVISION: &str = "controller-revision-hash";

/// An object's identity: its uid, as a number.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(u128);

impl Uid {
    /// What is no UUID, which no API server of today gives, is hashed.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let digits = || text.bytes().filter(|byte| *byte != b'-');
        if digits().count() == 32 && digits().all(|byte| byte.is_ascii_hexdigit()) {
            let digit = |byte: u8| (byte as char).to_digit(16).map_or(0, u128::from);
            return Self(digits().fold(0, |number, byte| (number << 4) | digit(byte)));
        }
        let low = hash(text.as_bytes());
        Self(u128::from(low) | (u128::from(hash(&[text.as_bytes(), b"#"].concat())) << 64))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map_or(Self::default(), |text| Self::of(&text)))
    }
}

/// What all objects have.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Its namespace; empty for a node.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// Its identity.
    pub uid: Uid,
    /// Its labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Who made it.
    #[serde(deserialize_with = "nullable")]
    owner_references: Vec<Owner>,
    /// When it was made.
    pub creation_timestamp: Option<Time>,
    /// When it has to be gone, once somebody deletes it.
    pub deletion_timestamp: Option<Time>,
}

/// Who made an object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Owner {
    uid: Uid,
    #[serde(deserialize_with = "nullable")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    controller: bool,
}

impl Meta {
    /// The identity of the `DaemonSet` that controls it.
    fn daemon_set(&self) -> Option<Uid> {
        let controls = |owner: &&Owner| owner.controller && owner.kind == "DaemonSet";
        self.owner_references.iter().find(controls).map(|owner| owner.uid)
    }
}

/// One condition of a node or a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    /// Why, in one word.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// Why, for people.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
    /// Since when.
    pub last_transition_time: Option<Time>,
}

/// The condition of that kind.
#[must_use]
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// One revision of a template, without what it holds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "WireRevision")]
pub struct Revision {
    /// Its identity.
    pub uid: Uid,
    /// Whose it is; none if it is no `DaemonSet`'s.
    pub daemon_set: Option<Uid>,
    /// The highest one is at work.
    pub number: i64,
    /// What its pods carry as a label.
    pub hash: Option<Box<str>>,
    /// When it was made.
    pub made: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireRevision {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    revision: i64,
}

impl From<WireRevision> for Revision {
    fn from(WireRevision { mut metadata, revision }: WireRevision) -> Self {
        Self {
            uid: metadata.uid,
            daemon_set: metadata.daemon_set(),
            number: revision,
            hash: metadata.labels.remove(REVISION).map(Into::into),
            made: metadata.creation_timestamp.map(|at| at.0),
        }
    }
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "WireEvent")]
pub struct Event {
    /// Its own identity.
    pub uid: Uid,
    /// To whom.
    pub object: Uid,
    /// What, in one word.
    pub reason: Box<str>,
    /// What, for people.
    pub message: Box<str>,
    /// When it was last seen.
    pub at: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireEvent {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    involved_object: Involved,
    #[serde(deserialize_with = "nullable")]
    reason: String,
    #[serde(deserialize_with = "nullable")]
    message: String,
    /// The last time, where it is told by the old field.
    last_timestamp: Option<Time>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Involved {
    uid: Uid,
}

impl From<WireEvent> for Event {
    fn from(event: WireEvent) -> Self {
        let WireEvent { metadata, involved_object, reason, message, last_timestamp } = event;
        Self {
            uid: metadata.uid,
            object: involved_object.uid,
            reason: reason.into(),
            message: message.into(),
            at: last_timestamp.or(metadata.creation_timestamp).map(|at| at.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Uid;

    #[test]
    fn a_uuid_is_its_number_and_anything_else_a_hash() {
        let uuid = Uid::of("0f000000-0000-0000-0000-00000000000a");
        assert_eq!(format!("{uuid:?}"), "0f00000000000000000000000000000a");
        assert_ne!(Uid::of("a"), Uid::of("b"));
        assert_eq!(Uid::of("a"), Uid::of("a"));
    }
}
