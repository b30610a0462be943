//! What the commands have in common that serve until a stop is asked for, `run` and `fleet`, and their runtime, which `snapshot` has
//! too.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    config::Config,
    export::server::{Listen, Verdict},
};

/// A sign of life that is older means that something hangs.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// A thread that waits for something to do stays: there may be no room for it later.
const KEPT: Duration = Duration::from_hours(24);
/// Everything still under way after a stop is given up then.
const LAST_ACTS: Duration = Duration::from_secs(4);

/// Does the work on a runtime that is small, as all of podlens is.
pub(super) fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = runtime(2)?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

/// A runtime with so many threads for what never waits, and as few as may be for what does.
pub(super) fn runtime(workers: usize) -> Result<Runtime> {
    try_threads(workers + 1).context(
        "cannot start a thread: more tasks must be allowed, by pids.max of the cgroup (podPidsLimit of the kubelet, TasksMax= of a unit) or by ulimit -u",
    )?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(4)
        .thread_keep_alive(KEPT)
        .thread_name("podlens")
        .enable_all()
        .build();
    let runtime = runtime.context(
        "cannot start the runtime: more open files must be allowed, by LimitNOFILE= of the unit or by ulimit -n",
    )?;
    // What finds no further thread later waits for this one; without any it would be a panic.
    drop(runtime.spawn_blocking(|| ()));
    Ok(runtime)
}

/// So many threads can run at once. Asked for before the runtime is, which panics where it cannot start one.
fn try_threads(number: usize) -> io::Result<()> {
    let started: Vec<io::Result<JoinHandle<()>>> =
        (0..number).map(|_| thread::Builder::new().spawn(thread::park)).collect();
    let mut outcome = Ok(());
    for started in started {
        match started {
            Ok(started) => {
                started.thread().unpark();
                // It does nothing that could fail.
                let _ = started.join();
            }
            Err(cause) => outcome = Err(cause),
        }
    }
    outcome
}

/// Where the configuration lets listen.
pub(super) fn listen(config: &Config) -> Listen {
    Listen { address: config.listen, health: config.health_listen, web: config.web.config_file.clone() }
}

/// Does what may wait for a disk on a thread that may.
pub(super) async fn aside<T: Send + 'static>(
    config: &Config,
    work: impl FnOnce(&Config) -> Result<T> + Send + 'static,
) -> Result<T> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || work(&config)).await.context("the start has ended early")?
}

/// The signals that ask for a stop, and the one that asks elsewhere for a configuration to be read anew.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl StopSignals {
    /// From now on they no longer end the process by themselves.
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?,
            hang_up: signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?,
        })
    }

    /// Ends when one of them comes.
    pub(super) async fn come(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return info!(signal = "SIGTERM", "stopping"),
                _ = self.interrupt.recv() => return info!(signal = "SIGINT", "stopping"),
                _ = self.hang_up.recv() => info!(
                    signal = "SIGHUP",
                    "ignored: podlens reads its configuration at its start alone, start it anew for another; files of its web configuration and tokens are read again by themselves"
                ),
            }
        }
    }

    /// What the work has brought; nothing if a stop is asked for before.
    pub(super) async fn unless_asked<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        tokio::select! {
            () = self.come() => Ok(None),
            outcome = work => outcome.map(Some),
        }
    }
}

/// Lets the tasks end, which have been asked to.
pub(super) async fn end(mut tasks: JoinSet<()>) {
    let last_acts = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ACTS, last_acts).await.is_err() {
        warn!(bound = ?LAST_ACTS, "some tasks did not end in time and were given up");
    }
}

/// When something gave its last sign of life.
pub(super) struct Beat {
    began: Instant,
    last_ms: AtomicU64,
}

impl Beat {
    /// The first one is now.
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    /// A sign of life.
    pub(super) fn give(&self) {
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether `what` is alive.
    pub(super) fn verdict(&self, what: &str) -> Verdict {
        let silent = self.began.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)));
        let good = silent < HEARTBEAT;
        let text = if good { "ok\n".to_owned() } else { format!("{what} has not moved for {} s\n", silent.as_secs()) };
        Verdict { good, text }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rustix::process::{Signal, getpid, kill_process};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_stop_wins_over_a_start_that_waits_and_a_hang_up_over_nothing() {
        let mut signals = StopSignals::listen().unwrap();
        let (done, work) = oneshot::channel();
        kill_process(getpid(), Signal::HUP).unwrap();
        let signalled = async {
            // The signal is there before the work ends.
            tokio::time::sleep(Duration::from_millis(100)).await;
            done.send(5).unwrap();
            Ok(work.await?)
        };
        assert_eq!(signals.unless_asked(signalled).await.unwrap(), Some(5));

        kill_process(getpid(), Signal::TERM).unwrap();
        let hangs = std::future::pending::<Result<()>>();
        let stopped = tokio::time::timeout(Duration::from_mins(1), signals.unless_asked(hangs)).await;
        assert_eq!(stopped.unwrap().unwrap(), None);
    }
}
