//! Distinguishes versions of a resource by what origins say of them (RFC 9110, sections 8.8 and 13).
//!
//! Two answers are of one version if nothing that both of them say differs. By the RFC, a strong entity tag alone would be enough; but some servers make tags of the file's size only (`FileETag Size`) or of its
//! inode, or never change them.

use std::time::UNIX_EPOCH;

use darter_core::Version;
use http::HeaderMap;
use http::header::{ETAG, HeaderValue, LAST_MODIFIED};

use crate::error::{ErrorKind, OriginError};
use crate::retry::random_u64;

/// The earliest date that is used, in seconds since 1970: no file on the web is older than the web. An earlier date is a placeholder: 1 January
/// 1970 (Nix and OSTree stores, reproducible builds) or 1980 (zip and jar files).
const FIRST_DATE: u64 = 631_152_000;

/// The version that the headers of a response describe. A version without validators is not the same as any other.
pub(crate) fn version_of(headers: &HeaderMap, length: Option<u64>) -> Version {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let date = headers.get(LAST_MODIFIED).and_then(text);
    let seconds = date.as_deref().and_then(seconds_of);
    let is_of_a_file = seconds.is_some_and(|seconds| seconds >= FIRST_DATE);
    // nginx makes its tag of date and length.
    let is_made_of_it = |etag: &str| {
        let marked = seconds.filter(|_| !is_of_a_file).map(|seconds| format!("{seconds:x}-"));
        marked.is_some_and(|marked| opaque(etag).trim_start_matches('"').starts_with(&marked))
    };
    let etag = headers.get(ETAG).and_then(text).filter(|etag| says_something(etag) && !is_made_of_it(etag));
    let version = Version { etag, last_modified: date.filter(|_| is_of_a_file), length, nonce: None };
    let nonce = (!version.has_validator()).then(random_u64);
    Version { nonce, ..version }
}

/// True if an entity tag is not empty.
fn says_something(etag: &str) -> bool {
    !matches!(opaque(etag.trim()), "" | "\"\"")
}

