//! The definition of a loss: a reason for which something could not be counted, named or told.
//!
//! Whoever counts one declares it as a static, a collector in its specification. `podlens_lost_total` and the table in
//! docs/troubleshooting.md derive from these.

/// One reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The label `reason`.
    pub reason: &'static str,
    /// What is lost, why, and what helps, in words and without a final stop.
    pub means: &'static str,
}
