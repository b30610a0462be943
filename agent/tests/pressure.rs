//! Stalls against the kernel's own files of the same cgroup (PSI), and up to a cgroup's end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Agent, ColdFile, Load, MemoryCgroup, NullDisk, Page, TestCgroup, Work, assert_near, skip, wait_until};

const PRESSURE: &str = "podlens_pressure_seconds_total";
/// Longer than a walk and the kernel's own collection take together.
const WALKED_AGAIN: Duration = Duration::from_secs(20);

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s")])
}

/// The directory of the version 2 tree, if pressure is counted there.
fn directory(cgroup: &TestCgroup) -> Option<std::path::PathBuf> {
    cgroup.directories().into_iter().find(|directory| directory.join("cpu.pressure").exists())
}

/// Total of some or full, in nanoseconds.
fn of_file(directory: &Path, resource: &str, stall: &str) -> Option<u64> {
    let text = fs::read_to_string(directory.join(format!("{resource}.pressure"))).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(stall))?;
    let (_, total) = line.split_once("total=")?;
    Some(total.parse::<u64>().unwrap() * 1000)
}

/// All that a page and all that the files say, in whole microseconds: files have no more.
fn both(page: &Page, labels: &[(&str, &str)], directory: &Path) -> Vec<(String, Option<u64>, Option<u64>)> {
    let mut all = Vec::new();
    for resource in ["cpu", "memory", "io", "irq"] {
        for stall in ["some", "full"] {
            let labels = [labels, &[("resource", resource), ("stall", stall)]].concat();
            let told = page.ns(PRESSURE, &labels).map(|ns| ns / 1000);
            let file = of_file(directory, resource, stall).filter(|ns| *ns > 0).map(|ns| ns / 1000);
            // What is less than a microsecond no file tells.
            all.push((format!("{resource} {stall}"), told.filter(|us| *us > 0), file));
        }
    }
    all
}

/// Waits until the page says what the files say.
#[track_caller]
fn wait_for_files(agent: &Agent, labels: &[(&str, &str)], directory: &Path) {
    wait_until("the files' totals", WALKED_AGAIN, || {
        let all = both(&agent.metrics(), labels, directory);
        let differs = all.iter().any(|(_, told, file)| told != file);
        if differs { Err(format!("{all:?}")) } else { Ok(()) }
    });
}

macro_rules! directory {
    ($cgroup:expr) => {
        match directory($cgroup) {
            Some(directory) => directory,
            None => return skip("no pressure by cgroup: no version 2 tree, or a kernel that does not count it"),
        }
    };
}

#[test]
fn stalls_are_those_of_the_kernels_files() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let directory = directory!(&cgroup);
    let mut load = Load::start_tasks(Some(&cgroup), Work::SpinFor(Duration::from_millis(700)), Some(0), 3);
    for _ in 0..2 {
        load.run();
        wait_for_files(&agent, &cgroup.labels(), &directory);
    }
    let some = of_file(&directory, "cpu", "some").unwrap();
    assert!(some > 500_000_000, "three tasks on one CPU wait for each other: {some} ns");
    load.end();
}

#[test]
fn stalls_for_a_disk_and_for_memory_are_those_of_the_kernels_files() {
    let disk = NullDisk::make("nullb1", &[("size", "64"), ("irqmode", "2"), ("completion_nsec", "1000000")]);
    let file = if disk.is_none() { ColdFile::new(48) } else { None };
    let source = disk.as_ref().map(|disk| disk.path().display().to_string());
    let Some(source) = source.or_else(|| file.as_ref().map(ColdFile::path)) else { return };
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let directory = directory!(&cgroup);
    let Some(cgroup) = MemoryCgroup::of(cgroup) else { return skip("this machine does not count memory by cgroup") };
    cgroup.limit(8 << 20);
    let script = format!("read go; exec dd if={source} of=/dev/null bs=256k count=150 status=none");
    let mut shell = Command::new("sh");
    let mut child = shell.args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    cgroup.add(child.id());
    writeln!(child.stdin.take().unwrap(), "go").unwrap();
    assert!(child.wait().unwrap().success());
    wait_for_files(&agent, &cgroup.labels(), &directory);
    for resource in ["io", "memory"] {
        let some_ns = of_file(&directory, resource, "some").unwrap();
        assert!(some_ns > 0, "{resource}: the test has caused it");
        println!("{resource}: {some_ns} ns");
    }
}

#[test]
fn a_container_of_a_moment_has_its_stalls() {
    let agent = start();
    let page = agent.metrics();
    let is_whole = page.count("podlens_collector_state", &[("collector", "pressure"), ("state", "running")]) == Some(1);
    for number in 0..3 {
        let cgroup = TestCgroup::any_container();
        let directory = directory!(&cgroup);
        let mut load = Load::start_tasks(Some(&cgroup), Work::SpinFor(Duration::from_millis(300)), Some(0), 3);
        load.run();
        load.end();
        // Reading it makes the kernel collect: in every second round only the CPUs' own parts tell what has happened.
        let before = if number % 2 == 0 { None } else { of_file(&directory, "cpu", "some") };
        let labels: Vec<(String, String)> =
            cgroup.labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut labels: Vec<(&str, &str)> =
            labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        labels.extend([("resource", "cpu"), ("stall", "some")]);
        cgroup.remove();
        for look in ["at once", "later"] {
            let told = agent.metrics().ns(PRESSURE, &labels);
            if !is_whole {
                return skip("the collector pressure is degraded: this kernel tells no last words");
            }
            let told = told.unwrap_or_else(|| panic!("round {number}, {look}: it is told"));
            match before {
                Some(file) => assert_near(&format!("round {number}, {look}"), told, file, 5.0, 1_000_000),
                // The kernel weights CPUs by the time in which they are not idle; on another CPU the shell of the load ran.
                None => assert!((150_000_000..=450_000_000).contains(&told), "round {number}, {look}: {told} ns"),
            }
            if look == "at once" {
                thread::sleep(Duration::from_millis(2500));
            }
        }
    }
}

#[test]
fn a_cgroup_that_stalls_for_nothing_has_no_sample() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let directory = directory!(&cgroup);
    let load = Load::start(Some(&cgroup), Work::Yield { times: 1 }, None);
    load.figures();
    let page = agent.metrics();
    for stall in ["some", "full"] {
        assert_eq!(of_file(&directory, "io", stall), Some(0));
        let labels = cgroup.labels_and(&[("resource", "io"), ("stall", stall)]);
        assert_eq!(page.one(PRESSURE, &labels), None);
    }
    assert!(page.all(PRESSURE, &[]).iter().all(|sample| sample.value() > 0.0));
}

#[test]
fn a_cgroup_that_has_it_switched_off_has_no_pressure_until_it_has_it_again() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let directory = directory!(&cgroup);
    let switch = directory.join("cgroup.pressure");
    if !switch.exists() {
        return skip("this kernel counts the pressure of each cgroup or of none");
    }
    let mut load = Load::start_tasks(Some(&cgroup), Work::SpinFor(Duration::from_millis(300)), Some(0), 3);
    load.run();
    wait_for_files(&agent, &cgroup.labels(), &directory);
    fs::write(&switch, "0").unwrap();
    wait_until("no pressure", WALKED_AGAIN, || match agent.metrics().all(PRESSURE, &cgroup.labels()).as_slice() {
        [] => Ok(()),
        told => Err(format!("{told:?}")),
    });
    fs::write(&switch, "1").unwrap();
    load.run();
    wait_for_files(&agent, &cgroup.labels(), &directory);
}
