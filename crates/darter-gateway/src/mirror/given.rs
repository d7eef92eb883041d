//! Layers that engines may have mounted: which blobs must stay in the store.
//!
//! An engine that was told of a layer's file has noted its path. Once the file is gone, the engine can't run containers of the image, and pulling
//! again does not mend that. So a layer that was given to an engine stays in the store as long as programs ask for it, and for a long time after; each container that starts
//! asks for all of its layers. The list of these layers is a file, so that it outlives the agent.
//!
//! Darter's own snapshotter reports which layers its snapshots name, and the keeper of the directory of layers reports those of containerd's own snapshots. Such a layer stays, and one that is
//! no longer named by either goes when no program has asked for it for [`AFTER_RELEASE`]. If nobody reports again, these layers stay as long as others.
//!
//! A layer that was opened is *in use*: an engine of this host has its image. It is given to every program that asks, since an engine, too, shares its
//! snapshots among all images.
//!
//! Another release may have written the list, or lines of it. Any line that names a blob keeps it in the store; lines that can't be parsed stay as
//! they are.
//!
//! Pure, except that it reads and writes the list as text.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use darter_api::LayerRequest;
use darter_api::layers::Namer;
use darter_core::{BlobId, Digest};
use serde::{Deserialize, Serialize};

/// Most layers in the list; beyond that, no layer is given.
pub(crate) const MAX_GIVEN: usize = 50_000;

/// If a layer was used again within this time, the list is not rewritten for it.
const REFRESH: Duration = Duration::from_secs(3600);

/// How long a layer stays after snapshots no longer name it: other engines of the host may have found it, too.
const AFTER_RELEASE: Duration = Duration::from_secs(24 * 3600);

/// How long after the start of the agent a snapshotter has time to report.
const START: Duration = Duration::from_secs(24 * 3600);

/// The first line of the list.
const MAGIC: &str = "darter-layers-1";

/// A layer that was given to an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GivenLayer {
    pub(crate) layer: LayerRequest,
    /// The blob of its mountable file.
    pub(crate) blob: BlobId,
    /// The length of that file.
    pub(crate) length: u64,
    /// When it was last asked for, in seconds since 1970.
    used: u64,
    /// The value of `used` that was last written down.
    #[serde(skip)]
    saved: u64,
    /// True if it was opened.
    opened: bool,
    /// True if credentials were needed to open it; `None` in lists of older releases.
    #[serde(default)]
    pub(crate) needs_login: bool,
    /// True if snapshots of Darter's snapshotter name it; `None` if none ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    named: Option<bool>,
    /// The same of snapshots of the engine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    named_by_engine: Option<bool>,
}

impl GivenLayer {
    const fn named_by(&mut self, namer: Namer) -> &mut Option<bool> {
        match namer {
            Namer::Snapshotter => &mut self.named,
            Namer::Engine => &mut self.named_by_engine,
        }
    }

    /// True if some snapshots name it, false if none do any more; `None` if none ever did.
    fn is_named(&self) -> Option<bool> {
        [self.named, self.named_by_engine].into_iter().flatten().reduce(|one, other| one || other)
    }
}

/// A line that can't be parsed.
#[derive(Debug)]
struct OtherLine {
    text: String,
    /// The blob that it names, if any.
    blob: Option<BlobId>,
}

