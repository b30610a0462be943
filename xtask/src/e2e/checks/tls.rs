//! TLS everywhere: agents and fleet show certificates of an authority of this check's own and demand one of the client, a token
//! besides; Prometheus scrapes them as the chart's monitors say; the collector demands the same of them. Then the certificates change
//! under way: for others, which Prometheus does not trust, and back.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Error, Result, bail};
use serde_json::{Value, json};
use testkit::{
    http,
    monitor::{credentials, endpoint, scrape_config},
    rules::shortened,
};

use crate::{
    cluster::pki::{Authority, of_client, of_server},
    e2e::{
        fleet::addresses,
        names::Name,
        prometheus::{Prometheus, rules},
        wait::within,
        workloads::{NAMESPACE, STEADY},
        world::{PORT, RELEASE, World, items, text},
    },
    places, process,
};

/// Of the Secret in the cluster, and of the folder that stands for it beside Prometheus.
const SECRET: &str = "web-tls";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const HEALTH_PORT: u16 = 9465;
const PROMETHEUS_PORT: u16 = 9091;
/// The name in the server's certificate.
const SERVER: &str = "podlens.podlens.svc";
/// Of rates, in place of 5 minutes and more.
const WINDOW_SECONDS: u32 = 15;
/// In place of 5 minutes: who is restarted marks no series' end.
const LOOKBACK: &str = "10s";
const LIMIT: Duration = Duration::from_mins(1);
/// The kubelet brings a changed Secret into the pods within a minute and a half.
const CHANGED_WITHIN: Duration = Duration::from_mins(3);
const ALERTS: [&str; 2] = ["PodlensAgentDown", "PodlensFleetBlind"];
const WEB: &str = "\
tls_server_config:
  cert_file: tls.crt
  key_file: tls.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
bearer_token_file: token
";

/// The files of this check: an authority, what it has signed, and the token.
struct Files {
    folder: PathBuf,
    ours: Authority,
}

pub(super) fn demanded(world: &mut World) -> Result<String> {
    let told = shown(world);
    world.install(&json!({}), true)?;
    world.kubectl(&["delete", "secret", "--namespace", RELEASE, SECRET, "--ignore-not-found"])?;
    told
}

fn shown(world: &World) -> Result<String> {
    let files = Files::make(world)?;
    files.ours.issue("tls", "/CN=first", &of_server(&format!("DNS:{SERVER}")))?;
    files.put(world, "tls")?;
    let steady = Name::new(NAMESPACE, STEADY, "app");
    let before = world.collector.received().starts(&steady);
    let values = files.values(world)?;
    // Ready by the port of the probes.
    world.install(&values, true)?;
    let targets = targets(world)?;
    for (name, target) in &targets {
        let probe = SocketAddr::new(target.ip(), HEALTH_PORT);
        let (code, _) = http::get(probe, "/readyz").map_err(Error::msg)?;
        if code != 200 {
            bail!("{name} answers {code} to the probe");
        }
    }
    let prometheus = files.prometheus(world, &values, &targets)?;
    within(LIMIT, || scraped(&prometheus, targets.len()))?;
    within(LIMIT, || fire(&prometheus, false))?;
    within(LIMIT, || match world.collector.received().starts(&steady) {
        after if after > before => Ok(()),
        _ => bail!("nothing of {steady} comes through the collector that demands TLS"),
    })?;

    // Of an authority that Prometheus does not know.
    let others = Authority::new(&files.folder.join("others"), "others")?;
    others.issue("tls", "/CN=second", &of_server(&format!("DNS:{SERVER}")))?;
    files.put(world, "others/tls")?;
    within(CHANGED_WITHIN, || shown_anew(&prometheus, targets.len(), 1.0))?;
    // Who is connected stays so, and sees no new certificate.
    scraped(&prometheus, targets.len())?;
    prometheus.restart(&world.cluster)?;
    within(LIMIT, || fire(&prometheus, true))?;
    files.ours.issue("third", "/CN=third", &of_server(&format!("DNS:{SERVER}")))?;
    files.put(world, "third")?;
    within(CHANGED_WITHIN, || scraped(&prometheus, targets.len()))?;
    within(LIMIT, || fire(&prometheus, false))?;
    within(LIMIT, || shown_anew(&prometheus, targets.len(), 2.0))?;
    unchanged(world, &targets)?;
    Ok(format!("{} servers and a collector; {ALERTS:?} fire while the certificate is another's", targets.len()))
}

