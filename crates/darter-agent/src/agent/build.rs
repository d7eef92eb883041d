//! Makes the settings of an agent's parts from its options.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use darter_core::Place;
use darter_origin::{HttpClient, HttpConfig, Login, RegistryConfig, ServerConfig, Upstreams};
use darter_wire::WireError;
use url::Url;

use crate::error::StartError;
use crate::options::{Options, UpstreamOption};

/// Refuses to listen beyond loopback unless `insecure`: peers are not encrypted or authenticated yet, and anybody who reaches the peer port can read what is cached.
pub(super) fn refuse_strangers(listen: Option<SocketAddr>, insecure: bool) -> Result<(), StartError> {
    match listen {
        Some(addr) if !addr.ip().to_canonical().is_loopback() && !insecure => Err(StartError::Options(format!(
            "not listening on {addr} (--listen): peer traffic is not encrypted or authenticated yet, and anybody who \
                 reaches this port can read what is cached. Firewall it and pass --insecure, or listen on 127.0.0.1:{}",
            addr.port()
        ))),
        _ => Ok(()),
    }
}

pub(super) fn cannot_listen(addr: SocketAddr, error: WireError) -> StartError {
    let source = match error {
        WireError::Listen { source, .. } => source,
        other => io::Error::other(other),
    };
    StartError::cannot_listen(addr, "--listen", source)
}

