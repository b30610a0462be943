//! The server with a web configuration: who gets in, who is refused, and what is told of it.

mod credentials;
mod peers;
mod tls;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use testkit::certificates::{Authority, Identity, Secret};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Answer, Running, divided, on_loopback, request, start_on};
use crate::{
    export::{
        fixture::{FakeSource, eventually, large, snapshot},
        server::{CONNECTIONS, Listen, PATIENCE, web::Web},
    },
    telemetry::Refusal,
};

const TOKEN: &str = "0123456789abcdef";
const SHORT: Duration = Duration::from_millis(300);

/// The folder of a web configuration, its authority, and the server that has it.
struct Site {
    secret: Secret,
    authority: Authority,
}

impl Site {
    /// With a certificate for 127.0.0.1.
    fn new() -> Self {
        let site = Self { secret: Secret::new(), authority: Authority::new() };
        site.secret.identify(&site.authority.issue(&["127.0.0.1"]));
        site
    }

    /// TLS with these further lines of its section, and then these.
    fn configure(&self, tls: &str, rest: &str) {
        self.secret
            .write("web.yaml", &format!("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n{tls}{rest}"));
    }

    fn listen(&self) -> Listen {
        let health = Some("127.0.0.1:0".parse().unwrap());
        Listen { web: Some(self.secret.path("web.yaml")), health, ..on_loopback() }
    }

    fn start(&self) -> Running {
        self.start_with(FakeSource::new(snapshot(7), false), PATIENCE)
    }

    fn start_with(&self, source: Arc<FakeSource>, patience: Duration) -> Running {
        start_on(&self.listen(), source, patience)
    }

    fn connector(&self, identity: Option<&Identity>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }

    async fn connect(&self, running: &Running, identity: Option<&Identity>) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(running.address).await?;
        self.connector(identity).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    /// A request over TLS, or why there is no answer.
    async fn get(&self, running: &Running, path: &str, headers: &str) -> std::io::Result<Answer> {
        let stream = self.connect(running, None).await?;
        exchange(stream, path, headers).await
    }

    async fn status(&self, running: &Running, headers: &str) -> String {
        self.get(running, "/metrics", headers).await.unwrap().status
    }
}

async fn exchange(mut stream: TlsStream<TcpStream>, path: &str, headers: &str) -> std::io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    Ok(divided(&all))
}

fn password(user: &str, password: &str) -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

fn user(name: &str, password: &str, cost: u32) -> String {
    format!("  {name}: {}\n", bcrypt::hash(password, cost).unwrap())
}

fn count(running: &Running, refusal: Refusal) -> u64 {
    counted(running, "podlens_server_refusals_total", refusal.name())
}

fn counted(running: &Running, name: &str, value: &str) -> u64 {
    let families = running.telemetry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    let metric = family.get_metric().iter().find(|metric| metric.get_label()[0].value() == value).unwrap();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let count = metric.get_counter().get_value() as u64;
    count
}

async fn eventually_is<F: Future<Output = String>>(get: impl Fn() -> F, wanted: &str) {
    let began = Instant::now();
    loop {
        let found = get().await;
        if found == wanted {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{found}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
