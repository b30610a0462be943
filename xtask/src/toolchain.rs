//! The steps that complete the Rust toolchain: the standard library's source, the BPF linker, the musl target.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    debian::Archive,
    places, process,
    step::{Purpose, Step},
};

/// The oldest compiler that builds the workspace, as `rust-version` in the root Cargo.toml.
const OLDEST_RUSTC: (u32, u32) = (1, 95);
/// Later versions need a system LLVM; this one uses the compiler's own.
const BPF_LINKER_VERSION: &str = "0.10.4";
/// Runs the fuzz targets; of the same time as libfuzzer-sys in agent/fuzz/Cargo.toml.
const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// Checks licences, duplicate versions and sources by deny.toml.
const CARGO_DENY_VERSION: &str = "0.20.2";
/// Debian's suites that may have the source of a recent compiler.
const LIBRARY_SOURCE_SUITES: &[&str] = &["trixie-backports", "forky", "sid"];
/// Beside a library source that did not come by rustup: the version of the compiler that it belongs to.
const SOURCE_VERSION_FILE: &str = "podlens-source-version";

/// The Rust and C compilers, which a person installs.
pub(crate) const COMPILER: Step = Step {
    name: "compilers",
    why: "to build anything",
    purpose: Purpose::Build,
    check: || {
        let (major, minor) = OLDEST_RUSTC;
        let release = rustc_release()?;
        if major_and_minor(&release).is_none_or(|found| found < OLDEST_RUSTC) {
            bail!("rustc is {release}, older than {major}.{minor}");
        }
        if places::program("cc").is_none() {
            bail!("there is no C compiler (cc)");
        }
        Ok(format!("rustc {release}, cc"))
    },
    act: || bail!("this step installs nothing"),
    remedy: "install rustup, run `rustup update stable`, and install a C compiler (Debian: apt-get install gcc libc6-dev)",
};

/// The source of `core`, which is compiled for the BPF target.
pub(crate) const LIBRARY_SOURCE: Step = Step {
    name: "standard library source",
    why: "to compile `core` for the kernel programs",
    purpose: Purpose::Build,
    check: check_library_source,
    act: add_library_source,
    remedy: "run `rustup component add rust-src`, or put the folder `library` of exactly this compiler's \
             source below lib/rustlib/src/rust of the toolchain",
};

/// The linker of the kernel programs.
pub(crate) const BPF_LINKER: Step = Step {
    name: "bpf-linker",
    why: "to link the kernel programs",
    purpose: Purpose::Build,
    check: || version_of(Command::new("bpf-linker").arg("--version"), BPF_LINKER_VERSION),
    act: || install("bpf-linker", BPF_LINKER_VERSION, &[]),
    remedy: "see that crates can be downloaded and that cargo's bin directory is on PATH",
};

/// The driver of the fuzz targets.
pub(crate) const FUZZER: Step = Step {
    name: "cargo-fuzz",
    why: "to run fuzz targets",
    purpose: Purpose::Test,
    check: || {
        if places::program("c++").is_none() {
            bail!("there is no C++ compiler (c++), which libFuzzer needs");
        }
        version_of(Command::new("cargo").args(["fuzz", "--version"]), CARGO_FUZZ_VERSION)
    },
    act: || install("cargo-fuzz", CARGO_FUZZ_VERSION, &[]),
    remedy: "install a C++ compiler (Debian: apt-get install g++), and see that crates can be downloaded",
};

