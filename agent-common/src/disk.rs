//! Requests to disks by slot: how many, how much, and how long each took.

use bytemuck::{Pod, Zeroable};

use crate::{histogram::BUCKETS, label::label};

label! {
    /// What is asked of a disk.
    Operation {
        /// To give bytes.
        Read = "read",
        /// To take bytes.
        Write = "write",
        /// To forget bytes.
        Discard = "discard",
        /// To bring into safety what it has taken. Moves no bytes, so it stands behind those that do.
        Flush = "flush",
    }
}

label! {
    /// A stretch of a request's time.
    Part {
        /// From its making until the driver takes it.
        Queue = "queue",
        /// From there to its completion.
        Device = "device",
    }
}

/// Operations that move bytes: all but the flush.
pub const WITH_BYTES: usize = Operation::Flush.index();
/// Distributions of one slot: see [`distribution`].
pub const DISTRIBUTIONS: usize = WITH_BYTES + Operation::COUNT;

/// Where that part of an operation's time is counted. A flush is never handed to the driver itself: one request of the
/// block layer's serves all that wait for one. So it has no part in the queue.
#[inline(always)]
#[must_use]
pub const fn distribution(operation: Operation, part: Part) -> Option<usize> {
    match (part, operation) {
        (Part::Queue, Operation::Flush) => None,
        (Part::Queue, _) => Some(operation.index()),
        (Part::Device, _) => Some(WITH_BYTES + operation.index()),
    }
}

/// What was done for one slot. Requests complete on any CPU, so all of it is added to atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DiskAccount {
    /// Requests that were completed, by operation.
    pub operations: [u64; Operation::COUNT],
    /// Those of which at least a part failed, by operation.
    pub errors: [u64; Operation::COUNT],
    /// Bytes that were asked for, by operation.
    pub bytes: [u64; WITH_BYTES],
    /// Sum of the durations, by distribution.
    pub durations_ns: [u64; DISTRIBUTIONS],
    /// Durations at each hashed bucket, by distribution; after 2^32 it begins anew, and the daemon goes on counting.
    pub durations: [[u32; BUCKETS]; DISTRIBUTIONS],
}

impl DiskAccount {
    /// Nothing.
    pub const EMPTY: Self = Self {
        operations: [0; Operation::COUNT],
        errors: [0; Operation::COUNT],
        bytes: [0; WITH_BYTES],
        durations_ns: [0; DISTRIBUTIONS],
        durations: [[0; BUCKETS]; DISTRIBUTIONS],
    };
}

const _: () = assert!(size_of::<DiskAccount>() == 1040);

#[cfg(test)]
mod tests {
    use super::{DISTRIBUTIONS, Operation, Part, distribution};

    #[test]
    fn each_part_of_an_operation_is_counted_apart() {
        let places =
            Operation::ALL.into_iter().flat_map(|operation| Part::ALL.map(|part| distribution(operation, part)));
        let mut places: Vec<usize> = places.flatten().collect();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..DISTRIBUTIONS));
    }
}
