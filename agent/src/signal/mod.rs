//! The ground floor: what a value is, whom it belongs to, and how a metric or an event is defined.
//!
//! Pure data that every other part speaks in. It imports nothing of ours, does no I/O and knows no metric by name.

pub mod entity;
pub mod event;
pub mod histogram;
mod lock;
pub mod loss;
pub mod metric;
pub mod row;
pub mod shutdown;
pub mod state;

pub use entity::{Container, Entity, EntityKey, Naming, PathNames, Since, Subtree, Workload};
pub use event::{Attribute, AttributeValue, Attributes, Event, EventKind, Severity};
pub use histogram::Histogram;
pub(crate) use lock::lock;
pub use loss::Loss;
pub use metric::{
    Aggregation, ByDefault, InfoMetric, KernelEnum, Kind, Label, LabelValues, Metric, Shown, Split, Unit,
};
pub use row::{Column, Layout, Row};
pub use state::State;