/// The judge of licences, versions and sources of what podlens depends on.
pub(crate) const DENY: Step = Step {
    name: "cargo-deny",
    why: "to check the dependencies",
    purpose: Purpose::Test,
    check: || version_of(Command::new("cargo").args(["deny", "--version"]), CARGO_DENY_VERSION),
    // It works for a second at each test; its own profile would take minutes to make that a little less.
    act: || install("cargo-deny", CARGO_DENY_VERSION, &[("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "0")]),
    remedy: "see that crates can be downloaded and that cargo's bin directory is on PATH",
};

/// The standard library of the static binary.
pub(crate) const MUSL_TARGET: Step = Step {
    name: "musl target",
    why: "to link the static binary",
    purpose: Purpose::Static,
    check: || {
        let library = sysroot()?.join("lib/rustlib").join(musl_target()).join("lib/self-contained");
        if !library.is_dir() {
            bail!("the toolchain has no {}", musl_target());
        }
        Ok(musl_target())
    },
    act: || process::watched("adding the musl target", Command::new("rustup").args(["target", "add", &musl_target()])),
    remedy: "see that rustup can reach its server; without it, `cargo xtask build --release` still makes a binary for this machine",
};

/// The version that a program prints last, if it is the one that is wanted.
fn version_of(command: &mut Command, wanted: &str) -> Result<String> {
    let printed = process::output(command)?;
    let version = printed.split_whitespace().last().unwrap_or("unknown");
    if version != wanted {
        bail!("its version is {version}, not {wanted}");
    }
    Ok(version.to_owned())
}

/// Builds a program from its crate, with these settings of the release profile.
fn install(program: &str, version: &str, profile: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["install", program, "--version", version, "--locked", "--force"]);
    command.envs(profile.iter().map(|(key, value)| (format!("CARGO_PROFILE_RELEASE_{key}"), value)));
    process::watched(&format!("building {program}"), &mut command)
}

/// The target of the static binary on this machine's architecture.
pub(crate) fn musl_target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

fn check_library_source() -> Result<String> {
    let release = rustc_release()?;
    let installed = sysroot()?.join("lib/rustlib");
    let source = installed.join("src/rust");
    if !source.join("library/core/src/lib.rs").is_file() || !source.join("library/Cargo.lock").is_file() {
        bail!("the toolchain has no source of its library");
    }
    let components = fs::read_to_string(installed.join("components")).unwrap_or_default();
    let version = fs::read_to_string(source.join(SOURCE_VERSION_FILE)).unwrap_or_default();
    judge_library_source(&components, &version, &release)
}

/// A rustup component always belongs to its compiler; any other source must say so.
fn judge_library_source(components: &str, version: &str, release: &str) -> Result<String> {
    match version.trim() {
        _ if components.lines().any(|line| line == "rust-src") => Ok(format!("{release}, a rustup component")),
        "" => bail!("nothing tells that the toolchain's library source belongs to rustc {release}"),
        version if version == release => Ok(format!("{release}, from Debian")),
        version => {
            bail!("the toolchain's library source is of {version}, the compiler is {release}")
        }
    }
}

fn add_library_source() -> Result<()> {
    let added = process::watched("adding rust-src", Command::new("rustup").args(["component", "add", "rust-src"]));
    // rustup also says that all is well where it knows the component, but its files are gone.
    let Err(refused) = added.and_then(|()| check_library_source()) else {
        return Ok(());
    };
    println!("    rustup could not add it: {refused:#}\n    trying Debian's package");
    let release = rustc_release()?;
    let library = library_from_debian(&release)?;
    let source = sysroot()?.join("lib/rustlib/src/rust");
    replace_library(&library, &source, &release)
}

/// The folder `library` in Debian's package of exactly this release.
fn library_from_debian(release: &str) -> Result<PathBuf> {
    let tree = places::component(&format!("rust-src-{release}"))?;
    let library = tree.join(format!("usr/src/rustc-{release}/library"));
    for suite in LIBRARY_SOURCE_SUITES {
        if library.is_dir() {
            return Ok(library);
        }
        let archive = Archive::open(suite, &places::cache()?)?;
        let versions = archive.versions(&["rust-src".to_owned()])?;
        if let Some(package) = versions.iter().find(|package| is_of_release(&package.version, release)) {
            archive.unpack(package, &tree)?;
        }
    }
    if !library.is_dir() {
        bail!("Debian's {} have no rust-src of {release}", LIBRARY_SOURCE_SUITES.join(", "));
    }
    Ok(library)
}

/// Whether a Debian version such as `1.95.0+dfsg1-2~bpo13+1` packs this release.
fn is_of_release(version: &str, release: &str) -> bool {
    version.strip_prefix(release).is_some_and(|rest| rest.starts_with(['+', '-', '~']))
}

/// Puts a copy of `library` below `source`, complete or not at all, and marks it with its version.
fn replace_library(library: &Path, source: &Path, release: &str) -> Result<()> {
    let partial = source.join("library.partial");
    let place = source.join("library");
    for old in [&partial, &place] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    fs::create_dir_all(source).with_context(|| format!("cannot make {}", source.display()))?;
    process::output(Command::new("cp").arg("-a").args([library, &partial]))?;
    fs::rename(&partial, &place).with_context(|| format!("cannot put {} into its place", place.display()))?;
    let version_file = source.join(SOURCE_VERSION_FILE);
    fs::write(&version_file, release).with_context(|| format!("cannot write {}", version_file.display()))
}

/// The directory of the toolchain in use, which is also the one that agent/build.rs uses.
fn sysroot() -> Result<PathBuf> {
    let printed = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(printed.trim()))
}

fn rustc_release() -> Result<String> {
    let printed = process::output(Command::new("rustc").arg("-vV"))?;
    let release = printed.lines().find_map(|line| line.strip_prefix("release: "));
    Ok(release.context("rustc -vV prints no release")?.to_owned())
}

/// Major and minor version in a text such as `1.95.0`, `1.97.0-nightly` or `3.5.3+ds`.
pub(crate) fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, path::PathBuf, process};

    use super::{SOURCE_VERSION_FILE, is_of_release, judge_library_source, major_and_minor, replace_library};

    #[test]
    fn versions_compare_as_numbers() {
        let table = [
            ("1.95.0", Some((1, 95))),
            ("1.100.0-nightly", Some((1, 100))),
            ("3.5.3+ds", Some((3, 5))),
            ("2", None),
            ("x.1", None),
        ];
        for (version, expected) in table {
            assert_eq!(major_and_minor(version), expected, "{version}");
        }
        assert!(major_and_minor("1.100.0") > major_and_minor("1.95.0"));
    }

    #[test]
    fn a_package_fits_by_its_whole_release() {
        let table =
            [("1.95.0+dfsg1-2~bpo13+1", true), ("1.95.0-1", true), ("1.95.01-1", false), ("1.96.1+dfsg1-2", false)];
        for (version, expected) in table {
            assert_eq!(is_of_release(version, "1.95.0"), expected, "{version}");
        }
    }

    #[test]
    fn only_a_source_of_the_compiler_in_use_is_accepted() {
        let table = [
            ("rustc\nrust-src\n", "", Some("a rustup component")),
            ("rustc\nrust-src-old\n", "", None),
            ("rustc\n", "1.95.0\n", Some("from Debian")),
            ("rustc\n", "1.94.0", None),
        ];
        for (components, version, expected) in table {
            let verdict = judge_library_source(components, version, "1.95.0");
            match expected {
                Some(expected) => assert!(verdict.unwrap().contains(expected)),
                None => assert!(verdict.is_err(), "{components:?} {version:?} is accepted"),
            }
        }
    }

    #[test]
    fn a_copied_source_replaces_an_older_one_whole_and_carries_its_version() {
        let root = temporary("library");
        let (library, source) = (root.join("package/library"), root.join("toolchain"));
        fs::create_dir_all(library.join("core/src")).unwrap();
        fs::write(library.join("core/src/lib.rs"), "new").unwrap();
        fs::create_dir_all(source.join("library/gone")).unwrap();
        replace_library(&library, &source, "1.95.0").unwrap();
        assert_eq!(fs::read_to_string(source.join("library/core/src/lib.rs")).unwrap(), "new");
        assert!(!source.join("library/gone").exists());
        assert_eq!(fs::read_to_string(source.join(SOURCE_VERSION_FILE)).unwrap(), "1.95.0");
        fs::remove_dir_all(root).unwrap();
    }

    fn temporary(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("podlens-xtask-{name}-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }
}
