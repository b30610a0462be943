//! HTTP to the API server and to the kubelet.
//!
//! Connections, credentials (tokens are read again as they rotate) and certificates are the library's; time limits
//! and the reading of answers are here, since a server behind a proxy may hang or break off at any byte. Nothing is
//! retried here, and failures are for the sources to log.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy, rt::TokioExecutor};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Config,
    client::{Body, ConfigExt as _},
    config::{AuthInfo, ExecConfig},
};
use tokio::sync::{Mutex, MutexGuard};
use tower::ServiceBuilder;
use tracing::debug;

use super::{
    plugin::{self, PluginError},
    pod::PodError,
};
use crate::files;

/// What a connection keeps of an answer that comes faster than it is read. The list of a full node's pods has megabytes, after
/// which the library would keep 400 KB for as long as it watches.
const BUFFER_BYTES: usize = 64 << 10;

/// Credentials are fetched anew so long before they run out.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);
/// Several tasks share credentials: what one of them has fetched a moment ago is refused for another reason.
const FRESH: Duration = Duration::from_secs(5);

/// Time limits of one request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until the answer begins: connecting, its encryption and the server's own work.
    pub begin: Duration,
    /// Between two parts of an answer.
    pub silence: Duration,
    /// From the first part of a whole answer to its last.
    pub whole: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            begin: Duration::from_secs(15),
            // A watch brings a bookmark about once a minute even where nothing happens.
            silence: Duration::from_secs(150),
            whole: Duration::from_mins(1),
        }
    }
}

/// Why there is no client for a server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection would not be encrypted.
    #[error("{0} is not https: whoever is between could give pods other names; use an https address")]
    NotEncrypted(http::Uri),
    /// Verification is switched off.
    #[error(
        "the kubeconfig switches off the verification of {0}'s certificate; give it a certificate-authority instead of insecure-skip-tls-verify"
    )]
    NotVerified(http::Uri),
    /// Certificates, keys or tokens cannot be used.
    #[error(
        "cannot set up certificates and credentials for {server}; correct them in the kubeconfig or the service account"
    )]
    SetUp {
        /// The server.
        server: http::Uri,
        /// What the library says.
        #[source]
        source: Box<kube::Error>,
    },
    /// A file of them cannot be read.
    #[error("cannot read {}, which is to prove to {server} who asks; correct the kubeconfig or the service account", .path.display())]
    File {
        /// The server.
        server: http::Uri,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program of former times.
    #[error(
        "the kubeconfig's user has an auth-provider that starts a program, as kubectl did before 1.26; give it an exec instead"
    )]
    OldProvider,
    /// The credential plugin gives none.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is nothing to show to the server.
    #[error("there are no credentials for {server}")]
    NoCredentials {
        /// The server.
        server: http::Uri,
        /// Why.
        #[source]
        source: Arc<ClientError>,
    },
    /// Not reached.
    #[error("cannot reach {server}; see whether it runs, and whether that is its address")]
    Unreachable {
        /// The server.
        server: http::Uri,
        /// What the library says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It shows a certificate that cannot be accepted.
    #[error("the certificate of {server} is not accepted: {problem}")]
    Certificate {
        /// The server.
        server: http::Uri,
        /// What is wrong with it, with the remedy.
        problem: Box<CertificateProblem>,
    },
    /// Too slow.
    #[error("{server} did not answer within {limit:?}; see whether it has too much to do")]
    Silent {
        /// The server.
        server: http::Uri,
        /// The limit.
        limit: Duration,
    },
    /// It answered with an error.
    #[error("{server} answered {status}; {}", remedy(*status))]
    Refused {
        /// The server.
        server: http::Uri,
        /// Its answer.
        status: StatusCode,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer broke off.
    #[error("the answer of {server} broke off")]
    Broken {
        /// The server.
        server: http::Uri,
        /// What the library says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More than any honest answer.
    #[error("the answer of {server} is longer than {limit} bytes and was not read")]
    TooLong {
        /// The server.
        server: http::Uri,
        /// The limit.
        limit: usize,
    },
    /// The answer is not what was asked for.
    #[error("the answer of {server} makes no sense")]
    Garbage {
        /// The server.
        server: http::Uri,
        /// What is wrong with it.
        #[source]
        source: PodError,
    },
    /// A watch cannot go on from where it was.
    #[error("{server} no longer has the changes since the last answer; podlens lists the pods anew")]
    Gone {
        /// The server.
        server: http::Uri,
    },
}

/// What is wrong with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// Nobody who is trusted has signed it.
    #[error(
        "no authority that podlens knows has signed it, as is usual for a kubelet that signs its own certificate; set kubernetes.kubelet_certificate to the PEM file of the authority that did, on such a node /var/lib/kubelet/pki/kubelet.crt (for the API server: certificate-authority in the kubeconfig)"
    )]
    UnknownAuthority,
    /// It is good, but for others.
    #[error(
        "it is for {names} and not for {asked}; set kubernetes.kubelet_url to https://NAME:10250 with a name that it is for (for the API server: server or tls-server-name in the kubeconfig)"
    )]
    OtherName {
        /// Whom it is for.
        names: String,
        /// The name or address under which the server was asked.
        asked: String,
    },
    /// Too early or too late.
    #[error("it has expired or is not valid yet; renew it, and compare the clocks of both machines")]
    NotValidNow,
    /// Anything else.
    #[error("{0}; replace it, or see kubernetes.kubelet_certificate (for the API server: the kubeconfig)")]
    Other(String),
}

