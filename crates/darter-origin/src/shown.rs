//! Headers of an answer other than its validators: where redirects led, how old the content is, and for whom it is meant (RFC 9111, section 5.2.2; RFC 9110, section 12.5.5).
//! [`darter_core::sharing`] decides what follows from them.

use darter_core::Shown;
use darter_core::sharing::{Address, Reach};
use darter_core::source::Credentials;
use http::header::{CACHE_CONTROL, DATE, LAST_MODIFIED, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName};
use url::Url;

/// Describes an answer to a caller with these credentials from `url`, to which the last redirect led. The query
/// parameters `signed` sign addresses, in addition to those of the usual object stores.
pub(crate) fn shown(url: &Url, signed: &[String], headers: &HeaderMap, credentials: &Credentials) -> Shown {
    Shown { address: Some(Address::of_signed(url, signed)), age: age(headers), reach: reach(headers, credentials) }
}

fn age(headers: &HeaderMap) -> Option<u32> {
    let date = |name| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?.trim()).ok();
    let (now, modified) = (date(DATE)?, date(LAST_MODIFIED)?);
    // A date in the future says nothing of whether it will change again.
    let age = now.duration_since(modified).unwrap_or_default().as_secs();
    Some(u32::try_from(age).unwrap_or(u32::MAX))
}

fn reach(headers: &HeaderMap, credentials: &Credentials) -> Reach {
    let directives = list(headers, &CACHE_CONTROL);
    // A directive may have a value: `private="set-cookie"`. Without reading it, the whole counts as private.
    let says = |name: &str| directives.iter().any(|it| it.split('=').next().is_some_and(|it| it.trim_end() == name));
    if says("no-store") {
        return Reach::NoStore;
    }
    let brings = |name: &String| credentials.headers.iter().any(|(other, _)| other == name);
    let varies = list(headers, &VARY).iter().any(|name| name == "*" || brings(name));
    if says("private") || varies || headers.contains_key(SET_COOKIE) { Reach::SameCredentials } else { Reach::Anyone }
}

/// The elements of a header with a list, in lower case.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    values.flat_map(|value| value.split(',').map(|member| member.trim().to_owned()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach_of(lines: &[(&'static str, &'static str)]) -> Reach {
        let lines = lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let caller = ["authorization", "x-token"].map(|name| (name.to_owned(), "t".to_owned()));
        reach(&HeaderMap::from_iter(lines), &Credentials { headers: caller.into() })
    }

    #[test]
    fn what_is_meant_for_one_caller_says_so() {
        for line in [
            ("cache-control", "max-age=0, Private"),
            ("cache-control", "private=\"set-cookie\""),
            ("vary", "Accept-Encoding, Authorization"),
            ("vary", "x-token"),
            ("vary", "*"),
            ("set-cookie", "session=1"),
        ] {
            assert_eq!(reach_of(&[line]), Reach::SameCredentials, "{line:?}");
        }
        for line in [("cache-control", "public, max-age=5"), ("vary", "Accept-Encoding, Cookie"), ("vary", "")] {
            assert_eq!(reach_of(&[line]), Reach::Anyone, "{line:?}");
        }
        assert_eq!(reach_of(&[("cache-control", "no-cache"), ("set-cookie", "a=1")]), Reach::SameCredentials);
        assert_eq!(reach_of(&[("cache-control", "private, no-store"), ("vary", "*")]), Reach::NoStore);
    }

    #[test]
    fn the_age_needs_both_dates() {
        let headers = |modified: &str, date: Option<&str>| {
            let mut headers = HeaderMap::from_iter([(LAST_MODIFIED, modified.parse().unwrap())]);
            headers.extend(date.map(|date| (DATE, date.parse().unwrap())));
            headers
        };
        let now = Some("Sat, 21 Nov 2026 10:01:05 GMT");
        assert_eq!(age(&headers("Sat, 21 Nov 2026 10:00:00 GMT", now)), Some(65));
        assert_eq!(age(&headers("Sat, 21 Nov 2026 11:00:00 GMT", now)), Some(0));
        assert_eq!(age(&headers("yesterday", now)), None);
        assert_eq!(age(&headers("Sat, 21 Nov 2026 10:00:00 GMT", None)), None);
    }
}
