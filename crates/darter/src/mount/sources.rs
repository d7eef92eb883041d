//! Chooses the source of a mount's bytes: the local daemon if one runs and may be used, else an agent in the keeper's process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use darter_api::client::{Client, ClientError};
use darter_api::{GetRequest, Waiting};
use darter_core::{Blamed as _, in_full};
use darter_mount::supply::{Content, Supplier, Supply};
use url::Url;

use super::daemon::Daemon;
use super::own::{OwnAgent, OwnFile};
use crate::cli::MountArgs;
use crate::get::rooms;
use crate::output;

/// Waits for an origin that are shorter than this many seconds are not reported.
const MIN_TOLD: u64 = 2;

/// The agent or daemon that supplies a mount's bytes.
#[derive(Clone)]
pub(super) enum Agents {
    Daemon(Client),
    Own(Arc<OwnAgent>),
}

/// One content that it supplies.
pub(super) enum FileSource {
    Daemon(Box<Daemon>),
    Own(Box<OwnFile>),
}

/// The request for the content of a URL.
pub(super) fn request(url: &Url, headers: Vec<(String, String)>, digest: Option<darter_core::Digest>) -> GetRequest {
    GetRequest { digest, ..GetRequest::of(url.to_string(), headers) }
}

impl Agents {
    /// Uses a daemon if one runs and may be used; else starts an agent in this process, in a room for the content of `asked`. A daemon reads no local files for others,
    /// since it may have rights that this user has not. If `below` is given, an own agent reads only files below that directory.
    pub(super) async fn choose(
        args: &MountArgs,
        first: &GetRequest,
        is_local: bool,
        below: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        if !args.no_daemon && !is_local {
            let own = args.place.data_dir()?;
            for client in args.place.clients()? {
                match client.runs().await {
                    Ok(true) => return Ok(Self::Daemon(client)),
                    Ok(false) => {}
                    Err(error @ ClientError::Forbidden(_)) if is_named(&client, &own) => return Err(error.into()),
                    Err(ClientError::Forbidden(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(Self::Own(OwnAgent::start(args, first, below).await?))
    }

    /// The source of one content.
    pub(super) fn source(&self, request: GetRequest) -> anyhow::Result<FileSource> {
        Ok(match self {
            Self::Daemon(client) => FileSource::Daemon(Box::new(Daemon::new(client.clone(), request))),
            Self::Own(own) => FileSource::Own(Box::new(OwnFile::new(own, &request)?)),
        })
    }

    /// The daemon's socket.
    pub(super) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Daemon(client) => Some(client.socket()),
            Self::Own(_) => None,
        }
    }

    /// Ends an agent in this process, after unmounting.
    pub(super) async fn close(self) {
        if let Self::Own(own) = self {
            own.close().await;
        }
    }
}

/// True if the user chose the data directory of this daemon: then its refusal is an error.
fn is_named(client: &Client, own: &Path) -> bool {
    client.socket().starts_with(own) && !rooms::is_nobodys_choice(own)
}

pub(super) fn say(waiting: &Waiting) {
    if waiting.retry_in_seconds >= MIN_TOLD {
        output::complain(&waiting.to_string());
    }
}

impl FileSource {
    /// Opens the content for the first time.
    pub(super) async fn first(&self) -> anyhow::Result<(Content, Arc<dyn Supply>)> {
        match self {
            Self::Daemon(daemon) => Ok(daemon.first(say).await?),
            Self::Own(own) => Ok(own.first().await?),
        }
    }

    /// Opens the content for the first time. An error says why that failed, and whether another try may help.
    pub(super) async fn open_once(&self) -> Result<(Content, Arc<dyn Supply>), (String, bool)> {
        match self {
            Self::Daemon(daemon) => {
                daemon.connect(false).await.map_err(|error| {
                    // A daemon that does not run may come back.
                    let may_pass = error.blame().may_pass() || !matches!(error, ClientError::Refused(_));
                    (error.brief(), may_pass)
                })
            }
            Self::Own(own) => own.first().await.map_err(|error| {
                let may_pass = error.blame().may_pass();
                (in_full(&error).to_string(), may_pass)
            }),
        }
    }
}

#[async_trait]
impl Supplier for FileSource {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        match self {
            Self::Daemon(daemon) => daemon.open().await,
            Self::Own(own) => own.open().await,
        }
    }
}
