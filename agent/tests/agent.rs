//! The agent as a process: how it starts, serves, ends, and what it says when something is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{
    Agent, Load, OnDrop, PATIENCE, Page, TestCgroup, Work, free_address, kernel, pod_uid, podlens, skip,
    slots_without_series, tested_binary, wait_until,
};
use podlens::collectors::{lifecycle, switchable, tasks};
use testkit::certificates::{Authority, Secret};

const CPU: &str = "podlens_cpu_seconds_total";

/// Ids of the programs and maps that a process holds open.
fn held_in_kernel(process: u32) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        programs.extend(number("prog_id:"));
        maps.extend(number("map_id:"));
    }
    // What a program uses stays as long as the program, though nobody holds a descriptor of it.
    for program in listed("prog").iter().filter(|program| programs.contains(&program["id"].as_u64().unwrap())) {
        maps.extend(program["map_ids"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64));
    }
    (programs, maps)
}

/// All programs or maps in the kernel, as bpftool lists them.
fn listed(what: &str) -> Vec<serde_json::Value> {
    let output = Command::new("bpftool").args(["--json", what, "show"]).output().expect("bpftool is installed");
    serde_json::from_slice(&output.stdout).expect("bpftool answers with a list in JSON")
}

/// Their ids.
fn ids(what: &str) -> BTreeSet<u64> {
    listed(what).iter().map(|one| one["id"].as_u64().unwrap()).collect()
}

fn assert_kernel_is_clean(held: &(BTreeSet<u64>, BTreeSet<u64>)) {
    // The kernel frees maps after a grace period, which takes as long as the machine is busy.
    wait_until("the kernel's release of programs and maps", PATIENCE, || {
        let programs: Vec<u64> = held.0.intersection(&ids("prog")).copied().collect();
        let maps: Vec<u64> = held.1.intersection(&ids("map")).copied().collect();
        if programs.is_empty() && maps.is_empty() {
            Ok(())
        } else {
            Err(format!("programs {programs:?} and maps {maps:?} are still there"))
        }
    });
}

#[test]
fn a_killed_agent_leaves_no_program_and_no_map_in_the_kernel() {
    let mut agent = Agent::start(&[]);
    let held = held_in_kernel(agent.id());
    assert!(held.0.len() >= 4 && held.1.len() >= 5, "what it holds is found: {held:?}");
    assert!(held.0.is_subset(&ids("prog")) && held.1.is_subset(&ids("map")));
    agent.signal("KILL");
    assert!(!agent.wait().success());
    assert_kernel_is_clean(&held);
}

#[test]
fn sigterm_ends_it_with_0_within_5_s_although_the_collector_hangs() {
    // It takes connections and never says a word.
    let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", deaf.local_addr().unwrap());
    let agent = Agent::start(&[("PODLENS_OTLP_ENDPOINT", &endpoint), ("PODLENS_OTLP_INTERVAL", "1s")]);
    thread::sleep(Duration::from_secs(2));
    let held = held_in_kernel(agent.id());
    let (status, time) = agent.stop();
    assert_eq!(status.code(), Some(0));
    assert!(time < Duration::from_secs(5), "it took {time:?}");
    assert_kernel_is_clean(&held);
}

#[test]
fn sigterm_ends_it_with_0_within_5_s_when_nothing_listens_at_the_endpoint() {
    let endpoint = format!("http://{}", free_address());
    let agent = Agent::start(&[("PODLENS_OTLP_ENDPOINT", &endpoint), ("PODLENS_OTLP_INTERVAL", "1s")]);
    let (status, time) = agent.stop();
    assert_eq!(status.code(), Some(0));
    assert!(time < Duration::from_secs(5), "it took {time:?}");
}

#[test]
fn sigint_ends_it_with_0_too() {
    let mut agent = Agent::start(&[]);
    agent.signal("INT");
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn a_second_agent_on_the_same_port_says_so_and_does_not_harm_the_first() {
    let first = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let cgroup = TestCgroup::any_container();
    let mut load = Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(50)), None);
    load.run();
    let before = first.metrics().ns(CPU, &cgroup.labels()).unwrap();
    let mut second = Agent::spawn(first.address(), &[], &[]);
    assert_eq!(second.wait().code(), Some(1));
    let log = second.log();
    assert!(log.contains(&first.address().to_string()), "it names the address: {log}");
    assert!(log.contains("--listen"), "it names the remedy: {log}");
    load.run();
    let after = first.metrics().ns(CPU, &cgroup.labels()).unwrap();
    assert!(after >= before + 45_000_000, "the first goes on counting: {before} ns, then {after} ns");
    let (status, _) = first.stop();
    assert_eq!(status.code(), Some(0));
}

