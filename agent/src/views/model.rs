//! From two snapshots to what each entity did in the time between. Pure; every view shows parts of it.

use std::{collections::HashMap, sync::Arc};

use podlens_common::{
    disk::{Operation, Part},
    scheduler::Cause,
    tcp::{ConnectionEvent, Direction},
};

use crate::{
    collectors::{
        disk::metrics as disk, drops::metrics::DROPS, memory::metrics as memory, oom::metrics::OOM_KILLS,
        pressure::metrics as pressure, scheduler::metrics, stalls::metrics as stalls, tcp::metrics as tcp,
        udp::metrics as udp,
    },
    registry::{Sample, Snapshot, Value, snapshot::Culprit},
    signal::{Container, Entity, Histogram, Metric},
};

/// A distribution and its sum.
type Cells = [u64; Histogram::CELLS];

/// What an entity did in the time between.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    pub(super) cpu_ns: u64,
    waits: Cells,
    cause_ns: [u64; Cause::COUNT],
    pub(super) oom_kills: u64,
    /// How long its tasks stalled for want of memory, for whichever reason.
    pub(super) stalled_ns: u64,
    major_faults: Cells,
    /// Time of its requests in devices, by operation, and all operations' in queues.
    devices: [Cells; Operation::COUNT],
    queues: Cells,
    pub(super) disk_bytes: [u64; Operation::COUNT],
    pub(super) network: Network,
    /// Time under pressure, by what was wanted and how many stalled, as the metric's combinations stand.
    pressure_ns: [u64; pressure::COMBINATIONS],
    pub(super) memory: Memory,
}

/// For how long its tasks waited for a CPU, in nanoseconds, by who held that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitNs {
    pub(super) all: u64,
    pub(super) own: u64,
    pub(super) pod: u64,
    /// Other pods, units of the node and the kernel.
    pub(super) others: u64,
    pub(super) idle: u64,
}

/// What its sockets did.
#[derive(Clone, Debug)]
pub(super) struct Network {
    /// Payload by direction.
    pub(super) bytes: [u64; Direction::COUNT],
    /// TCP segments sent, and of them those sent again.
    pub(super) segments: u64,
    pub(super) retransmits: u64,
    /// TCP connections by what happened to them, and those that an error ended.
    connections: [u64; ConnectionEvent::COUNT],
    pub(super) errors: u64,
    round_trips: Cells,
    /// Packets, for whichever reason.
    pub(super) dropped: u64,
}

/// What an entity has at the end of the time; none where that is not known, or there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) working_set: Option<u64>,
    pub(super) unreclaimable: Option<u64>,
    pub(super) limit: Option<u64>,
}

/// What an entity waited for another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delay<'a> {
    pub(super) entity: &'a Entity,
    /// Who held the CPU; none for those that have no name of their own.
    pub(super) culprit: Option<&'a Entity>,
    pub(super) ns: u64,
}

impl Usage {
    const NONE: Self = Self {
        cpu_ns: 0,
        waits: [0; Histogram::CELLS],
        cause_ns: [0; Cause::COUNT],
        oom_kills: 0,
        stalled_ns: 0,
        major_faults: [0; Histogram::CELLS],
        devices: [[0; Histogram::CELLS]; Operation::COUNT],
        queues: [0; Histogram::CELLS],
        disk_bytes: [0; Operation::COUNT],
        network: Network::NONE,
        pressure_ns: [0; pressure::COMBINATIONS],
        memory: Memory { working_set: None, unreclaimable: None, limit: None },
    };

