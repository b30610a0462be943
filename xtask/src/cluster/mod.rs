//! `cargo xtask cluster`: a real Kubernetes node of one's own, made of released parts, for tests. It is not a
//! cluster to keep: nothing is persistent, and `down` removes it without a trace. Called by the command line and
//! by the end-to-end tests.
//!
//! | file | what |
//! | --- | --- |
//! | addresses.rs | all addresses, of IPv4 or of IPv6 |
//! | components.rs | the released parts, fetched or built once into the cache |
//! | node.rs | the namespaces that are the node, and the processes in them |
//! | cgroups.rs | the cgroup of all its pods |
//! | pki.rs, config.rs | certificates; command lines and files |
//! | commands.rs | the command line |
//! | wait.rs | waiting with limits and readable failures |
//!
//! There is no kube-proxy and no DNS: service addresses other than the API server's own do not work; use the
//! pods' addresses.

mod addresses;
mod cgroups;
mod commands;
pub(crate) mod components;
mod config;
mod node;
pub(crate) mod pki;
mod wait;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use self::{addresses::Addresses, components::Components, config::Program, node::Node, wait::wait_until};
pub(crate) use self::{
    addresses::Family,
    commands::{Choice, run},
    pki::NODE_NAME,
};
use crate::{
    image::{self, Entry, Image},
    packages, places, process,
};

const STATE: &str = "/tmp/podlens-cluster";
/// In the state directory: the family of addresses, once everything that the programs read is there.
const CREATED: &str = "created";
const READY_LIMIT: Duration = Duration::from_mins(2);
const IMPORT_LIMIT_SECONDS: u32 = 120;

/// A running cluster.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    components: Components,
    node: Node,
    addresses: &'static Addresses,
}

/// Starts whatever of the cluster with these addresses does not run, and returns when its node is ready.
pub(crate) fn up(addresses: &'static Addresses) -> Result<Cluster> {
    if !packages::is_root() {
        bail!("cannot start the cluster: namespaces, mounts and cgroups are root's; run it as root");
    }
    let _lock = lock()?;
    let started = Instant::now();
    let components = Components::ensure()?;
    let cluster = Cluster { components, node: Node::new(STATE), addresses };
    let Addresses { family, node, .. } = addresses;
    match created(&cluster.node) {
        Some(Addresses { family: other, .. }) if other != family => bail!(
            "cannot start the cluster with {family}: it runs with {other}; end it with `cargo xtask cluster down`"
        ),
        Some(_) => {}
        None => {
            if node.is_ipv6() && !Path::new("/proc/net/if_inet6").exists() {
                bail!(
                    "cannot start the cluster with IPv6: this machine's kernel has none, or was started with ipv6.disable=1"
                );
            }
            // What is left of a cluster whose processes were ended from outside, or whose creation was.
            cluster.node.destroy()?;
            cluster.create()?;
        }
    }
    cluster.start()?;
    eprintln!("cluster: node {NODE_NAME} with {family} is ready after {:.1} s", started.elapsed().as_secs_f64());
    Ok(cluster)
}

/// Ends and removes everything that `up` made, save the cache. Nothing to do is a success.
pub(crate) fn down() -> Result<()> {
    let _lock = lock()?;
    Node::new(STATE).destroy()
}

/// Prints each part's state; whether all of them run and the node is ready.
pub(crate) fn status() -> Result<bool> {
    let Some(cluster) = Cluster::running()? else {
        println!(
            "cluster: down{}",
            if Path::new(STATE).exists() { " (remains are there: cargo xtask cluster down)" } else { "" }
        );
        return Ok(false);
    };
    let mut whole = true;
    for program in cluster.programs() {
        if let Some(process) = cluster.node.running(program.name) {
            println!("{:<24} running, process {}", program.name, process.pid());
        } else {
            whole = false;
            println!("{:<24} not running, see {}", program.name, cluster.node.log(program.name).display());
        }
    }
    match cluster.node_ready() {
        Ok(()) => println!("{:<24} ready, address {}", format!("node {NODE_NAME}"), cluster.addresses.node),
        Err(reason) => {
            whole = false;
            println!("{:<24} not ready: {reason:#}", format!("node {NODE_NAME}"));
        }
    }
    println!("{:<24} {}", "static pods", cluster.static_pods().display());
    println!("{:<24} {}", "containers' bundles", cluster.bundles().display());
    println!("kubectl and helm: cargo xtask cluster kubectl|helm ARGUMENTS");
    Ok(whole)
}

impl Cluster {
    /// The cluster that runs already, if one does.
    pub(crate) fn running() -> Result<Option<Self>> {
        let node = Node::new(STATE);
        let Some(addresses) = created(&node) else { return Ok(None) };
        Ok(Some(Self { components: Components::ensure()?, node, addresses }))
    }

