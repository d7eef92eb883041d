//! Which addresses a request may go to.
//!
//! A registry's name comes from any program that sends a request to the local port (`?ns=`), and the addresses of a name come from the operator of its DNS. So a registry that is not configured is asked
//! only at public addresses: otherwise any user of the host could pose as a registry on a loopback port, or make the agent send requests to servers that only the agent can reach.
//!
//! | who asks, and for what | reach |
//! |---|---|
//! | anybody, for something that is configured here | anywhere |
//! | a program or agent of this host, for an address | anywhere: it could ask by itself |
//! | an agent of another host, for an address or a registry | all addresses except this host's own: private networks are the fleet's, but loopback and a cloud's metadata service belong to this host |
//! | a program, for a registry that it named | public addresses |
//!
//! Addresses are checked when they are used: addresses in URLs before each request, those of a name in the very answer of the resolver with which the connection is made. Connections of one reach are not
//! used for another. So a name that resolves differently the second time gains nothing, and redirects, token services and next pages are checked like the first request.
//!
//! With a proxy, the proxy resolves names and decides what it reaches; its own address is not checked.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::client::address::authority;
use crate::error::{ErrorKind, OriginError};

/// The party for whom an origin is asked, on which the reach depends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requester {
    /// A program of this host, or another agent on it, which gives an address.
    #[default]
    Here,
    /// A program of this host that named a registry, which any program can do.
    Named,
    /// An agent of another host.
    Elsewhere,
}

/// How far a request may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// Any address.
    #[default]
    Anywhere,
    /// Any address except this host's own: see [`is_this_host`].
    BeyondHost,
    /// Public addresses only.
    Public,
}

/// The error for a name whose addresses are all out of reach.
#[derive(Debug, thiserror::Error)]
#[error("it resolves to {0}")]
pub(super) struct OutOfReach(IpAddr);

impl Reach {
    /// Refuses a URL if its host is an address that is out of reach.
    pub(super) fn check(self, url: &Url) -> Result<(), OriginError> {
        let is_refused = match (self, url.host()) {
            (Self::Anywhere, _) => false,
            (Self::BeyondHost, _) => is_this_host(url),
            (Self::Public, Some(Host::Ipv4(address))) => !is_public(address.into()),
            (Self::Public, Some(Host::Ipv6(address))) => !is_public(address.into()),
            // Resolved later.
            (Self::Public, _) => false,
        };
        if is_refused { Err(refusal(self, url)) } else { Ok(()) }
    }

    fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::BeyondHost => !is_own(address),
            Self::Public => is_public(address),
        }
    }

    /// The reach of an address to which an answer from `url` leads: a public server can't redirect a request into private networks.
    pub(super) fn beyond(self, address: Option<SocketAddr>) -> Self {
        match address {
            Some(address) if self == Self::BeyondHost && is_public(address.ip()) => Self::Public,
            _ => self,
        }
    }
}

/// The error for an address out of reach.
pub(super) fn refusal(reach: Reach, url: &Url) -> OriginError {
    let host = authority(url);
    if reach == Reach::BeyondHost {
        let text = format!(
            "{host} means the host of whoever asks there, or its cloud's metadata service, and is not read for other hosts: \
             if it is meant, add --upstream {host}={}://{host} here",
            url.scheme()
        );
        return OriginError::new(ErrorKind::OutOfReach, text);
    }
    let text = format!(
        "{host} is at a private or local address, where only configured registries are asked: if it is meant, add \
         --upstream {host}={}://{host}",
        url.scheme()
    );
    OriginError::new(ErrorKind::Forbidden, text)
}

/// Resolves names as the system does, but leaves out addresses that are out of reach.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) reach: Reach,
    /// The hosts of proxies, which may be anywhere.
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

/// The hosts of the proxies in the environment.
pub(super) fn proxies_of_environment() -> BTreeSet<String> {
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let values = names.iter().filter_map(|name| std::env::var(name).ok());
    let urls = values.filter_map(|value| {
        let url: Option<Url> = value.parse().ok().filter(Url::has_host);
        url.or_else(|| format!("http://{value}").parse().ok())
    });
    urls.filter_map(|url| url.host_str().map(str::to_owned)).collect()
}

