//! CPU time, waits and switches against the kernel's own figures of the same tasks over the same interval.
//!
//! Each load joins its cgroup while it rests and rests again before anything is read, so both sides stand still.
//! Nothing is compared with wall time: a busy machine makes the loads wait longer and changes nothing else.
//!
//! `PODLENS_TEST_OWN_MACHINE=1` or `PODLENS_TEST_FULL=1` also takes the second CPU off line for moments.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{
    Account, Agent, Figures, Load, Losses, PATIENCE, Page, Policy, TestCgroup, Trees, Work, assert_near,
    assert_sums_agree, attempted, machine_is_own, machine_is_slow, pod_uid, skip, wait_until,
};

/// CPU time of slices that ended by a switch: one figure on both sides, of which version 2 tells microseconds.
const CHARGED_NS: u64 = 5_000;
/// CPU time where a slice or a part of one is by the run queue's clock, which goes on in interrupts.
const CPU_PERCENT: f64 = 1.0;
const CPU_NS: u64 = 500_000;
/// Waits: both sides read the same clock at the same moments.
const WAIT_PERCENT: f64 = 0.1;
const WAIT_NS: u64 = 50_000;
/// Throttled time of one task.
const THROTTLED_PERCENT: f64 = 1.0;
/// A move between cgroups is a moment to podlens and three file writes to the test.
const MOVE_NS: u64 = 5_000_000;

/// Some tasks of a cgroup.
#[derive(Clone, Copy, Debug)]
struct Part {
    work: Work,
    cpu: Option<usize>,
    tasks: u32,
    policy: Option<Policy>,
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn part(work: Work, cpu: Option<usize>, tasks: u32) -> Part {
    Part { work, cpu, tasks, policy: None }
}

fn spinning(cpu: Option<usize>, tasks: u32) -> Part {
    part(Work::SpinFor(ms(1500)), cpu, tasks)
}

fn waking(cpu: Option<usize>, tasks: u32) -> Part {
    let work = Work::Wake { times: 2000 / tasks.max(5), sleep: ms(1), spin: Duration::from_micros(200) };
    part(work, cpu, tasks)
}

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s")])
}

/// A pod's container that takes real-time tasks as it is.
fn container_for_real_time(number: u32) -> TestCgroup {
    TestCgroup::container_in(&pod_uid(number), number, Trees::ForRealTime)
}

/// Makes all loads work at once and gives what the kernel says of them.
fn run(loads: &mut [Load]) -> Figures {
    let before: Vec<Figures> = loads.iter().map(Load::figures).collect();
    loads.iter_mut().for_each(Load::go);
    loads.iter_mut().for_each(Load::done);
    let mut sum = Figures::default();
    for (load, before) in loads.iter().zip(before) {
        let grown = load.figures() - before;
        sum.cpu_ns += grown.cpu_ns;
        sum.wait_ns += grown.wait_ns;
        sum.dispatches += grown.dispatches;
        sum.voluntary += grown.voluntary;
        sum.involuntary += grown.involuntary;
    }
    sum
}

/// Times that the kernel has moved a process' threads between CPUs.
fn migrations(load: &Load) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", load.id())).unwrap();
    let of_task = |text: String| {
        let line = text.lines().find(|line| line.starts_with("se.nr_migrations")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok())).unwrap()
    };
    tasks.map(|task| of_task(fs::read_to_string(task.unwrap().path().join("sched")).unwrap())).sum()
}

/// Compares a cgroup that has done nothing but `kernel`; all differences must be within what the agent says it
/// has not seen.
#[track_caller]
fn compare(what: &str, cgroup: &TestCgroup, account: &Account, kernel: &Figures, lost: Losses, migrations: u64) {
    let near = |figure: &str, found, expected, percent, absolute| {
        assert_near(&format!("{what}: {figure}"), found, expected, percent, absolute);
    };
    // The slice that ended with a switch that was not seen is known by the clock.
    let charged_ns = CHARGED_NS + lost.switches * CPU_NS + lost.ns;
    near("CPU time, cgroup", account.cpu_ns, cgroup.cpu_usage_ns(), 0.0, charged_ns);
    near("CPU time, schedstat", account.cpu_ns, kernel.cpu_ns, 0.0, charged_ns);
    let waited_ns = account.wait_ns + account.throttled_ns;
    near("waits", waited_ns, kernel.wait_ns, WAIT_PERCENT, WAIT_NS + lost.ns);
    near("voluntary switches", account.voluntary, kernel.voluntary, 0.0, lost.switches);
    near("involuntary switches", account.involuntary, kernel.involuntary, 0.0, lost.switches);
    let switches = account.voluntary + account.involuntary;
    near("all switches", switches, kernel.voluntary + kernel.involuntary, 0.0, lost.switches);
    assert!(
        (kernel.dispatches..=kernel.dispatches + migrations).contains(&account.waits)
            || account.waits.abs_diff(kernel.dispatches) <= lost.switches,
        "{what}: {} waits of {} dispatches and {migrations} migrations; {lost:?}",
        account.waits,
        kernel.dispatches
    );
    assert_eq!(account.causes.values().sum::<u64>(), account.wait_ns, "{what}: {account:?}");
}

