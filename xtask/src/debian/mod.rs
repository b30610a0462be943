//! Debian packages as files: fetched from any release and unpacked into the cache, never installed.
//!
//! apt is given a directory of its own for everything that it writes, and sources derived from the machine's own:
//! same servers, same keys, another release. So the machine's own apt and its packages stay as they are.

mod sources;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process;
use sources::{Format, Source};

const APT_DIRECTORY: &str = "/etc/apt";
const RELEASE_FILE: &str = "/etc/os-release";

/// The unpacked tree of the newest `package` of `suite` (for example `usr/bin/prometheus` in it). Fetched once:
/// without network if it is there already.
pub(crate) fn debian_package(suite: &str, package: &str, cache: &Path) -> Result<PathBuf> {
    let home = cache.join("packages").join(suite).join(package);
    let tree = home.join("tree");
    let version = home.join("version");
    if version.exists() {
        return Ok(tree);
    }
    let archive = Archive::open(suite, cache)?;
    if version.exists() {
        return Ok(tree);
    }
    let newest = archive
        .newest(&[package.to_owned()])?
        .with_context(|| format!("Debian's {suite} has no package {package}; look for the suite that has it"))?;
    archive.unpack(&newest, &tree)?;
    fs::write(&version, format!("{}\n", newest.version))
        .with_context(|| format!("cannot write {}", version.display()))?;
    Ok(tree)
}

/// A package of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The packages of one suite, as of now. Only one process at a time holds one.
pub(crate) struct Archive {
    suite: String,
    directory: PathBuf,
    _lock: File,
}

impl Archive {
    /// Reads the suite's list of packages from the network.
    pub(crate) fn open(suite: &str, cache: &Path) -> Result<Self> {
        let directory = cache.join("apt").join(suite);
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let lock = lock(&directory.join("lock"))?;
        let archive = Self { suite: suite.to_owned(), directory, _lock: lock };
        archive.write("status", "")?;
        archive.write("archive.sources", &paragraph(suite)?)?;
        process::watched(&format!("reading the packages of Debian's {suite}"), archive.apt("apt-get").arg("update"))
            .with_context(|| {
                format!(
                    "cannot read Debian's {suite}; see that `apt-get update` works on this machine and that the \
                 package debian-archive-keyring is up to date"
                )
            })?;
        Ok(archive)
    }

