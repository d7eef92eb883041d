//! Rules for sharing: a caller may have bytes that another caller's credentials opened, or gets a download of its own
//! under a name of its own.
//!
//! Content without a registry's digest is shared only where the caller's *own* answer from the origin shows the same
//! representation (RFC 9110, section 3.2) as the answer that the bytes came with: the same resource after redirects, and
//! the same strong entity tag, or the same date of modification and length. Content that an origin marks as meant for one
//! caller (`private`, `Set-Cookie`, `Vary` on a header that authorises) is shared among equal credentials only;
//! `no-store` among those who come while it is under way.
//!
//! Invariant: equal names mean shareable content. Nodes give what they hold under a name that their lead tells them, so
//! whatever keeps two callers apart is part of the name: see [`own_version`].
//!
//! Credentials and addresses are kept as hashes: both may hold secrets.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::id::named;
use crate::signature;
use crate::source::{Source, Version};

/// A date of modification this near to the answer's own date may stand for two states, if clocks differ: seconds.
const MIN_AGE: u32 = 60;

/// The address of a resource, after redirects, without the parameters that sign it: hashes that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// All of it.
    whole: [u8; 16],
    /// All but the query.
    path: [u8; 16],
    /// The server alone.
    host: [u8; 16],
    /// The last part of the path, with the query.
    file: [u8; 16],
}

/// For whom an answer is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reach {
    /// Everybody who is shown the same.
    #[default]
    Anyone,
    /// Those with the same credentials.
    SameCredentials,
    /// Nobody later: it is not to be stored.
    NoStore,
}

/// The headers of an answer that describe its representation, besides those of its [`Version`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The address at which it was found; `None` for origins without redirects.
    pub address: Option<Address>,
    /// Seconds from `Last-Modified` to the answer's `Date`, if it has both.
    pub age: Option<u32>,
    /// For whom it is meant.
    pub reach: Reach,
}

/// One caller's answer: the caller, and what the answer showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// [`Credentials::fingerprint`](crate::source::Credentials::fingerprint) of who asked.
    pub by: [u8; 32],
    /// The headers of the answer; `None` where only the lead saw it.
    pub shown: Option<Shown>,
}

impl Address {
    /// The address of `url`.
    pub fn of(url: &Url) -> Self {
        Self::of_signed(url, &[])
    }

    /// The address of `url`, where the parameters `more` sign addresses, too; in lower case.
    pub fn of_signed(url: &Url, more: &[String]) -> Self {
        let mut url = url.clone();
        url.set_fragment(None);
        // Only addresses without a host refuse, and those have no user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        signature::take(&mut url, more);
        let host = format!("{} {} {:?}", url.scheme(), url.host_str().unwrap_or_default(), url.port_or_known_default());
        let file = url.path().rsplit('/').next().unwrap_or_default();
        let query = url.query().unwrap_or_default();
        Self {
            whole: mark(&[&host, url.path(), query]),
            path: mark(&[&host, url.path()]),
            host: mark(&[&host]),
            file: mark(&[file, query]),
        }
    }
}

/// What is known of the bytes that a caller wants to have.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContentFacts {
    /// True if the source has a digest.
    pub has_digest: bool,
    /// True while the bytes are still being read.
    pub under_way: bool,
}

/// True if a caller may have the `content` that is known: `own` is what the caller's own answer showed a moment ago.
pub fn may_share(known: (&Version, &Fetched), own: (&Version, &Fetched), content: ContentFacts) -> bool {
    let ContentFacts { has_digest, under_way } = content;
    let (Some(own_shown), same_credentials) = (own.1.shown, known.1.by == own.1.by) else { return false };
    let Some(known_shown) = known.1.shown else {
        // The lead let these credentials in before. The stored answer's headers are not known here: the version has to tell.
        let stored = own_shown.reach < Reach::NoStore || under_way;
        return same_credentials && stored && same_version(known.0, own.0);
    };
    let allowed = AllowedDifference { query: has_digest, mirror: same_credentials };
    if !same_place(&known_shown, &own_shown, allowed) || !lengths_agree(known.0, own.0) {
        return false;
    }
    match known_shown.reach.max(own_shown.reach) {
        Reach::NoStore => same_credentials && under_way && same_version(known.0, own.0),
        _ if same_credentials => {
            has_digest || (under_way && !known.0.has_validator() && !own.0.has_validator()) || {
                // Written again within the second of its date, a file may differ and have the same date.
                let dated_only = known.0.etag.is_none() || own.0.etag.is_none();
                let settled = under_way || !dated_only || known_shown.age != Some(0);
                settled && same_version(known.0, own.0)
            }
        }
        Reach::SameCredentials => false,
        Reach::Anyone => {
            same_version(known.0, own.0)
                && (same_strong_tag(known.0, own.0)
                    || (proves_by_date(known.0, &known_shown) && proves_by_date(own.0, &own_shown)))
        }
    }
}

