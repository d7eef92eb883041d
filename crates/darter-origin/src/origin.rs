//! The trait that every origin implements.
//!
//! It has two requests: *is the resource still the version that I know?* and *send me these bytes*. An answer to the second is never of another version than the requested one: if the resource has changed,
//! it is an error, so nobody mixes two versions.

use std::fmt;

use async_trait::async_trait;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Shown, Source, Version};

use crate::body::Body;
use crate::declared::Witness;
use crate::error::OriginError;

/// A resource as an origin describes it without sending it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The resource's version, as the origin tells it now.
    pub version: Version,
    /// The other headers of the answer, which say who else may get the content.
    pub shown: Shown,
    /// True if the known version is still current. False if none was given.
    pub unchanged: bool,
    /// True if the origin says that it serves ranges. False means only that it does not say so.
    pub ranges: bool,
}

/// An answer with bytes of a resource.
pub struct Reading {
    /// The version of the bytes; the expected version as it was given, if one was.
    pub version: Version,
    /// The other headers of the answer, which say who else may get these bytes.
    pub shown: Shown,
    /// The offset of the body's first byte in the resource, in bytes: the requested start, or 0 if the origin does not serve ranges.
    pub start: u64,
    /// True if the body is the requested range, and not the whole resource.
    pub is_part: bool,
    /// The length of the whole resource in bytes, if the origin says it.
    pub length: Option<u64>,
    /// Checks the whole against the hashes of the whole that this answer declares, if it does. The body itself
    /// checks declared hashes of a part.
    pub witness: Option<Witness>,
    /// The bytes, up to the end of the requested range (or of the resource, if the origin does not serve ranges).
    /// A body that ends too early is [`ErrorKind::Truncated`](crate::ErrorKind::Truncated).
    pub body: Body,
}

/// A place where bytes are stored.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Asks whether `known` is still current, with one cheap request if the origin supports that.
    ///
    /// # Errors
    /// Any [`OriginError`], which says whether another try makes sense.
    async fn stat(
        &self,
        source: &Source,
        credentials: &Credentials,
        known: Option<&Version>,
    ) -> Result<Stat, OriginError>;

    /// Reads the bytes of `range`, at most up to the end of the resource; without a range, all bytes.
    ///
    /// The range must start at a byte that exists, or at 0.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`](crate::ErrorKind::Changed) if the resource no longer has the version `expect`, or
    /// if nothing shows its version (no validators, no digest) and the range starts after the first byte.
    /// Otherwise any [`OriginError`], now or later in the body.
    async fn read(
        &self,
        source: &Source,
        credentials: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError>;

    /// True if requests also have something that is configured here (a login, headers, a certificate), not only the caller's credentials. Then a
    /// refusal may be due to that, and says nothing about agents with another configuration.
    async fn shows_own_keys(&self, _source: &Source, _credentials: &Credentials) -> bool {
        false
    }

    /// The resource's `Content-Disposition` (RFC 6266), which may have a name for its file, as the origin sends it.
    ///
    /// # Errors
    /// Any [`OriginError`].
    async fn disposition(&self, _: &Source, _: &Credentials) -> Result<Option<String>, OriginError> {
        Ok(None)
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("version", &self.version)
            .field("start", &self.start)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
