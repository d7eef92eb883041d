//! How requests are made: redirects, proxies, settings of single servers, and what servers do that is out of the ordinary.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use darter_core::Source;
use darter_origin::{ErrorKind, HttpClient, HttpConfig, HttpOrigin, Origin, OriginFailure, ServerConfig};
use support::files::Resource;
use support::{Reply, Sent, Server, certificate, client, content, none, range, take};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::Url;

fn origin() -> HttpOrigin {
    HttpOrigin::new(client())
}

/// An origin with settings for `server` alone.
fn origin_with(server: &Server, own: ServerConfig) -> HttpOrigin {
    let urls = if own.urls.is_empty() { vec![server.url("/")] } else { own.urls.clone() };
    let own = ServerConfig { urls, ..own };
    let servers = [(server.address.to_string(), own)].into();
    let config = HttpConfig { servers, proxy_from_environment: false, ..HttpConfig::default() };
    HttpOrigin::new(HttpClient::new(&config).unwrap())
}

async fn read(origin: &HttpOrigin, source: &Source) -> Result<Vec<u8>, OriginFailure> {
    let reading = origin.read(source, &none(), None, None).await;
    let bytes = match reading {
        Ok(reading) => take(reading).await,
        Err(error) => Err(error),
    };
    bytes.map_err(|error| OriginFailure::from(&error))
}

#[tokio::test]
async fn twenty_redirects_are_followed_and_a_circle_ends() {
    let server = Server::start(|seen| match seen.path.trim_start_matches('/').parse::<u32>() {
        Ok(20) => Reply::bytes("there"),
        Ok(hop) => Reply::status(302).with("location", format!("/{}", hop + 1)),
        Err(_) => Reply::status(302).with("location", seen.path.clone()),
    })
    .await;
    assert_eq!(read(&origin(), &server.source("/0")).await.unwrap(), b"there");
    let circle = read(&origin(), &server.source("/circle")).await.unwrap_err();
    assert!(circle.text.contains("more than 20 times"), "{}", circle.text);
}

#[tokio::test]
async fn a_location_in_raw_utf8_is_followed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in [
            "HTTP/1.1 302 Found\r\nLocation: /téléchargement/模型.bin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        ] {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = socket.read(&mut request).await.unwrap();
            asked.push(String::from_utf8_lossy(&request[..read]).lines().next().unwrap().to_owned());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    let source = Source::from_url(format!("http://{address}/").parse().unwrap(), &[], None).0;
    assert_eq!(read(&origin(), &source).await.unwrap(), b"ok");
    let second = "GET /t%C3%A9l%C3%A9chargement/%E6%A8%A1%E5%9E%8B.bin HTTP/1.1";
    assert_eq!(asked.await.unwrap(), ["GET / HTTP/1.1", second]);
}

#[tokio::test]
async fn a_users_headers_follow_a_redirect_to_another_host_and_their_credentials_do_not() {
    let elsewhere = Server::start(|_| Reply::bytes("x")).await;
    let away = elsewhere.url("/").to_string();
    let server = Server::start(move |_| Reply::status(302).with("location", away.as_str())).await;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let given = [header("X-Team", "infra"), header("User-Agent", "curl/8"), header("Private-Token", "secret")];
    let (source, credentials) = Source::from_url(server.url("/"), &given, None);
    take(origin().read(&source, &credentials, None, None).await.unwrap()).await.unwrap();
    let seen = &elsewhere.seen()[0];
    assert_eq!((seen.header("x-team"), seen.header("user-agent")), (Some("infra"), Some("curl/8")));
    assert_eq!(seen.header("private-token"), None);
    assert_eq!(server.seen()[0].header("private-token"), Some("secret"));
}

