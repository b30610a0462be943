//! Records of the collector `pressure`.

use bytemuck::{Pod, Zeroable};

use crate::{event, label::label};

/// The stalls of a cgroup up to its removal: [`Stalls`]. Comes before the removal.
pub const LAST_WORDS: u32 = event::kind("pressure.last_words");

label! {
    /// For want of what tasks stall.
    Resource {
        /// A CPU.
        Cpu = "cpu",
        /// Memory.
        Memory = "memory",
        /// A disk.
        Io = "io",
        /// A CPU that handles interrupts.
        Irq = "irq",
    }
}

label! {
    /// Whose stall it is.
    Stall {
        /// Some tasks', while others may have run.
        Some = "some",
        /// All tasks' that had something to do.
        Full = "full",
    }
}

/// Room for the kernel's states of a stall: resource, and some or all tasks.
pub const STATES: usize = 8;

/// For how long a cgroup's tasks stalled, by the kernel's own number of the state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Stalls {
    /// Nanoseconds; what is beyond the kernel's states means nothing.
    pub ns: [u64; STATES],
}

/// One cgroup of the version 2 tree.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PressureRecord {
    /// Its id.
    pub id: u64,
    /// Its stalls, as of the kernel's last collection, at most about 2 s ago.
    pub stalls: Stalls,
}

const _: () = assert!(size_of::<Stalls>() == 64);
const _: () = assert!(size_of::<PressureRecord>() == 72);
