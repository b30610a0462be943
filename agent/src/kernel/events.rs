//! The kernel programs' events: the ring buffer, and the one bounds-checked way from its bytes to a record.
//!
//! It knows how an event is laid out and nothing of what it means; whoever owns the kind reads the record. Called by
//! `pipeline`.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{MapData, RingBuf};
use bytemuck::{Pod, try_pod_read_unaligned};
use podlens_common::{
    cgroup::CgroupKey,
    event::{EventHeader, PATH_BYTES},
};

const HEADER_BYTES: usize = size_of::<EventHeader>();

/// Why an event could not be understood: only if daemon and programs are of different builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It has another size than its kind or its header says.
    #[error("an event of kind {kind} has {bytes} bytes: daemon and kernel programs are of different builds")]
    Size {
        /// Its kind; 0 if it is too short to have one.
        kind: u32,
        /// How long it is.
        bytes: usize,
    },
    /// Nobody knows its kind.
    #[error("an event has the unknown kind {kind}: daemon and kernel programs are of different builds")]
    Kind {
        /// Its kind.
        kind: u32,
    },
}

/// One event, its record still undecoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which event it is: `podlens_common::event::kind`.
    pub kind: u32,
    /// The cgroup that it is about.
    pub key: CgroupKey,
    /// When it happened, by [`super::process::boot_ns`].
    pub at_ns: u64,
    body: Box<[u8]>,
}

impl Record {
    /// The event in these bytes.
    ///
    /// # Errors
    /// It is shorter than a header, or not as long as its header says.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let short = Malformed::Size { kind: 0, bytes: bytes.len() };
        let (head, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(short)?;
        let EventHeader { kind, bytes: claimed, key, at_ns } = try_pod_read_unaligned(head).map_err(|_| short)?;
        if usize::try_from(claimed) != Ok(bytes.len()) {
            return Err(Malformed::Size { kind, bytes: bytes.len() });
        }
        Ok(Self { kind, key, at_ns, body: body.into() })
    }

    /// Its record, of a kind whose record has one size.
    ///
    /// # Errors
    /// It has another size.
    pub fn body<T: Pod>(&self) -> Result<T, Malformed> {
        try_pod_read_unaligned(&self.body).map_err(|_| self.size())
    }

    /// Its path, of a kind whose record is one. What is no UTF-8 is replaced.
    ///
    /// # Errors
    /// It is empty or too long.
    pub fn path(&self) -> Result<String, Malformed> {
        if self.body.is_empty() || self.body.len() > PATH_BYTES {
            return Err(self.size());
        }
        Ok(String::from_utf8_lossy(&self.body).into_owned())
    }

    fn size(&self) -> Malformed {
        Malformed::Size { kind: self.kind, bytes: HEADER_BYTES + self.body.len() }
    }
}

/// The ring buffer.
pub struct Events {
    ring: RingBuf<MapData>,
    malformed: u64,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, malformed: 0 }
    }

    /// Everything that happened since the last call.
    pub fn drain(&mut self) -> Vec<Record> {
        let (mut records, mut refused) = (Vec::new(), Vec::new());
        while let Some(item) = self.ring.next() {
            match Record::decode(&item) {
                Ok(record) => records.push(record),
                Err(cause) => refused.push(cause),
            }
        }
        for cause in refused {
            self.refuse(cause);
        }
        records
    }

    /// Counts an event that could not be understood, and logs the first one.
    pub fn refuse(&mut self, cause: Malformed) {
        self.malformed += 1;
        if self.malformed == 1 {
            tracing::warn!(%cause, "an event is passed over; further ones are counted and not logged");
        }
    }

    /// How many could not be understood.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// A descriptor that becomes readable when there is something to drain.
    ///
    /// # Errors
    /// File descriptors are exhausted.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.ring.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use podlens_common::{
        cpu::{Bandwidth, LAST_WORDS},
        event::CGROUP_BORN,
    };

    use super::*;

    const QUOTA: Bandwidth = Bandwidth { periods: 9, throttled_periods: 7, throttled_ns: 1_000_000_001 };

    fn event(kind: u32, claimed_bytes: usize, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(u32::try_from(HEADER_BYTES + claimed_bytes).unwrap().to_ne_bytes());
        bytes.extend(42_u64.to_ne_bytes());
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn quota() -> Vec<u8> {
        [QUOTA.periods, QUOTA.throttled_periods, QUOTA.throttled_ns]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect()
    }

    #[test]
    fn an_event_tells_its_cgroup_its_moment_and_its_record() {
        let born = Record::decode(&event(CGROUP_BORN, 4, b"/a/b")).unwrap();
        assert_eq!((born.kind, born.key, born.at_ns), (CGROUP_BORN, 42, 7));
        assert_eq!(born.path().as_deref(), Ok("/a/b"));
        let last = Record::decode(&event(LAST_WORDS, 24, &quota())).unwrap();
        assert_eq!(last.body::<Bandwidth>(), Ok(QUOTA));
    }

    #[test]
    fn what_is_not_as_long_as_its_header_says_is_refused() {
        let size = |kind, bytes| Err(Malformed::Size { kind, bytes });
        assert_eq!(Record::decode(&[]), size(0, 0));
        assert_eq!(Record::decode(&[0; 23]), size(0, 23));
        assert_eq!(Record::decode(&event(CGROUP_BORN, 5, b"/a/b")), size(CGROUP_BORN, 28));
        assert_eq!(Record::decode(&event(CGROUP_BORN, 3, b"/a/b")), size(CGROUP_BORN, 28));
    }

    #[test]
    fn a_record_of_another_size_than_its_kind_has_is_refused() {
        for bytes in [0, 23, 25] {
            let event = Record::decode(&event(LAST_WORDS, bytes, &vec![0; bytes])).unwrap();
            assert_eq!(event.body::<Bandwidth>(), Err(Malformed::Size { kind: LAST_WORDS, bytes: 24 + bytes }));
        }
        for bytes in [0, PATH_BYTES + 1] {
            let event = Record::decode(&event(CGROUP_BORN, bytes, &vec![b'a'; bytes])).unwrap();
            assert_eq!(event.path(), Err(Malformed::Size { kind: CGROUP_BORN, bytes: 24 + bytes }));
        }
    }

    #[test]
    fn a_path_of_any_bytes_is_one() {
        let born = Record::decode(&event(CGROUP_BORN, 3, b"/\xff/")).unwrap();
        assert_eq!(born.path().as_deref(), Ok("/\u{fffd}/"));
    }
}
