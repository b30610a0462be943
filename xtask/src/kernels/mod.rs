//! Kernels that tests run on: Debian's boot images, as files in the cache, with their type information and a few of their
//! modules beside them.
//!
//! `vm` boots them; the tests of the agent's BTF reader know the place of the type information and read it there.

mod image;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    debian::{self, Archive, Package},
    places, process,
};

/// Which suites of Debian have a series, the one with the newest first.
const SERIES: &[(&str, &[&str])] = &[
    ("5.10", &["bullseye-security"]),
    ("6.1", &["bookworm-security", "bookworm"]),
    ("6.12", &["trixie-security", "trixie"]),
    ("7.2", &["forky", "sid"]),
];

/// The flavour for virtual machines: small, with the serial console and the control groups built in.
const FLAVOUR: &str = "-cloud-amd64";
/// Packages that hold a boot image. From 7.1 on it is in the second, and the first is empty.
const PREFIXES: &[&str] = &["linux-image-", APART_FROM];

/// Packages of the modules, where they are not in the same package: beside those of this beginning.
const MODULES_PREFIX: &str = "linux-modules-";
const APART_FROM: &str = "linux-binary-";
/// Modules that a machine's first process loads in this order, as far as the kernel does not have them built in: for the disk
/// that the machine has.
pub(crate) const DISK_MODULES: &[&str] =
    &["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"];
/// Modules that tests load: a disk in memory whose requests take as long as a test says, and a scheduler for it; disks that are
/// files; wires between network namespaces, and devices at whose other end is a program; a firewall.
const TEST_MODULES: &[&str] = &[
    "configfs",
    "null_blk",
    "mq-deadline",
    "loop",
    "veth",
    "tun",
    "crc32c_generic",
    "libcrc32c",
    "nfnetlink",
    "nf_tables",
];
/// The file that says which modules were asked for when a kernel was fetched.
const ASKED: &str = "modules.asked";

/// One kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// For example `6.12`.
    pub(crate) series: String,
    /// The package's version.
    pub(crate) version: String,
    /// The boot image.
    pub(crate) vmlinuz: PathBuf,
    /// Its type information.
    pub(crate) btf: PathBuf,
    /// The directory of its modules, named as the kernel names its release.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The version that the kernel's own developers gave it: the release, `uname -r`, does not always have its last number.
    pub(crate) fn upstream_version(&self) -> &str {
        self.version.split('-').next().unwrap_or(&self.version)
    }
}

/// All series that are known here.
pub(crate) fn all() -> Vec<&'static str> {
    SERIES.iter().map(|(series, _)| *series).collect()
}

/// The kernels of these series, all in the cache already.
pub(crate) fn present(series: &[&str]) -> Result<Vec<Kernel>> {
    let directory = directory()?;
    series.iter().map(|series| cached(&directory, series)).collect()
}

/// The kernels of these series; those that the cache lacks are fetched, the newest of the series.
pub(crate) fn ensure(series: &[&str]) -> Result<Vec<Kernel>> {
    let directory = directory()?;
    let mut kernels = Vec::new();
    for series in series {
        kernels.push(match cached(&directory, series) {
            Ok(kernel) => kernel,
            Err(_) => fetch(&directory, series).with_context(|| format!("cannot fetch a kernel of series {series}"))?,
        });
    }
    Ok(kernels)
}

/// What was asked for, as the file beside a kernel says it.
fn asked_modules() -> String {
    [DISK_MODULES, TEST_MODULES].concat().join(" ")
}

fn directory() -> Result<PathBuf> {
    Ok(places::cache()?.join("kernels"))
}

fn cached(directory: &Path, series: &str) -> Result<Kernel> {
    let home = directory.join(series);
    let version = home.join("version");
    let version = fs::read_to_string(&version).with_context(|| {
        format!(
            "there is no kernel of series {series} in {}; `cargo xtask setup --for vm` fetches it",
            directory.display()
        )
    })?;
    let asked = fs::read_to_string(home.join(ASKED)).unwrap_or_default();
    if asked != asked_modules() {
        bail!(
            "the kernel of series {series} in {} was fetched without modules that are asked for now; `cargo xtask setup --for vm` fetches it anew",
            directory.display()
        );
    }
    let modules = entries(&home.join("modules"))?;
    Ok(Kernel {
        series: series.to_owned(),
        version: version.trim().to_owned(),
        vmlinuz: home.join("vmlinuz"),
        btf: home.join("vmlinux.btf"),
        modules: modules.into_iter().next().with_context(|| format!("{} has no modules", home.display()))?,
    })
}

