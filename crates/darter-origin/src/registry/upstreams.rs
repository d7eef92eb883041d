//! Finds the address of a registry by its name, as image references have it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use darter_oci::name::{DOCKER_HUB, DOCKER_HUB_ADDRESS, canonical};
use url::{Host, Url};

use crate::client::{Reach, Requester, authority, is_this_host, shown};
use crate::error::{ErrorKind, OriginError};
use crate::registry::config::RegistryConfig;

/// A registry: its name, and where its API is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    name: String,
    base: Url,
    /// Further addresses of the same registry.
    others: Vec<Url>,
    configured: bool,
    trusted: bool,
    /// True if a caller named it, and no configuration does.
    stranger: bool,
    reach: Reach,
}

impl Upstream {
    /// The name, such as `docker.io` or `10.0.0.1:5000`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The (first) base address; its path ends in `/` and is followed by `v2/`.
    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// The registry at each of its addresses, in the order in which they are configured.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Self> {
        let at = |base: &Url| Self { base: base.clone(), others: Vec::new(), ..self.clone() };
        std::iter::once(&self.base).chain(&self.others).map(at)
    }

    /// True if it is trusted: if it says that one of its repositories has some content, callers may get a copy that came from another registry.
    pub const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// True if the configuration names it.
    pub const fn is_configured(&self) -> bool {
        self.configured
    }

    /// True if a caller named it and no configuration does: then nothing that is configured for other registries is used for it.
    pub(crate) const fn is_stranger(&self) -> bool {
        self.stranger
    }

    pub(crate) const fn reach(&self) -> Reach {
        self.reach
    }

    /// This registry, to which a registry of this reach has redirected: its reach is limited to that one's.
    pub(crate) fn reached_by(self, reach: Reach, stranger: bool) -> Self {
        let reach = if stranger { reach } else { self.reach };
        Self { reach, stranger: stranger || self.stranger, ..self }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, shown(&self.base))
    }
}

/// The names and addresses of registries.
#[derive(Clone, Debug)]
pub struct Upstreams {
    addresses: BTreeMap<String, Vec<Url>>,
    prefixes: BTreeMap<String, String>,
    plain_http: BTreeSet<String>,
    trusted: BTreeSet<String>,
    /// Registries with a login.
    known: BTreeSet<String>,
    guarded: bool,
}

impl Upstreams {
    /// The names and addresses in `config`.
    pub fn new(config: &RegistryConfig) -> Self {
        let slashed = |urls: &Vec<Url>| urls.iter().cloned().map(with_slash).collect::<Vec<_>>();
        let addresses = config.addresses.iter().filter(|(_, urls)| !urls.is_empty());
        Self {
            addresses: addresses.map(|(name, urls)| (canonical(name), slashed(urls))).collect(),
            prefixes: config.prefixes.iter().map(|(name, prefix)| (canonical(name), prefix.clone())).collect(),
            plain_http: config.plain_http.iter().map(|name| canonical(name)).collect(),
            trusted: config.trusted.iter().map(|name| canonical(name)).collect(),
            known: config.logins.keys().map(|name| canonical(name)).collect(),
            guarded: config.guarded,
        }
    }

    fn upstream(&self, name: String, base: Url) -> Upstream {
        let trusted = self.addresses.contains_key(&name) || self.trusted.contains(&name);
        let configured = trusted || self.plain_http.contains(&name) || self.known.contains(&name);
        let stranger = self.guarded && !configured;
        let reach = if stranger { Reach::Public } else { Reach::Anywhere };
        Upstream { name, base, others: Vec::new(), configured, trusted, stranger, reach }
    }

