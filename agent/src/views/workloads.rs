//! The terminal view by workload: what the pods of each one cost this node together, beside what they requested, and which
//! workload waited for which.
//!
//! Pure: from two snapshots to text. `podlens snapshot --by workload` prints it. The recording rules (deploy/alerts) have
//! the same columns.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use super::{
    format::{NAME, ROWS, more, per_second, share, shorten},
    model::{Delay, Usage, delays, usages},
};
use crate::{
    registry::{Snapshot, Value},
    signal::{Container, Entity, Metric, Workload},
};

const MIB: f64 = (1 << 20) as f64;
/// What stands for culprits that have no name of their own.
const OTHER: &str = "(other)";

/// The metrics that tell what is requested, which belong to no collector.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// CPUs.
    pub cpu: &'static Metric,
    /// Bytes of memory.
    pub memory: &'static Metric,
}

/// What the pods of a workload cost, or a unit of the node.
#[derive(Default)]
struct Cost<'a> {
    /// Namespace and name.
    pods: BTreeSet<(&'a str, &'a str)>,
    cpu_ns: u64,
    memory: u64,
    network_bytes: u64,
    disk_bytes: u64,
    suffered_ns: u64,
    caused_ns: u64,
    /// Of the container for which it is longest.
    pressure_ns: u64,
    requested: Requested,
}

#[derive(Clone, Copy, Default)]
struct Requested {
    cores: f64,
    bytes: f64,
}

/// The whole view.
#[must_use]
pub fn render(before: &Snapshot, after: &Snapshot, seconds: f64, requests: Requests) -> String {
    let homes = Homes::of(before, after);
    let usages = usages(before, after);
    let delays = delays(before, after);
    let mut costs: HashMap<Entity, Cost<'_>> = HashMap::new();
    for (entity, usage) in &usages {
        costs.entry(homes.home(entity)).or_default().enter(entity, usage);
    }
    let mut pairs: HashMap<(Entity, Entity), u64> = HashMap::new();
    for Delay { entity, culprit, ns } in delays {
        let culprit = culprit.map_or_else(|| Entity::unit(OTHER), |culprit| homes.home(culprit));
        costs.entry(culprit.clone()).or_default().caused_ns += ns;
        *pairs.entry((homes.home(entity), culprit)).or_default() += ns;
    }
    for (home, requested) in requested(after, &homes, requests) {
        if let Some(cost) = costs.get_mut(&home) {
            cost.requested.cores += requested.cores;
            cost.requested.bytes += requested.bytes;
        }
    }
    let mut text = String::new();
    let _ = writeln!(text, "node {}, {seconds:.1} s", after.node);
    costliest(&mut text, &costs, seconds);
    delayed(&mut text, pairs, seconds);
    text
}

