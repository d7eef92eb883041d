//! Which pages at paths of the registry's own the mirror goes to: those that the registry itself linked.
//!
//! A link to such a page names the page's path in its query, and the request for it is made with the login that is
//! configured for the registry, if the caller brings none. So that nobody can have that login spent on a path of their
//! choice, each link bears a code (a BLAKE3 value under a key of this process) over the registry, the repository, the page,
//! and whether the caller brought credentials. It says nothing of which credentials: tokens change between two pages, and
//! the registry judges whoever brings their own.
//!
//! After a restart the key is another, and a list begins anew.

use rustix::rand::GetRandomFlags;
use url::Url;

/// The key. None where the system has no random numbers: no link is made then, and no page is gone to.
pub(crate) struct Pages(Option<[u8; blake3::KEY_LEN]>);

/// One page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'a> {
    /// The registry's base address.
    pub(crate) base: &'a Url,
    /// The repository whose list it belongs to, as the registry names it.
    pub(crate) repository: &'a str,
    /// True if the caller brings credentials.
    pub(crate) has_credentials: bool,
    /// The page's own path and query.
    pub(crate) path: &'a str,
}

impl Pages {
    /// With a key of their own.
    pub(crate) fn new() -> Self {
        let mut key = [0; blake3::KEY_LEN];
        let drawn = rustix::rand::getrandom(&mut key[..], GetRandomFlags::empty());
        Self((drawn == Ok(key.len())).then_some(key))
    }

    /// The code that a link to the page bears.
    pub(crate) fn code(&self, page: Page<'_>) -> Option<String> {
        Some(self.hash(page)?.to_hex().to_string())
    }

    /// True if this is the code of the page.
    pub(crate) fn is_code(&self, page: Page<'_>, code: &str) -> bool {
        // Two such values are compared in constant time.
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
