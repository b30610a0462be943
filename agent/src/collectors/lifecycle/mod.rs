//! Collector `lifecycle`: births and removals of cgroups and ends of containers, as the kernel reports them.
//!
//! It has no metrics of its own; attribution follows its records, so that a cgroup that lives for a moment has
//! a path all the same. `pipeline::events` hands them on.

pub mod events;
pub mod losses;
mod start;

pub use self::start::{REMOVAL, SPEC};
