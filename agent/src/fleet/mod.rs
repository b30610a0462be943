//! `DaemonSets` watched: which node lacks its pod, since when, and why.
//!
//! | file | what |
//! | --- | --- |
//! | objects.rs | what the API server tells, reduced |
//! | placement.rs | whether a node should have a pod: the controller's rules |
//! | causes/ | why one that should have a pod has none that works |
//! | rollout.rs | how far a new revision has come |
//! | state/ | all of it for a cluster at one moment |
//! | lists.rs | the lists it is made from |
//! | table.rs, json.rs | for people, for programs |
//!
//! Nothing here measures; the agents do that. All but lists.rs is pure.

pub mod causes;
pub mod json;
pub mod lists;
pub mod objects;
pub mod placement;
pub mod rollout;
pub mod state;
pub mod table;
