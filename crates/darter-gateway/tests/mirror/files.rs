//! Blobs that lie in files: what goes out by `sendfile` is what would go out otherwise.

use std::time::Duration;

use darter_agent::FetchError;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{World, content, world};

const LENGTH: usize = 5_000_000;

/// A blob that the agent has in a file, and its path. The mirror knows already that anybody may read it.
async fn with_file(length: usize) -> (World, Vec<u8>, String) {
    let world = world().await;
    let bytes = content(length);
    let digest = world.registry.put_blob("app", &bytes);
    world.agent.hold(bytes.clone());
    world.agent.0.lock().as_files = true;
    let path = format!("/v2/app/blobs/{digest}");
    world.head(&path).await;
    (world, bytes, path)
}

/// The bytes that the mirror has sent by `sendfile`.
fn by_sendfile(world: &World) -> u64 {
    world.metrics.local_sendfile_bytes.get()
}

/// Asks on a connection that stays open; gives the answer's head and body.
async fn ask(connection: &mut TcpStream, method: &str, path: &str, range: Option<&str>) -> (String, Vec<u8>) {
    let range = range.map(|range| format!("range: {range}\r\n")).unwrap_or_default();
    connection
        .write_all(format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{range}\r\n").as_bytes())
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
    connection.read_exact(&mut body).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn one_connection_gets_wholes_ranges_and_heads_in_turn() {
    let (world, bytes, path) = with_file(LENGTH).await;
    let mut connection = TcpStream::connect(world.port.address()).await.unwrap();
    let (head, body) = ask(&mut connection, "GET", &path, None).await;
    assert!(head.starts_with("http/1.1 200") && body == bytes);
    assert_eq!(by_sendfile(&world), LENGTH as u64, "all of it went past the process");
    for (range, start, end) in
        [("bytes=0-0", 0, 1), ("bytes=1234567-3999999", 1_234_567, 4_000_000), ("bytes=-70", LENGTH - 70, LENGTH)]
    {
        let (head, body) = ask(&mut connection, "HEAD", &path, None).await;
        assert!(head.contains(&format!("content-length: {LENGTH}\r\n")) && body.is_empty());
        let (head, body) = ask(&mut connection, "GET", &path, Some(range)).await;
        assert!(head.contains(&format!("content-range: bytes {start}-{}/{LENGTH}\r\n", end - 1)), "{head}");
        assert!(body == bytes[start..end], "wrong bytes for {range}");
    }
    let (head, about) = ask(&mut connection, "GET", "/", None).await;
    assert!(head.starts_with("http/1.1 200") && about.starts_with(b"This is Darter"));
    assert!(ask(&mut connection, "GET", &path, None).await.1 == bytes);
}

#[tokio::test]
async fn a_slow_reader_gets_the_same_bytes() {
    let (world, bytes, path) = with_file(24 << 20).await;
    let mut connection = TcpStream::connect(world.port.address()).await.unwrap();
    connection
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut read = Vec::new();
    let mut buffer = vec![0; 700_001];
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        match connection.read(&mut buffer).await.unwrap() {
            0 => break,
            count => read.extend_from_slice(&buffer[..count]),
        }
    }
    let head = read.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    assert!(read[head + 4..] == bytes);
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_nothing_behind() {
    let (world, bytes, path) = with_file(24 << 20).await;
    let mut connection = TcpStream::connect(world.port.address()).await.unwrap();
    connection.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    connection.read_exact(&mut [0; 100_000]).await.unwrap();
    drop(connection);
    while world.metrics.local_requests_active.get() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(world.get(&path).await.body == bytes);
}

#[tokio::test]
async fn what_the_agent_fails_half_way_goes_on_from_the_upstream() {
    let (world, bytes, path) = with_file(LENGTH).await;
    world.agent.0.lock().fault_at = Some((3_333_333, Some(FetchError::Draining)));
    assert!(world.get(&path).await.body == bytes);
    let part = world.send(Method::GET, &path, &[("range", "bytes=2000000-4000000")]).await;
    assert!(part.body == bytes[2_000_000..4_000_001]);
    assert_eq!(by_sendfile(&world), 3_333_333 + 1_333_333);
}

#[tokio::test]
async fn a_file_that_somebody_cut_short_is_a_visibly_incomplete_body() {
    let (world, bytes, path) = with_file(LENGTH).await;
    world.agent.0.lock().cut_files_at = Some(2_000_000);
    let mut response = world.client.get(world.url(&path)).send().await.unwrap();
    let mut read = Vec::new();
    while let Ok(chunk) = response.chunk().await {
        read.extend_from_slice(&chunk.expect("the body ended as if it were whole"));
    }
    assert!(read == bytes[..2_000_000]);
}
