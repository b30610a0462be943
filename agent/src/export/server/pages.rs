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
    /// moment wait for one encoding, which ends and is kept though whoever has begun it leaves.
    pub(super) async fn whole(
        &self,
        snapshot: Arc<Snapshot>,
        telemetry: Arc<SelfTelemetry>,
        form: Form,
    ) -> io::Result<Bytes> {
        let mut newest = Arc::clone(&self.newest).lock_owned().await;
        let sequence = snapshot.sequence;
        newest.retain(|page| page.sequence >= sequence);
        if let Some(page) = newest.iter().find(|page| page.sequence == sequence && page.form == form) {
            return Ok(page.bytes.clone());
        }
        let pages = Arc::clone(&self.newest);
        let encoded = move || {
            let own = own::page(&telemetry, form.style.format);
            let bytes = encode(form, &own, |page| prometheus::write_samples(&snapshot, None, form.style, page))?;
            newest.push(Page { sequence, form, bytes: bytes.clone() });
            tokio::spawn(async move {
                tokio::time::sleep(KEPT).await;
                pages.lock().await.retain(|page| page.sequence != sequence || page.form != form);
            });
            Ok(bytes)
        };
        blocking(encoded).await
    }

    /// The samples of some pods alone. Not kept; encoded in turn with all others, whoever leaves meanwhile.
    pub(super) async fn filtered(&self, snapshot: Arc<Snapshot>, filter: Filter, form: Form) -> io::Result<Bytes> {
        let turn = Arc::clone(&self.newest).lock_owned().await;
        let encoded = move || {
            let _turn = turn;
            encode(form, &[], |page| prometheus::write_samples(&snapshot, Some(&filter), form.style, page))
        };
        blocking(encoded).await
    }
}

/// Tens of milliseconds of encoding and compressing must not hold up the runtime's threads.
async fn blocking(encoded: impl FnOnce() -> io::Result<Bytes> + Send + 'static) -> io::Result<Bytes> {
    tokio::task::spawn_blocking(encoded).await.map_err(io::Error::other)?
}

/// Writes a page.
fn encode(form: Form, own: &[u8], write_samples: impl FnOnce(&mut Sink) -> io::Result<()>) -> io::Result<Bytes> {
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
        Sink::Plain(page) => Ok(page.into()),
        Sink::Gzip(encoder) => encoder.finish().map(Bytes::from),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::{Arc, Filter, Form, Pages, SelfTelemetry, Style};
    use crate::{config::ClassicHistograms, export::fixture::large, export::prometheus::Format};

    #[tokio::test]
    async fn callers_who_give_up_at_once_cause_one_encoding_and_who_stays_is_answered() {
        let (pages, snapshot) = (Pages::default(), Arc::new(large(1000, 80)));
        let telemetry = Arc::new(SelfTelemetry::new("1", None).unwrap());
        let form = Form { style: Style { format: Format::Text, classic: ClassicHistograms::Auto }, gzip: true };
        let whole = || pages.whole(Arc::clone(&snapshot), Arc::clone(&telemetry), form);
        let context = &mut Context::from_waker(Waker::noop());
        for _ in 0..20 {
            let filter = Filter { pod: Some("web-1".to_owned()), namespace: None };
            assert!(pin!(whole()).poll(context).is_pending());
            assert!(pin!(pages.filtered(Arc::clone(&snapshot), filter, form)).poll(context).is_pending());
        }
        // An encoding holds the snapshot until its end.
        assert!(Arc::strong_count(&snapshot) <= 2, "{} encodings", Arc::strong_count(&snapshot) - 1);
        assert!(!whole().await.unwrap().is_empty());
    }
}
