//! A distribution as the lines of a classic histogram, and the classic buckets of all formats. Called by the encoders.

use super::{
    Format, Style,
    text::{push_all, push_integer, push_seconds},
};
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

/// The classic buckets of a distribution: which one, and how many observations are in it or below.
pub(super) fn classic(histogram: Histogram<'_>) -> impl Iterator<Item = (usize, u64)> {
    BOUNDS.iter().scan((0, 0), move |(next, cumulative), (last, _)| {
        let ended = histogram.buckets().get(*next..=*last).unwrap_or_default();
        *cumulative += ended.iter().sum::<u64>();
        *next = last + 1;
        Some((*last, *cumulative))
    })
}

/// Writes one sample's lines. Each takes its labels from the first one's, as one piece.
pub(super) fn push(
    out: &mut Vec<u8>,
    name: &str,
    labels: impl FnOnce(&mut Vec<u8>),
    histogram: Histogram<'_>,
    style: Style,
) {
    let first = out.len();
    push_all(out, &[name, "_bucket{"]);
    let start = out.len();
    labels(out);
    let labels = start..out.len();
    out.extend_from_slice(b",le=\"");
    let head = first..out.len();
    // Without classic buckets the one of all observations is left, which a histogram must have.
    let buckets = classic(histogram).zip(BOUNDS).filter(|_| style.has_classic());
    for ((_, cumulative), (_, bound)) in buckets {
        // Text writes whole numbers without a fraction, OpenMetrics with one.
        let bound = if style.format == Format::OpenMetrics { bound } else { bound.strip_suffix(".0").unwrap_or(bound) };
        push_all(out, &[bound, "\"} "]);
        push_integer(out, cumulative);
        out.push(b'\n');
        out.extend_from_within(head.clone());
    }
    let count = histogram.count();
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
