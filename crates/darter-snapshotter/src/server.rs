//! Serves the calls on a socket: gRPC, by hyper's HTTP/2 and tonic's framing.
//!
//! The calls of one connection run concurrently. After the server was told to stop, calls in progress are answered for [`LAST_CALLS`]; a client that calls
//! afterwards can't connect, and retries.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::service::{Failure, Snapshotter};
use crate::tree::Refusal;
use crate::{api, calls};

/// How long calls in progress may take after the server was told to stop.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// The pause after a failure to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How many snapshots one message of a list contains.
const LIST_PART: usize = 100;

/// Serves until `stop` ends, and then lets calls in progress end.
pub async fn serve(listener: UnixListener, snapshotter: Snapshotter, stop: impl Future<Output = ()>) {
    let (tell, told) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, snapshotter.clone(), told.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    tell.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_CALLS, ended).await.is_err() {
        tracing::warn!("calls were still in progress");
    }
}

async fn connection(stream: UnixStream, snapshotter: Snapshotter, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let snapshotter = snapshotter.clone();
        async move { Ok::<_, Infallible>(call(snapshotter, request).await) }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = async { drop(stop.wait_for(|stop| *stop).await) } => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// A call with one answer, and the function that carries it out.
struct One<F>(Snapshotter, F);

impl<Q, A, F, R> UnaryService<Q> for One<F>
where
    F: Fn(Snapshotter, Q) -> R,
    R: Future<Output = Result<A, Failure>> + Send + 'static,
    A: Send + 'static,
{
    type Response = A;
    type Future = BoxFuture<'static, Result<tonic::Response<A>, Status>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let Self(at, carry_out) = self;
        let answer = carry_out(at.clone(), request.into_inner());
        async move { answer.await.map(tonic::Response::new).map_err(|failure| status(&failure)) }.boxed()
    }
}

/// The call whose answer has several messages.
struct ListCall(Snapshotter);

impl ServerStreamingService<api::List> for ListCall {
    type Response = api::Infos;
    type ResponseStream = Pin<Box<dyn futures_util::Stream<Item = Result<api::Infos, Status>> + Send>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<api::List>) -> Self::Future {
        let found = calls::list(&self.0, &request.into_inner()).map_err(|failure| status(&failure));
        async move {
            let parts: Vec<_> =
                found?.chunks(LIST_PART).map(|infos| Ok(api::Infos { infos: infos.to_vec() })).collect();
            Ok(tonic::Response::new(stream::iter(parts).boxed()))
        }
        .boxed()
    }
}

async fn one<Q, A, F, R>(at: Snapshotter, request: Request<Incoming>, carry_out: F) -> Response<Body>
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
    F: Fn(Snapshotter, Q) -> R,
    R: Future<Output = Result<A, Failure>> + Send + 'static,
{
    Grpc::new(ProstCodec::<A, Q>::default()).unary(One(at, carry_out), request).await
}

/// Answers the call that the request's path names.
async fn call(at: Snapshotter, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let name = path.strip_prefix(api::SERVICE).unwrap_or_default();
    let answer = match name {
        "Prepare" => one(at, request, calls::prepare).await,
        "View" => one(at, request, calls::view).await,
        "Mounts" => one(at, request, calls::mounts).await,
        "Commit" => one(at, request, calls::commit).await,
        "Remove" => one(at, request, calls::remove).await,
        "Stat" => one(at, request, calls::stat).await,
        "Update" => one(at, request, calls::update).await,
        "List" => {
            Grpc::new(ProstCodec::<api::Infos, api::List>::default()).server_streaming(ListCall(at), request).await
        }
        "Usage" => one(at, request, calls::usage).await,
        "Cleanup" => one(at, request, calls::clean_up).await,
        _ => Status::unimplemented(format!("unknown call {path}")).into_http::<Body>(),
    };
    let failed = answer.headers().get("grpc-status").filter(|status| *status != "0");
    if let Some(status) = failed {
        tracing::debug!(call = name, ?status, "answered");
    }
    answer
}

fn status(failure: &Failure) -> Status {
    let code = match failure {
        Failure::Refused(Refusal::NotFound(_)) => Code::NotFound,
        Failure::Refused(Refusal::Exists(_)) => Code::AlreadyExists,
        Failure::Refused(Refusal::Precondition(_)) => Code::FailedPrecondition,
        Failure::Refused(Refusal::Argument(_)) => Code::InvalidArgument,
        Failure::Unavailable(_) => Code::Unavailable,
        Failure::Failed(_) => Code::Internal,
    };
    if matches!(code, Code::Unavailable | Code::Internal) {
        tracing::error!(error = %failure, "a call failed");
    }
    Status::new(code, failure.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_is_told_why_in_its_own_terms() {
        let refusals = [
            (Refusal::NotFound("a".to_owned()), Code::NotFound),
            (Refusal::Exists("a".to_owned()), Code::AlreadyExists),
            (Refusal::Precondition("a".to_owned()), Code::FailedPrecondition),
            (Refusal::Argument("a".to_owned()), Code::InvalidArgument),
        ];
        for (refusal, code) in refusals {
            assert_eq!(status(&refusal.into()).code(), code);
        }
    }
}