    /// Names of the packages that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let printed = process::output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// All versions that the suite has of the named packages.
    pub(crate) fn versions(&self, names: &[String]) -> Result<Vec<Package>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let printed = process::output(self.apt("apt-cache").arg("madison").args(names))?;
        Ok(printed.lines().filter_map(package_of_line).collect())
    }

    /// The one of the named packages that has the highest version.
    pub(crate) fn newest(&self, names: &[String]) -> Result<Option<Package>> {
        let mut newest: Option<Package> = None;
        for package in self.versions(names)? {
            if match &newest {
                None => true,
                Some(best) => is_newer(&package.version, &best.version)?,
            } {
                newest = Some(package);
            }
        }
        Ok(newest)
    }

    /// Downloads a package and unpacks its files below `tree`, which is complete when it exists.
    pub(crate) fn unpack(&self, package: &Package, tree: &Path) -> Result<()> {
        let Package { name, version } = package;
        let downloads = self.directory.join("downloads");
        let partial = tree.with_extension("partial");
        for directory in [&downloads, &partial] {
            remove(directory)?;
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        process::watched(
            &format!("fetching {name} {version} from Debian's {}", self.suite),
            self.apt("apt-get").current_dir(&downloads).arg("download").arg(format!("{name}={version}")),
        )?;
        let file = fs::read_dir(&downloads)
            .and_then(|mut entries| entries.next().transpose())
            .with_context(|| format!("cannot list {}", downloads.display()))?
            .with_context(|| format!("apt-get left no file of {name} in {}", downloads.display()))?
            .path();
        process::output(Command::new("dpkg-deb").arg("--extract").args([&file, &partial]))?;
        remove(&downloads)?;
        remove(tree)?;
        fs::rename(&partial, tree).with_context(|| format!("cannot put {} into its place", tree.display()))
    }

    /// One of apt's programs, which sees this suite alone and writes into this directory alone.
    fn apt(&self, program: &str) -> Command {
        let inside = |part: &str| self.directory.join(part).display().to_string();
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env_remove("APT_CONFIG");
        for (option, value) in [
            ("Dir::State", inside("state")),
            ("Dir::State::status", inside("status")),
            ("Dir::Cache", inside("cache")),
            ("Dir::Etc::sourcelist", inside("archive.sources")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::Etc::preferences", "/dev/null".to_owned()),
            ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
            // apt's own unprivileged user cannot write into a home directory.
            ("APT::Sandbox::User", "root".to_owned()),
            ("APT::Update::Error-Mode", "any".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".to_owned()),
            ("Acquire::Retries", "3".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Removes a directory that may not be there.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn paragraph(suite: &str) -> Result<String> {
    let release = fs::read_to_string(RELEASE_FILE).with_context(|| format!("cannot read {RELEASE_FILE}"))?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"'))
        .with_context(|| format!("{RELEASE_FILE} has no VERSION_CODENAME; this needs a release of Debian"))?;
    sources::paragraph_for(&machine_sources()?, codename, suite).with_context(|| {
        let kind = if suite.ends_with("-security") { "-security" } else { "" };
        format!(
            "cannot derive where Debian's {suite} is: {APT_DIRECTORY} has no source of {codename}{kind} main; add \
             one, as Debian's installer does"
        )
    })
}

/// What all files of apt's sources on this machine say.
fn machine_sources() -> Result<Vec<Source>> {
    let parts = Path::new(APT_DIRECTORY).join("sources.list.d");
    let mut files = vec![Path::new(APT_DIRECTORY).join("sources.list")];
    if parts.exists() {
        for entry in fs::read_dir(&parts).with_context(|| format!("cannot list {}", parts.display()))? {
            files.push(entry.with_context(|| format!("cannot list {}", parts.display()))?.path());
        }
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files.iter().filter(|file| file.exists()) {
        let format = match file.extension().and_then(|ending| ending.to_str()) {
            Some("sources") => Format::Paragraphs,
            Some("list") => Format::Lines,
            _ => continue,
        };
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        sources.extend(sources::read(&text, format));
    }
    Ok(sources)
}

/// A line of `apt-cache madison`: `name | version | where`.
fn package_of_line(line: &str) -> Option<Package> {
    let mut fields = line.split('|').map(str::trim);
    Some(Package { name: fields.next()?.to_owned(), version: fields.next()?.to_owned() })
}

fn is_newer(version: &str, than: &str) -> Result<bool> {
    let status =
        Command::new("dpkg").args(["--compare-versions", version, "gt", than]).status().context("cannot start dpkg")?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("dpkg cannot compare the versions {version} and {than}: {status}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Package, is_newer, package_of_line};

    #[test]
    fn versions_compare_as_debian_orders_them() {
        for (version, than, expected) in [
            ("6.1.192-2", "6.1.99-1", true),
            ("6.12.117-1~deb12u1", "6.12.117-1", false),
            ("3.5.3+ds1-6", "3.5.3+ds1-6", false),
        ] {
            assert_eq!(is_newer(version, than).unwrap(), expected, "{version} {than}");
        }
    }

    #[test]
    fn a_package_is_read_from_a_line_of_madison() {
        let line = " prometheus | 3.5.3+ds1-6 | http://mirror.test/debian forky/main amd64 Packages";
        let package = Package { name: "prometheus".to_owned(), version: "3.5.3+ds1-6".to_owned() };
        assert_eq!(package_of_line(line), Some(package));
        assert_eq!(package_of_line("N: nothing found"), None);
    }
}
