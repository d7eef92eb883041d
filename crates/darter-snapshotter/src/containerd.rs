//! Asks a containerd which files its own EROFS snapshots name, in all namespaces: gRPC over its socket, by hyper's HTTP/2 and tonic's framing.
//!
//! containerd 2.4 notes for each committed snapshot of a layer that it found in a directory of layers the path of that layer's file, as a label
//! ([`BLOB_REF`]). Without that file it can't start a container, and a pull does not mend it: such files have to stay.
//!
//! Invariant: an answer is complete, or an error. A list that broke off would let go of layers that are in use.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use http::uri::PathAndQuery;
use http::{Request as HttpRequest, Response as HttpResponse, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::api;

/// The label of a snapshot that names the file of its layer.
const BLOB_REF: &str = "io.containerd.erofs.v1/blob.ref";

/// containerd's filter for snapshots with that label.
const HAS_BLOB_REF: &str = "labels.\"io.containerd.erofs.v1/blob.ref\"";

/// containerd's snapshotter that has such labels.
const SNAPSHOTTER: &str = "erofs";

const LIST_NAMESPACES: &str = "/containerd.services.namespaces.v1.Namespaces/List";

const LIST_SNAPSHOTS: &str = "/containerd.services.snapshots.v1.Snapshots/List";

/// The header with the namespace of a call.
const NAMESPACE: &str = "containerd-namespace";

/// How long the whole answer may take: tens of thousands of snapshots take a second.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a containerd did not say which files its snapshots name.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// Its socket can't be connected to.
    #[error("can't connect to containerd at {path}", path = .0.display())]
    Connect(PathBuf, #[source] io::Error),
    /// The connection broke.
    #[error("the connection to containerd at {path} broke", path = .0.display())]
    Broken(PathBuf, #[source] hyper::Error),
    /// It has no EROFS snapshotter.
    #[error("containerd at {path} has no EROFS snapshotter", path = .0.display())]
    NoSnapshotter(PathBuf, #[source] Box<Status>),
    /// It refused a call.
    #[error("containerd at {path} refused", path = .0.display())]
    Refused(PathBuf, #[source] Box<Status>),
    /// It did not answer in time.
    #[error("containerd at {path} has not answered for {seconds} s", path = .0.display(), seconds = TIMEOUT.as_secs())]
    Silent(PathBuf),
}

/// The paths of the files that the EROFS snapshots of the containerd at `socket` name.
///
/// # Errors
/// If the list can't be had as a whole, within 30 s.
pub async fn named_files(socket: &Path) -> Result<BTreeSet<PathBuf>, ContainerdError> {
    let listed = tokio::time::timeout(TIMEOUT, list(socket)).await;
    listed.unwrap_or_else(|_| Err(ContainerdError::Silent(socket.to_owned())))
}

async fn list(socket: &Path) -> Result<BTreeSet<PathBuf>, ContainerdError> {
    let refused = |status: Status| match status.code() {
        Code::InvalidArgument => ContainerdError::NoSnapshotter(socket.to_owned(), Box::new(status)),
        _ => ContainerdError::Refused(socket.to_owned(), Box::new(status)),
    };
    let mut calls = Calls::connect(socket).await?;
    let mut files = BTreeSet::new();
    for namespace in calls.namespaces().await.map_err(refused)? {
        calls
            .snapshots(&namespace, |info| files.extend(info.labels.get(BLOB_REF).map(PathBuf::from)))
            .await
            .map_err(refused)?;
    }
    Ok(files)
}

/// A connection to a containerd.
struct Calls {
    grpc: Grpc<Connection>,
}

impl Calls {
    async fn connect(socket: &Path) -> Result<Self, ContainerdError> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|error| ContainerdError::Connect(socket.to_owned(), error))?;
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| ContainerdError::Broken(socket.to_owned(), error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        let origin = Uri::from_static("http://localhost");
        Ok(Self { grpc: Grpc::with_origin(Connection { sender, _driver: driver }, origin) })
    }

    async fn namespaces(&mut self) -> Result<Vec<String>, Status> {
        self.grpc.ready().await.map_err(broken)?;
        let codec = ProstCodec::<api::Nothing, api::Namespaces>::default();
        let path = PathAndQuery::from_static(LIST_NAMESPACES);
        let answer = self.grpc.unary(Request::new(api::Nothing {}), path, codec).await?;
        Ok(answer.into_inner().namespaces.into_iter().map(|namespace| namespace.name).collect())
    }

    /// Calls `each` with each snapshot of a namespace.
    async fn snapshots(&mut self, namespace: &str, mut each: impl FnMut(api::Info)) -> Result<(), Status> {
        let mut request =
            Request::new(api::List { snapshotter: SNAPSHOTTER.to_owned(), filters: vec![HAS_BLOB_REF.to_owned()] });
        let value = AsciiMetadataValue::try_from(namespace);
        let value = value.map_err(|_| Status::internal(format!("a namespace that is no header: {namespace:?}")))?;
        request.metadata_mut().insert(NAMESPACE, value);
        self.grpc.ready().await.map_err(broken)?;
        let codec = ProstCodec::<api::List, api::Infos>::default();
        let answer = self.grpc.server_streaming(request, PathAndQuery::from_static(LIST_SNAPSHOTS), codec).await?;
        let mut parts = answer.into_inner();
        while let Some(part) = parts.message().await? {
            part.infos.into_iter().for_each(&mut each);
        }
        Ok(())
    }
}

fn broken(error: hyper::Error) -> Status {
    Status::from_error(Box::new(error))
}

/// Sends calls over one HTTP/2 connection.
struct Connection {
    sender: SendRequest<Body>,
    _driver: AbortOnDropHandle<()>,
}

impl GrpcService<Body> for Connection {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<HttpResponse<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        self.sender.send_request(request).boxed()
    }
}

#[cfg(test)]
mod tests;