impl CertificateProblem {
    fn of(error: &rustls::CertificateError, server: &http::Uri) -> Self {
        use rustls::CertificateError as Error;
        let asked = server.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        match error {
            // A bad signature: another authority of the same name, such as the one of another cluster, has signed it.
            Error::UnknownIssuer | Error::BadSignature => Self::UnknownAuthority,
            // A certificate that is its own authority.
            Error::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => Self::UnknownAuthority,
            Error::NotValidForName => Self::OtherName { names: "others".to_owned(), asked },
            Error::NotValidForNameContext { presented, .. } if presented.is_empty() => {
                Self::OtherName { names: "no name".to_owned(), asked }
            }
            Error::NotValidForNameContext { presented, .. } => Self::OtherName {
                names: presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", "),
                asked,
            },
            Error::Expired | Error::ExpiredContext { .. } | Error::NotValidYet | Error::NotValidYetContext { .. } => {
                Self::NotValidNow
            }
            other => Self::Other(other.to_string()),
        }
    }
}

/// `DnsName("node-1")` or `IpAddress(10.0.0.5)` without what the library puts around it.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// The library's verdict about a certificate, if that is what an error is about. An I/O error that carries another one
/// does not name it as its source.
fn certificate_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
        return Some(problem);
    }
    let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    if let Some(carried) = carried {
        let carried: &(dyn std::error::Error + 'static) = carried;
        return certificate_error(carried);
    }
    certificate_error(error.source()?)
}

fn remedy(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "the token or certificate is not accepted: check the service account, or the kubeconfig's user"
        }
        StatusCode::FORBIDDEN => {
            "let the agent's service account list and watch pods, or get nodes/pods for the kubelet (the chart's rbac.create)"
        }
        StatusCode::TOO_MANY_REQUESTS => "podlens waits as long as it asks for, at most 5 minutes",
        _ => "its own log says why",
    }
}

impl RequestError {
    /// How long the server wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// All that the label `result` of the request's counter can say.
    pub const RESULTS: &[&'static str] = &[
        "ok",
        "unreachable",
        "certificate",
        "timeout",
        "broken",
        "garbage",
        "gone",
        "unauthorized",
        "forbidden",
        "throttled",
        "server_error",
        "refused",
    ];

    /// For the label `result` of the request's counter: one of [`Self::RESULTS`].
    #[must_use]
    pub fn result(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Certificate { .. } => "certificate",
            Self::Silent { .. } => "timeout",
            Self::Broken { .. } => "broken",
            Self::TooLong { .. } | Self::Garbage { .. } => "garbage",
            Self::Gone { .. } => "gone",
            Self::NoCredentials { .. } => "unauthorized",
            Self::Refused { status, .. } => match status.as_u16() {
                401 => "unauthorized",
                403 => "forbidden",
                429 => "throttled",
                500.. => "server_error",
                _ => "refused",
            },
        }
    }
}

/// A connection to one server. Clones share it, and the credentials.
#[derive(Clone)]
pub struct Client {
    server: http::Uri,
    limits: Limits,
    /// Without the plugin.
    config: Arc<Config>,
    plugin: Option<Arc<ExecConfig>>,
    session: Arc<Mutex<Session>>,
}

/// What requests go through.
struct Session {
    /// None until there are credentials.
    inner: Option<kube::Client>,
    /// When the credentials run out, as far as they tell.
    until: Option<Timestamp>,
    /// Since when they are there.
    since: Instant,
    /// When the last attempt to get some came to nothing, and why.
    failure: Option<(Instant, Arc<ClientError>)>,
}

