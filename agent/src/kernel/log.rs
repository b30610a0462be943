//! Lines of the kernel programs (agent-ebpf/src/core/log.rs) in the daemon's log: under the feature `kernel-log` alone,
//! for whoever debugs a program. `commands::run` lets it run.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use tokio::io::{Interest, unix::AsyncFd};

use crate::signal::shutdown::{Shutdown, until_stopped};

/// The ring that the programs write their lines into.
pub struct KernelLog(EbpfLogger<ToTracing>);

impl KernelLog {
    /// Takes the ring; to be called before the first program is loaded.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, aya_log::Error> {
        EbpfLogger::init_with_logger(ebpf, ToTracing).map(Self)
    }

    /// Logs each line until podlens stops.
    pub async fn follow(self, shutdown: Shutdown) {
        let told = async {
            if let Err(cause) = self.read().await {
                tracing::warn!(%cause, "lines of the kernel programs can no longer be read");
            }
        };
        until_stopped(shutdown, told).await;
    }

    async fn read(self) -> io::Result<()> {
        // SAFETY: the logger owns the ring's descriptor, which stays the same until it goes.
        let mut ring = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        loop {
            let mut ready = ring.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

/// From the `log` crate, which aya-log speaks to, to tracing, target `kernel`. `module` and `line` tell where in the
/// programs' source a line is written: one function may serve several programs.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (module, line) = (record.module_path(), record.line());
        match record.level() {
            Level::Error => tracing::error!(target: "kernel", module, line, "{}", record.args()),
            Level::Warn => tracing::warn!(target: "kernel", module, line, "{}", record.args()),
            Level::Info => tracing::info!(target: "kernel", module, line, "{}", record.args()),
            Level::Debug => tracing::debug!(target: "kernel", module, line, "{}", record.args()),
            Level::Trace => tracing::trace!(target: "kernel", module, line, "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
