//! Which layers diff ids belong to, learnt from the manifests and configurations of images that are pulled through the mirror; and the verdicts
//! on these images, reached when a client wanted to mount them.
//!
//! A request has a diff id and does not name an image, so an answer has to be right for the pullers of all images that name the diff id. Anybody can write a
//! configuration: that it names a diff id for a layer is only a *claim*. A claim is good if the layer was opened for
//! the puller of the image, and its tar has that diff id. While a claim is doubtful and its image was pulled in the last [`RECENT`], the diff id is
//! answered to nobody: the client may be the puller of that image, who may have no right to the layer.
//!
//! Invariants: a layer is answered for only if all layers below it can be mounted, too. A verdict counts for a limited time, as registries' answers about access do, and a new
//! pull of an unfit image has it judged again. Both tables are bounded: what is forgotten is answered with a miss.
//!
//! Pure: time is an argument. `lazy` asks registries and expands layers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::{Digest, Moment};
use darter_oci::image::{ImageParts, LayerPart, chain_ids};

use super::grants::{Fingerprint, Scope};

/// How many layers are remembered, of all images together: some hundred bytes each.
const MAX_LAYERS: u64 = 20_000;

/// How many images of one diff id are examined: the latest ones.
const MAX_CLAIMS: usize = 16;

/// How long after a pull the puller may still be about to request the image's layers.
pub(crate) const RECENT: Duration = Duration::from_secs(600);

/// How many images are remembered whose configurations were not needed yet: the latest ones.
const MAX_UNREAD: u64 = 64;

/// One puller's image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pull {
    pub(crate) scope: Scope,
    pub(crate) manifest: Digest,
    pub(crate) caller: Fingerprint,
}

/// An image that was pulled, with everything needed to read its layers as its puller would.
#[derive(Clone, Debug)]
pub(crate) struct Pulled<H> {
    pub(crate) pull: Pull,
    pub(crate) how: H,
    /// The lowest first.
    pub(crate) layers: Vec<(LayerPart, Digest)>,
}

/// An image whose manifest passed, and whose configuration has not been read.
#[derive(Clone, Debug)]
pub(crate) struct Unread<H> {
    pub(crate) pull: Pull,
    pub(crate) how: H,
    pub(crate) parts: ImageParts,
}

/// The verdict on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is still being examined: so far its puller can mount its lowest layers.
    Rising,
    /// Its puller can mount all of its layers.
    Fit,
    /// Its puller may read the layers, but not all of them can be mounted, or not soon enough: at most the lowest.
    Unfit,
    /// Its puller may not read all of its layers.
    Refused,
}

/// The answer to a request for a diff id, or the next step towards it.
#[derive(Debug)]
pub(crate) enum Decision<H> {
    /// These images have to be examined first.
    Look(Vec<Arc<Pulled<H>>>),
    /// The layer belongs to this image.
    Hit(Arc<Pulled<H>>),
    /// The request is refused, for this reason.
    Miss(&'static str),
}

#[derive(Debug)]
struct Known<H> {
    image: Arc<Pulled<H>>,
    /// When it was last pulled.
    at: Moment,
    verdict: Option<(Verdict, Moment)>,
    /// Diff ids whose layers were opened for its puller and turned out to have these diff ids.
    shown: Vec<Digest>,
    /// Those of them that can be mounted whatever the layers above are: the lowest ones.
    risen: Vec<Digest>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Learnt<H> {
    /// How long a verdict counts.
    ttl: Duration,
    unread: Recent<Pull, (Unread<H>, Moment)>,
    images: Recent<Pull, Known<H>>,
    /// The images that name a diff id, the one that was pulled last at the end.
    named: HashMap<Digest, Vec<Pull>>,
    /// The number of claims for all diff ids: one for each login with which an image is pulled.
    claims: usize,
    /// The diff id of the uppermost layer of each chain.
    chains: HashMap<Digest, Digest>,
}

impl<H: Clone> Learnt<H> {
    /// Empty tables; verdicts count for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            unread: Recent::new(MAX_UNREAD),
            images: Recent::new(MAX_LAYERS),
            named: HashMap::new(),
            claims: 0,
            chains: HashMap::new(),
        }
    }

