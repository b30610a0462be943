//! Events as OTLP log records: a pure function of some events and of what is known of their entities.
//!
//! Each record is an event in OpenTelemetry's sense: its name says what it is, its attributes the rest. Its resource is
//! its entity's, the same as in metrics, or the agent's own. Events are rare, so the messages are the generated ones; only
//! the resource comes from the encoder of metrics, so that the two cannot differ.

use std::collections::{BTreeMap, HashMap};

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    resource::v1::Resource,
};
use prost::Message as _;

use super::{Facts, Options, SCHEMA_URL, resource, unix_ns};
use crate::{
    registry::{Noted, Snapshot},
    signal::{AttributeValue, Entity},
};

/// The request that carries events, in order within each resource; `of_agent` are the attributes of the agent's
/// own.
#[must_use]
pub fn request(
    events: &[Noted],
    described: &Snapshot,
    of_agent: &BTreeMap<String, String>,
    options: &Options,
) -> ExportLogsServiceRequest {
    let facts = Facts::of(described);
    let positions: HashMap<&Entity, u32> =
        described.entities.iter().zip(0..).map(|(state, at)| (&*state.entity, at)).collect();
    let mut resources: Vec<(Option<&Entity>, Vec<KeyValue>, ResourceLogs)> = Vec::new();
    for event in events {
        let entity = event.entity.as_ref();
        let at = resources.iter().position(|(known, ..)| *known == entity).unwrap_or_else(|| {
            let node = &*described.node;
            let (resource, identity) = match entity {
                None => (agent(of_agent), Vec::new()),
                Some(entity) => {
                    let fact = |label: &str| facts.get(described, *positions.get(entity)?, label);
                    let resource = decoded(|out| resource::write(out, entity, node, fact, options));
                    let identity = decoded(|out| resource::record_identity(out, entity, node, fact, options));
                    (resource, identity.attributes)
                }
            };
            resources.push((entity, identity, resource_logs(resource)));
            resources.len() - 1
        });
        if let Some((_, identity, logs)) = resources.get_mut(at)
            && let Some(scope) = logs.scope_logs.first_mut()
        {
            let mut record = record(event);
            record.attributes.splice(..0, identity.iter().cloned());
            scope.log_records.push(record);
        }
    }
    ExportLogsServiceRequest { resource_logs: resources.into_iter().map(|(.., logs)| logs).collect() }
}

fn record(event: &Noted) -> LogRecord {
    let Noted { kind, at, noticed, attributes, .. } = event;
    LogRecord {
        time_unix_nano: unix_ns(*at),
        observed_time_unix_nano: unix_ns(*noticed),
        severity_number: i32::from(kind.severity.number()),
        severity_text: kind.severity.text().to_owned(),
        // For those who show no more of a record than its body.
        body: Some(text(kind.about)),
        attributes: attributes.iter().map(|(attribute, value)| key_value(attribute.name, any(value))).collect(),
        event_name: kind.name.to_owned(),
        ..LogRecord::default()
    }
}

fn resource_logs(resource: Resource) -> ResourceLogs {
    let scope = InstrumentationScope {
        name: "podlens".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records: Vec::new(), schema_url: SCHEMA_URL.to_owned() }];
    ResourceLogs { resource: Some(resource), scope_logs, schema_url: SCHEMA_URL.to_owned() }
}

/// What the encoder of metrics writes of a resource is one.
fn decoded(write: impl FnOnce(&mut Vec<u8>)) -> Resource {
    let mut bytes = Vec::new();
    write(&mut bytes);
    Resource::decode(bytes.as_slice()).unwrap_or_default()
}

fn agent(attributes: &BTreeMap<String, String>) -> Resource {
    let attributes = attributes.iter().map(|(key, value)| key_value(key, text(value))).collect();
    Resource { attributes, ..Resource::default() }
}

fn any(value: &AttributeValue) -> AnyValue {
    match value {
        AttributeValue::Text(words) => text(words),
        AttributeValue::Integer(number) => AnyValue { value: Some(Value::IntValue(*number)) },
        AttributeValue::Entity(entity) => text(&entity.to_string()),
    }
}

fn text(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.to_owned())) }
}

