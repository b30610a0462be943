//! How a dashboard is said, and the JSON that Grafana reads. Pure.
//!
//! It has what podlens' dashboards use and no more: variables, rows, graphs, numbers and tables of Prometheus' answers. Made
//! for Grafana 10 and later (schema 39).

use serde_json::{Map, Value, json};

const SCHEMA: u32 = 39;
/// Grafana's grid is so wide.
const GRID: u32 = 24;
const HEIGHT: u32 = 8;

/// A page of Grafana.
pub(in super::super) struct Dashboard {
    /// The end of its address, which links lead to; also the name of its file.
    pub(in super::super) name: &'static str,
    pub(in super::super) title: &'static str,
    /// What a newcomer reads first: which question it answers.
    pub(in super::super) about: &'static str,
    pub(super) variables: Vec<Variable>,
    pub(super) rows: Vec<(&'static str, Vec<Panel>)>,
}

/// What the reader chooses above the panels.
#[derive(Clone, Copy)]
pub(super) struct Variable {
    /// The label that it chooses a value of.
    pub(super) label: &'static str,
    /// Series that have it, narrowed by the variables before.
    pub(super) of: &'static str,
    /// One value alone, since the panels are about one thing.
    pub(super) single: bool,
}

/// A unit, by Grafana's name for it.
#[derive(Clone, Copy)]
pub(super) struct Unit(&'static str);

impl Unit {
    pub(super) const BYTES: Self = Self("bytes");
    pub(super) const BYTES_PER_SECOND: Self = Self("Bps");
    pub(super) const CPUS: Self = Self("suffix:CPUs");
    /// So many of whatever the title says.
    pub(super) const NUMBER: Self = Self("short");
    pub(super) const PER_SECOND: Self = Self("suffix:/s");
    pub(super) const SECONDS: Self = Self("s");
    /// From 0 to 1.
    pub(super) const SHARE: Self = Self("percentunit");
    /// How many, on average.
    pub(super) const TASKS: Self = Self("suffix:tasks");
}

enum Kind {
    Graph { stacked: bool },
    Number,
    Table { labels: Vec<&'static str>, columns: Vec<(&'static str, Unit)> },
}

/// One picture, and the question that it answers.
pub(super) struct Panel {
    title: &'static str,
    about: &'static str,
    unit: Unit,
    kind: Kind,
    width: u32,
    /// Expression and legend.
    targets: Vec<(String, &'static str)>,
    /// What no answer means, where there may be none.
    nothing: Option<&'static str>,
}

impl Panel {
    /// Lines over time, each under its legend, where `{{label}}` stands for a label's value.
    pub(super) fn graph(title: &'static str, unit: Unit, targets: Vec<(String, &'static str)>) -> Self {
        Self { title, about: "", unit, kind: Kind::Graph { stacked: false }, width: 12, targets, nothing: None }
    }

    /// One number for each answer: the last.
    pub(super) fn number(title: &'static str, unit: Unit, expression: String, legend: &'static str) -> Self {
        Self { kind: Kind::Number, width: 6, ..Self::graph(title, unit, vec![(expression, legend)]) }
    }

    /// A row for each set of these labels, with the values of now. The first column is the one by which it is ordered.
    pub(super) fn table(
        title: &'static str,
        labels: Vec<&'static str>,
        columns: Vec<(&'static str, Unit, String)>,
    ) -> Self {
        let shown = columns.iter().map(|(name, unit, _)| (*name, *unit)).collect();
        let targets = columns.into_iter().map(|(name, _, expression)| (expression, name)).collect();
        let kind = Kind::Table { labels, columns: shown };
        Self { kind, width: GRID, ..Self::graph(title, Unit::NUMBER, targets) }
    }

    /// How to read it.
    pub(super) fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    /// Its lines add up to something.
    pub(super) fn stacked(self) -> Self {
        Self { kind: Kind::Graph { stacked: true }, ..self }
    }

    pub(super) fn wide(self, width: u32) -> Self {
        Self { width, ..self }
    }

    /// There may be no answer, which means this.
    pub(super) fn or_nothing(self, nothing: &'static str) -> Self {
        Self { nothing: Some(nothing), ..self }
    }

    fn json(&self, number: u32, x: u32, y: u32) -> Value {
        let mut defaults = object(json!({ "unit": self.unit.0, "min": 0 }));
        if let Some(nothing) = self.nothing {
            defaults.insert("noValue".to_owned(), json!(nothing));
        }
        let (mut overrides, mut transformations) = (json!([]), json!([]));
        let (kind, options) = match &self.kind {
            Kind::Graph { stacked } => {
                let (mode, fill) = if *stacked { ("normal", 30) } else { ("none", 0) };
                let custom = json!({ "stacking": { "mode": mode }, "fillOpacity": fill, "showPoints": "never" });
                defaults.insert("custom".to_owned(), custom);
                let calculated = ["mean", "max"];
                let legend = json!({
                    "displayMode": "table", "placement": "bottom", "calcs": calculated, "sortBy": "Mean", "sortDesc": true,
                });
                ("timeseries", json!({ "legend": legend, "tooltip": { "mode": "multi", "sort": "desc" } }))
            }
            Kind::Number => {
                ("stat", json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "textMode": "value_and_name" }))
            }
            Kind::Table { labels, columns } => {
                overrides = columns.iter().map(of_column).collect();
                transformations = into_columns(labels, columns);
                let order: Vec<Value> =
                    columns.iter().take(1).map(|(name, _)| json!({ "displayName": name, "desc": true })).collect();
                ("table", json!({ "sortBy": order, "footer": { "show": false } }))
            }
        };
        let is_table = kind == "table";
        let target = |(at, (expression, legend)): (u8, &(String, &str))| {
            json!({
                "refId": reference(at),
                "datasource": datasource(),
                "editorMode": "code",
                "expr": expression,
                "legendFormat": legend,
                "instant": is_table,
                "range": !is_table,
                "format": if is_table { "table" } else { "time_series" },
            })
        };
        json!({
            "id": number,
            "type": kind,
            "title": self.title,
            "description": self.about,
            "datasource": datasource(),
            "gridPos": { "x": x, "y": y, "w": self.width, "h": HEIGHT },
            "targets": (0_u8..).zip(&self.targets).map(target).collect::<Vec<_>>(),
            "fieldConfig": { "defaults": defaults, "overrides": overrides },
            "transformations": transformations,
            "options": options,
        })
    }
}

