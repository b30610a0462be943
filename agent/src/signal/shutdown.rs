//! How every task learns that podlens is to stop.

use std::future::Future;

use tokio::sync::watch;

/// Turns true when podlens is to stop.
pub type Shutdown = watch::Receiver<bool>;

/// Ends when a stop is asked for, or when nobody is left who could ask.
pub(crate) async fn stopped(mut shutdown: Shutdown) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Does `work` until it ends or a stop is asked for.
pub(crate) async fn until_stopped(shutdown: Shutdown, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stopped(shutdown) => {}
        () = work => {}
    }
}
