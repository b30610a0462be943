//! The values of one entity in one flat row, laid out by the metrics' definitions.
//!
//! Collectors write rows, the ledger adds them up, the snapshot keeps them: none of the last two needs to
//! know a metric by name.

use std::ops::Range;

use super::{
    Histogram, Metric,
    metric::{Aggregation, ByDefault, KernelEnum, Kind, LabelValues, Shown},
};

/// Where each metric's values are in a row.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    columns: Vec<Column>,
    width: usize,
    /// Cells that are added up, as few ranges as there can be.
    sums: Vec<Range<usize>>,
}

/// One metric's place in a row.
#[derive(Clone, Debug)]
pub struct Column {
    /// The definition.
    pub metric: &'static Metric,
    /// The values of each of the metric's labels.
    pub labels: Vec<Vec<Box<str>>>,
    /// What of it is shown to whoever reads a snapshot.
    pub shown: Shown,
    /// First cell.
    start: usize,
    /// Combinations of the labels' values.
    combinations: usize,
    /// Cells of one combination: a histogram has its buckets and the sum.
    cells: usize,
    /// The metric's bit among those that a row has.
    bit: u64,
}

/// One row of values. A metric that was never added to is absent, which is not the same as 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub(crate) cells: Vec<u64>,
    /// The columns' bits of the metrics that it has.
    pub(crate) present: u64,
}

/// Tells the values of labels that the kernel names; none where it does not know the enumeration.
pub type NamesOf<'a> = &'a dyn Fn(&KernelEnum) -> Vec<Box<str>>;

impl Layout {
    /// A layout for these metrics, in their order; those beyond the 64th are never present, since a row remembers by one bit
    /// each which it has. A metric with a label that the kernel names has no values here: see [`Layout::with_kernel_names`]. A
    /// collector gets its own from its start.
    #[must_use]
    pub fn new(metrics: &[&'static Metric]) -> Self {
        Self::with_kernel_names(metrics, &|_| Vec::new())
    }

    /// The same where `names` tells what the kernel calls a label's values.
    #[must_use]
    pub fn with_kernel_names(metrics: &[&'static Metric], names: NamesOf<'_>) -> Self {
        let mut layout = Self::default();
        for (metric, position) in metrics.iter().zip(0..) {
            let labels: Vec<Vec<Box<str>>> = metric
                .labels
                .iter()
                .map(|label| match &label.values {
                    LabelValues::Fixed(values) => values.iter().map(|value| (*value).into()).collect(),
                    LabelValues::Kernel(of) => names(of),
                })
                .collect();
            let cells = if metric.kind == Kind::Histogram { Histogram::CELLS } else { 1 };
            let combinations = labels.iter().map(Vec::len).product();
            let (start, bit) = (layout.width, 1_u64.checked_shl(position).unwrap_or(0));
            layout.width += combinations * cells;
            if metric.aggregation == Aggregation::Sum {
                match layout.sums.last_mut().filter(|range| range.end == start) {
                    Some(range) => range.end = layout.width,
                    None => layout.sums.push(start..layout.width),
                }
            }
            layout.columns.push(Column { metric, labels, shown: Shown::All, start, combinations, cells, bit });
        }
        layout
    }

    /// The same layout, of which this is shown.
    #[must_use]
    pub fn showing(&self, shown: impl Fn(&Metric) -> Shown) -> Self {
        let mut layout = self.clone();
        for column in &mut layout.columns {
            column.shown = shown(column.metric);
        }
        layout
    }

    /// All metrics, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Cells of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row without any value.
    #[must_use]
    pub fn row(&self) -> Row {
        Row { cells: vec![0; self.width], present: 0 }
    }

    /// The metric's place; none if the node does not have this metric.
    #[must_use]
    pub fn column(&self, metric: &Metric) -> Option<&Column> {
        self.columns.iter().find(|column| column.metric == metric)
    }

    /// The bits of all gauges.
    pub(crate) fn gauges(&self) -> u64 {
        self.bits(|metric| metric.kind == Kind::Gauge)
    }

    /// The bits of the metrics for which this holds.
    pub(crate) fn bits(&self, holds: impl Fn(&Metric) -> bool) -> u64 {
        self.columns.iter().filter(|column| holds(column.metric)).fold(0, |bits, column| bits | column.bit)
    }

    /// The bits of the gauges that are kept when a cgroup is gone.
    fn kept_after_removal(&self) -> u64 {
        let kept = self.columns.iter().filter(|column| column.metric.kept_after_removal);
        kept.fold(0, |bits, column| bits | column.bit)
    }

    /// Of what `retired` has, what counts beside values of the present: nothing that was kept where the present has a value of it.
    pub(crate) fn beside(&self, retired: u64, present: u64) -> u64 {
        retired & !(self.kept_after_removal() & present)
    }

    /// Adds cells to others by each metric's own aggregation; what `present` lacks among the added is 0 there.
    pub(crate) fn add(&self, sum: &mut [u64], more: &[u64], present: u64) {
        for range in &self.sums {
            let (Some(sum), Some(more)) = (sum.get_mut(range.clone()), more.get(range.clone())) else { continue };
            for (cell, amount) in sum.iter_mut().zip(more) {
                *cell = cell.wrapping_add(*amount);
            }
        }
        for column in self.columns.iter().filter(|column| column.metric.aggregation != Aggregation::Sum) {
            if present & column.bit == 0 {
                continue;
            }
            let (Some(sum), Some(more)) = (sum.get_mut(column.range()), more.get(column.range())) else { continue };
            for (cell, other) in sum.iter_mut().zip(more) {
                *cell = if column.metric.aggregation == Aggregation::Max { (*cell).max(*other) } else { *other };
            }
        }
    }

    /// Sets the cells of metrics to 0 that `present` lacks.
    pub(crate) fn keep_only(&self, cells: &mut [u64], present: u64) {
        for column in self.columns.iter().filter(|column| present & column.bit == 0) {
            cells.get_mut(column.range()).unwrap_or_default().fill(0);
        }
    }
}

impl Column {
    fn range(&self) -> Range<usize> {
        self.start..self.start + self.combinations * self.cells
    }

    /// It may have samples for whoever reads a snapshot.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        match self.shown {
            Shown::All => true,
            Shown::ByDefault => self.metric.by_default != ByDefault::Nothing,
            Shown::Nothing => false,
        }
    }

