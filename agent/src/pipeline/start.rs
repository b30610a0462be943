//! Starting the pipeline: what the node offers decides which collectors run.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex},
    time::{Instant, SystemTime},
};

use tokio::sync::watch;

use super::{
    Attached, Inner, Pipeline,
    ahead::Ahead,
    event_log::EventLog,
    events::{EventReporting, announce},
    exporting::{budget, shown, strays},
    facts::Facts,
    fresh::Fresh,
    kernel::{Kernel, Left},
    reading::{FixedEntities, Resolved},
    unnamed::Unnamed,
};
use crate::{
    attribution::{cgroups::Cgroups, kubernetes::Names},
    collectors::{
        ALL, Spec, State, disk, lifecycle,
        map_memory::{self, Demand, MemoryError, Plan},
        spec::{Kind, Part, Program, Start},
        switches,
    },
    config::Config,
    kernel::{
        btf::Btf,
        cgroupfs::{
            files::FileReader,
            hierarchies::{Hierarchies, HierarchyError},
        },
        events::Events,
        host::{self, Cpus},
        labels, memory_limit,
        needs::{self, Answers},
        object::{self, Blank, Object, ObjectError},
        refusal,
        slots::SlotMaps,
    },
    registry::{Ledger, ledger::Definition},
    signal::{LabelValues, Layout, Metric},
};

/// The running kernel's types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The running kernel's account of itself.
const PROC: &str = "/proc";

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
        let mut hierarchies = Hierarchies::find(&config.cgroup_root)?;
        let cpus = Cpus::of_node().map_err(StartError::Cpus)?;
        let states = states(config);
        let limit = memory_limit::read(Path::new(PROC), Path::new("/sys/fs/cgroup"));
        let asked: Vec<&str> = running(&states).collect();
        if asked.contains(&disk::SPEC.name) {
            hierarchies = hierarchies.with_blkio();
        }
        let memory = Plan::new(&Demand { cpus, limit, slots: config.slots, collectors: &asked })?;
        // Without an exporter nobody would ever take them.
        let tells_events = config.tells_events();
        let mut loader = Loader {
            hierarchies: &hierarchies,
            cpus,
            has_psi: host::has_psi(Path::new(PROC)),
            slots: memory.slots,
            tells_events,
            states,
            layouts: ALL.iter().map(|spec| Arc::new(Layout::new(spec.metrics))).collect(),
            last_words: HashMap::new(),
            collectors: Vec::new(),
            events: None,
            files: None,
        };
        let kernel = loader.load();
        let Loader { states, layouts, mut collectors, .. } = loader;
        // After the events are being recorded, so that nothing is born between.
        let cgroups = Cgroups::scan(hierarchies, config.units);
        for (key, cgroup) in cgroups.iter() {
            announce(&mut collectors, key, cgroup);
        }
        for stray in strays(&config.series) {
            tracing::warn!("{stray}");
        }
        let shown = |name: &str| shown(&config.series, name);
        let definition = |(layout, (_, state)): (Arc<Layout>, &(_, State))| Definition {
            layout: Arc::new(layout.showing(|metric| shown(metric.name))),
            active: state.delivers(),
        };
        let definitions = layouts.into_iter().zip(&states).map(definition).collect();
        let active = ALL.iter().zip(&states).filter(|(_, (_, state))| state.delivers()).map(|(spec, _)| *spec);
        let facts = Facts::new(active, shown);
        let (now, since) = (Instant::now(), SystemTime::now());
        let fixed = FixedEntities::new(since, cgroups.is_part());
        let names = Arc::new(Names::new(config.linger));
        let reporting = tells_events.then(|| {
            names.tell_ends(since);
            EventReporting::new(Arc::new(EventLog::new(&config.node, Arc::clone(&names))), &states, now)
        });
        let inner = Inner {
            cgroups,
            names: Arc::clone(&names),
            unnamed: Unnamed::default(),
            kernel,
            collectors,
            ahead: Ahead::default(),
            ledger: Ledger::new(definitions, config.linger),
            unknown: HashMap::new(),
            scanned: now,
            freed: now,
            lost_events: 0,
            sweep: std::time::Duration::ZERO,
            fixed,
            resolved: Resolved::default(),
            facts,
            snapshots: Vec::new(),
            reporting,
        };
        let health = Mutex::new(inner.health());
        Ok(Self {
            node: config.node.as_str().into(),
            states,
            memory,
            names,
            inner: Mutex::new(inner),
            delivered: Mutex::default(),
            health,
            walks_at: watch::Sender::new(None),
            fresh: Fresh::new(config.max_age),
            budget: Mutex::new(budget(&config.series)),
        })
    }
}

