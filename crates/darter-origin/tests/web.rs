//! Faults of the web: servers that lie, stop, move, refuse, and who is told what.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{Blamed, Digest, Fault, Retry, Source, Version};
use darter_origin::{
    ConfigError, ErrorKind, HttpClient, HttpConfig, HttpOrigin, Origin, OriginError, OriginFailure, Origins,
    RegistryClient, RegistryConfig, RetryPolicy, ServerConfig,
};
use futures_util::StreamExt;
use http::StatusCode;
use support::files::Resource;
use support::{HandClock, Reply, Sent, Server, bringing, client, content, none, quick, range, take};

fn origin() -> HttpOrigin {
    HttpOrigin::new(client())
}

fn patient() -> HttpConfig {
    HttpConfig { proxy_from_environment: false, ..HttpConfig::default() }
}

fn unchecked() -> ServerConfig {
    ServerConfig { skip_verify: true, ..ServerConfig::default() }
}

fn impatient() -> HttpOrigin {
    HttpOrigin::new(HttpClient::new(&quick()).unwrap())
}

async fn reading_fails(origin: &HttpOrigin, source: &Source) -> OriginError {
    match origin.read(source, &none(), None, None).await {
        Err(error) => error,
        Ok(reading) => take(reading).await.unwrap_err(),
    }
}

#[tokio::test]
async fn statuses_say_whose_fault_it_is_and_whether_to_try_again() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/429" => Reply::status(429).with("retry-after", "17"),
        "/429-for-ever" => Reply::status(429).with("retry-after", "99999999999999999999999"),
        "/202-later" => Reply::status(202).with("retry-after", "1"),
        "/403-later" => Reply::status(403).with("retry-after", "1"),
        "/429-until" => Reply::status(429)
            .with("date", "Sat, 21 Nov 2026 10:00:00 GMT")
            .with("retry-after", "Sat, 21 Nov 2026 10:01:30 GMT"),
        "/401" => Reply::status(401).with("www-authenticate", "Basic realm=\"x\""),
        other => Reply::status(other[1..].parse().unwrap()),
    })
    .await;
    let limited = |seconds| ErrorKind::RateLimited { retry_after: Some(Duration::from_secs(seconds)) };
    let challenged = ErrorKind::Unauthorized { challenge: vec!["Basic realm=\"x\"".into()] };
    let cases = [
        ("/404", ErrorKind::NotFound, Fault::User, false),
        ("/410", ErrorKind::NotFound, Fault::User, false),
        ("/401", challenged, Fault::User, false),
        ("/403", ErrorKind::Forbidden, Fault::User, false),
        ("/429", limited(17), Fault::User, true),
        ("/429-until", limited(90), Fault::User, true),
        ("/429-for-ever", ErrorKind::RateLimited { retry_after: Some(Duration::MAX) }, Fault::User, true),
        ("/503", ErrorKind::Status(503), Fault::Origin, true),
        ("/501", ErrorKind::Status(501), Fault::Origin, false),
        ("/511", ErrorKind::Status(511), Fault::Network, false),
        // Gateways' own.
        ("/509", ErrorKind::Status(509), Fault::Origin, true),
        ("/522", ErrorKind::Status(522), Fault::Origin, true),
        ("/599", ErrorKind::Status(599), Fault::Origin, true),
        // It is still being made, or there were too many requests.
        ("/202", ErrorKind::Status(202), Fault::Origin, false),
        ("/202-later", ErrorKind::Status(202), Fault::Origin, true),
        ("/403", ErrorKind::Forbidden, Fault::User, false),
        ("/403-later", ErrorKind::Forbidden, Fault::User, true),
        ("/204", ErrorKind::Status(204), Fault::Origin, false),
        ("/205", ErrorKind::Status(205), Fault::Origin, false),
        ("/418", ErrorKind::Status(418), Fault::User, false),
        ("/451", ErrorKind::Status(451), Fault::User, false),
        ("/408", ErrorKind::Status(408), Fault::Network, true),
    ];
    for (path, kind, fault, retryable) in cases {
        let source = server.source(path);
        let error = reading_fails(&origin(), &source).await;
        assert_eq!(*error.kind(), kind, "{path}");
        assert_eq!((error.blame().fault, error.blame().retry.is_later()), (fault, retryable), "{path}");
        let named = match path[1..4].parse().ok().and_then(|status| StatusCode::from_u16(status).ok()) {
            Some(status) if status.canonical_reason().is_some() => format!("HTTP {status}"),
            _ => format!("HTTP {}:", &path[1..4]),
        };
        assert!(error.to_string().contains(&named) && !error.to_string().contains("unknown"), "{error}");
        let stat_error = origin().stat(&source, &none(), None).await.unwrap_err();
        assert_eq!(*stat_error.kind(), kind, "{path}");
    }
}

