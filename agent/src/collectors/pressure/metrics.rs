//! The metric of the collector `pressure`.

use podlens_common::pressure::{Resource, Stall};

use crate::signal::{ByDefault, Kind, Label, LabelValues, Metric, Unit};

/// Combinations of the labels of [`PRESSURE`], of which the last changes fastest.
pub const COMBINATIONS: usize = Resource::COUNT * Stall::COUNT;

/// Those in which some tasks stalled.
pub const SOME: [usize; Resource::COUNT] =
    [some_of(Resource::Cpu), some_of(Resource::Memory), some_of(Resource::Io), some_of(Resource::Irq)];

const fn some_of(resource: Resource) -> usize {
    resource.index() * Stall::COUNT + Stall::Some.index()
}

/// Time in which tasks stalled.
pub static PRESSURE: Metric = Metric {
    name: "podlens_pressure_seconds_total",
    otlp_name: "podlens.pressure",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time in which some or all (full) of the cgroup's tasks that had something to do stalled for want of a resource, as the kernel counts it (PSI); exact up to the cgroup's end. No sample for a stall that has not occurred, nor for irq where the kernel does not count the time of interrupts",
    labels: &[
        Label { name: "resource", values: LabelValues::Fixed(&Resource::NAMES) },
        Label { name: "stall", values: LabelValues::Fixed(&Stall::NAMES) },
    ],
    sparse: true,
    by_default: ByDefault::Only(&SOME),
    lifetime: true,
    source: "psi_group of the cgroup in a walk through the version 2 tree at most 10 s ago, and at the removal (with the time of each CPU that the kernel has not added up yet); else cpu.pressure, memory.pressure, io.pressure and irq.pressure, read every 5 s",
    must_equal: "total= of those files, at most 2 s old; at a cgroup's end within 5 %",
    ..Metric::BASE
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::{PRESSURE, Resource, SOME};
    use crate::signal::Layout;

    #[test]
    fn by_default_a_resource_has_the_time_in_which_some_tasks_stalled() {
        let layout = Layout::new(&[&PRESSURE]);
        let column = layout.column(&PRESSURE).unwrap();
        for (combination, resource) in SOME.into_iter().zip(Resource::NAMES) {
            let values: Vec<(&str, &str)> = column.values(combination).collect();
            assert_eq!(values, [("resource", resource), ("stall", "some")]);
        }
    }
}
