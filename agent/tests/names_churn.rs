//! A thousand containers a minute whose names come late: each appears with its own name and its own CPU time, none
//! twice and nothing under a foreign name, on the page and in what is pushed.
//!
//! `PODLENS_TEST_FULL=1` runs the storm for 10 minutes with lifetimes up to 30 s.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds become nanoseconds")]

mod common;
#[path = "names_parts/storm.rs"]
mod storm;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Agent, OnDrop, Page, assert_nothing_lost, given, pod_uid};
use serde_json::json;
use storm::{Instance, NAMESPACE, Storm};
use testkit::{
    kubernetes::{ApiServer, Store},
    otlp::{Pushed, Receiver},
};

const CPU: &str = "podlens_cpu_seconds_total";
/// What the kernel's and podlens' figures of a short life may differ by.
const PERCENT: f64 = 2.0;
const ABSOLUTE_NS: u64 = 200_000;
const SCRAPE_INTERVAL: Duration = Duration::from_secs(2);
const CONTAINERS_A_MINUTE: u32 = 1000;
/// Slots and final values are out of the way after this, on a busy machine too.
const SETTLE: Duration = Duration::from_mins(1);

/// How long the storm lasts and its containers live, and what that says of memory.
struct Form {
    time: Duration,
    longest_life: Duration,
    linger: &'static str,
    /// Names are kept for linger and a minute more: the plateau is reached then.
    plateau: Option<Duration>,
}

const SHORT: Form =
    Form { time: Duration::from_secs(20), longest_life: Duration::from_secs(5), linger: "1m", plateau: None };
const FULL: Form = Form {
    time: Duration::from_mins(10),
    longest_life: Duration::from_secs(30),
    linger: "1m",
    plateau: Some(Duration::from_mins(5)),
};

/// One series of the storm on a page: its names, and its value on each page that has it.
type Series = BTreeMap<[String; 3], BTreeMap<usize, u64>>;

/// Enters a page's series; those of this process' pods that have no names yet are under their uids.
fn enter(series: &mut Series, number: usize, page: &Page) {
    let own_uids = pod_uid(0)[..8].to_owned();
    for sample in page.all(CPU, &[]) {
        let names = ["namespace", "pod", "container"].map(|label| sample.label(label).to_owned());
        let is_unnamed = names[0].is_empty() && names[1].starts_with(&own_uids);
        if names[0] == NAMESPACE || is_unnamed {
            let twice = series.entry(names).or_default().insert(number, sample.ns());
            assert_eq!(twice, None, "{sample:?} twice on one page");
        }
    }
}

fn is_near(found_ns: u64, expected_ns: u64, instances: u64) -> bool {
    let allowed_ns = (expected_ns as f64 * PERCENT / 100.0).max((ABSOLUTE_NS * instances) as f64);
    found_ns.abs_diff(expected_ns) as f64 <= allowed_ns
}

/// Memory of its own: what it has of its file and of the kernel's maps does not grow with names.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Every instance was pushed under its own id with its own names and its own amount.
fn check_pushed(instances: &[Instance], pushed: &BTreeMap<String, Pushed>, wrong: &mut Vec<String>) {
    for instance in instances {
        let Some(found) = pushed.get(&instance.id) else {
            wrong.push(format!("{instance:?} was never pushed"));
            continue;
        };
        let last = found.names.last().unwrap();
        let unnamed = [String::new(), String::new(), String::new()];
        let of_pod = [instance.names[0].clone(), instance.names[1].clone(), String::new()];
        let is_foreign = |names: &&[String; 3]| ![&unnamed, &of_pod, &instance.names].contains(names);
        if let Some(foreign) = found.names.iter().find(is_foreign) {
            wrong.push(format!("{instance:?} was pushed as {foreign:?}"));
        } else if *last != instance.names {
            wrong.push(format!("{instance:?} stayed {last:?}"));
        }
        if found.pod_uids != BTreeSet::from([instance.uid.clone()]) {
            wrong.push(format!("{instance:?} has uids {:?}", found.pod_uids));
        }
        if !is_near(found.cpu_ns, instance.cpu_ns, 1) {
            wrong.push(format!("{instance:?} was pushed with {} ns", found.cpu_ns));
        }
        wrong.extend(found.faults.iter().map(|fault| format!("{instance:?}: {fault}")));
    }
}