#[tokio::test]
async fn a_date_to_come_back_at_needs_no_date_beside_it() {
    let server = Server::start(|seen| {
        let until =
            if seen.path == "/past" { "Sat, 21 Nov 2020 10:00:00 GMT" } else { "Tue, 31 Dec 2999 23:59:59 GMT" };
        Reply::status(503).with("date", "unreadable").with("retry-after", until)
    })
    .await;
    let asked = async |path| reading_fails(&origin(), &server.source(path)).await.retry_after();
    assert_eq!(asked("/past").await, Some(Duration::ZERO));
    assert!(asked("/future").await.is_some_and(|wait| wait > Duration::from_secs(3600)));
}

#[tokio::test]
async fn a_failure_travels_with_its_judgement_and_its_causes() {
    let closed = Source::from_url("http://127.0.0.1:1/".parse().unwrap(), &[], None).0;
    let error = reading_fails(&origin(), &closed).await;
    assert_eq!(*error.kind(), ErrorKind::Unreachable);
    let failure = OriginFailure::from(&error);
    assert!(failure.text.contains("check the host name"), "{}", failure.text);
    assert!(failure.text.contains("refused"), "{}", failure.text);
    let json = serde_json::to_string(&failure).unwrap();
    let back = OriginError::from(serde_json::from_str::<OriginFailure>(&json).unwrap());
    assert_eq!((back.kind(), back.blame().retry.is_later(), back.to_string()), (error.kind(), true, failure.text));
}

#[tokio::test]
async fn an_unknown_host_is_named() {
    // No name server has to be asked for a label that is too long.
    let name = "x".repeat(64);
    let source = Source::from_url(format!("http://{name}/x").parse().unwrap(), &[], None).0;
    let error = reading_fails(&origin(), &source).await;
    assert_eq!(*error.kind(), ErrorKind::UnknownName);
    assert!(error.to_string().contains(&name), "{error}");
}

#[tokio::test]
async fn a_body_cut_short_is_an_error_after_the_bytes_that_came() {
    let server = Server::start(|_| Reply::status(200).sent(Sent::Cut(content(100_000).into(), 60_000))).await;
    let mut reading = origin().read(&server.source("/"), &none(), None, None).await.unwrap();
    let mut came = Vec::new();
    let error = loop {
        match reading.body.next().await.expect("an error before the end") {
            Ok(chunk) => came.extend_from_slice(&chunk),
            Err(error) => break error,
        }
    };
    assert!(came == content(100_000)[..60_000]);
    assert_eq!((error.kind(), error.blame().retry.is_later()), (&ErrorKind::Truncated, true));
    assert!(reading.body.next().await.is_none());
}

#[tokio::test]
async fn a_part_shorter_than_its_content_range_is_an_error_even_without_a_length() {
    let server = Server::start(|_| {
        Reply::status(206).with("content-range", "bytes 10-99/1000").sent(Sent::Chunked(content(80).into()))
    })
    .await;
    let reading = origin().read(&server.source("/"), &none(), range(10, 100), None).await.unwrap();
    assert_eq!(*take(reading).await.unwrap_err().kind(), ErrorKind::Truncated);
}

