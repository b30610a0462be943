//! The choice of a source of names, with its reason, and its start.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{
    Names,
    api::ApiSource,
    bundle::{self, BundleSource},
    client::{Client, ClientError, Limits},
    kubelet::KubeletSource,
};
use crate::{
    config::{Kubernetes, NameSource},
    log::with_causes,
    signal::shutdown::Shutdown,
};

/// Where Kubernetes puts a pod's token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The authority of the cluster, beside the token.
const AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// A source of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The API server, as a pod reaches it.
    ApiInCluster,
    /// The API server that a kubeconfig file names.
    ApiByFile(PathBuf),
    /// This node's kubelet.
    Kubelet,
    /// Runtimes' annotations below this directory.
    Bundle(PathBuf),
    /// None.
    None,
}

/// A source and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The source.
    pub chosen: Chosen,
    /// Why, in words.
    pub why: String,
    /// Annotations are read as well, for containers that the source does not know yet.
    pub assisted: bool,
}

/// What this process can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The variables by which a pod finds the API server are set.
    pub in_cluster: bool,
    /// A service account's token is mounted.
    pub has_token: bool,
    /// The directory for annotations has some.
    pub has_bundles: bool,
}

impl Surroundings {
    /// Looks around.
    #[must_use]
    pub fn look(settings: &Kubernetes) -> Self {
        Self {
            in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty()),
            has_token: fs::File::open(TOKEN).is_ok(),
            has_bundles: !bundle::places(&settings.bundle_root).is_empty(),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.chosen {
            Chosen::ApiInCluster => "the API server of the cluster".to_owned(),
            Chosen::ApiByFile(path) => format!("the API server of {}", path.display()),
            Chosen::Kubelet => "the kubelet".to_owned(),
            Chosen::Bundle(root) => format!("the runtimes' annotations below {}", root.display()),
            Chosen::None => "none, pods keep their uids".to_owned(),
        };
        let assisted = if self.assisted { ", and the runtimes' annotations until it has answered" } else { "" };
        write!(formatter, "{source}{assisted} ({})", self.why)
    }
}

/// Chooses. Pure.
#[must_use]
pub fn choose(settings: &Kubernetes, around: Surroundings) -> Choice {
    let bundles = || Chosen::Bundle(settings.bundle_root.clone());
    let choice = |chosen, why: &str| {
        let assisted = around.has_bundles && matches!(chosen, Chosen::ApiInCluster | Chosen::ApiByFile(_));
        Choice { chosen, why: why.to_owned(), assisted }
    };
    let asked = "kubernetes.source asks for it";
    match (settings.source, &settings.kubeconfig) {
        (NameSource::Api, Some(path)) => choice(Chosen::ApiByFile(path.clone()), asked),
        (NameSource::Api, None) => choice(Chosen::ApiInCluster, asked),
        (NameSource::Kubelet, _) => choice(Chosen::Kubelet, asked),
        (NameSource::Bundle, _) => choice(bundles(), asked),
        (NameSource::None, _) => choice(Chosen::None, asked),
        (NameSource::Auto, Some(path)) => {
            choice(Chosen::ApiByFile(path.clone()), "kubernetes.kubeconfig or --kubeconfig is given")
        }
        (NameSource::Auto, None) if around.in_cluster && around.has_token => {
            choice(Chosen::ApiInCluster, "podlens runs in a pod with a service account")
        }
        (NameSource::Auto, None) if around.has_bundles => {
            choice(bundles(), "no API server is at hand, and a container runtime keeps annotations there")
        }
        (NameSource::Auto, None) => choice(
            Chosen::None,
            "no service account, no --kubeconfig, and no container runtime's annotations are at hand",
        ),
    }
}

/// Why a source cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The kubeconfig cannot be used.
    #[error("cannot use kubeconfig {}: {why}; correct kubernetes.kubeconfig or --kubeconfig", .path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What the library says of it, without the picture of the place in the file that it draws below.
        why: String,
    },
    /// The service account cannot be used.
    #[error("cannot use the pod's service account; mount its token, or set kubernetes.source to bundle or none")]
    ServiceAccount(#[source] Box<kube::config::InClusterError>),
    /// The kubelet's certificate could not be verified.
    #[error(
        "nothing tells which certificate the kubelet has; set kubernetes.kubelet_certificate to the authority's PEM file"
    )]
    NoKubeletAuthority,
    /// The kubelet's authority cannot be read.
    #[error("cannot read the kubelet's authority {}; correct kubernetes.kubelet_certificate", .path.display())]
    KubeletAuthority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Certificates or credentials.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Starts the chosen source in the background. A source that cannot be set up is told and left out: values then
