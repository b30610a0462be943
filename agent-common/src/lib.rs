//! The records that the kernel programs write and the daemon reads, one module a subject.
//!
//! Both sides compile these same definitions: the kernel programs for `bpfel-unknown-none`, the daemon for
//! its host. So they hold only fixed-width integers and arrays, padding is written out (what crosses derives
//! `Pod`, which does not compile otherwise), and each size is asserted. Of logic there is what both sides must do alike, and the programs' arithmetic, which tests replay on the host.
#![cfg_attr(not(test), no_std)]
#![allow(clippy::inline_always, reason = "a call in a kernel program costs more than what these functions do")]

pub mod cgroup;
pub mod claim;
pub mod cpu;
pub mod disk;
pub mod dns;
pub mod drops;
pub mod event;
pub mod histogram;
mod label;
pub mod lifecycle;
pub mod memory;
pub mod oom;
pub mod path;
pub mod pressure;
pub mod scheduler;
pub mod stalls;
pub mod tasks;
pub mod tcp;
pub mod tree;
pub mod udp;