    /// Waits for a CPU.
    pub(super) fn waits(&self) -> Histogram<'_> {
        Histogram::new(&self.waits)
    }

    /// The same by who ran meanwhile.
    pub(super) fn waited_for(&self) -> WaitNs {
        let mut waited = WaitNs::default();
        for (cause, ns) in Cause::ALL.into_iter().zip(self.cause_ns) {
            waited.all += ns;
            match cause {
                Cause::Own => waited.own += ns,
                Cause::Pod => waited.pod += ns,
                Cause::Neighbor | Cause::System => waited.others += ns,
                Cause::Idle => waited.idle += ns,
                Cause::Unknown => {}
            }
        }
        waited
    }

    pub(super) fn major_faults(&self) -> Histogram<'_> {
        Histogram::new(&self.major_faults)
    }

    /// Time of requests in devices.
    pub(super) fn in_devices(&self, operation: Operation) -> Histogram<'_> {
        self.devices.get(operation.index()).map_or(Histogram::new(&[0; Histogram::CELLS]), Histogram::new)
    }

    /// Time of requests in queues and devices.
    pub(super) fn disk_ns(&self) -> (u64, u64) {
        let in_devices = self.devices.iter().map(|cells| Histogram::new(cells).sum_ns()).sum();
        (Histogram::new(&self.queues).sum_ns(), in_devices)
    }

    /// The longest time in which some task stalled, among what can be wanted.
    pub(super) fn longest_pressure_ns(&self) -> u64 {
        pressure::SOME.into_iter().filter_map(|some| self.pressure_ns.get(some)).copied().max().unwrap_or(0)
    }

    fn enter(&mut self, metric: &Metric, sample: &Sample<'_>, apply: impl Fn(&mut u64, u64)) {
        match sample.value {
            Value::Nanoseconds(ns) if *metric == metrics::CPU => apply(&mut self.cpu_ns, ns),
            Value::Nanoseconds(ns) if *metric == metrics::CPU_WAIT => {
                if let Some(cause_ns) = self.cause_ns.get_mut(sample.combination) {
                    apply(cause_ns, ns);
                }
            }
            Value::Nanoseconds(ns) if *metric == pressure::PRESSURE => {
                if let Some(known) = self.pressure_ns.get_mut(sample.combination) {
                    apply(known, ns);
                }
            }
            Value::Integer(kills) if *metric == OOM_KILLS => apply(&mut self.oom_kills, kills),
            Value::Integer(bytes) if *metric == disk::BYTES => {
                if let Some(known) = self.disk_bytes.get_mut(sample.combination) {
                    apply(known, bytes);
                }
            }
            Value::Histogram(histogram) if *metric == stalls::STALLS => {
                apply(&mut self.stalled_ns, histogram.sum_ns());
            }
            Value::Histogram(histogram) => {
                if let Some(known) = self.distribution(metric, sample.combination) {
                    let cells = histogram.buckets().iter().copied().chain([histogram.sum_ns()]);
                    known.iter_mut().zip(cells).for_each(|(cell, amount)| apply(cell, amount));
                }
            }
            Value::Integer(amount) => {
                if let Some(known) = self.network.number(metric, sample.combination) {
                    apply(known, amount);
                }
            }
            Value::Nanoseconds(_) | Value::Float(_) => {}
        }
    }

    /// Where a distribution is kept, if a view has it.
    fn distribution(&mut self, metric: &Metric, combination: usize) -> Option<&mut Cells> {
        if *metric == metrics::RUN_QUEUE_LATENCY {
            return Some(&mut self.waits);
        }
        if *metric == stalls::FAULTS {
            return Some(&mut self.major_faults);
        }
        if *metric == tcp::ROUND_TRIP {
            return Some(&mut self.network.round_trips);
        }
        if *metric != disk::LATENCY {
            return None;
        }
        if combination % Part::COUNT == Part::Queue.index() {
            return Some(&mut self.queues);
        }
        self.devices.get_mut(combination / Part::COUNT)
    }
}

impl Network {
    const NONE: Self = Self {
        bytes: [0; Direction::COUNT],
        segments: 0,
        retransmits: 0,
        connections: [0; ConnectionEvent::COUNT],
        errors: 0,
        round_trips: [0; Histogram::CELLS],
        dropped: 0,
    };

    /// Sent and received.
    pub(super) fn all_bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }

    pub(super) fn round_trips(&self) -> Histogram<'_> {
        Histogram::new(&self.round_trips)
    }

    /// Connections made, by either side.
    pub(super) fn made(&self) -> u64 {
        self.connections(ConnectionEvent::Opened) + self.connections(ConnectionEvent::Accepted)
    }

    /// Connections that were not made, or that an error ended.
    pub(super) fn failed(&self) -> u64 {
        self.connections(ConnectionEvent::Failed) + self.errors
    }

    fn connections(&self, event: ConnectionEvent) -> u64 {
        self.connections.get(event.index()).copied().unwrap_or(0)
    }

    /// Where a number is kept, if a view has it.
    fn number(&mut self, metric: &Metric, combination: usize) -> Option<&mut u64> {
        if *metric == tcp::BYTES || *metric == udp::BYTES {
            // A collector has one protocol, so a direction is a combination.
            return self.bytes.get_mut(combination);
        }
        if *metric == tcp::CONNECTION_EVENTS {
            return self.connections.get_mut(combination);
        }
        if *metric == tcp::SEGMENTS {
            return (combination == Direction::Transmit.index()).then_some(&mut self.segments);
        }
        if *metric == tcp::RETRANSMITS {
            return Some(&mut self.retransmits);
        }
        if *metric == tcp::CONNECTION_ERRORS {
            return Some(&mut self.errors);
        }
        (*metric == DROPS).then_some(&mut self.dropped)
    }
}

