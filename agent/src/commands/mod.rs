//! The commands of `podlens`, one file each. `main` calls them; nothing else does.

pub mod check;
pub mod fleet;
pub mod probe;
pub mod run;
pub mod snapshot;
