//! A page for Prometheus, as a pure function of a snapshot: text 0.0.4, `OpenMetrics` 1.0 or protobuf.
//!
//! Not a server and not a registry: [`crate::export::server`] calls it for each page and adds the agent's own
//! metrics. Whose sample has which labels is decided here, for all formats; `text` and `protobuf` write them. Labels of
//! an entity are rendered once, since they make up most of a page's bytes.

mod format;
pub(super) mod histogram;
mod info;
mod merge;
pub(super) mod protobuf;
mod text;

use std::io::{self, Write};

pub use self::format::{Format, Style};
use crate::{
    registry::{EntityState, Family, Sample, Snapshot, snapshot::Culprit},
    signal::{Entity, Metric, Unit},
};

/// Restricts a page to the containers of some pods. Units of the node never match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Name of the pod; any if absent.
    pub pod: Option<String>,
    /// Namespace of the pod; any if absent.
    pub namespace: Option<String>,
}

/// Bytes gathered before they are handed to the writer, so that a compressing writer is not called per sample.
const CHUNK_BYTES: usize = 32 * 1024;

/// The label of the node.
const NODE: &str = "node";

impl Filter {
    /// Whether this entity's samples are wanted.
    #[must_use]
    pub fn admits(&self, entity: &Entity) -> bool {
        match entity {
            Entity::Unit(_) => false,
            Entity::Workload(of) => {
                self.pod.is_none() && self.namespace.as_deref().is_none_or(|namespace| *namespace == *of.namespace)
            }
            Entity::Container(container) => {
                self.pod.as_deref().is_none_or(|pod| *pod == *container.pod)
                    && self.namespace.as_deref().is_none_or(|namespace| *namespace == *container.namespace)
            }
        }
    }
}

/// A whole page of a snapshot, without the agent's own metrics.
#[must_use]
pub fn encode(snapshot: &Snapshot, filter: Option<&Filter>, style: impl Into<Style>) -> Vec<u8> {
    let (mut page, style) = (Vec::new(), style.into());
    // Writing to memory does not fail.
    let _ = write_samples(snapshot, filter, style, &mut page);
    page.extend_from_slice(style.format.end().as_bytes());
    page
}

/// Writes all families of a snapshot that have a sample, without the page's end.
///
/// Instances of a container that only their ids tell apart are one series, with the sum of their values.
///
/// A sample that refers to an entity or a label value that the snapshot does not have is left out: it would
/// be a value under a wrong name.
///
/// # Errors
/// Those of the writer.
pub fn write_samples(
    snapshot: &Snapshot,
    filter: Option<&Filter>,
    style: Style,
    writer: &mut impl Write,
) -> io::Result<()> {
    let snapshot = &*merge::by_labels(snapshot);
    match style.format {
        Format::Text | Format::OpenMetrics => text::write(snapshot, filter, style, writer),
        Format::Protobuf => protobuf::write(snapshot, filter, style, writer),
    }
}

/// A sample with those whom it names.
struct Named<'a> {
    sample: Sample<'a>,
    state: &'a EntityState,
    culprit: Option<NamedCulprit<'a>>,
}

enum NamedCulprit<'a> {
    Other,
    Entity(&'a Entity),
}

/// A family's samples that belong on the page.
fn samples<'a>(
    snapshot: &'a Snapshot,
    filter: Option<&'a Filter>,
    family: Family<'a>,
) -> impl Iterator<Item = Named<'a>> {
    family.samples().filter_map(move |sample| {
        let state = snapshot.entity(sample.entity)?;
        if filter.is_some_and(|filter| !filter.admits(&state.entity)) {
            return None;
        }
        let culprit = match sample.culprit {
            None => None,
            Some(Culprit::Other) => Some(NamedCulprit::Other),
            Some(Culprit::Entity(position)) => Some(NamedCulprit::Entity(&snapshot.entity(position)?.entity)),
        };
        Some(Named { sample, state, culprit })
    })
}

/// The labels that tell whose a value is, but for the node.
///
/// A pod's labels are there, if empty, for all: to Prometheus an empty label is an absent one, but where a scrape honours
/// labels, only one that is there keeps out that of the scraped pod.
fn identity(entity: &Entity) -> impl Iterator<Item = (&'static str, &str)> {
    let (namespace, pod, container): (&str, &str, &str) = match entity {
        Entity::Container(of) => (&of.namespace, &of.pod, &of.container),
        Entity::Unit(_) => ("", "", ""),
        Entity::Workload(of) => (&of.namespace, "", ""),
    };
    let more: [Option<(&'static str, &str)>; 2] = match entity {
        Entity::Container(_) => [None, None],
        Entity::Unit(unit) => [Some(("unit", unit)), None],
        Entity::Workload(of) => [Some(("workload", &*of.name)), Some(("workload_type", &*of.kind))],
    };
    let of_pod = [("namespace", namespace), ("pod", pod), ("container", container)];
    of_pod.into_iter().chain(more.into_iter().flatten())
}

impl NamedCulprit<'_> {
    /// The labels that name who caused a value.
    fn labels(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let labels: [Option<(&'static str, &str)>; 2] = match self {
            Self::Other => [Some(("culprit_pod", "(other)")), None],
            Self::Entity(Entity::Container(container)) => {
                [Some(("culprit_namespace", &*container.namespace)), Some(("culprit_pod", &*container.pod))]
            }
            Self::Entity(Entity::Unit(unit)) => [Some(("culprit_unit", &**unit)), None],
            Self::Entity(Entity::Workload(of)) => {
                [Some(("culprit_namespace", &*of.namespace)), Some(("culprit_workload", &*of.name))]
            }
        };
        labels.into_iter().flatten()
    }
}

/// The unit that a family of this name declares, which must be how the name ends; empty for none.
fn unit(metric: &Metric, name: &str) -> &'static str {
    let unit = match metric.unit {
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
        Unit::Count(_) | Unit::Cpus => return "",
    };
    if name.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_')) { unit } else { "" }
}

/// The name of a metric without the suffix that tells a counter: a family's name in `OpenMetrics`.
fn stem(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

#[cfg(test)]
mod tests;
