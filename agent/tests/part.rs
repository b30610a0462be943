//! An agent in a node that is itself a container (kind, k3d, Docker in Docker): a cgroup namespace and a mount of its own, which
//! show a part of the trees, while the kernel reports the cgroups of all of the host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{fmt::Write as _, thread, time::Duration};

use common::{Agent, Load, PATIENCE, Page, TestCgroup, Trees, Work, container_id, pod_uid, podlens, wait_until};

const CPU: &str = "podlens_cpu_seconds_total";
const OUTSIDE: &[(&str, &str)] = &[("unit", "outside")];

/// A node in a cgroup of this host, and where its trees are mounted in it.
struct Node {
    cgroup: TestCgroup,
    mounts: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let path = format!("/podlens-node-{}", std::process::id());
        Self { cgroup: TestCgroup::at(path, Vec::new(), Trees::All), mounts: tempfile::tempdir().unwrap() }
    }

    /// What runs a command in it: a shell that enters the cgroup, then both namespaces, and mounts the trees.
    fn shell(&self) -> String {
        let root = self.mounts.path().display();
        let mut enter = String::new();
        let mut mount = format!("mount -t tmpfs podlens-test {root}");
        let directories = self.cgroup.directories();
        for directory in &directories {
            write!(enter, "echo $$ > {}/cgroup.procs && ", directory.display()).unwrap();
            let tree = directory.parent().unwrap();
            let name = tree.file_name().unwrap().to_str().unwrap();
            let is_v2 = tree.join("cgroup.procs").exists() && !tree.join("cgroup.clone_children").exists();
            let place = if is_v2 && directories.len() == 1 { root.to_string() } else { format!("{root}/{name}") };
            let kind = if is_v2 { "-t cgroup2".to_owned() } else { format!("-t cgroup -o {name}") };
            write!(mount, " && mkdir -p {place} && mount {kind} podlens-test {place}").unwrap();
        }
        format!("{enter} exec unshare --cgroup --mount sh -c '{mount} && exec \"$@\"' sh \"$@\"")
    }

    fn root(&self) -> &str {
        self.mounts.path().to_str().unwrap()
    }

    fn container(&self, number: u32) -> TestCgroup {
        let (uid, id) = (pod_uid(number), container_id(number));
        let labels = vec![("pod".to_owned(), uid.clone()), ("container".to_owned(), id[..12].to_owned())];
        TestCgroup::at(format!("{}/kubepods/burstable/pod{uid}/{id}", self.cgroup.path()), labels, Trees::All)
    }

    fn service(&self, name: &str) -> TestCgroup {
        let labels = vec![("unit".to_owned(), name.to_owned())];
        TestCgroup::at(format!("{}/system.slice/{name}", self.cgroup.path()), labels, Trees::All)
    }
}

fn load(cgroup: &TestCgroup) -> Load {
    Load::start(Some(cgroup), Work::SpinFor(Duration::from_millis(300)), None)
}

fn cpu_ns(page: &Page, labels: &[(&str, &str)]) -> u64 {
    page.ns(CPU, labels).unwrap_or(0)
}

#[test]
fn an_agent_that_sees_a_part_of_the_trees_loses_nothing_that_it_cannot_see() {
    let node = Node::new();
    let shell = node.shell();
    let under = ["sh", "-c", shell.as_str(), "sh"];
    let environment = [("PODLENS_CGROUP_ROOT", node.root()), ("PODLENS_MAX_AGE", "0s")];

    let said = podlens(&under, &["check"], &environment);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let line = said.lines().find(|line| line.starts_with("cgroups")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("is a part of the kernel's"), "{line}");

    let old = [node.container(1), node.service("podlens-old.service"), TestCgroup::new("host-old.service")];
    let mut old_loads = old.each_ref().map(load);
    let mut agent = Agent::start_under(&under, &environment);
    agent.wait_for_code("/readyz", 200);
    let before_ns = cpu_ns(&agent.metrics(), OUTSIDE);
    let new = [node.container(2), node.service("podlens-new.service"), TestCgroup::new("host-new.service")];
    new[0].set_quota(50_000, 100_000);
    let mut new_loads = new.each_ref().map(load);
    old_loads.iter_mut().chain(&mut new_loads).for_each(Load::run);

    for inside in old[..2].iter().chain(&new[..2]) {
        let usage_ns = inside.final_cpu_usage_ns();
        wait_until(inside.path(), PATIENCE, || {
            let told_ns = cpu_ns(&agent.metrics(), &inside.labels());
            if told_ns.abs_diff(usage_ns) <= usage_ns / 10 {
                Ok(())
            } else {
                Err(format!("{told_ns} ns of {usage_ns}"))
            }
        });
    }
    wait_until("the quota of a pod of the node", PATIENCE, || {
        let page = agent.metrics();
        let limit = page.one("podlens_cpu_limit_cores", &new[0].labels()).map(common::Sample::value);
        if limit == Some(0.5) { Ok(()) } else { Err(format!("{limit:?}")) }
    });
    let outside = |what: &str| {
        let usage_ns: u64 = [&old[2], &new[2]].iter().map(|service| service.final_cpu_usage_ns()).sum();
        wait_until(what, PATIENCE, || {
            let told_ns = cpu_ns(&agent.metrics(), OUTSIDE) - before_ns;
            if told_ns >= usage_ns / 10 * 9 { Ok(()) } else { Err(format!("{told_ns} ns of {usage_ns}")) }
        });
        usage_ns
    };
    let first_ns = outside("both services of the host");

    let slots_held = || agent.metrics().count("podlens_slots", &[("state", "live")]).expect("slots are told");
    let mut told_ns = first_ns;
    // Whoever else uses this machine may go meanwhile and leave a slot: what is lost each time is lost by podlens.
    let mut lost = Vec::new();
    while lost.len() < 3 {
        let held_before = slots_held();
        // Longer than between two walks through the trees, and than a slot is kept after a removal.
        thread::sleep(Duration::from_secs(7));
        agent.metrics();
        thread::sleep(Duration::from_secs(2));
        let held = slots_held();
        // Here again, each has a slot.
        old_loads.iter_mut().chain(&mut new_loads).for_each(Load::run);
        let more_ns = outside("both once more");
        assert!(more_ns > told_ns);
        told_ns = more_ns;
        if held >= held_before {
            break;
        }
        lost.push((held_before, held));
    }
    assert!(lost.len() < 3, "a slot of something that lives was given back: {lost:?}");
    let page = agent.metrics();
    for hidden in [&old[2], &new[2]] {
        assert!(page.all(CPU, &hidden.labels()).is_empty(), "{} has no series of its own", hidden.path());
    }
    drop(agent);
    drop((old_loads, new_loads));
}
