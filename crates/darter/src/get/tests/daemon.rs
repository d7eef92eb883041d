//! `get` and daemons that are older, fail half way, or die.

use super::*;

/// A daemon that answers one request with `answer`, and sends `then` once the client says that it is ready for more.
fn daemon_answering(room: &Path, answer: &'static str, then: Vec<u8>) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(room.join("darter.sock")).unwrap();
    tokio::spawn(async move {
        // The first connection only checks whether a daemon listens.
        for turn in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            if turn == 1 {
                let mut request = vec![0; 4096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
                if !then.is_empty() {
                    assert_eq!(stream.read_u8().await.unwrap(), darter_api::handover::READY);
                    stream.write_all(&then).await.unwrap();
                }
            }
        }
    })
}

/// Runs `get` against such a daemon; returns its result, and the files that exist afterwards.
async fn get_from(answer: &'static str, then: Vec<u8>, more: &[&str]) -> (anyhow::Result<()>, Vec<String>) {
    let (room, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let daemon = daemon_answering(room.path(), answer, then);
    let words = ["darter", "get", "http://a/b", "-q", "--data-dir", room.path().to_str().unwrap(), "-o"];
    let file = out.path().join("b");
    let words = words.into_iter().chain([file.to_str().unwrap()]).chain(more.iter().copied());
    let crate::cli::Command::Get(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
    let result = run(&args).await;
    daemon.await.unwrap();
    (result, names(out.path()))
}

async fn told_by(answer: &'static str) -> (String, Vec<String>) {
    let (result, files) = get_from(answer, Vec::new(), &[]).await;
    (format!("{:#}", result.unwrap_err()), files)
}

/// A frame of a handover, and the bytes that follow it.
fn frame(kind: u8, a: u64, b: u64, then: &[u8]) -> Vec<u8> {
    [&[kind][..], &a.to_le_bytes(), &b.to_le_bytes(), then].concat()
}

const SWITCHING: &str = concat!(
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: darter-file\r\n",
    "darter-blob: 0101010101010101010101010101010101010101010101010101010101010101\r\ndarter-length: 5\r\n\r\n"
);

const SWITCHING_ANY: &str = concat!(
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: darter-file\r\ndarter-order: any-order\r\n",
    "darter-blob: 0101010101010101010101010101010101010101010101010101010101010101\r\ndarter-length: 5\r\n\r\n"
);

#[tokio::test]
async fn a_daemon_of_the_release_before_vouches_for_nothing_so_the_digest_is_computed_here() {
    let frames = || [frame(3, 2, 0, b"he"), frame(3, 3, 0, b"llo"), frame(4, 5, 0, b"")].concat();
    let (right, wrong) = (Digest::sha256(b"hello").to_string(), Digest::sha256(b"other").to_string());
    let (result, files) = get_from(SWITCHING, frames(), &["--digest", &right]).await;
    result.unwrap();
    assert_eq!(files, ["b"]);
    let (result, files) = get_from(SWITCHING, frames(), &["--digest", &wrong]).await;
    assert!(result.unwrap_err().to_string().contains("wrong content"));
    assert_eq!(files, [""; 0]);
}

#[tokio::test]
async fn a_daemon_that_vouches_is_believed_but_with_verify_whole() {
    let other = Digest::sha256(b"other").to_string();
    // The ranges arrive in any order, one of them twice; its second version counts.
    let frames = || {
        let checked = format!("[{{\"digest\":\"{other}\",\"by\":\"lead\"}}]");
        let end = frame(4, 5, checked.len() as u64, checked.as_bytes());
        [frame(3, 3, 2, b"LLO"), frame(3, 2, 0, b"he"), frame(3, 3, 2, b"llo"), end].concat()
    };
    let (result, files) = get_from(SWITCHING_ANY, frames(), &["--digest", &other]).await;
    result.unwrap();
    assert_eq!(files, ["b"]);
    for more in [&["--verify-whole"][..], &["--verify-whole", "--digest", &other]] {
        let (result, files) = get_from(SWITCHING_ANY, frames(), more).await;
        let told = result.unwrap_err().to_string();
        assert!(told.contains("wrong content") && told.contains(&Digest::sha256(b"hello").to_string()), "{told}");
        assert_eq!(files, [""; 0]);
    }
}

/// A pipe takes bytes only in order, and the target turns out to be a pipe only when the origin has given the name.
#[tokio::test]
async fn what_turns_out_to_be_a_pipe_is_asked_for_in_order() {
    let (room, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pipe = out.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let listener = tokio::net::UnixListener::bind(room.path().join("darter.sock")).unwrap();
    let daemon = tokio::spawn(async move {
        let mut orders = Vec::new();
        while orders.len() < 2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            let Some((_, rest)) = request.split_once("darter-order: ") else { continue };
            let order = rest.lines().next().unwrap().to_owned();
            let head = SWITCHING_ANY.replace("any-order", &order);
            let head = head.replace("darter-length", "darter-disposition: attachment; filename=pipe\r\ndarter-length");
            stream.write_all(head.as_bytes()).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), darter_api::handover::READY);
            let parts = [frame(3, 2, 0, b"he"), frame(3, 3, 2, b"llo")];
            let parts = if order == "in-order" { parts.concat() } else { [&*parts[1], &*parts[0]].concat() };
            // A client may close the connection before the end.
            let _ = stream.write_all(&[parts, frame(4, 5, 0, b"")].concat()).await;
            orders.push(order);
        }
        orders
    });
    let reading = tokio::task::spawn_blocking(move || std::fs::read(pipe).unwrap());
    let words = ["darter", "get", "http://a/b", "-q", "-J", "--data-dir", room.path().to_str().unwrap(), "-o"];
    let words = words.into_iter().chain([out.path().to_str().unwrap()]);
    let crate::cli::Command::Get(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
    run(&args).await.unwrap();
    assert_eq!(reading.await.unwrap(), b"hello");
    assert_eq!(daemon.await.unwrap(), ["any-order", "in-order"]);
}

#[tokio::test]
async fn what_leaves_out_a_part_is_refused() {
    for missing in [frame(3, 3, 2, b"llo"), frame(3, 4, 0, b"hell")] {
        let (result, files) = get_from(SWITCHING_ANY, [missing, frame(4, 5, 0, b"")].concat(), &[]).await;
        assert!(result.unwrap_err().to_string().contains("of 5 bytes"));
        assert_eq!(files, [""; 0]);
    }
}

#[tokio::test]
async fn a_daemon_that_hands_over_no_file_and_fails_half_way_is_quoted() {
    let head = concat!(
        "HTTP/1.1 200 OK\r\ndarter-blob: 0101010101010101010101010101010101010101010101010101010101010101\r\n",
        "darter-length: 10\r\ntransfer-encoding: chunked\r\ntrailer: darter-error\r\n\r\n5\r\nhello\r\n",
        "0\r\ndarter-error: wrong content: nothing was kept\r\n\r\n"
    );
    let (told, files) = told_by(head).await;
    assert_eq!(told, "wrong content: nothing was kept");
    assert_eq!(files, [""; 0]);
}

#[tokio::test]
async fn a_daemon_that_dies_half_way_leaves_nothing() {
    let head = concat!(
        "HTTP/1.1 200 OK\r\ndarter-blob: 0101010101010101010101010101010101010101010101010101010101010101\r\n",
        "content-length: 10\r\n\r\nhello"
    );
    let (told, files) = told_by(head).await;
    assert!(told.contains("run the command again"), "{told}");
    assert_eq!(files, [""; 0]);
}
