//! Modules of the kernel that a virtual machine was given, as files beside each other (xtask/src/kernels).

use std::{fs, path::Path, process::Command};

/// Loads a module, unless it is there; gives whether there is such a file at all.
pub fn load_module(name: &str, options: &[&str]) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let file = Path::new("/lib/modules").join(release.trim()).join(format!("{name}.ko"));
    if !file.exists() {
        return false;
    }
    if !Path::new("/sys/module").join(name.replace('-', "_")).exists() {
        run(Command::new("insmod").arg(file).args(options));
    }
    true
}

/// Runs a command that has to succeed.
#[track_caller]
pub fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
