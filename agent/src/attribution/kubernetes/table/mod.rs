//! What is known of this node's pods: names by the pod's uid and the container's id.
//!
//! Pure: sources hand in pods, the pipeline asks for names and tells which entities it still holds. A uid and an id
//! never change their names, so what was once learnt stays true for as long as somebody may ask for it, whatever
//! a late or stale answer of the API server leaves out.

mod sandbox;

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use foldhash::fast::RandomState;

use self::sandbox::{Birth, Candidate};
use super::pod::{Container, Ended, Pod};
use crate::{signal, signal::Entity};

/// A pod's object is kept so long after its last cgroup, though no source lists the pod any more; names stay.
const DESCRIBED: Duration = Duration::from_secs(10);
/// Most pods that are kept although no source lists them any more.
const UNLISTED_PODS: usize = 16_384;
/// Most ends that wait to be taken; they are taken once a second.
const ENDS: usize = 4096;
/// Most containers that are kept of one pod; a container that crashes in a loop makes new ids for ever.
const CONTAINERS_PER_POD: usize = 512;

/// What a container's own annotations tell, without any pod object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerFacts {
    /// The uid in its cgroup's path.
    pub pod_uid: Arc<str>,
    /// The runtime's id.
    pub container_id: Arc<str>,
    /// Namespace of its pod.
    pub namespace: Arc<str>,
    /// Name of its pod.
    pub pod: Arc<str>,
    /// Its name; none for the pod's sandbox.
    pub container: Option<Arc<str>>,
    /// Its image; empty if not told.
    pub image: Arc<str>,
}

/// A container of which something is not known yet: its name, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unknown {
    /// The uid in its cgroup's path.
    pub pod_uid: Arc<str>,
    /// The runtime's id; empty for a pod's own cgroup.
    pub container_id: Arc<str>,
}

impl Unknown {
    /// This container.
    #[must_use]
    pub fn of(container: &signal::Container) -> Self {
        Self { pod_uid: Arc::clone(&container.pod_uid), container_id: Arc::clone(&container.container_id) }
    }
}

/// By a uid or an id. The hash is seeded anew in each process; nobody chooses many of these names.
type ByName<T> = HashMap<Arc<str>, T, RandomState>;

/// All pods by the uid in their metadata.
#[derive(Debug)]
pub struct Table {
    pods: ByName<Entry>,
    /// From the uid in a static pod's cgroup to the uid in its metadata.
    by_cgroup_uid: ByName<Arc<str>>,
    /// Pods whose birth was witnessed, by the uid in their cgroup.
    births: ByName<Birth>,
    /// How long names are kept after the last who needed them.
    keep: Duration,
    dropped: u64,
    conflicts: u64,
    /// Changes of pods that are forgotten, and their number.
    forgotten_changes: u64,
    /// Ends of containers since this moment are told; none where nobody wants to know.
    tells_ends: Option<SystemTime>,
    ends: Vec<End>,
}

/// The end of a container, told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The uid in its cgroup's path.
    pub pod_uid: Arc<str>,
    /// How it ended.
    pub ended: Ended,
}

#[derive(Debug)]
struct Entry {
    /// How often names or facts that an answer is made of have changed.
    changes: u64,
    namespace: Arc<str>,
    name: Arc<str>,
    cgroup_uid: Option<Arc<str>>,
    /// The pod's object, if a source has one.
    pod: Option<Pod>,
    containers: ByName<Known>,
    /// A source lists the pod as existing.
    listed: bool,
    /// When it was last listed, or an entity of it last met.
    used: Instant,
    /// When it last had a living cgroup.
    lived: Instant,
    candidate: Option<Candidate>,
}

#[derive(Clone, Debug)]
struct Known {
    /// None for the sandbox.
    name: Option<Arc<str>>,
    image: Arc<str>,
    used: Instant,
    /// Its end was told.
    end_told: bool,
}

