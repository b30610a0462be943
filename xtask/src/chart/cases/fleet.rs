//! The Deployment that watches `DaemonSets`: what its pods are allowed, that agents do not take them for theirs, and that they
//! serve as agents do.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Context, same};
use crate::chart::helm::text;

pub(super) fn least(context: &Context<'_>) -> Result<()> {
    same("whether there is a Deployment by default", &context.objects("{}")?.one("Deployment").is_ok(), &false)?;
    let objects = context.objects("{ fleet: { enabled: true }, podMonitor: { enabled: true } }")?;
    let pod = objects.one("Deployment")?.pointer("/spec/template").context("the Deployment has no template")?;
    let container = "/spec/containers/0";
    let security = pod.pointer(&format!("{container}/securityContext")).context("no securityContext")?;
    same("capabilities", &security.get("capabilities"), &Some(&json!({ "drop": ["ALL"] })))?;
    same("runAsNonRoot", &pod.pointer("/spec/securityContext/runAsNonRoot"), &Some(&json!(true)))?;
    for volume in pod.pointer("/spec/volumes").and_then(Value::as_array).context("no volumes")? {
        same("the volume's kind", &volume.get("configMap").is_some(), &true)?;
    }
    // Of what all namespaces have it may list and watch, and of Leases have its own.
    let name = text(objects.one("Deployment")?, "/metadata/name").to_owned();
    for object in objects.0.iter().filter(|object| text(object, "/metadata/name") == name) {
        let rules = object.get("rules").and_then(Value::as_array).into_iter().flatten();
        for rule in rules {
            let verbs = rule.get("verbs").context("a rule without verbs")?;
            let allowed = match text(object, "/kind") {
                "ClusterRole" => *verbs == json!(["list", "watch"]),
                _ => *verbs == json!(["get", "update"]) && rule.get("resourceNames") == Some(&json!([name])),
            };
            if !allowed {
                bail!("{} allows {rule}", text(object, "/kind"));
            }
        }
    }
    let arguments = pod.pointer(&format!("{container}/args")).context("no arguments")?.to_string();
    same("the Lease's name", &text(objects.one("Lease")?, "/metadata/name"), &name.as_str())?;
    same("whether the Lease is the one of the role", &arguments.contains(&format!("--lease=podlens/{name}")), &true)?;
    // Each selector finds pods of one kind.
    let agents = objects.agent("/metadata/labels")?;
    let fleet = pod.pointer("/metadata/labels").context("no labels")?;
    let finds = |selector: &Value, labels: &Value| {
        selector.as_object().is_some_and(|all| all.iter().all(|(key, value)| labels.get(key) == Some(value)))
    };
    let mut selectors = 0;
    for place in ["/spec/selector/matchLabels", "/spec/selector", "/spec/podSelector/matchLabels"] {
        for object in &objects.0 {
            let Some(selector) = object.pointer(place).filter(|one| one.get("matchLabels").is_none()) else { continue };
            selectors += 1;
            let found = (finds(selector, agents), finds(selector, fleet));
            if found == (true, true) || found == (false, false) {
                bail!("{} {} finds {found:?}", text(object, "/kind"), text(object, "/metadata/name"));
            }
        }
    }
    same("whether there are selectors to try", &(selectors > 4), &true)
}

pub(super) fn serves_as_agents_do(context: &Context<'_>) -> Result<()> {
    let trusts = "tlsConfig: { ca: { secret: { name: a, key: ca.crt } } }, ";
    for (web, tls) in [
        ("{ existingSecret: a }", trusts),
        ("{ existingSecret: a, key: b, healthPort: 1 }", trusts),
        ("{ existingSecret: a, healthPort: 0 }", trusts),
        ("{ existingSecret: a, healthPort: 0, tls: false }", ""),
    ] {
        let monitor =
            format!("podMonitor: {{ enabled: true, {tls}authorization: {{ credentials: {{ name: a, key: b }} }} }}");
        let more = "fleet: { enabled: true }, networkPolicy: { enabled: true }, scrapeAnnotations: true";
        let objects = context.objects(&format!("{{ web: {web}, {monitor}, {more} }}"))?;
        let named = |kind: &str, is_fleet: bool| {
            let is_it = |object: &&Value| {
                text(object, "/kind") == kind && text(object, "/metadata/name").ends_with("-fleet") == is_fleet
            };
            objects.0.iter().find(is_it).with_context(|| format!("no {kind} with {web}"))
        };
        let (agents, fleet) = (named("DaemonSet", false)?, named("Deployment", true)?);
        let pod = "/spec/template/spec/containers/0";
        for place in [
            "/spec/template/metadata/annotations/prometheus.io~1scheme".to_owned(),
            "/spec/template/metadata/annotations/prometheus.io~1port".to_owned(),
            format!("{pod}/ports"),
            format!("{pod}/readinessProbe/httpGet"),
            format!("{pod}/livenessProbe/httpGet"),
        ] {
            same(&format!("{place} with {web}"), &fleet.pointer(&place), &agents.pointer(&place))?;
        }
        for member in ["scheme", "tlsConfig", "authorization"] {
            let of = |is_fleet| {
                named("PodMonitor", is_fleet).map(|one| one.pointer("/spec/podMetricsEndpoints/0")?.get(member))
            };
            same(&format!("{member} with {web}"), &of(true)?, &of(false)?)?;
        }
        let ports = |is_fleet| named("NetworkPolicy", is_fleet).map(|one| one.pointer("/spec/ingress/1/ports"));
        same(&format!("the open port with {web}"), &ports(true)?, &ports(false)?)?;
        let file = |is_fleet| -> Result<Value> {
            let file = text(named("ConfigMap", is_fleet)?, "/data/config.yaml");
            serde_saphyr::from_str(file).map_err(|error| anyhow::anyhow!("the configuration is bad YAML: {error}"))
        };
        for key in ["web", "health_listen"] {
            same(&format!("{key} with {web}"), &file(true)?.get(key), &file(false)?.get(key))?;
        }
        let secret = |pod: &Value| pod.pointer("/spec/template/spec/volumes/1/secret").cloned();
        same("the Secret", &secret(fleet), &secret(agents))?;
        // Who is not root reads it by its group.
        let group = fleet.pointer("/spec/template/spec/securityContext/fsGroup").and_then(Value::as_u64);
        same("the group of its files", &group, &Some(65_532))?;
    }
    Ok(())
}