/// How a column of a table looks.
fn of_column((name, unit): &(&str, Unit)) -> Value {
    json!({
        "matcher": { "id": "byName", "options": name },
        "properties": [
            { "id": "unit", "value": unit.0 },
            { "id": "custom.cellOptions", "value": { "type": "gauge", "mode": "basic" } },
        ],
    })
}

/// Makes one table of the answers, with a column for each label and each answer.
fn into_columns(labels: &[&str], columns: &[(&str, Unit)]) -> Value {
    let names = (0_u8..).zip(columns).map(|(at, (name, _))| (format!("Value #{}", reference(at)), json!(name)));
    // Where there is one answer alone, its column has no letter.
    let names = names.chain(columns.iter().take(1).map(|(name, _)| ("Value".to_owned(), json!(name))));
    let order = labels.iter().copied().chain(columns.iter().map(|(name, _)| *name));
    // Before labels are renamed for people, which is the last step.
    let order = order.zip(0_u32..).map(|(name, at)| (name.to_owned(), json!(at)));
    let spaced = labels.iter().filter(|label| label.contains('_'));
    let spaced = spaced.map(|label| ((*label).to_owned(), json!(label.replace('_', " "))));
    json!([
        { "id": "merge", "options": {} },
        { "id": "organize", "options": {
            "excludeByName": { "Time": true, "__name__": true },
            "renameByName": names.collect::<Map<_, _>>(),
        } },
        { "id": "organize", "options": {
            "indexByName": order.collect::<Map<_, _>>(),
            "renameByName": spaced.collect::<Map<_, _>>(),
        } },
    ])
}

/// The members of a literal object.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

impl Dashboard {
    /// What Grafana reads.
    pub(in super::super) fn text(&self) -> String {
        let mut panels = Vec::new();
        let (mut number, mut y) = (0, 0);
        for (title, row) in &self.rows {
            number += 1;
            panels.push(json!({
                "id": number, "type": "row", "title": title, "collapsed": false, "panels": [],
                "gridPos": { "x": 0, "y": y, "w": GRID, "h": 1 },
            }));
            y += 1;
            let mut x = 0;
            for panel in row {
                if x + panel.width > GRID {
                    (x, y) = (0, y + HEIGHT);
                }
                number += 1;
                panels.push(panel.json(number, x, y));
                x += panel.width;
            }
            y += HEIGHT;
        }
        let all = json!({
            "uid": format!("podlens-{}", self.name),
            "title": format!("podlens / {}", self.title),
            "description": self.about,
            "tags": ["podlens"],
            "schemaVersion": SCHEMA,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "1m",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "links": [{ "type": "dashboards", "title": "podlens", "tags": ["podlens"], "asDropdown": true, "keepTime": true, "includeVars": true }],
            "templating": { "list": self.variables() },
            "panels": panels,
        });
        format!("{all:#}\n")
    }

    fn variables(&self) -> Vec<Value> {
        let source = json!({
            "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1,
        });
        let variable = |Variable { label, of, single }: &Variable| {
            let query = format!("label_values({of}, {label})");
            let mut variable = object(json!({
                "name": label, "label": label, "type": "query", "datasource": datasource(), "refresh": 2, "sort": 1,
                "definition": query, "query": { "qryType": 1, "query": query, "refId": "variable" },
            }));
            if !single {
                // A label that nothing has matches `.*` as well: there need be no `cluster`.
                let every = json!({
                    "includeAll": true, "multi": true, "allValue": ".*",
                    "current": { "text": ["All"], "value": ["$__all"] },
                });
                variable.extend(object(every));
            }
            Value::Object(variable)
        };
        [source].into_iter().chain(self.variables.iter().map(variable)).collect()
    }
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// Grafana's name of a target: a letter.
fn reference(at: u8) -> char {
    char::from(b'A'.saturating_add(at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::{Dashboard, Panel, Unit};

    #[test]
    fn panels_fill_the_grid_without_overlap_and_have_numbers_of_their_own() {
        let graph = || Panel::graph("a", Unit::BYTES, vec![("b".to_owned(), "c")]);
        let rows = vec![("one", vec![graph(), graph(), graph().wide(8)]), ("two", vec![graph()])];
        let dashboard = Dashboard { name: "n", title: "t", about: "", variables: vec![], rows };
        let json: Value = dashboard.text().parse().unwrap();
        let place = |panel: &Value| {
            let at = |key: &str| panel.pointer(&format!("/gridPos/{key}")).and_then(Value::as_u64).unwrap();
            (panel.get("id").and_then(Value::as_u64).unwrap(), at("x"), at("y"))
        };
        let panels = json.get("panels").and_then(Value::as_array).unwrap();
        let wanted = [(1, 0, 0), (2, 0, 1), (3, 12, 1), (4, 0, 9), (5, 0, 17), (6, 0, 18)];
        assert_eq!(panels.iter().map(place).collect::<Vec<_>>(), wanted);
    }
}