    /// Notes that an image's manifest passes, because the image is being pulled. Its configuration is read when a client requests a diff id.
    pub(crate) fn seen(&mut self, image: Unread<H>, now: Moment) {
        if let Some(known) = self.images.get_mut(&image.pull) {
            let again = Pulled::clone(&known.image);
            return self.pulled(again, now);
        }
        self.unread.insert(image.pull.clone(), (image, now), 1);
    }

    /// The images whose configurations have to be read now, because their pullers may be about to request their layers. Each is returned until
    /// [`was_read`](Self::was_read).
    pub(crate) fn unread(&mut self, now: Moment) -> Vec<Unread<H>> {
        let pulls: Vec<_> = self.unread.keys().cloned().collect();
        let mut unread = Vec::new();
        for pull in pulls {
            match self.unread.get(&pull) {
                Some((image, at)) if now.since(*at) < RECENT => unread.push(image.clone()),
                _ => drop(self.unread.remove(&pull)),
            }
        }
        unread
    }

    /// Notes that an image's configuration was read, or can't be.
    pub(crate) fn was_read(&mut self, pull: &Pull) {
        self.unread.remove(pull);
    }

    /// Notes an image that is being pulled. An image that is pulled again is judged again, unless it was found fit.
    pub(crate) fn pulled(&mut self, image: Pulled<H>, now: Moment) {
        let pull = image.pull.clone();
        let fit = self.images.get(&pull).filter(|known| known.verdict.is_some_and(|(it, _)| it == Verdict::Fit));
        let (verdict, shown) = fit.map(|known| (known.verdict, known.shown.clone())).unwrap_or_default();
        let risen = Vec::new();
        self.forget(&pull);
        for (_, diff_id) in &image.layers {
            let named = self.named.entry(*diff_id).or_default();
            // An image may contain a layer twice.
            if named.last() != Some(&pull) {
                named.push(pull.clone());
                self.claims += 1;
            }
        }
        let diff_ids: Vec<_> = image.layers.iter().map(|(_, diff_id)| *diff_id).collect();
        self.chains.extend(chain_ids(&diff_ids).into_iter().zip(diff_ids));
        let weight = image.layers.len() as u64;
        self.images.insert(pull, Known { image: Arc::new(image), at: now, verdict, shown, risen }, weight);
        if self.named.len().max(self.claims).max(self.chains.len()) as u64 > 2 * MAX_LAYERS {
            self.prune();
        }
    }

    /// Notes the verdict on an image, with the diff ids whose layers were opened for its puller. Does nothing if the image is no longer
    /// remembered.
    pub(crate) fn judged(&mut self, pull: &Pull, verdict: Verdict, shown: Vec<Digest>, now: Moment) {
        if let Some(known) = self.images.get_mut(pull) {
            (known.verdict, known.shown) = (Some((verdict, now)), shown);
        }
    }

    /// Notes the lowest layers of an image that is being examined: its puller can mount these. Does nothing if the image is no longer remembered.
    pub(crate) fn rises(&mut self, pull: &Pull, risen: Vec<Digest>, now: Moment) {
        if let Some(known) = self.images.get_mut(pull) {
            (known.verdict, known.shown, known.risen) = (Some((Verdict::Rising, now)), risen.clone(), risen);
        }
    }

    /// Renews the last verdict on an image, because its registry does not answer. False if there is none.
    pub(crate) fn stands(&mut self, pull: &Pull, now: Moment) -> bool {
        let verdict = self.images.get_mut(pull).and_then(|known| known.verdict.as_mut());
        let settled = verdict.filter(|(verdict, _)| *verdict != Verdict::Rising);
        settled.map(|(_, at)| *at = now).is_some()
    }

    /// The verdict on an image, unless it has expired.
    fn verdict(&mut self, pull: &Pull, now: Moment) -> Option<Verdict> {
        let ttl = self.ttl;
        self.images.get(pull)?.verdict.filter(|(_, at)| now.since(*at) < ttl).map(|(verdict, _)| verdict)
    }

    /// True if an image's examination has ended with a verdict that has not expired.
    pub(crate) fn is_settled(&mut self, pull: &Pull, now: Moment) -> bool {
        self.verdict(pull, now).is_some_and(|verdict| verdict != Verdict::Rising)
    }

