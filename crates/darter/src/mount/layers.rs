//! The process that keeps an image: a FUSE directory with the layers' files, whose bytes come from a daemon, and the kernel mounts over it.
//!
//! The FUSE directory is detached from the file system's tree once the image is mounted, and then only the image's mount uses it. So unmounting the image ends
//! the FUSE mount, and this process with it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use darter_api::client::{Client, ClientError};
use darter_api::{GetRequest, LayerRequest, MountKind, MountStatus};
use darter_core::{Clock, Digest, SystemClock};
use darter_mount::{KeptFile, Layer, Layers, Mounted, MountedFile, Settings, Waits};
use darter_store::threads;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;

use super::daemon::Daemon;
use super::image::{Image, ImageMount, Resolved, resolve_any};
use super::keeper::LAST_READS;
use super::register::{self, Registration};
use super::sources::say;
use super::told::About;
use super::{ends, stack, told, trees};
use crate::cli::MountArgs;
use crate::failure::Failure;
use crate::get::rooms;
use crate::signals::Signals;

/// How many layers are opened at a time. Each may have to be read and expanded first; the daemon does at most this many at once.
const MAX_OPENING: usize = 16;

/// The image's layers, all of them open.
struct Files(HashMap<Digest, Arc<KeptFile>>);

#[async_trait]
impl Layers for Files {
    async fn look_up(&self, layer: Digest) -> Option<Layer> {
        let file = self.0.get(&layer)?.file();
        Some(Layer::File { length: file.content().length, here: file.glance().await.held })
    }

    async fn open(&self, layer: Digest) -> Option<Arc<KeptFile>> {
        self.0.get(&layer).map(Arc::clone)
    }

    fn listed(&self) -> Vec<Digest> {
        self.0.keys().copied().collect()
    }
}

/// Mounts an image, calls `told` when that is done, and keeps it until it is unmounted.
pub(super) async fn run(
    args: &MountArgs,
    mount: ImageMount,
    foreground: bool,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut signals = if foreground { Signals::catch_in_foreground()? } else { Signals::catch()? };
    let resolved = async {
        let daemon = daemon(args).await?;
        let resolved = resolve_any(&daemon, &mount.image, args.platform.as_ref(), &mount.headers).await?;
        anyhow::Ok((daemon, resolved))
    };
    let (daemon, resolved) = tokio::select! {
        resolved = resolved => resolved?,
        signal = signals.which() => return Err(Failure::ended_by(signal, String::new()).into()),
    };
    let image = match resolved {
        Resolved::Image(image) => image,
        Resolved::Artifact(artifact) => {
            return trees::run_artifact(args, &mount, (daemon, artifact), signals, told).await;
        }
    };
    stack::check()?;
    let files = tokio::select! {
        opened = open(args, &mount, &daemon, &image) => opened?,
        signal = signals.which() => return Err(Failure::ended_by(signal, String::new()).into()),
    };
    let since = SystemClock::start().unix();
    let work = register::directory(&args.place)?.join(format!("{}.image", std::process::id()));
    let mounted = {
        let (files, runtime) = (Arc::clone(&files), Handle::current());
        let (work, dir, layers) = (work.clone(), mount.dir.clone(), image.layers.clone());
        threads::run(move || mounted(files, &layers, since, (&work, &dir), runtime)).await
    };
    // Only empty directories are left in it.
    let cleared = work.clone();
    threads::run(move || drop(std::fs::remove_dir_all(cleared))).await;
    let mounted = mounted?;
    let mut session = tokio::task::spawn_blocking(move || mounted.wait());
    let status = async || status(args, &mount, &daemon, (&image, since), &files).await;
    let entry = match Registration::announce(&args.place, &status().await, told) {
        Ok(entry) => entry,
        Err(error) => {
            away(&mount.dir).await;
            return Err(error);
        }
    };
    let result = tokio::select! {
        ended = &mut session => ended.context("the mount's thread failed")?.context("the kernel ended the mount"),
        () = signals.next() => {
            away(&mount.dir).await;
            // Reads that still wait get an error when this process ends.
            let _ = tokio::time::timeout(LAST_READS, &mut session).await;
            Ok(())
        }
        never = entry.serve(status) => match never {},
    };
    drop(entry);
    // Reports which parts were read first, so that later mounts fetch them sooner.
    join_all(files.0.values().map(|kept| kept.file().hand_over())).await;
    result
}

