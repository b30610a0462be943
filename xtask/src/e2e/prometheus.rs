//! A real Prometheus on the cluster's node, with the scrape configuration of deploy/examples. Called by [`super::world`].

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Error, Result, bail};
use serde_json::Value;
use testkit::http;

use super::{names::Name, wait::within};
use crate::{cluster::Cluster, places};

const PORT: u16 = 9090;
const START_WITHIN: Duration = Duration::from_secs(30);
/// Longer than any run of the checks.
const ALL: &str = "3h";

/// One series: its labels, and its samples or its one value, each with its time.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) samples: Vec<(f64, f64)>,
}

impl Series {
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    pub(super) fn name(&self) -> Name {
        Name::new(self.label("namespace"), self.label("pod"), self.label("container"))
    }
}

/// The server.
#[derive(Debug)]
pub(super) struct Prometheus {
    name: String,
    folder: PathBuf,
    lookback: &'static str,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts it among the node's processes, with which it ends.
    pub(super) fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let example = places::workspace()?.join("deploy/examples/prometheus.yaml");
        let example = fs::read_to_string(&example).with_context(|| format!("cannot read {}", example.display()))?;
        let text = adapted(&example, &cluster.kubeconfig(), &rules()?)?;
        Self::start_with(cluster, folder, "prometheus", PORT, "5m", &text)
    }

    /// Starts one more, by a name and at a port that no other has, with a configuration of its own. A series without a new sample is
    /// there for `lookback`.
    pub(super) fn start_with(
        cluster: &Cluster,
        folder: &Path,
        name: &str,
        port: u16,
        lookback: &'static str,
        configuration: &str,
    ) -> Result<Self> {
        let file = folder.join(format!("{name}.yml"));
        fs::write(&file, configuration).context("cannot configure Prometheus")?;
        let address = cluster.addresses().on_node(port);
        let prometheus = Self { name: name.to_owned(), folder: folder.to_owned(), lookback, address };
        prometheus.begin(cluster)?;
        Ok(prometheus)
    }

    /// Starts it anew, with what it has stored and without its open connections.
    pub(super) fn restart(&self, cluster: &Cluster) -> Result<()> {
        cluster.end_beside(&self.name)?;
        self.begin(cluster)
    }

    fn begin(&self, cluster: &Cluster) -> Result<()> {
        let Self { name, folder, lookback, address } = self;
        let program = places::component("prometheus-3")?.join("prometheus");
        let arguments = [
            format!("--config.file={}", folder.join(format!("{name}.yml")).display()),
            format!("--storage.tsdb.path={}", folder.join(format!("{name}-tsdb")).display()),
            format!("--web.listen-address={address}"),
            format!("--query.lookback-delta={lookback}"),
        ];
        cluster.start_beside(name, &program, &arguments)?;
        within(START_WITHIN, || match http::get(*address, "/-/ready").map_err(Error::msg)? {
            (200, _) => Ok(()),
            (code, body) => bail!("Prometheus is not ready: {code} {body}"),
        })
    }

    /// Every sample of the series that `selector` selects, gone ones included.
    pub(super) fn history(&self, selector: &str) -> Result<Vec<Series>> {
        self.at(&format!("{selector}[{ALL}]"), None)
    }

    /// The present values.
    pub(super) fn now(&self, expression: &str) -> Result<Vec<Series>> {
        self.at(expression, None)
    }

    /// The last values of all series that ever were.
    pub(super) fn last(&self, selector: &str) -> Result<Vec<Series>> {
        self.at(&format!("last_over_time({selector}[{ALL}])"), None)
    }

    /// The values at a time, in seconds since 1970; none is now.
    pub(super) fn at(&self, expression: &str, seconds: Option<f64>) -> Result<Vec<Series>> {
        let time = seconds.map_or_else(String::new, |seconds| format!("&time={seconds:.3}"));
        let path = format!("/api/v1/query?query={}{time}", http::percent_encoded(expression));
        let (_, body) = http::get(self.address, &path).map_err(Error::msg)?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("Prometheus answers {body}"))?;
        let result = answer.pointer("/data/result").and_then(Value::as_array);
        let result = result.with_context(|| format!("Prometheus refuses `{expression}`: {answer}"))?;
        result.iter().map(series).collect()
    }
}

/// The chart's rules.
pub(super) fn rules() -> Result<PathBuf> {
    Ok(places::workspace()?.join("deploy/chart/files/alerts/podlens.yaml"))
}

fn series(element: &Value) -> Result<Series> {
    let labels = element.get("metric").and_then(Value::as_object).context("a series has no labels")?;
    let labels = labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let single = element.get("value").map(std::slice::from_ref);
    let pairs = element.get("values").and_then(Value::as_array).map(Vec::as_slice).or(single);
    let sample = |pair: &Value| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_str()?.parse().ok()?));
    let samples = pairs.unwrap_or_default().iter().map(sample).collect::<Option<_>>();
    Ok(Series { labels: labels.collect(), samples: samples.with_context(|| format!("no samples in {element}"))? })
}

/// The example for a Prometheus outside the cluster that scrapes and evaluates the chart's rules each second.
fn adapted(example: &str, kubeconfig: &Path, rules: &Path) -> Result<String> {
    let place = "      - role: pod\n        selectors:\n";
    if !example.contains(place) {
        bail!("cannot adapt deploy/examples/prometheus.yaml: its discovery of pods does not look as it did");
    }
    let inside = format!("      - role: pod\n        kubeconfig_file: {}\n        selectors:\n", kubeconfig.display());
    let example = example.replace(place, &inside);
    let rules = rules.display();
    Ok(format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\nrule_files: ['{rules}']\n{example}"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use serde_json::json;

    use super::{adapted, series};
    use crate::places;

    #[test]
    fn the_shipped_example_can_be_adapted() {
        let example = std::fs::read_to_string(places::workspace().unwrap().join("deploy/examples/prometheus.yaml"));
        let text = adapted(&example.unwrap(), Path::new("/k"), Path::new("/r")).unwrap();
        assert!(text.contains("kubeconfig_file: /k\n") && text.contains("honor_labels: true"), "{text}");
        assert!(adapted("scrape_configs: []", Path::new("/k"), Path::new("/r")).is_err());
    }

    #[test]
    fn one_value_and_many_are_read_alike() {
        let one = series(&json!({ "metric": { "pod": "a" }, "value": [1.5, "2"] })).unwrap();
        let many = series(&json!({ "metric": { "pod": "a" }, "values": [[1.5, "2"], [2.5, "3"]] })).unwrap();
        assert_eq!((one.label("pod"), &one.samples), ("a", &vec![(1.5, 2.0)]));
        assert_eq!(many.samples, [(1.5, 2.0), (2.5, 3.0)]);
    }
}