#[track_caller]
fn check_refused(arguments: &[&str], environment: &[(&str, &str)], code: i32, said: &[&str]) {
    let output = podlens(&[], arguments, environment);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(code), "{arguments:?} {environment:?}: {text}");
    for part in said {
        assert!(text.contains(part), "{arguments:?} {environment:?} does not say {part:?} but: {text}");
    }
}

#[test]
fn bad_settings_are_refused_with_their_place_and_the_nearest_valid_name() {
    let file = std::env::temp_dir().join(format!("podlens-agent-{}.yaml", std::process::id()));
    fs::write(&file, "node: a\nliste: 127.0.0.1:1\n").unwrap();
    let path = file.to_str().unwrap();
    for command in ["run", "check", "snapshot"] {
        check_refused(&[command, "--config", path], &[], 1, &[&format!("{path}:2:1"), "`liste`", "`listen`"]);
        check_refused(&[command], &[("PODLENS_CONFIG", path)], 1, &[&format!("{path}:2:1"), "`listen`"]);
        check_refused(&[command], &[("PODLENS_MAX_AGEE", "1s")], 1, &["PODLENS_MAX_AGEE", "PODLENS_MAX_AGE"]);
        check_refused(&[command], &[("PODLENS_MAX_AGE", "soon")], 1, &["`soon`", "such as 500ms"]);
    }
    fs::remove_file(&file).unwrap();
    check_refused(&["run", "--lisen", "x"], &[], 2, &["--lisen", "--listen"]);
    check_refused(&["run", "--config", "/nowhere.yaml"], &[], 1, &["/nowhere.yaml"]);
    let root = [("PODLENS_CGROUP_ROOT", "/proc")];
    check_refused(&["run"], &root, 1, &["/proc", "cgroup_root"]);
    check_refused(&["check"], &root, 1, &["/proc", "cgroup_root"]);
    check_refused(&["snapshot"], &root, 1, &["/proc", "cgroup_root"]);
    let address = free_address().to_string();
    let both = [("PODLENS_LISTEN", address.as_str()), ("PODLENS_HEALTH_LISTEN", &address)];
    check_refused(&["run"], &both, 1, &["`listen` and `health_listen`", &address]);
}

