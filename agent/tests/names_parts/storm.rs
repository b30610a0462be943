//! A storm of pods: their cgroups, their processes, and their objects as a kubelet would report them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use testkit::kubernetes::{Described, State, Status, Store};

use super::common::{Load, TestCgroup, Work, container_id, given, pod_uid};

pub(crate) const NAMESPACE: &str = "storm";
/// With the start of its work and its removal: about 20 ms.
const SHORTEST_LIFE: Duration = Duration::from_millis(10);
/// Names that pods have one after another, as a stateful set's do.
const REUSED_NAMES: u32 = 12;
/// Apart from the containers' numbers.
const SANDBOXES: u32 = 0x4000_0000;

/// One container's instance, as the kernel saw it.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) uid: String,
    /// Namespace, pod, container; no container for a sandbox.
    pub(crate) names: [String; 3],
    pub(crate) cpu_ns: u64,
    /// From the moment before its first task until its removal.
    pub(crate) lived: Duration,
    /// The API server heard of its id only after its removal.
    pub(crate) told_after: bool,
}

pub(crate) struct Storm<'a> {
    store: &'a Store,
    longest_life: Duration,
    instances: Mutex<Vec<Instance>>,
    free_names: Mutex<VecDeque<u32>>,
}

/// Numbers from a seed, so that a storm can be repeated.
struct Random(u64);

impl Random {
    fn new(seed: u32) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    /// Between two times.
    fn time(&mut self, from: Duration, to: Duration) -> Duration {
        let span_us = u64::try_from(to.saturating_sub(from).as_micros()).unwrap();
        from + Duration::from_micros(self.below(span_us))
    }
}

/// What becomes of one container.
struct Plan {
    life: Duration,
    work: Work,
    /// When the API server hears of its id, counted from its start.
    told: Duration,
}

impl Plan {
    fn new(random: &mut Random, longest: Duration) -> Self {
        // Half of them live for at most a second.
        let longest = if random.below(2) == 0 { longest } else { longest.min(Duration::from_secs(1)) };
        let life = random.time(SHORTEST_LIFE, longest);
        let spin = random.time(Duration::from_millis(1), Duration::from_millis(15)).min(life);
        let times = u32::try_from(1 + random.below(6)).unwrap();
        let work = Work::Wake { times, sleep: life.saturating_sub(spin) / times, spin: spin / times };
        let told = match random.below(4) {
            0 => life + random.time(Duration::ZERO, Duration::from_secs(3)),
            _ => random.time(Duration::from_millis(10), Duration::from_millis(1500)),
        };
        Self { life, work, told }
    }
}

impl<'a> Storm<'a> {
    pub(crate) fn new(store: &'a Arc<Store>, longest_life: Duration) -> Self {
        let free_names = Mutex::new((0..REUSED_NAMES).collect());
        Self { store, longest_life, instances: Mutex::default(), free_names }
    }

    /// Makes so many containers at an even rate, and waits for the end of all.
    pub(crate) fn run(&self, count: u32, time: Duration) {
        let start = Instant::now();
        thread::scope(|scope| {
            let (mut number, mut pods) = (1, Vec::new());
            while number <= count {
                let due = time * (number - 1) / count;
                thread::sleep(due.saturating_sub(start.elapsed()));
                let first = number;
                // Every seventh pod has a container that is started again.
                let lives = if (number / 7) % 2 == 1 && number.is_multiple_of(7) { 2 } else { 1 };
                number += lives;
                pods.push((first, scope.spawn(move || self.pod(first, lives))));
            }
            for (first, pod) in pods {
                given(&format!("the pod of container {first}"), pod.join());
            }
        });
    }

    pub(crate) fn instances(&self) -> Vec<Instance> {
        self.instances.lock().unwrap().clone()
    }

    pub(crate) fn describe(&self, instances: &[Instance]) {
        let mut lives: Vec<Duration> = instances.iter().map(|instance| instance.lived).collect();
        lives.sort_unstable();
        let at = |part: usize| lives[(lives.len() - 1) * part / 10];
        let late = instances.iter().filter(|instance| instance.told_after).count();
        println!(
            "{} instances, {late} of them told to the API server after their end; lives: least {:?}, a tenth below {:?}, median {:?}, most {:?}",
            lives.len(),
            at(0),
            at(1),
            at(5),
            at(10)
        );
        assert!(late > instances.len() / 10, "many are told late");
        assert!(at(0) < Duration::from_millis(100) && at(10) > self.longest_life * 4 / 5, "all lengths of lives");
    }

