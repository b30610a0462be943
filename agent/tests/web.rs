//! A real Prometheus scrapes the agent over TLS, with a password and with a token, while its certificate is replaced; and
//! whoever guesses passwords costs the node a bounded share of a CPU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Agent, OnDrop, podlens};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use testkit::{
    certificates::{Authority, Secret},
    components::Prometheus,
    free_address,
};

const LIMIT: Duration = Duration::from_secs(30);
const TOKEN: &str = "a-token-that-nobody-guesses";
const PASSWORD: &str = "secret";
/// Of `secret`, as `htpasswd -nBC 10` makes it.
const COST: u32 = 10;
/// For so long passwords are guessed.
const WINDOW: Duration = Duration::from_secs(8);

struct Site {
    secret: Secret,
    authority: Authority,
}

impl Site {
    fn new(more: &str) -> Self {
        let site = Self { secret: Secret::new(), authority: Authority::new() };
        site.secret.write("ca.pem", &site.authority.pem());
        site.secret.write("tokens", TOKEN);
        site.secret.write("password", PASSWORD);
        site.secret.identify(&site.authority.issue(&["127.0.0.1"]));
        let hash = bcrypt::hash(PASSWORD, COST).unwrap();
        let tls = format!("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n{more}");
        site.secret.write("web.yaml", &format!("{tls}basic_auth_users:\n  prom: {hash}\nbearer_token_file: tokens\n"));
        site
    }

    fn path(&self, name: &str) -> String {
        self.secret.path(name).to_str().unwrap().to_owned()
    }

    /// The agent, and where its probes are.
    fn start(&self) -> (Agent, SocketAddr) {
        let (address, health) = (free_address(), free_address());
        let web = self.path("web.yaml");
        let environment = [("PODLENS_WEB_CONFIG_FILE", web.as_str()), ("PODLENS_HEALTH_LISTEN", &health.to_string())];
        let agent = Agent::spawn(address, &[], &environment);
        let ready =
            || matches!(testkit::http::get(health, "/readyz"), Ok((200, _))).then_some(()).ok_or("no".to_owned());
        testkit::wait_for("the agent", LIMIT, ready);
        (agent, health)
    }

    fn tls(&self, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(connection, TcpStream::connect(address).unwrap())
    }

    /// What the server answers, and the certificate that it shows.
    fn get(&self, address: SocketAddr, path: &str, headers: &str) -> std::io::Result<(String, Vec<u8>)> {
        let mut stream = self.tls(address);
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").as_bytes())?;
        let mut all = String::new();
        stream.read_to_string(&mut all)?;
        Ok((all, stream.conn.peer_certificates().unwrap()[0].to_vec()))
    }
}

fn bearer() -> String {
    format!("authorization: Bearer {TOKEN}\r\n")
}

/// A job with this way to show who scrapes.
fn job(site: &Site, name: &str, address: SocketAddr, credentials: &Value) -> Value {
    let mut job = json!({
        "job_name": name, "scheme": "https", "honor_labels": true,
        "tls_config": { "ca_file": site.path("ca.pem") },
        "static_configs": [{ "targets": [address] }],
    });
    for (key, value) in credentials.as_object().unwrap() {
        job[key] = value.clone();
    }
    job
}

fn refusals(page: &str, reason: &str) -> f64 {
    let line = format!("podlens_server_refusals_total{{reason=\"{reason}\"}} ");
    page.lines().find_map(|text| text.strip_prefix(&line)).unwrap().parse().unwrap()
}

#[test]
fn a_real_prometheus_scrapes_over_tls_with_a_password_or_a_token_while_the_certificate_is_replaced() {
    let site = Site::new("");
    let (agent, health) = site.start();
    let address = agent.address();
    let jobs = [
        job(
            &site,
            "password",
            address,
            &json!({ "basic_auth": { "username": "prom", "password_file": site.path("password") } }),
        ),
        job(&site, "token", address, &json!({ "authorization": { "credentials_file": site.path("tokens") } })),
        job(&site, "wrong", address, &json!({ "basic_auth": { "username": "prom", "password": "guessed" } })),
        job(&site, "nothing", address, &json!({})),
    ];
    // A build that is not optimised takes most of a second to check a password.
    let global = json!({ "scrape_interval": "2s", "scrape_timeout": "2s" });
    let prometheus = Prometheus::start_configured(&json!({ "global": global, "scrape_configs": jobs }).to_string());
    prometheus.wait_for("sum(up{job=~\"password|token\"})", LIMIT, |points| {
        points.first().is_some_and(|point| point.value > 1.5)
    });
    let up = Instant::now();
    let first = site.get(address, "/healthz", &bearer()).unwrap().1;
    for _ in 0..3 {
        let next = site.authority.issue(&["127.0.0.1"]);
        site.secret.identify(&next);
        let shown = site.get(address, "/healthz", &bearer()).unwrap().1;
        assert_eq!(shown, CertificateDer::from_pem_slice(next.certificate.as_bytes()).unwrap().to_vec());
        assert_ne!(shown, first);
        thread::sleep(Duration::from_secs(3));
    }
    for name in ["password", "token"] {
        // Those before may have waited for a wrong password to be checked.
        let since = format!("up{{job=\"{name}\"}}[{}s]", up.elapsed().as_secs());
        let failed = prometheus.query(&format!("count_over_time({since}) - sum_over_time({since})"));
        assert!(failed.unwrap()[0].value < 0.5, "{name}");
        let series = prometheus.query(&format!("count(podlens_cpu_seconds_total{{job=\"{name}\"}})")).unwrap();
        assert!(series[0].value > 1.0, "{series:?}");
    }
    for name in ["wrong", "nothing"] {
        let up = prometheus.query(&format!("max_over_time(up{{job=\"{name}\"}}[1m])")).unwrap();
        assert!(up[0].value < 0.5, "{name}: {up:?}");
    }
    let page = site.get(address, "/metrics", &bearer()).unwrap().0;
    assert!(refusals(&page, "missing_credentials") >= 3.0 && refusals(&page, "wrong_credentials") >= 3.0);
    let log = agent.log();
    assert_eq!(log.matches("a request came with wrong credentials").count(), 1, "told once per minute: {log}");
    assert!(log.contains("holds from now on") && !log.contains("guessed"), "{log}");
    assert!(testkit::http::get(health, "/metrics").unwrap().0 == 404, "no metrics without credentials");
}

