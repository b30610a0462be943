//! The alerts: what is wrong, from when on, and what to do. Pure.
//!
//! What is merely high or merely new is none. Each one is fired, and kept silent, in tests/ beside this folder.
//!
//! | file | about |
//! | --- | --- |
//! | agents.rs | the agents themselves |
//! | pods.rs | pods and nodes, as agents measure them |
//! | fleet.rs | `DaemonSets`, as `podlens fleet` sees them, and `podlens fleet` itself |

mod agents;
mod fleet;
mod pods;

use super::rules::Alert;

pub(super) fn alerts() -> Vec<Alert> {
    agents::alerts().into_iter().chain(pods::alerts()).chain(fleet::alerts()).collect()
}