    /// The registry with this name, at its configured address. Without one, it is used over HTTPS, or over plain HTTP if it is configured so or is a
    /// loopback host.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for a text that is not `host` or `host:port`.
    pub fn resolve(&self, name: &str) -> Result<Upstream, OriginError> {
        let wrong = || {
            let text = format!("{name:?} is not a registry: write a host name, or host:port");
            OriginError::new(ErrorKind::Protocol, text)
        };
        let name = canonical(name);
        if let Some([base, others @ ..]) = self.addresses.get(&name).map(Vec::as_slice) {
            let (base, others) = (base.clone(), others.to_vec());
            return Ok(Upstream { others, ..self.upstream(name, base) });
        }
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if name.is_empty() || !name.bytes().all(well_formed) {
            return Err(wrong());
        }
        if name == DOCKER_HUB {
            let base = DOCKER_HUB_ADDRESS.parse().map_err(|error: url::ParseError| wrong().caused_by(error))?;
            return Ok(self.upstream(name, base));
        }
        let secure: Url =
            format!("https://{name}/").parse().map_err(|error: url::ParseError| wrong().caused_by(error))?;
        if !self.plain_http.contains(&name) && !is_loopback(&secure) {
            return Ok(self.upstream(name, secure));
        }
        let base = format!("http://{name}/").parse().map_err(|error: url::ParseError| wrong().caused_by(error))?;
        Ok(self.upstream(name, base))
    }

    /// True if a trusted registry is at this host, or host and port, as the names of sources have them.
    pub fn has_trusted_at(&self, place: &str) -> bool {
        let trusted = self.addresses.keys().chain(&self.trusted).filter_map(|name| self.resolve(name).ok());
        trusted.flat_map(|upstream| upstream.addresses().collect::<Vec<_>>()).any(|at| authority(at.base()) == place)
    }

    /// The registry at this base address. It has a name, and with it a login, only if that name resolves to this
    /// address: a caller that gives an `http://` address of a registry that is used over TLS must not make its login be sent in the clear.
    ///
    /// An address that is not configured here may be configured at another agent of the fleet, which asks this one to read it. So
    /// it may be private, but it must not be an address of this host, or lead to one. An address that is obviously this host's own is
    /// accepted here: the caller checks that only agents of this host ask for it.
    pub fn at(&self, base: &Url) -> Upstream {
        self.at_of(base, None)
    }

    /// The registry at this base address for a request about this repository, since several registries may have one address.
    pub fn at_of(&self, base: &Url, repository: Option<&str>) -> Upstream {
        let base = with_slash(base.clone());
        // Of several that fit as well the last one counts: the first by name.
        let here = self.addresses.iter().rev().filter(|(_, addresses)| addresses.contains(&base));
        let configured = here.max_by_key(|(name, _)| (self.fit(name, repository), self.known.contains(*name)));
        let name = configured.map_or_else(|| canonical(&authority(&base)), |(name, _)| name.clone());
        let reach = match (self.guarded, is_this_host(&base)) {
            (true, false) => Reach::BeyondHost,
            (false, _) | (true, true) => Reach::Anywhere,
        };
        if let Ok(upstream) = self.resolve(&name)
            && (upstream.base == base || upstream.others.contains(&base))
        {
            let reach = if upstream.stranger { reach } else { upstream.reach };
            return Upstream { reach, ..upstream };
        }
        let (others, stranger) = (Vec::new(), self.guarded);
        Upstream { name: shown(&base), base, others, configured: false, trusted: false, stranger, reach }
    }

    /// The length of a registry's prefix if a repository has it, zero for a registry without a prefix; `None` if the repository lacks the prefix.
    fn fit(&self, name: &str, repository: Option<&str>) -> Option<usize> {
        match (self.prefixes.get(name), repository) {
            (Some(prefix), Some(repository)) => {
                let rest = repository.strip_prefix(prefix.as_str())?;
                rest.starts_with('/').then_some(prefix.len())
            }
            _ => Some(0),
        }
    }

    /// The registry at an address that only a program of a host named: unless it is configured here, it is reached only at public addresses.
    pub fn at_named(&self, base: &Url, repository: Option<&str>) -> Upstream {
        let upstream = self.at_of(base, repository);
        let reach = if upstream.stranger { Reach::Public } else { upstream.reach };
        Upstream { reach, ..upstream }
    }

    /// The registry at this base address, with the reach that `requester` has.
    pub(crate) fn at_for(&self, base: &Url, repository: &str, requester: Requester) -> Upstream {
        match requester {
            Requester::Named => self.at_named(base, Some(repository)),
            Requester::Here | Requester::Elsewhere => self.at_of(base, Some(repository)),
        }
    }
}