#[track_caller]
fn check(agent: &Agent, what: &str, cgroup: &TestCgroup, parts: &[Part]) -> (Account, Figures) {
    let (account, kernel, ()) = check_and(agent, what, cgroup, parts, || ());
    (account, kernel)
}

/// The same, and looks at something as soon as the loads rest.
#[track_caller]
fn check_and<T>(
    agent: &Agent,
    what: &str,
    cgroup: &TestCgroup,
    parts: &[Part],
    look: impl FnOnce() -> T,
) -> (Account, Figures, T) {
    let mut loads = Vec::new();
    for part in parts {
        let load = Load::start_tasks(Some(cgroup), part.work, part.cpu, part.tasks);
        if let Some(policy) = part.policy {
            load.set_policy(policy);
        }
        loads.push(load);
    }
    let lost = Losses::of(&agent.metrics());
    let migrations_before: u64 = loads.iter().map(migrations).sum();
    let kernel = run(&mut loads);
    let seen = look();
    let migrations = loads.iter().map(migrations).sum::<u64>() - migrations_before;
    let page = agent.metrics();
    let account = Account::of(&page, cgroup);
    let lost = Losses::of(&page) - lost;
    println!("{what}: {account:?}; kernel {kernel:?}; {lost:?}; {migrations} migrations");
    compare(what, cgroup, &account, &kernel, lost, migrations);
    assert_sums_agree(&page);
    (account, kernel, seen)
}

#[test]
fn one_two_and_fifty_tasks_are_accounted_as_the_kernel_does() {
    let agent = start();
    let (pinned, free) = (Some(0), None);
    let cases: &[(&str, &[Part])] = &[
        ("one spins, pinned", &[spinning(pinned, 1)]),
        ("one spins, unpinned", &[spinning(free, 1)]),
        ("one wakes, pinned", &[waking(pinned, 1)]),
        ("one wakes, unpinned", &[waking(free, 1)]),
        ("two spin, pinned", &[spinning(pinned, 2)]),
        ("two spin, unpinned", &[spinning(free, 2)]),
        ("one spins and one wakes, pinned", &[spinning(pinned, 1), waking(pinned, 1)]),
        ("two yield, pinned", &[part(Work::Yield { times: 5000 }, pinned, 2)]),
        ("fifty, pinned", &[spinning(pinned, 25), waking(pinned, 25)]),
        ("fifty, unpinned", &[spinning(free, 25), waking(free, 25)]),
    ];
    for (what, parts) in cases {
        check(&agent, what, &TestCgroup::any_container(), parts);
    }
}

#[test]
fn every_scheduling_policy_is_accounted_alike() {
    let agent = start();
    let wakes = Work::Wake { times: 300, sleep: ms(1), spin: Duration::from_micros(200) };
    let fifo = |work| Part { policy: Some(Policy::Fifo), ..part(work, Some(0), 1) };
    let batch = |work, tasks| Part { policy: Some(Policy::Batch), ..part(work, Some(0), tasks) };
    // No longer than the kernel lets a real-time task hold a CPU.
    let held = Work::Spin(ms(300));
    check(&agent, "fifo wakes", &container_for_real_time(101), &[fifo(wakes)]);
    check(&agent, "fifo spins", &container_for_real_time(102), &[fifo(held), spinning(Some(0), 2)]);
    check(&agent, "batch", &TestCgroup::any_container(), &[batch(Work::Spin(ms(300)), 2), batch(wakes, 1)]);
}

