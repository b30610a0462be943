//! Grafana's dashboards without Grafana: their panels with the variables filled in, and a picture of them with the answers of a
//! real Prometheus, for a person to look at.
//!
//! It is no Grafana: it draws those kinds of panels that podlens' dashboards are made of, as Grafana draws them by default, and
//! nothing can be clicked. `cargo xtask dashboards` and agent/tests/monitoring.rs use it.

mod draw;
mod units;

use std::net::SocketAddr;

use serde_json::Value;

use crate::http;

/// A dashboard, read.
#[derive(Debug)]
pub struct Dashboard {
    /// Above the panels.
    pub title: String,
    /// What its variables choose from.
    pub variables: Vec<Variable>,
    /// In their order, rows among them.
    pub panels: Vec<Panel>,
}

/// A variable: all values of a label of some series.
#[derive(Debug)]
pub struct Variable {
    /// The label.
    pub label: String,
    /// The series.
    pub series: String,
}

/// One panel.
#[derive(Debug)]
pub struct Panel {
    /// Its heading.
    pub title: String,
    /// What it shows and how to read it.
    pub about: String,
    /// Grafana's name for how it looks.
    pub kind: String,
    /// What it says where there is no answer, if it says so.
    pub nothing: Option<String>,
    /// What it asks.
    pub targets: Vec<Target>,
    /// Left, top, width and height in Grafana's grid.
    grid: [f64; 4],
    /// All of it, as Grafana reads it.
    json: Value,
}

/// An expression and the name of its answers.
#[derive(Debug)]
pub struct Target {
    /// Without variables.
    pub expression: String,
    /// With `{{label}}` for labels' values.
    pub legend: String,
}

/// Whom to ask, and about when.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Where Prometheus serves.
    pub address: SocketAddr,
    /// The end of the time that is drawn, in seconds since 1970.
    pub until: f64,
    /// How long that is, in seconds.
    pub seconds: f64,
    /// From one point to the next, in seconds.
    pub step: f64,
}

/// What became of a dashboard.
#[derive(Debug)]
pub struct Picture {
    /// The picture.
    pub svg: String,
    /// Titles of the panels without any answer.
    pub empty: Vec<String>,
}

/// One series of an answer.
#[derive(Clone, Debug)]
struct Series {
    labels: Vec<(String, String)>,
    /// Seconds since 1970, and the value then.
    points: Vec<(f64, f64)>,
}

/// A text inside a value.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A list inside a value.
pub fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

impl Dashboard {
    /// Reads one. A variable has the value that is given here and otherwise matches everything; rates are taken over
    /// `window`.
    pub fn read(json: &str, values: &[(&str, &str)], window: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(json).map_err(|error| format!("no dashboard: {error}"))?;
        let variables: Vec<&Value> =
            list(&json, "/templating/list").filter(|variable| text(variable, "/type") == "query").collect();
        // The longest first: a name may be the beginning of another one.
        let mut names: Vec<&str> = variables.iter().map(|variable| text(variable, "/name")).collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        let filled = |expression: &str| {
            let expression = expression.replace("$__rate_interval", window);
            let filled = names.iter().fold(expression, |expression, name| {
                let value = values.iter().find(|(given, _)| given == name).map_or(".*", |(_, value)| value);
                expression.replace(&format!("${name}"), value)
            });
            if filled.contains('$') { Err(format!("no variable for {filled}")) } else { Ok(filled) }
        };
        let variables = variables.iter().map(|variable| {
            let query = text(variable, "/query/query").trim_start_matches("label_values(").trim_end_matches(')');
            let (series, label) = query.rsplit_once(", ").ok_or_else(|| format!("{query} has no label"))?;
            Ok(Variable { label: label.to_owned(), series: filled(series)? })
        });
        let variables = variables.collect::<Result<_, String>>()?;
        let panels = list(&json, "/panels").map(|panel| Panel::read(panel, filled)).collect::<Result<_, _>>()?;
        Ok(Self { title: text(&json, "/title").to_owned(), variables, panels })
    }

    /// Draws it with what Prometheus answers.
    pub fn draw(&self, source: &Source) -> Result<Picture, String> {
        let mut picture = draw::Page::new(&self.title, &self.panels);
        let mut empty = Vec::new();
        for panel in &self.panels {
            let answers = panel.targets.iter().map(|target| source.ask(&target.expression, panel.kind == "timeseries"));
            let answers: Vec<Vec<Series>> =
                answers.collect::<Result<_, _>>().map_err(|error| format!("{}: {error}", panel.title))?;
            if panel.kind != "row" && answers.iter().all(Vec::is_empty) {
                empty.push(panel.title.clone());
            }
            picture.panel(panel, &answers, source);
        }
        Ok(Picture { svg: picture.end(), empty })
    }
}