    /// Of those who cause a part of it only those are told by name that cause much.
    pub(crate) fn names_heavy_culprits(&self) -> bool {
        self.shown == Shown::ByDefault && self.metric.by_default == ByDefault::Heavy
    }

    /// Combinations of the labels' values.
    #[must_use]
    pub fn combinations(&self) -> usize {
        self.combinations
    }

    /// The combination of these values, one position per label. What is beyond a label's last value counts as that
    /// one, which is `other` where the kernel names them; none without values, or with another number of them.
    #[must_use]
    pub fn combination_of(&self, values: &[usize]) -> Option<usize> {
        if values.len() != self.labels.len() {
            return None;
        }
        values.iter().zip(&self.labels).try_fold(0, |before, (value, names)| {
            let last = names.len().checked_sub(1)?;
            Some(before * names.len() + (*value).min(last))
        })
    }

    /// The cells of this metric in a row's cells; none if the row, by its bits, does not have it.
    #[must_use]
    pub fn of<'a>(&self, cells: &'a [u64], present: u64) -> Option<&'a [u64]> {
        if present & self.bit == 0 { None } else { cells.get(self.range()) }
    }

    /// The cells of one combination among those of this metric.
    #[must_use]
    pub fn combination<'a>(&self, of_metric: &'a [u64], combination: usize) -> Option<&'a [u64]> {
        of_metric.get(combination * self.cells..)?.get(..self.cells)
    }

    /// The label values of a combination, in the order of the labels. The last label changes fastest.
    pub fn values(&self, combination: usize) -> impl Iterator<Item = (&'static str, &str)> {
        let mut after = self.combinations;
        self.metric.labels.iter().zip(&self.labels).filter_map(move |(label, values)| {
            after = after.checked_div(values.len())?;
            let value = values.get(combination.checked_div(after)? % values.len())?;
            Some((label.name, &**value))
        })
    }
}

