//! CPUs that can exist and are not online: what the agent keeps for them, and what it says when one comes.
//!
//! Most machines have none to speak of. `cargo xtask vm --cpus 12,maxcpus=128 --parameters maxcpus=2 --tests cpus_ late_cpu`
//! makes one that has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{Agent, Load, TestCgroup, Work, machine_is_own, podlens, skip};
use podlens::{
    collectors::{ALL, switches},
    kernel::{
        btf::Btf,
        cgroupfs::hierarchies::Hierarchies,
        needs::{self, Answers},
        object::{self, OBJECT, Object},
        refusal,
    },
};

const CPU: &str = "podlens_cpu_seconds_total";
/// The chart's memory limit.
const LIMIT_BYTES: u64 = 128 << 20;
/// The most slots that are chosen by themselves.
const MOST_SLOTS: u64 = 1024;

/// The highest number in a list of CPUs, and one more.
fn cpus(list: &str) -> usize {
    let ranges = fs::read_to_string(Path::new("/sys/devices/system/cpu").join(list)).unwrap();
    let highest = ranges.trim().rsplit([',', '-']).next().unwrap();
    highest.parse::<usize>().unwrap() + 1
}

/// A CPU that is there and not online, and the file that brings it.
fn absent_cpu(from: usize) -> Option<(usize, PathBuf)> {
    (from..cpus("possible"))
        .map(|cpu| (cpu, PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"))))
        .find(|(_, file)| fs::read_to_string(file).is_ok_and(|text| text.trim() == "0"))
}

/// A cgroup with a memory limit, in whichever hierarchy has the controller. Goes with the value.
struct Limited(PathBuf);

impl Limited {
    fn new() -> Option<Self> {
        let name = format!("podlens-limit-{}", std::process::id());
        let (tree, file) = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
            .into_iter()
            .find(|(tree, _)| Path::new(tree).join("cgroup.procs").exists())?;
        let directory = Path::new(tree).join(name);
        fs::create_dir(&directory).ok()?;
        let made = Self(directory);
        fs::write(made.0.join(file), LIMIT_BYTES.to_string()).ok().map(|()| made)
    }

    /// A command that starts what follows it in this cgroup.
    fn command(&self) -> String {
        format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.0.display())
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn cpus_that_are_not_online_take_no_memory_and_the_charts_limit_is_enough() {
    let (possible, online) = (cpus("possible"), cpus("online"));
    if possible < online + 64 {
        return skip(&format!("this machine tells of {possible} CPUs and has {online}"));
    }
    let Some(limited) = Limited::new() else { return skip("no hierarchy here has the memory controller") };
    let command = limited.command();
    let under = ["sh", "-c", command.as_str(), "sh"];
    let output = podlens(&under, &["check"], &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.starts_with("CPUs") || line.starts_with("memory"));
    let lines: Vec<&str> = lines.collect();
    println!("{}", lines.join("\n"));
    assert_eq!(output.status.code(), Some(0), "{text}");
    let room = format!("{possible} possible, {online} up to the highest online, room for {}", online + 8);
    assert!(lines[0].contains(&room), "{text}");

    let mut agent = Agent::start_under(&under, &[]);
    agent.wait_for_code("/readyz", 200);
    let page = agent.metrics();
    let slots: u64 = page.all("podlens_slots", &[]).into_iter().map(common::Sample::count).sum();
    assert_eq!(slots, MOST_SLOTS, "as many as on a machine that has no more CPUs than these");
    let (status, _) = agent.stop();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_late_cpu_is_a_loss_that_the_log_names_until_the_agent_is_started_anew() {
    let Some((cpu, file)) = absent_cpu(cpus("online") + 8).filter(|_| machine_is_own()) else {
        return skip("no CPU can be brought online for which there is no room");
    };
    let late = |page: &common::Page| -> u64 {
        page.all("podlens_lost_total", &[("reason", "late_cpu")]).into_iter().map(common::Sample::count).sum()
    };
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    assert_eq!(late(&agent.metrics()), 0);
    fs::write(&file, "1").unwrap();
    let (there, away) = (TestCgroup::container(&common::pod_uid(1), 1), TestCgroup::container(&common::pod_uid(2), 2));
    let work = Work::Spin(Duration::from_millis(50));
    let mut here = Load::start(Some(&there), work, Some(0));
    let mut far = Load::start(Some(&away), work, Some(cpu));
    far.run();
    here.run();
    let lost = agent.wait_for_metrics("switches on the late CPU", |page| match late(page) {
        0 => Err("none is lost".to_owned()),
        lost => Ok(lost),
    });
    println!("{lost} switches on CPU {cpu}");
    common::wait_until("the line in the log", common::PATIENCE, || {
        let log = agent.log();
        let told = log.lines().any(|line| line.contains("start the agent anew") && line.contains(&format!("[{cpu}]")));
        if told { Ok(()) } else { Err(log) }
    });
    let counted = agent.metrics().ns(CPU, &there.labels()).unwrap();
    assert!(counted >= 45_000_000, "what runs elsewhere is counted: {counted} ns");
    drop(agent);

    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    far.run();
    let page = agent.metrics();
    let counted = page.ns(CPU, &away.labels()).unwrap();
    assert!(counted >= 45_000_000 && late(&page) == 0, "it has room now: {counted} ns");
    drop((here, far, agent));
    fs::write(&file, "0").unwrap();
}

#[test]
fn the_kernel_accepts_all_programs_for_as_many_cpus_as_a_machine_can_have() {
    let hierarchies = Hierarchies::find(Path::new("/sys/fs/cgroup")).unwrap();
    let programs = needs::programs(OBJECT).unwrap();
    for cpus in [12, 320, 1024, 8192] {
        let btf = Btf::read_file(Path::new("/sys/kernel/btf/vmlinux")).unwrap();
        let node = object::node(&hierarchies, true, switches(|_| true), cpus, 16_384);
        let answers = Answers::new(&programs, btf, &node).unwrap();
        // The maps have one entry each, of which the verifier takes no notice.
        let mut object = Object::load(object::Blank::default(), &answers, std::iter::empty()).unwrap();
        for part in ALL.iter().flat_map(|spec| spec.parts) {
            let programs = match part.on(&answers) {
                Ok(part) => part.programs,
                Err(lack) => {
                    println!("{lack}");
                    continue;
                }
            };
            for program in programs {
                if let Err(cause) = object.attach(program.name, program.hook) {
                    panic!("{} for {cpus} CPUs: {}", program.name, refusal::explain(&cause));
                }
            }
        }
    }
}

#[test]
fn cpus_are_the_nodes_whatever_lies_over_the_list_of_those_that_are_online() {
    let of_check = |under: &[&str]| {
        let text = String::from_utf8(podlens(under, &["check"], &[]).stdout).unwrap();
        text.lines().find(|line| line.starts_with("CPUs")).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let list = tempfile::NamedTempFile::new().unwrap();
    // As lxcfs shows it to a container whose share is one CPU.
    fs::write(list.path(), "0\n").unwrap();
    let over = format!("mount --bind {} /sys/devices/system/cpu/online && exec \"$@\"", list.path().display());
    let under = ["unshare", "--mount", "sh", "-c", over.as_str(), "sh"];
    if cpus("online") == 1 {
        return skip("this machine has one CPU");
    }
    assert_eq!(of_check(&under), of_check(&[]));
}
