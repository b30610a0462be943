//! Where the agents' pods run, what they see and what they are allowed.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Context, same};
use crate::chart::{
    Request,
    helm::{Objects, text},
};

const SECURITY: &str = "/spec/containers/0/securityContext";

pub(super) fn addresses(context: &Context<'_>) -> Result<()> {
    for (address, wanted) in [
        ("", "--listen=[::]:9464"),
        ("'::'", "--listen=[::]:9464"),
        ("'[::]'", "--listen=[::]:9464"),
        ("0.0.0.0", "--listen=0.0.0.0:9464"),
        ("10.0.0.5", "--listen=10.0.0.5:9464"),
        ("'fd00::5'", "--listen=[fd00::5]:9464"),
    ] {
        let objects = context.objects(&format!("metrics: {{ address: {address} }}"))?;
        let arguments = objects.agent("/spec/containers/0/args")?.as_array().context("args is no list")?;
        let listen = arguments.iter().filter_map(Value::as_str).find(|argument| argument.starts_with("--listen"));
        same(&format!("the argument for address {address}"), &listen, &Some(wanted))?;
        // Kubelet asks the pod's own address, whichever family it has.
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let request = objects.agent(&format!("/spec/containers/0/{probe}/httpGet"))?;
            same(&format!("the host of {probe}"), &request.get("host"), &None)?;
        }
    }
    Ok(())
}

/// The kubelet has neither credentials nor a certificate: it must get an answer whatever the web configuration asks for.
pub(super) fn probes(context: &Context<'_>) -> Result<()> {
    for (values, port, scheme, health) in [
        ("{}", "metrics", None, None),
        ("web: { existingSecret: a }", "health", None, Some("[::]:9465")),
        (
            "{ web: { existingSecret: a, healthPort: 1 }, metrics: { address: 10.0.0.5 } }",
            "health",
            None,
            Some("10.0.0.5:1"),
        ),
        ("web: { existingSecret: a, healthPort: 0 }", "metrics", Some("HTTPS"), None),
        ("web: { existingSecret: a, healthPort: 0, tls: false }", "metrics", None, None),
    ] {
        let objects = context.objects(values)?;
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let request = objects.agent(&format!("/spec/containers/0/{probe}/httpGet"))?;
            same(&format!("the port of {probe} with {values}"), &text(request, "/port"), &port)?;
            same(
                &format!("the scheme of {probe} with {values}"),
                &request.get("scheme"),
                &scheme.map(|text| json!(text)).as_ref(),
            )?;
        }
        let configuration = objects.configuration()?;
        let listen = configuration.get("health_listen").and_then(Value::as_str);
        same(&format!("health_listen with {values}"), &listen, &health)?;
    }
    Ok(())
}

pub(super) fn virtual_nodes(context: &Context<'_>) -> Result<()> {
    let ordinary = [json!({}), json!({ "type": "worker", "node.kubernetes.io/instance-type": "m5.large" })];
    let virtual_ones = [
        json!({ "eks.amazonaws.com/compute-type": "fargate" }),
        json!({ "type": "virtual-kubelet", "kubernetes.io/role": "agent" }),
        json!({ "virtualization": "virtualnode2" }),
        json!({ "node-role.kubernetes.io/virtual-node": "" }),
        json!({ "node.kubernetes.io/instance-type": "eklet" }),
        json!({ "liqo.io/type": "virtual-node" }),
        json!({ "type": "kwok" }),
    ];
    let two_terms = "affinity: { podAntiAffinity: {}, nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: {
        nodeSelectorTerms: [{ matchExpressions: [{ key: liqo.io/type, operator: DoesNotExist }] },
                            { matchExpressions: [{ key: no, operator: DoesNotExist }] }] } } }";
    for values in ["{}", two_terms, "affinity: null"] {
        let objects = context.objects(values)?;
        let agent = objects.agent("/spec")?;
        let test = objects.one("Pod")?.pointer("/spec").context("the test's pod has no specification")?;
        for (whose, pod) in [("the agent", agent), ("the test", test)] {
            for node in &ordinary {
                same(&format!("whether {whose} may run on {node} with {values}"), &admits(pod, node)?, &true)?;
            }
            for node in &virtual_ones {
                same(&format!("whether {whose} may run on {node} with {values}"), &admits(pod, node)?, &false)?;
            }
        }
    }
    let all = context.objects("virtualNodes: []")?;
    same("an affinity without virtualNodes", &all.agent("/spec/affinity").is_err(), &true)
}

