//! The web configuration file: what is taken, and every message about a wrong one.

use std::path::{Path, PathBuf};

use rustls::{CipherSuite, NamedGroup};

use super::super::{Pem, TlsVersion, WebFile};

/// Of `secret`.
const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

fn parse(yaml: &str) -> Result<WebFile, String> {
    WebFile::parse(Path::new("/etc/web.yaml"), yaml).map_err(|error| error.to_string())
}

#[track_caller]
fn check(yaml: &str, message: &str) {
    assert_eq!(parse(yaml).expect_err(yaml), message, "{yaml}");
}

#[test]
fn everything_that_is_supported_is_taken_as_it_is_written() {
    let file = parse(&format!(
        "tls_server_config:
  cert_file: cert.pem
  key_file: /keys/key.pem
  client_auth_type: VerifyClientCertIfGiven
  client_ca_file: ../ca.pem
  client_allowed_sans: [prometheus.monitoring.svc, 10.0.0.1]
  min_version: TLS12
  max_version: TLS12
  cipher_suites:
  - TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
  - TLS_AES_128_GCM_SHA256
  prefer_server_cipher_suites: false
  curve_preferences: [CurveP256, X25519]
http_server_config:
  http2: false
  headers: {{Strict-Transport-Security: max-age=1, X-Frame-Options: sameorigin}}
basic_auth_users:
  prom: {HASH}
bearer_token_file: tokens
"
    ))
    .unwrap();
    let tls = file.tls.as_ref().unwrap();
    assert_eq!(tls.certificate, Pem::File(PathBuf::from("/etc/cert.pem")));
    assert_eq!(tls.key, Pem::File(PathBuf::from("/keys/key.pem")));
    let clients = tls.clients.as_ref().unwrap();
    assert_eq!(clients.authorities, Pem::File(PathBuf::from("/etc/../ca.pem")));
    assert_eq!((clients.required, clients.names.len()), (false, 2));
    assert_eq!((tls.oldest, tls.newest, tls.own_order), (TlsVersion::Tls12, TlsVersion::Tls12, false));
    let suites = [CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, CipherSuite::TLS13_AES_128_GCM_SHA256];
    assert_eq!(tls.cipher_suites, suites);
    assert_eq!(tls.curves, [NamedGroup::secp256r1, NamedGroup::X25519]);
    assert_eq!(file.headers.len(), 2);
    assert_eq!(file.users.0["prom"], HASH);
    assert_eq!(file.token_file, Some(PathBuf::from("/etc/tokens")));
    assert!(!format!("{file:?}").contains(HASH), "a hash is not logged");
}

#[test]
fn what_is_left_out_is_as_prometheus_has_it() {
    for empty in ["", "# nothing\n", "tls_server_config:\nbasic_auth_users: {}\n", "tls_server_config: {}"] {
        assert_eq!(parse(empty).unwrap(), WebFile::default(), "{empty:?}");
    }
    let tls = parse("tls_server_config: {cert: '-----BEGIN A', key: '-----BEGIN B'}").unwrap().tls.unwrap();
    assert_eq!((tls.oldest, tls.newest, tls.own_order), (TlsVersion::Tls12, TlsVersion::Tls13, true));
    assert_eq!(tls.clients, None);
    assert_eq!(format!("{:?} {:?}", tls.certificate, tls.key), "(text) (text)");
}

#[test]
fn a_field_that_is_not_supported_or_not_known_is_refused_by_name_with_the_remedy() {
    check(
        "rate_limit: {burst: 1}",
        "/etc/web.yaml:1:1: `rate_limit` is not supported; remove it; podlens limits connections and password checks by itself",
    );
    check(
        "basic_auth_user: {}",
        "/etc/web.yaml:1:1: unknown key `basic_auth_user`; the nearest valid key is `basic_auth_users`",
    );
    check(
        "tls_server_config:\n  certfile: a",
        "/etc/web.yaml:2:3: unknown key `tls_server_config.certfile`; the nearest valid key is `tls_server_config.cert_file`",
    );
    check(
        "http_server_config: {http2: true}",
        "/etc/web.yaml:1:29: `http_server_config.http2` is `true`, but must be false; podlens serves HTTP/1.1 alone, which every Prometheus takes",
    );
    check(
        "tls_server_config: {min_version: TLS10}",
        "/etc/web.yaml:1:34: `tls_server_config.min_version` is `TLS10`, but must be TLS12 or TLS13; podlens speaks nothing older, use TLS12",
    );
    check(
        "tls_server_config: {client_auth_type: RequireAnyClientCert}",
        "/etc/web.yaml:1:39: `tls_server_config.client_auth_type` is `RequireAnyClientCert`, but must be NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert; RequestClientCert and RequireAnyClientCert check no certificate and are refused, use RequireAndVerifyClientCert",
    );
    for (field, value) in [
        ("cipher_suites", "TLS_RSA_WITH_AES_128_CBC_SHA"),
        ("curve_preferences", "CurveP521"),
        ("client_allowed_sans", "spiffe://cluster/prometheus"),
    ] {
        let message = parse(&format!("tls_server_config:\n  {field}:\n  - {value}")).expect_err(field);
        let beginning = format!("/etc/web.yaml:3:5: `tls_server_config.{field}` is `{value}`, but must be a list of ");
        assert!(message.starts_with(&beginning) && message.contains("not supported, l"), "{message}");
    }
}

