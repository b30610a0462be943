//! The choice of a source of names, with its reason, and its start.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::config::{Cluster, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tokio::{runtime::Handle, sync::oneshot, task::JoinSet};
use tracing::{info, warn};

use super::{
    Names,
    api::ApiSource,
    bundle::{self, BundleSource},
    client::{Client, ClientError, Limits},
    kubelet::KubeletSource,
};
use crate::{
    backoff::Backoff,
    config::{Kubernetes, NameSource, has_plain_authority},
    files,
    log::with_causes,
    signal::shutdown::{Shutdown, until_stopped},
};

/// Where Kubernetes puts a pod's token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The authority of the cluster, beside the token.
const AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Files are read within it, unless their disk does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whatever else starts waits so long for the source.
const HEAD_START: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_secs(1);

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
            has_token: files::check(Path::new(TOKEN), files::CREDENTIAL_BYTES).is_ok(),
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
    ServiceAccount(#[source] Box<InClusterError>),
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

/// Starts the chosen source in the background. One that cannot be set up is told and tried again: values stay under uids and
/// ids until then. Waits a moment for the first attempt, so that values wait for names rather than be told without.
pub async fn start(
    settings: &Kubernetes,
    node: &str,
    names: &Arc<Names>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) {
    let (begun, has_begun) = oneshot::channel();
    let starting = Starting { settings: Arc::new(settings.clone()), node: node.to_owned(), names: Arc::clone(names) };
    tasks.spawn(until_stopped(shutdown.clone(), starting.run(begun, shutdown.clone())));
    let _ = tokio::time::timeout(HEAD_START, has_begun).await;
}

/// A source on its way.
struct Starting {
    settings: Arc<Kubernetes>,
    node: String,
    names: Arc<Names>,
}

impl Starting {
    /// `begun` is dropped once the first attempt was made.
    async fn run(self, begun: oneshot::Sender<()>, shutdown: Shutdown) {
        let settings = Arc::clone(&self.settings);
        let look = move || {
            let choice = choose(&settings, Surroundings::look(&settings));
            let lack = lack(&choice, &settings);
            (choice, lack)
        };
        let Ok((choice, lack)) = tokio::task::spawn_blocking(look).await else { return };
        info!(source = %choice, "names");
        if let Some(lack) = lack {
            warn!(lack, "pods keep their uids for names");
        }
        let assistant = choice.assisted.then(|| BundleSource::new(&self.settings.bundle_root, Arc::clone(&self.names)));
        let assist = async {
            if let Some(assistant) = assistant {
                assistant.assist(shutdown.clone()).await;
            }
        };
        tokio::join!(assist, self.follow(&choice.chosen, begun, shutdown.clone()));
    }

    async fn follow(&self, chosen: &Chosen, begun: oneshot::Sender<()>, shutdown: Shutdown) {
        let names = Arc::clone(&self.names);
        let client = match chosen {
            Chosen::None => return,
            Chosen::Bundle(root) => return BundleSource::new(root, names).run(shutdown).await,
            Chosen::ApiInCluster | Chosen::ApiByFile(_) | Chosen::Kubelet => self.set_up(chosen, begun).await,
        };
        match (client, chosen) {
            (None, _) => {}
            (Some(client), Chosen::Kubelet) => KubeletSource::new(client, &self.node, names).run(shutdown).await,
            (Some(client), _) => ApiSource::new(client, &self.node, names).run(shutdown).await,
        }
    }

    /// Tries until it can be done. One attempt at a time, however long it takes: each has a thread.
    async fn set_up(&self, chosen: &Chosen, begun: oneshot::Sender<()>) -> Option<Client> {
        let mut begun = Some(begun);
        let mut backoff = Backoff::new(FIRST_PAUSE, &self.node);
        let mut told = None;
        let mut tell = |cause: String| {
            if told.as_ref() != Some(&cause) {
                warn!(cause, "pods keep their uids for names until the source can be used; podlens tries again");
                told = Some(cause);
            }
        };
        let client = loop {
            let (chosen, settings) = (chosen.clone(), Arc::clone(&self.settings));
            let runtime = Handle::current();
            let work = move || runtime.block_on(client(&chosen, &settings));
            let mut attempt = tokio::task::spawn_blocking(work);
            let outcome = if let Ok(outcome) = tokio::time::timeout(PATIENCE, &mut attempt).await {
                outcome
            } else {
                tell(format!("its files could not be read within {PATIENCE:?}; see whether their disk answers"));
                self.names.set_synced(false);
                attempt.await
            };
            self.names.set_synced(false);
            begun.take();
            match outcome {
                Ok(Ok(client)) => break client,
                Ok(Err(error)) => tell(with_causes(&error)),
                // It panicked, which ends the process, or the process ends.
                Err(_) => return None,
            }
            tokio::time::sleep(backoff.pause(None)).await;
        };
        if told.is_some() {
            info!("the source of names can be used now");
        }
        client
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
    let tried = match client(&choice.chosen, settings).await {
        Ok(Some(client)) => client.log_in().await.map_err(|error| with_causes(&*error)),
        Ok(None) => Ok(()),
        Err(error) => Err(with_causes(&error)),
    };
    match tried {
        Ok(()) => lack(&choice, settings).map_or(choice.to_string(), |lack| format!("{choice}: {lack}")),
        Err(cause) => format!("{choice}: NOT USABLE: {cause}"),
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
    let readable = files::check(Path::new(AUTHORITY), files::CREDENTIAL_BYTES);
    readable
        .map_err(InClusterError::ReadCertificateBundle)
        .and_then(|()| kube::Config::incluster())
        .map_err(|source| SourceError::ServiceAccount(Box::new(source)))
}

async fn by_file(path: &Path) -> Result<kube::Config, SourceError> {
    let failed = |why| SourceError::Kubeconfig { path: path.to_owned(), why };
    let unusable = |error: KubeconfigError| failed(reason(&error));
    let readable = |file: &Path| files::check(file, files::CREDENTIAL_BYTES);
    readable(path).map_err(|cause| failed(cause.to_string()))?;
    let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
    if let Some(authority) = cluster(&kubeconfig).and_then(authority_file) {
        readable(authority).map_err(|cause| failed(format!("cannot read {}: {cause}", authority.display())))?;
    }
    if let Some(server) = cluster(&kubeconfig).and_then(|cluster| cluster.server.as_deref()) {
        // Credentials may stand in it.
        if !server.parse().is_ok_and(|server| has_plain_authority(&server)) {
            let what = "its cluster's server is no https://HOST:PORT with a port of 1 to 65535 and without credentials";
            return Err(failed(what.to_owned()));
        }
    }
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)
}

/// What the library says, without any of the file's text, which holds credentials.
fn reason(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(place) => format!("it is no kubeconfig at line {} column {}", place.line(), place.column()),
            None => "it is no kubeconfig".to_owned(),
        },
        error => with_causes(error).lines().next().unwrap_or_default().to_owned(),
    }
}

