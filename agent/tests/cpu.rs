//! Quotas, throttling and CPU time by mode against the kernel's own files of the same cgroup.
//!
//! Each load rests before anything is compared, so that the kernel's figures stand still and equality is exact once podlens has
//! walked again, which it does every 4 s, or has read the files, which it does every
//! 10 s at least.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{fs, path::Path, thread, time::Duration};

use common::{
    Agent, Load, PATIENCE, Page, TestCgroup, Throttled, Trees, Work, assert_runs_are_short, kernel, pod_uid, skip,
    wait_until,
};

const THROTTLED: &str = "podlens_cpu_throttled_seconds_total";
const PERIODS: &str = "podlens_cpu_periods_total";
const MODE: &str = "podlens_cpu_mode_seconds_total";
const LIMIT: &str = "podlens_cpu_limit_cores";

/// A fifth of a CPU, in periods that make many throttles of little time.
const QUOTA_US: u64 = 4_000;
const PERIOD_US: u64 = 20_000;

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s")])
}

fn spin(ms: u64) -> Work {
    Work::SpinFor(Duration::from_millis(ms))
}

/// Pages for as long as a file may stay unread and a little longer, until one fulfils what is wanted.
#[track_caller]
fn page_with(agent: &Agent, what: &str, holds: impl Fn(&Page) -> Result<(), String>) -> Page {
    wait_until(what, Duration::from_secs(13), || {
        let page = agent.metrics();
        holds(&page).map(|()| page)
    })
}

#[track_caller]
fn equal<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("found {found:?}, expected {expected:?}")) }
}

/// What a page says of the cgroup's quota; none if it says nothing of it.
fn throttled(page: &Page, cgroup: &TestCgroup) -> Option<Throttled> {
    let stopped_ns = page.ns(THROTTLED, &cgroup.labels());
    let periods = |result| page.count(PERIODS, &cgroup.labels_and(&[("result", result)]));
    let (ran, stopped_periods) = (periods("ran"), periods("throttled"));
    assert_eq!(ran.is_some(), stopped_ns.is_some(), "time and periods are known together");
    Some(Throttled { periods: ran? + stopped_periods?, stopped_periods: stopped_periods?, stopped_ns: stopped_ns? })
}

/// What a page says of CPU time in user and in kernel mode.
fn modes(page: &Page, cgroup: &TestCgroup) -> Option<[u64; 2]> {
    let mode = |mode| page.ns(MODE, &cgroup.labels_and(&[("mode", mode)]));
    Some([mode("user")?, mode("system")?])
}

/// What the kernel's files say of it.
fn modes_of_files(cgroup: &TestCgroup) -> [u64; 2] {
    let directories = cgroup.directories();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    if let Some(accounting) = directories.iter().find(|one| one.join("cpuacct.usage_user").exists()) {
        return ["cpuacct.usage_user", "cpuacct.usage_sys"]
            .map(|file| read(&accounting.join(file)).trim().parse().unwrap());
    }
    let stat = read(&directories[0].join("cpu.stat"));
    ["user_usec ", "system_usec "].map(|key| {
        let us: u64 = stat.lines().find_map(|line| line.strip_prefix(key)).unwrap().parse().unwrap();
        us * 1000
    })
}

/// The file of a cgroup whose quota has nothing more to stop.
fn settled(cgroup: &TestCgroup) -> Throttled {
    let mut last = cgroup.throttled();
    wait_until("a quota at rest", PATIENCE, || {
        thread::sleep(Duration::from_millis(100));
        let now = cgroup.throttled();
        let is_settled = now == last;
        last = now;
        if is_settled { Ok(now) } else { Err(format!("{now:?}")) }
    })
}

/// A cgroup's labels, for when it is gone.
fn owned_labels(cgroup: &TestCgroup) -> Vec<(String, String)> {
    cgroup.labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn check_equal(agent: &Agent, what: &str, cgroup: &TestCgroup) -> Throttled {
    let kernel = settled(cgroup);
    let files = modes_of_files(cgroup);
    page_with(agent, what, |page| {
        equal(&throttled(page, cgroup), &Some(kernel))?;
        equal(&modes(page, cgroup), &Some(files))
    });
    kernel
}

#[test]
fn values_are_those_of_the_kernels_files() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    cgroup.set_quota(QUOTA_US, PERIOD_US);
    let mut load = Load::start(Some(&cgroup), spin(400), None);
    load.run();
    let first = check_equal(&agent, "after one load", &cgroup);
    assert!(first.stopped_periods > 5 && first.stopped_ns > 100_000_000, "{first:?}");
    load.run();
    let second = check_equal(&agent, "after two", &cgroup);
    assert!(second.stopped_ns > first.stopped_ns);
    load.end();
}