fn costliest(text: &mut String, costs: &HashMap<Entity, Cost<'_>>, seconds: f64) {
    let mut rows: Vec<(&Entity, &Cost<'_>)> = costs.iter().filter(|(_, cost)| cost.is_any()).collect();
    rows.sort_by_key(|(home, cost)| (Reverse(cost.cpu_ns + cost.caused_ns), *home));
    let _ = writeln!(
        text,
        "\n{:NAME$} {:>4} {:>7} {:>7} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "WORKLOAD OR UNIT",
        "PODS",
        "CPU",
        "of req.",
        "MEMORY",
        "of req.",
        "NETWORK",
        "DISK",
        "SUFFERED",
        "CAUSED",
        "PRESSURE"
    );
    let _ = writeln!(
        text,
        "{:NAME$} {:>4} {:>7} {:>7} {:>9} {:>7} {:>8} {:>8} {:>17} {:>8}",
        "", "", "cores", "", "MiB", "", "MiB/s", "MiB/s", "waiting tasks", "of time"
    );
    for (home, cost) in rows.iter().take(ROWS) {
        let _ = writeln!(
            text,
            "{:NAME$} {:>4} {:>7.3} {:>7} {:>9.1} {:>7} {:>8.2} {:>8.2} {:>8.4} {:>8.4} {:>8}",
            shorten(&home.to_string()),
            if cost.pods.is_empty() { "-".to_owned() } else { cost.pods.len().to_string() },
            per_second(cost.cpu_ns, seconds),
            share(per_second(cost.cpu_ns, seconds), cost.requested.cores),
            cost.memory as f64 / MIB,
            share(cost.memory as f64, cost.requested.bytes),
            cost.network_bytes as f64 / MIB / seconds,
            cost.disk_bytes as f64 / MIB / seconds,
            per_second(cost.suffered_ns, seconds),
            per_second(cost.caused_ns, seconds),
            share(per_second(cost.pressure_ns, seconds), 1.0),
        );
    }
    more(text, rows.len());
}

fn delayed(text: &mut String, pairs: HashMap<(Entity, Entity), u64>, seconds: f64) {
    if pairs.is_empty() {
        let _ = writeln!(text, "\nNobody waited for another.");
        return;
    }
    let mut rows: Vec<((Entity, Entity), u64)> = pairs.into_iter().collect();
    rows.sort_by(|(one, one_ns), (other, other_ns)| (Reverse(one_ns), one).cmp(&(Reverse(other_ns), other)));
    let _ = writeln!(text, "\n{:NAME$} {:>8}  BECAUSE THIS ONE HELD THE CPU", "WAITED", "tasks");
    for ((home, culprit), ns) in rows.iter().take(ROWS) {
        let (home, culprit) = (shorten(&home.to_string()), shorten(&culprit.to_string()));
        let _ = writeln!(text, "{home:NAME$} {:>8.4}  {culprit}", per_second(*ns, seconds));
    }
    more(text, rows.len());
}

impl<'a> Cost<'a> {
    fn enter(&mut self, entity: &'a Entity, usage: &Usage) {
        if let Entity::Container(container) = entity {
            self.pods.insert((&container.namespace, &container.pod));
        }
        self.cpu_ns += usage.cpu_ns;
        self.suffered_ns += usage.waited_for().others;
        self.memory += usage.memory.working_set.unwrap_or(0);
        self.network_bytes += usage.network.all_bytes();
        self.disk_bytes += usage.disk_bytes.iter().sum::<u64>();
        self.pressure_ns = self.pressure_ns.max(usage.longest_pressure_ns());
    }

    fn is_any(&self) -> bool {
        self.cpu_ns + self.memory + self.network_bytes + self.disk_bytes + self.suffered_ns + self.caused_ns > 0
    }
}

/// Which workload each pod belongs to, by the pod's uid.
struct Homes(HashMap<Arc<str>, Workload>);

impl Homes {
    /// Facts about a pod come after its first values and go before its last ones.
    fn of(before: &Snapshot, after: &Snapshot) -> Self {
        let facts = |snapshot: &Snapshot| {
            let of_pods = snapshot.infos.iter().filter(|info| info.metric.of_pod);
            let told = of_pods.filter_map(|info| {
                let label = |name: &str| info.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value);
                let name = Arc::clone(label("workload").filter(|name| !name.is_empty())?);
                let kind = Arc::clone(label("workload_type")?);
                let Entity::Container(container) = &*snapshot.entity(info.entity)?.entity else { return None };
                let namespace = Arc::clone(&container.namespace);
                Some((Arc::clone(&container.pod_uid), Workload { namespace, kind, name }))
            });
            told.collect::<Vec<_>>()
        };
        Self(facts(before).into_iter().chain(facts(after)).collect())
    }

    /// The workload; a pod of which none is known stands for itself, and a unit as well.
    fn home(&self, entity: &Entity) -> Entity {
        let Entity::Container(container) = entity else { return entity.clone() };
        match self.0.get(&container.pod_uid) {
            Some(workload) => Entity::Workload(workload.clone()),
            None => pod_of(entity),
        }
    }
}

/// A container's pod, without what tells instances apart.
fn pod_of(entity: &Entity) -> Entity {
    match entity.series() {
        Entity::Container(container) => Entity::Container(Container { container: "".into(), ..container }),
        other => other,
    }
}

