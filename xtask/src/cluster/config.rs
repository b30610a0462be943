//! The configuration of every part of the cluster: command lines and files. Pure text; it starts nothing.
//! Called by [`super::up`].

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{addresses::Addresses, cgroups::CGROUP_ROOT, components::Components, pki::NODE_NAME};

/// The sandbox's image.
pub(crate) const PAUSE_IMAGE: &str = "docker.io/library/podlens-pause:1";
/// A shell and its tools for test pods: `image: busybox:1`.
pub(crate) const BUSYBOX_IMAGE: &str = "docker.io/library/busybox:1";

/// In the folder of logs: requests of service accounts other than the control plane's.
pub(crate) const AUDIT_LOG: &str = "audit.log";
const AUDIT_POLICY: &str = "audit-policy.json";
/// Where the container runtime looks for a registry's address, in a folder of its name.
pub(crate) const REGISTRIES: &str = "registries";

/// The port of the service `kubernetes`.
const API_SERVER_PORT: u16 = 443;

/// One part of the cluster that runs as a process on the node.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// All parts, in the order of their start.
pub(crate) fn programs(components: &Components, state: &Path, addresses: &Addresses) -> [Program; 6] {
    let Addresses { node, services, loopback, every, .. } = addresses;
    let etcd_url = etcd_url(addresses);
    let key = |file: &str| state.join("pki").join(file).display().to_string();
    let kubeconfig = |user: &str| state.join(format!("{user}.kubeconfig")).display().to_string();
    let etcd = Program {
        name: "etcd",
        path: components.etcd(),
        arguments: vec![
            format!("--data-dir={}", state.join("etcd").display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls=http://{}", addresses.on_loopback(2380)),
            // The cluster does not outlive its processes, so its data need not outlive a power cut.
            "--unsafe-no-fsync".into(),
        ],
    };
    let apiserver = Program {
        name: "kube-apiserver",
        path: components.kubernetes("kube-apiserver"),
        arguments: vec![
            format!("--etcd-servers={etcd_url}"),
            format!("--bind-address={every}"),
            // At the address of the service `kubernetes`, which is the node's own.
            format!("--secure-port={API_SERVER_PORT}"),
            format!("--advertise-address={node}"),
            "--endpoint-reconciler-type=none".into(),
            format!("--service-cluster-ip-range={services}"),
            format!("--tls-cert-file={}", key("apiserver.crt")),
            format!("--tls-private-key-file={}", key("apiserver.key")),
            format!("--client-ca-file={}", key("ca.crt")),
            format!("--kubelet-client-certificate={}", key("apiserver-kubelet.crt")),
            format!("--kubelet-client-key={}", key("apiserver-kubelet.key")),
            format!("--kubelet-certificate-authority={}", key("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--service-account-key-file={}", key("service-account.pub")),
            format!("--service-account-signing-key-file={}", key("service-account.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            format!("--audit-policy-file={}", state.join(AUDIT_POLICY).display()),
            format!("--audit-log-path={}", state.join("log").join(AUDIT_LOG).display()),
        ],
    };
    let controller_manager = Program {
        name: "kube-controller-manager",
        path: components.kubernetes("kube-controller-manager"),
        arguments: vec![
            format!("--kubeconfig={}", kubeconfig("controller-manager")),
            format!("--service-account-private-key-file={}", key("service-account.key")),
            format!("--root-ca-file={}", key("ca.crt")),
            "--use-service-account-credentials=true".into(),
            "--leader-elect=false".into(),
            format!("--bind-address={loopback}"),
        ],
    };
    let scheduler = Program {
        name: "kube-scheduler",
        path: components.kubernetes("kube-scheduler"),
        arguments: vec![
            format!("--kubeconfig={}", kubeconfig("scheduler")),
            "--leader-elect=false".into(),
            format!("--bind-address={loopback}"),
        ],
    };
    let containerd = Program {
        name: "containerd",
        path: components.containerd_directory().join("containerd"),
        arguments: vec![format!("--config={}", state.join("containerd.toml").display())],
    };
    let kubelet = Program {
        name: "kubelet",
        path: components.kubernetes("kubelet"),
        arguments: vec![
            format!("--config={}", state.join("kubelet.json").display()),
            format!("--kubeconfig={}", kubeconfig("kubelet")),
            format!("--hostname-override={NODE_NAME}"),
            format!("--node-ip={node}"),
        ],
    };
    [etcd, apiserver, controller_manager, scheduler, containerd, kubelet]
}

/// Every file that the programs read, by its path below the state directory.
pub(crate) fn files(components: &Components, state: &Path, addresses: &Addresses) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = ["admin", "controller-manager", "scheduler", "kubelet"]
        .into_iter()
        .map(|user| (format!("{user}.kubeconfig"), kubeconfig(state, user, addresses).to_string()))
        .collect();
    files.push(("containerd.toml".into(), containerd(components, state, addresses)));
    files.push(("kubelet.json".into(), kubelet(state, addresses).to_string()));
    files.push((AUDIT_POLICY.into(), audit_policy().to_string()));
    files.push(("cni/10-bridge.conflist".into(), bridge(addresses).to_string()));
    files
}

/// Where etcd serves.
pub(crate) fn etcd_url(addresses: &Addresses) -> String {
    format!("http://{}", addresses.on_loopback(2379))
}

fn kubeconfig(state: &Path, user: &str, addresses: &Addresses) -> Value {
    let key = |file: String| state.join("pki").join(file).display().to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "podlens",
        "contexts": [{ "name": "podlens", "context": { "cluster": "podlens", "user": user } }],
        "clusters": [{
            "name": "podlens",
            "cluster": {
                "server": format!("https://{}", SocketAddr::new(addresses.service, API_SERVER_PORT)),
                "certificate-authority": key("ca.crt".into()),
            },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate": key(format!("{user}.crt")),
                "client-key": key(format!("{user}.key")),
            },
        }],
    })
}

fn kubelet(state: &Path, addresses: &Addresses) -> Value {
    let pki = |file: &str| state.join("pki").join(file).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": pki("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "address": addresses.every.to_string(),
        "healthzBindAddress": addresses.loopback.to_string(),
        "tlsCertFile": pki("kubelet-server.crt"),
        "tlsPrivateKeyFile": pki("kubelet-server.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": CGROUP_ROOT,
        "failSwapOn": false,
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": false,
        "resolvConf": "",
        "staticPodPath": state.join("manifests").display().to_string(),
        "fileCheckFrequency": "2s",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // Lowering it needs CAP_SYS_RESOURCE, which a container that builds does not have.
        "oomScoreAdj": 0,
        "maxPods": 250,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        // The images cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    })
}

fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "userGroups": ["system:serviceaccounts:kube-system"] },
            { "level": "Metadata", "userGroups": ["system:serviceaccounts"] },
            { "level": "None" },
        ],
    })
}

fn bridge(addresses: &Addresses) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "podlens",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "isDefaultGateway": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": addresses.pods.to_string(), "gateway": addresses.node.to_string() }]],
            },
        }],
    })
}

fn containerd(components: &Components, state: &Path, addresses: &Addresses) -> String {
    let runc = components.runc();
    let plugins = components.cni_plugins();
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower the score and every sandbox fails.
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
stream_server_address = "{loopback}"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{registries}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{configurations}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#,
        loopback = addresses.loopback,
        plugins = plugins.display(),
        configurations = state.join("cni").display(),
        registries = state.join(REGISTRIES).display(),
        runc = runc.display(),
    )
}
