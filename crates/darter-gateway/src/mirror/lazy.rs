//! Layers that can be mounted before they are downloaded: answers requests by diff id.
//!
//! A request is answered in this order. A layer that was given before, is in use and is complete here is given again (a look-up in the directory may be a
//! container's, which can't start without it; a chain is asked for only by pulls, and so is not found in this way if a recent image contests the layer). Otherwise the images that name it and were pulled lately are
//! [examined](looking): may their pullers read their layers, and can all of these be mounted? If not, a layer that is in use is given as before, if
//! it can still be had in that way. At a fleet's first pull this takes time, since the lead has to read and expand the layers; the request waits for its layer and those below,
//! for at most [`LazyOptions::wait`].
//!
//! An engine asks for one layer after the other, and with each again for those below it: some six hundred requests for an image of thirty-three layers. So the
//! first answer about an image includes all of its layers, for a client that [asks for them](Beside); the client may use it until it is notified of a
//! [change](super::watchers).
//!
//! Invariants: a layer in an answer is known to be mountable, with this length, and is complete here or open. (A client that learns that a layer
//! can't be had downloads it; a container that was promised the layer can't.) A layer is given with the credentials of the image through which it is answered; unless a container has opened the layer, no client gets it
//! for a diff id that a configuration merely claims.

mod giving;
mod looking;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use darter_agent::{FetchError, Part};
use darter_api::LayerRequest;
use darter_api::layers::Namer;
use darter_core::recent::Recent;
use darter_core::source::Credentials;
use darter_core::{Digest, Moment, in_full};
use darter_metrics::LayerAnswered;
use darter_oci::claims::{self, Unpacked};
use darter_oci::image::{ImageParts, LayerPart, MAX_CONFIG};
use darter_oci::manifest::ImageManifest;
use darter_origin::Upstream;
use darter_store::{PieceFile, threads};
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use self::looking::Looking;
use super::blobs::{Mountable, MountableLayers};
use super::given::GivenLayer;
use super::given_layers::GivenLayers;
use super::learnt::{Decision, Learnt, Pull, Unread};
use super::logins::Logins;
use super::route::Naming;
use super::watchers::Watchers;
use super::{Ask, Awaited, Mirror};
use crate::outlet::Outlet;

/// The names by which an image was pulled.
#[derive(Clone, Debug)]
pub(super) struct How {
    upstream: Upstream,
    /// The repository's name at the registry.
    repository: String,
    /// The repository's name as programs write it.
    named: String,
    credentials: Credentials,
}

/// What the mirror knows of layers that may be mounted.
pub(super) struct Lazy {
    layers: Arc<dyn MountableLayers>,
    wait: Duration,
    learnt: Mutex<Learnt<How>>,
    /// Held while configurations are read, so that concurrent requests wait for them.
    reading: AsyncMutex<()>,
    looking: Looking,
    given: GivenLayers,
    logins: Mutex<Logins>,
    /// The mountable files of the layers that were opened.
    mountable: Mutex<Recent<Digest, Mountable>>,
    watchers: Watchers,
}

/// Options for giving layers to engines.
#[derive(Clone)]
pub struct LazyOptions {
    /// Expands layers.
    pub layers: Arc<dyn MountableLayers>,
    /// How long a request for a layer may wait.
    pub wait: Duration,
    /// The list of layers that were given.
    pub given: GivenLayers,
}

/// Which layers an answer includes. A client that caches answers until it is notified of a change gets the image's other layers, too; any other client would get all
/// of them with each of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Only the requested layer.
    None,
    /// Also the other layers of its image.
    All,
}

/// The answer to a request for a diff id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerFound {
    /// The layer is not given, for this reason.
    Miss(&'static str),
    /// The layer can be mounted.
    Found(Box<FoundLayer>),
}

/// A layer that can be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLayer {
    /// The layer and its repository, as programs name them.
    pub layer: LayerRequest,
    /// The credentials that may read it there.
    pub credentials: Credentials,
    /// The length of its mountable file in bytes.
    pub length: u64,
    /// How many bytes of that file are stored here.
    pub held: u64,
    /// The path of that file, once it is complete.
    pub file: Option<PathBuf>,
    /// The other layers of its image that would be given if they were requested now.
    pub beside: Vec<FoundLayer>,
}

impl fmt::Debug for LazyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyOptions").field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl Lazy {
    /// Knows nothing yet.
    pub(super) fn new(options: LazyOptions, grant_ttl: Duration) -> Self {
        let LazyOptions { layers, wait, given } = options;
        Self {
            layers,
            given,
            logins: Mutex::new(Logins::new(grant_ttl)),
            mountable: Mutex::new(Recent::new(MAX_LAYERS)),
            watchers: Watchers::default(),
            wait,
            learnt: Mutex::new(Learnt::new(grant_ttl)),
            reading: AsyncMutex::new(()),
            looking: Looking::default(),
        }
    }
}

