//! The log: lines on standard error, for people or as JSON.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process.
pub fn start(log: &Log) {
    // The libraries below podlens speak up only when something is wrong.
    let level: LevelFilter = log.level.as_str().parse().unwrap_or(LevelFilter::INFO);
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("podlens", level);
    #[cfg(feature = "kernel-log")]
    let filter = filter.with_target("kernel", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let start = tracing_subscriber::registry().with(filter);
    // A second start, in a test for instance, keeps the first.
    let _ = match log.format {
        LogFormat::Text => start.with(lines).try_init(),
        LogFormat::Json => start.with(lines.json()).try_init(),
    };
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}