/// Every series of the page is somebody's, and its last value is the sum over the instances that it stands for.
fn check_pages(instances: &[Instance], series: &Series, wrong: &mut Vec<String>) {
    let mut by_names: BTreeMap<&[String; 3], Vec<&Instance>> = BTreeMap::new();
    let mut by_uid: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    for instance in instances {
        by_names.entry(&instance.names).or_default().push(instance);
        by_uid.entry(&instance.uid).or_default().push(instance);
    }
    for (names, of) in &by_names {
        let expected_ns: u64 = of.iter().map(|instance| instance.cpu_ns).sum();
        let Some(values) = series.get(*names) else {
            wrong.push(format!("{names:?} is on no page"));
            continue;
        };
        let last_ns = *values.values().next_back().unwrap();
        // A pod that is made again under a name goes on from where the former one ended, or begins anew where that was
        // forgotten; a sandbox without a process brings back the series of the former one's.
        let of_name = instances.iter().filter(|instance| instance.names[..2] == names[..2]);
        let is_one_pod = of_name.map(|instance| &instance.uid).collect::<BTreeSet<_>>().len() == 1;
        let instances = of.len() as u64;
        if is_one_pod {
            // A container that is about to be started again may be away meanwhile, and goes on from where it was.
            let numbers: Vec<usize> = values.keys().copied().collect();
            let is_without_gap = of.len() > 1 || numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
            if !is_without_gap || !values.values().is_sorted() {
                wrong.push(format!("{names:?} came back or fell: {values:?}"));
            }
            if !is_near(last_ns, expected_ns, instances) {
                wrong.push(format!("{names:?} has {last_ns} ns, the kernel {expected_ns} ns"));
            }
        } else if values.values().any(|ns| *ns > expected_ns && !is_near(*ns, expected_ns, instances)) {
            wrong.push(format!("{names:?} has more than the {expected_ns} ns of all its pods: {values:?}"));
        }
    }
    for (names, values) in series {
        if names[0] == NAMESPACE {
            if !by_names.contains_key(names) && !names[2].is_empty() {
                let of_pod = by_names.keys().any(|known| known[1] == names[1]);
                let of_id = instances.iter().any(|one| one.names[1] == names[1] && one.id.starts_with(&names[2]));
                if !(of_pod && of_id) {
                    wrong.push(format!("nobody is {names:?}"));
                }
            }
            continue;
        }
        let Some(of) = by_uid.get(names[1].as_str()) else {
            wrong.push(format!("nobody made pod {names:?}"));
            continue;
        };
        // While it has no name, it is not there under its name as well.
        let Some(instance) = of.iter().find(|instance| instance.id.starts_with(&names[2])) else { continue };
        let named = series.get(&instance.names).cloned().unwrap_or_default();
        let is_shared = by_names[&instance.names].len() > 1;
        if !is_shared && values.keys().any(|number| named.contains_key(number)) {
            wrong.push(format!("{instance:?} is on one page with and without its name"));
        }
    }
}

