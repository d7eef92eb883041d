//! Makes an [`OriginError`], which says what to do next, of an error of the HTTP stack or of an HTTP status.

use std::error::Error as StdError;
use std::time::Duration;

use http::header::{DATE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::client::address::{authority, place};
use crate::client::reach::{self, OutOfReach, Reach};
use crate::error::{ErrorKind, OriginError, status_text};

/// A server that had no more time than this to answer is not blamed.
const MIN_BLAMED_WAIT: Duration = Duration::from_millis(200);

/// The error if no answer came. `proxy` is the proxy through which the request was sent, if there is one.
pub(super) fn of_request(error: reqwest::Error, url: &Url, proxy: Option<&str>, reach: Reach) -> OriginError {
    if found(&error, |cause| cause.is::<OutOfReach>()) {
        return reach::refusal(reach, url).caused_by(error.without_url());
    }
    let host = authority(url);
    let (kind, text) = if let Some(proxy) = proxy
        && says(&error, "proxy authorization required")
    {
        return proxy_login(url, Some(proxy)).caused_by(error.without_url());
    } else if let Some(proxy) = proxy
        && is_refused_tunnel(&error)
    {
        let text = format!("the proxy {proxy} does not connect to {host}: check its rules, and that it reaches {host}");
        (ErrorKind::Unreachable, text)
    } else if not_tls(&error) {
        (ErrorKind::Tls, not_tls_text(&host))
    } else if let Some(alert) = refused_handshake(&error) {
        let text = format!(
            "{host} refused the TLS handshake ({alert}): it may want a client certificate, speak another version of TLS, or \
             not know itself by this name"
        );
        (ErrorKind::Tls, text)
    } else if tls_failed(&error) {
        (ErrorKind::Tls, format!("{host} can't be trusted over TLS: {}", certificate_advice(&error)))
    } else if let Some(proxy) = proxy
        && error.is_connect()
    {
        let text =
            format!("no connection to the proxy {proxy}, by which {host} is reached: check the proxy, or NO_PROXY");
        (if is_unknown_name(&error) { ErrorKind::UnknownName } else { ErrorKind::Unreachable }, text)
    } else if error.is_timeout() {
        // A registry at a port of its own is most likely one without TLS; its server waits for more of a request.
        let may_be_plain = url.scheme() == "https" && error.is_connect() && url.port().is_some();
        let or = if may_be_plain { format!("; {}", or_not_tls(&host)) } else { String::new() };
        (ErrorKind::Timeout, format!("{host} does not answer{}: check that the network reaches it{or}", by(proxy)))
    } else if error.is_dns() {
        let kind = if is_unknown_name(&error) { ErrorKind::UnknownName } else { ErrorKind::Unreachable };
        (kind, format!("the host name of {host} can't be resolved: check its spelling, and DNS"))
    } else if url.scheme() == "https" && error.is_connect() && hung_up(&error) {
        let text = format!("{host} broke the connection off during the TLS handshake: {}", or_not_tls(&host));
        (ErrorKind::Unreachable, text)
    } else if error.is_connect() {
        (
            ErrorKind::Unreachable,
            format!("no connection to {host}: check the host name and that the network reaches it"),
        )
    } else if error.is_builder() {
        (ErrorKind::Protocol, format!("no request can be made of {}: check the address", place(url)))
    } else if broke_off(&error) {
        (ErrorKind::Unreachable, format!("{host} broke the connection off before it answered{}", by(proxy)))
    } else {
        let by = by(proxy);
        (ErrorKind::Protocol, format!("{host} does not speak HTTP as it should{by}: check the port and the scheme"))
    };
    let unconnected = error.is_connect();
    // The address may hold a password.
    let failure = OriginError::new(kind, text).caused_by(error.without_url());
    if unconnected { failure.without_connection() } else { failure }
}

/// True if the host's name does not exist. A resolver that can't be reached reports something else
/// ("temporary failure").
fn is_unknown_name(error: &reqwest::Error) -> bool {
    error.is_dns() && (says(error, "not known") || says(error, "No address associated"))
}

/// The error for a kind of proxy that is not supported.
pub(super) fn unspoken_proxy(url: &Url, proxy: &str) -> OriginError {
    let host = authority(url);
    let text = format!(
        "the proxy {proxy}, by which {host} is to be reached, is no HTTP proxy, and SOCKS is not spoken: name one that begins with \
         http:// in HTTP_PROXY and HTTPS_PROXY, or exempt {host} in NO_PROXY"
    );
    OriginError::new(ErrorKind::Proxy, text)
}

/// The error if the first byte did not come in time.
pub(super) fn no_first_byte(url: &Url, proxy: Option<&str>, limit: Duration) -> OriginError {
    let text = format!(
        "{} accepted the request{} and did not answer for {} s (--origin-timeout): try later, or give it more time",
        authority(url),
        by(proxy),
        limit.as_secs_f64()
    );
    OriginError::new(ErrorKind::Timeout, text)
}

/// The error if the caller can't wait any longer for an answer of `who`.
pub(crate) fn no_answer_in(waited: Duration, who: &str) -> OriginError {
    let seconds = (waited.as_secs_f64() * 10.0).round() / 10.0;
    let text = match waited < MIN_BLAMED_WAIT {
        false => {
            format!("{who} has not answered for {seconds} s: check that it is well, and that the network reaches it")
        }
        true => format!("{who} was asked last, and there was no time left for its answer: ask again"),
    };
    OriginError::new(ErrorKind::Timeout, text)
}

/// The error if a proxy requires a login.
pub(super) fn proxy_login(url: &Url, proxy: Option<&str>) -> OriginError {
    let (proxy, host) = (proxy.unwrap_or("on the way"), authority(url));
    let text = format!(
        "the proxy {proxy}, by which {host} is reached, wants a login (HTTP 407 Proxy Authentication Required): put it \
         into HTTP_PROXY or HTTPS_PROXY, as http://USER:PASSWORD@HOST:PORT, or into the upstream's proxy-login-file"
    );
    OriginError::new(ErrorKind::Status(407), text)
}

/// True if a proxy refused to connect to the server, for a reason that the HTTP stack does not report.
pub(super) fn is_refused_tunnel(error: &reqwest::Error) -> bool {
    says(error, "tunnel error: unsuccessful")
}

/// The error for a proxy that refuses to connect to the server of `url` with this status. Its rules stay as they are until somebody changes them.
pub(super) fn of_tunnel(
    error: reqwest::Error,
    url: &Url,
    proxy: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> OriginError {
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return proxy_login(url, Some(proxy)).caused_by(error.without_url());
    }
    let (host, named) = (authority(url), status_text(status));
    let may_pass = status == StatusCode::TOO_MANY_REQUESTS || ErrorKind::Status(status.as_u16()).blame().may_pass();
    let (kind, advice) = match may_pass {
        true => (ErrorKind::Unreachable, format!("check that it reaches {host}, or ask who runs it")),
        false => (ErrorKind::Proxy, format!("allow {host} in its rules, or name {host} in NO_PROXY")),
    };
    let said = said_by_proxy(headers).map(|said| format!(" (it says: {said})")).unwrap_or_default();
    let text = format!("the proxy {proxy} does not connect to {host} (HTTP {named}): {advice}{said}");
    OriginError::new(kind, text)
        .caused_by(error.without_url())
        .asking_to_wait(retry_after(headers))
        .without_connection()
}

/// Names the proxy between this agent and the server.
fn by(proxy: Option<&str>) -> String {
    proxy.map(|proxy| format!(" by way of the proxy {proxy}")).unwrap_or_default()
}

/// The other possible reason why a TLS connection failed, for a message.
fn or_not_tls(host: &str) -> String {
    format!("if it does not speak TLS, write http:// in its address; for a registry without TLS, --plain-http {host}")
}

fn not_tls_text(host: &str) -> String {
    format!("{host} does not speak TLS: write http:// in its address; for a registry without TLS, --plain-http {host}")
}

/// The error for a body that ended too early.
pub(crate) fn of_body(error: reqwest::Error, what: &str) -> OriginError {
    let (kind, text) = if error.is_timeout() {
        (ErrorKind::Timeout, format!("{what} stopped in the middle: nothing came for too long"))
    } else {
        (ErrorKind::Truncated, format!("{what} ended before its end: the connection broke"))
    };
    OriginError::new(kind, text).caused_by(error.without_url())
}

/// The error for a status that is not a success.
pub fn of_status(status: StatusCode, headers: &HeaderMap, what: &str) -> OriginError {
    let named = status_text(status);
    let (kind, text) = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            (ErrorKind::NotFound, format!("{what}: HTTP {named}: check the address"))
        }
        StatusCode::UNAUTHORIZED => (
            ErrorKind::Unauthorized { challenge: challenges(headers) },
            format!(
                "{what}: HTTP {named}: pass credentials (-H 'Authorization: …'), or check that yours are still valid"
            ),
        ),
        StatusCode::FORBIDDEN => {
            (ErrorKind::Forbidden, format!("{what}: HTTP {named}: ask its owner for access with these credentials"))
        }
        StatusCode::TOO_MANY_REQUESTS => (
            ErrorKind::RateLimited { retry_after: retry_after(headers) },
            format!("{what}: HTTP {named}: wait, or pass credentials that have a higher limit"),
        ),
        StatusCode::PRECONDITION_FAILED => {
            (ErrorKind::Changed, format!("{what} changed while it was read (HTTP {named}): start over"))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            (ErrorKind::RangeNotSatisfiable, format!("{what}: HTTP {named}: it is shorter than the requested range"))
        }
        StatusCode::ACCEPTED => {
            (ErrorKind::Status(202), format!("{what}: HTTP {named}: the server is still preparing it; try again later"))
        }
        other if other.is_success() => {
            (ErrorKind::Status(other.as_u16()), format!("{what}: HTTP {named}: it has no content; check the address"))
        }
        other if other.is_server_error() => (
            ErrorKind::Status(other.as_u16()),
            format!("{what}: HTTP {named}: the server failed; try later, or ask who runs it"),
        ),
        other => (ErrorKind::Status(other.as_u16()), format!("{what}: HTTP {named}: check the address")),
    };
    let text = match said_by_proxy(headers) {
        Some(said) => format!("{text} (a proxy on the way says: {said})"),
        None => text,
    };
    OriginError::new(kind, text).asking_to_wait(retry_after(headers))
}

