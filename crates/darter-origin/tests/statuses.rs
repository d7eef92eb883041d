//! Each failure that follows from an HTTP answer names its status, as people search for it: "404 Not Found".

mod support;

use std::sync::Arc;

use darter_core::{Blamed as _, Digest, Fault, Retry, Source, in_full};
use darter_origin::{
    ErrorKind, HttpClient, HttpConfig, HttpOrigin, Origin, OriginError, RegistryClient, RegistryConfig, RegistryOrigin,
    ServerConfig,
};
use support::{HandClock, Reply, Seen, Server, certificate, client, none, take};

/// What a server answers.
type Answer = fn(&Seen) -> Reply;

/// A registry whose token service answers as the test says.
async fn registry(token: Answer, blob: Answer) -> (Server, Server, RegistryOrigin, Source) {
    let tokens = Server::start(token).await;
    let realm = tokens.url("/token").to_string();
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some(_) => blob(seen),
        None => Reply::status(401).with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
    })
    .await;
    let client = RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(HandClock::default()));
    let (repository, digest) = ("some/repo".into(), Digest::sha256(b"blob"));
    let source = Source::Registry { registry: server.url("/"), repository, digest };
    (tokens, server, RegistryOrigin::new(client), source)
}

fn granted(_: &Seen) -> Reply {
    Reply::bytes(r#"{"token":"abc"}"#)
}

async fn failures(origin: &dyn Origin, source: &Source) -> [Option<OriginError>; 2] {
    let read = match origin.read(source, &none(), None, None).await {
        Ok(reading) => take(reading).await.err(),
        Err(error) => Some(error),
    };
    [read, origin.stat(source, &none(), None).await.err()]
}

#[tokio::test]
async fn a_servers_answer_is_named_in_each_failure() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/no-address" => Reply::status(307).with("location", "http://[half"),
        "/ftp" => Reply::status(301).with("location", "ftp://files.lab/x"),
        "/circle" => Reply::status(308).with("location", "/circle"),
        "/nowhere" => Reply::status(302),
        "/other-part" => Reply::status(206).with("content-range", "bytes 7-8/9"),
        other => Reply::status(other[1..].parse().unwrap()),
    })
    .await;
    let cases = [
        ("/no-address", "HTTP 307 Temporary Redirect"),
        ("/ftp", "HTTP 301 Moved Permanently"),
        ("/circle", "HTTP 308 Permanent Redirect"),
        ("/nowhere", "HTTP 302 Found"),
        ("/other-part", "HTTP 206 Partial Content"),
        ("/202", "HTTP 202 Accepted"),
        ("/204", "HTTP 204 No Content"),
        ("/304", "HTTP 304 Not Modified"),
        ("/400", "HTTP 400 Bad Request"),
        ("/401", "HTTP 401 Unauthorized"),
        ("/403", "HTTP 403 Forbidden"),
        ("/404", "HTTP 404 Not Found"),
        ("/407", "HTTP 407 Proxy Authentication Required"),
        ("/410", "HTTP 410 Gone"),
        ("/412", "HTTP 412 Precondition Failed"),
        ("/416", "HTTP 416 Range Not Satisfiable"),
        ("/429", "HTTP 429 Too Many Requests"),
        ("/451", "HTTP 451 Unavailable For Legal Reasons"),
        ("/500", "HTTP 500 Internal Server Error"),
        ("/503", "HTTP 503 Service Unavailable"),
        ("/530", "HTTP 530"),
    ];
    for (path, named) in cases {
        let failures = failures(&HttpOrigin::new(client()), &server.source(path)).await;
        assert!(failures[0].is_some(), "{path}");
        for failure in failures.into_iter().flatten() {
            let text = in_full(&failure).to_string();
            assert!(text.contains(named), "{path}: {text}");
        }
    }
}

#[tokio::test]
async fn a_registrys_answer_is_named_in_each_failure() {
    let cases: [(Answer, Answer, &str); 7] = [
        (granted, |_| Reply::status(404), "HTTP 404 Not Found"),
        (granted, |_| Reply::bytes("<html>").with("content-type", "text/html"), "a page of HTML (HTTP 200 OK)"),
        (granted, |_| Reply::bytes("blob").with("content-encoding", "br"), "came (HTTP 200 OK)"),
        (|_| Reply::bytes("{}"), |_| Reply::bytes("blob"), "gave no token (HTTP 200 OK)"),
        (|_| Reply::bytes("[]"), |_| Reply::bytes("blob"), "answers (HTTP 200 OK) with something else"),
        (|_| Reply::bytes("x").with("content-encoding", "br"), |_| Reply::bytes("blob"), "answers (HTTP 200 OK) in an"),
        (|_| Reply::bytes(vec![b' '; 2 << 20]), |_| Reply::bytes("blob"), "answers (HTTP 200 OK) with more than"),
    ];
    for (token, blob, named) in cases {
        let (_tokens, _server, origin, source) = registry(token, blob).await;
        let failures = failures(&origin, &source).await;
        assert!(failures[0].is_some(), "{named}");
        for failure in failures.into_iter().flatten() {
            let text = in_full(&failure).to_string();
            assert!(text.contains(named), "{named}: {text}");
        }
    }
    // This one is not noticed by who reads.
    let (_tokens, _server, origin, source) = registry(granted, |_| Reply::bytes("")).await;
    let text = origin.stat(&source, &none(), None).await.unwrap_err().to_string();
    assert!(text.contains("says (HTTP 200 OK) that") && text.contains("has no bytes"), "{text}");
}

