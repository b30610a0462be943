//! Running other programs: quietly for checks, watched for long work, loudly for builds and tests.
//!
//! Not for the daemon under `cargo xtask run`, which needs its signals forwarded (`run`).

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a long command says that it is still at work.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// How many of a failed command's last lines are shown.
const LAST_LINES: usize = 15;
/// How much of a command's latest line is shown beside the time, in characters.
const LINE_WIDTH: usize = 70;

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a short command and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes(command)?).into_owned())
}

/// The same as bytes.
pub(crate) fn bytes(command: &mut Command) -> Result<Vec<u8>> {
    let shown = describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Runs a command whose output belongs on the terminal, and fails unless it succeeds.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let shown = describe(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs a long command: a line now and then while it works, its last lines only if it fails.
pub(crate) fn watched(what: &str, command: &mut Command) -> Result<()> {
    let shown = describe(command);
    let start = Instant::now();
    let mut last_lines = VecDeque::new();
    let mut next_report = REPORT_EVERY;
    let status = for_each_line(command, &shown, |line| {
        if let Some(line) = line {
            if last_lines.len() == LAST_LINES {
                last_lines.pop_front();
            }
            last_lines.push_back(line);
        }
        if start.elapsed() >= next_report {
            let latest = last_lines.back().map_or("", String::as_str).trim();
            let latest: String = latest.chars().take(LINE_WIDTH).collect();
            println!("    still {what}, {} s: {latest}", start.elapsed().as_secs());
            next_report = start.elapsed() + REPORT_EVERY;
        }
    })?;
    if status.success() {
        return Ok(());
    }
    let lines: Vec<String> = last_lines.iter().map(|line| format!("      {line}")).collect();
    bail!("`{shown}` ended with {status}; its last lines:\n{}", lines.join("\n"))
}

/// Runs a command, shows its standard output and hands each line of it to `line`.
pub(crate) fn echoed(command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let shown = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = child.stdout.take().context("the child's standard output is not a pipe")?;
    let mut reader = BufReader::new(stdout);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).with_context(|| format!("cannot read from `{shown}`"))? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        print!("{text}");
        line(text.trim_end());
        bytes.clear();
    }
    child.wait().with_context(|| format!("cannot wait for `{shown}`"))
}

/// Hands each line of both outputs to `event`, and nothing about once a second.
fn for_each_line(command: &mut Command, shown: &str, mut event: impl FnMut(Option<String>)) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        send_lines(stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        send_lines(stderr, sender.clone());
    }
    drop(sender);
    loop {
        match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => event(Some(line)),
            Err(RecvTimeoutError::Timeout) => event(None),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    child.wait().with_context(|| format!("cannot wait for `{shown}`"))
}

fn send_lines(output: impl Read + Send + 'static, sender: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::{echoed, output, watched};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failed_command_is_reported_with_its_last_lines_of_both_outputs() {
        let error =
            watched("trying", &mut shell("seq 100; sleep 0.5; echo broken >&2; exit 3")).unwrap_err().to_string();
        for part in ["sh -c", "exit status: 3", "      broken", "      100"] {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
        assert!(!error.contains("      50\n"), "too many lines in {error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = output(&mut Command::new("no-such-program-anywhere")).unwrap_err().to_string();
        assert_eq!(error, "cannot start `no-such-program-anywhere`");
    }

    #[test]
    fn every_line_reaches_the_reader_even_without_a_newline_at_the_end() {
        let mut lines = Vec::new();
        let status = echoed(&mut shell("printf 'a\\nb'"), |line| {
            lines.push(line.to_owned());
        })
        .unwrap();
        assert!(status.success());
        assert_eq!(lines, ["a", "b"]);
    }
}
