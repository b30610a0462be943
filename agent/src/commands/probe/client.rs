//! What `podlens probe` asks with: TLS and credentials, as the agents' web configuration wants them.

use std::{
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri, header};
use http_body_util::Empty;
use hyper_rustls::{ConfigBuilderExt as _, FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use crate::{cli::Probe, files};

pub(super) type Client = legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// A client for any address of the host, whose name the certificates have.
pub(super) fn client(options: &Probe) -> Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls(options)?).https_or_http();
    let builder = if is_plain(&options.url) {
        builder
    } else {
        let host = options.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = options.server_name.as_deref().unwrap_or(host);
        let valid = ServerName::try_from(name.to_owned())
            .with_context(|| format!("`{name}` is no name that a certificate can have; use --server-name"))?;
        builder.with_server_name_resolver(FixedServerNameResolver::new(valid))
    };
    Ok(legacy::Client::builder(TokioExecutor::new()).build(builder.enable_http1().wrap_connector(connector)))
}

/// Who asks.
pub(super) fn headers(options: &Probe) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("podlens/", env!("CARGO_PKG_VERSION"))));
    let credentials = match (&options.user, &options.password_file, &options.token_file) {
        (Some(user), Some(path), _) => {
            let password = first_line(path)?;
            Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        }
        (_, _, Some(path)) => Some(format!("Bearer {}", first_line(path)?)),
        _ => None,
    };
    if let Some(credentials) = credentials {
        if is_plain(&options.url) {
            let _ = writeln!(
                io::stderr(),
                "podlens: the credentials are sent without encryption, since the URL begins with http://"
            );
        }
        let mut value = HeaderValue::try_from(credentials)
            .context("the credentials have characters that no header can carry; correct the file")?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(headers)
}

fn is_plain(url: &Uri) -> bool {
    url.scheme_str() == Some("http")
}

/// A newline at the end is the editor's.
fn first_line(path: &Path) -> Result<String> {
    let text = String::from_utf8(read(path)?).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
    match text.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => bail!("{} is empty; write the password or the token into it", path.display()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read(path, files::CREDENTIAL_BYTES).with_context(|| format!("cannot read {}", path.display()))
}

fn tls(options: &Probe) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("cannot speak TLS")?;
    let builder = match &options.ca_file {
        None => builder.with_webpki_roots(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| format!("cannot trust what is in {}", path.display()))?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let (Some(certificate), Some(key)) = (&options.cert_file, &options.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let key =
        PrivateKeyDer::from_pem_slice(&read(key)?).with_context(|| format!("{} has no key in PEM", key.display()))?;
    builder
        .with_client_auth_cert(certificates(certificate)?, key)
        .with_context(|| format!("the certificate in {} cannot be used with the key", certificate.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let lacking = || format!("{} has no certificate in PEM", path.display());
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let all = all.with_context(lacking)?;
    if all.is_empty() { Err(anyhow::anyhow!(lacking())) } else { Ok(all) }
}
