//! Decisions about directories that no member names, in memory. `tests/oracles/stacks.rs` compares them with containerd.

use proptest::prelude::*;

use super::*;
use crate::building::tar::{Entry, dir, file, symlink, tar};
use crate::building::{drawn, expand};
use crate::{TAR_START, metadata_at};

fn read(file: &[u8]) -> LayerDirectories {
    let start = metadata_at(file).unwrap() as usize;
    LayerDirectories::new(&file[..TAR_START as usize], file[start..].to_vec()).unwrap()
}

/// Which layer has which directory otherwise, and what its mode and owner are.
fn found<const N: usize>(layers: [Vec<Entry>; N]) -> Vec<(usize, String, u16, u32)> {
    let layers = layers.map(|layer| read(&expand(&tar(layer)).unwrap()));
    let found = inherited(&layers).unwrap();
    found.into_iter().map(|it| (it.layer, String::from_utf8(it.path).unwrap(), it.real.mode, it.real.uid)).collect()
}

fn has(layer: usize, path: &str, mode: u16, uid: u32) -> (usize, String, u16, u32) {
    (layer, path.to_owned(), mode, uid)
}

#[test]
fn a_directory_that_is_not_named_has_what_the_nearest_layer_below_has() {
    let tmp = |mode| vec![dir("tmp").mode(mode)];
    assert_eq!(found([tmp(0o1777), vec![file("tmp/x", "")]]), [has(1, "tmp", 0o1777, 0)]);
    assert_eq!(found([tmp(0o1777), tmp(0o700), vec![file("tmp/x", "")]]), [has(2, "tmp", 0o700, 0)]);
    // The layer between has not named it either.
    let twice = found([tmp(0o1777), vec![file("tmp/x", "")], vec![file("tmp/y", "")]]);
    assert_eq!(twice, [has(1, "tmp", 0o1777, 0), has(2, "tmp", 0o1777, 0)]);
    // Root's, 0755, whatever its time; or not there at all; or named.
    for below in [vec![dir("tmp")], vec![dir("other").mode(0o700)], Vec::new()] {
        assert_eq!(found([below, vec![file("tmp/x", "")]]), []);
    }
    assert_eq!(found([tmp(0o1777), vec![dir("tmp").mode(0o711), file("tmp/x", "")]]), []);
    let owned = || vec![dir("a/b").owner(7, 8)];
    assert_eq!(found([owned(), vec![file("a/b/c", "")]]), [has(1, "a/b", 0o755, 7)]);
}

#[test]
fn a_link_below_leads_to_the_directory_and_what_is_none_gives_nothing() {
    let below =
        || vec![dir("usr/lib").mode(0o711), symlink("lib", "usr/lib"), symlink("up", "../usr/./lib/"), file("f", "")];
    assert_eq!(found([below(), vec![file("lib/x", "")]]), [has(1, "lib", 0o711, 0)]);
    assert_eq!(found([below(), vec![file("up/x", "")]]), [has(1, "up", 0o711, 0)]);
    assert_eq!(found([below(), vec![file("f/x", "")]]), []);
    assert_eq!(found([below(), vec![file("f/y/x", "")]]), []);
    assert_eq!(found([vec![symlink("a", "b"), symlink("b", "a")], vec![file("a/x", "")]]), []);
    assert_eq!(found([below(), vec![file(".wh.lib", "")], vec![file("lib/x", "")]]), [], "hidden by a layer between");
}

#[test]
fn what_a_layer_above_has_or_hides_is_not_seen() {
    let (below, between) = (vec![dir("a/b").mode(0o700)], vec![file("a/b/x", "")]);
    let covered = |above: Vec<Entry>| {
        let layers = [below.clone(), between.clone(), above].map(|layer| read(&expand(&tar(layer)).unwrap()));
        let found = inherited(&layers).unwrap();
        found.iter().find(|it| it.layer == 1).unwrap().is_covered
    };
    for above in [vec![dir("a/b").mode(0o711)], vec![file("a/b", "")], vec![file("a", "")], vec![file(".wh.a", "")]] {
        assert!(covered(above.clone()), "{above:?}");
    }
    // A link does not lead there in another layer.
    for above in [vec![], vec![dir("a").mode(0o711)], vec![file("a/c", "")], vec![dir("c/b"), symlink("d", "c")]] {
        assert!(!covered(above.clone()), "{above:?}");
    }
}

#[test]
fn attributes_count_but_those_that_are_their_layers_own() {
    let labelled = || vec![dir("d").xattr("user.a", "b")];
    assert_eq!(found([labelled(), vec![file("d/x", "")]]), [has(1, "d", 0o755, 0)]);
    assert_eq!(found([vec![file("d/.wh..wh..opq", "")], vec![file("d/x", "")]]), []);
    let told = inherited(&[labelled(), vec![file("d/x", "")]].map(|layer| read(&expand(&tar(layer)).unwrap())));
    let told = told.unwrap()[0].to_string();
    assert!(told.contains("layer 2") && told.contains("/d") && told.contains("user.a"), "{told}");
}

