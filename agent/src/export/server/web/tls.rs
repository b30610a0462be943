//! From the web configuration to rustls' settings.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::{TLS12, TLS13},
};

use super::{WebError, files::Contents};
use crate::config::{Pem, TlsVersion, WebClients, WebTls};

/// The only protocol that the server speaks.
const ALPN: &[u8] = b"http/1.1";

pub(super) fn server(tls: &WebTls, contents: &Contents) -> Result<Arc<ServerConfig>, WebError> {
    let provider = Arc::new(provider(tls));
    let versions: Vec<&SupportedProtocolVersion> = [(TlsVersion::Tls13, &TLS13), (TlsVersion::Tls12, &TLS12)]
        .into_iter()
        .filter(|(version, _)| (tls.oldest..=tls.newest).contains(version))
        .map(|(_, version)| version)
        .collect();
    let chain = certificates(contents, &tls.certificate, "cert")?;
    let key = key(contents, &tls.key)?;
    tell_if_out_of_date(&chain, &provider);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|cause| WebError::Nothing { cause })?;
    let builder = match &tls.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(verifier(clients, contents, provider)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|cause| WebError::Identity { cause })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ignore_client_order = tls.own_order;
    // A scraper keeps its connection. Without sessions each new one shows its certificate, and none takes memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The ciphers and curves that are wanted, in that order.
fn provider(tls: &WebTls) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        // As in Go, the list is about TLS 1.2.
        provider.cipher_suites = all.iter().copied().filter(|suite| suite.tls13().is_some()).collect();
        let wanted = tls.cipher_suites.iter().filter_map(|wanted| all.iter().find(|suite| suite.suite() == *wanted));
        provider.cipher_suites.extend(wanted.copied().filter(|suite| suite.tls13().is_none()));
    }
    if !tls.curves.is_empty() {
        let all = std::mem::take(&mut provider.kx_groups);
        let wanted = tls.curves.iter().filter_map(|wanted| all.iter().find(|group| group.name() == *wanted));
        provider.kx_groups = wanted.copied().collect();
    }
    provider
}

fn certificates(contents: &Contents, pem: &Pem, field: &str) -> Result<Vec<CertificateDer<'static>>, WebError> {
    let (bytes, place) = contents.pem(pem, field);
    let lacking = |reason: String| WebError::NoCertificate { place: place.clone(), reason };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(lacking(String::new())),
        Ok(chain) => Ok(chain),
        Err(cause) => Err(lacking(format!(" ({cause})"))),
    }
}

fn key(contents: &Contents, pem: &Pem) -> Result<PrivateKeyDer<'static>, WebError> {
    let (bytes, place) = contents.pem(pem, "key");
    PrivateKeyDer::from_pem_slice(bytes).map_err(|cause| WebError::NoKey { place, reason: format!(" ({cause})") })
}

/// A certificate that no client will accept is served all the same, as an operator may be about to replace it.
fn tell_if_out_of_date(chain: &[CertificateDer<'_>], provider: &CryptoProvider) {
    let Some(parsed) = chain.first().and_then(|first| ParsedCertificate::try_from(first).ok()) else { return };
    let algorithms = provider.signature_verification_algorithms.all;
    // Nobody is trusted; its dates are looked at before its signature.
    let verdict =
        verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], UnixTime::now(), algorithms);
    match verdict {
        Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            tracing::error!("the server's certificate has expired, so that no client accepts it: replace it");
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })) => {
            tracing::error!("the server's certificate is not valid yet: see that the clocks agree, or replace it");
        }
        _ => {}
    }
}

fn verifier(
    clients: &WebClients,
    contents: &Contents,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, WebError> {
    let refused = |cause: &dyn fmt::Display| WebError::Authorities { reason: cause.to_string() };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(contents, &clients.authorities, "client_ca")? {
        roots.add(certificate).map_err(|cause| refused(&cause))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    let inner = builder.build().map_err(|cause| refused(&cause))?;
    if clients.names.is_empty() {
        return Ok(inner);
    }
    Ok(Arc::new(Named { inner, names: clients.names.clone() }))
}

/// Wants one of these names in a certificate, on top of a valid signature.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
}

impl Named {
    fn has(certificate: &ParsedCertificate<'_>, name: &ServerName<'_>) -> bool {
        verify_server_name(certificate, name).is_ok() && !has_wildcard(certificate, name)
    }
}

/// A wildcard would match any sibling as well, where an exact name is wanted.
fn has_wildcard(certificate: &ParsedCertificate<'_>, name: &ServerName<'_>) -> bool {
    let ServerName::DnsName(name) = name else { return false };
    let Some((_, parent)) = name.as_ref().split_once('.') else { return false };
    let sibling = ServerName::try_from(format!("podlens-nobody-has-this-name.{parent}"));
    sibling.is_ok_and(|sibling| verify_server_name(certificate, &sibling).is_ok())
}

impl ClientCertVerifier for Named {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if self.names.iter().any(|name| Self::has(&certificate, name)) {
            return Ok(verified);
        }
        Err(CertificateError::NotValidForName.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
