//! Values as users write them: null, from an older chart, without effect, and numbers where text is meant.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Context, same};
use crate::chart::{documents, helm::text};

const OLDER_VALUES: &str = include_str!("older-values.yaml");
/// What charts since then have.
const NEWER: &[&str] = &["virtualNodes", "seccompProfile", "securityContextConstraints", "web"];

pub(super) fn nulls(context: &Context<'_>) -> Result<()> {
    let defaults = context.objects("{}")?;
    let paths = documents::paths(context.values);
    for path in &paths {
        let rendered = context.objects(&at(path, &Value::Null).to_string())?;
        if !documents::is_removable(path) && rendered != defaults {
            bail!("{} is null, and the chart renders something else than with its default", path.join("."));
        }
    }
    let groups = paths.iter().filter(|path| path.len() == 1).map(|path| (path.join("."), Value::Null));
    context.objects(&Value::Object(groups.collect()).to_string())?;
    let agent = context.objects("resources: { limits: { memory: null } }")?;
    same(
        "a memory limit of null",
        &agent.agent("/spec/containers/0/resources/limits").ok().cloned(),
        &Some(json!({})),
    )?;
    let empty = context.objects("config: { linger: null, otlp: { headers: null }, kubernetes: null }")?;
    for key in ["/linger", "/otlp/headers", "/kubernetes"] {
        same(&format!("{key}, which is null in config,"), &empty.configuration()?.pointer(key), &None)?;
    }
    Ok(())
}

/// Values with this one at this path.
fn at(path: &[&str], value: &Value) -> Value {
    path.iter().rev().fold(value.clone(), |inner, key| json!({ *key: inner }))
}

pub(super) fn older(context: &Context<'_>) -> Result<()> {
    let mut values: Value =
        serde_saphyr::from_str(OLDER_VALUES).map_err(|error| anyhow::anyhow!("older-values.yaml is bad: {error}"))?;
    let map = values.as_object_mut().context("older-values.yaml is no map")?;
    for newer in NEWER {
        // Null, since helm gives the chart's own default where a key is missing and --reuse-values is not used.
        map.insert((*newer).to_owned(), Value::Null);
    }
    let (older, now) = (context.objects(&values.to_string())?, context.objects("{}")?);
    same(
        "the seccomp profile",
        older.agent("/spec/securityContext/seccompProfile")?,
        now.agent("/spec/securityContext/seccompProfile")?,
    )?;
    let affinity = older.agent("/spec/affinity")?.to_string();
    if !affinity.contains("fargate") {
        bail!("the values of an older chart bring agents to virtual nodes: {affinity}");
    }
    Ok(())
}