/// What a proxy says of an error that it answered itself (RFC 9209; Squid has a header of its own).
fn said_by_proxy(headers: &HeaderMap) -> Option<String> {
    let said = headers.get("proxy-status").or_else(|| headers.get("x-squid-error"))?;
    Some(said.to_str().ok()?.chars().take(200).collect())
}

fn challenges(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

/// The pause that `Retry-After` asks for, in seconds or as a date. A date is compared with the answer's own `Date`, if it has one, so
/// that the clocks of both hosts need not agree.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than a number can hold is for ever.
        return Some(text.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let theirs = headers.get(DATE).and_then(|value| date(value.to_str().ok()?));
    #[expect(clippy::disallowed_methods, reason = "wall-clock time, to compare with another's")]
    let now = theirs.unwrap_or_else(std::time::SystemTime::now);
    Some(date(text)?.duration_since(now).unwrap_or_default())
}

fn tls_failed(error: &reqwest::Error) -> bool {
    found(error, |cause| cause.is::<rustls::Error>())
}

/// The peer's reason for ending the TLS handshake, if it sent one.
fn refused_handshake(error: &reqwest::Error) -> Option<String> {
    let mut said = None;
    found(error, |cause| {
        if let Some(rustls::Error::AlertReceived(alert)) = cause.downcast_ref::<rustls::Error>() {
            said = Some(format!("{alert:?}"));
        }
        said.is_some()
    });
    said
}

/// Advice about a certificate that was not accepted.
fn certificate_advice(error: &reqwest::Error) -> &'static str {
    use rustls::CertificateError as Wrong;
    let mut advice = "check its certificate, or name its authority with --origin-ca FILE";
    found(error, |cause| {
        let Some(rustls::Error::InvalidCertificate(wrong)) = cause.downcast_ref::<rustls::Error>() else {
            return false;
        };
        advice = match wrong {
            Wrong::Expired | Wrong::ExpiredContext { .. } => {
                "its certificate has expired: renew it there, or set this host's clock right"
            }
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
                "its certificate is not valid yet: set this host's clock right"
            }
            Wrong::Revoked => "its certificate was revoked: replace it there",
            Wrong::UnknownIssuer => {
                "its certificate is signed by an authority that this host does not know: name that with --origin-ca FILE, or \
                 as `ca` of this upstream"
            }
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                "its certificate is for another name: use one that it names"
            }
            _ => advice,
        };
        true
    });
    advice
}

