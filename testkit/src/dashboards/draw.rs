//! The picture of a dashboard, as SVG: panels in Grafana's grid. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use super::{
    Panel, Series, Source, list, text,
    units::{nice, shown},
};

/// A grid of 24 columns on a wide screen.
const COLUMN: f64 = 60.0;
/// A row of the grid in Grafana.
const ROW: f64 = 38.0;
const GAP: f64 = 8.0;
const HEAD: f64 = 40.0;
/// A line of a legend or of a table.
const LINE: f64 = 17.0;
/// A character of the usual font is about so wide.
const CHARACTER: f64 = 6.2;
const COLORS: [&str; 10] =
    ["#5a9e3f", "#d9a400", "#2aa7bd", "#e0732b", "#d64038", "#1f78c1", "#ba43a9", "#705da0", "#0a6b4c", "#8a6d00"];
const GREY: &str = "#6e7681";
const FAINT: &str = "#e2e5e9";
const BLACK: &str = "#1f2328";

/// A picture that is being made.
pub(super) struct Page(String);

/// A rectangle.
#[derive(Clone, Copy)]
struct Place {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Page {
    pub(super) fn new(title: &str, panels: &[Panel]) -> Self {
        let bottom = panels.iter().map(|panel| panel.grid[1] + panel.grid[3]).fold(0.0, f64::max);
        let (width, height) = (24.0 * COLUMN, HEAD + bottom * ROW + GAP);
        let mut page = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, sans-serif\" font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#f4f5f5\"/>\n"
        ));
        page.write(GAP, 26.0, title, BLACK, "font-size=\"18\"");
        page
    }

    pub(super) fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    pub(super) fn panel(&mut self, panel: &Panel, answers: &[Vec<Series>], source: &Source) {
        let [x, y, w, h] = panel.grid;
        let (left, top) = (x * COLUMN, HEAD + y * ROW);
        if panel.kind == "row" {
            return self.write(left + GAP, top + 24.0, &panel.title, BLACK, "font-size=\"14\"");
        }
        let place = Place {
            left: left + GAP / 2.0,
            top: top + GAP / 2.0,
            right: left + w * COLUMN - GAP / 2.0,
            bottom: top + h * ROW - GAP / 2.0,
        };
        let Place { left, top, right, bottom } = place;
        let (width, height) = (right - left, bottom - top);
        let _ = writeln!(
            self.0,
            "<rect x=\"{left:.0}\" y=\"{top:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#fff\" stroke=\"{FAINT}\"/>"
        );
        self.write(left + GAP, top + 17.0, &panel.title, BLACK, "font-size=\"12\" font-weight=\"bold\"");
        let inside = Place { left: left + GAP, top: top + 28.0, right: right - GAP, bottom: bottom - GAP };
        if answers.iter().all(Vec::is_empty) {
            let nothing = panel.nothing.as_deref().unwrap_or("No data");
            let middle = f64::midpoint(inside.left, inside.right);
            return self.write(middle, f64::midpoint(top, bottom), nothing, GREY, "text-anchor=\"middle\"");
        }
        match panel.kind.as_str() {
            "timeseries" => self.graph(panel, answers, source, inside),
            "stat" => self.numbers(panel, answers, inside),
            "table" => self.table(panel, answers, inside),
            other => panic!("{}: nothing draws panels of the kind {other}", panel.title),
        }
    }

    fn graph(&mut self, panel: &Panel, answers: &[Vec<Series>], source: &Source, inside: Place) {
        let unit = text(&panel.json, "/fieldConfig/defaults/unit");
        let is_stacked = text(&panel.json, "/fieldConfig/defaults/custom/stacking/mode") == "normal";
        let lines: Vec<(String, &Series, &str)> = answers
            .iter()
            .zip(&panel.targets)
            .flat_map(|(series, target)| series.iter().map(|series| (series.name(&target.legend), series)))
            .zip(COLORS.iter().cycle())
            .map(|((name, series), color)| (name, series, *color))
            .collect();

        // The legend takes a third at most; what is beyond is to be scrolled to.
        let shown_lines = lines.len().min(5);
        let plot =
            Place { left: inside.left + 62.0, bottom: inside.bottom - LINE * (shown_lines as f64 + 2.2), ..inside };
        let mut stack: BTreeMap<u64, f64> = BTreeMap::new();
        let curves: Vec<Vec<[f64; 3]>> = lines
            .iter()
            .map(|(_, series, _)| {
                let curve = series.points.iter().map(|(at, value)| {
                    let below = stack.entry(at.to_bits()).or_default();
                    let base = if is_stacked { *below } else { 0.0 };
                    *below += value;
                    [*at, base, base + value]
                });
                curve.collect()
            })
            .collect();
        let most = curves.iter().flatten().map(|point| point[2]).fold(0.0, f64::max);
        let ceiling = self.axes(plot, most, unit, source);
        let begin = source.until - source.seconds;
        let x = |at: f64| plot.left + (at - begin) / source.seconds * (plot.right - plot.left);
        let y = |value: f64| plot.bottom - (value / ceiling).max(0.0) * (plot.bottom - plot.top);
        for (curve, (_, _, color)) in curves.iter().zip(&lines) {
            // A gap in the answer is a gap in the line.
            for part in curve.chunk_by(|one, next| next[0] - one[0] < 1.5 * source.step) {
                let point = |at: f64, value: f64| format!("{:.1},{:.1}", x(at), y(value));
                let upper: Vec<String> = part.iter().map(|[at, _, to]| point(*at, *to)).collect();
                let upper = upper.join(" ");
                if is_stacked {
                    let lower: Vec<String> = part.iter().rev().map(|[at, from, _]| point(*at, *from)).collect();
                    let lower = lower.join(" ");
                    let _ =
                        writeln!(self.0, "<polygon points=\"{upper} {lower}\" fill=\"{color}\" fill-opacity=\"0.3\"/>");
                }
                let _ = writeln!(self.0, "<polyline points=\"{upper}\" fill=\"none\" stroke=\"{color}\"/>");
            }
        }
        self.legend(lines, shown_lines, unit, inside);
    }

    /// Lines and numbers of both axes; gives the value at the top.
    fn axes(&mut self, plot: Place, most: f64, unit: &str, source: &Source) -> f64 {
        let step = nice(most / 4.0, unit);
        let ceiling = (most / step).ceil().max(1.0) * step;
        let mut value = 0.0;
        while value <= ceiling * 1.001 {
            let y = plot.bottom - value / ceiling * (plot.bottom - plot.top);
            let Place { left, right, .. } = plot;
            let _ =
                writeln!(self.0, "<path d=\"M{left:.0} {y:.1}H{right:.0}\" stroke=\"{FAINT}\" stroke-width=\"1\"/>");
            self.write(left - 6.0, y + 4.0, &shown(value, unit), GREY, "text-anchor=\"end\"");
            value += step;
        }
        for part in 0_u8..=4 {
            let share = f64::from(part) / 4.0;
            let second = (source.until - source.seconds * (1.0 - share)).rem_euclid(86_400.0);
            let clock = |unit: f64, of: f64| (second / unit).rem_euclid(of).floor();
            let time = format!("{:02}:{:02}:{:02}", clock(3600.0, 24.0), clock(60.0, 60.0), clock(1.0, 60.0));
            let anchor = ["start", "middle", "middle", "middle", "end"][usize::from(part)];
            let x = plot.left + share * (plot.right - plot.left);
            self.write(x, plot.bottom + 14.0, &time, GREY, &format!("text-anchor=\"{anchor}\""));
        }
        ceiling
    }

    /// Names with mean and maximum, the largest mean first.
    fn legend(&mut self, mut lines: Vec<(String, &Series, &str)>, shown_lines: usize, unit: &str, inside: Place) {
        let count = lines.len();
        lines.sort_by(|one, other| other.1.mean().total_cmp(&one.1.mean()));
        let mut y = inside.bottom - LINE * shown_lines as f64 + 2.0;
        let more = if count > shown_lines { format!("{count} series") } else { "Name".to_owned() };
        let (mean, max) = (inside.right - 80.0, inside.right);
        self.write(inside.left, y, &more, GREY, "");
        self.write(mean, y, "Mean", GREY, "text-anchor=\"end\"");
        self.write(max, y, "Max", GREY, "text-anchor=\"end\"");
        for (name, series, color) in lines.into_iter().take(shown_lines) {
            y += LINE;
            let (x, top) = (inside.left, y - 6.0);
            let _ = writeln!(self.0, "<path d=\"M{x:.0} {top:.0}h10\" stroke=\"{color}\" stroke-width=\"3\"/>");
            self.write(x + 15.0, y, &fitted(&name, mean - 70.0 - x), BLACK, "");
            self.write(mean, y, &shown(series.mean(), unit), BLACK, "text-anchor=\"end\"");
            self.write(max, y, &shown(series.most(), unit), BLACK, "text-anchor=\"end\"");
        }
    }

    fn numbers(&mut self, panel: &Panel, answers: &[Vec<Series>], inside: Place) {
        let unit = text(&panel.json, "/fieldConfig/defaults/unit");
        let all: Vec<(&Series, &str)> = answers
            .iter()
            .zip(&panel.targets)
            .flat_map(|(series, target)| series.iter().map(|series| (series, target.legend.as_str())))
            .collect();
        let height = (inside.bottom - inside.top) / all.len() as f64;
        let x = f64::midpoint(inside.left, inside.right);
        for ((series, legend), at) in all.into_iter().zip(0_u32..) {
            let y = inside.top + height * (f64::from(at) + 0.5);
            self.write(x, y, &series.name(legend), GREY, "text-anchor=\"middle\" font-size=\"14\"");
            let style = "text-anchor=\"middle\" font-size=\"30\" font-weight=\"bold\"";
            self.write(x, y + 34.0, &shown(series.last(), unit), COLORS[0], style);
        }
    }

    fn table(&mut self, panel: &Panel, answers: &[Vec<Series>], inside: Place) {
        let Table { columns, rows } = Table::of(panel, answers);
        let longest = |column: usize| {
            let texts = rows.iter().map(|row| row[column].0.chars().count());
            texts.chain([columns[column].0.chars().count()]).max().unwrap_or_default()
        };
        let wanted: Vec<f64> = (0..columns.len()).map(|column| longest(column) as f64 * CHARACTER + 20.0).collect();
        let stretch = (inside.right - inside.left) / wanted.iter().sum::<f64>();
        let mut left = inside.left;
        for (column, width) in wanted.iter().map(|width| width * stretch).enumerate() {
            let mut y = inside.top + 6.0;
            self.write(left, y, &fitted(&columns[column].0, width), GREY, "font-weight=\"bold\"");
            let most = rows.iter().filter_map(|row| row[column].1).fold(f64::MIN_POSITIVE, f64::max);
            // Cells are higher than lines of a legend; what is beyond the panel is to be scrolled to.
            for row in &rows {
                y += 1.6 * LINE;
                if y > inside.bottom {
                    break;
                }
                let (cell, value) = &row[column];
                if let Some(value) = value {
                    let (x, top) = (left + 70.0, y - 9.0);
                    let length = (width - 90.0).max(0.0) * value / most;
                    let _ = writeln!(
                        self.0,
                        "<rect x=\"{x:.0}\" y=\"{top:.0}\" width=\"{length:.0}\" height=\"10\" fill=\"{}\"/>",
                        COLORS[0]
                    );
                }
                self.write(left, y, &fitted(cell, width), BLACK, "");
            }
            left += width;
        }
    }

    fn write(&mut self, x: f64, y: f64, text: &str, color: &str, style: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(self.0, "<text x=\"{x:.0}\" y=\"{y:.0}\" fill=\"{color}\" {style}>{text}</text>");
    }
}