/// What the pods of each workload requested: the sum over containers, or what a pod requested as a whole if that is more.
fn requested(after: &Snapshot, homes: &Homes, requests: Requests) -> Vec<(Entity, Requested)> {
    let mut of_pods: HashMap<Entity, (Entity, Requested, Requested)> = HashMap::new();
    for family in after.families().filter(|family| [requests.cpu, requests.memory].contains(&family.metric())) {
        for sample in family.samples() {
            let Some(state) = after.entity(sample.entity) else { continue };
            let home = homes.home(&state.entity);
            let (_, whole, parts) = of_pods
                .entry(pod_of(&state.entity))
                .or_insert_with(|| (home, Requested::default(), Requested::default()));
            let is_whole = matches!(&*state.entity, Entity::Container(container) if container.container.is_empty());
            let requested = if is_whole { whole } else { parts };
            match sample.value {
                Value::Float(cores) => requested.cores += cores,
                Value::Integer(bytes) => requested.bytes += bytes as f64,
                Value::Nanoseconds(_) | Value::Histogram(_) => {}
            }
        }
    }
    let more = |(home, whole, parts): (Entity, Requested, Requested)| {
        (home, Requested { cores: whole.cores.max(parts.cores), bytes: whole.bytes.max(parts.bytes) })
    };
    of_pods.into_values().map(more).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::sync::Arc;

    use super::{Requests, render};
    use crate::{
        collectors::{disk, memory, pressure, scheduler::metrics, tcp},
        export::fixture::{POD_INFO, container, snapshot_of, state, values},
        registry::{
            EntityState, Info, Section, Snapshot,
            snapshot::{Caused, Culprit},
        },
        signal::{Container, Entity, Kind, Layout, Metric, Unit},
    };

    const MIB: u64 = 1 << 20;

    static CPU_REQUEST: Metric = Metric { name: "cpu_request", kind: Kind::Gauge, unit: Unit::Cpus, ..Metric::BASE };
    static MEMORY_REQUEST: Metric =
        Metric { name: "memory_request", kind: Kind::Gauge, unit: Unit::Bytes, ..Metric::BASE };
    const REQUESTS: Requests = Requests { cpu: &CPU_REQUEST, memory: &MEMORY_REQUEST };

    /// Two pods of a daemon set, of which one has two containers, one of a deployment, and a unit.
    fn entities() -> Vec<EntityState> {
        vec![
            state(container("system", "log-1", "a")),
            state(container("system", "log-1", "b")),
            state(container("system", "log-2", "a")),
            state(container("shop", "web-1", "nginx")),
            state(Entity::unit("kubelet.service")),
        ]
    }

    /// What is known about the pods at these positions.
    fn facts(pods: &[(u32, &str, &str)]) -> Arc<[Info]> {
        let info = |(entity, kind, name): &(u32, &str, &str)| Info {
            metric: &POD_INFO,
            entity: *entity,
            labels: vec![("workload", (*name).into()), ("workload_type", (*kind).into())],
        };
        pods.iter().map(info).collect()
    }

    const KNOWN: &[(u32, &str, &str)] = &[(0, "daemonset", "log"), (2, "daemonset", "log"), (3, "deployment", "web")];

    fn with(mut snapshot: Snapshot, caused: &[(u32, Culprit, u64)]) -> Snapshot {
        let layout = Arc::new(Layout::new(&[&metrics::CPU_WAIT_CAUSED]));
        let of = |(entity, culprit, amount): &(u32, Culprit, u64)| Caused {
            entity: *entity,
            column: 0,
            culprit: *culprit,
            amount: *amount,
        };
        let entities = snapshot.entities.len();
        snapshot.sections.push(Section::of_rows(layout, entities, [], caused.iter().map(of).collect()));
        snapshot.infos = facts(KNOWN);
        snapshot
    }

    fn row<'a>(view: &'a str, name: &str) -> Vec<&'a str> {
        let row = view.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {view}"));
        row.split_whitespace().collect()
    }

    #[test]
    fn containers_and_pods_of_a_workload_are_added_up_beside_what_they_requested() {
        let second = 1_000_000_000;
        let before = with(snapshot_of(entities(), &[values(&tcp::metrics::BYTES, &[(0, &[MIB, 0])])]), &[]);
        let pressure = |ns: u64| [ns, 9 * second, 0, 0, 0, 0, 0, 0];
        let after = snapshot_of(
            entities(),
            &[
                values(&metrics::CPU, &[(0, &[second]), (1, &[second / 2]), (2, &[second / 2]), (4, &[second])]),
                values(&metrics::CPU_WAIT, &[(0, &[5, 5, second, 0, 5, 5]), (2, &[0, 0, 0, second, 0, 0])]),
                values(&memory::metrics::WORKING_SET, &[(0, &[30 * MIB]), (2, &[70 * MIB])]),
                values(&tcp::metrics::BYTES, &[(0, &[3 * MIB, 2 * MIB])]),
                values(&disk::metrics::BYTES, &[(1, &[MIB, MIB, 0])]),
                values(&pressure::metrics::PRESSURE, &[(0, &pressure(second)), (2, &pressure(second / 2))]),
                values(&CPU_REQUEST, &[(0, &[second]), (1, &[second / 2]), (2, &[second / 2])]),
                values(&MEMORY_REQUEST, &[(0, &[100 * MIB]), (2, &[100 * MIB])]),
            ],
        );
        let view = render(&before, &with(after, &[]), 2.0, REQUESTS);
        let wanted = ["2", "1.000", "50%", "100.0", "50%", "2.00", "1.00", "1.0000", "0.0000", "50%"];
        assert_eq!(row(&view, "system/daemonset/log")[1..], wanted, "{view}");
        assert_eq!(row(&view, "kubelet.service")[1..4], ["-", "0.500", "-"], "{view}");
        assert!(!view.contains("web"), "who did nothing has no row: {view}");
    }

    #[test]
    fn what_a_pod_requested_as_a_whole_counts_where_it_is_more() {
        let mut entities = entities();
        entities.push(state(container("shop", "web-1", "")));
        let own = [(3, &[500_000_000_u64][..]), (5, &[2_000_000_000])];
        let after =
            snapshot_of(entities, &[values(&metrics::CPU, &[(3, &[1_000_000_000])]), values(&CPU_REQUEST, &own)]);
        let view = render(&with(snapshot_of(vec![], &[]), &[]), &with(after, &[]), 1.0, REQUESTS);
        assert_eq!(row(&view, "shop/deployment/web")[1..4], ["1", "1.000", "50%"], "{view}");
    }

    #[test]
    fn what_others_waited_for_a_workload_is_the_sum_over_its_pods_as_culprits() {
        let of = |entity| Culprit::Entity(entity);
        let before = with(snapshot_of(entities(), &[]), &[(3, of(0), 1_000_000_000)]);
        let after = [
            (2, of(0), 250_000_000),
            (3, of(0), 3_000_000_000),
            (3, of(2), 500_000_000),
            (3, of(4), 125_000_000),
            (3, Culprit::Other, 62_500_000),
            (4, of(2), 250_000_000),
        ];
        let all: u64 = after.iter().map(|(_, _, ns)| ns).sum::<u64>() - 1_000_000_000;
        let view = render(&before, &with(snapshot_of(entities(), &[]), &after), 1.0, REQUESTS);
        let caused = |name: &str| row(&view, name)[9].parse::<f64>().unwrap();
        assert_eq!(row(&view, "system/daemonset/log")[9], "3.0000", "{view}");
        let sum: f64 = ["system/daemonset/log", "kubelet.service", "(other)"].map(caused).iter().sum();
        assert!((sum - all as f64 / 1e9).abs() < 1e-4, "the column is the metric's sum: {sum} of {all}: {view}");
        let pairs = view.split_once("BECAUSE").unwrap().1;
        assert_eq!(row(pairs, "shop/deployment/web")[..], ["shop/deployment/web", "2.5000", "system/daemonset/log"]);
    }

    #[test]
    fn a_pod_whose_names_come_meanwhile_is_the_same_as_before_and_one_without_a_workload_stands_for_itself() {
        let Entity::Container(named) = container("shop", "web-1", "nginx") else { panic!("it is a container") };
        let nameless = Container {
            namespace: "".into(),
            pod: Arc::clone(&named.pod_uid),
            container: "c0ffee".into(),
            ..named.clone()
        };
        let bytes = |amount: u64| values(&tcp::metrics::BYTES, &[(0, &[amount, 0])]);
        let before = snapshot_of(vec![state(Entity::Container(nameless))], &[bytes(8 * MIB)]);
        let after = snapshot_of(vec![state(Entity::Container(named))], &[bytes(9 * MIB)]);
        let view = render(&before, &after, 1.0, REQUESTS);
        assert_eq!(row(&view, "shop/web-1")[6], "1.00", "{view}");
        let known = Snapshot { infos: facts(&[(0, "deployment", "web")]), ..after };
        let view = render(&before, &known, 1.0, REQUESTS);
        assert_eq!(row(&view, "shop/deployment/web")[6], "1.00", "{view}");
    }
}