#[test]
fn what_ends_the_start_of_run_check_says_in_the_same_words() {
    let (secret, authority) = (Secret::new(), Authority::new());
    secret.identify(&authority.issue(&["podlens"]));
    secret.write("other.pem", &authority.issue(&["podlens"]).key);
    let path = |name: &str| secret.path(name).to_str().unwrap().to_owned();
    let [certificate, key, other, lacking] = ["cert.pem", "key.pem", "other.pem", "lacking.pem"].map(path);
    let check = |line: &str, environment: &[(&str, &str)], parts: &[&str]| {
        let listen = free_address().to_string();
        let environment = [&[("PODLENS_LISTEN", listen.as_str())], environment].concat();
        let run = podlens(&[], &["run"], &environment);
        let refusal = String::from_utf8_lossy(&run.stderr).into_owned();
        let words = refusal.lines().find_map(|line| line.strip_prefix("podlens: ")).unwrap_or_default();
        assert!(!run.status.success() && parts.iter().all(|part| words.contains(part)), "{environment:?}: {refusal}");
        let output = podlens(&[], &["check"], &environment);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = text.lines().find(|text| text.split_whitespace().next() == Some(line)).unwrap_or_default();
        assert!(said.contains("UNUSABLE") && said.contains(words), "{environment:?}: {text}");
        let verdict = format!("podlens is of no use before this is corrected: {line}");
        assert!(text.trim_end().ends_with(&verdict), "{environment:?}: {text}");
        assert_eq!(output.status.code(), Some(1), "{environment:?}: {text}");
    };
    let otlp = |more: &[(&str, &str)], parts: &[&str]| {
        check("otlp", &[&[("PODLENS_OTLP_ENDPOINT", "https://127.0.0.1:1")], more].concat(), parts);
    };
    otlp(&[("PODLENS_OTLP_CERTIFICATE", &lacking)], &["cannot read", "correct `otlp.certificate`"]);
    otlp(&[("PODLENS_OTLP_CERTIFICATE", &key)], &["has no certificate in PEM"]);
    let client = |certificate: &str, key: &str, part: &str| {
        let pair = [("PODLENS_OTLP_CLIENT_CERTIFICATE", certificate), ("PODLENS_OTLP_CLIENT_KEY", key)];
        otlp(&pair, &[part]);
    };
    client(&certificate, &lacking, "correct `otlp.client_key`");
    client(&certificate, &certificate, "has no key in PEM");
    client(&certificate, &other, "the key belongs to the certificate");
    // Of events alone.
    let logs = [
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", &lacking),
    ];
    check("otlp", &logs, &["cannot read"]);
    // For documents: nobody's machine has it.
    check("listen", &[("PODLENS_LISTEN", "192.0.2.1:9464")], &["192.0.2.1:9464", "use --listen with one that is"]);
    check("listen", &[("PODLENS_HEALTH_LISTEN", "192.0.2.1:9464")], &["use --health-listen with one that is"]);

    let good = [("PODLENS_OTLP_ENDPOINT", "https://127.0.0.1:1"), ("PODLENS_OTLP_CERTIFICATE", &certificate)];
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = TcpListener::bind(taken).unwrap();
    let listen = taken.to_string();
    let output = podlens(&[], &["check"], &[&good[..], &[("PODLENS_LISTEN", &listen)]].concat());
    drop(held);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in
        ["metrics to https://127.0.0.1:1", "events to https://127.0.0.1:1", "is taken, by podlens itself if it runs"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// As a user who may have so many tasks: the first user has no such limit.
#[test]
fn where_threads_cannot_be_started_the_limit_is_named_and_nothing_panics() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("podlens");
    fs::copy(tested_binary(), &binary).unwrap();
    let log = directory.path().join("log");
    for tasks in 1..=5 {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=54321", "--clear-groups", "prlimit", &format!("--nproc={tasks}")])
            .arg(&binary)
            .arg("run");
        command.env("PODLENS_LISTEN", free_address().to_string()).stderr(fs::File::create(&log).unwrap());
        let mut agent = command.spawn().unwrap();
        let text = || fs::read_to_string(&log).unwrap();
        wait_until("the start or the refusal", PATIENCE, || {
            let is_over = agent.try_wait().unwrap().is_some() || text().contains("serving");
            is_over.then_some(()).ok_or_else(text)
        });
        if tasks < 4 {
            let (status, text) = (agent.wait().unwrap(), text());
            assert_eq!(status.code(), Some(1), "{tasks}: {text}");
            assert!(text.contains("cannot start a thread: more tasks must be allowed, by pids.max"), "{tasks}: {text}");
            assert_eq!(text.lines().count(), 1, "{tasks}: {text}");
        } else {
            // It follows births for some seconds, on threads that may wait.
            thread::sleep(Duration::from_secs(3));
            let ended = agent.try_wait().unwrap();
            agent.kill().unwrap();
            agent.wait().unwrap();
            let text = text();
            assert_eq!(ended, None, "{tasks}: {text}");
            assert!(!text.contains("panicked"), "{tasks}: {text}");
        }
    }
}

#[test]
fn files_for_otlps_tls_that_hold_nothing_of_use_are_refused_at_the_start() {
    let nothing = tempfile::NamedTempFile::new().unwrap();
    fs::write(nothing.path(), "no certificate").unwrap();
    let nothing = nothing.path().to_str().unwrap();
    let endpoint = ("PODLENS_OTLP_ENDPOINT", "https://127.0.0.1:1");
    let listen = free_address().to_string();
    let run = ["run", "--listen", &listen];
    let authority = |path| [endpoint, ("PODLENS_OTLP_CERTIFICATE", path)];
    check_refused(&run, &authority(nothing), 1, &[nothing, "has no certificate in PEM", "`otlp.certificate`"]);
    check_refused(&run, &authority("/nowhere.pem"), 1, &["/nowhere.pem", "correct `otlp.certificate`"]);
    let own = [endpoint, ("PODLENS_OTLP_CLIENT_CERTIFICATE", nothing), ("PODLENS_OTLP_CLIENT_KEY", nothing)];
    check_refused(&run, &own, 1, &[nothing, "has no certificate in PEM", "`otlp.client_certificate`"]);
}

#[test]
fn check_and_the_log_tell_what_is_named_and_not_there() {
    let nobodys_run = tempfile::tempdir().unwrap();
    let environment = [
        ("PODLENS_SERIES_ALLOW", "default, podlens_tsks"),
        ("PODLENS_KUBERNETES_SOURCE", "bundle"),
        ("PODLENS_KUBERNETES_BUNDLE_ROOT", nobodys_run.path().to_str().unwrap()),
    ];
    let said = [
        "no metric fits `podlens_tsks` of `series.allow`",
        "podlens_tasks",
        "no container runtime keeps annotations below",
    ];
    let output = podlens(&[], &["check"], &environment);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.iter().all(|part| text.contains(part)), "{text}");
    let agent = Agent::start(&environment);
    wait_until("the log", PATIENCE, || {
        let log = agent.log();
        said.iter().all(|part| log.contains(part)).then_some(()).ok_or(log)
    });
}