#[test]
fn a_pod_stopped_by_its_own_quota_is_nobodys_victim() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    cgroup.set_quota(20_000, 100_000);
    let before = agent.metrics();
    let load = part(Work::SpinFor(ms(3000)), Some(0), 1);
    // At once: a throttle that begins as the load comes to rest stops nobody, and the kernel counts it when it ends.
    let (account, _, stopped) = check_and(&agent, "quota", &cgroup, &[load], || cgroup.throttled());
    let page = agent.metrics();
    assert!(stopped.stopped_periods > 10, "{stopped:?}");
    assert_near("throttled time", account.throttled_ns, stopped.stopped_ns, THROTTLED_PERCENT, 0);

    // What is left as wait is what others ran meanwhile, and there is nobody else to wait for.
    let cpu = |page: &Page| page.sum_ns("podlens_cpu_seconds_total", &[]);
    let others_ns = cpu(&page) - cpu(&before) - account.cpu_ns;
    let for_others_ns = account.cause("neighbor") + account.cause("system");
    assert!(for_others_ns <= others_ns + WAIT_NS, "{for_others_ns} ns for others that ran {others_ns} ns");
    let for_nobody_ns = account.wait_ns - for_others_ns;
    assert_near("wait for nobody", for_nobody_ns, 0, 0.0, stopped.stopped_ns / 100);
}

#[test]
fn a_slice_that_still_runs_is_in_each_answer() {
    let agent = start();
    let cgroup = container_for_real_time(103);
    // A real-time task, so that it holds the CPU in one slice however busy the machine is.
    let time = if machine_is_slow() { ms(5000) } else { ms(800) };
    let nearly_all_ns = u64::try_from(time.as_nanos()).unwrap() - 100_000_000;
    let mut load = Load::start(Some(&cgroup), Work::Spin(time), Some(0));
    load.set_policy(Policy::Fifo);
    let before = load.figures();
    let started = Instant::now();
    load.go();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, after_ns, _)| *after_ns < nearly_all_ns) {
        let early_ns = load.cpu_ns_now() - before.cpu_ns;
        let page = agent.metrics();
        // Until the slice ends, what interrupts and the hypervisor take of it is in the figure.
        let late_ns = u64::try_from(started.elapsed().as_nanos()).unwrap();
        if let Some(page_ns) = page.ns("podlens_cpu_seconds_total", &cgroup.labels()) {
            seen.push((early_ns, late_ns, page_ns));
        }
        thread::sleep(ms(20));
    }
    load.done();
    println!("{seen:?}");
    for (early_ns, late_ns, page_ns) in &seen {
        assert!(
            (early_ns.saturating_sub(CPU_NS)..=late_ns + CPU_NS).contains(page_ns),
            "a page says {page_ns} ns, the kernel {early_ns} before it, and {late_ns} have passed after it"
        );
    }
    let first = seen.iter().find(|(early_ns, ..)| *early_ns > 0).expect("it was seen at work");
    let last = seen.last().unwrap();
    assert!(last.2 - first.2 > 50_000_000, "{first:?} to {last:?}");
    let (account, kernel) = (Account::of(&agent.metrics(), &cgroup), load.figures() - before);
    assert_near("CPU time", account.cpu_ns, kernel.cpu_ns, CPU_PERCENT, CPU_NS);
}

#[test]
fn no_counter_ever_decreases() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let mut loads = [
        Load::start_tasks(Some(&cgroup), Work::SpinFor(ms(3000)), None, 3),
        Load::start_tasks(Some(&cgroup), waking(None, 4).work, None, 4),
    ];
    loads.iter_mut().for_each(Load::go);
    let mut last: BTreeMap<_, f64> = BTreeMap::new();
    let mut pages = 0;
    while loads.iter().any(Load::is_runnable) || pages < 50 {
        for sample in &agent.metrics().samples {
            let is_counter = ["_total", "_bucket", "_sum", "_count"].iter().any(|end| sample.name.ends_with(end));
            if is_counter {
                let before = last.insert(sample.series(), sample.value());
                assert!(before.is_none_or(|before| before <= sample.value()), "{sample:?} was {before:?}");
            }
        }
        pages += 1;
        thread::sleep(ms(10));
    }
    loads.iter_mut().for_each(Load::done);
    let has_it = |(name, _): &(String, _)| name == "podlens_cpu_seconds_total";
    assert!(last.keys().any(has_it), "counters were looked at");
}

/// How long a task works that is moved meanwhile: longer than the moves take.
fn moved_time() -> Duration {
    if machine_is_slow() { ms(2000) } else { ms(600) }
}

