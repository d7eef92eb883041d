//! How far requests reach, by who asks: addresses, names, redirects, token services. Ways to an agent's own host are no other host's
//! affair, and a stranger's registry opens nothing that is configured for others.

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use darter_core::{Digest, Source};
use darter_origin::{
    ErrorKind, HttpClient, HttpConfig, Login, Origin as _, OriginError, Origins, RegistryClient, RegistryConfig,
    Requester, RetryPolicy, ServerConfig,
};
use http::{HeaderMap, Method};
use support::{HandClock, Reply, Server, certificate, none, take};

/// A name, other than `localhost`, that leads to this host's loopback, where there is one.
fn own_name() -> Option<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
    let lines = hosts.lines().filter_map(|line| line.split('#').next()?.trim().strip_prefix("127.0.0.1"));
    let name = lines.flat_map(str::split_whitespace).find(|name| !name.contains("localhost")).map(str::to_owned);
    if name.is_none() {
        eprintln!("skipped: no name in /etc/hosts leads to 127.0.0.1");
    }
    name
}

/// An address of this host that others reach, where there is one.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing.
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    Some(address).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

fn client(servers: BTreeMap<String, ServerConfig>) -> HttpClient {
    HttpClient::new(&HttpConfig { servers, proxy_from_environment: false, ..HttpConfig::default() }).unwrap()
}

/// Settings for this server and no other.
fn settings(server: &Server, own: ServerConfig) -> BTreeMap<String, ServerConfig> {
    [(server.address.to_string(), ServerConfig { urls: vec![server.url("/")], ..own })].into()
}

fn registries(http: HttpClient, config: RegistryConfig) -> RegistryClient {
    let config = RegistryConfig { guarded: true, ..config };
    RegistryClient::new(http, &config, Arc::new(HandClock::default()))
}

fn origins(http: HttpClient, requester: Requester) -> Origins {
    let registries = registries(http.clone(), RegistryConfig::default());
    Origins::new(http, registries).with_retries(RetryPolicy::never()).for_requester(requester)
}

async fn read(origins: &Origins, source: &Source) -> Result<Vec<u8>, OriginError> {
    take(origins.read(source, &none(), None, None).await?).await
}

fn page(url: &str) -> Source {
    Source::from_url(url.parse().unwrap(), &[], None).0
}

fn blob(registry: &str, bytes: &[u8]) -> Source {
    let (registry, digest) = (registry.parse().unwrap(), Digest::sha256(bytes));
    Source::Registry { registry, repository: "some/repo".into(), digest }
}

#[tokio::test]
async fn what_leads_to_an_agents_own_host_is_not_read_for_another() {
    let own = Server::start(|_| Reply::bytes("secret")).await;
    let port = own.address.port();
    let mut ways: Vec<String> = ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0", "[::ffff:127.0.0.1]"]
        .map(|host| format!("http://{host}:{port}/x"))
        .into();
    ways.extend(own_name().map(|name| format!("http://{name}:{port}/x")));
    for metadata in ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "[64:ff9b::a9fe:a9fe]"] {
        ways.push(format!("http://{metadata}/latest/meta-data/"));
    }
    for way in &ways {
        // One hop on the way is configured, and may be wherever it is.
        let to = way.clone();
        let permitted = Server::start(move |seen| match seen.path.as_str() {
            "/x" => Reply::status(302).with("location", "/y"),
            _ => Reply::status(307).with("location", to.as_str()),
        })
        .await;
        let http = client(settings(&permitted, ServerConfig::default()));
        let elsewhere = origins(http.clone(), Requester::Elsewhere);
        for from in [way.clone(), permitted.url("/x").to_string()] {
            for asked in ["read", "stat"] {
                let error = match asked {
                    "read" => read(&elsewhere, &page(&from)).await.unwrap_err(),
                    _ => elsewhere.stat(&page(&from), &none(), None).await.unwrap_err(),
                };
                assert_eq!(*error.kind(), ErrorKind::OutOfReach, "{asked} {from} to {way}: {error}");
                assert!(error.to_string().contains("--upstream"), "{error}");
            }
            // A registry that nobody configured is no better, wherever its name leads.
            if !way.contains(&format!(":{port}")) || from != *way {
                continue;
            }
            let base = from.trim_end_matches('x');
            let error = read(&origins(http.clone(), Requester::Named), &blob(base, b"secret")).await.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Forbidden, "{from}");
        }
        assert_eq!(permitted.count("/y"), 3, "the permitted hops were made: {way}");
        assert!(own.seen().is_empty(), "{way}");
    }
    // A program on this host may read what is there, by whatever way.
    let here = origins(client(BTreeMap::new()), Requester::Here);
    for way in ways.iter().filter(|way| way.contains(&format!(":{port}/"))) {
        assert_eq!(read(&here, &page(way)).await.unwrap(), b"secret", "{way}");
    }
}

