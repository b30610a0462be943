//! Metrics of requests to disks.

use podlens_common::disk::{Operation, Part, WITH_BYTES};

use crate::signal::{ByDefault, Kind, Label, LabelValues, Metric, Unit};

const OPERATION: Label = Label { name: "operation", values: LabelValues::Fixed(&Operation::NAMES) };
/// All but the flush.
const OPERATION_WITH_BYTES: Label =
    Label { name: "operation", values: LabelValues::Fixed(Operation::NAMES.split_at(WITH_BYTES).0) };

/// How long requests took.
pub static LATENCY: Metric = Metric {
    name: "podlens_disk_latency_seconds",
    otlp_name: "podlens.disk.latency",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long requests to block devices took: queue (from the request's making until its driver took it) and device (from there to its completion; all of a flush's time). Both begin when the kernel says so: since 6.9 it notes one moment for all requests that a task submits together, and the queue part is next to 0 unless the device or its scheduler held the request back. A device that keeps no statistics (queue/iostats 0) has no latency",
    labels: &[OPERATION, Label { name: "part", values: LabelValues::Fixed(&Part::NAMES) }],
    source: "block_rq_complete, the request's own moments",
    must_equal: "the delay that a test gives to a device of its own, and quantiles that fio tells of its requests, within one bucket",
    ..Metric::BASE
};

/// Bytes.
pub static BYTES: Metric = Metric {
    name: "podlens_disk_bytes_total",
    otlp_name: "podlens.disk.io",
    kind: Kind::Counter,
    unit: Unit::Bytes,
    help: "Bytes of completed requests to block devices, those of failed ones among them",
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
    help: "Requests to block devices that were completed. The kernel makes one request of several neighboring ones, and several of a large one",
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
    help: "Requests to block devices of which at least a part failed, for whichever reason",
    labels: &[OPERATION],
    by_default: ByDefault::With(&OPERATIONS),
    source: "block_rq_complete",
    must_equal: "the requests of a test to a device that refuses them, exactly",
    ..Metric::BASE
};