impl Row {
    /// Adds to a metric's value for a combination of its labels' values, which is 0 for a metric without labels and the
    /// value's position for one with a single label; the row then has the metric. One that the layout does not have is
    /// left out.
    pub fn add(&mut self, layout: &Layout, metric: &Metric, combination: usize, amount: u64) {
        self.add_at(layout, metric, combination, &[amount]);
    }

    /// Adds to all of a metric's values, in the order of its combinations.
    pub fn add_all(&mut self, layout: &Layout, metric: &Metric, amounts: &[u64]) {
        self.add_at(layout, metric, 0, amounts);
    }

    /// Adds a distribution to that of one combination: its buckets, then the sum of its observations.
    pub fn add_histogram(
        &mut self,
        layout: &Layout,
        metric: &Metric,
        combination: usize,
        cells: &[u64; Histogram::CELLS],
    ) {
        self.add_at(layout, metric, combination, cells);
    }

    fn add_at(&mut self, layout: &Layout, metric: &Metric, combination: usize, amounts: &[u64]) {
        let Some(column) = layout.column(metric).filter(|column| combination < column.combinations) else { return };
        let cells = self.cells.get_mut(column.range()).unwrap_or_default();
        for (cell, amount) in cells.iter_mut().skip(combination * column.cells).zip(amounts) {
            *cell = cell.wrapping_add(*amount);
        }
        self.present |= column.bit;
    }

