//! A distribution as the lines of a classic histogram. Called by the encoder.

use super::{Format, push_all, push_integer, push_seconds};
use crate::signal::Histogram;

/// The classic buckets: position of the kernel's bucket that ends there, and its bound in seconds as a decimal.
/// Every one is a kernel bound, so nothing is interpolated; steps of four from 1 us to 4 s.
pub(in crate::export) const BOUNDS: [(usize, &str); 12] = [
    (4, "9.5367431640625e-07"),
    (6, "3.814697265625e-06"),
    (8, "1.52587890625e-05"),
    (10, "6.103515625e-05"),
    (12, "0.000244140625"),
    (14, "0.0009765625"),
    (16, "0.00390625"),
    (18, "0.015625"),
    (20, "0.0625"),
    (22, "0.25"),
    (24, "1.0"),
    (26, "4.0"),
];

/// Writes one sample's lines. Each takes its labels from the first one's, as one piece.
pub(super) fn push(
    out: &mut Vec<u8>,
    name: &str,
    labels: impl FnOnce(&mut Vec<u8>),
    histogram: Histogram<'_>,
    format: Format,
) {
    let first = out.len();
    push_all(out, &[name, "_bucket{"]);
    let start = out.len();
    labels(out);
    let labels = start..out.len();
    out.extend_from_slice(b",le=\"");
    let head = first..out.len();
    let (mut cumulative, mut next) = (0_u64, 0_usize);
    for (last, bound) in BOUNDS {
        if next > 0 {
            out.extend_from_within(head.clone());
        }
        let ended = histogram.buckets().get(next..=last).unwrap_or_default();
        cumulative += ended.iter().sum::<u64>();
        next = last + 1;
        // Text writes whole numbers without a fraction, OpenMetrics with one.
        let bound = match format {
            Format::Text => bound.strip_suffix(".0").unwrap_or(bound),
            Format::OpenMetrics => bound,
        };
        push_all(out, &[bound, "\"} "]);
        push_integer(out, cumulative);
        out.push(b'\n');
    }
    let count = histogram.count();
    out.extend_from_within(head);
    out.extend_from_slice(b"+Inf\"} ");
    push_integer(out, count);
    out.push(b'\n');
    for (suffix, is_sum) in [("_sum{", true), ("_count{", false)] {
        push_all(out, &[name, suffix]);
        out.extend_from_within(labels.clone());
        out.extend_from_slice(b"} ");
        if is_sum {
            push_seconds(out, histogram.sum_ns());
        } else {
            push_integer(out, count);
        }
        out.push(b'\n');
    }
}
