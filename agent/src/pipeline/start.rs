//! Starting the pipeline: what the node offers decides which collectors run.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Instant, SystemTime},
};

use super::{Inner, Kernel, Pipeline};
use crate::{
    attribution::{cgroups::Cgroups, names::Names},
    collectors::{
        ALL, State,
        lifecycle::{self, Lifecycle},
        scheduler::{self, Scheduler},
    },
    config::Config,
    kernel::{
        btf::Btf,
        capabilities::Held,
        facts::{self, Facts, Part},
        hierarchy::{Hierarchies, HierarchyError},
        host,
        object::{Object, ObjectError},
    },
    registry::{Layout, Ledger, ledger::Section},
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
        let kernel = states.attach(&hierarchies, cpus, config.slots);
        // After the events are being recorded, so that nothing is born between.
        let cgroups = Cgroups::scan(hierarchies);
        let sections = vec![Section {
            layout: Layout::new(scheduler::SPEC.metrics),
            split: scheduler::SPEC.split.map(|split| (split.metric, split.of, split.label_values)),
        }];
        let now = Instant::now();
        let names = Arc::new(Names::new(config.linger));
        let inner = Inner {
            cgroups,
            names: Arc::clone(&names),
            met: now,
            kernel,
            ledger: Ledger::new(sections, config.linger),
            unknown: std::collections::HashMap::new(),
            scanned: now,
            lost_events: 0,
            sweep: std::time::Duration::ZERO,
            since: SystemTime::now(),
        };
        Ok(Self {
            node: config.node.as_str().into(),
            max_age: config.max_age,
            states: states.list,
            started: now,
            names,
            inner: Mutex::new(inner),
            fresh: tokio::sync::Mutex::new(None),
        })
    }
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
    fn attach(&mut self, hierarchies: &Hierarchies, cpus: u32, slots: u32) -> Option<Kernel> {
        let facts = match Btf::read_file(Path::new("/sys/kernel/btf/vmlinux")) {
            Ok(btf) => facts::resolve(&btf),
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
            Ok(kernel) => Some(kernel),
            Err(cause) => {
                self.set_all(&State::Failed(refusal(&cause)));
                None
            }
        }
    }

    fn load(&mut self, facts: &Facts, hierarchies: &Hierarchies, cpus: u32, slots: u32) -> Result<Kernel, ObjectError> {
        let mut object = Object::load(facts, hierarchies, cpus, slots)?;
        let slot_maps = object.slot_maps()?;
        let lifecycle = self.lifecycle(&mut object, facts);
        let scheduler = self.scheduler(&mut object, facts);
        object.seal();
        Ok(Kernel { slots: slot_maps, scheduler, lifecycle, stuck: 0, _object: object })
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
        if let Err(lack) = legs {
            lacks.push(format!("{lack}: the part of a wait before a migration is missing"));
        }
        let maps = attach_all(object, scheduler::PROGRAMS).and_then(|()| object.scheduler_maps());
        match maps {
            Ok(maps) => {
                if !lacks.is_empty() {
                    self.set(name, State::Degraded(lacks.join("; ")));
                }
                Some(Scheduler::new(maps))
            }
            Err(cause) => {
                self.set(name, State::Failed(refusal(&cause)));
                None
            }
        }
    }
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