impl Files {
    fn make(world: &World) -> Result<Self> {
        let folder = world.cluster.scratch("tls")?;
        let ours = Authority::new(&folder, "ours")?;
        ours.issue("client", "/CN=prometheus", &of_client())?;
        let node = world.cluster.addresses().node;
        ours.issue("collector", "/CN=collector", &of_server(&format!("IP:{node}")))?;
        fs::write(folder.join("token"), TOKEN).context("cannot write a token")?;
        Ok(Self { folder, ours })
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.folder.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Puts the server's certificate of these files into the Secret, beside all the rest.
    fn put(&self, world: &World, server: &str) -> Result<()> {
        world.apply(&[json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": SECRET, "namespace": RELEASE },
            "stringData": {
                "web.yaml": WEB,
                "token": TOKEN,
                "tls.crt": self.read(&format!("{server}.crt"))?,
                "tls.key": self.read(&format!("{server}.key"))?,
                "ca.crt": self.read("ca.crt")?,
                // Of podlens as the collector's client.
                "client.crt": self.read("client.crt")?,
                "client.key": self.read("client.key")?,
            },
        })])?;
        // A change of the pods makes the kubelet look at their volumes soon. One may go while they are counted.
        let mark = format!("podlens-check/certificate={}", server.replace('/', "-"));
        let annotate = ["annotate", "pods", "--namespace", RELEASE, "--all", "--overwrite", &mark];
        within(LIMIT, || world.kubectl(&annotate).map(drop))
    }

    /// The chart's values, with a collector that demands TLS as well.
    fn values(&self, world: &World) -> Result<Value> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let tls = json!({
            "cert_file": file("collector.crt"), "key_file": file("collector.key"), "client_ca_file": file("ca.crt"),
        });
        let collector = world.collector.start_with_tls(&world.cluster, &world.folder, &tls)?;
        let place = |key: &str| json!({ "name": SECRET, "key": key });
        let mounted = |key: &str| format!("/etc/podlens-web/{key}");
        Ok(json!({
            "fleet": { "enabled": true },
            "web": { "existingSecret": SECRET },
            "serviceMonitor": {
                "tlsConfig": {
                    "ca": { "secret": place("ca.crt") },
                    "cert": { "secret": place("client.crt") },
                    "keySecret": place("client.key"),
                    "serverName": SERVER,
                },
                "authorization": { "credentials": place("token") },
            },
            "otlp": { "endpoint": format!("https://{collector}") },
            "config": {
                "otlp": {
                    "certificate": mounted("ca.crt"),
                    "client_certificate": mounted("client.crt"),
                    "client_key": mounted("client.key"),
                },
            },
        }))
    }

    /// A Prometheus with the chart's rules, in which only times are shorter, that scrapes as the chart's monitors tell its operator.
    fn prometheus(&self, world: &World, values: &Value, targets: &[(String, SocketAddr)]) -> Result<Prometheus> {
        let mut values = values.clone();
        if let Some(monitor) = values.pointer_mut("/serviceMonitor").and_then(Value::as_object_mut) {
            monitor.insert("enabled".to_owned(), json!(true));
        }
        let path = self.folder.join("values.json");
        fs::write(&path, values.to_string()).context("cannot write the chart's values")?;
        let chart = places::workspace()?.join("deploy/chart");
        let rendered = |template: &str| -> Result<Value> {
            let mut helm = world.cluster.helm()?;
            helm.args(["template", RELEASE]).arg(&chart).arg("--values").arg(&path).args(["--show-only", template]);
            Ok(endpoint(&process::output(&mut helm)?, "ServiceMonitor"))
        };
        let agents = rendered("templates/monitors.yaml")?;
        let fleet = rendered("templates/fleet-monitors.yaml")?;
        let secrets = self.folder.join("secrets");
        let secret = secrets.join(SECRET);
        fs::create_dir_all(&secret).context("cannot make a folder")?;
        for file in ["ca.crt", "client.crt", "client.key", "token"] {
            fs::copy(self.folder.join(file), secret.join(file)).context("cannot copy a secret")?;
        }
        let mut jobs = Vec::new();
        for (name, target) in targets {
            let monitor = if name.contains("fleet") { &fleet } else { &agents };
            let labels = [("namespace", RELEASE), ("pod", name.as_str())];
            let known = credentials(monitor, &secrets);
            let lacking = |place: &str, members: &[&str]| {
                let mut known = known.clone();
                let at = known.pointer_mut(place).and_then(Value::as_object_mut);
                if let Some(at) = at {
                    at.retain(|member, _| !members.contains(&member.as_str()));
                }
                known
            };
            for (job, known) in [
                (name.clone(), known.clone()),
                (format!("no-certificate-{name}"), lacking("/tls_config", &["cert_file", "key_file"])),
                (format!("no-token-{name}"), lacking("", &["authorization"])),
            ] {
                let mut job = scrape_config(&job, monitor, true, *target, &labels);
                if let (Some(job), Some(known)) = (job.as_object_mut(), known.as_object()) {
                    job.extend(known.clone());
                }
                jobs.push(job);
            }
        }
        let short = self.folder.join("rules.json");
        let text = fs::read_to_string(rules()?).context("cannot read the rules")?;
        fs::write(&short, shortened(&text, WINDOW_SECONDS, "1s")).context("cannot write rules")?;
        let configuration = json!({
            "global": { "scrape_interval": "3s", "scrape_timeout": "3s", "evaluation_interval": "1s" },
            "rule_files": [short],
            "scrape_configs": jobs,
        });
        Prometheus::start_with(
            &world.cluster,
            &self.folder,
            "prometheus-tls",
            PROMETHEUS_PORT,
            LOOKBACK,
            &configuration.to_string(),
        )
    }
}

