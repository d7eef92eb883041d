//! Who does the work: the daemon that has the data directory, or else an agent that lives in this process for the one
//! download. Both give the same verified bytes in order.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use darter_core::{BlobId, Source};
use darter_node::admin;
use darter_node::api::{GetRequest, Progress};
use darter_node::{Agent, Download, StartError};
use darter_store::StoreError;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::cli::GetArgs;
use crate::client::Client;

/// How often to see whether another process has let go of the data directory.
const LOCK_POLL: Duration = Duration::from_millis(300);

/// Who downloads.
pub(super) enum Backend {
    Daemon(Client),
    Embedded(Agent),
}

/// A download that has begun: the origin (or the swarm) has said that the content is there.
pub(super) struct Opened {
    pub(super) blob: BlobId,
    /// Length in bytes, if the origin says.
    pub(super) length: Option<u64>,
    /// Verified bytes in order. Ends with an error rather than short.
    pub(super) content: BoxStream<'static, anyhow::Result<Bytes>>,
    pub(super) watch: Watch,
}

/// Tells how far a download is.
pub(super) enum Watch {
    Daemon(Client, BlobId),
    Embedded(Download),
}

impl Backend {
    /// The daemon if one runs and is wanted; else starts an agent here, waiting for the data directory if another
    /// download has it.
    pub(super) async fn choose(args: &GetArgs) -> anyhow::Result<Self> {
        let options = args.embedded_options()?;
        let client = Client::new(&options.data_dir);
        let say = |line: String| {
            if args.log.verbose > 0 {
                anstream::eprintln!("{line}");
            }
        };
        let mut told = false;
        loop {
            let daemon_runs = client.runs().await;
            if !args.no_daemon {
                // A socket that is there and not for us is a reason to stop: the directory is not for us either.
                if daemon_runs? {
                    say(format!("using the daemon at {}", client.socket().display()));
                    return Ok(Self::Daemon(client));
                }
                if !told {
                    say(format!("no daemon at {}: downloading by myself", client.socket().display()));
                }
            } else if matches!(daemon_runs, Ok(true)) {
                anyhow::bail!(
                    "a daemon has {}; leave out --no-daemon, or give another --data-dir",
                    options.data_dir.display()
                );
            }
            match Agent::start(options.clone()).await {
                Ok(agent) => return Ok(Self::Embedded(agent)),
                Err(StartError::Store(StoreError::Locked { pid, .. })) => {
                    if !told && !args.quiet {
                        let who =
                            pid.map_or_else(|| "another darter".to_owned(), |pid| format!("darter (process {pid})"));
                        anstream::eprintln!("{who} is using {}: waiting for it to end", options.data_dir.display());
                    }
                    told = true;
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks for the content.
    pub(super) async fn open(&self, args: &GetArgs) -> anyhow::Result<Opened> {
        match self {
            Self::Daemon(client) => open_at_daemon(client, args).await,
            Self::Embedded(agent) => {
                let (source, credentials) = Source::from_url(args.url.clone(), &args.header, args.digest);
                let download = agent.open(source, credentials).await?;
                Ok(Opened {
                    blob: download.blob(),
                    length: download.length(),
                    content: download.stream(None).map_err(anyhow::Error::new).boxed(),
                    watch: Watch::Embedded(download),
                })
            }
        }
    }

    /// Ends the agent in this process; `spent` is a blob that it need not keep. A daemon is left as it is.
    pub(super) async fn close(self, spent: Option<BlobId>) {
        let Self::Embedded(agent) = self else { return };
        if let Some(blob) = spent
            && let Err(error) = agent.remove(&blob.to_string()).await
        {
            tracing::warn!(%error, "the content stays in the store");
        }
        agent.drain().await;
    }

    /// The daemon's socket, if it is one.
    pub(super) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Daemon(client) => Some(client.socket()),
            Self::Embedded(_) => None,
        }
    }
}

async fn open_at_daemon(client: &Client, args: &GetArgs) -> anyhow::Result<Opened> {
    let request = GetRequest { url: args.url.to_string(), headers: args.header.clone(), digest: args.digest };
    let answer = client.get(&request).await?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let blob = header(admin::BLOB_HEADER)
        .and_then(|text| text.parse().ok())
        .context("the daemon's answer names no blob; is it of another version?")?;
    let length = header(admin::LENGTH_HEADER).and_then(|text| text.parse().ok());
    let content = stream::try_unfold(answer.into_body(), next_chunk);
    Ok(Opened { blob, length, content: content.boxed(), watch: Watch::Daemon(client.clone(), blob) })
}

/// The next bytes of a daemon's answer. An answer that fails half-way says why in its trailer, if the daemon lives to
/// tell.
async fn next_chunk(mut body: Incoming) -> anyhow::Result<Option<(Bytes, Incoming)>> {
    let Some(frame) = body.frame().await else { return Ok(None) };
    let frame = frame.context("the daemon went away half-way; look into its log, then ask again for the rest")?;
    match frame.into_data() {
        Ok(data) => Ok(Some((data, body))),
        Err(other) => match other.trailers_ref().and_then(|trailers| trailers.get(admin::ERROR_TRAILER)) {
            Some(reason) => Err(anyhow!("{}", String::from_utf8_lossy(reason.as_bytes()))),
            None => Ok(None),
        },
    }
}

impl Watch {
    /// How far the download is; `None` if the daemon does not say.
    pub(super) async fn progress(&self) -> Option<Progress> {
        match self {
            Self::Daemon(client, blob) => client.progress(*blob).await.ok(),
            Self::Embedded(download) => Some(download.progress()),
        }
    }
}
