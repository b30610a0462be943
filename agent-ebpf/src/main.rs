//! podlens' kernel programs, one module a collector, in one object.
//!
//! One object, since all programs share the table of slots and a loader cannot hand the maps of one object to
//! another without a BPF file system. A program whose kernel facts are missing is not loaded; the daemon
//! decides that from BTF before it asks the verifier.
#![no_std]
#![no_main]
// For two instructions that the compiler has no word for: an atomic addition without a result (atomic.rs), and a number
// that the daemon puts in (kernel.rs).
#![feature(asm_experimental_arch)]

mod atomic;
mod cells;
mod events;
mod kernel;
mod lifecycle;
mod object;
mod processes;
mod scheduler;
mod slots;
mod walk;