/// The version under which a caller's own download is stored: `version` as the origin told it, with a number that
/// keeps it apart from what others are shown where the name alone would not. `random` is a number nobody else drew.
pub fn own_version(source: &Source, version: &Version, fetched: &Fetched, random: u64) -> Version {
    if !version.has_validator() {
        return Version { nonce: Some(random), ..version.clone() };
    }
    let shown = fetched.shown.unwrap_or_default();
    let by = (!is_for_anyone(version, &shown)).then_some(fetched.by);
    let here = if let Source::Url { url, .. } = source { Some(Address::of(url)) } else { None };
    let elsewhere = shown.address.filter(|address| here.is_none_or(|here| here.whole != address.whole));
    let nonce = (by.is_some() || elsewhere.is_some()).then(|| {
        let by = by.as_ref().map_or(&[][..], |by| &by[..]);
        let elsewhere = elsewhere.as_ref().map_or(&[][..], |address| &address.whole[..]);
        let id = named("darter 2026-11 own download", &[by, elsewhere]);
        u64::from_le_bytes(id.0[..8].try_into().expect("eight bytes"))
    });
    Version { nonce, ..version.clone() }
}

/// True if all callers that are shown the same headers may have the content, and the validators suffice to tell.
pub fn is_for_anyone(version: &Version, shown: &Shown) -> bool {
    shown.reach == Reach::Anyone && (strong(version).is_some() || proves_by_date(version, shown))
}

/// True if both answers tell of the same state of one resource, as far as the origin's word goes.
fn same_version(one: &Version, other: &Version) -> bool {
    if !lengths_agree(one, other) {
        return false;
    }
    let same_date = one.last_modified.is_some() && one.last_modified == other.last_modified;
    match (&one.etag, &other.etag) {
        (Some(a), Some(b)) if opaque(a) == opaque(b) => {
            // A weak tag vouches for the meaning only, and a strong one may be made of the size: a date, where both have
            // one, has to agree.
            let dated = one.last_modified.is_some() && other.last_modified.is_some();
            same_date || !dated
        }
        (Some(_), Some(_)) => false,
        _ => same_date,
    }
}

/// What may differ between two addresses of one resource.
#[derive(Clone, Copy)]
struct AllowedDifference {
    /// The query, at the same path.
    query: bool,
    /// The server and the path before the file's name: redirected to another mirror.
    mirror: bool,
}

fn same_place(known: &Shown, own: &Shown, allowed: AllowedDifference) -> bool {
    let (Some(known), Some(own)) = (&known.address, &own.address) else { return known.address == own.address };
    let same_path = allowed.query && known.path == own.path;
    let same_file = allowed.mirror && known.host != own.host && known.file == own.file;
    known.whole == own.whole || same_path || same_file
}

fn lengths_agree(one: &Version, other: &Version) -> bool {
    one.length.is_none() || other.length.is_none() || one.length == other.length
}

fn same_strong_tag(one: &Version, other: &Version) -> bool {
    strong(one).is_some() && strong(one) == strong(other)
}

fn strong(version: &Version) -> Option<&str> {
    version.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
}

fn proves_by_date(version: &Version, shown: &Shown) -> bool {
    version.last_modified.is_some() && version.length.is_some() && shown.age.is_some_and(|age| age >= MIN_AGE)
}

fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn mark(parts: &[&str]) -> [u8; 16] {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    let id = named("darter 2026-11 address", &parts);
    id.0[..16].try_into().expect("sixteen bytes")
}

#[cfg(test)]
mod tests;
