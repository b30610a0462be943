//! The capabilities that this process holds.

use std::{fs, io, path::Path};

/// A capability that podlens can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The kernel's number for it.
    number: u32,
    /// Its name without `CAP_`, as Kubernetes spells it.
    pub name: &'static str,
    /// What podlens does with it.
    pub purpose: &'static str,
}

/// What podlens needs on every kernel that it supports.
pub const NEEDED: [Capability; 2] = [
    Capability { number: 39, name: "BPF", purpose: "load BPF maps and programs" },
    Capability { number: 38, name: "PERFMON", purpose: "read kernel structures from BPF programs" },
];

/// What a kernel needs that charges maps to the limit of locked memory (before 5.11), unless that limit is high enough.
pub const FOR_LOCKED_MEMORY: Capability = Capability {
    number: 24,
    name: "SYS_RESOURCE",
    purpose: "raise the limit of locked memory, to which this kernel charges BPF maps",
};

/// `CAP_SYS_ADMIN` includes both on every kernel.
const SYS_ADMIN: u32 = 21;

/// The set of capabilities in force.
#[derive(Clone, Copy, Debug)]
pub struct Held(u64);

impl Held {
    /// Reads this process's set from `proc/self/status` below `proc`.
    ///
    /// # Errors
    /// The file cannot be read or does not have the line.
    pub fn read(proc: &Path) -> io::Result<Self> {
        let status = fs::read_to_string(proc.join("self/status"))?;
        Self::parse(&status).ok_or_else(|| io::Error::other("no line CapEff in /proc/self/status"))
    }

    fn parse(status: &str) -> Option<Self> {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    /// The capability is held, by itself or, where it is one of those that were taken from it, as a part of `SYS_ADMIN`.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        let by_admin = NEEDED.contains(&capability) && self.0 >> SYS_ADMIN & 1 != 0;
        self.0 >> capability.number & 1 != 0 || by_admin
    }

    /// The needed capabilities that are missing.
    #[must_use]
    pub fn missing(self) -> Vec<Capability> {
        NEEDED.into_iter().filter(|capability| !self.has(*capability)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{FOR_LOCKED_MEMORY, Held};

    fn check(line: &str, missing: Option<&[&str]>) {
        let found = Held::parse(line).map(|held| held.missing().iter().map(|one| one.name).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), missing, "{line}");
    }

    #[test]
    fn the_two_capabilities_are_found_in_the_effective_set() {
        check("Name:\tx\nCapEff:\t000000c000000000\n", Some(&[]));
        check("CapEff:\t0000008000000000\n", Some(&["PERFMON"]));
        check("CapEff:\t0000004000000000\n", Some(&["BPF"]));
        check("CapEff:\t0000000000000000\n", Some(&["BPF", "PERFMON"]));
        check("CapPrm:\t000000c000000000\n", None);
        check("CapEff:\tno number\n", None);
    }

    #[test]
    fn sys_admin_stands_for_both_and_for_no_other() {
        check("CapEff:\t0000000000200000\n", Some(&[]));
        let held = |line| Held::parse(line).map(|held| held.has(FOR_LOCKED_MEMORY));
        assert_eq!(held("CapEff:\t0000000000200000\n"), Some(false));
        assert_eq!(held("CapEff:\t0000000001000000\n"), Some(true));
    }
}