#[tokio::test]
async fn another_range_than_asked_for_is_not_taken() {
    for answer in ["bytes 0-89/1000", "bytes 20-9/1000", "lines 10-99/1000", "bytes 10-18446744073709551615/1000", ""] {
        let server = Server::start(move |_| {
            Reply::status(206).with("content-range", answer).sent(Sent::Whole(content(90).into()))
        })
        .await;
        let error = origin().read(&server.source("/"), &none(), range(10, 100), None).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Protocol, "{answer}");
    }
    // The whole, called a part: none of its bytes may stand where the part's should.
    let server = Server::start(|_| {
        Reply::status(206).with("content-range", "bytes 10-99/100").sent(Sent::Whole(content(100).into()))
    })
    .await;
    let error = origin().read(&server.source("/"), &none(), range(10, 100), None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_range_may_be_spelt_in_other_ways() {
    for answer in ["Bytes 10-99/1000", "bytes=10-99/1000", "bytes: 10-99/1000", " bytes  10-99/* "] {
        let server = Server::start(move |_| {
            Reply::status(206).with("content-range", answer).sent(Sent::Whole(content(90).into()))
        })
        .await;
        let reading = origin().read(&server.source("/"), &none(), range(10, 100), None).await.unwrap();
        assert_eq!((reading.start, take(reading).await.unwrap().len()), (10, 90), "{answer}");
    }
}

#[tokio::test]
async fn whatever_success_comes_with_content_is_taken() {
    let server = Server::start(|seen| Reply { status: seen.path[1..].parse().unwrap(), ..Reply::bytes(content(90)) });
    let server = server.await;
    for path in ["/200", "/201", "/203", "/226", "/299"] {
        let source = server.source(path);
        assert_eq!(origin().stat(&source, &none(), None).await.unwrap().version.length, Some(90), "{path}");
        let reading = origin().read(&source, &none(), None, None).await.unwrap();
        assert!(take(reading).await.unwrap() == content(90), "{path}");
    }
}

#[tokio::test]
async fn silence_ends_in_a_timeout_before_and_within_the_body() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/body" => Reply::status(200).sent(Sent::Hanging(content(100_000).into(), 10_000)),
        _ => Reply::status(200).sent(Sent::Nothing),
    })
    .await;
    assert_eq!(*reading_fails(&impatient(), &server.source("/body")).await.kind(), ErrorKind::Timeout);
    assert_eq!(*reading_fails(&origin(), &server.source("/")).await.kind(), ErrorKind::Unreachable);
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", deaf.local_addr().unwrap()).parse().unwrap();
    let error = reading_fails(&impatient(), &Source::from_url(url, &[], None).0).await;
    assert_eq!((error.kind(), error.blame().retry.is_later()), (&ErrorKind::Timeout, true));
}

