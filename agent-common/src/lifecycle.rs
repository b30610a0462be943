//! Records of the collector `lifecycle`.

use bytemuck::{Pod, Zeroable};

use crate::event;

/// The first process of a PID namespace below the host's has ended: [`InitEnd`].
pub const INIT_ENDED: u32 = event::kind("lifecycle.init_ended");

/// How the first process of a PID namespace ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct InitEnd {
    /// As wait(2) tells it: the signal in bits 0 to 6, else the exit code in bits 8 to 15.
    pub status: u32,
    /// How far the namespace is below the host's: 1 for an ordinary container, more for one inside another.
    pub level: u32,
}

const _: () = assert!(size_of::<InitEnd>() == 8);
