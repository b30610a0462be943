//! What the kernel counts of a cgroup's requests to block devices.

use std::{fs, path::PathBuf};

use super::TestCgroup;

/// Requests and their bytes, summed over devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Bytes read, written and discarded.
    pub bytes: [u64; 3],
    /// Reads, writes with flushes, and discards.
    pub operations: [u64; 3],
}

impl BlockCounts {
    /// io.stat of a cgroup of version 2. None where there is no such file.
    pub fn of_io_stat(cgroup: &TestCgroup) -> Option<Self> {
        let text = fs::read_to_string(cgroup.directories().first()?.join("io.stat")).ok()?;
        let of = |name: &str| {
            let numbers = text.split_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            numbers.map(|number| number.parse::<u64>().unwrap()).sum()
        };
        Some(Self { bytes: ["rbytes", "wbytes", "dbytes"].map(of), operations: ["rios", "wios", "dios"].map(of) })
    }

    /// The same of a cgroup of version 1, whose kernel counts where there is a limit: see [`count_in_version_1`].
    pub fn of_throttle(cgroup: &TestCgroup) -> Option<Self> {
        let directory = blkio(cgroup)?;
        let of = |file: &str| {
            let text = fs::read_to_string(directory.join(file)).unwrap();
            ["Read", "Write", "Discard"].map(|what| {
                let lines = text.lines().filter_map(|line| line.split_once(' ')?.1.strip_prefix(what));
                lines.map(|number| number.trim().parse::<u64>().unwrap()).sum()
            })
        };
        Some(Self { bytes: of("blkio.throttle.io_service_bytes"), operations: of("blkio.throttle.io_serviced") })
    }

    /// By how much these have grown.
    pub fn since(self, before: Self) -> Self {
        let grown = |mut counts: [u64; 3], before: [u64; 3]| {
            counts.iter_mut().zip(before).for_each(|(count, before)| *count -= before);
            counts
        };
        Self { bytes: grown(self.bytes, before.bytes), operations: grown(self.operations, before.operations) }
    }
}

/// Gives the cgroup a limit for that device, as `MAJOR:MINOR`, that nothing reaches: from then on version 1 counts all requests
/// of cgroups to it.
pub fn count_in_version_1(cgroup: &TestCgroup, device: &str) {
    if let Some(directory) = blkio(cgroup) {
        fs::write(directory.join("blkio.throttle.read_bps_device"), format!("{device} {}", 1_u64 << 40)).unwrap();
    }
}

/// Its directory in the version 1 hierarchy that limits requests.
fn blkio(cgroup: &TestCgroup) -> Option<PathBuf> {
    cgroup.directories().into_iter().find(|directory| directory.join("blkio.throttle.io_serviced").exists())
}
