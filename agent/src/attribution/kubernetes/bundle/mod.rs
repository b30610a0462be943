//! Names from the annotations that a container runtime writes beside each container, before it starts it.
//!
//! Needs nothing but the host's /run, read-only: no API server and no rights there. [`decode`] is pure; the source
//! reads the file of a container the moment it is born, since a short-lived one takes its file along.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tracing::{debug, warn};

use super::{
    Names,
    pacer::Pacer,
    pod::bare_id,
    table::{ContainerFacts, Unknown},
};
use crate::{
    files,
    signal::shutdown::{Shutdown, until_stopped},
};

pub(super) const SOURCE: &str = "bundle";
const READ: &str = "read";
pub(super) const VERBS: &[&str] = &[READ];
const OK: &str = "ok";
const ABSENT: &str = "absent";
const UNREADABLE: &str = "unreadable";
const GARBAGE: &str = "garbage";
pub(super) const RESULTS: &[&str] = &[OK, ABSENT, UNREADABLE, GARBAGE];
/// Longer than any honest runtime specification.
const LIMIT_BYTES: u64 = 8 << 20;
/// The file stands there before the cgroup does; later tries are for containers met in the midst of their birth.
const TRIES: &[Duration] = &[Duration::ZERO, Duration::from_millis(200), Duration::from_secs(2)];

/// Where runtimes keep their bundles below the host's /run, or below their own state directory.
const PLACES: &[(&str, &str)] = &[
    ("containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("k3s/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("containers/storage/overlay-containers", "userdata/config.json"),
    ("containers/storage/vfs-containers", "userdata/config.json"),
];

/// Why a bundle tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No JSON, or not of the known form.
    #[error("cannot decode a container's runtime specification: {0}; report the runtime and its version")]
    Json(#[from] serde_json::Error),
    /// A container that no kubelet asked for.
    #[error("the container has no Kubernetes annotations: it belongs to no pod")]
    NoPod,
    /// Its annotations name another pod than its cgroup.
    #[error(
        "the container's annotations name pod {annotated}, its cgroup {cgroup}; report the runtime and its version"
    )]
    OtherPod {
        /// By its annotations.
        annotated: String,
        /// By its cgroup.
        cgroup: String,
    },
}

#[derive(Deserialize)]
struct WireBundle {
    annotations: Option<WireAnnotations>,
}

/// containerd's annotations, then CRI-O's.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WireAnnotations {
    #[serde(rename = "io.kubernetes.cri.container-type")]
    containerd_type: Option<String>,
    #[serde(rename = "io.kubernetes.cri.container-name")]
    containerd_container: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-namespace")]
    containerd_namespace: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-name")]
    containerd_pod: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-uid")]
    containerd_uid: Option<String>,
    #[serde(rename = "io.kubernetes.cri.image-name")]
    containerd_image: Option<String>,
    #[serde(rename = "io.kubernetes.cri-o.ContainerType")]
    crio_type: Option<String>,
    #[serde(rename = "io.kubernetes.container.name")]
    crio_container: Option<String>,
    #[serde(rename = "io.kubernetes.pod.namespace")]
    crio_namespace: Option<String>,
    #[serde(rename = "io.kubernetes.pod.name")]
    crio_pod: Option<String>,
    #[serde(rename = "io.kubernetes.pod.uid")]
    crio_uid: Option<String>,
    #[serde(rename = "io.kubernetes.cri-o.ImageName")]
    crio_image: Option<String>,
}

