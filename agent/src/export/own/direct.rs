//! Metrics of the registry as OTLP, as they are at the moment of each push, for `podlens fleet`.
//!
//! OpenTelemetry's SDK, which [`super::push`] uses, goes on to push the last value of each combination of attributes that it
//! ever saw, and folds those beyond 2,000: a node that has its pod again would lack it for ever. So messages are made here, of
//! the families that `/metrics` serves. Of a distribution its count and its sum are pushed, as there.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Metric as OtlpMetric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
        metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prometheus::proto::{Metric, MetricFamily};
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    export::{
        otlp::{SCHEMA_URL, unit, unix_ns},
        otlp_client::{
            LAST_EXPORT, OtlpConfig, OtlpConfigError,
            connection::{Connection, Outcome},
            first_delay,
            transport::METRICS,
        },
    },
    signal::{
        Kind,
        shutdown::{Shutdown, stopped},
    },
    telemetry::{OwnMetric, SelfTelemetry, metrics, otlp::OtlpCounters},
};

/// The push of all metrics of a registry.
pub struct DirectPush {
    telemetry: Arc<SelfTelemetry>,
    counters: &'static OtlpCounters,
    connection: Connection,
    resource: BTreeMap<String, String>,
    interval: Duration,
    first_delay: Duration,
    began: SystemTime,
}

impl DirectPush {
    /// A push that has not connected yet. `instance` decides its moment within the interval.
    ///
    /// # Errors
    /// If the configuration cannot work whatever the receiver does.
    pub fn new(
        config: &OtlpConfig,
        instance: &str,
        telemetry: Arc<SelfTelemetry>,
        counters: &'static OtlpCounters,
    ) -> Result<Self, OtlpConfigError> {
        let now = SystemTime::now();
        Ok(Self {
            telemetry,
            counters,
            connection: Connection::new(config, METRICS, instance)?,
            resource: config.own_resource.clone(),
            interval: config.interval,
            first_delay: first_delay(instance, config.interval, now),
            began: now,
        })
    }

    /// Pushes until a stop is asked for, then once more within two seconds.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = stopped(shutdown) => {}
            () = self.follow() => {}
        }
        if tokio::time::timeout(LAST_EXPORT, self.push()).await.is_err() {
            tracing::warn!(bound = ?LAST_EXPORT, "the last OTLP export did not end in time and was given up");
        }
    }

    /// Never ends. What could not be delivered is not repeated: the next push says what is then.
    async fn follow(&mut self) {
        let mut ticks = tokio::time::interval_at(Instant::now() + self.first_delay, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.push().await;
        }
    }

    async fn push(&mut self) {
        let (request, points) = request(&self.telemetry.gather(), &self.resource, self.began, SystemTime::now());
        let counters = self.counters;
        counters.made.fetch_add(points, Ordering::Relaxed);
        match self.connection.offer(request.encode_to_vec().into()).await {
            Outcome::Accepted { rejected } => {
                let rejected = rejected.min(points);
                counters.rejected.fetch_add(rejected, Ordering::Relaxed);
                counters.sent.fetch_add(points - rejected, Ordering::Relaxed);
                self.connection.delivered(points - rejected);
            }
            // A cluster's nodes are few points: what is too large is so for another reason.
            Outcome::Retry(_) | Outcome::Refused | Outcome::TooLarge => {
                self.connection.give_up();
                counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                counters.dropped.fetch_add(points, Ordering::Relaxed);
            }
        }
    }
}

/// The request, and how many points it has.
fn request(
    families: &[MetricFamily],
    resource: &BTreeMap<String, String>,
    began: SystemTime,
    now: SystemTime,
) -> (ExportMetricsServiceRequest, u64) {
    let moment = Moment { began_ns: unix_ns(began), now_ns: unix_ns(now) };
    let known = families.iter().filter_map(|family| Some((metrics::find(family.name())?, family)));
    let metrics: Vec<OtlpMetric> = known.flat_map(|(metric, family)| moment.metrics(metric, family)).collect();
    let points = metrics.iter().map(|metric| match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        _ => 0,
    });
    let points = points.sum::<usize>() as u64;
    let attributes = resource.iter().map(|(key, value)| attribute(key, value)).collect();
    let scope = InstrumentationScope {
        name: "podlens".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, schema_url: SCHEMA_URL.to_owned() }];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, schema_url: SCHEMA_URL.to_owned() }];
    (ExportMetricsServiceRequest { resource_metrics }, points)
}

