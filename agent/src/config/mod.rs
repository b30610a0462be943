//! The agent's configuration: defaults, then standard `OTEL_*` variables, then a YAML file, then `PODLENS_*`
//! variables, then flags, each over the one before.
//!
//! `keys` lists every key once: its name, what it expects, its default, its help and how it is set. File, variables,
//! flags and documentation all go through that list, so they accept the same keys and say the same when they refuse.
//! Nothing here is checked against the node; that is `podlens check`. `main` calls [`load`].

mod env;
mod error;
mod file;
mod keys;
mod otel;
mod reference;
mod setting;
mod value;
mod web_file;
mod yaml;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use self::otel::Signal;
pub use error::{Error, Origin};
pub use reference::reference;
pub use setting::check_value;
pub(crate) use value::has_plain_authority;
pub use web_file::{Hashes, Pem, TlsVersion, WebClients, WebFile, WebTls, web_reference};

/// Where the agent serves unless told otherwise.
const PORT: u16 = 9464;

/// Where kubelets serve unless told otherwise.
const KUBELET_PORT: u16 = 10250;

/// Everything that can be configured. `keys` says what each field means, and its range.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Config {
    pub listen: SocketAddr,
    /// None: the probes are answered where /metrics is, and nowhere else.
    pub health_listen: Option<SocketAddr>,
    pub web: Web,
    pub node: String,
    pub max_age: Duration,
    /// None: as many as fit.
    pub slots: Option<u32>,
    pub cgroup_root: PathBuf,
    pub linger: Duration,
    pub units: Units,
    /// Every known collector, and whether it is to run.
    pub collectors: BTreeMap<String, bool>,
    pub events: Events,
    pub log: Log,
    pub prometheus: Prometheus,
    pub series: Series,
    pub otlp: Otlp,
    /// What `otlp` is for events: OpenTelemetry has variables of their own for log records, below the same keys.
    pub logs: Otlp,
    pub kubernetes: Kubernetes,
    pub fleet: Fleet,
}

/// How much `podlens fleet` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Fleet {
    pub lacking_series: usize,
}

/// How the server is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Web {
    /// None: no TLS, and open to all.
    pub config_file: Option<PathBuf>,
}

/// What becomes of events.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Events {
    pub enabled: bool,
}

/// How finely what is in no pod is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// Each unit, container outside pods and plain cgroup has series of its own.
    Each,
    /// They count under their topmost slice or directory.
    Slice,
    /// All of them are one.
    Off,
}

/// What the agent logs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

/// The least severe messages that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the tracing crate")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The most severe first.
    pub(crate) const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As tracing's filters spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How many series leave the node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Series {
    pub detail: Detail,
    /// None: as `detail` says.
    pub collectors: BTreeMap<String, Option<Detail>>,
    pub allow: Patterns,
    pub deny: Patterns,
    /// None: there is no limit.
    pub limit: Option<usize>,
}

/// How finely what runs in pods is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Each container.
    Container,
    /// Each pod.
    Pod,
    /// Each workload, such as a deployment.
    Workload,
}

/// Names of metrics, in which `*` stands for any text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

/// What of a metric leaves the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: it is named.
    All,
    /// What its definition says.
    ByDefault,
    /// Nothing.
    Nothing,
}

impl Series {
    /// In `series.allow`: all that a metric's definition says.
    const DEFAULT: &'static str = "default";

    /// What of the metric of this name leaves the node.
    #[must_use]
    pub fn wanted(&self, name: &str) -> Wanted {
        if self.deny.any(name) {
            return Wanted::Nothing;
        }
        match (self.allow.any(name), self.allow.any(Self::DEFAULT)) {
            (true, _) => Wanted::All,
            (false, true) => Wanted::ByDefault,
            (false, false) => Wanted::Nothing,
        }
    }

    /// Patterns that no metric of these names fits, each as a message with the nearest name: most likely a slip, and otherwise the
    /// name of another version.
    #[must_use]
    pub fn strays(&self, names: &[&str]) -> Vec<String> {
        let of_key = |(key, patterns): (&'static str, &Patterns)| -> Vec<String> {
            let fits_none = |pattern: &&String| !names.iter().any(|name| matches(pattern, name));
            let strays = patterns.0.iter().filter(|pattern| *pattern != Self::DEFAULT).filter(fits_none);
            strays
                .map(|stray| {
                    let nearest = setting::nearest(stray, names.iter().map(|name| (*name).to_owned()));
                    format!("no metric fits {} of `{key}`; the nearest name is {nearest}", setting::quoted(stray))
                })
                .collect()
        };
        [("series.allow", &self.allow), ("series.deny", &self.deny)].into_iter().flat_map(of_key).collect()
    }