    /// Of the node and of who listens on it.
    pub(crate) fn addresses(&self) -> &'static Addresses {
        self.addresses
    }

    /// The administrator's credentials. They are of use only in the node's network.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.node.state().join("admin.kubeconfig")
    }

    /// kubectl as administrator.
    pub(crate) fn kubectl(&self) -> Result<Command> {
        self.client(&self.components.kubectl())
    }

    /// helm as administrator, with its own cache and configuration.
    pub(crate) fn helm(&self) -> Result<Command> {
        self.client(&self.components.helm())
    }

    /// A program of this machine in the node's network, for example a scraper.
    pub(crate) fn in_network(&self, program: &str) -> Result<Command> {
        self.node.enter_network(program)
    }

    /// A program on the node, as a login there would start it.
    pub(crate) fn on_node(&self, program: &str) -> Result<Command> {
        self.node.enter(program)
    }

    /// Gives an archive's images to the node's containerd; pods use them with `imagePullPolicy: Never`.
    pub(crate) fn import_image(&self, archive: &Path) -> Result<()> {
        let archive = fs::canonicalize(archive).with_context(|| format!("cannot find {}", archive.display()))?;
        let mut import = self.ctr(IMPORT_LIMIT_SECONDS)?;
        import.args(["images", "import"]).arg(&archive);
        process::output(&mut import).with_context(|| format!("cannot import {}", archive.display()))?;
        Ok(())
    }

    /// Where the node's containerd keeps its running bundles, as this machine sees it.
    pub(crate) fn bundles(&self) -> PathBuf {
        self.node.state().join("run/containerd/io.containerd.runtime.v2.task/k8s.io")
    }

    /// Where kubelet looks for static pods.
    pub(crate) fn static_pods(&self) -> PathBuf {
        self.node.state().join("manifests")
    }

    /// What the container runtime reads about the network of pods, whenever it changes.
    pub(crate) fn network_configurations(&self) -> PathBuf {
        self.node.state().join("cni")
    }

    /// Where the container runtime looks for what to know of a registry of this name; makes the folder.
    pub(crate) fn registry(&self, name: &str) -> Result<PathBuf> {
        self.scratch(&format!("{}/{name}", config::REGISTRIES))
    }

    /// Kubelet's logs of all containers, by pod and container, as this machine sees them.
    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.node.state().join("var-log/pods")
    }

    /// What service accounts have asked of the API server, one JSON object a line.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.node.state().join("log").join(config::AUDIT_LOG)
    }

    /// The node's network namespace, to be entered.
    pub(crate) fn network(&self) -> Result<PathBuf> {
        let holder = self.node.holder().context("the cluster's node does not run")?;
        Ok(PathBuf::from(format!("/proc/{}/ns/net", holder.pid())))
    }

    /// A folder that goes with the cluster.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.node.state().join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Starts a program of this machine beside the cluster's own; it ends with them.
    pub(crate) fn start_beside(&self, name: &str, program: &Path, arguments: &[String]) -> Result<()> {
        self.node.start(name, self.node.enter(program)?.args(arguments))
    }

    /// Ends a program that was started beside the cluster's own.
    pub(crate) fn end_beside(&self, name: &str) -> Result<()> {
        self.node.kill(name)
    }

    /// Ends one part as a crash would: `kube-apiserver`, `kubelet`, ...
    pub(crate) fn kill_program(&self, name: &str) -> Result<()> {
        if !self.programs().iter().any(|program| program.name == name) {
            bail!("cannot end `{name}`: the cluster has no such program; `cargo xtask cluster status` lists them");
        }
        self.node.kill(name)
    }

    /// Starts the parts that do not run, and waits for the node.
    pub(crate) fn start(&self) -> Result<()> {
        for program in &self.programs() {
            let mut inside = self.node.enter(&program.path)?;
            inside.args(&program.arguments).env("PATH", self.node_path());
            self.node.start(program.name, &mut inside)?;
            self.wait_for(program.name)?;
        }
        Ok(())
    }

    fn create(&self) -> Result<()> {
        self.node.create(&self.components.busybox(), self.addresses)?;
        let state = self.node.state();
        pki::make(&state.join("pki"), self.addresses)?;
        for (name, text) in config::files(&self.components, state, self.addresses) {
            let path = state.join(name);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        fs::write(state.join(CREATED), self.addresses.family).context("cannot note that the cluster is created")
    }

    fn programs(&self) -> [Program; 6] {
        config::programs(&self.components, self.node.state(), self.addresses)
    }

    /// Waits until one part does its work, and gives it what it needs for that.
    fn wait_for(&self, name: &str) -> Result<()> {
        let wait = |done: &mut dyn FnMut() -> Result<()>| {
            wait_until(name, READY_LIMIT, &self.node.log(name), || {
                if self.node.running(name).is_none() {
                    bail!("{name} has ended")
                }
                done()
            })
        };
        let on_loopback = |port| self.addresses.on_loopback(port);
        match name {
            "etcd" => wait(&mut || self.healthy(Some(&config::etcd_url(self.addresses)), "/health")),
            "kube-apiserver" => wait(&mut || self.healthy(None, "/readyz")),
            "kube-controller-manager" => {
                wait(&mut || self.healthy(Some(&format!("https://{}", on_loopback(10257))), "/healthz"))
            }
            "kube-scheduler" => {
                wait(&mut || self.healthy(Some(&format!("https://{}", on_loopback(10259))), "/healthz"))
            }
            "containerd" => {
                wait(&mut || process::output(self.ctr(5)?.arg("version")).map(drop))?;
                self.import_base_images()
            }
            _ => wait(&mut || {
                // The node's own word stands in the API for a while after kubelet's end.
                self.healthy(Some(&format!("http://{}", on_loopback(10248))), "/healthz")?;
                self.node_ready()
            }),
        }
    }

    fn healthy(&self, server: Option<&str>, path: &str) -> Result<()> {
        let mut ask = self.kubectl()?;
        if let Some(server) = server {
            // On loopback; the controller manager and the scheduler serve certificates of their own making.
            ask.args(["--server", server, "--insecure-skip-tls-verify"]);
        }
        process::output(ask.args(["--request-timeout=2s", "get", "--raw", path]))?;
        Ok(())
    }

    /// Ready, without the taint that a new node starts with, and pods can be made.
    fn node_ready(&self) -> Result<()> {
        let mut ask = self.kubectl()?;
        let wanted = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}{.spec.taints}"#;
        let answer = process::output(ask.args(["--request-timeout=2s", "get", "node", NODE_NAME, "-o", wanted]))?;
        if answer != "True" {
            bail!("the node says Ready={answer}");
        }
        let mut ask = self.kubectl()?;
        process::output(ask.args(["--request-timeout=2s", "get", "serviceaccount", "default"]))?;
        Ok(())
    }

    fn import_base_images(&self) -> Result<()> {
        let images = self.node.state().join("images");
        if images.exists() {
            return Ok(());
        }
        let building = self.node.state().join("images.partial");
        fs::create_dir_all(&building)?;
        for (name, image) in
            [("pause", pause_image(&building)?), ("busybox", busybox_image(&self.components.busybox())?)]
        {
            let archive = building.join(format!("{name}.tar"));
            image::write(&image, &archive)?;
            self.import_image(&archive)?;
        }
        fs::rename(&building, &images).context("cannot keep the images' archives")
    }

    fn ctr(&self, limit_seconds: u32) -> Result<Command> {
        let mut inside = self.node.enter("timeout")?;
        inside
            .args(["--foreground", &limit_seconds.to_string()])
            .arg(self.components.containerd_directory().join("ctr"))
            .args(["--namespace", "k8s.io"]);
        Ok(inside)
    }

    fn client(&self, program: &Path) -> Result<Command> {
        let own = self.node.state().join("client");
        let mut command = self.node.enter_network(program)?;
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", own.join("kubectl"))
            .env("HELM_CACHE_HOME", own.join("helm-cache"))
            .env("HELM_CONFIG_HOME", own.join("helm-config"))
            .env("HELM_DATA_HOME", own.join("helm-data"));
        Ok(command)
    }

    /// containerd finds its shim by the search path.
    fn node_path(&self) -> String {
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.components.containerd_directory().display())
    }
}

