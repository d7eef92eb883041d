//! The snapshots: a forest in which each has its parent below it. No I/O.
//!
//! A snapshot is *active* (a container or an unpacker writes to it), a *view* (read-only), or *committed*; only a committed one can be a parent.
//! Each has a number for its whole life, which names its directory; a number is never assigned twice.
//!
//! An operation returns what has to be recorded, and changes nothing by itself: [`Tree::apply`] does, once it is recorded. So every answer is on the disk.
//!
//! Invariants: names are unique; a parent is committed, and exists as long as a child does.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use darter_core::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The label that names the snapshot that an unpacker finally wants.
pub(crate) const TARGET: &str = "containerd.io/snapshot.ref";

/// Labels, sorted by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// The kind of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SnapshotKind {
    Active,
    View,
    Committed,
}

impl SnapshotKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
        }
    }
}

/// The space that a snapshot uses on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// A snapshot, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) number: u64,
    pub(crate) kind: SnapshotKind,
    /// The name of its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    /// Time since 1970.
    pub(crate) created: Duration,
    pub(crate) updated: Duration,
    #[serde(default)]
    pub(crate) labels: Labels,
    /// The space that a committed snapshot uses.
    #[serde(default)]
    pub(crate) usage: Usage,
    /// The diff id of its layer, if the layer is mounted and not unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lazy: Option<Digest>,
}

/// A change of the tree, recorded as a whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) gone: Vec<String>,
    pub(crate) new: Vec<(String, Snapshot)>,
}

/// Why an operation is refused, in containerd's categories.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    #[error("snapshot {0} does not exist")]
    NotFound(String),
    #[error("snapshot {0} exists already")]
    Exists(String),
    #[error("{0}")]
    Precondition(String),
    #[error("{0}")]
    Argument(String),
}

/// One of the directories that are stacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The directory of an unpacked snapshot.
    Unpacked(u64),
    /// The directory at which a layer is mounted.
    Lazy(Digest),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    snapshots: HashMap<String, Snapshot>,
    children: HashMap<String, usize>,
    next: u64,
}

impl Tree {
    /// The recorded tree; numbers below `next` were assigned.
    pub(crate) fn new(snapshots: impl IntoIterator<Item = (String, Snapshot)>, next: u64) -> Self {
        let mut tree = Self { next, ..Self::default() };
        tree.apply(&Change { gone: Vec::new(), new: snapshots.into_iter().collect() });
        tree
    }

    /// Makes a change that was recorded.
    pub(crate) fn apply(&mut self, change: &Change) {
        for name in &change.gone {
            let parent = self.snapshots.remove(name).and_then(|gone| gone.parent);
            let Some(parent) = parent else { continue };
            let children = self.children.entry(parent.clone()).or_default();
            *children = children.saturating_sub(1);
            if *children == 0 {
                self.children.remove(&parent);
            }
        }
        for (name, snapshot) in &change.new {
            self.next = self.next.max(snapshot.number + 1);
            let parent = snapshot.parent.clone();
            if self.snapshots.insert(name.clone(), snapshot.clone()).is_none()
                && let Some(parent) = parent
            {
                *self.children.entry(parent).or_default() += 1;
            }
        }
    }

    /// A number that was never assigned.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Notes that numbers up to `highest` were assigned, too.
    pub(crate) fn skip(&mut self, highest: u64) {
        self.next = self.next.max(highest.saturating_add(1));
    }

