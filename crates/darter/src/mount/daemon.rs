//! Gets bytes for a mount from the local daemon, over its administration socket.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use darter_api::client::{Client, ClientError};
use darter_api::parts::{Answer, Ask, Asker, Over};
use darter_api::{GetRequest, Waiting};
use darter_core::{ByteRange, PieceHash, Retry};
use darter_mount::supply::{Content, End, Given, Refusal, Supplier, Supply};

use crate::show::WAITING_POLL;

/// A daemon, and the request for the content.
pub(crate) struct Daemon {
    client: Client,
    request: GetRequest,
}

struct Connection {
    asker: Asker,
    takes_touches: bool,
}

impl Daemon {
    pub(crate) const fn new(client: Client, request: GetRequest) -> Self {
        Self { client, request }
    }

    /// Opens the first connection. Calls `says` with what the daemon waits for.
    pub(super) async fn first(&self, says: impl Fn(&Waiting)) -> Result<(Content, Arc<dyn Supply>), ClientError> {
        let mut opening = std::pin::pin!(self.connect(false));
        loop {
            if let Ok(opened) = tokio::time::timeout(WAITING_POLL, &mut opening).await {
                return opened;
            }
            // The lock is not held here, so that another opener does not wait for this question.
            if let Ok(Some(waiting)) = tokio::time::timeout(WAITING_POLL, self.client.waiting(&self.request)).await {
                says(&waiting);
            }
        }
    }

    /// Opens a connection; `again` is false for the first one.
    pub(crate) async fn connect(&self, again: bool) -> Result<(Content, Arc<dyn Supply>), ClientError> {
        let (opened, asker) = self.client.parts(&GetRequest { again, ..self.request.clone() }).await?;
        let content =
            Content { blob: opened.blob, length: opened.length, pieces: opened.pieces, modified: opened.modified };
        Ok((content, Arc::new(Connection { asker, takes_touches: opened.takes_touches })))
    }
}

#[async_trait]
impl Supplier for Daemon {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        self.connect(true).await.map_err(|error| error.brief())
    }
}

#[async_trait]
impl Supply for Connection {
    async fn read(&self, range: ByteRange, within: Duration) -> Result<Given, Refusal> {
        match self.asker.part(Ask::Read, range, within).await {
            Ok(Answer::Here(Some(file), hashes)) => Ok(Given::File(file, hashes)),
            Ok(Answer::Bytes(bytes)) if bytes.len() as u64 == range.len() => Ok(Given::Bytes(bytes)),
            other => Err(refusal(other)),
        }
    }

    async fn fetch(&self, range: ByteRange, within: Duration) -> Result<Vec<PieceHash>, Refusal> {
        match self.asker.part(Ask::Fetch, range, within).await {
            Ok(Answer::Here(_, hashes)) => Ok(hashes),
            other => Err(refusal(other)),
        }
    }

    async fn everything(&self) {
        // If this daemon ends, another one will be asked again.
        let _ = self.asker.everything().await;
    }

    async fn touched(&self, ranges: &[ByteRange]) {
        // Nothing waits for the result.
        let _ = self.asker.touched(ranges).await;
    }

    fn takes_touches(&self) -> bool {
        self.takes_touches
    }

    async fn progress(&self) -> Option<(u64, bool)> {
        match self.asker.progress().await {
            Ok(Answer::Progress(held, whole)) => Some((held, whole)),
            _ => None,
        }
    }

    async fn ended(&self) -> End {
        let Over { problem, wrong } = self.asker.over().await;
        let changed = problem.as_ref().is_some_and(|problem| problem.blame().retry == Retry::Now);
        let reason = problem.map_or_else(|| "the daemon is gone".to_owned(), |problem| problem.error);
        match (wrong, changed) {
            (true, _) => End::Wrong(reason),
            (false, true) => End::Changed(reason),
            (false, false) => End::Gone(reason),
        }
    }
}

fn refusal(answer: Result<Answer, darter_api::parts::Ended>) -> Refusal {
    match answer {
        Ok(Answer::Late) => Refusal::Late,
        Ok(Answer::Failed(problem)) => Refusal::Now(problem.error),
        Ok(other) => Refusal::Now(format!("the daemon gave another answer: {other:?}")),
        Err(_) => Refusal::Now("the daemon is gone".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Accepts one request, refuses it, and returns its body.
    fn asked(listener: &UnixListener) -> GetRequest {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        loop {
            let read = stream.read(&mut part).unwrap();
            bytes.extend_from_slice(&part[..read]);
            let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(request) = head.and_then(|head| serde_json::from_slice(&bytes[head + 4..]).ok()) {
                stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap();
                return request;
            }
        }
    }

    /// Only a mount's first connection fetches the profile: a later one (`again`) does not.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_mount_says_that_it_comes_again_and_not_so_the_first_time() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("darter.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let request = GetRequest::of("http://files.lab/model".into(), Vec::new());
        let daemon = Daemon::new(Client::at(socket), request);
        let told = tokio::task::spawn_blocking(move || [asked(&listener), asked(&listener)]);
        assert!(daemon.connect(false).await.is_err() && daemon.open().await.is_err());
        let [first, second] = told.await.unwrap();
        assert_eq!((first.again, second.again), (false, true));
        assert_eq!(first.url, second.url);
    }
}
