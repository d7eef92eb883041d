//! Logs and counts each request once: when the body of its answer has ended, or was dropped half-way.
//!
//! Nothing here sees `Authorization`: of a request, only method, path and upstream are kept.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use darter_core::{Clock, Moment};
use darter_metrics::{Gone, Metrics, MirrorKind};
use http::header::{CONTENT_LENGTH, RANGE};
use http::request::Parts;
use http::{Method, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::Body;
use crate::mirror::range;

/// What is known so far of one request.
pub(crate) struct Account {
    kind: MirrorKind,
    method: Method,
    path: String,
    upstream: Option<String>,
    problem: Option<String>,
    /// True if the caller asked for everything from some byte on. containerd reads as much of that as it needs, and disconnects.
    open_ended: bool,
    /// True once there is an answer: the end of its body completes the account.
    answered: bool,
    started: Moment,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Account {
    /// Begins the account of a request.
    pub(crate) fn open(kind: MirrorKind, request: &Parts, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        metrics.local_requests_active.inc();
        Self {
            kind,
            method: request.method.clone(),
            path: request.uri.path().to_owned(),
            upstream: None,
            problem: None,
            open_ended: range::is_open_ended(request.headers.get(RANGE).and_then(|range| range.to_str().ok())),
            answered: false,
            started: clock.now(),
            metrics,
            clock,
        }
    }

    /// Notes which upstream the request is for.
    pub(crate) fn upstream(&mut self, name: &str) {
        self.upstream = Some(name.to_owned());
    }

    /// Notes why the answer is an error.
    pub(crate) fn failed(&mut self, problem: &str) {
        self.problem = Some(problem.to_owned());
    }

    /// Wraps the response's body so that its end completes the account.
    pub(crate) fn attach(mut self, response: Response<Body>) -> Response<Body> {
        self.answered = true;
        let status = response.status().as_u16();
        let registry = self.upstream.as_deref();
        self.metrics.mirror_request(self.kind, registry, status);
        self.metrics.mirror_first_byte(self.kind, registry, self.clock.now() - self.started);
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        response.map(|inner| {
            Followed { inner, status, bytes: 0, broke: false, ended: false, length, account: self }.boxed_unsync()
        })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.metrics.local_requests_active.dec();
        if self.answered {
            return;
        }
        // The caller disconnected before there was an answer: this line is the only trace of why its pull failed.
        self.metrics.mirror_gone(self.kind, Gone::Before);
        tracing::warn!(
            method = %self.method,
            path = self.path,
            upstream = self.upstream.as_deref().unwrap_or_default(),
            seconds = (self.clock.now() - self.started).as_secs_f64(),
            gone = true,
            "a caller disconnected before the answer"
        );
    }
}

/// A body whose bytes are counted.
struct Followed {
    inner: Body,
    status: u16,
    bytes: u64,
    broke: bool,
    ended: bool,
    /// The length that was announced.
    length: Option<u64>,
    account: Account,
}

impl Followed {
    fn is_whole(&self) -> bool {
        self.account.method == Method::HEAD || self.length.is_some_and(|length| self.bytes >= length)
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(Some(Err(_))) => self.broke = true,
            Poll::Ready(None) => self.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let account = &self.account;
        let took = account.clock.now() - account.started;
        account.metrics.mirror_duration(account.kind, account.upstream.as_deref(), took);
        let seconds = took.as_secs_f64();
        // hyper does not poll beyond the length that was announced.
        let gone = !account.open_ended && !self.ended && !self.broke && !self.is_end_stream() && !self.is_whole();
        if gone {
            account.metrics.mirror_gone(account.kind, Gone::Midway);
        }
        tracing::info!(
            method = %account.method,
            path = account.path,
            upstream = account.upstream.as_deref().unwrap_or_default(),
            status = self.status,
            bytes = self.bytes,
            seconds,
            broke = self.broke,
            gone,
            problem = account.problem.as_deref().unwrap_or_default(),
            "mirror request"
        );
    }
}