impl Mirror {
    /// Notes that a manifest passes: its layers may be requested in a moment.
    pub(super) fn learn(&self, ask: &Ask<'_>, manifest: &ImageManifest) {
        let Some(lazy) = &self.lazy else { return };
        let pull = Pull { scope: ask.scope.clone(), manifest: manifest.digest, caller: ask.caller };
        let config = match Unpacked::of(&manifest.bytes) {
            Unpacked::Nothing => return,
            Unpacked::Layers { config } => config,
            Unpacked::Unclear => {
                lazy.learnt.lock().unclear(pull, self.clock.now());
                return lazy.watchers.tell();
            }
        };
        let parts = ImageParts::parse(&manifest.bytes).filter(|parts| parts.config == config);
        let how = How {
            upstream: ask.upstream.clone(),
            repository: ask.repository.clone(),
            named: ask.named.clone(),
            credentials: ask.credentials.clone(),
        };
        lazy.learnt.lock().seen(Unread { pull, how, config, parts }, self.clock.now());
        // Clients are notified before the manifest is passed on, since the puller may ask for layers right after it.
        lazy.watchers.tell();
    }

    /// True if this agent gives layers.
    pub(crate) fn has_layers(&self) -> bool {
        self.lazy.is_some()
    }

    /// Notifies the client over this non-blocking connection whenever earlier answers about layers may have become wrong.
    pub(crate) fn watch_layers(&self, connection: UnixStream) {
        if let Some(lazy) = &self.lazy {
            lazy.watchers.add(connection);
        }
    }

    /// Notifies all clients that earlier answers about layers may have become wrong.
    pub(crate) fn layers_changed(&self) {
        if let Some(lazy) = &self.lazy {
            lazy.watchers.tell();
        }
    }

    /// Answers a request for the layer with this diff id.
    pub async fn layer(self: &Arc<Self>, diff_id: Digest, beside: Beside) -> LayerFound {
        let Some(lazy) = &self.lazy else {
            return LayerFound::Miss("this agent has no directory for layers (--lazy-dir)");
        };
        let until = self.clock.now() + lazy.wait;
        self.layer_until(lazy, LayerQuestion { diff_id, beside, is_pull: false, until }).await
    }

    async fn layer_until(self: &Arc<Self>, lazy: &Lazy, asked: LayerQuestion) -> LayerFound {
        let LayerQuestion { diff_id, until, .. } = asked;
        let left = until.since(self.clock.now());
        let found = tokio::time::timeout(left, self.look_up(lazy, asked)).await;
        let found = found.unwrap_or(LayerFound::Miss("its image could not be expanded in time"));
        let answered = match &found {
            LayerFound::Miss(reason) => {
                tracing::debug!(%diff_id, reason, "a layer is not given");
                LayerAnswered::Miss
            }
            LayerFound::Found(found) if found.file.is_some() => LayerAnswered::Whole,
            LayerFound::Found(_) => LayerAnswered::Promised,
        };
        self.metrics.layer_answered(answered);
        found
    }

    /// Answers a request for the uppermost of the layers with the chain id `chain`.
    pub async fn uppermost_layer(self: &Arc<Self>, chain: Digest) -> LayerFound {
        let Some(lazy) = &self.lazy else { return self.layer(chain, Beside::None).await };
        let until = self.clock.now() + lazy.wait;
        // The chain may belong to an image that is being pulled right now.
        if tokio::time::timeout(lazy.wait, self.read_configs(lazy)).await.is_err() {
            return LayerFound::Miss("its image's configuration did not come in time");
        }
        let diff_id = lazy.learnt.lock().uppermost(chain);
        self.layer_until(lazy, LayerQuestion { diff_id, beside: Beside::None, is_pull: true, until }).await
    }

    /// Notes the layers that `namer`'s snapshots name. Returns those of them that were never given, and so can't be kept.
    pub async fn layers_named(&self, namer: Namer, named: &HashSet<Digest>) -> Vec<Digest> {
        match &self.lazy {
            Some(lazy) => lazy.given.named(namer, named, &*lazy.layers, self.clock.unix()).await,
            None => named.iter().copied().collect(),
        }
    }