#[test]
fn a_task_that_is_moved_while_it_runs_is_split_at_the_move() {
    let agent = start();
    for (policy, number) in [(None, 110), (Some(Policy::Fifo), 120)] {
        attempted(&agent, number, |number| {
            let (first, second) = (container_for_real_time(number), container_for_real_time(number + 1));
            let mut load = Load::start(Some(&first), Work::Spin(moved_time()), Some(0));
            if let Some(policy) = policy {
                load.set_policy(policy);
            }
            let before = load.figures();
            load.go();
            let early_ns = wait_until("the load at work", PATIENCE, || {
                let ns = load.cpu_ns_now() - before.cpu_ns;
                if ns > 200_000_000 { Ok(ns) } else { Err(format!("it has run {ns} ns")) }
            });
            second.add(load.id());
            let late_ns = load.cpu_ns_by_next_tick() - before.cpu_ns;
            load.done();
            let kernel = load.figures() - before;
            let page = agent.metrics();
            let (old, new) = (Account::of(&page, &first), Account::of(&page, &second));
            println!("{policy:?}: moved between {early_ns} and {late_ns}; {old:?} {new:?}");
            assert_near("both", old.cpu_ns + new.cpu_ns, kernel.cpu_ns, CPU_PERCENT, CPU_NS);
            assert_near("both wait", old.wait_ns + new.wait_ns, kernel.wait_ns, WAIT_PERCENT, WAIT_NS);
            if (early_ns - CPU_NS..=late_ns + MOVE_NS).contains(&old.cpu_ns) {
                return Ok(());
            }
            let old_ns = old.cpu_ns;
            Err(format!("{policy:?}: the old cgroup has {old_ns} ns, the move was between {early_ns} and {late_ns}"))
        });
    }
}

