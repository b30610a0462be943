//! One connection's bytes: cuts a peer that dawdles over a request's head or does not take its answer, and tells when a
//! page is delivered.
//!
//! hyper bounds the time until a request's head has come, the idle time before it included, and not the time for writing an
//! answer. A kept connection may be idle for much longer than a head may take, hence this wrapper. With TLS bytes may wait
//! for the peer in a flush as well as in a write.

use std::{
    convert::Infallible,
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::{Body, Frame, SizeHint},
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;

use super::transport::Transport;
use crate::{signal::lock, telemetry::Refusal};

/// Passes a page's sequence number on once all of its bytes are in the kernel's hands. HTTP knows no receipt
/// beyond that.
pub(super) struct Delivery {
    /// Set when hyper took the page, until the next complete flush.
    taken: Mutex<Option<u64>>,
    delivered: Box<dyn Fn(u64) + Send + Sync>,
}

impl Delivery {
    pub(super) fn new(delivered: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { taken: Mutex::new(None), delivered: Box::new(delivered) }
    }

    fn take(&self, sequence: u64) {
        *lock(&self.taken) = Some(sequence);
    }

    fn flushed(&self) {
        let taken = lock(&self.taken).take();
        if let Some(sequence) = taken {
            (self.delivered)(sequence);
        }
    }
}

/// An answer's body, in one piece.
pub(super) struct Payload {
    bytes: Bytes,
    acknowledge: Option<(Arc<Delivery>, u64)>,
}

impl Payload {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, acknowledge: None }
    }

    /// A body whose delivery is told.
    pub(super) fn acknowledged(bytes: Bytes, delivery: Arc<Delivery>, sequence: u64) -> Self {
        Self { bytes, acknowledge: Some((delivery, sequence)) }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        if let Some((delivery, sequence)) = self.acknowledge.take() {
            delivery.take(sequence);
        }
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// How far a connection's requests are.
#[derive(Default)]
pub(super) struct Progress {
    /// Set when a request's head has come whole.
    head_came: AtomicBool,
    /// Set from then until its answer is in the kernel's hands.
    owes_answer: AtomicBool,
}

impl Progress {
    /// A request is here.
    pub(super) fn request_came(&self) {
        self.head_came.store(true, Ordering::Relaxed);
        self.owes_answer.store(true, Ordering::Relaxed);
    }

    /// Whoever leaves now has no answer.
    pub(super) fn owes_answer(&self) -> bool {
        self.owes_answer.load(Ordering::Relaxed)
    }
}

/// Why a connection was cut here.
#[derive(Debug)]
struct Cut(Refusal);

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.name())
    }
}

impl std::error::Error for Cut {}

impl Cut {
    fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, self)
    }
}

/// What a connection's end means; none where nobody was refused anything.
pub(super) fn refusal(ended: &hyper::Error, progress: &Progress) -> Option<Refusal> {
    let cause = std::error::Error::source(ended).and_then(|cause| cause.downcast_ref::<io::Error>());
    let cut = cause.and_then(io::Error::get_ref).and_then(|cause| cause.downcast_ref::<Cut>());
    match cut {
        Some(Cut(refusal)) => Some(*refusal),
        None if ended.is_parse() => Some(Refusal::BadRequest),
        None => progress.owes_answer().then_some(Refusal::Gone),
    }
}

/// The connection as hyper sees it.
pub(super) struct Stream {
    inner: TokioIo<Transport>,
    patience: Duration,
    /// Runs from a request's first byte, and from the connection's beginning, until the head has come.
    head: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
    /// Runs from the first write that the peer kept waiting until everything is flushed, whatever trickles through
    /// in between.
    stalled: Option<Pin<Box<Sleep>>>,
    has_written: bool,
    delivery: Arc<Delivery>,
}

impl Stream {
    /// Call it within a runtime.
    pub(super) fn new(
        transport: Transport,
        patience: Duration,
        progress: Arc<Progress>,
        delivery: Arc<Delivery>,
    ) -> Self {
        let head = Some(Box::pin(tokio::time::sleep(patience)));
        Self { inner: TokioIo::new(transport), patience, head, progress, stalled: None, has_written: false, delivery }
    }

    fn bounded<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            let patience = self.patience;
            let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            ready!(stalled.as_mut().poll(context));
            return Poll::Ready(Err(Cut(Refusal::SlowReader).into_io()));
        }
        written
    }

    fn written(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.has_written |= written.is_ready();
        self.bounded(written, context)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.progress.head_came.swap(false, Ordering::Relaxed) {
            self.head = None;
        }
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        match &mut self.head {
            Some(head) if read.is_pending() => {
                ready!(head.as_mut().poll(context));
                Poll::Ready(Err(Cut(Refusal::SlowRequest).into_io()))
            }
            None if read.is_ready() => {
                self.head = Some(Box::pin(tokio::time::sleep(self.patience)));
                read
            }
            _ => read,
        }
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        ready!(self.bounded(flushed, context))?;
        self.stalled = None;
        if std::mem::take(&mut self.has_written) {
            self.progress.owes_answer.store(false, Ordering::Relaxed);
        }
        self.delivery.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
