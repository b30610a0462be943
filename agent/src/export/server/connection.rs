//! One connection's bytes: cuts a peer that dawdles over a request's head or does not take its answer, and tells when a
//! page is delivered.
//!
//! hyper bounds the time until a request's head has come, the idle time before it included, and not the time for writing an
//! answer. A kept connection may be idle for much longer than a head may take, hence this wrapper.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
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
use tokio::{net::TcpStream, time::Sleep};

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
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(sequence);
    }

    fn flushed(&self) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
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

/// Set when a request's head has come whole.
pub(super) type HeadCame = Arc<AtomicBool>;

/// The connection as hyper sees it.
pub(super) struct Stream {
    inner: TokioIo<TcpStream>,
    patience: Duration,
    /// Runs from a request's first byte, and from the connection's beginning, until the head has come.
    head: Option<Pin<Box<Sleep>>>,
    head_came: HeadCame,
    /// Runs from the first write that the peer kept waiting until everything is flushed, whatever trickles through
    /// in between.
    stalled: Option<Pin<Box<Sleep>>>,
    delivery: Arc<Delivery>,
}

impl Stream {
    /// Call it within a runtime.
    pub(super) fn new(
        inner: TokioIo<TcpStream>,
        patience: Duration,
        head_came: HeadCame,
        delivery: Arc<Delivery>,
    ) -> Self {
        let head = Some(Box::pin(tokio::time::sleep(patience)));
        Self { inner, patience, head, head_came, stalled: None, delivery }
    }

    fn bounded<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            let patience = self.patience;
            let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            ready!(stalled.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head_came.swap(false, Ordering::Relaxed) {
            self.head = None;
        }
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        match &mut self.head {
            Some(head) if read.is_pending() => {
                ready!(head.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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
        self.bounded(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.bounded(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        self.stalled = None;
        self.delivery.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