#[derive(Clone, Copy)]
struct Moment {
    began_ns: u64,
    now_ns: u64,
}

impl Moment {
    fn metrics(self, metric: &OwnMetric, family: &MetricFamily) -> Vec<OtlpMetric> {
        let points =
            |value: fn(&Metric) -> f64| family.get_metric().iter().map(|one| self.point(one, value(one))).collect();
        let sum = |points| {
            let aggregation_temporality = AggregationTemporality::Cumulative.into();
            Data::Sum(Sum { data_points: points, aggregation_temporality, is_monotonic: true })
        };
        let named = |suffix: &str, unit: String, data| OtlpMetric {
            name: format!("{}{suffix}", metric.otlp_name()),
            description: metric.help.to_owned(),
            unit,
            data: Some(data),
            ..OtlpMetric::default()
        };
        let unit = unit(metric.unit).concat();
        match metric.kind {
            Kind::Counter => vec![named("", unit, sum(points(|one| one.get_counter().get_value())))],
            Kind::Gauge => {
                let data_points = points(|one| one.get_gauge().get_value());
                vec![named("", unit, Data::Gauge(Gauge { data_points }))]
            }
            Kind::Histogram => vec![
                named(".count", "1".to_owned(), sum(points(|one| one.get_histogram().get_sample_count() as f64))),
                named(".sum", unit, sum(points(|one| one.get_histogram().get_sample_sum()))),
            ],
        }
    }

    fn point(self, metric: &Metric, value: f64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: metric.get_label().iter().map(|label| attribute(label.name(), label.value())).collect(),
            start_time_unix_nano: self.began_ns,
            time_unix_nano: self.now_ns,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use prometheus::core::Collector as _;

    use super::*;
    use crate::telemetry::fleet;

    #[test]
    fn a_request_holds_what_is_and_nothing_that_was() {
        let gauges = || {
            let gauges = fleet::LACKING_SINCE.gauges().unwrap();
            gauges.with_label_values(&["ns", "ds", "n1", "image"]).set(7.0);
            gauges
        };
        let telemetry = SelfTelemetry::new("1.2.3", None).unwrap();
        let families = [gauges().collect(), telemetry.gather()].concat();
        let resource = [("service.name".to_owned(), "podlens".to_owned())].into();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let (request, points) = request(&families, &resource, SystemTime::UNIX_EPOCH, at);
        let scope = &request.resource_metrics[0].scope_metrics[0];
        let names: Vec<(&str, &str)> =
            scope.metrics.iter().map(|metric| (metric.name.as_str(), metric.unit.as_str())).collect();
        assert_eq!(names[0], ("podlens.fleet.lacking.since.timestamp", "s"));
        assert!(
            names.contains(&("podlens.scrape.count", "1")) && names.contains(&("podlens.scrape.sum", "s")),
            "{names:?}"
        );
        let held = scope.metrics.iter().map(|metric| match &metric.data {
            Some(Data::Gauge(gauge)) => gauge.data_points.len(),
            Some(Data::Sum(sum)) => sum.data_points.len(),
            _ => 0,
        });
        assert_eq!(points, held.sum::<usize>() as u64, "{names:?}");
        // A histogram is two points here.
        let told: usize = families.iter().map(|family| family.get_metric().len()).sum();
        let histograms = names.iter().filter(|(name, _)| name.strip_suffix(".sum").is_some()).count();
        assert_eq!(points, (told + histograms) as u64, "{names:?}");
        let Some(Data::Gauge(gauge)) = &scope.metrics[0].data else { unreachable!() };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(7.0)));
        assert_eq!(gauge.data_points[0].attributes.len(), 4);
    }
}
