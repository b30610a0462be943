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

/// An error and what caused it, in one line. Texts that tell their cause themselves, as some of libraries do, are not followed
/// by it.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt};

    use super::with_causes;

    /// A text for each cause, the outermost first.
    #[derive(Debug)]
    struct Chain(&'static str, Option<Box<Self>>);

    impl fmt::Display for Chain {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Chain {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    #[track_caller]
    fn check(texts: &[&'static str], expected: &str) {
        let chain = texts.iter().rev().fold(None, |cause, text| Some(Box::new(Chain(text, cause))));
        assert_eq!(chain.map(|error| with_causes(&*error)).as_deref(), Some(expected));
    }

    #[test]
    fn each_cause_is_told_once() {
        check(&["cannot a"], "cannot a");
        check(&["cannot a", "cannot b", "no c"], "cannot a: cannot b: no c");
        // At its end, in it with a remedy behind, by two, and of a cause that tells nothing of its own.
        check(&["cannot a", "cannot b: no c", "no c"], "cannot a: cannot b: no c");
        check(&["cannot a: no c; do d", "no c"], "cannot a: no c; do d");
        check(&["cannot a: cannot b: no c", "cannot b: no c", "no c"], "cannot a: cannot b: no c");
        check(&["cannot a", "no c", "no c"], "cannot a: no c");
    }
}
