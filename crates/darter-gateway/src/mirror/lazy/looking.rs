//! Examines images: may their pullers read their layers, and can all of these be mounted?
//!
//! An engine asks for one layer after the other, the lowest first, and has some work with each. At a fleet's first pull, layers become known one after the other, too, and the
//! lower ones are given while the upper ones are still being read: so the engine's work is done by the time the last layer is here. If one of those turns out not to be mountable, the
//! engine downloads the layers from there on, and keeps those that it has. What every mount reads of the layers that are open is fetched meanwhile, too, whichever they are: most of a layer is given to members only
//! when its lead has all of it, and one layer may come much more slowly than those above it.
//!
//! Invariants: an image is examined once at a time, whoever waits for it. A layer is given early only if all layers below it are open, and none of them nor itself has a directory
//! that would [differ](darter_agent::Agent::misfit) from the unpacked one, according to the leads that made them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use darter_agent::{FetchError, Misfit, MountRoom};
use darter_core::{Blamed as _, BlobId, Digest, Moment, Retry, in_full};
use darter_oci::image::LayerPart;
use futures_util::StreamExt as _;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{ANSWER_MARGIN, How, Lazy, Mirror, request};
use crate::mirror::blobs::Mountable;
use crate::mirror::learnt::{Pull, Pulled, Verdict};
use crate::mirror::{Ask, Awaited};

/// The images that are being examined, each with a receiver that is notified when more of its layers are known, and closed at the end.
#[derive(Default)]
pub(super) struct Looking(Mutex<HashMap<Pull, watch::Receiver<()>>>);

/// What was found out about the layers of an image.
#[derive(Default)]
struct Findings {
    is_unfit: bool,
    /// The diff ids of the layers that were opened.
    shown: Vec<Digest>,
    /// Those of the lowest of them, which are given whatever is found out about the others.
    risen: Vec<Digest>,
    mountable: HashMap<Digest, Mountable>,
}

/// The layers of an image that are open, and of which nothing is fetched yet.
struct Unfetched {
    /// By their place in the image.
    layers: BTreeMap<usize, BlobId>,
    /// All that were ever added: an image may have a layer twice.
    added: HashSet<BlobId>,
    room: MountRoom,
}

impl Findings {
    /// Takes in whether a layer could be opened; those below it are known. Returns its blob if it may be given before those above it are known.
    fn take_in(
        &mut self,
        lazy: &Lazy,
        layer: &LayerPart,
        diff_id: Digest,
        opened: Result<Mountable, FetchError>,
    ) -> Option<BlobId> {
        match opened {
            Ok(mountable) => {
                lazy.mountable.lock().insert(diff_id, mountable, 1);
                self.shown.push(diff_id);
                self.mountable.insert(diff_id, mountable);
                (!self.is_unfit).then_some(mountable.blob)
            }
            Err(error) => {
                let is_final = error.blame().retry == Retry::Never;
                let (digest, error) = (layer.digest, in_full(&error));
                tracing::info!(layer = %digest, %diff_id, is_final, %error, "a layer can't be mounted, or not soon enough");
                self.is_unfit = true;
                None
            }
        }
    }
}

impl Unfetched {
    fn of_image() -> Self {
        Self { layers: BTreeMap::new(), added: HashSet::new(), room: MountRoom::for_image() }
    }

    fn add(&mut self, at: usize, blob: BlobId) {
        if self.added.insert(blob) {
            self.layers.insert(at, blob);
        }
    }

    fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Fetches what every mount reads of them, the uppermost first, as engines mount them.
    fn fetch(&mut self, lazy: &Lazy) {
        let blobs: Vec<BlobId> = std::mem::take(&mut self.layers).into_values().rev().collect();
        lazy.layers.fetch_for_mount(&blobs, &mut self.room);
    }
}

