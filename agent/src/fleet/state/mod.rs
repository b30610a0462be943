//! All `DaemonSets` of a cluster: what each node should have, has, and lacks. Pure.
//!
//! Objects are put in and taken out as they change, and [`Fleet::settle`] looks anew at the pairs of `DaemonSet` and node
//! that a change concerns: for a pod that is one, however large the cluster. Whoever lists everything once settles once.

mod cell;
mod figures;
mod report;
mod watched;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::SocketAddr,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::{
    cell::Cell,
    watched::{Newest, Watched},
};
pub use self::{
    figures::{Figures, STATES},
    report::Report,
};
use super::{
    causes::{Events, Lack, NoRoom, Reason},
    kinds::{Kind, Object},
    objects::{DaemonSet, Event, Node, Pod, Revision, Shared, Uid},
    rollout::{self, PATIENCE, Rollout},
};

/// What may pass by itself is told once it has lasted so long.
const PASSES_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// No agent is asked again so soon.
const AGAIN: SignedDuration = SignedDuration::from_secs(15);
/// Nor are more asked at once; the next probe of the others fails as well.
const QUESTIONS: usize = 8;

/// What the API server tells, and what follows.
#[derive(Debug, Default)]
pub struct Fleet {
    slots: Vec<Slot>,
    by_name: HashMap<Box<str>, u32>,
    /// Slots without a node and pods.
    free: Vec<u32>,
    /// Names of nodes by their identities.
    nodes: HashMap<Uid, Box<str>>,
    pods: HashMap<Uid, Pod>,
    /// Where each pod is.
    places: HashMap<Uid, u32>,
    daemon_sets: HashMap<Uid, Watched>,
    revisions: HashMap<Uid, Revision>,
    events: Events,
    shared: Shared,
    dirty: Dirty,
    /// What is not told yet since it may pass: since when, the `DaemonSet`, the slot.
    waiting: VecDeque<(Timestamp, Uid, u32)>,
    /// Agents to be asked, and when each was asked last.
    questions: Vec<Question>,
    asked: HashMap<Uid, Timestamp>,
    is_settled: bool,
}

/// One of podlens' own agents that is not ready, to be asked why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its pod.
    pub pod: Uid,
    /// Where it answers.
    pub address: SocketAddr,
}

/// A node, or the name of one that pods are for.
#[derive(Debug, Default)]
struct Slot {
    name: Box<str>,
    node: Option<Node>,
    pods: Vec<Uid>,
}

/// What has to be looked at.
#[derive(Debug, Default)]
struct Dirty {
    pairs: HashMap<Uid, HashSet<u32>>,
    slots: HashSet<u32>,
    daemon_sets: HashSet<Uid>,
}

/// Something that somebody may want to hear of.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A node has begun to lack its pod, or lacks it for another reason.
    Lacks {
        /// Namespace and name of the `DaemonSet`.
        daemon_set: (String, String),
        /// The node.
        node: String,
        /// What it lacks.
        lack: Lack,
    },
    /// It does not any more.
    Ends {
        /// Namespace and name of the `DaemonSet`.
        daemon_set: (String, String),
        /// The node.
        node: String,
        /// What it lacked, as it was told.
        reason: Reason,
    },
    /// A roll-out is in another state.
    RollsOut {
        /// Namespace and name of the `DaemonSet`.
        daemon_set: (String, String),
        /// The state before.
        before: &'static str,
        /// The state now.
        now: Rollout,
    },
}

