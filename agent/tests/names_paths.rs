//! How the paths of cgroups are read, against the running kernel: who is a neighbor by the kernel programs' grammar, and
//! how many series units make that come and go.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{
    Account, Agent, Load, Page, TestCgroup, Trees, Work, assert_near, assert_sums_agree, caused_by, container_id,
    machine_is_slow, pod_uid, podlens, stolen_ns,
};

const CPU: &str = "podlens_cpu_seconds_total";
const SPIN: Duration = Duration::from_millis(1500);

/// A container of a pod at `path`, in which `{U}` stands for the uid, `{V}` for the same with underscores, `{I}` for the id.
fn container(number: u32, path: &str) -> (String, TestCgroup) {
    let (uid, id) = (pod_uid(number), container_id(number));
    let path = path.replace("{U}", &uid).replace("{V}", &uid.replace('-', "_")).replace("{I}", &id);
    let labels = vec![("pod".to_owned(), uid.clone()), ("container".to_owned(), id[..12].to_owned())];
    (uid, TestCgroup::at(path, labels, Trees::All))
}

/// Two pods at such paths take turns on one CPU: each is the other's neighbor, and nothing else.
#[track_caller]
fn check_neighbors(agent: &Agent, first: u32, path: &str) {
    let pods = [container(first, path), container(first + 1, path)];
    let mut loads = pods.each_ref().map(|(_, cgroup)| Load::start(Some(cgroup), Work::SpinFor(SPIN), Some(0)));
    let before = loads.each_ref().map(Load::figures);
    let stolen_ns = stolen_ns(|| {
        loads.iter_mut().for_each(Load::go);
        loads.iter_mut().for_each(Load::done);
    });
    let kernel = loads.each_ref().map(Load::figures);
    let page = agent.metrics();
    for (victim, other) in [(0, 1), (1, 0)] {
        let account = Account::of(&page, &pods[victim].1);
        let lost_ns = caused_by(&page, &pods[victim].1, ("culprit_pod", &pods[other].0));
        println!("{path}: {account:?}, {lost_ns} ns lost to the other, kernel {kernel:?}");
        // A wait goes on while an interrupt or the hypervisor takes the CPU, for which the kernel's CPU time of the other stands still.
        let most_ns = kernel[other].cpu_ns + kernel[other].cpu_ns / 100 + stolen_ns;
        // Both want the CPU all the time, but for how far apart they begin, whoever else has it too.
        let least_ns = (kernel[other] - before[other]).cpu_ns / 2;
        assert!((least_ns..=most_ns).contains(&lost_ns), "{path}: {lost_ns} ns of {kernel:?}");
        assert!(account.cause("neighbor") >= lost_ns, "{path}: {account:?}");
        assert_eq!(account.cause("self") + account.cause("pod"), 0, "{path}: {account:?}");
    }
    assert_sums_agree(&page);
}

#[test]
fn pods_in_names_of_mixed_drivers_are_neighbors_at_any_depth() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    for (number, path) in (1_u32..).zip([
        // The control: short enough for a reader of 128 bytes.
        "/system.slice/crio.service/kubepods-pod{V}.slice:crio:{I}",
        "/system.slice/containerd.service/kubepods-burstable-pod{V}.slice:cri-containerd:{I}",
        "/system.slice/kubepods-burstable-pod{V}.slice:cri-containerd:{I}",
        "/kubepods-burstable-pod{V}.slice:cri-containerd:{I}",
        "/system.slice/containerd.service/kubelet-kubepods-besteffort-pod{V}.slice:cri-containerd:{I}/inner/x.service",
        "/system.slice/docker-{I}.scope/kubelet/kubepods/burstable/pod{U}/{I}/init.scope",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{V}.slice/cri-containerd-{I}.scope",
    ]) {
        check_neighbors(&agent, 10 * number, path);
    }
}

