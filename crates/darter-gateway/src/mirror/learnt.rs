//! Which layers diff ids belong to, learnt from the manifests and configurations of images that are pulled through the mirror; and the verdicts
//! on these images, reached when a client wanted to mount them.
//!
//! A request has a diff id and does not name an image, so an answer has to be right for the pullers of all images that name the diff id. Anybody can write a
//! configuration: that it names a diff id for a layer is only a *claim*. A claim is good if the layer was opened for
//! the puller of the image, and its tar has that diff id. While a claim is doubtful and its image was pulled in the last [`RECENT`], the diff id is
//! answered to nobody: the client may be the puller of that image, who may have no right to the layer.
//!
//! Everything that an engine would unpack makes claims, in whatever way it is [written](darter_oci::claims), and whether or not it can be mounted. An image whose
//! claims can't be learnt, or were forgotten, may claim anything. Claims of these two kinds are never examined: for [`RECENT`], layers that need
//! credentials are not answered if such an image may name them. (Anybody may read the others.)
//!
//! Invariants: a layer is answered for only if all layers below it can be mounted, too. A verdict counts for a limited time, as registries' answers about access do, and a new
//! pull of an unfit image has it judged again. All tables are bounded. An image that is forgotten is answered with a miss; if it was pulled
//! lately, it may claim anything.
//!
//! Pure: time is an argument. `lazy` asks registries and expands layers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::source::Credentials;
use darter_core::{Digest, Moment};
use darter_oci::image::{ImageParts, LayerPart, chain_ids};

use super::grants::{Fingerprint, Scope};

/// How many layers are remembered, of all images together: some hundred bytes each.
const MAX_LAYERS: u64 = 20_000;

/// How many images of one diff id are examined at a time: the latest ones first.
const MAX_CLAIMS: usize = 16;

/// How long after a pull the puller may still be about to request the image's layers.
pub(crate) const RECENT: Duration = Duration::from_secs(600);

/// How many images are remembered whose configurations were not needed yet: the latest ones. The others may claim anything.
const MAX_UNREAD: u64 = 64;

/// The most diff ids of an image that are remembered. One with more may claim anything.
const MAX_NAMED: usize = 2048;

/// How many images are remembered that may claim anything, in order to learn their claims when they are pulled again.
const MAX_UNCLEAR: u64 = 256;

/// The reason for not giving a layer that an image may claim whose claims are not examined.
const WITHHELD: &str = "it needs credentials, and an image that was pulled lately may name it without a right to it";

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
    /// The lowest first. None if they can't be mounted.
    pub(crate) layers: Vec<(LayerPart, Digest)>,
    /// Diff ids that an engine may take from its configuration besides.
    pub(crate) claimed: Vec<Digest>,
}

/// An image whose manifest passed, and whose configuration has not been read.
#[derive(Clone, Debug)]
pub(crate) struct Unread<H> {
    pub(crate) pull: Pull,
    pub(crate) how: H,
    pub(crate) config: Digest,
    /// Its layers, if they can be mounted.
    pub(crate) parts: Option<ImageParts>,
}

