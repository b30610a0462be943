//! Certificates of both sides, and what is no agreement on TLS.

use std::{
    path::PathBuf,
    pin::pin,
    task::{Context, Waker},
};

use super::*;
use crate::files::SILENT;

#[tokio::test]
async fn a_new_certificate_is_shown_at_the_next_handshake_and_one_without_its_key_never() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start();
    let shown = async || {
        let stream = site.connect(&running, None).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let issue = || site.authority.issue(&["127.0.0.1"]);
    let der = |identity: &Identity| CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let mut kept = site.connect(&running, None).await.unwrap();
    let first = shown().await;
    for _ in 0..3 {
        let next = issue();
        site.secret.identify(&next);
        assert_eq!(shown().await, der(&next));
        assert_ne!(shown().await, first);
    }
    assert_eq!(counted(&running, "podlens_web_config_reloads_total", "failed"), 0);

    let before = shown().await;
    let other = issue();
    site.secret.write("cert.pem", &other.certificate);
    assert_eq!(shown().await, before, "the key is another's");
    assert_eq!(shown().await, before);
    assert_eq!(counted(&running, "podlens_web_config_reloads_total", "failed"), 1, "told once");
    site.secret.write("key.pem", &other.key);
    assert_eq!(shown().await, der(&other));

    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 12];
    kept.read_exact(&mut piece).await.unwrap();
    assert_eq!(&piece, b"HTTP/1.1 200", "a connection from before goes on");
}

#[tokio::test]
async fn a_client_without_a_certificate_that_is_wanted_is_refused_and_told() {
    let site = Site::new();
    site.secret.write("ca.pem", &site.authority.pem());
    let clients = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    let names = "  client_allowed_sans: [prometheus.monitoring, 10.1.2.3, a.example.com]\n";
    site.configure(&format!("{clients}{names}"), "");
    let running = site.start();
    let stranger = Authority::new();
    let issue = |names: &[&str]| Some(site.authority.issue(names));
    for (what, identity, is_served) in [
        ("its name is wanted", issue(&["prometheus.monitoring"]), true),
        ("its address is wanted", issue(&["other", "10.1.2.3"]), true),
        ("none", None, false),
        ("its name is not wanted", issue(&["other.monitoring"]), false),
        ("of a wildcard", issue(&["*.example.com"]), false),
        ("expired", Some(site.authority.issue_expired(&["prometheus.monitoring"])), false),
        ("of a stranger", Some(stranger.issue(&["prometheus.monitoring"])), false),
    ] {
        let before = count(&running, Refusal::ClientCertificate);
        let answer = match site.connect(&running, identity.as_ref()).await {
            Ok(stream) => exchange(stream, "/metrics", "").await,
            Err(cause) => Err(cause),
        };
        assert_eq!(answer.is_ok_and(|answer| answer.status.contains(" 200 ")), is_served, "{what}");
        let refused = || count(&running, Refusal::ClientCertificate) - before;
        eventually(what, || refused() == u64::from(!is_served)).await;
    }
    // The probes' port asks nobody.
    assert!(request(running.health.unwrap(), "GET", "/healthz", "").await.status.contains(" 200 "));
}

#[tokio::test]
async fn a_certificate_of_the_server_that_clients_do_not_accept_is_told() {
    let site = Site::new();
    site.secret.identify(&site.authority.issue_expired(&["127.0.0.1"]));
    site.configure("", "");
    let running = site.start();
    let error = site.connect(&running, None).await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("expired"), "{error}");
    eventually("the refusal", || count(&running, Refusal::ServerCertificate) == 1).await;
    site.secret.identify(&Authority::new().issue(&["127.0.0.1"]));
    assert!(site.connect(&running, None).await.is_err());
    eventually("the refusal", || count(&running, Refusal::ServerCertificate) == 2).await;
}

#[tokio::test]
async fn what_is_no_tls_is_refused_and_told() {
    let site = Site::new();
    site.configure("  min_version: TLS13\n", "");
    let running = site.start();
    // Who only looks whether the port is open was refused nothing.
    drop(TcpStream::connect(running.address).await.unwrap());
    assert!(!request(running.address, "GET", "/metrics", "").await.head.contains("200"));
    eventually("the refusal", || count(&running, Refusal::Handshake) == 1).await;
    let stream = TcpStream::connect(running.address).await.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.authority.pem().as_bytes()).unwrap()).unwrap();
    let older = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(older));
    assert!(connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.is_err());
    eventually("the refusal", || count(&running, Refusal::Handshake) == 2).await;
    assert_eq!(count(&running, Refusal::Gone), 0);
}

/// A file that nobody can read, as on a disk that does not answer, until this is dropped.
struct Stuck(PathBuf);

impl Stuck {
    /// In the place of this file. It is empty.
    fn new(path: PathBuf) -> Self {
        SILENT.lock().unwrap().push(path.clone());
        fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // Gone before, so that nobody comes after that.
        let _ = fs::remove_file(&self.0);
        SILENT.lock().unwrap().retain(|path| *path != self.0);
    }
}

#[tokio::test]
async fn while_a_file_cannot_be_read_all_are_served_with_what_was_there_before() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start();
    assert_eq!(site.status(&running, "").await, "HTTP/1.1 200 OK");
    let alone = Arc::new(Web::open(site.secret.path("web.yaml"), Arc::clone(&running.telemetry)).unwrap());
    let stuck = Stuck::new(site.secret.path("cert.pem"));
    let soon = Duration::from_secs(10);
    let served = |path: &'static str| tokio::time::timeout(soon, site.get(&running, path, ""));
    assert_eq!(served("/metrics").await.expect("an answer").unwrap().status, "HTTP/1.1 200 OK");
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(served("/healthz").await.expect("an answer").unwrap().status, "HTTP/1.1 200 OK");
    }
    let took = began.elapsed();
    assert!(took < soon, "only the first one waits: {took:?}");
    for _ in 0..20 {
        assert!(pin!(alone.current()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert_eq!(Arc::strong_count(&alone), 2, "one looks, though whoever has asked for it has left");

    drop(stuck);
    let next = site.authority.issue(&["127.0.0.1"]);
    site.secret.identify(&next);
    let wanted = CertificateDer::from_pem_slice(next.certificate.as_bytes()).unwrap();
    let shown = async || {
        let stream = site.connect(&running, None).await.unwrap();
        let is_new = stream.get_ref().1.peer_certificates().unwrap()[0] == wanted;
        if is_new { "new" } else { "old" }.to_owned()
    };
    eventually_is(shown, "new").await;
}