impl Table {
    /// An empty table that keeps names so long after their last use.
    #[must_use]
    pub fn new(keep: Duration) -> Self {
        Self {
            pods: HashMap::default(),
            by_cgroup_uid: HashMap::default(),
            births: HashMap::default(),
            keep,
            dropped: 0,
            conflicts: 0,
            forgotten_changes: 0,
            tells_ends: None,
            ends: Vec::new(),
        }
    }

    /// Tells from now on of containers that end after `since`.
    pub fn tell_ends(&mut self, since: SystemTime) {
        self.tells_ends = Some(since);
    }

    /// The ends that were learnt since the last call.
    pub fn take_ends(&mut self) -> Vec<End> {
        std::mem::take(&mut self.ends)
    }

    /// What a pod's status tells of ends; each once, for as long as the status may tell it.
    fn note_ends(&mut self, pod: &Pod) {
        let Some(since) = self.tells_ends else { return };
        let Some(entry) = self.pods.get_mut(&pod.uid) else { return };
        for ended in pod.containers.iter().flat_map(|container| &container.ended) {
            // The status knows whole seconds alone.
            if ended.finished + Duration::from_secs(1) <= since {
                continue;
            }
            let Some(known) = entry.containers.get_mut(&ended.id).filter(|known| !known.end_told) else { continue };
            known.end_told = true;
            if self.ends.len() < ENDS {
                let pod_uid = Arc::clone(pod.cgroup_uid.as_ref().unwrap_or(&pod.uid));
                self.ends.push(End { pod_uid, ended: ended.clone() });
            } else {
                self.dropped += 1;
            }
        }
    }

