//! The snapshot: one immutable view of all owners and their values, which every exporter reads.
//!
//! Pure data. Collectors define the metrics, the pipeline fills a snapshot, exporters walk it; nothing
//! here does I/O or knows a metric by name.

pub mod cells;
pub mod ledger;
pub mod metric;
pub mod owner;
pub mod snapshot;

pub use cells::{Column, Layout, Row};
pub use ledger::Ledger;
pub use metric::{InfoMetric, Kind, Label, Metric, Unit};
pub use owner::{Container, Naming, Owner, OwnerKey, PathNames};
pub use snapshot::{Family, Histogram, Info, OwnerState, Sample, Snapshot, Value};
