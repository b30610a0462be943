//! The server with a web configuration: who gets in, who is refused, and what is told of it.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use testkit::certificates::{Authority, Identity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Answer, Running, divided, on_loopback, request, start_on};
use crate::{
    export::{
        fixture::{FakeSource, eventually, large, snapshot},
        server::{CONNECTIONS, Listen, PATIENCE},
    },
    telemetry::Refusal,
};

const TOKEN: &str = "0123456789abcdef";
const SHORT: Duration = Duration::from_millis(300);

/// The folder of a web configuration, its authority, and the server that has it.
struct Site {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Site {
    /// With a certificate for 127.0.0.1.
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new() };
        site.identify(&site.authority.issue(&["127.0.0.1"]));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        // As a mounted Secret changes: at once.
        let next = self.path(".next");
        fs::write(&next, text).unwrap();
        fs::rename(next, self.path(name)).unwrap();
    }

    fn identify(&self, identity: &Identity) {
        self.write("key.pem", &identity.key);
        self.write("cert.pem", &identity.certificate);
    }

    /// TLS with these further lines of its section, and then these.
    fn configure(&self, tls: &str, rest: &str) {
        self.write("web.yaml", &format!("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n{tls}{rest}"));
    }

    fn listen(&self) -> Listen {
        let health = Some("127.0.0.1:0".parse().unwrap());
        Listen { web: Some(self.path("web.yaml")), health, ..on_loopback() }
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

#[tokio::test]
async fn a_page_is_for_those_with_a_password_or_a_token_and_the_probes_have_a_port_that_is_open() {
    let site = Site::new();
    site.write("tokens", &format!("\n{TOKEN}\nanother-token-of-more-than-16\n"));
    let headers = "http_server_config: {headers: {X-Frame-Options: deny}}\n";
    let users = format!("basic_auth_users:\n{}{}", user("prom", "secret", 4), user("mom", "terces", 5));
    site.configure("", &format!("{headers}{users}bearer_token_file: tokens\n"));
    let running = site.start();

    for good in [
        password("prom", "secret"),
        password("mom", "terces"),
        format!("authorization: bearer {TOKEN}\r\n"),
        "authorization: Bearer another-token-of-more-than-16\r\n".to_owned(),
    ] {
        for path in ["/metrics", "/healthz", "/"] {
            let answer = site.get(&running, path, &good).await.unwrap();
            assert_eq!(answer.status, "HTTP/1.1 200 OK", "{path} {good}");
            assert_eq!(answer.header("x-frame-options"), Some("deny"));
        }
    }
    let wrong = [
        password("prom", "terces"),
        password("prom", ""),
        password("nobody", "secret"),
        password("Prom", "secret"),
        format!("authorization: Bearer {TOKEN}x\r\n"),
        "authorization: Bearer \r\n".to_owned(),
        "authorization: Digest x\r\n".to_owned(),
        format!("{}{}", password("prom", "secret"), password("prom", "secret")),
    ];
    for (number, headers) in wrong.iter().enumerate() {
        // A wrong one is followed by a pause, in which the next one waits.
        let answer = site.get(&running, "/metrics", headers).await.unwrap();
        assert_eq!(answer.status, "HTTP/1.1 401 Unauthorized", "{headers}");
        assert_eq!(count(&running, Refusal::WrongCredentials), number as u64 + 1);
        assert_eq!(answer.header("x-frame-options"), Some("deny"));
    }
    for path in ["/metrics", "/healthz", "/readyz", "/", "/nothing"] {
        let answer = site.get(&running, path, "").await.unwrap();
        assert_eq!(answer.status, "HTTP/1.1 401 Unauthorized", "{path}");
        let challenges: Vec<&str> =
            answer.head.lines().filter_map(|line| line.strip_prefix("www-authenticate: ")).collect();
        assert_eq!(challenges, ["Basic realm=\"podlens\", charset=\"UTF-8\"", "Bearer realm=\"podlens\""]);
    }
    assert_eq!(count(&running, Refusal::MissingCredentials), 5);

    let health = running.health.unwrap();
    for (path, status) in
        [("/healthz", "200 OK"), ("/readyz", "503 Service Unavailable"), ("/metrics", "404 Not Found")]
    {
        assert_eq!(request(health, "GET", path, "").await.status, format!("HTTP/1.1 {status}"), "{path}");
    }
    assert_eq!(request(health, "POST", "/healthz", "").await.status, "HTTP/1.1 405 Method Not Allowed");
}

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
        site.identify(&next);
        assert_eq!(shown().await, der(&next));
        assert_ne!(shown().await, first);
    }
    assert_eq!(counted(&running, "podlens_web_config_reloads_total", "failed"), 0);

    let before = shown().await;
    let other = issue();
    site.write("cert.pem", &other.certificate);
    assert_eq!(shown().await, before, "the key is another's");
    assert_eq!(shown().await, before);
    assert_eq!(counted(&running, "podlens_web_config_reloads_total", "failed"), 1, "told once");
    site.write("key.pem", &other.key);
    assert_eq!(shown().await, der(&other));

    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 12];
    kept.read_exact(&mut piece).await.unwrap();
    assert_eq!(&piece, b"HTTP/1.1 200", "a connection from before goes on");
}