#[test]
fn probe_asks_over_tls_with_credentials_and_says_which_are_lacking() {
    let site = Site::new("");
    let (agent, _) = site.start();
    let url = format!("https://{}", agent.address());
    let (ca, tokens, password) = (site.path("ca.pem"), site.path("tokens"), site.path("password"));
    let check = |arguments: &[&str], is_good: bool, part: &str| {
        let output = podlens(&[], &[&["probe", &url], arguments].concat(), &[]);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.success(), is_good, "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    };
    check(&["--ca-file", &ca, "--token-file", &tokens], true, "ready, values of ");
    check(&["--ca-file", &ca, "--user", "prom", "--password-file", &password], true, "ready, values of ");
    check(&["--ca-file", &ca], false, "use --user with --password-file, or --token-file");
    check(&["--ca-file", &ca, "--user", "mom", "--password-file", &password], false, "it wants credentials, or others");
    check(&["--token-file", &tokens], false, "UnknownIssuer");
    check(&["--ca-file", &ca, "--token-file", &tokens, "--server-name", "other"], false, "other");
    check(&["--ca-file", &password], false, "has no certificate in PEM");
    check(&["--ca-file", &ca, "--user", "prom"], false, "--password-file");
}

#[test]
fn probe_shows_a_certificate_where_agents_want_one_and_says_so_where_it_has_none_or_anothers() {
    let site = Site::new("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n");
    let (agent, _) = site.start();
    let url = format!("https://{}", agent.address());
    let [ours, others] = [site.authority.issue(&["probe"]), Authority::new().issue(&["probe"])];
    for (name, identity) in [("ours", &ours), ("others", &others)] {
        site.secret.write(&format!("{name}.pem"), &identity.certificate);
        site.secret.write(&format!("{name}.key"), &identity.key);
    }
    let [ca, tokens] = ["ca.pem", "tokens"].map(|name| site.path(name));
    let [certificate, key, others_certificate, others_key] =
        ["ours.pem", "ours.key", "others.pem", "others.key"].map(|name| site.path(name));
    let wants = "wants a client's certificate, or another: use --cert-file with --key-file";
    for (arguments, is_good, part) in [
        (&["--cert-file", &certificate, "--key-file", &key][..], true, "ready, values of "),
        (&[], false, wants),
        (&["--cert-file", &others_certificate, "--key-file", &others_key], false, wants),
        (&["--cert-file", &certificate, "--key-file", &others_key], false, "cannot be used with the key"),
        (&["--cert-file", &certificate], false, "--key-file"),
    ] {
        let arguments = [&["probe", &url, "--ca-file", &ca, "--token-file", &tokens], arguments].concat();
        let output = podlens(&[], &arguments, &[]);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.success(), is_good, "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[test]
fn probe_finds_an_agent_good_that_measures_anything_at_all_and_else_names_what_leaves_it_out() {
    let check = |environment: &[(&str, &str)], is_good: bool, part: &str| {
        let agent = Agent::start(environment);
        let output = podlens(&[], &["probe", &format!("http://{}", agent.address())], &[]);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.success(), is_good, "{environment:?}: {text}");
        assert!(text.contains(part), "{environment:?}: {text}");
    };
    check(&[("PODLENS_COLLECTORS_SCHEDULER", "false")], true, "ready, values of ");
    check(&[("PODLENS_SERIES_DENY", "podlens_cpu_seconds_total")], true, "ready, values of ");
    check(&[("PODLENS_SERIES_DENY", "podlens_*")], false, "`series.deny` of its configuration");
}

#[test]
fn a_web_configuration_that_cannot_be_used_is_refused_at_the_start_and_by_check() {
    let site = Site::new("  client_auth_type: RequireAndVerifyClientCert\n");
    let web = site.path("web.yaml");
    let environment = [("PODLENS_WEB_CONFIG_FILE", web.as_str())];
    let run = podlens(&[], &["run", "--listen", &free_address().to_string()], &environment);
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && text.contains("add client_ca_file"), "{text}");
    let check = podlens(&[], &["check"], &environment);
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(!check.status.success() && text.contains("add client_ca_file"), "{text}");
}

fn cpu(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Keeps asking over one connection after the other, each time with other headers, until it is over.
fn ask(site: &Site, address: SocketAddr, headers: impl Fn(u64) -> String, over: &AtomicBool, asked: &AtomicU64) {
    loop {
        let mut stream = site.tls(address);
        for _ in 0..20 {
            if over.load(Ordering::Acquire) {
                return;
            }
            let headers = headers(asked.fetch_add(1, Ordering::Relaxed));
            let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
            let mut piece = [0; 1024];
            if stream.write_all(request.as_bytes()).is_err() || !matches!(stream.read(&mut piece), Ok(1..)) {
                break;
            }
            assert!(!piece.starts_with(b"HTTP/1.1 200"));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What eight who keep asking cost, and a scrape meanwhile.
#[derive(Debug)]
struct Siege {
    time: Duration,
    /// Until the last of them had ended.
    whole: Duration,
    cpu: Duration,
    asked: u64,
    /// The median of some.
    scrape: Duration,
}

impl Siege {
    fn of(agent: &Agent, site: &Site, headers: fn(usize, u64) -> String, scrape: impl Fn() -> Duration) -> Self {
        let (address, over, asked) = (agent.address(), AtomicBool::new(false), AtomicU64::new(0));
        let (began, cpu_before) = (Instant::now(), cpu(agent.id()));
        let siege = thread::scope(|scope| {
            let (over, asked) = (&over, &asked);
            let _over = OnDrop(|| over.store(true, Ordering::Release));
            for asker in 0..8 {
                scope.spawn(move || ask(site, address, |number| headers(asker, number), over, asked));
            }
            thread::sleep(WINDOW);
            let (cpu, time) = (cpu(agent.id()).saturating_sub(cpu_before), began.elapsed());
            let asked = asked.load(Ordering::Relaxed);
            let mut scrapes = [(); 5].map(|()| scrape());
            scrapes.sort_unstable();
            Self { time, whole: time, cpu, asked, scrape: scrapes[scrapes.len() / 2] }
        });
        Self { whole: began.elapsed(), ..siege }
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn guessed_passwords_cost_a_bounded_share_of_a_cpu_and_who_is_known_is_served_at_once() {
    let site = Site::new("");
    let (agent, _) = site.start();
    let address = agent.address();
    let known = format!("authorization: Basic {}\r\n", base64("prom:secret"));
    let scrape = || {
        let began = Instant::now();
        let answer = site.get(address, "/metrics", &known).unwrap().0;
        assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..answer.len().min(200)]);
        began.elapsed()
    };
    // `prom:` and a number, with base64 that needs no padding.
    let guess =
        |guesser, number| format!("authorization: Basic {}\r\n", base64(&format!("prom:{guesser:04}-{number:06}!")));
    // A check costs so much here: of who is not known yet, and of who guesses.
    let cost = |headers: &str, answer: &str| {
        let before = cpu(agent.id());
        assert!(site.get(address, "/healthz", headers).unwrap().0.starts_with(answer));
        cpu(agent.id()).saturating_sub(before)
    };
    let check = cost(&known, "HTTP/1.1 200").min(cost(&guess(9, 0), "HTTP/1.1 401"));
    scrape();
    // The same without any password to check.
    let control = Siege::of(&agent, &site, |_, _| String::new(), scrape);
    let memory_before = resident_kib(agent.id());
    let siege = Siege::of(&agent, &site, guess, scrape);
    let page = site.get(address, "/metrics", &known).unwrap().0;
    let memory_after = resident_kib(agent.id());
    let (checked, unchecked) = (refusals(&page, "wrong_credentials"), refusals(&page, "unchecked_credentials"));
    println!("a check takes {check:?}; {checked} checked, {unchecked} not; {siege:?}; without passwords {control:?}");
    println!("{memory_before} KiB before, {memory_after} KiB after");
    assert!(unchecked > checked && checked > 0.0);
    // A tenth of a CPU for the checks, and twice that since ticks tell their cost. One was before, and one ends in any case.
    let checks = check.mul_f64((checked - 2.0).max(0.0));
    assert!(checks < siege.whole / 5, "{checked} checks of {check:?} in {:?}", siege.whole);
    let others = control.cpu.mul_f64(2.0 * siege.asked as f64 / control.asked as f64);
    assert!(siege.cpu < siege.time / 5 + others, "{siege:?}, but without passwords {control:?}");
    // Nobody who is known waits for the check of another's.
    assert!(siege.scrape < 2 * (control.scrape + check), "{siege:?}, but without passwords {control:?}");
    assert!(memory_after < memory_before + 16 * 1024, "{memory_before} to {memory_after} KiB");
}
