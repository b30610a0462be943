//! Metrics of requests to disks.

use podlens_common::disk::{Operation, Part, WITH_BYTES};

use crate::signal::{ByDefault, Kind, Label, LabelValues, Metric, Unit};

const OPERATION: Label = Label { name: "operation", values: LabelValues::Fixed(&Operation::NAMES) };
/// All but the flush.
const OPERATION_WITH_BYTES: Label =
    Label { name: "operation", values: LabelValues::Fixed(Operation::NAMES.split_at(WITH_BYTES).0) };

/// The combinations of the distribution's labels with the time in the device, of which the last label changes fastest.
const IN_DEVICE: [usize; Operation::COUNT] = [
    in_device(Operation::Read),
    in_device(Operation::Write),
    in_device(Operation::Discard),
    in_device(Operation::Flush),
];

const fn in_device(operation: Operation) -> usize {
    operation.index() * Part::COUNT + Part::Device.index()
}

/// How long requests took.
pub static LATENCY: Metric = Metric {
    name: "podlens_disk_latency_seconds",
    otlp_name: "podlens.disk.latency",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long requests to block devices took, in two parts: queue (until the driver took the request) and device (from then to the completion; all of a flush's time). Both begin at moments that the kernel notes: since 6.9 it notes one moment for all requests that a task submits together, and the queue part is next to 0 unless the device or its scheduler held the request back. A device that keeps no statistics (queue/iostats 0) has no latency",
    labels: &[OPERATION, Label { name: "part", values: LabelValues::Fixed(&Part::NAMES) }],
    by_default: ByDefault::Only(&IN_DEVICE),
    source: "block_rq_complete, the request's own moments",
    must_equal: "the delay that a test gives to a device of its own, and quantiles that fio reports for its requests, within one bucket",
    ..Metric::BASE
};

/// Bytes.
pub static BYTES: Metric = Metric {
    name: "podlens_disk_bytes_total",
    otlp_name: "podlens.disk.io",
    kind: Kind::Counter,
    unit: Unit::Bytes,
    help: "Bytes of completed requests to block devices, including failed ones",
    labels: &[OPERATION_WITH_BYTES],
    sparse: true,
    source: "block_rq_complete",
    must_equal: "io.stat rbytes, wbytes and dbytes; what a test has read and written, exactly",
    ..Metric::BASE
};

/// Requests.
pub static OPERATIONS: Metric = Metric {
    name: "podlens_disk_operations_total",
    otlp_name: "podlens.disk.operations",
    kind: Kind::Counter,
    unit: Unit::Count("operation"),
    help: "Completed requests to block devices. The kernel merges several neighboring requests into one, and splits a large one into several",
    labels: &[OPERATION],
    sparse: true,
    by_default: ByDefault::Nothing,
    source: "block_rq_complete",
    must_equal: "io.stat rios, dios, and wios for writes and flushes together, where nothing is merged; the device's own stat",
    ..Metric::BASE
};

/// Requests that failed.
pub static ERRORS: Metric = Metric {
    name: "podlens_disk_errors_total",
    otlp_name: "podlens.disk.errors",
    kind: Kind::Counter,
    unit: Unit::Count("error"),
    help: "Requests to block devices that failed at least in part, for any reason",
    labels: &[OPERATION],
    by_default: ByDefault::Nonzero,
    source: "block_rq_complete",
    must_equal: "the requests of a test to a device that refuses them, exactly",
    ..Metric::BASE
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::{IN_DEVICE, LATENCY};
    use crate::signal::Layout;

    #[test]
    fn by_default_a_request_has_its_time_in_the_device() {
        let layout = Layout::new(&[&LATENCY]);
        let column = layout.column(&LATENCY).unwrap();
        for (combination, operation) in IN_DEVICE.into_iter().zip(["read", "write", "discard", "flush"]) {
            let values: Vec<(&str, &str)> = column.values(combination).collect();
            assert_eq!(values, [("operation", operation), ("part", "device")]);
        }
    }
}
