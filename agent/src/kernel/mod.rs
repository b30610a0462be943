//! Contact with the kernel: BTF, capabilities, the loaded object and its mapped arrays.
//!
//! The only place of the daemon with aya and `unsafe`. It knows the kernel programs' maps, and nothing of
//! pods, metrics or exporters.

pub mod allocator;
pub mod btf;
pub mod capabilities;
pub mod cgroupfs;
pub mod events;
pub mod hooks;
pub mod host;
pub mod immediates;
pub mod iterator;
pub mod labels;
#[cfg(feature = "kernel-log")]
pub mod log;
pub mod major_faults;
pub mod mapped;
pub mod maps;
pub mod memory_limit;
pub mod missed;
pub mod needs;
pub mod object;
pub mod perf_event;
pub mod process;
pub mod refusal;
pub mod slots;
pub mod table;
