use std::io::Write as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Both ends of a connection over loopback.
async fn connected() -> (OutletStream, TcpStream, Outlet) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let outlet = Outlet::default();
    let (near, _) = listener.accept().await.unwrap();
    (OutletStream::new(near, outlet.clone(), Counter::default()), far, outlet)
}

fn part_of(bytes: &[u8], range: ByteRange) -> PieceFile {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    PieceFile { file: Arc::new(file), range }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Writes everything as hyper does: the rest of all slices in each call.
async fn write_all(stream: &mut OutletStream, bytes: &[Bytes]) -> io::Result<()> {
    let mut bytes: VecDeque<Bytes> = bytes.iter().cloned().collect();
    while !bytes.is_empty() {
        let slices: Vec<_> = bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut written = stream.write_vectored(&slices).await?;
        while let Some(first) = bytes.front_mut() {
            let taken = written.min(first.len());
            let _ = first.split_to(taken);
            written -= taken;
            if !first.is_empty() {
                break;
            }
            bytes.pop_front();
        }
    }
    Ok(())
}

#[tokio::test]
async fn files_go_out_where_they_were_promised_among_other_bytes() {
    let (mut near, mut far, outlet) = connected().await;
    // Longer than two promises and than the socket's room.
    let bytes = content(9 << 20);
    let mut part = part_of(&bytes, ByteRange::new(1000, 9 << 20));
    let mut small = part_of(b"small", ByteRange::new(1, 4));
    let mut given = vec![Bytes::from_static(b"head"), outlet.promise(&mut small).unwrap(), Bytes::from_static(b"tail")];
    while !part.range.is_empty() {
        given.push(outlet.promise(&mut part).unwrap());
    }
    given.push(Bytes::from_static(b"end"));
    let expected = [b"headmaltail".as_slice(), &bytes[1000..], b"end"].concat();
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        read
    });
    write_all(&mut near, &given).await.unwrap();
    assert_eq!(near.sent.get(), (9 << 20) - 1000, "few bytes are not worth a call");
    drop(near);
    assert!(reading.await.unwrap() == expected);
}

#[tokio::test]
async fn a_copy_of_the_stand_in_breaks_the_connection_off() {
    let (mut near, mut far, outlet) = connected().await;
    let stands_in = outlet.promise(&mut part_of(&content(5000), ByteRange::new(0, 5000))).unwrap();
    let copied = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &stands_in[7..]].concat();
    near.write_all(&copied).await.unwrap_err();
    drop(near);
    let mut read = Vec::new();
    far.read_to_end(&mut read).await.unwrap();
    assert!(read.is_empty(), "{} bytes went out", read.len());
}

#[tokio::test]
async fn a_promise_that_was_passed_over_breaks_the_connection_off() {
    let (mut near, _far, outlet) = connected().await;
    let mut part = part_of(&content(2000), ByteRange::new(0, 1000));
    outlet.promise(&mut part).unwrap();
    part.range = ByteRange::new(1000, 2000);
    let second = outlet.promise(&mut part).unwrap();
    near.write_all(&second).await.unwrap_err();
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_an_error_and_no_end() {
    let (mut near, mut far, outlet) = connected().await;
    let stands_in = outlet.promise(&mut part_of(&content(100), ByteRange::new(0, 1000))).unwrap();
    let error = write_all(&mut near, &[stands_in]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    drop(near);
    let mut read = Vec::new();
    far.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, content(100));
}