    /// Grows whenever a name or a fact has changed.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.forgotten_changes + self.pods.values().map(|entry| entry.changes).sum::<u64>()
    }

    /// A pod is as described, now.
    pub fn apply(&mut self, pod: Pod, now: Instant) {
        let Some(entry) = self.entry(&pod.uid, &pod.namespace, &pod.name, now) else { return };
        entry.listed = true;
        for container in &pod.containers {
            for id in [&container.id, &container.previous_id].into_iter().flatten() {
                entry.learn(id, Some(&container.name), &container.image, now);
            }
        }
        entry.cgroup_uid.clone_from(&pod.cgroup_uid);
        if let Some(cgroup_uid) = &pod.cgroup_uid {
            self.inherit(cgroup_uid, &pod.uid);
        }
        self.note_ends(&pod);
        let Some(entry) = self.pods.get_mut(&pod.uid) else { return };
        let uid = Arc::clone(&pod.uid);
        let cgroup_uid = pod.cgroup_uid.clone();
        entry.pod = Some(pod);
        entry.changes += 1;
        if let Some(cgroup_uid) = &cgroup_uid {
            self.by_cgroup_uid.insert(Arc::clone(cgroup_uid), Arc::clone(&uid));
            self.join(cgroup_uid, &uid, now);
        }
        self.settle_first(&cgroup_uid.unwrap_or(uid), now);
    }

    /// A static pod's mirror was made again, as when somebody deletes it, and knows nothing of the containers that go on running: what the
    /// former one told of them stays true, and the ends that were told are.
    fn inherit(&mut self, cgroup_uid: &str, uid: &str) {
        let Some(former) = self.by_cgroup_uid.get(cgroup_uid).filter(|former| ***former != *uid) else { return };
        let [Some(former), Some(entry)] = self.pods.get_disjoint_mut([&**former, uid]) else { return };
        if (&former.namespace, &former.name) != (&entry.namespace, &entry.name) {
            return;
        }
        for (id, known) in &former.containers {
            match entry.containers.entry(Arc::clone(id)) {
                hash_map::Entry::Occupied(mut same) => same.get_mut().end_told |= known.end_told,
                hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(known.clone());
                }
            }
        }
        // Where its cgroups were seen to live, they still do.
        entry.lived = entry.lived.max(former.lived);
    }

    /// What annotations told of a static pod under the uid in its cgroup, before its mirror was known, is the mirror's.
    fn join(&mut self, cgroup_uid: &str, uid: &str, now: Instant) {
        if self.pods.get(cgroup_uid).is_none_or(Entry::is_told) {
            return;
        }
        let Some(early) = self.pods.remove(cgroup_uid) else { return };
        self.forgotten_changes += early.changes + 1;
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if (&early.namespace, &early.name) != (&entry.namespace, &entry.name) {
            self.conflicts += 1;
            return;
        }
        for (id, known) in early.containers {
            entry.learn(&id, known.name.as_ref(), &known.image, now);
        }
    }

    /// A cgroup of this entity was born, after all those of its pod that were told before.
    pub fn born(&mut self, container: &signal::Container, now: Instant) {
        if container.container_id.is_empty() {
            self.births.entry(Arc::clone(&container.pod_uid)).or_insert(Birth { first: None, used: now });
        } else if let Some(birth) = self.births.get_mut(&container.pod_uid) {
            birth.used = now;
            birth.first.get_or_insert_with(|| Arc::clone(&container.container_id));
        }
    }

    /// Some births were not told, so that nobody is known to be the first.
    pub fn births_lost(&mut self) {
        self.births.clear();
    }

    /// A pod does not exist any more. Its names stay for those who still hold values of it.
    pub fn delete(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.pods.get_mut(uid)
            && entry.listed
        {
            entry.listed = false;
            entry.used = now;
            entry.changes += 1;
        }
    }

    /// These are all pods that exist.
    pub fn replace_all(&mut self, pods: Vec<Pod>, now: Instant) {
        for entry in self.pods.values_mut().filter(|entry| entry.listed) {
            entry.listed = false;
            entry.used = now;
        }
        for pod in pods {
            self.apply(pod, now);
        }
    }

    /// A container's annotations tell its names.
    pub fn learn(&mut self, facts: &ContainerFacts, now: Instant) {
        let uid = self.mirror(&facts.pod_uid).unwrap_or(&facts.pod_uid).clone();
        if let Some(entry) = self.entry(&uid, &facts.namespace, &facts.pod, now) {
            entry.learn(&facts.container_id, facts.container.as_ref(), &facts.image, now);
        }
    }

    /// The entity under the names that are known for it; as it is where none are.
    #[must_use]
    pub fn name(&self, entity: &Entity) -> Entity {
        let Entity::Container(container) = entity else { return entity.clone() };
        let Some(entry) = self.of_cgroup(&container.pod_uid) else { return entity.clone() };
        let label = if container.container_id.is_empty() {
            "".into()
        } else {
            match entry.containers.get(&container.container_id) {
                Some(known) => known.name.clone().unwrap_or_else(|| "".into()),
                None => Arc::clone(&container.container),
            }
        };
        // A static pod's cgroup has another uid than the API server tells to everybody else.
        let pod_uid = self.mirror(&container.pod_uid).unwrap_or(&container.pod_uid);
        Entity::Container(signal::Container {
            namespace: Arc::clone(&entry.namespace),
            pod: Arc::clone(&entry.name),
            container: label,
            pod_uid: Arc::clone(pod_uid),
            container_id: Arc::clone(&container.container_id),
        })
    }

    /// Whether all names of the entity are known.
    #[must_use]
    pub fn knows(&self, entity: &Entity) -> bool {
        let Entity::Container(container) = entity else { return true };
        self.knows_id(&container.pod_uid, &container.container_id)
    }

    /// Whether the names of this pod and container are known.
    #[must_use]
    pub fn knows_id(&self, pod_uid: &str, container_id: &str) -> bool {
        self.of_cgroup(pod_uid)
            .is_some_and(|entry| container_id.is_empty() || entry.containers.contains_key(container_id))
    }

    /// Whether a status has told of this container's end.
    #[must_use]
    pub fn has_told_end(&self, pod_uid: &str, container_id: &str) -> bool {
        self.of_cgroup(pod_uid).and_then(|entry| entry.containers.get(container_id)).is_some_and(|known| known.end_told)
    }

    /// Whether more may become known about the containers of this pod: no source has its object, or that lacks some of
    /// its ids.
    #[must_use]
    pub fn may_learn(&self, pod_uid: &str) -> bool {
        let pod = self.of_cgroup(pod_uid).and_then(|entry| entry.pod.as_ref());
        pod.is_none_or(|pod| pod.containers.is_empty() || pod.containers.iter().any(|one| one.id.is_none()))
    }

    /// The pod of an entity, if a source has its object.
    #[must_use]
    pub fn pod(&self, entity: &signal::Container) -> Option<&Pod> {
        self.of_cgroup(&entity.pod_uid)?.pod.as_ref()
    }

    /// The container that an entity is, as its pod's object describes it now.
    #[must_use]
    pub fn container(&self, entity: &signal::Container) -> Option<&Container> {
        let name = self.of_cgroup(&entity.pod_uid)?.containers.get(&entity.container_id)?.name.as_ref()?;
        self.pod(entity)?.containers.iter().find(|container| container.name == *name)
    }

    /// The image of the container that an entity is; empty if not told.
    #[must_use]
    pub fn image(&self, entity: &signal::Container) -> Option<&Arc<str>> {
        self.of_cgroup(&entity.pod_uid)?.containers.get(&entity.container_id).map(|known| &known.image)
    }

    /// Meets all entities whose names may still be asked for, and whether each has a living cgroup; drops what
    /// nobody needs, and gives the containers that have no name yet.
    pub fn refresh<'a>(
        &mut self,
        entities: impl IntoIterator<Item = (&'a Entity, bool)>,
        now: Instant,
    ) -> Vec<Unknown> {
        let unknown = self.meet(entities, now);
        self.forget(now);
        unknown
    }

    /// Meets entities, of each pod all or none, and whether each has a living cgroup; gives the containers that have no name yet.
    pub fn meet<'a>(&mut self, entities: impl IntoIterator<Item = (&'a Entity, bool)>, now: Instant) -> Vec<Unknown> {
        let mut unknown = Vec::new();
        let mut living: ByName<Vec<Arc<str>>> = HashMap::default();
        for (entity, lives) in entities {
            let Entity::Container(container) = entity else { continue };
            if lives && !container.container_id.is_empty() {
                living.entry(Arc::clone(&container.pod_uid)).or_default().push(Arc::clone(&container.container_id));
            }
            if !self.use_of(container, now) {
                unknown.push(Unknown::of(container));
            }
        }
        for (pod_uid, mut ids) in living {
            self.settle_first(&pod_uid, now);
            ids.sort_unstable();
            ids.dedup();
            if let Some(entry) = self.of_cgroup_mut(&pod_uid) {
                entry.lived = now;
                entry.find_sandbox(&ids, now);
            }
        }
        unknown
    }

    /// Pods that exist by the source's last word.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.pods.values().filter(|entry| entry.listed).count()
    }

    /// Pods and containers whose names were dropped for want of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Answers that gave a known uid or id another name, and were not believed.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        self.conflicts
    }

    fn of_cgroup(&self, pod_uid: &str) -> Option<&Entry> {
        self.pods.get(self.mirror(pod_uid).map_or(pod_uid, |uid| uid))
    }

    fn of_cgroup_mut(&mut self, pod_uid: &str) -> Option<&mut Entry> {
        let of_mirror = self.mirror(pod_uid).cloned();
        self.pods.get_mut(of_mirror.as_deref().unwrap_or(pod_uid))
    }

    /// The uid of a static pod's mirror, unless there is a pod of this very uid.
    fn mirror(&self, pod_uid: &str) -> Option<&Arc<str>> {
        // Few pods are static.
        let uid = self.by_cgroup_uid.get(pod_uid)?;
        let is_itself = self.pods.get(pod_uid).is_some_and(Entry::is_told);
        (!is_itself && self.pods.contains_key(uid)).then_some(uid)
    }

    /// The pod's entry, made if need be; none if it is known under other names.
    fn entry(&mut self, uid: &Arc<str>, namespace: &Arc<str>, name: &Arc<str>, now: Instant) -> Option<&mut Entry> {
        let entry = self.pods.entry(Arc::clone(uid)).or_insert_with(|| Entry {
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
            cgroup_uid: None,
            pod: None,
            containers: HashMap::default(),
            listed: false,
            used: now,
            lived: now,
            candidate: None,
            changes: 1,
        });
        if entry.namespace != *namespace || entry.name != *name {
            self.conflicts += 1;
            return None;
        }
        entry.used = now;
        Some(entry)
    }

    /// Marks the entity's names as used; false if some are lacking.
    fn use_of(&mut self, container: &signal::Container, now: Instant) -> bool {
        let Some(entry) = self.of_cgroup_mut(&container.pod_uid) else { return false };
        entry.used = now;
        match entry.containers.get_mut(&container.container_id) {
            Some(known) => known.used = now,
            None if container.container_id.is_empty() => {}
            None => return entry.settle_unlisted(&container.container_id, now),
        }
        true
    }

    fn forget(&mut self, now: Instant) {
        let keep = self.keep;
        let over = |used: Instant| now.duration_since(used) >= keep;
        for entry in self.pods.values_mut() {
            entry.forget(over, &mut self.dropped);
            if !entry.listed && now.duration_since(entry.lived) >= DESCRIBED && entry.pod.take().is_some() {
                entry.changes += 1;
            }
        }
        let forgotten_changes = &mut self.forgotten_changes;
        self.pods.retain(|_, entry| {
            let kept = entry.listed || !over(entry.used);
            *forgotten_changes += if kept { 0 } else { entry.changes + 1 };
            kept
        });
        let unlisted = self.pods.values().filter(|entry| !entry.listed).count();
        if let Some(excess) = unlisted.checked_sub(UNLISTED_PODS).filter(|excess| *excess > 0) {
            let mut oldest: Vec<(Instant, Arc<str>)> = self
                .pods
                .iter()
                .filter(|(_, entry)| !entry.listed)
                .map(|(uid, entry)| (entry.used, Arc::clone(uid)))
                .collect();
            oldest.sort_unstable();
            for (_, uid) in oldest.into_iter().take(excess) {
                let removed = self.pods.remove(&uid);
                self.forgotten_changes += removed.map_or(0, |entry| entry.changes + 1);
                self.dropped += 1;
            }
        }
        self.births.retain(|_, birth| !over(birth.used));
        let pods = &self.pods;
        self.by_cgroup_uid.retain(|_, uid| pods.contains_key(uid));
    }
}

