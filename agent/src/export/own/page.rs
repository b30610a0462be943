//! The agent's own metrics on the page: as text by the `prometheus` crate, as protobuf by our own encoder.

use prometheus::{
    Encoder as _, TextEncoder,
    proto::{Metric, MetricFamily, MetricType},
};

use crate::{
    export::{
        prometheus::{
            Format,
            protobuf::{self, field},
        },
        proto,
    },
    telemetry::SelfTelemetry,
};

/// All of the agent's own metrics, without the page's end.
#[must_use]
pub fn page(telemetry: &SelfTelemetry, format: Format) -> Vec<u8> {
    let families = [telemetry.gather(), telemetry.gather_process()].concat();
    let mut page = Vec::new();
    if format == Format::Protobuf {
        for family in &families {
            push_family(&mut page, family);
        }
        return page;
    }
    if let Err(error) = TextEncoder::new().encode(&families, &mut page) {
        // The rest of the page is worth having.
        tracing::error!(%error, "the agent's own metrics could not be encoded");
        return Vec::new();
    }
    match (format, str::from_utf8(&page)) {
        (Format::OpenMetrics, Ok(text)) => open_metrics(text).into_bytes(),
        _ => page,
    }
}

/// Writes one of the kinds that the agent has. A distribution has its own buckets, which are no powers of two: they stay
/// classic.
fn push_family(out: &mut Vec<u8>, family: &MetricFamily) {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => field::TYPE_COUNTER,
        MetricType::HISTOGRAM => field::TYPE_HISTOGRAM,
        MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => field::TYPE_GAUGE,
    };
    protobuf::push_family(out, family.name(), family.help(), kind, |out| {
        for metric in family.get_metric() {
            proto::nested(out, field::FAMILY_METRIC, |out| push_metric(out, metric, kind));
        }
    });
}

fn push_metric(out: &mut Vec<u8>, metric: &Metric, kind: u64) {
    metric.get_label().iter().for_each(|label| protobuf::push_label(out, label.name(), label.value()));
    match kind {
        field::TYPE_COUNTER => protobuf::push_value(out, field::METRIC_COUNTER, metric.get_counter().get_value()),
        field::TYPE_HISTOGRAM => proto::nested_long(out, field::METRIC_HISTOGRAM, |out| {
            let histogram = metric.get_histogram();
            protobuf::push_count_and_sum(out, histogram.get_sample_count(), histogram.get_sample_sum());
            for bucket in histogram.get_bucket() {
                protobuf::push_bucket(out, bucket.cumulative_count(), bucket.upper_bound());
            }
        }),
        _ => protobuf::push_value(out, field::METRIC_GAUGE, metric.get_gauge().get_value()),
    }
}

/// Text 0.0.4 as `OpenMetrics`: a counter's family loses the suffix of its samples, quotes in help are escaped.
pub(super) fn open_metrics(text: &str) -> String {
    let mut page = String::with_capacity(text.len() + 64);
    // TYPE follows HELP, and only TYPE tells what the family is.
    let mut help: Option<(&str, &str)> = None;
    let mut push = |parts: &[&str]| parts.iter().for_each(|part| page.push_str(part));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').unwrap_or((rest, "")));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let family = match kind {
                "counter" => name.strip_suffix("_total").unwrap_or(name),
                _ => name,
            };
            if let Some((_, text)) = help.take() {
                push(&["# HELP ", family, " ", &text.replace('"', "\\\""), "\n"]);
            }
            push(&["# TYPE ", family, " ", kind, "\n"]);
        } else {
            push(&[line, "\n"]);
        }
    }
    page
}