#[test]
fn a_storm_of_containers_whose_names_come_late_gives_each_its_own_name_and_amount_once() {
    let form = if env::var_os("PODLENS_TEST_FULL").is_some() { FULL } else { SHORT };
    let count = (form.time.as_secs() * u64::from(CONTAINERS_A_MINUTE) / 60) as u32;
    let store = std::sync::Arc::new(Store::default());
    let server = ApiServer::start(&store);
    let receiver = Receiver::start();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(directory.path(), &json!({}));
    let endpoint = receiver.endpoint();
    let agent = Agent::start(&[
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_LINGER", form.linger),
        ("PODLENS_OTLP_ENDPOINT", &endpoint),
        ("PODLENS_OTLP_INTERVAL", "2s"),
        ("PODLENS_KUBERNETES_KUBECONFIG", kubeconfig.to_str().unwrap()),
    ]);
    agent.wait_for_metrics("the list of pods", |page| {
        page.count("podlens_names_synced", &[]).filter(|synced| *synced == 1).ok_or_else(|| "not synced".to_owned())
    });
    let pods = Storm::new(&store, form.longest_life);
    let (mut series, mut memory) = (Series::new(), Vec::new());
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let mut pages = 0;
    let mut look = |series: &mut Series| {
        let page = agent.metrics();
        enter(series, pages, &page);
        pages += 1;
        memory.push((start.elapsed(), resident_kib(agent.id())));
        page
    };
    thread::scope(|scope| {
        let maker = scope.spawn(|| {
            let _over = OnDrop(|| over.store(true, Ordering::Release));
            pods.run(count, form.time);
        });
        while !over.load(Ordering::Acquire) {
            look(&mut series);
            thread::sleep(SCRAPE_INTERVAL);
        }
        given("the storm", maker.join());
    });
    println!("{count} containers in {:?}, the last one ended after {:?}", form.time, start.elapsed());
    let limit = Instant::now() + SETTLE;
    let last = loop {
        let page = look(&mut series);
        let own = |sample: &&common::Sample| {
            sample.label("namespace") == NAMESPACE || sample.label("pod").starts_with(&pod_uid(0)[..8])
        };
        let left = page.all(CPU, &[]).into_iter().filter(own).count();
        if left == 0 {
            break page;
        }
        assert!(Instant::now() < limit, "{left} series stay");
        thread::sleep(SCRAPE_INTERVAL);
    };
    let instances = pods.instances();
    assert!(instances.len() >= count as usize);
    pods.describe(&instances);
    let mut wrong = Vec::new();
    let pushed = receiver.received();
    check_pushed(&instances, &pushed, &mut wrong);
    check_pages(&instances, &series, &mut wrong);
    let total = |amounts: Vec<u64>| amounts.into_iter().sum::<u64>();
    let known_ns = total(instances.iter().map(|instance| instance.cpu_ns).collect());
    let ids: BTreeSet<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
    let pushed_ns =
        total(pushed.iter().filter(|(id, _)| ids.contains(id.as_str())).map(|(_, one)| one.cpu_ns).collect());
    println!("CPU time: pushed {pushed_ns} ns, by the kernel {known_ns} ns, {pages} pages");
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), instances.len(), wrong.join("\n"));
    assert!(is_near(pushed_ns, known_ns, 1), "pushed {pushed_ns} ns, by the kernel {known_ns} ns");
    assert_nothing_lost(&last);
    let asked = |verb, code| store.requests(verb, code);
    assert_eq!(asked("list", 200), 1, "one list for all of it");
    assert!(asked("watch", 200) <= 1 + start.elapsed().as_secs() / 300, "{} watches", asked("watch", 200));
    check_memory(&form, &memory);
}

/// The daemon's memory does not grow once as many names are kept as there ever are.
fn check_memory(form: &Form, memory: &[(Duration, u64)]) {
    for (after, kib) in memory.iter().step_by((memory.len() / 20).max(1)) {
        println!("after {:>4} s: {kib} KiB resident", after.as_secs());
    }
    let most = |from: Duration, to: Duration| {
        let between = memory.iter().filter(|(after, _)| (from..to).contains(after));
        between.map(|(_, kib)| *kib).max().unwrap_or_default()
    };
    if let Some(plateau) = form.plateau {
        let minute = Duration::from_mins(1);
        let (then, last) = (most(plateau, plateau + minute), most(form.time.saturating_sub(minute), Duration::MAX));
        println!("most in the minute after {plateau:?}: {then} KiB, in the last minute and after: {last} KiB");
        assert!(last <= then + then / 20, "{then} KiB became {last} KiB");
    }
    let all = most(Duration::ZERO, Duration::MAX);
    assert!(all < 40 << 10, "{all} KiB are resident");
}
