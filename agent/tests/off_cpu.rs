//! Time off the CPU, migrations and the lengths of throttles, against the kernel's own figures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{fs, process::Command, thread, time::Duration};

use common::{Account, Agent, Load, Losses, Page, TestCgroup, Work, assert_near, machine_is_slow, second_cpu};

const OFF_CPU: &str = "podlens_offcpu_seconds_total";
const MIGRATIONS: &str = "podlens_cpu_migrations_total";
const THROTTLES: &str = "podlens_cpu_throttle_latency_seconds";

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s")])
}

fn off_cpu_ns(page: &Page, cgroup: &TestCgroup, state: &str) -> u64 {
    page.ns(OFF_CPU, &cgroup.labels_and(&[("state", state)])).unwrap_or(0)
}

/// Lets a load of so many threads work twice. Between the two ends of its work each thread was on a CPU, waited
/// for one, or was off it, but for the sleep that is not over, which began when the work ended.
fn check(what: &str, number: u32, work: Work, threads: u32, cpu: Option<usize>) {
    let agent = start();
    let cgroup = TestCgroup::container(&common::pod_uid(number), number);
    let mut load = Load::start_tasks(Some(&cgroup), work, cpu, threads);
    // By the load's own word, so that it does not matter how late the test hears of it.
    let began = load.run_to();
    let before = load.figures();
    let page = agent.metrics();
    let (sleep_before, disk_before) = (off_cpu_ns(&page, &cgroup, "sleep"), off_cpu_ns(&page, &cgroup, "disk"));
    let lost = Losses::of(&page);
    thread::sleep(ms(300));
    let wall_ns = u64::try_from(load.run_to().saturating_sub(began).as_nanos()).unwrap();
    let kernel = load.figures() - before;
    let page = agent.metrics();
    let lost = Losses::of(&page) - lost;
    let sleep_ns = off_cpu_ns(&page, &cgroup, "sleep") - sleep_before;
    let disk_ns = off_cpu_ns(&page, &cgroup, "disk") - disk_before;
    // A load of several threads has one more, which starts them.
    let all = if threads == 1 { 1 } else { u64::from(threads) + 1 };
    let children_ns = match work {
        Work::Disk { times, sleep } => u64::try_from(sleep.as_nanos()).unwrap() * u64::from(times),
        _ => 0,
    };
    let expected_ns = all * wall_ns - kernel.cpu_ns - kernel.wait_ns;
    println!(
        "{what}: {wall_ns} ns, {kernel:?}: slept {sleep_ns}, disk {disk_ns}, expected {expected_ns} and {children_ns}; {lost:?}"
    );
    // What a thread still does after its word, each time.
    let late_ns = all * if machine_is_slow() { 100_000_000 } else { 10_000_000 };
    assert_near(what, sleep_ns + disk_ns, expected_ns + children_ns, 1.0, late_ns);
    // A child's sleep is that long and the time that its start and its end take.
    let percent = if machine_is_slow() { 20.0 } else { 5.0 };
    assert_near(&format!("{what}: disk"), disk_ns, children_ns, percent, 1_000_000);
}

#[test]
fn what_a_task_neither_runs_nor_waits_it_is_off_the_cpu() {
    let wakes = Work::Wake { times: 400, sleep: ms(3), spin: Duration::from_micros(500) };
    check("sleeps", 600, wakes, 1, Some(0));
    check("five that sleep", 601, wakes, 5, Some(0));
    check("five that sleep and move", 602, wakes, 5, None);
    // Not for long: time that the hypervisor takes is neither sleep nor CPU time.
    check("spins", 603, Work::Spin(ms(100)), 1, Some(0));
}

#[test]
fn a_sleep_that_nothing_interrupts_is_told_apart() {
    // The children's own sleeps are told as such beside the wait for them.
    check("vfork", 610, Work::Disk { times: 10, sleep: ms(100) }, 1, Some(0));
}

/// The kernel's count of a process' migrations.
fn migrations(load: &Load) -> u64 {
    let of_task = |text: String| {
        let line = text.lines().find(|line| line.starts_with("se.nr_migrations")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok())).unwrap()
    };
    let threads = load.threads().into_iter();
    threads.map(|thread| of_task(fs::read_to_string(format!("/proc/{thread}/sched")).unwrap())).sum()
}

#[test]
fn migrations_are_those_that_the_kernel_counts() {
    let Some(second) = second_cpu() else { return };
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let count = || agent.metrics().count(MIGRATIONS, &cgroup.labels()).unwrap_or(0);
    let time = if machine_is_slow() { ms(5000) } else { ms(1500) };
    let mut load = Load::start(Some(&cgroup), Work::SpinFor(time), None);
    load.run();
    let before = (migrations(&load), count());
    load.go();
    // While it runs it is taken to and fro.
    for cpu in [0, second].map(|cpu| cpu.to_string()).iter().cycle().take(20) {
        let moved = Command::new("taskset").args(["-a", "-p", "-c", cpu, &load.id().to_string()]).output().unwrap();
        assert!(moved.status.success(), "{moved:?}");
        thread::sleep(ms(20));
    }
    load.done();
    load.figures();
    let moved = migrations(&load) - before.0;
    // An emulated machine may have done its work before.
    assert!(moved >= if machine_is_slow() { 5 } else { 19 }, "it was moved {moved} times");
    assert_eq!(count() - before.1, moved);
}

#[test]
fn each_throttle_is_entered_with_its_length() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    cgroup.set_quota(20_000, 100_000);
    let mut load = Load::start(Some(&cgroup), Work::SpinFor(ms(3000)), Some(0));
    let before = load.figures();
    load.run();
    // At once: a throttle that begins as the load comes to rest stops nobody, and the kernel counts it when it ends.
    let stopped = cgroup.throttled();
    let page = agent.metrics();
    let sum_ns = page.ns(&format!("{THROTTLES}_sum"), &cgroup.labels()).unwrap();
    let count = page.count(&format!("{THROTTLES}_count"), &cgroup.labels()).unwrap();
    let kernel = load.figures() - before;
    println!("{count} throttles, {sum_ns} ns; {stopped:?}; {:?}; {kernel:?}", Account::of(&page, &cgroup));
    assert!(stopped.stopped_periods > 10, "{stopped:?}");
    assert_near("sum", sum_ns, stopped.stopped_ns, 1.0, 0);
    // The kernel counts periods: where a late tick lets the task overrun its quota by far, one throttle lasts for two.
    let most = stopped.stopped_periods + 1;
    let least = if machine_is_slow() { most / 2 } else { most - 2 };
    assert!((least..=most).contains(&count), "{count} throttles, {stopped:?}");
    // The longer others delay the task, the later its quota is used up and the shorter the throttle: none is
    // longer than the period, and they are not all short.
    let below = |bound: &str| {
        page.count(&format!("{THROTTLES}_bucket"), &cgroup.labels_and(&[("le", bound)])).expect("the bucket is there")
    };
    assert!(below("0.015625") * 2 < count && below("0.25") == count, "of {count} throttles");
}
