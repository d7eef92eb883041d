//! Registries: the token dance, whose credentials go where, and what comes back when they don't do.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use darter_core::source::Credentials;
use darter_core::{Blamed, Digest, Source};
use darter_origin::{Answer, ErrorKind, Login, Origin, RegistryClient, RegistryConfig, RegistryOrigin, Upstream};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method};
use parking_lot::Mutex;
use support::files::Resource;
use support::{HandClock, Reply, Seen, Sent, Server, bringing, client, content, none, range, take};

const MANIFEST: &str = "/v2/some/repo/manifests/latest";
const TAGS: &str = "/v2/some/repo/tags/list";

/// A registry and its token service, which grants `token-N` and lets the registry take only what was granted for the
/// right repository. `alice:secret` may read everything, nobody may read `public/…`.
struct Lab {
    registry: Server,
    tokens: Server,
    clock: Arc<HandClock>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    granted: Vec<(String, String)>,
    expires_in: Option<u64>,
    revoked: bool,
    status: Option<u16>,
    /// The body of the token service's answer, with TOKEN in the place of the token.
    form: Option<&'static str>,
}

impl Lab {
    async fn new() -> Self {
        let state = Arc::new(Mutex::new(State { expires_in: Some(300), ..State::default() }));
        let granting = state.clone();
        let tokens = Server::start(move |seen| grant(&mut granting.lock(), seen)).await;
        let realm = tokens.url("/token").to_string();
        let taking = state.clone();
        let registry = Server::start(move |seen| serve(&taking.lock(), &realm, seen)).await;
        Self { registry, tokens, clock: Arc::default(), state }
    }

    fn client(&self, login: Option<Login>) -> (RegistryClient, Upstream) {
        let name = self.registry.address.to_string();
        let logins = login.map(|login| (name.clone(), login)).into_iter().collect();
        let config = RegistryConfig { logins, ..RegistryConfig::default() };
        let client = RegistryClient::new(client(), &config, self.clock.clone());
        let upstream = client.upstreams().resolve(&name).unwrap();
        (client, upstream)
    }

    fn asked_for_tokens(&self) -> usize {
        self.tokens.seen().len()
    }
}

fn grant(state: &mut State, seen: &Seen) -> Reply {
    if let Some(status) = state.status {
        return Reply::status(status);
    }
    let fields = if seen.method == Method::POST { &seen.body } else { &seen.query };
    let fields: BTreeMap<String, String> = url::form_urlencoded::parse(fields.as_bytes()).into_owned().collect();
    assert_eq!(fields.get("service").map(String::as_str), Some("lab, \"quoted\""));
    let scope = fields.get("scope").cloned().unwrap_or_default();
    let alice = format!("Basic {}", BASE64_STANDARD.encode("alice:secret"));
    let allowed = match (seen.header("authorization"), fields.get("refresh_token").map(String::as_str)) {
        (None, None) => scope.starts_with("repository:public/"),
        (given, refresh) => given == Some(alice.as_str()) || refresh == Some("alice's refresh"),
    };
    if !allowed {
        return Reply::status(401);
    }
    let token = format!("token-{}", state.granted.len());
    state.granted.push((token.clone(), scope));
    if let Some(form) = state.form {
        return Reply::bytes(form.replace("TOKEN", &state.granted[state.granted.len() - 1].0));
    }
    let name = if seen.method == Method::POST { "access_token" } else { "token" };
    let mut granted = serde_json::json!({ name: token });
    if let Some(expires_in) = state.expires_in {
        granted["expires_in"] = expires_in.into();
    }
    Reply::bytes(granted.to_string())
}