/// A date as seconds since 1970.
fn seconds_of(date: &str) -> Option<u64> {
    let parsed = httpdate::parse_http_date(date.trim()).ok()?;
    Some(parsed.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// True if no validator that both versions have differs. They may have none in common.
pub(crate) fn no_difference(one: &Version, other: &Version) -> bool {
    if let (Some(a), Some(b)) = (one.length, other.length)
        && a != b
    {
        return false;
    }
    let tags = one.etag.as_deref().zip(other.etag.as_deref());
    let dates = one.last_modified.as_deref().zip(other.last_modified.as_deref());
    tags.is_none_or(|(a, b)| opaque(a) == opaque(b)) && dates.is_none_or(|(a, b)| a == b)
}

/// True if `current` is the known version, according to the origin.
pub(crate) fn surely_same(known: &Version, current: &Version) -> bool {
    let comparable = (known.etag.is_some() && current.etag.is_some())
        || (known.last_modified.is_some() && current.last_modified.is_some());
    comparable && no_difference(known, current)
}

/// True if bytes of both may be combined. That requires a strong entity tag or, since many origins
/// have nothing better, a modification date: versions with the same weak tag have the same meaning, but maybe other bytes.
fn byte_for_byte(one: &Version, other: &Version) -> bool {
    let strong = |version: &Version| version.etag.as_deref().is_some_and(|etag| !etag.starts_with("W/"));
    let dated = one.last_modified.is_some() && one.last_modified == other.last_modified;
    no_difference(one, other) && ((strong(one) && strong(other)) || dated)
}

/// The version of an answer from byte `start` on: the expected one, if there is one and no validator contradicts it.
///
/// # Errors
/// [`ErrorKind::Changed`]; also if `start` is not zero and nothing shows that the bytes belong to the expected version, unless
/// the whole is `sealed` by a digest, which is checked in the end anyway.
pub(crate) fn settle(
    expect: Option<&Version>,
    current: Version,
    start: u64,
    sealed: bool,
    what: &dyn std::fmt::Display,
) -> Result<Version, OriginError> {
    let Some(expect) = expect else { return Ok(current) };
    if !no_difference(expect, &current) {
        return Err(OriginError::new(
            ErrorKind::Changed,
            format!("{what} changed while it was being read: start over to get the new version"),
        ));
    }
    if start > 0 && !sealed && !byte_for_byte(expect, &current) {
        return Err(OriginError::new(
            ErrorKind::Changed,
            format!("{what} has no strong ETag and no Last-Modified to continue by: start over"),
        ));
    }
    Ok(expect.clone())
}

/// The entity tag's opaque part: weak comparison ignores `W/`.
pub(crate) fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(etag: Option<&str>, date: Option<&str>, length: Option<u64>) -> Version {
        Version { etag: etag.map(Into::into), last_modified: date.map(Into::into), length, nonce: None }
    }

    #[test]
    fn nothing_that_both_say_may_differ() {
        let one = version(Some("\"a\""), Some("Mon"), Some(1));
        assert!(surely_same(&one, &version(Some("W/\"a\""), Some("Mon"), None)));
        // A tag made of the size alone, or that never changes.
        assert!(!surely_same(&one, &version(Some("\"a\""), Some("Tue"), Some(1))));
        assert!(!surely_same(&one, &version(Some("\"b\""), Some("Mon"), Some(1))));
        assert!(!surely_same(&one, &version(Some("\"a\""), Some("Mon"), Some(2))));
        assert!(surely_same(&one, &version(None, Some("Mon"), Some(1))));
        assert!(!surely_same(&one, &version(None, None, Some(1))));
    }

    #[test]
    fn what_every_file_may_be_marked_with_tells_nothing() {
        let told = |name, value: &'static str| {
            version_of(&HeaderMap::from_iter([(name, HeaderValue::from_static(value))]), None).has_validator()
        };
        for nothing in ["", "\"\"", "W/\"\"", "W/", " \"\" "] {
            assert!(!told(ETAG, nothing), "{nothing:?}");
        }
        assert!(told(ETAG, "\"0\"") && told(ETAG, "unquoted"));
        // NixOS/nixpkgs#25485, #48337: each file of the store was written in 1970.
        for nothing in ["", "0", "-1", "yes", "Thu, 01 Jan 1970 00:00:01 GMT", "Fri, 01 Feb 1980 00:00:00 GMT"] {
            assert!(!told(LAST_MODIFIED, nothing), "{nothing:?}");
        }
        let nginx = |etag: &'static str, date: &'static str| {
            let [etag, date] =
                [(ETAG, etag), (LAST_MODIFIED, date)].map(|(name, it)| (name, HeaderValue::from_static(it)));
            version_of(&HeaderMap::from_iter([etag, date]), None).has_validator()
        };
        assert!(!nginx("\"1-aae60\"", "Thu, 01 Jan 1970 00:00:01 GMT"));
        assert!(nginx("\"2ebc9b01-aae60\"", "Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(nginx("\"sri43wl3\"", "Thu, 01 Jan 1970 00:00:01 GMT"));
        for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert!(told(LAST_MODIFIED, date), "{date:?}");
        }
    }

    #[test]
    fn without_validators_only_the_beginning_can_be_trusted() {
        let known = version_of(&HeaderMap::new(), Some(9));
        let again = || version_of(&HeaderMap::new(), Some(9));
        assert_ne!(known, again());
        assert_eq!(settle(Some(&known), again(), 0, false, &"x").unwrap(), known);
        assert_eq!(settle(Some(&known), again(), 4, true, &"x").unwrap(), known);
        assert_eq!(*settle(Some(&known), again(), 4, false, &"x").unwrap_err().kind(), ErrorKind::Changed);
        let shorter = version_of(&HeaderMap::new(), Some(8));
        assert_eq!(*settle(Some(&known), shorter, 0, true, &"x").unwrap_err().kind(), ErrorKind::Changed);
    }
}
