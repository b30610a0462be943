//! The definition of an event, everything that is the same for each of its occurrences, and an occurrence.
//!
//! Declared as statics beside the code that notices them; exporters and documentation derive from them. Something that
//! happens often is a metric, not an event.

use std::{sync::Arc, time::SystemTime};

use super::EntityKey;

/// How much an event matters, as OpenTelemetry's ranges tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It belongs to ordinary life.
    Info,
    /// Somebody should look at it.
    Warn,
    /// Something does not work.
    Error,
}

impl Severity {
    /// Its number in OpenTelemetry.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
        }
    }

    /// Its name in OpenTelemetry.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// What an occurrence of an event can tell beside its moment and its entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Attribute key in OTLP.
    pub name: &'static str,
    /// One line, without a final stop.
    pub about: &'static str,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKind {
    /// Its name in OTLP, for example `podlens.container.exited`.
    pub name: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What has happened, in one line without a final stop.
    pub about: &'static str,
    /// Whom it is about, for the documentation.
    pub entity: &'static str,
    /// Everything that it can tell; what is not known is left out of an occurrence.
    pub attributes: &'static [&'static Attribute],
    /// Where it comes from, for the documentation.
    pub source: &'static str,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// Words.
    Text(Arc<str>),
    /// A whole number.
    Integer(i64),
    /// Somebody, in words by the name that is known at the moment at which the event is taken.
    Entity(EntityKey),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

/// What an occurrence tells.
pub type Attributes = Vec<(&'static Attribute, AttributeValue)>;

/// One occurrence of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The definition.
    pub kind: &'static EventKind,
    /// When it happened.
    pub at: SystemTime,
    /// Whom it is about, under the name that its cgroup's path tells; none for the agent itself.
    pub entity: Option<EntityKey>,
    /// What else is known.
    pub attributes: Attributes,
}