/// `setpriv` such that the process has these capabilities and no other, as in a container.
fn with_only(bounding_set: &str) -> [&str; 3] {
    ["setpriv", "--no-new-privs", bounding_set]
}

#[track_caller]
fn check_without(bounding_set: &str, missing: &[&str]) {
    let under = with_only(bounding_set);
    let output = podlens(&under, &["check"], &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{bounding_set}: {text}");
    for name in missing {
        let line = text.lines().find(|line| line.starts_with(&format!("CAP_{name}"))).unwrap_or_default();
        assert!(line.contains("MISSING") && line.contains(&format!("add {name}")), "{bounding_set}: {text}");
    }
    let told = text.matches("the process lacks the capabilities").count();
    assert_eq!((told, text.contains("failed: cause 1")), (1, true), "{bounding_set}: {text}");

    let mut agent = Agent::start_under(&under, &[]);
    let reason = agent.wait_for_code("/readyz", 503);
    for name in missing {
        assert!(reason.contains(name), "{bounding_set}: /readyz does not name {name}: {reason}");
    }
    thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.ended(), None, "it stays up");
    assert_eq!(agent.get("/healthz").unwrap().0, 200);
    let page = agent.metrics();
    for name in [CPU, "podlens_cpu_wait_seconds_total", "podlens_runqueue_latency_seconds_count"] {
        assert_eq!(page.all(name, &[]), Vec::<&common::Sample>::new(), "what is not measured has no value");
    }
    assert_eq!(page.count("podlens_collector_state", &[("collector", "scheduler"), ("state", "failed")]), Some(1));
    let (status, _) = agent.stop();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn without_a_capability_it_stays_up_says_which_and_serves_no_value() {
    check_without("--bounding-set=-all", &["BPF", "PERFMON"]);
    check_without("--bounding-set=-all,+perfmon", &["BPF"]);
    check_without("--bounding-set=-all,+bpf", &["PERFMON"]);
}

/// Whether this kernel charges maps to the limit of locked memory, as those before 5.11 do.
fn charges_locked_memory() -> bool {
    kernel() < [5, 11]
}

#[test]
fn the_capabilities_bpf_and_perfmon_alone_are_enough_and_sys_resource_on_old_kernels() {
    let alone = with_only("--bounding-set=-all,+bpf,+perfmon");
    let output = podlens(&alone, &["check"], &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_old = charges_locked_memory();
    assert_eq!(output.status.code(), Some(i32::from(is_old)), "{text}");
    assert_eq!(text.contains("CAP_SYS_RESOURCE MISSING"), is_old, "{text}");
    let under = if is_old { with_only("--bounding-set=-all,+bpf,+perfmon,+sys_resource") } else { alone };
    let mut agent = Agent::start_under(&under, &[("PODLENS_MAX_AGE", "0s")]);
    agent.wait_for_code("/readyz", 200);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let held = if is_old { "000000c001000000" } else { "000000c000000000" };
    assert!(status.contains(&format!("CapEff:\t{held}")), "it has no other capability: {status}");
    let cgroup = TestCgroup::any_container();
    let mut load = Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(100)), None);
    load.run();
    let cpu_ns = agent.metrics().ns(CPU, &cgroup.labels()).expect("the cgroup has its name");
    assert!(cpu_ns >= 90_000_000, "{cpu_ns} ns");
    let page = agent.metrics();
    let is_in = |collector, state| {
        page.count("podlens_collector_state", &[("collector", collector), ("state", state)]) == Some(1)
    };
    assert!(is_in("lifecycle", "running"));
    let state = if throttles_are_exact() { "running" } else { "degraded" };
    assert!(is_in("scheduler", state), "{}", agent.log());
}