#[tokio::test]
async fn a_change_that_leaves_the_files_size_and_time_of_modification_is_read_all_the_same() {
    let site = Site::new();
    let web = |password: &str| format!("basic_auth_users:\n{}", user("prom", password, 4));
    let texts = [web("a"), web("b")];
    fs::write(site.path("web.yaml"), &texts[0]).unwrap();
    let running = site.start();
    let get = |word: &str| {
        let headers = password("prom", word);
        let address = running.address;
        async move { request(address, "GET", "/metrics", &headers).await.status }
    };
    assert_eq!(get("a").await, "HTTP/1.1 200 OK");
    // In place, the same inode and size; the times are put back, as if the clock had not moved.
    let path = site.path("web.yaml");
    let file = fs::File::options().write(true).open(&path).unwrap();
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, &texts[1]).unwrap();
    file.set_modified(times).unwrap();
    eventually_is(|| get("b"), "HTTP/1.1 200 OK").await;
    assert_eq!(get("a").await, "HTTP/1.1 401 Unauthorized");
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

#[tokio::test]
async fn a_user_who_is_taken_out_is_refused_at_once_and_nothing_is_opened_while_the_server_runs() {
    let site = Site::new();
    let both = format!("basic_auth_users:\n{}{}", user("prom", "secret", 4), user("mom", "terces", 4));
    site.configure("", &both);
    let running = site.start();
    let (prom, mom) = (password("prom", "secret"), password("mom", "terces"));
    assert_eq!(site.status(&running, &prom).await, "HTTP/1.1 200 OK");
    site.configure("", &format!("basic_auth_users:\n{}", user("mom", "terces", 4)));
    assert_eq!(site.status(&running, &prom).await, "HTTP/1.1 401 Unauthorized");
    assert_eq!(site.status(&running, &mom).await, "HTTP/1.1 200 OK");
    for opened in ["", "# basic_auth_users:\n", "basic_auth_users: {}\n"] {
        site.configure("", opened);
        assert_eq!(site.status(&running, "").await, "HTTP/1.1 401 Unauthorized", "{opened:?}");
        assert_eq!(site.status(&running, &mom).await, "HTTP/1.1 200 OK", "{opened:?}");
    }
    // Truncated, then gone: what held before holds on, TLS included.
    site.write("web.yaml", "");
    assert_eq!(site.status(&running, "").await, "HTTP/1.1 401 Unauthorized");
    fs::remove_file(site.path("web.yaml")).unwrap();
    assert_eq!(site.status(&running, "").await, "HTTP/1.1 401 Unauthorized");
    // Back again, within the time after which a failure is looked at anew.
    site.configure("", &both);
    eventually_is(async || site.status(&running, &prom).await, "HTTP/1.1 200 OK").await;
}

