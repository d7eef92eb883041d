//! Which addresses a request may go to.
//!
//! A registry's name comes from whoever sends a request to the local port (`?ns=`), and a name's addresses from
//! whoever runs its DNS. So a registry that nobody configured is only spoken to at public addresses: else any user of
//! the host could stand in for a registry on a port of loopback, or have the agent ask what only it can reach.
//!
//! Addresses are checked where they are used: literal ones before each request, those of a name after it was resolved,
//! in the very answer that the connection is made with. So a name that resolves differently the second time gains
//! nothing, and a redirect is checked as the first request is.
//!
//! Behind a proxy the proxy resolves names and decides what it reaches; its own address is not checked.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::client::authority;
use crate::error::{ErrorKind, OriginError};

/// How far a request may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// Any address.
    #[default]
    Anywhere,
    /// Any but this host's own (loopback, link-local, unspecified), when a name leads there.
    NamesBeyondHost,
    /// Public addresses only.
    Public,
}

/// A name whose addresses are all out of reach.
#[derive(Debug, thiserror::Error)]
#[error("it resolves to {0}")]
pub(super) struct OutOfReach(IpAddr);

impl Reach {
    /// Refuses a URL whose host is an address out of reach.
    pub(super) fn check(self, url: &Url) -> Result<(), OriginError> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            _ => return Ok(()),
        };
        if self == Self::Public && !is_public(address) { Err(refusal(url)) } else { Ok(()) }
    }

    fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::NamesBeyondHost => !is_own(address),
            Self::Public => is_public(address),
        }
    }
}

/// What is said of a registry out of reach.
pub(super) fn refusal(url: &Url) -> OriginError {
    let host = authority(url);
    let text = format!(
        "{host} is at a private or local address, where only configured registries are asked: if it is meant, add \
         --upstream {host}={}://{host}",
        url.scheme()
    );
    OriginError::new(ErrorKind::Forbidden, text)
}

/// Resolves names as the system does, without the addresses out of reach.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) reach: Reach,
    /// Hosts of proxies, which may be anywhere.
    pub(super) exempt: BTreeSet<String>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = if self.exempt.contains(name.as_str()) { Reach::Anywhere } else { self.reach };
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> = found.iter().filter(|found| reach.allows(found.ip())).copied().collect();
            match (allowed.is_empty(), found.first()) {
                (true, Some(first)) => Err(Box::new(OutOfReach(first.ip())) as Box<dyn StdError + Send + Sync>),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

/// Hosts of the proxies that the environment names.
pub(super) fn proxies_of_environment() -> BTreeSet<String> {
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let values = names.iter().filter_map(|name| std::env::var(name).ok());
    let urls = values.filter_map(|value| {
        let url: Option<Url> = value.parse().ok().filter(Url::has_host);
        url.or_else(|| format!("http://{value}").parse().ok())
    });
    urls.filter_map(|url| url.host_str().map(str::to_owned)).collect()
}

/// Whether an address means the host of whoever asks there: loopback, link-local (as the metadata service of a cloud is) or
/// unspecified, in any spelling.
pub fn is_this_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => is_own(address.into()),
        Some(Host::Ipv6(address)) => is_own(address.into()),
        None => false,
    }
}

/// Whether an address is the host's own, in any of its spellings.
fn is_own(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
    }
}

/// Whether an address is one that the public internet may route.
fn is_public(address: IpAddr) -> bool {
    if is_own(address) {
        return false;
    }
    match plain(address) {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let carrier = a == 100 && (64..128).contains(&b);
            let protocol = a == 192 && b == 0 && c == 0;
            let benchmark = a == 198 && (b == 18 || b == 19);
            let reserved = a >= 224;
            !(v4.is_private() || carrier || protocol || benchmark || reserved)
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            let site_local = first & 0xffc0 == 0xfec0;
            !(v6.is_unique_local() || site_local || v6.is_multicast())
        }
    }
}

/// The IPv4 address that an IPv6 one stands for (mapped, compatible, NAT64, 6to4), else the address itself.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        [0, 0, 0, 0, 0, 0] if !matches!(v6, Ipv6Addr::LOCALHOST | Ipv6Addr::UNSPECIFIED) => v4(g, h),
        [0x2002, ..] => v4(b, c),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reach: Reach, host: &str) -> bool {
        reach.check(&format!("https://{host}/v2/").parse().unwrap()).is_ok()
    }

    #[test]
    fn every_spelling_of_a_private_address_is_known() {
        for private in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0.0.0.0",
            "0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[2002:a00:1::]",
            "[fe80::1]",
            "[fc00::1]",
            "[fd12::1]",
            "[fec0::1]",
            "255.255.255.255",
            "224.0.0.1",
        ] {
            assert!(!check(Reach::Public, private), "{private}");
            assert!(check(Reach::Anywhere, private), "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "[2606:4700::1111]", "[64:ff9b::1.1.1.1]", "registry.lab"] {
            assert!(check(Reach::Public, public), "{public}");
        }
    }

    #[test]
    fn every_spelling_of_this_host_is_known() {
        let means_this_host = |url: &str| is_this_host(&url.parse().unwrap());
        for own in [
            "127.0.0.1:8080",
            "127.9.9.9",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "0",
            "169.254.169.254",
            "0xa9fea9fe",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "[64:ff9b::169.254.169.254]",
            "[fe80::1]",
            "localhost",
            "LocalHost.:80",
            "a.localhost",
        ] {
            assert!(means_this_host(&format!("http://{own}/")), "{own}");
        }
        for other in ["10.0.0.1", "169.253.0.1", "1.1.1.1", "[fc00::1]", "localhost.lab", "notlocalhost"] {
            assert!(!means_this_host(&format!("http://{other}/")), "{other}");
        }
        assert!(!means_this_host("file:///x"));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_host_is_not_resolved() {
        let resolve = async |reach, exempt: &[&str]| {
            let exempt = exempt.iter().map(|&name| name.to_owned()).collect();
            Resolver { reach, exempt }.resolve("localhost".parse().unwrap()).await.is_ok()
        };
        assert!(resolve(Reach::Anywhere, &[]).await);
        assert!(!resolve(Reach::NamesBeyondHost, &[]).await);
        assert!(!resolve(Reach::Public, &[]).await);
        assert!(resolve(Reach::Public, &["localhost"]).await);
    }
}
