//! Facts about entities as series of the constant 1. Called by the encoder.

use super::{Filter, Format, push_all, push_escaped, push_label};
use crate::{
    registry::{Info, Snapshot},
    signal::{Entity, InfoMetric},
};

/// Writes all facts, one family a metric.
pub(super) fn push(snapshot: &Snapshot, filter: Option<&Filter>, format: Format, out: &mut Vec<u8>) {
    let mut metrics: Vec<&'static InfoMetric> = Vec::new();
    for info in &*snapshot.infos {
        if !metrics.contains(&info.metric) {
            metrics.push(info.metric);
        }
    }
    metrics.sort_by_key(|metric| metric.name);
    let of_metric =
        |metric: &'static InfoMetric| snapshot.infos.iter().filter(move |info| std::ptr::eq(info.metric, metric));
    let mut family = None;
    for info in metrics.into_iter().flat_map(of_metric) {
        let Some(state) = snapshot.entity(info.entity) else { continue };
        let Entity::Container(container) = &*state.entity else { continue };
        if filter.is_some_and(|filter| !filter.admits(&state.entity)) {
            continue;
        }
        if family != Some(info.metric.name) {
            family = Some(info.metric.name);
            push_header(info, format, out);
        }
        push_all(out, &[info.metric.name, "{"]);
        push_label(out, "namespace", &container.namespace);
        out.push(b',');
        push_label(out, "pod", &container.pod);
        out.push(b',');
        push_label(out, "container", if info.metric.of_pod { "" } else { &container.container });
        for (name, value) in &info.labels {
            out.push(b',');
            push_label(out, name, value);
        }
        out.push(b',');
        push_label(out, "node", &snapshot.node);
        out.extend_from_slice(b"} 1\n");
    }
}

fn push_header(info: &Info, format: Format, out: &mut Vec<u8>) {
    let metric = info.metric;
    let (name, kind) = match format {
        Format::Text => (metric.name, "gauge"),
        // OpenMetrics has a type for it, whose family lacks the suffix.
        Format::OpenMetrics => (metric.name.strip_suffix("_info").unwrap_or(metric.name), "info"),
    };
    push_all(out, &["# HELP ", name, " "]);
    push_escaped(out, metric.help, format == Format::OpenMetrics);
    push_all(out, &["\n# TYPE ", name, " ", kind, "\n"]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use crate::export::{
        fixture::with_facts,
        prometheus::{Filter, Format, encode},
    };

    fn facts(filter: Option<&Filter>, format: Format) -> Vec<String> {
        let page = String::from_utf8(encode(&with_facts(), filter, format)).unwrap();
        page.lines()
            .filter(|line| line.contains("_info{") || line.contains("info") && line.starts_with('#'))
            .map(String::from)
            .collect()
    }

    #[test]
    fn facts_are_series_of_the_constant_one() {
        assert_eq!(
            facts(None, Format::Text),
            [
                "# HELP podlens_container_info Facts about a container",
                "# TYPE podlens_container_info gauge",
                "podlens_container_info{namespace=\"shop\",pod=\"web-1\",container=\"nginx\",image=\"registry:5000/nginx:1\",node=\"node-1\"} 1",
                "# HELP podlens_pod_info Facts about a pod",
                "# TYPE podlens_pod_info gauge",
                "podlens_pod_info{namespace=\"shop\",pod=\"web-1\",container=\"\",uid=\"u-1\",workload=\"web\",workload_type=\"deployment\",node=\"node-1\"} 1",
            ]
        );
        let open_metrics = facts(None, Format::OpenMetrics);
        assert!(open_metrics.contains(&"# TYPE podlens_pod info".to_owned()), "{open_metrics:?}");
        let other = Filter { pod: Some("db-0".into()), namespace: None };
        assert_eq!(facts(Some(&other), Format::Text), Vec::<String>::new());
    }
}
