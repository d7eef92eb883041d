//! The guard of the local port: programs of this host may use it, and no web page may.
//!
//! A page in a browser on this host can send requests to loopback, under a name of its own that it lets resolve to a loopback address
//! (DNS rebinding); the browser then lets it read the answers, including private manifests. Such a request has
//! in `Host` the name from which the page was loaded. So on loopback, only requests for loopback's own names and addresses and for names that
//! the operator configured are answered. Requests that a page of another origin sends without rebinding are refused by
//! their `Origin`.
//!
//! A port on another address is for programs of other hosts, which reach it by names that this host need not know. There,
//! requests for every name are answered, unless names are configured.
//!
//! Pure: nothing here does I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use url::{Host, Url};

/// Names of loopback in hosts files, besides those under `localhost`.
const LOOPBACK_NAMES: [&str; 5] =
    ["ip6-localhost", "ip6-loopback", "localhost.localdomain", "localhost4", "localhost6"];

/// The names and addresses of the local port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    names: BTreeSet<String>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// The label for the metric.
    pub(crate) reason: &'static str,
    /// The message for the caller, which says what to do.
    pub(crate) text: String,
}

/// A host and port in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RequestTarget {
    host: Host,
    port: Option<u16>,
}

impl Guard {
    /// A guard that also accepts these names.
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().map(|name| plain(&name)).collect() }
    }

    /// Decides whether to answer a request that arrived on the address `local`.
    ///
    /// # Errors
    /// Why the request is refused.
    pub(crate) fn check(&self, request: &Parts, local: Option<IpAddr>) -> Result<(), Refusal> {
        let said = host_header(&request.headers)?;
        // A request in absolute form names the host twice, and both have to be right.
        let absolute = request.uri.authority().map(|authority| target(authority.as_str())).transpose()?;
        for target in [Some(&said), absolute.as_ref()].into_iter().flatten() {
            if !self.answers_to(&target.host, local) {
                let text = format!(
                    "{} is not a name of this port: use 127.0.0.1 or localhost, or add the name with --local-name",
                    target.host
                );
                return Err(Refusal { status: StatusCode::MISDIRECTED_REQUEST, reason: "host", text });
            }
        }
        self.check_origin(&request.headers, absolute.as_ref().unwrap_or(&said))
    }

    fn answers_to(&self, host: &Host, local: Option<IpAddr>) -> bool {
        let on_loopback = local.is_none_or(|local| local.to_canonical().is_loopback());
        let address = match host {
            Host::Domain(name) => {
                let name = plain(name);
                let anything = !on_loopback && self.names.is_empty();
                return anything || is_loopback_name(&name) || self.names.contains(&name);
            }
            Host::Ipv4(address) => IpAddr::V4(*address),
            Host::Ipv6(address) => IpAddr::V6(*address),
        };
        !on_loopback || address.to_canonical().is_loopback() || self.names.contains(&plain(&host.to_string()))
    }

    /// Refuses a page of any other origin than the one that it asks.
    fn check_origin(&self, headers: &HeaderMap, target: &RequestTarget) -> Result<(), Refusal> {
        for origin in headers.get_all(ORIGIN) {
            let url = origin.to_str().ok().and_then(|origin| origin.parse::<Url>().ok());
            let own = url.as_ref().is_some_and(|url| {
                // This port has no TLS, but a proxy in front of a configured name may have it.
                let own = url.scheme() == "http" && url.port_or_known_default() == Some(target.port.unwrap_or(80));
                let named = url.host_str().is_some_and(|host| self.names.contains(&plain(host)));
                url.host() == Some(borrowed(&target.host)) && (own || named)
            });
            if !own {
                let text = "requests of pages from other origins are refused here".to_owned();
                return Err(Refusal { status: StatusCode::FORBIDDEN, reason: "origin", text });
            }
        }
        Ok(())
    }
}

/// The host of the single `Host` header.
fn host_header(headers: &HeaderMap) -> Result<RequestTarget, Refusal> {
    let mut values = headers.get_all(HOST).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) => target(value),
        _ => Err(bad_host()),
    }
}