#[test]
fn what_a_quota_did_to_a_container_that_no_page_saw_is_told_exactly() {
    let agent = start();
    agent.metrics();
    let cgroup = TestCgroup::any_container();
    cgroup.set_quota(QUOTA_US, PERIOD_US);
    let mut load = Load::start(Some(&cgroup), spin(300), None);
    load.run();
    load.end();
    let kernel = settled(&cgroup);
    let files = modes_of_files(&cgroup);
    assert!(kernel.stopped_periods > 5, "{kernel:?}");
    let labels = owned_labels(&cgroup);
    let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    cgroup.remove();
    for look in ["at once", "later"] {
        let page = agent.metrics();
        // Version 2's file leaves out what is less than a microsecond, the kernel at the end does not.
        let resolution_ns = if kernel.stopped_ns.is_multiple_of(1000) { 999 } else { 0 };
        let told_ns = page.ns(THROTTLED, &labels).expect("it is told");
        let expected_ns = kernel.stopped_ns..=kernel.stopped_ns + resolution_ns;
        assert!(expected_ns.contains(&told_ns), "{look}: {told_ns} of {expected_ns:?}");
        let stopped = [labels.as_slice(), &[("result", "throttled")]].concat();
        assert_eq!(page.count(PERIODS, &stopped), Some(kernel.stopped_periods), "{look}");
        let ran = [labels.as_slice(), &[("result", "ran")]].concat();
        assert_eq!(page.count(PERIODS, &ran), Some(kernel.periods - kernel.stopped_periods), "{look}");
        assert_eq!(page.one(LIMIT, &labels), None, "{look}: what is gone has no limit");
        let of_mode = |mode| page.ns(MODE, &[labels.as_slice(), &[("mode", mode)]].concat());
        let told =
            [of_mode("user"), of_mode("system")].map(|told_ns| told_ns.expect("it lived long enough to be read"));
        if walks() {
            assert_eq!(told, files, "{look}");
        } else {
            let is_part = told.iter().zip(files).all(|(told_ns, end_ns)| *told_ns <= end_ns);
            assert!(is_part, "{look}: {told:?} of {files:?}");
        }
        if look == "at once" {
            // Until its slot is given back, and it is gone for good.
            thread::sleep(Duration::from_millis(2500));
        }
    }
}

#[test]
fn a_limit_follows_the_quota_and_is_absent_without_one() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let check = |what: &str, expected: Option<f64>| {
        page_with(&agent, what, |page| equal(&page.one(LIMIT, &cgroup.labels()).map(common::Sample::value), &expected))
    };
    let page = check("no quota", None);
    assert_eq!(throttled(&page, &cgroup), None, "nothing is stopped that never had a quota");
    cgroup.set_quota(150_000, 100_000);
    let kernel = settled(&cgroup);
    check("one and a half CPUs", Some(1.5));
    page_with(&agent, "a quota that has stopped nothing yet", |page| equal(&throttled(page, &cgroup), &Some(kernel)));
    cgroup.set_quota(33_333, 100_000);
    check("a third", Some(0.33333));
    for directory in cgroup.directories() {
        for (file, none) in [("cpu.max", "max"), ("cpu.cfs_quota_us", "-1")] {
            if directory.join(file).exists() {
                fs::write(directory.join(file), none).unwrap();
            }
        }
    }
    check("no quota again", None);
}

#[test]
fn what_lies_below_a_container_is_counted_once() {
    let agent = start();
    let outer = TestCgroup::any_container();
    let inner = TestCgroup::at(format!("{}/inner", outer.path()), Vec::new(), Trees::All);
    let mut load = Load::start(Some(&inner), Work::Spin(Duration::from_millis(300)), None);
    load.run();
    let files = modes_of_files(&outer);
    assert!(files.iter().sum::<u64>() >= 100_000_000, "{files:?}");
    page_with(&agent, "the outer one", |page| equal(&modes(page, &outer), &Some(files)));
    load.end();
}

