//! A real Prometheus that scrapes one target each second, and promtool.

use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::{
    process::{Directory, Process},
    program,
};
use crate::{free_address, http, wait_for};

const COMPONENT: &str = "prometheus-3";
/// The one that receives OTLP as well.
const RECEIVER: &str = "prometheus-otlp-0.316.0";

/// One element of an instant query's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// All labels, `__name__` among them.
    pub labels: BTreeMap<String, String>,
    /// The value; for a native histogram its number of observations.
    pub value: f64,
}

/// A running Prometheus. Ends with the value.
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts it with `target` as its only target, scraped each second at `/metrics`, labels honoured.
    pub fn start(target: SocketAddr) -> Self {
        Self::start_configured(&configuration(target))
    }

    /// The same, but it stores native histograms, for which it asks for protobuf, and classic ones beside them. The target has
    /// the label `pod` of whoever is scraped.
    pub fn start_native(target: SocketAddr, pod: &str) -> Self {
        let configuration =
            format!("{}    labels: {{pod: {pod}}}\n  always_scrape_classic_histograms: true\n", configuration(target));
        Self::start_program(COMPONENT, &configuration, &["--enable-feature=native-histograms"])
    }

    /// Starts it with a configuration of the test's own, in YAML or JSON.
    pub fn start_configured(configuration: &str) -> Self {
        Self::start_program(COMPONENT, configuration, &[])
    }

    /// Starts one that receives OTLP at `/api/v1/otlp` and scrapes only what the configuration says.
    pub fn start_receiver(configuration: &str) -> Self {
        Self::start_program(RECEIVER, configuration, &["--web.enable-otlp-receiver"])
    }

    fn start_program(component: &str, configuration: &str, arguments: &[&str]) -> Self {
        let prometheus = program(component, "prometheus");
        let directory = Directory::new("prometheus");
        let configuration = directory.write("prometheus.yml", configuration);
        let address = free_address();
        let mut command = Command::new(prometheus);
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(arguments);
        let mut process = Process::start("Prometheus", command, directory);
        process.wait_until_ready(|| match http::get(address, "/-/ready")? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("not ready: {code} {}", body.trim())),
        });
        Self { process, address }
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The answer to an instant query; an error is Prometheus' own words.
    pub fn query(&self, expression: &str) -> Result<Vec<Point>, String> {
        let answer = self.api(&format!("query?query={}", http::percent_encoded(expression)))?;
        let result = answer.pointer("/data/result").and_then(Value::as_array);
        let result = result.ok_or_else(|| format!("`{expression}` has no result in {answer}"))?;
        result.iter().map(point).collect()
    }

    /// The query as Prometheus itself understands it, as a tree.
    pub fn parsed(&self, expression: &str) -> Result<Value, String> {
        let mut answer = self.api(&format!("parse_query?query={}", http::percent_encoded(expression)))?;
        Ok(answer.get_mut("data").map(Value::take).unwrap_or_default())
    }

    /// The value of the one answer to a query; panics where there is another number of them.
    #[track_caller]
    pub fn one(&self, expression: &str) -> f64 {
        let points = self.query(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert_eq!(points.len(), 1, "{expression} has one answer: {points:?}");
        points.first().map_or(f64::NAN, |point| point.value)
    }

    /// No scrape of its one target, each second, failed within so long, such as `15m`, but for one at most that was not answered within its
    /// time, as can be where the machine itself stands still; panics otherwise.
    #[track_caller]
    pub fn assert_scraped(&self, window: &str) {
        let failed = self.one(&format!("count_over_time(up[{window}]) - sum_over_time(up[{window}])"));
        let in_time = "(up == bool 0) * (scrape_duration_seconds < bool 0.9)";
        let refused = self.one(&format!("sum_over_time(({in_time})[{window}:1s])"));
        assert!(refused < 0.5 && failed < 1.5, "{failed} scrapes failed, {refused} of them in time");
    }

    /// Asks until the query has an answer that `accepts` holds for; panics with the last one after `limit`.
    pub fn wait_for(&self, expression: &str, limit: Duration, accepts: impl Fn(&[Point]) -> bool) -> Vec<Point> {
        wait_for(&format!("Prometheus' answer to `{expression}`"), limit, || {
            let points = self.query(expression)?;
            if accepts(&points) { Ok(points) } else { Err(format!("the last answer was {points:?}")) }
        })
    }

    /// Waits until the target was scraped and is up; panics with the scrape's error after `limit`.
    pub fn wait_until_up(&self, limit: Duration) {
        wait_for("the target's first good scrape", limit, || match self.target()? {
            (health, _) if health == "up" => Ok(()),
            (health, error) => Err(format!("it is {health}: {error}")),
        });
    }

    /// The target's health (`up`, `down`, `unknown`) and its last error, empty if there was none.
    pub fn target(&self) -> Result<(String, String), String> {
        let answer = self.api("targets?state=active")?;
        let field = |name: &str| answer.pointer(&format!("/data/activeTargets/0/{name}")).and_then(Value::as_str);
        match (field("health"), field("lastError")) {
            (Some(health), Some(error)) => Ok((health.to_owned(), error.to_owned())),
            _ => Err(format!("no target in {answer}")),
        }
    }

    /// The lines of its log that warn or tell an error, for example of a sample that it refused.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.process.log();
        let bad = |line: &&str| line.contains("level=WARN") || line.contains("level=ERROR");
        log.lines().filter(bad).map(str::to_owned).collect()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    fn api(&self, path: &str) -> Result<Value, String> {
        let (_, body) = http::get(self.address, &format!("/api/v1/{path}"))?;
        let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{path}: {error} in {body:?}"))?;
        if answer.get("status").and_then(Value::as_str) == Some("success") {
            return Ok(answer);
        }
        Err(format!("{path}: {answer}"))
    }
}

fn configuration(target: SocketAddr) -> String {
    format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n- job_name: podlens\n  honor_labels: true\n  static_configs:\n  - targets: ['{target}']\n"
    )
}

fn point(element: &Value) -> Result<Point, String> {
    let text = element.pointer("/value/1").or_else(|| element.pointer("/histogram/1/count"));
    let value = text.and_then(Value::as_str).and_then(|text| text.parse().ok());
    let labels = element.get("metric").and_then(Value::as_object).map(|labels| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        labels.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    });
    match (labels, value) {
        (Some(labels), Some(value)) => Ok(Point { labels, value }),
        _ => Err(format!("no labels or no value in {element}")),
    }
}

/// Runs `promtool check metrics` on a page; anything that it says is the error.
pub fn promtool_check_metrics(page: &str) -> Result<(), String> {
    let mut child = Command::new(program(COMPONENT, "promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start promtool: {error}"))?;
    let mut stdin = child.stdin.take().expect("promtool's input is a pipe");
    let written = stdin.write_all(page.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| format!("cannot wait for promtool: {error}"))?;
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() && said.is_empty() {
        return written.map_err(|error| format!("promtool read only a part: {error}"));
    }
    Err(format!("promtool ended with {}: {}", output.status, String::from_utf8_lossy(&said).trim()))
}