impl Pull {
    /// True if the image was pulled with credentials.
    fn needs_login(&self) -> bool {
        self.caller != Credentials::none().fingerprint()
    }
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
    /// Images that may claim anything, with the time of their latest pull.
    unclear: Recent<Pull, Moment>,
    /// When the latest image was pulled whose claims were forgotten.
    forgotten: Option<Moment>,
    /// When a diff id was last claimed by an image that has no such layer that can be mounted.
    claimed: Recent<Digest, Moment>,
    /// The diff ids that configurations may name.
    configs: Recent<Digest, Vec<Digest>>,
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
            unclear: Recent::new(MAX_UNCLEAR),
            forgotten: None,
            claimed: Recent::new(MAX_LAYERS),
            configs: Recent::new(MAX_LAYERS),
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
        for (pull, (_, at)) in self.unread.replace(image.pull.clone(), (image, now), 1) {
            self.unclear(pull, at);
        }
    }

    /// Notes that an image was pulled at `at` that may claim anything.
    pub(crate) fn unclear(&mut self, pull: Pull, at: Moment) {
        for (_, at) in self.unclear.replace(pull, at, 1) {
            self.forgot(at);
        }
    }

    /// Notes that the claims of an image were forgotten that was pulled at `at`.
    fn forgot(&mut self, at: Moment) {
        self.forgotten = self.forgotten.max(Some(at));
    }

    /// The images whose configurations have to be read now, because their pullers may be about to request their layers. Each is returned until
    /// [`was_read`](Self::was_read) or [`was_not_read`](Self::was_not_read).
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

    /// Notes that an image's configuration was read, and has these diff ids for its `layers`. An engine may take any of `named` from it.
    pub(crate) fn was_read(
        &mut self,
        image: Unread<H>,
        layers: Vec<(LayerPart, Digest)>,
        named: Vec<Digest>,
        now: Moment,
    ) {
        if layers.len() + named.len() > MAX_NAMED {
            self.unread.remove(&image.pull);
            return self.unclear(image.pull, now);
        }
        let weight = named.len() as u64 + 1;
        self.configs.insert(image.config, named.clone(), weight);
        self.is_known(image, layers, named, now);
    }

    /// Notes that an image's configuration can't be read. Unless another image has the same one, this image may claim anything.
    pub(crate) fn was_not_read(&mut self, image: Unread<H>, now: Moment) {
        if let Some(named) = self.configs.get(&image.config).cloned() {
            return self.is_known(image, Vec::new(), named, now);
        }
        let at = self.unread.remove(&image.pull).map_or(now, |(_, at)| at);
        self.unclear(image.pull, at);
    }

    fn is_known(&mut self, image: Unread<H>, layers: Vec<(LayerPart, Digest)>, mut named: Vec<Digest>, now: Moment) {
        let Unread { pull, how, .. } = image;
        self.unread.remove(&pull);
        let mountable: HashSet<_> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
        named.retain(|diff_id| !mountable.contains(diff_id));
        self.pulled(Pulled { pull, how, layers, claimed: named }, now);
    }

    /// Notes an image that is being pulled. An image that is pulled again is judged again, unless it was found fit.
    pub(crate) fn pulled(&mut self, image: Pulled<H>, now: Moment) {
        let pull = image.pull.clone();
        self.unclear.remove(&pull);
        for diff_id in &image.claimed {
            for (_, at) in self.claimed.replace(*diff_id, now, 1) {
                self.forgot(at);
            }
        }
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
        let weight = (image.layers.len() + image.claimed.len()).max(1) as u64;
        let known = Known { image: Arc::new(image), at: now, verdict, shown, risen };
        for (_, forgotten) in self.images.replace(pull, known, weight) {
            self.forgot(forgotten.at);
        }
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

    /// True if an image that was pulled lately may name this diff id, and is not examined.
    fn is_withheld(&self, diff_id: Digest, now: Moment) -> bool {
        let unclear = self.unclear.keys().filter_map(|pull| self.unclear.peek(pull));
        let mut claims = unclear.chain(self.forgotten.iter()).chain(self.claimed.peek(&diff_id));
        claims.any(|at| now.since(*at) < RECENT)
    }

    /// True if an image that names this diff id was pulled lately and was not found to have it; or, of a layer that `needs_login`, if one may name it.
    pub(crate) fn is_contested(&self, diff_id: Digest, needs_login: bool, now: Moment) -> bool {
        if needs_login && self.is_withheld(diff_id, now) {
            return true;
        }
        let pulls = self.named.get(&diff_id).into_iter().flatten();
        let mut known = pulls.filter_map(|pull| self.images.peek(pull));
        known.any(|known| now.since(known.at) < RECENT && !known.shown.contains(&diff_id))
    }

    /// The diff id of the uppermost of the layers with this chain id. The chain id of a lowest layer is its diff id.
    pub(crate) fn uppermost(&self, chain: Digest) -> Digest {
        self.chains.get(&chain).copied().unwrap_or(chain)
    }

    /// The pulls whose claims to a diff id count, the latest first: the latest ones, and those before that were made lately and were not found to be good. If
    /// several pulled the same image from the same repository, all but the latest few of them count as one, since a registry authorises by repository.
    fn claims(&self, diff_id: Digest, now: Moment) -> Vec<Pull> {
        let (mut claims, mut images) = (Vec::new(), HashSet::new());
        for pull in self.named.get(&diff_id).into_iter().flatten().rev() {
            let Some(known) = self.images.peek(pull) else { continue };
            if claims.len() >= MAX_CLAIMS {
                if now.since(known.at) >= RECENT {
                    break;
                }
                if known.shown.contains(&diff_id) || images.contains(&(&pull.scope, pull.manifest)) {
                    continue;
                }
            }
            images.insert((&pull.scope, pull.manifest));
            claims.push(pull.clone());
        }
        claims
    }

    /// Decides about a request for a diff id.
    pub(crate) fn decide(&mut self, diff_id: Digest, now: Moment) -> Decision<H> {
        let pulls = self.claims(diff_id, now);
        if pulls.is_empty() {
            return Decision::Miss("no image that was pulled through here names it");
        }
        let is_withheld = self.is_withheld(diff_id, now);
        if is_withheld && pulls.iter().all(Pull::needs_login) {
            return Decision::Miss(WITHHELD);
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
            let is_open = !is_withheld || !pull.needs_login();
            if (has_risen || is_good && verdict == Verdict::Fit) && is_open && hit.is_none() {
                hit = Some(image);
            }
        }
        unseen.truncate(MAX_CLAIMS);
        match hit {
            _ if !unseen.is_empty() => Decision::Look(unseen),
            _ if doubted => Decision::Miss("an image names it that was not found to have it"),
            Some(image) => Decision::Hit(image),
            None if is_withheld => Decision::Miss(WITHHELD),
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
