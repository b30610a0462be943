//! What can be wrong with the configuration. Each message names the place, the thing and the remedy.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

/// Where a key was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file.
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// By the environment variable of this name.
    Variable(String),
    /// By the flag of this name.
    Flag(String),
}

impl Origin {
    /// The flag of a key: `--log-level` for `log.level`.
    #[must_use]
    pub fn flag(key: &str) -> Self {
        Self::Flag(format!("--{}", key.replace(['.', '_'], "-")))
    }

    fn how_to_omit(&self) -> &'static str {
        match self {
            Self::File { .. } => "remove the line",
            Self::Variable(_) => "unset the variable",
            Self::Flag(_) => "leave the flag out",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => {
                write!(formatter, "{}:{line}:{column}", path.display())
            }
            Self::Variable(name) => write!(formatter, "environment variable {name}"),
            Self::Flag(name) => formatter.write_str(name),
        }
    }
}

/// Why there is no valid configuration.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error(
        "configuration file {} does not exist; correct --config or PODLENS_CONFIG, or leave both out to use the defaults",
        .path.display()
    )]
    MissingFile { path: PathBuf },

    #[error("configuration file {} is a directory; name the file in it", .path.display())]
    IsDirectory { path: PathBuf },

    #[error("configuration file {} cannot be read: {what}; name a regular file", .path.display())]
    IrregularFile { path: PathBuf, what: String },

    #[error("cannot read configuration file {}; let the user that runs podlens read it", .path.display())]
    ReadFile { path: PathBuf, source: io::Error },

    #[error("configuration file {} is not UTF-8 text; save it as UTF-8", .path.display())]
    FileNotUtf8 { path: PathBuf },

    #[error("configuration file {} is larger than {limit_bytes} bytes; keep nothing but podlens' keys in it", .path.display())]
    FileTooLarge { path: PathBuf, limit_bytes: u64 },

    #[error("{origin}: not valid YAML: {reason}; check indentation, colons and quotes up to there")]
    Syntax { origin: Origin, reason: String },

    #[error("{origin}: {what}; {remedy}")]
    Structure { origin: Origin, what: &'static str, remedy: &'static str },

    #[error("{origin}: key {key} is given again, after line {first_line}; keep one of them")]
    /// `key` is escaped and quoted.
    DuplicateKey { origin: Origin, key: String, first_line: usize },

    #[error("{origin}: unknown key {key}; the nearest valid key is `{nearest}`")]
    /// `key` is escaped and quoted.
    UnknownKey { origin: Origin, key: String, nearest: String },

    #[error("{origin}: `{key}` is {found}, but must be {expects}")]
    WrongValue { origin: Origin, key: String, found: String, expects: String },

    #[error("{origin}: `{key}` has no value; {}, or give it {expects}", .origin.how_to_omit())]
    NoValue { origin: Origin, key: String, expects: String },

    #[error("{origin}: `{key}` is not supported; {remedy}")]
    NotSupported { origin: Origin, key: String, remedy: &'static str },

    #[error("web configuration file {}: {what}; {remedy}", .path.display())]
    WebIncomplete { path: PathBuf, what: &'static str, remedy: &'static str },

    #[error("environment variable {name} is unknown; the nearest valid name is {nearest}")]
    UnknownVariable { name: String, nearest: String },

    #[error("environment variable {name} is not UTF-8 text; set it to plain text or unset it")]
    VariableNotUtf8 { name: String },

    #[error("environment variable {name} is empty; set it or unset it")]
    VariableEmpty { name: String },

    #[error(
        "`otlp.client_certificate` and `otlp.client_key` belong together, but only one of them is set; set both or none"
    )]
    HalfClientCertificate,

    #[error(
        "`listen` and `health_listen` have an address in common, {listen} and {health}; give `health_listen` another port, or leave it out"
    )]
    SameAddress { listen: SocketAddr, health: SocketAddr },

    #[error(
        "the node has no valid name: neither NODE_NAME nor the host's name is 1 to 253 letters, digits, dots, dashes or underscores; set `node`, PODLENS_NODE or --node"
    )]
    NoNodeName,

    #[error(
        "the node has no name: NODE_NAME is not set, and the host's name could not be read from /proc/sys/kernel/hostname; set `node`, PODLENS_NODE or --node"
    )]
    UnreadHostName,

    #[error(
        "environment variable NODE_IP is `{address}`, which is no IP address; set it to the node's own, or unset it and set `kubernetes.kubelet_url`"
    )]
    /// `address` is escaped.
    InvalidNodeAddress { address: String },
}