    /// Leaves nothing out.
    pub fn want_all(&mut self) {
        (self.allow, self.deny) = (Patterns(vec!["*".to_owned()]), Patterns::default());
    }
}

impl Patterns {
    fn any(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }
}

/// `*` in the pattern stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(after, rest)))
}

/// How the page for Prometheus is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Prometheus {
    pub classic_histograms: ClassicHistograms,
}

/// Which pages have classic buckets of distributions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClassicHistograms {
    /// Those that cannot carry native histograms.
    #[default]
    Auto,
    /// All.
    Always,
    /// None: where there are no native histograms either, number and sum are left.
    Never,
}

/// Where and how metrics are pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Otlp {
    pub enabled: bool,
    pub protocol: Protocol,
    /// None: nothing is pushed.
    pub endpoint: Option<Endpoint>,
    pub interval: Duration,
    pub timeout: Duration,
    pub headers: Headers,
    pub compression: Compression,
    pub certificate: Option<PathBuf>,
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub histograms: Histograms,
    pub temporality: Temporality,
    pub identity: Identity,
    pub resource_attributes: BTreeMap<String, String>,
    pub service_name: Option<String>,
    pub service_attributes: bool,
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            enabled: true,
            protocol: Protocol::Grpc,
            endpoint: None,
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            headers: Headers::default(),
            compression: Compression::None,
            certificate: None,
            client_certificate: None,
            client_key: None,
            histograms: Histograms::Exponential,
            temporality: Temporality::Cumulative,
            identity: Identity::Resource,
            resource_attributes: BTreeMap::new(),
            service_name: None,
            service_attributes: false,
        }
    }
}

/// Where metrics or events are pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The receiver.
    pub url: http::Uri,
    /// Over HTTP: the path is the signal's own, and none is added to it.
    pub is_for_signal: bool,
}

/// How the receiver is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are OTLP's")]
pub enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// How a distribution is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Histograms {
    /// Buckets in powers of two, all that the kernel programs count.
    Exponential,
    /// The buckets of the Prometheus page.
    Explicit,
}

/// What a pushed counter or distribution is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporality {
    /// The start of what it is of.
    Cumulative,
    /// The last push.
    Delta,
}

/// Where the names of a pushed value's pod, container or unit stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// On the resource.
    #[default]
    Resource,
    /// On each point and log record.
    Attributes,
    /// On both.
    Both,
}

/// Where pods' and containers' names come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the key of the same name documents each field")]
pub struct Kubernetes {
    pub source: NameSource,
    pub kubeconfig: Option<PathBuf>,
    pub kubelet_url: http::Uri,
    pub kubelet_certificate: Option<PathBuf>,
    pub bundle_root: PathBuf,
}

/// The kinds of sources of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameSource {
    /// The first of those below that is at hand.
    Auto,
    /// The API server.
    Api,
    /// The node's kubelet.
    Kubelet,
    /// The annotations that container runtimes write to disk.
    Bundle,
    /// Pods keep their uids, containers their ids.
    None,
}

/// How a request's body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Headers of each push. They carry credentials, so `Debug` shows no value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// By lower-case name.
    pub values: BTreeMap<String, String>,
    /// What was given as a header and cannot be sent: in words, without its value.
    unsendable: Vec<String>,
}

impl fmt::Debug for Headers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.values.keys()).finish()
    }
}

impl Config {
    /// Events are wanted and have somewhere to go.
    #[must_use]
    pub fn tells_events(&self) -> bool {
        self.events.enabled && self.logs.enabled && self.logs.endpoint.is_some()
    }

    /// The defaults, with each collector on. The node has no name yet.
    #[must_use]
    pub fn defaults(collectors: &[&str]) -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            health_listen: None,
            web: Web::default(),
            node: String::new(),
            max_age: Duration::from_secs(1),
            slots: None,
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            units: Units::Each,
            linger: Duration::from_mins(5),
            collectors: collectors.iter().map(|&name| (name.to_owned(), true)).collect(),
            events: Events { enabled: true },
            log: Log { level: LogLevel::Info, format: LogFormat::Text },
            series: Series {
                detail: Detail::Container,
                collectors: collectors.iter().map(|&name| (name.to_owned(), None)).collect(),
                allow: Patterns(vec![Series::DEFAULT.to_owned()]),
                deny: Patterns::default(),
                limit: None,
            },
            prometheus: Prometheus { classic_histograms: ClassicHistograms::Auto },
            otlp: Otlp::default(),
            logs: Otlp::default(),
            kubernetes: Kubernetes {
                source: NameSource::Auto,
                kubeconfig: None,
                kubelet_url: http::Uri::from_static("https://127.0.0.1:10250"),
                kubelet_certificate: None,
                bundle_root: PathBuf::from("/run"),
            },
            fleet: Fleet { lacking_series: 1000 },
        }
    }

    /// Sets every key that a file gives; `path` is its name in messages.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and the remedy. Keys before it are set.
    pub fn set_from_file(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        file::apply_text(self, path, text)
    }

    fn collector_names(&self) -> Vec<String> {
        self.collectors.keys().cloned().collect()
    }
}

