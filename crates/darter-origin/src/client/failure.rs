//! From what the HTTP stack reports, and from statuses, to an [`OriginError`] that says what to do next.

use std::error::Error as StdError;
use std::time::Duration;

use http::header::{DATE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::client::{authority, shown};
use crate::error::{ErrorKind, OriginError};

/// Why no answer came.
pub(super) fn of_request(error: reqwest::Error, url: &Url) -> OriginError {
    let host = authority(url);
    let (kind, text) = if error.is_timeout() {
        (ErrorKind::Timeout, format!("{host} does not answer: check that the network reaches it"))
    } else if error.is_dns() {
        (ErrorKind::Unreachable, format!("the host name of {host} can't be resolved: check its spelling, and DNS"))
    } else if tls_failed(&error) {
        (
            ErrorKind::Tls,
            format!(
                "{host} can't be trusted over TLS: check its certificate, or name its authority in the configuration"
            ),
        )
    } else if error.is_connect() {
        (
            ErrorKind::Unreachable,
            format!("no connection to {host}: check the host name and that the network reaches it"),
        )
    } else if error.is_builder() {
        (ErrorKind::Protocol, format!("no request can be made of {}: check the address", shown(url)))
    } else if broke_off(&error) {
        (ErrorKind::Unreachable, format!("{host} broke the connection off before it answered"))
    } else {
        (ErrorKind::Protocol, format!("{host} does not speak HTTP as it should: check the port and the scheme"))
    };
    // The address may hold a password.
    OriginError::new(kind, text).caused_by(error.without_url())
}

/// Why a body ended before its end.
pub(crate) fn of_body(error: reqwest::Error, what: &str) -> OriginError {
    let (kind, text) = if error.is_timeout() {
        (ErrorKind::Timeout, format!("{what} stopped in the middle: nothing came for too long"))
    } else {
        (ErrorKind::Truncated, format!("{what} ended before its end: the connection broke"))
    };
    OriginError::new(kind, text).caused_by(error.without_url())
}

/// What a status that is not a success stands for.
pub(crate) fn of_status(status: StatusCode, headers: &HeaderMap, what: &str) -> OriginError {
    let (kind, text) = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            (ErrorKind::NotFound, format!("{what} does not exist: check the address"))
        }
        StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => (
            ErrorKind::Unauthorized { challenge: challenges(headers) },
            format!("{what} needs credentials, or others than these: give them, or check that they are still valid"),
        ),
        StatusCode::FORBIDDEN => {
            (ErrorKind::Forbidden, format!("{what} is not open to these credentials: ask its owner for access"))
        }
        StatusCode::TOO_MANY_REQUESTS => (
            ErrorKind::RateLimited { retry_after: retry_after(headers) },
            format!("{what}: the origin limits the rate of requests: wait, or give credentials with a higher limit"),
        ),
        StatusCode::PRECONDITION_FAILED => {
            (ErrorKind::Changed, format!("{what} changed while it was being read: start over to get the new version"))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            (ErrorKind::RangeNotSatisfiable, format!("{what} is shorter than the range asked for"))
        }
        other if other.is_server_error() => (
            ErrorKind::Status(other.as_u16()),
            format!("{what}: the origin answered {other}: try later, or ask who runs it"),
        ),
        other => (ErrorKind::Status(other.as_u16()), format!("{what}: the origin answered {other}: check the address")),
    };
    OriginError::new(kind, text)
}

fn challenges(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

/// The pause that `Retry-After` asks for: seconds, or a date, which is taken relative to the answer's own `Date` so
/// that no clock of ours has to agree with theirs.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let now = date(headers.get(DATE)?.to_str().ok()?)?;
    Some(date(text)?.duration_since(now).unwrap_or_default())
}

fn tls_failed(error: &reqwest::Error) -> bool {
    found(error, |cause| cause.is::<rustls::Error>())
}

fn broke_off(error: &reqwest::Error) -> bool {
    found(error, |cause| {
        cause.is::<std::io::Error>()
            || cause
                .downcast_ref::<hyper::Error>()
                .is_some_and(|error| error.is_incomplete_message() || error.is_closed() || error.is_canceled())
    })
}

/// Whether a cause of `error`, or what one of them carries inside an I/O error, is as asked.
fn found(error: &reqwest::Error, is_it: impl Fn(&(dyn StdError + 'static)) -> bool) -> bool {
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
