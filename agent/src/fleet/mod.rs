//! `DaemonSets` watched: which node lacks its pod, since when, and why.
//!
//! | file | what |
//! | --- | --- |
//! | objects/ | what the API server tells, reduced |
//! | kinds.rs | the kinds of objects, and where they are listed and watched |
//! | placement.rs | whether a node should have a pod: the controller's rules |
//! | causes/ | why one that should have a pod has none that works |
//! | rollout.rs | how far a new revision has come |
//! | state/ | all of it, kept up to date as objects change |
//! | lists.rs | lists of the objects, once |
//! | watch/ | lists and watches, for as long as podlens runs, and the Lease |
//! | table.rs, json.rs | for people, for programs |
//! | metrics.rs, events.rs | for Prometheus and OpenTelemetry |
//!
//! Data goes one way: objects to state to what is told. Nothing here measures; the agents do that. All but lists.rs and watch/
//! is pure.

pub mod causes;
pub mod events;
pub mod json;
pub mod kinds;
pub mod lists;
pub mod metrics;
pub mod objects;
pub mod placement;
pub mod rollout;
pub mod state;
pub mod table;
pub mod watch;