/// True if an address, in any spelling, belongs to the host that uses it: loopback, link-local, unspecified, or the metadata service of a cloud.
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

/// True if an address is the host's own, in any of its spellings.
fn is_own(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0 || METADATA_V4.contains(&v4.octets())
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || METADATA_V6.contains(&v6.segments())
        }
    }
}

/// Metadata services that are not link-local, and answer each host with its own secrets: Alibaba's, Azure's, Oracle's.
const METADATA_V4: [[u8; 4]; 3] = [[100, 100, 100, 200], [168, 63, 129, 16], [192, 0, 0, 192]];
/// Amazon's, Google's.
const METADATA_V6: [[u16; 8]; 2] = [[0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]];

/// True if the public internet may route an address.
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
            // NAT64 within one network (RFC 8215).
            let translated = v6.segments()[..3] == [0x64, 0xff9b, 1];
            !(v6.is_unique_local() || site_local || translated || v6.is_multicast())
        }
    }
}

/// The IPv4 address that an IPv6 one stands for (mapped, translated, compatible, NAT64, 6to4), else the address itself.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // A prefix of that network's own, of which the last 96 bits may be an address (RFC 6052). An address that is not public stays so.
        [0x64, 0xff9b, 1, ..] if is_own(v4(g, h)) => v4(g, h),
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
            "[64:ff9b:1::101:101]",
            "[::ffff:0:10.0.0.1]",
            "100.100.100.200",
            "168.63.129.16",
            "[fd00:ec2::254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::]",
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
            "[64:ff9b:1::127.0.0.1]",
            "[::ffff:0:127.0.0.1]",
            "[::127.0.0.1]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::1]",
            "0.1.2.3",
            "100.100.100.200",
            "[::ffff:100.100.100.200]",
            "168.63.129.16",
            "0xa83f8110",
            "192.0.0.192",
            "[fd00:ec2::254]",
            "[fd00:0ec2:0:0::0254]",
            "[fd20:ce::254]",
            "[fe80::1]",
            "localhost",
            "LocalHost.:80",
            "a.localhost",
        ] {
            assert!(means_this_host(&format!("http://{own}/")), "{own}");
            assert!(!check(Reach::BeyondHost, own) && check(Reach::Anywhere, own), "{own}");
        }
        for other in [
            "10.0.0.1",
            "169.253.0.1",
            "100.100.100.201",
            "168.63.129.17",
            "[fd00:ec2::253]",
            "1.1.1.1",
            "[fc00::1]",
            "localhost.lab",
            "notlocalhost",
        ] {
            assert!(!means_this_host(&format!("http://{other}/")), "{other}");
            assert!(check(Reach::BeyondHost, other), "{other}");
        }
        assert!(!means_this_host("file:///x"));
    }

    #[test]
    fn a_public_server_leads_to_public_ones() {
        let beyond = |reach: Reach, address: &str| reach.beyond(address.parse().ok());
        assert_eq!(beyond(Reach::BeyondHost, "1.1.1.1:443"), Reach::Public);
        assert_eq!(beyond(Reach::BeyondHost, "10.0.0.1:443"), Reach::BeyondHost);
        assert_eq!(beyond(Reach::Anywhere, "1.1.1.1:443"), Reach::Anywhere);
        assert_eq!(beyond(Reach::BeyondHost, "behind a proxy"), Reach::BeyondHost);
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_host_is_not_resolved() {
        let resolve = async |reach, exempt: &[&str]| {
            let exempt = exempt.iter().map(|&name| name.to_owned()).collect();
            Resolver { reach, exempt }.resolve("localhost".parse().unwrap()).await.is_ok()
        };
        assert!(resolve(Reach::Anywhere, &[]).await);
        assert!(!resolve(Reach::BeyondHost, &[]).await);
        assert!(!resolve(Reach::Public, &[]).await);
        assert!(resolve(Reach::Public, &["localhost"]).await);
    }
}
