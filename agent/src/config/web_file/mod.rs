//! Prometheus' web configuration file, which exporters share: TLS, users and headers of the server.
//!
//! `fields` lists every field once. What podlens does not support is refused by name, since a field that is passed over in
//! silence may be the one that keeps somebody out. Only the text is read here: the server reads the files that it names.

mod fields;

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

use http::{HeaderName, HeaderValue};
use rustls::{CipherSuite, NamedGroup, pki_types::ServerName};

use self::fields::{FIELDS, Field, Take};
use super::{
    Error,
    setting::{nearest, quoted},
    yaml::{self, Content, Entry, Node},
};

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebFile {
    /// None: without TLS.
    pub tls: Option<WebTls>,
    /// Of each answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The bcrypt hash of each user's password.
    pub users: Hashes,
    /// The file of bearer tokens, one per line.
    pub token_file: Option<PathBuf>,
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebTls {
    /// The server's own, and those that lead to its authority.
    pub certificate: Pem,
    /// The certificate's.
    pub key: Pem,
    /// None: clients need no certificates.
    pub clients: Option<WebClients>,
    /// The oldest version that is spoken.
    pub oldest: TlsVersion,
    /// The newest one.
    pub newest: TlsVersion,
    /// With TLS 1.2; empty: all.
    pub cipher_suites: Vec<CipherSuite>,
    /// The preferred one first; empty: all.
    pub curves: Vec<NamedGroup>,
    /// The server's order of ciphers counts.
    pub own_order: bool,
}

/// What clients' certificates have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebClients {
    /// Who may sign them.
    pub authorities: Pem,
    /// Each client has to have one.
    pub required: bool,
    /// One of these names has to be in it; empty: any.
    pub names: Vec<ServerName<'static>>,
}

/// Where certificates or a key are.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In this file.
    File(PathBuf),
    /// Here.
    Text(String),
}

impl fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(formatter),
            Self::Text(_) => formatter.write_str("(text)"),
        }
    }
}

/// Users' hashes by name. `Debug` shows the names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hashes(pub BTreeMap<String, String>);

impl fmt::Debug for Hashes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// Versions of TLS that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// The fields as they come.
#[derive(Default)]
struct Given {
    certificate: Option<Pem>,
    key: Option<Pem>,
    required_of_clients: Option<bool>,
    authorities: Option<Pem>,
    allowed_names: Vec<ServerName<'static>>,
    oldest: Option<TlsVersion>,
    newest: Option<TlsVersion>,
    cipher_suites: Vec<CipherSuite>,
    own_order: Option<bool>,
    curves: Vec<NamedGroup>,
    headers: Vec<(HeaderName, HeaderValue)>,
    users: BTreeMap<String, String>,
    token_file: Option<PathBuf>,
    has_tls: bool,
}

impl WebFile {
    /// Reads the text of the file at `path`, to whose folder other files are relative.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and the remedy.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let root = yaml::parse(path, text)?;
        let mut reading = Reading { path, given: Given::default() };
        reading.section("", &root)?;
        reading.given.finish().map_err(|(what, remedy)| Error::WebIncomplete { path: path.to_owned(), what, remedy })
    }

    /// Who asks has to show something: a password, a token or a certificate.
    #[must_use]
    pub fn asks_for_credentials(&self) -> bool {
        !self.users.0.is_empty() || self.token_file.is_some()
    }
}

struct Reading<'a> {
    path: &'a Path,
    given: Given,
}