#[tokio::test]
async fn two_ranges_are_never_of_two_versions() {
    let resource = Resource::new(content(1000)).shared();
    let served = resource.clone();
    let server = Server::start(move |seen| served.lock().answer(seen)).await;
    let source = server.source("/");
    let first = origin().read(&source, &none(), range(0, 500), None).await.unwrap();
    let version = first.version.clone();
    take(first).await.unwrap();
    resource.lock().etag = Some("\"second\"");
    let error = origin().read(&source, &none(), range(500, 1000), Some(&version)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    assert_eq!(server.seen()[1].header("if-range"), Some("\"first\""));
}

#[tokio::test]
async fn without_validators_nothing_is_continued_unless_a_digest_seals_it() {
    let resource = Resource { etag: None, last_modified: None, ..Resource::new(content(1000)) };
    let server = Server::start(move |seen| resource.answer(seen)).await;
    let (source, sealed) = (server.source("/"), Source::from_url(server.url("/"), &[], Some(Digest::sha256(b""))).0);
    let version = origin().stat(&source, &none(), None).await.unwrap().version;
    assert!(version.nonce.is_some());
    assert!(!origin().stat(&source, &none(), Some(&version)).await.unwrap().unchanged);
    let from_start = origin().read(&source, &none(), None, Some(&version)).await.unwrap();
    assert_eq!(from_start.version, version);
    let error = origin().read(&source, &none(), range(10, 20), Some(&version)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    let reading = origin().read(&sealed, &none(), range(10, 20), Some(&version)).await.unwrap();
    assert!(take(reading).await.unwrap() == content(1000)[10..20]);
}

#[tokio::test]
async fn a_version_is_asked_for_by_one_conditional_request_without_a_body() {
    let resource = Resource::new(content(1000));
    let refusing = Resource { refuse_head: Some(405), ..resource.clone() };
    let server = Server::start(move |seen| match seen.path.as_str() {
        "/get-only" => refusing.answer(seen),
        _ => resource.answer(seen),
    })
    .await;
    let source = server.source("/");
    let version = origin().stat(&source, &none(), None).await.unwrap().version;
    assert!(origin().stat(&source, &none(), Some(&version)).await.unwrap().unchanged);
    let seen = server.seen();
    assert_eq!((seen.len(), seen[1].method.as_str()), (2, "HEAD"));
    assert_eq!(seen[1].header("if-none-match"), version.etag.as_deref());
    assert_eq!(seen[1].header("accept-encoding"), Some("identity"));
    assert!(seen[1].header("user-agent").unwrap().starts_with("darter/"));

    let stat = origin().stat(&server.source("/get-only"), &none(), None).await.unwrap();
    assert_eq!((stat.version.length, stat.ranges), (Some(1000), true));
    assert_eq!(server.seen()[3].header("range"), Some("bytes=0-0"));
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_credentials_and_the_same_host_does() {
    let elsewhere = Server::start(|seen| Resource::new(content(100)).answer(seen)).await;
    let away = elsewhere.url("/stored").to_string();
    let server = Server::start(move |seen| match seen.path.as_str() {
        "/away" => Reply::status(307).with("location", away.as_str()),
        "/loop" => Reply::status(302).with("location", "/loop"),
        "/file" => Reply::status(302).with("location", "file:///etc/passwd"),
        "/here" => Reply::status(301).with("location", "/there"),
        _ => Resource::new(content(100)).answer(seen),
    })
    .await;
    let secrets =
        Credentials { headers: vec![("authorization".into(), "Bearer t".into()), ("x-api-key".into(), "k".into())] };
    for path in ["/away", "/here"] {
        let reading = origin().read(&server.source(path), &secrets, range(10, 20), None).await.unwrap();
        assert!(take(reading).await.unwrap() == content(100)[10..20]);
    }
    let moved = server.seen().into_iter().find(|seen| seen.path == "/there").unwrap();
    assert_eq!((moved.header("authorization"), moved.header("x-api-key")), (Some("Bearer t"), Some("k")));
    let stored = &elsewhere.seen()[0];
    assert_eq!((stored.header("authorization"), stored.header("x-api-key")), (None, None));
    assert_eq!(stored.header("range"), Some("bytes=10-19"));
    for path in ["/loop", "/file"] {
        assert_eq!(*reading_fails(&origin(), &server.source(path)).await.kind(), ErrorKind::Protocol, "{path}");
    }
}

#[tokio::test]
async fn headers_that_choose_a_variant_are_sent_and_those_of_the_transport_are_ours() {
    let server = Server::start(|seen| Resource::new(content(100)).answer(seen)).await;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let given = [header("Accept", "text/plain"), header("Range", "bytes=5-6"), header("Cookie", "c=1")];
    let (source, credentials) = Source::from_url(server.url("/"), &given, None);
    let reading = origin().read(&source, &credentials, None, None).await.unwrap();
    assert_eq!(take(reading).await.unwrap().len(), 100);
    let seen = &server.seen()[0];
    assert_eq!((seen.header("accept"), seen.header("cookie")), (Some("text/plain"), Some("c=1")));
    let error = origin().stat(&source, &bringing("bad header", "x"), None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_password_in_an_address_is_sent_and_never_shown() {
    let server = Server::start(|_| Reply::status(404)).await;
    let mut url = server.url("/x");
    url.set_username("user").unwrap();
    url.set_password(Some("secret")).unwrap();
    // Sources made from what people type have no password in their address; one that is made otherwise may.
    let source = Source::Url { url, variant: Vec::new(), digest: None };
    let error = reading_fails(&origin(), &source).await;
    assert_eq!(server.seen()[0].header("authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    assert!(!OriginFailure::from(&error).text.contains("secret"));
    drop(server);
    let error = reading_fails(&impatient(), &source).await;
    assert!(!OriginFailure::from(&error).text.contains("secret"));
}

#[tokio::test]
async fn the_router_tries_again_what_may_work_the_next_time() {
    let left = std::sync::atomic::AtomicU32::new(2);
    let server = Server::start(move |seen| {
        use std::sync::atomic::Ordering::Relaxed;
        if left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Reply::status(503);
        }
        Resource::new(content(100)).answer(seen)
    })
    .await;
    let policy = RetryPolicy { first_pause: Duration::from_millis(1), ..RetryPolicy::default() };
    let registry = RegistryClient::new(client(), &RegistryConfig::default(), std::sync::Arc::new(HandClock::default()));
    let origins = Origins::new(client(), registry).with_retries(policy);
    let reading = origins.read(&server.source("/"), &none(), None, None).await.unwrap();
    assert_eq!(take(reading).await.unwrap().len(), 100);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn certificates_are_checked_unless_told_otherwise() {
    let server = Server::start_tls(|seen| Resource::new(content(100)).answer(seen)).await;
    let source = server.source("/");
    let error = reading_fails(&origin(), &source).await;
    assert_eq!((error.kind(), error.blame().retry), (&ErrorKind::Tls, Retry::Elsewhere));
    let told = OriginFailure::from(&error).text;
    assert!(
        told.contains("--origin-ca") && told.contains("UnknownIssuer"),
        "what to do, and what the library says: {told}"
    );

    let ca = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls/ca.pem"));
    let authority = server.address.to_string();
    let trusting = [
        HttpConfig { extra_ca: Some(ca), ..patient() },
        HttpConfig { servers: [(authority, unchecked())].into(), ..patient() },
        HttpConfig { servers: [("127.0.0.1".to_owned(), unchecked())].into(), ..patient() },
    ];
    for config in trusting {
        let origin = HttpOrigin::new(HttpClient::new(&config).unwrap());
        let reading = origin.read(&source, &none(), None, None).await.unwrap();
        assert_eq!(take(reading).await.unwrap().len(), 100);
    }
    let config = HttpConfig { servers: [("other.lab".to_owned(), unchecked())].into(), ..patient() };
    let origin = HttpOrigin::new(HttpClient::new(&config).unwrap());
    assert_eq!(*reading_fails(&origin, &source).await.kind(), ErrorKind::Tls);
}

#[tokio::test]
async fn plain_http_where_tls_is_expected_is_told_apart() {
    let server = Server::start(|_| Reply::status(200)).await;
    let mut url = server.url("/");
    url.set_scheme("https").unwrap();
    let error = reading_fails(&origin(), &Source::from_url(url, &[], None).0).await;
    assert_eq!(*error.kind(), ErrorKind::Tls);
    assert!(error.to_string().contains(&format!("--plain-http {}", server.address)), "{error}");
}

#[test]
fn a_wrong_file_of_authorities_is_named() {
    let config = |path: &str| HttpConfig { extra_ca: Some(path.into()), ..HttpConfig::default() };
    let missing = HttpClient::new(&config("/nonexistent/ca.pem")).unwrap_err();
    assert!(matches!(&missing, ConfigError::CaFile { .. }) && missing.to_string().contains("/nonexistent/ca.pem"));
    let wrong = HttpClient::new(&config(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))).unwrap_err();
    assert!(matches!(wrong, ConfigError::NotCertificates { .. }));
}

#[tokio::test]
async fn an_unchanged_version_keeps_its_name_whatever_else_is_learnt_of_it() {
    let server = Server::start(|seen| Resource::new(content(100)).answer(seen)).await;
    let known = Version { etag: Some("W/\"first\"".into()), ..Version::default() };
    let reading = origin().read(&server.source("/"), &none(), range(0, 50), Some(&known)).await.unwrap();
    assert_eq!(reading.version, known);
    // A weak tag says nothing of single bytes: enough to begin with, not to go on.
    let error = origin().read(&server.source("/"), &none(), range(50, 100), Some(&known)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    assert_eq!(reading.length, Some(100));
    assert_eq!(server.seen()[0].header("if-range"), None);
}
