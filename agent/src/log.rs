//! The log: lines on standard error, for people or as JSON.

use std::{
    borrow::Cow,
    io::{self, Write},
};

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
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    // It would tell of a full disk behind standard error there, and end the process by that.
    let lines = lines.log_internal_errors(false);
    let start = tracing_subscriber::registry().with(filter);
    // A second start, in a test for instance, keeps the first.
    let _ = match log.format {
        LogFormat::Text => start.with(lines.with_writer(|| OneLine(io::stderr()))).try_init(),
        LogFormat::Json => start.with(lines.json()).try_init(),
    };
}

/// Takes what is written at once as one line. Whoever's words are in it, they neither begin another one nor steer a terminal.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(as_one_line(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Every control character as an escape, but for the line's end.
fn as_one_line(text: &str) -> Cow<'_, str> {
    let (within, end) = text.strip_suffix('\n').map_or((text, ""), |within| (within, "\n"));
    if !within.contains(char::is_control) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 16);
    for character in within.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line.push_str(end);
    line.into()
}

/// Characters of a peer's words that the log has.
const SHOWN_CHARACTERS: usize = 200;

/// The beginning of what a peer says. As the value of a field it is quoted, so that all of it is told from podlens' own words.
#[must_use]
pub fn beginning(said: &str) -> String {
    said.trim().chars().take(SHOWN_CHARACTERS).collect()
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

    use super::{OneLine, Write as _, beginning, with_causes};

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

    #[test]
    fn an_event_is_one_line_whatever_a_peer_says() {
        let written = |text: &str| {
            let mut line = OneLine(Vec::new());
            line.write_all(text.as_bytes()).ok();
            String::from_utf8(line.0).unwrap_or_default()
        };
        assert_eq!(written("INFO serving é node=\"n\"\n"), "INFO serving é node=\"n\"\n");
        let forged = "WARN a refusal detail=/\n2026 INFO all is well\r\u{1b}[31m\u{9b}2J\u{7f}\n";
        let expected = "WARN a refusal detail=/\\n2026 INFO all is well\\r\\u{1b}[31m\\u{9b}2J\\u{7f}\n";
        assert_eq!(written(forged), expected);
    }

    #[test]
    fn of_what_a_peer_says_the_log_has_the_beginning() {
        assert_eq!(beginning(" too old\n"), "too old");
        assert_eq!(beginning(&"é".repeat(60_000)), "é".repeat(200));
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
