//! The port itself: what it serves besides the mirror, and how it stops.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::Phase;
use darter_gateway::server::LocalPort;
use http::Method;
use rustix::net::sockopt::set_tcp_cork;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::world::{World, content, world};

#[tokio::test]
async fn the_port_tells_what_it_is_and_how_it_is() {
    let world = world().await;
    let about = world.get("/").await;
    assert!(about.status == 200 && about.body.starts_with(b"This is Darter"));
    assert_eq!(world.get("/healthz").await.body, "ok\n");
    assert_eq!(world.get("/nowhere").await.status, 404);
    assert_eq!(world.send(Method::POST, "/healthz", &[]).await.status, 405);
    world.get("/v2/").await;
    let metrics = world.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(!metrics.body.ends_with(b"# EOF\n"), "promtool does not know it");
    let newer = world.send(Method::GET, "/metrics", &[("accept", "application/openmetrics-text;q=0.5,*/*")]).await;
    assert!(newer.header("content-type").starts_with("application/openmetrics-text"));
    assert!(newer.body.ends_with(b"# EOF\n"));
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains(r#"darter_mirror_requests_total{kind="ping",status="200",registry="#), "{text}");
    let head = world.head("/metrics").await;
    assert!(head.body.is_empty() && head.header("content-length") != "0");
}

#[tokio::test]
async fn readiness_follows_the_start_and_the_drain() {
    let world = world().await;
    let ready = async || {
        let answer = world.get("/readyz").await;
        (answer.status.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
    };
    assert_eq!(ready().await, (503, "starting: seeds are being reached\n".to_owned()));
    assert_eq!(world.get("/healthz").await.status, 200, "it lives meanwhile");
    world.phase.send_replace(Phase::Ready);
    assert_eq!(ready().await, (200, "ready\n".to_owned()));
    world.phase.send_replace(Phase::Draining);
    assert_eq!(ready().await, (503, "draining\n".to_owned()));
}

/// `printf 'GET …' | nc -N`, and clients of old libraries: RFC 9112, 9.6.
#[tokio::test]
async fn a_client_that_closes_its_side_with_its_request_gets_the_whole_answer() {
    let world = world().await;
    let bytes = content(3_000_000);
    world.registry.put_image("app", Some("1"), b"layer");
    let blob = format!("/v2/app/blobs/{}", world.registry.put_blob("app", &bytes));
    world.agent.hold(bytes.clone());
    // The registry takes its time: the client's end is seen long before there is an answer.
    world.registry.state.lock().slow_heads = Duration::from_millis(300);
    let asks = async |path: &str, closes: bool| {
        let mut stream = tokio::net::TcpStream::connect(world.port.address()).await.unwrap();
        let more = if closes { "" } else { "connection: close\r\n" };
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
        // A busy machine may go on with this program only long after the request was sent: so the request and the end are sent together.
        set_tcp_cork(&stream, closes).unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        if closes {
            stream.shutdown().await.unwrap();
        }
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("an end").unwrap();
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let head = head.unwrap_or_else(|| panic!("no head of {path} in {} bytes", answer.len())) + 4;
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{path}");
        answer.split_off(head)
    };
    for path in ["/healthz", "/v2/app/manifests/1", "/metrics"] {
        assert!(!asks(path, true).await.is_empty(), "{path}");
    }
    assert!(asks(&blob, true).await == bytes);
    assert!(asks(&blob, false).await == bytes, "and closes none that is closed by itself");
}

#[tokio::test]
async fn the_metrics_port_serves_no_images() {
    let world = world().await;
    world.registry.put_image("app", Some("1"), b"layer");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port =
        LocalPort::serve(listener, None, Arc::clone(&world.metrics), Vec::new(), world.phase.subscribe()).unwrap();
    let ask = async |path: &str| world.client.get(format!("http://{}{path}", port.address())).send().await.unwrap();
    assert!(ask("/metrics").await.text().await.unwrap().contains("darter_build_info"));
    assert_eq!(ask("/healthz").await.status(), 200);
    for path in ["/v2/", "/v2/app/manifests/1?ns=lab"] {
        assert_eq!(ask(path).await.status(), 404, "{path}");
    }
}

/// A page that lets its name resolve to 127.0.0.1 would else read private manifests with the agent's own logins.
#[tokio::test]
async fn no_web_page_is_answered_whatever_the_path() {
    let world = world().await;
    world.registry.put_image("app", Some("1"), b"layer");
    for path in ["/", "/metrics", "/healthz", "/v2/", "/v2/app/manifests/1", "/nowhere"] {
        for (host, origin, status) in [
            ("evil.example:7401", None, 421),
            ("evil.example", None, 421),
            ("localhost:7401", Some("https://evil.example"), 403),
            ("localhost:7401", Some("null"), 403),
            ("", None, 400),
        ] {
            let mut headers = vec![("host", host)];
            headers.extend(origin.map(|origin| ("origin", origin)));
            let refused = world.send(Method::GET, path, &headers).await;
            assert_eq!(refused.status, status, "{path} {headers:?}");
            assert!(!refused.body.starts_with(b"{") && refused.header("docker-content-digest").is_empty());
        }
    }
    assert_eq!(world.registry.asked(), [""; 0]);
    for host in ["localhost:7401", "127.0.0.1", "[::1]:7401", "darter.corp"] {
        let answered = world.send(Method::GET, "/v2/app/manifests/1", &[("host", host)]).await;
        assert_eq!(answered.status, 200, "{host}");
    }
    assert!(world.counted(r#"darter_local_refusals_total{reason="origin"} 12"#));
}

#[tokio::test]
async fn an_announced_drain_shows_in_the_health_while_everything_goes_on() {
    let world = world().await;
    world.phase.send_replace(Phase::Draining);
    let health = world.get("/healthz").await;
    assert_eq!((health.status.as_u16(), &health.body[..]), (503, &b"draining\n"[..]));
    assert_eq!(world.get("/v2/").await.status, 200);
}

/// A blob that stops in the middle until the gate opens, and the answer that has begun.
async fn begun() -> (World, Vec<u8>, Arc<Notify>, reqwest::Response) {
    let world = world().await;
    let bytes = content(5000);
    let digest = world.registry.put_blob("app", &bytes);
    world.agent.hold(bytes.clone());
    let gate = Arc::new(Notify::new());
    world.agent.0.lock().gate = Some((3000, Arc::clone(&gate)));
    let response = world.client.get(world.url(&format!("/v2/app/blobs/{digest}"))).send().await.unwrap();
    (world, bytes, gate, response)
}

#[tokio::test]
async fn a_drain_lets_answers_under_way_end_and_takes_no_new_ones() {
    let (world, bytes, gate, response) = begun().await;
    let url = world.url("/healthz");
    let (port, client) = (world.port, world.client);
    let drain = tokio::spawn(async move { port.drain(Duration::from_secs(60)).await });
    while client.get(&url).send().await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!drain.is_finished());
    gate.notify_one();
    assert!(response.bytes().await.unwrap() == bytes);
    drain.await.unwrap();
}

#[tokio::test]
async fn a_port_closes_when_its_agent_says_so_and_within_the_time_that_it_says() {
    let (world, _, _gate, response) = begun().await;
    let (phase, url, client) = (world.phase.clone(), world.url("/healthz"), world.client.clone());
    let closed = tokio::spawn(world.port.until_closed());
    phase.send_replace(Phase::Draining);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 503, "it is still open");
    phase.send_replace(Phase::Closing(Duration::from_millis(50)));
    closed.await.unwrap();
    assert!(response.bytes().await.is_err(), "what did not end in time was cut");
    assert!(client.get(&url).send().await.is_err());
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_end_in_time() {
    let (world, _, _gate, response) = begun().await;
    world.port.drain(Duration::from_millis(50)).await;
    assert!(response.bytes().await.is_err());
}
