//! A real OpenTelemetry collector on the cluster's node that hands on what it receives as OTLP's JSON, and what became
//! of it. Called by [`super::world`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::http::{Reply, Server};

use super::{names::Name, wait::within};
use crate::{cluster::Cluster, places};

const START_WITHIN: Duration = Duration::from_secs(30);
const PORT: u16 = 4317;
/// Of the one that demands TLS.
const TLS_PORT: u16 = 4318;
const CPU_TIME: &str = "container.cpu.time";
/// How metrics of the network begin.
const NETWORK: [&str; 4] = ["podlens.network.", "podlens.tcp.connections", "podlens.udp.", "podlens.dns."];

/// A metric, and the values of its own labels.
pub(super) type Figure = (String, BTreeMap<String, String>);

/// What was told of one container or sandbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// All names under which it was told with its pod's name; right is one.
    pub(super) names: BTreeSet<Name>,
    /// Attributes of its workload, such as `k8s.job.name`, with their values.
    pub(super) workloads: BTreeSet<(String, String)>,
    /// The highest CPU time in seconds by the start of the counter, which moves when the agent starts anew.
    pub(super) seconds: BTreeMap<String, f64>,
    /// The highest value of each figure of the network; of a distribution how many there were.
    pub(super) network: BTreeMap<Figure, f64>,
}

/// An event: its name and its attributes.
pub(super) type Event = (String, BTreeMap<String, String>);

/// All that was received: values by pod uid and container id, and events.
#[derive(Debug, Default)]
pub(super) struct Received {
    told: BTreeMap<(String, String), Told>,
    events: Vec<Event>,
}

/// The collector.
#[derive(Debug)]
pub(super) struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
    to: SocketAddr,
    _server: Server,
}

impl Collector {
    /// Starts it among the node's processes, with which it ends.
    pub(super) fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let received = Arc::new(Mutex::new(Received::default()));
        let address = cluster.addresses().on_node(PORT);
        let listener = TcpListener::bind((address.ip(), 0)).context("cannot listen for the collector")?;
        let to = listener.local_addr().context("cannot tell where the collector shall send to")?;
        let into = Arc::clone(&received);
        let server = Server::start_on(listener, move |request| {
            if let Ok(body) = serde_json::from_slice(&request.body) {
                into.lock().unwrap_or_else(PoisonError::into_inner).enter(&body);
            }
            Reply { content_type: "application/json", body: "{}".to_owned() }
        });
        let collector = Self { address, received, to, _server: server };
        collector.serve(cluster, folder, "otelcol", address, json!({}))?;
        Ok(collector)
    }

    /// Starts one more that hands on to the same place, with this as the receiver's `tls`. Gives where it receives.
    pub(super) fn start_with_tls(&self, cluster: &Cluster, folder: &Path, tls: &Value) -> Result<SocketAddr> {
        let address = cluster.addresses().on_node(TLS_PORT);
        self.serve(cluster, folder, "otelcol-tls", address, json!({ "tls": tls }))?;
        Ok(address)
    }

    /// Runs a collector that receives at this address, with these settings of its receiver.
    fn serve(
        &self,
        cluster: &Cluster,
        folder: &Path,
        name: &str,
        address: SocketAddr,
        mut receiver: Value,
    ) -> Result<()> {
        if let Some(receiver) = receiver.as_object_mut() {
            receiver.insert("endpoint".to_owned(), json!(address.to_string()));
        }
        let pipeline = json!({ "receivers": ["otlp"], "exporters": ["otlp_http"] });
        let configuration = json!({
            "receivers": { "otlp": { "protocols": { "grpc": receiver } } },
            "exporters": {
                "otlp_http": { "endpoint": format!("http://{}", self.to), "encoding": "json", "compression": "none" },
            },
            "service": {
                "telemetry": { "metrics": { "level": "none" } },
                "pipelines": { "metrics": pipeline, "logs": pipeline },
            },
        });
        let file = folder.join(format!("{name}.yml"));
        fs::write(&file, configuration.to_string()).context("cannot configure the collector")?;
        let program = places::component("otelcol-0.165.0")?.join("otelcol");
        cluster.start_beside(name, &program, &[format!("--config={}", file.display())])?;
        within(START_WITHIN, || TcpStream::connect(address).map(drop).context("the collector does not listen"))
    }

    /// Where pods push to.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same for a pod that knows the address of its node, of either family, by this variable.
    pub(super) fn endpoint_at(&self, variable: &str) -> String {
        format!("http://[$({variable})]:{}", self.address.port())
    }

    /// What has arrived so far.
    pub(super) fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Received {
    /// CPU seconds by name, over all containers that had it. One without its pod's name has none.
    pub(super) fn by_name(&self) -> BTreeMap<Name, f64> {
        let mut sums = BTreeMap::new();
        for told in self.told.values() {
            for name in &told.names {
                *sums.entry(name.clone()).or_default() += told.seconds.values().sum::<f64>();
            }
        }
        sums
    }

    /// How many starts of an agent have told of a container.
    pub(super) fn starts(&self, name: &Name) -> usize {
        self.told.values().filter(|told| told.names.contains(name)).map(|told| told.seconds.len()).sum()
    }

    /// Everything told of pods, by pod uid and container id.
    pub(super) fn told(&self) -> &BTreeMap<(String, String), Told> {
        &self.told
    }

    /// All events so far whose names begin with this.
    pub(super) fn events(&self, prefix: &str) -> Vec<Event> {
        self.events.iter().filter(|(name, _)| name.starts_with(prefix)).cloned().collect()
    }

    fn enter(&mut self, body: &Value) {
        for resource in array(body, "/resourceLogs") {
            let records = array(resource, "/scopeLogs").iter().flat_map(|scope| array(scope, "/logRecords"));
            let event = |record: &Value| {
                let name = record.get("eventName").and_then(Value::as_str).unwrap_or_default();
                (name.to_owned(), attributes(record, "/attributes"))
            };
            self.events.extend(records.map(event));
        }
        for resource in array(body, "/resourceMetrics") {
            let attributes = attributes(resource, "/resource/attributes");
            let get = |key: &str| attributes.get(key).map_or("", String::as_str);
            let uid = get("k8s.pod.uid");
            if uid.is_empty() {
                continue;
            }
            let told = self.told.entry((uid.to_owned(), get("container.id").to_owned())).or_default();
            // A container's name comes after its pod's; until then its id is all that is known.
            let is_whole = get("container.id").is_empty() || !get("k8s.container.name").is_empty();
            if !get("k8s.pod.name").is_empty() && is_whole {
                told.names.insert(Name::new(get("k8s.namespace.name"), get("k8s.pod.name"), get("k8s.container.name")));
            }
            for kind in ["deployment", "daemonset", "statefulset", "job", "cronjob", "replicaset"] {
                let key = format!("k8s.{kind}.name");
                if let Some(value) = attributes.get(&key) {
                    told.workloads.insert((key, value.clone()));
                }
            }
            for metric in array(resource, "/scopeMetrics").iter().flat_map(|scope| array(scope, "/metrics")) {
                let name = metric.get("name").and_then(Value::as_str).unwrap_or_default();
                if name == CPU_TIME {
                    told.enter_seconds(metric);
                } else if NETWORK.iter().any(|begin| name.starts_with(begin)) {
                    told.enter_network(name, metric);
                }
            }
        }
    }
}