#[tokio::test]
async fn unusual_ways_to_say_yes_are_a_yes() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/203" => Reply { status: http::StatusCode::NON_AUTHORITATIVE_INFORMATION, ..Reply::bytes("whole") },
        "/206" => Reply { status: http::StatusCode::PARTIAL_CONTENT, ..Reply::bytes("whole") },
        "/206-of" => Reply { status: http::StatusCode::PARTIAL_CONTENT, ..Reply::bytes("whole") }
            .with("content-range", "bytes 0-4/5"),
        "/300" => Reply::status(300).with("location", "/203"),
        "/headers" => (0..400).fold(Reply::bytes("whole"), |reply, n| reply.with("x-many", n.to_string())),
        _ => Reply { status: http::StatusCode::PARTIAL_CONTENT, ..Reply::bytes("parts") }
            .with("content-type", "multipart/byteranges; boundary=x"),
    })
    .await;
    for path in ["/203", "/206", "/206-of", "/300", "/headers"] {
        assert_eq!(read(&origin(), &server.source(path)).await.unwrap(), b"whole", "{path}");
        assert!(origin().stat(&server.source(path), &none(), None).await.is_ok(), "{path}");
    }
    assert_eq!(read(&origin(), &server.source("/multipart")).await.unwrap_err().kind, ErrorKind::Protocol);
    // Less than the whole comes as what it is.
    let part = Server::start(|_| {
        Reply { status: http::StatusCode::PARTIAL_CONTENT, ..Reply::bytes("wh") }.with("content-range", "bytes 0-1/5")
    })
    .await;
    let reading = origin().read(&part.source("/"), &none(), None, None).await.unwrap();
    assert_eq!((reading.start, reading.length), (0, Some(5)));
    assert_eq!(take(reading).await.unwrap(), b"wh");
}

