//! Processes that begin and end against what a test makes, tasks by state against /proc.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::fd::AsRawFd as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{Agent, Load, PATIENCE, Page, TestCgroup, Trees, Work, assert_runs_are_short, pod_uid, second_cpu, skip};
use podlens::{
    collectors::{State, switchable},
    config::Config,
    export::prometheus::{Format, encode},
    pipeline::Pipeline,
};

const CREATED: &str = "podlens_processes_created_total";
const EXITED: &str = "podlens_processes_exited_total";
const TASKS: &str = "podlens_tasks";
/// Of linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn start() -> Agent {
    Agent::start(&[("PODLENS_MAX_AGE", "0s")])
}

/// A shell that waits in a cgroup, makes children one after another when told to, waits again, and ends.
struct Shell {
    child: Child,
}

impl Shell {
    fn start(cgroup: &TestCgroup, children: u32) -> Self {
        // `/bin/true` by its path is no builtin: each is one process.
        let script =
            format!("read go; n=0; while [ $n -lt {children} ]; do /bin/true; n=$((n+1)); done; echo made; read end");
        let mut command = Command::new("sh");
        let child = command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        cgroup.add(child.id());
        Self { child }
    }

    fn make_children(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap(), "go").unwrap();
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "made\n");
    }

    fn end(mut self) {
        writeln!(self.child.stdin.as_mut().unwrap(), "end").unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

#[track_caller]
fn check_processes(page: &Page, labels: &[(&str, &str)], what: &str, created: u64, exited: u64) {
    let found = [CREATED, EXITED].map(|name| page.count(name, labels));
    assert_eq!(found, [Some(created), Some(exited)], "{what}: created and exited");
}

#[test]
fn each_child_is_counted_once_when_it_begins_and_once_when_it_ends() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let mut shell = Shell::start(&cgroup, 50);
    shell.make_children();
    check_processes(&agent.metrics(), &cgroup.labels(), "50 children", 50, 50);
    shell.end();
    check_processes(&agent.metrics(), &cgroup.labels(), "and their parent, which began elsewhere", 50, 51);
}

#[test]
fn a_child_that_is_made_directly_in_a_cgroup_begins_there() {
    let agent = start();
    let cgroup = TestCgroup::container_in(&pod_uid(71), 71, Trees::ForRealTime);
    if !cgroup.is_in_version_2() {
        return skip("there is no version 2 tree, and into no other can the kernel make a child directly");
    }
    let directory = fs::File::open(&cgroup.directories()[0]).unwrap();
    // `struct clone_args`: flags first, the signal at its end fifth, the cgroup last.
    let mut arguments = [0_u64; 11];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    arguments[10] = u64::from(directory.as_raw_fd().cast_unsigned());
    // SAFETY: without flags that share anything it is a fork: the child has a memory of its own.
    let child = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    if child == 0 {
        // SAFETY: ends the child without anything of its parent's.
        unsafe { libc::_exit(0) };
    }
    let child = libc::pid_t::try_from(child).unwrap();
    assert!(child > 0, "a child can be made in a version 2 cgroup");
    // SAFETY: the child is this process' own, and its status is not asked for.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
    check_processes(&agent.metrics(), &cgroup.labels(), "one child", 1, 1);
}

#[test]
fn threads_are_no_processes() {
    let agent = start();
    let cgroup = TestCgroup::any_container();
    let mut threaded = Load::start(Some(&cgroup), Work::Threads { times: 20 }, None);
    threaded.run();
    check_processes(&agent.metrics(), &cgroup.labels(), "20 threads", 0, 0);
    threaded.end();
    check_processes(&agent.metrics(), &cgroup.labels(), "their process", 0, 1);
    // Its threads end with it, on both CPUs at once.
    let many = Load::start_tasks(Some(&cgroup), Work::Yield { times: 1 }, None, 16);
    many.end();
    check_processes(&agent.metrics(), &cgroup.labels(), "a process with 16 living threads", 0, 2);
}