/// What a bundle's `config.json` tells about the container whose cgroup was found.
///
/// # Errors
/// It is no such file, or that of another container.
pub fn decode(json: &[u8], container: &Unknown) -> Result<ContainerFacts, BundleError> {
    let bundle: WireBundle = serde_json::from_slice(json)?;
    let annotations = bundle.annotations.unwrap_or_default();
    let (kind, name, namespace, pod, uid, image) = if annotations.containerd_type.is_some() {
        (
            annotations.containerd_type,
            annotations.containerd_container,
            annotations.containerd_namespace,
            annotations.containerd_pod,
            annotations.containerd_uid,
            annotations.containerd_image,
        )
    } else {
        (
            annotations.crio_type,
            annotations.crio_container,
            annotations.crio_namespace,
            annotations.crio_pod,
            annotations.crio_uid,
            annotations.crio_image,
        )
    };
    let given = |text: Option<String>| text.filter(|text| !text.is_empty() && text.len() <= 253);
    let (Some(namespace), Some(pod)) = (given(namespace), given(pod)) else { return Err(BundleError::NoPod) };
    // Runtimes of some years ago do not tell the uid. The file's place already tells the container.
    if let Some(annotated) = uid.filter(|uid| **uid != *container.pod_uid) {
        return Err(BundleError::OtherPod { annotated, cgroup: container.pod_uid.to_string() });
    }
    let name = match kind.as_deref() {
        Some("sandbox") => None,
        Some("container") => Some(given(name).ok_or(BundleError::NoPod)?),
        _ => return Err(BundleError::NoPod),
    };
    Ok(ContainerFacts {
        pod_uid: Arc::clone(&container.pod_uid),
        container_id: Arc::clone(&container.container_id),
        namespace: namespace.into(),
        pod: pod.into(),
        image: if name.is_some() { image.unwrap_or_default().into() } else { "".into() },
        container: name.map(Into::into),
    })
}

/// The directories with bundles below `root` that can be read.
#[must_use]
pub fn places(root: &Path) -> Vec<PathBuf> {
    // Runtimes let nobody list some of these directories, so entering is what counts.
    PLACES
        .iter()
        .map(|(place, _)| root.join(place))
        .filter(|place| std::fs::metadata(place.join(".")).is_ok_and(|found| found.is_dir()))
        .collect()
}

/// Bundles as the source of names.
pub struct BundleSource {
    root: PathBuf,
    names: Arc<Names>,
}

impl BundleSource {
    /// A source that looks below `root`, the host's /run as podlens sees it.
    #[must_use]
    pub fn new(root: &Path, names: Arc<Names>) -> Self {
        Self { root: root.to_owned(), names }
    }

    /// Looks up names until podlens stops.
    pub async fn run(self, shutdown: Shutdown) {
        self.names.set_synced(true);
        self.assist(shutdown).await;
    }

    /// The same beside another source, whose state alone counts.
    pub async fn assist(self, shutdown: Shutdown) {
        self.names.expect(SOURCE, VERBS, RESULTS);
        until_stopped(shutdown, self.follow(&self.names)).await;
    }

    async fn follow(&self, names: &Arc<Names>) {
        let mut pacer = Pacer::new(TRIES);
        let mut warned = false;
        loop {
            let next = pacer.next().map(tokio::time::Instant::from_std);
            tokio::select! {
                wanted = names.unnamed.next() => {
                    let containers = wanted.into_iter().filter(|one| bare_id(&one.container_id).is_some());
                    pacer.want(containers, Instant::now());
                }
                () = sleep_until(next) => {}
            }
            pacer.keep(|unknown| names.lacks(unknown));
            let due = pacer.due(Instant::now(), |_| false);
            if due.is_empty() {
                continue;
            }
            let (root, into) = (self.root.clone(), Arc::clone(names));
            let look = move || due.iter().filter_map(|one| look_up(&root, &into, one).err()).collect::<Vec<_>>();
            // A read that panics would have told its reason; the next ones go on.
            let failures = tokio::task::spawn_blocking(look).await.unwrap_or_default();
            if let Some(cause) = failures.first()
                && !std::mem::replace(&mut warned, true)
            {
                warn!(cause, "a container's annotations could not be used; it keeps its id for a name");
            }
        }
    }
}

async fn sleep_until(next: Option<tokio::time::Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

/// Reads one container's bundle. Its absence is no failure.
fn look_up(root: &Path, names: &Names, container: &Unknown) -> Result<(), String> {
    for (place, file) in PLACES {
        let path = root.join(place).join(&*container.container_id).join(file);
        let json = match files::read(&path, LIMIT_BYTES) {
            Ok(json) => json,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => {
                names.count(SOURCE, READ, UNREADABLE);
                return Err(format!("cannot read {}: {cause}", path.display()));
            }
        };
        return match decode(&json, container) {
            Ok(facts) => {
                names.count(SOURCE, READ, OK);
                names.learn(&facts);
                Ok(())
            }
            Err(cause) => {
                names.count(SOURCE, READ, GARBAGE);
                Err(format!("{}: {cause}", path.display()))
            }
        };
    }
    names.count(SOURCE, READ, ABSENT);
    debug!(container = %container.container_id, "no bundle");
    Ok(())
}

#[cfg(test)]
mod tests;
