//! Connections: accepted by our own loop, so that none can be held open for nothing.
//!
//! hyper times the head of a request and handlers time its body; what is left is here. A client
//! must show which HTTP it speaks soon after it has connected, and must keep taking its answer.
//! [`GuardedStream`] ends the connection otherwise.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::config::{READ_TIMEOUT, WRITE_TIMEOUT};

/// hyper reads as many bytes to tell HTTP/2's preface from a request line, and has no clock then.
const PREFACE_BYTES: usize = 24;

/// How a connection is served: hyper's settings in one place.
pub(crate) fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_headers(64)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(16 << 10)
        // Against "rapid reset": streams that are opened to be cancelled (CVE-2023-44487).
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(READ_TIMEOUT);
    builder
}

/// A TCP stream with the time limits that hyper does not keep.
#[derive(Debug)]
pub(crate) struct GuardedStream {
    stream: TcpStream,
    bytes_read: usize,
    /// Until the preface is complete.
    preface_end: Pin<Box<Sleep>>,
    /// While a write waits for the client.
    write_end: Option<Pin<Box<Sleep>>>,
}

impl GuardedStream {
    pub(crate) fn new(stream: TcpStream) -> GuardedStream {
        let preface_end = Box::pin(sleep_until(Instant::now() + READ_TIMEOUT));
        GuardedStream { stream, bytes_read: 0, preface_end, write_end: None }
    }

    /// Passes on what a write came to, unless the client has taken nothing for too long.
    fn guard_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_end = None;
            return outcome;
        }
        let end = self.write_end.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        match end.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Err(timed_out("the client takes no more of its answer")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(outcome) => {
                this.bytes_read = this.bytes_read.saturating_add(buffer.filled().len() - before);
                Poll::Ready(outcome)
            }
            Poll::Pending if this.bytes_read >= PREFACE_BYTES => Poll::Pending,
            Poll::Pending => match this.preface_end.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(timed_out("the client sends no request"))),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.guard_write(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.guard_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