impl Memory {
    fn enter(&mut self, metric: &Metric, sample: &Sample<'_>) {
        let place = if *metric == memory::WORKING_SET {
            &mut self.working_set
        } else if *metric == memory::UNRECLAIMABLE {
            &mut self.unreclaimable
        } else if *metric == memory::LIMIT {
            &mut self.limit
        } else {
            return;
        };
        if let Value::Integer(bytes) = sample.value {
            *place = Some(bytes);
        }
    }
}

/// An entity without its names, which may have become known between two snapshots; what has no ids keeps its names.
fn instance(entity: &Entity) -> Entity {
    match entity {
        Entity::Container(container) if !container.pod_uid.is_empty() || !container.container_id.is_empty() => {
            let nameless: Arc<str> = "".into();
            Entity::Container(Container {
                namespace: Arc::clone(&nameless),
                pod: Arc::clone(&nameless),
                container: nameless,
                ..container.clone()
            })
        }
        Entity::Container(_) | Entity::Unit(_) | Entity::Workload(_) => entity.clone(),
    }
}

/// What each entity of the later snapshot did since the earlier one. What has gone meanwhile has nothing to be
/// subtracted from.
pub(super) fn usages<'a>(before: &Snapshot, after: &'a Snapshot) -> Vec<(&'a Entity, Usage)> {
    let mut usages: HashMap<Entity, (&Entity, Usage)> = HashMap::new();
    for family in after.families() {
        for sample in family.samples() {
            if let Some(state) = after.entity(sample.entity) {
                let (_, usage) = usages.entry(instance(&state.entity)).or_insert((&state.entity, Usage::NONE));
                usage.enter(family.metric(), &sample, |sum, amount| *sum += amount);
                usage.memory.enter(family.metric(), &sample);
            }
        }
    }
    for family in before.families() {
        for sample in family.samples() {
            let usage = before.entity(sample.entity).and_then(|state| usages.get_mut(&instance(&state.entity)));
            if let Some((_, usage)) = usage {
                usage.enter(family.metric(), &sample, |sum, amount| *sum = sum.saturating_sub(amount));
            }
        }
    }
    usages.into_values().collect()
}

/// Who waited and who held the CPU meanwhile, the longest first.
pub(super) fn delays<'a>(before: &'a Snapshot, after: &'a Snapshot) -> Vec<Delay<'a>> {
    let pair = |delay: &Delay<'_>| (instance(delay.entity), delay.culprit.map(instance));
    let earlier: HashMap<(Entity, Option<Entity>), u64> =
        totals(before).map(|delay| (pair(&delay), delay.ns)).collect();
    let since = |delay: Delay<'a>| {
        let before_ns = earlier.get(&pair(&delay)).copied().unwrap_or(0);
        Delay { ns: delay.ns.saturating_sub(before_ns), ..delay }
    };
    let mut delays: Vec<Delay<'_>> = totals(after).map(since).filter(|delay| delay.ns > 0).collect();
    delays.sort_by_key(|delay| (std::cmp::Reverse(delay.ns), delay.entity, delay.culprit));
    delays
}

fn totals(snapshot: &Snapshot) -> impl Iterator<Item = Delay<'_>> {
    let of_metric = snapshot.families().filter(|family| *family.metric() == metrics::CPU_WAIT_CAUSED);
    of_metric.flat_map(crate::registry::Family::samples).filter_map(|sample| {
        let (Some(culprit), Value::Nanoseconds(ns)) = (sample.culprit, sample.value) else { return None };
        let named = |position| snapshot.entity(position).map(|state| &*state.entity);
        let culprit = match culprit {
            Culprit::Entity(position) => Some(named(position)?),
            Culprit::Other => None,
        };
        Some(Delay { entity: named(sample.entity)?, culprit, ns })
    })
}
