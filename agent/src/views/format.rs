//! How the parts of the terminal view write names, shares and durations. Pure.

use std::fmt::Write as _;

use crate::signal::Histogram;

/// Rows per part of the table.
pub(super) const ROWS: usize = 20;
/// Width of a name; longer ones lose their middle.
pub(super) const NAME: usize = 46;

/// Says how many rows are left out.
pub(super) fn more(text: &mut String, rows: usize) {
    if rows > ROWS {
        let _ = writeln!(text, "... and {} more: see --output prometheus", rows - ROWS);
    }
}

/// A name in [`NAME`] characters.
pub(super) fn shorten(name: &str) -> String {
    let characters: Vec<char> = name.chars().map(|one| if one.is_control() { '?' } else { one }).collect();
    if characters.len() <= NAME {
        return characters.into_iter().collect();
    }
    let head = NAME / 3;
    let tail = characters.len() - (NAME - head - 2);
    let part = |range: &[char]| range.iter().collect::<String>();
    format!(
        "{}..{}",
        part(characters.get(..head).unwrap_or_default()),
        part(characters.get(tail..).unwrap_or_default())
    )
}

/// Seconds per second.
pub(super) fn per_second(ns: u64, seconds: f64) -> f64 {
    ns as f64 / 1e9 / seconds
}

/// A part of a whole; `-` of nothing.
pub(super) fn percent(part: u64, all: u64) -> String {
    share(part as f64, all as f64)
}

/// The same of what is no whole number.
pub(super) fn share(part: f64, all: f64) -> String {
    if all > 0.0 { format!("{:.0}%", part * 100.0 / all) } else { "-".to_owned() }
}

/// The upper bound of the bucket that holds the quantile.
pub(super) fn quantile(of: Histogram<'_>, quantile: f64) -> String {
    let count = of.count();
    if count == 0 {
        return "-".to_owned();
    }
    let rank = (count as f64 * quantile).ceil();
    let mut below = 0;
    for (index, bucket) in of.buckets().iter().enumerate() {
        below += bucket;
        if below as f64 >= rank {
            return Histogram::upper_bound_exponent(index)
                .map_or_else(|| "> 64 s".to_owned(), |power| duration(2f64.powi(power)));
        }
    }
    "> 64 s".to_owned()
}

fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 1.0 => format!("{seconds:.0} s"),
        _ if seconds >= 1e-3 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds >= 1e-6 => format!("{:.0} us", seconds * 1e6),
        _ => format!("{:.0} ns", seconds * 1e9),
    }
}
