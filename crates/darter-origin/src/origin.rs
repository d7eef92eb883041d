//! The trait that every origin implements.
//!
//! Two questions are enough: *is it still what I know?* and *send me the bytes from here on*. An answer to the second
//! is never of another version than the one asked for: a changed origin is an error, so nobody mixes two versions.

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
    /// The other headers of the answer: they say who else may have what is known.
    pub shown: Shown,
    /// True if the known version is still current. False when none was given.
    pub unchanged: bool,
    /// True if the origin says that it serves ranges. False means only that it did not say so.
    pub ranges: bool,
}

/// Bytes of a resource, being read.
pub struct Reading {
    /// The version these bytes belong to; the expected one, as it was given, when one was.
    pub version: Version,
    /// The other headers of the answer: they say who else may have these bytes.
    pub shown: Shown,
    /// Offset in the resource of the body's first byte: the start asked for, or 0 from an origin that can't do ranges.
    pub start: u64,
    /// True if the body is the range that was asked for, and not all of the resource.
    pub is_part: bool,
    /// Length of the whole resource in bytes, if the origin told.
    pub length: Option<u64>,
    /// Checks the whole against what the origin declares of it in this answer, of whatever part of it. The body itself
    /// checks what the origin declares of a part.
    pub witness: Option<Witness>,
    /// The bytes. Ends at the end of the range asked for (of the resource, from an origin that can't do ranges).
    /// A body that ends early is [`ErrorKind::Truncated`](crate::ErrorKind::Truncated).
    pub body: Body,
}

/// A place where bytes are stored.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Asks whether `known` is still current, in one cheap request where the origin answers it.
    ///
    /// # Errors
    /// Any [`OriginError`]; those that make sense to try again say so.
    async fn stat(
        &self,
        source: &Source,
        credentials: &Credentials,
        known: Option<&Version>,
    ) -> Result<Stat, OriginError>;

    /// Reads the bytes of `range` (to the end of the resource if the range goes past it; all of them without a range).
    ///
    /// The range's start must be of a byte that exists, or 0.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`](crate::ErrorKind::Changed) when the resource is no longer of the version `expect`, or
    /// when nothing tells whether it is (no validators, no digest) and the range starts after the first byte.
    /// Else any [`OriginError`], now or later in the body.
    async fn read(
        &self,
        source: &Source,
        credentials: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError>;

    /// True if a reading shows something that is configured here (a login, headers, a certificate) besides what the caller brought: then a
    /// refusal may be meant for that, and tells nothing to those who are configured otherwise.
    async fn shows_own_keys(&self, _source: &Source, _credentials: &Credentials) -> bool {
        false
    }

    /// The origin's name for the resource when it is kept as a file: its `Content-Disposition` (RFC 6266), as it stands.
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
