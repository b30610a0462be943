//! A real Prometheus that scrapes one page through the chart's monitors, translated as the operator translates them.
//! Called by [`super`].
//!
//! The page has what podlens serves: containers, units of the node, facts about pods, the agent's own metrics. The
//! target has the labels that the operator gives it: those of the agent's own pod.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result, bail};
use serde_json::{Value, json};

use super::Context;
use testkit::{http, monitor::scrape_config};

use crate::{
    chart::helm::{Objects, text},
    components, places, step,
};

/// Units without the labels of pods, and with them empty, which the exporter may write either way.
const PAGE: &str = r#"podlens_cpu_seconds_total{namespace="shop",pod="web-1",container="nginx",node="n"} 1
podlens_cpu_seconds_total{namespace="podlens",pod="podlens-x",container="podlens",node="n"} 2
podlens_cpu_seconds_total{unit="kubelet.service",node="n"} 4
podlens_cpu_seconds_total{unit="kernel",node="n"} 8
podlens_cpu_seconds_total{namespace="",pod="",container="",unit="/",node="n"} 16
podlens_pod_info{namespace="shop",pod="web-1",uid="u",node="n"} 1
podlens_lost_total{collector="scheduler",reason="missed_switch"} 0
"#;
const AGENT: [(&str, &str); 4] = [
    ("namespace", "podlens"),
    ("pod", "podlens-x"),
    ("container", "podlens"),
    ("__meta_kubernetes_pod_node_name", "n"),
];
const WITHIN: Duration = Duration::from_secs(30);

pub(super) fn monitors(context: &Context<'_>) -> Result<()> {
    let page = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let target = page.local_addr()?;
    serve(page);
    let by_pod = context.objects("podMonitor: { enabled: true }")?;
    let by_service = context.objects("serviceMonitor: { enabled: true }")?;
    let pods = endpoint(&by_pod, "PodMonitor", "/spec/podMetricsEndpoints/0")?;
    let services = endpoint(&by_service, "ServiceMonitor", "/spec/endpoints/0")?;
    // `overrideHonorLabels` of a Prometheus object, as of OpenShift's for users' workloads.
    let jobs = [("pods", pods, true), ("services", services, true), ("overruled", pods, false)];
    let jobs = jobs.map(|(name, endpoint, honored)| scrape_config(name, endpoint, honored, target, &AGENT));
    let prometheus = Prometheus::start(&jobs)?;
    prometheus.wait(jobs.len())?;
    for job in ["pods", "services", "overruled"] {
        let cpu = prometheus.series(&format!("podlens_cpu_seconds_total{{job=\"{job}\"}}"))?;
        let wanted =
            ["1 shop/web-1/nginx ", "2 podlens/podlens-x/podlens ", "4 // kubelet.service", "8 // kernel", "16 // /"];
        expect(job, &cpu, &wanted)?;
        expect(job, &prometheus.series(&format!("podlens_pod_info{{job=\"{job}\"}}"))?, &["1 shop/web-1/ "])?;
        for (own, value) in [("podlens_lost_total", 0), ("up", 1)] {
            let wanted = format!("{value} podlens/podlens-x/podlens ");
            expect(job, &prometheus.series(&format!("{own}{{job=\"{job}\"}}"))?, &[&wanted])?;
        }
    }
    for job in ["pods", "services"] {
        expect(job, &prometheus.series(&format!("{{job=\"{job}\",exported_namespace!=\"\"}}"))?, &[])?;
    }
    // OpenShift puts the agent's namespace over this label at last; the other one is what is left.
    let kept = "podlens_cpu_seconds_total{job=\"overruled\",exported_namespace=\"shop\"}";
    expect("overruled", &prometheus.series(kept)?, &["1 shop/web-1/nginx "])
}

fn expect(job: &str, found: &BTreeSet<String>, wanted: &[&str]) -> Result<()> {
    let wanted: BTreeSet<String> = wanted.iter().map(|&line| line.to_owned()).collect();
    if *found != wanted {
        bail!("through the monitor `{job}` Prometheus has {found:?}, not {wanted:?}");
    }
    Ok(())
}

fn endpoint<'a>(objects: &'a Objects, kind: &str, pointer: &str) -> Result<&'a Value> {
    objects.one(kind)?.pointer(pointer).with_context(|| format!("the {kind} has no endpoint"))
}

/// Answers each request with the page, in a thread that ends with the process.
fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            // A scrape that breaks off is followed by another.
            let _ = stream.read(&mut request).and_then(|_| {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{PAGE}",
                    PAGE.len()
                )
            });
        }
    });
}

/// The process; it ends with the value.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn start(jobs: &[Value]) -> Result<Self> {
        step::ensure(&components::PROMETHEUS)?;
        let folder = places::target()?.join("chart/prometheus");
        // Of an earlier run.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let configuration = folder.join("prometheus.yml");
        let text = json!({ "global": { "scrape_interval": "1s", "scrape_timeout": "1s" }, "scrape_configs": jobs });
        fs::write(&configuration, text.to_string()).context("cannot configure Prometheus")?;
        let log = fs::File::create(folder.join("log")).context("cannot make Prometheus' log")?;
        // Free now; nobody else on this machine asks for it in the moment until Prometheus does.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr())?;
        let process = Command::new(places::component("prometheus-3")?.join("prometheus"))
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start Prometheus")?;
        Ok(Self { process, address })
    }

    /// Until so many targets have been scraped.
    fn wait(&self, targets: usize) -> Result<()> {
        let started = Instant::now();
        loop {
            let failure = match self.series("count(up == 1)") {
                Ok(up) if up.contains(&format!("{targets} // ")) => return Ok(()),
                Ok(up) => anyhow::anyhow!("of {targets} targets there are up: {up:?}"),
                Err(error) => error,
            };
            if started.elapsed() > WITHIN {
                return Err(failure.context("Prometheus does not scrape; its log is target/chart/prometheus/log"));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Each series that is selected, as `VALUE NAMESPACE/POD/CONTAINER UNIT`.
    fn series(&self, selector: &str) -> Result<BTreeSet<String>> {
        let path = format!("/api/v1/query?query={}", http::percent_encoded(selector));
        let (_, body) = http::get(self.address, &path).map_err(Error::msg)?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("Prometheus answers {body}"))?;
        let result = answer.pointer("/data/result").and_then(Value::as_array);
        let line = |series: &Value| {
            let label = |name: &str| text(series, &format!("/metric/{name}"));
            let whose = [label("namespace"), label("pod"), label("container")].join("/");
            format!("{} {} {}", text(series, "/value/1"), whose, label("unit"))
        };
        Ok(result.with_context(|| format!("Prometheus refuses `{selector}`: {answer}"))?.iter().map(line).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It holds nothing that is needed later.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