/// A template must never meet a value that it cannot handle: the schema refuses it, with its place.
pub(super) fn shapes(context: &Context<'_>) -> Result<()> {
    let defaults: Value =
        serde_saphyr::from_str(context.values).map_err(|error| anyhow::anyhow!("values.yaml is bad: {error}"))?;
    let mut paths = documents::paths(context.values);
    paths.retain(|path| {
        let default = defaults.pointer(&format!("/{}", path.join("/")));
        default.is_some_and(|default| default.is_object() || default.is_array())
    });
    let required = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    paths.extend((2..=required.len()).filter_map(|depth| required.get(..depth)).map(<[_]>::to_vec));
    paths.extend([&["config", "otlp"][..], &["config", "kubernetes"], &["config", "log"]].map(<[_]>::to_vec));
    paths.extend([["config", "otlp", "headers"], ["config", "otlp", "endpoint"]].map(Vec::from));
    paths.extend([["config", "kubernetes", "source"], ["config", "kubernetes", "bundle_root"]].map(Vec::from));
    for path in &paths {
        for shape in [json!(true), json!({ "a": null }), json!([null]), json!([{ "a": null }])] {
            // Bundles, so that what belongs to them is read as well.
            let mut values = json!({ "names": { "bundles": { "enabled": true } } });
            merge(&mut values, at(path, &shape));
            let values = values.to_string();
            let Err(error) = context.objects(&values) else { continue };
            let error = format!("{error:#}");
            // The second is what helm says of a sentence of the chart itself.
            if !error.contains("meet the specifications of the schema") && !error.contains("execution error at") {
                bail!("{error}");
            }
        }
    }
    Ok(())
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

pub(super) fn notes(context: &Context<'_>) -> Result<()> {
    for (values, collected) in [
        ("{}", false),
        ("extraEnv: [{ name: PODLENS_LOG_LEVEL, value: debug }]", false),
        ("podMonitor: { enabled: true }", true),
        ("scrapeAnnotations: true", true),
        ("otlp: { endpoint: 'http://a:4317' }", true),
        ("config: { otlp: { endpoint: 'http://a:4317' } }", true),
        ("extraEnv: [{ name: PODLENS_OTLP_ENDPOINT, value: 'http://[$(HOST_IP)]:4317' }]", true),
        ("extraEnv: [{ name: OTEL_EXPORTER_OTLP_ENDPOINT, value: 'http://a:4317' }]", true),
        ("extraEnv: [{ name: OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, value: 'http://a:4317' }]", true),
    ] {
        let notes = context.helm.notes(values)?;
        same(&format!("collected with {values}"), &!notes.contains("Nothing collects the metrics yet"), &collected)?;
    }
    Ok(())
}

pub(super) fn refused(context: &Context<'_>) -> Result<()> {
    for (values, sentence) in [
        ("config: { listen: '127.0.0.1:9464' }", "config.listen has no effect"),
        ("config: { node: worker-1 }", "config.node has no effect"),
        ("extraArgs: [--node=x]", "extraArgs must not contain --node"),
        ("extraArgs: [--node, x]", "extraArgs must not contain --node"),
        ("extraArgs: ['--listen=[::]:1']", "extraArgs must not contain --listen"),
        ("extraArgs: [--config=/etc/x]", "extraArgs must not contain --config"),
        ("extraEnv: [{ name: PODLENS_LISTEN, value: '[::]:1' }]", "extraEnv must not contain PODLENS_LISTEN"),
        ("extraEnv: [{ name: PODLENS_NODE, value: x }]", "extraEnv must not contain PODLENS_NODE"),
        ("extraEnv: [{ name: PODLENS_CONFIG, value: /x }]", "extraEnv must not contain PODLENS_CONFIG"),
        ("extraEnv: [{ name: PODLENS_KUBERNETES_SOURCE, value: api }]", "set names.source"),
        ("extraEnv: [{ name: NODE_NAME, value: x }]", "extraEnv must not contain NODE_NAME"),
        (
            "{ otlp: { endpoint: 'http://a:4317' }, extraEnv: [{ name: PODLENS_OTLP_ENDPOINT, value: 'http://b:4317' }] }",
            "would overrule otlp.endpoint",
        ),
        (
            "{ otlp: { endpoint: 'http://a:4317' }, config: { otlp: { endpoint: 'http://b:4317' } } }",
            "set one of the two",
        ),
        ("{ names: { source: api }, config: { kubernetes: { source: none } } }", "set names.source alone"),
        ("names: { source: bundle }", "needs names.bundles.enabled"),
        ("config: { kubernetes: { source: bundle } }", "needs names.bundles.enabled"),
        (
            "{ names: { bundles: { enabled: true } }, config: { kubernetes: { bundle_root: /elsewhere } } }",
            "config.kubernetes.bundle_root",
        ),
        ("names: { bundles: { hostPath: /run } }", "/names/bundles/hostPath"),
        ("seccompProfile: { type: Localhost }", "seccompProfile.localhostProfile"),
        ("appArmorProfile: { type: Localhost }", "appArmorProfile.localhostProfile"),
        ("fullnameOverride: 1st.podlens", "/fullnameOverride"),
        ("nameOverride: pod.lens", "/nameOverride"),
        ("config: { web: { config_file: /x } }", "set web.existingSecret"),
        ("config: { health_listen: '[::]:1' }", "set web.healthPort"),
        ("extraArgs: [--web.config.file=/x]", "extraArgs must not contain --web.config.file"),
        ("extraArgs: [--health-listen, '[::]:1']", "extraArgs must not contain --health-listen"),
        ("extraEnv: [{ name: PODLENS_WEB_CONFIG_FILE, value: /x }]", "set web.existingSecret"),
        ("podMonitor: { tlsConfig: { insecureSkipVerify: true } }", "podMonitor.tlsConfig has no effect without TLS"),
        ("serviceMonitor: { basicAuth: { username: { name: a, key: b } } }", "since agents ask nobody"),
        (
            "{ web: { existingSecret: a }, podMonitor: { basicAuth: { username: {} }, authorization: { type: Bearer } } }",
            "the operator refuses that",
        ),
        ("web: { existingSecret: a, healthPort: 9464 }", "web.healthPort and metrics.port are the same"),
        ("web: { existingSecret: A_b }", "/web/existingSecret"),
        ("{ fleet: { enabled: true }, web: { key: other.yaml } }", "without web.existingSecret"),
        ("{ fleet: { enabled: true }, web: { healthPort: 9000 } }", "without web.existingSecret"),
        ("{ fleet: { enabled: true }, web: { existingSecrets: a } }", "additional properties 'existingSecrets'"),
        ("{ fleet: { enabled: true }, web: { existingSecret: a, key: ../web.yaml } }", "/web/key"),
        ("{ fleet: { enabled: true }, web: { existingSecret: a, healthPort: 70000 } }", "/web/healthPort"),
        ("{ fleet: { enabled: true }, web: { existingSecret: a, tls: 'true' } }", "/web/tls"),
        (
            "{ fleet: { enabled: true }, web: { existingSecret: a }, serviceMonitor: { enabled: true } }",
            "serviceMonitor.tlsConfig is empty",
        ),
        (
            "{ fleet: { enabled: true }, web: { existingSecret: a }, tests: { url: 'http://10.0.0.5:9464' } }",
            "let it begin with https://",
        ),
        ("tests: { url: 'https://10.0.0.5:9464' }", "let it begin with http://"),
        (
            "{ fleet: { enabled: true }, extraVolumeMounts: [{ name: ca, mountPath: /etc/ca/ }],
               config: { otlp: { certificate: /etc/ca/ca.crt } } }",
            "mounted into the agents and not into the fleet",
        ),
        ("fleet: { enabled: yes please }", "/fleet/enabled"),
        ("fleet: { enable: true }", "additional properties 'enable'"),
        ("fleet: { enabled: true, replicas: 0 }", "/fleet/replicas"),
        ("metrics: { address: localhost }", "/metrics/address"),
        ("metrics: { address: 127.0.0.1 }", "metrics.address is 127.0.0.1"),
        ("metrics: { address: '[::1]' }", "metrics.address is ::1"),
    ] {
        match context.objects(values) {
            Ok(_) => bail!("`{values}` is accepted"),
            Err(error) if format!("{error:#}").contains(sentence) => {}
            Err(error) => bail!("`{values}` is not refused with `{sentence}`, but with {error:#}"),
        }
    }
    Ok(())
}

