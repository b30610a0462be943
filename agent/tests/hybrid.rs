//! Hybrid nodes: a task has a cgroup in the version 2 tree and one in the version 1 CPU hierarchy, and they need not say
//! the same. A runtime that knows version 1 alone leaves its containers' tasks in its own unit of the version 2 tree; a
//! manager that has not made a unit's directory in version 1 leaves its tasks in the slice above.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use common::{
    Account, Agent, Hog, Load, MemoryCgroup, PATIENCE, Page, TestCgroup, Trees, Work, assert_near, assert_sums_agree,
    attempted, caused_by, container_id, culprits, pod_uid, skip, stolen_ns, wait_until,
};

const CPU: &str = "podlens_cpu_seconds_total";
/// CPU time against the kernel's own figure of a cgroup at rest.
const CPU_NS: u64 = 200_000;
/// A move between cgroups is a moment to podlens and two file writes to the test.
const MOVE_NS: u64 = 5_000_000;

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s")])
}

/// Says so where this machine has no two trees.
fn is_not_hybrid() -> bool {
    let lacks = !TestCgroup::machine_is_hybrid();
    if lacks {
        skip("this machine does not mount a version 2 tree beside a version 1 CPU hierarchy");
    }
    lacks
}

/// A unit that is in the version 2 tree alone.
fn runtime(number: u32) -> TestCgroup {
    let name = format!("podlens-test-{}-{number}.service", std::process::id());
    TestCgroup::at(format!("/system.slice/{name}"), vec![("unit".to_owned(), name)], Trees::ForRealTime)
}

/// A pod's container that is in version 1 alone.
fn container(number: u32) -> TestCgroup {
    TestCgroup::container_in(&pod_uid(number), number, Trees::Version1)
}

/// A load whose two cgroups are these.
fn load_in(v2: &TestCgroup, v1: &TestCgroup, work: Work, cpu: Option<usize>) -> Load {
    let load = Load::start(None, work, cpu);
    load.join(v2);
    load.join(v1);
    load
}

/// CPU time that the page tells of a cgroup's entity; 0 if it has no series.
fn cpu_ns(page: &Page, cgroup: &TestCgroup) -> u64 {
    page.sum_ns(CPU, &cgroup.labels())
}

#[test]
fn a_container_that_version_2_takes_for_its_runtime_is_its_pods() {
    if is_not_hybrid() {
        return;
    }
    let agent = start();
    let unit = runtime(1);
    let pod = container(1);
    let work = Work::Wake { times: 20, sleep: Duration::from_millis(1), spin: Duration::from_millis(5) };
    let mut of_pod = load_in(&unit, &pod, work, None);
    // The runtime itself is in no version 1 cgroup of its own.
    let mut of_unit = Load::start(Some(&unit), Work::Spin(Duration::from_millis(30)), None);
    of_pod.run();
    of_unit.run();
    let kernel = [&of_pod, &of_unit].map(Load::figures);
    let page = agent.metrics();
    assert_near("the pod's CPU time", cpu_ns(&page, &pod), pod.cpu_usage_ns(), 0.0, CPU_NS);
    assert!(cpu_ns(&page, &pod) >= 100_000_000);
    let of_unit_ns = cpu_ns(&page, &unit);
    assert!((30_000_000..=kernel[1].cpu_ns).contains(&of_unit_ns), "the unit has {of_unit_ns} ns of {kernel:?}");
    assert_eq!(page.sum_ns(CPU, &[("pod", &pod_uid(1))]), cpu_ns(&page, &pod), "all of it is the container's");
}

#[test]
fn a_unit_that_version_1_knows_by_its_slice_alone_is_the_unit() {
    if is_not_hybrid() {
        return;
    }
    let agent = start();
    let unit = runtime(2);
    let slice = TestCgroup::at(
        format!("/podlens-test-{}.slice", std::process::id()),
        vec![("unit".to_owned(), format!("podlens-test-{}.slice", std::process::id()))],
        Trees::Version1,
    );
    let mut load = load_in(&unit, &slice, Work::Spin(Duration::from_millis(30)), None);
    load.run();
    load.figures();
    let page = agent.metrics();
    assert_near("the unit's CPU time", cpu_ns(&page, &unit), slice.cpu_usage_ns(), 0.0, CPU_NS);
    assert_eq!(cpu_ns(&page, &slice), 0, "the slice has no tasks of its own");
}