impl Client {
    /// A client for the server of `config`. Needs a runtime; connects, and starts a credential plugin, when it is asked
    /// something.
    ///
    /// # Errors
    /// The server's certificate could not be verified, or the credentials cannot be used.
    pub fn new(config: &Config, limits: Limits) -> Result<Self, ClientError> {
        let server = config.cluster_url.clone();
        let is_local = server.host().is_some_and(|host| {
            host == "localhost"
                || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        });
        if server.scheme_str() != Some("https") && !is_local {
            return Err(ClientError::NotEncrypted(server));
        }
        if config.accept_invalid_certs {
            return Err(ClientError::NotVerified(server));
        }
        let mut config = config.clone();
        let plugin = plugin_of(&mut config.auth_info)?.map(Arc::new);
        let inner = if plugin.is_some() { None } else { Some(connection(&config)?) };
        let session = Session { inner, until: None, since: Instant::now(), failure: None };
        Ok(Self { server, limits, config: Arc::new(config), plugin, session: Arc::new(Mutex::new(session)) })
    }

    /// Gets credentials if they have to be fetched.
    ///
    /// # Errors
    /// There are none.
    pub async fn log_in(&self) -> Result<(), Arc<ClientError>> {
        self.connection().await.map(drop)
    }

    /// Reads the credentials anew if they were the reason of a failure: the library keeps a token that it has read for
    /// up to a minute, and the server may refuse it before.
    pub async fn renew_after(&self, error: &RequestError) {
        if !matches!(error, RequestError::Refused { status: StatusCode::UNAUTHORIZED, .. }) {
            return;
        }
        let mut session = self.session.lock().await;
        if self.plugin.is_some() {
            if session.since.elapsed() >= FRESH {
                session.inner = None;
            }
            return;
        }
        match connection(&self.config) {
            Ok(renewed) => session.inner = Some(renewed),
            Err(cause) => debug!(cause = crate::log::with_causes(&cause), "the credentials stay as they were"),
        }
    }

    /// What a request goes through.
    async fn connection(&self) -> Result<kube::Client, Arc<ClientError>> {
        let asked = Instant::now();
        if let Some(inner) = self.session.lock().await.usable() {
            return Ok(inner);
        }
        let client = self.clone();
        // A task of its own: whoever asks may leave before a slow plugin ends, and the next one would start it anew.
        let fetched = tokio::spawn(async move {
            let session = client.session.lock().await;
            client.fetch(session, asked).await
        });
        match fetched.await {
            Ok(outcome) => outcome,
            // The runtime ends, and with it whoever asks.
            Err(_) => std::future::pending().await,
        }
    }

    /// Several may have asked at once: the first one fetches credentials, and the others share its luck.
    async fn fetch(
        &self,
        mut session: MutexGuard<'_, Session>,
        asked: Instant,
    ) -> Result<kube::Client, Arc<ClientError>> {
        if let Some(inner) = session.usable() {
            return Ok(inner);
        }
        if let Some((_, cause)) = session.failure.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(Arc::clone(cause));
        }
        match self.log_in_now().await {
            Ok((inner, until)) => {
                *session = Session { inner: Some(inner.clone()), until, since: Instant::now(), failure: None };
                Ok(inner)
            }
            Err(cause) => {
                let cause = Arc::new(cause);
                session.failure = Some((Instant::now(), Arc::clone(&cause)));
                Err(cause)
            }
        }
    }

    async fn log_in_now(&self) -> Result<(kube::Client, Option<Timestamp>), ClientError> {
        let mut config = Config::clone(&self.config);
        let mut until = None;
        if let Some(plugin) = &self.plugin {
            let login = plugin::log_in(plugin).await?;
            until = login.until;
            login.enter(&mut config.auth_info);
        }
        Ok((connection(&config)?, until))
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> &http::Uri {
        &self.server
    }

    /// Starts an answer.
    ///
    /// # Errors
    /// The server is not reached, is too slow, or answers anything but success.
    pub async fn get(&self, path_and_query: &str) -> Result<Answer, RequestError> {
        self.ask(Method::GET, path_and_query, None).await
    }

    /// The same with another method and an object to be made (`POST`) or changed (`PUT`).
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn ask(
        &self,
        method: Method,
        path_and_query: &str,
        object: Option<&serde_json::Value>,
    ) -> Result<Answer, RequestError> {
        let request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("podlens/", env!("CARGO_PKG_VERSION")))
            .body(object.map_or_else(Body::empty, |object| Body::from(object.to_string().into_bytes())))
            .map_err(|source| self.unreachable(source))?;
        let inner = self
            .connection()
            .await
            .map_err(|source| RequestError::NoCredentials { server: self.server.clone(), source })?;
        let answer = match tokio::time::timeout(self.limits.begin, inner.send(request)).await {
            Err(_) => return Err(RequestError::Silent { server: self.server.clone(), limit: self.limits.begin }),
            Ok(Err(source)) => return Err(self.unreachable(source)),
            Ok(Ok(answer)) => answer,
        };
        let status = answer.status();
        if status == StatusCode::GONE {
            return Err(RequestError::Gone { server: self.server.clone() });
        }
        if status != StatusCode::OK && status != StatusCode::CREATED {
            let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            return Err(RequestError::Refused { server: self.server.clone(), status, retry_after });
        }
        Ok(Answer { body: answer.into_body(), server: self.server.clone(), limits: self.limits })
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RequestError {
        let (server, source) = (self.server.clone(), source.into());
        match certificate_error(&*source) {
            Some(problem) => {
                let problem = Box::new(CertificateProblem::of(problem, &server));
                RequestError::Certificate { server, problem }
            }
            None => RequestError::Unreachable { server, source },
        }
    }
}