/// The cluster that the library takes.
fn cluster(kubeconfig: &Kubeconfig) -> Option<&Cluster> {
    let name = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == *name)?.context.as_ref()?;
    kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster)?.cluster.as_ref()
}

fn authority_file(cluster: &Cluster) -> Option<&Path> {
    cluster.certificate_authority.as_deref().filter(|_| cluster.certificate_authority_data.is_none()).map(Path::new)
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
    files::check(&authority, files::CREDENTIAL_BYTES)
        .map_err(|source| SourceError::KubeletAuthority { path: authority.clone(), source })?;
    config.root_cert_file = Some(authority);
    // Trusts nobody beside that file. None would mean the system's own store, without which there is no client at all,
    // and podlens' image has none.
    config.root_cert = Some(Vec::new());
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::time::Instant;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::{Arc, Chosen, Duration, JoinSet, NameSource, Names, Surroundings, by_file, choose, start};
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
            (Some("users: [{name: a, user: SECRET}]"), "line 1 column"),
            (Some("users: [{name: a, user: {token: [SECRET]}}]"), "line 1 column"),
            (Some(&with_server("https://127.0.0.1:6443x")), "a port of 1 to 65535"),
            (Some(&with_server("https://127.0.0.1:65536")), "a port of 1 to 65535"),
            (Some(&with_server("https://u:SECRET@127.0.0.1")), "without credentials"),
            (Some(&with_server("https://[::1]x:1, certificate-authority: /dev/zero")), "no regular file"),
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
            assert!(!error.contains("SECRET"), "{error}");
        }
        std::fs::remove_file(&path).unwrap_or_default();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = crate::log::with_causes(&by_file(&path).await.err().unwrap());
        assert!(error.contains("it is a device and no regular file"), "{error}");
    }

    fn with_server(server: &str) -> String {
        format!(
            "contexts: [{{name: a, context: {{cluster: b}}}}]\ncurrent-context: a\nclusters: [{{name: b, cluster: {{server: \"{}}}}}]",
            server.replacen(',', "\",", 1) + if server.contains(',') { "" } else { "\"" }
        )
    }

    /// A kubeconfig for a server of this machine.
    fn usable() -> String {
        with_server("http://127.0.0.1:1")
    }

    #[tokio::test]
    async fn a_source_that_fails_at_first_is_tried_until_it_can_be_used_and_holds_nothing_up() {
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        mknodat(CWD, &kubeconfig, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let settings = Kubernetes { kubeconfig: Some(kubeconfig.clone()), ..settings(NameSource::Api, false) };
        let names = Arc::new(Names::new(Duration::from_mins(5)));
        let (_stop, shutdown) = tokio::sync::watch::channel(false);
        let (mut tasks, began) = (JoinSet::new(), Instant::now());
        start(&settings, "n", &names, &mut tasks, &shutdown).await;
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert_eq!(names.synced(), Some(false), "names are waited for");
        assert_eq!(names.health().requests, [], "nobody is asked yet");
        std::fs::remove_file(&kubeconfig).unwrap();
        std::fs::write(&kubeconfig, usable()).unwrap();
        while names.health().requests.is_empty() {
            assert!(began.elapsed() < Duration::from_mins(1), "it was not tried again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_stop_ends_a_source_whose_plugin_does_not_end() {
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let user = "users: [{name: c, user: {exec: {command: sleep, args: [\"300\"]}}}]";
        std::fs::write(&kubeconfig, usable().replace("{cluster: b}", "{cluster: b, user: c}") + "\n" + user).unwrap();
        let settings = Kubernetes { kubeconfig: Some(kubeconfig), ..settings(NameSource::Api, false) };
        let names = Arc::new(Names::new(Duration::from_mins(5)));
        let (stop, shutdown) = tokio::sync::watch::channel(false);
        let (mut tasks, began) = (JoinSet::new(), Instant::now());
        start(&settings, "n", &names, &mut tasks, &shutdown).await;
        assert_eq!(names.synced(), Some(false));
        stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
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