    /// One pod from its creation to its deletion.
    fn pod(&self, number: u32, lives: u32) {
        let mut random = Random::new(number);
        let reused = if random.below(6) == 0 { self.free_names.lock().unwrap().pop_front() } else { None };
        let mut pod = Described {
            namespace: NAMESPACE.to_owned(),
            name: reused.map_or_else(|| format!("web-{number}"), |name| format!("db-{name}")),
            uid: pod_uid(number),
            node: "test-node".to_owned(),
            controller: if reused.is_some() {
                ("StatefulSet", "db".to_owned())
            } else {
                ("DaemonSet", "web".to_owned())
            },
            containers: vec![Status { name: format!("app-{}", number % 5), ..Status::default() }],
            ballast_bytes: 0,
        };
        self.store.put(&pod.to_json());
        // A runtime makes the sandbox before any container.
        let sandbox = TestCgroup::container(&pod.uid, SANDBOXES + number);
        let pause = (lives > 1).then(|| {
            let mut pause = Load::start(None, Work::Spin(Duration::from_millis(1)), None);
            move_into(&pause, &sandbox);
            pause.run();
            (pause, Instant::now())
        });
        for life in 0..lives {
            self.container(&mut pod, number + life, &mut random);
            if life + 1 < lives {
                thread::sleep(random.time(Duration::ZERO, Duration::from_millis(500)));
            }
        }
        if let Some((pause, since)) = pause {
            pause.end();
            let (id, names) = (container_id(SANDBOXES + number), [&pod.namespace, &pod.name, ""].map(str::to_owned));
            let (cpu_ns, uid) = (sandbox.final_cpu_usage_ns(), pod.uid.clone());
            sandbox.remove();
            self.enter(Instance { id, uid, names, cpu_ns, lived: since.elapsed(), told_after: false });
        } else {
            sandbox.remove();
        }
        thread::sleep(random.time(Duration::ZERO, Duration::from_secs(1)));
        self.store.delete(&pod.uid);
        if let Some(name) = reused {
            self.free_names.lock().unwrap().push_back(name);
        }
    }

    /// One life of the pod's only container.
    fn container(&self, pod: &mut Described, number: u32, random: &mut Random) {
        let plan = Plan::new(random, self.longest_life);
        let mut load = Load::start(None, plan.work, None);
        load.figures();
        let (id, cgroup) = (container_id(number), TestCgroup::container(&pod.uid, number));
        let start = move_into(&load, &cgroup);
        load.go();
        let told_after = plan.told >= plan.life;
        if !told_after {
            thread::sleep(plan.told.saturating_sub(start.elapsed()));
            self.tell(pod, State::Running(id.clone()));
        }
        load.done();
        load.end();
        let cpu_ns = cgroup.final_cpu_usage_ns();
        cgroup.remove();
        let lived = start.elapsed();
        if told_after {
            thread::sleep(plan.told.saturating_sub(start.elapsed()));
        }
        self.tell(pod, State::Ended(id.clone()));
        let names = [&pod.namespace, &pod.name, &pod.containers[0].name].map(String::clone);
        self.enter(Instance { id: id.clone(), uid: pod.uid.clone(), names, cpu_ns, lived, told_after });
        // As it looks once it is to be started again.
        pod.containers[0] = Status {
            last_id: Some(id),
            restarts: pod.containers[0].restarts + 1,
            state: State::Waiting,
            ..pod.containers[0].clone()
        };
    }

    fn tell(&self, pod: &mut Described, state: State) {
        pod.containers[0].state = state;
        self.store.put(&pod.to_json());
    }

    fn enter(&self, instance: Instance) {
        self.instances.lock().unwrap().push(instance);
    }
}

/// Moves a load that rests into a cgroup, into the tree that podlens counts by last, so that a short life is short
/// there: a move within a version 1 hierarchy waits for a grace period of the kernel. Gives the moment before that.
fn move_into(load: &Load, cgroup: &TestCgroup) -> Instant {
    let mut start = Instant::now();
    for directory in cgroup.directories().iter().rev() {
        start = Instant::now();
        std::fs::write(directory.join("cgroup.procs"), load.id().to_string()).unwrap();
    }
    start
}
