//! A registry's own copy of content, where the agent gave none or has it from elsewhere: passed on as it comes, and compared
//! with its digest.
//!
//! A copy that was delivered whole and right shows that the registry has the content; from then on the cache serves it
//! there. The last bytes are held back until the whole was compared, so a wrong copy is visibly incomplete.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use darter_core::{Digest, DigestHasher};
use futures_util::{StreamExt as _, stream};

use crate::local::Body;
use crate::metrics::Metrics;
use crate::mirror::rescue::{self, count};

/// A copy on its way.
struct Copy<F> {
    body: darter_origin::Body,
    digest: Digest,
    hasher: DigestHasher,
    /// What came last.
    held: Option<Bytes>,
    /// Told at the end whether the copy was right; `None` once nothing more comes.
    then: Option<F>,
    metrics: Arc<Metrics>,
}

impl<F: FnOnce(bool)> Copy<F> {
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
            tracing::warn!(digest = %self.digest, %got, "a registry delivered other content than it was asked for");
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        then(true);
        self.held.take().map(Ok)
    }
}

/// The body of a registry's whole answer; `then` is told at its end whether it was what the digest says.
pub(crate) fn body(
    body: darter_origin::Body,
    digest: Digest,
    metrics: &Arc<Metrics>,
    then: impl FnOnce(bool) + Send + 'static,
) -> Body {
    let (hasher, metrics) = (digest.hasher(), Arc::clone(metrics));
    let copy = Copy { body, digest, hasher, held: None, then: Some(then), metrics };
    rescue::to_body(stream::unfold(copy, |mut copy| async move { Some((copy.next().await?, copy)) }))
}
