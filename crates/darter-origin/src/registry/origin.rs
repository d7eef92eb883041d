//! Blobs of a registry as an [`Origin`].
//!
//! A blob's version is its digest: nothing else has to be compared, whatever validators an object store behind a redirect sends. The reader checks the digest.
//!
//! If the registry does not begin to answer a request, the request is made once more, and the first good answer counts: a single request may hang (at one of several machines, or in a cache that fetches the
//! blob) while the next one is answered at once. Readers wait about one and a half times [`ASK_AGAIN_AFTER`] before they go to the registry without the agent, each by itself.

use std::time::Duration;

use async_trait::async_trait;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Digest, Shown, Source, Version};
use futures_util::future::{Either, select};
use http::{HeaderMap, Method};
use url::Url;

use crate::client::Requester;
use crate::error::{ErrorKind, OriginError};
use crate::origin::{Origin, Reading, Stat};
use crate::registry::answer::{Answer, for_want_of_token};
use crate::registry::client::{RegistryClient, blob_path};
use crate::web::{self, AnswerPart};

/// How long a registry may take to begin the answer before the blob is requested once more.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Reads [`Source::Registry`].
#[derive(Clone, Debug)]
pub struct RegistryOrigin {
    client: RegistryClient,
    requester: Requester,
    ask_again_after: Duration,
}

impl RegistryOrigin {
    /// Reads through `client`, for programs of this host.
    pub const fn new(client: RegistryClient) -> Self {
        Self { client, requester: Requester::Here, ask_again_after: ASK_AGAIN_AFTER }
    }

    /// This origin, which requests a blob a second time if the answer has not begun after `time`.
    #[must_use]
    pub const fn asking_again_after(mut self, time: Duration) -> Self {
        self.ask_again_after = time;
        self
    }

    /// Sets for whom it reads.
    pub(crate) const fn set_requester(&mut self, requester: Requester) {
        self.requester = requester;
    }

    /// The answer to the request that `ask` makes. If it is made a second time, the first good one of both answers.
    async fn first_answer<F>(&self, source: &Source, ask: impl Fn() -> F) -> Result<Answer, OriginError>
    where
        F: Future<Output = Result<Answer, OriginError>>,
    {
        let mut first = Box::pin(ask());
        if let Ok(answer) = tokio::time::timeout(self.ask_again_after, &mut first).await {
            return answer;
        }
        tracing::info!(%source, waited = ?self.ask_again_after, "a registry does not begin to answer; asking it once more");
        match select(first, Box::pin(ask())).await {
            Either::Left((answer, second)) if !is_good(&answer) => second.await,
            Either::Right((answer, first)) if !is_good(&answer) => first.await,
            Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
        }
    }
}

fn is_good(answer: &Result<Answer, OriginError>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.status.is_success() && !answer.is_page())
}

/// The registry's address, the repository and the digest in the source.
fn parts(source: &Source) -> Result<(&Url, &str, &Digest), OriginError> {
    let Source::Registry { registry, repository, digest } = source else {
        let text = format!("{source} is not a blob of a registry");
        return Err(OriginError::new(ErrorKind::Protocol, text));
    };
    Ok((registry, repository, digest))
}

#[async_trait]
impl Origin for RegistryOrigin {
    async fn stat(
        &self,
        source: &Source,
        credentials: &Credentials,
        known: Option<&Version>,
    ) -> Result<Stat, OriginError> {
        let (registry, repository, digest) = parts(source)?;
        let upstream = self.client.upstreams().at_for(registry, repository, self.requester);
        let answer = self.client.head_blob(&upstream, repository, digest, credentials).await?.into_success()?;
        let current = version(source, web::content_length(&answer.headers));
        let ranges = web::serves_ranges(&answer.headers);
        let unchanged = known.is_some_and(|known| agree(known, &current));
        Ok(Stat { version: current, shown: Shown::default(), unchanged, ranges })
    }

    async fn read(
        &self,
        source: &Source,
        credentials: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let mut headers = HeaderMap::new();
        web::ask_for_range(&mut headers, range);
        let (registry, repository, digest) = parts(source)?;
        let upstream = self.client.upstreams().at_for(registry, repository, self.requester);
        let path = blob_path(repository, digest)?;
        let ask = || self.client.send(&upstream, Method::GET, &path, headers.clone(), credentials);
        let Answer { status, headers, body, no_token, .. } =
            self.first_answer(source, ask).await?.into_blob(&upstream)?;
        let part = AnswerPart::of(status, &headers, range, source)
            .map_err(|error| for_want_of_token(error, &source.to_string(), no_token))?;
        let current = version(source, part.length);
        if let Some(expect) = expect
            && !agree(expect, &current)
        {
            let text = format!("{source} has another length than before: ask who runs the registry");
            return Err(OriginError::new(ErrorKind::Changed, text));
        }
        Ok(Reading {
            version: expect.cloned().unwrap_or(current),
            shown: Shown::default(),
            start: part.start,
            is_part: part.start > 0 || part.bytes != part.length,
            length: part.length,
            witness: None,
            body: crate::body::checked(body, part.bytes, source.to_string()),
        })
    }

    async fn shows_own_keys(&self, source: &Source, credentials: &Credentials) -> bool {
        let Ok((registry, repository, _)) = parts(source) else { return false };
        let upstream = self.client.upstreams().at_for(registry, repository, self.requester);
        self.client.shows_own_keys(&upstream, credentials).await
    }
}

/// The version of a blob, which never changes. Only its length may become known later.
fn version(source: &Source, length: Option<u64>) -> Version {
    let etag = source.digest().map(|digest| format!("\"{digest}\""));
    Version { etag, last_modified: None, length, nonce: None }
}

fn agree(known: &Version, current: &Version) -> bool {
    known.length.is_none() || current.length.is_none() || known.length == current.length
}
