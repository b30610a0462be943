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

const _: () = assert!(size_of::<EventHeader>() == 24);
const _: () = assert!(size_of::<PathEvent>() == size_of::<EventHeader>() + PATH_BYTES);
