//! Layers as containerd unpacks them for overlayfs, and as its own reader of EROFS reads them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use darter_image::Reason;
use tempfile::TempDir;

use crate::hosts::{Mounted, can_mount, oracle, run};
use crate::layers;
use crate::support::tar::{dir, file, hardlink, symlink, tar};
use crate::support::walk::{Listing, differences, walk};
use crate::support::{drawn, expand, expand_by};

#[test]
fn a_mounted_layer_is_what_containerd_unpacks() {
    if !can_mount() {
        return;
    }
    let Some(oracle) = oracle() else { return };
    let mut different = Vec::new();
    for (name, tar) in layers::unpacked() {
        let unpacked = compare(name, &tar, oracle, &mut different);
        assert_eq!(unpacked, Ok(()), "{name}");
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Unpacks a layer with containerd, mounts it, and notes differences; what containerd says if it refuses the layer.
fn compare(name: &str, tar: &[u8], oracle: &Path, different: &mut Vec<String>) -> Result<(), String> {
    let room = TempDir::new().unwrap();
    let (stored, image, unpacked) = (room.path().join("tar"), room.path().join("erofs"), room.path().join("root"));
    std::fs::write(&stored, tar).unwrap();
    std::fs::create_dir(&unpacked).unwrap();
    let begun = std::fs::metadata(&unpacked).unwrap().mtime();
    run(Command::new(oracle).arg("apply").arg(&stored).arg(&unpacked))?;
    match expand(tar) {
        Ok(expanded) => std::fs::write(&image, expanded).unwrap(),
        // What containerd made of it depends on this host.
        Err(Reason::Host { .. }) => return Ok(()),
        Err(reason) => {
            different.push(format!("{name}: containerd unpacks it, and here: {reason}"));
            return Ok(());
        }
    }
    let mounted = Mounted::new(&image);
    let (theirs, ours) = (walk(&unpacked), walk(mounted.at.path()));
    different.extend(differences(name, &theirs, &ours, begun));
    different.extend(misread(name, oracle, &image, &ours));
    Ok(())
}

/// How many layers drawn from numbers are compared.
const LAYERS: u64 = 150;

#[test]
fn whatever_layer_containerd_unpacks_is_the_same_when_it_is_mounted() {
    if !can_mount() {
        return;
    }
    let Some(oracle) = oracle() else { return };
    let told = std::env::var("DARTER_LAYERS").ok().and_then(|range| {
        let (first, last) = range.split_once('-')?;
        Some(first.parse().ok()?..last.parse().ok()?)
    });
    let (mut different, mut unpacked) = (Vec::new(), 0);
    for number in told.unwrap_or(0..LAYERS) {
        for (name, layer) in [("layer", drawn::layer(number)), ("links of layer", drawn::linked(number))] {
            unpacked += u64::from(compare(&format!("{name} {number}"), &tar(layer), oracle, &mut different).is_ok());
        }
    }
    eprintln!("containerd unpacked {unpacked}");
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(unpacked > LAYERS / 5, "{unpacked}");
}

/// The entries that containerd's reader reads otherwise than the kernel.
fn misread(name: &str, oracle: &Path, image: &Path, ours: &Listing) -> Vec<String> {
    let told = match run(Command::new(oracle).arg("read").arg(image)) {
        Ok(told) => told,
        Err(told) => return vec![format!("{name}: go-erofs: {told}")],
    };
    let mut different = Vec::new();
    let mut read = BTreeMap::new();
    for line in told.lines() {
        let (path, rest) = line.split_once(' ').unwrap();
        read.insert(text(path), rest.to_owned());
    }
    for (path, found) in ours {
        let Some(line) = read.remove(path) else {
            different.push(format!("{name}: {path}: go-erofs does not see it"));
            continue;
        };
        let mut words = line.split(' ');
        let owner = words.next().unwrap();
        let time = format!("{}.{}", found.mtime.0, found.mtime.1);
        let mut is_same = found.what.contains(&format!("owner {owner}")) && words.next() == Some(&time);
        words.next();
        let mut rest = words.collect::<Vec<_>>().join(" ");
        // Attributes are in hexadecimal digits.
        for word in rest.clone().split(' ').filter(|word| word.contains('=')) {
            let (key, value) = word.split_once('=').unwrap();
            // It gives these two a dot that they don't have.
            let key = text(key)
                .replace("posix_acl_access.", "posix_acl_access")
                .replace("posix_acl_default.", "posix_acl_default");
            rest = rest.replace(word, &format!("{key}={}", text(value)));
        }
        is_same &= found.what.ends_with(&rest);
        if !is_same {
            different.push(format!("{name}: {path}:\n  kernel   {found:?}\n  go-erofs {line}"));
        }
    }
    different.extend(read.into_keys().map(|path| format!("{name}: {path}: only go-erofs sees it")));
    different
}

fn text(hexadecimal: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hexadecimal.len()).step_by(2).map(byte).collect();
    bytes.escape_ascii().to_string()
}

/// The listing of two layers under overlayfs, the upper one first.
fn stacked(layers: [&Path; 2]) -> Listing {
    let at = TempDir::new().unwrap();
    let options = format!("lowerdir={}:{}", layers[0].display(), layers[1].display());
    run(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(at.path())).unwrap();
    let listing = walk(at.path());
    run(Command::new("umount").arg(at.path())).unwrap();
    listing
}

#[test]
fn overlayfs_makes_the_same_of_mounted_layers_as_of_unpacked_ones() {
    if !can_mount() {
        return;
    }
    let Some(oracle) = oracle() else { return };
    let lower = tar([
        file("gone", "1"),
        file("kept", "2"),
        dir("hidden"),
        file("hidden/below", "3"),
        dir("merged").mode(0o711),
        file("merged/of-the-lower", "4"),
        file("merged/changed", "5"),
        dir("emptied/by/whiteout"),
        symlink("link", "kept"),
    ]);
    let upper = tar([
        file(".wh.gone", ""),
        file("hidden/.wh..wh..opq", ""),
        file("hidden/new", "6"),
        dir("merged").mode(0o750).owner(3, 3),
        file("merged/changed", "7").xattr("user.a", "b"),
        file("emptied/.wh.by", ""),
        symlink("link", "merged"),
        hardlink("merged/again", "merged/changed"),
    ]);
    let room = TempDir::new().unwrap();
    let mut unpacked = Vec::new();
    let mut mounted = Vec::new();
    for (name, tar) in [("upper", &upper), ("lower", &lower)] {
        let (stored, image, root) = (room.path().join("tar"), room.path().join(name), room.path().join(name.repeat(2)));
        std::fs::write(&stored, tar).unwrap();
        std::fs::write(&image, expand(tar).unwrap()).unwrap();
        std::fs::create_dir(&root).unwrap();
        run(Command::new(oracle).arg("apply").arg(&stored).arg(&root)).unwrap();
        unpacked.push(root);
        mounted.push(Mounted::new(&image));
    }
    let begun = std::fs::metadata(room.path()).unwrap().mtime() - 1;
    let theirs = stacked([&unpacked[0], &unpacked[1]]);
    let ours = stacked([mounted[0].at.path(), mounted[1].at.path()]);
    let different = differences("stacked", &theirs, &ours, begun.min(theirs["."].mtime.0));
    assert!(different.is_empty(), "{}", different.join("\n"));
    for hidden in ["gone", "hidden/below", "emptied/by"] {
        assert!(!ours.contains_key(hidden), "{hidden}");
    }
    assert!(ours.contains_key("merged/of-the-lower") && ours.contains_key("hidden/new"));
}

#[test]
fn what_containerd_refuses_is_refused_and_named() {
    let oracle = if can_mount() { oracle() } else { None };
    for (told, tar) in layers::refused() {
        for chunk in [1, 4093] {
            let reason = expand_by(&tar, chunk).expect_err(told).to_string();
            assert!(reason.contains(told), "{told:?} is not in {reason:?}");
        }
        let Some(oracle) = oracle else { continue };
        let room = TempDir::new().unwrap();
        std::fs::write(room.path().join("tar"), &tar).unwrap();
        std::fs::create_dir(room.path().join("root")).unwrap();
        let applied = run(Command::new(oracle).args(["apply", "tar", "root"]).current_dir(room.path()));
        assert!(applied.is_err(), "containerd unpacks what is refused: {told}");
    }
}