pub(super) fn numbers(context: &Context<'_>) -> Result<()> {
    for number in ["12345678901234567890", "12e5", "0x10", "1.50", "yes"] {
        // YAML 1.1 takes each for something else than text.
        for place in ["otlp: { headers: { x-scope: VALUE } }", "linger: VALUE", "otlp: { endpoint: VALUE }"] {
            let values = format!("config: {{ {} }}", place.replace("VALUE", number));
            // A truth value is as good as its text wherever no free text is meant.
            if (number != "yes" || place.contains("headers")) && context.objects(&values).is_ok() {
                bail!("`{values}` is accepted");
            }
        }
        let quoted = format!("config: {{ otlp: {{ headers: {{ x-scope: '{number}' }} }} }}");
        let configuration = context.objects(&quoted)?.configuration()?;
        same("a quoted header", &text(&configuration, "/otlp/headers/x-scope"), &number)?;
    }
    let configuration = context.objects("config: { slots: 4096, collectors: { cpu: false } }")?.configuration()?;
    same("a number that is one", &configuration.pointer("/slots"), &Some(&json!(4096)))?;
    same("a truth value", &configuration.pointer("/collectors/cpu"), &Some(&json!(false)))?;
    // Numbers in a values file are floating point to a template, which prints these with an exponent.
    let large = "{ minReadySeconds: 10000000, terminationGracePeriodSeconds: 20000000, metrics: { port: 65535 },
        probes: { startup: { periodSeconds: 30000000, failureThreshold: 40000000 } } }";
    let rendered = context.helm.text(&crate::chart::Request { values: large, ..crate::chart::Request::DEFAULT })?;
    for wanted in ["minReadySeconds: 10000000\n", "Seconds: 20000000\n", "Seconds: 30000000\n", "Threshold: 40000000\n"]
    {
        if !rendered.contains(wanted) {
            bail!("no `{}` for {large}", wanted.trim());
        }
    }
    Ok(())
}
