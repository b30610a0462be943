//! Certificates and keys for an encrypted endpoint. All of a file holds, or none of it: a library that passes over what it
//! cannot read leaves the one that was meant out.

use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

use super::{OtlpConfig, OtlpConfigError};

/// Why a PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// There is none.
    #[error("has no certificate in PEM")]
    NoCertificate,
    /// One of them is none.
    #[error("has certificates of which number {number} cannot be used ({cause})")]
    Certificate {
        /// Counted from 1.
        number: usize,
        /// What the library says.
        cause: String,
    },
    /// There is none.
    #[error("has no key in PEM, or one that is encrypted ({0})")]
    NoKey(pem::Error),
    /// It is of a kind that is not known, or broken.
    #[error("has a key that cannot be used ({0})")]
    Key(rustls::Error),
}

/// The certificates of a file, each of them readable.
///
/// # Errors
/// It has none, or one that cannot be read.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    Ok(read(pem)?.0)
}

fn read(pem: &[u8]) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), PemError> {
    let (mut chain, mut roots) = (Vec::new(), RootCertStore::empty());
    for (at, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let unusable = |cause: String| PemError::Certificate { number: at + 1, cause };
        let certificate = certificate.map_err(|cause| unusable(cause.to_string()))?;
        roots.add(certificate.clone()).map_err(|cause| unusable(cause.to_string()))?;
        chain.push(certificate);
    }
    if chain.is_empty() { Err(PemError::NoCertificate) } else { Ok((chain, roots)) }
}

/// The key of a file.
///
/// # Errors
/// It has none that can be used.
pub fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(PemError::NoKey)?;
    ring::sign::any_supported_type(&key).map_err(PemError::Key)?;
    Ok(key)
}

/// What a connection over HTTP needs. That it can be made holds for gRPC too.
pub(in super::super) fn client_config(config: &OtlpConfig) -> Result<ClientConfig, OtlpConfigError> {
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| OtlpConfigError::Tls {
        endpoint: config.endpoint.clone(),
        source,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| unusable(cause.into()))?;
    let builder = match &config.tls.authority_pem {
        Some(pem) => builder.with_root_certificates(read(pem).map_err(|cause| unusable(cause.into()))?.1),
        None => builder.with_webpki_roots(),
    };
    match (&config.tls.certificate_pem, &config.tls.key_pem) {
        (Some(certificate_pem), Some(key_pem)) => {
            let chain = certificates(certificate_pem).map_err(|cause| unusable(cause.into()))?;
            let key = key(key_pem).map_err(|cause| unusable(cause.into()))?;
            builder.with_client_auth_cert(chain, key).map_err(|cause| unusable(cause.into()))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(OtlpConfigError::HalfIdentity),
    }
}

#[cfg(test)]
mod tests {
    use super::{certificates, key};

    #[test]
    fn each_certificate_of_a_file_must_be_one() {
        let check = |pem: &str, expected: &str| {
            let told = match certificates(pem.as_bytes()) {
                Ok(chain) => format!("{} certificates", chain.len()),
                Err(cause) => cause.to_string(),
            };
            assert!(told.contains(expected), "{told}");
        };
        let Ok(own) = rcgen::generate_simple_self_signed(["localhost".to_owned()]) else { unreachable!() };
        let good = own.cert.pem();
        let block = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        check(&good, "1 certificates");
        check(&format!("A comment.\n{good}\n{good}"), "2 certificates");
        check("", "no certificate in PEM");
        check(&own.signing_key.serialize_pem(), "no certificate in PEM");
        check(&block("AAAA"), "number 1 cannot be used (");
        check(&block("not base64"), "number 1 cannot be used (");
        check(&format!("{good}{}", block("AAAA")), "number 2 cannot be used (");
    }

    #[test]
    fn a_key_must_be_one_that_can_sign() {
        let check = |pem: &str, expected: Option<&str>| {
            let told = key(pem.as_bytes()).err().map(|cause| cause.to_string());
            assert!(told.as_deref().unwrap_or_default().contains(expected.unwrap_or_default()), "{told:?}");
            assert_eq!(told.is_some(), expected.is_some(), "{told:?}");
        };
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
        check("", Some("no key in PEM"));
        check(&block("ENCRYPTED PRIVATE KEY"), Some("no key in PEM, or one that is encrypted"));
        check(&block("PRIVATE KEY"), Some("has a key that cannot be used"));
        let Ok(pair) = rcgen::KeyPair::generate() else { unreachable!() };
        check(&pair.serialize_pem(), None);
    }
}
