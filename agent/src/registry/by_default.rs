//! Which series a metric has that the configuration does not name: a pure function of its definition and an entity's values.
//! Called by whoever walks through a snapshot's samples.

use super::Section;
use crate::signal::{ByDefault, Column};

/// The definition shows this combination of the entity's. `of_metric` are all of the metric's cells.
pub(super) fn is_by_default(
    section: &Section,
    column: &Column,
    entity: u32,
    of_metric: &[u64],
    combination: usize,
) -> bool {
    let has_value = || is_nonzero(column, of_metric, combination);
    match column.metric.by_default {
        ByDefault::All | ByDefault::Heavy => true,
        ByDefault::Nonzero => has_value(),
        ByDefault::With(other) => {
            has_value() || {
                let of_other = section.layout().column(other).zip(section.cells(entity));
                of_other.is_some_and(|(other, (cells, present))| match other.of(cells, present) {
                    Some(cells) if other.metric.labels == column.metric.labels => is_nonzero(other, cells, combination),
                    Some(cells) => is_any_nonzero(cells),
                    None => false,
                })
            }
        }
        ByDefault::Only(combinations) => combinations.contains(&combination) && has_value(),
        ByDefault::AtLeast(combinations) => combinations.contains(&combination) || has_value(),
        ByDefault::Nothing => false,
    }
}

fn is_nonzero(column: &Column, of_metric: &[u64], combination: usize) -> bool {
    column.combination(of_metric, combination).is_some_and(is_any_nonzero)
}

fn is_any_nonzero(cells: &[u64]) -> bool {
    cells.iter().any(|cell| *cell > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::sync::Arc;

    use crate::{
        registry::Section,
        signal::{ByDefault, Kind, Label, LabelValues, Layout, Metric, Shown, Unit},
    };

    const WAY: Label = Label { name: "way", values: LabelValues::Fixed(&["in", "out", "both"]) };
    const COUNTER: Metric = Metric { labels: &[WAY], unit: Unit::Count("one"), ..Metric::BASE };
    static CALLS: Metric = Metric { name: "calls", by_default: ByDefault::Nonzero, ..COUNTER };
    static ROOM: Metric = Metric { name: "room", kind: Kind::Gauge, labels: &[], ..COUNTER };

    /// Which combinations a metric shows whose values are these, beside others.
    #[track_caller]
    fn check(metric: &'static Metric, values: [u64; 3], calls: [u64; 3], room: u64, shown: Shown, expected: &[&str]) {
        let layout = Layout::new(&[metric, &CALLS, &ROOM]).showing(|_| shown);
        let mut row = layout.row();
        row.add_all(&layout, metric, &values);
        row.add_all(&layout, &CALLS, &calls);
        row.add(&layout, &ROOM, 0, room);
        let section = Section::of_rows(Arc::new(layout), 1, [(0, row)], Vec::new());
        let families = section.families().filter(|family| family.metric() == metric);
        let samples = families.flat_map(|family| family.samples().map(move |sample| (family, sample)));
        let found: Vec<String> = samples
            .map(|(family, sample)| family.column().values(sample.combination).next().unwrap().1.to_owned())
            .collect();
        assert_eq!(found, expected, "{values:?}");
    }

    #[test]
    fn by_default_a_metric_shows_what_its_definition_says_and_all_of_it_where_it_is_named() {
        static ALL: Metric = COUNTER;
        static NONZERO: Metric = Metric { by_default: ByDefault::Nonzero, ..COUNTER };
        static OF_CALLS: Metric = Metric { by_default: ByDefault::With(&CALLS), ..COUNTER };
        static OF_ROOM: Metric = Metric { by_default: ByDefault::With(&ROOM), ..COUNTER };
        static ONLY: Metric = Metric { by_default: ByDefault::Only(&[0, 2]), ..COUNTER };
        static AT_LEAST: Metric = Metric { by_default: ByDefault::AtLeast(&[0]), ..COUNTER };
        static NOTHING: Metric = Metric { by_default: ByDefault::Nothing, ..COUNTER };
        let every = ["in", "out", "both"];
        let (none, second, third) = ([0; 3], [0, 7, 0], [0, 0, 7]);
        for (metric, values, calls, room, expected) in [
            (&ALL, none, none, 0, &every[..]),
            (&NONZERO, none, third, 1, &[]),
            (&NONZERO, second, none, 0, &["out"]),
            (&OF_CALLS, none, none, 1, &[]),
            (&OF_CALLS, none, third, 0, &["both"]),
            (&OF_CALLS, second, third, 0, &["out", "both"]),
            (&OF_ROOM, none, third, 0, &[]),
            (&OF_ROOM, none, none, 1, &every),
            (&OF_ROOM, second, none, 0, &["out"]),
            (&ONLY, second, none, 0, &[]),
            (&ONLY, third, none, 0, &["both"]),
            (&AT_LEAST, none, none, 0, &["in"]),
            (&AT_LEAST, third, none, 0, &["in", "both"]),
            (&NOTHING, [1; 3], [1; 3], 1, &[]),
        ] {
            check(metric, values, calls, room, Shown::ByDefault, expected);
            check(metric, values, calls, room, Shown::All, &every);
            check(metric, values, calls, room, Shown::Nothing, &[]);
        }
    }
}