impl Reading<'_> {
    /// Takes what stands below `prefix`, which is empty or ends in a dot.
    fn section(&mut self, prefix: &str, node: &Node) -> Result<(), Error> {
        match &node.content {
            Content::Mapping(entries) => entries.iter().try_for_each(|entry| self.entry(prefix, entry)),
            // A section whose fields are all commented out.
            Content::Nothing => Ok(()),
            Content::Text(_) | Content::List(_) => {
                let (what, remedy) = ("fields must stand here", "write `field: value` lines");
                Err(Error::Structure { origin: node.place.origin(self.path), what, remedy })
            }
        }
    }

    fn entry(&mut self, prefix: &str, entry: &Entry) -> Result<(), Error> {
        let path = format!("{prefix}{}", entry.key);
        self.given.has_tls |= path.starts_with("tls_server_config.");
        let below = format!("{path}.");
        if let Some(field) = FIELDS.iter().find(|field| field.path == path) {
            return self.take(field, entry);
        }
        if FIELDS.iter().any(|field| field.path.starts_with(&below)) {
            return self.section(&below, &entry.value);
        }
        let nearest = nearest(&path, FIELDS.iter().map(|field| field.path.to_owned()));
        Err(Error::UnknownKey { origin: entry.key_place.origin(self.path), key: quoted(&path), nearest })
    }

    fn take(&mut self, field: &Field, entry: &Entry) -> Result<(), Error> {
        let key = || field.path.to_owned();
        let expects = || field.expects.to_owned();
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let given = &mut self.given;
        let wrong = |node: &Node, found: String| Error::WrongValue {
            origin: node.place.origin(self.path),
            key: key(),
            found,
            expects: expects(),
        };
        let malformed = || "malformed, or given twice".to_owned();
        match (&field.take, &entry.value.content) {
            (Take::Refused(remedy), _) => {
                Err(Error::NotSupported { origin: entry.key_place.origin(self.path), key: key(), remedy })
            }
            (_, Content::Nothing) => {
                Err(Error::NoValue { origin: entry.key_place.origin(self.path), key: key(), expects: expects() })
            }
            (Take::Text(take), Content::Text(text)) => {
                take(given, folder, text).ok_or_else(|| wrong(&entry.value, quoted(text)))
            }
            (Take::Secret(take), Content::Text(text)) => {
                take(given, text).ok_or_else(|| wrong(&entry.value, malformed()))
            }
            (Take::List(take), Content::List(items)) => items.iter().try_for_each(|item| match &item.content {
                Content::Text(text) => take(given, text).ok_or_else(|| wrong(item, quoted(text))),
                _ => Err(wrong(item, "no text".to_owned())),
            }),
            (Take::Map(take), Content::Mapping(entries)) => entries.iter().try_for_each(|entry| {
                let taken = match &entry.value.content {
                    Content::Text(text) => take(given, &entry.key, text),
                    _ => None,
                };
                taken.ok_or_else(|| wrong(&entry.value, format!("malformed at {}", quoted(&entry.key))))
            }),
            (_, Content::Text(_)) => Err(wrong(&entry.value, "a single value".to_owned())),
            (_, Content::List(_)) => Err(wrong(&entry.value, "a list".to_owned())),
            (_, Content::Mapping(_)) => Err(wrong(&entry.value, "a mapping".to_owned())),
        }
    }
}

type Lack = (&'static str, &'static str);

impl Given {
    /// What belongs together is there.
    fn finish(self) -> Result<WebFile, Lack> {
        let tls = if self.has_tls { Some(self.tls()?) } else { None };
        Ok(WebFile { tls, headers: self.headers, users: Hashes(self.users), token_file: self.token_file })
    }

    fn tls(&self) -> Result<WebTls, Lack> {
        let certificate = self.certificate.clone();
        let certificate = certificate.ok_or(("`tls_server_config` has no certificate", "add cert_file"))?;
        let key = self.key.clone().ok_or(("`tls_server_config` has no key", "add key_file"))?;
        let clients = match (self.required_of_clients, &self.authorities) {
            (None, None) if self.allowed_names.is_empty() => None,
            (None, _) => {
                return Err((
                    "client_ca_file or client_allowed_sans has no effect without client_auth_type",
                    "add client_auth_type: RequireAndVerifyClientCert",
                ));
            }
            (Some(_), None) => return Err(("client_auth_type needs to know who signs", "add client_ca_file")),
            (Some(required), Some(authorities)) => {
                Some(WebClients { authorities: authorities.clone(), required, names: self.allowed_names.clone() })
            }
        };
        let oldest = self.oldest.unwrap_or(TlsVersion::Tls12);
        let newest = self.newest.unwrap_or(TlsVersion::Tls13);
        if oldest > newest {
            return Err(("min_version is newer than max_version", "exchange them or leave one out"));
        }
        Ok(WebTls {
            certificate,
            key,
            clients,
            oldest,
            newest,
            cipher_suites: self.cipher_suites.clone(),
            curves: self.curves.clone(),
            own_order: self.own_order.unwrap_or(true),
        })
    }
}

/// All fields as a table in Markdown.
#[must_use]
pub fn web_reference() -> String {
    let mut table = String::from("| field | meaning |\n| --- | --- |\n");
    for Field { path, help, .. } in FIELDS {
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{path}` | {help} |");
    }
    table
}