fn target(text: &str) -> Result<RequestTarget, Refusal> {
    let authority: Authority = text.parse().map_err(|_| bad_host())?;
    // A Host header must not contain a user, and a port must be a number.
    let port = authority.as_str().strip_prefix(authority.host());
    if !port.is_some_and(|port| port.is_empty() || port == ":" || authority.port_u16().is_some()) {
        return Err(bad_host());
    }
    let host = Host::parse(authority.host()).map_err(|_| bad_host())?;
    Ok(RequestTarget { host, port: authority.port_u16() })
}

fn bad_host() -> Refusal {
    let text = "the request needs one Host header: a host, and the port if it is not 80".to_owned();
    Refusal { status: StatusCode::BAD_REQUEST, reason: "host", text }
}

fn borrowed(host: &Host) -> Host<&str> {
    match host {
        Host::Domain(name) => Host::Domain(name),
        Host::Ipv4(address) => Host::Ipv4(*address),
        Host::Ipv6(address) => Host::Ipv6(*address),
    }
}

fn is_loopback_name(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost") || LOOPBACK_NAMES.contains(&name)
}

/// The canonical spelling of a name: lower case, without a trailing dot and without brackets.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').trim_matches(['[', ']']).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
    const OUTSIDE: [u8; 4] = [192, 0, 2, 7];

    /// The status of a request: 200 if it is answered.
    fn checked(local: [u8; 4], uri: &str, headers: &[(&str, &str)]) -> u16 {
        let request = headers.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let guard = Guard::new(["Darter.Corp".to_owned()]);
        guard.check(&parts, Some(local.into())).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn on_loopback_only_loopbacks_own_names_and_configured_ones_are_answered() {
        for own in [
            "127.0.0.1:7401",
            "127.0.0.1",
            "127.1.2.3",
            "127.1",
            "localhost:7401",
            "LOCALHOST.",
            "app.localhost",
            "[::1]:7401",
            "[::ffff:127.0.0.1]",
            "ip6-localhost",
            "darter.corp:7401",
        ] {
            assert_eq!(checked(LOOPBACK, "/", &[("host", own)]), 200, "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:7401",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "192.0.2.7",
            "darter.corp.evil.example",
        ] {
            assert_eq!(checked(LOOPBACK, "/", &[("host", other)]), 421, "{other}");
        }
    }

    #[test]
    fn a_request_without_one_right_host_is_a_bad_one() {
        for wrong in ["", "a b", "user@localhost", "localhost:port", "["] {
            assert_eq!(checked(LOOPBACK, "/", &[("host", wrong)]), 400, "{wrong:?}");
        }
        assert_eq!(checked(LOOPBACK, "/", &[]), 400);
        assert_eq!(checked(LOOPBACK, "/", &[("host", "localhost"), ("host", "localhost")]), 400);
    }

    #[test]
    fn a_request_in_absolute_form_says_nothing_else_than_its_host() {
        assert_eq!(checked(LOOPBACK, "http://localhost:7401/", &[("host", "localhost:7401")]), 200);
        assert_eq!(checked(LOOPBACK, "http://evil.example/", &[("host", "localhost:7401")]), 421);
        assert_eq!(checked(LOOPBACK, "http://localhost/", &[("host", "evil.example")]), 421);
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let from = |origin: &str| checked(LOOPBACK, "/", &[("host", "localhost:7401"), ("origin", origin)]);
        assert_eq!(from("http://localhost:7401"), 200);
        for foreign in [
            "http://localhost:3000",
            "https://localhost:7401",
            "http://localhost",
            "https://evil.example",
            "null",
            "",
            "http://127.0.0.1:7401",
        ] {
            assert_eq!(from(foreign), 403, "{foreign:?}");
        }
        let behind_proxy = [("host", "darter.corp"), ("origin", "https://darter.corp")];
        assert_eq!(checked(LOOPBACK, "/", &behind_proxy), 200);
    }

    #[test]
    fn elsewhere_configured_names_and_addresses_are_answered() {
        for own in ["192.0.2.7:7401", "10.0.0.1", "localhost", "darter.corp"] {
            assert_eq!(checked(OUTSIDE, "/", &[("host", own)]), 200, "{own}");
        }
        assert_eq!(checked(OUTSIDE, "/", &[("host", "evil.example")]), 421);
        let (parts, ()) = Request::get("/").header("host", "any.example").body(()).unwrap().into_parts();
        assert_eq!(Guard::default().check(&parts, Some(OUTSIDE.into())), Ok(()));
    }
}
