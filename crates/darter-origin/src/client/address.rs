//! Addresses as messages and settings have them.

use darter_core::signature;
use url::Url;

/// An address without its password and what signs it, for messages.
pub(crate) fn shown(url: &Url) -> String {
    let mut bare = url.clone();
    signature::take(&mut bare, &[]);
    // Only addresses without a host refuse, and those have no user either.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare.to_string()
}

/// `host` or `host:port`, as registries are named; the port of the scheme is left out.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
