//! Serves the calls on a socket: gRPC, by hyper's HTTP/2 and tonic's framing.
//!
//! The calls of one connection run concurrently. After the server was told to stop, calls in progress are answered for [`LAST_CALLS`]; a client that calls
//! afterwards can't connect, and retries.

use std::collections::HashMap;
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

use crate::api;
use crate::layout::Mount;
use crate::service::{Failure, Snapshotter};
use crate::tree::{Labels, Refusal, Snapshot, SnapshotKind};

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

/// Handles a call with one answer.
struct One<F>(F);

impl<Q, A, F, R> UnaryService<Q> for One<F>
where
    F: FnMut(Q) -> R,
    R: Future<Output = Result<A, Failure>> + Send + 'static,
    A: Send + 'static,
{
    type Response = A;
    type Future = BoxFuture<'static, Result<tonic::Response<A>, Status>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        async move { answer.await.map(tonic::Response::new).map_err(|failure| status(&failure)) }.boxed()
    }
}

/// Handles the call whose answer has several messages.
struct ListCall(Snapshotter);

impl ServerStreamingService<api::List> for ListCall {
    type Response = api::Infos;
    type ResponseStream = Pin<Box<dyn futures_util::Stream<Item = Result<api::Infos, Status>> + Send>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<api::List>) -> Self::Future {
        let found = self.0.list(&request.into_inner().filters).map_err(|failure| status(&failure));
        async move {
            let infos: Vec<_> = found?.into_iter().map(|(name, snapshot)| info(name, snapshot)).collect();
            let parts: Vec<_> = infos.chunks(LIST_PART).map(|infos| Ok(api::Infos { infos: infos.to_vec() })).collect();
            Ok(tonic::Response::new(stream::iter(parts).boxed()))
        }
        .boxed()
    }
}

async fn one<Q, A, F, R>(request: Request<Incoming>, work: F) -> Response<Body>
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
    F: FnMut(Q) -> R,
    R: Future<Output = Result<A, Failure>> + Send + 'static,
{
    Grpc::new(ProstCodec::<A, Q>::default()).unary(One(work), request).await
}

async fn call(at: Snapshotter, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let name = path.strip_prefix(api::SERVICE).unwrap_or_default();
    let answer = match name {
        "Prepare" => {
            one(request, |asked: api::NewSnapshot| {
                let at = at.clone();
                async move { at.prepare(asked.key, asked.parent, labels(asked.labels)).await.map(mounts) }
            })
            .await
        }
        "View" => {
            one(request, |asked: api::NewSnapshot| {
                let at = at.clone();
                async move { at.view(asked.key, asked.parent, labels(asked.labels)).await.map(mounts) }
            })
            .await
        }
        "Mounts" => {
            one(request, |asked: api::OneSnapshot| {
                let at = at.clone();
                async move { at.mounts(asked.key).await.map(mounts) }
            })
            .await
        }
        "Commit" => {
            one(request, |asked: api::Commit| {
                let at = at.clone();
                async move {
                    if !asked.parent.is_empty() {
                        let text = "this snapshotter can't change a snapshot's parent when it is committed";
                        return Err(Refusal::Argument(text.to_owned()).into());
                    }
                    at.commit(asked.key, asked.name, labels(asked.labels)).await.map(|()| api::Nothing {})
                }
            })
            .await
        }
        "Remove" => {
            one(request, |asked: api::OneSnapshot| {
                let at = at.clone();
                async move { at.remove(asked.key).await.map(|()| api::Nothing {}) }
            })
            .await
        }
        "Stat" => {
            one(request, |asked: api::OneSnapshot| {
                let at = at.clone();
                async move {
                    let found = at.stat(&asked.key)?;
                    Ok(api::OneInfo { info: Some(info(asked.key, found)) })
                }
            })
            .await
        }
        "Update" => {
            one(request, |asked: api::Update| {
                let at = at.clone();
                async move {
                    let (wanted, paths) = (asked.info.unwrap_or_default(), asked.update_mask.unwrap_or_default().paths);
                    let updated = at.update(wanted.name.clone(), labels(wanted.labels), paths).await?;
                    Ok(api::OneInfo { info: Some(info(wanted.name, updated)) })
                }
            })
            .await
        }
        "List" => {
            Grpc::new(ProstCodec::<api::Infos, api::List>::default()).server_streaming(ListCall(at), request).await
        }
        "Usage" => {
            one(request, |asked: api::OneSnapshot| {
                let at = at.clone();
                async move {
                    let usage = at.usage(asked.key).await?;
                    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
                    Ok(api::Usage { size: number(usage.bytes), inodes: number(usage.inodes) })
                }
            })
            .await
        }
        "Cleanup" => {
            one(request, |_: api::Nothing| {
                let at = at.clone();
                async move { at.clean_up().await.map(|()| api::Nothing {}) }
            })
            .await
        }
        _ => Status::unimplemented(format!("unknown call {path}")).into_http::<Body>(),
    };
    let failed = answer.headers().get("grpc-status").filter(|status| *status != "0");
    if let Some(status) = failed {
        tracing::debug!(call = name, ?status, "answered");
    }
    answer
}

fn labels(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

fn mounts(mounts: Vec<Mount>) -> api::Mounts {
    let mount = |Mount { kind, source, options }| api::Mount {
        kind: String::from(kind),
        source,
        target: String::new(),
        options,
    };
    api::Mounts { mounts: mounts.into_iter().map(mount).collect() }
}

fn info(name: String, snapshot: Snapshot) -> api::Info {
    let kind = match snapshot.kind {
        SnapshotKind::Active => api::Kind::Active,
        SnapshotKind::View => api::Kind::View,
        SnapshotKind::Committed => api::Kind::Committed,
    };
    let at = |date: Duration| {
        let nanos = i32::try_from(date.subsec_nanos()).unwrap_or_default();
        Some(api::Timestamp { seconds: i64::try_from(date.as_secs()).unwrap_or(i64::MAX), nanos })
    };
    api::Info {
        name,
        parent: snapshot.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: at(snapshot.created),
        updated_at: at(snapshot.updated),
        labels: snapshot.labels.into_iter().collect(),
    }
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

    #[test]
    fn dates_have_nanoseconds() {
        let snapshot = Snapshot {
            number: 1,
            kind: SnapshotKind::View,
            parent: None,
            created: Duration::new(5, 6),
            updated: Duration::new(7, 8),
            labels: Labels::new(),
            usage: crate::tree::Usage::default(),
            lazy: None,
        };
        let info = info("n".to_owned(), snapshot);
        assert_eq!(info.created_at, Some(api::Timestamp { seconds: 5, nanos: 6 }));
        assert_eq!((info.kind, info.parent.as_str()), (1, ""));
    }
}