/// stay under uids and ids.
pub async fn start(
    settings: &Kubernetes,
    node: &str,
    names: &Arc<Names>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) {
    let choice = choose(settings, Surroundings::look(settings));
    info!(source = %choice, "names");
    if let Some(lack) = lack(&choice, settings) {
        warn!(lack, "pods keep their uids for names");
    }
    if let Err(error) = spawn(&choice, settings, node, names, tasks, shutdown).await {
        warn!(cause = with_causes(&error), "pods keep their uids for names");
    }
    if choice.assisted {
        tasks.spawn(BundleSource::new(&settings.bundle_root, Arc::clone(names)).assist(shutdown.clone()));
    }
}

/// What is missing until a runtime comes.
fn lack(choice: &Choice, settings: &Kubernetes) -> Option<String> {
    let Chosen::Bundle(root) = &choice.chosen else { return None };
    bundle::places(&settings.bundle_root).is_empty().then(|| {
        format!(
            "no container runtime keeps annotations below {}: mount the node's /run there, or correct kubernetes.bundle_root",
            root.display()
        )
    })
}

/// Whether the chosen source can be set up, in words, for `podlens check`. Asks no server.
pub async fn check(settings: &Kubernetes) -> String {
    let choice = choose(settings, Surroundings::look(settings));
    match client(&choice.chosen, settings).await {
        Ok(_) => lack(&choice, settings).map_or(choice.to_string(), |lack| format!("{choice}: {lack}")),
        Err(error) => format!("{choice}: NOT USABLE: {}", with_causes(&error)),
    }
}

/// A client of the API server, for whoever asks more of it than this node's names.
///
/// # Errors
/// There is neither a kubeconfig nor a service account that can be used.
pub async fn api_client(settings: &Kubernetes) -> Result<Client, SourceError> {
    let config = match &settings.kubeconfig {
        Some(path) => by_file(path).await?,
        None => in_cluster()?,
    };
    Ok(Client::new(&config, Limits::default())?)
}

async fn spawn(
    choice: &Choice,
    settings: &Kubernetes,
    node: &str,
    names: &Arc<Names>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), SourceError> {
    let (names, shutdown) = (Arc::clone(names), shutdown.clone());
    match (client(&choice.chosen, settings).await?, &choice.chosen) {
        (Some(client), Chosen::Kubelet) => {
            tasks.spawn(KubeletSource::new(client, node, names).run(shutdown));
        }
        (Some(client), _) => {
            tasks.spawn(ApiSource::new(client, node, names).run(shutdown));
        }
        (None, Chosen::Bundle(root)) => {
            tasks.spawn(BundleSource::new(root, names).run(shutdown));
        }
        (None, _) => {}
    }
    Ok(())
}

async fn client(chosen: &Chosen, settings: &Kubernetes) -> Result<Option<Client>, SourceError> {
    let config = match chosen {
        Chosen::ApiInCluster => in_cluster()?,
        Chosen::ApiByFile(path) => by_file(path).await?,
        Chosen::Kubelet => kubelet(settings).await?,
        Chosen::Bundle(_) | Chosen::None => return Ok(None),
    };
    Ok(Some(Client::new(&config, Limits::default())?))
}

fn in_cluster() -> Result<kube::Config, SourceError> {
    kube::Config::incluster().map_err(|source| SourceError::ServiceAccount(Box::new(source)))
}

async fn by_file(path: &Path) -> Result<kube::Config, SourceError> {
    let failed = |error| {
        let why = with_causes(&error).lines().next().unwrap_or_default().to_owned();
        SourceError::Kubeconfig { path: path.to_owned(), why }
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)
}

