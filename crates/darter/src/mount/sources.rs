//! The source of a mount's bytes: a daemon of this host if one runs and is wanted, else an agent in the keeper's own process.

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

/// An origin that is asked again sooner than this is not worth a word.
const MIN_TOLD: u64 = 2;

/// An agent that reads for a mount.
#[derive(Clone)]
pub(super) enum Agents {
    Daemon(Client),
    Own(Arc<OwnAgent>),
}

/// One content that it reads.
pub(super) enum FileSource {
    Daemon(Box<Daemon>),
    Own(Box<OwnFile>),
}

/// The request for a URL.
pub(super) fn request(url: &Url, headers: Vec<(String, String)>, digest: Option<darter_core::Digest>) -> GetRequest {
    GetRequest { digest, ..GetRequest::of(url.to_string(), headers) }
}

impl Agents {
    /// A daemon if one runs and is wanted; else an agent here, in a room for what is asked for first. A daemon reads local files for nobody: they may
    /// not be this user's. An agent here reads only those `below` a directory, if it is given.
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

    /// A content that it reads.
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

    /// Ends an agent here, after the mount: nobody needs any more what it read.
    pub(super) async fn close(self) {
        if let Self::Own(own) = self {
            own.close().await;
        }
    }
}

/// True if somebody named this daemon's directory, which is then for this user or an error.
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

    /// Opens the content for the first time; tells why it could not be done, and whether another try may help.
    pub(super) async fn open_once(&self) -> Result<(Content, Arc<dyn Supply>), (String, bool)> {
        match self {
            Self::Daemon(daemon) => {
                daemon.connect(false).await.map_err(|error| {
                    // A daemon that is not there may come back.
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