#[tokio::test]
async fn a_connection_that_breaks_before_an_answer_is_made_anew() {
    let broken = AtomicUsize::new(0);
    let server = Server::start(move |seen| match broken.fetch_add(1, Ordering::Relaxed) {
        1 | 2 => Reply::status(200).sent(Sent::Nothing),
        _ => Resource::new(content(100)).answer(seen),
    })
    .await;
    let origin = origin();
    for _ in 0..2 {
        assert_eq!(read(&origin, &server.source("/")).await.unwrap().len(), 100);
    }
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn origins_that_speak_http2_are_spoken_to_so() {
    let server = Server::start_http2(|seen| Resource::new(content(300_000)).answer(seen)).await;
    let origin = origin_with(&server, ServerConfig { ca: Some(certificate("ca.pem")), ..ServerConfig::default() });
    assert!(read(&origin, &server.source("/")).await.unwrap() == content(300_000));
    let reading = origin.read(&server.source("/"), &none(), range(1000, 2000), None).await.unwrap();
    assert!(take(reading).await.unwrap() == content(300_000)[1000..2000]);
    assert!(server.seen().iter().all(|seen| seen.version == http::Version::HTTP_2));
}

#[tokio::test]
async fn one_servers_authority_certificate_and_headers_are_its_own() {
    let server = Server::start_tls_for_known(|seen| Resource::new(content(100)).answer(seen)).await;
    let own = || ServerConfig {
        ca: Some(certificate("ca.pem")),
        client_cert: Some(certificate("client.pem")),
        client_key: Some(certificate("client.key")),
        headers: vec![("X-Team".into(), "infra".into())],
        ..ServerConfig::default()
    };
    assert_eq!(read(&origin_with(&server, own()), &server.source("/")).await.unwrap().len(), 100);
    assert_eq!(server.seen()[0].header("x-team"), Some("infra"));
    let unknown = ServerConfig { client_cert: None, client_key: None, ..own() };
    read(&origin_with(&server, unknown), &server.source("/")).await.unwrap_err();
    // A redirect elsewhere takes the trust along, and not the headers.
    let stored = Server::start_tls(|_| Reply::bytes("x")).await;
    let away = stored.url("/").to_string();
    let first = Server::start_tls(move |_| Reply::status(302).with("location", away.as_str())).await;
    assert_eq!(read(&origin_with(&first, own()), &first.source("/")).await.unwrap(), b"x");
    assert_eq!(stored.seen()[0].header("x-team"), None);
    // Nor the certificate.
    let closed = Server::start_tls_for_known(|_| Reply::bytes("x")).await;
    let away = closed.url("/").to_string();
    let first = Server::start_tls(move |_| Reply::status(302).with("location", away.as_str())).await;
    read(&origin_with(&first, own()), &first.source("/")).await.unwrap_err();
    let missing = ServerConfig { client_cert: Some("/nonexistent.pem".into()), ..ServerConfig::default() };
    let servers = [("a.lab".to_owned(), missing)].into();
    let error = HttpClient::new(&HttpConfig { servers, ..HttpConfig::default() }).unwrap_err().to_string();
    assert!(error.contains("/nonexistent.pem"), "{error}");
}

/// A key for one server's API is not for whatever else its host runs, and not for whoever listens on the way.
#[tokio::test]
async fn headers_and_certificate_go_to_no_other_port_of_the_host_and_not_in_the_clear() {
    let own = |url: Url| ServerConfig {
        urls: vec![url],
        ca: Some(certificate("ca.pem")),
        client_cert: Some(certificate("client.pem")),
        client_key: Some(certificate("client.key")),
        headers: vec![("X-Api-Key".into(), "secret".into())],
        ..ServerConfig::default()
    };
    // As it is configured for `https://HOST`: the settings are found by the host.
    let of_host = |url: Url| {
        let servers = [(url.host_str().unwrap().to_owned(), own(url))].into();
        let config = HttpConfig { servers, proxy_from_environment: false, ..HttpConfig::default() };
        HttpOrigin::new(HttpClient::new(&config).unwrap())
    };
    let configured = Server::start_tls_for_known(|_| Reply::bytes("x")).await;
    let origin = of_host(configured.url("/api/"));
    assert_eq!(read(&origin, &configured.source("/")).await.unwrap(), b"x");
    assert_eq!(configured.seen()[0].header("x-api-key"), Some("secret"));
    let other_port = Server::start_tls(|_| Reply::bytes("x")).await;
    let plain = Server::start(|_| Reply::bytes("x")).await;
    for other in [&other_port, &plain] {
        assert_eq!(read(&origin, &other.source("/")).await.unwrap(), b"x", "the authority is the host's");
        assert_eq!(other.seen()[0].header("x-api-key"), None);
    }
    let wants_certificate = Server::start_tls_for_known(|_| Reply::bytes("x")).await;
    read(&origin, &wants_certificate.source("/")).await.unwrap_err();
    // The very host and port, in the clear.
    let mut over_tls = plain.url("/");
    over_tls.set_scheme("https").unwrap();
    let origin = origin_with(&plain, own(over_tls));
    assert_eq!(read(&origin, &plain.source("/")).await.unwrap(), b"x");
    assert_eq!(plain.seen()[1].header("x-api-key"), None);
}

#[tokio::test]
async fn a_server_may_be_given_more_time_than_others_or_less() {
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = deaf.local_addr().unwrap();
    let impatient =
        ServerConfig { first_byte_timeout: Some(std::time::Duration::from_millis(50)), ..ServerConfig::default() };
    let config = HttpConfig {
        servers: [(address.to_string(), impatient)].into(),
        proxy_from_environment: false,
        ..HttpConfig::default()
    };
    let origin = HttpOrigin::new(HttpClient::new(&config).unwrap());
    let source = Source::from_url(format!("http://{address}/").parse().unwrap(), &[], None).0;
    let error = read(&origin, &source).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(error.text.contains("--origin-timeout"), "{}", error.text);
}

#[tokio::test]
async fn a_proxy_that_is_dead_or_wants_a_login_is_called_that() {
    let by = |proxy: &str| {
        let own = ServerConfig { proxy: Some(proxy.parse().unwrap()), ..ServerConfig::default() };
        let servers = [("files.lab".to_owned(), own)].into();
        let config = HttpConfig { servers, proxy_from_environment: false, ..HttpConfig::default() };
        HttpOrigin::new(HttpClient::new(&config).unwrap())
    };
    let at = |url: &str| Source::from_url(url.parse().unwrap(), &[], None).0;
    for url in ["http://files.lab/x", "https://files.lab/x"] {
        let error = read(&by("http://127.0.0.1:1"), &at(url)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable, "{url}");
        assert!(error.text.contains("the proxy 127.0.0.1:1") && error.text.contains("files.lab"), "{}", error.text);
    }
    let refusing = Server::start(|_| Reply::status(407).with("proxy-authenticate", "Basic realm=\"x\"")).await;
    let denying = Server::start(|_| Reply::status(403)).await;
    for url in ["http://files.lab/x", "https://files.lab/x"] {
        let error = read(&by(refusing.url("/").as_str()), &at(url)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Status(407), "{url}");
        let named = format!("the proxy {}", refusing.address);
        assert!(error.text.contains(&named) && error.text.contains("407"), "{}", error.text);
    }
    let error = read(&by(denying.url("/").as_str()), &at("https://files.lab/x")).await.unwrap_err();
    assert!(error.text.contains(&format!("the proxy {} does not connect", denying.address)), "{}", error.text);
    let unreached = Server::start(|_| Reply::status(504).with("x-squid-error", "ERR_CONNECT_FAIL 111")).await;
    let error = read(&by(unreached.url("/").as_str()), &at("http://files.lab/x")).await.unwrap_err();
    assert!(error.text.contains("a proxy on the way says: ERR_CONNECT_FAIL 111"), "{}", error.text);
    for (answer, said) in [(&b""[..], "broke the connection off"), (b"SSH-2.0-x\r\n", "does not speak HTTP")] {
        let Source::Url { url: odd, .. } = says(answer).await else { panic!("an address") };
        let error = read(&by(odd.as_str()), &at("http://files.lab/x")).await.unwrap_err();
        let named = format!("the proxy 127.0.0.1:{}", odd.port().unwrap());
        assert!(error.text.contains(said) && error.text.contains(&named), "{}", error.text);
    }
    let unknown = "x".repeat(64);
    for (proxy, kind, says) in [
        (format!("http://{unknown}:3128"), ErrorKind::UnknownName, &unknown[..]),
        ("socks5h://127.0.0.1:1".to_owned(), ErrorKind::Proxy, "the proxy socks5h://127.0.0.1:1"),
    ] {
        for url in ["http://files.lab/x", "https://files.lab/x"] {
            let error = read(&by(&proxy), &at(url)).await.unwrap_err();
            assert!(error.kind == kind && error.text.contains(says), "{url}: {error:?}");
            assert!(!error.blame().may_pass() && !error.blame().is_final(), "another agent may do, this one not");
        }
    }
    // One that works is no part of what is said.
    let proxy = Server::start(|_| Reply::bytes("by proxy")).await;
    assert_eq!(read(&by(proxy.url("/").as_str()), &at("http://files.lab/x")).await.unwrap(), b"by proxy");
}

/// Answers each request with these bytes, and ends the connection.
async fn says(answer: &'static [u8]) -> Source {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(answer).await;
        }
    });
    Source::from_url(format!("http://{address}/").parse().unwrap(), &[], None).0
}

