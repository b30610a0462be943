//! Kubernetes quantities such as `250m`, `1.5Gi` and `1e3`, as numbers.

/// Suffix and factor, longer suffixes first.
const SUFFIXES: [(&str, f64); 16] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

/// The value; none if the text is no quantity.
#[must_use]
pub fn parse(text: &str) -> Option<f64> {
    let (digits, factor) = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))?;
    let is_number = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E'));
    let number: f64 = digits.parse().ok().filter(|_| is_number)?;
    // Thousandths divide exactly where a multiplication by 0.001 would not.
    let value = if factor < 1.0 { number / (1.0 / factor).round() } else { number * factor };
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quantities_are_numbers_with_kubernetes_suffixes() {
        for (text, expected) in [
            ("0", Some(0.0)),
            ("2", Some(2.0)),
            ("0.5", Some(0.5)),
            ("250m", Some(0.25)),
            ("1100m", Some(1.1)),
            ("100n", Some(1e-7)),
            ("64Mi", Some(67_108_864.0)),
            ("1.5Gi", Some(1_610_612_736.0)),
            ("128M", Some(128e6)),
            ("1E", Some(1e18)),
            ("1e3", Some(1000.0)),
            ("12E2", Some(1200.0)),
            ("", None),
            ("m", None),
            ("Mi", None),
            ("inf", None),
            ("NaN", None),
            ("1x", None),
            ("1e999", None),
            ("1 Gi", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