#[test]
fn what_an_engine_or_a_systemd_inside_a_container_runs_is_that_container_itself() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    for (number, inner) in (1_u32..).zip(["docker", "system.slice/a.service", "user.slice/user@0.service"]) {
        let inside =
            |name: &str| container(200 + number, &format!("/kubepods/burstable/pod{{U}}/{{I}}/{inner}/{name}")).1;
        let cgroups = [inside(&container_id(1)), inside(&container_id(2))];
        let mut loads = cgroups.each_ref().map(|cgroup| Load::start(Some(cgroup), Work::SpinFor(SPIN / 3), Some(0)));
        let before = loads.each_ref().map(Load::figures);
        loads.iter_mut().for_each(Load::go);
        loads.iter_mut().for_each(Load::done);
        let used_ns: u64 = [0, 1].map(|load| (loads[load].figures() - before[load]).cpu_ns).iter().sum();
        let page = agent.metrics();
        let account = Account::of(&page, &cgroups[0]);
        println!("{inner}: {account:?}, used {used_ns} ns");
        // While one runs, the other waits for it.
        assert!(account.cause("self") > used_ns / 2, "{inner}: {account:?}, used {used_ns} ns");
        assert_eq!(account.cause("pod"), 0, "{inner}: {account:?}");
        assert_sums_agree(&page);
    }
}

/// Units that live for a moment, one after the other: what the kernel counted for all of them.
fn live(path: impl Fn(u32) -> String, numbers: std::ops::Range<u32>) -> u64 {
    let of_one = |number| {
        let mut load = Load::start(None, Work::SpinFor(Duration::from_millis(3)), None);
        load.figures();
        let cgroup = TestCgroup::at(path(number), Vec::new(), Trees::All);
        load.join(&cgroup);
        load.run();
        load.end();
        let usage_ns = cgroup.final_cpu_usage_ns();
        cgroup.remove();
        usage_ns
    };
    numbers.map(of_one).sum()
}

/// The units with this in their names that have series on a page. Those of the machine come and go as they like.
fn units(page: &Page, of: &str) -> BTreeSet<String> {
    page.samples.iter().map(|sample| sample.label("unit").to_owned()).filter(|unit| unit.contains(of)).collect()
}

#[test]
fn units_that_come_and_go_make_no_more_series_and_their_sums_stay_whole() {
    let count = if machine_is_slow() { 10 } else { 60 };
    let own = format!("podlens{}", std::process::id());
    let connection = |number: u32| {
        let port = 40_000 + number;
        format!("/system.slice/system-{own}.slice/{own}@{number}-192.0.2.10:22-198.51.100.7:{port}.service")
    };
    let monitor = |number: u32| format!("/system.slice/{own}-conmon-{}.scope", container_id(number));
    let [template, scopes] = [format!("{own}@.service"), format!("{own}-conmon-*.scope")];
    for (units_key, names) in [
        ("each", [template.as_str(), scopes.as_str()]),
        ("slice", ["system.slice", "system.slice"]),
        ("off", ["(units)", "(units)"]),
    ] {
        let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s"), ("PODLENS_UNITS", units_key)]);
        let before = agent.metrics();
        let sum_ns = |page: &Page| -> u64 {
            BTreeSet::from(names).into_iter().map(|name| page.sum_ns(CPU, &[("unit", name)])).sum()
        };
        let half = live(connection, 0..count / 2) + live(monitor, 0..count / 2);
        let flat = agent.metrics();
        let usage_ns = half + live(connection, count / 2..count) + live(monitor, count / 2..count);
        let page = agent.metrics();
        let told = units(&page, &own);
        assert_eq!(told, units(&flat, &own), "{units_key}: more units, the same series");
        let expected = names.iter().filter(|name| name.contains(&own)).map(|name| (*name).to_owned());
        assert_eq!(told, expected.collect(), "{units_key}");
        assert!(!page.text.contains("192.0.2.10"), "{units_key}: no address is in a label");
        let found_ns = sum_ns(&page) - sum_ns(&before);
        match units_key {
            // Nobody else is in these two.
            "each" => assert_near("CPU time of all", found_ns, usage_ns, 0.1, u64::from(2 * count) * 5_000),
            _ => assert!(found_ns + usage_ns / 1000 >= usage_ns, "{units_key}: {found_ns} of {usage_ns} ns"),
        }
        assert_sums_agree(&page);
    }
}

#[test]
fn check_tells_how_a_path_is_read() {
    let uid = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";
    let id = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
    let path = format!("/kubepods/burstable/pod{uid}/{id}/init.scope");
    let answer = podlens(&[], &["check", "--cgroup", &path], &[]);
    let text = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.status.success(), "{text}");
    for part in [uid, id, "Burstable", "3f1b0c5a9d7e"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("kernel"), "it needs no kernel: {text}");
}
