//! What programs tell whoever debugs them: lines for the daemon's log, under the feature `kernel-log`.
//!
//! Releases are built without it, and nothing of a line is left in the object. Lines belong where something rare
//! happens: each costs its program a microsecond and most of its stack. Losses are counted whether they are told or not
//! (`lose!`).

/// Writes one line: a format with `{}`, and plain numbers or strings.
#[cfg(feature = "kernel-log")]
macro_rules! debug {
    ($($line:tt)*) => {
        ::aya_log_ebpf::debug!((), $($line)*)
    };
}

#[cfg(not(feature = "kernel-log"))]
macro_rules! debug {
    ($($line:tt)*) => {};
}

pub(crate) use debug;
