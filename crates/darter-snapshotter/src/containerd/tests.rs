use std::collections::HashMap;
use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::service::service_fn;
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;

use super::*;

/// One answer: messages, and then the call's status, unless the answer breaks off.
struct Answer {
    messages: Vec<Vec<u8>>,
    status: Option<Code>,
}

fn answer<M: Message>(messages: &[M], status: Option<Code>) -> Answer {
    Answer { messages: messages.iter().map(M::encode_to_vec).collect(), status }
}

fn namespaces(names: &[&str]) -> Answer {
    let namespaces = names.iter().map(|name| api::Namespace { name: (*name).to_owned() }).collect();
    answer(&[api::Namespaces { namespaces }], Some(Code::Ok))
}

/// A message that lists a snapshot with this file, and one without any.
fn infos(file: &str) -> api::Infos {
    let labels = HashMap::from([(BLOB_REF.to_owned(), file.to_owned())]);
    let other = api::Info { name: "other".to_owned(), ..api::Info::default() };
    api::Infos { infos: vec![api::Info { labels, ..other.clone() }, other] }
}

/// A containerd that answers each call by its path and namespace.
fn containerd(answers: impl Fn(&str, &str) -> Answer + Clone + Send + Sync + 'static) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answers = answers.clone();
            let service = service_fn(move |request: HttpRequest<Incoming>| {
                let namespace = request.headers().get(NAMESPACE).map_or("", |value| value.to_str().unwrap());
                let answer = answers(request.uri().path(), namespace);
                async move { Ok::<_, Infallible>(respond(answer)) }
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    (dir, socket)
}

fn respond(answer: Answer) -> Response<Body> {
    let mut frames: Vec<Result<Frame<Bytes>, Status>> = Vec::new();
    for message in answer.messages {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        frames.push(Ok(Frame::data([&[0][..], &length, &message].concat().into())));
    }
    if let Some(status) = answer.status {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", i32::from(status).into());
        frames.push(Ok(Frame::trailers(trailers)));
    } else {
        frames.push(Err(Status::internal("it breaks off")));
    }
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[tokio::test]
async fn the_files_of_all_namespaces_are_named() {
    let (_dir, socket) = containerd(|path, namespace| match (path, namespace) {
        (LIST_NAMESPACES, _) => namespaces(&["default", "k8s.io", "empty"]),
        (_, "default") => answer(&[infos("/layers/a"), infos("/layers/b")], Some(Code::Ok)),
        (_, "k8s.io") => answer(&[infos("/layers/c")], Some(Code::Ok)),
        _ => answer(&[api::Infos { infos: Vec::new() }], Some(Code::Ok)),
    });
    let files = named_files(&socket).await.unwrap();
    assert_eq!(files, ["/layers/a", "/layers/b", "/layers/c"].map(PathBuf::from).into());
}

#[tokio::test]
async fn a_part_of_the_list_is_no_answer() {
    for status in [None, Some(Code::Unavailable)] {
        let (_dir, socket) = containerd(move |path, namespace| match (path, namespace) {
            (LIST_NAMESPACES, _) => namespaces(&["default", "k8s.io"]),
            (_, "default") => answer(&[infos("/layers/a")], Some(Code::Ok)),
            _ => answer(&[infos("/layers/c")], status),
        });
        let error = named_files(&socket).await.unwrap_err();
        assert!(matches!(error, ContainerdError::Refused(..)), "{error:?}");
    }
}

#[tokio::test]
async fn a_containerd_without_such_snapshots_says_so() {
    let (_dir, socket) = containerd(|path, _| match path {
        LIST_NAMESPACES => namespaces(&["default"]),
        _ => answer::<api::Infos>(&[], Some(Code::InvalidArgument)),
    });
    let error = named_files(&socket).await.unwrap_err();
    assert!(matches!(error, ContainerdError::NoSnapshotter(..)), "{error:?}");
    let none = named_files(Path::new("/nowhere/sock")).await.unwrap_err();
    assert!(matches!(&none, ContainerdError::Connect(path, _) if path == Path::new("/nowhere/sock")), "{none:?}");
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_stands_still_is_not_waited_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = named_files(&socket).await.unwrap_err();
    assert!(matches!(error, ContainerdError::Silent(..)), "{error:?}");
}