#[tokio::test]
async fn a_client_without_a_certificate_that_is_wanted_is_refused_and_told() {
    let site = Site::new();
    site.write("ca.pem", &site.authority.pem());
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
    site.identify(&site.authority.issue_expired(&["127.0.0.1"]));
    site.configure("", "");
    let running = site.start();
    let error = site.connect(&running, None).await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("expired"), "{error}");
    eventually("the refusal", || count(&running, Refusal::ServerCertificate) == 1).await;
    site.identify(&Authority::new().issue(&["127.0.0.1"]));
    assert!(site.connect(&running, None).await.is_err());
    eventually("the refusal", || count(&running, Refusal::ServerCertificate) == 2).await;
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_cut_and_keeps_nobody_out() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start_with(FakeSource::new(snapshot(1), false), SHORT);
    let began = Instant::now();
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    // A hello's beginning.
    silent.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    assert!((SHORT..Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(count(&running, Refusal::HandshakeTimeout), 1);

    let running = site.start();
    let mut silent = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    let soon = Duration::from_secs(5);
    let answer = tokio::time::timeout(soon, site.get(&running, "/metrics", "")).await.expect("an answer").unwrap();
    assert_eq!(answer.status, "HTTP/1.1 200 OK");
    assert!(count(&running, Refusal::MadeRoom) >= 2 * CONNECTIONS as u64);
    assert!(request(running.health.unwrap(), "GET", "/healthz", "").await.status.contains(" 200 "));
}

#[tokio::test]
async fn what_is_no_tls_is_refused_and_told() {
    let site = Site::new();
    site.configure("  min_version: TLS13\n", "");
    let running = site.start();
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
}

#[tokio::test]
async fn who_reads_slowly_over_tls_is_cut_and_acknowledges_nothing() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start_with(FakeSource::new(large(1000, 80), false), SHORT);
    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 1000];
    stream.read_exact(&mut piece).await.unwrap();
    eventually("the cut", || count(&running, Refusal::SlowReader) == 1).await;
    assert_eq!(running.source.exported(), []);
    // A whole page over TLS is delivered, however large.
    let answer = site.get(&running, "/metrics", "").await.unwrap();
    assert!(answer.text().ends_with('\n') && answer.body.len() > 4_000_000, "{}", answer.body.len());
    let source = Arc::clone(&running.source);
    eventually("the delivery", || source.exported().len() == 1).await;
}