#[test]
fn a_unit_without_a_directory_in_version_1s_cpu_hierarchy_has_its_memory() {
    if is_not_hybrid() {
        return;
    }
    let agent = start();
    let Some(unit) = MemoryCgroup::of(runtime(5)) else { return skip("this machine has no memory controller") };
    let mut hog = Hog::start(&unit, "of_unit");
    hog.take(16 << 20);
    agent.wait_for_metrics("the unit's memory", |page| {
        match page.count("podlens_memory_usage_bytes", &unit.labels()) {
            Some(bytes) if bytes >= 16 << 20 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_pod_in_a_node_that_is_itself_a_container_is_that_pod() {
    if is_not_hybrid() {
        return;
    }
    let agent = start();
    let node = TestCgroup::at(
        format!("/system.slice/docker-{}.scope", container_id(3)),
        vec![("unit".to_owned(), format!("docker/{}", &container_id(3)[..12]))],
        Trees::ForRealTime,
    );
    let pod = container(3);
    let mut load = load_in(&node, &pod, Work::Spin(Duration::from_millis(30)), None);
    load.run();
    load.figures();
    let page = agent.metrics();
    assert_near("the pod's CPU time", cpu_ns(&page, &pod), pod.cpu_usage_ns(), 0.0, CPU_NS);
    assert_eq!(cpu_ns(&page, &node), 0, "the node has no tasks of its own");
}

#[test]
fn two_pods_of_one_runtime_are_each_others_neighbors() {
    if is_not_hybrid() {
        return;
    }
    let agent = start();
    let unit = runtime(4);
    let pods = [4, 5].map(container);
    let spin = Work::SpinFor(Duration::from_millis(1500));
    let mut loads = pods.each_ref().map(|pod| load_in(&unit, pod, spin, Some(0)));
    let stolen_ns = stolen_ns(|| {
        loads.iter_mut().for_each(Load::go);
        loads.iter_mut().for_each(Load::done);
    });
    let kernel = loads.each_ref().map(Load::figures);
    let page = agent.metrics();
    for (victim, other) in [(0, 1), (1, 0)] {
        let account = Account::of(&page, &pods[victim]);
        let uid = pod_uid(4 + other as u32);
        let lost_ns = caused_by(&page, &pods[victim], ("culprit_pod", &uid));
        // Pods of others may want this CPU as well.
        let all = page.all("podlens_cpu_wait_caused_seconds_total", &pods[victim].labels());
        let others = all.into_iter().filter(|sample| !["", uid.as_str()].contains(&sample.label("culprit_pod")));
        let others_ns: u64 = others.map(common::Sample::ns).sum();
        assert_near("lost to the other", lost_ns, account.cause("neighbor") - others_ns, 2.0, 10_000_000);
        // A wait goes on while the hypervisor takes the CPU, for which the kernel's CPU time of the other stands still.
        let most_ns = kernel[other].cpu_ns + kernel[other].cpu_ns / 100 + stolen_ns;
        assert!(lost_ns > 300_000_000 && lost_ns <= most_ns, "{lost_ns} ns: {kernel:?}");
        assert!(account.cause("self") < 1_000_000, "{account:?} {:?}", culprits(&page, &pods[victim]));
    }
    assert_sums_agree(&page);
}

#[test]
fn a_task_that_moves_from_one_pod_to_another_while_it_runs_splits_its_time() {
    if is_not_hybrid() {
        return;
    }
    let agent = start();
    attempted(&agent, 6, |number| {
        let unit = runtime(number);
        let pods = [number, number + 1].map(container);
        let mut load = load_in(&unit, &pods[0], Work::Spin(Duration::from_millis(600)), Some(0));
        let before = load.figures();
        load.go();
        let early_ns = wait_until("the load at work", PATIENCE, || {
            let ns = load.cpu_ns_now() - before.cpu_ns;
            if ns > 200_000_000 { Ok(ns) } else { Err(format!("it has run {ns} ns")) }
        });
        pods[1].add(load.id());
        let late_ns = load.cpu_ns_by_next_tick() - before.cpu_ns;
        load.done();
        let kernel = load.figures() - before;
        let page = agent.metrics();
        let [first_ns, second_ns] = pods.each_ref().map(|pod| cpu_ns(&page, pod));
        assert_near("both", first_ns + second_ns, kernel.cpu_ns, 0.1, 500_000);
        assert_eq!(cpu_ns(&page, &unit), 0, "the runtime has no tasks of its own");
        if (early_ns - CPU_NS..=late_ns + MOVE_NS).contains(&first_ns) {
            return Ok(());
        }
        Err(format!("the first pod has {first_ns} ns, the move was between {early_ns} and {late_ns}"))
    });
}

/// A shell that waits, in these two cgroups.
fn shell_in(v2: &TestCgroup, v1: &TestCgroup, script: &str) -> Child {
    let mut command = Command::new("sh");
    let child = command.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).spawn().unwrap();
    v2.add(child.id());
    v1.add(child.id());
    child
}

#[test]
fn processes_and_sleeping_tasks_are_the_pods() {
    if is_not_hybrid() {
        return;
    }
    let unit = runtime(8);
    let pod = container(8);
    // Asleep since before the agent: nothing has dispatched it.
    let sleeping = load_in(&unit, &pod, Work::Yield { times: 1 }, None);
    let asleep = sleeping.threads().len() as u64;
    thread::sleep(Duration::from_millis(100));
    let agent = start();
    let tasks = |page: &Page, cgroup: &TestCgroup| {
        let labels = cgroup.labels_and(&[("state", "sleeping")]);
        page.count("podlens_tasks", &labels).unwrap_or(0)
    };
    let page = agent.metrics();
    if page.count("podlens_collector_state", &[("collector", "tasks"), ("state", "degraded")]) != Some(1) {
        assert_eq!((tasks(&page, &pod), tasks(&page, &unit)), (asleep, 0), "tasks asleep in the pod and in the unit");
    }
    let mut shell = shell_in(&unit, &pod, "for n in 1 2 3 4 5; do /bin/true; done");
    drop(shell.stdin.take());
    shell.wait().unwrap();
    let page = agent.metrics();
    let count = |name: &str, cgroup: &TestCgroup| page.count(name, &cgroup.labels()).unwrap_or(0);
    assert_eq!(count("podlens_processes_created_total", &pod), 5);
    assert_eq!(count("podlens_processes_exited_total", &pod), 6, "and their parent, which began elsewhere");
    assert_eq!(count("podlens_processes_created_total", &unit), 0, "the runtime has begun none");
}
