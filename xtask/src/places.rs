//! Where things are: the work tree, the cache of components, programs on the path.
//!
//! The rule for the cache is also known to the tests (testkit/src/components): change both together.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Sub-directories that hold administrators' programs and are missing from an ordinary user's path.
const ADMINISTRATORS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The directory of the workspace, which all commands run in.
pub(crate) fn workspace() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().context("the xtask crate has no directory above it")?;
    Ok(root.to_path_buf())
}

/// The files of agent/tests, by their names without `.rs` and in the order of these.
pub(crate) fn test_files() -> Result<Vec<String>> {
    let directory = workspace()?.join("agent/tests");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let files = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut names: Vec<String> = files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// Cargo's output directory.
pub(crate) fn target() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => Ok(workspace()?.join(directory)),
        None => Ok(workspace()?.join("target")),
    }
}

/// The base directory of the user's caches, `$XDG_CACHE_HOME` or `$HOME/.cache`.
pub(crate) fn user_cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .context("cannot tell where to keep downloads: neither XDG_CACHE_HOME nor HOME is set; set one of them")
}

/// podlens' own directory in the user's cache. It outlives a clone.
pub(crate) fn cache() -> Result<PathBuf> {
    Ok(user_cache()?.join("podlens"))
}

/// The directory of one component, named by its version, for example `otelcol-0.165.0`.
pub(crate) fn component(name: &str) -> Result<PathBuf> {
    Ok(cache()?.join(name))
}

/// The full path of a program, looked up on the path and where administrators' programs are.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMINISTRATORS.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn a_program_is_found_and_a_missing_one_is_not() {
        assert!(program("sh").is_some_and(|path| path.ends_with("sh")));
        assert_eq!(program("no-such-program-anywhere"), None);
    }
}