impl OtherLine {
    fn new(text: &str) -> Self {
        #[derive(Deserialize)]
        struct BlobLine {
            blob: BlobId,
        }
        let named = serde_json::from_str::<BlobLine>(text).ok();
        Self { text: text.to_owned(), blob: named.map(|named| named.blob) }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Given {
    layers: HashMap<Digest, GivenLayer>,
    others: Vec<OtherLine>,
    changed: bool,
    /// When the layers were first checked after the start.
    since: Option<u64>,
}

impl Given {
    /// The list in `text`, and true if this release may write it: another release's list is not overwritten.
    pub(crate) fn parse(text: &str) -> (Self, bool) {
        let mut lines = text.lines();
        let is_own = lines.next() == Some(MAGIC);
        let mut given = Self::default();
        for line in lines.filter(|line| !line.is_empty()) {
            match serde_json::from_str::<GivenLayer>(line) {
                Ok(layer) if is_own => drop(given.layers.insert(layer.layer.diff_id, layer)),
                _ => given.others.push(OtherLine::new(line)),
            }
        }
        (given, is_own)
    }

    /// True if the list changed since it was last written.
    pub(crate) const fn is_changed(&self) -> bool {
        self.changed
    }

    /// The list as text, if it has changed since it was last written.
    pub(crate) fn take_changed(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut lines: Vec<String> = self.layers.values().filter_map(|it| serde_json::to_string(it).ok()).collect();
        lines.extend(self.others.iter().map(|line| line.text.clone()));
        lines.sort_unstable();
        Some(format!("{MAGIC}\n{}\n", lines.join("\n")))
    }

    /// Notes that the text of the last [`take_changed`](Self::take_changed) could not be written.
    pub(crate) fn not_written(&mut self) {
        self.changed = true;
    }

    /// All blobs that have to stay in the store.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = BlobId> {
        let others = self.others.iter().filter_map(|line| line.blob);
        self.layers.values().map(|given| given.blob).chain(others)
    }

    /// Notes that a layer is given to an engine now; false if it can't be, because the list is full.
    pub(crate) fn give(
        &mut self,
        layer: &LayerRequest,
        (blob, length): (BlobId, u64),
        needs_login: bool,
        now: u64,
    ) -> bool {
        if let Some(given) = self.layers.get_mut(&layer.diff_id) {
            let is_other = given.layer != *layer || given.needs_login != needs_login;
            if is_other || now.saturating_sub(given.saved) >= REFRESH.as_secs() {
                (given.saved, self.changed) = (now, true);
            }
            (given.layer, given.blob, given.length, given.used) = (layer.clone(), blob, length, now);
            given.needs_login = needs_login;
            return true;
        }
        if self.layers.len() >= MAX_GIVEN {
            return false;
        }
        let (layer, used, saved) = (layer.clone(), now, now);
        let diff_id = layer.diff_id;
        let given = GivenLayer {
            layer,
            blob,
            length,
            used,
            saved,
            opened: false,
            needs_login,
            named: None,
            named_by_engine: None,
        };
        self.layers.insert(diff_id, given);
        self.changed = true;
        true
    }

    /// A layer that was given.
    pub(crate) fn get(&self, diff_id: Digest) -> Option<&GivenLayer> {
        self.layers.get(&diff_id)
    }

    /// A layer that is in use.
    pub(crate) fn in_use(&self, diff_id: Digest) -> Option<&GivenLayer> {
        self.layers.get(&diff_id).filter(|given| given.opened)
    }

    /// Notes that a layer is opened, to be mounted.
    pub(crate) fn opened(&mut self, diff_id: Digest) {
        if let Some(given) = self.layers.get_mut(&diff_id) {
            self.changed |= !given.opened;
            given.opened = true;
        }
    }

    /// True if exactly this layer was given.
    pub(crate) fn has(&self, layer: &LayerRequest) -> bool {
        self.layers.get(&layer.diff_id).is_some_and(|given| given.layer == *layer)
    }

    /// Notes the layers that `namer`'s snapshots name. Returns those of them that were never given.
    pub(crate) fn name(&mut self, namer: Namer, named: &HashSet<Digest>, now: u64) -> Vec<Digest> {
        for (diff_id, given) in &mut self.layers {
            let is_named = named.contains(diff_id);
            let before = given.named_by(namer);
            if is_named || before.is_some() {
                self.changed |= *before != Some(is_named);
                *before = Some(is_named);
            }
            if is_named {
                given.used = now;
                if now.saturating_sub(given.saved) >= REFRESH.as_secs() {
                    (given.saved, self.changed) = (now, true);
                }
            }
        }
        named.iter().filter(|diff_id| !self.layers.contains_key(diff_id)).copied().collect()
    }

    /// Removes layers that no program has asked for in this time. Returns the blobs that need not stay in the store for them.
    pub(crate) fn let_go(&mut self, keep: Duration, now: u64) -> Vec<BlobId> {
        let since = *self.since.get_or_insert(now);
        let is_start = now.saturating_sub(since) < START.as_secs();
        let is_over = |given: &GivenLayer| match given.is_named() {
            Some(true) if is_start => false,
            Some(false) => now.saturating_sub(given.used) >= keep.min(AFTER_RELEASE).as_secs(),
            _ => now.saturating_sub(given.used) >= keep.as_secs(),
        };
        let over: Vec<Digest> = self.layers.iter().filter(|(_, it)| is_over(it)).map(|(id, _)| *id).collect();
        self.changed |= !over.is_empty();
        let gone: Vec<_> = over.iter().filter_map(|id| self.layers.remove(id)).map(|given| given.blob).collect();
        let kept: HashSet<BlobId> = self.blobs().collect();
        gone.into_iter().filter(|blob| !kept.contains(blob)).collect()
    }
}

#[cfg(test)]
mod tests {
    use darter_core::source::blob_of;

