//! Registries that do what their specification does not say: refuse HEAD, encode unasked, send on to other registries,
//! be away at one of their addresses.

mod support;

use std::io::Write as _;
use std::sync::Arc;

use darter_core::source::Credentials;
use darter_core::{Digest, Source};
use darter_origin::{
    Answer, ErrorKind, Login, Origin as _, OriginFailure, RegistryClient, RegistryConfig, RegistryOrigin, Upstream,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method};
use support::files::Resource;
use support::{HandClock, Reply, Seen, Sent, Server, bringing, client, content, none, range, take};

const TAGS: &str = "/v2/some/repo/tags/list";

fn registry(config: &RegistryConfig) -> RegistryClient {
    RegistryClient::new(client(), config, Arc::new(HandClock::default()))
}

fn plain(server: &Server) -> (RegistryClient, Upstream) {
    let client = registry(&RegistryConfig::default());
    let upstream = client.upstreams().resolve(&server.address.to_string()).unwrap();
    (client, upstream)
}

async fn get(client: &RegistryClient, upstream: &Upstream, caller: &Credentials) -> Answer {
    client.send(upstream, Method::GET, TAGS, HeaderMap::new(), caller).await.unwrap()
}

async fn text(mut answer: Answer) -> String {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

fn source(server: &Server, bytes: &[u8]) -> Source {
    Source::Registry { registry: server.url("/"), repository: "some/repo".into(), digest: Digest::sha256(bytes) }
}

/// stargz-snapshotter#155, distribution#2055, moby#50065, pub-dev#1246, huggingface_hub#3312.
#[tokio::test]
async fn a_registry_that_refuses_head_in_whatever_way_is_asked_by_get() {
    let blob = content(5_000);
    for status in [400, 401, 403, 404, 405, 406, 429, 500, 501, 502, 503] {
        let resource = Resource { refuse_head: Some(status), ..Resource::new(blob.clone()) };
        let server = Server::start(move |seen| resource.answer(seen)).await;
        let (client, _) = plain(&server);
        let stat = RegistryOrigin::new(client.clone()).stat(&source(&server, &blob), &none(), None).await;
        assert_eq!(stat.unwrap().version.length, Some(5_000), "{status}");
        let last = server.seen().pop().unwrap();
        assert_eq!((last.method, last.headers["range"].to_str().unwrap()), (Method::GET, "bytes=0-0"), "{status}");
    }
}

#[tokio::test]
async fn a_registry_that_refuses_head_and_ranges_is_asked_by_a_plain_get() {
    let blob = content(5_000);
    for status in [400, 403, 405, 416, 500, 501, 503] {
        let resource = Resource::new(blob.clone());
        let server = Server::start(move |seen| match seen.method == Method::HEAD || seen.header("range").is_some() {
            true => Reply::status(status),
            false => resource.answer(seen),
        })
        .await;
        let (client, upstream) = plain(&server);
        let stat = RegistryOrigin::new(client.clone()).stat(&source(&server, &blob), &none(), None).await;
        assert_eq!(stat.unwrap().version.length, Some(5_000), "{status}");
        let answer = client.head_blob(&upstream, "some/repo", &Digest::sha256(&blob), &none()).await.unwrap();
        assert_eq!(answer.status.as_u16(), 200, "{status}");
    }
    // A blob that is missing, or wants a login, is that for a plain GET, too.
    for status in [401, 404, 429] {
        let server = Server::start(move |_| Reply::status(status)).await;
        let (client, upstream) = plain(&server);
        let answer = client.head_blob(&upstream, "some/repo", &Digest::sha256(&blob), &none()).await.unwrap();
        assert_eq!((answer.status.as_u16(), server.seen().len()), (status, 2));
    }
}

#[tokio::test]
async fn a_head_that_breaks_the_connection_or_finds_no_length_is_no_refusal() {
    let blob = content(5_000);
    let resource = Resource { ranges: false, ..Resource::new(blob.clone()) };
    let server = Server::start(move |seen| match seen.method {
        Method::HEAD => Reply::status(200).sent(Sent::Nothing),
        _ => resource.answer(seen),
    })
    .await;
    let (client, upstream) = plain(&server);
    let digest = Digest::sha256(&blob);
    let answer = client.head_blob(&upstream, "some/repo", &digest, &none()).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.headers["content-length"].to_str().unwrap()), (200, "5000"));
    assert_eq!(text(answer).await, "");
}

