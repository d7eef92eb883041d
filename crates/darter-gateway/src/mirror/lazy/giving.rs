//! Gives layers that belong to an examined image, or that were given before.
//!
//! Invariants: a layer in an answer is complete here, or open; a layer is given with the credentials of the image through which it is answered.

use darter_agent::AtHand;
use darter_api::LayerRequest;
use darter_core::source::Credentials;
use darter_core::{Digest, Moment, in_full};
use darter_oci::image::LayerPart;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{ANSWER_MARGIN, Beside, FoundLayer, How, LayerFound, LayerQuestion, Lazy, Mirror, request};
use crate::mirror::blobs::Mountable;
use crate::mirror::given::GivenLayer;
use crate::mirror::learnt::{Decision, Pulled};

impl Mirror {
    /// Gives a layer of an image, and the image's other layers with it if they were requested.
    pub(super) async fn give(&self, lazy: &Lazy, image: &Pulled<How>, asked: LayerQuestion) -> LayerFound {
        let LayerQuestion { diff_id, beside, until, .. } = asked;
        let how = &image.how;
        let Some(layer) = image.layers.iter().find(|(_, its)| *its == diff_id) else {
            return LayerFound::Miss("its image does not name it");
        };
        let mut layers = vec![layer];
        if beside == Beside::All {
            for other in &image.layers {
                if !layers.iter().any(|(_, known)| *known == other.1) {
                    layers.push(other);
                }
            }
        }
        let known = layers.into_iter().filter_map(|layer| Some((layer, *lazy.mountable.lock().get(&layer.1)?)));
        let known = known.collect();
        let mut layers = self.still_to_be_had(lazy, known).await;
        if layers.first().is_none_or(|((_, first), _)| *first != diff_id) {
            let within = until.since(self.clock.now());
            let request = request(how, &how.repository, layer);
            match lazy.layers.expanded(&request, how.credentials.clone(), within).await {
                Ok(mountable) => {
                    lazy.mountable.lock().insert(diff_id, mountable, 1);
                    layers.insert(0, (layer, mountable));
                }
                Err(error) => {
                    tracing::warn!(%diff_id, error = %in_full(&error), "a layer that could be mounted can't be had now");
                    return LayerFound::Miss("it can't be had now");
                }
            }
        }
        let now = self.clock.now();
        let given: Vec<_> = {
            let mut learnt = lazy.learnt.lock();
            // A layer that is answered through another image is given with that image's credentials, when it is requested itself.
            layers.retain(|((_, other), _)| {
                let decision = learnt.decide(*other, now);
                *other == diff_id || matches!(decision, Decision::Hit(hit) if hit.pull == image.pull)
            });
            let mut logins = lazy.logins.lock();
            let given = layers.into_iter().map(|(layer, mountable)| {
                logins.given(layer.1, how.credentials.clone(), now);
                (request(how, &how.named, layer), mountable)
            });
            given.collect()
        };
        self.note(lazy, given, how.credentials.clone(), !how.credentials.headers.is_empty()).await
    }

    /// The `layers` that are open or complete here. Other layers are opened again when they are requested; a client that was told of such a layer asks again.
    async fn still_to_be_had<'a>(
        &self,
        lazy: &Lazy,
        layers: Vec<(&'a (LayerPart, Digest), Mountable)>,
    ) -> Vec<(&'a (LayerPart, Digest), Mountable)> {
        let ready = lazy.layers.are_ready(layers.iter().map(|(_, mountable)| mountable.blob).collect()).await;
        let (mut kept, mut are_gone) = (Vec::new(), false);
        for ((layer, mountable), is_ready) in layers.into_iter().zip(ready) {
            if is_ready {
                kept.push((layer, mountable));
            } else {
                are_gone |= lazy.mountable.lock().remove(&layer.1).is_some();
            }
        }
        if are_gone {
            lazy.watchers.tell();
        }
        kept
    }

    /// Gives a layer that is in use and complete here.
    pub(super) async fn give_whole(&self, lazy: &Lazy, given: &GivenLayer) -> Option<LayerFound> {
        let GivenLayer { layer, blob, length, needs_login, .. } = given;
        lazy.layers.at_hand(vec![*blob]).await.pop()?.file?;
        let credentials = lazy.logins.lock().last(&layer.diff_id).unwrap_or_default();
        let mountable = Mountable { blob: *blob, length: *length };
        let found = self.note(lazy, vec![(layer.clone(), mountable)], credentials, *needs_login).await;
        matches!(&found, LayerFound::Found(found) if found.file.is_some()).then_some(found)
    }

    /// Gives a layer that is in use with the credentials of the last time, if it can still be had.
    pub(super) async fn give_again(&self, lazy: &Lazy, given: GivenLayer, until: Moment) -> LayerFound {
        let layer = given.layer;
        let credentials = match lazy.logins.lock().last(&layer.diff_id) {
            Some(credentials) => credentials,
            None if given.needs_login => {
                return LayerFound::Miss("the credentials that it was pulled with are not known any more");
            }
            None => Credentials::default(),
        };
        let within = until.since(self.clock.now()).saturating_sub(ANSWER_MARGIN.min(lazy.wait / 4));
        let repository = self.rewrites.apply(&layer.registry, layer.repository.clone());
        let at_registry = LayerRequest { repository, ..layer.clone() };
        match lazy.layers.expanded(&at_registry, credentials.clone(), within).await {
            Ok(mountable) => self.note(lazy, vec![(layer, mountable)], credentials, given.needs_login).await,
            Err(error) => {
                tracing::warn!(diff_id = %layer.diff_id, error = %in_full(&error), "a layer that an engine mounts can't be had now");
                LayerFound::Miss("it can't be had now")
            }
        }
    }

    /// Notes that layers are given, and answers with them: the first one, and the others beside it.
    async fn note(
        &self,
        lazy: &Lazy,
        given: Vec<(LayerRequest, Mountable)>,
        credentials: Credentials,
        needs_login: bool,
    ) -> LayerFound {
        let at_hand = lazy.given.give(&given, needs_login, &*lazy.layers, self.clock.unix()).await;
        let found = |((layer, Mountable { length, .. }), AtHand { held, file })| FoundLayer {
            layer,
            credentials: credentials.clone(),
            length,
            held,
            file,
            beside: Vec::new(),
        };
        let mut found = given.into_iter().zip(at_hand).map(found);
        let Some(first) = found.next() else {
            return LayerFound::Miss("too many layers are kept for this host's engines");
        };
        LayerFound::Found(Box::new(FoundLayer { beside: found.collect(), ..first }))
    }

    /// True if a program may open a layer with these credentials: an answer has just contained the layer with the same credentials, or the program may have everything that this host's engines use
    /// (`is_trusted`).
    pub(crate) fn may_open(&self, layer: &LayerRequest, credentials: &Credentials, is_trusted: bool) -> bool {
        let Some(lazy) = &self.lazy else { return false };
        let with_same = || lazy.logins.lock().are_good(&layer.diff_id, credentials, self.clock.now());
        lazy.given.has(layer) && (is_trusted || with_same())
    }

    /// Notes that a layer that was given is opened: it is in use from now on. The returned future writes that down; nothing needs to wait for it.
    pub(crate) fn layer_opened(&self, diff_id: Digest) -> BoxFuture<'static, ()> {
        match &self.lazy {
            Some(lazy) => lazy.given.opened(diff_id).boxed(),
            None => std::future::ready(()).boxed(),
        }
    }
}