/// Loads the kernel programs and starts the collectors, one after another.
struct Loader<'a> {
    hierarchies: &'a Hierarchies,
    cpus: Cpus,
    /// The kernel counts stalls.
    has_psi: bool,
    slots: u32,
    /// Somebody takes events.
    tells_events: bool,
    /// Each collector's state, in the order of all.
    states: Vec<(&'static str, State)>,
    /// How each collector's rows are laid out, likewise.
    layouts: Vec<Arc<Layout>>,
    /// What came of the parts that tell last words, by collector and part, until the collector is started.
    last_words: HashMap<(usize, usize), Attaching>,
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
        let blank = Blank::default();
        let btf = Btf::read_file(Path::new(BTF)).map_err(|cause| State::Unsupported(cause.to_string()))?;
        let asked: Vec<&str> = running(&self.states).collect();
        let switches = switches(|spec| asked.contains(&spec.name));
        let node = object::node(self.hierarchies, self.has_psi, switches, self.cpus.measured(), self.slots);
        let answers = needs::programs(object::OBJECT)
            .and_then(|programs| Answers::new(&programs, btf, &node))
            .map_err(|cause| State::Failed(cause.to_string()))?;
        let names = |of: &_| labels::names(answers.btf(), of).unwrap_or_default();
        self.layouts = ALL.iter().map(|spec| Arc::new(Layout::with_kernel_names(spec.metrics, &names))).collect();
        let entries = map_memory::entries(self.cpus, self.slots, |spec, part| {
            let is_used = asked.contains(&spec.name) && part.is_wanted(self.tells_events);
            part.on(&answers).ok().filter(|_| is_used && lack_of(spec, &answers).is_none())
        });
        let failed = |cause: ObjectError| State::Failed(refusal::explain(&cause));
        let mut object = Object::load(blank, &answers, entries.into_iter()).map_err(failed)?;
        let slots = SlotMaps::new(&mut object, self.slots).map_err(failed)?;
        self.last_words = self.attach_last_words(&asked, &answers, &mut object);
        for (section, spec) in ALL.iter().enumerate() {
            if asked.contains(&spec.name)
                && let Err(why) = self.start(section, spec, &answers, &mut object)
            {
                self.set(section, why);
            }
        }
        object.seal();
        Ok(Kernel {
            slots,
            events: self.events.take(),
            stuck: HashSet::new(),
            left: Left::default(),
            told_late: 0,
            object,
        })
    }

    /// Attaches what tells last words of a cgroup, before `lifecycle` is started: the kernel calls the programs on one hook in
    /// the order in which they were attached, so last words are in the ring before the removal. Gives what came of it, by
    /// collector and part.
    fn attach_last_words(
        &self,
        asked: &[&str],
        answers: &Answers,
        object: &mut Object,
    ) -> HashMap<(usize, usize), Attaching> {
        let others = |spec: &&Spec| asked.contains(&spec.name) && spec.name != lifecycle::SPEC.name;
        let is_read = asked.contains(&lifecycle::SPEC.name) && lack_of(&lifecycle::SPEC, answers).is_none();
        let mut done = HashMap::new();
        for (section, spec) in
            ALL.iter().enumerate().filter(|(_, spec)| others(spec) && lack_of(spec, answers).is_none())
        {
            for (at, part) in spec.parts.iter().enumerate() {
                let is_of_use = part.is_wanted(self.tells_events) && withheld(spec, part, is_read).is_none();
                if part.tells_last_words() && is_of_use {
                    done.insert((section, at), attach_if_possible(object, part, answers));
                }
            }
        }
        done
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
        let is_read = self.events.is_some();
        for (at, part) in spec.parts.iter().enumerate().filter(|(_, part)| part.is_wanted(self.tells_events)) {
            let done = self.last_words.remove(&(section, at));
            let done = match withheld(spec, part, is_read) {
                Some(why) => {
                    // It may have been attached before `lifecycle` failed.
                    detach(object, part.programs);
                    Err(State::Failed(why.to_owned()))
                }
                None => done.unwrap_or_else(|| attach_if_possible(object, part, answers)),
            };
            match (done, part.without) {
                (Ok(programs), _) => attached.extend(programs.iter().map(|program| program.name)),
                (Err(state), Some(without)) => lacks.push(format!("{}: {without}", state.reason().unwrap_or_default())),
                (Err(state), None) => {
                    self.detach(object, spec);
                    return Err(state.map_reason(told));
                }
            }
        }
        if attached.is_empty() && spec.kind == Kind::Programs {
            return Err(State::Unsupported(told(lacks.join("; "))));
        }
        let wishes = spec.wishes.iter().filter_map(|group| {
            group.iter().find_map(|wish| answers.lack(wish.of).map(|lack| format!("{lack}: {}", wish.without)))
        });
        lacks.extend(wishes);
        lacks.extend(spec.metrics.iter().filter_map(|metric| unnamed(metric, answers)));
        let running: Vec<&str> = self.collectors.iter().map(|attached| attached.collector.spec().name).collect();
        let mut start = Start {
            object,
            files: &mut self.files,
            hierarchies: self.hierarchies,
            cpus: self.cpus.measured(),
            slots: self.slots,
            has_psi: self.has_psi,
            layout: self.layouts.get(section).cloned().unwrap_or_default(),
            answers,
            attached: &attached,
            running: &running,
        };
        let started = match (spec.start)(&mut start) {
            Ok(started) => started,
            Err(cause) => {
                self.detach(object, spec);
                return Err(State::Failed(told(refusal::explain(&*cause))));
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

    /// Takes the programs of a collector that does not run out of the kernel, but for those that serve another one.
    fn detach(&self, object: &mut Object, spec: &'static Spec) {
        let others = || self.collectors.iter().flat_map(|attached| attached.collector.spec().programs());
        detach(object, spec.programs().filter(|program| others().all(|other| other.name != program.name)));
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
    let mut needed = spec.parts.iter().filter(|part| part.without.is_none());
    needed.find_map(|part| part.on(answers).err())
}

/// Why a part is left out though the kernel has what it needs: it only fills the ring of the collector `lifecycle`, and without
/// that collector nobody reads the ring.
fn withheld(spec: &Spec, part: &Part, is_read: bool) -> Option<&'static str> {
    let sends = part.for_events || part.tells_last_words();
    let is_own = spec.name == lifecycle::SPEC.name;
    (sends && !is_read && !is_own).then_some("births and removals of cgroups are not reported")
}

/// Why this kernel does not name all labels of a metric, in words.
fn unnamed(metric: &Metric, answers: &Answers) -> Option<String> {
    metric.labels.iter().find_map(|label| match &label.values {
        LabelValues::Fixed(_) => None,
        LabelValues::Kernel(of) => {
            let lack = labels::names(answers.btf(), of).err()?;
            Some(format!("{lack}: {} is missing", metric.name))
        }
    })
}

/// What came of attaching a part: its programs that are attached, or what a collector is that cannot do without them.
type Attaching = Result<&'static [Program], State>;

/// Attaches all programs of a part, or none but those that serve another collector already.
fn attach(object: &mut Object, programs: &'static [Program]) -> Result<(), ObjectError> {
    let mut own = Vec::new();
    for program in programs {
        if object.is_attached(program.name) {
            continue;
        }
        own.push(program);
        if let Err(cause) = object.attach(program.name, program.hook) {
            detach(object, own);
            return Err(cause);
        }
    }
    Ok(())
}

/// Attaches all programs of a part that this kernel can run.
fn attach_if_possible(object: &mut Object, part: &'static Part, answers: &Answers) -> Attaching {
    let programs = part.on(answers).map_err(State::Unsupported)?.programs;
    attach(object, programs).map_err(|cause| refusal::state(&cause))?;
    Ok(programs)
}

/// Takes those of these programs that are attached out of the kernel.
fn detach(object: &mut Object, programs: impl IntoIterator<Item = &'static Program>) {
    for program in programs {
        object.detach(program.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fills_a_ring_that_nobody_reads() {
        let sending = |spec: &'static Spec| spec.parts.iter().filter(|part| part.for_events || part.tells_last_words());
        let mut found = 0;
        for spec in ALL.iter().filter(|spec| spec.name != lifecycle::SPEC.name) {
            for part in sending(spec) {
                found += 1;
                assert!(withheld(spec, part, false).is_some_and(|why| !why.is_empty()), "{}", spec.name);
                assert_eq!(withheld(spec, part, true), None, "{}", spec.name);
            }
        }
        assert!(found > 0, "some collector has last words");
        assert!(lifecycle::SPEC.parts.iter().all(|part| withheld(&lifecycle::SPEC, part, false).is_none()));
    }
}