#[tokio::test]
async fn a_server_that_hangs_or_resets_at_a_tls_greeting_may_be_one_without_tls() {
    for hangs in [true, false] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                if hangs {
                    kept.push(socket);
                } else {
                    // Sent bytes that are not read reset the connection.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        });
        let connect_timeout = std::time::Duration::from_millis(300);
        let config = HttpConfig { connect_timeout, proxy_from_environment: false, ..HttpConfig::default() };
        let origin = HttpOrigin::new(HttpClient::new(&config).unwrap());
        let source = Source::from_url(format!("https://{address}/").parse().unwrap(), &[], None).0;
        let error = read(&origin, &source).await.unwrap_err();
        assert!(error.text.contains(&format!("--plain-http {address}")), "{hangs}: {}", error.text);
    }
}

#[tokio::test]
async fn what_other_clients_understand_is_understood() {
    let understood: [&[u8]; 8] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\nx-y : z\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx-long: one\r\n  two\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno header at all\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok",
        // The transfer encoding ends the body, whatever a length says.
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.0 200\r\n\r\nok",
    ];
    for answer in understood {
        let text = String::from_utf8_lossy(answer);
        assert_eq!(read(&origin(), &says(answer).await).await.unwrap(), b"ok", "{text}");
    }
    let refused: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    ];
    for answer in refused {
        let text = String::from_utf8_lossy(answer);
        assert!(read(&origin(), &says(answer).await).await.is_err(), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_the_handshake_is_not_said_to_have_a_wrong_certificate() {
    // An alert: handshake failure.
    let Source::Url { mut url, variant, digest } = says(b"\x15\x03\x03\x00\x02\x02\x28").await else {
        panic!("an address")
    };
    url.set_scheme("https").unwrap();
    let error = read(&origin(), &Source::Url { url, variant, digest }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Tls);
    assert!(error.text.contains("refused the TLS handshake (HandshakeFailure)"), "{}", error.text);
}
