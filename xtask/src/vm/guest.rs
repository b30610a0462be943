//! The guest's files: what every guest has, and what its command needs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use object::{Object as _, ObjectKind};

use super::archive::Archive;
use crate::{debian, places, process};

const INIT: &str = include_str!("init.sh");
/// The guest's shell and commands: suite and package.
const BUSYBOX: (&str, &str) = ("trixie", "busybox-static");
const CONSOLE: (u32, u32) = (5, 1);
/// Mount points that the first process expects.
const DIRECTORIES: &[&str] = &["bin", "dev", "disk", "proc", "run", "sys", "test", "test/bin", "tmp"];
/// What the first process runs, as a script of its shell.
const SCRIPT: &str = "test/run";

/// The files of a guest, by their paths in it.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    files: BTreeMap<String, Vec<u8>>,
}

impl Guest {
    /// A guest that can do nothing but run `script`.
    pub(super) fn new(script: &str) -> Result<Self> {
        let mut guest = Self { files: BTreeMap::new() };
        guest.put("init", INIT.as_bytes().to_vec());
        guest.put("bin/busybox", read(&busybox()?)?);
        guest.put(SCRIPT, script.as_bytes().to_vec());
        Ok(guest)
    }

    /// A guest that runs one static program of this machine.
    pub(super) fn with_program(program: &str, arguments: &[String]) -> Result<Self> {
        let bytes = read(Path::new(program))?;
        require_static(&bytes).with_context(|| format!("{program} cannot run in the virtual machine"))?;
        // Some programs act by the name that they are called by, so it stays.
        let name = Path::new(program).file_name().and_then(|name| name.to_str());
        let path = format!("test/bin/{}", name.unwrap_or("program"));
        let mut guest = Self::new(&format!("exec {}\n", words(&format!("/{path}"), arguments)))?;
        guest.put(&path, bytes);
        Ok(guest)
    }

    /// Another file, as `HOST_PATH:GUEST_PATH`.
    pub(super) fn add(&mut self, file: &str) -> Result<()> {
        let (host, guest) =
            file.split_once(':').with_context(|| format!("`{file}` is not of the form HOST_PATH:GUEST_PATH"))?;
        self.put(guest, read(Path::new(host))?);
        Ok(())
    }

    /// A file of this machine under its own path.
    pub(super) fn mirror(&mut self, path: &Path) -> Result<()> {
        self.put_at(path, read(path)?)
    }

    /// A program that cargo has built, under its own path, without what only a debugger reads: four fifths of its bytes,
    /// and all of the guest's files lie in its memory.
    pub(super) fn mirror_stripped(&mut self, path: &Path) -> Result<()> {
        let stripped = path.with_extension("stripped");
        process::output(Command::new("strip").arg("--strip-debug").arg("-o").args([&*stripped, path]))?;
        self.put_at(path, read(&stripped)?)
    }

    fn put_at(&mut self, path: &Path, bytes: Vec<u8>) -> Result<()> {
        self.put(path.to_str().with_context(|| format!("{} is not a path in UTF-8", path.display()))?, bytes);
        Ok(())
    }

    /// The files of a directory of this machine under another path.
    pub(super) fn mirror_to(&mut self, directory: &Path, guest: &str) -> Result<()> {
        let context = || format!("cannot list {}", directory.display());
        for entry in fs::read_dir(directory).with_context(context)? {
            let entry = entry.with_context(context)?;
            let name = entry.file_name();
            self.put(&format!("{guest}/{}", name.to_string_lossy()), read(&entry.path())?);
        }
        Ok(())
    }

    /// The archive that the kernel unpacks.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in DIRECTORIES {
            archive.directory(directory)?;
        }
        archive.device("dev/console", CONSOLE)?;
        for (path, bytes) in &self.files {
            for directory in directories_above(path) {
                archive.directory(directory)?;
            }
            archive.program(path, bytes)?;
        }
        archive.finish()
    }

    fn put(&mut self, path: &str, bytes: Vec<u8>) {
        self.files.insert(path.trim_start_matches('/').to_owned(), bytes);
    }
}

/// The static busybox, fetched once.
pub(crate) fn busybox() -> Result<PathBuf> {
    let (suite, package) = BUSYBOX;
    let tree = debian::debian_package(suite, package, &places::cache()?)?;
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| tree.join(path))
        .find(|path| path.exists())
        .with_context(|| format!("the package {package} has no busybox below {}", tree.display()))
}

/// A command of the guest's shell.
pub(super) fn words(program: &str, arguments: &[String]) -> String {
    let words = arguments.iter().map(|argument| format!(" {}", quoted(argument)));
    format!("{}{}", quoted(program), words.collect::<String>())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Each directory that a path in the guest lies in, the outermost first.
fn directories_above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(end, _)| path.get(..end))
}

/// One word of the shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The guest has no libraries and no loader.
fn require_static(bytes: &[u8]) -> Result<()> {
    let file = object::File::parse(bytes).context("it is not an ELF program")?;
    ensure!(file.architecture() == object::Architecture::X86_64, "it is for {:?}, not for x86_64", file.architecture());
    ensure!(matches!(file.kind(), ObjectKind::Executable | ObjectKind::Dynamic), "it is not linked");
    if file.section_by_name(".interp").is_some() {
        bail!("it needs shared libraries: build it with `--target x86_64-unknown-linux-musl`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::env;

    use super::{directories_above, read, require_static, words};

    #[test]
    fn arguments_reach_the_guest_as_they_are() {
        let arguments = ["a b", "it's", "$HOME", ""].map(str::to_owned);
        assert_eq!(words("/test/bin/a", &arguments), "'/test/bin/a' 'a b' 'it'\\''s' '$HOME' ''");
        assert_eq!(words("/test/bin/it's", &[]), "'/test/bin/it'\\''s'");
    }

    #[test]
    fn a_program_with_shared_libraries_is_refused_before_it_boots() {
        let dynamic = read(&env::current_exe().unwrap()).unwrap();
        for (bytes, part) in [(dynamic.as_slice(), "shared libraries"), (b"#!/bin/sh\n", "not an ELF program")] {
            let error = format!("{:#}", require_static(bytes).unwrap_err());
            assert!(error.contains(part), "no `{part}` in {error}");
        }
    }

    #[test]
    fn the_directories_of_an_extra_file_are_made_from_the_outside() {
        let directories: Vec<&str> = directories_above("etc/podlens/config.yaml").collect();
        assert_eq!(directories, ["etc", "etc/podlens"]);
    }
}
