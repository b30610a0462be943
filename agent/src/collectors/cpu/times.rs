//! From the kernel's two countings of CPU time to user and system as it tells them. Pure.

use podlens_common::cpu::{CpuFigures, CpuTimes};

/// User and system, in nanoseconds.
pub(super) type Modes = [u64; 2];

/// What the kernel would tell of a cgroup of version 2 by now. `below`: what of its subtree, itself included, is not handed up;
/// `before`: what was told of it the last time.
///
/// The kernel counts user and system by ticks and both together by the scheduler's clock, and splits the exact sum in the ticks'
/// proportion (`cputime_adjust` of kernel/sched/cputime.c). It lets neither fall, so what it tells depends on when somebody has
/// read the file before. What it told then stands in the cgroup; where that would let fall what was told here, this goes on by
/// itself.
pub(super) fn of_version_2(figures: &CpuFigures, below: &CpuTimes, before: Option<Modes>) -> Modes {
    let CpuTimes { user, system, run } = figures.handed_up;
    let all = CpuTimes {
        user: user.saturating_add(below.user),
        system: system.saturating_add(below.system),
        run: run.saturating_add(below.run),
    };
    let as_kernel = adjusted(&all, figures.told);
    match before {
        Some(before) if before.iter().zip(as_kernel).any(|(before, now)| now < *before) => adjusted(&all, before),
        _ => as_kernel,
    }
}

/// The exact time split by ticks, so that neither part is less than before.
fn adjusted(times: &CpuTimes, before: Modes) -> Modes {
    let CpuTimes { user, system, run } = *times;
    let [user_before, system_before] = before;
    if user_before.saturating_add(system_before) >= run {
        return before;
    }
    let system = match (user, system) {
        (_, 0) => 0,
        (0, _) => run,
        _ => {
            let ticks = u128::from(user) + u128::from(system);
            let scaled = (u128::from(system) * u128::from(run)).checked_div(ticks);
            scaled.and_then(|scaled| u64::try_from(scaled).ok()).unwrap_or(run).min(run)
        }
    };
    let system = system.max(system_before);
    let user = run.saturating_sub(system);
    if user < user_before { [user_before, run.saturating_sub(user_before)] } else { [user, system] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn times(user: u64, system: u64, run: u64) -> CpuTimes {
        CpuTimes { user, system, run }
    }

    #[track_caller]
    fn check(handed_up: CpuTimes, below: CpuTimes, told: Modes, before: Option<Modes>, expected: Modes) {
        let figures = CpuFigures { handed_up, told, ..CpuFigures::default() };
        assert_eq!(of_version_2(&figures, &below, before), expected);
    }

    #[test]
    fn the_exact_time_is_split_in_the_proportion_of_ticks() {
        check(times(4, 4, 100), times(5, 1, 20), [0, 0], None, [78, 42]);
        check(times(0, 4, 100), times(0, 0, 0), [0, 0], None, [0, 100]);
        check(times(0, 0, 0), times(0, 0, 90), [0, 0], None, [90, 0]);
        check(times(u64::MAX / 2, u64::MAX / 2, 100), times(0, 0, 0), [0, 0], None, [50, 50]);
    }

    #[test]
    fn neither_falls_below_what_the_kernel_has_told_and_nothing_new_is_what_it_has_told() {
        check(times(9, 1, 100), times(0, 0, 0), [50, 30], None, [70, 30]);
        check(times(1, 9, 100), times(0, 0, 0), [50, 30], None, [50, 50]);
        check(times(9, 1, 80), times(0, 0, 0), [50, 30], None, [50, 30]);
    }

    #[test]
    fn neither_falls_below_what_was_told_here_and_both_are_the_exact_time() {
        check(times(9, 1, 100), times(0, 0, 0), [0, 0], Some([30, 40]), [60, 40]);
        // Somebody has read the file since: as told there, unless that is less.
        check(times(9, 1, 100), times(0, 0, 0), [55, 45], Some([30, 40]), [55, 45]);
        check(times(9, 1, 100), times(0, 0, 0), [95, 5], Some([30, 40]), [60, 40]);
    }
}