/// A registry's base address, with a slash at its end, and without the API's path `v2`, which some people add, as in containerd's `override_path`.
fn with_slash(mut url: Url) -> Url {
    if let Some(base) = url.path().trim_end_matches('/').strip_suffix("/v2").map(str::to_owned) {
        url.set_path(&base);
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use darter_oci::name::DOCKER_HUB_ALIASES;

    use super::*;
    use crate::registry::config::Login;

    fn upstreams() -> Upstreams {
        let config = RegistryConfig {
            addresses: BTreeMap::from([
                ("docker.io".into(), vec!["http://mirror.lab/hub".parse().unwrap()]),
                ("lab".into(), ["https://10.0.0.9:5000", "https://10.0.0.8"].map(|it| it.parse().unwrap()).into()),
            ]),
            plain_http: BTreeSet::from(["10.0.0.1:5000".into()]),
            ..RegistryConfig::default()
        };
        Upstreams::new(&config)
    }

    #[test]
    fn names_have_addresses() {
        let plain = Upstreams::new(&RegistryConfig::default());
        let base = |upstreams: &Upstreams, name: &str| upstreams.resolve(name).unwrap().base().to_string();
        assert_eq!(base(&plain, "docker.io"), "https://registry-1.docker.io/");
        assert_eq!(base(&plain, "registry-1.docker.io"), "https://registry-1.docker.io/");
        assert_eq!(base(&plain, "GHCR.io"), "https://ghcr.io/");
        assert_eq!(base(&plain, "10.0.0.1:5000"), "https://10.0.0.1:5000/");
        for loopback in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(base(&plain, loopback), format!("http://{loopback}/"));
        }
        assert_eq!(base(&upstreams(), "10.0.0.1:5000"), "http://10.0.0.1:5000/");
        assert_eq!(base(&upstreams(), "index.docker.io"), "http://mirror.lab/hub/");
        assert_eq!(base(&upstreams(), "lab"), "https://10.0.0.9:5000/");
        for (written, meant) in
            [("http://a/v2", "http://a/"), ("http://a/b/v2/", "http://a/b/"), ("http://a/v2/b", "http://a/v2/b/")]
        {
            let addresses = BTreeMap::from([("a".into(), vec![written.parse().unwrap()])]);
            let named = Upstreams::new(&RegistryConfig { addresses, ..RegistryConfig::default() });
            assert_eq!(base(&named, "a"), meant, "{written}");
        }
        let all: Vec<_> = upstreams().resolve("lab").unwrap().addresses().map(|at| at.base().to_string()).collect();
        assert_eq!(all, ["https://10.0.0.9:5000/", "https://10.0.0.8/"]);
    }

    #[test]
    fn docker_hub_is_known_under_all_its_names_and_not_mistaken_for_what_stands_in_for_it() {
        let plain = Upstreams::new(&RegistryConfig::default());
        let base = |upstreams: &Upstreams, name: &str| upstreams.resolve(name).unwrap().base().to_string();
        for name in DOCKER_HUB_ALIASES {
            assert_eq!(base(&plain, name), DOCKER_HUB_ADDRESS);
            assert_eq!(base(&upstreams(), name), "http://mirror.lab/hub/");
        }
        assert_eq!(base(&plain, "ghcr.io"), "https://ghcr.io/");
    }

    #[test]
    fn what_is_not_configured_is_neither_trusted_nor_reached_at_private_addresses() {
        let config = RegistryConfig {
            addresses: BTreeMap::from([("lab".into(), vec!["https://10.0.0.9:5000".parse().unwrap()])]),
            plain_http: BTreeSet::from(["10.0.0.1:5000".into()]),
            trusted: BTreeSet::from(["docker.io".into()]),
            guarded: true,
            ..RegistryConfig::default()
        };
        let guarded = Upstreams::new(&config);
        let of = |name: &str| {
            let upstream = guarded.resolve(name).unwrap();
            (upstream.is_trusted(), upstream.is_configured(), upstream.reach())
        };
        assert_eq!(of("lab"), (true, true, Reach::Anywhere));
        assert_eq!(of("index.docker.io"), (true, true, Reach::Anywhere));
        assert_eq!(of("10.0.0.1:5000"), (false, true, Reach::Anywhere));
        assert_eq!(of("10.0.0.1:5001"), (false, false, Reach::Public));
        assert_eq!(of("ghcr.io"), (false, false, Reach::Public));
        for (place, is_trusted) in [
            ("10.0.0.9:5000", true),
            ("registry-1.docker.io", true),
            ("10.0.0.9", false),
            ("lab", false),
            ("10.0.0.1:5000", false),
            ("ghcr.io", false),
        ] {
            assert_eq!(guarded.has_trusted_at(place), is_trusted, "{place}");
        }
        let at = |base: &str| guarded.at(&base.parse().unwrap());
        assert!(at("https://10.0.0.9:5000/").is_trusted());
        for elsewhere in ["http://lab.example:5000/", "https://ghcr.io/", "http://127.0.0.1:5000/"] {
            assert!(!at(elsewhere).is_trusted());
            let is_here = elsewhere.contains("127.0.0.1");
            assert_eq!(at(elsewhere).reach(), if is_here { Reach::Anywhere } else { Reach::BeyondHost });
            assert!(at(elsewhere).is_stranger());
            assert_eq!(guarded.at_named(&elsewhere.parse().unwrap(), None).reach(), Reach::Public);
        }
        assert_eq!(upstreams().at(&"http://127.0.0.1:5000/".parse().unwrap()).reach(), Reach::Anywhere);
    }

    #[test]
    fn of_several_registries_at_one_address_the_repository_tells_which_is_meant() {
        let at = || vec!["https://harbor.lab".parse().unwrap()];
        let pair = |name: &str, prefix: &str| (name.to_owned(), prefix.to_owned());
        let config = RegistryConfig {
            addresses: ["docker.io", "ghcr.io", "lab", "quay.io"].map(|name| (name.into(), at())).into(),
            prefixes: [pair("docker.io", "hub"), pair("ghcr.io", "hub/ghcr"), pair("quay.io", "quay")].into(),
            ..RegistryConfig::default()
        };
        let upstreams = Upstreams::new(&config);
        for (repository, name) in [
            ("hub/library/debian", "docker.io"),
            ("hub/ghcr/a/b", "ghcr.io"),
            ("quay/a", "quay.io"),
            ("quayside/a", "lab"),
            ("hub", "lab"),
        ] {
            let upstream = upstreams.at_of(&"https://harbor.lab/".parse().unwrap(), Some(repository));
            assert_eq!(upstream.name(), name, "{repository}");
        }
        let login = Login::Password { user: "u".into(), password: "p".into() };
        let with_login = Upstreams::new(&RegistryConfig { logins: [("quay.io".into(), login)].into(), ..config });
        assert_eq!(with_login.at(&"https://harbor.lab".parse().unwrap()).name(), "quay.io");
        assert_eq!(upstreams.at(&"https://harbor.lab".parse().unwrap()).name(), "docker.io");
    }

    #[test]
    fn what_is_no_registry_name_is_refused() {
        for wrong in ["", "a/b", "http://a", "user@host", "a b", "host:port", "a?b", "a#b", "..%2f"] {
            let error = upstreams().resolve(wrong).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Protocol, "{wrong}");
        }
    }

    #[test]
    fn an_address_leads_back_to_its_name() {
        let at = |base: &str| upstreams().at(&base.parse().unwrap()).name().to_owned();
        assert_eq!(at("http://mirror.lab/hub"), "docker.io");
        let plain = Upstreams::new(&RegistryConfig::default());
        assert_eq!(plain.at(&"https://registry-1.docker.io/".parse().unwrap()).name(), "docker.io");
        assert_eq!(at("https://10.0.0.9:5000/"), "lab");
        assert_eq!(at("https://10.0.0.8/"), "lab");
        assert_eq!(at("http://10.0.0.1:5000/"), "10.0.0.1:5000");
        for another in
            ["http://ghcr.io/", "https://registry-1.docker.io/", "http://10.0.0.9:5000/", "https://ghcr.io/x/"]
        {
            assert_eq!(at(another), another);
        }
    }
}
