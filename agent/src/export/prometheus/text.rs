//! The two text formats. Called by [`super::write_samples`].

use std::io::{self, Write};

use super::{CHUNK_BYTES, Filter, Format, NODE, Style, histogram, identity, info, samples, stem, unit};
use crate::{
    registry::{Family, Snapshot, Value},
    signal::{Entity, Kind, Metric},
};

/// Writes the whole page but for its end.
pub(super) fn write(
    snapshot: &Snapshot,
    filter: Option<&Filter>,
    style: Style,
    writer: &mut impl Write,
) -> io::Result<()> {
    let mut page = Page { snapshot, filter, style, node: Vec::new(), out: Vec::with_capacity(CHUNK_BYTES + 4096) };
    page.node.push(b',');
    push_label(&mut page.node, NODE, &snapshot.node);
    for parts in snapshot.grouped_families() {
        let mut headed = false;
        for part in parts {
            page.write_part(part, &mut headed, writer)?;
        }
    }
    info::push(snapshot, filter, style.format, &mut page.out);
    writer.write_all(&page.out)
}

/// A page that is being written.
struct Page<'a> {
    snapshot: &'a Snapshot,
    filter: Option<&'a Filter>,
    style: Style,
    /// The label of the node, with a leading comma.
    node: Vec<u8>,
    out: Vec<u8>,
}

impl Page<'_> {
    /// `headed`: the family has its head already.
    fn write_part(&mut self, family: Family<'_>, headed: &mut bool, writer: &mut impl Write) -> io::Result<()> {
        let (metric, column) = (family.metric(), family.column());
        // All that stands behind the entity's labels, but for a culprit.
        let of_combination = |combination| {
            let mut labels = self.node.clone();
            push_more_labels(&mut labels, column.values(combination));
            labels
        };
        let own_labels: Vec<Vec<u8>> = (0..column.combinations()).map(of_combination).collect();
        let of_metric = format!("{}{{", metric.name);
        for named in samples(self.snapshot, self.filter, family) {
            if !*headed {
                push_header(&mut self.out, metric, self.style.format);
                *headed = true;
            }
            let labels = |out: &mut Vec<u8>| {
                out.extend_from_slice(named.state.entity.rendered(identity_labels));
                out.extend_from_slice(own_labels.get(named.sample.combination).map(Vec::as_slice).unwrap_or_default());
                if let Some(culprit) = &named.culprit {
                    push_more_labels(out, culprit.labels());
                }
            };
            if let Value::Histogram(histogram) = named.sample.value {
                histogram::push(&mut self.out, metric.name, labels, histogram, self.style);
            } else {
                self.out.extend_from_slice(of_metric.as_bytes());
                labels(&mut self.out);
                push_number(&mut self.out, named.sample.value);
            }
            if self.out.len() >= CHUNK_BYTES {
                writer.write_all(&self.out)?;
                self.out.clear();
            }
        }
        Ok(())
    }
}

fn identity_labels(entity: &Entity) -> Vec<u8> {
    let mut labels = Vec::with_capacity(160);
    for (at, (name, value)) in identity(entity).enumerate() {
        if at > 0 {
            labels.push(b',');
        }
        push_label(&mut labels, name, value);
    }
    labels
}

/// Labels with a leading comma each.
fn push_more_labels<'a>(out: &mut Vec<u8>, labels: impl Iterator<Item = (&'static str, &'a str)>) {
    for (name, value) in labels {
        out.push(b',');
        push_label(out, name, value);
    }
}

fn push_header(out: &mut Vec<u8>, metric: &Metric, format: Format) {
    // OpenMetrics names the family of a counter without the suffix that its samples carry.
    let name = match (format, metric.kind) {
        (Format::OpenMetrics, Kind::Counter) => stem(metric.name),
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
    let unit = unit(metric, name);
    if format == Format::OpenMetrics && !unit.is_empty() {
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

pub(super) fn push_all(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

pub(super) fn push_label(out: &mut Vec<u8>, name: &str, value: &str) {
    push_all(out, &[name, "=\""]);
    push_escaped(out, value, true);
    out.push(b'"');
}

pub(super) fn push_escaped(out: &mut Vec<u8>, text: &str, quotes: bool) {
    for &byte in text.as_bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            _ => out.push(byte),
        }
    }
}

pub(super) fn push_integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Nanoseconds as decimal seconds, to the last digit.
pub(super) fn push_seconds(out: &mut Vec<u8>, value_ns: u64) {
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

pub(super) fn push_float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else {
        push_all(out, &[&value.to_string()]);
    }
}
