//! Entries of `NO_PROXY` that the HTTP stack does not support, though Go or curl do: `*` also for addresses, `*.domain`, an address in brackets, `host:port`. The HTTP stack matches names, addresses and
//! networks.
//!
//! Pure, except for [`Exceptions::of_environment`].

use std::net::IpAddr;

use url::{Host, Url};

/// The servers that are reached without the environment's proxies, in addition to those that the HTTP stack finds itself.
#[derive(Debug, Default)]
pub(super) struct Exceptions {
    everything: bool,
    entries: Vec<NoProxyRule>,
}

#[derive(Debug)]
struct NoProxyRule {
    host: HostPattern,
    port: Option<u16>,
}

#[derive(Debug)]
enum HostPattern {
    Address(IpAddr),
    /// A domain, and all hosts and domains below it.
    Domain(String),
    /// The hosts below a domain.
    Below(String),
}

impl Exceptions {
    pub(super) fn of_environment() -> Self {
        let list = ["NO_PROXY", "no_proxy"].iter().find_map(|name| std::env::var(name).ok());
        Self::of(&list.unwrap_or_default())
    }

    fn of(list: &str) -> Self {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let (all, others): (Vec<_>, Vec<_>) = entries.partition(|entry| *entry == "*");
        Self { everything: !all.is_empty(), entries: others.into_iter().map(NoProxyRule::of).collect() }
    }

    /// True if `url` is one of them.
    pub(super) fn include(&self, url: &Url) -> bool {
        self.everything || self.entries.iter().any(|entry| entry.includes(url))
    }
}

impl NoProxyRule {
    fn of(entry: &str) -> Self {
        let with_port = entry.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let (host, port) = match with_port.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
            Some((host, port)) => (host, Some(port)),
            None => (entry, None),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let host = match (bare.parse(), host.strip_prefix("*.")) {
            (Ok(address), _) => HostPattern::Address(address),
            (_, Some(domain)) => HostPattern::Below(domain.to_ascii_lowercase()),
            _ => HostPattern::Domain(host.trim_start_matches('.').to_ascii_lowercase()),
        };
        Self { host, port }
    }

    fn includes(&self, url: &Url) -> bool {
        let is_below = |name: &str, domain: &str| name.strip_suffix(domain).is_some_and(|front| front.ends_with('.'));
        let is_host = match (&self.host, url.host()) {
            (HostPattern::Address(address), Some(Host::Ipv4(host))) => *address == IpAddr::V4(host),
            (HostPattern::Address(address), Some(Host::Ipv6(host))) => *address == IpAddr::V6(host),
            (HostPattern::Domain(domain), Some(Host::Domain(name))) => name == domain || is_below(name, domain),
            (HostPattern::Below(domain), Some(Host::Domain(name))) => is_below(name, domain),
            _ => false,
        };
        is_host && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn includes(list: &str, url: &str) -> bool {
        Exceptions::of(list).include(&url.parse().unwrap())
    }

    #[test]
    fn what_go_and_curl_take_is_an_exception() {
        for (list, url) in [
            ("*", "http://10.0.0.1/"),
            ("a, *", "http://[fd00::1]/"),
            ("*.corp", "https://registry.lab.corp/"),
            ("x,[::1]", "http://[::1]:5000/"),
            ("[fd00::5]:5000", "http://[fd00::5]:5000/"),
            ("10.0.0.1:5000", "http://10.0.0.1:5000/"),
            ("Registry.Lab:443", "https://registry.lab/"),
            (".lab:80", "http://registry.lab/"),
        ] {
            assert!(includes(list, url), "{list} {url}");
        }
        for (list, url) in [
            ("", "http://10.0.0.1/"),
            ("*.corp", "https://corp/"),
            ("*.corp", "https://notcorp.example/"),
            ("*.corp", "https://xcorp/"),
            ("10.0.0.1:5000", "http://10.0.0.1:5001/"),
            ("registry.lab:80", "https://registry.lab/"),
            ("lab", "http://collab/"),
            ("a*", "http://ab/"),
        ] {
            assert!(!includes(list, url), "{list} {url}");
        }
    }
}
