//! What benchmarks of the kernel programs share: podlens loaded and ended again, so that its programs are there to be attached
//! and nothing else of it runs, and the statistics of what was measured.

#[allow(dead_code, reason = "not every benchmark looks at switches")]
pub(crate) mod one_cpu;
mod statistics;

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{BtfTracePoint, ProgramInfo, loaded_programs};
use podlens::{collectors, config::Config, kernel::hooks::Hook, pipeline::Pipeline};
use testkit::bpf;

pub(crate) use self::statistics::{median, typical};

/// What the kernel keeps of a program's name.
const NAME_BYTES: usize = 15;

/// A program of podlens on a tracepoint.
pub(crate) struct OnTracepoint {
    #[allow(dead_code, reason = "not every benchmark tells it")]
    pub(crate) name: &'static str,
    pub(crate) tracepoint: &'static str,
    pub(crate) program: BtfTracePoint,
}

/// The programs of podlens with these collectors on tracepoints. They keep their maps.
pub(crate) fn load_podlens(collectors: &[&str]) -> Result<Vec<OnTracepoint>> {
    // Of this process alone: another podlens may start meanwhile.
    let held = || bpf::programs_of(process::id());
    let before = held();
    let _pipeline = start(collectors)?;
    let after = held();
    let is_ours = |info: &ProgramInfo| after.contains(&info.id()) && !before.contains(&info.id());
    let mut ours: Vec<ProgramInfo> = loaded_programs().filter_map(Result::ok).filter(is_ours).collect();
    let mut programs = Vec::new();
    for program in collectors::ALL.iter().flat_map(|spec| spec.programs()) {
        let Hook::Tracepoint { name: tracepoint, .. } = program.hook else { continue };
        let kept = program.name.get(..NAME_BYTES).unwrap_or(program.name);
        // One is missing where the kernel lacks its tracepoint, or nobody takes its events, or it serves several collectors and was
        // found before.
        let Some(at) = ours.iter().position(|info| info.name_as_str() == Some(kept)) else { continue };
        let name = program.name;
        programs.push(OnTracepoint { name, tracepoint, program: take_over(ours.swap_remove(at), name)? });
    }
    Ok(programs)
}

/// A program of podlens on a tracepoint, whichever build has loaded it.
pub(crate) fn take_over(info: ProgramInfo, name: &'static str) -> Result<BtfTracePoint> {
    // SAFETY: podlens' program of that name is of that type.
    Ok(unsafe { BtfTracePoint::from_program_info(info, name.into()) }?)
}

fn start(collectors: &[&str]) -> Result<Pipeline> {
    let known = collectors::switchable();
    if let Some(name) = collectors.iter().find(|name| !known.contains(name)) {
        bail!("no collector is called {name}; there are {}", known.join(", "));
    }
    let mut config = Config::defaults(&known);
    for (name, is_on) in &mut config.collectors {
        *is_on = collectors.contains(&name.as_str());
    }
    "bench".clone_into(&mut config.node);
    let pipeline = Pipeline::start(&config)?;
    if !pipeline.is_useful() {
        bail!("podlens can measure nothing here: {:?}", pipeline.states());
    }
    Ok(pipeline)
}

/// A cgroup of a tree, removed with the value.
pub(crate) struct Below(pub(crate) PathBuf);

impl Below {
    pub(crate) fn make(tree: &Path, name: &str) -> Result<Self> {
        let directory = tree.join(format!("podlens-bench-{}-{name}", process::id()));
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self(directory))
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        if let Some(tree) = self.0.parent() {
            // This process may be in it. It stays only if another one is.
            let _ = join(tree);
            let _ = fs::remove_dir(&self.0);
        }
    }
}

/// Moves this process to a cgroup.
pub(crate) fn join(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("cannot join {}", cgroup.display()))
}
