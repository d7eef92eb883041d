//! [`Origins`]: chooses the [`Origin`] of each [`Source`], and tries again if that makes sense.
//!
//! Only requests for an answer are repeated. If a body breaks off, its reader continues it, by range and with the version that it has.

use async_trait::async_trait;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Source, Version};

use crate::client::{HttpClient, Requester};
use crate::error::{ErrorKind, OriginError};
use crate::file::FileOrigin;
use crate::origin::{Origin, Reading, Stat};
use crate::pauses::Pauses;
use crate::registry::{RegistryClient, RegistryOrigin};
use crate::retry::{RetryPolicy, retry_noting};
use crate::web::HttpOrigin;

/// All origins of an agent.
#[derive(Clone, Debug)]
pub struct Origins {
    web: HttpOrigin,
    registry: RegistryOrigin,
    files: Option<FileOrigin>,
    policy: RetryPolicy,
    pauses: Pauses,
}

impl Origins {
    /// Web servers and registries, without local files.
    pub fn new(http: HttpClient, registry: RegistryClient) -> Self {
        Self {
            web: HttpOrigin::new(http),
            registry: RegistryOrigin::new(registry),
            files: None,
            policy: RetryPolicy::default(),
            pauses: Pauses::default(),
        }
    }

    /// These origins, with local files.
    #[must_use]
    pub fn with_files(mut self, files: FileOrigin) -> Self {
        self.files = Some(files);
        self
    }

    /// These origins, with another policy for retries.
    #[must_use]
    pub const fn with_retries(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// These origins, without retries: for callers that know that others have just retried in vain.
    #[must_use]
    pub fn once(&self) -> Self {
        self.clone().with_retries(RetryPolicy::never())
    }

    /// These origins, asked for `requester`, on which it depends which addresses may be reached.
    #[must_use]
    pub fn for_requester(&self, requester: Requester) -> Self {
        let mut origins = self.clone();
        origins.web.set_requester(requester);
        origins.registry.set_requester(requester);
        origins
    }

    /// The origins that are being waited for.
    pub fn pauses(&self) -> Pauses {
        self.pauses.clone()
    }

    fn of(&self, source: &Source) -> Result<&dyn Origin, OriginError> {
        let url = match source {
            Source::Url { url, .. } => url,
            // A registry's origin says of an expanded layer that it has none: an agent that can make one reads the layer.
            Source::Registry { .. } | Source::Expanded(_) => return Ok(&self.registry),
        };
        match (url.scheme(), &self.files) {
            ("http" | "https", _) => Ok(&self.web),
            ("file", Some(files)) => Ok(files),
            ("file", None) => {
                let text = format!(
                    "{source} is a local file, which a daemon reads for nobody: serve it over HTTP, or use `darter get \
                     --no-daemon`"
                );
                Err(OriginError::new(ErrorKind::Forbidden, text))
            }
            (scheme, _) => {
                let text = format!("{scheme} addresses can't be read: write http://, https:// or file://");
                Err(OriginError::new(ErrorKind::Protocol, text))
            }
        }
    }
}

#[async_trait]
impl Origin for Origins {
    async fn stat(
        &self,
        source: &Source,
        credentials: &Credentials,
        known: Option<&Version>,
    ) -> Result<Stat, OriginError> {
        let origin = self.of(source)?;
        let note = |error: &OriginError, pause| self.pauses.begin(source, error.to_string(), pause);
        retry_noting(self.policy, || origin.stat(source, credentials, known), note).await
    }

    async fn read(
        &self,
        source: &Source,
        credentials: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let origin = self.of(source)?;
        let note = |error: &OriginError, pause| self.pauses.begin(source, error.to_string(), pause);
        retry_noting(self.policy, || origin.read(source, credentials, range, expect), note).await
    }

    async fn shows_own_keys(&self, source: &Source, credentials: &Credentials) -> bool {
        match self.of(source) {
            Ok(origin) => origin.shows_own_keys(source, credentials).await,
            Err(_) => false,
        }
    }

    async fn disposition(&self, source: &Source, credentials: &Credentials) -> Result<Option<String>, OriginError> {
        self.of(source)?.disposition(source, credentials).await
    }
}
