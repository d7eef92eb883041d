//! A registry's own copy of content that the agent failed to deliver, or has from elsewhere: passed on as it arrives, and compared
//! with its digest.
//!
//! A copy that was delivered whole and right shows that the registry has the content; from then on the cache serves it
//! there. The last bytes are held back until the whole was compared, so that the reader of a wrong copy sees an incomplete body.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use darter_core::{Digest, DigestHasher};
use darter_metrics::Metrics;
use darter_origin::Answer;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use http::header::CONTENT_LENGTH;

use crate::body::Body;
use crate::mirror::rescue::{self, count};

/// A blob of up to this many bytes is read before it is answered, so that a wrong one is answered with an error status.
const MAX_READ_FIRST: u64 = 64 << 10;

/// A copy that is being passed on.
struct ComparedCopy<F> {
    body: darter_origin::Body,
    digest: Digest,
    hasher: DigestHasher,
    /// The latest bytes, held back.
    held: Option<Bytes>,
    /// Called at the end with true if the copy was right; `None` afterwards.
    then: Option<F>,
    metrics: Arc<Metrics>,
}

impl<F: FnOnce(bool)> ComparedCopy<F> {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.then.as_ref()?;
        loop {
            match self.body.next().await {
                Some(Ok(bytes)) => {
                    count(&self.metrics, &bytes);
                    self.hasher.update(&bytes);
                    if let Some(before) = self.held.replace(bytes) {
                        return Some(Ok(before));
                    }
                }
                Some(Err(error)) => {
                    self.then = None;
                    return Some(Err(io::Error::other(error)));
                }
                None => return self.end(),
            }
        }
    }

    fn end(&mut self) -> Option<io::Result<Bytes>> {
        let then = self.then.take()?;
        let got = self.hasher.clone().finish();
        if got != self.digest {
            let text = format!("the registry delivered {got} for {}", self.digest);
            then(false);
            tracing::warn!(digest = %self.digest, %got, "a registry delivered content with another digest");
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        then(true);
        self.held.take().map(Ok)
    }
}

/// A registry's answer. If it is short, its bytes were compared with the digest first; `Err` says what was
/// delivered instead.
pub(crate) async fn read_first(mut answer: Answer, digest: Digest) -> Result<Answer, String> {
    let length = answer.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if answer.status != StatusCode::OK || length.is_none_or(|length: u64| length > MAX_READ_FIRST) {
        return Ok(answer);
    }
    let mut all = BytesMut::new();
    while let Some(chunk) = answer.body.next().await {
        all.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
    }
    let mut hasher = digest.hasher();
    hasher.update(&all);
    let got = hasher.finish();
    if got != digest {
        return Err(format!("the registry delivered {got} ({} bytes) for {digest}", all.len()));
    }
    answer.body = stream::once(async { Ok(all.freeze()) }).boxed();
    Ok(answer)
}

/// The body of a registry's whole answer. At its end, `then` is called with true if it has the digest.
pub(crate) fn body(
    body: darter_origin::Body,
    digest: Digest,
    metrics: &Arc<Metrics>,
    then: impl FnOnce(bool) + Send + 'static,
) -> Body {
    let (hasher, metrics) = (digest.hasher(), Arc::clone(metrics));
    let copy = ComparedCopy { body, digest, hasher, held: None, then: Some(then), metrics };
    rescue::to_body(stream::unfold(copy, |mut copy| async move { Some((copy.next().await?, copy)) }))
}
