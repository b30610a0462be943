//! podlens' kernel programs, one module a collector, in one object.
//!
//! One object, since all programs share the table of slots and a loader cannot hand the maps of one object to
//! another without a BPF file system. Each program says by the names of its constants what it needs of the kernel
//! (core/kernel); the daemon reads that from the object and asks BTF, and a program that lacks something is not loaded.
#![no_std]
#![no_main]
// For two instructions that the compiler has no word for: an atomic addition without a result (core/atomic.rs), and a
// number that the daemon puts in (core/kernel).
#![feature(asm_experimental_arch)]

mod cgroup_tree;
mod core;
mod cpu;
mod disk;
mod dns;
mod drops;
mod lifecycle;
mod memory;
mod oom;
mod pressure;
mod scheduler;
mod stalls;
mod tasks;
mod tcp;
mod udp;

use self::core::{atomic, cells, cpu_part, events, hybrid, kernel, log, slots, socket_slot};