fn serve(state: &State, realm: &str, seen: &Seen) -> Reply {
    let repository = seen.path.trim_start_matches("/v2/").splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
    let scope = format!("repository:{repository}:pull");
    let good = |(token, of): &(String, String)| {
        *of == scope && seen.header("authorization") == Some(format!("Bearer {token}").as_str())
    };
    if seen.header("authorization") == Some("Bearer the caller's own") {
        return Reply::bytes("for the caller");
    }
    if state.granted.iter().any(good) && !state.revoked {
        return Reply::bytes("for the bearer");
    }
    let challenge = format!(r#"Bearer realm="{realm}",service="lab, \"quoted\"",scope="{scope}""#);
    Reply { body: support::Sent::Whole("{\"errors\":[]}".into()), ..Reply::status(401) }
        .with("www-authenticate", challenge)
}

fn alice() -> Login {
    Login::Password { user: "alice".into(), password: "secret".into() }
}

async fn get(client: &RegistryClient, upstream: &Upstream, path: &str, caller: &Credentials) -> Answer {
    client.send(upstream, Method::GET, path, HeaderMap::new(), caller).await.unwrap()
}

async fn text(answer: Answer) -> String {
    let chunks: Vec<_> = answer.body.collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.unwrap().to_vec()).collect();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn anyone_reads_what_is_public_by_an_anonymous_token() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(None);
    let answer = get(&client, &upstream, "/v2/public/repo/manifests/latest", &none()).await;
    assert_eq!(text(answer).await, "for the bearer");
}

#[tokio::test]
async fn a_token_is_kept_for_its_repository_until_it_expires() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(Some(alice()));
    for path in [MANIFEST, TAGS, MANIFEST] {
        assert_eq!(text(get(&client, &upstream, path, &none()).await).await, "for the bearer");
    }
    assert_eq!(lab.asked_for_tokens(), 1);
    // One challenge, and the token at once from then on.
    assert_eq!(lab.registry.seen().len(), 4);
    assert_eq!(get(&client, &upstream, "/v2/other/repo/tags/list", &none()).await.status, 200);
    assert_eq!(lab.asked_for_tokens(), 2);
    lab.clock.advance(Duration::from_secs(280));
    get(&client, &upstream, TAGS, &none()).await;
    assert_eq!(lab.asked_for_tokens(), 2);
    lab.clock.advance(Duration::from_secs(15));
    assert_eq!(get(&client, &upstream, TAGS, &none()).await.status, 200);
    assert_eq!(lab.asked_for_tokens(), 3);
}

#[tokio::test]
async fn requests_that_want_the_same_token_at_once_cost_the_token_service_one() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(Some(alice()));
    let none = none();
    let paths = [MANIFEST, TAGS, MANIFEST, TAGS, MANIFEST, TAGS];
    let answers = futures_util::future::join_all(paths.map(|path| get(&client, &upstream, path, &none))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(lab.asked_for_tokens(), 1);
}

#[tokio::test]
async fn a_token_of_untold_lifetime_lasts_a_minute() {
    let lab = Lab::new().await;
    lab.state.lock().expires_in = None;
    let (client, upstream) = lab.client(Some(alice()));
    for (seconds, tokens) in [(0, 1), (45, 1), (10, 2)] {
        lab.clock.advance(Duration::from_secs(seconds));
        get(&client, &upstream, TAGS, &none()).await;
        assert_eq!(lab.asked_for_tokens(), tokens);
    }
}

/// krustlet#495, AllexVeldman/pyoci#321.
#[tokio::test]
async fn whatever_clients_in_go_take_for_a_token_is_one() {
    for form in [
        r#"{"token":"TOKEN","access_token":"TOKEN","expires_in":300,"issued_at":"2026-11-28T07:00:00.1Z"}"#,
        r#"{"token":"","access_token":"TOKEN","expires_in":"300"}"#,
        r#"{"token":"TOKEN","access_token":null,"expires_in":0}"#,
        r#"{"token":"TOKEN","expires_in":-1,"refresh_token":""}"#,
    ] {
        let lab = Lab::new().await;
        lab.state.lock().form = Some(form);
        let (client, upstream) = lab.client(None);
        for _ in 0..2 {
            let answer = get(&client, &upstream, "/v2/public/repo/manifests/latest", &none()).await;
            assert_eq!(text(answer).await, "for the bearer", "{form}");
        }
        assert_eq!(lab.asked_for_tokens(), 1, "{form}");
    }
}