impl Entry {
    /// A source has told of the pod itself, not only of a container.
    fn is_told(&self) -> bool {
        self.listed || self.pod.is_some()
    }

    fn learn(&mut self, id: &Arc<str>, name: Option<&Arc<str>>, image: &Arc<str>, now: Instant) {
        match self.containers.get_mut(id) {
            // A status is firmer than the guess that an unlisted container is the sandbox.
            Some(known) if known.name.is_some() || name.is_none() => known.used = now,
            _ => {
                let known = Known { name: name.cloned(), image: Arc::clone(image), used: now, end_told: false };
                self.containers.insert(Arc::clone(id), known);
                self.changes += 1;
            }
        }
    }

    /// Ids that the pod's status lists now.
    fn lists(&self, id: &str) -> bool {
        self.pod
            .iter()
            .flat_map(|pod| &pod.containers)
            .flat_map(|container| [&container.id, &container.previous_id])
            .flatten()
            .any(|listed| **listed == *id)
    }

    fn forget(&mut self, over: impl Fn(Instant) -> bool, dropped: &mut u64) {
        let old: Vec<Arc<str>> = self
            .containers
            .iter()
            .filter(|(id, known)| over(known.used) && !(self.listed && self.lists(id)))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in old {
            self.containers.remove(&id);
            self.changes += 1;
        }
        while self.containers.len() > CONTAINERS_PER_POD {
            let oldest = self.containers.iter().min_by_key(|(_, known)| known.used).map(|(id, _)| Arc::clone(id));
            let Some(oldest) = oldest else { return };
            self.containers.remove(&oldest);
            self.changes += 1;
            *dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests;
