//! The node's cgroup file systems: which trees are mounted where, and how much of them ([`hierarchies`]), and what the files of cgroups say,
//! read by one thread for all collectors ([`files`]).
//!
//! Knows keys and paths. It knows no pod, no metric, and nothing of what a file's text means.

pub mod files;
pub mod hierarchies;
mod part;
