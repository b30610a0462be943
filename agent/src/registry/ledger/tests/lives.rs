//! Instances of one container that come, are named, are seen, go and are forgotten in any order: whoever adds up what is
//! told of them has each once.

use std::collections::{HashMap, HashSet};

use proptest::{collection::vec, prelude::*};

use super::{Bench, Duration, Entity, Instant, Snapshot, SystemTime, Value, entity, named, series};

/// What happens next. Numbers choose among the instances that it can happen to.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Starts,
    /// A living instance uses so many nanoseconds.
    Uses(u8, u16),
    Ends(u8),
    /// One that has no name gets it.
    Named(u8),
    /// So many seconds later somebody looks, and has it or not.
    Sweep(u8, bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => Just(Happening::Starts),
        3 => (any::<u8>(), any::<u16>()).prop_map(|(who, ns)| Happening::Uses(who, ns)),
        2 => any::<u8>().prop_map(Happening::Ends),
        2 => any::<u8>().prop_map(Happening::Named),
        4 => (0_u8..3, any::<bool>()).prop_map(|(seconds, takes)| Happening::Sweep(seconds, takes)),
    ]
}

struct Instance {
    entity: Entity,
    used_ns: u64,
    lives: bool,
    is_named: bool,
}

/// Who adds up what is told: by series as Prometheus does, by instance and start as an OTLP backend does.
#[derive(Default)]
struct Observers {
    series: HashMap<String, (u64, u64)>,
    instances: HashMap<(String, SystemTime), u64>,
}

impl Observers {
    fn see(&mut self, snapshot: &Snapshot) {
        for (labels, value) in series(snapshot) {
            let (whole, part) = value.split_once('.').unwrap_or((&value, ""));
            let value: u64 = format!("{whole}{part:0<9}").parse().unwrap();
            let (last, sum) = self.series.entry(labels).or_default();
            *sum += if value < *last { value } else { value - *last };
            *last = value;
        }
        for sample in snapshot.families().flat_map(crate::registry::Family::samples) {
            let state = &snapshot.entities[sample.entity as usize];
            let (Entity::Container(container), Value::Nanoseconds(ns)) = (&*state.entity, sample.value) else {
                continue;
            };
            if !state.carried {
                let highest =
                    self.instances.entry((container.container_id.to_string(), state.since.moment())).or_default();
                *highest = ns.max(*highest);
            }
        }
    }

    fn instance(&self, id: &str) -> u64 {
        self.instances.iter().filter(|((known, _), _)| known == id).map(|(_, ns)| ns).sum()
    }
}

struct Node {
    bench: Bench,
    pod: Entity,
    instances: Vec<Instance>,
    observers: Observers,
    started: Instant,
}

impl Node {
    fn new() -> Self {
        let mut bench = Bench::new();
        let pod = entity("u", "");
        bench.know(&pod, "web", "");
        let started = bench.now;
        Self { bench, pod, instances: Vec::new(), observers: Observers::default(), started }
    }

    fn chosen(&mut self, who: u8, can: impl Fn(&Instance) -> bool) -> Option<&mut Instance> {
        let count = self.instances.iter().filter(|instance| can(instance)).count();
        let at = usize::from(who).checked_rem(count)?;
        self.instances.iter_mut().filter(|instance| can(instance)).nth(at)
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Starts => {
                let id = self.instances.len().to_string();
                let entity = entity("u", &id);
                // The pod's name is known before its container's.
                self.bench.names.known.insert(entity.clone(), named("ns", "web", &id, "u", &id));
                self.bench.names.pending.push(entity.clone());
                self.instances.push(Instance { entity, used_ns: 0, lives: true, is_named: false });
            }
            Happening::Uses(who, ns) => {
                if let Some(instance) = self.chosen(who, |instance| instance.lives) {
                    instance.used_ns += u64::from(ns);
                }
            }
            Happening::Ends(who) => {
                if let Some(instance) = self.chosen(who, |instance| instance.lives) {
                    instance.lives = false;
                    let (entity, ns) = (instance.entity.clone(), instance.used_ns);
                    self.bench.retire_since(&entity, ns, self.since(&entity));
                }
            }
            Happening::Named(who) => {
                if let Some(instance) = self.chosen(who, |instance| !instance.is_named) {
                    instance.is_named = true;
                    let entity = instance.entity.clone();
                    self.bench.know(&entity, "web", "app");
                    self.bench.names.pending.retain(|pending| *pending != entity);
                }
            }
            Happening::Sweep(seconds, takes) => self.sweep(u64::from(seconds), takes),
        }
    }

    /// Each instance has a start of its own.
    fn since(&self, entity: &Entity) -> SystemTime {
        let at = self.instances.iter().position(|instance| instance.entity == *entity).unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_secs(at as u64)
    }

    fn sweep(&mut self, seconds: u64, takes: bool) {
        let living: Vec<(Entity, u64, SystemTime)> = self
            .instances
            .iter()
            .filter(|instance| instance.lives)
            .map(|instance| (instance.entity.clone(), instance.used_ns, self.since(&instance.entity)))
            .chain([(self.pod.clone(), 0, SystemTime::UNIX_EPOCH)])
            .collect();
        self.bench.now += Duration::from_secs(seconds);
        let snapshot = self.bench.sweep_now(&living);
        if takes {
            self.bench.ledger.exported("test", snapshot.sequence, self.bench.now);
            self.observers.see(&snapshot);
        }
    }
}

proptest! {
    #[test]
    fn each_instance_is_once_in_what_is_told(happenings in vec(happening(), 1..80)) {
        let mut node = Node::new();
        for happening in happenings {
            // Longer than that no name is awaited, and what was delivered under an id stays there.
            if node.bench.now - node.started < Duration::from_secs(25) {
                node.happens(happening);
            }
        }
        for _ in 0..node.instances.len() {
            node.happens(Happening::Ends(0));
            node.happens(Happening::Named(0));
        }
        for _ in 0..3 {
            node.sweep(1, true);
        }
        let used = |instance: &Instance| instance.used_ns;
        let told = node.observers.series.get("{\"ns\",pod=\"web\",container=\"app\"}").map_or(0, |(_, sum)| *sum);
        prop_assert_eq!(told, node.instances.iter().map(used).sum::<u64>());
        for (id, instance) in node.instances.iter().enumerate() {
            prop_assert_eq!(node.observers.instance(&id.to_string()), instance.used_ns, "instance {}", id);
        }
        let starts: HashSet<&(String, SystemTime)> = node.observers.instances.keys().collect();
        prop_assert!(starts.len() <= node.instances.len() + 1, "{:?}", starts);
    }
}