impl Looking {
    /// A receiver of an image's examination, and the sender if it has yet to begin.
    fn at(&self, pull: &Pull) -> (watch::Receiver<()>, Option<watch::Sender<()>>) {
        let mut looking = self.0.lock();
        // Those whose sender is gone have ended.
        looking.retain(|_, news| news.has_changed().is_ok());
        if let Some(news) = looking.get(pull) {
            return (news.clone(), None);
        }
        let (tell, news) = watch::channel(());
        looking.insert(pull.clone(), news.clone());
        (news, Some(tell))
    }
}

impl Mirror {
    /// Waits until an image was examined, or enough is known of it for a request for this diff id.
    pub(super) async fn look_at(
        self: &Arc<Self>,
        lazy: &Lazy,
        image: &Arc<Pulled<How>>,
        diff_id: Digest,
        until: Moment,
    ) {
        let (mut news, begins) = lazy.looking.at(&image.pull);
        if let Some(tell) = begins {
            let (mirror, image) = (Arc::clone(self), Arc::clone(image));
            // The requests that wait may all be answered before the end.
            tokio::spawn(async move { mirror.examine(&image, until, &tell).await });
        }
        while !lazy.learnt.lock().is_known_of(&image.pull, diff_id, self.clock.now()) && news.changed().await.is_ok() {}
    }

    async fn examine(&self, image: &Pulled<How>, until: Moment, tell: &watch::Sender<()>) {
        let Some(lazy) = &self.lazy else { return };
        if lazy.learnt.lock().is_settled(&image.pull, self.clock.now()) {
            return;
        }
        let Some((verdict, found)) = self.judge(lazy, image, until, tell).await else { return };
        let (manifest, scope) = (image.pull.manifest, &image.pull.scope);
        tracing::info!(image = %manifest, ?scope, layers = image.layers.len(), ?verdict, "looked whether an image can be mounted");
        {
            let mut learnt = lazy.learnt.lock();
            // It may have been pulled again meanwhile.
            learnt.rises(&image.pull, found.risen, self.clock.now());
            learnt.judged(&image.pull, verdict, found.shown, self.clock.now());
        }
        if verdict != Verdict::Fit {
            lazy.watchers.tell();
        }
    }

    /// The verdict on an image; `None` if the earlier verdict stands.
    async fn judge(
        &self,
        lazy: &Lazy,
        image: &Pulled<How>,
        until: Moment,
        tell: &watch::Sender<()>,
    ) -> Option<(Verdict, Findings)> {
        let (headers, awaited) = (HeaderMap::new(), Awaited::default());
        let ask = self.ask_as(&image.pull, &image.how, &headers, &awaited);
        if self.believed(&ask, image.layers[0].0.digest).is_none() {
            // One request to the registry covers all layers, and its answer is noted.
            let manifest = image.pull.manifest;
            match self.head_manifest(&ask, &manifest.to_string(), Some(manifest)).await {
                Ok(_) => {}
                // The registry does not answer: the last verdict counts, as for other content.
                Err(problem) if problem.is_trouble() && lazy.learnt.lock().stands(&image.pull, self.clock.now()) => {
                    return None;
                }
                Err(_) => return Some((Verdict::Refused, Findings::default())),
            }
        }
        let mut distinct: Vec<&(LayerPart, Digest)> = Vec::new();
        for layer in &image.layers {
            if !distinct.contains(&layer) {
                distinct.push(layer);
            }
        }
        if !self.may_open_all(&ask, &distinct).await {
            return Some((Verdict::Refused, Findings::default()));
        }
        // Leaves some time for the answer.
        let time_left = || until.since(self.clock.now()).saturating_sub(ANSWER_MARGIN.min(lazy.wait / 4));
        let mut found = self.open_all(lazy, image, &distinct, time_left(), tell).await;
        if !found.is_unfit {
            let layers = image.layers.iter().filter_map(|(_, diff_id)| Some(found.mountable.get(diff_id)?.blob));
            let layers: Vec<_> = layers.collect();
            let manifest = image.pull.manifest;
            match lazy.layers.misfit(layers, time_left()).await {
                Ok(None) => {}
                Ok(Some(Misfit { layers, why })) => {
                    tracing::warn!(image = %manifest, why, "an image is downloaded the ordinary way: the mounted image would have another directory than the unpacked one");
                    found.is_unfit = true;
                    // While the puller of an unfit image may ask for its layers, they are not given for another image either.
                    let others = layers.into_iter().filter_map(|layer| image.layers.get(layer));
                    others.for_each(|(_, diff_id)| found.shown.retain(|shown| shown != diff_id));
                }
                Err(error) => {
                    let error = in_full(&error);
                    tracing::info!(image = %manifest, %error, "an image's layers could not be compared soon enough");
                    found.is_unfit = true;
                }
            }
        }
        if !found.is_unfit {
            return Some((Verdict::Fit, found));
        }
        // The engine downloads the other layers, over the same link.
        let others = distinct.iter().map(|(_, diff_id)| *diff_id).filter(|diff_id| !found.risen.contains(diff_id));
        lazy.layers.let_go(&others.collect::<Vec<_>>());
        Some((Verdict::Unfit, found))
    }