#[test]
fn two_containers_of_a_pod_and_the_pods_own_quota_are_apart() {
    let agent = start();
    let uid = pod_uid(61);
    let labels = vec![("pod".to_owned(), uid.clone()), ("container".to_owned(), String::new())];
    let pod = TestCgroup::at(format!("/kubepods/burstable/pod{uid}"), labels, Trees::All);
    let (busy, calm) = (TestCgroup::container(&uid, 61), TestCgroup::container(&uid, 62));
    pod.set_quota(100_000, 100_000);
    busy.set_quota(QUOTA_US, PERIOD_US);
    let mut loads = [Load::start(Some(&busy), spin(400), None), Load::start(Some(&calm), spin(50), None)];
    loads.iter_mut().for_each(Load::run);
    check_equal(&agent, "the busy one", &busy);
    let files = modes_of_files(&calm);
    let page = page_with(&agent, "the calm one and the pod", |page| {
        equal(&modes(page, &calm), &Some(files))?;
        // Its period may end after the work.
        equal(&throttled(page, &pod), &Some(pod.throttled()))
    });
    assert_eq!(throttled(&page, &calm), None);
    let limits = [&pod, &busy, &calm].map(|one| page.one(LIMIT, &one.labels()).map(common::Sample::value));
    assert_eq!(limits, [Some(1.0), Some(0.2), None]);
    assert_eq!(modes(&page, &pod), None, "its CPU time is its containers'");
    drop(loads);
}

/// Kernels before tell no program of another CPU's counts.
fn walks() -> bool {
    kernel() >= [5, 19]
}

#[test]
fn cpu_time_by_mode_that_nobody_has_read_yet_is_what_the_file_then_tells() {
    let agent = start();
    if TestCgroup::machine_is_hybrid() || !TestCgroup::any_container().is_in_version_2() {
        return skip("the file of version 1 is the same whenever it is read");
    }
    if !walks() {
        return skip("kernels before 5.19 cannot walk");
    }
    let outer = TestCgroup::any_container();
    let inner = TestCgroup::at(format!("{}/inner", outer.path()), Vec::new(), Trees::All);
    let mut loads = [spin(150), Work::Yield { times: 200_000 }].map(|work| Load::start(Some(&inner), work, None));
    for round in 0..2 {
        loads.iter_mut().for_each(Load::run);
        // Longer than between two walks.
        thread::sleep(Duration::from_secs(5));
        let told = modes(&agent.metrics(), &outer);
        assert_eq!(told, Some(modes_of_files(&outer)), "round {round}");
        assert!(told.is_some_and(|told| told.iter().all(|ns| *ns > 0)), "{told:?}");
    }
}

#[test]
fn cpu_time_by_mode_of_a_life_that_nobody_has_looked_at_is_exact() {
    let agent = start();
    agent.metrics();
    if !walks() {
        return skip("kernels before 5.19 tell no program of all CPUs' counts");
    }
    for work in [spin(30), Work::Yield { times: 200_000 }] {
        let cgroup = TestCgroup::any_container();
        let mut load = Load::start(Some(&cgroup), work, None);
        load.run();
        load.end();
        cgroup.final_cpu_usage_ns();
        let files = modes_of_files(&cgroup);
        assert!(files.iter().sum::<u64>() >= 10_000_000, "{files:?}");
        let labels = owned_labels(&cgroup);
        let of_mode = |page: &Page, mode| {
            let mut labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
            labels.push(("mode", mode));
            page.ns(MODE, &labels)
        };
        cgroup.remove();
        let page = agent.metrics();
        assert_eq!(["user", "system"].map(|mode| of_mode(&page, mode)), files.map(Some));
    }
}

#[test]
fn no_run_of_the_cpu_walk_holds_a_cpu_for_long() {
    let _cgroups: Vec<TestCgroup> =
        (0..600).map(|number| TestCgroup::container(&pod_uid(0x3_0000), 0x3_0000 + number)).collect();
    if !walks() {
        return skip("kernels before 5.19 cannot walk");
    }
    assert_runs_are_short("cpu_walk", || {
        let agent = start();
        agent.metrics();
        Some((agent, 600 / 64))
    });
}
