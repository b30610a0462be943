//! Starting the pipeline: what the node offers decides which collectors run.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Instant, SystemTime},
};

use super::{Attached, Inner, Pipeline, announce, facts, kernel::Kernel, reading::FixedEntities};
use crate::{
    attribution::{cgroups::Cgroups, kubernetes::Names},
    collectors::{
        ALL, Collector, CollectorSpec, State,
        cpu::{self, Cpu},
        lifecycle::{self, Lifecycle},
        scheduler::{self, Offers, Scheduler},
        tasks::{self, Tasks},
    },
    config::Config,
    kernel::{
        btf::Btf,
        capabilities::Held,
        facts::{Facts, Part, resolve},
        hierarchy::{Hierarchies, HierarchyError},
        host,
        object::{Object, ObjectError},
    },
    registry::{Ledger, ledger::Definition},
    signal::Layout,
};

/// Why the agent cannot even run without values.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Without cgroups there is nobody to account to.
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    /// The number of CPUs sizes everything.
    #[error("cannot tell how many CPUs this node can have")]
    Cpus(#[source] std::io::Error),
}

impl Pipeline {
    /// Loads and attaches what works on this node. A collector that cannot run is not an error: its state says
    /// why, and the agent goes on without it.
    ///
    /// # Errors
    /// The node's cgroups or CPUs cannot be found.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let hierarchies = Hierarchies::find(&config.cgroup_root)?;
        let cpus = host::possible_cpus().map_err(StartError::Cpus)?;
        let mut states = States::new(config);
        let mut collectors = Vec::new();
        let kernel = states.attach(&hierarchies, cpus, config.slots, &mut collectors);
        // After the events are being recorded, so that nothing is born between.
        let cgroups = Cgroups::scan(hierarchies, config.units);
        for (key, cgroup) in cgroups.iter() {
            announce(&mut collectors, key, cgroup);
        }
        let definitions = ALL.iter().map(|spec| definition(spec, &states)).collect();
        let facts = facts::Facts::new(|spec| states.is_on(spec.name));
        let (now, since) = (Instant::now(), SystemTime::now());
        let names = Arc::new(Names::new(config.linger));
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
            fixed: FixedEntities::new(since),
            facts,
            snapshots: Vec::new(),
        };
        let health = Mutex::new(inner.health());
        Ok(Self {
            node: config.node.as_str().into(),
            max_age: config.max_age,
            states: states.list,
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
fn definition(spec: &CollectorSpec, states: &States) -> Definition {
    Definition { layout: Arc::new(Layout::new(spec.metrics)), active: states.is_on(spec.name) }
}

/// The collectors' states, as they become known.
struct States {
    list: Vec<(&'static str, State)>,
}

impl States {
    fn new(config: &Config) -> Self {
        let list = ALL
            .iter()
            .map(|spec| {
                let on = config.collectors.get(spec.name).copied().unwrap_or(true);
                (spec.name, if on { State::Running } else { State::Disabled })
            })
            .collect();
        Self { list }
    }

    fn set(&mut self, name: &str, state: State) {
        if let Some((_, present)) = self.list.iter_mut().find(|(known, _)| *known == name)
            && *present != State::Disabled
        {
            *present = state;
        }
    }

    fn is_on(&self, name: &str) -> bool {
        self.list.iter().any(|(known, state)| *known == name && state.delivers())
    }

    fn set_all(&mut self, state: &State) {
        for spec in ALL {
            self.set(spec.name, state.clone());
        }
    }

    /// Loads the object and attaches each collector; none if nothing can be loaded.
    fn attach(
        &mut self,
        hierarchies: &Hierarchies,
        cpus: u32,
        slots: u32,
        collectors: &mut Vec<Attached>,
    ) -> Option<Kernel> {
        let facts = match Btf::read_file(Path::new("/sys/kernel/btf/vmlinux")) {
            Ok(btf) => resolve(&btf),
            Err(cause) => {
                self.set_all(&State::Unsupported(cause.to_string()));
                return None;
            }
        };
        if let Some(lack) = facts.lack(Part::Slots) {
            self.set_all(&State::Unsupported(lack.to_owned()));
            return None;
        }
        match self.load(&facts, hierarchies, cpus, slots) {
            Ok((kernel, at_work)) => {
                collectors.extend(at_work.into_iter().filter_map(attached));
                Some(kernel)
            }
            Err(cause) => {
                self.set_all(&State::Failed(refusal(&cause)));
                None
            }
        }
    }

    fn load(
        &mut self,
        facts: &Facts,
        hierarchies: &Hierarchies,
        cpus: u32,
        slots: u32,
    ) -> Result<(Kernel, Vec<Box<dyn Collector>>), ObjectError> {
        let mut object = Object::load(facts, hierarchies, cpus, slots)?;
        let slot_maps = object.slot_maps()?;
        let lifecycle = self.lifecycle(&mut object, facts);
        let mut at_work: Vec<Box<dyn Collector>> = Vec::new();
        at_work.extend(self.scheduler(&mut object, facts).map(|scheduler| Box::new(scheduler) as _));
        at_work.extend(self.cpu(hierarchies, facts).map(|cpu| Box::new(cpu) as _));
        at_work.extend(self.tasks(&mut object, facts).map(|tasks| Box::new(tasks) as _));
        object.seal();
        Ok((Kernel { slots: slot_maps, lifecycle, stuck: 0, _object: object }, at_work))
    }

    fn lifecycle(&mut self, object: &mut Object, facts: &Facts) -> Option<Lifecycle> {
        let name = lifecycle::SPEC.name;
        let consequence = "cgroups are found by walking the trees, and short-lived ones stay without a name";
        if let Some(lack) = facts.lack(Part::Lifecycle) {
            self.set(name, State::Unsupported(format!("{lack}: {consequence}")));
            return None;
        }
        let attached = attach_all(object, lifecycle::PROGRAMS).and_then(|()| object.events());
        match attached {
            Ok(events) => Some(Lifecycle::new(events)),
            Err(cause) => {
                self.set(name, State::Failed(format!("{}: {consequence}", refusal(&cause))));
                None
            }
        }
    }

    fn scheduler(&mut self, object: &mut Object, facts: &Facts) -> Option<Scheduler> {
        let name = scheduler::SPEC.name;
        if !self.is_on(name) {
            return None;
        }
        if let Some(lack) = facts.lack(Part::Scheduler) {
            self.set(name, State::Unsupported(lack.to_owned()));
            return None;
        }
        let mut lacks: Vec<String> = Vec::new();
        if let Some(lack) = facts.lack(Part::Throttle) {
            lacks.push(format!("{lack}: time stopped by a pod's own quota counts as waiting"));
        } else if let Some(lack) = facts.lack(Part::ThrottleExact) {
            lacks.push(format!(
                "{lack}: time stopped by a pod's own quota is known by a clock that slows down with the CPU, and what that clock misses counts as waiting"
            ));
        }
        let legs = match facts.lack(Part::Legs) {
            Some(lack) => Err(lack.to_owned()),
            None => attach_all(object, &[scheduler::LEGS_PROGRAM]).map_err(|cause| crate::log::with_causes(&cause)),
        };
        let offers = Offers { migrations: legs.is_ok(), throttles: facts.has(Part::Throttle) };
        if let Err(lack) = legs {
            lacks.push(format!("{lack}: migrations and the part of a wait before one are missing"));
        }
        let maps = attach_all(object, scheduler::PROGRAMS).and_then(|()| object.scheduler_maps());
        match maps {
            Ok(maps) => {
                if !lacks.is_empty() {
                    self.set(name, State::Degraded(lacks.join("; ")));
                }
                Some(Scheduler::new(maps, offers))
            }
            Err(cause) => {
                self.set(name, State::Failed(refusal(&cause)));
                None
            }
        }
    }

    /// Reads files alone, but learns of cgroups and of their last figures through `lifecycle`.
    fn cpu(&mut self, hierarchies: &Hierarchies, facts: &Facts) -> Option<Cpu> {
        let name = cpu::SPEC.name;
        if !self.is_on(name) {
            return None;
        }
        let mut lacks: Vec<String> = lacking_controllers(hierarchies).map(str::to_owned).into_iter().collect();
        let last = facts.lack(Part::Bandwidth).map(str::to_owned);
        let blind = || (!self.is_on(lifecycle::SPEC.name)).then(|| "removals of cgroups are not reported".to_owned());
        if let Some(lack) = last.or_else(blind) {
            lacks.push(format!("{lack}: what a quota did between the last reading and the cgroup's end is missing"));
        }
        match Cpu::new(hierarchies.clone()) {
            Ok(cpu) => {
                self.degrade(name, &lacks);
                Some(cpu)
            }
            Err(cause) => {
                self.set(name, State::Failed(format!("cannot tell how many files may be open: {cause}")));
                None
            }
        }
    }

    fn tasks(&mut self, object: &mut Object, facts: &Facts) -> Option<Tasks> {
        let name = tasks::SPEC.name;
        if !self.is_on(name) {
            return None;
        }
        let mut lacks: Vec<String> = Vec::new();
        let processes = match facts.lack(Part::Processes) {
            Some(lack) => Err(lack.to_owned()),
            None => attach_all(object, tasks::PROGRAMS).and_then(|()| object.processes()).map_err(|it| refusal(&it)),
        };
        let processes = processes.map_err(|lack| lacks.push(format!("{lack}: counts of processes are missing"))).ok();
        let walk = match facts.lack(Part::Walk) {
            Some(lack) => Err(lack.to_owned()),
            None => object.walk().map_err(|it| refusal(&it)),
        };
        let walk = walk.map_err(|lack| lacks.push(format!("{lack}: tasks by state are missing"))).ok();
        if processes.is_none() && walk.is_none() {
            self.set(name, State::Unsupported(lacks.join("; ")));
            return None;
        }
        self.degrade(name, &lacks);
        Some(Tasks::new(processes, walk))
    }

    /// It works, but for what is lacking.
    fn degrade(&mut self, name: &str, lacks: &[String]) {
        if !lacks.is_empty() {
            self.set(name, State::Degraded(lacks.join("; ")));
        }
    }
}

/// What the controllers of this node leave untold, in words.
fn lacking_controllers(hierarchies: &Hierarchies) -> Option<&'static str> {
    let controllers = hierarchies.v2.as_ref().map(|root| std::fs::read_to_string(root.join("cgroup.controllers")));
    let in_v2 = matches!(controllers, Some(Ok(text)) if text.split_whitespace().any(|name| name == "cpu"));
    if hierarchies.v1.is_none() && !in_v2 {
        Some("the node's cgroup tree has no cpu controller: quotas and what they stop are missing")
    } else if hierarchies.v1.is_some() && hierarchies.v1_cpuacct.is_none() {
        Some("the node has no cpuacct hierarchy: CPU time by mode is missing")
    } else {
        None
    }
}

/// The collector with its section: its place in the list of all.
fn attached(collector: Box<dyn Collector>) -> Option<Attached> {
    let section = ALL.iter().position(|spec| spec.name == collector.spec().name)?;
    Some(Attached { section, collector })
}

fn attach_all(object: &mut Object, programs: &[(&'static str, &str)]) -> Result<(), ObjectError> {
    programs.iter().try_for_each(|(program, tracepoint)| object.attach(program, tracepoint))
}

/// Why the kernel refused something, missing capabilities first.
fn refusal(cause: &ObjectError) -> String {
    match missing_capabilities() {
        Some(missing) => format!("{missing}; {}", crate::log::with_causes(cause)),
        None => crate::log::with_causes(cause),
    }
}

/// The capabilities that are missing, in words with the remedy.
fn missing_capabilities() -> Option<String> {
    let missing = Held::read(Path::new("/proc")).ok()?.missing();
    let names: Vec<&str> = missing.iter().map(|capability| capability.name).collect();
    (!names.is_empty()).then(|| {
        let names = names.join(", ");
        format!("the process lacks the capabilities {names}: add them to the container's securityContext.capabilities.add, or start podlens as root")
    })
}
