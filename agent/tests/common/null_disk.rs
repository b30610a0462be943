//! Disks in memory that do as they are told, where the module `null_blk` is at hand: in the virtual machines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::modules::{load_module, run};

/// Where the kernel lists them.
const LIST: &str = "/sys/kernel/config/nullb";

/// A disk, removed with the value.
#[derive(Debug)]
pub struct NullDisk(&'static str);

impl NullDisk {
    /// One of that name, which begins with `nullb`, with settings by their names; none without the module.
    pub fn make(name: &'static str, settings: &[(&str, &str)]) -> Option<Self> {
        load()?;
        let directory = Path::new(LIST).join(name);
        fs::create_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for (name, value) in settings.iter().chain(&[("power", "1")]) {
            fs::write(directory.join(name), value).unwrap_or_else(|error| panic!("{name} = {value}: {error}"));
        }
        Some(Self(name))
    }

    /// Its device. Older kernels call it by a number of their own.
    pub fn path(&self) -> PathBuf {
        let named = Path::new("/dev").join(self.0);
        if named.exists() {
            return named;
        }
        let index = fs::read_to_string(Path::new(LIST).join(self.0).join("index")).unwrap();
        PathBuf::from(format!("/dev/nullb{}", index.trim()))
    }
}

impl Drop for NullDisk {
    fn drop(&mut self) {
        fs::remove_dir(Path::new(LIST).join(self.0)).expect("nobody uses it any more");
    }
}

/// Loads the modules and mounts what tells them what to do; none where they are not at hand.
fn load() -> Option<()> {
    if !Path::new(LIST).exists() {
        // Some kernels have one or the other built in.
        load_module("configfs", &[]);
        load_module("mq-deadline", &[]);
        if !load_module("null_blk", &["nr_devices=0"]) {
            return None;
        }
        run(Command::new("mount").args(["-t", "configfs", "configfs", "/sys/kernel/config"]));
    }
    Some(())
}
