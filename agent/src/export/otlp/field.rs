//! OTLP's field numbers, by message. Used by the encoders only.

pub(super) const REQUEST_RESOURCE_METRICS: u32 = 1;

pub(super) const RESOURCE_METRICS_RESOURCE: u32 = 1;
pub(super) const RESOURCE_METRICS_SCOPE_METRICS: u32 = 2;
pub(super) const RESOURCE_METRICS_SCHEMA_URL: u32 = 3;

pub(super) const RESOURCE_ATTRIBUTES: u32 = 1;
pub(super) const RESOURCE_ENTITY_REFS: u32 = 3;

pub(super) const ENTITY_REF_SCHEMA_URL: u32 = 1;
pub(super) const ENTITY_REF_TYPE: u32 = 2;
pub(super) const ENTITY_REF_ID_KEYS: u32 = 3;
pub(super) const ENTITY_REF_DESCRIPTION_KEYS: u32 = 4;

pub(super) const SCOPE_METRICS_SCOPE: u32 = 1;
pub(super) const SCOPE_METRICS_METRICS: u32 = 2;
pub(super) const SCOPE_METRICS_SCHEMA_URL: u32 = 3;

pub(super) const SCOPE_NAME: u32 = 1;
pub(super) const SCOPE_VERSION: u32 = 2;

pub(super) const METRIC_NAME: u32 = 1;
pub(super) const METRIC_DESCRIPTION: u32 = 2;
pub(super) const METRIC_UNIT: u32 = 3;
pub(super) const METRIC_GAUGE: u32 = 5;
pub(super) const METRIC_SUM: u32 = 7;
pub(super) const METRIC_HISTOGRAM: u32 = 9;
pub(super) const METRIC_EXPONENTIAL_HISTOGRAM: u32 = 10;

/// In gauges, sums and histograms alike, as the next one is in the last two.
pub(super) const DATA_POINTS: u32 = 1;
pub(super) const DATA_AGGREGATION_TEMPORALITY: u32 = 2;
pub(super) const SUM_IS_MONOTONIC: u32 = 3;

/// In both kinds of points, as the next one is.
pub(super) const POINT_START_TIME: u32 = 2;
pub(super) const POINT_TIME: u32 = 3;

pub(super) const NUMBER_AS_DOUBLE: u32 = 4;
pub(super) const NUMBER_AS_INT: u32 = 6;
pub(super) const NUMBER_ATTRIBUTES: u32 = 7;
pub(super) const NUMBER_FLAGS: u32 = 8;

pub(super) const HISTOGRAM_ATTRIBUTES: u32 = 1;
pub(super) const HISTOGRAM_COUNT: u32 = 4;
pub(super) const HISTOGRAM_SUM: u32 = 5;
pub(super) const HISTOGRAM_ZERO_COUNT: u32 = 7;
pub(super) const HISTOGRAM_POSITIVE: u32 = 8;
pub(super) const HISTOGRAM_FLAGS: u32 = 10;
pub(super) const HISTOGRAM_ZERO_THRESHOLD: u32 = 14;

/// Of the distribution with explicit bounds; count, sum and flags are as above.
pub(super) const EXPLICIT_BUCKET_COUNTS: u32 = 6;
pub(super) const EXPLICIT_BOUNDS: u32 = 7;
pub(super) const EXPLICIT_ATTRIBUTES: u32 = 9;

pub(super) const BUCKETS_OFFSET: u32 = 1;
pub(super) const BUCKETS_COUNTS: u32 = 2;

pub(super) const KEY_VALUE_KEY: u32 = 1;
pub(super) const KEY_VALUE_VALUE: u32 = 2;
pub(super) const ANY_VALUE_STRING: u32 = 1;
pub(super) const ANY_VALUE_ARRAY: u32 = 5;
pub(super) const ARRAY_VALUES: u32 = 1;
