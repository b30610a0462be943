//! The snapshot as one JSON document, for scripts.

use serde_json::{Map, Value as Json, json};

use crate::{
    registry::{Snapshot, Value, snapshot::Culprit},
    signal::Entity,
};

/// The whole snapshot.
#[must_use]
pub fn encode(snapshot: &Snapshot) -> String {
    let named = |position| snapshot.entity(position).map(|state| identity(&state.entity));
    let families: Vec<Json> = snapshot
        .grouped_families()
        .iter()
        .filter_map(|parts| {
            let samples: Vec<Json> = parts
                .iter()
                .flat_map(|family| family.samples().map(move |sample| (family, sample)))
                .filter(|(_, sample)| !snapshot.entity(sample.entity).is_some_and(|state| state.carried))
                .map(|(family, sample)| {
                    let mut fields = Map::new();
                    let mut set = |name: &str, value| fields.insert(name.to_owned(), value);
                    set("entity", json!(named(sample.entity)));
                    for (label, value) in family.column().values(sample.combination) {
                        set(label, json!(value));
                    }
                    match sample.culprit {
                        Some(Culprit::Entity(position)) => set("culprit", json!(named(position))),
                        Some(Culprit::Other) => set("culprit", json!("(other)")),
                        None => None,
                    };
                    set("value", value(sample.value));
                    Json::Object(fields)
                })
                .collect();
            Some(json!({ "metric": parts.first()?.metric().name, "samples": samples }))
        })
        .collect();
    let facts: Vec<Json> = snapshot
        .infos
        .iter()
        .map(|info| {
            let labels: Map<String, Json> =
                info.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(**value))).collect();
            json!({ "metric": info.metric.name, "entity": named(info.entity), "facts": labels })
        })
        .collect();
    let taken_ns = snapshot.taken.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let document = json!({ "node": *snapshot.node, "taken_unix_ns": u64::try_from(taken_ns).unwrap_or(0), "families": families, "facts": facts });
    format!("{document:#}\n")
}

fn identity(entity: &Entity) -> Json {
    match entity {
        Entity::Unit(unit) => json!({ "unit": **unit }),
        Entity::Workload(of) => json!({ "namespace": *of.namespace, "workload_type": *of.kind, "workload": *of.name }),
        Entity::Container(container) => json!({
            "namespace": *container.namespace,
            "pod": *container.pod,
            "container": *container.container,
            "pod_uid": *container.pod_uid,
            "container_id": *container.container_id,
        }),
    }
}

/// Durations stay whole nanoseconds: a script divides better than it rounds.
fn value(value: Value<'_>) -> Json {
    match value {
        Value::Integer(number) => json!(number),
        Value::Nanoseconds(ns) => json!({ "ns": ns }),
        Value::Float(number) => json!(number),
        Value::Histogram(histogram) => json!({
            "sum_ns": histogram.sum_ns(),
            "count": histogram.count(),
            "buckets": histogram.buckets(),
        }),
    }
}
