//! Files that a person or the configuration names: regular ones alone, and never without end.
//!
//! A pipe has no end, or keeps whoever opens it waiting, and a device may give bytes for ever. Symbolic links are followed:
//! Kubernetes mounts Secrets and tokens so.

use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::FileTypeExt as _,
    path::Path,
};

/// A chain of certificates, a key, a token or a kubeconfig of many clusters stays far below.
pub const CREDENTIAL_BYTES: u64 = 4 << 20;

/// All that is in a file. What is no regular file is an [`ErrorKind::InvalidInput`], one with more bytes than `limit_bytes` an
/// [`ErrorKind::FileTooLarge`].
///
/// # Errors
/// It is neither, or it cannot be read.
pub fn read(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes { Err(too_large(limit_bytes)) } else { Ok(bytes) }
}

/// Whether [`read`] would read it, for what a library reads itself.
///
/// # Errors
/// As [`read`].
pub fn check(path: &Path, limit_bytes: u64) -> io::Result<()> {
    if open(path)?.metadata()?.len() > limit_bytes { Err(too_large(limit_bytes)) } else { Ok(()) }
}

/// Those that do not answer, as on a disk that is away.
#[cfg(test)]
pub(crate) static SILENT: std::sync::Mutex<Vec<std::path::PathBuf>> = std::sync::Mutex::new(Vec::new());

fn open(path: &Path) -> io::Result<File> {
    #[cfg(test)]
    while SILENT.lock().is_ok_and(|silent| silent.iter().any(|one| one == path)) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // To open a pipe waits, and to open a device can do something.
    must_be_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    must_be_regular(&file.metadata()?)?;
    Ok(file)
}

fn must_be_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what} and no regular file")))
}

fn too_large(limit_bytes: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {limit_bytes} bytes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_regular_file_is_read_through_links_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "text").unwrap();
        symlink(at("file"), at("link")).unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink(at("pipe"), at("link to the pipe")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read(&at(name), 4).unwrap(), b"text");
            check(&at(name), 4).unwrap();
        }
        let refused = |path: &Path, kind: ErrorKind, text: &str| {
            let errors = [read(path, 3).map(drop), check(path, 3)].map(|outcome| outcome.unwrap_err());
            for error in errors {
                assert_eq!((error.kind(), error.to_string().contains(text)), (kind, true), "{error}");
            }
        };
        refused(&at("file"), ErrorKind::FileTooLarge, "more than 3 bytes");
        refused(&at("pipe"), ErrorKind::InvalidInput, "a pipe and no regular file");
        refused(&at("link to the pipe"), ErrorKind::InvalidInput, "a pipe and no regular file");
        refused(&at("socket"), ErrorKind::InvalidInput, "a socket and no regular file");
        refused(Path::new("/dev/zero"), ErrorKind::InvalidInput, "a device and no regular file");
        refused(directory.path(), ErrorKind::IsADirectory, "directory");
        refused(&at("missing"), ErrorKind::NotFound, "No such file");
    }
}
