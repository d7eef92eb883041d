//! An agent's administration socket, asked by a thread that waits for the answer: [`Client`] on a runtime of its own for each
//! question, since threads of the laboratory live in different network namespaces.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use darter_api::headers::BLOB_HEADER;
use darter_api::{Client, ClientError, GetRequest, Progress, Status};
use darter_core::{BlobId, Digest};
use tokio::runtime::Builder;

/// How long an agent may take to answer.
const AGENT_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How it stands with an agent.
pub(crate) fn status(socket: &Path) -> Result<Status> {
    ask(socket, async |client| client.status().await)
}

/// How far a blob is on an agent.
pub(crate) fn progress(socket: &Path, blob: BlobId) -> Result<Progress> {
    ask(socket, async |client| client.progress(blob).await)
}

/// Lets an agent fetch a URL's content, which must have this digest; gives the blob's id.
pub(crate) fn get(socket: &Path, url: &str, digest: Digest) -> Result<BlobId> {
    let request = GetRequest { digest: Some(digest), ..GetRequest::of(url.to_owned(), Vec::new()) };
    let blob = ask(socket, async |client| {
        let answer = client.get_bytes(&request).await?;
        Ok(answer.headers().get(BLOB_HEADER).and_then(|blob| blob.to_str().ok()?.parse().ok()))
    });
    blob?.with_context(|| format!("the agent's answer does not name the blob of {}", request.url))
}

fn ask<T>(socket: &Path, question: impl AsyncFnOnce(&Client) -> Result<T, ClientError>) -> Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let client = Client::at(socket.to_owned());
    runtime.block_on(async {
        let answer = tokio::time::timeout(AGENT_ANSWER_TIMEOUT, question(&client)).await;
        let answer = answer.with_context(|| format!("no answer at {} in time", socket.display()))?;
        answer.with_context(|| format!("ask the agent at {}", socket.display()))
    })
}
