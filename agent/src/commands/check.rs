//! `podlens check`: what this node offers, what is lacking, and how to get it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};

use super::{run::otlp_settings, service};
use crate::{
    attribution::{explain, kubernetes::source},
    collectors::ALL,
    config::Config,
    export::{
        otlp_client,
        server::{check_addresses, check_web},
    },
    kernel::{
        btf::Btf,
        capabilities::{Capability, FOR_LOCKED_MEMORY, Held, NEEDED},
        cgroupfs::hierarchies::Hierarchies,
        host::{self, Cpus},
        refusal::Circumstances,
    },
    log::with_causes,
    pipeline::{Pipeline, exporting},
    signal::{Entity, State},
};

/// Tries everything out and reports; success if the agent would be useful here.
///
/// # Errors
/// Standard output is closed.
pub fn run(config: &Config) -> Result<ExitCode> {
    let (text, useful) = report(config);
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(if useful { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tells how the path of a cgroup is read.
///
/// # Errors
/// Standard output is closed.
pub fn explain(config: &Config, path: &str) -> Result<ExitCode> {
    let text = explain::explain(&within_tree(config, path), config.units);
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// The path within its hierarchy, of a directory or of a line of /proc/PID/cgroup such as `0::/system.slice`.
fn within_tree(config: &Config, path: &str) -> String {
    let is_line = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((_, rest)) = path.split_once(':').filter(|(number, _)| is_line(number)) {
        let within = rest.split_once(':').map_or(rest, |(_, within)| within);
        return within.to_owned();
    }
    match Path::new(path).strip_prefix(&config.cgroup_root) {
        Ok(within) => format!("/{}", within.display()),
        Err(_) => path.to_owned(),
    }
}

fn report(config: &Config) -> (String, bool) {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:14} {value}");
    };
    line("node", &config.node);
    line("kernel", &host::kernel_release().unwrap_or_else(|cause| format!("not known: {cause}")));
    match Cpus::of_node() {
        Ok(cpus) => line("CPUs", &cpus.to_string()),
        Err(cause) => line("CPUs", &format!("not known: {cause}")),
    }
    let btf = Btf::read_file(Path::new("/sys/kernel/btf/vmlinux"));
    match &btf {
        Ok(_) => line("BTF", "readable"),
        Err(cause) => line("BTF", &with_causes(cause)),
    }
    match Hierarchies::find(&config.cgroup_root) {
        Ok(hierarchies) => line("cgroups", &cgroups(&hierarchies)),
        Err(cause) => line("cgroups", &with_causes(&cause)),
    }
    let held = Held::read(Path::new("/proc")).ok();
    // A map holds its charge in a member that went away with the limit.
    let is_charged = btf.is_ok_and(|btf| btf.member("bpf_map.memory").is_ok());
    for capability in NEEDED.into_iter().chain(is_charged.then_some(FOR_LOCKED_MEMORY)) {
        line(&format!("CAP_{}", capability.name), &verdict(capability, held));
    }
    let circumstances = Circumstances::read(Path::new("/proc"), Path::new("/sys"));
    line("lockdown", &circumstances.lockdown());
    line("names", &names(config));
    // What ends the start of `podlens run`.
    let settings = [
        ("listen", check_addresses(&service::listen(config)).map(Some).map_err(anyhow::Error::from)),
        ("web", config.web.config_file.as_deref().map(check_web).transpose().map_err(anyhow::Error::from)),
        ("otlp", otlp(config)),
    ];
    for (name, outcome) in &settings {
        match outcome {
            Ok(None) => {}
            Ok(Some(what)) => line(name, what),
            Err(cause) => line(name, &format!("UNUSABLE, podlens will not start with it: {}", with_causes(&**cause))),
        }
    }
    let unusable: Vec<&str> = settings.iter().filter(|(_, outcome)| outcome.is_err()).map(|(name, _)| *name).collect();
    for stray in exporting::strays(&config.series) {
        line("series", &stray);
    }
    let pipeline = match Pipeline::start(config) {
        Ok(pipeline) => pipeline,
        Err(cause) => {
            line("collectors", &format!("none can start: {}", with_causes(&cause)));
            return (text, false);
        }
    };
    line("memory", &pipeline.memory().to_string());
    for (name, value) in collectors(pipeline.states()) {
        line(&name, &value);
    }
    let useful = pipeline.is_useful();
    line(
        "verdict",
        &match &unusable[..] {
            [] if useful => "podlens is useful on this node".to_owned(),
            [] => "podlens is of no use on this node: none of its kernel programs runs".to_owned(),
            _ => format!("podlens is of no use before this is corrected: {}", unusable.join(", ")),
        },
    );
    (text, useful && unusable.is_empty())
}

/// A line for each collector, and then one for each cause that several of them share.
fn collectors(states: &[(&'static str, State)]) -> Vec<(String, String)> {
    let reasons: Vec<&str> = states.iter().filter_map(|(_, state)| state.reason()).collect();
    let (mut lines, mut causes) = (Vec::new(), Vec::new());
    for (name, state) in states {
        let what = state.name();
        let value = match state.reason().map(|reason| (reason, shared(reason, &reasons))) {
            Some((reason, Some(cause))) => {
                if !causes.contains(&cause) {
                    causes.push(cause);
                }
                let number = causes.iter().take_while(|known| **known != cause).count() + 1;
                format!("{what}: {}", reason.replace(cause, &format!("cause {number}")))
            }
            Some((reason, None)) => format!("{what}: {reason}"),
            None => {
                let about = ALL.iter().find(|spec| spec.name == *name).map_or("", |spec| spec.about);
                format!("{what} ({about})")
            }
        };
        lines.push(((*name).to_owned(), value));
    }
    lines.extend((1..).zip(causes).map(|(number, cause)| (format!("cause {number}"), cause.to_owned())));
    lines
}

/// What others have for a reason as well: all of it, or the explanation that it begins with.
fn shared<'a>(reason: &'a str, reasons: &[&str]) -> Option<&'a str> {
    let explanation = reason.split_once("; ").map(|(explanation, _)| explanation);
    [Some(reason), explanation].into_iter().flatten().find(|cause| {
        let has_it =
            |other: &&&str| other.strip_prefix(cause).is_some_and(|rest| rest.is_empty() || rest.starts_with("; "));
        reasons.iter().filter(has_it).count() > 1
    })
}

fn cgroups(hierarchies: &Hierarchies) -> String {
    let mode = hierarchies.mode.name();
    match hierarchies.part() {
        Some(part) => format!(
            "{mode}; the mounted tree is a part of the kernel's, {part}: all else is unit=\"{}\"",
            Entity::OUTSIDE
        ),
        None => mode.to_owned(),
    }
}

fn verdict(capability: Capability, held: Option<Held>) -> String {
    match held {
        Some(held) if held.has(capability) => format!("held, to {}", capability.purpose),
        Some(_) => format!(
            "MISSING, needed to {}: add {} to the container's securityContext.capabilities.add, or start podlens as root",
            capability.purpose, capability.name
        ),
        None => "not known: /proc/self/status is not readable".to_owned(),
    }
}

/// The source of names, which needs a runtime for its client.
fn names(config: &Config) -> String {
    match runtime() {
        Ok(runtime) => runtime.block_on(source::check(&config.kubernetes)),
        Err(cause) => format!("not known: cannot start a runtime: {cause}"),
    }
}

/// Where to is pushed; none if nowhere.
fn otlp(config: &Config) -> Result<Option<String>> {
    let (metrics, logs) = otlp_settings(config)?;
    let runtime = runtime().context("cannot start a runtime")?;
    let _within = runtime.enter();
    let mut told = Vec::new();
    for (what, settings) in [("metrics", metrics), ("events", logs)] {
        let Some(settings) = settings else { continue };
        otlp_client::check(&settings)?;
        told.push(format!("{what} to {}", settings.endpoint));
    }
    Ok((!told.is_empty()).then(|| told.join(", ")))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::{collectors, within_tree};
    use crate::{config::Config, signal::State};

    #[test]
    fn a_directory_and_a_line_of_a_process_are_paths_within_the_tree() {
        for (text, expected) in [
            ("/kubepods/x", "/kubepods/x"),
            ("/sys/fs/cgroup/kubepods/x", "/kubepods/x"),
            ("/sys/fs/cgroup", "/"),
            ("0::/a/b", "/a/b"),
            ("4:cpu,cpuacct:/a:b", "/a:b"),
            ("1:name=systemd:/", "/"),
            ("/a:b:c", "/a:b:c"),
        ] {
            assert_eq!(within_tree(&Config::defaults(&[]), text), expected, "{text}");
        }
    }

    #[track_caller]
    fn check_collectors(states: &[(&'static str, State)], expected: &[(&str, &str)]) {
        let lines = collectors(states);
        let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_cause_that_several_collectors_share_is_told_once() {
        let failed = |reason: &str| State::Failed(reason.to_owned());
        let degraded = |reason: &str| State::Degraded(reason.to_owned());
        check_collectors(
            &[("a", failed("no rights; denied")), ("b", State::Disabled), ("c", failed("no rights; denied"))],
            &[
                ("a", "failed: cause 1"),
                ("b", "disabled ()"),
                ("c", "failed: cause 1"),
                ("cause 1", "no rights; denied"),
            ],
        );
        // The explanation alone is shared; and what one alone has is told with it.
        check_collectors(
            &[
                ("a", degraded("no c; no d")),
                ("b", failed("locked; b refused; locked; g refused")),
                ("c", failed("no e")),
                ("d", State::Unsupported("no f".to_owned())),
                ("e", failed("locked; e refused")),
                ("f", State::Unsupported("no f".to_owned())),
            ],
            &[
                ("a", "degraded: no c; no d"),
                ("b", "failed: cause 1; b refused; cause 1; g refused"),
                ("c", "failed: no e"),
                ("d", "unsupported: cause 2"),
                ("e", "failed: cause 1; e refused"),
                ("f", "unsupported: cause 2"),
                ("cause 1", "locked"),
                ("cause 2", "no f"),
            ],
        );
    }
}
