//! A web server's ordinary work: one resource with validators, conditional requests and ranges.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use parking_lot::Mutex;

use super::{Reply, Seen, Sent};

/// A resource, and how much HTTP its server knows.
#[derive(Clone)]
pub struct Resource {
    pub bytes: Bytes,
    pub etag: Option<&'static str>,
    pub last_modified: Option<&'static str>,
    pub ranges: bool,
    pub chunked: bool,
    /// Status for HEAD where the server refuses it.
    pub refuse_head: Option<u16>,
}

pub type Shared = Arc<Mutex<Resource>>;

impl Resource {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            etag: Some("\"first\""),
            last_modified: Some("Sat, 21 Nov 2026 10:00:00 GMT"),
            ranges: true,
            chunked: false,
            refuse_head: None,
        }
    }

    pub fn shared(self) -> Shared {
        Arc::new(Mutex::new(self))
    }

    /// The server's answer.
    pub fn answer(&self, seen: &Seen) -> Reply {
        if let (Some(status), &Method::HEAD) = (self.refuse_head, &seen.method) {
            return Reply::status(status);
        }
        let length = self.bytes.len();
        if self.is_current(seen) {
            return self.validated(Reply::status(304));
        }
        if let Some((start, end)) = self.range(seen) {
            if start >= length {
                let text = Sent::Whole("no such range".into());
                return Reply::status(416).sent(text).with("content-range", format!("bytes */{length}"));
            }
            let end = end.min(length);
            let reply = Reply { status: http::StatusCode::PARTIAL_CONTENT, ..self.body(start, end) };
            return self.validated(reply.with("content-range", format!("bytes {start}-{}/{length}", end - 1)));
        }
        let reply = self.validated(self.body(0, length));
        if self.ranges { reply.with("accept-ranges", "bytes") } else { reply }
    }

    fn body(&self, start: usize, end: usize) -> Reply {
        let bytes = self.bytes.slice(start..end);
        Reply::status(200).sent(if self.chunked { Sent::Chunked(bytes) } else { Sent::Whole(bytes) })
    }

    fn validated(&self, mut reply: Reply) -> Reply {
        let tag = self.etag.map(|etag| ("etag", etag.to_owned()));
        let date = self.last_modified.map(|date| ("last-modified", date.to_owned()));
        reply.headers.extend(tag.into_iter().chain(date));
        reply
    }

    fn is_current(&self, seen: &Seen) -> bool {
        match (seen.header("if-none-match"), seen.header("if-modified-since")) {
            (Some(tag), _) => Some(tag) == self.etag,
            (None, date) => date.is_some() && date == self.last_modified,
        }
    }

    fn range(&self, seen: &Seen) -> Option<(usize, usize)> {
        let if_range = seen.header("if-range");
        if !self.ranges || if_range.is_some_and(|tag| Some(tag) != self.etag) {
            return None;
        }
        let (first, last) = seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let last = if last.is_empty() { usize::MAX - 1 } else { last.parse().unwrap() };
        Some((first.parse().unwrap(), last + 1))
    }
}