/// The addresses of the cluster whose node this is, if it is whole and lives.
fn created(node: &Node) -> Option<&'static Addresses> {
    node.holder()?;
    Addresses::of_family(&fs::read_to_string(node.state().join(CREATED)).ok()?)
}

fn pause_image(folder: &Path) -> Result<Image> {
    let source = folder.join("pause.c");
    let program = folder.join("pause");
    fs::write(&source, include_str!("pause.c"))?;
    process::output(Command::new("cc").args(["-Os", "-static", "-s", "-o"]).arg(&program).arg(&source))
        .context("cannot compile the pause program; a C compiler is needed (Debian: apt-get install gcc libc6-dev)")?;
    Ok(Image {
        reference: config::PAUSE_IMAGE.into(),
        entries: vec![Entry::Program("pause".into(), fs::read(&program)?)],
        entrypoint: vec!["/pause".into()],
        ..Image::default()
    })
}

fn busybox_image(busybox: &Path) -> Result<Image> {
    let mut entries = vec![Entry::Program("bin/busybox".into(), fs::read(busybox)?), Entry::Scratch("tmp".into())];
    for applet in process::output(Command::new(busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        entries.push(Entry::Link { path: format!("bin/{applet}"), target: "busybox".into() });
    }
    Ok(Image { reference: config::BUSYBOX_IMAGE.into(), entries, command: vec!["/bin/sh".into()], ..Image::default() })
}

/// One `up` or `down` at a time.
fn lock() -> Result<File> {
    let cache = places::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let path = cache.join("cluster.lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
