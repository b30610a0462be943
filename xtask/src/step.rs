//! One step of the set-up: what it checks, what it does, and how it is run. The list of them is `setup`'s.
//!
//! A step's check is fast and decides everything: it runs first, and again after the act, to prove it.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// What a machine is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Building podlens, as `cargo xtask run` does
    Build,
    /// Building the static binary of a release
    Static,
    /// Running the tests on this machine's kernel
    Test,
    /// Running the tests on other kernels in virtual machines
    Vm,
    /// Running the benchmarks of the network and of storms
    Bench,
}

impl Purpose {
    /// Everything that `cargo xtask test` needs.
    pub(crate) const ALL: &[Self] = &[Self::Build, Self::Static, Self::Test, Self::Vm];

    /// This purpose and those that it rests on.
    pub(crate) fn with_its_base(self) -> &'static [Self] {
        match self {
            Self::Build => &[Self::Build],
            Self::Static => &[Self::Build, Self::Static],
            Self::Test => &[Self::Build, Self::Static, Self::Test],
            Self::Vm => &[Self::Build, Self::Static, Self::Vm],
            Self::Bench => &[Self::Build, Self::Static, Self::Test, Self::Bench],
        }
    }
}

/// One step of the set-up.
pub(crate) struct Step {
    /// What is set up.
    pub(crate) name: &'static str,
    /// What it is needed for, as the end of "needed ...".
    pub(crate) why: &'static str,
    /// The purpose that asks for it.
    pub(crate) purpose: Purpose,
    /// Tells what is there, or as an error what is lacking. Takes a fraction of a second.
    pub(crate) check: fn() -> Result<String>,
    /// Brings what the check asks for.
    pub(crate) act: fn() -> Result<()>,
    /// What a person can do where the act fails.
    pub(crate) remedy: &'static str,
}

/// Runs one step; true if there was something to do.
pub(crate) fn ensure(step: &Step) -> Result<bool> {
    let lacking = match (step.check)() {
        Ok(present) => {
            println!("setup: {:<24} {present}", step.name);
            return Ok(false);
        }
        Err(lacking) => lacking,
    };
    println!("setup: {:<24} needed {}: {lacking:#}", step.name, step.why);
    let start = Instant::now();
    let done = (step.act)().and_then(|()| (step.check)().context("its work ended well, but the check still says no"));
    match done {
        Ok(present) => {
            println!("setup: {:<24} {present}, after {:.0} s", step.name, start.elapsed().as_secs_f64());
            Ok(true)
        }
        Err(cause) => bail!("the setup step `{}` failed: {cause:#}\n  remedy: {}", step.name, step.remedy),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::{Result, bail};

    use super::{Purpose, Step, ensure};

    const NOTHING: Step = Step {
        name: "nothing",
        why: "for this test",
        purpose: Purpose::Test,
        check: || Ok("there".to_owned()),
        act: || bail!("the act must not run"),
        remedy: "none",
    };

    #[test]
    fn a_step_whose_check_is_content_does_not_act() {
        assert!(!ensure(&NOTHING).unwrap());
    }

    #[test]
    fn a_lacking_step_acts_once_and_is_checked_again() {
        static CHECKS: AtomicUsize = AtomicUsize::new(0);
        fn check() -> Result<String> {
            match CHECKS.fetch_add(1, Ordering::Relaxed) {
                0 => bail!("not there"),
                _ => Ok("there".to_owned()),
            }
        }
        assert!(ensure(&Step { check, act: || Ok(()), ..NOTHING }).unwrap());
        assert_eq!(CHECKS.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_failure_names_step_cause_and_remedy() {
        let failing = |act: fn() -> Result<()>| {
            let step = Step { check: || bail!("not there"), act, remedy: "buy one", ..NOTHING };
            ensure(&step).unwrap_err().to_string()
        };
        let table = [
            (failing(|| bail!("no network")), "no network"),
            (failing(|| Ok(())), "the check still says no: not there"),
        ];
        for (message, cause) in table {
            for part in ["`nothing`", cause, "remedy: buy one"] {
                assert!(message.contains(part), "no `{part}` in {message}");
            }
        }
    }
}
