//! A kubelet whose certificate cannot be accepted: the message says why, and which setting helps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod names_parts;

use std::sync::Arc;

use names_parts::{Server, list};
use podlens::attribution::kubernetes::client::{CertificateProblem, Client, Limits, RequestError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What comes of asking a server by its address that has such a certificate, if `trusted` signs for it.
async fn ask(signer: Option<&Authority>, trusted: &Authority, names: &[&str]) -> RequestError {
    ask_at("127.0.0.1:0", signer, trusted, names).await
}

async fn ask_at(address: &str, signer: Option<&Authority>, trusted: &Authority, names: &[&str]) -> RequestError {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = CertificateParams::new(names).unwrap();
    let certificate = match signer {
        Some(signer) => params.signed_by(&key, signer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let tls = Some(TlsAcceptor::from(Arc::new(config)));
    let server = Server::start_at(address.parse().unwrap(), vec![list("1", &[])], tls).await;
    let mut config = kube::Config::new(format!("https://{}", server.address).parse().unwrap());
    config.root_cert = Some(vec![trusted.der().to_vec()]);
    let client = Client::new(&config, Limits::default()).unwrap();
    match client.get("/pods").await {
        Ok(_) => panic!("the certificate was accepted"),
        Err(error) => error,
    }
}

fn problem(error: RequestError) -> CertificateProblem {
    assert_eq!(error.result(), "certificate", "{error}");
    match error {
        RequestError::Certificate { problem, .. } => *problem,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_certificate_that_the_kubelet_signed_itself_is_told_with_the_setting_that_helps() {
    let trusted = authority();
    for signer in [None, Some(&authority())] {
        let error = ask(signer, &trusted, &["127.0.0.1"]).await;
        let text = error.to_string();
        assert_eq!(problem(error), CertificateProblem::UnknownAuthority, "{text}");
        assert!(text.contains("kubernetes.kubelet_certificate") && text.contains("https://127.0.0.1"), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_for_names_alone_is_told_with_the_names_and_the_setting_that_helps() {
    let trusted = authority();
    let error = ask(Some(&trusted), &trusted, &["node-1", "node-1.example"]).await;
    let text = error.to_string();
    let expected =
        CertificateProblem::OtherName { names: "node-1, node-1.example".to_owned(), asked: "127.0.0.1".to_owned() };
    assert_eq!(problem(error), expected, "{text}");
    assert!(text.contains("kubernetes.kubelet_url"), "{text}");
}

#[tokio::test]
async fn a_certificate_for_other_addresses_is_told_with_the_addresses_as_people_write_them() {
    let trusted = authority();
    let mut tried = vec![("127.0.0.1:0", "127.0.0.1")];
    // Not every machine has IPv6.
    tried.extend(std::net::TcpListener::bind("[::1]:0").is_ok().then_some(("[::1]:0", "::1")));
    for (address, asked) in tried {
        let error = ask_at(address, Some(&trusted), &trusted, &["10.0.0.9", "fd00:a::9"]).await;
        let text = error.to_string();
        let names = "10.0.0.9, fd00:a::9".to_owned();
        assert_eq!(problem(error), CertificateProblem::OtherName { names, asked: asked.to_owned() }, "{text}");
    }
}
