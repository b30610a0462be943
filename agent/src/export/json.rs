//! The snapshot as one JSON document, for scripts.

use serde_json::{Map, Value as Json, json};

use crate::{
    registry::{Snapshot, Value, snapshot::Culprit},
    signal::Entity,
};

/// The whole snapshot.
#[must_use]
pub fn encode(snapshot: &Snapshot) -> String {
    let families: Vec<Json> = snapshot
        .families
        .iter()
        .map(|family| {
            let samples: Vec<Json> = family
                .samples
                .iter()
                .filter(|sample| !snapshot.entity(sample).is_some_and(|state| state.carried))
                .map(|sample| {
                    let mut fields = Map::new();
                    let mut set = |name: &str, value| fields.insert(name.to_owned(), value);
                    set("entity", json!(snapshot.entity(sample).map(|state| identity(&state.entity))));
                    if let Some(label) = family.metric.label {
                        set(label.name, json!(label.values.get(usize::from(sample.label_value))));
                    }
                    match sample.culprit {
                        Some(Culprit::Entity(position)) => {
                            let culprit =
                                usize::try_from(position).ok().and_then(|position| snapshot.entities.get(position));
                            set("culprit", json!(culprit.map(|state| identity(&state.entity))));
                        }
                        Some(Culprit::Other) => {
                            set("culprit", json!("(other)"));
                        }
                        None => {}
                    }
                    set("value", value(&sample.value));
                    Json::Object(fields)
                })
                .collect();
            json!({ "metric": family.metric.name, "samples": samples })
        })
        .collect();
    let facts: Vec<Json> = snapshot
        .infos
        .iter()
        .map(|info| {
            let entity = usize::try_from(info.entity).ok().and_then(|entity| snapshot.entities.get(entity));
            let labels: Map<String, Json> =
                info.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(**value))).collect();
            json!({ "metric": info.metric.name, "entity": entity.map(|state| identity(&state.entity)), "facts": labels })
        })
        .collect();
    let taken_ns = snapshot.taken.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let document = json!({ "node": *snapshot.node, "taken_unix_ns": u64::try_from(taken_ns).unwrap_or(0), "families": families, "facts": facts });
    format!("{document:#}\n")
}

fn identity(entity: &Entity) -> Json {
    match entity {
        Entity::Unit(unit) => json!({ "unit": **unit }),
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
fn value(value: &Value) -> Json {
    match value {
        Value::Integer(number) => json!(number),
        Value::Nanoseconds(ns) => json!({ "ns": ns }),
        Value::Float(number) => json!(number),
        Value::Histogram(histogram) => json!({
            "sum_ns": histogram.sum_ns,
            "count": histogram.count(),
            "buckets": histogram.buckets,
        }),
    }
}
