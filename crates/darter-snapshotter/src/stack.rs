//! Lazy layers: which layer is mounted where, and the decisions for mounting one. No I/O.
//!
//! A layer is mounted once, for all snapshots over it, when the first of them is wanted. A layer's file may change later:
//! the process that keeps the directory of layers is replaced, or the layer becomes complete and its name a link to the store's file. Then the layer is
//! mounted from the new file, at another place; snapshots on the old mount keep it, since overlayfs holds a mount of its own.
//!
//! Invariants: a place is never used twice, and callers never get a place at which nothing is mounted. An old mount stays for [`LINGER`], since containerd
//! may have been told of it a moment ago. The same holds for a mount that was found at the start and is not in the book.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use darter_core::{Digest, Moment};
use serde::{Deserialize, Serialize};

/// How long a mount stays after callers no longer get it.
pub(crate) const LINGER: Duration = Duration::from_secs(120);

/// The identity of a file for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// A layer that is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mounted {
    /// The number of its place.
    pub(crate) place: u64,
    /// The file from which it is mounted.
    pub(crate) file: File,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    mounted: HashMap<Digest, Mounted>,
    /// Places that are to be unmounted, with the earliest time, and with their layer if it is known.
    old: Vec<(Option<Digest>, u64, Moment)>,
}

/// The result of comparing the mounts at the start with the book.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// Layers that are mounted according to the book, but are not, or are no longer named.
    pub(crate) lost: Vec<Digest>,
    /// Places at which something unknown is mounted.
    pub(crate) stray: Vec<u64>,
}

impl Stack {
    /// Compares the book with the places that are `there`, one for each mount. Strays are old from now on.
    pub(crate) fn reconcile(
        written: Vec<(Digest, Mounted)>,
        there: &[u64],
        named: &[Digest],
        now: Moment,
    ) -> (Self, Reconciled) {
        let (mut stack, mut found) = (Self::default(), Reconciled::default());
        let mounted: HashSet<u64> = there.iter().copied().collect();
        for (layer, its) in written {
            if mounted.contains(&its.place) && named.contains(&layer) {
                stack.mounted.insert(layer, its);
            } else {
                found.lost.push(layer);
            }
        }
        let known: HashSet<u64> = stack.mounted.values().map(|its| its.place).collect();
        found.stray = mounted.difference(&known).copied().collect();
        found.stray.sort_unstable();
        stack.old = found.stray.iter().map(|place| (None, *place, now + LINGER)).collect();
        (stack, found)
    }

    /// The place at which a layer is mounted from this file.
    pub(crate) fn place(&self, layer: Digest, file: File) -> Option<u64> {
        self.mounted.get(&layer).filter(|its| its.file == file).map(|its| its.place)
    }

    /// Notes that a layer was mounted. An earlier mount of it lingers.
    pub(crate) fn mounted(&mut self, layer: Digest, its: Mounted, now: Moment) {
        if let Some(before) = self.mounted.insert(layer, its) {
            self.old.push((Some(layer), before.place, now + LINGER));
        }
    }

    /// True if a layer is mounted at this place, as far as is known.
    pub(crate) fn is_at(&self, layer: Digest, place: u64) -> bool {
        self.mounted.get(&layer).is_some_and(|its| its.place == place)
    }

    /// Notes that nothing is mounted at this place any more.
    pub(crate) fn lost(&mut self, layer: Digest, place: u64) {
        if self.is_at(layer, place) {
            self.mounted.remove(&layer);
        }
    }

    /// Nothing names a layer any more. Returns where it is mounted; all of these can be unmounted at once.
    pub(crate) fn unnamed(&mut self, layer: Digest) -> Vec<u64> {
        let now = self.mounted.remove(&layer).map(|its| its.place);
        let its = |(old, place, _): &(Option<Digest>, u64, Moment)| (*old == Some(layer)).then_some(*place);
        let places = now.into_iter().chain(self.old.iter().filter_map(its)).collect();
        self.old.retain(|(old, ..)| *old != Some(layer));
        places
    }

    /// Removes from this list, and returns, the old places that can be unmounted now.
    pub(crate) fn over(&mut self, now: Moment) -> Vec<u64> {
        let over = self.old.iter().filter(|(.., until)| *until <= now).map(|(_, place, _)| *place).collect();
        self.old.retain(|(.., until)| *until > now);
        over
    }

    /// When the next old place can be unmounted.
    pub(crate) fn next_over(&self) -> Option<Moment> {
        self.old.iter().map(|(.., until)| *until).min()
    }