    async fn look_up(self: &Arc<Self>, lazy: &Lazy, asked: LayerQuestion) -> LayerFound {
        let LayerQuestion { diff_id, until, .. } = asked;
        let settled = lazy.learnt.lock().settled(diff_id, self.clock.now());
        if let Some(image) = settled {
            return self.give(lazy, &image, asked).await;
        }
        if let Some(given) = self.in_use(lazy, asked)
            && let Some(found) = self.give_whole(lazy, &given).await
        {
            return found;
        }
        if lazy.given.get(diff_id).is_none() {
            return self.find(lazy, asked).await;
        }
        // A layer that is not here needs credentials that still count. Half of the time is reserved for giving what was given before.
        let now = self.clock.now();
        let half = until.since(now) / 2;
        let found = tokio::time::timeout(half, self.find(lazy, LayerQuestion { until: now + half, ..asked })).await;
        if let Ok(found @ LayerFound::Found(_)) = found {
            return found;
        }
        let given = self.in_use(lazy, asked).or_else(|| self.uncontested(lazy, diff_id));
        match (given, found) {
            (Some(given), _) => self.give_again(lazy, given, until).await,
            (None, Ok(miss)) => miss,
            (None, Err(_)) => LayerFound::Miss("its image could not be expanded in time"),
        }
    }

    /// A layer that is in use. If it needs credentials and a recent image contests its diff id, it is not given for a pull, which may be that image's.
    fn in_use(&self, lazy: &Lazy, asked: LayerQuestion) -> Option<GivenLayer> {
        let given = lazy.given.in_use(asked.diff_id)?;
        let is_open = !asked.is_pull || !given.needs_login;
        (is_open || !self.is_contested(lazy, &given)).then_some(given)
    }

    /// A layer that was given, unless a recent image contests its diff id.
    fn uncontested(&self, lazy: &Lazy, diff_id: Digest) -> Option<GivenLayer> {
        lazy.given.get(diff_id).filter(|given| !self.is_contested(lazy, given))
    }

    fn is_contested(&self, lazy: &Lazy, given: &GivenLayer) -> bool {
        lazy.learnt.lock().is_contested(given.layer.diff_id, given.needs_login, self.clock.now())
    }

    /// Examines the images that name the layer and were pulled lately.
    async fn find(self: &Arc<Self>, lazy: &Lazy, asked: LayerQuestion) -> LayerFound {
        let LayerQuestion { diff_id, until, .. } = asked;
        self.read_configs(lazy).await;
        // An engine may have noted the layer's file, and be about to start a container of an image that was pulled long ago.
        if let Some(given) = self.uncontested(lazy, diff_id)
            && let Some(found) = self.give_whole(lazy, &given).await
        {
            return found;
        }
        // Images that are pulled meanwhile are examined, too, but only a few times.
        for _ in 0..3 {
            let decision = lazy.learnt.lock().decide(diff_id, self.clock.now());
            match decision {
                Decision::Miss(reason) => return LayerFound::Miss(reason),
                Decision::Hit(image) => return self.give(lazy, &image, asked).await,
                Decision::Look(images) => {
                    join_all(images.iter().map(|image| self.look_at(lazy, image, diff_id, until))).await;
                }
            }
        }
        LayerFound::Miss("its images change all the time")
    }

    /// Reads the configurations of images that were pulled lately.
    async fn read_configs(&self, lazy: &Lazy) {
        let _reading = lazy.reading.lock().await;
        let unread = lazy.learnt.lock().unread(self.clock.now());
        let read = unread.into_iter().map(|image| async move {
            let config = tokio::time::timeout(MAX_CONFIG_WAIT, self.config(&image)).await;
            (image, config.unwrap_or_else(|_| Err("it did not come in time".to_owned())))
        });
        // If the client disconnects, the configurations that were read by then are kept, and the next request reads the rest.
        let mut read: FuturesUnordered<_> = read.collect();
        while let Some((image, config)) = read.next().await {
            let (manifest, now) = (image.pull.manifest, self.clock.now());
            let named = config.and_then(|config| {
                let named = claims::diff_ids(&config).ok_or_else(|| "it is not JSON".to_owned())?;
                let layers = image.parts.as_ref().and_then(|parts| parts.paired(&config));
                Ok((layers.unwrap_or_default(), named))
            });
            match named {
                Ok((layers, named)) => {
                    if layers.is_empty() {
                        tracing::debug!(%manifest, "an image has layers that can't be mounted, or no diff ids for them");
                    }
                    lazy.learnt.lock().was_read(image, layers, named, now);
                }
                Err(reason) => {
                    tracing::info!(image = %manifest, scope = ?image.pull.scope, reason, "an image's configuration could not be read: layers that need credentials are not given for a while");
                    lazy.learnt.lock().was_not_read(image, now);
                }
            }
            lazy.watchers.tell();
        }
    }