#[tokio::test]
async fn a_head_that_says_of_everything_that_it_is_empty_is_not_believed() {
    let blob = content(5_000);
    let resource = Resource::new(blob.clone());
    let server =
        Server::start(move |seen| match (&seen.method, seen.path.contains(&Digest::sha256(b"").to_string())) {
            (&Method::HEAD, _) | (_, true) => Reply::status(200),
            _ => resource.answer(seen),
        })
        .await;
    let (client, _) = plain(&server);
    let origin = RegistryOrigin::new(client);
    for (bytes, length) in [(&blob[..], 5_000), (b"", 0)] {
        let stat = origin.stat(&source(&server, bytes), &none(), None).await.unwrap();
        assert_eq!(stat.version.length, Some(length));
    }
}

/// As what stands in a registry's place answers while that is away.
#[tokio::test]
async fn whoever_says_of_everything_that_it_is_empty_has_no_blob() {
    let blob = content(5_000);
    let server = Server::start(|_| Reply::status(200)).await;
    let (client, upstream) = plain(&server);
    let error = client.head_blob(&upstream, "some/repo", &Digest::sha256(&blob), &none()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("has no bytes"), "{error}");
    let answer = client.head_blob(&upstream, "some/repo", &Digest::sha256(b""), &none()).await.unwrap();
    assert_eq!(answer.status, 200);
    for status in [202, 204, 205] {
        let server = Server::start(move |_| Reply::status(status)).await;
        let (client, upstream) = plain(&server);
        let error = client.head_blob(&upstream, "some/repo", &Digest::sha256(&blob), &none()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Status(status));
    }
}

