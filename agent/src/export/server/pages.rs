//! Encoded pages, kept for a moment: two scrapers at about the same time cost one encoding.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use tokio::sync::Mutex;

use crate::{
    export::{
        own,
        prometheus::{self, Filter, Style},
    },
    registry::Snapshot,
    telemetry::SelfTelemetry,
};

/// What a page depends on beside its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) style: Style,
    pub(super) gzip: bool,
}

/// A page is kept so long beside whoever reads it. On a full node it has megabytes, which would lie there until the next scrape.
const KEPT: Duration = Duration::from_secs(2);

/// The pages of the newest snapshot, and of an older one for as long as a caller comes late with it.
#[derive(Default)]
pub(super) struct Pages {
    newest: Arc<Mutex<Vec<Page>>>,
}

struct Page {
    sequence: u64,
    form: Form,
    bytes: Bytes,
}

impl Pages {
    /// The whole page, the agent's own metrics included: from the last time, or encoded now. Callers at one
    /// moment wait for one encoding.
    pub(super) async fn whole(
        &self,
        snapshot: Arc<Snapshot>,
        telemetry: Arc<SelfTelemetry>,
        form: Form,
    ) -> io::Result<Bytes> {
        let mut newest = self.newest.lock().await;
        let sequence = snapshot.sequence;
        newest.retain(|page| page.sequence >= sequence);
        if let Some(page) = newest.iter().find(|page| page.sequence == sequence && page.form == form) {
            return Ok(page.bytes.clone());
        }
        let encoded = move || {
            let own = own::page(&telemetry, form.style.format);
            encode(form, &own, |page| prometheus::write_samples(&snapshot, None, form.style, page))
        };
        let bytes = blocking(encoded).await?;
        newest.push(Page { sequence, form, bytes: bytes.clone() });
        let pages = Arc::clone(&self.newest);
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            pages.lock().await.retain(|page| page.sequence != sequence || page.form != form);
        });
        Ok(bytes)
    }

    /// The samples of some pods alone. Not kept.
    pub(super) async fn filtered(snapshot: Arc<Snapshot>, filter: Filter, form: Form) -> io::Result<Bytes> {
        let encoded =
            move || encode(form, &[], |page| prometheus::write_samples(&snapshot, Some(&filter), form.style, page));
        blocking(encoded).await
    }
}

/// Tens of milliseconds of encoding and compressing must not hold up the runtime's threads.
async fn blocking(encoded: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static) -> io::Result<Bytes> {
    tokio::task::spawn_blocking(encoded).await.map_err(io::Error::other)?.map(Bytes::from)
}

/// Writes a page.
fn encode(form: Form, own: &[u8], write_samples: impl FnOnce(&mut Sink) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut sink = if form.gzip {
        // Level 6 makes a page 15 % smaller for five times the CPU.
        Sink::Gzip(GzEncoder::new(Vec::new(), Compression::fast()))
    } else {
        Sink::Plain(Vec::new())
    };
    write_samples(&mut sink)?;
    sink.write_all(own)?;
    sink.write_all(form.style.format.end().as_bytes())?;
    match sink {
        Sink::Plain(page) => Ok(page),
        Sink::Gzip(encoder) => encoder.finish(),
    }
}

/// Where a page is written: compressed on the way, it never exists uncompressed as a whole.
enum Sink {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(page) => page.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