fn fetch(directory: &Path, series: &str) -> Result<Kernel> {
    let Some((_, suites)) = SERIES.iter().find(|(known, _)| *known == series) else {
        bail!("the series is unknown; known are {}", all().join(", "));
    };
    let home = directory.join(series);
    let partial = directory.join(format!("{series}.partial"));
    for suite in *suites {
        let archive = Archive::open(suite, &places::cache()?)?;
        let mut names = Vec::new();
        for prefix in PREFIXES {
            names.extend(archive.names(&format!("{prefix}{series}."))?);
        }
        let Some(package) = archive.newest(&boot_packages(names))? else {
            continue;
        };
        let tree = partial.join("tree");
        debian::remove(&partial)?;
        archive.unpack(&package, &tree)?;
        keep(&tree, &partial, &package)?;
        if let Some(release) = package.name.strip_prefix(APART_FROM) {
            let name = format!("{MODULES_PREFIX}{release}");
            archive.unpack(&Package { name, version: package.version.clone() }, &tree)?;
        }
        keep_modules(&tree, &partial.join("modules"))?;
        debian::remove(&tree)?;
        let asked = partial.join(ASKED);
        fs::write(&asked, asked_modules()).with_context(|| format!("cannot write {}", asked.display()))?;
        debian::remove(&home)?;
        fs::rename(&partial, &home).with_context(|| format!("cannot put {} into its place", home.display()))?;
        return cached(directory, series);
    }
    bail!(
        "Debian's {} no longer have a kernel {series}; choose the series that they have in xtask/src/kernels.rs",
        suites.join(" and ")
    )
}

/// Moves the boot image out of an unpacked package.
fn keep(tree: &Path, home: &Path, package: &Package) -> Result<()> {
    let found = boot_image(tree)?;
    let bytes = fs::read(&found).with_context(|| format!("cannot read {}", found.display()))?;
    let btf = image::type_information(&bytes)
        .with_context(|| format!("cannot take the type information out of {}", found.display()))?;
    for (name, bytes) in
        [("vmlinuz", bytes.as_slice()), ("vmlinux.btf", btf.as_slice()), ("version", package.version.as_bytes())]
    {
        let path = home.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Puts the modules that tests ask for into a directory named as the kernel's release.
fn keep_modules(tree: &Path, home: &Path) -> Result<()> {
    let parents = ["lib/modules", "usr/lib/modules"].map(|parent| tree.join(parent));
    let releases: Vec<PathBuf> = parents
        .iter()
        .filter(|parent| parent.exists())
        .map(|parent| entries(parent))
        .collect::<Result<Vec<_>>>()?
        .concat();
    for release in releases {
        let kept = home.join(release.file_name().unwrap_or_default());
        fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
        for name in DISK_MODULES.iter().chain(TEST_MODULES) {
            let Some(found) = module(&release.join("kernel"), name)? else { continue };
            let file = kept.join(format!("{name}.ko"));
            let bytes = if found.extension().is_some_and(|ending| ending == "xz") {
                process::bytes(Command::new("xz").args(["--decompress", "--stdout"]).arg(&found))?
            } else {
                fs::read(&found).with_context(|| format!("cannot read {}", found.display()))?
            };
            fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// The file of a module, packed or not, below a directory.
fn module(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    let files = ["ko", "ko.xz"].map(|ending| format!("{name}.{ending}"));
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for path in entries(&directory)? {
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if path.file_name().is_some_and(|found| files.iter().any(|file| found == file.as_str())) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// The packages, among all of one series, that hold a boot image of the flavour.
fn boot_packages(names: Vec<String>) -> Vec<String> {
    let mut names: Vec<String> =
        names.into_iter().filter(|name| name.ends_with(FLAVOUR) && !name.contains("-unsigned-")).collect();
    if names.iter().any(|name| name.starts_with(APART_FROM)) {
        names.retain(|name| name.starts_with(APART_FROM));
    }
    names
}

/// `boot/vmlinuz-<version>`, or from 7.1 on `usr/lib/modules/<version>/vmlinuz`.
fn boot_image(tree: &Path) -> Result<PathBuf> {
    let mut directories = vec![tree.join("boot")];
    let modules = tree.join("usr/lib/modules");
    if modules.exists() {
        directories.extend(entries(&modules)?);
    }
    for directory in directories.iter().filter(|directory| directory.exists()) {
        let is_image = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("vmlinuz"))
        };
        if let Some(image) = entries(directory)?.into_iter().find(is_image) {
            return Ok(image);
        }
    }
    bail!("no boot image below {}; see where the package has it now", tree.display())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        paths.push(entry.with_context(context)?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::{boot_packages, cached};

    #[test]
    fn only_packages_with_a_boot_image_are_candidates() {
        for (names, expected) in [
            (
                &[
                    "linux-image-6.1.0-56-cloud-amd64",
                    "linux-image-6.1.0-56-amd64",
                    "linux-image-6.1.0-56-cloud-amd64-unsigned",
                    "linux-image-6.1.0-56-cloud-amd64-dbg",
                ][..],
                &["linux-image-6.1.0-56-cloud-amd64"][..],
            ),
            (
                &["linux-image-7.2.12+deb14-cloud-amd64", "linux-binary-7.2.12+deb14-cloud-amd64"],
                &["linux-binary-7.2.12+deb14-cloud-amd64"],
            ),
            (&["linux-image-7.2.12+deb14-rt-amd64"], &[]),
        ] {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(boot_packages(names), expected);
        }
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named_with_the_command_that_brings_it() {
        let error = cached(Path::new("/no-such-directory"), "6.1").unwrap_err().to_string();
        for part in ["6.1", "/no-such-directory", "cargo xtask setup"] {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
    }
}