    /// How many layers are mounted.
    pub(crate) fn count(&self) -> usize {
        self.mounted.len()
    }
}

/// The numbers of the places below `layers` at which something is mounted, from `/proc/self/mountinfo`. A place that is mounted twice appears twice.
pub(crate) fn places(mountinfo: &str, layers: &str) -> Vec<u64> {
    let point = |line: &str| line.split(' ').nth(4).map(plain);
    let place = |point: String| point.strip_prefix(layers)?.strip_prefix('/')?.parse().ok();
    mountinfo.lines().filter_map(point).filter_map(place).collect()
}

/// A path without the kernel's escapes for spaces and the like.
fn plain(escaped: &str) -> String {
    let mut parts = escaped.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                plain.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => {
                plain.push(b'\\');
                plain.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUSE: File = File { device: 5, inode: 1000 };
    const PLAIN: File = File { device: 1, inode: 7 };

    fn layer(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    fn at(place: u64, file: File) -> Mounted {
        Mounted { place, file }
    }

    #[test]
    fn a_layer_is_mounted_again_only_from_another_file() {
        let mut stack = Stack::default();
        assert_eq!(stack.place(layer("a"), FUSE), None);
        stack.mounted(layer("a"), at(1, FUSE), Moment::ZERO);
        assert_eq!(stack.place(layer("a"), FUSE), Some(1));
        assert_eq!(stack.place(layer("a"), PLAIN), None, "it is whole by now");
        stack.mounted(layer("a"), at(2, PLAIN), Moment::ZERO);
        assert_eq!(stack.place(layer("a"), PLAIN), Some(2));
        assert!(stack.over(Moment::ZERO).is_empty(), "containerd may be about to use it");
        assert_eq!(stack.over(Moment::ZERO + LINGER), [1]);
        assert!(stack.over(Moment::ZERO + LINGER).is_empty());
        stack.mounted(layer("a"), at(3, FUSE), Moment::ZERO);
        stack.mounted(layer("b"), at(4, FUSE), Moment::ZERO);
        assert_eq!(stack.next_over(), Some(Moment::ZERO + LINGER));
        assert_eq!(stack.unnamed(layer("a")), [3, 2]);
        assert!(stack.unnamed(layer("a")).is_empty() && stack.next_over().is_none());
    }

    #[test]
    fn after_a_restart_mounts_are_found_again_and_strays_are_known() {
        let written = vec![(layer("a"), at(1, FUSE)), (layer("b"), at(2, FUSE)), (layer("c"), at(3, PLAIN))];
        // The host's restart has unmounted the second; no snapshot has the third; the ninth is not in the book.
        let named = [layer("a"), layer("b")];
        let (mut stack, found) = Stack::reconcile(written, &[1, 1, 3, 9], &named, Moment::ZERO);
        assert_eq!(stack.place(layer("a"), FUSE), Some(1));
        assert_eq!(stack.count(), 1);
        assert_eq!(found, Reconciled { lost: vec![layer("b"), layer("c")], stray: vec![3, 9] });
        let end = Moment::ZERO + LINGER;
        assert_eq!(stack.next_over(), Some(end), "containerd may have been told of a stray");
        assert!(stack.over(Moment::ZERO).is_empty());
        assert_eq!(stack.over(end), [3, 9]);
        assert_eq!(stack.next_over(), None);
    }

    #[test]
    fn what_somebody_else_unmounted_is_mounted_again() {
        let mut stack = Stack::default();
        stack.mounted(layer("a"), at(1, FUSE), Moment::ZERO);
        stack.lost(layer("a"), 1);
        assert_eq!(stack.place(layer("a"), FUSE), None);
        stack.mounted(layer("a"), at(2, FUSE), Moment::ZERO);
        stack.lost(layer("a"), 1);
        assert!(stack.is_at(layer("a"), 2), "who was slower to find the first one lost takes nothing from the second");
        assert_eq!(stack.next_over(), None, "nothing lingers at the first one");
    }

    #[test]
    fn places_are_read_out_of_the_kernels_list() {
        let list = "36 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                    90 36 0:60 / /var/a\\040b/layers/12 ro - erofs /run/x.erofs ro\n\
                    91 36 0:61 / /var/a\\040b/layers/12 ro - erofs /run/x.erofs ro\n\
                    92 36 0:62 / /var/a\\040b/layers/12/deep rw - tmpfs none rw\n\
                    93 36 0:62 / /var/a\\040b/layersx/3 rw - tmpfs none rw\n";
        assert_eq!(places(list, "/var/a b/layers"), [12, 12]);
    }
}
