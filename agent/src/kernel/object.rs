//! The kernel programs: loaded with the node's facts, attached, and their maps handed out.
//!
//! Attachments live as long as [`Object`]: when the process ends, however it ends, the kernel detaches and
//! frees everything.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{HashMap, Map, MapData, MapError, Queue, RingBuf},
    programs::{BtfTracePoint, Iter, ProgramError},
};
use podlens_common::{
    cgroup::{CACHE_ENTRIES, CgroupKey, Losses, SLOT_FIRST, Slot},
    scheduler::{Account, Cpu, Culprits, Now, Throttles},
    tasks::{Processes, TASK_RECORDS, TaskRecord, TaskWalk},
};

use super::{
    hierarchy::Hierarchies,
    immediates::{self, ImmediateError},
    iterator::Iterator,
    mapped::{MappedArray, Plain},
    needs::Answers,
    process,
};

/// The programs, as `build.rs` made them.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/podlens-bpf"));

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
    /// An iterating program could not be made ready.
    #[error("cannot make the iterating BPF program {name} ready")]
    Iterate {
        /// Which one.
        name: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A program was to be attached after the last one.
    #[error("the BPF program {name} comes too late: attach it before the object is sealed")]
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

/// What the programs need to know of the node beside its kernel's types, by name.
#[must_use]
pub fn node(hierarchies: &Hierarchies, cpus: u32, slots: u32) -> [(&'static str, u32); 4] {
    [
        ("HAS_V1", u32::from(hierarchies.v1.is_some())),
        ("V1_HIERARCHY", hierarchies.v1_number),
        ("SLOTS_COUNT", slots),
        ("CPUS_COUNT", cpus),
    ]
}

/// The loaded object.
pub struct Object {
    ebpf: Ebpf,
    /// Until [`Object::seal`].
    btf: Option<Btf>,
    cpus: u32,
    slots: u32,
}

impl Object {
    /// Loads the maps and the constants; no program runs yet.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn load(answers: &Answers, cpus: u32, slots: u32) -> Result<Self, ObjectError> {
        let btf = Btf::from_sys_fs().map_err(ObjectError::Btf)?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).verifier_log_level(VerifierLogLevel::DISABLE);
        for (name, entries) in [
            ("SLOTS", slots),
            ("FREE_SLOTS", slots),
            ("SLOT_OF", slots * 2),
            ("SLOT_CACHE", cpus * CACHE_ENTRIES),
            ("LOSSES", cpus),
            ("ACCOUNTS", cpus * slots),
            ("CULPRITS", cpus * slots),
            ("THROTTLES", slots),
            ("CPUS", cpus),
            ("PROCESSES", slots),
        ] {
            loader.map_max_entries(name, entries);
        }
        let object = immediates::insert(OBJECT, &answers.numbers().collect())?;
        let ebpf = loader.load(&object).map_err(|source| ObjectError::Load(Box::new(source)))?;
        Ok(Self { ebpf, btf: Some(btf), cpus, slots })
    }

    /// Loads one program and attaches it to the tracepoint of the given name.
    ///
    /// # Errors
    /// The verifier or the tracepoint refuses it.
    pub fn attach(&mut self, name: &'static str, tracepoint: &str) -> Result<(), ObjectError> {
        let program = self.ebpf.program_mut(name).ok_or(ObjectError::Missing { name })?;
        let program: &mut BtfTracePoint =
            program.try_into().map_err(|source| ObjectError::Verify { name, source: Box::new(source) })?;
        let btf = self.btf.as_ref().ok_or(ObjectError::Sealed { name })?;
        program.load(tracepoint, btf).map_err(|source| ObjectError::Verify { name, source: Box::new(source) })?;
        program.attach().map_err(|source| ObjectError::Attach { name, source: Box::new(source) })?;
        Ok(())
    }

    /// Loads the program that walks through all tasks, and makes it ready to be started.
    ///
    /// # Errors
    /// The verifier refuses it, or the kernel has no iterator over tasks.
    pub fn walk(&mut self) -> Result<WalkMaps, ObjectError> {
        let name = "task_walk";
        let program = self.ebpf.program_mut(name).ok_or(ObjectError::Missing { name })?;
        let verify = |source| ObjectError::Verify { name, source: Box::new(source) };
        let program: &mut Iter = program.try_into().map_err(verify)?;
        let btf = self.btf.as_ref().ok_or(ObjectError::Sealed { name })?;
        program.load("task", btf).map_err(verify)?;
        let iterator = Iterator::over(program.fd().map_err(verify)?.as_fd());
        Ok(WalkMaps {
            iterator: iterator.map_err(|source| ObjectError::Iterate { name, source })?,
            records: self.mapped("TASK_RECORDS_OF", TASK_RECORDS)?,
            result: self.mapped("TASK_WALK", 1)?,
        })
    }

    /// Counts of processes, by slot.
    ///
    /// # Errors
    /// The map cannot be used.
    pub fn processes(&mut self) -> Result<MappedArray<Processes>, ObjectError> {
        self.mapped("PROCESSES", self.slots)
    }

    /// Frees what only loading needs: 30 MB of the kernel's type information. No program can be attached after.
    pub fn seal(&mut self) {
        self.btf = None;
        process::trim_memory();
    }

    /// The maps behind slots.
    ///
    /// # Errors
    /// A map cannot be used.
    pub fn slot_maps(&mut self) -> Result<SlotMaps, ObjectError> {
        let slots = self.mapped("SLOTS", self.slots)?;
        let losses = self.mapped("LOSSES", self.cpus)?;
        let slot_of = HashMap::try_from(self.take("SLOT_OF")?).map_err(|source| map_error("SLOT_OF", source))?;
        let mut free = Queue::try_from(self.take("FREE_SLOTS")?).map_err(|source| map_error("FREE_SLOTS", source))?;
        for slot in SLOT_FIRST..self.slots {
            free.push(slot, 0).map_err(|source| map_error("FREE_SLOTS", source))?;
        }
        Ok(SlotMaps { slots, losses, slot_of, free, cpus: self.cpus, count: self.slots })
    }

    /// The maps of the collector `scheduler`.
    ///
    /// # Errors
    /// A map cannot be used.
    pub fn scheduler_maps(&mut self) -> Result<SchedulerMaps, ObjectError> {
        Ok(SchedulerMaps {
            accounts: self.mapped("ACCOUNTS", self.cpus * self.slots)?,
            culprits: self.mapped("CULPRITS", self.cpus * self.slots)?,
            throttles: self.mapped("THROTTLES", self.slots)?,
            // Each entry begins with what the daemon reads of it.
            cpus: self.mapped_every("CPUS", self.cpus, size_of::<Cpu>())?,
            cpu_count: self.cpus,
            slot_count: self.slots,
        })
    }

    /// The ring buffer of births and removals.
    ///
    /// # Errors
    /// The map cannot be used.
    pub fn events(&mut self) -> Result<RingBuf<MapData>, ObjectError> {
        RingBuf::try_from(self.take("EVENTS")?).map_err(|source| map_error("EVENTS", source))
    }

    fn take(&mut self, name: &'static str) -> Result<Map, ObjectError> {
        self.ebpf.take_map(name).ok_or(ObjectError::Missing { name })
    }

    fn mapped<T: Plain>(&mut self, name: &'static str, entries: u32) -> Result<MappedArray<T>, ObjectError> {
        self.mapped_every(name, entries, size_of::<T>())
    }

    fn mapped_every<T: Plain>(
        &mut self,
        name: &'static str,
        entries: u32,
        entry_bytes: usize,
    ) -> Result<MappedArray<T>, ObjectError> {
        let map = self.ebpf.map(name).ok_or(ObjectError::Missing { name })?;
        let descriptor = descriptor(map).map_err(|source| map_error(name, source))?;
        MappedArray::new(descriptor, usize::try_from(entries).unwrap_or(usize::MAX), entry_bytes)
            .map_err(|source| map_error(name, source))
    }
}

