//! The process that keeps a mount: it has the descriptor of `/dev/fuse`, answers the kernel, and asks an agent for bytes. It ends when the
//! file is unmounted. A signal that tells it to end takes the mount away first: programs that use it get errors then.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use darter_api::client::{Client, ClientError};
use darter_api::{GetRequest, MountState, MountStatus, Waiting};
use darter_core::{Clock as _, Source, SystemClock};
use darter_mount::file::Glance;
use darter_mount::supply::{Content, Supplier, Supply};
use darter_mount::{Condition, MountOptions, Mounted, MountedFile, Settings};
use darter_store::threads;
use tokio::runtime::Handle;

use super::daemon::Daemon;
use super::own::OwnAgent;
use super::register::Registration;
use super::{Mount, unmount};
use crate::cli::MountArgs;
use crate::failure::Failure;
use crate::get::rooms;
use crate::output;
use crate::signals::Signals;

/// How long programs that use the file may hold up a keeper that was told to end.
pub(super) const LAST_READS: Duration = Duration::from_millis(500);

/// An origin that is asked again sooner than this is not worth a word.
const MIN_TOLD: u64 = 2;

/// Where the bytes come from.
enum Agents {
    Daemon(Daemon),
    Own(OwnAgent),
}

impl Agents {
    /// A daemon if one runs and is wanted; else an agent here.
    async fn choose(args: &MountArgs, mount: &Mount) -> anyhow::Result<Self> {
        let request = GetRequest {
            url: mount.url.to_string(),
            headers: mount.headers.clone(),
            digest: mount.digest,
            disposition: false,
            range: None,
            layer: None,
            again: false,
        };
        // A daemon reads local files for nobody: they may not be this user's.
        if !args.no_daemon && mount.url.scheme() != "file" {
            let own = args.place.data_dir()?;
            for client in args.place.clients()? {
                match client.runs().await {
                    Ok(true) => return Ok(Self::Daemon(Daemon::new(client, request))),
                    Ok(false) => {}
                    Err(error @ ClientError::Forbidden(_)) if is_named(&client, &own) => return Err(error.into()),
                    Err(ClientError::Forbidden(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(Self::Own(OwnAgent::start(args, &request).await?))
    }

    async fn first(&self) -> anyhow::Result<(Content, Arc<dyn Supply>)> {
        match self {
            Self::Daemon(daemon) => Ok(daemon.first(say).await?),
            Self::Own(agent) => Ok(agent.first().await?),
        }
    }

    fn supplier(&self) -> &dyn Supplier {
        match self {
            Self::Daemon(daemon) => daemon,
            Self::Own(agent) => agent,
        }
    }

    fn socket(&self) -> Option<&Path> {
        match self {
            Self::Daemon(daemon) => Some(daemon.socket()),
            Self::Own(_) => None,
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

/// Mounts, tells `told` when that is done, and keeps the mount until it is gone. One in the foreground ends with its terminal, too.
pub(super) async fn run(
    args: &MountArgs,
    mount: Mount,
    foreground: bool,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    if foreground {
        signals = signals.with_hangup()?;
    }
    let agents = tokio::select! {
        agents = Agents::choose(args, &mount) => agents?,
        signal = signals.which() => return Err(Failure::Signal { signal: signal.as_raw_value(), kept: String::new() }.into()),
    };
    let opened = tokio::select! {
        opened = agents.first() => opened,
        signal = signals.which() => Err(Failure::Signal { signal: signal.as_raw_value(), kept: String::new() }.into()),
    };
    let (content, supply) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            if let Agents::Own(agent) = agents {
                agent.close(Source::from_url(mount.url, &[], mount.digest).0.key()).await;
            }
            return Err(error);
        }
    };
    let blob = content.blob;
    let kept = keep(args, &mount, &agents, (content, supply), &mut signals, told).await;
    if let Agents::Own(agent) = agents {
        agent.close(blob).await;
    }
    kept
}

async fn keep(
    args: &MountArgs,
    mount: &Mount,
    agents: &Agents,
    (content, supply): (Content, Arc<dyn Supply>),
    signals: &mut Signals,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock::start());
    let since = clock.unix();
    let settings = Settings {
        limit: args.timeout,
        fill: args.fill,
        fill_rate: args.fill_rate,
        has_digest: mount.digest.is_some(),
    };
    let modified = content.modified.as_deref().and_then(|date| httpdate::parse_http_date(date).ok());
    let options = MountOptions {
        name: mount.name.clone().into(),
        modified: modified.unwrap_or(UNIX_EPOCH + Duration::from_secs(since)),
        others: args.allow_other,
    };
    let file = MountedFile::new(content, supply, settings, clock);
    let mounted = {
        let (file, dir, runtime) = (Arc::clone(&file), mount.dir.clone(), Handle::current());
        threads::run(move || Mounted::mount(file, &dir, options, runtime)).await?
    };
    let cache = mounted.cache();
    let mut session = tokio::task::spawn_blocking(move || mounted.wait());
    let status = async || status(args, mount, agents, since, &file).await;
    let entry = match Registration::announce(&args.place, &status().await, told) {
        Ok(entry) => entry,
        Err(error) => {
            away(mount).await;
            return Err(error);
        }
    };
    let keeping = async {
        if let Condition::Tainted(reason) = file.keep(agents.supplier()).await {
            tracing::warn!(reason, "the mounted content is wrong: nothing of it is read any more");
            // One that is not mounted any more has no pages.
            let _ = tokio::task::spawn_blocking(move || cache.forget()).await;
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    let result = tokio::select! {
        ended = &mut session => ended.context("the mount's thread failed")?.context("the kernel ended the mount"),
        () = signals.next() => {
            away(mount).await;
            // Readers still get an error when this process ends.
            let _ = tokio::time::timeout(LAST_READS, &mut session).await;
            Ok(())
        }
        never = keeping => match never {},
        never = entry.serve(status) => match never {},
    };
    drop(entry);
    result
}

/// Takes the mount away, whoever uses it.
async fn away(mount: &Mount) {
    let dir = mount.dir.clone();
    if let Err(error) = threads::run(move || unmount::unmount(&dir, true)).await {
        tracing::warn!(error = %format!("{error:#}"), "the mount could not be taken away");
    }
}

async fn status(args: &MountArgs, mount: &Mount, agents: &Agents, since: u64, file: &MountedFile) -> MountStatus {
    let Glance { condition, held, whole, alone, waiting } = file.glance().await;
    let (state, reason) = match condition {
        Condition::Open => (MountState::Open, None),
        Condition::Waiting(reason) => (MountState::Waiting, Some(reason)),
        Condition::Changed(reason) => (MountState::Changed, Some(reason)),
        Condition::Tainted(reason) => (MountState::Tainted, Some(reason)),
    };
    let (source, _) = Source::from_signed_url(mount.url.clone(), &[], None, &args.origin.signed_parameter);
    MountStatus {
        dir: mount.dir.clone(),
        file: mount.name.clone(),
        url: source.to_string(),
        image: None,
        blob: file.content().blob,
        length_bytes: file.content().length,
        held_bytes: held,
        whole,
        alone: alone && whole,
        state,
        reason,
        waiting_reads: waiting as u64,
        fill: args.fill.to_string(),
        timeout_seconds: args.timeout.as_secs_f64(),
        since_unix_seconds: since,
        pid: std::process::id(),
        daemon: agents.socket().map(Path::to_owned),
    }
}
