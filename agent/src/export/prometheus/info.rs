//! Facts about entities as series of the constant 1. Called by the encoders.

use std::collections::BTreeMap;

use super::{
    Filter, Format, NODE,
    text::{push_all, push_escaped, push_label},
};
use crate::{
    registry::{Info, Snapshot},
    signal::{Container, Entity, InfoMetric},
};

/// One entity's or its pod's facts.
pub(super) struct Facts<'a> {
    pub(super) info: &'a Info,
    container: &'a Container,
}

/// All facts that belong on the page, by metric in the order of the names.
pub(super) fn families<'a>(
    snapshot: &'a Snapshot,
    filter: Option<&'a Filter>,
) -> Vec<(&'static InfoMetric, Vec<Facts<'a>>)> {
    let mut families: BTreeMap<&str, (&'static InfoMetric, Vec<Facts<'a>>)> = BTreeMap::new();
    for info in &*snapshot.infos {
        let Some(state) = snapshot.entity(info.entity) else { continue };
        let Entity::Container(container) = &*state.entity else { continue };
        if filter.is_none_or(|filter| filter.admits(&state.entity)) {
            let family = families.entry(info.metric.name).or_insert((info.metric, Vec::new()));
            family.1.push(Facts { info, container });
        }
    }
    families.into_values().collect()
}

impl<'a> Facts<'a> {
    /// Whose they are and what they say, but for the node.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let container = if self.info.metric.of_pod { "" } else { &self.container.container };
        let identity =
            [("namespace", &*self.container.namespace), ("pod", &*self.container.pod), ("container", container)];
        identity.into_iter().chain(self.info.labels.iter().map(|(name, value)| (*name, &**value)))
    }
}

/// Writes all facts as text, one family a metric.
pub(super) fn push(snapshot: &Snapshot, filter: Option<&Filter>, format: Format, out: &mut Vec<u8>) {
    for (metric, of_metric) in families(snapshot, filter) {
        push_header(metric, format, out);
        for facts in of_metric {
            push_all(out, &[metric.name, "{"]);
            for (name, value) in facts.labels() {
                push_label(out, name, value);
                out.push(b',');
            }
            push_label(out, NODE, &snapshot.node);
            out.extend_from_slice(b"} 1\n");
        }
    }
}

fn push_header(metric: &InfoMetric, format: Format, out: &mut Vec<u8>) {
    let (name, kind) = match format {
        Format::Text | Format::Protobuf => (metric.name, "gauge"),
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