/// Whether this kernel tells throttled time by the run queue's own clock, as those from 6.6 on do.
fn throttles_are_exact() -> bool {
    kernel() >= [6, 6]
}

#[test]
fn check_says_what_this_kernel_lacks() {
    // Where somebody takes events, the program that tells ends of containers is loaded as well.
    let output = podlens(&[], &["check"], &[("PODLENS_OTLP_ENDPOINT", "http://127.0.0.1:1")]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    assert!(line("lifecycle").contains(" running "), "{text}");
    if throttles_are_exact() {
        assert!(line("scheduler").contains(" running "), "{text}");
    } else {
        for part in [" degraded: ", "throttled_clock_self_time", "the time that this clock misses counts as waiting"] {
            assert!(line("scheduler").contains(part), "{text}");
        }
    }
    let tasks = if kernel() >= [5, 17] { " running " } else { "BPF_FUNC_loop" };
    assert!(line("tasks").contains(tasks), "{text}");
}

/// Where the kernel tells whether it is locked down.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

#[test]
fn a_lockdown_for_confidentiality_is_named_with_the_way_out() {
    let mode = fs::read_to_string(LOCKDOWN).unwrap_or_default();
    if !mode.contains("[confidentiality]") {
        return skip(
            "this kernel is not locked down for confidentiality; `cargo xtask vm --parameters lockdown=confidentiality` boots one that is",
        );
    }
    let said = ["locked down for confidentiality", "boot with lockdown=integrity"];
    // A container does not see where the kernel tells its mode; what the verifier says does.
    let hidden = ["unshare", "--mount", "sh", "-c", "umount /sys/kernel/security && exec \"$@\"", "sh"];
    for under in [&[][..], &hidden] {
        let output = podlens(under, &["check"], &[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(line("scheduler").contains("failed: cause 1; "), "{text}");
        assert!(said.iter().all(|part| line("cause 1").contains(part)), "{text}");
        let is_shown = said.iter().all(|part| line("lockdown").contains(part));
        assert_eq!(is_shown, under.is_empty(), "{text}");

        let mut agent = Agent::start_under(under, &[]);
        let reason = agent.wait_for_code("/readyz", 503);
        assert!(said.iter().all(|part| reason.contains(part)), "{reason}");
        assert_eq!(agent.metrics().all(CPU, &[]).len(), 0, "what is not measured has no value");
    }
}

#[test]
fn twenty_scrapers_share_one_page_as_long_as_it_is_fresh() {
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "1s")]);
    let start = Instant::now();
    let bodies: BTreeSet<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = BTreeSet::new();
                    for _ in 0..50 {
                        seen.insert(agent.metrics().text);
                    }
                    seen
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let allowed = start.elapsed().as_secs() + 2;
    assert!(bodies.len() as u64 <= allowed, "{} pages in {:?}", bodies.len(), start.elapsed());
}

/// What names an entity's series, whatever they tell.
fn entity(sample: &common::Sample) -> [String; 4] {
    ["namespace", "pod", "container", "unit"].map(|name| sample.label(name).to_owned())
}

fn sums_by_entity(page: &Page, name: &str, include: impl Fn(&common::Sample) -> bool) -> BTreeMap<[String; 4], u64> {
    let mut sums = BTreeMap::new();
    for sample in page.all(name, &[]).into_iter().filter(|sample| include(sample)) {
        *sums.entry(entity(sample)).or_default() += sample.ns();
    }
    sums
}

#[track_caller]
fn assert_sums_are_exact(page: &Page) {
    let mut waits = sums_by_entity(page, "podlens_runqueue_latency_seconds_sum", |_| true);
    let causes = sums_by_entity(page, "podlens_cpu_wait_seconds_total", |_| true);
    // Without any observation there is no histogram.
    for entity in causes.keys() {
        waits.entry(entity.clone()).or_insert(0);
    }
    assert_eq!(causes, waits, "the sum over causes is the histogram's sum");
    let others = sums_by_entity(page, "podlens_cpu_wait_seconds_total", |sample| {
        ["neighbor", "system"].contains(&sample.label("cause"))
    });
    let culprits = sums_by_entity(page, "podlens_cpu_wait_caused_seconds_total", |_| true);
    for (entity, ns) in others {
        assert_eq!(culprits.get(&entity).copied().unwrap_or(0), ns, "the sum over the culprits of {entity:?}");
    }
}