impl Panel {
    fn read(json: &Value, filled: impl Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let targets = list(json, "/targets").map(|target| {
            Ok(Target { expression: filled(text(target, "/expr"))?, legend: text(target, "/legendFormat").to_owned() })
        });
        let at = |key: &str| json.pointer(&format!("/gridPos/{key}")).and_then(Value::as_f64).unwrap_or_default();
        Ok(Self {
            title: text(json, "/title").to_owned(),
            about: text(json, "/description").to_owned(),
            kind: text(json, "/type").to_owned(),
            nothing: json.pointer("/fieldConfig/defaults/noValue").and_then(Value::as_str).map(str::to_owned),
            targets: targets.collect::<Result<_, String>>()?,
            grid: ["x", "y", "w", "h"].map(at),
            json: json.clone(),
        })
    }
}

impl Source {
    /// The answer over the whole time, or that of its end.
    fn ask(&self, expression: &str, over_time: bool) -> Result<Vec<Series>, String> {
        let Self { address, until, seconds, step } = self;
        let query = http::percent_encoded(expression);
        let (path, points) = if over_time {
            (format!("query_range?query={query}&start={}&end={until}&step={step}", until - seconds), "/values")
        } else {
            (format!("query?query={query}&time={until}"), "/value")
        };
        let (_, body) = http::get(*address, &format!("/api/v1/{path}"))?;
        let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{expression}: {error}: {body}"))?;
        if text(&answer, "/status") != "success" {
            return Err(format!("{expression}: {answer}"));
        }
        let series = list(&answer, "/data/result").map(|series| {
            let labels = series.pointer("/metric").and_then(Value::as_object).into_iter().flatten();
            let point = |point: &Value| Some((point.pointer("/0")?.as_f64()?, text(point, "/1").parse().ok()?));
            let points = series.pointer(points).cloned().unwrap_or_default();
            let points = if over_time { points.as_array().cloned().unwrap_or_default() } else { vec![points] };
            Series {
                labels: labels.map(|(name, value)| (name.clone(), text(value, "").to_owned())).collect(),
                points: points.iter().filter_map(point).filter(|(_, value): &(f64, f64)| value.is_finite()).collect(),
            }
        });
        Ok(series.filter(|series| !series.points.is_empty()).collect())
    }
}

impl Series {
    fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// What a legend calls it.
    fn name(&self, legend: &str) -> String {
        let mut parts = legend.split("{{");
        let mut name = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (label, rest) = part.split_once("}}").unwrap_or((part, ""));
            name.push_str(self.label(label.trim()));
            name.push_str(rest);
        }
        name
    }

    fn last(&self) -> f64 {
        self.points.last().map_or(0.0, |(_, value)| *value)
    }

    fn mean(&self) -> f64 {
        self.points.iter().map(|(_, value)| value).sum::<f64>() / self.points.len() as f64
    }

    fn most(&self) -> f64 {
        self.points.iter().map(|(_, value)| *value).fold(f64::MIN, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::{Dashboard, Series};

    #[test]
    fn variables_have_the_values_that_are_given_and_match_everything_otherwise() {
        let json = r#"{ "title": "t", "templating": { "list": [
            { "type": "datasource", "name": "datasource" },
            { "type": "query", "name": "pod", "query": { "query": "label_values(a{b=~\"$podium\"}, pod)" } },
            { "type": "query", "name": "podium", "query": { "query": "label_values(a, podium)" } }
        ] }, "panels": [
            { "type": "timeseries", "title": "p", "targets": [{ "expr": "rate(a{pod=\"$pod\", podium=~\"$podium\"}[$__rate_interval])" }] }
        ] }"#;
        let read = Dashboard::read(json, &[("pod", "web-0")], "1m").unwrap();
        assert_eq!(read.panels[0].targets[0].expression, "rate(a{pod=\"web-0\", podium=~\".*\"}[1m])");
        let variables: Vec<(&str, &str)> =
            read.variables.iter().map(|one| (one.series.as_str(), one.label.as_str())).collect();
        assert_eq!(variables, [("a{b=~\".*\"}", "pod"), ("a", "podium")]);
        let unknown = Dashboard::read(&json.replace("$pod\\\"", "$nobody\\\""), &[], "1m").unwrap_err();
        assert!(unknown.contains("no variable for"), "{unknown}");
    }

    #[test]
    fn a_legend_has_the_values_of_labels_and_nothing_for_those_that_are_not_there() {
        let series = Series { labels: vec![("pod".to_owned(), "web-0".to_owned())], points: vec![(0.0, 1.0)] };
        assert_eq!(series.name("{{namespace}}/{{ pod }}, used"), "/web-0, used");
    }
}
