//! Who a value belongs to: a container of a pod, or a unit of the node; where containers are folded, a pod or a workload.

use std::{
    cmp::Ordering,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

/// A container of a Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Container {
    /// Namespace of the pod; empty while it is not known.
    pub namespace: Arc<str>,
    /// Name of the pod; its uid while the name is not known.
    pub pod: Arc<str>,
    /// Name of the container; the first 12 digits of its id while the name is not known.
    pub container: Arc<str>,
    /// The pod's uid, as the cgroup tells it.
    pub pod_uid: Arc<str>,
    /// The runtime's id of the container, 64 hexadecimal digits; empty for the pod's own cgroup.
    pub container_id: Arc<str>,
}

/// A workload: what made pods, such as a deployment. All of its pods on the node together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// Namespace of its pods.
    pub namespace: Arc<str>,
    /// What it is, for example `deployment`.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The entity of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// A container of a pod.
    Container(Container),
    /// Anything else: a systemd unit, a container outside pods, a plain cgroup, `kernel`, `unattributed`.
    Unit(Arc<str>),
    /// The pods of one workload, where they are not told apart.
    Workload(Workload),
}

impl Entity {
    /// The entity of kernel threads.
    pub const KERNEL: &'static str = "kernel";
    /// The entity of everything beyond the cgroups that the agent sees: on a node that is itself a container, whatever else
    /// runs on its host.
    pub const OUTSIDE: &'static str = "outside";
    /// The entity of activity whose cgroup is not known.
    pub const UNATTRIBUTED: &'static str = "unattributed";

    /// A unit of the given name.
    #[must_use]
    pub fn unit(name: &str) -> Self {
        Self::Unit(name.into())
    }

    /// The entity without what tells instances of one container apart: those of the same series have the same
    /// namespace, pod and container in Prometheus.
    #[must_use]
    pub fn series(&self) -> Self {
        match self {
            Self::Container(container) => {
                Self::Container(Container { pod_uid: "".into(), container_id: "".into(), ..container.clone() })
            }
            Self::Unit(_) | Self::Workload(_) => self.clone(),
        }
    }
}

/// How a person calls an entity: `NAMESPACE/POD/CONTAINER`, without what is not known, or the unit.
impl fmt::Display for Entity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let container = match self {
            Self::Unit(unit) => return formatter.write_str(unit),
            Self::Workload(of) => return write!(formatter, "{}/{}/{}", of.namespace, of.kind, of.name),
            Self::Container(container) => container,
        };
        let parts = [&container.namespace, &container.pod, &container.container];
        for (at, part) in parts.into_iter().filter(|part| !part.is_empty()).enumerate() {
            write!(formatter, "{}{part}", if at == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}

/// Since when an entity is there. What was found is earlier than what was born, whatever a clock says that was set between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Since {
    /// It was there when podlens began, at this moment: nobody knows since when the kernel's own totals of it count.
    Found(SystemTime),
    /// It was made while podlens looked.
    Born(SystemTime),
}

impl Since {
    /// Of one who has no values: it is only named.
    pub const NEVER: Self = Self::Found(SystemTime::UNIX_EPOCH);

    /// When what podlens itself counts of it began.
    #[must_use]
    pub fn moment(self) -> SystemTime {
        match self {
            Self::Found(moment) | Self::Born(moment) => moment,
        }
    }
}

/// What lies below an entity's topmost cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subtree {
    /// Nothing that is not the entity's: totals over the subtree are the entity's.
    Own,
    /// Other entities as well (a pod's cgroup holds its containers): only the directory's own settings, such as its
    /// quota, belong to this one.
    Shared,
}

/// An entity as a key of tables: its hash is computed once, and copies share the names.
#[derive(Clone, Debug)]
pub struct EntityKey(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hash: u64,
    entity: Entity,
    rendered: OnceLock<Box<[u8]>>,
}

impl EntityKey {
    /// The entity as one who delays others: a pod's containers count together.
    #[must_use]
    pub fn as_culprit(&self) -> Self {
        match &**self {
            Entity::Container(container) => {
                let pod = Container { container: "".into(), container_id: "".into(), ..container.clone() };
                Entity::Container(pod).into()
            }
            Entity::Unit(_) | Entity::Workload(_) => self.clone(),
        }
    }

    /// Nobody else has a copy of it.
    #[must_use]
    pub fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// What an exporter writes for this entity's names at each page. Names do not change, so it is made once, by the
    /// first who asks, and lives as long as they do. There is room for one such text.
    pub fn rendered(&self, render: impl FnOnce(&Entity) -> Vec<u8>) -> &[u8] {
        self.0.rendered.get_or_init(|| render(&self.0.entity).into_boxed_slice())
    }
}

impl From<Entity> for EntityKey {
    fn from(entity: Entity) -> Self {
        let mut hasher = DefaultHasher::new();
        entity.hash(&mut hasher);
        Self(Arc::new(Shared { hash: hasher.finish(), entity, rendered: OnceLock::new() }))
    }
}

impl Deref for EntityKey {
    type Target = Entity;

    fn deref(&self) -> &Entity {
        &self.0.entity
    }
}

impl PartialEq for EntityKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.hash == other.0.hash && self.0.entity == other.0.entity)
    }
}

impl Eq for EntityKey {}

impl PartialOrd for EntityKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By the names.
impl Ord for EntityKey {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { (**self).cmp(&**other) }
    }
}

impl Hash for EntityKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

/// What the ledger asks about names. Attribution answers.
pub trait Naming {
    /// Grows whenever the name of somebody may have changed.
    fn version(&self) -> u64;

    /// The entity under the names that are known for it now.
    fn name(&self, entity: &Entity) -> Entity;

    /// Names are lacking that may well come in a moment.
    fn is_pending(&self, entity: &Entity) -> bool;
}

/// Knows no name: entities are called what their cgroups' paths tell.
#[derive(Clone, Copy, Debug)]
pub struct PathNames;

impl Naming for PathNames {
    fn version(&self) -> u64 {
        0
    }

    fn name(&self, entity: &Entity) -> Entity {
        entity.clone()
    }

    fn is_pending(&self, _: &Entity) -> bool {
        false
    }
}
