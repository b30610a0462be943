//! Starting the pipeline: what the node offers decides which collectors run.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Instant, SystemTime},
};

use super::{
    Attached, Inner, Pipeline,
    event_log::EventLog,
    events::{Telling, announce},
    facts::Facts,
    kernel::Kernel,
    reading::FixedEntities,
};
use crate::{
    attribution::{cgroups::Cgroups, kubernetes::Names},
    collectors::{
        ALL, Spec, State,
        map_memory::{self, Demand, MemoryError, Plan},
        spec::{Part, Start},
    },
    config::Config,
    kernel::{
        btf::Btf,
        cgroupfs::{
            files::FileReader,
            hierarchies::{Hierarchies, HierarchyError},
        },
        events::Events,
        host::Cpus,
        memory_limit,
        needs::{self, Answers},
        object::{self, Object, ObjectError},
        refusal,
        slots::SlotMaps,
    },
    registry::{Ledger, ledger::Definition},
    signal::Layout,
};

/// The running kernel's types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The running kernel's CPUs.
const CPUS: &str = "/sys/devices/system/cpu";

/// Why the agent cannot even run without values.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Without cgroups there is nobody to account to.
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    /// The number of CPUs sizes everything.
    #[error("cannot tell how many CPUs this node has")]
    Cpus(#[source] std::io::Error),
    /// The maps would leave too little of the memory limit.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Pipeline {
    /// Loads and attaches what works on this node. A collector that cannot run is not an error: its state says
    /// why, and the agent goes on without it.
    ///
    /// # Errors
    /// The node's cgroups or CPUs cannot be found, or the programs' maps do not fit the memory limit.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let hierarchies = Hierarchies::find(&config.cgroup_root)?;
        let cpus = Cpus::read(Path::new(CPUS)).map_err(StartError::Cpus)?;
        let states = states(config);
        let limit = memory_limit::read(Path::new("/proc"), Path::new("/sys/fs/cgroup"));
        let asked: Vec<&str> = running(&states).collect();
        let memory = Plan::new(&Demand { cpus, limit, slots: config.slots, collectors: &asked })?;
        // Without an exporter nobody would ever take them.
        let tells_events = config.events.enabled && config.otlp.takes_events();
        let mut loader = Loader {
            hierarchies: &hierarchies,
            cpus,
            slots: memory.slots,
            tells_events,
            states,
            collectors: Vec::new(),
            events: None,
            files: None,
        };
        let kernel = loader.load();
        let Loader { states, mut collectors, .. } = loader;
        // After the events are being recorded, so that nothing is born between.
        let cgroups = Cgroups::scan(hierarchies);
        for (key, cgroup) in cgroups.iter() {
            announce(&mut collectors, key, cgroup);
        }
        let definitions = ALL.iter().zip(&states).map(|(spec, (_, state))| definition(spec, state)).collect();
        let facts =
            Facts::new(ALL.iter().zip(&states).filter(|(_, (_, state))| state.delivers()).map(|(spec, _)| *spec));
        let (now, since) = (Instant::now(), SystemTime::now());
        let fixed = FixedEntities::new(since, cgroups.is_part());
        let names = Arc::new(Names::new(config.linger));
        let telling = tells_events.then(|| {
            names.tell_ends(since);
            Telling::new(Arc::new(EventLog::new(&config.node, Arc::clone(&names))), &states, now)
        });
        let inner = Inner {
            cgroups,
            names: Arc::clone(&names),
            refreshed: None,
            settled: None,
            kernel,
            collectors,
            ledger: Ledger::new(definitions, config.linger),
            unknown: std::collections::HashMap::new(),
            scanned: now,
            lost_events: 0,
            sweep: std::time::Duration::ZERO,
            fixed,
            facts,
            snapshots: Vec::new(),
            telling,
        };
        let health = Mutex::new(inner.health());
        Ok(Self {
            node: config.node.as_str().into(),
            max_age: config.max_age,
            states,
            memory,
            started: now,
            names,
            inner: Mutex::new(inner),
            delivered: Mutex::default(),
            health,
            fresh: tokio::sync::Mutex::new(None),
        })
    }
}

/// The collector's part of the ledger.
fn definition(spec: &Spec, state: &State) -> Definition {
    Definition { layout: Arc::new(Layout::new(spec.metrics)), active: state.delivers() }
}

/// Loads the kernel programs and starts the collectors, one after another.
struct Loader<'a> {
    hierarchies: &'a Hierarchies,
    cpus: Cpus,
    slots: u32,
    /// Somebody takes events.
    tells_events: bool,
    /// Each collector's state, in the order of all.
    states: Vec<(&'static str, State)>,
    collectors: Vec<Attached>,
    events: Option<Events>,
    files: Option<FileReader>,
}

