//! Which pages at other paths of the registry the mirror follows: those to which the registry itself linked.
//!
//! A link to such a page has the page's path in its query, and the mirror requests the page with the login that is
//! configured for the registry, if the caller brings none. To keep a caller from using that login for a path of their
//! choice, each link has a code (a BLAKE3 value under a key of this process) over the registry, the repository, the page,
//! and whether the caller brought credentials. The code does not cover the credentials themselves: tokens change between two pages, and
//! the registry checks callers that bring their own.
//!
//! After a restart the key is another one, and a list has to be requested from its beginning.

use rustix::rand::GetRandomFlags;
use url::Url;

/// The key. `None` if the system has no random numbers: then no such link is made, and no such page followed.
pub(crate) struct Pages(Option<[u8; blake3::KEY_LEN]>);

/// One page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'a> {
    /// The registry's base address.
    pub(crate) base: &'a Url,
    /// The repository whose list it belongs to, by its name at the registry.
    pub(crate) repository: &'a str,
    /// True if the caller brings credentials.
    pub(crate) has_credentials: bool,
    /// The path and query at the registry.
    pub(crate) path: &'a str,
}

impl Pages {
    /// With a new random key.
    pub(crate) fn new() -> Self {
        let mut key = [0; blake3::KEY_LEN];
        let drawn = rustix::rand::getrandom(&mut key[..], GetRandomFlags::empty());
        Self((drawn == Ok(key.len())).then_some(key))
    }

    /// The code in a link to the page.
    pub(crate) fn code(&self, page: Page<'_>) -> Option<String> {
        Some(self.hash(page)?.to_hex().to_string())
    }

    /// True if `code` is the code of the page.
    pub(crate) fn is_code(&self, page: Page<'_>, code: &str) -> bool {
        // The comparison takes constant time.
        blake3::Hash::from_hex(code).is_ok_and(|code| self.hash(page) == Some(code))
    }

    fn hash(&self, page: Page<'_>) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(self.0.as_ref()?);
        for part in [page.base.as_str(), page.repository, page.path] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&[u8::from(page.has_credentials)]);
        Some(hasher.finalize())
    }
}