#[tokio::test]
async fn what_get_refuses_too_is_refused_in_its_words() {
    let server = Server::start(|seen| match seen.method {
        Method::HEAD => Reply::status(404),
        _ => Reply { status: http::StatusCode::FORBIDDEN, ..Reply::bytes("{\"errors\":[]}") },
    })
    .await;
    let (client, upstream) = plain(&server);
    let answer = client.head_blob(&upstream, "some/repo", &Digest::sha256(b""), &none()).await.unwrap();
    assert_eq!((answer.status.as_u16(), text(answer).await.as_str()), (403, "{\"errors\":[]}"));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// quay#1310, harbor#20788.
#[tokio::test]
async fn a_layer_with_an_encoding_nobody_asked_for_is_refused_before_its_first_byte() {
    let blob = content(5_000);
    let encoded = gzip(&blob);
    let server = Server::start(move |seen| match seen.path.contains("/blobs/") {
        true => Reply::bytes(encoded.clone()).with("content-encoding", "gzip"),
        false => Reply::status(404),
    })
    .await;
    let (client, _) = plain(&server);
    let origin = RegistryOrigin::new(client);
    let error = origin.read(&source(&server, &blob), &none(), None, None).await.unwrap_err();
    let failure = OriginFailure::from(&error);
    assert_eq!(failure.kind, ErrorKind::Encoded);
    assert!(failure.text.contains("Content-Encoding: gzip"), "{}", failure.text);
    // Its length would be that of the encoded form.
    let stat = origin.stat(&source(&server, &blob), &none(), None).await.unwrap();
    assert_eq!(stat.version.length, None);
}

#[tokio::test]
async fn documents_with_an_encoding_nobody_asked_for_are_decoded() {
    let list = "{\"tags\":[\"1\"]}";
    let server = Server::start(move |seen| match seen.path.as_str() {
        TAGS => Reply::bytes(gzip(list.as_bytes())).with("content-encoding", "gzip"),
        _ => Reply { status: http::StatusCode::FORBIDDEN, ..Reply::bytes(gzip(b"no")) }
            .with("content-encoding", "x-gzip"),
    })
    .await;
    let (client, upstream) = plain(&server);
    let answer = get(&client, &upstream, &none()).await;
    assert!(!answer.headers.contains_key("content-encoding") && !answer.headers.contains_key("content-length"));
    assert_eq!(text(answer).await, list);
    let path = format!("/v2/some/repo/blobs/{}", Digest::sha256(b""));
    let refused = client.send(&upstream, Method::GET, &path, HeaderMap::new(), &none()).await.unwrap();
    assert_eq!((refused.status.as_u16(), text(refused).await.as_str()), (403, "no"));
}

/// A registry that has moved to another one, which wants a token (as lscr.io sends on to ghcr.io), or the login `moved`.
async fn moved(login: bool) -> (Server, Server, Server) {
    let tokens =
        Server::start(|seen| match (seen.query.contains("repository%3Asome%2Frepo"), seen.header("authorization")) {
            (true, None) => Reply::bytes(gzip(b"{\"token\":\"anonymous\"}")).with("content-encoding", "gzip"),
            (true, Some("Basic bW92ZWQ6cHc=")) => Reply::bytes("{\"token\":\"known\"}"),
            _ => Reply::status(401),
        })
        .await;
    let realm = tokens.url("/token").to_string();
    let wanted = if login { "Bearer known" } else { "Bearer anonymous" };
    let target = Server::start(move |seen: &Seen| match seen.header("authorization") {
        Some(sent) if sent == wanted => Reply::bytes("moved"),
        _ => Reply::status(401).with("www-authenticate", format!("Bearer realm=\"{realm}\",service=\"s\"")),
    })
    .await;
    // By name, so that it is another host.
    let away = target.url_by_name("").to_string();
    let away = away.trim_end_matches('/').to_owned();
    let first = Server::start(move |seen| Reply::status(307).with("location", format!("{away}{}", seen.path))).await;
    (first, target, tokens)
}

#[tokio::test]
async fn the_challenge_of_a_registry_behind_a_redirect_is_met() {
    let (first, target, tokens) = moved(false).await;
    let (client, upstream) = plain(&first);
    for _ in 0..3 {
        assert_eq!(text(get(&client, &upstream, &none()).await).await, "moved");
    }
    assert_eq!(tokens.seen().len(), 1);
    assert_eq!(target.seen().len(), 4, "one challenge, and the token at once from then on");
    assert!(first.seen().iter().all(|seen| seen.header("authorization").is_none()));
    // A caller's credentials are for the registry that the caller named.
    let answer = get(&client, &upstream, &bringing("authorization", "Basic bWU6cHc=")).await;
    assert_eq!(text(answer).await, "moved");
    for seen in target.seen().iter().chain(&tokens.seen()) {
        assert!(!seen.header("authorization").unwrap_or_default().starts_with("Basic"));
    }
}

#[tokio::test]
async fn behind_a_redirect_the_login_of_the_registry_there_is_used() {
    let (first, target, _tokens) = moved(true).await;
    let login = Login::Password { user: "moved".into(), password: "pw".into() };
    let name = format!("localhost:{}", target.address.port());
    let client = registry(&RegistryConfig { logins: [(name, login)].into(), ..RegistryConfig::default() });
    let upstream = client.upstreams().resolve(&first.address.to_string()).unwrap();
    assert_eq!(text(get(&client, &upstream, &none()).await).await, "moved");
    let other = get(&client, &upstream, &bringing("authorization", "Basic bWU6cHc=")).await;
    assert_eq!(other.status, 401, "the configured login is for those who bring none");
}

#[tokio::test]
async fn of_several_addresses_the_first_that_answers_is_used() {
    let blob = content(5_000);
    let (stored, listed) = (blob.clone(), "{\"tags\":[]}");
    let ill = Server::start(|_| Reply::status(503)).await;
    let well = Server::start(move |seen| match seen.path.as_str() {
        TAGS => Reply::bytes(listed),
        _ => Resource::new(stored.clone()).answer(seen),
    })
    .await;
    let dead = "http://127.0.0.1:1/".parse().unwrap();
    let addresses = [("reg".to_owned(), vec![dead, ill.url("/"), well.url("/")])].into();
    let client = registry(&RegistryConfig { addresses, ..RegistryConfig::default() });
    let upstream = client.upstreams().resolve("reg").unwrap();
    for _ in 0..3 {
        assert_eq!(text(get(&client, &upstream, &none()).await).await, listed);
    }
    assert_eq!((ill.seen().len(), well.seen().len()), (1, 3), "what failed is not asked again at once");
    let source = Source::Registry {
        registry: upstream.base().clone(),
        repository: "some/repo".into(),
        digest: Digest::sha256(&blob),
    };
    let reading = RegistryOrigin::new(client.clone()).read(&source, &none(), range(10, 20), None).await.unwrap();
    assert!(take(reading).await.unwrap() == blob[10..20]);
    drop(well);
    // A connection may be left of the server that is gone; a client of its own has none.
    let addresses = [("reg".to_owned(), vec![ill.url("/"), "http://127.0.0.1:1/".parse().unwrap()])].into();
    let client = registry(&RegistryConfig { addresses, ..RegistryConfig::default() });
    let upstream = client.upstreams().resolve("reg").unwrap();
    let error = client.send(&upstream, Method::GET, TAGS, HeaderMap::new(), &none()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unreachable, "the last one's word counts");
}