fn key_value(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::{
        config::Identity,
        export::fixture::{CONTAINER_INFO, POD_INFO, container, state},
        registry::{Info, Snapshot},
        signal::{Attribute, EventKind, Severity},
    };

    static CODE: Attribute = Attribute { name: "process.exit.code", about: "" };
    static WORD: Attribute = Attribute { name: "podlens.word", about: "" };
    static KIND: EventKind = EventKind {
        name: "test.happened",
        severity: Severity::Warn,
        about: "Something happened",
        entity: "",
        attributes: &[&CODE, &WORD],
        source: "",
    };

    fn noted(sequence: u64, entity: Option<&Entity>) -> Noted {
        Noted {
            sequence,
            kind: &KIND,
            at: UNIX_EPOCH + Duration::from_nanos(sequence),
            noticed: UNIX_EPOCH + Duration::from_secs(1),
            entity: entity.cloned(),
            attributes: vec![(&CODE, 137.into()), (&WORD, "OOMKilled".into())],
        }
    }

    fn described(entities: &[Entity]) -> Snapshot {
        Snapshot {
            sequence: 0,
            taken: UNIX_EPOCH,
            node: "node-1".into(),
            entities: std::sync::Arc::new(entities.iter().cloned().map(state).collect()),
            sections: Vec::new(),
            infos: vec![
                Info {
                    metric: &POD_INFO,
                    entity: 0,
                    labels: vec![("workload", "web".into()), ("workload_type", "deployment".into())],
                },
                Info { metric: &CONTAINER_INFO, entity: 0, labels: vec![("image", "shop/web:3".into())] },
            ]
            .into(),
        }
    }

    fn attributes(of: &[KeyValue]) -> Vec<(String, String)> {
        let shown = |value: &AnyValue| match value.value.as_ref().unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::ArrayValue(list) => format!("{:?}", list.values.len()),
            other => format!("{other:?}"),
        };
        of.iter().map(|one| (one.key.clone(), shown(one.value.as_ref().unwrap()))).collect()
    }

    #[test]
    fn a_record_tells_its_event_by_name_when_it_was_and_when_it_was_noticed() {
        let web = container("shop", "web-0", "app");
        let described = described(std::slice::from_ref(&web));
        let request = request(&[noted(7, Some(&web))], &described, &BTreeMap::new(), &Options::default());
        let scope = &request.resource_logs[0].scope_logs[0];
        assert_eq!(scope.scope.as_ref().unwrap().name, "podlens");
        let record = &scope.log_records[0];
        assert_eq!((record.event_name.as_str(), record.severity_number), ("test.happened", 13));
        assert_eq!((record.time_unix_nano, record.observed_time_unix_nano), (7, 1_000_000_000));
        let expected = [("process.exit.code", "137"), ("podlens.word", "OOMKilled")];
        assert_eq!(attributes(&record.attributes), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn an_entitys_names_are_on_its_records_where_that_is_asked_for() {
        let web = container("shop", "web-0", "app");
        let of = |identity: Identity| {
            let options = Options { identity, ..Options::default() };
            let described = described(std::slice::from_ref(&web));
            let request =
                request(&[noted(1, Some(&web)), noted(2, None)], &described, &BTreeMap::new(), &options).resource_logs;
            let record = attributes(&request[0].scope_logs[0].log_records[0].attributes);
            let keys: Vec<String> = record.iter().map(|(key, _)| key.clone()).collect();
            let of_agent = request[1].scope_logs[0].log_records[0].attributes.len();
            assert_eq!(of_agent, 2, "the agent's own record has no entity");
            let resource = attributes(&request[0].resource.as_ref().unwrap().attributes);
            let has_pod = |of: &[(String, String)]| of.contains(&("k8s.pod.name".to_owned(), "web-0".to_owned()));
            (has_pod(&resource), has_pod(&record), keys.last().cloned())
        };
        let last = Some("podlens.word".to_owned());
        assert_eq!(of(Identity::Resource), (true, false, last.clone()));
        assert_eq!(of(Identity::Both), (true, true, last.clone()));
        assert_eq!(of(Identity::Attributes), (false, true, last));
    }

    #[test]
    fn the_resource_is_the_entitys_with_its_facts_and_each_is_there_once() {
        let (web, unit) = (container("shop", "web-0", "app"), Entity::unit("docker/3f1b0c5a9d7e"));
        let events = [noted(1, Some(&web)), noted(2, Some(&unit)), noted(3, Some(&web)), noted(4, None)];
        let own = crate::export::own::resource_attributes("node-1", &BTreeMap::new(), None);
        let request = request(&events, &described(&[web, unit]), &own, &Options::default());
        let times: Vec<Vec<u64>> = request
            .resource_logs
            .iter()
            .map(|logs| logs.scope_logs[0].log_records.iter().map(|record| record.time_unix_nano).collect())
            .collect();
        assert_eq!(times, [vec![1, 3], vec![2], vec![4]]);
        let of = |at: usize, key: &str| {
            let all = attributes(&request.resource_logs[at].resource.as_ref().unwrap().attributes);
            all.into_iter().find(|(known, _)| known == key).map(|(_, value)| value)
        };
        for (key, value) in [
            ("k8s.node.name", "node-1"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", "web-0"),
            ("k8s.container.name", "app"),
            ("k8s.deployment.name", "web"),
            ("container.image.name", "shop/web"),
        ] {
            assert_eq!(of(0, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(of(0, "container.id").map(|id| id.len()), Some(64));
        assert_eq!(of(1, "podlens.unit").as_deref(), Some("docker/3f1b0c5a9d7e"));
        assert_eq!(of(2, "service.name").as_deref(), Some("podlens"));
        assert_eq!(of(2, "service.instance.id").as_deref(), Some("node-1"));
    }
}
