//! Collector `lifecycle`: births and removals of cgroups, as the kernel reports them.
//!
//! It has no metrics of its own; attribution follows its events, so that a cgroup that lives for a moment has
//! a path all the same.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{MapData, RingBuf};
use podlens_common::cgroup::{Bandwidth, CgroupKey, EVENT_BORN, EVENT_HEADER_BYTES, EVENT_REMOVED};

use super::CollectorSpec;

/// The collector.
pub static SPEC: CollectorSpec = CollectorSpec {
    name: "lifecycle",
    about: "births and removals of cgroups, so that short lives have a name",
    metrics: &[],
};

/// Its programs and their tracepoints.
pub const PROGRAMS: &[(&str, &str)] = &[("cgroup_mkdir", "cgroup_mkdir"), ("cgroup_rmdir", "cgroup_rmdir")];

/// What happened to a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was made.
    Born {
        /// Its identity.
        key: CgroupKey,
        /// Path from the root of its hierarchy.
        path: String,
    },
    /// Its directory was removed.
    Removed {
        /// Its identity.
        key: CgroupKey,
        /// What its CPU quota had done by then, where the kernel told.
        last: Option<Bandwidth>,
    },
}

/// The collector at work.
pub struct Lifecycle {
    events: RingBuf<MapData>,
    malformed: u64,
}

impl Lifecycle {
    /// A collector over the programs' ring buffer.
    #[must_use]
    pub fn new(events: RingBuf<MapData>) -> Self {
        Self { events, malformed: 0 }
    }

    /// Everything that happened since the last call.
    pub fn drain(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            match decode(&item) {
                Some(event) => events.push(event),
                None => self.malformed += 1,
            }
        }
        events
    }

    /// A descriptor that becomes readable when there is something to drain.
    ///
    /// # Errors
    /// File descriptors are exhausted.
    pub fn events(&self) -> io::Result<OwnedFd> {
        self.events.as_fd().try_clone_to_owned()
    }

    /// Events that could not be understood: only if daemon and programs are of different builds.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

fn decode(bytes: &[u8]) -> Option<Event> {
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let half = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let key = word(0)?;
    let kind = half(16)?;
    let path_bytes = usize::try_from(half(20)?).ok()?;
    let path = bytes.get(EVENT_HEADER_BYTES..EVENT_HEADER_BYTES + path_bytes)?;
    match kind {
        EVENT_BORN => Some(Event::Born { key, path: String::from_utf8_lossy(path).into_owned() }),
        EVENT_REMOVED => {
            let bandwidth = Bandwidth { periods: word(24)?, throttled_periods: word(32)?, throttled_ns: word(40)? };
            Some(Event::Removed { key, last: (half(48)? == 1).then_some(bandwidth) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Bandwidth = Bandwidth { periods: 9, throttled_periods: 7, throttled_ns: 1_000_000_001 };

    fn bytes(kind: u32, path: &str, claimed_bytes: usize) -> Vec<u8> {
        with_bandwidth(kind, path, claimed_bytes, 0)
    }

    fn with_bandwidth(kind: u32, path: &str, claimed_bytes: usize, has_bandwidth: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(42_u64.to_ne_bytes());
        bytes.extend(1_u64.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(u32::try_from(claimed_bytes).unwrap_or(u32::MAX).to_ne_bytes());
        for word in [QUOTA.periods, QUOTA.throttled_periods, QUOTA.throttled_ns] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(has_bandwidth.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(path.as_bytes());
        bytes
    }

    fn check(bytes: &[u8], expected: Option<&Event>) {
        assert_eq!(decode(bytes).as_ref(), expected);
    }

    #[test]
    fn births_carry_a_path_and_removals_what_a_quota_had_done() {
        check(&bytes(EVENT_BORN, "/a/b", 4), Some(&Event::Born { key: 42, path: "/a/b".to_owned() }));
        check(&bytes(EVENT_REMOVED, "/a/b", 4), Some(&Event::Removed { key: 42, last: None }));
        check(&with_bandwidth(EVENT_REMOVED, "/a", 2, 1), Some(&Event::Removed { key: 42, last: Some(QUOTA) }));
    }

    #[test]
    fn what_is_cut_or_of_an_unknown_kind_is_refused() {
        check(&bytes(EVENT_BORN, "/a/b", 5), None);
        check(&bytes(EVENT_BORN, "/a/b", usize::MAX), None);
        check(&bytes(9, "/a/b", 4), None);
        check(&[0; 20], None);
        check(&[], None);
    }
}