    use super::*;

    const DAY: u64 = 24 * 3600;
    const KEEP: Duration = Duration::from_secs(30 * DAY);

    fn layer(name: &str) -> LayerRequest {
        LayerRequest {
            registry: "lab".to_owned(),
            repository: "app".to_owned(),
            digest: Digest::sha256(format!("stored {name}").as_bytes()),
            size: None,
            media_type: None,
            diff_id: Digest::sha256(name.as_bytes()),
        }
    }

    fn blob(name: &str) -> BlobId {
        blob_of(&id(name))
    }

    fn id(name: &str) -> Digest {
        layer(name).diff_id
    }

    fn given(names: &[&str]) -> Given {
        let mut given = Given::default();
        for name in names {
            assert!(given.give(&layer(name), (blob(name), 5), false, 0));
        }
        given
    }

    fn gone(given: &mut Given, now: u64) -> Vec<BlobId> {
        given.let_go(KEEP, now)
    }

    #[test]
    fn a_layer_stays_until_nobody_asked_for_it_for_long() {
        let mut given = given(&["a", "b"]);
        given.opened(id("a"));
        given.give(&layer("b"), (blob("b"), 5), false, 29 * DAY);
        assert_eq!(gone(&mut given, 29 * DAY), []);
        assert_eq!(gone(&mut given, 30 * DAY), [blob("a")]);
        assert_eq!(gone(&mut given, 59 * DAY), [blob("b")]);
    }

    #[test]
    fn a_layer_that_snapshots_name_stays_and_goes_a_day_after_they_do_not() {
        let mut first = given(&["a", "b", "c"]);
        let named = |names: &[&str]| names.iter().map(|name| id(name)).collect::<HashSet<_>>();
        assert_eq!(first.name(Namer::Snapshotter, &named(&["a", "b", "x"]), 0), [id("x")], "that can't be kept");
        let text = first.take_changed().unwrap();
        first.name(Namer::Snapshotter, &named(&["a", "b"]), 60);
        assert_eq!(first.take_changed(), None, "nothing new");
        first.name(Namer::Snapshotter, &named(&["a"]), DAY);
        assert_eq!(gone(&mut first, DAY), [], "it was named a minute after the start");
        assert_eq!(gone(&mut first, DAY + 60), [blob("b")]);
        first.name(Namer::Snapshotter, &named(&["a"]), 30 * DAY);
        assert_eq!(gone(&mut first, 30 * DAY), [blob("c")]);
        assert_eq!(gone(&mut first, 59 * DAY), []);

        // The host was off for a long time.
        let mut again = Given::parse(&text).0;
        assert_eq!(gone(&mut again, 99 * DAY), [blob("c")], "the snapshotter has not spoken yet");
        again.name(Namer::Snapshotter, &named(&["b"]), 99 * DAY);
        assert_eq!(gone(&mut again, 100 * DAY), [blob("a")]);
        assert_eq!(gone(&mut again, 129 * DAY), [blob("b")], "it did not speak again");
    }

