//! Where content goes.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::target::{Sink, Target};
use super::*;
use crate::cli::Cli;

fn url(text: &str) -> url::Url {
    text.parse().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_url_names_the_file() {
    let choose = |text| Target::choose(&url(text), None);
    assert_eq!(choose("https://a/b/c.iso?x=1").unwrap().path(), Some(Path::new("c.iso")));
    for nameless in ["https://a", "https://a/b/"] {
        assert!(choose(nameless).unwrap_err().to_string().contains("-o FILE"), "{nameless}");
    }
    assert_eq!(Target::choose(&url("https://a"), Some(Path::new("-"))).unwrap(), Target::Stdout);
}

#[test]
fn what_could_only_fail_later_is_refused_now() {
    let room = tempfile::tempdir().unwrap();
    let told = Target::choose(&url("https://a/b"), Some(room.path())).unwrap_err().to_string();
    assert!(told.contains("is a directory") && told.contains(room.path().join("b").to_str().unwrap()), "{told}");
    let told = Target::choose(&url("https://a/b"), Some(&room.path().join("no/b"))).unwrap_err().to_string();
    assert!(told.contains("there is no directory"), "{told}");
    let device = Target::choose(&url("https://a/b"), Some(Path::new("/dev/null"))).unwrap();
    assert_eq!(device, Target::Device(PathBuf::from("/dev/null")), "a device is never replaced by a rename");
}

#[test]
fn the_final_name_appears_with_the_commit_and_not_before() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("out");
    std::fs::write(&path, "old").unwrap();
    let target = Target::choose(&url("https://a/b"), Some(&path)).unwrap();

    let mut dropped = Sink::open(&target).unwrap();
    dropped.write_all(b"ne").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(names(room.path()).len(), 2);
    drop(dropped);
    assert_eq!(names(room.path()), ["out"]);

    let mut kept = Sink::open(&target).unwrap();
    kept.write_all(b"new").unwrap();
    kept.commit().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(names(room.path()), ["out"]);
}

#[test]
fn a_link_keeps_pointing_at_what_is_replaced() {
    let room = tempfile::tempdir().unwrap();
    let (real, link) = (room.path().join("real"), room.path().join("link"));
    std::fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let target = Target::choose(&url("https://a/b"), Some(&link)).unwrap();
    let mut sink = Sink::open(&target).unwrap();
    sink.write_all(b"new").unwrap();
    sink.commit().unwrap();
    assert_eq!(std::fs::read(&real).unwrap(), b"new");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn short_or_wrong_content_is_refused() {
    let (right, wrong) = (Digest::sha256(b"right"), Digest::sha256(b"wrong"));
    assert!(check(Some(5), 5, Some(right), Some(right)).is_ok());
    assert!(check(None, 5, None, None).is_ok());
    assert!(check(Some(6), 5, None, None).unwrap_err().to_string().contains("5 of 6"));
    assert!(check(None, 5, Some(right), Some(wrong)).unwrap_err().to_string().contains("wrong content"));
}

/// A daemon that answers one request with these bytes.
fn daemon_answering(room: &Path, answer: &'static str) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(room.join("darter.sock")).unwrap();
    tokio::spawn(async move {
        // The first connection only sees whether anybody is there.
        for turn in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            if turn == 1 {
                let mut request = vec![0; 4096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
}

async fn told_by(answer: &'static str) -> (String, Vec<String>) {
    let (room, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let daemon = daemon_answering(room.path(), answer);
    let words = ["darter", "get", "http://a/b", "-q", "--data-dir", room.path().to_str().unwrap(), "-o"];
    let file = out.path().join("b");
    let cli = Cli::try_parse_from(words.into_iter().chain([file.to_str().unwrap()])).unwrap();
    let crate::cli::Command::Get(args) = cli.command else { panic!() };
    let told = run(&args).await.unwrap_err();
    daemon.await.unwrap();
    (format!("{told:#}"), names(out.path()))
}

#[tokio::test]
async fn a_daemon_that_fails_half_way_is_quoted() {
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
    assert!(told.contains("ask again"), "{told}");
    assert_eq!(files, [""; 0]);
}
