//! The agent's own metrics as text.

use prometheus::{Encoder as _, TextEncoder};

use crate::{export::prometheus::Format, telemetry::SelfTelemetry};

/// All of the agent's own metrics, without the page's end.
#[must_use]
pub fn page(telemetry: &SelfTelemetry, format: Format) -> String {
    let mut page = Vec::new();
    for families in [telemetry.gather(), telemetry.gather_process()] {
        if let Err(error) = TextEncoder::new().encode(&families, &mut page) {
            // The rest of the page is worth having.
            tracing::error!(%error, "the agent's own metrics could not be encoded");
            return String::new();
        }
    }
    let page = String::from_utf8(page).unwrap_or_default();
    match format {
        Format::Text => page,
        Format::OpenMetrics => open_metrics(&page),
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