impl Loader<'_> {
    /// Starts what works on this node; none if nothing can be loaded, and then no collector runs.
    fn load(&mut self) -> Option<Kernel> {
        match self.try_load() {
            Ok(kernel) => Some(kernel),
            Err(why) => {
                self.collectors.clear();
                for (_, state) in self.states.iter_mut().filter(|(_, state)| *state != State::Disabled) {
                    *state = why.clone();
                }
                None
            }
        }
    }

    fn try_load(&mut self) -> Result<Kernel, State> {
        let btf = Btf::read_file(Path::new(BTF)).map_err(|cause| State::Unsupported(cause.to_string()))?;
        let node = object::node(self.hierarchies, self.cpus.measured(), self.slots);
        let answers = needs::programs(object::OBJECT)
            .and_then(|programs| Answers::new(&programs, btf, &node))
            .map_err(|cause| State::Failed(cause.to_string()))?;
        let asked: Vec<&str> = running(&self.states).collect();
        let entries = map_memory::entries(self.cpus, self.slots, |spec, part| {
            asked.contains(&spec.name)
                && (self.tells_events || !part.for_events)
                && lack_of(spec, &answers).is_none()
                && lack(part, &answers).is_none()
        });
        let failed = |cause: ObjectError| State::Failed(refusal::told(&cause));
        let mut object = Object::load(&answers, entries.into_iter()).map_err(failed)?;
        let slots = SlotMaps::new(&mut object, self.slots).map_err(failed)?;
        for (section, spec) in ALL.iter().enumerate() {
            let is_asked = asked.contains(&spec.name);
            if let (true, Err(why)) = (is_asked, self.start(section, spec, &answers, &mut object)) {
                self.set(section, why);
            }
        }
        object.seal();
        Ok(Kernel { slots, events: self.events.take(), stuck: 0, told_late: 0, _object: object })
    }

    /// Attaches a collector's programs and starts it.
    ///
    /// # Errors
    /// The state of one that does not run.
    fn start(
        &mut self,
        section: usize,
        spec: &'static Spec,
        answers: &Answers,
        object: &mut Object,
    ) -> Result<(), State> {
        let told = |why: String| spec.without.map_or(why.clone(), |without| format!("{why}: {without}"));
        if let Some(lack) = lack_of(spec, answers) {
            return Err(State::Unsupported(told(lack)));
        }
        let (mut attached, mut lacks) = (Vec::new(), Vec::new());
        for part in spec.parts.iter().filter(|part| self.tells_events || !part.for_events) {
            let refused = match lack(part, answers) {
                Some(lack) => Err(lack),
                None => attach(object, part).map_err(|cause| refusal::told(&cause)),
            };
            match (refused, part.without) {
                (Ok(()), _) => attached.extend(part.programs.iter().map(|program| program.name)),
                (Err(why), Some(without)) => lacks.push(format!("{why}: {without}")),
                (Err(why), None) => {
                    detach(object, &attached);
                    return Err(State::Failed(told(why)));
                }
            }
        }
        if attached.is_empty() && !spec.parts.is_empty() {
            return Err(State::Unsupported(told(lacks.join("; "))));
        }
        let wishes = spec.wishes.iter().filter_map(|group| {
            group.iter().find_map(|wish| answers.lack(wish.of).map(|lack| format!("{lack}: {}", wish.without)))
        });
        lacks.extend(wishes);
        let running: Vec<&str> = self.collectors.iter().map(|attached| attached.collector.spec().name).collect();
        let mut start = Start {
            object,
            files: &mut self.files,
            hierarchies: self.hierarchies,
            cpus: self.cpus.measured(),
            slots: self.slots,
            answers,
            attached: &attached,
            running: &running,
        };
        let started = match (spec.start)(&mut start) {
            Ok(started) => started,
            Err(cause) => {
                detach(object, &attached);
                return Err(State::Failed(told(refusal::told(&*cause))));
            }
        };
        lacks.extend(started.lacks);
        self.events = self.events.take().or(started.events);
        self.collectors.push(Attached { section, collector: started.collector });
        if !lacks.is_empty() {
            self.set(section, State::Degraded(lacks.join("; ")));
        }
        Ok(())
    }

    fn set(&mut self, section: usize, state: State) {
        if let Some((_, present)) = self.states.get_mut(section) {
            *present = state;
        }
    }
}

/// What is to run by the configuration.
fn states(config: &Config) -> Vec<(&'static str, State)> {
    let state = |spec: &Spec| {
        let on = config.collectors.get(spec.name).copied().unwrap_or(true);
        if on { State::Running } else { State::Disabled }
    };
    ALL.iter().map(|spec| (spec.name, state(spec))).collect()
}

/// The collectors that are to run.
fn running(states: &[(&'static str, State)]) -> impl Iterator<Item = &'static str> {
    states.iter().filter(|(_, state)| state.delivers()).map(|(name, _)| *name)
}

/// What a collector cannot do without and this kernel lacks, in words.
fn lack_of(spec: &Spec, answers: &Answers) -> Option<String> {
    spec.parts.iter().filter(|part| part.without.is_none()).find_map(|part| lack(part, answers))
}

/// What the programs of a part need and this kernel lacks, in words.
fn lack(part: &Part, answers: &Answers) -> Option<String> {
    part.programs
        .iter()
        .find_map(|program| answers.refusal(program.name).map(str::to_owned).or_else(|| program.hook.lack(answers)))
}

/// Attaches all programs of a part, or none.
fn attach(object: &mut Object, part: &Part) -> Result<(), ObjectError> {
    let mut attached = Vec::new();
    for program in part.programs {
        if let Err(cause) = object.attach(program.name, program.hook) {
            detach(object, &attached);
            return Err(cause);
        }
        attached.push(program.name);
    }
    Ok(())
}

fn detach(object: &mut Object, programs: &[&str]) {
    for program in programs {
        object.detach(program);
    }
}
