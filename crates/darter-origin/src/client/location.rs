//! Redirects: where they lead, and which headers may be sent there.

use http::header::LOCATION;
use http::{HeaderMap, HeaderName, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use url::Url;

use crate::client::address::place;
use crate::error::{ErrorKind, OriginError, status_text};

/// The ASCII characters that are escaped before [`Url`] parses an address. Bytes outside ASCII are always escaped.
const NOT_ASCII: &AsciiSet = CONTROLS;

/// The address to which a response redirects; `None` if it is not a redirect.
///
/// `Location` may have any bytes: addresses in UTF-8, or in another encoding, are in use. They are escaped byte by byte,
/// as curl and browsers do.
///
/// # Errors
/// [`ErrorKind::Protocol`] if it does not redirect to an HTTP address.
pub(super) fn redirect_target(response: &reqwest::Response) -> Result<Option<Url>, OriginError> {
    let follows = [
        // A client that names one of several choices means it.
        StatusCode::MULTIPLE_CHOICES,
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !follows.contains(&response.status()) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    target(response.status(), response.url(), location.as_bytes()).map(Some)
}

/// `location` as an absolute address; it may be relative to `from`. `status` is that of the redirect.
fn target(status: StatusCode, from: &Url, location: &[u8]) -> Result<Url, OriginError> {
    let wrong = |text: String| {
        let text = format!("{} redirects (HTTP {}) to {text}", place(from), status_text(status));
        OriginError::new(ErrorKind::Protocol, text)
    };
    let escaped;
    let text = match std::str::from_utf8(location) {
        Ok(text) => text,
        Err(_) => {
            escaped = percent_encode(location, NOT_ASCII).to_string();
            &escaped
        }
    };
    let told = text.split('?').next().unwrap_or_default();
    let target = from
        .join(text)
        .map_err(|error| wrong(format!("{told:?}, which is no address: ask who runs the server")).caused_by(error))?;
    if matches!(target.scheme(), "http" | "https") {
        return Ok(target);
    }
    Err(wrong(format!("{}, which is not HTTP: ask who runs the server", place(&target))))
}

/// Parts of the names of headers that identify the caller.
const CREDENTIALS: [&str; 15] = [
    "assertion",
    "auth",
    "cookie",
    "credential",
    "csrf",
    "jfrog",
    "jwt",
    "key",
    "passw",
    "secret",
    "session",
    "signature",
    "ticket",
    "token",
    "xsrf",
];

/// Removes the headers that authorise. The others may be sent to another server to which a redirect leads.
pub(super) fn remove_credentials(headers: &mut HeaderMap) {
    let is_credential = |name: &HeaderName| CREDENTIALS.iter().any(|part| name.as_str().contains(part));
    let names: Vec<_> = headers.keys().filter(|name| is_credential(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// True if credentials for `from` may be sent to `to`: it is the same server, or the same host by HTTPS instead of HTTP.
pub(crate) fn keeps_credentials(from: &Url, to: &Url) -> bool {
    let moves_up = from.scheme() == "http" && to.scheme() == "https" && from.port().is_none() && to.port().is_none();
    same_server(from, to) || (from.host() == to.host() && moves_up)
}

/// True if two addresses have the same scheme, host and port.
pub(crate) fn same_server(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(location: &[u8]) -> String {
        target(StatusCode::FOUND, &"https://a.lab/dir/file?q".parse().unwrap(), location).unwrap().to_string()
    }

    #[test]
    fn a_location_may_be_relative_and_hold_any_bytes() {
        assert_eq!(leads(b"other"), "https://a.lab/dir/other");
        assert_eq!(leads(b"//b.lab/x"), "https://b.lab/x");
        assert_eq!(leads(" https://b.lab/é ü?ñ=1 ".as_bytes()), "https://b.lab/%C3%A9%20%C3%BC?%C3%B1=1");
        assert_eq!(leads("/already/%C3%A9/é".as_bytes()), "https://a.lab/already/%C3%A9/%C3%A9");
        assert_eq!(leads(b"/latin-\xe9"), "https://a.lab/latin-%E9");
        assert_eq!(leads("https://bücher.lab/".as_bytes()), "https://xn--bcher-kva.lab/");
    }

    #[test]
    fn what_authorises_stays_behind_and_the_rest_goes_on() {
        let names = "authorization cookie private-token x-api-key x-jfrog-art-api-key x-auth-email x-session \
                     x-jfrog-art-api x-csrf x-hub-signature-256 x-design user-agent x-team referer";
        let mut headers: HeaderMap =
            names.split(' ').map(|name| (HeaderName::from_static(name), http::HeaderValue::from_static("x"))).collect();
        remove_credentials(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["referer", "user-agent", "x-design", "x-team"]);
    }

    #[test]
    fn what_is_no_http_address_is_named() {
        for (location, named) in [(&b"http://[half?P4=pw"[..], "no address"), (b"ftp://b.lab/x?P4=pw", "not HTTP")] {
            let from = "https://me:pw@a.lab/?verify=pw".parse().unwrap();
            let error = target(StatusCode::FOUND, &from, location).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("pw"), "{error}");
        }
    }
}
