//! `podlens check`: what this node offers, what is lacking, and how to get it.

use std::{fmt::Write as _, io::Write as _, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    attribution::{explain, kubernetes::source},
    collectors::ALL,
    config::Config,
    export::server::check_web,
    kernel::{
        btf::Btf,
        capabilities::{Capability, FOR_LOCKED_MEMORY, Held, NEEDED},
        cgroupfs::hierarchies::Hierarchies,
        host::{self, Cpus},
        refusal::Circumstances,
    },
    pipeline::{Pipeline, exporting},
    signal::Entity,
};

/// Tries everything out and reports; success if the agent would be useful here.
///
/// # Errors
/// Standard output is closed.
pub fn run(config: &Config) -> Result<ExitCode> {
    let (text, useful) = report(config);
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(if useful { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tells how the path of a cgroup is read.
///
/// # Errors
/// Standard output is closed.
pub fn explain(config: &Config, path: &str) -> Result<ExitCode> {
    let text = explain::explain(&within_tree(config, path), config.units);
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
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
        Err(cause) => line("BTF", &cause.to_string()),
    }
    match Hierarchies::find(&config.cgroup_root) {
        Ok(hierarchies) => line("cgroups", &cgroups(&hierarchies)),
        Err(cause) => line("cgroups", &cause.to_string()),
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
    let web = config.web.config_file.as_deref().map(check_web).transpose();
    match &web {
        Ok(None) => {}
        Ok(Some(asks)) => line("web", asks),
        Err(cause) => line("web", &format!("UNUSABLE, podlens will not start with it: {cause}")),
    }
    for stray in exporting::strays(&config.series) {
        line("series", &stray);
    }
    let pipeline = match Pipeline::start(config) {
        Ok(pipeline) => pipeline,
        Err(cause) => {
            line("collectors", &format!("none can start: {cause}"));
            return (text, false);
        }
    };
    line("memory", &pipeline.memory().to_string());
    for (name, state) in pipeline.states() {
        let about = ALL.iter().find(|spec| spec.name == *name).map_or("", |spec| spec.about);
        let verdict = match state.reason() {
            Some(reason) => format!("{}: {reason}", state.name()),
            None => format!("{} ({about})", state.name()),
        };
        line(name, &verdict);
    }
    let useful = pipeline.is_useful();
    line(
        "verdict",
        match &web {
            Err(_) => "podlens is of no use before its web configuration is corrected",
            Ok(_) if useful => "podlens is useful on this node",
            Ok(_) => "podlens is of no use on this node: none of its kernel programs runs",
        },
    );
    (text, useful && web.is_ok())
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
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(source::check(&config.kubernetes)),
        Err(cause) => format!("not known: cannot start a runtime: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::within_tree;
    use crate::config::Config;

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
}
