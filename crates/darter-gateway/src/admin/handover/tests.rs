//! Frames come as they were sent, also between releases.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use darter_api::handover::{Handed, Receiver};
use darter_api::{Checked, CheckedBy};
use darter_core::{Blamed, BlobId, ByteRange, Digest};
use darter_store::PieceFile;
use futures_util::stream;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::*;

/// The messages that a client gets of `parts`: one that says which order it wants (`tells`), or one that knows nothing
/// of orders.
async fn handed(parts: Vec<Result<Handing, FetchError>>, tells: bool) -> Vec<Handed> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let sending = tokio::spawn(async move {
        theirs.readable().await.unwrap();
        assert_eq!(theirs.try_read(&mut [0]).unwrap(), 1);
        send(Sender::new(theirs, tells), stream::iter(parts)).await.unwrap();
    });
    let mut receiver = Receiver::begin(ours, tells).await.unwrap();
    let mut all = Vec::new();
    loop {
        all.push(receiver.next().await.unwrap());
        if matches!(all.last(), Some(Handed::End { .. } | Handed::Failed(_))) {
            break;
        }
    }
    sending.await.unwrap();
    assert_eq!(receiver.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    all
}

fn ten_bytes() -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    Arc::new(file)
}

fn part(file: &Arc<File>, start: u64, end: u64) -> Result<Handing, FetchError> {
    let range = ByteRange::new(start, end);
    Ok(Handing::Part(start, Part::File(PieceFile { file: Arc::clone(file), range })))
}

fn bytes(at: u64, bytes: &'static [u8]) -> Result<Handing, FetchError> {
    Ok(Handing::Part(at, Part::Bytes(Bytes::from_static(bytes))))
}

fn whole() -> (Result<Handing, FetchError>, Vec<Checked>) {
    let checked = vec![Checked { digest: Digest::sha256(b"0123456789"), by: CheckedBy::Lead }];
    (Ok(Handing::Whole { length: 10, checked: checked.clone() }), checked)
}

#[tokio::test]
async fn a_file_is_handed_over_for_reading_with_its_verified_parts_in_their_order() {
    let file = ten_bytes();
    let (end, checked) = whole();
    let all = handed(vec![part(&file, 4, 10), part(&file, 0, 4), end], true).await;
    let [Handed::Range(first, a), Handed::Range(second, b), Handed::End { length: 10, checked: told }] = all.as_slice()
    else {
        panic!("{all:?}")
    };
    assert_eq!(*told, checked);
    assert!(Arc::ptr_eq(first, second), "one descriptor for one file");
    assert_eq!((a.start(), a.end(), b.start(), b.end()), (4, 10, 0, 4));
    let mut read = [0; 10];
    first.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"0123456789");
    assert!(first.write_at(b"x", 0).is_err(), "the store's bytes can't be changed through it");
}

#[tokio::test]
async fn what_is_there_goes_out_though_more_is_to_come() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let file = ten_bytes();
    let parts = stream::iter([part(&file, 0, 3), part(&file, 5, 7)]).chain(stream::pending());
    let sending = tokio::spawn(async move {
        theirs.readable().await.unwrap();
        assert_eq!(theirs.try_read(&mut [0]).unwrap(), 1);
        send(Sender::new(theirs, true), parts).await
    });
    let mut receiver = Receiver::begin(ours, true).await.unwrap();
    for start in [0, 5] {
        let handed = receiver.next().await.unwrap();
        assert!(matches!(&handed, Handed::Range(_, range) if range.start() == start), "{handed:?}");
    }
    sending.abort();
}

#[tokio::test]
async fn a_client_of_the_release_before_gets_the_frames_that_it_knows() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (end, _) = whole();
    let parts = vec![bytes(0, b"0123"), bytes(4, b"456789"), end];
    send(Sender::new(theirs, false), stream::iter(parts)).await.unwrap();
    let mut ours = ours;
    let mut came = Vec::new();
    ours.read_to_end(&mut came).await.unwrap();
    let number = |number: u64| number.to_le_bytes();
    let frame = |kind: u8, a: u64| [&[kind][..], &number(a), &number(0)].concat();
    assert_eq!(came, [frame(3, 4), b"0123".to_vec(), frame(3, 6), b"456789".to_vec(), frame(4, 10)].concat());
}

#[tokio::test]
async fn a_daemon_of_the_release_before_is_understood() {
    let (end, _) = whole();
    let all = handed(vec![bytes(0, b"0123"), bytes(4, b"456789"), end], false).await;
    let [Handed::Bytes(0, _), Handed::Bytes(4, _), Handed::End { length: 10, checked }] = all.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!(checked, &[], "it says nothing of digests");
}

#[tokio::test]
async fn another_file_comes_with_its_descriptor_once_what_came_is_void() {
    let (one, other, (end, _)) = (ten_bytes(), ten_bytes(), whole());
    let anew = Anew { blob: BlobId([7; 32]), length: Some(10), modified: None };
    let Anew { blob, length, modified } = anew.clone();
    let parts = vec![part(&one, 0, 4), Ok(Handing::Anew { blob, length, modified }), part(&other, 0, 10), end];
    let all = handed(parts, true).await;
    let [Handed::Range(first, _), Handed::Anew(told), Handed::Range(second, _), Handed::End { .. }] = all.as_slice()
    else {
        panic!("{all:?}")
    };
    assert_eq!(*told, anew);
    assert!(!Arc::ptr_eq(first, second));
}

#[tokio::test]
async fn bytes_without_a_file_and_a_failure_half_way() {
    let all = handed(vec![bytes(5, b"abc"), Err(FetchError::Draining)], true).await;
    let [Handed::Bytes(5, bytes), Handed::Failed(problem)] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(&bytes[..], b"abc");
    assert_eq!(problem.error, FetchError::Draining.to_string());
    assert_eq!(problem.blame(), FetchError::Draining.blame(), "whose fault it is comes along");
}
