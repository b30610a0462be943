//! The kernel's files of one cgroup's pressure, for kernels without the walk, and what their text says.

use std::path::Path;

use podlens_common::pressure::{Resource, Stall};

use super::Totals;
use crate::kernel::cgroupfs::files::{CgroupFile, FileReader, Source, Turn};

/// One file for each resource.
pub(super) struct PressureFiles([CgroupFile; Resource::COUNT]);

impl PressureFiles {
    pub(super) fn of(reader: &FileReader, directory: &Path) -> Self {
        Self(Resource::NAMES.map(|resource| reader.file(directory.join(format!("{resource}.pressure")))))
    }
}

impl Source for PressureFiles {
    type Value = Totals;

    fn read(&mut self, turn: &mut Turn) -> Totals {
        let mut totals = Totals::default();
        for (file, cells) in self.0.iter_mut().zip(totals.0.chunks_mut(Stall::COUNT)) {
            let said = file.read(turn, parse).unwrap_or_default();
            cells.iter_mut().zip(said).for_each(|(cell, total)| *cell = total);
        }
        totals
    }
}

/// The totals of some and full, in nanoseconds.
fn parse(text: &str) -> [Option<u64>; Stall::COUNT] {
    Stall::NAMES.map(|stall| {
        let mut lines = text.split_inclusive('\n');
        let line = lines.find_map(|line| line.strip_prefix(stall)?.strip_prefix(' ')?.strip_suffix('\n'))?;
        let total = line.split(' ').find_map(|word| word.strip_prefix("total="))?;
        total.parse::<u64>().ok()?.checked_mul(1000)
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn each_line_has_its_total() {
        let check = |text, expected| assert_eq!(parse(text), expected, "{text:?}");
        check(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            [Some(12_000), Some(3000)],
        );
        check("full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n", [None, Some(3000)]);
        check("some avg10=0.00 avg60=0.00 avg300=0.00 total=1", [None, None]);
        check("some avg10=0.00 total=x\nfull avg10=0\n", [None, None]);
    }
}
