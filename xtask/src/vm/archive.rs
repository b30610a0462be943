//! An initial file system for Linux: a cpio archive in the "newc" format.
//!
//! Pure. Layout: <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>.

use std::io::Write as _;

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY, (0, 0), &[])
    }

    /// A file that may be executed.
    pub(super) fn program(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.entry(path, PROGRAM, (0, 0), bytes)
    }

    /// A character device with its major and minor number.
    pub(super) fn device(&mut self, path: &str, number: (u32, u32)) -> Result<()> {
        self.entry(path, CHARACTER_DEVICE, number, &[])
    }

    /// The finished archive.
    pub(super) fn finish(self) -> Result<Vec<u8>> {
        trailer(self.bytes).context("cannot end the archive")
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), bytes: &[u8]) -> Result<()> {
        self.entries += 1;
        let refused = || format!("cannot put {path} into the archive");
        let size = u32::try_from(bytes.len()).with_context(refused)?;
        let entry = Builder::new(path).ino(self.entries).mode(mode).nlink(1).rdev_major(major).rdev_minor(minor);
        let mut writer = entry.write(&mut self.bytes, size);
        writer.write_all(bytes).with_context(refused)?;
        writer.finish().with_context(refused)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Archive;

    #[test]
    fn every_part_of_an_entry_is_aligned_and_described() {
        let mut archive = Archive::default();
        archive.program("init", b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let header = format!(
            "070701{:08x}{:08x}{}{:08x}{}{:08x}{}{:08x}{:08x}",
            1,
            0o100_755,
            "0".repeat(16),
            1,
            "0".repeat(8),
            5,
            "0".repeat(32),
            5,
            0
        );
        assert!(text.starts_with(&format!("{header}init\0\0hello\0\0\0070701")), "{text:?}");
        assert!(text.contains("TRAILER!!!\0"), "{text:?}");
        assert_eq!(bytes.len() % 4, 0);
    }
}