#[test]
fn a_task_that_is_moved_twice_within_a_slice_is_split_at_both_moves() {
    let agent = start();
    attempted(&agent, 130, |number| {
        let cgroups = [number, number + 1, number + 2].map(container_for_real_time);
        let mut load = Load::start(Some(&cgroups[0]), Work::Spin(moved_time()), Some(0));
        load.set_policy(Policy::Fifo);
        let before = load.figures();
        load.go();
        let mut moves = vec![(0, 0)];
        for (cgroup, moment_ns) in cgroups[1..].iter().zip([150_000_000, 350_000_000]) {
            let early_ns = wait_until("the load at work", PATIENCE, || {
                let ns = load.cpu_ns_now() - before.cpu_ns;
                if ns > moment_ns { Ok(ns) } else { Err(format!("it has run {ns} ns")) }
            });
            cgroup.add(load.id());
            moves.push((early_ns, load.cpu_ns_by_next_tick() - before.cpu_ns));
        }
        load.done();
        let end_ns = (load.figures() - before).cpu_ns;
        moves.push((end_ns, end_ns));
        let page = agent.metrics();
        for (cgroup, moves) in cgroups.iter().zip(moves.windows(2)) {
            let cpu_ns = page.ns("podlens_cpu_seconds_total", &cgroup.labels()).unwrap_or(0);
            let least_ns = (moves[1].0 - moves[0].1).saturating_sub(MOVE_NS);
            let most_ns = moves[1].1 - moves[0].0 + MOVE_NS;
            println!("{cpu_ns} ns, expected from {least_ns} to {most_ns}");
            if !(least_ns..=most_ns).contains(&cpu_ns) {
                return Err(format!("{cpu_ns} ns, the moves: {moves:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn a_task_that_is_moved_while_it_waits_takes_its_wait_along() {
    let agent = start();
    let hogs = container_for_real_time(106);
    let time = if machine_is_slow() { ms(3000) } else { ms(400) };
    let mut hog = Load::start(Some(&hogs), Work::Spin(time), Some(0));
    hog.set_policy(Policy::Fifo);
    let mut number = 0x6000_0000;
    // The test itself may be late: the load must still be waiting after the move.
    let moved_in_time = (0..10).any(|_| {
        number += 2;
        let (first, second) =
            (TestCgroup::container(&pod_uid(number), number), TestCgroup::container(&pod_uid(number + 1), number + 1));
        let mut load = Load::start(Some(&first), Work::Spin(ms(5)), Some(0));
        // One dispatch in the first cgroup, so that both have series.
        load.run();
        let before = load.figures();
        let old_before = Account::of(&agent.metrics(), &first);
        let hogged_ns = hog.figures().cpu_ns;
        hog.go();
        wait_until("the hog", PATIENCE, || {
            (hog.cpu_ns_now() > hogged_ns + 20_000_000).then_some(()).ok_or(String::new())
        });
        load.go();
        thread::sleep(ms(100));
        let waits = load.is_runnable() && load.cpu_ns_now() == before.cpu_ns;
        second.add(load.id());
        let in_time = waits && load.is_runnable() && load.cpu_ns_now() == before.cpu_ns;
        load.done();
        hog.done();
        let kernel = load.figures() - before;
        let page = agent.metrics();
        let old_ns = Account::of(&page, &first).wait_ns - old_before.wait_ns;
        if in_time {
            let new = Account::of(&page, &second);
            println!("{old_ns} ns stay, {new:?}; kernel {kernel:?}");
            assert!(kernel.wait_ns > 50_000_000, "it waited: {kernel:?}");
            assert_near("the new cgroup's wait", new.wait_ns, kernel.wait_ns, WAIT_PERCENT, WAIT_NS);
            assert_near("the old cgroup's wait", old_ns, 0, 0.0, WAIT_NS);
        }
        in_time
    });
    assert!(moved_in_time, "in ten tries the load was never moved while it waited");
}

#[test]
fn the_whole_time_of_short_processes_is_counted() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let script = "read go; i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done";
    let mut shell = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    wait_until("the shell at rest", PATIENCE, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", shell.id())).unwrap();
        if stat.contains("(sh) S ") { Ok(()) } else { Err(stat) }
    });
    cgroup.add(shell.id());
    writeln!(shell.stdin.take().unwrap(), "go").unwrap();
    assert!(shell.wait().unwrap().success());
    let account = agent.wait_for_metrics("the last exit", |page| {
        let account = Account::of(page, &cgroup);
        let differ = account.cpu_ns.abs_diff(cgroup.cpu_usage_ns()) as f64 / account.cpu_ns as f64;
        if differ <= CPU_PERCENT / 100.0 { Ok(account) } else { Err(format!("{account:?}, {differ} differ")) }
    });
    println!("{account:?}, cgroup {}", cgroup.cpu_usage_ns());
    // Each ends by a switch that it does not come back from, and the shell waits for each.
    assert!(account.voluntary >= 200, "{account:?}");
    assert!(account.waits >= 200, "{account:?}");
}

const SECOND_CPU: &str = "/sys/devices/system/cpu/cpu1/online";

/// Brings the second CPU back whatever happens.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SECOND_CPU, "1") {
            eprintln!("the CPU stays off line: {error}");
        }
    }
}

#[test]
fn a_cpu_that_goes_off_line_under_load_and_comes_back_costs_no_time() {
    // On the way down it widens affinities and shrinks version 1 cpusets of everybody on the machine.
    if !machine_is_own() {
        skip("it takes a CPU from the whole machine; PODLENS_TEST_OWN_MACHINE=1 or PODLENS_TEST_FULL=1 allows that");
        return;
    }
    let restored = Restored;
    if let Err(error) = fs::write(SECOND_CPU, "0") {
        skip(&format!("no CPU can be taken off line here: {SECOND_CPU}: {error}"));
        return;
    }
    let state = || fs::read_to_string(SECOND_CPU).unwrap();
    assert_eq!(state().trim(), "0", "it is off line");
    // So that the agent is also started with one CPU away.
    let agent = start();
    fs::write(SECOND_CPU, "1").unwrap();
    let cgroup = TestCgroup::any_container();
    let mut loads: Vec<Load> = (0..3).map(|_| Load::start(Some(&cgroup), Work::SpinFor(ms(2000)), None)).collect();
    let lost = Losses::of(&agent.metrics());
    let toggle = thread::spawn(move || {
        let seen = ["0", "1", "0", "1"].map(|online| {
            thread::sleep(ms(300));
            fs::write(SECOND_CPU, online).is_ok()
        });
        drop(restored);
        seen
    });
    let kernel = run(&mut loads);
    let toggled = toggle.join().unwrap();
    let page = agent.metrics();
    let (account, lost) = (Account::of(&page, &cgroup), Losses::of(&page) - lost);
    println!("{toggled:?}: {account:?}; kernel {kernel:?}; {lost:?}");
    assert!(toggled.contains(&true), "it went off line under load");
    assert_near("CPU time", account.cpu_ns, kernel.cpu_ns, CPU_PERCENT, CPU_NS + lost.ns);
    assert_near("waits", account.wait_ns, kernel.wait_ns, 1.0, WAIT_NS + lost.ns);
    assert_sums_agree(&page);
    check(&agent, "on the CPU that came back", &TestCgroup::any_container(), &[spinning(Some(1), 1)]);
}
