//! Local files: what may be read, and files that change under the reader.

mod support;

use darter_core::Source;
use darter_origin::{ErrorKind, FileOrigin, Origin};
use futures_util::StreamExt;
use support::{content, none};
use tempfile::TempDir;

fn named(directory: &TempDir, name: &str) -> Source {
    let url = format!("file://{}", directory.path().join(name).display());
    Source::from_url(url.parse().unwrap(), &[], None).0
}

#[tokio::test]
async fn nothing_outside_of_the_directories_is_read_whatever_links_lead_there() {
    let (inside, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), inside.path().join("link")).unwrap();
    let origin = FileOrigin::under([inside.path().to_owned()]).unwrap();
    for source in [named(&outside, "secret"), named(&inside, "link")] {
        let error = origin.read(&source, &none(), None, None).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Forbidden);
        assert!(FileOrigin::anywhere().read(&source, &none(), None, None).await.is_ok());
    }
    let error = origin.stat(&named(&inside, "."), &none(), None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Io);
}

#[tokio::test]
async fn a_file_that_is_written_to_or_cut_while_it_is_read_is_an_error() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("file");
    let origin = FileOrigin::anywhere();
    for length_then in [1_000_000, 400_000] {
        std::fs::write(&path, content(900_000)).unwrap();
        let mut reading = origin.read(&named(&directory, "file"), &none(), None, None).await.unwrap();
        reading.body.next().await.unwrap().unwrap();
        std::fs::write(&path, content(length_then)).unwrap();
        let mut last = None;
        while let Some(item) = reading.body.next().await {
            last = Some(item);
        }
        assert_eq!(*last.unwrap().unwrap_err().kind(), ErrorKind::Changed);
    }
}

#[tokio::test]
async fn a_file_that_says_that_it_is_empty_and_is_not_is_an_error_and_not_nothing() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("empty"), "").unwrap();
    let origin = FileOrigin::anywhere();
    assert_eq!(origin.read(&named(&directory, "empty"), &none(), None, None).await.unwrap().length, Some(0));
    let of_kernel = Source::from_url("file:///proc/self/status".parse().unwrap(), &[], None).0;
    let error = origin.read(&of_kernel, &none(), None, None).await.unwrap_err();
    assert!(error.to_string().contains("copy it with cat"), "{error}");
}