impl Told {
    fn enter_seconds(&mut self, metric: &Value) {
        for point in array(metric, "/sum/dataPoints") {
            let start = point.get("startTimeUnixNano").and_then(Value::as_str).unwrap_or_default();
            let Some(value) = point.get("asDouble").and_then(Value::as_f64) else { continue };
            let highest = self.seconds.entry(start.to_owned()).or_default();
            *highest = highest.max(value);
        }
    }

    fn enter_network(&mut self, name: &str, metric: &Value) {
        let points =
            ["/sum/dataPoints", "/exponentialHistogram/dataPoints"].into_iter().flat_map(|at| array(metric, at));
        for point in points {
            // Whole numbers are texts in this form of OTLP.
            let text = |key: &str| point.get(key).and_then(Value::as_str).and_then(|text| text.parse().ok());
            let value =
                text("asInt").or_else(|| text("count")).or_else(|| point.get("asDouble").and_then(Value::as_f64));
            let Some(value) = value else { continue };
            let highest = self.network.entry((name.to_owned(), attributes(point, "/attributes"))).or_default();
            *highest = f64::max(*highest, value);
        }
    }
}

fn array<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn attributes(of: &Value, pointer: &str) -> BTreeMap<String, String> {
    let pair = |attribute: &Value| {
        let value = attribute.pointer("/value/stringValue").and_then(Value::as_str)?;
        Some((attribute.get("key")?.as_str()?.to_owned(), value.to_owned()))
    };
    array(of, pointer).iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{CPU_TIME, Name, Received};

    fn body(attributes: &[(&str, &str)], start: &str, seconds: f64) -> Value {
        let attributes: Vec<Value> =
            attributes.iter().map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } })).collect();
        json!({ "resourceMetrics": [{
            "resource": { "attributes": attributes },
            "scopeMetrics": [{ "metrics": [{
                "name": CPU_TIME,
                "sum": { "dataPoints": [{ "startTimeUnixNano": start, "asDouble": seconds }] },
            }]}],
        }]})
    }

    #[test]
    fn a_renamed_container_is_counted_once_and_a_restarted_agent_counts_on() {
        let mut received = Received::default();
        let id = [("k8s.pod.uid", "u"), ("container.id", "c")];
        let names = [("k8s.namespace.name", "shop"), ("k8s.pod.name", "a"), ("k8s.container.name", "x")];
        received.enter(&body(&id, "1", 0.5));
        received.enter(&body(&[&id[..], &names[..2]].concat(), "1", 0.6));
        assert!(received.by_name().is_empty());
        received.enter(&body(&[&id[..], &names[..]].concat(), "1", 1.0));
        received.enter(&body(&[&id[..], &names[..]].concat(), "2", 0.25));
        assert_eq!(received.by_name(), [(Name::new("shop", "a", "x"), 1.25)].into());
    }
}