/// The daemon that supplies the layers. An image needs one, since layers are expanded for the whole fleet.
async fn daemon(args: &MountArgs) -> anyhow::Result<Client> {
    if args.no_daemon {
        return Err(Failure::Usage("mounting an image needs a daemon: leave out --no-daemon".to_owned()).into());
    }
    for client in args.place.clients()? {
        match client.runs().await {
            Ok(true) => return Ok(client),
            Ok(false) | Err(ClientError::Forbidden(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("mounting an image needs a daemon, but no daemon runs: start one with `darter up`, or name its --data-dir")
}

/// Opens each layer's file, and reads the parts that every mount reads.
async fn open(args: &MountArgs, mount: &ImageMount, daemon: &Client, image: &Image) -> anyhow::Result<Arc<Files>> {
    let settings = Settings::of_layer(args.timeout, args.fill, args.fill_rate);
    let (clock, waits): (Arc<dyn Clock>, _) = (Arc::new(SystemClock::start()), Waits::new());
    let (mut layers, room) = (HashMap::new(), ends::MetadataAllowance::new());
    layers.extend(image.layers.iter().map(|layer| (layer.diff_id, layer)));
    let opened = stream::iter(layers.into_values()).map(async |layer: &LayerRequest| {
        let request = GetRequest::of_layer(layer.clone(), mount.headers.clone());
        let daemon = Daemon::new(Client::at(daemon.socket().to_owned()), request);
        let (content, supply) = daemon.first(say).await?;
        let directories = ends::read(&content, &*supply, &room, args.timeout).await;
        let file = MountedFile::among(content, supply, settings, Arc::clone(&clock), waits.clone());
        anyhow::Ok((layer.diff_id, (KeptFile::begin(file, daemon), directories)))
    });
    let opened: HashMap<_, _> = opened.buffer_unordered(MAX_OPENING).try_collect().await?;
    // Differences can be found only if the directories of all layers are known.
    let known = image.layers.iter().map(|layer| opened.get(&layer.diff_id)?.1.clone());
    if let Some(known) = known.collect() {
        ends::tell_differences(known).await;
    }
    Ok(Arc::new(Files(opened.into_iter().map(|(diff_id, (kept, _))| (diff_id, kept)).collect())))
}

/// Makes all kernel mounts. Blocking.
fn mounted(
    files: Arc<Files>,
    layers: &[LayerRequest],
    since: u64,
    (work, dir): (&Path, &Path),
    runtime: Handle,
) -> anyhow::Result<Mounted> {
    let below = work.join("files");
    rooms::make(&below).with_context(|| format!("can't make {}; give another --data-dir", below.display()))?;
    let (mounted, shown) =
        Mounted::mount_layers(files, &below, UNIX_EPOCH + Duration::from_secs(since), super::opened_below, runtime)?;
    let file_of = |layer: &LayerRequest| {
        let text = layer.diff_id.to_string();
        let digits = text.split_once(':').map_or(text.as_str(), |(_, digits)| digits);
        below.join("sha256").join(digits.get(..2).unwrap_or_default()).join(format!("{digits}.erofs"))
    };
    let paths: Vec<_> = layers.iter().map(file_of).collect();
    let stacked = stack::mount_all(&paths, work, dir);
    if let Err(error) = shown.hide() {
        tracing::warn!(dir = %below.display(), %error, "can't remove the directory of an image's layers");
    }
    stacked.map(|()| mounted)
}

async fn away(dir: &Path) {
    let dir = dir.to_owned();
    threads::run(move || stack::away(&dir)).await;
}

async fn status(
    args: &MountArgs,
    mount: &ImageMount,
    daemon: &Client,
    (image, since): (&Image, u64),
    files: &Files,
) -> MountStatus {
    let (mut glances, mut length) = (Vec::new(), 0);
    for kept in files.0.values() {
        glances.push(kept.file().glance().await);
        length += kept.file().content().length;
    }
    let top = image.layers.last().and_then(|layer| files.0.get(&layer.diff_id));
    let about = About {
        dir: &mount.dir,
        file: String::new(),
        url: mount.image.to_string(),
        image: Some(image.digest),
        kind: MountKind::Image,
        files: None,
        blob: top.map_or(darter_core::BlobId([0; 32]), |top| top.file().content().blob),
        length,
        since,
        daemon: Some(daemon.socket().to_owned()),
    };
    told::status(args, about, told::together(glances))
}
