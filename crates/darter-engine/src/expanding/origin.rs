//! [`Expanding`]: an origin that also has layers in their expanded form.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use darter_core::source::Credentials;
use darter_core::{ByteRange, ExpandedLayer, Shown, Source, Version};
use darter_origin::{ErrorKind, Origin, OriginError, Reading, Requester, Stat};
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Expansions, HEAD, Head, MAX_MADE, Taker, key_of};

/// See the module's documentation.
pub struct Expanding {
    inner: Arc<dyn Origin>,
    expansions: Arc<Expansions>,
    requester: Requester,
}

impl Expanding {
    /// On top of an origin with the layers themselves, as far as that may reach for `requester`.
    pub const fn new(inner: Arc<dyn Origin>, expansions: Arc<Expansions>, requester: Requester) -> Self {
        Self { inner, expansions, requester }
    }

    #[cfg(test)]
    pub(super) fn expansions(&self) -> &Expansions {
        &self.expansions
    }

    /// The beginning of a file that was made recently.
    fn head(&self, layer: &ExpandedLayer) -> Option<Head> {
        self.expansions.heads.lock().get(&key_of(layer)).cloned()
    }

    /// Makes a file, and returns its beginning.
    async fn make_head(&self, layer: &ExpandedLayer, credentials: &Credentials) -> Result<Head, OriginError> {
        if let Some(head) = self.head(layer) {
            return Ok(head);
        }
        self.expansions.make(&*self.inner, layer, credentials, None).await?;
        self.head(layer).ok_or_else(|| broken_off(layer))
    }

    /// The expanded layer after its beginning, as soon as some of it is made; a file that is not longer than a beginning as a whole.
    async fn stream(&self, layer: &ExpandedLayer, credentials: &Credentials) -> Result<Reading, OriginError> {
        let (give, mut take) = mpsc::channel(MAX_MADE);
        let making = {
            let (expansions, inner) = (Arc::clone(&self.expansions), Arc::clone(&self.inner));
            let (layer, credentials) = (layer.clone(), credentials.clone());
            let taker = Taker { give: give.clone(), requester: self.requester };
            // The task goes on while the reader is busy, and ends with the reader.
            AbortOnDropHandle::new(tokio::spawn(async move {
                let made = expansions.make(&*inner, &layer, &credentials, Some(taker)).await;
                let failed = made.is_err();
                if let Err(error) = made {
                    let _ = give.send(Err(error)).await;
                }
                !failed
            }))
        };
        let version = version(layer, None);
        let Some(first) = take.recv().await.transpose()? else {
            let is_made = making.await.unwrap_or(false);
            let head = self.head(layer).filter(|_| is_made).ok_or_else(|| broken_off(layer))?;
            return Ok(reading_of(version, head, None));
        };
        let rest = Rest { take, making: Some(making), layer: layer.clone() };
        let body = stream::once(async { Ok(first) }).chain(stream::unfold(rest, Rest::next)).boxed();
        let (shown, witness) = (Shown::default(), None);
        Ok(Reading { version, shown, start: HEAD, is_part: true, length: None, witness, body })
    }
}

/// The rest of a file, while it is made.
struct Rest {
    take: mpsc::Receiver<Result<Bytes, OriginError>>,
    making: Option<AbortOnDropHandle<bool>>,
    layer: ExpandedLayer,
}

impl Rest {
    async fn next(mut self) -> Option<(Result<Bytes, OriginError>, Self)> {
        if let Some(chunk) = self.take.recv().await {
            if chunk.is_err() {
                // The error explains why the stream ends here.
                self.making = None;
            }
            return Some((chunk, self));
        }
        // Only if the maker confirms that everything is right, this is the end.
        let is_made = self.making.take()?.await.unwrap_or(false);
        (!is_made).then(|| (Err(broken_off(&self.layer)), self))
    }
}

fn broken_off(layer: &ExpandedLayer) -> OriginError {
    let text = format!("{}: expanding it was interrupted; request it again", layer.stored());
    OriginError::new(ErrorKind::Unreachable, text)
}

/// A reading of the beginning of a file, or of a `range` of it.
fn reading_of(version: Version, head: Head, range: Option<ByteRange>) -> Reading {
    let Head { bytes, length } = head;
    let range = range.unwrap_or(ByteRange::new(0, length)).clamp_to(bytes.len() as u64);
    let part = bytes.slice(range.start() as usize..range.end() as usize);
    let body = stream::once(async { Ok(part) }).boxed();
    let (shown, is_part) = (Shown::default(), range.len() < length);
    Reading { version, shown, start: range.start(), is_part, length: Some(length), witness: None, body }
}

/// The version of an expanded layer follows from its tar.
fn version(layer: &ExpandedLayer, length: Option<u64>) -> Version {
    let etag = format!("\"{}-{}\"", layer.diff_id, layer.format);
    Version { etag: Some(etag), last_modified: None, length, nonce: None }
}

#[async_trait]
impl Origin for Expanding {
    async fn stat(
        &self,
        source: &Source,
        credentials: &Credentials,
        known: Option<&Version>,
    ) -> Result<Stat, OriginError> {
        let Source::Expanded(layer) = source else { return self.inner.stat(source, credentials, known).await };
        // Asks whether the layer itself is there.
        self.inner.stat(&layer.stored(), credentials, None).await?;
        Ok(Stat { version: version(layer, None), shown: Shown::default(), unchanged: true, ranges: false })
    }

    /// The beginning of an expanded layer is read by range. Any other request is answered with everything after it, without a
    /// length; or with the whole file if it is no longer than a beginning.
    async fn read(
        &self,
        source: &Source,
        credentials: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let Source::Expanded(layer) = source else {
            return self.inner.read(source, credentials, range, expect).await;
        };
        let reading = match range.filter(|range| range.end() <= HEAD) {
            Some(range) => {
                let head = self.make_head(layer, credentials).await?;
                reading_of(version(layer, None), head, Some(range))
            }
            None => self.stream(layer, credentials).await?,
        };
        Ok(Reading { version: expect.cloned().unwrap_or(reading.version), ..reading })
    }

    async fn shows_own_keys(&self, source: &Source, credentials: &Credentials) -> bool {
        match source {
            Source::Expanded(layer) => self.inner.shows_own_keys(&layer.stored(), credentials).await,
            _ => self.inner.shows_own_keys(source, credentials).await,
        }
    }

    async fn disposition(&self, source: &Source, credentials: &Credentials) -> Result<Option<String>, OriginError> {
        match source {
            Source::Expanded(_) => Ok(None),
            _ => self.inner.disposition(source, credentials).await,
        }
    }
}
