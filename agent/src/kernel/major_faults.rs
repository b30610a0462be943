//! The program at the end of each major fault, on every CPU that is online.
//!
//! The kernel has no such event for all CPUs at once, and that of a CPU ends when the CPU goes offline: so whoever has the value
//! follows the CPUs. One that is back before that is noticed has an event that is over, which its time tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{
    host,
    perf_event::{Counted, PerfEvent, Software},
};

/// The program on its events, for as long as the value lives.
#[derive(Debug)]
pub struct MajorFaults {
    program: OwnedFd,
    events: BTreeMap<u32, Watched>,
    /// CPUs that are online and have no event.
    without: BTreeSet<u32>,
    /// CPUs that came online and had no event at first.
    late: u64,
    /// What was counted on CPUs that have gone.
    ended: u64,
}

/// An event, and how long it had been watched when it was looked at last.
#[derive(Debug)]
struct Watched {
    event: PerfEvent,
    looked: Instant,
    before: Duration,
}

impl Watched {
    /// One that cannot be read tells of nothing that was missed, and is not known to be over.
    fn counted(&self) -> Option<Counted> {
        self.event.counted().ok()
    }

    /// What it has counted, and whether it is over.
    fn look(&mut self, now: Instant) -> (u64, bool) {
        let Some(Counted { count, watched }) = self.counted() else { return (0, false) };
        let is_over = is_over(now.duration_since(self.looked), watched.saturating_sub(self.before));
        (self.looked, self.before) = (now, watched);
        (count, is_over)
    }
}

/// In that time an event was watched for so long only. The kernel's two clocks need not agree: what has ended just now shows the next
/// time.
fn is_over(passed: Duration, watched: Duration) -> bool {
    watched.saturating_add(passed / 10) < passed
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
        let gone = events.extract_if(.., |cpu, _| !online.contains(cpu));
        self.ended += gone.filter_map(|(_, event)| Some(event.counted()?.count)).sum::<u64>();
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

    /// Major faults that the kernel has counted where the program is to run. CPUs whose event is over, since they were offline for a
    /// moment, get another one. To be asked seldom: each CPU is interrupted for it.
    pub fn counted(&mut self, now: Instant) -> u64 {
        let (mut counted, mut over) = (self.ended, Vec::new());
        for (cpu, event) in &mut self.events {
            let (count, is_over) = event.look(now);
            counted += count;
            if is_over {
                self.ended += count;
                over.push(*cpu);
            }
        }
        if !over.is_empty() {
            self.events.retain(|cpu, _| !over.contains(cpu));
            self.follow();
        }
        counted
    }

    fn event(&self, cpu: u32) -> io::Result<Watched> {
        let event = PerfEvent::open(Software::MajorFaults, cpu)?;
        event.run(self.program.as_fd())?;
        Ok(Watched { event, looked: Instant::now(), before: Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::is_over;
    use std::time::Duration;

    #[test]
    fn an_event_is_over_whose_time_has_stood_still() {
        let is_over = |passed, watched| is_over(Duration::from_millis(passed), Duration::from_millis(watched));
        // Since the last look, and since a moment in between.
        assert!(is_over(60_000, 0) && is_over(60_000, 20_000) && is_over(60_000, 53_000));
        // Clocks that go apart a little, and an event that is younger than the look.
        assert!(!is_over(60_000, 60_000) && !is_over(60_000, 59_000) && !is_over(60_000, 61_000) && !is_over(0, 0));
    }
}