/// Whether a pod's required node affinity admits a node with these labels.
fn admits(pod: &Value, node: &Value) -> Result<bool> {
    let place = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = pod.pointer(place).and_then(Value::as_array).context("the pod has no node affinity")?;
    for term in terms {
        let expressions = term.pointer("/matchExpressions").and_then(Value::as_array);
        let mut all = true;
        for expression in expressions.context("a term has no expressions")? {
            let found = node.get(text(expression, "/key"));
            let listed = expression.pointer("/values").and_then(Value::as_array);
            all &= match text(expression, "/operator") {
                "NotIn" => found.is_none_or(|found| listed.is_none_or(|listed| !listed.contains(found))),
                "DoesNotExist" => found.is_none(),
                operator => bail!("this check does not know the operator {operator}"),
            };
        }
        if all {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn profiles(context: &Context<'_>) -> Result<()> {
    let local = json!({ "type": "Localhost", "localhostProfile": "podlens.json" });
    for wanted in [json!({ "type": "RuntimeDefault" }), json!({ "type": "Unconfined" }), local] {
        let objects = context.objects(&json!({ "seccompProfile": wanted }).to_string())?;
        same("the seccomp profile", objects.agent("/spec/securityContext/seccompProfile")?, &wanted)?;
    }
    let annotation = |objects: &Objects| {
        let annotations = objects.agent("/metadata/annotations").ok()?;
        Some(annotations.get("container.apparmor.security.beta.kubernetes.io/podlens")?.as_str()?.to_owned())
    };
    for (profile, name) in [
        (json!({ "type": "Unconfined" }), "unconfined"),
        (json!({ "type": "RuntimeDefault" }), "runtime/default"),
        (json!({ "type": "Localhost", "localhostProfile": "podlens" }), "localhost/podlens"),
    ] {
        let values = json!({ "appArmorProfile": profile }).to_string();
        for (kubernetes, is_field) in [("1.29.9", false), ("1.30.0-gke.1", true), ("1.34.0", true)] {
            let objects = context.helm.objects(&Request { kubernetes, values: &values, ..Request::DEFAULT })?;
            let field = objects.agent(SECURITY)?.get("appArmorProfile").cloned();
            same(&format!("the field in {kubernetes}"), &field, &is_field.then(|| profile.clone()))?;
            let wanted = (!is_field).then(|| name.to_owned());
            same(&format!("the annotation in {kubernetes}"), &annotation(&objects), &wanted)?;
        }
    }
    same("the annotation without a profile", &annotation(&context.objects("{}")?), &None)
}

pub(super) fn bundles(context: &Context<'_>) -> Result<()> {
    let containerd = "/host/run/containerd/io.containerd.runtime.v2.task/k8s.io";
    for (host, seen) in [
        ("/run/containerd/io.containerd.runtime.v2.task/k8s.io", containerd),
        ("/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io", containerd),
        ("/run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io", containerd),
        ("/var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task/k8s.io", containerd),
        ("/run/containers/storage/overlay-containers", "/host/run/containers/storage/overlay-containers"),
        ("/var/run/crio/vfs-containers", "/host/run/containers/storage/vfs-containers"),
    ] {
        let objects = context.objects(&format!("names: {{ bundles: {{ enabled: true, hostPath: {host} }} }}"))?;
        same("bundle_root", &text(&objects.configuration()?, "/kubernetes/bundle_root"), &"/host/run")?;
        let of_bundles = |list: &str| -> Result<Value> {
            let all = objects.agent(list)?.as_array().context("no list")?;
            all.iter().find(|one| text(one, "/name") == "bundles").cloned().context("nothing is called bundles")
        };
        let (mount, volume) = (of_bundles("/spec/containers/0/volumeMounts")?, of_bundles("/spec/volumes")?);
        same("where the agent sees it", &text(&mount, "/mountPath"), &seen)?;
        same("where it is on the node", &text(&volume, "/hostPath/path"), &host)?;
    }
    Ok(())
}

pub(super) fn versions(context: &Context<'_>) -> Result<()> {
    let values = "{ names: { bundles: { enabled: true } }, appArmorProfile: { type: Unconfined } }";
    for (kubernetes, mounts) in [("1.25.0", 0), ("1.28.3", 0), ("1.30.9", 0), ("1.31.0", 2), ("1.34.1-eks-1", 2)] {
        let rendered = context.helm.text(&Request { kubernetes, values, ..Request::DEFAULT })?;
        let found = rendered.matches("recursiveReadOnly:").count();
        same(&format!("the number of recursiveReadOnly in {kubernetes}"), &found, &mounts)?;
    }
    Ok(())
}

pub(super) fn security_context_constraints(context: &Context<'_>) -> Result<()> {
    same(
        "whether there are any by default",
        &context.objects("{}")?.one("SecurityContextConstraints").is_ok(),
        &false,
    )?;
    for (values, profile) in [
        ("securityContextConstraints: { create: true }", "runtime/default"),
        (
            "{ securityContextConstraints: { create: true }, capabilities: { add: [BPF, PERFMON, SYS_RESOURCE] },
               seccompProfile: { type: Localhost, localhostProfile: podlens.json } }",
            "localhost/podlens.json",
        ),
    ] {
        let objects = context.objects(values)?;
        let constraints = objects.one("SecurityContextConstraints")?;
        let capabilities = objects.agent(&format!("{SECURITY}/capabilities"))?;
        for (allowed, asked) in [("allowedCapabilities", "add"), ("requiredDropCapabilities", "drop")] {
            same(allowed, &constraints.get(allowed), &capabilities.get(asked))?;
        }
        let account = format!("system:serviceaccount:podlens:{}", text(objects.agent("/spec")?, "/serviceAccountName"));
        same("users", &constraints.pointer("/users"), &Some(&json!([account])))?;
        same("seccompProfiles", &constraints.pointer("/seccompProfiles"), &Some(&json!([profile])))?;
        for right in ["HostNetwork", "HostPID", "HostIPC", "HostPorts", "PrivilegedContainer", "PrivilegeEscalation"] {
            same(right, &constraints.get(format!("allow{right}")), &Some(&json!(false)))?;
        }
        let allowed = constraints.pointer("/volumes").and_then(Value::as_array).context("no volumes are allowed")?;
        for volume in objects.agent("/spec/volumes")?.as_array().context("the agent has no volumes")? {
            let kind = volume.as_object().into_iter().flat_map(|volume| volume.keys()).find(|key| *key != "name");
            if !allowed.contains(&json!(kind)) {
                bail!("volumes of kind {kind:?} are not allowed");
            }
        }
        // The test's pod runs under the account `default`, for which OpenShift chooses the user.
        let test = objects.one("Pod")?.pointer("/spec/securityContext").context("the test's pod is not restricted")?;
        same("the test's user", &test.get("runAsUser"), &None)?;
    }
    Ok(())
}
