//! What the programs of all collectors share: the way from a task or a cgroup to its slot, the ring of events, records as cells, and
//! the kernel's own structures. It knows no collector.

pub(crate) mod atomic;
pub(crate) mod cells;
pub(crate) mod cpu_part;
pub(crate) mod events;
pub(crate) mod hybrid;
pub(crate) mod kernel;
pub(crate) mod log;
pub(crate) mod object;
pub(crate) mod slots;
pub(crate) mod socket_slot;
