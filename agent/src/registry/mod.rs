//! The registry: what each entity has used and one immutable view of it for every exporter, and what has happened.
//!
//! Pure data and bookkeeping. Collectors define the metrics, the pipeline fills the ledger, exporters walk a snapshot;
//! nothing here does I/O or knows a metric by name.

pub mod budget;
mod by_default;
pub mod journal;
pub mod ledger;
pub mod snapshot;

pub use budget::{Budget, Detail, Rules, Spent};
pub use journal::{EventBatch, Journal, Noted};
pub use ledger::{CulpritId, EntityId, Ledger};
pub use snapshot::{EntityState, Family, Info, Sample, Section, Snapshot, Value};