    async fn config(&self, image: &Unread<How>) -> Result<Vec<u8>, String> {
        let digest = image.config;
        if image.parts.as_ref().and_then(|parts| parts.config_size).is_some_and(|size| size > MAX_CONFIG) {
            return Err("the configuration is too long".to_owned());
        }
        let (headers, awaited) = (HeaderMap::new(), Awaited::default());
        let ask = self.ask_as(&image.pull, &image.how, &headers, &awaited);
        // An engine that has just got it may have pulled with a token that no longer counts.
        let pull = &image.pull;
        let has_got = self.grants.lock().was_given(&pull.scope, pull.caller, digest, self.clock.now()).is_some();
        let has_got = has_got && self.blobs.is_proven(&ask.source(digest)).await;
        if !has_got && !self.may_read(&ask, digest).await {
            return Err("its puller may not read it".to_owned());
        }
        let failed = |error: FetchError| in_full(&error).to_string();
        let blob = self.blobs.open(ask.source(digest), image.how.credentials.clone(), true).await.map_err(failed)?;
        let mut config = Vec::new();
        let mut parts = blob.parts(None);
        while let Some(part) = parts.try_next().await.map_err(failed)? {
            match part {
                Part::Bytes(bytes) => config.extend_from_slice(&bytes),
                Part::File(file) => config.extend(read(file).await.map_err(|error| error.to_string())?),
            }
            if config.len() as u64 > MAX_CONFIG {
                return Err("the configuration is too long".to_owned());
            }
        }
        let mut hasher = digest.hasher();
        hasher.update(&config);
        if hasher.finish() == digest {
            Ok(config)
        } else {
            Err("the configuration does not match its digest".to_owned())
        }
    }

    /// True if the puller of an image may read one of its blobs, by the rules for a client that requests the blob itself.
    async fn may_read(&self, ask: &Ask<'_>, digest: Digest) -> bool {
        let source = ask.source(digest);
        let is_proven = self.blobs.is_proven(&source).await;
        let believed = self.believed(ask, digest);
        if is_proven && believed.is_some() {
            return true;
        }
        // The answer of an untrusted registry does not open content from elsewhere.
        if !is_proven && !ask.upstream.is_trusted() {
            return false;
        }
        let Ok(said) = self.ask_for_blob(ask, digest).await else { return false };
        if !said.shows(believed) || (!is_proven && ask.stale_because().is_some()) {
            return false;
        }
        self.gave(ask, digest, &said);
        if !is_proven {
            self.blobs.proven(&source);
        }
        true
    }

    /// True if the credentials of an image's puller may read one of its layers. Whether an untrusted registry has the layer is checked when
    /// the expanded form is opened: for such a registry it is given only after the registry delivered the layer itself.
    async fn may_open_layer(&self, ask: &Ask<'_>, digest: Digest) -> bool {
        if ask.upstream.is_trusted() {
            return self.may_read(ask, digest).await;
        }
        let believed = self.believed(ask, digest);
        if believed.is_some() {
            return true;
        }
        let Ok(said) = self.ask_for_blob(ask, digest).await else { return false };
        let is_shown = said.shows(believed) && ask.stale_because().is_none();
        if is_shown {
            self.gave(ask, digest, &said);
        }
        is_shown
    }

    /// A request in the form in which an image's puller would make it.
    fn ask_as<'a>(&self, pull: &Pull, how: &How, headers: &'a HeaderMap, awaited: &'a Awaited) -> Ask<'a> {
        Ask {
            headers,
            head: true,
            upstream: how.upstream.clone(),
            scope: pull.scope.clone(),
            repository: how.repository.clone(),
            named: how.named.clone(),
            asked_name: how.repository.clone(),
            naming: Naming::Default,
            query: String::new(),
            credentials: how.credentials.clone(),
            caller: pull.caller,
            outlet: Outlet::default(),
            said: Mutex::default(),
            awaited,
            until: self.waits.answer(),
        }
    }
}

/// A request for a layer.
#[derive(Clone, Copy, Debug)]
struct LayerQuestion {
    diff_id: Digest,
    beside: Beside,
    /// True if only a pull can be the reason. The directory's names are looked up for pulls and for containers alike.
    is_pull: bool,
    until: Moment,
}

/// For how many layers the mountable files are remembered: some hundred bytes each.
const MAX_LAYERS: u64 = 20_000;

/// How much of a request's time is reserved for the answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);

/// How long to wait for an image's configuration. Meanwhile no layer is answered for.
const MAX_CONFIG_WAIT: Duration = Duration::from_secs(10);

fn request(how: &How, repository: &str, (layer, diff_id): &(LayerPart, Digest)) -> LayerRequest {
    LayerRequest {
        registry: how.upstream.name().to_owned(),
        repository: repository.to_owned(),
        digest: layer.digest,
        size: layer.size,
        media_type: Some(layer.media_type.clone()),
        diff_id: *diff_id,
    }
}

async fn read(part: PieceFile) -> io::Result<Vec<u8>> {
    threads::run(move || {
        let length = usize::try_from(part.range.len().min(MAX_CONFIG + 1)).unwrap_or_default();
        let mut bytes = vec![0; length];
        part.file.read_exact_at(&mut bytes, part.range.start())?;
        Ok(bytes)
    })
    .await
}