    /// Adds another row of the same layout; what either has, the sum has.
    pub fn add_row(&mut self, layout: &Layout, other: &Self) {
        if self.cells.is_empty() {
            self.clone_from(other);
            return;
        }
        layout.add(&mut self.cells, &other.cells, other.present);
        self.present |= other.present;
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

    /// Takes the gauges out: values of the present.
    pub fn remove_gauges(&mut self, layout: &Layout) {
        self.remove(layout, layout.gauges());
    }

    /// Takes out all gauges but those that a cgroup leaves behind.
    pub fn remove_gauges_at_removal(&mut self, layout: &Layout) {
        self.remove(layout, layout.gauges() & !layout.kept_after_removal());
    }

    fn remove(&mut self, layout: &Layout, bits: u64) {
        self.present &= !bits;
        layout.keep_only(&mut self.cells, self.present);
    }

    /// It has no metric at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// The cells of one metric; none if the row does not have it.
    #[must_use]
    pub fn cells(&self, column: &Column) -> Option<&[u64]> {
        column.of(&self.cells, self.present)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::{Layout, Row};
    use crate::signal::{
        Histogram, Kind, Label, Metric, Unit,
        metric::{Aggregation, KernelEnum, LabelValues},
    };

    static RUNS: Metric = Metric { name: "runs_total", unit: Unit::Count("run"), ..Metric::BASE };
    static TASKS: Metric = Metric {
        name: "tasks",
        kind: Kind::Gauge,
        labels: &[Label { name: "state", values: LabelValues::Fixed(&["on", "off"]) }],
        ..Metric::BASE
    };
    static PEAK: Metric = Metric {
        name: "peak",
        kind: Kind::Gauge,
        aggregation: Aggregation::Max,
        kept_after_removal: true,
        ..Metric::BASE
    };
    static LIMIT: Metric = Metric { name: "limit", kind: Kind::Gauge, aggregation: Aggregation::Last, ..Metric::BASE };
    static LATENCY: Metric = Metric {
        name: "latency",
        kind: Kind::Histogram,
        labels: &[
            Label { name: "operation", values: LabelValues::Fixed(&["read", "write"]) },
            Label {
                name: "reason",
                values: LabelValues::Kernel(KernelEnum { name: "reasons", prefix: "REASON_", most: 9 }),
            },
        ],
        ..Metric::BASE
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
        sum.add_row(&layout, &layout.row());
        check(&layout, &sum, Some(5), None);
        sum.add_row(&layout, &row(&layout, Some(2), Some([1, 0])));
        check(&layout, &sum, Some(7), Some([1, 0]));
    }

    #[test]
    fn gauges_can_be_taken_out_and_counters_stay() {
        let layout = Layout::new(&[&TASKS, &RUNS]);
        let mut left = row(&layout, Some(5), Some([1, 2]));
        left.remove_gauges(&layout);
        check(&layout, &left, Some(5), None);
        left.add_row(&layout, &row(&layout, None, Some([0, 1])));
        check(&layout, &left, Some(5), Some([0, 1]));
    }

    #[test]
    fn what_is_kept_stays_where_other_gauges_go_and_counts_only_where_the_present_has_none() {
        let layout = Layout::new(&[&TASKS, &PEAK, &RUNS]);
        let mut left = row(&layout, Some(5), Some([1, 2]));
        left.add(&layout, &PEAK, 0, 9);
        left.remove_gauges_at_removal(&layout);
        check(&layout, &left, Some(5), None);
        let peak = |row: &Row| row.cells(layout.column(&PEAK).unwrap()).map(<[u64]>::to_vec);
        assert_eq!(peak(&left), Some(vec![9]));
        let mut present = layout.row();
        assert_eq!(layout.beside(left.present, present.present), left.present);
        present.add(&layout, &PEAK, 0, 4);
        assert_eq!(layout.beside(left.present, present.present), layout.column(&RUNS).unwrap().bit);
        left.remove_gauges(&layout);
        assert_eq!(peak(&left), None);
    }

    #[test]
    fn a_peak_is_the_largest_and_a_setting_the_last_that_was_read() {
        let layout = Layout::new(&[&RUNS, &PEAK, &LIMIT]);
        let of = |runs, peak, limit: Option<u64>| {
            let mut row = layout.row();
            row.add(&layout, &RUNS, 0, runs);
            row.add(&layout, &PEAK, 0, peak);
            if let Some(limit) = limit {
                row.add(&layout, &LIMIT, 0, limit);
            }
            row
        };
        let mut sum = of(1, 7, Some(9));
        for more in [of(2, 5, Some(4)), of(3, 8, None)] {
            sum.add_row(&layout, &more);
        }
        assert_eq!(sum, of(6, 8, Some(4)));
    }

    #[test]
    fn a_histogram_has_a_distribution_for_each_combination_of_labels_that_the_kernel_may_name() {
        let names = |of: &KernelEnum| [of.prefix, "two", "three"].map(Into::into).to_vec();
        let layout = Layout::with_kernel_names(&[&LATENCY], &names);
        let mut cells = [0; Histogram::CELLS];
        (cells[3], cells[32]) = (2, 700);
        let mut row = layout.row();
        row.add_histogram(&layout, &LATENCY, 5, &cells);
        row.add_histogram(&layout, &LATENCY, 6, &cells);
        let column = layout.column(&LATENCY).unwrap();
        assert_eq!(column.combinations(), 6);
        let of_metric = row.cells(column).unwrap();
        let found: Vec<(u64, u64)> = (0..6)
            .map(|combination| Histogram::at(column.combination(of_metric, combination).unwrap()).unwrap())
            .map(|histogram| (histogram.count(), histogram.sum_ns()))
            .collect();
        assert_eq!(found, [(0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (2, 700)]);
        assert_eq!(column.values(5).collect::<Vec<_>>(), [("operation", "write"), ("reason", "three")]);
        assert_eq!(column.values(0).collect::<Vec<_>>(), [("operation", "read"), ("reason", "REASON_")]);
        let of = |values: &[usize]| column.combination_of(values);
        assert_eq!((of(&[0, 0]), of(&[1, 2]), of(&[1, 0])), (Some(0), Some(5), Some(3)));
        assert_eq!(of(&[0, 77]), Some(2), "what has no name counts as the last one");
        assert_eq!((of(&[1]), of(&[1, 2, 0])), (None, None));
    }

    #[test]
    fn a_metric_whose_label_the_kernel_does_not_name_has_no_values() {
        let layout = Layout::new(&[&LATENCY, &RUNS]);
        let mut row = layout.row();
        row.add_histogram(&layout, &LATENCY, 0, &[1; Histogram::CELLS]);
        assert!(row.is_empty());
        assert_eq!(layout.column(&LATENCY).unwrap().combination_of(&[0, 0]), None);
        row.add(&layout, &RUNS, 0, 1);
        assert_eq!(row.cells(layout.column(&RUNS).unwrap()), Some([1].as_slice()));
    }
}
