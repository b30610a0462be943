//! Everything that the agent can lose, part by part: what `podlens_lost_total` counts. The documentation derives from it.
//!
//! What becomes of points and log records is counted by result where they are sent (`telemetry::metrics`), and not here
//! once more.

use super::events::ENTITY_UNKNOWN;
use crate::{
    attribution::kubernetes,
    collectors::ALL,
    registry::{journal::OVERFLOW, ledger::EXPIRED_UNEXPORTED},
    signal::Loss,
};

pub(super) const JOURNAL: &str = "journal";
pub(super) const REGISTRY: &str = "registry";
pub(super) const NAMES: &str = "names";

/// What parts lose that are no collectors.
const OTHERS: &[(&str, &[&Loss])] =
    &[(JOURNAL, &[&OVERFLOW, &ENTITY_UNKNOWN]), (REGISTRY, &[&EXPIRED_UNEXPORTED]), (NAMES, kubernetes::LOSSES)];

/// Each loss and the part that counts it, in the order of the documentation.
pub fn losses() -> impl Iterator<Item = (&'static str, &'static Loss)> {
    let of_collectors = ALL.iter().map(|spec| (spec.name, spec.losses));
    let parts = of_collectors.chain(OTHERS.iter().copied());
    parts.flat_map(|(part, losses)| losses.iter().map(move |loss| (part, *loss)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::losses;

    #[test]
    fn no_part_has_two_losses_of_one_reason_and_each_says_what_it_means() {
        let mut seen = BTreeSet::new();
        for (part, loss) in losses() {
            assert!(seen.insert((part, loss.reason)), "{part} has {} twice", loss.reason);
            assert!(loss.means.len() > 20 && !loss.means.ends_with('.') && !loss.means.contains('|'), "{loss:?}");
        }
    }
}