#[tokio::test]
async fn who_goes_away_half_way_sends_slowly_or_sends_too_much_is_told() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start_with(FakeSource::new(large(1000, 80), false), Duration::from_secs(2));
    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 1000];
    stream.read_exact(&mut piece).await.unwrap();
    drop(stream);
    eventually("the one who is gone", || count(&running, Refusal::Gone) == 1).await;
    assert_eq!(running.source.exported(), []);

    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    let header = format!("a: {}\r\n", "x".repeat(1000));
    for _ in 0..1000 {
        if stream.write_all(header.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    eventually("the one with a megabyte of headers", || count(&running, Refusal::BadRequest) == 1).await;

    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    eventually("the slow one", || count(&running, Refusal::SlowRequest) == 1).await;
    // Who ends an idle connection has had everything.
    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream.read_exact(&mut piece[..12]).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    assert_eq!(site.status(&running, "").await, "HTTP/1.1 200 OK");
    assert_eq!(count(&running, Refusal::Gone), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_scrapers_at_once_get_the_page_over_tls_for_one_check_of_their_password() {
    let site = Arc::new(Site::new());
    site.configure("", &format!("basic_auth_users:\n{}", user("prom", "secret", 8)));
    let running = Arc::new(site.start());
    let headers = password("prom", "secret");
    let began = Instant::now();
    let mut scrapers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (site, running, headers) = (Arc::clone(&site), Arc::clone(&running), headers.clone());
        scrapers.spawn(async move {
            // Of a connection that made room for another, a scraper tries again.
            loop {
                match site.get(&running, "/metrics", &headers).await {
                    Ok(answer) if !answer.status.is_empty() => return answer.status,
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
    }
    let statuses = scrapers.join_all().await;
    assert!(statuses.iter().all(|status| status == "HTTP/1.1 200 OK"), "{statuses:?}");
    println!("100 scrapes took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(count(&running, Refusal::UncheckedCredentials), 0);
}

async fn get_from(from: &str, running: &Running, headers: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(running.address).await.unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    divided(&all).status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_passwords_has_few_of_them_checked_and_keeps_nobody_out() {
    let site = Site::new();
    // No TLS here: handshakes are not what is looked at.
    site.write("web.yaml", &format!("basic_auth_users:\n{}{}", user("known", "secret", 6), user("new", "terces", 6)));
    let running = Arc::new(site.start());
    let known = password("known", "secret");
    assert_eq!(request(running.address, "GET", "/metrics", &known).await.status, "HTTP/1.1 200 OK");
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut guessing = tokio::task::JoinSet::new();
    for guesser in 0..20 {
        let (running, over) = (Arc::clone(&running), Arc::clone(&over));
        guessing.spawn(async move {
            let mut guesses = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let headers = password("known", &format!("{guesser}-{guesses}"));
                let status = get_from(&format!("127.0.1.{}", guesser % 4), &running, &headers).await;
                assert!(!status.contains(" 200 "), "{status}");
                guesses += 1;
            }
            guesses
        });
    }
    tokio::time::sleep(SHORT).await;
    for round in 0..5 {
        let began = Instant::now();
        assert!(get_from("127.0.0.1", &running, &known).await.contains(" 200 "), "round {round}");
        assert!(began.elapsed() < Duration::from_secs(1), "one who is known waits {:?}", began.elapsed());
    }
    let began = Instant::now();
    assert!(get_from("127.0.0.2", &running, &password("new", "terces")).await.contains(" 200 "));
    println!("one who is new waited {:?}", began.elapsed());
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let guesses: i32 = guessing.join_all().await.into_iter().sum();
    let (checked, unchecked) =
        (count(&running, Refusal::WrongCredentials), count(&running, Refusal::UncheckedCredentials));
    println!("{guesses} guesses: {checked} checked, {unchecked} not");
    assert!(unchecked > 10 * checked && checked > 0, "{checked} were checked, {unchecked} were not");
}

#[tokio::test]
async fn silent_peers_of_the_probes_port_keep_no_probe_out() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start();
    let health = running.health.unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        silent.push(TcpStream::connect(health).await.unwrap());
    }
    let soon = Duration::from_secs(2);
    let answer = tokio::time::timeout(soon, request(health, "GET", "/healthz", "")).await.expect("an answer");
    assert_eq!(answer.status, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn without_tls_a_web_configuration_may_ask_for_credentials_all_the_same() {
    let site = Site::new();
    site.write("tokens", TOKEN);
    site.write("web.yaml", "bearer_token_file: tokens\n");
    let running = site.start();
    assert!(request(running.address, "GET", "/metrics", "").await.status.contains(" 401 "));
    let token = format!("authorization: Bearer {TOKEN}\r\n");
    assert!(request(running.address, "GET", "/metrics", &token).await.status.contains(" 200 "));
    site.write("tokens", "fedcba9876543210\n");
    assert!(request(running.address, "GET", "/metrics", &token).await.status.contains(" 401 "));
    let token = "authorization: Bearer fedcba9876543210\r\n";
    assert!(request(running.address, "GET", "/healthz", token).await.status.contains(" 200 "));
}