fn descriptor(map: &Map) -> Result<BorrowedFd<'_>, io::Error> {
    match map {
        Map::Array(map) => Ok(map.fd().as_fd()),
        _ => Err(io::Error::other("it is no array")),
    }
}

fn map_error(name: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ObjectError {
    ObjectError::Map { name, source: source.into() }
}

/// The maps of the collector `scheduler`; accounts and culprits are indexed by CPU times slots plus slot.
#[derive(Debug)]
pub struct SchedulerMaps {
    /// Accounts, by CPU and slot.
    pub accounts: MappedArray<Account>,
    /// Culprits, by CPU and waiting slot.
    pub culprits: MappedArray<Culprits>,
    /// Throttles by their length, by slot.
    pub throttles: MappedArray<Throttles>,
    /// What each CPU is doing.
    pub cpus: MappedArray<Now>,
    /// How many CPUs can exist.
    pub cpu_count: u32,
    /// How many slots there are.
    pub slot_count: u32,
}

/// The walk through all tasks and what it writes.
#[derive(Debug)]
pub struct WalkMaps {
    /// Starts it.
    pub iterator: Iterator,
    /// What it met.
    pub records: MappedArray<TaskRecord>,
    /// How it ended.
    pub result: MappedArray<TaskWalk>,
}

/// Who holds which slot, and the way to give slots back.
pub struct SlotMaps {
    slots: MappedArray<Slot>,
    losses: MappedArray<Losses>,
    slot_of: HashMap<MapData, CgroupKey, u64>,
    free: Queue<MapData, u32>,
    cpus: u32,
    count: u32,
}

impl SlotMaps {
    /// How many slots there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Who holds the slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<Slot> {
        self.slots.get(usize::try_from(slot).ok()?)
    }

    /// Gives a slot back whose cgroup is gone and whose accounts were cleared.
    ///
    /// # Errors
    /// A map operation fails; the slot then stays out of use.
    pub fn release(&mut self, slot: u32, held: Slot) -> Result<(), MapError> {
        self.slot_of.remove(&held.key)?;
        let free = Slot { generation: held.generation.wrapping_add(1), ..Slot::default() };
        self.slots.set(usize::try_from(slot).unwrap_or(usize::MAX), free);
        self.free.push(slot, 0)
    }

    /// What went wrong in the kernel, over all CPUs.
    #[must_use]
    pub fn losses(&self) -> Losses {
        let mut sum = Losses::default();
        for cpu in 0..self.cpus {
            let Some(one) = usize::try_from(cpu).ok().and_then(|cpu| self.losses.get(cpu)) else { continue };
            sum.no_free_slot += one.no_free_slot;
            sum.table_full += one.table_full;
            sum.event_lost += one.event_lost;
            sum.path_unreadable += one.path_unreadable;
            sum.cache_misses += one.cache_misses;
            sum.no_cgroup += one.no_cgroup;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use object::{Object as _, ObjectSection as _, SectionKind, read::elf::ElfFile64};

    use super::OBJECT;

    /// The register that holds the end of a program's stack.
    const STACK: u8 = 10;
    /// `r = register` and `r += number`.
    const MOVE: u8 = 0xbf;
    const ADD: u8 = 0x07;

    /// Classes of instructions: jumps by halves of registers, and computations with them.
    const HALF: [u8; 2] = [6, 4];

    /// How far below its end a program without functions of its own uses its stack.
    fn stack_bytes(section: &str) -> u16 {
        let file: ElfFile64<'_> = ElfFile64::parse(OBJECT).unwrap();
        let program = file.section_by_name(section).unwrap().data().unwrap();
        let (mut deepest, mut is_copy) = (0, [false; 16]);
        for instruction in program.as_chunks::<8>().0 {
            let [code, registers, low, high, number @ ..] = *instruction;
            let (target, source) = (registers & 15, registers >> 4);
            let at = match code & 7 {
                // A load; a store.
                1 if source == STACK => i16::from_le_bytes([low, high]),
                2 | 3 if target == STACK => i16::from_le_bytes([low, high]),
                7 if code == ADD && is_copy[usize::from(target)] => i32::from_le_bytes(number).try_into().unwrap(),
                _ => 0,
            };
            deepest = deepest.max(at.min(0).unsigned_abs());
            is_copy[usize::from(target)] = code == MOVE && source == STACK;
        }
        deepest
    }

    #[test]
    fn a_switch_needs_no_stack_apart() {
        let bytes = stack_bytes("tp_btf/sched_switch");
        assert!(bytes.next_multiple_of(16) < 64, "it uses {bytes} bytes: see docs/adr/0009");
    }

    #[test]
    fn programs_are_compiled_for_half_registers() {
        let file: ElfFile64<'_> = ElfFile64::parse(OBJECT).unwrap();
        let program = file.section_by_name("tp_btf/sched_switch").unwrap().data().unwrap();
        let halves = program.as_chunks::<8>().0.iter().filter(|[code, ..]| HALF.contains(&(code & 7))).count();
        assert!(halves > 10, "{halves} instructions: see agent/build.rs and docs/adr/0009");
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
