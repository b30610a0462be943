//! `cargo xtask setup`: the list of steps that make a fresh machine able to build and test.
//!
//! What the steps do stands in `toolchain`, `packages`, `components` and `kernels`.

use std::time::Instant;

use anyhow::Result;

use crate::{
    components, packages,
    step::{self, Purpose, Step},
    toolchain,
};

/// All steps, in the order in which they rest on each other.
const STEPS: &[Step] = &[
    toolchain::COMPILER,
    toolchain::LIBRARY_SOURCE,
    toolchain::BPF_LINKER,
    toolchain::MUSL_TARGET,
    toolchain::DENY,
    packages::STATIC,
    packages::TEST,
    packages::BENCH,
    packages::VM,
    components::GO,
    components::PROMETHEUS,
    components::PROMETHEUS_RECEIVER,
    components::COLLECTOR,
    components::SECOND_RECEIVER,
    components::KERNELS,
];

/// Sets the machine up for the given purposes.
pub(crate) fn run(purposes: &[Purpose]) -> Result<()> {
    let start = Instant::now();
    let mut acted = 0;
    let mut steps = 0;
    for step in STEPS.iter().filter(|step| purposes.contains(&step.purpose)) {
        steps += 1;
        acted += usize::from(step::ensure(step)?);
    }
    println!("setup: {steps} steps, {acted} of them had work to do, {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::STEPS;

    #[test]
    fn every_step_has_its_own_name() {
        let names: BTreeSet<&str> = STEPS.iter().map(|step| step.name).collect();
        assert_eq!(names.len(), STEPS.len());
    }
}
