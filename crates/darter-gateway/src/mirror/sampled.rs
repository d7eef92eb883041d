//! Blobs for a caller whom the registry allowed to read, but without showing that it has the blob.
//!
//! A registry that names the digest in its answer has shown what it serves to this caller. So has a registry that names a blob's
//! length, if that is the length in a manifest which it served to this caller before. Any other successful answer may be about something
//! else: stores behind a redirect name no digest, and neither do gateways that answer unknown callers with a login page or an error, with a
//! status of success. So before a blob is served because of such an answer, its first bytes are compared
//! with those that the registry serves to this caller.
//!
//! If the registry can't be reached from this host (a seed asked it), or limits requests, the length that it named has to be
//! the blob's.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use darter_agent::FetchError;
use darter_core::source::Credentials;
use darter_core::{Blamed as _, ByteRange, Source};
use darter_origin::{Answer, ErrorKind};
use futures_util::StreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::mirror::rescue::Rescue;
use crate::mirror::{Blob, Blobs, Part};

/// How many bytes are compared.
const SAMPLE: u64 = 1024;

/// Opens a blob only if the registry serves its first bytes to the same caller.
pub(crate) struct Sampled {
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) rescue: Rescue,
    /// The length that the registry named.
    pub(crate) told: Option<u64>,
}

#[async_trait]
impl Blobs for Sampled {
    async fn is_proven(&self, source: &Source) -> bool {
        self.blobs.is_proven(source).await
    }

    async fn is_whole(&self, source: &Source) -> bool {
        self.blobs.is_whole(source).await
    }

    fn proven(&self, source: &Source) {
        self.blobs.proven(source);
    }

    async fn open(
        &self,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Box<dyn Blob>, FetchError> {
        let name = source.to_string();
        let blob = self.blobs.open(source, credentials, everything).await?;
        if self.is_given(&*blob).await {
            return Ok(blob);
        }
        tracing::info!(name, "the registry's answer to this caller does not show this blob");
        Err(FetchError::Unproven { name })
    }
}

impl Sampled {
    async fn is_given(&self, blob: &dyn Blob) -> bool {
        let wanted = blob.length().map_or(SAMPLE, |length| length.min(SAMPLE));
        if wanted == 0 {
            return true;
        }
        let range = ByteRange::new(0, wanted);
        let asked = HeaderValue::from_str(&format!("bytes=0-{}", wanted - 1)).expect("digits can stand in a header");
        let sent = self.rescue.read(Some(asked), Instant::now() + self.rescue.wait);
        // A blob of which no byte arrives leaks nothing; the code that reads it reports the reason to the caller.
        let (sent, Some(known)) = tokio::join!(sent, bytes_of(blob, range)) else { return true };
        let is_as_long = self.told.is_some() && self.told == blob.length();
        match sent {
            Ok(answer) if is_trouble(answer.status) => is_as_long,
            Ok(answer) => begins_with(answer, blob.length(), &known).await,
            Err(error) if error.blame().retry.is_later() => is_as_long,
            Err(error) if matches!(error.kind(), ErrorKind::OutOfReach | ErrorKind::UnknownName) => is_as_long,
            Err(_) => false,
        }
    }
}

/// True if an answer does not show what the registry serves.
fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// True if the registry's answer is about a blob of this length that begins with these bytes.
async fn begins_with(answer: Answer, length: Option<u64>, known: &[u8]) -> bool {
    let number = |name: HeaderName, headers: &HeaderMap| -> Option<u64> {
        headers.get(name)?.to_str().ok()?.rsplit('/').next()?.trim().parse().ok()
    };
    let whole = match answer.status {
        StatusCode::OK => number(CONTENT_LENGTH, &answer.headers),
        StatusCode::PARTIAL_CONTENT => number(CONTENT_RANGE, &answer.headers),
        _ => return false,
    };
    if whole.zip(length).is_some_and(|(whole, length)| whole != length) {
        return false;
    }
    let (mut body, mut sent) = (answer.body, Vec::new());
    while sent.len() < known.len()
        && let Some(Ok(chunk)) = body.next().await
    {
        sent.extend_from_slice(&chunk);
    }
    sent.len() >= known.len() && sent[..known.len()] == *known
}

/// The first bytes of a blob; `None` if they do not arrive.
async fn bytes_of(blob: &dyn Blob, range: ByteRange) -> Option<Vec<u8>> {
    let mut parts = blob.lone_parts(range);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < range.len()
        && let Some(part) = parts.next().await
    {
        match part.ok()? {
            Part::Bytes(part) => bytes.extend_from_slice(&part),
            Part::File(part) => {
                let read = darter_store::threads::run(move || {
                    let mut bytes = vec![0; part.range.len().min(SAMPLE) as usize];
                    part.file.read_exact_at(&mut bytes, part.range.start()).map(|()| bytes)
                });
                bytes.extend_from_slice(&read.await.ok()?);
            }
        }
    }
    bytes.truncate(SAMPLE as usize);
    (!bytes.is_empty()).then_some(bytes)
}
