//! Addresses as they appear in messages and settings.

use darter_core::signature;
use url::Url;

/// An address without its password and its signature, for messages.
pub(crate) fn shown(url: &Url) -> String {
    let mut bare = url.clone();
    signature::take(&mut bare, &[]);
    // Only addresses without a host refuse, and those have no user either.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare.to_string()
}

/// An address without its query, password and signature, for addresses to which a redirect led: any part of their query may be a
/// signature of some store.
pub(super) fn place(url: &Url) -> String {
    let mut bare = url.clone();
    bare.set_query(None);
    shown(&bare)
}

/// `host` or `host:port`, as registries are named; the port of the scheme is left out.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signature_is_shown_and_nothing_at_all_of_a_redirects_query() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        assert_eq!(shown(&url("https://me:pw@a.lab/x?id=1&X-Amz-Signature=s")), "https://a.lab/x?id=1");
        // Microsoft's and Docker Hub's registries lead to these.
        for signed in ["https://me:pw@a.lab/x?P1=1&P2=601&P3=2&P4=s", "https://a.lab/x?verify=1700000000-s#part"] {
            assert!(
                place(&url(signed)).starts_with("https://a.lab/x") && !place(&url(signed)).contains('?'),
                "{signed}"
            );
        }
    }
}
