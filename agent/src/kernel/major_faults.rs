//! The program at the end of each major fault, on every CPU that is online.
//!
//! The kernel has no such event for all CPUs at once, and that of a CPU ends when the CPU goes offline: so whoever has the value
//! follows the CPUs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{
    host,
    perf_event::{PerfEvent, Software},
};

/// The program on its events, for as long as the value lives.
#[derive(Debug)]
pub struct MajorFaults {
    program: OwnedFd,
    events: BTreeMap<u32, PerfEvent>,
    /// CPUs that are online and have no event.
    without: BTreeSet<u32>,
    /// CPUs that came online and had no event at first.
    late: u64,
    /// What was counted on CPUs that have gone.
    ended: u64,
}

impl MajorFaults {
    /// Has the program run at the end of each major fault.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch(program: BorrowedFd<'_>) -> io::Result<Self> {
        let program = program.try_clone_to_owned()?;
        let mut faults = Self { program, events: BTreeMap::new(), without: BTreeSet::new(), late: 0, ended: 0 };
        for cpu in host::online_cpus()? {
            match faults.event(cpu) {
                // It has gone just now.
                Err(cause) if cause.raw_os_error() == Some(libc::ENODEV) => {}
                event => drop(faults.events.insert(cpu, event?)),
            }
        }
        Ok(faults)
    }

    /// Gives CPUs that have come online an event, and forgets those that have gone.
    pub fn follow(&mut self) {
        // Where the kernel does not tell its CPUs, they stay those that it told last.
        let Ok(online) = host::online_cpus() else { return };
        let Self { events, without, .. } = self;
        without.retain(|cpu| online.contains(cpu));
        let gone: Vec<PerfEvent> =
            events.extract_if(.., |cpu, _| !online.contains(cpu)).map(|(_, event)| event).collect();
        self.ended += gone.iter().map(counted).sum::<u64>();
        for cpu in online {
            if self.events.contains_key(&cpu) {
                continue;
            }
            self.late += u64::from(self.without.insert(cpu));
            if let Ok(event) = self.event(cpu) {
                self.events.insert(cpu, event);
                self.without.remove(&cpu);
            }
        }
    }

    /// How many CPUs came online after the start: what happened there until [`Self::follow`] met them is not known.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Major faults that the kernel has counted where the program is to run. To be asked seldom: each CPU is interrupted for it.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.ended + self.events.values().map(counted).sum::<u64>()
    }

    fn event(&self, cpu: u32) -> io::Result<PerfEvent> {
        let event = PerfEvent::open(Software::MajorFaults, cpu)?;
        event.run(self.program.as_fd())?;
        Ok(event)
    }
}

/// One that cannot be read tells of nothing that was missed.
fn counted(event: &PerfEvent) -> u64 {
    event.count().unwrap_or(0)
}
