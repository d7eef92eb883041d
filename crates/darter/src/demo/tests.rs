//! The parts of the demo that need no processes.

use std::sync::Arc;

use darter_core::{Digest, Rate};
use http_body_util::BodyExt as _;

use super::content::Content;
use super::origin::{DemoOrigin, byte_range};
use super::picture::Row;

#[test]
fn generated_content_is_the_same_from_any_offset() {
    let content = Content::generated(1000);
    let mut whole = vec![0; 1000];
    content.read_at(0, &mut whole).unwrap();
    for (from, to) in [(0, 1), (3, 20), (8, 16), (991, 1000)] {
        let mut part = vec![0; to - from];
        content.read_at(from as u64, &mut part).unwrap();
        assert_eq!(part, whole[from..to], "{from}..{to}");
    }
    assert_eq!(content.digest().unwrap(), Digest::sha256(&whole));
}

#[test]
fn ranges_that_the_origin_understands() {
    assert_eq!(byte_range("bytes=2-5", 10), Some(2..6));
    assert_eq!(byte_range("bytes=2-", 10), Some(2..10));
    assert_eq!(byte_range("bytes=2-99", 10), Some(2..10));
    for other in ["bytes=-3", "bytes=5-2", "bytes=10-", "items=1-2", "bytes=1-2,4-5"] {
        assert_eq!(byte_range(other, 10), None, "{other}");
    }
}

#[tokio::test]
async fn the_origin_counts_what_it_gives_out() {
    let content = Arc::new(Content::generated(300_000));
    let digest = content.digest().unwrap();
    let rate = Rate::from_bytes_per_second(1_000_000_000).unwrap();
    let origin = DemoOrigin::start(content, rate).await.unwrap();
    let address = format!("127.0.0.1:{}", origin.url.port().unwrap());
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async |method: &str, range: Option<&str>| {
        let mut request = http::Request::builder().method(method).uri("/content").header("host", "x");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
    };
    assert_eq!(ask("HEAD", None).await.1.len(), 0);
    assert_eq!(origin.sent(), 0);
    let (status, body) = ask("GET", None).await;
    assert_eq!((status, Digest::sha256(&body)), (200, digest));
    let (status, part) = ask("GET", Some("bytes=100000-199999")).await;
    assert_eq!((status, &part[..]), (206, &body[100_000..200_000]));
    assert_eq!(origin.sent(), 400_000);
}

#[test]
fn a_row_shows_how_far_an_ordered_download_is() {
    assert_eq!(Row::in_order(0, 100, 0).map.iter().sum::<u8>(), 0);
    assert!(Row::in_order(100, 100, 0).map.iter().all(|share| *share == 8));
    let half = Row::in_order(50, 100, 0).map;
    assert_eq!((half[0], half[half.len() - 1]), (8, 0));
}