impl Fleet {
    /// Makes or changes an object.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn put(&mut self, object: Object) -> Result<(), NoRoom> {
        match object {
            Object::DaemonSet(object) => self.put_daemon_set(*object),
            Object::Revision(revision) => self.put_revision(revision),
            Object::Node(node) => self.put_node(*node),
            Object::Pod(pod) => self.put_pod(pod),
            Object::Event(event) => return self.put_event(event),
        }
        Ok(())
    }

    /// Takes an object away.
    pub fn remove(&mut self, kind: Kind, uid: Uid) {
        match kind {
            Kind::DaemonSets => {
                self.daemon_sets.remove(&uid);
            }
            Kind::Revisions => {
                if let Some(daemon_set) = self.revisions.remove(&uid).and_then(|revision| revision.daemon_set) {
                    self.find_newest(daemon_set);
                }
            }
            Kind::Nodes => self.remove_node(uid),
            Kind::Pods => self.remove_pod(uid),
            Kind::DaemonSetEvents | Kind::PodEvents => {
                let object = self.events.remove(uid);
                self.look_at_object(object);
            }
        }
    }

    /// Takes all objects of a kind away that are not among these; those of both kinds of events are told apart by whom they
    /// are about.
    pub fn retain(&mut self, kind: Kind, seen: &HashSet<Uid>) {
        let all: Vec<Uid> = match kind {
            Kind::DaemonSets => self.daemon_sets.keys().copied().collect(),
            Kind::Revisions => self.revisions.keys().copied().collect(),
            Kind::Nodes => self.nodes.keys().copied().collect(),
            Kind::Pods => self.pods.keys().copied().collect(),
            Kind::DaemonSetEvents => self.events.of(|object| self.daemon_sets.contains_key(&object)).collect(),
            Kind::PodEvents => self.events.of(|object| !self.daemon_sets.contains_key(&object)).collect(),
        };
        for gone in all.into_iter().filter(|uid| !seen.contains(uid)) {
            self.remove(kind, gone);
        }
    }

    /// How many objects of a kind are held; of both kinds of events together.
    #[must_use]
    pub fn held(&self, kind: Kind) -> usize {
        match kind {
            Kind::DaemonSets => self.daemon_sets.len(),
            Kind::Revisions => self.revisions.len(),
            Kind::Nodes => self.nodes.len(),
            Kind::Pods => self.pods.len(),
            Kind::DaemonSetEvents => self.events.of(|object| self.daemon_sets.contains_key(&object)).count(),
            Kind::PodEvents => self.events.of(|object| !self.daemon_sets.contains_key(&object)).count(),
        }
    }

    fn put_daemon_set(&mut self, object: DaemonSet) {
        let uid = object.metadata.uid;
        if let Some(watched) = self.daemon_sets.get_mut(&uid) {
            if watched.object != object {
                watched.object = object;
                self.dirty.daemon_sets.insert(uid);
            }
            return;
        }
        self.daemon_sets.insert(uid, Watched::new(object));
        self.find_newest(uid);
        self.dirty.daemon_sets.insert(uid);
    }

    fn put_revision(&mut self, revision: Revision) {
        // Objects can be orphaned and adopted.
        let (uid, now) = (revision.uid, revision.daemon_set);
        let before = match now {
            Some(_) => self.revisions.insert(uid, revision),
            None => self.revisions.remove(&uid),
        };
        let before = before.and_then(|before| before.daemon_set).filter(|before| now != Some(*before));
        before.into_iter().chain(now).for_each(|daemon_set| self.find_newest(daemon_set));
    }

    fn find_newest(&mut self, daemon_set: Uid) {
        let Some(watched) = self.daemon_sets.get_mut(&daemon_set) else { return };
        let own = self.revisions.values().filter(|revision| revision.daemon_set == Some(daemon_set));
        let newest = rollout::newest(own).map(|(newest, rolled_back)| Newest {
            hash: newest.hash.clone(),
            made: newest.made,
            rolled_back,
        });
        if watched.newest != newest {
            watched.newest = newest;
            self.dirty.daemon_sets.insert(daemon_set);
        }
    }

    fn put_node(&mut self, node: Node) {
        let number = self.slot(&node.name);
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        if slot.node.as_ref() == Some(&node) {
            return;
        }
        // One that was made anew under its old name.
        if let Some(before) = slot.node.as_ref().filter(|before| before.uid != node.uid) {
            self.nodes.remove(&before.uid);
        }
        self.nodes.insert(node.uid, node.name.as_str().into());
        slot.node = Some(node);
        self.dirty.slots.insert(number);
    }

    fn remove_node(&mut self, uid: Uid) {
        let Some(number) = self.nodes.remove(&uid).and_then(|name| self.by_name.get(&name).copied()) else { return };
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.node = None;
        }
        self.dirty.slots.insert(number);
    }

    fn put_pod(&mut self, mut pod: Pod) {
        let uid = pod.uid;
        // What belongs to nobody here counts for what it takes of its node.
        if pod.daemon_set.is_none() && (pod.is_over || !pod.is_scheduled) {
            return self.remove_pod(uid);
        }
        self.shared.share(&mut pod);
        if pod.works {
            self.forget_words(uid);
        }
        let number = pod.node.take().map(|node| self.slot(&node));
        let before = self.places.get(&uid).copied();
        let takes = |pod: &Pod| (pod.is_scheduled, pod.is_over);
        let takes_otherwise =
            self.pods.get(&uid).is_none_or(|known| takes(known) != takes(&pod) || known.claim != pod.claim);
        self.look_at_pair(pod.daemon_set, number);
        // It can be orphaned and adopted.
        self.look_at_pair(self.pods.get(&uid).and_then(|known| known.daemon_set), before);
        if before != number {
            self.leave(uid);
            if let Some(slot) = number.and_then(|number| self.slots.get_mut(number as usize)) {
                slot.pods.push(uid);
                self.places.extend(number.map(|number| (uid, number)));
            }
        }
        self.pods.insert(uid, pod);
        if before != number || takes_otherwise {
            self.look_beside(number);
        }
    }

    fn remove_pod(&mut self, uid: Uid) {
        self.leave(uid);
        self.pods.remove(&uid);
        self.forget_words(uid);
    }

    fn forget_words(&mut self, pod: Uid) {
        self.events.forget(pod);
        self.asked.remove(&pod);
    }

    /// The agents to be asked, each once.
    pub fn questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.questions)
    }

    /// What one has said.
    pub fn answer(&mut self, pod: Uid, words: &str) {
        if self.pods.get(&pod).is_some_and(|pod| !pod.works) {
            self.events.say(pod, words);
            self.look_at_object(Some(pod));
        }
    }

    /// Takes a pod out of its slot.
    fn leave(&mut self, uid: Uid) {
        let Some(number) = self.places.remove(&uid) else { return };
        self.look_at_pair(self.pods.get(&uid).and_then(|pod| pod.daemon_set), Some(number));
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.pods.retain(|pod| *pod != uid);
        }
        self.look_beside(Some(number));
        self.dirty.slots.extend(self.slots.get(number as usize).filter(|slot| slot.is_empty()).map(|_| number));
    }

    fn put_event(&mut self, event: Event) -> Result<(), NoRoom> {
        if self.pods.get(&event.object).is_some_and(|pod| pod.daemon_set.is_none()) {
            return Ok(());
        }
        let object = event.object;
        self.events.put(event)?;
        self.look_at_object(Some(object));
        Ok(())
    }

    /// The slot of a node of this name.
    fn slot(&mut self, name: &str) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let slot = Slot { name: name.into(), ..Slot::default() };
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            // As many nodes as that do not fit into memory.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(free) = self.slots.get_mut(number as usize) {
            *free = slot;
        }
        self.by_name.insert(name.into(), number);
        number
    }

    fn look_at_pair(&mut self, daemon_set: Option<Uid>, slot: Option<u32>) {
        // The first time everything is looked at.
        if let (Some(daemon_set), Some(slot), true) = (daemon_set, slot, self.is_settled) {
            self.dirty.pairs.entry(daemon_set).or_default().insert(slot);
        }
    }

    /// What is free on a node has changed: it matters to pods that wait for it.
    fn look_beside(&mut self, slot: Option<u32>) {
        let pods = slot.and_then(|number| self.slots.get(number as usize)).map(|slot| &slot.pods);
        let waiting = pods.into_iter().flatten().filter_map(|uid| self.pods.get(uid)).filter(|pod| !pod.is_scheduled);
        let waiting: Vec<Option<Uid>> = waiting.map(|pod| pod.daemon_set).collect();
        for daemon_set in waiting {
            self.look_at_pair(daemon_set, slot);
        }
    }

    /// More or less is told of a pod or a `DaemonSet`.
    fn look_at_object(&mut self, object: Option<Uid>) {
        let Some(object) = object else { return };
        if let Some(watched) = self.daemon_sets.get(&object) {
            let lacking: Vec<u32> = watched.lacking.keys().copied().collect();
            self.dirty.pairs.entry(object).or_default().extend(lacking);
        } else if let Some(pod) = self.pods.get(&object) {
            self.look_at_pair(pod.daemon_set, self.places.get(&object).copied());
        }
    }

    /// Looks at everything that has changed. What lacked at the first call is not told, since it is nothing new.
    pub fn settle(&mut self, now: Timestamp) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.dirty);
        let is_first = !std::mem::replace(&mut self.is_settled, true);
        let mut changes = Vec::new();
        let count = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        for (uid, watched) in &mut self.daemon_sets {
            let pairs = dirty.pairs.get(uid);
            let slots: BTreeSet<u32> = if is_first || dirty.daemon_sets.contains(uid) {
                (0..count).collect()
            } else {
                dirty.slots.iter().chain(pairs.into_iter().flatten()).copied().collect()
            };
            let is_touched = !slots.is_empty();
            watched.cells.resize(self.slots.len(), Cell::default());
            for number in slots {
                let Some(slot) = self.slots.get(number as usize) else { continue };
                let found = cell::look(&watched.wants(*uid), slot, &self.pods, &self.events);
                let question = found.question.filter(|question| {
                    let asked = self.asked.get(&question.pod);
                    asked.is_none_or(|asked| now.duration_since(*asked) >= AGAIN) && self.questions.len() < QUESTIONS
                });
                if let Some(question) = question {
                    self.asked.insert(question.pod, now);
                    self.questions.push(question);
                }
                if let Some(waits) = watched.enter(number, found, slot, now, is_first, &mut changes) {
                    self.waiting.push_back((waits, *uid, number));
                }
            }
            if is_touched || watched.is_rolling() {
                watched.roll_out(&self.slots, now, is_first, &mut changes);
            }
            watched.is_new = false;
        }
        self.tell_waiting(now, &mut changes);
        for number in dirty.slots {
            self.free_slot(number);
        }
        if is_first {
            let (pods, daemon_sets) = (&self.pods, &self.daemon_sets);
            let of_others = |object: &Uid| {
                !daemon_sets.contains_key(object) && pods.get(object).is_none_or(|pod| pod.daemon_set.is_none())
            };
            let others: Vec<Uid> = self.events.of(|object| of_others(&object)).collect();
            for event in others {
                self.events.remove(event);
            }
        }
        changes
    }

    fn tell_waiting(&mut self, now: Timestamp, changes: &mut Vec<Change>) {
        while let Some((noticed, uid, number)) = self.waiting.front().copied() {
            if now.duration_since(noticed) < PASSES_WITHIN {
                return;
            }
            self.waiting.pop_front();
            let (Some(watched), Some(slot)) = (self.daemon_sets.get_mut(&uid), self.slots.get(number as usize)) else {
                continue;
            };
            let daemon_set = watched.name();
            let Some(lacking) = watched.lacking.get_mut(&number) else { continue };
            if lacking.noticed == noticed && lacking.told.is_none() {
                lacking.told = Some(lacking.lack.reason);
                changes.push(Change::Lacks { daemon_set, node: slot.name.to_string(), lack: lacking.lack.clone() });
            }
        }
    }

    fn free_slot(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        if slot.is_empty() && !slot.name.is_empty() {
            self.by_name.remove(&slot.name);
            *slot = Slot::default();
            self.free.push(number);
        }
    }

    /// When something changes by itself, if ever.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let told = self.waiting.front().and_then(|(noticed, ..)| noticed.checked_add(PASSES_WITHIN).ok());
        let rolling = self.daemon_sets.values().filter(|watched| watched.is_rolling());
        let lacking = rolling
            .flat_map(|watched| watched.lacking.values().map(|lacking| &lacking.lack).chain(watched.surging.values()));
        let lacking = lacking.filter_map(|lack| lack.since);
        // Patience is over once it has lasted longer.
        let over = SignedDuration::from_millis(1);
        let patience = lacking.filter_map(|since| since.checked_add(PATIENCE + over).ok()).filter(|at| *at > now);
        told.into_iter().chain(patience).min()
    }

    /// Everything was looked at once.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// All `DaemonSets`, as of the last look, in the order of their names.
    #[must_use]
    pub fn reports(&self, now: Timestamp) -> Vec<Report> {
        self.figures().iter().map(|figures| Report::of(figures.watched, &self.slots, &self.pods, now)).collect()
    }

    /// The same in numbers.
    #[must_use]
    pub fn figures(&self) -> Vec<Figures<'_>> {
        let mut all: Vec<&Watched> = self.daemon_sets.values().collect();
        all.sort_by_key(|watched| (&watched.object.metadata.namespace, &watched.object.metadata.name));
        all.into_iter().map(|watched| Figures { watched, slots: &self.slots }).collect()
    }
}

impl Slot {
    fn is_empty(&self) -> bool {
        self.node.is_none() && self.pods.is_empty()
    }
}

#[cfg(test)]
mod tests;