    #[test]
    fn what_one_kind_of_snapshots_does_not_name_stays_for_the_other() {
        let mut given = given(&["a", "b"]);
        let named = |names: &[&str]| names.iter().map(|name| id(name)).collect::<HashSet<_>>();
        given.name(Namer::Snapshotter, &named(&["a"]), 0);
        given.name(Namer::Engine, &named(&["a", "b"]), 0);
        let text = given.take_changed().unwrap();
        let mut given = Given::parse(&text).0;
        given.name(Namer::Snapshotter, &named(&[]), DAY);
        for day in 2..100 {
            given.name(Namer::Engine, &named(&["a", "b"]), day * DAY);
            assert_eq!(gone(&mut given, day * DAY), []);
        }
        given.name(Namer::Engine, &named(&["b"]), 99 * DAY);
        assert_eq!(gone(&mut given, 99 * DAY), [], "it was named a moment ago");
        assert_eq!(gone(&mut given, 100 * DAY), [blob("a")]);
    }

    #[test]
    fn the_list_outlives_the_agent() {
        let mut first = given(&["a", "b"]);
        first.opened(id("a"));
        let text = first.take_changed().unwrap();
        assert_eq!(first.take_changed(), None);
        first.give(&layer("a"), (blob("a"), 5), false, 8);
        assert_eq!(first.take_changed(), None, "a use a moment later is no news");
        first.give(&layer("a"), (blob("a"), 5), false, 8 + REFRESH.as_secs());
        assert!(first.take_changed().is_some());
        let (mut again, is_own) = Given::parse(&text);
        assert!(is_own);
        assert!(again.in_use(id("a")).is_some() && again.in_use(id("b")).is_none());
        assert_eq!(again.blobs().count(), 2);
        assert_eq!(gone(&mut again, 29 * DAY), [], "not for so long");
    }

    #[test]
    fn what_another_release_has_listed_stays_in_the_store_and_in_the_list() {
        let mut first = given(&["a", "b"]);
        first.opened(id("a"));
        let own = first.take_changed().unwrap();
        let other = format!(r#"{{"blob":{},"wanted_by":["x"]}}"#, serde_json::to_string(&blob("c")).unwrap());

        let newer = own.replace(MAGIC, "darter-layers-2");
        let (mut again, is_own) = Given::parse(&format!("{newer}{other}\n"));
        assert!(!is_own && again.in_use(id("a")).is_none(), "what else it means is not known");
        for name in ["a", "b", "c"] {
            assert!(again.blobs().any(|kept| kept == blob(name)), "{name}");
        }
        // This release has given the layer, too; if that were all, it need not stay.
        again.give(&layer("a"), (blob("a"), 5), false, 0);
        assert_eq!(gone(&mut again, 30 * DAY), []);

        let (mut mixed, is_own) = Given::parse(&format!("{own}{other}\nnonsense\n"));
        assert!(is_own && mixed.in_use(id("a")).is_some() && mixed.blobs().count() == 3);
        mixed.give(&layer("d"), (blob("d"), 5), false, 0);
        let text = mixed.take_changed().unwrap();
        assert!(text.lines().any(|line| line == other) && text.lines().any(|line| line == "nonsense"), "{text}");
        assert!(!Given::parse("").1 && !Given::parse("nonsense").1);
    }

    #[test]
    fn a_list_that_could_not_be_written_is_written_the_next_time() {
        let mut given = given(&["a"]);
        let text = given.take_changed().unwrap();
        given.not_written();
        assert_eq!(given.take_changed(), Some(text));
    }

    #[test]
    fn the_list_is_bounded_and_what_is_in_it_stays() {
        let mut given = given(&["a"]);
        let mut many = layer("many");
        for number in 0..MAX_GIVEN as u64 {
            many.diff_id = Digest::sha256(&number.to_le_bytes());
            given.give(&many, (blob("many"), 5), false, 1);
        }
        assert!(
            !given.give(&layer("more"), (blob("more"), 5), false, 1)
                && given.give(&layer("a"), (blob("a"), 5), false, 1)
        );
    }
}