/// What a table shows, as Grafana's transformations merge, organize and name the answers.
struct Table {
    /// Names, and units where they are of values.
    columns: Vec<(String, Option<String>)>,
    /// Texts, and the values behind them.
    rows: Vec<Vec<(String, Option<f64>)>>,
}

impl Table {
    fn of(panel: &Panel, answers: &[Vec<Series>]) -> Self {
        let options = |key: &str| -> BTreeMap<String, Value> {
            let pointer = format!("/options/{key}");
            let all = list(&panel.json, "/transformations").filter_map(|one| one.pointer(&pointer)?.as_object());
            all.flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let (renamed, excluded, order) = (options("renameByName"), options("excludeByName"), options("indexByName"));
        let mut merged: BTreeMap<Vec<(String, String)>, BTreeMap<String, f64>> = BTreeMap::new();
        for (series, letter) in answers.iter().zip('A'..) {
            let plain = if answers.len() == 1 { "Value".to_owned() } else { format!("Value #{letter}") };
            let column = renamed.get(&plain).map_or(plain.clone(), |name| text(name, "").to_owned());
            for one in series {
                let labels =
                    one.labels.iter().filter(|(name, value)| !excluded.contains_key(name) && !value.is_empty());
                merged.entry(labels.cloned().collect()).or_default().insert(column.clone(), one.last());
            }
        }
        let unit = |name: &str| {
            let mut overrides = list(&panel.json, "/fieldConfig/overrides");
            let found = overrides.find(|one| text(one, "/matcher/options") == name);
            found.map_or_else(|| "short".to_owned(), |one| text(one, "/properties/0/value").to_owned())
        };
        let labels = merged.keys().flatten().map(|(name, _)| (name.clone(), None));
        let values = merged.values().flat_map(BTreeMap::keys).map(|name| (name.clone(), Some(unit(name))));
        let mut columns: Vec<(String, Option<String>)> = labels.chain(values).collect();
        columns.sort_by_key(|(name, _)| (order.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX), name.clone()));
        columns.dedup();
        let mut sorted: Vec<_> = merged.into_iter().collect();
        let by = list(&panel.json, "/options/sortBy").next().map(|sort| text(sort, "/displayName")).unwrap_or_default();
        sorted.sort_by(|(_, one), (_, other)| other.get(by).unwrap_or(&-1.0).total_cmp(one.get(by).unwrap_or(&-1.0)));
        let rows = sorted.iter().map(|(labels, values)| {
            let cell = |(name, unit): &(String, Option<String>)| match unit {
                Some(unit) => {
                    let value = values.get(name).copied();
                    (value.map(|value| shown(value, unit)).unwrap_or_default(), value)
                }
                None => {
                    (labels.iter().find(|(label, _)| label == name).map_or(String::new(), |(_, v)| v.clone()), None)
                }
            };
            columns.iter().map(cell).collect()
        });
        let rows = rows.collect();
        for (name, _) in &mut columns {
            if let Some(other) = renamed.get(name) {
                text(other, "").clone_into(name);
            }
        }
        Self { columns, rows }
    }
}

/// A text cut to a width.
fn fitted(text: &str, width: f64) -> String {
    let mut left = width / CHARACTER;
    let is_short = text.chars().count() as f64 <= left;
    let kept = text.chars().take_while(|_| {
        left -= 1.0;
        is_short || left > 1.0
    });
    let kept: String = kept.collect();
    if is_short { kept } else { kept + "…" }
}