/// The kubelet takes the same credentials as the API server. Its certificate is often signed by another authority.
async fn kubelet(settings: &Kubernetes) -> Result<kube::Config, SourceError> {
    let mut config = kube::Config::new(settings.kubelet_url.clone());
    let lender = match &settings.kubeconfig {
        Some(path) => Some(by_file(path).await?),
        None if fs::exists(TOKEN).unwrap_or(false) => {
            config.auth_info.token_file = Some(TOKEN.to_owned());
            None
        }
        None => None,
    };
    if let Some(lender) = lender {
        config.auth_info = lender.auth_info;
    }
    let authority = match &settings.kubelet_certificate {
        Some(path) => path.clone(),
        // kubeadm and others can let the cluster's authority sign kubelets' certificates as well.
        None if fs::exists(AUTHORITY).unwrap_or(false) => AUTHORITY.into(),
        None => return Err(SourceError::NoKubeletAuthority),
    };
    fs::File::open(&authority).map_err(|source| SourceError::KubeletAuthority { path: authority.clone(), source })?;
    config.root_cert_file = Some(authority);
    // Trusts nobody beside that file. None would mean the system's own store, without which there is no client at all,
    // and podlens' image has none.
    config.root_cert = Some(Vec::new());
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use super::{Chosen, NameSource, Surroundings, by_file, choose};
    use crate::config::{Config, Kubernetes};

    fn settings(source: NameSource, kubeconfig: bool) -> Kubernetes {
        let kubeconfig = kubeconfig.then(|| "/k".into());
        Kubernetes { source, kubeconfig, ..Config::defaults(&[]).kubernetes }
    }

    #[test]
    fn auto_takes_the_first_source_that_is_at_hand_and_says_why() {
        let check = |kubeconfig, around: [bool; 3], expected: Chosen, assisted| {
            let [in_cluster, has_token, has_bundles] = around;
            let around = Surroundings { in_cluster, has_token, has_bundles };
            let choice = choose(&settings(NameSource::Auto, kubeconfig), around);
            assert_eq!((&choice.chosen, choice.assisted), (&expected, assisted), "{around:?}");
            assert!(!choice.why.is_empty());
        };
        let bundle = || Chosen::Bundle("/run".into());
        check(true, [true, true, true], Chosen::ApiByFile("/k".into()), true);
        check(true, [false; 3], Chosen::ApiByFile("/k".into()), false);
        check(false, [true, true, false], Chosen::ApiInCluster, false);
        check(false, [true, true, true], Chosen::ApiInCluster, true);
        check(false, [true, false, true], bundle(), false);
        check(false, [false, true, true], bundle(), false);
        check(false, [true, false, false], Chosen::None, false);
        check(false, [false; 3], Chosen::None, false);
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_read_is_told_in_one_line_with_the_file_and_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        for (text, expected) in [
            (Some("a: [1\nb"), "line 1 column 4"),
            (Some("contexts: 5"), "line 1 column 11"),
            (Some(""), ""),
            (None, "No such file"),
        ] {
            let _ = std::fs::remove_file(&path);
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = crate::log::with_causes(&by_file(&path).await.err().unwrap());
            let begins = error.starts_with(&format!("cannot use kubeconfig {}: ", path.display()));
            assert!(begins && error.ends_with("; correct kubernetes.kubeconfig or --kubeconfig"), "{error}");
            assert!(error.contains(expected) && !error.contains('\n'), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_asked_for_is_taken_whatever_is_at_hand() {
        for around in [Surroundings::default(), Surroundings { in_cluster: true, has_token: true, has_bundles: true }] {
            let chosen = |source, kubeconfig| choose(&settings(source, kubeconfig), around).chosen;
            assert_eq!(chosen(NameSource::Api, false), Chosen::ApiInCluster);
            assert_eq!(chosen(NameSource::Api, true), Chosen::ApiByFile("/k".into()));
            assert_eq!(chosen(NameSource::Kubelet, false), Chosen::Kubelet);
            assert_eq!(chosen(NameSource::Bundle, true), Chosen::Bundle("/run".into()));
            assert_eq!(chosen(NameSource::None, true), Chosen::None);
        }
    }

    #[test]
    fn the_choice_reads_as_a_sentence() {
        let choice = choose(&settings(NameSource::Auto, false), Surroundings::default());
        assert_eq!(
            choice.to_string(),
            "none, pods keep their uids (no service account, no --kubeconfig, and no container runtime's annotations are at hand)"
        );
    }
}
