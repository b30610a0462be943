//! The web configuration's files: what is in them, and whether they have changed.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ring::digest;

use super::WebError;
use crate::{
    config::{Pem, WebFile},
    files,
};

/// A long chain, or a list of authorities, stays far below.
const LIMIT_BYTES: u64 = 1 << 20;

/// A file that changed so recently may change again without its time telling it: the kernel's clock for that has ticks.
/// What was read then is looked at again after this time.
pub(super) const RECENT: Duration = Duration::from_secs(1);

/// Of all files' contents.
pub(super) type Digest = [u8; 32];

/// The files' identities, times and sizes.
pub(super) struct Stamp(Vec<(PathBuf, Option<Metadata>)>);

#[derive(PartialEq, Eq)]
struct Metadata {
    device: u64,
    inode: u64,
    size: u64,
    modified_s: i64,
    modified_ns: i64,
    changed_s: i64,
    changed_ns: i64,
}

impl Stamp {
    fn of(paths: Vec<PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (metadata(&path), path)).map(|(metadata, path)| (path, metadata)).collect())
    }

    pub(super) fn is_still_so(&self) -> bool {
        self.0.iter().all(|(path, metadata)| self::metadata(path) == *metadata)
    }

    /// No change may have been missed.
    pub(super) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let recent = now.saturating_sub(RECENT).as_secs().try_into().unwrap_or(i64::MAX);
        self.0.iter().all(|(_, metadata)| metadata.as_ref().is_some_and(|metadata| metadata.changed_s < recent))
    }
}

/// Symbolic links are followed: a mounted Secret changes by one.
fn metadata(path: &Path) -> Option<Metadata> {
    let metadata = fs::metadata(path).ok()?;
    Some(Metadata {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified_s: metadata.mtime(),
        modified_ns: metadata.mtime_nsec(),
        changed_s: metadata.ctime(),
        changed_ns: metadata.ctime_nsec(),
    })
}

/// What is in the files.
pub(super) struct Contents {
    pub(super) web: WebFile,
    text: Vec<u8>,
    others: Vec<(PathBuf, Vec<u8>)>,
}

/// Reads the file and those that it names. The stamp is taken before, so that a change during the reading is noticed.
pub(super) fn read(path: &Path) -> (Stamp, Result<Contents, WebError>) {
    let alone = Stamp::of(vec![path.to_owned()]);
    let (text, web) = match read_web(path) {
        Ok(read) => read,
        Err(cause) => return (alone, Err(cause)),
    };
    let named = named(&web);
    let mut stamp = Stamp::of(named.clone());
    stamp.0.extend(alone.0);
    let others: Result<Vec<_>, _> = named.into_iter().map(|path| read_file(&path).map(|bytes| (path, bytes))).collect();
    (stamp, others.map(|others| Contents { web, text, others }))
}

fn read_web(path: &Path) -> Result<(Vec<u8>, WebFile), WebError> {
    let bytes = read_file(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| crate::config::Error::FileNotUtf8 { path: path.to_owned() })?;
    let web = WebFile::parse(path, text)?;
    Ok((bytes, web))
}

fn named(web: &WebFile) -> Vec<PathBuf> {
    let tls = web.tls.iter();
    let pems = tls.flat_map(|tls| {
        [&tls.certificate, &tls.key].into_iter().chain(tls.clients.iter().map(|clients| &clients.authorities))
    });
    let files = pems.filter_map(|pem| if let Pem::File(path) = pem { Some(path.clone()) } else { None });
    files.chain(web.token_file.clone()).collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, WebError> {
    files::read(path, LIMIT_BYTES).map_err(|cause| match cause.kind() {
        ErrorKind::FileTooLarge => WebError::TooLarge { path: path.to_owned(), limit_bytes: LIMIT_BYTES },
        _ => WebError::Read { path: path.to_owned(), cause },
    })
}

impl Contents {
    /// What a file has that the configuration names.
    pub(super) fn of(&self, path: &Path) -> &[u8] {
        self.others.iter().find(|(named, _)| named == path).map_or(&[], |(_, bytes)| bytes)
    }

    /// The certificates or the key, and where they are, for messages.
    pub(super) fn pem<'a>(&'a self, pem: &'a Pem, field: &str) -> (&'a [u8], String) {
        match pem {
            Pem::File(path) => (self.of(path), path.display().to_string()),
            Pem::Text(text) => (text.as_bytes(), format!("tls_server_config.{field}")),
        }
    }

    pub(super) fn digest(&self) -> Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        for bytes in [&self.text].into_iter().chain(self.others.iter().map(|(_, bytes)| bytes)) {
            context.update(&bytes.len().to_le_bytes());
            context.update(bytes);
        }
        context.finish().as_ref().try_into().unwrap_or_default()
    }
}
