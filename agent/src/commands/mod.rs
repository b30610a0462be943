//! The commands of `podlens`, one file each, and what those have in common that serve (service.rs). `main` calls them; nothing else does.

pub mod check;
pub mod fleet;
pub mod probe;
pub mod run;
mod service;
pub mod snapshot;
