//! Definitions of the event about a process that was killed for want of memory.

use crate::signal::{Attribute, EventKind, Severity};

/// The victim's name.
pub static NAME: Attribute =
    Attribute { name: "process.executable.name", about: "Name of the victim, up to 15 bytes as the kernel keeps it" };
/// The victim's id.
pub static ID: Attribute = Attribute { name: "process.pid", about: "Id of the victim on the host" };
/// Whose limit it was.
pub static SCOPE: Attribute = Attribute {
    name: "podlens.oom.scope",
    about: "The limit that led to the kill, as the label `scope` of `podlens_oom_kills_total`",
};
/// How many were killed at once.
pub static PROCESSES: Attribute = Attribute {
    name: "podlens.oom.processes",
    about: "How many processes were killed at once: one, except with memory.oom.group; the victim is the first of them",
};
/// Memory of the victim.
pub static RESIDENT: Attribute = Attribute {
    name: "podlens.oom.rss",
    about: "Resident memory of the victim in bytes, without the parts that CPUs have not yet added to the sum, some hundred kB each at most",
};
/// Memory of whose limit it was.
pub static USAGE: Attribute = Attribute {
    name: "podlens.oom.usage",
    about: "Memory usage of the scope's cgroup at the kill, in bytes; for scopes `node` and `other`, that of the victim's container",
};
/// The limit.
pub static LIMIT: Attribute =
    Attribute { name: "podlens.oom.limit", about: "The same cgroup's limit in bytes, where it has one" };
/// Who wanted memory: whose process it was.
pub static TRIGGER: Attribute = Attribute {
    name: "podlens.oom.trigger",
    about: "The container (NAMESPACE/POD/CONTAINER) or unit whose process requested the lacking memory",
};
/// Who wanted memory: the process.
pub static TRIGGER_NAME: Attribute = Attribute { name: "podlens.oom.trigger.process", about: "Name of that process" };

/// A process was killed for want of memory.
pub static KILLED: EventKind = EventKind {
    name: "podlens.process.oom_killed",
    severity: Severity::Warn,
    about: "The kernel killed a process for want of memory",
    entity: "the container or unit of the victim, each kill once and each group kill once",
    attributes: &[&NAME, &ID, &SCOPE, &PROCESSES, &RESIDENT, &USAGE, &LIMIT, &TRIGGER_NAME, &TRIGGER],
    source: "mark_victim",
};
