//! The run queue's clock, read without a system call of the kernel programs.
//!
//! The programs note when this very thread was dispatched, by the run queue's clock; the thread looks at its
//! own clock right after. The difference of the two clocks is thus known to the time between, some microseconds as a rule, and
//! always in the same direction: the time told here is never ahead of that CPU's. A slice that runs is told so much too short until
//! the next sweep.
//!
//! It is taken for the time of all CPUs, as it is where the kernel's `sched_clock` is stable. Where it is not, the
//! kernel holds each CPU's clock within one tick of the true time (`kernel/sched/clock.c`), so that in the worst case
//! two of them are two ticks apart and a slice on another CPU is told that much too long while it runs.

use std::time::Duration;

use podlens_common::scheduler::Now;

use crate::kernel::{mapped::MappedArray, process};

/// Short sleeps, after each of which the thread is freshly dispatched.
const TRIES: usize = 3;
const NAP: Duration = Duration::from_micros(20);
/// A measurement in which the thread ran for no longer is good enough: usually it is 10 to 30 us, and most of that before its sleep. Each sleep
/// costs far more than it lasts.
const CLOSE_NS: u64 = 50_000;

/// The difference between the two clocks.
#[derive(Debug, Default)]
pub(super) struct RunQueueClock {
    /// What to take from the monotonic clock to get the run queue's.
    behind_ns: Option<i128>,
}

impl RunQueueClock {
    /// Measures the difference anew. What comes between dispatch and look makes it greater, so the least counts.
    pub(super) fn set(&mut self, cpus: &MappedArray<Now>) {
        let best = process::without_timer_slack(|| {
            let mut best: Option<i128> = None;
            for Sample { behind_ns, ran_ns } in (0..TRIES).filter_map(|_| sample(cpus)) {
                best = Some(best.map_or(behind_ns, |best| best.min(behind_ns)));
                if ran_ns <= CLOSE_NS {
                    break;
                }
            }
            best
        });
        self.behind_ns = best.or(self.behind_ns);
    }

    /// The run queue's time now; 0 while it is not known, so that no running slice is counted.
    pub(super) fn now_ns(&self) -> u64 {
        let Some(behind_ns) = self.behind_ns else { return 0 };
        u64::try_from(i128::from(process::monotonic_ns()) - behind_ns).unwrap_or(0)
    }
}

/// One measurement.
struct Sample {
    behind_ns: i128,
    /// For how long the thread ran before it slept and after: between its dispatch and its look at the clock lies no more, but for
    /// interrupts where the kernel accounts them apart.
    ran_ns: u64,
}

/// Measures once; none if the thread was switched away meanwhile.
fn sample(cpus: &MappedArray<Now>) -> Option<Sample> {
    let began_ns = process::thread_cpu_ns();
    std::thread::sleep(NAP);
    let cpu = process::current_cpu();
    let dispatched = cpus.get(cpu)?;
    let monotonic_ns = process::monotonic_ns();
    let after = cpus.get(cpu)?;
    let ran_ns = process::thread_cpu_ns().saturating_sub(began_ns);
    let undisturbed = process::current_cpu() == cpu && after.sequence == dispatched.sequence;
    let behind_ns = i128::from(monotonic_ns) - i128::from(dispatched.since_ns);
    (undisturbed && dispatched.since_ns != 0).then_some(Sample { behind_ns, ran_ns })
}
