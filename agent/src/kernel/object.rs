//! The kernel programs: loaded with the node's facts, attached, and their maps handed out.
//!
//! Attachments live as long as [`Object`]: when the process ends, however it ends, the kernel detaches and
//! frees everything. What only loading needs goes before, with [`Object::seal`].

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness, VerifierLogLevel,
    maps::{Map, MapError, RingBuf},
    programs::{BtfTracePoint, FExit, Iter, PerfEvent, Program, ProgramError},
};

use bytemuck::Pod;

use super::{
    cgroupfs::hierarchies::Hierarchies,
    events::Events,
    hooks::Hook,
    immediates::{self, ImmediateError},
    iterator::Iterator,
    major_faults::MajorFaults,
    mapped::MappedArray,
    missed::MissedRuns,
    needs::Answers,
    process,
    table::Table,
};

/// The programs, as `build.rs` made them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/podlens-bpf"));

/// So often the kernel is asked to check a program in which it was interrupted.
const ATTEMPTS: u32 = 20;

/// Why the programs do not run.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The kernel's BTF is not readable for the loader.
    #[error("cannot read the kernel's BTF for loading: the kernel needs CONFIG_DEBUG_INFO_BTF=y")]
    Btf(#[source] aya::BtfError),
    /// Maps were not created or the object was refused as a whole.
    #[error(
        "cannot load the BPF object: the process needs the capabilities BPF and PERFMON, before kernel 5.11 also SYS_RESOURCE, and the kernel 5.8 or later"
    )]
    Load(#[source] Box<aya::EbpfError>),
    /// The object that the daemon carries is damaged.
    #[error(transparent)]
    Immediate(#[from] ImmediateError),
    /// The verifier refused a program.
    #[error("the kernel refused the BPF program {name}")]
    Verify {
        /// Which one.
        name: &'static str,
        /// What it answered.
        #[source]
        source: Box<ProgramError>,
    },
    /// The program was not attached.
    #[error("cannot attach the BPF program {name}")]
    Attach {
        /// Which one.
        name: &'static str,
        /// What the kernel answered.
        #[source]
        source: Box<ProgramError>,
    },
    /// Newer kernels take the program all the same, and never call it.
    #[error(
        "this node does not run BPF programs at the ends of kernel functions, such as {name}, since sysctl kernel.ftrace_enabled is 0: set it to 1 and restart podlens"
    )]
    NoFunctionEnds {
        /// Which one.
        name: &'static str,
    },
    /// An iterating program could not be made ready.
    #[error("cannot make the iterating BPF program {name} ready")]
    Iterate {
        /// Which one.
        name: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A program was to be attached, or a map taken, after the last one.
    #[error("the BPF program or map {name} comes too late: take it before the object is sealed")]
    Sealed {
        /// Which one.
        name: &'static str,
    },
    /// The object lacks a program or a map: it was built from other sources than this daemon.
    #[error("the BPF object has no {name}: daemon and object are of different builds")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A map could not be opened, mapped or filled.
    #[error("cannot use the BPF map {name}")]
    Map {
        /// Which one.
        name: &'static str,
        /// What the kernel answered.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What the programs need to know of the node beside its kernel's types, by name. `switches`: what programs that serve several
/// collectors are to count.
#[must_use]
pub fn node(
    hierarchies: &Hierarchies,
    has_psi: bool,
    switches: impl IntoIterator<Item = (&'static str, bool)>,
    cpus: u32,
    slots: u32,
) -> Vec<(&'static str, u32)> {
    let of_node = [
        ("HAS_V1", u32::from(hierarchies.keyed_v1().is_some())),
        ("V1_HIERARCHY", hierarchies.keyed_v1().map_or(0, |tree| tree.number)),
        ("BLKIO_HIERARCHY", hierarchies.keyed_blkio().map_or(0, |tree| tree.number)),
        ("HAS_PSI", u32::from(has_psi)),
        ("SLOTS_COUNT", slots),
        ("CPUS_COUNT", cpus),
    ];
    with_switches(of_node, switches)
}

/// The same of a node with one tree of version 2, for tests.
#[cfg(test)]
pub(crate) fn unified_node(switches: impl IntoIterator<Item = (&'static str, bool)>) -> Vec<(&'static str, u32)> {
    let of_node = [
        ("HAS_V1", 0),
        ("V1_HIERARCHY", 0),
        ("BLKIO_HIERARCHY", 0),
        ("HAS_PSI", 1),
        ("SLOTS_COUNT", 64),
        ("CPUS_COUNT", 2),
    ];
    with_switches(of_node, switches)
}

fn with_switches(
    of_node: [(&'static str, u32); 6],
    switches: impl IntoIterator<Item = (&'static str, bool)>,
) -> Vec<(&'static str, u32)> {
    of_node.into_iter().chain(switches.into_iter().map(|(name, is_on)| (name, u32::from(is_on)))).collect()
}

/// A loader that has not loaded anything.
///
/// aya reads all of the kernel's types whenever one is made, which takes 20 MB for a moment. This object has no use for
/// them, so a loader is made before the start takes memory for anything else.
pub struct Blank(EbpfLoader<'static>);

impl Default for Blank {
    fn default() -> Self {
        let mut loader = EbpfLoader::new();
        // Only where the kernel has refused a program, which is then loaded once more: why, and not each step that led there.
        // Without any level that second load would fail for its empty log.
        loader.btf(None).verifier_log_level(VerifierLogLevel::STATS);
        Self(loader)
    }
}

/// The loaded object.
pub struct Object {
    /// Until [`Object::seal`].
    loaded: Option<Loaded>,
    /// What keeps programs attached, by their names.
    links: Vec<(&'static str, Box<dyn Send>)>,
    /// Until it is taken.
    #[cfg(feature = "kernel-log")]
    log: Option<super::log::KernelLog>,
}

/// What loading and attaching need.
struct Loaded {
    ebpf: Ebpf,
    /// The kernel's types, as far as attaching asks for them.
    btf: Btf,
}

impl Object {
    /// Makes the maps, with these numbers of entries by name, and writes the numbers into the programs; none runs yet.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn load(
        Blank(mut loader): Blank,
        answers: &Answers,
        entries: impl std::iter::Iterator<Item = (&'static str, u32)>,
    ) -> Result<Self, ObjectError> {
        let btf = Btf::parse(&answers.hooks(), Endianness::default()).map_err(ObjectError::Btf)?;
        for (name, entries) in entries {
            loader.map_max_entries(name, entries);
        }
        let object = immediates::insert(OBJECT, answers.numbers())?;
        #[cfg_attr(not(feature = "kernel-log"), expect(unused_mut, reason = "a map is taken out of it"))]
        let mut ebpf = loader.load(&object).map_err(|source| ObjectError::Load(Box::new(source)))?;
        Ok(Self {
            #[cfg(feature = "kernel-log")]
            log: Some(super::log::KernelLog::take(&mut ebpf).map_err(|source| map_error("AYA_LOGS", source))?),
            loaded: Some(Loaded { ebpf, btf }),
            links: Vec::new(),
        })
    }

    /// The programs' lines, for the one who logs them.
    #[cfg(feature = "kernel-log")]
    pub fn take_log(&mut self) -> Option<super::log::KernelLog> {
        self.log.take()
    }

    /// The program runs where it is hooked in.
    #[must_use]
    pub fn is_attached(&self, name: &str) -> bool {
        self.links.iter().any(|(attached, _)| *attached == name)
    }

    /// Loads one program and attaches it, unless another collector has done so. One that the daemon itself starts is only loaded,
    /// and so is one that a collector has to keep attached: [`Object::iterator`], [`Object::major_faults`].
    ///
    /// # Errors
    /// The verifier or the hook refuses it.
    pub fn attach(&mut self, name: &'static str, hook: Hook) -> Result<(), ObjectError> {
        if self.is_attached(name) {
            return Ok(());
        }
        let Self { loaded, links, .. } = self;
        let Loaded { ebpf, btf } = loaded.as_mut().ok_or(ObjectError::Sealed { name })?;
        let program = ebpf.program_mut(name).ok_or(ObjectError::Missing { name })?;
        let verify = |source| ObjectError::Verify { name, source: Box::new(source) };
        match hook {
            Hook::Tracepoint { name: tracepoint, .. } => {
                let program: &mut BtfTracePoint = program.try_into().map_err(verify)?;
                verified(|| program.load(tracepoint, btf)).map_err(verify)?;
                let link = program.attach().and_then(|link| program.take_link(link));
                let link = link.map_err(|source| ObjectError::Attach { name, source: Box::new(source) })?;
                links.push((name, Box::new(link)));
            }
            Hook::FunctionEnd { .. } if function_tracing_is_off() => {
                return Err(ObjectError::NoFunctionEnds { name });
            }
            Hook::FunctionEnd { name: function } => {
                let program: &mut FExit = program.try_into().map_err(verify)?;
                verified(|| program.load(function, btf)).map_err(verify)?;
                let link = program.attach().and_then(|link| program.take_link(link));
                let link = link.map_err(|source| ObjectError::Attach { name, source: Box::new(source) })?;
                links.push((name, Box::new(link)));
            }
            Hook::TaskIterator => {
                let program: &mut Iter = program.try_into().map_err(verify)?;
                verified(|| program.load("task", btf)).map_err(verify)?;
            }
            Hook::MajorFault => {
                let program: &mut PerfEvent = program.try_into().map_err(verify)?;
                verified(|| program.load()).map_err(verify)?;
            }
        }
        Ok(())
    }

    /// Takes a program out of the kernel again.
    pub fn detach(&mut self, name: &str) {
        self.links.retain(|(attached, _)| *attached != name);
        let Some(Loaded { ebpf, .. }) = &mut self.loaded else { return };
        // Whatever the kernel answers, it is gone with the process at the latest.
        if let Some(program) = ebpf.program_mut(name) {
            let _ = match program {
                Program::BtfTracePoint(program) => program.unload(),
                Program::FExit(program) => program.unload(),
                Program::Iter(program) => program.unload(),
                Program::PerfEvent(program) => program.unload(),
                _ => Ok(()),
            };
        }
    }

    /// A loaded iterating program, ready to be started.
    ///
    /// # Errors
    /// The program is not loaded, or the kernel has no such iterator.
    pub fn iterator(&mut self, name: &'static str) -> Result<Iterator, ObjectError> {
        let program = self.loaded(name)?.ebpf.program_mut(name).ok_or(ObjectError::Missing { name })?;
        let verify = |source| ObjectError::Verify { name, source: Box::new(source) };
        let program: &mut Iter = program.try_into().map_err(verify)?;
        Iterator::over(program.fd().map_err(verify)?.as_fd()).map_err(|source| ObjectError::Iterate { name, source })
    }

    /// Has a loaded program run at the end of each major fault.
    ///
    /// # Errors
    /// The program is not loaded, or the kernel refuses an event.
    pub fn major_faults(&mut self, name: &'static str) -> Result<MajorFaults, ObjectError> {
        let program = self.loaded(name)?.ebpf.program_mut(name).ok_or(ObjectError::Missing { name })?;
        let verify = |source| ObjectError::Verify { name, source: Box::new(source) };
        let attach = |source| ObjectError::Attach { name, source: Box::new(ProgramError::IOError(source)) };
        let program: &mut PerfEvent = program.try_into().map_err(verify)?;
        MajorFaults::watch(program.fd().map_err(verify)?.as_fd()).map_err(attach)
    }

    /// How often the kernel leaves out programs that are loaded.
    ///
    /// # Errors
    /// A program is not loaded.
    pub fn missed_runs(&mut self, names: &[&'static str]) -> Result<MissedRuns, ObjectError> {
        let mut missed = MissedRuns::default();
        for name in names {
            let program = self.loaded(name)?.ebpf.program_mut(name).ok_or(ObjectError::Missing { name })?;
            let verify = |source| ObjectError::Verify { name, source: Box::new(source) };
            let descriptor = program.fd().map_err(verify)?.as_fd();
            missed.add(descriptor).map_err(|source| verify(ProgramError::IOError(source)))?;
        }
        Ok(missed)
    }

    /// Frees what only loading needs, and keeps what is attached. No program can be attached, and no map taken, after.
    pub fn seal(&mut self) {
        self.loaded = None;
        process::trim_memory();
    }

    fn loaded(&mut self, name: &'static str) -> Result<&mut Loaded, ObjectError> {
        self.loaded.as_mut().ok_or(ObjectError::Sealed { name })
    }

    /// An array of values that begin with a `T` each, mapped into this process.
    ///
    /// # Errors
    /// The map cannot be used.
    pub fn array<T: Pod>(&mut self, name: &'static str) -> Result<MappedArray<T>, ObjectError> {
        let map = self.loaded(name)?.ebpf.map(name).ok_or(ObjectError::Missing { name })?;
        let Map::Array(map) = map else { return Err(map_error(name, io::Error::other("it is no array"))) };
        let info = map.info().map_err(|source| map_error(name, source))?;
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let entry_bytes = size(info.value_size()).next_multiple_of(8);
        let descriptor: BorrowedFd<'_> = map.fd().as_fd();
        MappedArray::new(descriptor, size(info.max_entries()), entry_bytes).map_err(|source| map_error(name, source))
    }

    /// A hash with these keys and values, for its one reader.
    ///
    /// # Errors
    /// The map cannot be used.
    pub fn table<K: Pod, V: Pod>(&mut self, name: &'static str) -> Result<Table<K, V>, ObjectError> {
        let map = self.loaded(name)?.ebpf.take_map(name).ok_or(ObjectError::Missing { name })?;
        let Map::HashMap(map) = map else { return Err(map_error(name, io::Error::other("it is no hash"))) };
        Table::new(map).map_err(|source| map_error(name, source))
    }

    /// The ring of events, for its one reader.
    ///
    /// # Errors
    /// The map cannot be used.
    pub fn events(&mut self, name: &'static str) -> Result<Events, ObjectError> {
        self.take(name, RingBuf::try_from).map(Events::new)
    }

    /// A map of another kind, for its one user.
    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        of: impl FnOnce(Map) -> Result<T, MapError>,
    ) -> Result<T, ObjectError> {
        let map = self.loaded(name)?.ebpf.take_map(name).ok_or(ObjectError::Missing { name })?;
        of(map).map_err(|source| map_error(name, source))
    }
}

/// Has the kernel check a program. It gives up with `EAGAIN` when a signal comes or the process is stopped meanwhile.
fn verified(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let is_interrupted = |refusal: &ProgramError| match refusal {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(libc::EAGAIN),
        _ => false,
    };
    again(load, is_interrupted)
}

/// Does it anew where it was interrupted.
fn again<E>(mut attempt: impl FnMut() -> Result<(), E>, is_interrupted: impl Fn(&E) -> bool) -> Result<(), E> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(refusal) if is_interrupted(&refusal) => {}
            done => return done,
        }
    }
    attempt()
}

/// The node's administrator has switched off what calls programs at the ends of functions. A kernel that does not say so has
/// no such switch.
fn function_tracing_is_off() -> bool {
    fs::read_to_string("/proc/sys/kernel/ftrace_enabled").is_ok_and(|switch| switch.trim() == "0")
}

fn map_error(name: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ObjectError {
    ObjectError::Map { name, source: source.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use object::{Object as _, ObjectSection as _, SectionKind, read::elf::ElfFile64};
    use testkit::bpf::{INSTRUCTION, stack_bytes};

    use super::{ATTEMPTS, OBJECT, again};

    /// Classes of instructions: jumps by halves of registers, and computations with them.
    const HALF: [u8; 2] = [6, 4];

    #[test]
    fn what_was_interrupted_is_done_anew_but_not_for_ever() {
        const INTERRUPTED: &str = "interrupted";
        let check = |answers: &[&'static str], expected| {
            let mut asked = 0;
            let attempt = || {
                asked += 1;
                answers.get(asked - 1).map_or(Ok(()), |refusal| Err(*refusal))
            };
            let done = again(attempt, |refusal| *refusal == INTERRUPTED);
            assert_eq!((asked, done), expected);
        };
        check(&[], (1, Ok(())));
        check(&[INTERRUPTED; 3], (4, Ok(())));
        check(&[INTERRUPTED, "refused"], (2, Err("refused")));
        check(&[INTERRUPTED; 99], (ATTEMPTS as usize, Err(INTERRUPTED)));
    }

    #[test]
    fn a_switch_needs_no_stack_apart() {
        let file: ElfFile64<'_> = ElfFile64::parse(OBJECT).unwrap();
        let bytes = stack_bytes(file.section_by_name("tp_btf/sched_switch").unwrap().data().unwrap());
        assert!(bytes.next_multiple_of(16) < 64, "it uses {bytes} bytes: see docs/adr/0009");
    }

    #[test]
    fn programs_are_compiled_for_half_registers() {
        let file: ElfFile64<'_> = ElfFile64::parse(OBJECT).unwrap();
        let program = file.section_by_name("tp_btf/sched_switch").unwrap().data().unwrap();
        let halves =
            program.as_chunks::<INSTRUCTION>().0.iter().filter(|[code, ..]| HALF.contains(&(code & 7))).count();
        assert!(halves > 10, "{halves} instructions: see agent/build.rs and docs/adr/0009");
    }

    #[test]
    fn the_daemon_carries_nothing_that_is_not_loaded() {
        let file: ElfFile64<'_> = ElfFile64::parse(OBJECT).unwrap();
        let names: Vec<_> = file.sections().map(|section| section.name().unwrap().to_owned()).collect();
        assert!(names.iter().all(|name| !name.contains("debug")), "{names:?}: see agent/build.rs");
        assert!(names.iter().any(|name| name == ".BTF.ext"), "lines for the verifier's messages: {names:?}");
    }

    #[test]
    fn functions_lie_in_the_section_that_calls_are_resolved_in() {
        let file: ElfFile64<'_> = ElfFile64::parse(OBJECT).unwrap();
        let code = file.sections().filter(|section| section.kind() == SectionKind::Text && section.size() != 0);
        let names: Vec<_> = code.map(|section| section.name().unwrap().to_owned()).collect();
        let stray: Vec<_> = names.iter().filter(|name| name.starts_with(".text.")).collect();
        assert!(names.contains(&".text".to_owned()) && stray.is_empty(), "a call into {stray:?} would go elsewhere");
    }
}
