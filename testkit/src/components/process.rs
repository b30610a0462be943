//! A component's process with its directory and its log. Ends with the value.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::START_WITHIN;
use crate::wait_for;

/// How much of a log a failure shows, in lines.
const LAST_LINES: usize = 20;

/// A directory of its own, removed with the value.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn new(name: &str) -> Self {
        let directory = tempfile::Builder::new().prefix(&format!("podlens-{name}-")).tempdir();
        Self(directory.unwrap_or_else(|error| panic!("cannot make a directory for {name}: {error}")))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into it and returns the file's path.
    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }
}

/// A running component.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    // Dropped after the child was ended, since fields drop after `Drop::drop`.
    _directory: Directory,
}

impl Process {
    /// Starts `command`, both its outputs going to one log in `directory`.
    pub(super) fn start(name: &'static str, mut command: Command, directory: Directory) -> Self {
        let log = directory.write("log", "");
        let output = || {
            fs::OpenOptions::new()
                .append(true)
                .open(&log)
                .unwrap_or_else(|error| panic!("cannot open {}: {error}", log.display()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { name, child, log, _directory: directory }
    }

    /// Waits until `ready` has no objection; panics with the log if the process ends or the time is over.
    pub(super) fn wait_until_ready(&mut self, mut ready: impl FnMut() -> Result<(), String>) {
        let log = self.log.clone();
        let (name, child) = (self.name, &mut self.child);
        wait_for(&format!("start of {name}"), START_WITHIN, || {
            let ended = child.try_wait().expect("a child's state can be read");
            assert!(ended.is_none(), "{name} ended with {ended:?} at its start:\n{}", last_lines(&log));
            ready().map_err(|refusal| format!("{refusal}; its log ends with\n{}", last_lines(&log)))
        });
    }

    /// Everything that it wrote so far.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
}