/// The registry's own 401 would have the caller look for credentials.
#[tokio::test]
async fn a_token_service_that_refuses_for_good_is_the_cause_of_the_registrys_401() {
    let cases: [(Answer, &str); 3] = [
        (|_| Reply::status(404), "HTTP 404 Not Found"),
        (|_| Reply::status(403), "HTTP 403 Forbidden"),
        (|_| Reply::status(401), "HTTP 401 Unauthorized"),
    ];
    for (token, named) in cases {
        let (tokens, _server, origin, source) = registry(token, |_| Reply::bytes("blob")).await;
        for failure in failures(&origin, &source).await {
            let failure = failure.unwrap();
            assert!(matches!(failure.kind(), ErrorKind::Unauthorized { challenge } if challenge.len() == 1));
            let cause = std::error::Error::source(&failure).expect("the refusal").to_string();
            assert!(cause.contains(named) && cause.contains(&format!("the token service {}", tokens.url("/token"))));
            let text = failure.to_string();
            assert!(text.contains("HTTP 401 Unauthorized, since the registry's token service gave no token"), "{text}");
        }
    }
}

fn files_lab() -> Source {
    Source::from_url("https://files.lab/x".parse().unwrap(), &[], None).0
}

/// Reads from files.lab by this proxy, with its login.
async fn by(proxy: &Server) -> OriginError {
    let mut url = proxy.url("/");
    url.set_username("me").unwrap();
    url.set_password(Some("secret")).unwrap();
    let own = ServerConfig { proxy: Some(url), ca: Some(certificate("ca.pem")), ..ServerConfig::default() };
    let servers = [("files.lab".to_owned(), own)].into();
    let config = HttpConfig { servers, proxy_from_environment: false, ..HttpConfig::default() };
    let origin = HttpOrigin::new(HttpClient::new(&config).unwrap());
    origin.read(&files_lab(), &none(), None, None).await.map(|_| ()).unwrap_err()
}

/// That a proxy refuses to connect is no reason to ask it for hours, unless it may connect later.
#[tokio::test]
async fn the_status_by_which_a_proxy_refuses_to_connect_is_named_and_says_whether_to_ask_again() {
    let cases = [
        (403, "HTTP 403 Forbidden", false),
        (404, "HTTP 404 Not Found", false),
        (451, "HTTP 451 Unavailable For Legal Reasons", false),
        (501, "HTTP 501 Not Implemented", false),
        (429, "HTTP 429 Too Many Requests", true),
        (502, "HTTP 502 Bad Gateway", true),
        (503, "HTTP 503 Service Unavailable", true),
        (504, "HTTP 504 Gateway Timeout", true),
    ];
    for (status, named, later) in cases {
        let proxy = Server::start(move |_| Reply::status(status).with("x-squid-error", "ERR_X 0")).await;
        let error = by(&proxy).await;
        let text = in_full(&error).to_string();
        let told = format!("the proxy {} does not connect to files.lab ({named})", proxy.address);
        assert!(text.contains(&told) && text.contains("it says: ERR_X 0") && !text.contains("secret"), "{text}");
        assert!(std::error::Error::source(&error).is_some() && error.is_unconnected(), "{text}");
        let expected = if later { (Fault::Network, Retry::Later(None)) } else { (Fault::User, Retry::Elsewhere) };
        assert_eq!((error.blame().fault, error.blame().retry), expected, "{status}");
        let seen = proxy.seen();
        assert_eq!(seen.len(), 2, "the proxy is asked again once");
        for seen in seen {
            let login = seen.header("proxy-authorization").map(|login| login == "Basic bWU6c2VjcmV0");
            assert_eq!(
                (seen.method.as_str(), seen.header("host"), login),
                ("CONNECT", Some("files.lab:443"), Some(true))
            );
        }
    }
    let pause = Server::start(|_| Reply::status(503).with("retry-after", "7")).await;
    assert_eq!(by(&pause).await.blame().retry, Retry::Later(Some(std::time::Duration::from_secs(7))));
    let over_tls = Server::start_tls(|_| Reply::status(403)).await;
    let text = by(&over_tls).await.to_string();
    assert!(text.contains("HTTP 403 Forbidden"), "{text}");
    // It connects when it is asked again: nothing is known of why it did not.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let once = Server::start(move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Reply::status(403),
        _ => Reply::status(200),
    })
    .await;
    let error = by(&once).await;
    assert!(error.to_string().contains("does not connect to files.lab: check its rules"), "{error}");
    assert!(error.blame().may_pass());
}

/// A proxy that the environment names, with its login.
#[tokio::test]
async fn a_proxy_of_the_environment_is_asked_for_its_status_too() {
    let proxy = Server::start(|_| Reply::status(403)).await;
    let run = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reads_by_the_proxy_of_the_environment", "--ignored", "--nocapture"])
        .env("HTTPS_PROXY", format!("http://me:secret@{}", proxy.address))
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env_remove("https_proxy")
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&run.stdout);
    let told = format!("the proxy {} does not connect to files.lab (HTTP 403 Forbidden)", proxy.address);
    assert!(printed.contains(&told) && !printed.contains("secret"), "{printed}");
    let seen = proxy.seen();
    assert!(seen.len() == 2 && seen.iter().all(|seen| seen.header("proxy-authorization").is_some()), "{seen:?}");
}

#[tokio::test]
#[ignore = "run by the test above, with other variables in its environment"]
async fn reads_by_the_proxy_of_the_environment() {
    let origin = HttpOrigin::new(HttpClient::new(&HttpConfig::default()).unwrap());
    let error = origin.read(&files_lab(), &none(), None, None).await.map(|_| ()).unwrap_err();
    println!("{}", in_full(&error));
}
