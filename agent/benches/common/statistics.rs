//! What is typical of values that others disturb.

/// The median, and its standard error, estimated from the middle half as if the values were normally distributed.
pub(crate) fn typical(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |quarters: usize| values.get(values.len() * quarters / 4).copied().unwrap_or(f64::NAN);
    (at(2), 1.253 * (at(3) - at(1)) / 1.349 / (values.len() as f64).sqrt())
}

pub(crate) fn median(values: Vec<f64>) -> f64 {
    typical(values).0
}
