//! Blobs of a registry as an [`Origin`].
//!
//! A blob's digest is its version: nothing else has to be compared, whatever validators the store behind a redirect
//! gives. Its digest is checked by who reads it.

use async_trait::async_trait;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Digest, Shown, Source, Version};
use http::{HeaderMap, Method};
use url::Url;

use crate::client::Requester;
use crate::error::{ErrorKind, OriginError};
use crate::origin::{Origin, Reading, Stat};
use crate::registry::client::RegistryClient;
use crate::web::{self, Part};

/// Reads [`Source::Registry`].
#[derive(Clone, Debug)]
pub struct RegistryOrigin {
    client: RegistryClient,
    requester: Requester,
}

impl RegistryOrigin {
    /// Reads through `client`, for programs of this host.
    pub const fn new(client: RegistryClient) -> Self {
        Self { client, requester: Requester::Here }
    }

    /// Reads for somebody else.
    pub(crate) const fn set_requester(&mut self, requester: Requester) {
        self.requester = requester;
    }
}

/// The parts of a registry's source.
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
        let upstream = self.client.upstreams().at_for(registry, self.requester);
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
        let upstream = self.client.upstreams().at_for(registry, self.requester);
        let path = format!("/v2/{repository}/blobs/{digest}");
        let answer = self.client.send(&upstream, Method::GET, &path, headers, credentials).await?;
        let part = Part::of(answer.status, &answer.headers, range, source)?;
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
            length: part.length,
            witness: None,
            body: crate::body::checked(answer.body, part.bytes, source.to_string()),
        })
    }
}

/// A blob never changes; only what is known of its length does.
fn version(source: &Source, length: Option<u64>) -> Version {
    let etag = source.digest().map(|digest| format!("\"{digest}\""));
    Version { etag, last_modified: None, length, nonce: None }
}

fn agree(known: &Version, current: &Version) -> bool {
    known.length.is_none() || current.length.is_none() || known.length == current.length
}