#[test]
fn a_secret_that_is_malformed_is_in_no_message() {
    let short = HASH.replace("zG", "");
    let costly = HASH.replace("$10$", "$16$");
    for hash in [&short, &costly, "secret"] {
        let message = parse(&format!("basic_auth_users: {{prom: {hash}}}")).expect_err(hash);
        assert!(message.contains("is malformed at `prom`, but must be") && !message.contains(hash), "{message}");
    }
    let message = parse("tls_server_config: {key: 'my key'}").unwrap_err();
    assert!(message.contains("`tls_server_config.key` is malformed") && !message.contains("my key"), "{message}");
    assert!(parse(&format!("basic_auth_users: {{'a:b': {HASH}}}")).is_err(), "no request can have this user");
}

#[test]
fn what_belongs_together_is_given_together() {
    let whole = |what: &str| format!("/etc/web.yaml: {what}");
    let check = |yaml: &str, message: &str| {
        assert_eq!(parse(yaml).expect_err(yaml), format!("web configuration file {}", whole(message)), "{yaml}");
    };
    let tls = |more: &str| format!("tls_server_config: {{cert_file: a, key_file: b, {more}}}");
    check("tls_server_config: {key_file: b}", "`tls_server_config` has no certificate; add cert_file");
    check("tls_server_config: {cert_file: a}", "`tls_server_config` has no key; add key_file");
    check(
        &tls("client_ca_file: c"),
        "client_ca_file or client_allowed_sans has no effect without client_auth_type; add client_auth_type: RequireAndVerifyClientCert",
    );
    check(
        &tls("client_auth_type: NoClientCert, client_allowed_sans: [a]"),
        "client_ca_file or client_allowed_sans has no effect without client_auth_type; add client_auth_type: RequireAndVerifyClientCert",
    );
    check(
        &tls("client_auth_type: RequireAndVerifyClientCert"),
        "client_auth_type needs to know who signs; add client_ca_file",
    );
    check(
        &tls("min_version: TLS13, max_version: TLS12"),
        "min_version is newer than max_version; exchange them or leave one out",
    );
    let twice = parse("tls_server_config: {cert_file: a, cert: '-----BEGIN A'}").unwrap_err();
    assert!(twice.contains("`tls_server_config.cert` is malformed, or given twice"), "{twice}");
}

#[test]
fn a_value_of_a_wrong_shape_is_refused_with_its_place() {
    for (yaml, place) in [
        ("- a", "1:1"),
        ("tls_server_config: a", "1:20"),
        ("tls_server_config:\n  cert_file: [a]", "2:14"),
        ("tls_server_config:\n  cert_file:", "2:3"),
        ("tls_server_config:\n  cipher_suites: a", "2:18"),
        ("tls_server_config:\n  cipher_suites: [[a]]", "2:19"),
        ("basic_auth_users: [a]", "1:19"),
        ("basic_auth_users: {a: {b: c}}", "1:23"),
        ("http_server_config: {headers: {Server: a}}", "1:40"),
        ("http_server_config: {headers: {X-Frame-Options: allow}}", "1:49"),
        ("a: &b c\nd: *b", "2:4"),
    ] {
        let message = parse(yaml).expect_err(yaml);
        let named = message.starts_with(&format!("/etc/web.yaml:{place}: "));
        assert!(named || message.contains("unknown key"), "{yaml}: {message}");
    }
}
