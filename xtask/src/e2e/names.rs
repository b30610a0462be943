//! Whose a value is, and whether observed values agree with the true ones. Pure. Called by the checks.

use std::collections::{BTreeMap, BTreeSet};

/// Relative error that is let pass.
const TOLERANCE: f64 = 0.015;
/// What a program uses between its last look at the kernel's count and its end, and while it stays, in seconds.
const AFTER_SECONDS: f64 = 0.006;
/// What a sandbox may use, in seconds: its runtime's start, and a program that sleeps.
const SANDBOX_SECONDS: f64 = 0.5;

/// Namespace, pod and container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) namespace: String,
    pub(super) pod: String,
    /// Empty for the pod's own cgroup and its sandbox.
    pub(super) container: String,
}

impl Name {
    pub(super) fn new(namespace: &str, pod: &str, container: &str) -> Self {
        Self { namespace: namespace.to_owned(), pod: pod.to_owned(), container: container.to_owned() }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}/{}", self.namespace, self.pod, self.container)
    }
}

/// What is wrong with the values of `observer`. `untold` are containers whose amount is not known.
pub(super) fn disagreements(
    observer: &str,
    truth: &BTreeMap<Name, f64>,
    seen: &BTreeMap<Name, f64>,
    untold: &BTreeSet<Name>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, &used) in truth {
        match seen.get(name) {
            None => found.push(format!("{observer} has nothing of {name}, which used {used:.3} s")),
            Some(&told) if (told - used).abs() > used * TOLERANCE + AFTER_SECONDS => {
                found.push(format!("{observer} has {told:.4} s of {name}, the kernel {used:.4} s"));
            }
            Some(_) => {}
        }
    }
    let is_pod = |name: &Name| {
        let same = |one: &Name| (&one.namespace, &one.pod) == (&name.namespace, &name.pod);
        truth.keys().any(same) || untold.iter().any(same)
    };
    for (name, &told) in seen {
        let is_sandbox = name.container.is_empty() && is_pod(name) && told < SANDBOX_SECONDS;
        if !truth.contains_key(name) && !untold.contains(name) && !is_sandbox {
            found.push(format!("{observer} has {told:.4} s under {name}, which is nobody's name"));
        }
    }
    found
}

/// All that a counter has counted, over its restarts from zero.
pub(super) fn total(samples: &[(f64, f64)]) -> f64 {
    let mut last = 0.0;
    let mut sum = 0.0;
    for &(_, value) in samples {
        sum += if value < last { value } else { value - last };
        last = value;
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Name, disagreements, total};

    fn values(values: &[(&str, &str, f64)]) -> BTreeMap<Name, f64> {
        values.iter().map(|(pod, container, value)| (Name::new("shop", pod, container), *value)).collect()
    }

    #[track_caller]
    fn check(seen: &[(&str, &str, f64)], part: Option<&str>) {
        let truth = values(&[("a", "x", 1.0), ("a", "y", 0.1)]);
        let untold = BTreeSet::from([Name::new("shop", "b", "z")]);
        let found = disagreements("it", &truth, &values(seen), &untold);
        match part {
            None => assert_eq!(found, Vec::<String>::new()),
            Some(part) => assert!(found.len() == 1 && found.concat().contains(part), "{found:?}"),
        }
    }

    #[test]
    fn every_wrong_value_and_every_foreign_name_is_told() {
        let right = [("a", "x", 1.004), ("a", "y", 0.1)];
        check(&right, None);
        check(&[right[0], right[1], ("a", "", 0.05), ("b", "z", 9.0)], None);
        check(&right[..1], Some("nothing of shop/a/y"));
        check(&[("a", "x", 1.03), right[1]], Some("1.0300 s of shop/a/x"));
        check(&[right[0], right[1], ("c", "x", 0.001)], Some("under shop/c/x"));
        check(&[right[0], right[1], ("a", "", 0.6)], Some("under shop/a/"));
        check(&[right[0], right[1], ("a", "z", 0.0)], Some("under shop/a/z"));
    }

    #[test]
    fn a_counter_that_began_anew_goes_on() {
        assert!((total(&[(1.0, 0.5), (2.0, 2.0), (3.0, 0.25), (4.0, 1.0)]) - 3.0).abs() < 1e-9);
        assert!(total(&[]).abs() < 1e-9);
    }
}
