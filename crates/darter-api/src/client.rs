//! Speaks to a running daemon over its unix socket. The socket's permissions say who may; one connection carries one request.
//!
//! Needs a tokio runtime with I/O. No answer is waited for longer or shorter than the caller does: whoever has a deadline drops the
//! question.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use darter_core::{Blame, Blamed, BlobId, Digest, Fault, PieceLength, Retry};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use url::form_urlencoded::byte_serialize;

use crate::answers::{BlobRow, Explained, GetRequest, Problem, Progress, Status, Waiting};
use crate::changes::{self, Changes};
use crate::handover::{ORDER_HEADER, Order, PROTOCOL, Receiver};
use crate::headers::{BLOB_HEADER, LENGTH_HEADER, MODIFIED_HEADER, PIECES_HEADER, TOUCHES_HEADER};
use crate::layers::{BESIDE, LayerAnswer, NamedAnswer, NamedLayers, Namer};
use crate::parts::{self, Asker, Opened};
use crate::profile::{LayerProfile, PinnedProfile};
use crate::top::Top;

/// How long to wait for a place among those that wait for a daemon.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Why a daemon could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon at {}; start one with `darter up`, or say where its data is with --data-dir", .0.display())]
    NoDaemon(PathBuf),
    /// The socket is there, but not for us.
    #[error(
        "may not talk to the daemon at {}; ask for membership in the group of its --socket-group, or run as the user that it runs \
         as, or as root",
        .0.display()
    )]
    Forbidden(PathBuf),
    /// The socket could not be reached for another reason.
    #[error("can't reach the daemon at {}", .0.display())]
    Connect(PathBuf, #[source] io::Error),
    /// The daemon went away between question and answer.
    #[error("the daemon at {} stopped answering; look into its log, then ask again", .0.display())]
    Broken(PathBuf, #[source] hyper::Error),
    /// The daemon says nothing.
    #[error("the daemon at {} says nothing; look into its log, and restart it if it hangs", .0.display())]
    Silent(PathBuf),
    /// The daemon is of a release that can't do this.
    #[error("the daemon at {} is of an older version, which can't mount: restart it, or add --no-daemon", .0.display())]
    Older(PathBuf),
    /// The answer is not one of a daemon of this version.
    #[error("the daemon at {} gave an answer that this version of darter does not understand; if it is of another version, restart it", .0.display())]
    Answer(PathBuf, #[source] serde_json::Error),
    /// The daemon said no, and why.
    #[error("{}", .0.error)]
    Refused(Problem),
}

impl Blamed for ClientError {
    fn blame(&self) -> Blame {
        match self {
            Self::NoDaemon(_) | Self::Forbidden(_) => Blame::new(Fault::User, Retry::Never),
            Self::Connect(_, error) => error.blame(),
            Self::Broken(..) | Self::Silent(_) => Blame::new(Fault::Ourselves, Retry::Later(None)),
            Self::Answer(..) | Self::Older(_) => Blame::new(Fault::Ourselves, Retry::Never),
            Self::Refused(problem) => problem.blame(),
        }
    }
}

impl ClientError {
    /// The error in a few words, without advice.
    pub fn brief(&self) -> String {
        match self {
            Self::NoDaemon(_) => "the daemon is gone".to_owned(),
            Self::Forbidden(_) | Self::Connect(..) => "the daemon can't be reached".to_owned(),
            Self::Broken(..) | Self::Silent(_) => "the daemon stopped answering".to_owned(),
            Self::Answer(..) | Self::Older(_) => "the daemon is of another version".to_owned(),
            Self::Refused(problem) => problem.error.clone(),
        }
    }
}

/// A daemon's answer to a get.
#[derive(Debug)]
pub struct GetAnswer {
    /// The answer's headers.
    pub head: http::HeaderMap,
    /// The content, still to be read.
    pub content: Content,
}

/// How a daemon gives content.
#[derive(Debug)]
pub enum Content {
    /// As parts of its file.
    File(Receiver),
    /// As bytes.
    Bytes(Incoming),
}

/// A daemon's administration socket.
///
/// # Errors
/// Each request fails with a [`ClientError`] if no daemon answers or it may not be asked, and with [`ClientError::Refused`] if the daemon refuses.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon at this socket.
    pub const fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The first of these at whose socket a daemon answers; the first of all if none does, for its error names where to look.
    pub async fn choose(clients: Vec<Self>) -> Self {
        for client in &clients {
            if matches!(client.runs().await, Ok(true)) {
                return client.clone();
            }
        }
        // One that is there and not for this user says more than one that is not there.
        let mut first = None;
        for client in clients {
            let forbidden = matches!(client.runs().await, Err(ClientError::Forbidden(_)));
            if forbidden || first.is_none() {
                first = Some(client);
            }
        }
        first.expect("there is always a place to look")
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// True if a daemon runs; an error tells why that can't be known.
    pub async fn runs(&self) -> Result<bool, ClientError> {
        match UnixStream::connect(&self.socket).await.map_err(|refusal| self.no_way(refusal)) {
            Ok(_) => Ok(true),
            // Others wait for it: whether it answers them is for a question to find out.
            Err(ClientError::Connect(_, refusal)) if refusal.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(ClientError::NoDaemon(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.read(Method::GET, "/v1/status").await
    }

    /// `GET /v1/top`: the transfers that move now, and more about the swarm of `name`: a URL, a digest or a blob's id, or the beginning of one.
    pub async fn top(&self, name: Option<&str>) -> Result<Top, ClientError> {
        let query = name.map_or_else(String::new, |name| format!("?name={}", encoded(name)));
        self.read(Method::GET, &format!("/v1/top{query}")).await
    }

    /// `GET /v1/blobs`.
    pub async fn blobs(&self) -> Result<Vec<BlobRow>, ClientError> {
        self.read(Method::GET, "/v1/blobs").await
    }

    /// `DELETE /v1/blobs/{name}`.
    pub async fn remove(&self, name: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, &format!("/v1/blobs/{}", in_path(name)), Bytes::new()).await?;
        Ok(())
    }

    /// `PUT /v1/blobs/{name}/pin` if `pinned`, else `DELETE` of it.
    pub async fn pin(&self, name: &str, pinned: bool) -> Result<(), ClientError> {
        let method = if pinned { Method::PUT } else { Method::DELETE };
        self.send(method, &format!("/v1/blobs/{}/pin", in_path(name)), Bytes::new()).await?;
        Ok(())
    }

    /// `GET /v1/explain`.
    pub async fn explain(&self, name: &str) -> Result<Explained, ClientError> {
        self.read(Method::GET, &format!("/v1/explain?name={}", encoded(name))).await
    }

    /// `GET /v1/progress`.
    pub async fn progress(&self, blob: BlobId) -> Result<Progress, ClientError> {
        self.read(Method::GET, &format!("/v1/progress?blob={blob}")).await
    }

    /// `POST /v1/waiting`: which origin that download waits for, which has not begun. An older daemon does not know.
    pub async fn waiting(&self, request: &GetRequest) -> Option<Waiting> {
        let body = serde_json::to_vec(request).ok()?;
        let answer = self.send(Method::POST, "/v1/waiting", body.into()).await.ok()?;
        serde_json::from_slice(&self.body(answer).await.ok()?).ok()?
    }

    /// `POST /v1/get`: the answer's head, with the content still to be read: as a file if the daemon hands files over, in this
    /// order if it knows orders; without an order as bytes.
    pub async fn get(&self, request: &GetRequest, order: Option<Order>) -> Result<GetAnswer, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| ClientError::Answer(self.socket.clone(), error))?;
        let upgrade = order.map(|order| (PROTOCOL, Some(order)));
        let mut answer = self.ask(Method::POST, "/v1/get", body.into(), upgrade).await?;
        let head = answer.headers().clone();
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(GetAnswer { head, content: Content::Bytes(answer.into_body()) });
        }
        let broken = |error| ClientError::Broken(self.socket.clone(), error);
        let upgraded = hyper::upgrade::on(&mut answer).await.map_err(broken)?;
        let parts = upgraded.downcast::<TokioIo<UnixStream>>().expect("the connection was made here");
        let receiver = Receiver::begin(parts.io.into_inner(), head.contains_key(ORDER_HEADER)).await;
        let receiver = receiver.map_err(|error| ClientError::Connect(self.socket.clone(), error))?;
        Ok(GetAnswer { head, content: Content::File(receiver) })
    }

    /// `POST /v1/get`, whose content always comes as bytes.
    pub async fn get_bytes(&self, request: &GetRequest) -> Result<Response<Incoming>, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| ClientError::Answer(self.socket.clone(), error))?;
        self.send(Method::POST, "/v1/get", body.into()).await
    }

    /// `POST /v1/parts`: what is known of a blob, and a connection by which parts of it can be asked for.
    pub async fn parts(&self, request: &GetRequest) -> Result<(Opened, Asker), ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| ClientError::Answer(self.socket.clone(), error))?;
        let upgrade = Some((parts::PROTOCOL, None));
        let mut answer = self.ask(Method::POST, "/v1/parts", body.into(), upgrade).await?;
        let head = answer.headers();
        let text = |name: &str| head.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let opened = || {
            let pieces = u8::try_from(number(PIECES_HEADER)?).ok()?;
            Some(Opened {
                blob: text(BLOB_HEADER)?.parse().ok()?,
                length: number(LENGTH_HEADER)?,
                pieces: PieceLength::from_log2(pieces).ok()?,
                modified: text(MODIFIED_HEADER),
                takes_touches: text(TOUCHES_HEADER).as_deref() != Some("none"),
            })
        };
        let opened = opened().filter(|_| answer.status() == StatusCode::SWITCHING_PROTOCOLS);
        let opened = opened.ok_or_else(|| ClientError::Older(self.socket.clone()))?;
        let broken = |error| ClientError::Broken(self.socket.clone(), error);
        let upgraded = hyper::upgrade::on(&mut answer).await.map_err(broken)?;
        let connection = upgraded.downcast::<TokioIo<UnixStream>>().expect("the connection was made here");
        Ok((opened, Asker::begin(connection.io.into_inner())))
    }

    /// `POST /v1/layers/DIFFID`: whether a layer can be mounted, and which others `beside` it if that is asked, too. The daemon has to show that it is at it at least every `beat`.
    ///
    /// # Errors
    /// [`ClientError::Silent`] when it does not; as for all questions.
    pub async fn layer(&self, diff_id: Digest, beside: bool, beat: Duration) -> Result<LayerAnswer, ClientError> {
        let query = if beside { format!("?{BESIDE}") } else { String::new() };
        self.layer_at(&format!("/v1/layers/{diff_id}{query}"), beat).await
    }

    /// `POST /v1/chains/CHAINID`: whether the uppermost of the layers with this chain id can be mounted. As [`Self::layer`].
    ///
    /// # Errors
    /// As [`Self::layer`].
    pub async fn uppermost_layer(&self, chain: Digest, beat: Duration) -> Result<LayerAnswer, ClientError> {
        self.layer_at(&format!("/v1/chains/{chain}"), beat).await
    }

    /// `PUT /v1/layers` or `PUT /v1/layers/engine`: says which layers `namer`'s snapshots name.
    ///
    /// # Errors
    /// As for all questions; an older daemon refuses those of an engine.
    pub async fn name_layers(&self, namer: Namer, layers: &NamedLayers) -> Result<NamedAnswer, ClientError> {
        let path = match namer {
            Namer::Snapshotter => "/v1/layers",
            Namer::Engine => "/v1/layers/engine",
        };
        let body = serde_json::to_vec(layers).map_err(|error| ClientError::Answer(self.socket.clone(), error))?;
        let answer = self.send(Method::PUT, path, body.into()).await?;
        let body = self.body(answer).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer(self.socket.clone(), error))
    }

    /// `POST /v1/layers/changes`: tells from here on when what is answered about layers may not hold any more.
    ///
    /// # Errors
    /// As for all questions; an older daemon refuses.
    pub async fn changes(&self) -> Result<Changes, ClientError> {
        let upgrade = Some((changes::PROTOCOL, None));
        let mut answer = self.ask(Method::POST, "/v1/layers/changes", Bytes::new(), upgrade).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ClientError::Older(self.socket.clone()));
        }
        let broken = |error| ClientError::Broken(self.socket.clone(), error);
        let refused = |error| ClientError::Connect(self.socket.clone(), error);
        let upgraded = hyper::upgrade::on(&mut answer).await.map_err(broken)?;
        let connection = upgraded.downcast::<TokioIo<UnixStream>>().expect("the connection was made here");
        let mut stream = connection.io.into_inner();
        if connection.read_buf.is_empty() {
            stream.read_u8().await.map_err(refused)?;
        }
        stream.into_std().map(Changes::over).map_err(refused)
    }

    async fn layer_at(&self, path: &str, beat: Duration) -> Result<LayerAnswer, ClientError> {
        let silent = |_| ClientError::Silent(self.socket.clone());
        let asking = self.send(Method::POST, path, Bytes::new());
        let mut body = tokio::time::timeout(beat, asking).await.map_err(silent)??.into_body();
        let mut told = Vec::new();
        while let Some(frame) = tokio::time::timeout(beat, body.frame()).await.map_err(silent)? {
            let frame = frame.map_err(|error| ClientError::Broken(self.socket.clone(), error))?;
            if let Ok(bytes) = frame.into_data() {
                told.extend_from_slice(&bytes);
            }
        }
        serde_json::from_slice(&told).map_err(|error| ClientError::Answer(self.socket.clone(), error))
    }

    /// `GET /v1/layers/DIFFID/profile`.
    ///
    /// # Errors
    /// As for all questions.
    pub async fn layer_profile(&self, diff_id: Digest) -> Result<Option<LayerProfile>, ClientError> {
        self.read(Method::GET, &format!("/v1/layers/{diff_id}/profile")).await
    }

    /// `PUT /v1/layers/DIFFID/profile`, or `DELETE` of it.
    ///
    /// # Errors
    /// As for all questions.
    pub async fn pin_profile(&self, diff_id: Digest, pinned: Option<&PinnedProfile>) -> Result<(), ClientError> {
        let path = format!("/v1/layers/{diff_id}/profile");
        let (method, body) = match pinned {
            Some(pinned) => {
                let body = serde_json::to_vec(pinned);
                (Method::PUT, body.map_err(|error| ClientError::Answer(self.socket.clone(), error))?)
            }
            None => (Method::DELETE, Vec::new()),
        };
        self.send(method, &path, body.into()).await?;
        Ok(())
    }

    async fn read<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let answer = self.send(method, path, Bytes::new()).await?;
        let body = self.body(answer).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer(self.socket.clone(), error))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        self.ask(method, path, body, None).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: Option<(&str, Option<Order>)>,
    ) -> Result<Response<Incoming>, ClientError> {
        let broken = |error| ClientError::Broken(self.socket.clone(), error);
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the response: it is read to its end, dropped, or takes the connection over.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "darter")
            .header(http::header::CONTENT_TYPE, "application/json")
            // So that an answer that fails half-way can say why.
            .header(http::header::TE, "trailers");
        if let Some((protocol, order)) = upgrade {
            request = request.header(http::header::CONNECTION, "upgrade").header(http::header::UPGRADE, protocol);
            if let Some(order) = order {
                request = request.header(ORDER_HEADER, order.name());
            }
        }
        let request = request.body(Full::new(body)).expect("method, path and headers are well formed");
        let answer = sender.send_request(request).await.map_err(broken)?;
        if answer.status().is_success() || answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let status = answer.status();
        let body = self.body(answer).await?;
        Err(ClientError::Refused(problem(status, &body)))
    }

    async fn body(&self, answer: Response<Incoming>) -> Result<Bytes, ClientError> {
        let collected = answer.into_body().collect().await;
        Ok(collected.map_err(|error| ClientError::Broken(self.socket.clone(), error))?.to_bytes())
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                // More wait there than the system has room for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(CONNECT_PAUSE).await,
                Err(error) => return Err(self.no_way(error)),
            }
        }
    }

    fn no_way(&self, refusal: io::Error) -> ClientError {
        match refusal.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.socket.clone()),
            _ => ClientError::Connect(self.socket.clone(), refusal),
        }
    }
}

/// A name as a part of a path.
fn in_path(name: &str) -> String {
    // Form encoding writes a space as a plus sign, which a path takes literally.
    encoded(name).replace('+', "%20")
}

fn encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

fn problem(status: StatusCode, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let blame = Blame::new(Fault::Ourselves, Retry::Never);
        Problem::new(format!("the daemon answered {status}"), blame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_finds_no_place_to_wait_for_a_daemon_tries_again() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("darter.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let client = Client::at(path);
        assert!(client.runs().await.unwrap(), "others wait for one");
        let asking = tokio::spawn(async move { client.connect().await });
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        listener.accept().unwrap();
        asking.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nobody_is_found_below_what_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!Client::at(file.path().join("darter.sock")).runs().await.unwrap());
    }
}