#[test]
fn the_processes_of_a_container_that_lives_for_a_moment_are_counted() {
    let agent = start();
    agent.metrics();
    let cgroup = TestCgroup::any_container();
    let mut shell = Shell::start(&cgroup, 5);
    shell.make_children();
    shell.end();
    let labels: Vec<(String, String)> =
        cgroup.labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    cgroup.remove();
    check_processes(&agent.metrics(), &labels, "removed a moment ago", 5, 6);
    std::thread::sleep(Duration::from_millis(2500));
    let page = agent.metrics();
    check_processes(&page, &labels, "its slot is given back", 5, 6);
    assert!(page.all(TASKS, &labels).is_empty(), "what is gone has no tasks");
}

/// Tasks of a page by state: running, waiting, sleeping, disk.
fn tasks(page: &Page, cgroup: &TestCgroup) -> Option<[u64; 4]> {
    let state = |state| page.count(TASKS, &cgroup.labels_and(&[("state", state)]));
    Some([state("running")?, state("waiting")?, state("sleeping")?, state("disk")?])
}

/// Tasks by /proc: runnable, sleeping, in a disk sleep.
fn tasks_of_proc(cgroup: &TestCgroup) -> [u64; 3] {
    let mut found = [0; 3];
    let processes = fs::read_to_string(cgroup.directories()[0].join("cgroup.procs")).unwrap();
    for process in processes.lines() {
        for task in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            let state = stat.rsplit_once(") ").unwrap().1.chars().next().unwrap();
            found["RSD".find(state).unwrap_or_else(|| panic!("state {state}"))] += 1;
        }
    }
    found
}

/// Whether the walk through all tasks does not work on this kernel, as the agent itself says; there is no value then.
fn walk_is_lacking(agent: &Agent) -> bool {
    let page = agent.metrics();
    let labels = [("collector", "tasks"), ("state", "degraded")];
    let is_lacking = page.count("podlens_collector_state", &labels) == Some(1);
    if is_lacking {
        assert!(page.all(TASKS, &[]).is_empty(), "what cannot be counted has no value");
        skip(&format!("the collector tasks is degraded: {}", agent.lack("tasks")));
    }
    is_lacking
}

/// Three loads on CPU 0, an agent on another one: what it says of each.
#[track_caller]
fn check_states(under: &[&str]) {
    let Some(second) = second_cpu() else { return };
    // Where it competes with others by its own weight alone, so that it has the CPU nearly always.
    let busy = TestCgroup::container_in(&pod_uid(72), 72, Trees::ForRealTime);
    let [calm, blocked] = [(); 2].map(|()| TestCgroup::any_container());
    // For many walks: in each of them somebody else may have the CPU.
    let long = PATIENCE + Duration::from_secs(10);
    let mut spinning = Load::start_tasks(Some(&busy), Work::SpinFor(long), Some(0), 3);
    spinning.favour();
    let sleeping = Load::start_tasks(Some(&calm), Work::Yield { times: 1 }, None, 3);
    let mut waiting = Load::start(Some(&blocked), Work::Disk { times: 1, sleep: long }, None);
    // Asleep since before the agent: nothing has dispatched them, they hold no slot.
    sleeping.figures();
    spinning.go();
    waiting.go();
    let agent =
        Agent::start_under(&[&["taskset", "-c", &second.to_string()], under].concat(), &[("PODLENS_MAX_AGE", "0s")]);
    if walk_is_lacking(&agent) {
        return;
    }
    agent.wait_for_metrics("tasks by state", |page| {
        let states = [&busy, &calm, &blocked].map(|cgroup| tasks(page, cgroup));
        let [runnable, asleep, none] = tasks_of_proc(&busy);
        let [_, calm_asleep, _] = tasks_of_proc(&calm);
        let [_, child, disk] = tasks_of_proc(&blocked);
        assert!(runnable == 3 && none == 0 && disk == 1, "the loads are what they should be");
        let expected = [[1, runnable - 1, asleep, 0], [0, 0, calm_asleep, 0], [0, 0, child, disk]].map(Some);
        if states == expected { Ok(()) } else { Err(format!("{states:?}, expected {expected:?}")) }
    });
}

#[test]
fn states_are_those_of_proc() {
    check_states(&[]);
}