pub(super) fn place_of(options: &Options) -> Place {
    let mut place = Place::from_labels(&options.labels);
    if place.host.is_empty() {
        place.host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    place
}

/// The trusted registries: every registry that the configuration names, and those that it lists as trusted.
fn trusted_registries(options: &Options) -> BTreeSet<String> {
    let upstreams = options.upstreams.iter().map(|upstream| &upstream.name);
    upstreams.chain(&options.trusted_registries).chain(&options.default_upstream).cloned().collect()
}

pub(super) fn registry_config(options: &Options) -> RegistryConfig {
    let login = |login: &crate::options::LoginOption| {
        let password = Login::Password { user: login.username.clone(), password: login.password.clone() };
        (login.registry.clone(), password)
    };
    let mut addresses = BTreeMap::<_, Vec<_>>::new();
    for upstream in &options.upstreams {
        addresses.entry(upstream.name.clone()).or_default().extend(upstream.urls.iter().cloned());
    }
    let prefixes = options.upstreams.iter().filter_map(|upstream| {
        let prefix = upstream.prefix.as_deref()?.trim_matches('/');
        (!prefix.is_empty()).then(|| (upstream.name.clone(), prefix.to_owned()))
    });
    RegistryConfig {
        addresses,
        prefixes: prefixes.collect(),
        plain_http: options.plain_http.iter().cloned().collect(),
        logins: options.logins.iter().map(login).collect(),
        docker_config: options.docker_config.clone(),
        helper_directories: Vec::new(),
        trusted: trusted_registries(options),
        guarded: options.role.is_daemon(),
    }
}

/// The addresses of an upstream: the configured ones, else the one that follows from its name.
fn addresses_of(upstream: &UpstreamOption, registries: &Upstreams) -> Vec<Url> {
    if !upstream.urls.is_empty() {
        return upstream.urls.clone();
    }
    registries.resolve(&upstream.name).map(|registry| registry.base().clone()).into_iter().collect()
}

/// The settings of upstreams, by the servers to which they apply. Several upstreams may be at one server, which gets the
/// settings of all of them.
///
/// # Errors
/// Two of them contradict each other.
fn servers(upstreams: &[UpstreamOption], registries: &Upstreams) -> Result<BTreeMap<String, ServerConfig>, StartError> {
    let mut servers = BTreeMap::<String, (&str, ServerConfig)>::new();
    for upstream in upstreams {
        let config = ServerConfig {
            urls: Vec::new(),
            ca: upstream.ca.clone(),
            client_cert: upstream.client_cert.clone(),
            client_key: upstream.client_key.clone(),
            skip_verify: upstream.skip_verify,
            connect_timeout: upstream.connect_timeout,
            first_byte_timeout: upstream.first_byte_timeout,
            headers: upstream.headers.clone(),
            proxy: upstream.proxy.clone(),
        };
        if config != ServerConfig::default() {
            let config = ServerConfig { urls: addresses_of(upstream, registries), ..config };
            for server in upstream.servers() {
                let Some((other, known)) = servers.get_mut(&server) else {
                    servers.insert(server, (&upstream.name, config.clone()));
                    continue;
                };
                known.merge(&config).map_err(|setting| {
                    StartError::Options(format!(
                        "the upstreams {other} and {} are both at {server} and have different settings ({setting}), which \
                         belong to the server: give both the same, or the one of them another address",
                        upstream.name
                    ))
                })?;
            }
        }
    }
    Ok(servers.into_iter().map(|(server, (_, config))| (server, config)).collect())
}

/// # Errors
/// The settings of one server contradict each other.
pub(super) fn http_config(options: &Options) -> Result<HttpConfig, StartError> {
    let registries = Upstreams::new(&registry_config(options));
    Ok(HttpConfig {
        configured: options.upstreams.iter().flat_map(|upstream| addresses_of(upstream, &registries)).collect(),
        extra_ca: options.origin_ca.clone(),
        first_byte_timeout: options.origin_timeout,
        servers: servers(&options.upstreams, &registries)?,
        signed_parameters: options.signed_parameters.clone(),
        ..HttpConfig::default()
    })
}

pub(super) fn http_client(options: &Options) -> Result<HttpClient, StartError> {
    Ok(HttpClient::new(&http_config(options)?)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_upstreams_headers_are_for_its_own_addresses() {
        let urls_of = |name: &str, urls: &[&str], plain_http: &[&str]| {
            let upstream = UpstreamOption {
                name: name.to_owned(),
                urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
                headers: vec![("X-Api-Key".to_owned(), "secret".to_owned())],
                ..UpstreamOption::default()
            };
            let config = RegistryConfig {
                plain_http: plain_http.iter().map(|&name| name.to_owned()).collect(),
                ..RegistryConfig::default()
            };
            addresses_of(&upstream, &Upstreams::new(&config)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(urls_of("lab", &["https://h.corp/x", "http://b:1"], &[]), ["https://h.corp/x", "http://b:1/"]);
        assert_eq!(urls_of("h.corp", &[], &[]), ["https://h.corp/"]);
        assert_eq!(urls_of("h.corp:5000", &[], &["h.corp:5000"]), ["http://h.corp:5000/"]);
        assert_eq!(urls_of("docker.io", &[], &[]), ["https://registry-1.docker.io/"]);
    }

    #[test]
    fn two_upstreams_at_one_server_have_the_same_settings_there_or_are_refused() {
        let upstream = |name: &str, url: &str| UpstreamOption {
            name: name.to_owned(),
            urls: vec![url.parse().unwrap()],
            ..UpstreamOption::default()
        };
        let servers = |upstreams: [UpstreamOption; 2]| {
            let registries = Upstreams::new(&RegistryConfig::default());
            super::servers(&upstreams, &registries).map_err(|error| error.to_string())
        };
        let hub = || UpstreamOption {
            ca: Some("/ca.pem".into()),
            headers: vec![("X-Team".to_owned(), "a".to_owned())],
            ..upstream("docker.io", "https://harbor.lab")
        };
        let other = || UpstreamOption {
            first_byte_timeout: Some(Duration::from_secs(9)),
            headers: vec![("x-team".to_owned(), "a".to_owned()), ("X-Site".to_owned(), "b".to_owned())],
            ..upstream("ghcr.io", "https://harbor.lab/x")
        };
        let both = servers([hub(), other()]).unwrap();
        let harbor = &both["harbor.lab"];
        assert_eq!((harbor.ca.as_deref(), harbor.headers.len()), (Some(std::path::Path::new("/ca.pem")), 2));
        assert_eq!((harbor.first_byte_timeout, harbor.urls.len()), (Some(Duration::from_secs(9)), 2));
        let wrong = UpstreamOption { headers: vec![("X-Team".to_owned(), "secret".to_owned())], ..other() };
        let told = servers([hub(), wrong.clone()]).unwrap_err();
        let says = |part: &str| told.contains(part);
        assert!(
            says("docker.io") && says("ghcr.io") && says("harbor.lab") && says("X-Team") && !says("secret"),
            "{told}"
        );
        let plain = UpstreamOption { urls: vec!["http://harbor.lab".parse().unwrap()], ..other() };
        assert!(servers([hub(), plain]).unwrap_err().contains("http and https"));
        let elsewhere = UpstreamOption { urls: vec!["https://harbor.lab:8443".parse().unwrap()], ..wrong };
        assert_eq!(servers([hub(), elsewhere]).unwrap().len(), 2);
    }

    #[test]
    fn beyond_loopback_one_listens_only_if_told_that_peers_are_not_encrypted() {
        let start = |addr: &str, insecure| refuse_strangers(Some(addr.parse().unwrap()), insecure);
        for addr in ["127.0.0.1:7400", "127.9.9.9:1", "[::1]:7400", "[::ffff:127.0.0.1]:7400"] {
            assert!(start(addr, false).is_ok(), "{addr}");
        }
        assert!(refuse_strangers(None, false).is_ok());
        for addr in ["0.0.0.0:7400", "[::]:7400", "10.0.0.1:7400"] {
            let told = start(addr, false).unwrap_err().to_string();
            assert!(told.contains(addr) && told.contains("--insecure"), "{told}");
            assert!(start(addr, true).is_ok(), "{addr}");
        }
    }
}
