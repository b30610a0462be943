//! `podlens probe`: asks running agents over HTTP whether they measure.
//!
//! It loads nothing and needs no rights, unlike `podlens check`, which judges the node that it runs on. The chart's
//! `helm test` is its caller; the host's name is then a headless Service's, whose addresses are all agents.

mod client;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy;
use rustls::AlertDescription;

use self::client::Client;
use crate::{cli::Probe, config::has_plain_authority, pipeline::facts};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than the page of a full node.
const PAGE_BYTES: usize = 256 << 20;
const PORT: u16 = 9464;

/// Asks every address and prints a line for each; success if all of them measure.
///
/// # Errors
/// There is no address to ask, or standard output is closed.
pub fn run(options: &Probe) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let (text, good) = runtime.block_on(ask_all(options))?;
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask_all(options: &Probe) -> Result<(String, bool)> {
    let url = &options.url;
    let (Some(scheme @ ("http" | "https")), Some(host)) = (url.scheme_str(), url.host()) else {
        bail!("cannot ask {url}: write http://HOST:PORT, or https://HOST:PORT for agents that serve TLS");
    };
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        bail!(
            "credentials stand in the URL, where others may read them: use --user with --password-file, or --token-file"
        );
    }
    if !has_plain_authority(url) {
        bail!("cannot ask {url}: write http://HOST:PORT with a port of 1 to 65535");
    }
    let asker = Asker { scheme, client: client::client(options)?, headers: client::headers(options)? };
    let place = (host.trim_matches(['[', ']']), url.port_u16().unwrap_or(PORT));
    let found = tokio::net::lookup_host(place)
        .await
        .with_context(|| format!("cannot find the host of {url}; it has no agents, or no name server knows it"))?;
    let addresses: BTreeSet<SocketAddr> = found.collect();
    if addresses.is_empty() {
        bail!("cannot ask {url}: its host has no address, so no agent runs there");
    }
    let (mut text, mut good) = (String::new(), true);
    for address in addresses {
        let verdict = match asker.ask(address).await {
            Ok(verdict) => verdict,
            Err(cause) => {
                good = false;
                format!("NOT GOOD: {}", crate::log::with_causes(&*cause))
            }
        };
        let _ = writeln!(text, "{address}: {}", verdict.trim_end().replace('\n', "; "));
    }
    Ok((text, good))
}

/// How each agent is asked.
struct Asker<'a> {
    scheme: &'a str,
    client: Client,
    headers: HeaderMap,
}

impl Asker<'_> {
    /// Whether one agent is ready and has values.
    async fn ask(&self, address: SocketAddr) -> Result<String> {
        match self.get(address, "/readyz").await? {
            (StatusCode::OK, _) => {}
            (StatusCode::UNAUTHORIZED, _) => {
                bail!("it wants credentials, or others: use --user with --password-file, or --token-file")
            }
            (status, body) => bail!("it is not ready ({status}): {}", body.trim()),
        }
        let (status, page) = self.get(address, "/metrics").await?;
        if status != StatusCode::OK {
            bail!("it answered {status} to /metrics: {}", page.trim());
        }
        match measured(&page) {
            0 => bail!(
                "it is ready, but its page has no value of any pod or unit: see whether `collectors`, `series.allow` and `series.deny` of its configuration leave any metric"
            ),
            entities => Ok(format!("ready, values of {entities} containers and units")),
        }
    }

    async fn get(&self, address: SocketAddr, path: &str) -> Result<(StatusCode, String)> {
        let uri = format!("{}://{address}{path}", self.scheme);
        let mut request = Request::get(&uri).body(Empty::new()).with_context(|| format!("cannot ask {uri}"))?;
        *request.headers_mut() = self.headers.clone();
        let asked = async {
            let answer = self.client.request(request).await.map_err(|cause| unreached(&uri, cause))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), PAGE_BYTES).collect().await;
            let body = body.map_err(|cause| anyhow::anyhow!("cannot read the answer of {uri}: {cause}"))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .with_context(|| format!("{uri} did not answer within {} s", PATIENCE.as_secs()))?
    }
}

/// Of how many a page has values that were measured, whatever those are: which metrics there are is the configuration's choice.
fn measured(page: &str) -> usize {
    page.lines().filter_map(of_whom).collect::<BTreeSet<&str>>().len()
}

/// Whose measured value a line has, as the labels tell it; the agent's own metrics have no such labels.
fn of_whom(line: &str) -> Option<&str> {
    let (name, labels) = line.split_once('{').filter(|(name, _)| name.starts_with("podlens_"))?;
    let (entity, _) = labels.split_once(",node=\"").filter(|_| labels.starts_with("namespace=\""))?;
    facts::names().all(|fact| fact != name).then_some(entity)
}