#[test]
fn a_directory_that_is_named_after_what_is_in_it_keeps_what_it_had_from_below() {
    let late = |mode| vec![file("d/x", ""), dir("d/").mode(mode)];
    let labelled = || vec![dir("d").xattr("user.a", "b")];
    assert_eq!(found([labelled(), late(0o711)]), [has(1, "d", 0o711, 0)]);
    // In the other order nothing is left of it; nor has one without attributes anything that is.
    assert_eq!(found([labelled(), late(0o711).into_iter().rev().collect()]), []);
    assert_eq!(found([vec![dir("d").mode(0o700).owner(7, 8)], late(0o711)]), []);
    // What was made in it meanwhile has its group, though a layer above names it.
    let above = || vec![dir("d")];
    let layers = [vec![dir("d").mode(0o2755).owner(0, 8)], late(0o711), above()];
    let told = inherited(&layers.map(|layer| read(&expand(&tar(layer)).unwrap()))).unwrap();
    assert_eq!(told.iter().map(|it| (it.layer, it.is_late, it.is_covered)).collect::<Vec<_>>(), [(1, true, false)]);
    assert!(told[0].to_string().contains("after what is in it"), "{}", told[0]);
}

#[test]
fn a_directory_of_which_only_a_path_through_a_link_tells_the_time_is_not_named() {
    let above = vec![dir("a/d").mtime(5), symlink("a", "b"), file("b/d/x", "")];
    assert_eq!(found([vec![dir("b/d").mode(0o700)], above]), [has(1, "b/d", 0o700, 0)]);
    // And one that is named as those are made that are not is named.
    assert_eq!(found([vec![dir("d").mode(0o700)], vec![dir("d").mtime(0), file("d/x", "")]]), []);
}

#[test]
fn many_names_in_many_directories_are_found() {
    let entries = |layer: u16| (0..700).map(move |at| dir(&format!("many/{at}/sub")).mode(i64::from(layer)));
    let above = (0..700).map(|at| file(&format!("many/{at}/sub/x"), ""));
    let found = found([entries(0o711).collect(), above.collect()]);
    assert_eq!(found.len(), 700);
}

/// An image's author may give a million directories one long attribute, or lead each path around.
#[test]
fn what_would_take_too_much_to_compare_is_refused() {
    let below = (0..100).map(|at| dir(&format!("many/{at}")).xattr("user.a", "b".repeat(1000)));
    let above = (0..100).map(|at| file(&format!("many/{at}/x"), ""));
    let layers = [below.collect(), above.collect()].map(|layer: Vec<_>| read(&expand(&tar(layer)).unwrap()));
    let compared = |looks, attributes| compare(&layers, &Allowance::of(looks, attributes)).map(|found| found.len());
    assert_eq!(compared(1000, 1 << 20), Ok(100));
    assert!(compared(1000, 50_000).unwrap_err().to_string().contains("attributes"));
    assert!(compared(100, 1 << 20).unwrap_err().to_string().contains("too long"));
    let around = [vec![dir("d"), symlink("d/again", "again/../again")], vec![file("d/again/x", "")]];
    let around = around.map(|layer| read(&expand(&tar(layer)).unwrap()));
    assert!(compare(&around, &Allowance::of(100, 0)).is_err());
}

proptest! {
    /// It ends, and says that it makes no sense, or something.
    #[test]
    fn metadata_of_a_liar_is_refused_or_read(
        layers in (any::<u64>(), any::<u64>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let Ok(lower) = expand(&tar(drawn::layer(layers.0))) else { return Ok(()) };
        let Ok(upper) = expand(&tar(drawn::layer(layers.1))) else { return Ok(()) };
        let mut both = [lower, upper].map(|file| {
            let start = metadata_at(&file).unwrap() as usize;
            (file[..TAR_START as usize].to_vec(), file[start..].to_vec())
        });
        for (at, byte) in &changes {
            let (_, metadata) = &mut both[at.index(2)];
            let at = at.index(metadata.len());
            metadata[at] = *byte;
        }
        if is_cut {
            let metadata = &mut both[1].1;
            metadata.truncate(cut.index(metadata.len()));
        }
        let read: Result<Vec<_>, _> = both.into_iter().map(|(beginning, metadata)| LayerDirectories::new(&beginning, metadata)).collect();
        let found = read.and_then(|layers| inherited(&layers));
        prop_assert!(found.is_ok() || is_cut || !changes.is_empty());
    }
}
