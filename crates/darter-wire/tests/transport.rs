//! The tests that every transport must pass: one suite, run on each.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use darter_core::Blamed;
use darter_wire::{MemNetwork, PeerStream, TcpTransport, Transport, WireError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// A transport with the address its listeners use.
fn tcp() -> (impl Transport, &'static str) {
    (TcpTransport::default(), "127.0.0.1:0")
}

fn mem() -> (impl Transport, &'static str) {
    (MemNetwork::new().host([10, 0, 0, 1]), "10.0.0.1:0")
}

async fn pair(transport: &impl Transport, addr: &str) -> (PeerStream, PeerStream) {
    let listener = transport.listen(addr).await.unwrap();
    let target = listener.local_addr().to_string();
    let (here, there) = tokio::join!(transport.connect(&target), listener.accept());
    (here.unwrap(), there.unwrap())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn file_of(data: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(data).unwrap();
    Arc::new(file)
}

async fn bytes_cross_both_ways_at_once(transport: impl Transport, addr: &str) {
    let (mut here, mut there) = pair(&transport, addr).await;
    let data = pattern(3_000_000);
    let mut from_here = vec![0; data.len()];
    let mut from_there = vec![0; data.len()];
    let (a, b, c, d) = tokio::join!(
        here.writer.write_all(&data),
        there.writer.write_all(&data),
        here.reader.read_exact(&mut from_there),
        there.reader.read_exact(&mut from_here),
    );
    a.and(b).unwrap();
    c.and(d).unwrap();
    assert!(from_here == data && from_there == data);
}

async fn part_of_a_file_is_sent_between_other_bytes(transport: impl Transport, addr: &str) {
    let (mut here, mut there) = pair(&transport, addr).await;
    let data = pattern(1_500_000);
    let file = file_of(&data);
    let send = async {
        here.writer.write_head(b"before").await.unwrap();
        let mut offset = 1_001;
        here.writer.send_file(&file, &mut offset, 1_401_001).await.unwrap();
        assert_eq!(offset, 1_401_001);
        here.writer.write_all(b"after").await.unwrap();
        drop(here.writer);
    };
    let mut got = Vec::new();
    let (_, read) = tokio::join!(send, there.reader.read_to_end(&mut got));
    read.unwrap();
    assert!(got.starts_with(b"before") && got.ends_with(b"after"));
    assert!(got[6..got.len() - 5] == data[1_001..1_401_001]);
}

async fn a_file_that_is_too_short_is_an_error_of_the_file(transport: impl Transport, addr: &str) {
    let (mut here, mut there) = pair(&transport, addr).await;
    let file = file_of(&pattern(1_000));
    let sent = here.writer.send_file(&file, &mut 500, 1_001).await;
    assert_eq!(sent.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    drop(here);
    let mut got = Vec::new();
    there.reader.read_to_end(&mut got).await.unwrap();
    assert!(got.len() <= 500);
}

async fn where_a_file_is_that_nobody_takes_is_known_and_it_goes_on_from_there(transport: impl Transport, addr: &str) {
    let (mut here, mut there) = pair(&transport, addr).await;
    // More than any socket holds.
    let data = pattern(40_000_000);
    let file = file_of(&data);
    let (mut offset, mut before) = (0, u64::MAX);
    while std::mem::replace(&mut before, offset) != offset {
        let send = here.writer.send_file(&file, &mut offset, data.len() as u64);
        assert!(tokio::time::timeout(Duration::from_millis(50), send).await.is_err(), "nobody reads");
    }
    let rest = async {
        here.writer.send_file(&file, &mut offset, data.len() as u64).await.unwrap();
        drop(here.writer);
    };
    let mut got = Vec::new();
    let ((), read) = tokio::join!(rest, there.reader.read_to_end(&mut got));
    read.unwrap();
    assert!(got == data);
}

async fn the_end_is_seen_and_writing_past_it_fails(transport: impl Transport, addr: &str) {
    let (here, mut there) = pair(&transport, addr).await;
    drop(here);
    assert_eq!(there.reader.read(&mut [0; 8]).await.unwrap(), 0);
    let data = pattern(1_000_000);
    let file = file_of(&data);
    let sent = async {
        for _ in 0..20 {
            there.writer.send_file(&file, &mut 0, 1_000_000).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    sent.await.unwrap_err();
}

async fn both_sides_know_where_the_other_is(transport: impl Transport, addr: &str) {
    let listener = transport.listen(addr).await.unwrap();
    let bound = listener.local_addr();
    assert_ne!(bound.port(), 0);
    let target = bound.to_string();
    let (here, there) = tokio::join!(transport.connect(&target), listener.accept());
    assert_eq!(here.unwrap().peer_addr(), bound);
    assert_eq!(there.unwrap().peer_addr().ip(), bound.ip());
}

async fn a_taken_address_and_a_silent_one_are_typed_errors(transport: impl Transport, addr: &str) {
    // A loopback address that no other test uses: a port of 127.0.0.1 may be another's as soon as it is free.
    let [_, _, middle, low] = std::process::id().to_be_bytes();
    let listener = transport.listen(&addr.replace("127.0.0.1", &format!("127.64.{middle}.{low}"))).await.unwrap();
    let target = listener.local_addr().to_string();
    let Err(taken) = transport.listen(&target).await else { panic!("the address is taken") };
    assert!(matches!(&taken, WireError::Listen { addr, .. } if *addr == target), "{taken}");
    drop(listener);
    let refused = transport.connect(&target).await.unwrap_err();
    assert!(matches!(&refused, WireError::Connect { addr, .. } if *addr == target), "{refused}");
    assert!(refused.blame().may_pass() && !taken.blame().may_pass());
    let nonsense = transport.connect("no address").await.unwrap_err();
    assert!(matches!(nonsense, WireError::Connect { .. }), "{nonsense}");
    transport.listen(&target).await.unwrap();
}

macro_rules! conformance {
    ($transport:ident: $($scenario:ident),* $(,)?) => {
        mod $transport {
            $(#[tokio::test]
            async fn $scenario() {
                let (transport, addr) = super::$transport();
                super::$scenario(transport, addr).await;
            })*
        }
    };
    ($($scenario:ident),* $(,)?) => {
        conformance!(tcp: $($scenario),*);
        conformance!(mem: $($scenario),*);
    };
}

conformance!(
    bytes_cross_both_ways_at_once,
    part_of_a_file_is_sent_between_other_bytes,
    a_file_that_is_too_short_is_an_error_of_the_file,
    where_a_file_is_that_nobody_takes_is_known_and_it_goes_on_from_there,
    the_end_is_seen_and_writing_past_it_fails,
    both_sides_know_where_the_other_is,
    a_taken_address_and_a_silent_one_are_typed_errors,
);

/// By itself it would be a packet of its own, and wake whoever reads for sixteen bytes.
#[tokio::test]
async fn over_tcp_a_head_waits_for_what_follows() {
    let (transport, addr) = tcp();
    let (mut here, mut there) = pair(&transport, addr).await;
    // The kernel holds it back for a fifth of a second: a machine that stands still for longer spoils one attempt, not five.
    for _ in 0..5 {
        here.writer.write_head(b"head").await.unwrap();
        let mut got = [0; 8];
        let early = timeout(Duration::from_millis(20), there.reader.read(&mut got)).await;
        here.writer.write_all(b"body").await.unwrap();
        let read = early.as_ref().map_or(0, |read| *read.as_ref().unwrap());
        there.reader.read_exact(&mut got[read..]).await.unwrap();
        assert_eq!(&got, b"headbody");
        if early.is_err() {
            return;
        }
    }
    panic!("a head came by itself");
}

/// How many bytes a connection over TCP takes while nobody reads, if that many may wait unsent.
async fn taken(ahead: u32) -> usize {
    let (transport, addr) = tcp();
    let (mut here, _there) = pair(&transport, addr).await;
    here.writer.hold_ahead(ahead);
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_millis(200), here.writer.write(&[0; 4096])).await {
        taken += written.unwrap();
    }
    taken
}

#[tokio::test]
async fn a_tcp_connection_takes_no_more_ahead_than_it_is_told_to() {
    assert!(taken(16 << 10).await < taken(1 << 20).await);
}
