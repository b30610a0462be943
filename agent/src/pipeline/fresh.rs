//! What is made when somebody asks, and then given to all who ask soon after or meanwhile. Called by the pipeline, whose
//! snapshots are made so; knows nothing of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;
use tracing::error;

/// The last one that was made.
pub(super) struct Fresh<T> {
    max_age: Duration,
    /// With the moment at which its making began. Whoever makes one holds the lock.
    last: Arc<Mutex<Option<(Instant, T)>>>,
}

impl<T: Clone + Send + 'static> Fresh<T> {
    pub(super) fn new(max_age: Duration) -> Self {
        Self { max_age, last: Arc::default() }
    }

    /// The last one, if that is young enough, or one that is made now, on a thread that may wait. None if that failed and there is
    /// no last one.
    ///
    /// The making holds the lock, not the caller, who may give up while it goes on: so there is one at a time, and what it has
    /// made is for whoever asks next.
    pub(super) async fn get(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((began, made)) = last.as_ref()
            && began.elapsed() < self.max_age
        {
            return Some(made.clone());
        }
        let making = tokio::task::spawn_blocking(move || {
            // Where a panic ends the process nobody asks for the last one again: unless somebody else has it, its memory is
            // that of the next one.
            if cfg!(not(panic = "unwind")) {
                *last = None;
            }
            let began = Instant::now();
            let made = work();
            *last = Some((began, made.clone()));
            made
        });
        match making.await {
            Ok(made) => Some(made),
            Err(cause) => {
                error!(%cause, "a sweep ended early; what the last one has found is served");
                self.last.lock().await.as_ref().map(|(_, last)| last.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        task::{Context, Waker},
        thread,
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::watch,
    };

    use super::Fresh;
    use crate::{
        config::ClassicHistograms,
        export::{
            SnapshotSource,
            fixture::{eventually, snapshot},
            own,
            prometheus::Format,
            server::{Content, Listen, Server, Verdict},
        },
        registry::Snapshot,
        telemetry::{Refusal, SelfTelemetry},
    };

    /// Longer than any test here takes.
    const LONG: Duration = Duration::from_mins(10);
    const IMPATIENT: usize = 40;

    #[tokio::test]
    async fn after_a_sweep_that_panics_what_the_last_one_has_found_is_served() {
        let fresh = Fresh::new(Duration::ZERO);
        let get = async |number: u32| fresh.get(move || if number == 0 { panic!("on purpose") } else { number }).await;
        assert_eq!(get(0).await, None);
        assert_eq!(get(2).await, Some(2));
        assert_eq!(get(0).await, Some(2));
        assert_eq!(get(3).await, Some(3));
    }

    #[tokio::test]
    async fn within_its_age_there_is_one_and_after_it_another() {
        for (max_age, expected) in [(LONG, 1), (Duration::ZERO, 2)] {
            let fresh = Fresh::new(max_age);
            assert_eq!(fresh.get(|| 1).await, Some(1));
            assert_eq!(fresh.get(|| 2).await, Some(expected));
        }
    }

    /// A sweep that lasts until it is released.
    #[derive(Clone, Default)]
    struct Slow {
        begun: Arc<AtomicUsize>,
        is_released: Arc<AtomicBool>,
    }

    impl Slow {
        fn sweep<T: Send + 'static>(&self, made: T) -> impl FnOnce() -> T + Send + 'static {
            let slow = self.clone();
            move || {
                slow.begun.fetch_add(1, Ordering::SeqCst);
                for _ in 0..2000 {
                    if slow.is_released.load(Ordering::SeqCst) {
                        break;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                made
            }
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }

        fn release(&self) {
            self.is_released.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn callers_who_give_up_at_once_cause_one_sweep_and_who_stays_is_answered() {
        let (fresh, slow) = (Fresh::new(LONG), Slow::default());
        for caller in 0..IMPATIENT {
            let asked = pin!(fresh.get(slow.sweep(caller)));
            assert!(asked.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        slow.release();
        assert_eq!(fresh.get(|| IMPATIENT).await, Some(0), "what the first has begun is whole and serves the last");
        assert_eq!(slow.begun(), 1);
    }

    /// What the server asks, as it asks the pipeline.
    struct Source {
        fresh: Fresh<Arc<Snapshot>>,
        slow: Slow,
    }

    impl SnapshotSource for Source {
        async fn snapshot(&self) -> Arc<Snapshot> {
            self.fresh.get(self.slow.sweep(Arc::new(snapshot(7)))).await.unwrap()
        }

        fn exported(&self, _: &str, _: u64) {}
    }

    #[tokio::test]
    async fn clients_that_leave_before_they_are_answered_cause_one_sweep_and_who_stays_gets_its_page() {
        let slow = Slow::default();
        let telemetry = Arc::new(SelfTelemetry::new("1", None).unwrap());
        let good = || Verdict { good: true, text: String::new() };
        let content = Content {
            source: Arc::new(Source { fresh: Fresh::new(LONG), slow: slow.clone() }),
            telemetry: Arc::clone(&telemetry),
            alive: Arc::new(good),
            ready: Arc::new(good),
            node: "node".into(),
            linger: LONG,
            classic_histograms: ClassicHistograms::Auto,
        };
        let listen = Listen { address: "127.0.0.1:0".parse().unwrap(), health: None, web: None };
        let server = Server::bind(&listen, content).unwrap();
        let address = server.address();
        let (_stop, shutdown) = watch::channel(false);
        tokio::spawn(server.run(shutdown));

        let ask = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            stream
        };
        let gone = format!("podlens_server_refusals_total{{reason=\"{}\"}} ", Refusal::Gone.name());
        let gone = || {
            let page = String::from_utf8(own::page(&telemetry, Format::Text)).unwrap();
            page.lines().find_map(|line| line.strip_prefix(&gone)).unwrap().parse::<usize>().unwrap()
        };
        for leaving in 1..=IMPATIENT {
            drop(ask().await);
            // One after the other: the server has noticed that this one has left without an answer.
            eventually("the leaving", || gone() == leaving).await;
        }
        assert_eq!(slow.begun(), 1);
        let mut staying = ask().await;
        slow.release();
        let mut answer = String::new();
        staying.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("podlens_cpu_seconds_total{"), "{answer}");
        assert_eq!(slow.begun(), 1);
    }
}
