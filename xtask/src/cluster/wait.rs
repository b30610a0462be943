//! Waiting with a limit, so that no step of the cluster can hang and every failure tells its reason. Called by the
//! rest of this folder.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

const SHOWN_LINES: usize = 20;
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// `program`, ended by timeout(1) after `seconds`.
pub(crate) fn bounded(seconds: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--foreground").arg(seconds.to_string()).arg(program);
    command
}

/// Asks `done` until it says yes; its last answer and the end of `log` are in the error.
pub(crate) fn wait_until(what: &str, limit: Duration, log: &Path, mut done: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    loop {
        let Err(answer) = done() else { return Ok(()) };
        if started.elapsed() >= limit {
            let text = fs::read_to_string(log).unwrap_or_default();
            return Err(answer).with_context(|| {
                format!(
                    "cannot wait longer than {} s for {what}; the last lines of {}:\n{}\nand the last answer",
                    limit.as_secs(),
                    log.display(),
                    last_lines(&text)
                )
            });
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(SHOWN_LINES);
    lines.into_iter().skip(skipped).map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        env, fs, process,
        time::{Duration, Instant},
    };

    use anyhow::bail;

    use super::{bounded, wait_until};

    #[test]
    fn a_program_that_hangs_is_ended() {
        let started = Instant::now();
        assert!(!bounded(1, "sleep").arg("30").status().unwrap().success());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_failed_wait_tells_the_answer_and_only_the_end_of_the_log() {
        let log = env::temp_dir().join(format!("podlens-wait-{}", process::id()));
        let lines: String = ["line 50.\n", "\n".repeat(40).as_str(), "line 99.\n"].concat();
        fs::write(&log, lines).unwrap();
        let failure = wait_until("etcd", Duration::ZERO, &log, || bail!("connection refused")).unwrap_err();
        fs::remove_file(&log).unwrap();
        let text = format!("{failure:#}");
        for part in ["for etcd", "line 99.", "connection refused"] {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
        assert!(!text.contains("line 50."), "too many lines in {text}");
    }
}