    /// The number that is assigned next.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Snapshot, Refusal> {
        self.snapshots.get(name).ok_or_else(|| Refusal::NotFound(name.to_owned()))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &Snapshot)> {
        self.snapshots.iter()
    }

    /// Refuses a snapshot that can't be created.
    pub(crate) fn check(&self, name: &str, parent: &str) -> Result<(), Refusal> {
        if name.is_empty() {
            return Err(Refusal::Argument("a snapshot needs a key".to_owned()));
        }
        if !parent.is_empty() && self.get(parent)?.kind != SnapshotKind::Committed {
            return Err(Refusal::Argument(format!("the parent {parent} is not committed")));
        }
        if self.snapshots.contains_key(name) { Err(Refusal::Exists(name.to_owned())) } else { Ok(()) }
    }

    /// Creates an active snapshot or a view.
    pub(crate) fn create(&self, name: &str, parent: &str, made: Snapshot) -> Result<Change, Refusal> {
        self.check(name, parent)?;
        let parent = Some(parent.to_owned()).filter(|parent| !parent.is_empty());
        Ok(Change { gone: Vec::new(), new: vec![(name.to_owned(), Snapshot { parent, ..made })] })
    }

    /// The lazy snapshot for an unpacker's target. A snapshot that was unpacked has the label, too, but belongs to the namespace that
    /// downloaded it.
    pub(crate) fn found(&self, target: &str, parent: &str) -> Option<&String> {
        let is_it = |snapshot: &Snapshot| {
            snapshot.lazy.is_some()
                && snapshot.labels.get(TARGET).is_some_and(|label| label == target)
                && snapshot.parent.as_deref().unwrap_or_default() == parent
        };
        self.snapshots.iter().find(|(_, snapshot)| is_it(snapshot)).map(|(name, _)| name)
    }

    /// Commits an active snapshot under another name, with the labels that are given now.
    pub(crate) fn commit(
        &self,
        key: &str,
        name: &str,
        usage: Usage,
        labels: Labels,
        now: Duration,
    ) -> Result<Change, Refusal> {
        let active = self.get(key)?;
        if name.is_empty() {
            return Err(Refusal::Argument("a snapshot needs a name".to_owned()));
        }
        if self.snapshots.contains_key(name) {
            return Err(Refusal::Exists(name.to_owned()));
        }
        if active.kind != SnapshotKind::Active {
            return Err(Refusal::Precondition(format!("snapshot {key} is not active, but {}", active.kind.name())));
        }
        let committed =
            Snapshot { kind: SnapshotKind::Committed, created: now, updated: now, labels, usage, ..active.clone() };
        Ok(Change { gone: vec![key.to_owned()], new: vec![(name.to_owned(), committed)] })
    }

    /// Removes a snapshot that is not a parent.
    pub(crate) fn remove(&self, name: &str) -> Result<Change, Refusal> {
        self.get(name)?;
        if self.children.get(name).is_some_and(|children| *children > 0) {
            return Err(Refusal::Precondition(format!("can't remove snapshot {name}: it has children")));
        }
        Ok(Change { gone: vec![name.to_owned()], new: Vec::new() })
    }

    /// Changes labels: those in `paths`, or all of them.
    pub(crate) fn update(
        &self,
        name: &str,
        labels: Labels,
        paths: &[String],
        now: Duration,
    ) -> Result<Change, Refusal> {
        let mut snapshot = self.get(name)?.clone();
        if paths.is_empty() {
            snapshot.labels = labels;
        } else {
            for path in paths {
                if path == "labels" {
                    snapshot.labels.clone_from(&labels);
                } else if let Some(label) = path.strip_prefix("labels.") {
                    match labels.get(label) {
                        Some(value) => drop(snapshot.labels.insert(label.to_owned(), value.clone())),
                        None => drop(snapshot.labels.remove(label)),
                    }
                } else {
                    return Err(Refusal::Argument(format!("can't change {path} of snapshot {name}: only labels")));
                }
            }
        }
        // A label without a value counts as missing.
        snapshot.labels.retain(|_, value| !value.is_empty());
        snapshot.updated = now;
        Ok(Change { gone: Vec::new(), new: vec![(name.to_owned(), snapshot)] })
    }

    /// The parts below a snapshot, the uppermost first.
    pub(crate) fn below(&self, snapshot: &Snapshot) -> Vec<Part> {
        let parent_of = |snapshot: &Snapshot| self.snapshots.get(snapshot.parent.as_ref()?);
        let mut parts = Vec::new();
        let mut at = parent_of(snapshot);
        while let Some(parent) = at {
            parts.push(parent.lazy.map_or(Part::Unpacked(parent.number), Part::Lazy));
            at = parent_of(parent);
        }
        parts
    }

    /// The layers that snapshots name.
    pub(crate) fn lazy(&self) -> Vec<Digest> {
        let mut layers: Vec<_> = self.snapshots.values().filter_map(|snapshot| snapshot.lazy).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// True if a snapshot names this layer.
    pub(crate) fn names(&self, layer: Digest) -> bool {
        self.snapshots.values().any(|snapshot| snapshot.lazy == Some(layer))
    }

    /// The numbers of snapshots with files.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.snapshots.values().filter(|snapshot| snapshot.lazy.is_none()).map(|snapshot| snapshot.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(tree: &mut Tree, kind: SnapshotKind) -> Snapshot {
        Snapshot {
            number: tree.number(),
            kind,
            parent: None,
            created: Duration::from_secs(1),
            updated: Duration::from_secs(1),
            labels: Labels::new(),
            usage: Usage::default(),
            lazy: None,
        }
    }

    fn create(tree: &mut Tree, name: &str, parent: &str, kind: SnapshotKind) -> Result<(), Refusal> {
        let made = made(tree, kind);
        let change = tree.create(name, parent, made)?;
        tree.apply(&change);
        Ok(())
    }

    fn commit(tree: &mut Tree, key: &str, name: &str) -> Result<(), Refusal> {
        let change = tree.commit(key, name, Usage { bytes: 7, inodes: 1 }, Labels::new(), Duration::from_secs(2))?;
        tree.apply(&change);
        Ok(())
    }

    fn lazy(tree: &mut Tree, name: &str, parent: &str, layer: &str) {
        let diff_id = Digest::sha256(layer.as_bytes());
        let labels = Labels::from([(TARGET.to_owned(), name.to_owned())]);
        let made = Snapshot { lazy: Some(diff_id), labels, ..made(tree, SnapshotKind::Committed) };
        let change = tree.create(name, parent, made).unwrap();
        tree.apply(&change);
    }

    #[test]
    fn snapshots_stand_on_committed_ones_alone() {
        let mut tree = Tree::default();
        create(&mut tree, "a", "", SnapshotKind::Active).unwrap();
        assert!(matches!(create(&mut tree, "b", "a", SnapshotKind::Active), Err(Refusal::Argument(_))));
        assert_eq!(create(&mut tree, "b", "none", SnapshotKind::View), Err(Refusal::NotFound("none".to_owned())));
        assert_eq!(create(&mut tree, "a", "", SnapshotKind::View), Err(Refusal::Exists("a".to_owned())));
        commit(&mut tree, "a", "one").unwrap();
        assert!(tree.get("a").is_err() && tree.get("one").unwrap().usage.bytes == 7);
        create(&mut tree, "b", "one", SnapshotKind::View).unwrap();
        assert!(matches!(commit(&mut tree, "b", "two"), Err(Refusal::Precondition(_))), "a view");
        assert!(matches!(commit(&mut tree, "gone", "two"), Err(Refusal::NotFound(_))));
        create(&mut tree, "c", "one", SnapshotKind::Active).unwrap();
        assert_eq!(commit(&mut tree, "c", "one"), Err(Refusal::Exists("one".to_owned())));
    }

    #[test]
    fn what_others_stand_on_stays() {
        let mut tree = Tree::default();
        create(&mut tree, "a", "", SnapshotKind::Active).unwrap();
        commit(&mut tree, "a", "one").unwrap();
        for name in ["b", "c"] {
            create(&mut tree, name, "one", SnapshotKind::Active).unwrap();
        }
        commit(&mut tree, "b", "two").unwrap();
        for gone in ["c", "two"] {
            assert!(matches!(tree.remove("one"), Err(Refusal::Precondition(_))));
            let change = tree.remove(gone).unwrap();
            tree.apply(&change);
        }
        assert!(tree.remove("one").is_ok());
        let mut again = Tree::new(tree.all().map(|(name, it)| (name.clone(), it.clone())).collect::<Vec<_>>(), 0);
        assert!(again.number() > tree.get("one").unwrap().number, "a number is not given twice");
    }

    #[test]
    fn labels_are_replaced_one_by_one_or_all_at_once_and_nothing_else_is() {
        let mut tree = Tree::default();
        create(&mut tree, "a", "", SnapshotKind::Active).unwrap();
        let mut update = |labels: &[(&str, &str)], paths: &[&str]| {
            let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
            let change = tree.update("a", labels, &paths, Duration::from_secs(9))?;
            tree.apply(&change);
            let labels = tree.get("a").unwrap().labels.iter();
            Ok::<_, Refusal>(labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(update(&[("x", "1"), ("y", "2")], &[]).unwrap(), "x=1 y=2");
        assert_eq!(update(&[("x", "3"), ("z", "4")], &["labels.x", "labels.y"]).unwrap(), "x=3");
        assert_eq!(update(&[("z", "4"), ("w", "")], &["labels"]).unwrap(), "z=4");
        assert!(matches!(update(&[], &["parent"]), Err(Refusal::Argument(_))));
    }

    #[test]
    fn lazy_layers_lie_below_unpacked_ones_and_above() {
        let mut tree = Tree::default();
        lazy(&mut tree, "one", "", "x");
        create(&mut tree, "b", "one", SnapshotKind::Active).unwrap();
        commit(&mut tree, "b", "two").unwrap();
        lazy(&mut tree, "three", "two", "y");
        create(&mut tree, "c", "three", SnapshotKind::Active).unwrap();
        let [x, y] = ["x", "y"].map(|name| Digest::sha256(name.as_bytes()));
        let two = tree.get("two").unwrap().number;
        assert_eq!(tree.below(tree.get("c").unwrap()), [Part::Lazy(y), Part::Unpacked(two), Part::Lazy(x)]);
        let mut layers = vec![x, y];
        layers.sort_unstable();
        assert_eq!(tree.lazy(), layers);
        assert_eq!(tree.numbers().count(), 2);
    }

    #[test]
    fn a_target_is_found_on_its_parent_alone() {
        let mut tree = Tree::default();
        lazy(&mut tree, "one", "", "x");
        lazy(&mut tree, "two", "one", "y");
        assert_eq!(tree.found("two", "one").map(String::as_str), Some("two"));
        assert_eq!(tree.found("two", ""), None);
        assert_eq!(tree.found("three", "one"), None);
        let labels = Labels::from([(TARGET.to_owned(), "three".to_owned())]);
        let unpacked = Snapshot { labels, ..made(&mut tree, SnapshotKind::Committed) };
        let change = tree.create("a/1/three", "one", unpacked).unwrap();
        tree.apply(&change);
        assert_eq!(tree.found("three", "one"), None, "what one namespace has unpacked is no other's");
    }

    #[test]
    fn numbers_that_were_found_on_the_disk_are_not_given_again() {
        let mut tree = Tree::default();
        tree.skip(7);
        assert_eq!(tree.number(), 8);
        tree.skip(3);
        assert_eq!(tree.number(), 9);
    }
}
