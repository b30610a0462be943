//! The values of one owner in one flat row, laid out by the metrics' definitions.
//!
//! Collectors write rows, the ledger adds them up, the snapshot reads them: none of the last two needs to
//! know a metric by name.

use super::{Histogram, Kind, Metric};

/// Where each metric's values are in a row.
#[derive(Clone, Debug)]
pub struct Layout {
    columns: Vec<Column>,
    width: usize,
}

/// One metric's place in a row.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The definition.
    pub metric: &'static Metric,
    /// First cell.
    pub start: usize,
    /// Number of cells: one a label value; a histogram has its buckets and the sum.
    pub cells: usize,
}

/// One row of values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(Vec<u64>);

impl Layout {
    /// A layout for these metrics, in their order.
    #[must_use]
    pub fn new(metrics: &[&'static Metric]) -> Self {
        let mut width = 0;
        let columns = metrics
            .iter()
            .map(|metric| {
                let cells = match metric.kind {
                    Kind::Histogram => Histogram::BUCKETS + 1,
                    Kind::Counter | Kind::Gauge => metric.label.map_or(1, |label| label.values.len()),
                };
                let start = width;
                width += cells;
                Column { metric, start, cells }
            })
            .collect();
        Self { columns, width }
    }

    /// All metrics, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// A row of zeros.
    #[must_use]
    pub fn row(&self) -> Row {
        Row(vec![0; self.width])
    }

    /// The metric's place; none if the node does not have this metric.
    #[must_use]
    pub fn column(&self, metric: &Metric) -> Option<Column> {
        self.columns.iter().find(|column| std::ptr::eq(column.metric, metric)).copied()
    }
}

impl Row {
    /// Adds to a metric's value for the label value of that position. A metric that the row does not have is
    /// left out.
    pub fn add(&mut self, layout: &Layout, metric: &Metric, label_value: usize, amount: u64) {
        let cell = layout.column(metric).filter(|column| label_value < column.cells);
        if let Some(cell) = cell.and_then(|column| self.0.get_mut(column.start + label_value)) {
            *cell = cell.wrapping_add(amount);
        }
    }

    /// Adds another row of the same layout.
    pub fn add_row(&mut self, other: &Self) {
        for (cell, amount) in self.0.iter_mut().zip(&other.0) {
            *cell = cell.wrapping_add(*amount);
        }
    }

    /// Raises each cell to what it was before, where it is below.
    pub fn at_least(&mut self, before: &Self) {
        for (cell, floor) in self.0.iter_mut().zip(&before.0) {
            *cell = (*cell).max(*floor);
        }
    }

    /// The cells of one metric.
    #[must_use]
    pub fn cells(&self, column: Column) -> &[u64] {
        self.0.get(column.start..column.start + column.cells).unwrap_or_default()
    }
}