    /// True if enough is known of an image to decide about a request for this diff id.
    pub(crate) fn is_known_of(&mut self, pull: &Pull, diff_id: Digest, now: Moment) -> bool {
        let has_risen = self.images.peek(pull).is_some_and(|known| known.risen.contains(&diff_id));
        self.is_settled(pull, now) || (has_risen && self.verdict(pull, now).is_some())
    }

    /// True if an image that names this diff id was pulled lately and was not found to have it.
    pub(crate) fn is_contested(&self, diff_id: Digest, now: Moment) -> bool {
        let pulls = self.named.get(&diff_id).into_iter().flatten();
        let mut known = pulls.filter_map(|pull| self.images.peek(pull));
        known.any(|known| now.since(known.at) < RECENT && !known.shown.contains(&diff_id))
    }

    /// The diff id of the uppermost of the layers with this chain id. The chain id of a lowest layer is its diff id.
    pub(crate) fn uppermost(&self, chain: Digest) -> Digest {
        self.chains.get(&chain).copied().unwrap_or(chain)
    }

    /// Decides about a request for a diff id.
    pub(crate) fn decide(&mut self, diff_id: Digest, now: Moment) -> Decision<H> {
        let pulls: Vec<Pull> = self.named.get(&diff_id).into_iter().flatten().rev().take(MAX_CLAIMS).cloned().collect();
        if pulls.is_empty() {
            return Decision::Miss("no image that was pulled through here names it");
        }
        let (mut unseen, mut hit, mut doubted) = (Vec::new(), None, false);
        for pull in pulls {
            let verdict = self.verdict(&pull, now);
            let Some(known) = self.images.get(&pull) else { continue };
            let (image, at) = (Arc::clone(&known.image), known.at);
            let Some(verdict) = verdict else {
                unseen.push(image);
                continue;
            };
            let (is_good, has_risen) = (known.shown.contains(&diff_id), known.risen.contains(&diff_id));
            if verdict == Verdict::Rising && !has_risen {
                unseen.push(image);
                continue;
            }
            doubted |= !is_good && now.since(at) < RECENT;
            if (has_risen || is_good && verdict == Verdict::Fit) && hit.is_none() {
                hit = Some(image);
            }
        }
        match hit {
            _ if !unseen.is_empty() => Decision::Look(unseen),
            _ if doubted => Decision::Miss("an image names it that was not found to have it"),
            Some(image) => Decision::Hit(image),
            None => Decision::Miss("it, or a layer below it in its image, can't be mounted"),
        }
    }

    /// The image through which a layer is given, if that is known without reading configurations and examining images.
    pub(crate) fn settled(&mut self, diff_id: Digest, now: Moment) -> Option<Arc<Pulled<H>>> {
        if !self.unread(now).is_empty() {
            return None;
        }
        match self.decide(diff_id, now) {
            Decision::Hit(image) => Some(image),
            Decision::Look(_) | Decision::Miss(_) => None,
        }
    }

    fn forget(&mut self, pull: &Pull) {
        let Some(known) = self.images.remove(pull) else { return };
        for (_, diff_id) in &known.image.layers {
            if let Some(pulls) = self.named.get_mut(diff_id) {
                let before = pulls.len();
                pulls.retain(|other| other != pull);
                self.claims -= before - pulls.len();
            }
        }
    }

    /// Removes what belonged to images that are forgotten.
    fn prune(&mut self) {
        let images = &self.images;
        self.named.retain(|_, pulls| {
            pulls.retain(|pull| images.peek(pull).is_some());
            !pulls.is_empty()
        });
        self.claims = self.named.values().map(Vec::len).sum();
        // A chain id always has the same diff id, so the chains of the remembered images are enough.
        let known = images.keys().filter_map(|pull| images.peek(pull)).flat_map(|known| {
            let diff_ids: Vec<_> = known.image.layers.iter().map(|(_, diff_id)| *diff_id).collect();
            chain_ids(&diff_ids).into_iter().zip(diff_ids)
        });
        self.chains = known.collect();
    }
}

#[cfg(test)]
#[path = "learnt/tests.rs"]
mod tests;
