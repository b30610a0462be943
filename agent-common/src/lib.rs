//! The records that the kernel programs write and the daemon reads, one module a subject.
//!
//! Both sides compile these same definitions: the kernel programs for `bpfel-unknown-none`, the daemon for
//! its host. So they hold only fixed-width integers and arrays, padding is written out, and each size is
//! asserted. There is no logic here but what both sides must do alike: `path` is all of that kind.
#![no_std]
#![allow(clippy::inline_always, reason = "a call in a kernel program costs more than what these functions do")]

pub mod cgroup;
pub mod path;
pub mod scheduler;
pub mod tasks;
