//! Numbers as Grafana writes them, by its names of units. Pure.

/// A value with its unit.
pub(super) fn shown(value: f64, unit: &str) -> String {
    let size = value.abs();
    let scaled = |steps: &[(f64, &str)]| {
        let (factor, name) = steps.iter().find(|(factor, _)| size >= *factor).or(steps.last()).copied().unwrap();
        format!("{}{name}", short(value / factor))
    };
    match unit {
        "s" => scaled(&[
            (86_400.0, " d"),
            (3_600.0, " h"),
            (60.0, " min"),
            (1.0, " s"),
            (1e-3, " ms"),
            (1e-6, " µs"),
            (1e-9, " ns"),
        ]),
        "bytes" => {
            scaled(&[(f64::from(1_u32 << 30), " GiB"), (f64::from(1_u32 << 20), " MiB"), (1024.0, " KiB"), (1.0, " B")])
        }
        "Bps" => scaled(&[(1e9, " GB/s"), (1e6, " MB/s"), (1e3, " kB/s"), (1.0, " B/s")]),
        "percentunit" => format!("{}%", short(value * 100.0)),
        _ => {
            if let Some(name) = unit.strip_prefix("suffix:") {
                return format!("{} {name}", short(value));
            }
            scaled(&[(1e6, " Mil"), (1e3, " K"), (1.0, "")])
        }
    }
}

/// A step between lines of an axis: 1, 2 or 5 times a power of ten, or a power of two where the unit has such steps.
pub(super) fn nice(least: f64, unit: &str) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    if unit == "bytes" {
        return least.log2().ceil().exp2();
    }
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= least * 0.999).unwrap_or(10.0);
    factor * power
}

/// Three digits.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size == 0.0 || size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.01 => 3,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn values_are_scaled_to_a_readable_unit() {
        for (value, unit, expected) in [
            (0.0, "s", "0 ns"),
            (0.0042, "s", "4.2 ms"),
            (5_400.0, "s", "1.5 h"),
            (67_108_864.0, "bytes", "64 MiB"),
            (1_500.0, "Bps", "1.5 kB/s"),
            (0.253, "percentunit", "25.3%"),
            (1_234.0, "short", "1.23 K"),
            (0.05, "short", "0.05"),
            (0.5, "suffix:CPUs", "0.5 CPUs"),
        ] {
            assert_eq!(shown(value, unit), expected, "{value} {unit}");
        }
    }
}