#[tokio::test]
async fn a_token_revoked_early_is_replaced() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(Some(alice()));
    get(&client, &upstream, TAGS, &none()).await;
    lab.state.lock().granted[0].0 = "no longer".into();
    assert_eq!(get(&client, &upstream, TAGS, &none()).await.status, 200);
    assert_eq!(lab.asked_for_tokens(), 2);
}

#[tokio::test]
async fn a_refresh_token_is_traded_by_post() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(Some(Login::IdentityToken("alice's refresh".into())));
    assert_eq!(text(get(&client, &upstream, TAGS, &none()).await).await, "for the bearer");
    assert!(lab.tokens.seen()[0].body.contains("grant_type=refresh_token"));
    assert!(lab.tokens.seen()[0].query.is_empty());
}

#[tokio::test]
async fn the_callers_own_authorization_passes_through_and_so_does_its_rejection() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(Some(alice()));
    let own = bringing("authorization", "Bearer the caller's own");
    assert_eq!(text(get(&client, &upstream, TAGS, &own).await).await, "for the caller");
    let wrong = bringing("authorization", "Bearer stolen");
    let answer = get(&client, &upstream, TAGS, &wrong).await;
    assert_eq!(answer.status, 401);
    assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer realm="));
    assert_eq!(text(answer).await, "{\"errors\":[]}");
    // The login was there for the asking, and was not used for somebody who brought another.
    assert_eq!(lab.asked_for_tokens(), 0);
    assert_eq!(lab.registry.seen().len(), 2);
}

fn basic(user_and_password: &str) -> Credentials {
    bringing("authorization", &format!("Basic {}", BASE64_STANDARD.encode(user_and_password)))
}

#[tokio::test]
async fn a_callers_password_is_traded_for_a_token_on_their_behalf() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(None);
    for _ in 0..2 {
        let answer = get(&client, &upstream, MANIFEST, &basic("alice:secret")).await;
        assert_eq!(text(answer).await, "for the bearer");
    }
    assert_eq!(lab.asked_for_tokens(), 1);
    // As it came, with the token, and with the token kept.
    let sent: Vec<_> =
        lab.registry.seen().iter().map(|seen| seen.header("authorization").unwrap_or_default().to_owned()).collect();
    let came = format!("Basic {}", BASE64_STANDARD.encode("alice:secret"));
    assert_eq!(sent, [came.as_str(), "Bearer token-0", "Bearer token-0"]);
    lab.clock.advance(Duration::from_secs(295));
    assert_eq!(get(&client, &upstream, MANIFEST, &basic("alice:secret")).await.status, 200);
    assert_eq!(lab.asked_for_tokens(), 2);
}

#[tokio::test]
async fn one_callers_token_serves_no_other_caller() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(None);
    assert_eq!(get(&client, &upstream, TAGS, &basic("alice:secret")).await.status, 200);
    for other in [basic("alice:guessed"), basic("mallory:secret"), basic("alice:secret:"), none()] {
        let answer = get(&client, &upstream, TAGS, &other).await;
        assert_eq!(answer.status, 401);
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer realm="));
        assert_eq!(text(answer).await, "{\"errors\":[]}");
    }
    assert_eq!(lab.asked_for_tokens(), 5, "each asks once");
    let bearers = lab.registry.seen().into_iter().filter(|seen| seen.header("authorization") == Some("Bearer token-0"));
    assert_eq!(bearers.count(), 1);
}

#[tokio::test]
async fn a_caller_with_a_wrong_password_does_not_get_the_configured_login_instead() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(Some(alice()));
    assert_eq!(get(&client, &upstream, TAGS, &none()).await.status, 200);
    assert_eq!(get(&client, &upstream, TAGS, &basic("bob:guessed")).await.status, 401);
}