#[test]
fn a_cgroup_that_comes_between_a_walk_and_its_sweep_has_no_tasks_told() {
    let mut config = Config::defaults(&switchable());
    config.series.want_all();
    let pipeline = Pipeline::start(&config).unwrap();
    if pipeline.states().iter().any(|(name, state)| *name == "tasks" && *state != State::Running) {
        return skip("the collector tasks does not run whole");
    }
    let before = TestCgroup::any_container();
    let _before = Load::start(Some(&before), Work::Yield { times: 1 }, None);
    pipeline.walk();
    let later = TestCgroup::any_container();
    let mut load = Load::start(Some(&later), Work::Yield { times: 1 }, None);
    load.run();
    let page = Page::parse(&String::from_utf8(encode(&pipeline.sweep(), None, Format::OpenMetrics)).unwrap());
    let [_, asleep, _] = tasks_of_proc(&before);
    assert_eq!(tasks(&page, &before), Some([0, 0, asleep, 0]));
    assert_eq!(page.count("podlens_processes_created_total", &later.labels()), Some(0), "it holds a slot");
    assert!(page.all(TASKS, &later.labels()).is_empty(), "the walk cannot have met its task");
}

#[test]
fn an_agent_in_a_pid_namespace_of_its_own_sees_all_tasks() {
    check_states(&["unshare", "--pid", "--fork", "--kill-child"]);
}

#[test]
fn a_walk_meets_each_of_thousands_of_threads_once_and_no_run_holds_a_cpu_for_long() {
    const THREADS: u32 = 3000;
    let crowd = TestCgroup::any_container();
    let _crowd = Load::start_tasks(Some(&crowd), Work::Yield { times: 1 }, None, THREADS);
    assert_runs_are_short("task_walk", || {
        let agent = start();
        if walk_is_lacking(&agent) {
            return None;
        }
        let [_, asleep, _] = tasks_of_proc(&crowd);
        assert!(asleep >= THREADS.into(), "{asleep} are asleep");
        assert_eq!(tasks(&agent.metrics(), &crowd), Some([0, 0, asleep, 0]));
        Some((agent, asleep / 512))
    });
}

#[test]
fn a_walk_comes_round_while_processes_come_and_go() {
    let crowd = TestCgroup::any_container();
    let _crowd = Load::start_tasks(Some(&crowd), Work::Yield { times: 1 }, None, 1500);
    let storm = TestCgroup::any_container();
    let script = "while :; do /bin/true & /bin/true & /bin/true; done";
    let mut storms = [(); 2].map(|()| Command::new("sh").args(["-c", script]).spawn().unwrap());
    for shell in &storms {
        storm.add(shell.id());
    }
    let found: Vec<Option<(Option<[u64; 4]>, u64)>> = (0..5)
        .map(|_| {
            let agent = start();
            let page = agent.metrics();
            let unfinished = page.count("podlens_lost_total", &[("collector", "tasks"), ("reason", "walk_unfinished")]);
            (!walk_is_lacking(&agent)).then(|| (tasks(&page, &crowd), unfinished.unwrap_or(0)))
        })
        .collect();
    for shell in &mut storms {
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
    let [_, asleep, _] = tasks_of_proc(&crowd);
    for walk in found.into_iter().flatten() {
        assert_eq!(walk, (Some([0, 0, asleep, 0]), 0), "tasks asleep, and walks that did not come round");
    }
}

#[test]
fn no_task_of_the_node_is_left_out() {
    let agent = start();
    if walk_is_lacking(&agent) {
        return;
    }
    agent.wait_for_metrics("the sum over entities", |page| {
        let told: u64 = page.all(TASKS, &[]).into_iter().map(common::Sample::count).sum();
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse::<u32>().ok()
        });
        let of = |process| fs::read_dir(format!("/proc/{process}/task")).map_or(0, |tasks| tasks.count() as u64);
        let there: u64 = processes.map(of).sum();
        // Between the two looks some tasks begin and end, and dead ones wait for their parents.
        if told.abs_diff(there) <= there / 10 { Ok(()) } else { Err(format!("{told} told, {there} in /proc")) }
    });
}