#[tokio::test]
async fn a_registry_whose_name_leads_to_an_agents_own_host_is_not_read_for_another() {
    let Some(name) = own_name() else { return };
    let own = Server::start(|_| Reply::bytes("secret")).await;
    let base = format!("http://{name}:{}/", own.address.port());
    let kind = async |requester| {
        let origins = origins(client(BTreeMap::new()), requester);
        read(&origins, &blob(&base, b"secret")).await.map_err(|error| error.kind().clone())
    };
    assert_eq!(kind(Requester::Elsewhere).await, Err(ErrorKind::OutOfReach));
    assert_eq!(kind(Requester::Named).await, Err(ErrorKind::Forbidden));
    assert!(own.seen().is_empty());
}

/// Registries that other agents name may be at private addresses, but lead no further than they are.
#[tokio::test]
async fn a_strangers_registry_leads_nowhere_but_outside() {
    let Some(outer) = outer_address() else { return eprintln!("skipped: this host has no outer address") };
    let own = Server::start(|_| Reply::bytes(r#"{"token": "t"}"#)).await;
    let target = own.url("/x").to_string();
    let ways = [
        ("a redirect", Reply::status(302).with("location", target.as_str())),
        (
            "a token service",
            Reply::status(401).with("www-authenticate", format!("Bearer realm=\"{target}\",service=\"s\"")),
        ),
    ];
    for (way, reply) in ways {
        let (status, headers) = (reply.status.as_u16(), reply.headers);
        let stranger = Server::start_at(outer, move |_| {
            headers.iter().fold(Reply::status(status), |reply, (name, value)| reply.with(name, value.as_str()))
        })
        .await;
        for requester in [Requester::Elsewhere, Requester::Here] {
            let origins = origins(client(BTreeMap::new()), requester);
            let error = read(&origins, &blob(stranger.url("/").as_str(), b"secret")).await.unwrap_err();
            // The latter where this host's outer address is a public one.
            assert!(matches!(error.kind(), ErrorKind::OutOfReach | ErrorKind::Forbidden), "{way}: {error}");
        }
        assert!(!stranger.seen().is_empty() && own.seen().is_empty(), "{way}");
    }
}

#[tokio::test]
async fn a_strangers_registry_is_given_nothing_that_is_configured_for_others() {
    let corp = Server::start(|seen| match seen.header("authorization") {
        Some(_) => Reply::bytes("private"),
        None => Reply::status(401).with("www-authenticate", "Basic realm=\"corp\""),
    })
    .await;
    let corp_blob = corp.url(&format!("/v2/private/blobs/{}", Digest::sha256(b"private"))).to_string();
    let stranger = Server::start(move |_| Reply::status(307).with("location", corp_blob.as_str())).await;
    let own = ServerConfig { headers: vec![("X-Api-Key".into(), "hunter2".into())], ..ServerConfig::default() };
    let login = Login::Password { user: "robot".into(), password: "hunter2".into() };
    let config = RegistryConfig {
        addresses: [("corp".to_owned(), vec![corp.url("/")])].into(),
        logins: [("corp".to_owned(), login)].into(),
        ..RegistryConfig::default()
    };
    let client = registries(client(settings(&corp, own)), config);
    let path = format!("/v2/some/repo/blobs/{}", Digest::sha256(b"private"));
    let ask = async |base: &Server| {
        let upstream = client.upstreams().at(&base.url("/"));
        client.send(&upstream, Method::GET, &path, HeaderMap::new(), &none()).await.unwrap().status.as_u16()
    };
    // Its address is this host's, so it is asked; what it leads to sees a stranger.
    assert_eq!(ask(&stranger).await, 401);
    for seen in corp.seen() {
        assert!(seen.header("x-api-key").is_none() && seen.header("authorization").is_none(), "{seen:?}");
    }
    assert_eq!(ask(&corp).await, 200);
    let last = corp.seen().pop().unwrap();
    assert!(last.header("x-api-key").is_some() && last.header("authorization").is_some());
}

#[tokio::test]
async fn settings_of_a_server_hold_however_far_a_request_may_reach() {
    let server = Server::start_tls(|_| Reply::bytes("x")).await;
    let own = || ServerConfig {
        ca: Some(certificate("ca.pem")),
        headers: vec![("X-Team".into(), "infra".into())],
        ..ServerConfig::default()
    };
    // Asked for itself by another host, all of them.
    let elsewhere = origins(client(settings(&server, own())), Requester::Elsewhere);
    assert_eq!(read(&elsewhere, &page(server.url("/x").as_str())).await.unwrap(), b"x");
    assert_eq!(server.seen()[0].header("x-team"), Some("infra"));
    // For a registry that nobody configured, whom to trust and how long to wait, and nothing that is secret.
    let elsewhere = origins(client(settings(&server, own())), Requester::Elsewhere);
    assert_eq!(read(&elsewhere, &blob(server.url("/").as_str(), b"x")).await.unwrap(), b"x");
    assert_eq!(server.seen()[1].header("x-team"), None);
}