/// True if the peer did not answer the TLS handshake with TLS, like a plain HTTP server.
fn not_tls(error: &reqwest::Error) -> bool {
    found(error, |cause| {
        let wrong = cause.downcast_ref::<rustls::Error>();
        wrong.is_some_and(|wrong| matches!(wrong, rustls::Error::InvalidMessage(_)))
    })
}

/// True if the peer closed the connection during the TLS handshake without an alert.
fn hung_up(error: &reqwest::Error) -> bool {
    let is_end = |cause: &(dyn StdError + 'static)| {
        use std::io::ErrorKind as Io;
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(kind, Some(Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof))
    };
    says(error, "tls handshake eof") || found(error, is_end)
}

/// True if the server requires HTTP/1.1 for the request (RFC 9113, `HTTP_1_1_REQUIRED`), as some do for paths with client certificates or
/// with logins that are valid for a connection.
pub(super) fn wants_http1(error: &reqwest::Error) -> bool {
    says(error, "endpoint requires HTTP/1.1")
}

/// True if an existing connection broke before an answer came. This includes a connection that died silently, but no wrong answer.
pub(super) fn broke_off(error: &reqwest::Error) -> bool {
    let made = !error.is_connect() && !error.is_builder();
    made && found(error, |cause| {
        cause.is::<std::io::Error>() || cause.downcast_ref::<hyper::Error>().is_some_and(|error| !error.is_parse())
    })
}

/// True if the message of one of `error`'s causes contains `text`.
fn says(error: &reqwest::Error, text: &str) -> bool {
    found(error, |cause| cause.to_string().contains(text))
}

/// True if `is_it` is true for a cause of `error`, or for the inner error of a cause that is an I/O error.
fn found(error: &reqwest::Error, mut is_it: impl FnMut(&(dyn StdError + 'static)) -> bool) -> bool {
    let mut cause = error.source();
    while let Some(this) = cause {
        if is_it(this) {
            return true;
        }
        // An I/O error's `source()` skips the error that it carries.
        let carried = this.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(carried) = carried
            && is_it(carried)
        {
            return true;
        }
        cause = carried.map_or_else(|| this.source(), |carried| Some(carried as &(dyn StdError + 'static)));
    }
    false
}
