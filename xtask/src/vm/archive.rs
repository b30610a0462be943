//! An initial file system for Linux: a cpio archive in the "newc" format.
//!
//! Pure. Layout: <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>.

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const ALIGNMENT_BYTES: usize = 4;

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, (0, 0), &[]);
    }

    /// A file that may be executed.
    pub(super) fn program(&mut self, path: &str, bytes: &[u8]) {
        self.entry(path, PROGRAM, (0, 0), bytes);
    }

    /// A character device with its major and minor number.
    pub(super) fn device(&mut self, path: &str, number: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE, number, &[]);
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.entries += 1;
        let links = 1;
        let name_length = path.len() + 1;
        self.bytes.extend(b"070701");
        // Inode, mode, user, group, links, time, size, device of the file system, device number, length of the
        // name, checksum (unused).
        for number in [self.entries, mode, 0, 0, links, 0] {
            self.number(number as usize);
        }
        self.number(bytes.len());
        for number in [0, 0, device.0, device.1] {
            self.number(number as usize);
        }
        self.number(name_length);
        self.number(0);
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(bytes);
        self.align();
    }

    fn number(&mut self, number: usize) {
        self.bytes.extend(format!("{number:08x}").as_bytes());
    }

    fn align(&mut self) {
        let length = self.bytes.len().next_multiple_of(ALIGNMENT_BYTES);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn every_part_of_an_entry_is_aligned_and_described() {
        let mut archive = Archive::default();
        archive.program("init", b"hello");
        let bytes = archive.finish();
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