/// Where the agent and the replicas of the fleet serve, by their pods.
fn targets(world: &World) -> Result<Vec<(String, SocketAddr)>> {
    within(LIMIT, || {
        let pods = world.get(&["pods", "--namespace", RELEASE])?;
        let ready = |pod: &&Value| {
            pod.pointer("/metadata/deletionTimestamp").is_none()
                && pod.pointer("/status/containerStatuses/0/ready") == Some(&json!(true))
        };
        let target = |pod: &Value| {
            Some((
                text(pod, "/metadata/name").to_owned(),
                SocketAddr::new(text(pod, "/status/podIP").parse().ok()?, PORT),
            ))
        };
        let found: Vec<_> = items(&pods).iter().filter(ready).filter_map(target).collect();
        let of_fleet = addresses(world)?;
        if found.len() != 3 || of_fleet.iter().any(|address| found.iter().all(|(_, one)| one != address)) {
            bail!("there are not an agent and two replicas: {found:?}");
        }
        Ok(found)
    })
}

/// Each server is scraped by who has a certificate and the token, by nobody else, and says what is its own.
fn scraped(prometheus: &Prometheus, servers: usize) -> Result<()> {
    let count = |expression: &str| -> Result<usize> { Ok(prometheus.now(expression)?.len()) };
    let (up, strangers) = (count("up{job!~\"no-.+\"} == 1")?, count("up{job=~\"no-.+\"} == 0")?);
    if (up, strangers) != (servers, 2 * servers) {
        bail!("of {servers} servers {up} are scraped, and {strangers} refuse who lacks something");
    }
    for expression in [
        format!("podlens_cpu_seconds_total{{namespace=\"{NAMESPACE}\", pod=\"{STEADY}\"}}"),
        "podlens_fleet_nodes{state=\"ready\"}".to_owned(),
    ] {
        if count(&expression)? == 0 {
            bail!("{expression} has no sample");
        }
    }
    Ok(())
}

/// Each server has taken over new certificates at least so often.
fn shown_anew(prometheus: &Prometheus, servers: usize, times: f64) -> Result<()> {
    let applied = prometheus.now("podlens_web_config_reloads_total{result=\"applied\"}")?;
    let applied: Vec<f64> =
        applied.iter().filter_map(|series| series.samples.last()).map(|(_, value)| *value).collect();
    if applied.len() != servers || applied.iter().any(|count| *count < times) {
        bail!("{servers} servers have taken over new certificates {applied:?} times");
    }
    Ok(())
}

/// Whether both alerts fire.
fn fire(prometheus: &Prometheus, wanted: bool) -> Result<()> {
    for alert in ALERTS {
        let firing = prometheus.now(&format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}"))?;
        if firing.is_empty() == wanted {
            bail!("{alert} fires: {}", !firing.is_empty());
        }
    }
    Ok(())
}

/// No container was started anew.
fn unchanged(world: &World, targets: &[(String, SocketAddr)]) -> Result<()> {
    let pods = world.get(&["pods", "--namespace", RELEASE])?;
    for (name, _) in targets {
        let pod = items(&pods).iter().find(|pod| text(pod, "/metadata/name") == name);
        let restarts = pod.and_then(|pod| pod.pointer("/status/containerStatuses/0/restartCount"));
        if restarts != Some(&json!(0)) {
            bail!("{name} was restarted, or is gone: {restarts:?}");
        }
    }
    Ok(())
}