/// Why an agent gave no answer, with the remedy where it has said what it lacks.
fn unreached(uri: &str, cause: legacy::Error) -> anyhow::Error {
    let cause = anyhow::Error::new(cause);
    let wants_certificate = cause.chain().any(|cause| {
        let refusal = cause.downcast_ref::<io::Error>().and_then(|cause| cause.get_ref()?.downcast_ref());
        matches!(
            refusal.or_else(|| cause.downcast_ref()),
            Some(rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
                    // Signed by another authority of the same name.
                    | AlertDescription::DecryptError
            ))
        )
    });
    if wants_certificate {
        cause.context(format!("{uri} wants a client's certificate, or another: use --cert-file with --key-file"))
    } else {
        cause.context(format!("cannot reach {uri}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use clap::Parser as _;

    use super::ask_all;
    use crate::cli::{Cli, Command, Probe};

    /// Of an agent that measures no CPU time.
    const PAGE: &str = r#"200 OK|# TYPE podlens_tasks gauge
podlens_tasks{namespace="a",pod="b",container="c",node="n",state="running"} 1
podlens_tasks{namespace="a",pod="b",container="c",node="n",state="sleeping"} 3
podlens_tasks{namespace="",pod="",container="",unit="/",node="n",state="running"} 1
"#;

    fn options(words: &[&str]) -> Probe {
        let words = ["podlens", "probe"].into_iter().chain(words.iter().copied());
        let Command::Probe(options) = Cli::try_parse_from(words).unwrap().command else { panic!("it is no probe") };
        options
    }

    /// Serves these answers to /readyz and /metrics.
    async fn agent(ready: &'static str, metrics: &'static str) -> String {
        agent_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), ready, metrics)
    }

    fn agent_on(listener: TcpListener, ready: &'static str, metrics: &'static str) -> String {
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let answer = if head.starts_with(b"GET /readyz ") { ready } else { metrics };
                let (status, body) = answer.split_once('|').unwrap();
                let text =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}")
    }

    async fn check(ready: &'static str, metrics: &'static str, good: bool, part: &str) {
        let url = agent(ready, metrics).await;
        let (text, verdict) = ask_all(&options(&[&url])).await.unwrap();
        assert_eq!(verdict, good, "{text}");
        assert!(text.contains(part) && text.lines().count() == 1, "{text}");
    }

    #[tokio::test]
    async fn an_agent_is_good_if_it_is_ready_and_has_values() {
        check("200 OK|ready\n", PAGE, true, ": ready, values of 2 containers and units").await;
        check("503 Service Unavailable|scheduler: failed\nx: y\n", PAGE, false, "scheduler: failed; x: y").await;
        // What is told of the agent and what others say of a pod is not measured.
        let facts = r#"200 OK|# TYPE podlens_cpu_seconds_total counter
podlens_collector_state{collector="tcp",state="running"} 1
podlens_container_info{namespace="a",pod="b",container="c",image="d",node="n"} 1
podlens_cpu_limit_cores{namespace="a",pod="b",container="c",node="n"} 1
other_seconds_total{namespace="a",pod="b",container="c",node="n"} 1
"#;
        check("200 OK|ready\n", facts, false, "`series.deny` of its configuration").await;
        check("200 OK|ready\n", "500 Internal Server Error|lost\n", false, "500 Internal Server Error to /metrics")
            .await;
    }

    #[tokio::test]
    async fn a_mistyped_url_and_one_with_credentials_are_refused_and_no_other_port_is_asked() {
        for port in ["9464x", "65536", "99999", "-1", "0", ""] {
            let error = ask_all(&options(&[&format!("http://127.0.0.1:{port}")])).await.unwrap_err().to_string();
            assert!(error.contains("a port of 1 to 65535"), "{error}");
        }
        let error = ask_all(&options(&["http://user:SECRET@127.0.0.1:1"])).await.unwrap_err().to_string();
        assert!(error.contains("--password-file") && !error.contains("SECRET"), "{error}");
        let endless = options(&["http://127.0.0.1:1", "--token-file", "/dev/zero"]);
        let error = crate::log::with_causes(&*ask_all(&endless).await.unwrap_err());
        assert!(error.contains("/dev/zero: it is a device and no regular file"), "{error}");
    }

    #[tokio::test]
    async fn an_agent_is_found_by_its_address_of_ipv6() {
        // Not every machine has it.
        let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
        let url = agent_on(listener, "200 OK|ready\n", PAGE);
        let (text, good) = ask_all(&options(&[&url])).await.unwrap();
        assert!(good && text.starts_with("[::1]:"), "{text}");
    }

    #[tokio::test]
    async fn nobody_there_is_no_success() {
        let (text, good) = ask_all(&options(&["http://127.0.0.1:1"])).await.unwrap();
        assert!(!good && text.contains("cannot reach http://127.0.0.1:1/readyz"), "{text}");
        for url in ["ftp://127.0.0.1:1", "127.0.0.1", "/metrics"] {
            assert!(ask_all(&options(&[url])).await.unwrap_err().to_string().contains("http://HOST:PORT"));
        }
    }
}