#[tokio::test]
async fn a_callers_password_stays_with_the_registry_that_takes_it() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(authorization) if authorization == format!("Basic {}", BASE64_STANDARD.encode("alice:secret")) => {
            Reply::bytes("welcome")
        }
        _ => Reply::status(401).with("www-authenticate", "Basic realm=\"lab\""),
    })
    .await;
    let client = RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
    let upstream = client.upstreams().resolve(&server.address.to_string()).unwrap();
    assert_eq!(text(get(&client, &upstream, TAGS, &basic("alice:secret")).await).await, "welcome");
    assert_eq!(server.seen().len(), 1);
    assert_eq!(get(&client, &upstream, TAGS, &basic("alice:guessed")).await.status, 401);
    assert_eq!(server.seen().len(), 2, "asking again with the same would be no use");
}

#[tokio::test]
async fn a_callers_password_is_not_sent_where_a_redirect_leads() {
    let lab = Lab::new().await;
    let realm = lab.tokens.url("/token").to_string();
    let elsewhere = Server::start(move |_| {
        let challenge =
            format!(r#"Bearer realm="{realm}",service="lab, \"quoted\"",scope="repository:some/repo:pull""#);
        Reply::status(401).with("www-authenticate", challenge)
    })
    .await;
    let target = elsewhere.url("/v2/some/repo/tags/list").to_string();
    let registry = Server::start(move |_| Reply::status(307).with("location", target.as_str())).await;
    let client = RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
    let upstream = client.upstreams().resolve(&registry.address.to_string()).unwrap();
    assert_eq!(get(&client, &upstream, TAGS, &basic("alice:secret")).await.status, 401);
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
    // It was asked for an anonymous token, which this repository gives to nobody.
    assert!(lab.tokens.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn who_brings_nothing_to_a_private_repository_gets_the_registrys_challenge() {
    let lab = Lab::new().await;
    for login in [None, Some(Login::Password { user: "alice".into(), password: "wrong".into() })] {
        let (client, upstream) = lab.client(login);
        let answer = get(&client, &upstream, TAGS, &none()).await;
        assert_eq!(answer.status, 401);
        assert!(answer.headers.contains_key("www-authenticate"));
        assert!(matches!(answer.into_success().unwrap_err().kind(), ErrorKind::Unauthorized { .. }));
    }
}

#[tokio::test]
async fn a_challenge_without_a_token_service_hides_none_that_names_one() {
    let lab = Lab::new().await;
    let realm = lab.tokens.url("/token").to_string();
    let good = format!(r#"Bearer realm="{realm}",service="lab, \"quoted\"",scope="repository:public/repo:pull""#);
    for before in ["Bearer", "Bearer error=\"invalid_token\"", "Bearer realm=\"ldap://lab\"", "Bearer realm=\"/token\""]
    {
        for at_once in [false, true] {
            let good = good.clone();
            let registry = Server::start(move |seen| match seen.header("authorization") {
                Some(_) => Reply::bytes("for the bearer"),
                None if at_once => Reply::status(401).with("www-authenticate", format!("{before}, {good}")),
                None => Reply::status(401).with("www-authenticate", before).with("www-authenticate", good.as_str()),
            })
            .await;
            let client = RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
            let upstream = client.upstreams().resolve(&registry.address.to_string()).unwrap();
            let answer = get(&client, &upstream, "/v2/public/repo/tags/list", &none()).await;
            assert_eq!(text(answer).await, "for the bearer", "{before}");
        }
    }
}

#[tokio::test]
async fn a_token_service_that_is_down_is_not_a_refusal() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(Some(alice()));
    lab.state.lock().status = Some(503);
    let error = client.send(&upstream, Method::GET, TAGS, HeaderMap::new(), &none()).await.unwrap_err();
    assert_eq!((error.kind(), error.blame().retry.is_later()), (&ErrorKind::Status(503), true));
    lab.state.lock().status = Some(200);
    let error = client.send(&upstream, Method::GET, TAGS, HeaderMap::new(), &none()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn one_callers_blob_is_not_anothers() {
    let lab = Lab::new().await;
    let (client, upstream) = lab.client(None);
    let digest = Digest::sha256(b"blob");
    let status = async |repository, caller: Credentials| {
        client.head_blob(&upstream, repository, &digest, &caller).await.unwrap().status.as_u16()
    };
    assert_eq!(status("some/repo", bringing("authorization", "Bearer the caller's own")).await, 200);
    assert_eq!(status("some/repo", bringing("authorization", "Bearer stolen")).await, 401);
    assert_eq!(status("some/repo", none()).await, 401);
    assert_eq!(status("public/repo", none()).await, 200);
}

#[tokio::test]
async fn a_registry_that_fails_neither_gives_nor_refuses_permission() {
    let server = Server::start(|seen| match seen.path.as_str() {
        path if path.starts_with("/v2/gone") => Reply::status(404),
        path if path.starts_with("/v2/closed") => Reply::status(403),
        _ => Reply::status(500),
    })
    .await;
    let client = RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
    let upstream = client.upstreams().resolve(&server.address.to_string()).unwrap();
    let ask = async |repository| client.head_blob(&upstream, repository, &Digest::sha256(b""), &none()).await;
    assert_eq!(ask("gone/x").await.unwrap().status.as_u16(), 404);
    assert_eq!(ask("closed/x").await.unwrap().status.as_u16(), 403);
    let failed = ask("failing/x").await.and_then(|answer| answer.into_success()).unwrap_err();
    assert_eq!(*failed.kind(), ErrorKind::Status(500));
    let name = server.address.to_string();
    drop(server);
    // One that has no connection from before.
    let newcomer = RegistryClient::new(support::client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
    let upstream = newcomer.upstreams().resolve(&name).unwrap();
    let error = newcomer.head_blob(&upstream, "x", &Digest::sha256(b""), &none()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_the_configured_one_at_once_the_second_time() {
    let server = Server::start(|seen| {
        let alice = format!("Basic {}", BASE64_STANDARD.encode("alice:secret"));
        if seen.header("authorization") == Some(alice.as_str()) {
            return Reply::bytes("welcome");
        }
        Reply::status(401).with("www-authenticate", "Basic realm=\"lab\"")
    })
    .await;
    let name = server.address.to_string();
    let with = |login| {
        let config = RegistryConfig { logins: [(name.clone(), login)].into(), ..RegistryConfig::default() };
        RegistryClient::new(client(), &config, Arc::new(HandClock::default()))
    };
    let right = with(alice());
    let upstream = right.upstreams().resolve(&name).unwrap();
    for _ in 0..2 {
        assert_eq!(text(get(&right, &upstream, TAGS, &none()).await).await, "welcome");
    }
    assert_eq!(server.seen().len(), 3);
    let wrong = with(Login::Password { user: "alice".into(), password: "guess".into() });
    assert_eq!(get(&wrong, &upstream, TAGS, &none()).await.status, 401);
    assert_eq!(server.seen().len(), 5);
    let unusable = with(Login::IdentityToken("x".into()));
    assert_eq!(get(&unusable, &upstream, TAGS, &none()).await.status, 401);
}

#[tokio::test]
async fn blobs_come_from_where_the_registry_sends_without_its_authorization() {
    let blob = content(50_000);
    let stored = blob.clone();
    let store = Server::start(move |seen| match seen.header("authorization") {
        // As object stores do with two kinds of authorisation at once.
        Some(_) => Reply::status(400),
        None => Resource { etag: Some("\"the store's own\""), ..Resource::new(stored.clone()) }.answer(seen),
    })
    .await;
    let away = store.url("/bucket/key?signature=s").to_string();
    let registry = Server::start(move |seen| match seen.header("authorization") {
        Some("Bearer mine") => Reply::status(307).with("location", away.as_str()),
        _ => Reply::status(401).with("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let client = RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
    let origin = RegistryOrigin::new(client.clone());
    let digest = Digest::sha256(&blob);
    let source = Source::Registry { registry: registry.url("/"), repository: "some/repo".into(), digest };
    let mine = bringing("authorization", "Bearer mine");
    let stat = origin.stat(&source, &mine, None).await.unwrap();
    assert_eq!((stat.version.length, stat.ranges), (Some(50_000), true));
    let reading = origin.read(&source, &mine, range(40_000, 60_000), Some(&stat.version)).await.unwrap();
    assert_eq!(reading.length, Some(50_000));
    assert!(take(reading).await.unwrap() == blob[40_000..]);
    assert!(store.seen().iter().all(|seen| seen.header("authorization").is_none()));
    let error = origin.read(&source, &none(), None, None).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unauthorized { .. }));
}

#[tokio::test]
async fn requests_pass_with_their_headers_and_answers_with_theirs() {
    let server = Server::start(|seen| match seen.header("if-none-match") {
        Some("\"d\"") => Reply::status(304).with("docker-content-digest", "sha256:d"),
        _ => Reply::bytes("{}").with("docker-content-digest", "sha256:d").with("content-type", "application/x"),
    })
    .await;
    let client = RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
    let upstream = client.upstreams().resolve(&server.address.to_string()).unwrap();
    let mut headers = HeaderMap::new();
    headers.append("accept", HeaderValue::from_static("application/a"));
    headers.append("accept", HeaderValue::from_static("application/b"));
    headers.append("authorization", HeaderValue::from_static("only credentials authorise"));
    let answer = client.send(&upstream, Method::HEAD, MANIFEST, headers.clone(), &none()).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.headers["docker-content-digest"]), (200, &"sha256:d".parse().unwrap()));
    assert_eq!(answer.headers["content-length"], "2");
    assert_eq!(text(answer).await, "");
    headers.insert("if-none-match", HeaderValue::from_static("\"d\""));
    let answer = client.send(&upstream, Method::GET, MANIFEST, headers, &none()).await.unwrap();
    assert_eq!(answer.status, 304);
    let seen = &server.seen()[0];
    assert_eq!(seen.headers.get_all("accept").iter().count(), 2);
    assert_eq!(seen.header("authorization"), None);
    let error = client.send(&upstream, Method::DELETE, MANIFEST, HeaderMap::new(), &none()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol);
    assert_eq!(server.seen().len(), 2);
}

/// A store behind the registry that keeps some requests waiting for ever, and refuses others.
async fn stuck(hang: &'static [usize], refuse: &'static [usize]) -> (Server, RegistryOrigin, Source) {
    let blob = content(50_000);
    let digest = Digest::sha256(&blob);
    let count = AtomicUsize::new(0);
    let registry = Server::start(move |_| {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        if refuse.contains(&nth) {
            return Reply::status(503);
        }
        let reply = Reply::bytes(blob.clone());
        if hang.contains(&nth) { reply.sent(Sent::Never) } else { reply }
    })
    .await;
    let client = RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
    let origin = RegistryOrigin::new(client).asking_again_after(Duration::from_millis(200));
    let source = Source::Registry { registry: registry.url("/"), repository: "some/repo".into(), digest };
    (registry, origin, source)
}

#[tokio::test]
async fn a_blob_that_does_not_begin_is_asked_for_once_more() {
    let (registry, origin, source) = stuck(&[0], &[]).await;
    let reading = origin.read(&source, &none(), None, None).await.unwrap();
    assert!(take(reading).await.unwrap() == content(50_000));
    assert_eq!(registry.seen().len(), 2);
}

#[tokio::test]
async fn a_second_request_that_is_refused_does_not_end_the_first() {
    let (registry, origin, source) = stuck(&[0], &[1]).await;
    let nobody = none();
    let reading = origin.read(&source, &nobody, None, None);
    assert!(tokio::time::timeout(Duration::from_secs(2), reading).await.is_err(), "the first is waited for");
    assert_eq!(registry.seen().len(), 2, "and nobody asks a third time");
}