impl Session {
    /// Credentials that have just been fetched are used however soon they run out.
    fn usable(&self) -> Option<kube::Client> {
        let is_over = self.until.is_some_and(|until| Timestamp::now() + MARGIN >= until);
        self.inner.clone().filter(|_| !is_over || self.since.elapsed() < FRESH)
    }
}

/// The plugin that is to be asked; none where other credentials go before it, as for the library.
fn plugin_of(auth: &mut AuthInfo) -> Result<Option<ExecConfig>, ClientError> {
    let exec = auth.exec.take();
    if let Some(provider) = &auth.auth_provider {
        // The library would wait for it without end, and its errors tell what it prints.
        return if provider.config.contains_key("cmd-path") { Err(ClientError::OldProvider) } else { Ok(None) };
    }
    let has_password = auth.username.is_some() && auth.password.is_some();
    let has_others = has_password || auth.token.is_some() || auth.token_file.is_some();
    Ok(exec.filter(|_| !has_others))
}

/// What sends requests with the certificates and the credentials of `config`.
fn connection(config: &Config) -> Result<kube::Client, ClientError> {
    let server = &config.cluster_url;
    let auth = &config.auth_info;
    let identity = [
        (&auth.client_certificate, auth.client_certificate_data.is_some()),
        (&auth.client_key, auth.client_key_data.is_some()),
        (&auth.token_file, auth.token.is_some()),
    ];
    let identity = identity.into_iter().filter(|(_, has_data)| !has_data).filter_map(|(path, _)| path.as_deref());
    // The library reads them, and would wait for a pipe.
    for path in identity.map(Path::new).chain(config.root_cert_file.as_deref()) {
        files::check(path, files::CREDENTIAL_BYTES).map_err(|source| ClientError::File {
            server: server.clone(),
            path: path.to_owned(),
            source,
        })?;
    }
    let set_up = |source| ClientError::SetUp { server: server.clone(), source: Box::new(source) };
    let connector = config.rustls_https_connector().map_err(set_up)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(set_up)?)
        .map_err(tower::BoxError::from)
        .service(
            legacy::Client::builder(TokioExecutor::new()).http1_max_buf_size(BUFFER_BYTES).build::<_, Body>(connector),
        );
    Ok(kube::Client::new(service, "default"))
}

/// An answer that is being read.
pub struct Answer {
    body: Body,
    server: http::Uri,
    limits: Limits,
}

impl Answer {
    /// The next part; none at the end.
    ///
    /// # Errors
    /// The answer breaks off, or the server stays silent.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        loop {
            let frame = tokio::time::timeout(self.limits.silence, self.body.frame()).await;
            match frame {
                Err(_) => {
                    return Err(RequestError::Silent { server: self.server.clone(), limit: self.limits.silence });
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(source))) => {
                    return Err(RequestError::Broken { server: self.server.clone(), source: Box::new(source) });
                }
                // Trailers are no part of the text.
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Self::next`], or it is longer than `limit_bytes` or takes too long.
    pub async fn whole(mut self, limit_bytes: usize) -> Result<Vec<u8>, RequestError> {
        let (server, limit) = (self.server.clone(), self.limits.whole);
        let read = async move {
            let mut whole = Vec::new();
            while let Some(part) = self.next().await? {
                if whole.len() + part.len() > limit_bytes {
                    return Err(RequestError::TooLong { server: self.server.clone(), limit: limit_bytes });
                }
                whole.extend_from_slice(&part);
            }
            Ok(whole)
        };
        tokio::time::timeout(limit, read).await.unwrap_or(Err(RequestError::Silent { server, limit }))
    }
}