#[test]
fn no_counter_decreases_and_all_sums_are_exact_while_cgroups_come_and_go() {
    const FEW: u32 = 20;
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    let over = AtomicBool::new(false);
    let work = Work::Wake { times: 400, sleep: Duration::from_millis(1), spin: Duration::from_millis(1) };
    let mut pages = 0_u32;
    thread::scope(|scope| {
        // The workers end even if a check fails.
        let _stop = OnDrop(|| over.store(true, Ordering::Release));
        for worker in 0..2_u32 {
            let over = &over;
            scope.spawn(move || {
                for number in 0.. {
                    if over.load(Ordering::Acquire) {
                        return;
                    }
                    // The same pod again and again, with a new container each time, as a crash loop has it.
                    let cgroup = TestCgroup::container(&pod_uid(worker), 1_000 * worker + number);
                    Load::start(Some(&cgroup), work, Some(0)).run();
                }
            });
        }
        let start = Instant::now();
        let mut caused_ns = 0;
        let mut last: BTreeMap<_, f64> = BTreeMap::new();
        // At least so long, and longer on a machine that makes few pages in it.
        while start.elapsed() < Duration::from_secs(20) || (pages <= FEW && start.elapsed() < PATIENCE) {
            let page = agent.metrics();
            assert_sums_are_exact(&page);
            let counters = page.samples.iter().filter(|sample| {
                ["_total", "_bucket", "_sum", "_count"].iter().any(|suffix| sample.name.ends_with(suffix))
            });
            let now: BTreeMap<_, f64> = counters.map(|sample| (sample.series(), sample.value())).collect();
            for (series, value) in &now {
                let before = last.get(series).copied().unwrap_or(0.0);
                assert!(*value >= before, "{series:?} fell from {before} to {value} on page {pages}");
            }
            last = now;
            pages += 1;
            caused_ns = caused_ns.max(page.sum_ns("podlens_cpu_wait_caused_seconds_total", &[]));
            thread::sleep(Duration::from_millis(150));
        }
        assert!(caused_ns > 0, "the two loads on one CPU had to wait for each other");
    });
    assert!(pages > FEW, "{pages} pages are too few to tell");
}

#[test]
fn slots_of_cgroups_of_which_no_event_told_become_free_again() {
    const CGROUPS: u32 = 60;
    let agent = Agent::start(&[("PODLENS_MAX_AGE", "0s")]);
    // None of those has a series: nobody knows its path.
    let held = slots_without_series;
    let before = held(&agent.metrics());
    // Neither the birth nor the end of a cgroup is told whose path is longer than an event takes.
    let above = ["x".repeat(250).as_str(); 5].join("/");
    let began = Instant::now();
    // The first may have become free again before the last one is made, on a machine that others use.
    let mut most = before;
    for number in 0..CGROUPS {
        let cgroup = TestCgroup::new(&format!("{above}/{number}"));
        let mut load = Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(1)), None);
        load.run();
        load.end();
        cgroup.remove();
        if number % 10 == 9 {
            most = most.max(held(&agent.metrics()));
        }
    }
    let page = agent.metrics();
    let untold = page.value("podlens_lost_total", &[("collector", "lifecycle"), ("reason", "path_unreadable")]);
    let (at_end, took) = (held(&page), began.elapsed());
    println!("{before} slots at first, then {most}, {at_end} after {took:?}; {untold} events without a path");
    assert!(untold + common::unseen(&page) as f64 >= f64::from(CGROUPS), "{untold} events had no path");
    assert!(most >= before + f64::from(CGROUPS / 2), "each held a slot: {before}, then {most}");
    wait_until("the slots' return", PATIENCE, || {
        let now = held(&agent.metrics());
        (now < before + f64::from(CGROUPS / 10)).then_some(()).ok_or(format!("{now} slots are held, {before} before"))
    });
}

#[test]
fn what_is_switched_off_has_no_program_in_the_kernel() {
    let names: Vec<String> = switchable()
        .iter()
        .filter(|name| **name != tasks::SPEC.name)
        .map(|name| format!("PODLENS_COLLECTORS_{}", name.to_uppercase()))
        .collect();
    let off: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "false")).collect();
    let left = Agent::start(&off).programs();
    // An agent without any collector does not get ready.
    let expected =
        lifecycle::SPEC.programs().chain(tasks::SPEC.programs()).map(|program| program.name.to_owned()).collect();
    assert!(!left.is_empty() && left.is_subset(&expected), "{left:?}, expected {expected:?} at most");
}
