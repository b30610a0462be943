//! Prometheus text format 0.0.4 and `OpenMetrics` 1.0, as a pure function of a snapshot.
//!
//! Not a server and not a registry: [`crate::export::server`] calls it for each page and adds the agent's own
//! metrics. Labels of an entity are rendered once a page, since they make up most of its bytes. The protobuf
//! format, which alone can carry native histograms, is not here; it would be one more [`Format`].

pub(super) mod histogram;
mod info;
mod merge;

use std::io::{self, Write};

use crate::{
    registry::{Family, Snapshot, Value, snapshot::Culprit},
    signal::{Entity, Kind, Metric, Unit},
};

/// What a page is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus text 0.0.4.
    #[default]
    Text,
    /// `OpenMetrics` text 1.0.0. [`write_samples`] leaves its closing `# EOF` to [`Format::end`].
    OpenMetrics,
}

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

impl Format {
    /// The value of the header `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What closes a page.
    #[must_use]
    pub fn end(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::OpenMetrics => "# EOF\n",
        }
    }

    /// The format that the value of a header `Accept` prefers. Text wins a tie and is the answer to anything
    /// that is not understood, as Prometheus' own clients do.
    #[must_use]
    pub fn preferred(accept: &str) -> Self {
        let (mut text, mut open_metrics) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0_f32, None);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.trim_matches('"')),
                    _ => {}
                }
            }
            if media_type.eq_ignore_ascii_case("application/openmetrics-text") {
                if version.is_none_or(|version| version == "1.0.0") {
                    open_metrics = open_metrics.max(quality);
                }
            } else if ["text/plain", "text/*", "*/*"].iter().any(|name| media_type.eq_ignore_ascii_case(name))
                && version.is_none_or(|version| version == "0.0.4")
            {
                text = text.max(quality);
            }
        }
        if open_metrics > text { Self::OpenMetrics } else { Self::Text }
    }
}

impl Filter {
    /// Whether this entity's samples are wanted.
    #[must_use]
    pub fn admits(&self, entity: &Entity) -> bool {
        match entity {
            Entity::Unit(_) => false,
            Entity::Container(container) => {
                self.pod.as_deref().is_none_or(|pod| *pod == *container.pod)
                    && self.namespace.as_deref().is_none_or(|namespace| *namespace == *container.namespace)
            }
        }
    }
}

/// A whole page of a snapshot, without the agent's own metrics.
#[must_use]
pub fn encode(snapshot: &Snapshot, filter: Option<&Filter>, format: Format) -> Vec<u8> {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = write_samples(snapshot, filter, format, &mut page);
    page.extend_from_slice(format.end().as_bytes());
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
    format: Format,
    writer: &mut impl Write,
) -> io::Result<()> {
    let snapshot = &*merge::by_labels(snapshot);
    let mut page = Page { snapshot, filter, format, node: Vec::new(), out: Vec::with_capacity(CHUNK_BYTES + 4096) };
    page.node.push(b',');
    push_label(&mut page.node, "node", &snapshot.node);
    let families: Vec<Family<'_>> = snapshot.families().collect();
    for (at, family) in families.iter().enumerate() {
        let is_same = |other: &&Family<'_>| other.metric().name == family.metric().name;
        if families.iter().take(at).any(|other| is_same(&other)) {
            continue;
        }
        // Several collectors may have parts of one family, whose samples are to stand together.
        let mut headed = false;
        for part in families.iter().skip(at).filter(is_same) {
            page.write_family(*part, &mut headed, writer)?;
        }
    }
    info::push(snapshot, filter, format, &mut page.out);
    writer.write_all(&page.out)
}

/// A page that is being written.
struct Page<'a> {
    snapshot: &'a Snapshot,
    filter: Option<&'a Filter>,
    format: Format,
    /// The label of the node, with a leading comma.
    node: Vec<u8>,
    out: Vec<u8>,
}

