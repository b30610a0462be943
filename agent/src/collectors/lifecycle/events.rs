//! Definitions of the events about a container's end.

use crate::signal::{Attribute, EventKind, Severity};

/// How the container's first process ended.
pub static EXIT_CODE: Attribute =
    Attribute { name: "process.exit.code", about: "Exit code; 128 plus the signal's number where a signal ended it" };
/// Which signal ended it.
pub static SIGNAL: Attribute =
    Attribute { name: "podlens.exit.signal", about: "Number of the signal that ended it, where one did" };
/// Why, in the kubelet's words.
pub static REASON: Attribute = Attribute {
    name: "k8s.container.status.reason",
    about: "The pod status' reason, such as `Completed` or `OOMKilled`",
};
/// When it began.
pub static STARTED: Attribute =
    Attribute { name: "podlens.container.started", about: "When it was started, according to the pod status" };
/// Who told it.
pub static SOURCE: Attribute = Attribute { name: "podlens.source", about: "`pod_status` or `kernel`" };

static ATTRIBUTES: &[&Attribute] = &[&EXIT_CODE, &SIGNAL, &REASON, &STARTED, &SOURCE];

const ENTITY: &str = "the container, each instance once";
const SOURCES: &str =
    "pod status; where none reports it, the end of the first process of a PID namespace below the host's";

/// A container that did what it was to do.
pub static EXITED: EventKind = EventKind {
    name: "podlens.container.exited",
    severity: Severity::Info,
    about: "A container ended with exit code 0",
    entity: ENTITY,
    attributes: ATTRIBUTES,
    source: SOURCES,
};

/// A container that did not.
pub static FAILED: EventKind = EventKind {
    name: "podlens.container.failed",
    severity: Severity::Warn,
    about: "A container ended with another exit code than 0, or by a signal",
    entity: ENTITY,
    attributes: ATTRIBUTES,
    source: SOURCES,
};
