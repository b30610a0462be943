//! The values of one entity in one flat row, laid out by the metrics' definitions.
//!
//! Collectors write rows, the ledger adds them up, the snapshot reads them: none of the last two needs to
//! know a metric by name.

use super::{Histogram, Kind, Metric};

/// Most metrics that a layout takes: a row remembers by one bit each which of them it has.
pub const COLUMNS: usize = 64;

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
    /// The metric's bit among those that a row has.
    bit: u64,
}

/// One row of values. A metric that was never added to is absent, which is not the same as 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    cells: Vec<u64>,
    /// The columns' bits of the metrics that it has.
    present: u64,
}

impl Layout {
    /// A layout for these metrics, in their order; those beyond [`COLUMNS`] are never present.
    #[must_use]
    pub fn new(metrics: &[&'static Metric]) -> Self {
        let mut width = 0;
        let columns = metrics
            .iter()
            .zip(0..)
            .map(|(metric, position)| {
                let cells = match metric.kind {
                    Kind::Histogram => Histogram::BUCKETS + 1,
                    Kind::Counter | Kind::Gauge => metric.label.map_or(1, |label| label.values.len()),
                };
                let start = width;
                width += cells;
                Column { metric, start, cells, bit: 1_u64.checked_shl(position).unwrap_or(0) }
            })
            .collect();
        Self { columns, width }
    }

    /// All metrics, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// A row without any value.
    #[must_use]
    pub fn row(&self) -> Row {
        Row { cells: vec![0; self.width], present: 0 }
    }

    /// The metric's place; none if the node does not have this metric.
    #[must_use]
    pub fn column(&self, metric: &Metric) -> Option<Column> {
        self.columns.iter().find(|column| std::ptr::eq(column.metric, metric)).copied()
    }
}

impl Row {
    /// Adds to a metric's value for the label value of that position; the row then has the metric. One that the
    /// layout does not have is left out.
    pub fn add(&mut self, layout: &Layout, metric: &Metric, label_value: usize, amount: u64) {
        let Some(column) = layout.column(metric).filter(|column| label_value < column.cells) else { return };
        if let Some(cell) = self.cells.get_mut(column.start + label_value) {
            *cell = cell.wrapping_add(amount);
            self.present |= column.bit;
        }
    }

    /// Adds to all of a metric's values, in the order of its label's values or of its buckets.
    pub fn add_all(&mut self, layout: &Layout, metric: &Metric, amounts: &[u64]) {
        let Some(column) = layout.column(metric) else { return };
        let cells = self.cells.get_mut(column.start..column.start + column.cells).unwrap_or_default();
        for (cell, amount) in cells.iter_mut().zip(amounts) {
            *cell = cell.wrapping_add(*amount);
        }
        self.present |= column.bit;
    }

    /// Adds another row of the same layout; what either has, the sum has. A row of no layout takes that of the other.
    pub fn add_row(&mut self, other: &Self) {
        if self.cells.is_empty() {
            self.clone_from(other);
            return;
        }
        self.present |= other.present;
        for (cell, amount) in self.cells.iter_mut().zip(&other.cells) {
            *cell = cell.wrapping_add(*amount);
        }
    }

    /// Raises each cell to what it was before, where it is below.
    pub fn at_least(&mut self, before: &Self) {
        self.present |= before.present;
        for (cell, floor) in self.cells.iter_mut().zip(&before.cells) {
            *cell = (*cell).max(*floor);
        }
    }

    /// Takes everything out, so that it can be filled anew.
    pub fn clear(&mut self) {
        self.present = 0;
        self.cells.fill(0);
    }

    /// Takes the gauges out: a value of the present is nothing that a cgroup leaves behind.
    pub fn remove_gauges(&mut self, layout: &Layout) {
        for column in layout.columns().iter().filter(|column| column.metric.kind == Kind::Gauge) {
            self.present &= !column.bit;
            self.cells.iter_mut().skip(column.start).take(column.cells).for_each(|cell| *cell = 0);
        }
    }

    /// It has no metric at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// The cells of one metric; none if the row does not have it.
    #[must_use]
    pub fn cells(&self, column: Column) -> Option<&[u64]> {
        if self.present & column.bit == 0 {
            return None;
        }
        self.cells.get(column.start..column.start + column.cells)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::{Layout, Row};
    use crate::signal::{Kind, Label, Metric, Unit};

    static RUNS: Metric = Metric {
        name: "runs_total",
        otlp_name: "runs",
        kind: Kind::Counter,
        unit: Unit::Count("run"),
        help: "",
        label: None,
        source: "",
        must_equal: "",
    };
    static TASKS: Metric = Metric {
        name: "tasks",
        kind: Kind::Gauge,
        label: Some(Label { name: "state", values: &["on", "off"] }),
        ..RUNS
    };

    fn row(layout: &Layout, runs: Option<u64>, tasks: Option<[u64; 2]>) -> Row {
        let mut row = layout.row();
        if let Some(runs) = runs {
            row.add(layout, &RUNS, 0, runs);
        }
        for (tasks, state) in tasks.into_iter().flatten().zip(0..) {
            row.add(layout, &TASKS, state, tasks);
        }
        row
    }

    #[track_caller]
    fn check(layout: &Layout, found: &Row, runs: Option<u64>, tasks: Option<[u64; 2]>) {
        let cells = |metric| found.cells(layout.column(metric).unwrap());
        assert_eq!(cells(&RUNS), runs.as_ref().map(std::slice::from_ref));
        assert_eq!(cells(&TASKS), tasks.as_ref().map(<[u64; 2]>::as_slice));
    }

    #[test]
    fn a_metric_is_absent_until_it_is_added_to_even_by_nothing() {
        let layout = Layout::new(&[&RUNS, &TASKS]);
        check(&layout, &layout.row(), None, None);
        check(&layout, &row(&layout, Some(0), None), Some(0), None);
        check(&layout, &row(&layout, None, Some([0, 2])), None, Some([0, 2]));
    }

    #[test]
    fn a_sum_has_what_either_row_has() {
        let layout = Layout::new(&[&RUNS, &TASKS]);
        let mut sum = row(&layout, Some(5), None);
        sum.add_row(&layout.row());
        check(&layout, &sum, Some(5), None);
        sum.add_row(&row(&layout, Some(2), Some([1, 0])));
        check(&layout, &sum, Some(7), Some([1, 0]));
    }

    #[test]
    fn gauges_can_be_taken_out_and_counters_stay() {
        let layout = Layout::new(&[&TASKS, &RUNS]);
        let mut left = row(&layout, Some(5), Some([1, 2]));
        left.remove_gauges(&layout);
        check(&layout, &left, Some(5), None);
        left.add_row(&row(&layout, None, Some([0, 1])));
        check(&layout, &left, Some(5), Some([0, 1]));
    }
}