    async fn may_open_all(&self, ask: &Ask<'_>, layers: &[&(LayerPart, Digest)]) -> bool {
        for (layer, _) in layers {
            if !self.may_open_layer(ask, layer.digest).await {
                return false;
            }
        }
        true
    }

    /// Opens the layers of an image, given the lowest first and each once. The lowest ones of which everything is known are given from then on.
    async fn open_all(
        &self,
        lazy: &Lazy,
        image: &Pulled<How>,
        layers: &[&(LayerPart, Digest)],
        within: Duration,
        tell: &watch::Sender<()>,
    ) -> Findings {
        let opening = layers.iter().enumerate().map(|(at, layer)| async move {
            let request = request(&image.how, &image.how.repository, layer);
            (at, lazy.layers.expanded(&request, image.how.credentials.clone(), within).await)
        });
        let mut opening: FuturesUnordered<_> = opening.collect();
        // The answers about layers above one that is still being opened.
        let mut answers = BTreeMap::new();
        // Whether nothing of a layer that was opened has to be compared with the layers below, and so all below it are known, too.
        let mut fitting = FuturesOrdered::new();
        let (mut found, mut rises, mut unfetched) = (Findings::default(), true, Unfetched::of_image());
        let mut lowest = layers.iter().enumerate();
        let mut awaited = lowest.next();
        loop {
            tokio::select! {
                biased;
                Some((diff_id, fits)) = fitting.next(), if rises && !fitting.is_empty() => {
                    rises = fits;
                    if rises {
                        found.risen.push(diff_id);
                        lazy.learnt.lock().rises(&image.pull, found.risen.clone(), self.clock.now());
                        tell.send_replace(());
                    }
                    continue;
                }
                opened = opening.next() => match opened {
                    Some((at, opened)) => {
                        if let Ok(mountable) = &opened {
                            unfetched.add(at, mountable.blob);
                        }
                        answers.insert(at, opened);
                    }
                    None => {
                        if !found.is_unfit {
                            unfetched.fetch(lazy);
                        }
                        return found;
                    }
                },
                // Others are still being read: the link to the lead is free meanwhile.
                () = std::future::ready(()), if !unfetched.is_empty() && !found.is_unfit => {
                    unfetched.fetch(lazy);
                    continue;
                }
            }
            while let Some((at, (layer, diff_id))) = awaited
                && let Some(opened) = answers.remove(&at)
            {
                awaited = lowest.next();
                let is_lowest = found.shown.is_empty();
                if let Some(blob) = found.take_in(lazy, layer, *diff_id, opened) {
                    fitting
                        .push_back(async move { (*diff_id, is_lowest || lazy.layers.names_all(blob, within).await) });
                }
            }
        }
    }
}
