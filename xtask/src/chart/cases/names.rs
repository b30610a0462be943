//! Names, labels and annotations of the objects.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Context, same};
use crate::chart::{
    Request,
    helm::{Objects, text},
};

/// Everything that the chart can make, so that everything has a name.
const EVERYTHING: &str = "{ podMonitor: { enabled: true }, networkPolicy: { enabled: true },
    rules: { enabled: true }, dashboards: { enabled: true },
    securityContextConstraints: { create: true }, serviceAccount: { create: true }, fleet: { enabled: true } }";

pub(super) fn every_release(context: &Context<'_>) -> Result<()> {
    let long = "a".repeat(52) + "-";
    for release in [
        "podlens",
        "podlens-0.1.0",
        "test.podlens",
        "a.b.c",
        "1st",
        "1.podlens",
        // What YAML takes for something else than text.
        "1234",
        "1e3",
        "true",
        "null",
        long.trim_end_matches('-'),
        &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", ".b"].concat(),
    ] {
        for namespace in ["podlens", "1234", &"9".repeat(63)] {
            let request = Request { release, namespace, values: EVERYTHING, ..Request::DEFAULT };
            valid(&context.helm.objects(&request)?).with_context(|| format!("release {release} in {namespace}"))?;
        }
    }
    let name = format!("nameOverride: a{}b", "-".repeat(61));
    for values in [&name, "fullnameOverride: 'true'", "nameOverride: 'no'"] {
        valid(&context.objects(values)?).with_context(|| values.to_owned())?;
    }
    Ok(())
}

/// Every name is a DNS label, as the strictest kind (Service) wants it, and every label's value is valid.
fn valid(objects: &Objects) -> Result<()> {
    for object in &objects.0 {
        let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
        let inner = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if name.len() > 63 || !inner || !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.ends_with('-') {
            bail!("{kind} has the name {:?}", object.pointer("/metadata/name"));
        }
        if object.pointer("/metadata/namespace").is_some_and(|namespace| !namespace.is_string()) {
            bail!("{kind} has a namespace that is no text");
        }
    }
    for pointer in
        ["/metadata/labels", "/spec/selector", "/spec/selector/matchLabels", "/spec/template/metadata/labels"]
    {
        for (object, labels) in objects.0.iter().filter_map(|object| Some((object, object.pointer(pointer)?))) {
            for (key, value) in labels.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object()) {
                let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
                let good = |value: &str| value.len() <= 63 && end(value.chars().next()) && end(value.chars().last());
                if !value.as_str().is_some_and(good) {
                    bail!("{} has the label {key}: {value}", text(object, "/kind"));
                }
            }
        }
    }
    Ok(())
}

pub(super) fn labels(context: &Context<'_>) -> Result<()> {
    let objects = context.objects(
        "{ commonLabels: { app.kubernetes.io/managed-by: Flux, app.kubernetes.io/instance: other, team: a },
           podLabels: { app.kubernetes.io/name: other, app.kubernetes.io/version: '2', team: b },
           podMonitor: { enabled: true, labels: { app.kubernetes.io/name: other, team: c } } }",
    )?;
    let managers = objects.0.iter().map(|object| label(object, "app.kubernetes.io/managed-by"));
    if !managers.clone().all(|manager| manager == "Flux") {
        bail!("not every object has the user's label: {:?}", managers.collect::<Vec<_>>());
    }
    let daemon_set = objects.one("DaemonSet")?;
    let selector = daemon_set.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let template = daemon_set.pointer("/spec/template").context("the DaemonSet has no pods")?;
    for (key, value) in selector.context("the DaemonSet has no selector")? {
        same(key, &label(template, key), &value.as_str().unwrap_or_default())?;
    }
    same("the pods' team", &label(template, "team"), &"b")?;
    same("the pods' version", &label(template, "app.kubernetes.io/version"), &"2")?;
    same("the monitor's team", &label(objects.one("PodMonitor")?, "team"), &"c")?;
    same("the test's team", &label(objects.one("Pod")?, "team"), &"a")?;
    same("the test's name", &label(objects.one("Pod")?, "app.kubernetes.io/name"), &"podlens-test")
}

pub(super) fn annotations(context: &Context<'_>) -> Result<()> {
    let objects = context.objects(
        "{ scrapeAnnotations: true, podAnnotations: { prometheus.io/scrape: 'false', prometheus.io/port: '1',
           checksum/config: mine, kubectl.kubernetes.io/default-container: other } }",
    )?;
    let found = |key: &str| {
        let annotations = objects.agent("/metadata/annotations").ok()?;
        annotations.get(key).and_then(Value::as_str)
    };
    same("scrape", &found("prometheus.io/scrape"), &Some("false"))?;
    same("port", &found("prometheus.io/port"), &Some("1"))?;
    same("path", &found("prometheus.io/path"), &Some("/metrics"))?;
    same("the default container", &found("kubectl.kubernetes.io/default-container"), &Some("other"))?;
    if found("checksum/config").is_none_or(|checksum| checksum == "mine") {
        bail!("agents would not restart for another configuration");
    }
    Ok(())
}

fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str).unwrap_or_default()
}
