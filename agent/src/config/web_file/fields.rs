//! The list of all fields of the web configuration file: the one place where a field is named, described and taken, or
//! refused with what to do instead.

use std::path::Path;

use http::{HeaderName, HeaderValue};
use rustls::{CipherSuite, NamedGroup, crypto::ring};

use super::{Given, Pem, TlsVersion};
use crate::config::value::{boolean, choice};

/// One field of the file.
pub(super) struct Field {
    /// From the file's root, parts joined by dots.
    pub(super) path: &'static str,
    /// What a value must be, to follow "must be".
    pub(super) expects: &'static str,
    /// One line, without a final stop.
    pub(super) help: &'static str,
    pub(super) take: Take,
}

/// How a field's value is taken. None: it is not what the field expects. The path is the folder of the file.
pub(super) enum Take {
    /// One value.
    Text(fn(&mut Given, &Path, &str) -> Option<()>),
    /// One value that no message may show.
    Secret(fn(&mut Given, &str) -> Option<()>),
    /// A list of values, one after the other.
    List(fn(&mut Given, &str) -> Option<()>),
    /// Names with a value each, which no message may show.
    Map(fn(&mut Given, &str, &str) -> Option<()>),
    /// Never: what to do instead.
    Refused(&'static str),
}

/// Hashing with a higher cost takes seconds: a wrong password would hold up everybody.
const HIGHEST_COST: u32 = 15;
const LOWEST_COST: u32 = 4;

pub(super) const FIELDS: &[Field] = &[
    Field {
        path: "tls_server_config.cert_file",
        expects: "a path",
        help: "PEM file of the server's certificate, and of the intermediate ones up to its authority",
        take: Take::Text(|given, folder, text| put(&mut given.certificate, file(folder, text))),
    },
    Field {
        path: "tls_server_config.key_file",
        expects: "a path",
        help: "PEM file of the certificate's key",
        take: Take::Text(|given, folder, text| put(&mut given.key, file(folder, text))),
    },
    Field {
        path: "tls_server_config.cert",
        expects: "a certificate in PEM",
        help: "The certificate itself, instead of `cert_file`",
        take: Take::Secret(|given, text| put(&mut given.certificate, pem(text))),
    },
    Field {
        path: "tls_server_config.key",
        expects: "a key in PEM",
        help: "The key itself, instead of `key_file`",
        take: Take::Secret(|given, text| put(&mut given.key, pem(text))),
    },
    Field {
        path: "tls_server_config.client_auth_type",
        expects: "NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert; RequestClientCert and RequireAnyClientCert check no certificate and are refused, use RequireAndVerifyClientCert",
        help: "Whether a client must have a certificate; by default the server requests none",
        take: Take::Text(|given, _, text| {
            let choices = [
                ("NoClientCert", None),
                ("VerifyClientCertIfGiven", Some(false)),
                ("RequireAndVerifyClientCert", Some(true)),
            ];
            given.required_of_clients = choice(text, &choices)?;
            Some(())
        }),
    },
    Field {
        path: "tls_server_config.client_ca_file",
        expects: "a path",
        help: "PEM file of the authorities that may sign clients' certificates",
        take: Take::Text(|given, folder, text| put(&mut given.authorities, file(folder, text))),
    },
    Field {
        path: "tls_server_config.client_ca",
        expects: "certificates in PEM",
        help: "The authorities themselves, instead of `client_ca_file`",
        take: Take::Secret(|given, text| put(&mut given.authorities, pem(text))),
    },
    Field {
        path: "tls_server_config.client_allowed_sans",
        expects: "a list of DNS names and IP addresses; URIs and e-mail addresses are not supported, let an authority of its own sign the scrapers' certificates",
        help: "A client's certificate must have one of these names; a wildcard in the certificate matches none of them",
        take: Take::List(|given, text| {
            given.allowed_names.push(rustls::pki_types::ServerName::try_from(text.to_owned()).ok()?);
            Some(())
        }),
    },
    Field {
        path: "tls_server_config.min_version",
        expects: "TLS12 or TLS13; podlens speaks nothing older, use TLS12",
        help: "The oldest version of TLS, `TLS12` by default",
        take: Take::Text(|given, _, text| put(&mut given.oldest, version(text))),
    },
    Field {
        path: "tls_server_config.max_version",
        expects: "TLS12 or TLS13; podlens speaks nothing older, use TLS13 or leave it out",
        help: "The newest version of TLS, `TLS13` by default",
        take: Take::Text(|given, _, text| put(&mut given.newest, version(text))),
    },
    Field {
        path: "tls_server_config.cipher_suites",
        expects: "a list of names as in Go, TLS_ECDHE_ECDSA_WITH_ or TLS_ECDHE_RSA_WITH_ with AES_128_GCM_SHA256, AES_256_GCM_SHA384 or CHACHA20_POLY1305_SHA256; others are not supported, leave them out",
        help: "The ciphers with TLS 1.2; with TLS 1.3 all are offered",
        take: Take::List(|given, text| {
            let suites = ring::ALL_CIPHER_SUITES.iter().map(rustls::SupportedCipherSuite::suite);
            given.cipher_suites.push(suites.into_iter().find(|suite| go_name(*suite) == text)?);
            Some(())
        }),
    },
    Field {
        path: "tls_server_config.prefer_server_cipher_suites",
        expects: "true or false",
        help: "Whether the server's order of ciphers counts, as by default, or the client's",
        take: Take::Text(|given, _, text| put(&mut given.own_order, boolean(text))),
    },
    Field {
        path: "tls_server_config.curve_preferences",
        expects: "a list of X25519, CurveP256 and CurveP384; others are not supported, leave them out",
        help: "The curves for the exchange of keys, the preferred one first",
        take: Take::List(|given, text| {
            let choices = [
                ("X25519", NamedGroup::X25519),
                ("CurveP256", NamedGroup::secp256r1),
                ("CurveP384", NamedGroup::secp384r1),
            ];
            given.curves.push(choice(text, &choices)?);
            Some(())
        }),
    },
    Field {
        path: "http_server_config.http2",
        expects: "false; podlens serves HTTP/1.1 alone, which every Prometheus takes",
        help: "Only `false`: podlens serves HTTP/1.1 alone",
        take: Take::Text(|_, _, text| (text == "false").then_some(())),
    },
    Field {
        path: "http_server_config.headers",
        expects: "values for Strict-Transport-Security, X-Content-Type-Options (nosniff), X-Frame-Options (deny or sameorigin), X-XSS-Protection or Content-Security-Policy",
        help: "Headers of each answer",
        take: Take::Map(|given, name, text| {
            let may_be: &[&str] = match name {
                "X-Content-Type-Options" => &["nosniff"],
                "X-Frame-Options" => &["deny", "sameorigin"],
                "Strict-Transport-Security" | "X-XSS-Protection" | "Content-Security-Policy" => &[text],
                _ => return None,
            };
            let header = (HeaderName::try_from(name).ok()?, HeaderValue::try_from(text).ok()?);
            may_be.contains(&text).then(|| given.headers.push(header))
        }),
    },
    Field {
        path: "basic_auth_users",
        expects: "names of users with bcrypt hashes of their passwords, of a cost from 4 to 15, as `htpasswd -nBC 10 NAME` makes them",
        help: "Users and their passwords, as bcrypt hashes of a cost up to 15",
        take: Take::Map(|given, name, text| {
            let hash: bcrypt::HashParts = text.parse().ok()?;
            let is_usable = !name.contains(':') && (LOWEST_COST..=HIGHEST_COST).contains(&hash.get_cost());
            is_usable.then(|| _ = given.users.insert(name.to_owned(), text.to_owned()))
        }),
    },
    Field {
        path: "bearer_token_file",
        expects: "a path",
        help: "podlens' own field: a file of tokens, one per line, each of which grants access as `Authorization: Bearer TOKEN`; a file with one token can be a scraper's `credentials_file` as well",
        take: Take::Text(|given, folder, text| put(&mut given.token_file, Some(folder.join(text)))),
    },
    Field {
        path: "rate_limit",
        expects: "",
        help: "refused: podlens limits connections and password checks by itself",
        take: Take::Refused("remove it; podlens limits connections and password checks by itself"),
    },
];

/// Sets what has no value so far: two fields for one thing are a mistake.
fn put<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    if field.is_some() {
        return None;
    }
    *field = Some(value?);
    Some(())
}

/// Relative to the folder of the file, as Prometheus has it.
#[allow(clippy::unnecessary_wraps, reason = "as `put` takes it")]
fn file(folder: &Path, text: &str) -> Option<Pem> {
    Some(Pem::File(folder.join(text)))
}

fn pem(text: &str) -> Option<Pem> {
    text.contains("-----BEGIN").then(|| Pem::Text(text.to_owned()))
}

fn version(text: &str) -> Option<TlsVersion> {
    choice(text, &[("TLS12", TlsVersion::Tls12), ("TLS13", TlsVersion::Tls13)])
}

fn go_name(suite: CipherSuite) -> String {
    suite.as_str().unwrap_or_default().replace("TLS13_", "TLS_")
}