impl Page<'_> {
    fn write_family(&mut self, family: Family<'_>, headed: &mut bool, writer: &mut impl Write) -> io::Result<()> {
        let (metric, column) = (family.metric(), family.column());
        // All that stands behind the entity's labels, but for a culprit.
        let of_combination = |combination| {
            let mut labels = self.node.clone();
            for (name, value) in column.values(combination) {
                labels.push(b',');
                push_label(&mut labels, name, value);
            }
            labels
        };
        let own_labels: Vec<Vec<u8>> = (0..column.combinations()).map(of_combination).collect();
        let of_metric = format!("{}{{", metric.name);
        for sample in family.samples() {
            let Some(state) = self.snapshot.entity(sample.entity) else { continue };
            if self.filter.is_some_and(|filter| !filter.admits(&state.entity)) {
                continue;
            }
            let culprit = match sample.culprit {
                Some(Culprit::Entity(position)) => match self.snapshot.entity(position) {
                    Some(culprit) => Some(&*culprit.entity),
                    None => continue,
                },
                _ => None,
            };
            if !*headed {
                push_header(&mut self.out, metric, self.format);
                *headed = true;
            }
            let labels = |out: &mut Vec<u8>| {
                out.extend_from_slice(state.entity.rendered(identity_labels));
                out.extend_from_slice(own_labels.get(sample.combination).map(Vec::as_slice).unwrap_or_default());
                match (sample.culprit, culprit) {
                    (None, _) => {}
                    (_, Some(culprit)) => push_culprit(out, culprit),
                    (_, None) => out.extend_from_slice(b",culprit_pod=\"(other)\""),
                }
            };
            if let Value::Histogram(histogram) = sample.value {
                histogram::push(&mut self.out, metric.name, labels, histogram, self.format);
            } else {
                self.out.extend_from_slice(of_metric.as_bytes());
                labels(&mut self.out);
                push_number(&mut self.out, sample.value);
            }
            if self.out.len() >= CHUNK_BYTES {
                writer.write_all(&self.out)?;
                self.out.clear();
            }
        }
        Ok(())
    }
}

/// The labels that tell whose a value is, but for the node.
///
/// A pod's labels are there, if empty, for all: to Prometheus an empty label is an absent one, but where a scrape honours
/// labels, only one that is there keeps out that of the scraped pod.
fn identity_labels(entity: &Entity) -> Vec<u8> {
    let mut labels = Vec::with_capacity(160);
    match entity {
        Entity::Container(container) => {
            push_label(&mut labels, "namespace", &container.namespace);
            labels.push(b',');
            push_label(&mut labels, "pod", &container.pod);
            labels.push(b',');
            push_label(&mut labels, "container", &container.container);
        }
        Entity::Unit(unit) => {
            push_all(&mut labels, &[r#"namespace="",pod="",container="","#]);
            push_label(&mut labels, "unit", unit);
        }
    }
    labels
}

/// The labels that name an entity as a culprit, with a leading comma.
fn push_culprit(labels: &mut Vec<u8>, entity: &Entity) {
    labels.push(b',');
    match entity {
        Entity::Container(container) => {
            push_label(labels, "culprit_namespace", &container.namespace);
            labels.push(b',');
            push_label(labels, "culprit_pod", &container.pod);
        }
        Entity::Unit(unit) => push_label(labels, "culprit_unit", unit),
    }
}

fn push_header(out: &mut Vec<u8>, metric: &Metric, format: Format) {
    // OpenMetrics names the family of a counter without the suffix that its samples carry.
    let name = match (format, metric.kind) {
        (Format::OpenMetrics, Kind::Counter) => metric.name.strip_suffix("_total").unwrap_or(metric.name),
        _ => metric.name,
    };
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    push_all(out, &["# HELP ", name, " "]);
    push_escaped(out, metric.help, format == Format::OpenMetrics);
    push_all(out, &["\n# TYPE ", name, " ", kind, "\n"]);
    let unit = match metric.unit {
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
        Unit::Count(_) | Unit::Cpus => "",
    };
    let ends_in_unit = || name.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_'));
    if format == Format::OpenMetrics && !unit.is_empty() && ends_in_unit() {
        push_all(out, &["# UNIT ", name, " ", unit, "\n"]);
    }
}

/// The rest of a line behind its labels.
fn push_number(out: &mut Vec<u8>, value: Value<'_>) {
    out.extend_from_slice(b"} ");
    match value {
        Value::Integer(value) => push_integer(out, value),
        Value::Nanoseconds(value_ns) => push_seconds(out, value_ns),
        Value::Float(value) => push_float(out, value),
        Value::Histogram(_) => {}
    }
    out.push(b'\n');
}

fn push_all(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn push_label(out: &mut Vec<u8>, name: &str, value: &str) {
    push_all(out, &[name, "=\""]);
    push_escaped(out, value, true);
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, text: &str, quotes: bool) {
    for &byte in text.as_bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            _ => out.push(byte),
        }
    }
}

fn push_integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Nanoseconds as decimal seconds, to the last digit.
fn push_seconds(out: &mut Vec<u8>, value_ns: u64) {
    const SECOND_NS: u64 = 1_000_000_000;
    push_integer(out, value_ns / SECOND_NS);
    let rest = value_ns % SECOND_NS;
    if rest > 0 {
        // A digit before the others keeps the zeros in front, and gives its place to the point.
        let point = out.len();
        push_integer(out, SECOND_NS + rest);
        if let Some(digit) = out.get_mut(point) {
            *digit = b'.';
        }
        let zeros = out.iter().rev().take_while(|digit| **digit == b'0').count();
        out.truncate(out.len() - zeros);
    }
}

fn push_float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else {
        push_all(out, &[&value.to_string()]);
    }
}

#[cfg(test)]
mod tests;
