//! Telling two states of a resource apart by what origins say of them (RFC 9110, sections 8.8 and 13).

use darter_core::Version;
use http::HeaderMap;
use http::header::{ETAG, LAST_MODIFIED};

use crate::error::{ErrorKind, OriginError};
use crate::retry::random_u64;

/// The version that response headers tell of. Without a validator it is unlike every other one.
pub(crate) fn version_of(headers: &HeaderMap, length: Option<u64>) -> Version {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let version = Version { etag: text(ETAG), last_modified: text(LAST_MODIFIED), length, nonce: None };
    let nonce = (!version.has_validator()).then(random_u64);
    Version { nonce, ..version }
}

/// Whether nothing tells the two apart. Says little when they have no validator in common.
pub(crate) fn no_difference(one: &Version, other: &Version) -> bool {
    if let (Some(a), Some(b)) = (one.length, other.length)
        && a != b
    {
        return false;
    }
    match (&one.etag, &other.etag) {
        (Some(a), Some(b)) => opaque(a) == opaque(b),
        _ => match (&one.last_modified, &other.last_modified) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        },
    }
}

/// Whether `current` is the version that was known, as far as the origin's word goes.
pub(crate) fn surely_same(known: &Version, current: &Version) -> bool {
    let comparable = (known.etag.is_some() && current.etag.is_some())
        || (known.last_modified.is_some() && current.last_modified.is_some());
    comparable && no_difference(known, current)
}

/// Whether bytes of the one may stand beside bytes of the other: that takes a strong entity tag or, since many origins
/// have nothing better, a modification date. A weak tag vouches for the meaning, not for the bytes.
fn byte_for_byte(one: &Version, other: &Version) -> bool {
    let strong = |version: &Version| version.etag.as_deref().is_some_and(|etag| !etag.starts_with("W/"));
    let dated = one.last_modified.is_some() && one.last_modified == other.last_modified;
    no_difference(one, other) && ((strong(one) && strong(other)) || dated)
}

/// The version that a reading from byte `start` has: the expected one where there is one and nothing speaks against it.
///
/// # Errors
/// [`ErrorKind::Changed`]; also when bytes from the middle can't be shown to belong to the expected version, unless
/// the whole is `sealed` by a digest that is checked in the end anyway.
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
    fn the_strongest_common_validator_decides() {
        let one = version(Some("\"a\""), Some("Mon"), Some(1));
        assert!(surely_same(&one, &version(Some("W/\"a\""), Some("Tue"), None)));
        assert!(!surely_same(&one, &version(Some("\"b\""), Some("Mon"), Some(1))));
        assert!(!surely_same(&one, &version(Some("\"a\""), Some("Mon"), Some(2))));
        assert!(surely_same(&one, &version(None, Some("Mon"), Some(1))));
        assert!(!surely_same(&one, &version(None, None, Some(1))));
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
