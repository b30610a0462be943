//! Events: what the kernel programs report once, as it happens, through one ring buffer.
//!
//! Each is a header and, behind it, the one record that its kind has, which stands with its collector's others. Rare things only: nothing on the path of a
//! context switch is an event.

use bytemuck::{Pod, Zeroable};

use crate::cgroup::CgroupKey;

/// The birth of a cgroup. Its record is the path.
pub const CGROUP_BORN: u32 = 1;
/// The removal of a cgroup: its directory is gone, no task can enter it again. Its record is the path.
pub const CGROUP_REMOVED: u32 = 2;

/// The number of any other kind, from its name `COLLECTOR.WHAT`. It stands beside the kind's record; a test of the daemon
/// holds that no two are the same.
#[must_use]
pub const fn kind(name: &str) -> u32 {
    // FNV-1a.
    let (mut hash, mut rest) = (0x811c_9dc5_u32, name.as_bytes());
    while let [byte, more @ ..] = rest {
        hash = (hash ^ *byte as u32).wrapping_mul(0x0100_0193);
        rest = more;
    }
    hash
}

/// What each event begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct EventHeader {
    /// Which event it is; tells the record that follows.
    pub kind: u32,
    /// Bytes of the event, this header included.
    pub bytes: u32,
    /// The cgroup that it is about.
    pub key: CgroupKey,
    /// When it happened: nanoseconds of `CLOCK_BOOTTIME`.
    pub at_ns: u64,
}

/// Longest cgroup path, in bytes, that an event carries. Kubernetes' longest are near 250.
pub const PATH_BYTES: usize = 1024;

/// An event about a cgroup by its path, from the root of the cgroup's hierarchy. It is sent without what `bytes` does
/// not count, and without a terminating zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PathEvent {
    /// The header.
    pub header: EventHeader,
    /// The path.
    pub path: [u8; PATH_BYTES],
}

/// The path of a cgroup in a record of one size: all that its cgroups in different hierarchies have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct EndPath {
    /// From the root of the hierarchy. It ends with a zero; what follows means nothing.
    pub bytes: [u8; EndPath::BYTES],
}

impl EndPath {
    /// Longest path, with the zero behind it.
    pub const BYTES: usize = 512;

    /// The path; none if there is none, or if it may have been cut.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        let path = core::str::from_utf8(self.bytes.split(|byte| *byte == 0).next()?).ok()?;
        (!path.is_empty() && path.len() + 1 < Self::BYTES).then_some(path)
    }
}

const _: () = assert!(size_of::<EventHeader>() == 24);
const _: () = assert!(size_of::<PathEvent>() == size_of::<EventHeader>() + PATH_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &[u8], expected: Option<&str>) {
        let mut end = EndPath { bytes: [b'x'; EndPath::BYTES] };
        for (place, byte) in end.bytes.iter_mut().zip(path) {
            *place = *byte;
        }
        assert_eq!(end.as_str(), expected);
    }

    #[test]
    fn a_path_goes_to_its_zero_and_one_that_may_be_cut_is_none() {
        check(b"/kubepods/pod1\0", Some("/kubepods/pod1"));
        check(b"\0", None);
        check(b"/\xff\0", None);
        check(b"", None);
        let mut longest = [b'a'; EndPath::BYTES];
        if let Some(last) = longest.last_mut() {
            *last = 0;
        }
        check(&longest, None);
    }
}