/// What the configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    /// The names of all collectors.
    pub collectors: &'a [&'a str],
    /// Those among them that are off unless they are asked for.
    pub on_demand: &'a [&'a str],
    /// The file named by `--config`. Without it, `PODLENS_CONFIG` may name one.
    pub file: Option<PathBuf>,
    /// Key and value of each flag that was given.
    pub flags: Vec<(&'static str, String)>,
    /// The environment.
    pub variables: Vec<(OsString, OsString)>,
    /// The host's name, if it is known.
    pub host_name: Option<String>,
}

impl<'a> Inputs<'a> {
    /// The inputs of this process.
    #[must_use]
    pub fn of_process(
        collectors: &'a [&'a str],
        on_demand: &'a [&'a str],
        file: Option<PathBuf>,
        flags: Vec<(&'static str, String)>,
    ) -> Self {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self { collectors, on_demand, file, flags, variables: std::env::vars_os().collect(), host_name }
    }
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// `OTEL_*` variables that were passed over. OpenTelemetry's specification wants a warning, not an error.
    pub warnings: Vec<String>,
}

/// Reads the whole configuration.
///
/// # Errors
/// The first thing that is wrong with it, with its place and the remedy.
pub fn load(inputs: &Inputs<'_>) -> Result<Loaded, Error> {
    let Loaded { mut config, mut warnings } = load_for(inputs, Signal::Metrics)?;
    let logs = load_for(inputs, Signal::Logs)?;
    config.logs = logs.config.otlp;
    for warning in logs.warnings {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    Ok(Loaded { config, warnings })
}

/// Everything, as it is for this signal.
fn load_for(inputs: &Inputs<'_>, signal: Signal) -> Result<Loaded, Error> {
    let variables = env::Variables::new(&inputs.variables);
    let mut config = Config::defaults(inputs.collectors);
    for name in inputs.on_demand {
        config.collectors.insert((*name).to_owned(), false);
    }

    let mut warnings = otel::apply(&mut config, &variables, signal);
    let standard_identity = (config.otlp.client_certificate.clone(), config.otlp.client_key.clone());
    if let Some(text) = variables.text("NODE_IP")? {
        config.kubernetes.kubelet_url = kubelet_at(text)?;
    }
    let from_variable = variables.text(env::CONFIG_VARIABLE)?.map(PathBuf::from);
    if let Some(path) = inputs.file.clone().or(from_variable) {
        file::apply(&mut config, &path)?;
    }
    env::apply(&mut config, &variables)?;
    for (key, text) in &inputs.flags {
        setting::set(&mut config, key, text, || Origin::flag(key))?;
    }

    if config.node.is_empty() {
        config.node = node_name(&variables, inputs.host_name.as_deref())?;
    }
    warnings.extend(otel::pass_over_half_identity(&mut config, &standard_identity));
    warnings.extend(otel::hold_back_without_headers(&mut config));
    if config.otlp.client_certificate.is_some() != config.otlp.client_key.is_some() {
        return Err(Error::HalfClientCertificate);
    }
    if let Some(health) = config.health_listen.filter(|health| overlap(config.listen, *health)) {
        return Err(Error::SameAddress { listen: config.listen, health });
    }
    Ok(Loaded { config, warnings })
}

/// Whoever listens at one of them keeps others from the other one.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // `[::]` stands for every address of IPv4 as well.
    let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (first, second) = (one.ip(), other.ip());
    let is_same_port = one.port() == other.port() && one.port() != 0;
    one == other || (is_same_port && (first == second || covers(first, second) || covers(second, first)))
}

/// The variable that the chart fills with the node's name, else the host's own name.
fn node_name(variables: &env::Variables<'_>, host_name: Option<&str>) -> Result<String, Error> {
    let name = match variables.text("NODE_NAME")? {
        Some(name) => name,
        None => host_name.ok_or(Error::UnreadHostName)?.trim(),
    };
    if value::is_node_name(name) { Ok(name.to_owned()) } else { Err(Error::NoNodeName) }
}

/// The kubelet of the node whose address the chart puts into a variable: in a pod, loopback is the pod's own.
fn kubelet_at(address: &str) -> Result<http::Uri, Error> {
    let invalid = || Error::InvalidNodeAddress { address: address.escape_debug().to_string() };
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    format!("https://{}", SocketAddr::new(address, KUBELET_PORT)).parse().map_err(|_| invalid())
}

#[cfg(test)]
mod tests;
